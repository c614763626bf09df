"""Training on interval bounds raises what CROWN certifies."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "certified_training.py"


def test_training_on_bounds_certifies_more():
    spec = importlib.util.spec_from_file_location("certified_training", PATH)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    plain, robust = example.run(eps=0.06, epochs=15, count=1200)
    assert plain.clean > 0.7 and robust.clean > 0.7
    assert plain.certified <= plain.clean and robust.certified <= robust.clean
    assert robust.certified > plain.certified + 0.03
