"""Run a benchmark by its name, or list them: ``python -m benchmarks [NAME [OPTIONS]]``, from the project's folder.

A benchmark is a file of one of the folders with a function ``main``, a first line that says what it measures, and
``TAKES``, about how long one core needs. Each reads its data from ``CLINCH_DATA``, or from ``shared/data`` beside the
project's folder.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Benchmark(NamedTuple):
    """A benchmark: its module, the question (its folder), what it measures and how long it takes."""

    module: str
    question: str
    measures: str
    takes: str


def benchmarks() -> dict[str, Benchmark]:
    """All of them by name; nothing is imported."""
    found = {}
    for path in sorted(HERE.glob("*/*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        takes = [
            str(ast.literal_eval(node.value)) for node in tree.body
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["TAKES"]
        ]  # fmt: skip
        if takes:
            measures = (ast.get_docstring(tree) or "").splitlines()[0]
            name = f"benchmarks.{path.parent.name}.{path.stem}"
            found[path.stem] = Benchmark(name, path.parent.name, measures, takes[0])
    return found


def listing(known: dict[str, Benchmark]) -> str:
    """Every benchmark below its question."""
    lines, width = [], max(map(len, known)) + 2
    for question in dict.fromkeys(one.question for one in known.values()):
        lines += ["", (importlib.import_module(f"benchmarks.{question}").__doc__ or question)]
        for name, one in known.items():
            if one.question == question:
                lines.append(f"  {name:<{width}}{one.measures} ({one.takes})")
    return "\n".join([*lines, "", "python -m benchmarks NAME --help says more."])


def main() -> int:
    """Run the benchmark that the first argument names."""
    known = benchmarks()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(inspect.cleandoc(__doc__ or "").splitlines()[0] + "\n" + listing(known))
        return 0
    name = sys.argv[1]
    if name not in known:
        print(f"There is no benchmark '{name}'. Known are: {', '.join(known)}.", file=sys.stderr)
        return 2
    sys.argv = [name, *sys.argv[2:]]
    return importlib.import_module(known[name].module).main() or 0


if __name__ == "__main__":
    sys.exit(main())
