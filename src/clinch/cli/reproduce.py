"""``clinch reproduce NAME``: a published table or figure, theirs beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinch.cli.outputs import output_folder, output_json

if TYPE_CHECKING:
    from clinch.papers.parts.reproduction import Reproduction


def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to reproduce; a wrong name lists those there are.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=output_folder, help="Write NAME.png and the page NAME.md into this folder."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice that the publication does not fix.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small setting; its verdicts are not about the paper.")
    ] = False,
    json: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", parser=output_json, help="Write tables and verdicts as JSON; - for output."
        ),
    ] = None,
) -> int:
    """Run a published experiment and show its numbers beside ours, with a verdict on each claim.

    Exit code: 0 it was run, whatever the verdicts; 2 bad input, or data that is not there.

    Example: clinch reproduce adr-random --out results
    """
    from clinch.cli.console import write_json
    from clinch.errors import ProblemError
    from clinch.papers.parts.reproduction import names
    from clinch.papers.parts.reproduction import reproduce as run

    if seed < 0:
        raise ProblemError(f"--seed is {seed}; give 0 or more.")
    if name not in names():
        raise ProblemError(f"There is nothing to reproduce named '{name}'. Known are: {', '.join(names())}.")
    folder = None if out is None else _made(out)
    quiet = json == "-"
    found = run(name, seed=seed, quick=quick, note=_note())
    if not quiet:
        _print(found)
    if folder is not None:
        _write(found, folder, quiet)
    if json is not None:
        write_json(found.to_dict(), json)
    return 0


def _made(out: Path) -> Path:
    """The folder, made before any work is spent."""
    from clinch.cli.console import OutputError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {out}: {error.strerror}. Name another with --out.") from None
    return out


class _note:
    """What is being worked on, on standard error where that is a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    def __call__(self, text: str) -> None:
        if self._console.is_terminal:
            self._console.print(text, style="dim", markup=False)


def _print(found: Reproduction) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"{found.source}. {found.setting}\n", highlight=False, markup=False)
    for table in found.tables:
        shown = Table(title=table.title, title_justify="left")
        for k, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if k else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*map(table.text, row))
        console.print(shown)
    for claim in found.claims:
        console.print(f"{claim.verdict}: {claim.text} ({claim.reason})", highlight=False, markup=False)


def _write(found: Reproduction, folder: Path, quiet: bool) -> None:
    from clinch.cli.console import OutputError
    from clinch.figures import save
    from clinch.io.files import write_whole

    stem = found.name.replace("-", "_")
    try:
        picture = save(found.figure, folder / f"{stem}.png")
        page = folder / f"{stem}.md"
        write_whole(page, found.to_markdown(picture.name))
    except OSError as error:
        raise OutputError(f"Cannot write into {folder}: {error.strerror}. Name another folder with --out.") from None
    if not quiet:
        print(f"{picture} {page}")
