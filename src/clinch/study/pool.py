"""Worker processes of our own: spawned, one thread each, gone with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any


class _Recording(SpawnContext):
    """The spawn context, which remembers the processes it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[BaseProcess] = []

    def Process(self, *arguments: Any, **options: Any) -> BaseProcess:  # type: ignore[override]
        """A process that is not started yet."""
        process = SpawnContext.Process(*arguments, **options)
        self.made.append(process)
        return process


class ProcessPool(Executor):
    """A ``ProcessPoolExecutor`` of spawned processes that can be replaced when it is broken.

    Args:
        workers: number of processes.

    Example:
        >>> with ProcessPool(2) as pool:
        ...     pool.submit(abs, -3).result()
        3
    """

    def __init__(self, workers: int) -> None:
        self._max_workers = workers
        self._begin()

    def _begin(self) -> None:
        self._context = _Recording()
        self._pool = ProcessPoolExecutor(self._max_workers, mp_context=self._context, initializer=begin_worker)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """See ``concurrent.futures.Executor.submit``."""
        return self._pool.submit(fn, *args, **kwargs)

    def renew(self) -> None:
        """New processes in the place of those that are left."""
        self.shutdown(wait=False, cancel_futures=True)
        self._begin()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes.

        Args:
            wait: let them finish what they are at; otherwise they are killed.
            cancel_futures: drop what was not begun.
        """
        if not wait:
            for process in self._context.made:
                if process.pid is not None:
                    process.kill()
        # killed processes are waited for too, which takes no time
        self._pool.shutdown(wait=True, cancel_futures=cancel_futures)


def begin_worker() -> None:
    """What a worker does first: one thread, no interruptions of its own, and an end with its parent's."""
    import torch

    torch.set_num_threads(1)
    # Ctrl-C reaches every process of a terminal; the parent decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent says no goodbye, and its workers would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
