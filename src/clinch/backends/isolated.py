"""A solver library in a process of its own: what crashes there, or eats all memory, leaves this process alone.

The child runs this module and reads programs from its standard input, as NumPy arrays without pickles; answers come
back the same way. It lives until the backend is closed, and a new one is started after a crash.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
from typing import IO, Any

import numpy as np

from clinch.backends import find_backend
from clinch.backends.program import Outcome, Program, Vector, sparse
from clinch.errors import BackendCrash, BackendError

#: seconds that a child may take beyond its time limit before it counts as hanging
GRACE = 10.0
#: children that may end before the library is given up
MOST_CRASHES = 20
_VECTORS = ("cost", "row_lower", "row_upper", "lower", "upper", "integer", "quadratic")


class Isolated:
    """A backend in a child process; pass it as ``backend=`` of :func:`clinch.search.milp.milp.milp`.

    Args:
        name: one of :data:`clinch.backends.BACKENDS`.
        memory_limit: bytes that the child may take (Linux); None: no limit.

    Attributes:
        crashes: how each child ended that did not answer.

    Example:
        >>> with Isolated("highs") as backend:
        ...     solution = cl.exact.milp(few, backend=backend)
        >>> solution.status.name
        'OPTIMAL'
    """

    def __init__(self, name: str = "highs", *, memory_limit: int | None = None) -> None:
        find_backend(name)
        self.name, self.memory_limit = name, memory_limit
        self.crashes: list[str] = []
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def solve(
        self,
        program: Program,
        *,
        time_limit: float = np.inf,
        gap: float = 1e-6,
        start: Vector | None = None,
        threads: int | None = None,
        seed: int = 0,
    ) -> Outcome:
        """What the library's own ``solve`` returns; arguments are its.

        Where the child ends, or does not answer 10 s after the time limit, the outcome is "unknown" and the next call
        starts another child: the search goes on without this hint.

        Raises:
            BackendCrash: more than :data:`MOST_CRASHES` children have ended so.
            BackendError: the library refused the program or is missing.
        """
        options = {"time_limit": time_limit, "gap": gap, "seed": seed}
        if threads is not None:
            options["threads"] = threads
        child = self._started()
        watch = None
        if math.isfinite(time_limit):
            watch = threading.Timer(max(0.0, time_limit) + GRACE, child.kill)
            watch.daemon = True
            watch.start()
        assert child.stdin is not None and child.stdout is not None
        try:
            _send(child.stdin, {"backend": self.name, "options": options}, _arrays(program, start))
            answer, arrays = _receive(child.stdout)
        except (OSError, EOFError):
            self.crashes.append(_ending(child.wait()))
            self.close()
            if len(self.crashes) > MOST_CRASHES:
                raise BackendCrash(
                    f"The process of the solver library '{self.name}' has ended {len(self.crashes)} times, "
                    f"at last by {self.crashes[-1]}. Choose another backend."
                ) from None
            return Outcome("unknown")
        except BaseException:
            # an interrupt leaves half an answer in the pipe
            self.close()
            raise
        finally:
            if watch is not None:
                watch.cancel()
        if "error" in answer:
            raise BackendError(answer["error"])
        return Outcome(
            answer["status"], arrays.get("point"), arrays.get("duals"), arrays.get("ray"), answer["value"],
            answer["bound"], answer["seconds"],
        )  # fmt: skip

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            command = [sys.executable, "-c", f"from {__name__} import main; main({self.memory_limit!r})"]
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                start_new_session=True,
            )  # fmt: skip
        return self._child


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return f"signal {name}"


def _arrays(program: Program, start: Vector | None) -> dict[str, Any]:
    arrays = {name: getattr(program, name) for name in _VECTORS} | {"start": start, "constant": program.constant}
    rows = program.rows
    arrays |= {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}
    return {name: array for name, array in arrays.items() if array is not None}


def _program(arrays: dict[str, Any]) -> tuple[Program, Vector | None]:
    shape = len(arrays["row_lower"]), len(arrays["cost"])
    rows = sparse((arrays["data"], arrays["indices"], arrays["indptr"]), shape)
    vectors = {name: arrays.get(name) for name in _VECTORS}
    return Program(rows=rows, constant=float(arrays["constant"]), **vectors), arrays.get("start")  # type: ignore[arg-type]


def _send(stream: IO[bytes], header: dict[str, Any], arrays: dict[str, Any]) -> None:
    """A header in JSON, then NumPy's own format; each with its length in front."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    for part in (json.dumps(header).encode(), content.getvalue()):
        stream.write(struct.pack("<Q", len(part)) + part)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    header, content = (_exactly(stream, struct.unpack("<Q", _exactly(stream, 8))[0]) for _ in range(2))
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return json.loads(header), dict(arrays)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    content = stream.read(count)
    if len(content) != count:
        raise EOFError
    return content


def main(memory_limit: int | None = None) -> None:
    """The child: answers programs until its input ends."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # whatever a library prints must not come between the answers
    os.dup2(2, 1)
    if memory_limit is not None and sys.platform.startswith("linux"):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, memory_limit))
    while True:
        try:
            header, arrays = _receive(source)
        except EOFError:
            return
        try:
            program, start = _program(arrays)
            found = find_backend(header["backend"]).solve(program, start=start, **header["options"])
        except BackendError as error:
            _send(sink, {"error": str(error)}, {})
            continue
        vectors = {"point": found.point, "duals": found.duals, "ray": found.ray}
        words = {"status": found.status, "value": found.value, "bound": found.bound, "seconds": found.seconds}
        _send(sink, words, {name: v for name, v in vectors.items() if v is not None})
