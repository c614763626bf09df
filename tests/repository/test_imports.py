"""No module of the package imports itself, by whatever way: imports inside functions and for type checkers count."""

import ast
from pathlib import Path

import pytest

import clinch

ROOT = Path(clinch.__file__).parent


def sources(root: Path) -> dict[str, str]:
    """Dotted name -> text of every module."""
    return {
        ".".join([root.name, *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__"): path.read_text()
        for path in root.rglob("*.py")
    }


def imports(modules: dict[str, str]) -> dict[str, set[str]]:
    """What each module imports of the package, the packages around a module left out."""
    found = {}
    for name, text in modules.items():
        read = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                read |= {part if part in modules else str(node.module) for part in parts}
            elif isinstance(node, ast.Import):
                read |= {alias.name for alias in node.names}
        found[name] = (read & modules.keys()) - {name}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One way from a module back to itself, or nothing."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for read in sorted(graph[name]):
            if found := walk(read, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_no_import_leads_back_to_where_it_began():
    found = circle(imports(sources(ROOT)))
    assert not found, "a circle of imports: " + " -> ".join(found)


@pytest.mark.parametrize("line", ["import clinch.a", "from clinch import a", "from clinch.a import x"])
@pytest.mark.parametrize("where", ["{}", "def f():\n    {}", "if TYPE_CHECKING:\n    {}"])
def test_a_circle_is_found_wherever_the_import_stands(line: str, where: str):
    modules = {"clinch.a": "from clinch.b import y", "clinch.b": where.format(line), "clinch.c": "import clinch.a"}
    assert circle(imports(modules)) == ["clinch.a", "clinch.b", "clinch.a"]
