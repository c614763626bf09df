"""The transformer example on a small setting: it learns, and its robust accuracy is an interval that says something."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "vision_transformer.py"


def test_a_transformer_is_trained_bounded_and_evaluated(monkeypatch, capsys):
    settings = ["--eps", "0.005", "--images", "2", "--epochs", "10", "--time-limit", "600"]
    monkeypatch.setattr(sys, "argv", [str(PATH), *settings])
    runpy.run_path(str(PATH), run_name="__main__")
    first, _, row = capsys.readouterr().out.splitlines()
    assert float(first.split()[2].rstrip("%")) > 60
    crown, low, high = (float(word.strip("[],%")) for word in row.split()[1:])
    assert 0 < crown <= low <= high <= 100
