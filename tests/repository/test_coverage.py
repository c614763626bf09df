"""The floors of coverage: one for each room, and a room that falls below is told by name."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("coverage_floors", ROOT / ".ci" / "coverage_floors.py")
floors = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = floors
_SPEC.loader.exec_module(floors)

REPORT = {
    "src/clinch/query.py": {"summary": {"num_statements": 10, "covered_lines": 9}},
    "src/clinch/solve.py": {"summary": {"num_statements": 10, "covered_lines": 10}},
    "src/clinch/bounds/crown.py": {"summary": {"num_statements": 30, "covered_lines": 30}},
    "src/clinch/bounds/lagrangian/dual.py": {"summary": {"num_statements": 10, "covered_lines": 2}},
    "tests/conftest.py": {"summary": {"num_statements": 10, "covered_lines": 0}},
}


def test_shares_are_those_of_rooms():
    found = floors.rooms(REPORT)
    assert found == {"bounds": floors.Share(40, 32), "clinch": floors.Share(20, 19)}
    assert found["bounds"].percent == 80.0


def test_a_room_below_its_floor_is_named():
    found = floors.rooms(REPORT)
    assert floors.complaints(found, {"bounds": 80, "clinch": 90}) == []
    (one,) = floors.complaints(found, {"bounds": 81, "clinch": 90})
    assert one.startswith("bounds: 80.0% of 40 lines run, the floor is 81%")
    assert floors.complaints(found, {"bounds": 0, "gone": 5}) == [
        "clinch: a room without a floor; run with --write", "gone: a floor without a room; take it off coverage.toml",
    ]  # fmt: skip


def test_floors_never_fall():
    found = floors.rooms(REPORT)
    assert floors.raised(found, {"bounds": 90.0, "gone": 5.0}) == {"bounds": 90.0, "clinch": 94.0}


def test_every_room_has_a_floor_that_asks_for_something():
    written = tomllib.loads((ROOT / ".ci" / "coverage.toml").read_text())["percent"]
    package = ROOT / "src" / "clinch"
    assert set(written) == {"clinch", *(path.parent.name for path in package.glob("*/__init__.py"))}
    assert all(20 <= floor <= 100 for floor in written.values()), written


def test_coverage_costs_the_quick_suite_nothing():
    recipes = re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [name for name, lines in recipes if "coverage" in lines] == ["coverage", "clean"]
    assert "--cov" not in (ROOT / "pyproject.toml").read_text()
