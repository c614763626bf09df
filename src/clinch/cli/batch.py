"""``clinch batch INSTANCES``: many VNN-COMP instances, each in a process of its own, and a table of what came out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clinch.cli.outputs import output_folder, output_json


def batch(
    instances: Annotated[
        str, typer.Argument(metavar="INSTANCES", help="instances.csv, its folder, or a folder of such folders.")
    ],
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For every instance whose own limit is more.")
    ] = None,
    expected: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Answers to compare with; default: expected.csv beside the instances."),
    ] = None,
    only: Annotated[int | None, typer.Option(metavar="N", help="N instances of each set, spread evenly.")] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", parser=output_folder, help="For results.jsonl and counterexamples.")
    ] = Path("runs/batch"),
    resume: Annotated[bool, typer.Option(help="Keep what is finished in the folder; --no-resume: start over.")] = True,
    json: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", parser=output_json, help="Write the rows and results as JSON."),
    ] = None,
) -> int:
    """Decide the instances of VNN-COMP sets one after the other, each by clinch verify with one thread.

    The table has a row for each set: how many were solved, with which answers, how many contradict the expected ones,
    CPU seconds, and by how much the worst one exceeded its limit. A batch that was interrupted goes on where it was.

    Exit code: 0 no answer contradicts an expected one and no instance failed; 1 some do; 2 bad input.

    Example: clinch batch benchmarks/acasxu --timeout 20 --out runs/acasxu
    """
    from dataclasses import asdict

    from clinch.cli.console import write_json
    from clinch.vnnlib.batch import Log, read_expected, read_instances, run_instance, summary, wrong

    if timeout is not None and not timeout > 0:
        raise typer.BadParameter(f"{timeout:g} is no timeout. Give seconds above zero.", param_hint="--timeout")
    if only is not None and only < 1:
        raise typer.BadParameter(f"{only} is no number of instances. Give 1 or more.", param_hint="--only")
    wanted = read_instances(instances, limit=timeout)
    known = read_expected(expected if expected is not None else _beside(instances))
    log = Log(out)
    if not resume:
        log.clear()
    finished = log.read()
    wanted = wanted if only is None else _spread(wanted, only)
    for number, instance in enumerate(wanted, 1):
        if instance.key in finished:
            continue
        result = finished[instance.key] = run_instance(instance, out)
        log.add(result)
        mark = "  WRONG" if wrong(result, known) else ""
        print(
            f"{number}/{len(wanted)} {instance.set} {Path(instance.network).name} "
            f"{Path(instance.specification).name}: {result.answer} {result.cpu:.1f} s{mark}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    results = [finished[instance.key] for instance in wanted]
    rows = summary(results, known)
    if json is not None:
        write_json({"sets": rows, "results": [asdict(result) for result in results]}, json)
    if json != "-":
        _print(rows)
    return 1 if any(wrong(result, known) or result.answer == "error" for result in results) else 0


def _beside(instances: str) -> Path:
    """Where expected answers usually stand."""
    path = Path(instances)
    return path if path.is_dir() else path.parent


def _spread(instances: list, only: int) -> list:
    """So many of each set, spread evenly."""
    sets: dict[str, list] = {}
    for instance in instances:
        sets.setdefault(instance.set, []).append(instance)
    counts = {name: min(only, len(some)) for name, some in sets.items()}
    return [some[i * len(some) // counts[name]] for name, some in sets.items() for i in range(counts[name])]


def _print(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from clinch.io.files import printable

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(rows[0] if rows else ()):
        table.add_column(heading, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(printable(str(cell), lines=False) for cell in row.values()))
    console = Console(highlight=False)
    console.width = max(console.width, 160)
    console.print(table)
