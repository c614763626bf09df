"""The checkers are a second opinion: nothing they import, directly or through others, is an engine."""

import ast
from pathlib import Path

import clinch

ROOT = Path(clinch.__file__).parent
ENGINES = (
    "clinch.attacks",
    "clinch.bounds",
    "clinch.exact",
    "clinch.search",
    "clinch.encoding",
    "clinch.backends",
    "clinch.solve",
    "clinch.solver.ledger",
)


def is_engine(module):
    return any(f"{module}.".startswith(f"{engine}.") for engine in ENGINES)


def file_of(module):
    """Source of a module of this package, None where it is an attribute of one."""
    path = ROOT.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def imports_of(path):
    """Modules of this package that a file imports anywhere but under ``if TYPE_CHECKING``."""
    found, pending = set(), [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))
    return {name for name in found if name.startswith("clinch.") and file_of(name)}


def reached_from(start):
    """Modules that an import of the given ones reads, each with the chain that leads to it."""
    chains = {module: (module,) for module in start}
    pending = list(start)
    while pending:
        module = pending.pop()
        folder = ROOT.joinpath(*module.split(".")[1:])
        inner = imports_of(file_of(module))
        if module == "clinch.network.ops":
            inner |= {f"{module}.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"}
        parents = {module.rsplit(".", depth)[0] for depth in range(1, module.count("."))}
        for other in inner | parents:
            if other not in chains:
                chains[other] = (*chains[module], other)
                pending.append(other)
    return chains


def test_checkers_import_no_engine():
    start = [f"clinch.checker.{path.stem}" for path in (ROOT / "checker").glob("*.py") if path.stem != "__init__"]
    assert "clinch.checker.check" in start
    chains = reached_from([*start, "clinch.solver.check_points"])
    assert "clinch.query" in chains and "clinch.geometry.region" in chains
    broken = [" -> ".join(chain) for module, chain in chains.items() if is_engine(module)]
    assert not broken, "a checker reaches an engine:\n" + "\n".join(broken)


def test_the_law_can_be_broken():
    """The same search finds the engines where they are imported."""
    assert any(is_engine(module) for module in reached_from(["clinch.solve"]))
