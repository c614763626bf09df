"""Every example of a docstring runs as it stands and shows what it gives."""

import ast
import contextlib
import doctest
import importlib
import io
from pathlib import Path
from typing import NamedTuple

import example_names
import matplotlib
import pytest
from shown import close

import clinch

matplotlib.use("Agg")
ROOT = Path(clinch.__file__).parent
#: packages of the extras: an example that needs one runs where it is installed
EXTRAS = {"gymnasium", "minatar", "stable_baselines3", "ray", "cvxpy", "pyarrow"}


class Numbers(doctest.OutputChecker):
    """Texts agree word by word, and numbers up to what another machine rounds differently."""

    def check_output(self, want, got, optionflags):
        """Whether the output is the one that is shown."""
        return super().check_output(want, got, optionflags) or close(want, got, 0.05, 1e-3)


class Example(NamedTuple):
    """A docstring with an example: its module, what it belongs to, and its text."""

    module: str
    name: str
    text: str

    def doctest(self):
        """What doctest makes of it."""
        return doctest.DocTestParser().get_doctest(self.text, {}, f"{self.module}.{self.name}", self.module, 0)


def examples():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        waiting = [("", ast.parse(path.read_text()))]
        while waiting:
            name, node = waiting.pop(0)
            text = ast.get_docstring(node) or ""
            if ">>>" in text:
                yield Example(module, name, text)
            inner = (n for n in node.body if isinstance(n, ast.ClassDef | ast.FunctionDef))
            waiting += [(f"{name}.{n.name}".strip("."), n) for n in inner]


EXAMPLES = list(examples())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("examples")
    example_names.files(place)
    return place


def failures_of(test, names):
    """What doctest reports of an example, or nothing."""
    test.globs = dict(names)
    report = io.StringIO()
    runner = doctest.DocTestRunner(Numbers(), verbose=False, optionflags=doctest.ELLIPSIS)
    runner.run(test, out=report.write, clear_globs=False)
    return report.getvalue()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.module}.{example.name}")
def test_an_example_shows_what_it_gives(example, folder, monkeypatch):
    monkeypatch.chdir(folder)
    try:
        names = example_names.names_for(importlib.import_module(example.module))
        needed = {alias for alias in EXTRAS if f"import {alias}" in example.text or f"from {alias}" in example.text}
        for name in needed:
            importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").split(".")[0] in EXTRAS:
            pytest.skip(f"{error.name} is not installed")
        raise
    with contextlib.redirect_stderr(io.StringIO()):
        assert failures_of(example.doctest(), names) == ""


def test_examples_are_found_and_none_is_skipped():
    assert len(EXAMPLES) > 90
    skipped = [e.name for e in EXAMPLES if any(one.options.get(doctest.SKIP) for one in e.doctest().examples)]
    assert skipped == []


@pytest.mark.parametrize("text", [">>> 1 + 1\n3\n", ">>> undefined\n", ">>> 1 + 1\n"])
def test_an_example_that_is_wrong_fails(text):
    test = doctest.DocTestParser().get_doctest(text, {}, "wrong", "wrong", 0)
    assert failures_of(test, {})
