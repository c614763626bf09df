"""``clinch figure RUN --kind K --out FILE``: one figure of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinch.cli.outputs import output_file

KINDS = ("curve", "gallery", "classes", "margins", "distribution")
ENDINGS = (".png", ".svg", ".pdf")


def figure(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders given to clinch evaluate as --out, or below it.")
    ],
    kind: Annotated[str, typer.Option(help="curve, gallery, classes, margins or distribution.")] = "curve",
    out: Annotated[Path, typer.Option(metavar="FILE", parser=output_file, help="Where to: .png, .svg or .pdf.")] = Path(
        "figure.png"
    ),
    data: Annotated[
        str | None, typer.Option(help="The originals of the gallery; a data set such as mnist the run can name itself.")
    ] = None,
    title: Annotated[str, typer.Option(help="Above the figure.")] = "",
    size: Annotated[str, typer.Option(metavar="W,H", help="Inches, of several runs and distributions.")] = ("6.4,3.7"),
) -> int:
    """Draw one figure of a run of clinch evaluate, or the curves of several; the model is not needed.

    Several runs: robust accuracy over the radius, a band for each model; bars where all have one radius. A folder that
    holds runs, as clinch evaluate makes of several models, stands for all of them.

    Exit code: 0 it was written; 2 bad input.

    Example: clinch figure runs --title "Two models" --out curve.pdf
    """
    from clinch.cli.console import OutputError
    from clinch.errors import ProblemError
    from clinch.figures import save
    from clinch.io.files import printable
    from clinch.study import figures
    from clinch.study.runs import open_run, runs_below

    if kind not in KINDS:
        raise ProblemError(f"There is no figure '{kind}'. Choose --kind {', '.join(KINDS)}.")
    if out.suffix.lower() not in ENDINGS:
        raise OutputError(f"'{out}' has no ending of a figure: write a name that ends with {', '.join(ENDINGS)}.")
    found = [open_run(one) for folder in run for one in runs_below(folder)]
    if kind == "distribution":
        drawn = figures.distribution_figure(found, title, _size(size))
    elif len(found) > 1 and kind != "curve":
        raise ProblemError(f"--kind {kind} draws one run; these are {len(found)}. Ask for curve or distribution.")
    elif len(found) > 1:
        drawn = figures.compared_figure(found, title, _size(size))
    elif kind == "gallery":
        drawn = figures.gallery_figure(found[0], data=data)
    else:
        make = {"curve": figures.certified_figure, "classes": figures.classes_figure, "margins": figures.margins_figure}
        drawn = make[kind](found[0], title)
    try:
        save(drawn, out)
    except OSError as error:
        raise OutputError(f"Cannot write {out}: {error.strerror}. Name another file.") from None
    print(printable(str(out), lines=False))
    return 0


def _size(text: str) -> tuple[float, float]:
    from clinch.errors import ProblemError

    try:
        width, height = (float(part) for part in text.split(","))
    except ValueError:
        width = height = 0.0
    if not 0.5 <= min(width, height) <= max(width, height) <= 50:
        raise ProblemError(f"--size is '{text:.40}'; write width and height in inches, such as 6.4,3.7.")
    return width, height
