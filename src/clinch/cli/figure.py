"""``clinch figure RUN --kind K --out FILE``: one figure of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinch.cli.outputs import output_file

KINDS = ("curve", "gallery", "classes", "margins")
ENDINGS = (".png", ".svg", ".pdf")


def figure(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder given to clinch evaluate as --out.")],
    kind: Annotated[str, typer.Option(help="curve, gallery, classes or margins.")] = "curve",
    out: Annotated[Path, typer.Option(metavar="FILE", parser=output_file, help="Where to: .png, .svg or .pdf.")] = Path(
        "figure.png"
    ),
    data: Annotated[
        str | None, typer.Option(help="The originals of the gallery; a data set such as mnist the run can name itself.")
    ] = None,
) -> int:
    """Draw one figure of a run of clinch evaluate; the model is not needed.

    Exit code: 0 it was written; 2 bad input.

    Example: clinch figure run --kind curve --out curve.pdf
    """
    from clinch.cli.console import OutputError
    from clinch.errors import ProblemError
    from clinch.figures import save
    from clinch.io.files import printable
    from clinch.study import figures
    from clinch.study.runs import open_run

    if kind not in KINDS:
        raise ProblemError(f"There is no figure '{kind}'. Choose --kind {', '.join(KINDS)}.")
    if out.suffix.lower() not in ENDINGS:
        raise OutputError(f"'{out}' has no ending of a figure: write a name that ends with {', '.join(ENDINGS)}.")
    found = open_run(run)
    if kind == "gallery":
        drawn = figures.gallery_figure(found, data=data)
    else:
        make = {"curve": figures.certified_figure, "classes": figures.classes_figure, "margins": figures.margins_figure}
        drawn = make[kind](found)
    try:
        save(drawn, out)
    except OSError as error:
        raise OutputError(f"Cannot write {out}: {error.strerror}. Name another file.") from None
    print(printable(str(out), lines=False))
    return 0
