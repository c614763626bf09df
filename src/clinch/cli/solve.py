"""``clinch solve PROBLEM.toml``: one problem, or a batch, stated in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinch.cli.outputs import output_file, output_json

if TYPE_CHECKING:
    from clinch.solver.solution import Solution


def solve(
    file: Annotated[
        Path, typer.Argument(metavar="PROBLEM.toml", help="What to solve; the format is in docs/problem-files.md.")
    ],
    json: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", parser=output_json, help="Write the solution as JSON; - for standard output."
        ),
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds; the best input and bound so far are kept.")] = None,
    gap: Annotated[float | None, typer.Option(help="Relative gap between value and bound at which to stop.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random choice.")] = None,
    solver: Annotated[str | None, typer.Option(help="Run one engine alone, by name.")] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=output_file, help="Write a certificate of the bound, which clinch check reads."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to compute, such as cuda; default: where the model is.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=output_file, help="Keep the best inputs and bounds in this JSON file while solving."
        ),
    ] = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Let the file name a Python function as its model, and run it.")
    ] = False,
) -> int:
    """Solve the problem that a file states. Options given here win over the file's [solve] table.

    Exit code: 0 an input was found for every problem; 1 not so, or proven infeasible; 2 bad input.

    Example: clinch solve examples/digits_monitor.toml --time-limit 30 --json solution.json
    """
    from clinch.cli.console import Progress, exit_code, write_json
    from clinch.cli.problem_file import read_problem
    from clinch.io.files import printable

    stated = read_problem(file, run_code=run_code)
    given = {"time_limit": time_limit, "gap": gap, "seed": seed, "solver": solver, "device": device, "keep": keep}
    options = stated.options | {name: value for name, value in given.items() if value is not None}
    with Progress(stated.problem.query.sense) as progress:
        solution = stated.problem.solve(**options, progress=progress, certificate=certificate is not None)
    if json != "-":
        print(printable(str(solution)))
    if json is not None:
        write_json(solution.to_dict(), json)
    if certificate is not None:
        _save(solution, certificate)
    return exit_code(solution)


def _save(solution: Solution, path: Path) -> None:
    """Write the certificate; those of a batch with the problem's number before the suffix."""
    from clinch.cli.console import OutputError

    one = solution.certificate
    proofs = one if isinstance(one, list) else [one]
    for b, proof in enumerate(proofs):
        if proof is None:
            continue
        try:
            proof.save(path if not isinstance(one, list) else path.with_name(f"{path.stem}.{b}{path.suffix}"))
        except OSError as error:
            raise OutputError(f"'{path}' cannot be written: {error}. Name a file in a folder of yours.") from None
