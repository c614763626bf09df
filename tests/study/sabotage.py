"""Executors whose workers are killed at chosen tasks; in a file of its own, which workers import by its name."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clinch.study.task import Task


def sabotaged(flags: str, fatal: tuple[int, ...], times: int, fn, *args):
    """Call a function; die, so often in all, where its task has one of the fatal images."""
    task = next((value for value in args if isinstance(value, Task)), None)
    if task is not None and set(fatal) & set(task.images):
        for number in range(times):
            try:
                Path(flags, f"death-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
    return fn(*args)


def sabotage(executor: type, flags: Path, fatal: tuple[int, ...], times: int) -> type:
    """A class of executors whose workers die at tasks with these images."""

    class Sabotaged(executor):
        def submit(self, fn, /, *args):
            return super().submit(sabotaged, str(flags), fatal, times, fn, *args)

    return Sabotaged


class Breaking(ThreadPoolExecutor):
    """Breaks at its third task, as pools of processes do."""

    count = 0

    def submit(self, fn, /, *args):
        self.count += 1
        if self.count == 3:
            self._broken = "a worker is gone"
        return super().submit(fn, *args)


def span() -> tuple[float, float]:
    """When a task of half a second begins and ends."""
    began = time.monotonic()
    time.sleep(0.5)
    return began, time.monotonic()
