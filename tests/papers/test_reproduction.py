"""Published experiments: what can be asked for, what a page says, and a small run of each."""

from __future__ import annotations

import json

import pytest
import torch

import clinch as cl
from clinch.cli import run
from clinch.errors import ProblemError
from clinch.io.data import DataError, mnist, model_file
from clinch.papers import Claim, Table, reproduce
from clinch.papers.adr_random import ADR, ASCENT, Outcome, shortfalls
from clinch.papers.parts.box_rivals import (
    gradient_ascent,
    lbfgs_ascent,
    maximum_over_box,
    multi_start,
)
from clinch.papers.parts.random_network import random_network
from clinch.papers.parts.reproduction import CANNOT, FAILS, HOLDS, names


@pytest.fixture(scope="module")
def published():
    """Yu and Gao's small network, seed 337550."""
    return cl.load(random_network(337550, (10, 64, 64, 1)), input_shape=(10,))


def test_files_are_names():
    assert {"adr-random", "adr-mnist"} <= set(names())
    assert not any(name.startswith(("_", "-")) for name in names())


def test_an_unknown_name_lists_the_known_ones(capsys):
    with pytest.raises(ProblemError, match=r"named 'adr'.*adr-mnist, adr-random"):
        reproduce("adr")
    assert run(["reproduce", "adr"]) == 2
    assert "adr-mnist, adr-random" in capsys.readouterr().err


def test_the_network_is_the_published_one(published):
    """BASELINES of the paper's program: gradient ascent ends in a cycle between 19.95 and 20.59, published 19.96."""
    found = gradient_ascent(published, torch.zeros(1, 10), 1000, 0.5)
    assert 19.9 < float(found.last) <= float(found.best) < 20.62


def test_rivals_stay_inside_and_below_the_maximum(published):
    exact = 24.8614
    assert 23 < multi_start(published, 4000, seed=0) <= exact
    assert 20 < lbfgs_ascent(published, 300, seed=0) <= exact
    assert float(maximum_over_box(published).query.region.upper.max()) == 1.0


def test_shortfalls_are_relative_to_the_best_of_all():
    found = [Outcome(0, {ADR: 9.0, ASCENT: 8.0}, (9.0, 10.0), {}), Outcome(1, {ADR: -2.0}, (-2.0,), {})]
    assert shortfalls(found, ADR) == pytest.approx([0.1, 0.0])
    assert shortfalls(found, ASCENT) == pytest.approx([0.2])


def test_a_claim_is_judged_and_a_table_shows_what_is_missing():
    assert Claim.that("a", True, "b").verdict == HOLDS and Claim.that("a", False, "b").verdict == FAILS
    table = Table("t", ("a", "b"), ((None, 1.23456789),), digits=3)
    assert [table.text(e) for e in table.rows[0]] == ["–", "1.23"]


def test_a_small_run_writes_table_figure_and_verdicts(tmp_path, capsys):
    target = tmp_path / "found.json"
    assert run(["reproduce", "adr-random", "--quick", "--out", str(tmp_path / "new"), "--json", str(target)]) == 0
    page = (tmp_path / "new" / "adr_random.md").read_text()
    assert (tmp_path / "new" / "adr_random.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads(target.read_text())
    assert content["quick"] and len(content["tables"]) == 2
    shown = capsys.readouterr().out
    for words in ("ADR-GD", "multi-start", "19.96", "does not hold", "proven"):
        assert words in page and words.split("-")[0] in shown
    rows = {row[0]: row for row in content["tables"][0]["rows"]}
    limit = rows["proven: no input gives more than"][2]
    assert all(row[2] is None or row[2] <= limit for row in rows.values())
    assert {claim["verdict"] for claim in content["claims"]} <= {HOLDS, FAILS, CANNOT}


@pytest.mark.data
def test_a_small_run_on_mnist():
    try:
        model_file("mnist_adrgd_pgd.onnx"), mnist("test")
    except DataError as reason:
        pytest.skip(f"needs MNIST and the networks of Yu and Gao 2024: {reason}")
    found = reproduce("adr-mnist", quick=True)
    assert found.name == "adr-mnist" and len(found.tables) == 2
    assert any(claim.verdict == CANNOT for claim in found.claims)
    assert all(0 <= row[2] <= 100 for table in found.tables for row in table.rows)
