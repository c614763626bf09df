"""Who does the tasks of a study: this process, or workers behind any ``concurrent.futures.Executor``.

A worker that dies costs its tasks alone: they are handed out again. A pool of processes breaks as a whole and does not
say which task it was, so that the tasks it was working on fly alone from then on; a task that has lost
:data:`LOSSES` workers is taken apart into its images, and an image that has lost as many is a failed row.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import replace
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from clinch.errors import ProblemError, WorkerError, WorkerLost
from clinch.study.task import Outcome, Study, Task, answer, answer_here, receive

#: workers that a task may lose
LOSSES = 3
#: workers lost one after the other without any task done, at which it is not the tasks' fault
HOPELESS = 30


class Alone:
    """This process does every task, one after the other."""

    workers = 1

    def __init__(self, study: Study) -> None:
        self.study = study

    def run(self, tasks: Iterable[Task], ahead: Callable[[], bool] = bool) -> Iterator[Outcome]:
        """What the tasks come to."""
        return (answer(self.study, task) for task in tasks)

    def close(self, stopped: bool = False) -> None:
        """Nothing to do."""


class _Flight(NamedTuple):
    """A task that was handed out, and how many workers it has lost before."""

    task: Task
    losses: int = 0


class Crew:
    """Workers do the tasks, so many at a time; their order is not kept.

    Args:
        study: what the tasks are about; sent to each worker once.
        executor: any; None: processes of our own, one thread each.
        workers: tasks that are handed out at a time; None: what the executor has (``_max_workers``).
        left: seconds that the study has left.

    Raises:
        NetworkError: the network cannot be sent. WorkerError: a worker cannot read it, or none can start.
        ProblemError: an executor that does not say how many workers it has.
    """

    def __init__(self, study: Study, executor: Executor | None, workers: int | None, left: Callable[[], float]) -> None:
        found = getattr(executor, "_max_workers", None) if workers is None else workers
        if not found:
            raise ProblemError(f"A {type(executor).__name__} does not say how many workers it has: give workers=N.")
        self.workers, self.left = int(found), left
        self.key = study.key
        # threads see this process's own objects; whatever else is treated as if it were far away
        self.content = study if isinstance(executor, ThreadPoolExecutor) else study.packed()
        self.own = executor is None
        self.executor = executor or ProcessPool(self.workers)
        self.breaks = isinstance(self.executor, ProcessPool)
        self._lost_in_a_row = 0
        try:
            self._greet()
        except BaseException:
            self.close(stopped=True)
            raise

    def _greet(self) -> None:
        """Send the study, so that what cannot work is told before any work."""
        if isinstance(self.content, Study):
            return
        sent = [self.executor.submit(receive, self.key, self.content) for _ in range(self.workers)]
        try:
            for future in sent:
                future.result()
        except (BrokenExecutor, WorkerLost) as error:
            raise WorkerError(
                f"The workers die when they start ({type(error).__name__}). A script that starts workers needs "
                '`if __name__ == "__main__":` around its calls; see also whether there is memory for them.'
            ) from None

    def run(self, tasks: Iterable[Task], ahead: Callable[[], bool] = bool) -> Iterator[Outcome]:
        """What the tasks come to, in the order in which they end; a task is taken when a worker is free for it.

        Args:
            tasks: in order.
            ahead: whether each worker may have a second task waiting, so that it need not wait for this process.

        Raises:
            WorkerError: the executor is broken and not ours to replace, or workers die whatever they do.
        """
        flying: dict[Future, _Flight] = {}
        try:
            yield from self._run(iter(tasks), flying, ahead)
        finally:
            for future in flying:
                future.cancel()

    def _run(
        self, source: Iterator[Task], flying: dict[Future, _Flight], ahead: Callable[[], bool]
    ) -> Iterator[Outcome]:
        suspects: deque[_Flight] = deque()
        while True:
            self._hand_out(source, flying, suspects, ahead)
            if not flying:
                return
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                if future not in flying:
                    continue
                flight = flying.pop(future)
                try:
                    outcome = future.result()
                except WorkerLost:
                    yield from self._lost([flight], suspects)
                except (BrokenExecutor, CancelledError):
                    broken = [flight, *self._broken(flying)]
                    yield from self._lost(broken, suspects)
                else:
                    self._lost_in_a_row = 0
                    if outcome is None:
                        self._submit(flying, flight, self.content)
                    else:
                        yield outcome

    def _hand_out(
        self,
        source: Iterator[Task],
        flying: dict[Future, _Flight],
        suspects: deque[_Flight],
        ahead: Callable[[], bool],
    ) -> None:
        """Give work to the workers that are free; where pools break as a whole, suspects fly alone."""
        while len(flying) < self.workers or (len(flying) < 2 * self.workers and ahead()):
            if suspects:
                if self.breaks and flying:
                    return
                flight, left = suspects.popleft(), self.left()
                if left > 0:
                    task = replace(flight.task, seconds=min(flight.task.seconds, left))
                    self._submit(flying, flight._replace(task=task))
                    if self.breaks:
                        return
                continue
            task = next(source, None)
            if task is None:
                return
            self._submit(flying, _Flight(task))

    def _submit(self, flying: dict[Future, _Flight], flight: _Flight, content: Study | bytes | None = None) -> None:
        if isinstance(self.content, Study):
            content = self.content
        try:
            future = self.executor.submit(answer_here, self.key, flight.task, content)
        except BrokenExecutor as error:  # before this task was begun, which does not count against it
            future, flight = Future(), flight._replace(losses=flight.losses - 1)
            future.set_exception(error)
        flying[future] = flight

    def _broken(self, flying: dict[Future, _Flight]) -> list[_Flight]:
        """A new pool in place of a broken one; what the old one was working on."""
        if not isinstance(self.executor, ProcessPool):
            raise WorkerError(
                "The executor is broken: this is what was known by then. The same call with a new one goes on from "
                "here where a folder was named."
            )
        # a task that was done before the pool broke is done again: its rows are the same
        flights = list(flying.values())
        flying.clear()
        self.executor.renew()
        return flights

    def _lost(self, flights: list[_Flight], suspects: deque[_Flight]) -> Iterator[Outcome]:
        """What lost its worker waits for another one, comes in pieces, or has failed."""
        self._lost_in_a_row += 1
        if self._lost_in_a_row > HOPELESS:
            raise WorkerError(
                f"{HOPELESS} workers died one after the other: this is what was known by then. See whether there is "
                "memory for so many."
            )
        for task, losses in flights:
            if losses + 1 < LOSSES:
                suspects.append(_Flight(task, losses + 1))
            elif len(task.images) > 1:
                suspects.extend(map(_Flight, task.singles()))
            else:
                yield Outcome(task, task.failed("worker", f"its worker died {LOSSES} times"))

    def close(self, stopped: bool = False) -> None:
        """Send workers of our own home.

        Args:
            stopped: whether what they are at is not waited for.
        """
        if self.own:
            self.executor.shutdown(wait=not stopped, cancel_futures=True)


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
        >>> with ProcessPool(1) as pool:
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
