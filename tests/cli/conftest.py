"""A runner for command lines that returns exit code, standard output and standard error."""

from typing import NamedTuple

import pytest

from clinch.cli import run


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def clinch(capsys):
    """Run a command line in this process."""

    def call(*arguments):
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
