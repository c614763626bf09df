"""``clinch demo``: the main job in a minute, on digits and a network that come with the install."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinch.cli.outputs import output_file, output_json

if TYPE_CHECKING:
    from clinch.demo.problem import Demo
    from clinch.solver.solution import Solution

_NORMS = {"1": 1.0, "2": 2.0, "inf": float("inf")}


def demo(
    index: Annotated[int, typer.Option(help="Which of the 359 held-out digits to start from.")] = 60,
    norm: Annotated[str, typer.Option(help="Distance to minimise: 1, 2 or inf.")] = "2",
    time_limit: Annotated[float, typer.Option(help="Seconds.")] = 60.0,
    gap: Annotated[float, typer.Option(help="Relative gap between value and bound at which to stop.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="FILE", parser=output_file, help="The picture to write (png, svg or pdf).")
    ] = Path("clinch-demo.png"),
    json: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", parser=output_json, help="Write the solution as JSON; - for standard output."
        ),
    ] = None,
) -> int:
    """Find the nearest image that keeps its class while a monitor on a hidden layer objects, and prove it nearest.

    Digits and network come with Clinch: nothing is downloaded.

    Exit code: 0 an input was found; 1 none was found, or none exists; 2 bad input.

    Example: clinch demo --index 17 --norm inf --out seventeen.png
    """
    from clinch.cli.console import Progress, exit_code, write_json
    from clinch.demo.problem import build
    from clinch.errors import MissingPackage, ProblemError

    if norm not in _NORMS:
        raise ProblemError(f"--norm is '{norm}'; give 1, 2 or inf.")
    _check_picture(out)
    stated = build(index, _NORMS[norm])
    quiet = json == "-"
    if not quiet:
        print(
            f"Held-out digit {index}, read as {stated.label}. Looking for the nearest image that is still read as "
            f"{stated.label}\nwhile the monitor on layer '{stated.monitor.layer}' objects ...\n",
            flush=True,
        )
    with Progress() as progress:
        solution = stated.problem.solve(time_limit=time_limit, gap=gap, seed=seed, progress=progress)
    if not quiet:
        print(solution)
    if json is not None:
        write_json(solution.to_dict(), json)
    code = exit_code(solution)
    if code == 0:
        try:
            _draw(stated, solution, norm, out, quiet)
        except MissingPackage as reason:
            print(f"clinch: There is no picture: {reason}", file=sys.stderr)
    return code


def _check_picture(out: Path) -> None:
    """Refuse a name that cannot be written before any work is spent."""
    from clinch.cli.console import OutputError

    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise OutputError(f"--out is '{out}'; give a name that ends in .png, .svg or .pdf.")


def _draw(stated: Demo, solution: Solution, norm: str, out: Path, quiet: bool) -> None:
    from clinch.figures import Watched, save, solution_figure

    name = {"1": "‖x − x₀‖₁", "2": "‖x − x₀‖₂", "inf": "‖x − x₀‖∞"}[norm]
    figure = solution_figure(
        stated.x0,
        solution,
        heading=f"The nearest image still read as {stated.label} to which the monitor objects",
        before=f"x₀: read as {stated.label}, accepted",
        after=f"x: read as {stated.label}, rejected",
        quantity=name,
        watched=Watched.of(stated.monitor, stated.network, stated.label, stated.x0, solution.x),
    )
    save(figure, out)
    if not quiet:
        print(f"\nPicture: {out}")
