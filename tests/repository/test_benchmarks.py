"""Benchmarks: each is found by its name, says what it measures and how long it takes, and writes the one format."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"
FILES = sorted(path for path in FOLDER.glob("*/*.py") if path.name != "__init__.py")
#: a program of its own, which ``paired`` runs by its path with another checkout's Clinch
BY_PATH = {"work"}
#: write no page: a table on standard output or in a file of comma-separated values, and weights of an agent
NO_PAGE = {"evaluate", "crafted_files", "breakout_agent"}


def module(path):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


RUNNER, PAGE = module(FOLDER / "__main__.py"), module(FOLDER / "common" / "page.py")
KNOWN = RUNNER.benchmarks()


def test_every_program_is_a_benchmark_with_a_name_of_its_own():
    programs = [p.stem for p in FILES if re.search(r"^def main\(", p.read_text(), re.MULTILINE)]
    assert len(programs) == len(set(programs))
    assert set(programs) - BY_PATH == set(KNOWN), "a benchmark has main() and says TAKES"


@pytest.mark.parametrize("name", KNOWN)
def test_a_benchmark_says_what_it_measures_and_how_long_that_takes(name):
    one = KNOWN[name]
    assert one.takes and 20 < len(one.measures) <= 120 and one.measures.endswith((".", "?"))
    path = FOLDER / one.question / f"{name}.py"
    text = path.read_text()
    assert f"python -m benchmarks {name}" in text, "the docstring shows the command"
    writers = ("write_page(", "write_tables(", "judged_page(")
    assert name in NO_PAGE or any(writer in text for writer in writers), "pages are written by write_page"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_but_the_writer_writes_a_page(path):
    if path.name == "page.py":
        return
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    wrong = [
        c for c in calls if ".write_text(" in c and re.match(r"(?:options|chosen|arguments)?\.?(?:out|RESULTS)", c)
    ]
    assert wrong == [] and "# {" not in "".join(c for c in calls if "write" in c)


@pytest.mark.parametrize("page", sorted((FOLDER / "results").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_of_results_names_its_command(page):
    text = page.read_text()
    made = re.findall(r"python -m benchmarks (\w+)", text)
    others = re.findall(r"clinch reproduce|clinch evaluate|python (tests/[\w/]+\.py)", text)
    assert set(made) <= set(KNOWN) and (made or others), "which command makes this page?"


def test_pages_have_a_heading_a_command_and_a_machine_but_no_date(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["margins", "--eps", "0.1", "--out", str(tmp_path / "page.md")])
    rows = [[1, 0.123456, None], ["a|b", "text", True]]
    PAGE.write_page(tmp_path / "page.md", "Title", PAGE.table(["x", "y", "z"], rows), ["numpy", "no-such-package"])
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert lines[0] == "# Title" and lines[2] == "    python -m benchmarks margins --eps 0.1 --out page.md"
    assert re.match(r"Python [\d.]+, torch \S+, numpy \S+, no no-such-package, \S+ \(.*\), \d+ cores\.$", lines[4])
    assert lines[6:] == ["| x | y | z |", "|---|---|---|", "| 1 | 0.123 | – |", "| a\\|b | text | True |"]
    assert not re.search(r"20\d\d-\d\d", "\n".join(lines))


def test_the_list_and_an_unknown_name():
    run = [sys.executable, "-m", "benchmarks"]
    listed = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name in KNOWN if f"  {name} " not in listed] == []
    wrong = subprocess.run([*run, "margin"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "There is no benchmark 'margin'. Known are:" in wrong.stderr
