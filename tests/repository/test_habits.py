"""One set of commands: the Makefile, continuous integration, hooks of commits and the pages name the same ones."""

import re
import tomllib
from pathlib import Path

import clinch

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
#: what a change must pass, in any order
GATES = {"lint", "types", "docs", "coverage", "test-data"}


def recipes():
    """Target -> its commands, without the environment's folder."""
    found = re.findall(r"^([a-z][a-z-]*):.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return {name: lines.replace("$(BIN)/", "").replace("\t", "").splitlines() for name, lines in found}


def test_every_target_is_phony_and_has_a_recipe():
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()
    assert sorted(phony) == sorted(recipes())


def test_continuous_integration_runs_the_gates_by_make():
    text = (ROOT / ".ci" / "run").read_text()
    steps = re.findall(r"^\s*step ([a-z-]+)", text, re.MULTILINE)
    assert set(steps) == GATES and len(steps) == len(GATES)
    comment = re.search(r"# what continuous integration runs: (.*)\nci:", MAKEFILE)[1]
    assert [step for step in steps if not re.search(rf"\b{step}\b", comment)] == []
    assert "bash .ci/run" in recipes()["ci"]


def test_pages_say_what_continuous_integration_runs():
    for page in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text()
        assert re.search(r"^make ci\b", text, re.MULTILINE), page
        named = set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
        assert named <= set(recipes()), page
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert [gate for gate in GATES if not re.search(rf"^make {gate}\b", contributing, re.MULTILINE)] == []


def test_hooks_run_what_make_runs():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    hooks = [line.removeprefix(".venv/bin/") for line in re.findall(r"^ +entry: (.*)$", text, re.MULTILINE)]
    wanted = [line.removesuffix(" .") for target in ("lint", "types") for line in recipes()[target]]
    assert hooks == wanted
    assert "pre-commit install" in recipes()["hooks"]
    assert set(re.findall(r"^ +language: (.*)$", text, re.MULTILINE)) == {"system"}, "versions are the project's pins"


def test_the_citation_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation, page = (ROOT / "CITATION.cff").read_text(), (ROOT / "docs" / "cite.md").read_text()
    assert f"\nversion: {clinch.__version__}\n" in citation and f"version = {{{clinch.__version__}}}" in page
    assert f"\nlicense: {project['license']}\n" in citation and f"license = {{{project['license']}}}" in page
    title = re.search(r'^title: "(.*)"$', citation, re.MULTILINE)[1]
    assert f"title   = {{{title}}}" in page
    assert all(re.search(rf"^{key}:", citation, re.MULTILINE) for key in ("cff-version", "message", "authors", "type"))


def test_papers_to_cite_are_those_that_docstrings_name():
    page = (ROOT / "docs" / "cite.md").read_text()
    entries = (ROOT / "src" / "clinch" / "runtime" / "references.bib").read_text()
    keys, numbers = re.findall(r"^@\w+\{(\w+),", entries, re.MULTILINE), re.findall(r"eprint = \{([\d.]+)\}", entries)
    assert len(set(keys)) == len(keys) == len(numbers) and len(set(numbers)) == len(numbers) >= 10
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert [number for number in numbers if number not in sources] == []
    assert [n for n in re.findall(r"arXiv (\d{4}\.\d{5})", page) if n not in sources] == []
