"""Random valid models: what the checker reads is what onnxruntime computes; ``run_models.py`` does it for many."""

from collections import Counter

import pytest
import read_models
from read_models import AGREES, DIFFERS, REFUSED, examined, page

COUNT = 150


@pytest.fixture(scope="module")
def records():
    return [examined(seed) for seed in range(10**6, 10**6 + COUNT)]


def test_nothing_is_read_as_another_function(records):
    assert [r for r in records if r["outcome"] == DIFFERS] == []
    counts = Counter(r["outcome"] for r in records)
    # the rest of the test has something to say: neither is everything refused nor everything read
    assert counts[REFUSED] > COUNT / 4 and counts[AGREES] > COUNT / 4
    ordinary = [r for r in records if not r["odd"]]
    assert ordinary and all(r["outcome"] == AGREES for r in ordinary)
    assert "0 read and different" in page(records)


def test_a_reader_that_errs_is_found(monkeypatch):
    honest = read_models.reading

    def careless(content):
        """Reads a leaky ReLU as a ReLU."""
        found = honest(content)
        return [layer._replace(slope=0.0) for layer in found] if isinstance(found, list) else found

    monkeypatch.setattr(read_models, "reading", careless)
    found = [examined(seed) for seed in range(10**6, 10**6 + 60)]
    assert any(r["outcome"] == DIFFERS and "off by" in r["wrong"] for r in found)
