"""The best inputs and bounds on disk while a solve runs, so that they outlive whatever ends the process."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any

from clinch.errors import ProblemError
from clinch.io.files import write_whole

if TYPE_CHECKING:
    from clinch.query import Statement
    from clinch.solver.ledger import Ledger
    from clinch.solver.solution import Event

#: seconds between two writings, at least, and relative to how long the last one took
PAUSE, PATIENCE = 0.1, 20.0


class Keeper:
    """A listener of a ledger that writes values, bounds and inputs to a JSON file.

    The first improvement is written at once, further ones with pauses of a tenth of a second (more where writing is
    slow), the last when the solve ends. The file is always a whole one: it is written beside its place and moved there.
    Where the disk is full the solve goes on, and its notes say so.

    The file holds ``value``, ``bound``, ``x`` (one entry per problem, null where there is none; ``x`` flattened), and
    ``input_shape``, ``seconds``, ``problems``; numbers are in the user's sense.

    Args:
        path: of the file; it is replaced.
        problem: what is solved.
        ledger: where inputs and bounds are.
        listener: called before with every event.

    Raises:
        ProblemError: the file cannot be written, noticed before any work is done.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        problem: Statement,
        ledger: Ledger,
        listener: Callable[[Event], None] | None = None,
    ) -> None:
        self.path, self.ledger, self.listener = path, ledger, listener
        self.sense, self.shape = problem.query.sense, tuple(problem.query.graph.input_shape)
        self._next = -math.inf
        try:
            self._write()
        except OSError as error:
            raise ProblemError(f"Cannot write {path}: {error.strerror}. Name another file as keep=.") from None
        # an empty state is no improvement: the first one is written at once
        self._next = -math.inf

    def __call__(self, event: Event) -> None:
        """Write what is known, unless it was written a moment ago."""
        if self.listener is not None:
            self.listener(event)
        if time.monotonic() >= self._next:
            self.close()

    def close(self) -> None:
        """Write what is known now."""
        try:
            self._write()
        except OSError as error:
            self.ledger.note(f"The best input and bound could not be kept in {self.path}: {error.strerror}.")

    def _write(self) -> None:
        began = time.monotonic()
        write_whole(self.path, json.dumps(self._content(), allow_nan=False) + "\n")
        now = time.monotonic()
        self._next = now + max(PAUSE, PATIENCE * (now - began))

    def _content(self) -> dict[str, Any]:
        ledger = self.ledger
        value, bound = (self.sense * t for t in (ledger.value, ledger.bound))
        rows = ledger.x.flatten(1).double()
        found = ledger.value.isfinite().tolist()
        return {
            "value": [_known(v) for v in value.tolist()],
            "bound": [_known(b) for b in bound.tolist()],
            "x": [row.tolist() if known else None for row, known in zip(rows, found)],
            "input_shape": self.shape,
            "seconds": ledger.seconds,
            "problems": len(found),
        }


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None
