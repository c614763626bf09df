"""Python in the documentation: it compiles, uses names and arguments that exist; the tutorial prints what it shows."""

import ast
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import example_names
import pytest
from shown import close

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: packages of the extras, whose names are looked at only where they are installed
OPTIONAL = {"cvxpy", "gymnasium", "minatar", "procgen", "stable_baselines3", "torchvision", "ray"}


def outputs():
    spec = importlib.util.spec_from_file_location("outputs", ROOT / "docs" / "hooks" / "outputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(page):
    return outputs().blocks(page.read_text())


def name_of(path):
    return str(path.relative_to(ROOT))


def found_at(dotted):
    """What a dotted name such as ``clinch.attacks.pgd`` stands for; AttributeError where it stands for nothing."""
    first, *rest = dotted.split(".")
    value = importlib.import_module(first)
    path = first
    for name in rest:
        path += f".{name}"
        try:
            value = getattr(value, name)
        except AttributeError:
            try:
                value = importlib.import_module(path)
            except ImportError:
                raise AttributeError(f"{path} does not exist") from None
    return value


def dotted(node, names):
    """The full name of an attribute or name that comes from an import, or None."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return None
    return ".".join([names[node.id], *reversed(parts)])


def mistakes(trees):
    """Names that do not exist and arguments that a function does not take, in blocks that share their imports."""
    names, found = {"cl": "clinch", "clinch": "clinch", "torch": "torch"}, []
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] not in OPTIONAL:
                names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        # what a block assigns is no longer what was imported
        stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        names = {name: value for name, value in names.items() if name not in stored}
    names = {name: value for name, value in names.items() if value.split(".")[0] == "clinch"}
    for tree in trees:
        for node in ast.walk(tree):
            name = dotted(node, names) if isinstance(node, ast.Attribute | ast.Name) else None
            if name is not None:
                try:
                    found_at(name)
                except AttributeError as reason:
                    found.append(str(reason))
            if isinstance(node, ast.Call):
                found += unknown_arguments(node, dotted(node.func, names))
    return found


def unknown_arguments(call, name):
    if name is None:
        return []
    try:
        parameters = inspect.signature(found_at(name)).parameters
    except (AttributeError, TypeError, ValueError):
        return []
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    return [f"{name} takes no {k.arg}=" for k in call.keywords if k.arg is not None and k.arg not in parameters]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_of_the_documentation_compiles_and_names_what_exists(page):
    assert mistakes([ast.parse(block.code) for block in code(page)]) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("cl.attacks.nearer(net, x, y)", "clinch.attacks.nearer does not exist"),
        ("cl.attacks.nearest(net, x, y, p=2)", "clinch.attacks.nearest takes no p="),
        ("from clinch.study import evaluat\nevaluat(net)", "clinch.study.evaluat does not exist"),
    ],
)
def test_mistakes_in_code_are_found(text, what):
    assert mistakes([ast.parse(text)]) == [what]


def test_the_start_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (printed,) = outputs().run((ROOT / "docs" / "index.md").read_text())
    assert re.search(r"status\s+OPTIMAL", printed)
    assert re.search(r"bound\s+\d", printed)


def test_texts_are_compared_by_words_and_numbers():
    assert close("eps 0.1: error 0.403", "eps 0.1:  error 0.400")
    assert not close("eps 0.1: error 0.403", "eps 0.1: error 0.5")
    assert not close("status OPTIMAL, value 1.4", "status FEASIBLE, value 1.4")


def test_the_tutorial_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "tutorial.md").read_text()
    shown, ran = outputs().blocks(page), list(outputs().run(page))
    assert len(shown) == len(ran) >= 15
    for block, printed in zip(shown, ran, strict=True):
        assert close(block.output, printed), f"{block.code}\nshows\n{block.output}\nprints\n{printed}"
    assert {path.name for path in tmp_path.glob("*.png")} == {"tutorial-fgsm.png", "tutorial-nearest.png"}


def test_what_other_libraries_users_write_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks, names = code(ROOT / "docs" / "coming-from.md"), {**example_names.shared()}
    names |= {"x": names["x"][:3], "y": names["y"][:3]}
    assert len(blocks) == 7
    for block in blocks:
        exec(compile(block.code, "docs/coming-from.md", "exec"), names)
        lines = block.code.splitlines()
        calls, comments = (sum(line.startswith("#") is kind for line in lines) for kind in (False, True))
        assert calls >= 3 and (block is blocks[0] or (calls == comments == 10))


def test_what_users_of_verifiers_write_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks, names = code(ROOT / "docs" / "coming-from-verifiers.md"), {**example_names.shared()}
    names |= {"x": names["x"][:2], "y": names["y"][:2]}
    assert len(blocks) == 5
    for block in blocks:
        quick = block.code.replace("time_limit=10", "time_limit=1")
        exec(compile(quick, "docs/coming-from-verifiers.md", "exec"), names)
