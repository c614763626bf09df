"""The page itself: template, style and script put together, and written to disk."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from clinch.errors import ProblemError
from clinch.io.files import read_limited, write_whole
from clinch.runtime.optional import required
from clinch.study.runs import Run
from clinch.study.store import StoreError

if TYPE_CHECKING:
    from jinja2 import Environment

#: bytes of a file of class names at most
NAMES_LIMIT = 2**20
_HERE = Path(__file__).parent


def report_html(run: Run, *, title: str | None = None, classes: Sequence[str] = (), data: Any = None) -> str:
    """A run as one HTML page: interval or distances, curve, gallery, classes, table, settings.

    The page loads nothing: a content security policy allows its own style and script, by their SHA-256, and pictures in
    data URIs. Every text from the run, from file names to errors, is escaped. Originals of the gallery are read from
    the data again, guarded by the run's hash; where the data is not there the page says so.

    Args:
        run: of :func:`clinch.study.open_run`.
        title: of the page; None: the model and the data.
        classes: names by label; none: the labels.
        data: see :meth:`clinch.study.Run.source`: files and folders are read only where they are given here.

    Raises:
        ProblemError: fewer names than labels. DataError: data that was given is not the run's.

    Example:
        >>> page = report_html(cl.study.open_run("run"), classes=list("0123456789"))
    """
    from clinch.study.report.content import content_of

    _check_names([run], classes)
    return _rendered("page.html", content_of(run, title or f"{run.model} on {run.data}", classes, data))


def several_html(
    runs: Sequence[Run],
    *,
    title: str | None = None,
    classes: Sequence[str] = (),
    pages: Sequence[str | None] | None = None,
) -> str:
    """Several runs as one HTML page: a row for each, and the images on which they differ; see :func:`report_html`.

    Args:
        runs: of :func:`clinch.study.open_run`.
        title: of the page; None: how many runs there are.
        classes: names by label; none: the labels.
        pages: where the page of each run is, relative to this one; None: nowhere.

    Raises:
        ProblemError: no runs, or fewer names than labels.

    Example:
        >>> page = several_html([cl.study.open_run("run"), cl.study.open_run("run")])
    """
    from clinch.study.report.several import content_of_several

    if not runs:
        raise ProblemError("There are no runs. Name at least one folder given to clinch evaluate as --out.")
    _check_names(runs, classes)
    content = content_of_several(runs, title or f"{len(runs)} runs", classes, pages or [None] * len(runs))
    return _rendered("several.html", content)


def _check_names(runs: Sequence[Run], classes: Sequence[str]) -> None:
    labels = [row.label for run in runs for row in run.rows if row.label is not None]
    if classes and labels and max(labels) >= len(classes):
        raise ProblemError(f"There are {len(classes)} names of classes, but a label {max(labels)}. Name every class.")


def _rendered(template: str, content: dict[str, Any]) -> str:
    """A page that loads nothing."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template(template).render(content, style=style, script=script, policy=policy)


def write_report(
    run: Run, target: str | Path, *, title: str | None = None, classes: Sequence[str] = (), data: Any = None
) -> Path:
    """Write :func:`report_html` to a file, as a whole or not at all. Returns its path.

    Raises:
        StoreError: the file cannot be written. Others: see :func:`report_html`.

    Example:
        >>> write_report(cl.study.open_run("run"), "report.html").name
        'report.html'
    """
    return _written(target, report_html(run, title=title, classes=classes, data=data))


def write_several(
    runs: Sequence[Run], target: str | Path, *, title: str | None = None, classes: Sequence[str] = ()
) -> Path:
    """Write :func:`several_html` to a file, and each run's own page into its folder. Returns its path.

    Raises:
        StoreError: a file cannot be written. Others: see :func:`several_html`.

    Example:
        >>> write_several([cl.study.open_run("run")], "several.html").name
        'several.html'
    """
    own = [write_report(run, run.path.with_name("report.html"), classes=classes) for run in runs]
    folder = Path(target).absolute().parent
    pages = [quote(os.path.relpath(page.absolute(), folder).replace(os.sep, "/")) for page in own]
    return _written(target, several_html(runs, title=title, classes=classes, pages=pages))


def _written(target: str | Path, page: str) -> Path:
    path = Path(target)
    try:
        write_whole(path, page)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror or error}. Name another file.") from None
    return path


def read_class_names(path: str | Path) -> list[str]:
    """Names of classes, one a line, in the order of the labels.

    Raises:
        ProblemError: the file is missing, has no names, or is not UTF-8.
    """
    try:
        text = read_limited(path, NAMES_LIMIT, ProblemError).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ProblemError(f"{path} is no text in UTF-8. Write one name of a class per line.") from None
    names = [line.strip() for line in text.rstrip().splitlines()]
    if not names:
        raise ProblemError(f"{path} has no names. Write one name of a class per line.")
    return names


def _environment() -> Environment:
    """Autoescape is on for everything, and a name that does not exist is an error."""
    jinja2 = required("jinja2", "report")
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
