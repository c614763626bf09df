"""``clinch report RUN``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinch.cli.outputs import output_file


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder given to clinch evaluate as --out.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=output_file, help="Where to; default: report.html in the run's folder."),
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

    Exit code: 0 it was written; 2 bad input.

    Example: clinch report run --out report.html --classes names.txt
    """
    from clinch.cli.console import check_writable
    from clinch.io.files import printable
    from clinch.study.report import read_class_names, write_report
    from clinch.study.runs import open_run

    names = [] if classes is None else read_class_names(classes)
    found = open_run(run)
    target = found.path.with_name("report.html") if out is None else out
    check_writable(target)
    print(printable(str(write_report(found, target, title=title, classes=names, data=data)), lines=False))
    return 0
