"""The example on random networks: all that is found lies below the proven limit."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "activation_descent.py"


def test_values_stay_below_the_proven_limit(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("activation_descent_example", PATH)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    picture = tmp_path / "maximum.png"
    arguments = ["example", "--steps", "80", "--time-limit", "1.5", "--figure", str(picture)]
    monkeypatch.setattr(sys, "argv", arguments)
    example.main()
    lines = dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines() if not line.startswith("figure"))
    numbers = {name.strip(): float(value) for name, value in lines.items()}
    limit = numbers.pop("proven: no input gives more than")
    assert len(numbers) == 3 and all(18 < value <= limit for value in numbers.values())
    assert picture.read_bytes().startswith(b"\x89PNG")
