"""A clock that counts work, so that a call with a time limit does the same on every machine and under any load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clinch.backends.highs import HighsModel
from clinch.runtime import deadline

#: numbers a second
SPEED = 1.2e9
#: iterations of the simplex method, and seconds for each
ITERATIONS, EACH = 50, 1e-4


class WorkClock(TorchDispatchMode):
    """Time passes with the numbers that torch reads, writes and multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.longest, self.looked = 0.0, 0.0, 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        tensors = [t for t in (*args, found) if isinstance(t, torch.Tensor)]
        work = sum(t.numel() for t in tensors)
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            work += 2 * found.numel() * args[-2].shape[-1]
        self.now += work / SPEED
        return found

    def __call__(self) -> float:
        self.longest, self.looked = max(self.longest, self.now - self.looked), self.now
        return self.now


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkClock]:
    """All clocks of a call count work; linear programs take a little for every iteration, and are given up early."""
    clock, solved = WorkClock(), HighsModel._attempt

    def attempt(model, time_limit, iterations):
        left = min(time_limit, deadline.left())
        if left <= 0:
            return solved(model, 0.0, iterations)
        allowed = int(min(left / EACH, ITERATIONS if iterations is None else iterations))
        outcome = solved(model, np.inf, allowed)
        clock.now += EACH * allowed
        return outcome

    with monkeypatch.context() as patched:
        patched.setattr(deadline, "clock", clock)
        patched.setattr(HighsModel, "_attempt", attempt)
        patched.setattr(
            HighsModel,
            "solve",
            lambda model, *, time_limit=np.inf, iterations=None: attempt(model, time_limit, iterations),
        )
        with clock:
            yield clock
