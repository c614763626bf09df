"""The command line: one file per command.

Exit codes: 0 done; 1 the honest negative answer (no such input exists, or none was found); 2 bad input, told in one
line. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from clinch.backends.quiet import reserve_stdout
from clinch.cli import batch, check, demo, evaluate, figure, recourse, report, reproduce, solve, supports, verify

app = typer.Typer(
    name="clinch",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("batch")(batch.batch)
app.command("check")(check.check)
app.command("demo")(demo.demo)
app.command("evaluate")(evaluate.evaluate)
app.command("figure")(figure.figure)
app.command("recourse")(recourse.recourse)
app.command("report")(report.report)
app.command("reproduce")(reproduce.reproduce)
app.command("solve")(solve.solve)
app.command("supports")(supports.supports)
app.command("verify")(verify.verify)


def _version(wanted: bool) -> None:
    if wanted:
        from clinch import __version__

        print(__version__)
        raise typer.Exit


def _name(wanted: bool) -> None:
    if wanted:
        print("Clinch")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    name: Annotated[bool, typer.Option("--name", callback=_name, is_eager=True, help="Print the tool's name.")] = False,
) -> None:
    """Find the network input that best meets what you ask for, and prove how much better any other could be.

    Start with: clinch demo
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit code."""
    from clinch.runtime import memory

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with memory.guarded(memory.most_of_what_is_free()):
            return int(app(given, prog_name="clinch", standalone_mode=False) or 0)
    except typer.TyperException as error:
        return _complain(error.format_message())
    except typer.Abort:
        return _complain("interrupted.")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        return _complain(f"Cannot write {error.filename or 'the output'}: {error.strerror}.")
    except Exception as error:
        from clinch.errors import ClinchError

        if isinstance(error, ClinchError):
            return _complain(str(error))
        if not memory.ran_out(error):
            raise
        return _complain("There is not enough memory for this. Ask for less at once, or free some.")


def _complain(message: str) -> int:
    from clinch.io.files import printable

    # a line feed or an escape sequence in a name is the file's author's, not ours
    print("clinch: " + printable(" ".join(message.split())), file=sys.stderr)
    return 2


def main() -> NoReturn:
    """Entry point of the ``clinch`` command."""
    # what torch has made until here lives as long as the process: the garbage collector need not look at it again
    gc.freeze()
    reserve_stdout()
    code = run()
    # nothing is left to be done, and taking torch down object by object would take a third of a second
    with contextlib.suppress(BrokenPipeError):
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            # what the command has said is not said again
            code = code if code == 2 else _complain(f"Cannot write to standard output: {error.strerror}.")
        sys.stderr.flush()
    os._exit(code)
