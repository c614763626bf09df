"""``clinch recourse MODEL ROWS.csv``: the cheapest changes of rows of a table that get the wanted answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinch.cli.outputs import output_file, output_json

if TYPE_CHECKING:
    from clinch.applications.recourse import Recourse, Schema

#: bytes of a table, at most
TABLE_LIMIT = 2**26


def recourse(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="net.onnx; with --run-code file.py:function, a module or an estimator."),
    ],
    rows: Annotated[
        Path, typer.Argument(metavar="ROWS.csv", help="The rows, with the columns' names in the first line.")
    ],
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema",
            metavar="SCHEMA.toml",
            help="Ranges, steps, costs; default: read off the rows. See docs/recourse.md.",
        ),
    ] = None,
    wanted: Annotated[int, typer.Option(help="The class that the answers shall have, by number.")] = 1,
    first: Annotated[int | None, typer.Option(help="Look at the first so many rows only.")] = None,
    diverse: Annotated[int, typer.Option(help="Answers for each row, each with another set of changes.")] = 1,
    robust: Annotated[
        bool, typer.Option("--robust", help="Prove how far the numbers may deviate from an answer.")
    ] = False,
    time_limit: Annotated[float, typer.Option(help="Seconds for each answer.")] = 30.0,
    gap: Annotated[float, typer.Option(help="Relative gap at which an answer counts as the cheapest.")] = 1e-3,
    solver: Annotated[str | None, typer.Option(help="Run one engine alone, by name.")] = None,
    table: Annotated[
        Path | None, typer.Option("--table", metavar="FILE", parser=output_file, help="Write the answers as CSV.")
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", parser=output_json, help="Write the answers as JSON; - for standard output."
        ),
    ] = None,
    run_code: Annotated[bool, typer.Option("--run-code", help="Let MODEL name a Python function, and run it.")] = False,
) -> int:
    """Find the cheapest change of each row that the model answers as wanted, and prove it.

    Exit code: 0 every row has an answer, or a proof that there is none; 1 not so; 2 bad input.

    Example: clinch recourse loan.onnx applications.csv --schema loan.toml --wanted 1 --first 10 --table answers.csv
    """
    from clinch.applications.recourse import cheapest
    from clinch.cli.console import write_json

    given = _rows(rows, first)
    stated = _schema(schema, given)
    network = _model(model, stated, run_code=run_code)
    found = cheapest(
        network, stated, given, wanted, diverse=diverse, robust=robust, time_limit=time_limit, gap=gap, solver=solver
    )
    if json != "-":
        print(found)
        print(_summary(found))
    if json is not None:
        write_json({"rows": [[one.to_dict() for one in several] for several in found.answers]}, json)
    if table is not None:
        _write(found, table)
    return 0 if all(one.after is not None or one.proven for one in found) else 1


def _rows(file: Path, first: int | None) -> dict[str, list[Any]]:
    """The columns of a CSV file; those of numbers as numbers, whole ones as whole ones."""
    import csv

    from clinch.errors import ProblemError
    from clinch.io.files import is_there, missing, read_limited

    if not is_there(file):
        raise ProblemError(missing(file))
    text = read_limited(file, TABLE_LIMIT, ProblemError).decode("utf-8", errors="replace")
    lines = list(csv.reader(text.splitlines()))
    if len(lines) < 2:
        raise ProblemError(f"{file} has no rows. Write the columns' names in the first line and a row in each other.")
    names, body = lines[0], [line for line in lines[1:] if line][:first]
    wrong = next((k for k, line in enumerate(body, 2) if len(line) != len(names)), None)
    if wrong is not None:
        raise ProblemError(f"{file}: row {wrong} has {len(body[wrong - 2])} values; there are {len(names)} columns.")
    return {name: _numbers([line[k].strip() for line in body]) for k, name in enumerate(names)}


def _numbers(texts: list[str]) -> list[Any]:
    for kind in (int, float):
        try:
            return [kind(text) for text in texts]
        except ValueError:
            continue
    return list(texts)


def _schema(file: Path | None, rows: dict[str, list[Any]]) -> Schema:
    from clinch.applications.recourse import Schema, read_schema

    return Schema.from_frame(rows) if file is None else read_schema(file)


def _model(source: str, schema: Schema, *, run_code: bool) -> Any:
    from clinch.cli.models import load_model, made_by_function, names_function
    from clinch.errors import ProblemError

    if not names_function(source):
        return load_model(source, input_shape=(schema.table(None).size,))
    if not run_code and not source.startswith("clinch."):
        raise ProblemError(
            f"The model '{source:.100}' is Python code, which would be run. Where you trust it, add --run-code; or "
            "export the model to ONNX."
        )
    return made_by_function(source)


def _summary(found: Recourse) -> str:
    answered = sum(one.after is not None for one in found)
    proven = sum(one.proven for one in found)
    return f"{len(found)} rows: {answered} answered, {proven} proven, {sum(one.seconds for one in found):.1f} s"


def _write(found: Recourse, file: Path) -> None:
    import csv
    import io

    from clinch.io.files import write_whole

    rows = found.to_rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue())
