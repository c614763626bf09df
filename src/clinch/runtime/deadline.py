"""The end of a call's time, for work that lies deep below it.

Engines stop by themselves at the end of each step, see :attr:`clinch.solver.ledger.Ledger.remaining`. What a step
does on a large network may take long, however: :func:`look` is called between the layers of a network, between blocks
of rows and wherever else one goes on for a while, and ends the work with :class:`OutOfTime` once the time is over.
Whoever set the deadline catches it; what engines have reported by then stays. Each context (thread) has a deadline of
its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_end: ContextVar[float] = ContextVar("end", default=math.inf)


class OutOfTime(Exception):
    """The time that a call was given is over."""


def clock() -> float:
    """Seconds from some moment on: what all deadlines are measured by."""
    return time.monotonic()


def look() -> None:
    """Go on, or end here.

    Raises:
        OutOfTime: the deadline has passed.
    """
    end = _end.get()
    if end < math.inf and clock() > end:
        raise OutOfTime("The time is over.")


def left() -> float:
    """Seconds until the deadline, at least 0; infinity without one."""
    return max(0.0, _end.get() - clock())


@contextmanager
def until(end: float) -> Iterator[None]:
    """A deadline for what is done inside; an earlier one outside still holds.

    Args:
        end: on :func:`clock`.
    """
    with exactly_until(min(end, _end.get())):
        yield


@contextmanager
def exactly_until(end: float) -> Iterator[None]:
    """A deadline in place of that outside, for what has to be finished when the time is over."""
    token = _end.set(end)
    try:
        yield
    finally:
        _end.reset(token)
