"""``clinch report RUN``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinch.cli.outputs import output_file


def report(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders given to clinch evaluate as --out, or below it.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=output_file, help="Where to; default: report.html in the folder."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page; default: the model and the data.")] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="NAMES", help="Text file with the names of the classes, one a line.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the originals are; a data set such as mnist the run can name itself.")
    ] = None,
) -> int:
    """Write a run of clinch evaluate as one HTML page that needs no network; the model is not needed.

    Several runs, or a folder that holds runs: a page that sets them side by side, image by image where all are of the
    same data, and leads to a page of each in its own folder.

    Exit code: 0 it was written; 2 bad input.

    Example: clinch report run --out report.html --classes names.txt
    """
    from clinch.cli.console import check_writable
    from clinch.errors import ProblemError
    from clinch.io.files import printable
    from clinch.study.report import read_class_names, write_report, write_several
    from clinch.study.runs import open_run, runs_below

    names = [] if classes is None else read_class_names(classes)
    found = [open_run(one) for folder in run for one in runs_below(folder)]
    if len(found) > 1 and data is not None:
        raise ProblemError(f"--data is for the page of one run; these are {len(found)}. Leave it out.")
    target = (run[0] if len(run) == 1 and run[0].is_dir() else Path()) / "report.html" if out is None else out
    if len(found) == 1 and out is None:
        target = found[0].path.with_name("report.html")
    check_writable(target)
    if len(found) == 1:
        written = write_report(found[0], target, title=title, classes=names, data=data)
    else:
        written = write_several(found, target, title=title, classes=names)
    print(printable(str(written), lines=False))
    return 0
