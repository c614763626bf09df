"""The house rules that a program can check: sizes, annotations, documentation, no paths of one machine."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import clinch

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "src" / "clinch").rglob("*.py"))
OURS = [
    path
    for folder in ("src", "tests", "examples", "benchmarks", "docs")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".toml")
] + [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "PERFORMANCE.md", "Makefile", "pyproject.toml")
]
FILE_LIMIT, FILE_SOFT_LIMIT, FUNCTION_LIMIT = 600, 400, 80
#: share of the package's files that may be longer than the soft limit
SOFT_SHARE = 0.05


def name_of(path):
    return str(path.relative_to(ROOT))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_files_are_short():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in OURS if path.suffix == ".py"}
    assert {name: n for name, n in lengths.items() if n > FILE_LIMIT} == {}
    long = {name: n for name, n in lengths.items() if n > FILE_SOFT_LIMIT}
    assert len(long) <= SOFT_SHARE * len(lengths), long


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_functions_are_short_annotated_and_documented(path):
    tree = ast.parse(path.read_text())
    problems = []
    for node in functions(tree):
        if node.end_lineno - node.lineno >= FUNCTION_LIMIT:
            problems.append(f"{node.name} has {node.end_lineno - node.lineno + 1} lines")
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        bare = [a.arg for a in arguments if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
        if bare or node.returns is None:
            problems.append(f"{node.name}: not annotated: {', '.join(bare) or 'what it returns'}")
    # an empty __init__.py only makes a folder a package
    if tree.body and ast.get_docstring(tree) is None:
        problems.append("the module has no docstring")
    for node in public(tree):
        if ast.get_docstring(node) is None:
            problems.append(f"{node.name} has no docstring")
    assert problems == []


def public(tree):
    """Public classes, functions and methods; setters, inner functions and overloads' signatures are left out."""
    found = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
    return [node for node in found if not node.name.startswith("_") and not signature_alone(node)]


def signature_alone(node):
    return any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)


def test_everything_that_is_exported_exists_and_is_documented():
    for name in clinch.__all__:
        found = getattr(clinch, name)
        assert isinstance(found, int | float) or found.__doc__, name


#: this file names what it looks for
_WORDS = re.compile(r"(?<![\w.])/(?:work|home|root|Users|tmp)/|\bTODO\b|\bFIXME\b|\bXXX\b")


@pytest.mark.parametrize("path", [path for path in OURS if path != Path(__file__).resolve()], ids=name_of)
def test_no_path_of_one_machine_and_no_loose_end(path):
    assert _WORDS.findall(path.read_text()) == []


#: workers read what the process that started them has sent, and no file
UNPICKLES = {"src/clinch/study/task.py": {("pickle", "loads")}}


def test_nothing_in_the_package_unpickles_or_evaluates():
    calls = {("torch", "load"), ("torch", "save"), ("pickle", "load"), ("pickle", "loads"), ("joblib", "load")}
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                call = node.func.value.id, node.func.attr
                assert call not in calls - UNPICKLES.get(name_of(path), set()), name_of(path)
            if isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), name_of(path)


# --- the pages that a newcomer reads -------------------------------------------------------------------------------


def test_the_readme_is_short_and_its_commands_and_files_exist():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    makes = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert {"demo", "test"} <= makes <= targets
    from clinch.cli import app

    commands = {command.name for command in app.registered_commands}
    assert set(re.findall(r"^clinch ([a-z]+)", text, re.MULTILINE)) <= commands
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text) + re.findall(r"python (\S+\.py)", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=name_of)
def test_links_of_the_documentation_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_readme_example_is_python():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_versions_agree_and_torchvision_is_not_pulled():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == clinch.__version__
    assert f"## {clinch.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    everything = (ROOT / "pyproject.toml").read_text() + (ROOT / "constraints.txt").read_text()
    assert "torchvision" not in everything
    assert re.search(r"^torch==2\.13\.0$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
