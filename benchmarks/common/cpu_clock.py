"""Time limits in CPU seconds of this process, so that other work on the machine does not shorten a measurement.

Clinch's own limits are wall time, as a user expects. A benchmark that calls :func:`count_cpu_seconds` first gives every
solve its whole time whatever else runs; with one thread on an idle machine both clocks agree.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch

from clinch.runtime import deadline

MILLISECOND = 1e-3


def count_cpu_seconds() -> None:
    """One thread for torch, and the process's CPU clock for every time limit from now on."""
    torch.set_num_threads(1)
    vars(deadline)["time"] = SimpleNamespace(monotonic=_SeldomRead())


class _SeldomRead:
    """The process's CPU clock, read once in a millisecond: on some machines that takes as long as a small layer."""

    def __init__(self) -> None:
        self.wall, self.found = -1.0, 0.0

    def __call__(self) -> float:
        wall = time.monotonic()
        if wall - self.wall > MILLISECOND:
            self.wall, self.found = wall, time.process_time()
        return self.found


def stop_highs_after(model: Any, seconds: float) -> None:
    """Let a ``highspy.Highs`` stop after so many CPU seconds of this process from now; its own limit is wall time."""
    end = time.process_time() + seconds

    def look(event: Any) -> None:
        event.interrupt(time.process_time() > end)

    model.cbMipInterrupt.subscribe(look)
