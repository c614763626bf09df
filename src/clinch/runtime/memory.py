"""Memory that runs out ends a computation with an error that can be caught, not with the kernel's killer.

Inside :func:`guarded` the process's data may grow by so much and no more (``RLIMIT_DATA``, getrlimit(2), Linux): an
allocation beyond fails in the library that asks for it, and :func:`ran_out` tells that error from others. The limit is
one of the whole process, so that it is set only where a caller names one, and by the command line, whose process is its
own. Elsewhere, and on other systems than Linux, only the errors that libraries raise by themselves are caught.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clinch.errors import ProblemError

#: share of what is free that a command may take
SHARE = 0.9
#: control groups' own files of limit and use, versions 2 and 1
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
#: what libraries write when an allocation fails: torch, the C++ library, operating systems
_WORDS = ("can't allocate memory", "not enough memory", "bad_alloc", "cannot allocate memory", "out of memory")

_lock = threading.Lock()
_depth = 0
_before: tuple[int, int] | None = None


def available() -> int | None:
    """Bytes that this process can still take, by the machine and by its control group; None where that is not told."""
    free = _field("/proc/meminfo", "MemAvailable:")
    found = [] if free is None else [free]
    for limit, used, statistics in _GROUPS:
        most, now = _number(limit), _number(used)
        if most is not None and now is not None:
            # cached files are given back when memory is short
            found.append(max(0, most - now + (_field(statistics, "inactive_file", 1) or 0)))
    return min(found, default=None)


def most_of_what_is_free() -> int | None:
    """:data:`SHARE` of what is :func:`available`, in bytes; None where that is not told."""
    free = available()
    return None if free is None else int(SHARE * free)


def check_limit(limit: int | None) -> None:
    """Refuse a limit that has no meaning.

    Raises:
        ProblemError: it is not positive.
    """
    if limit is not None and not limit > 0:
        raise ProblemError(f"memory_limit is {limit}; give bytes, such as 8 * 2**30, or None.")


@contextmanager
def guarded(limit: int | None) -> Iterator[None]:
    """Let the process's data grow by so many bytes at most; inside another guard the outer one alone counts.

    Args:
        limit: in bytes; None: nothing is changed.
    """
    global _depth, _before
    if limit is None:
        yield
        return
    with _lock:
        _depth += 1
        if _depth == 1:
            _before = _lower(limit)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _before is not None:
                import resource

                resource.setrlimit(resource.RLIMIT_DATA, _before)
                _before = None


def _lower(limit: int) -> tuple[int, int] | None:
    """Lower the limit; what it was before, None where nothing was changed."""
    if not sys.platform.startswith("linux"):
        return None
    import resource

    now = _field("/proc/self/status", "VmData:")
    if now is None:
        return None
    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = now + limit
    if before[0] != resource.RLIM_INFINITY and before[0] <= wanted:
        return None
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, before[1]))
    return before


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    Example:
        >>> ran_out(MemoryError()), ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        (True, True)
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _field(path: str, name: str, unit: int = 1024) -> int | None:
    """A number of a file of names and values."""
    try:
        with open(path, encoding="utf-8") as lines:
            found = next((line.split()[1] for line in lines if line.startswith(name)), None)
        return None if found is None else unit * int(found)
    except (OSError, ValueError, IndexError):
        return None
