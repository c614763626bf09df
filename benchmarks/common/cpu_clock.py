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


def count_cpu_seconds() -> None:
    """One thread for torch, and the process's CPU clock for every time limit from now on."""
    torch.set_num_threads(1)
    vars(deadline)["time"] = SimpleNamespace(monotonic=time.process_time)


def stop_highs_after(model: Any, seconds: float) -> None:
    """Let a ``highspy.Highs`` stop after so many CPU seconds of this process from now; its own limit is wall time."""
    end = time.process_time() + seconds

    def look(event: Any) -> None:
        event.interrupt(time.process_time() > end)

    model.cbMipInterrupt.subscribe(look)
