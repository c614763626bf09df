"""The coverage example on a small setting: a table with a row for all, and the picture."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "monitor_coverage.py"


def test_the_example_prints_a_table_and_draws(tmp_path, monkeypatch, capsys):
    figure = tmp_path / "coverage.png"
    monkeypatch.setattr(sys, "argv", [str(PATH), "--images", "4", "--time-limit", "3", "--figure", str(figure)])
    runpy.run_path(str(PATH), run_name="__main__")
    assert figure.read_bytes().startswith(b"\x89PNG")
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[:2] == ["all", "4"]
