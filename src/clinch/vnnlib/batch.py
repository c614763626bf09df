"""Many instances of VNN-COMP, each decided by a process of its own: what ``clinch batch`` runs, and the table of it.

An instance file has lines ``network,specification,seconds``, an expected file ``network,specification,verdict``
(further columns are not read), with names relative to their folder. Finished instances are lines of ``results.jsonl``.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clinch.errors import SpecificationError
from clinch.io.files import SPECIFICATION_LIMIT, read_limited

#: seconds after which a process that has not ended by itself is killed
GRACE = 10.0
#: what an instance can end in
WORDS = ("sat", "unsat", "timeout", "unknown", "error")
#: a process that decides one instance, as ``clinch verify`` would
COMMAND = (sys.executable, "-c", "from clinch.cli import main; main()", "verify")
#: characters of what a failed process said
SAID = 500


@dataclass(frozen=True)
class Instance:
    """One line of an instance file.

    Attributes:
        set: name of its folder.
        network, specification: as the file names them.
        folder: that the names are relative to.
        limit: seconds.
    """

    set: str
    network: str
    specification: str
    folder: Path
    limit: float

    @property
    def key(self) -> tuple[str, str, str, float]:
        """What tells it apart."""
        return self.set, self.network, self.specification, self.limit

    def path(self, name: str) -> Path:
        """A file of the instance; the compressed one where there is no other."""
        plain = self.folder / name
        packed = plain.with_name(plain.name + ".gz")
        return packed if packed.is_file() and not plain.is_file() else plain


@dataclass(frozen=True)
class Result:
    """What became of an instance.

    Attributes:
        set, network, specification, limit: of the instance.
        answer: one of :data:`WORDS`.
        seconds: wall time of the whole process, start-up included; cpu: its CPU time.
        note: what it said on standard error.
    """

    set: str
    network: str
    specification: str
    limit: float
    answer: str
    seconds: float
    cpu: float
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str, float]:
        """Of its instance."""
        return self.set, self.network, self.specification, self.limit

    @property
    def decided(self) -> bool:
        """Whether the answer is sat or unsat."""
        return self.answer in ("sat", "unsat")


def read_instances(path: str | Path, *, limit: float | None = None) -> list[Instance]:
    """The instances of a file, of a folder with ``instances.csv``, or of all such folders in a folder.

    Args:
        path: of the file or folder.
        limit: seconds for every instance, where the file's are more.

    Raises:
        SpecificationError: there is no such file, or a line is none of an instance; names the line.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = [path / "instances.csv"] if (path / "instances.csv").is_file() else sorted(path.glob("*/instances.csv"))
    if not files:
        raise SpecificationError(f"There is no instances.csv in {path}, nor in its folders. Name another folder.")
    return [instance for file in files for instance in _of_file(file, limit)]


def _of_file(file: Path, limit: float | None) -> Iterable[Instance]:
    for number, row in _rows(file):
        try:
            network, specification, seconds = row[0], row[1], float(row[2])
        except (IndexError, ValueError):
            network, specification, seconds = "", "", -1.0
        if not seconds > 0:
            raise SpecificationError(f"{file}, line {number}: write network.onnx,property.vnnlib,SECONDS.")
        seconds = seconds if limit is None else min(limit, seconds)
        yield Instance(file.resolve().parent.name, network, specification, file.parent, seconds)


def read_expected(path: str | Path) -> dict[tuple[str, str], str]:
    """Verdicts by network and specification, of a file or of ``expected.csv`` in a folder or its folders; the names are
    stems, and what nobody has decided is left out."""
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = [file for file in (path / "expected.csv", *sorted(path.glob("*/expected.csv"))) if file.is_file()]
    found = {}
    for file in files:
        for _, row in _rows(file):
            if len(row) >= 3 and row[2] in ("sat", "unsat"):
                found[stem(row[0]), stem(row[1])] = row[2]
    return found


def _rows(file: Path) -> list[tuple[int, list[str]]]:
    text = read_limited(file, SPECIFICATION_LIMIT, SpecificationError).decode("utf-8", errors="replace")
    rows = enumerate(csv.reader(text.splitlines()), 1)
    return [(number, [cell.strip() for cell in row]) for number, row in rows if row and not row[0].startswith("#")]


def stem(name: str) -> str:
    """A file's name without folder and endings: ``"onnx/net.onnx.gz"`` is ``"net"``."""
    name = Path(name).name.removesuffix(".gz")
    return name.removesuffix(".onnx").removesuffix(".nnet").removesuffix(".vnnlib")


def run_instance(instance: Instance, folder: Path, command: Sequence[str] = COMMAND) -> Result:
    """Decide one instance by a process of its own with one thread; it is killed where it does not end.

    Args:
        instance: which.
        folder: receives its counterexample.
        command: what is run, network, specification and options behind it.
    """
    point = folder / "-".join((instance.set, stem(instance.network), stem(instance.specification) + ".txt"))
    files = [str(instance.path(name)) for name in (instance.network, instance.specification)]
    options = ["--timeout", f"{instance.limit:g}", "--counterexample", str(point)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    began, before = time.monotonic(), _cpu_of_children()
    try:
        done = subprocess.run(
            [*command, *files, *options], capture_output=True, text=True, timeout=instance.limit + GRACE,
            env=environment, check=False,
        )  # fmt: skip
        word, said = done.stdout.strip(), done.stderr.strip()
    except subprocess.TimeoutExpired:
        word, said = "timeout", f"killed {GRACE:g} s after its limit"
    seconds, cpu = time.monotonic() - began, _cpu_of_children() - before
    answer = word if word in WORDS else "error"
    return Result(*instance.key, answer, round(seconds, 3), round(cpu, 3), said[-SAID:])


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Log:
    """The finished instances of a folder, one JSON object a line."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "results.jsonl"

    def read(self) -> dict[tuple[str, str, str, float], Result]:
        """What is finished; a last line that was cut off is not."""
        found = {}
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []:
            try:
                result = Result(**json.loads(line))
            except (ValueError, TypeError):
                continue
            found[result.key] = result
        return found

    def add(self, result: Result) -> None:
        """Append a finished instance."""
        with self.file.open("ab+") as stream:
            stream.seek(-min(1, stream.tell()), os.SEEK_END)
            # a line that was cut off stays one of its own
            whole = stream.read(1) in (b"", b"\n")
            stream.write(("" if whole else "\n").encode() + json.dumps(asdict(result)).encode() + b"\n")

    def clear(self) -> None:
        """Forget everything."""
        self.file.unlink(missing_ok=True)


#: columns of the summary
COLUMNS = ("set", "instances", "solved", *WORDS, "wrong", "beyond", "median CPU s", "CPU s", "worst overrun %")


def wrong(result: Result, expected: dict[tuple[str, str], str]) -> bool:
    """Whether an answer contradicts the expected one."""
    known = expected.get((stem(result.network), stem(result.specification)))
    return result.decided and known is not None and result.answer != known


def summary(results: Sequence[Result], expected: dict[tuple[str, str], str]) -> list[dict[str, object]]:
    """A row of :data:`COLUMNS` for each set, and one for all where there are several.

    *beyond* counts decided instances without an expected answer; the *worst overrun* is wall time over the limit.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.set, []).append(result)
    if len(groups) > 1:
        groups["all"] = list(results)
    rows: list[dict[str, object]] = []
    for name, some in groups.items():
        answers = [result.answer for result in some]
        known = [(stem(result.network), stem(result.specification)) in expected for result in some]
        over = max(100 * (result.seconds / result.limit - 1) for result in some)
        cpu = [result.cpu for result in some]
        cells = (
            name, len(some), sum(result.decided for result in some), *(answers.count(word) for word in WORDS),
            sum(wrong(result, expected) for result in some),
            sum(result.decided and not there for result, there in zip(some, known)),
            round(statistics.median(cpu), 2), round(sum(cpu), 1), round(max(0.0, over), 1),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, cells)))
    return rows
