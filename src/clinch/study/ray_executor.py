"""A ``concurrent.futures.Executor`` on a Ray cluster (``pip install "clinch-nn[ray]"``)."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from clinch.errors import WorkerError, WorkerLost
from clinch.runtime.optional import required

#: seconds to wait for the answer of an address; Ray itself tries for minutes
PATIENCE = 5.0
#: bytes from which an argument is put into the cluster's store once, and not sent with every task
LARGE = 2**16
#: Ray's variable for its usage statistics
_REPORTS = "RAY_USAGE_STATS_ENABLED"


class RayExecutor(Executor):
    """Tasks on a Ray cluster, one CPU each; a lost worker is told as :class:`clinch.errors.WorkerLost`.

    Args:
        address: ``auto`` for the cluster this machine belongs to, ``local`` for one on this machine alone that ends
            with the executor, or ``host:port``. Where this process is connected already, that cluster is used.
        workers: tasks at a time; None: the cluster's CPUs.

    Raises:
        WorkerError: Ray is missing, or there is no cluster at the address.

    Where a cluster runs::

        executor = cl.study.RayExecutor("auto")
        found = cl.study.evaluate(net, "mnist", eps=0.02, executor=executor)
        executor.shutdown()
    """

    def __init__(self, address: str = "auto", workers: int | None = None) -> None:
        self._ray = _imported()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect(address, workers)
        self._max_workers = workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        # whether a task is tried again is for those to say who count the losses
        self._call = self._ray.remote(num_cpus=1, max_retries=0)(_called)
        # a thread waits for each task, so that no more of them run than there are workers, whatever the cluster has
        self._waiting = ThreadPoolExecutor(self._max_workers, thread_name_prefix="ray")
        self._flying: set[Any] = set()
        self._large: tuple[Any, Any] = (None, None)

    def _connect(self, address: str, workers: int | None) -> None:
        local = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
        _reachable(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
        try:
            with _nothing_reported():
                self._ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **local)
        except Exception as error:
            raise _unreachable(address, error) from None
        _print_events(False)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """See ``concurrent.futures.Executor.submit``."""
        return self._waiting.submit(self._done, fn, kwargs, [self._shared(argument) for argument in args])

    def _shared(self, argument: Any) -> Any:
        """An argument as it is, or where in the cluster's store it was put the first time."""
        if not isinstance(argument, bytes) or len(argument) < LARGE:
            return argument
        if self._large[0] is not argument:
            self._large = argument, self._ray.put(argument)
        return self._large[1]

    def _done(self, fn: Callable[..., Any], kwargs: dict[str, Any], args: list[Any]) -> Any:
        """Hand a task to the cluster and wait: what it returned or raised, or that a worker is lost."""
        errors = self._ray.exceptions
        lost = (
            errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError,
            errors.OutOfMemoryError,
        )  # fmt: skip
        try:
            reference = self._call.remote(fn, kwargs, *args)
        except Exception as error:
            raise WorkerError(f"The Ray cluster takes no tasks: {_line(error)}. Start it and call again.") from None
        self._flying.add(reference)
        try:
            value, failure = self._ray.get(reference)
        except lost as error:
            raise WorkerLost(f"A Ray worker is lost: {_line(error)}") from None
        except errors.RayError as error:
            text = f"Ray cannot do a task: {_line(error)}. See that clinch is installed on its nodes."
            raise WorkerError(text) from None
        finally:
            self._flying.discard(reference)
        if failure is not None:
            raise failure
        return value

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, and end it where it is ours.

        Args:
            wait: for the tasks that were submitted.
            cancel_futures: stop them.
        """
        self._waiting.shutdown(wait=False, cancel_futures=cancel_futures)
        if cancel_futures:
            for reference in list(self._flying):
                self._ray.cancel(reference, force=True)
        # threads whose tasks are stopped end at once, and must before the connection does
        self._waiting.shutdown(wait=wait or cancel_futures)
        if self._ours:
            self._ours = False
            self._ray.shutdown()
            _print_events(True)


def _called(fn: Callable[..., Any], kwargs: dict[str, Any], *args: Any) -> tuple[Any, Exception | None]:
    """In a worker: what a function returns, or raises; Ray would wrap an error in its own."""
    try:
        return fn(*args, **kwargs), None
    except Exception as error:
        return None, error


@contextmanager
def _nothing_reported() -> Iterator[None]:
    """Ray that starts inside collects no usage statistics, unless the user has asked for them."""
    given = os.environ.get(_REPORTS)
    os.environ.setdefault(_REPORTS, "0")
    try:
        yield
    finally:
        if given is None:
            del os.environ[_REPORTS]


def _print_events(wanted: bool) -> None:
    """Whether Ray prints what becomes of its workers: to standard output, whatever ``log_to_driver`` says.

    Standard output belongs to the answer, and a lost worker is told as an error.
    """
    worker = sys.modules.get("ray._private.worker")
    if hasattr(worker, "_worker_logs_enabled"):
        setattr(worker, "_worker_logs_enabled", wanted)  # noqa: B010 - Ray has no public name for it


def _imported() -> Any:
    ray = required("ray", "ray", "or use --workers N on this machine", WorkerError)
    required("ray.exceptions", "ray", error=WorkerError)
    return ray


def _reachable(address: str) -> None:
    """Knock at ``host:port``; names such as ``auto`` are Ray's to look up."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon and address not in ("", "auto", "local"):
        raise WorkerError(f"'{address}' is no address of a Ray cluster: write auto, local or host:port.")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> WorkerError:
    return WorkerError(
        f"There is no Ray cluster at '{address}' ({_line(error)}). Start one with `ray start --head`, or write local."
    )


def _line(error: BaseException) -> str:
    """The first sentence of an error."""
    return " ".join(str(error).split()).partition(". ")[0][:200] or type(error).__name__
