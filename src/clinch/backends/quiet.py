"""Standard output belongs to the answer: what native libraries print to file descriptor 1 is kept out of it.

Solver libraries print banners and licence notes from native code, where ``sys.stdout`` has no say and often before an
option could forbid it (HiGHS 1.16 does in the constructor). :func:`silenced` drops what they print while a solver is
made, inside any process; :func:`reserve_stdout` keeps the descriptor for Python's ``sys.stdout`` alone, in processes
that are ours from beginning to end.
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
#: threads inside silenced(), and a copy of the descriptor that the last of them puts back
_inside = 0
_kept: int | None = None


@contextmanager
def silenced() -> Iterator[None]:
    """Drop what is written to file descriptor 1 inside, by any thread of this process: keep it short.

    Threads may be inside at once: the first one turns the descriptor away, the last one puts it back.

    Example:
        >>> import highspy
        >>> with silenced():
        ...     solver = highspy.Highs()
    """
    global _inside, _kept
    with _lock:
        if not _inside:
            _kept = _turned_away()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _kept is not None:
                _flush_native()
                os.dup2(_kept, 1)
                os.close(_kept)
                _kept = None


def _turned_away() -> int | None:
    """Let descriptor 1 lead nowhere; returns a copy of what it was, or None where it is closed."""
    _flush_native()
    try:
        kept = os.dup(1)
    except OSError:
        return None
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return kept


def reserve_stdout() -> None:
    """Keep standard output for ``sys.stdout``, for the rest of this process.

    ``sys.stdout`` gets a descriptor of its own; descriptor 1, where native code and child processes write, leads to
    standard error from here on. Nothing is done where standard output is closed or is not a descriptor's.
    """
    try:
        sys.stdout.flush()
        if sys.stdout.fileno() != 1:
            return
        answer = os.dup(1)
    except (AttributeError, OSError, ValueError):
        return
    old = sys.stdout
    try:
        os.dup2(2, 1)
    except OSError:  # standard error is closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    sys.stdout = io.TextIOWrapper(
        open(answer, "wb"),  # noqa: SIM115 - it lives as long as the process
        encoding=old.encoding, errors=old.errors, line_buffering=os.isatty(answer),
    )  # fmt: skip


def _flush_native() -> None:
    """Write out what the C library holds back for its own ``stdout``, which it does where that is a pipe or a file."""
    try:
        library = ctypes.CDLL(None)
        name = "__stdoutp" if sys.platform == "darwin" else "stdout"
        library.fflush(ctypes.c_void_p.in_dll(library, name))
    except (OSError, TypeError, ValueError, AttributeError):
        # no such name here (Windows): at worst, what is held back appears later
        return
