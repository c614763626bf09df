"""The regression example on a small setting: intervals for three norms, and the picture."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "regression.py"


def test_the_example_prints_intervals_and_draws(tmp_path, monkeypatch, capsys):
    figure = tmp_path / "change.png"
    settings = ["--inputs", "2", "--eps", "0.05", "--time-limit", "2", "--figure", str(figure)]
    monkeypatch.setattr(sys, "argv", [str(PATH), *settings])
    runpy.run_path(str(PATH), run_name="__main__")
    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()]
    assert len(rows) == 6
    for row in rows:
        linear, bound, value, proven, ratio = map(float, row[1:])
        assert linear <= bound and value <= proven and 0.5 < ratio <= 1
