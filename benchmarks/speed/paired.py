"""Ten pieces of work from two checkouts in turns: is the project as fast as it was?

    python -m benchmarks paired BASE [--rounds 2] [--only attack crown ...] [--out PAGE]

BASE is a folder with a checkout of another version, as ``git worktree add BASE v0.1.0`` makes one. Each piece of work
runs in two processes that differ in nothing but their Clinch, base, new, new, base, in every round; a run before that
warms both up. CPU seconds of one thread, start-up left out; the ratio is that of the quickest runs, its range that of
neighbours. A release compares the table with that of the release before. Ends with exit code 1 where a piece of work
takes more than 1.05 times as long, or where their sum is larger.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.page import RESULTS, ROOT, table, write_page
from benchmarks.speed.work import PIECES
from clinch.io.data import VARIABLE, data_folder

TAKES = "7 minutes"
#: how much longer a piece of work may take
ALLOWED = 1.05
#: relative difference of two answers that counts as none
SAME = 1e-6


class LeftOut(Exception):
    """A piece of work that cannot be done here; says why."""


class Worker:
    """A process that does one piece of work with one checkout's Clinch, whenever it is told to."""

    def __init__(self, checkout: Path, piece: str) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # where the allocator begins to ask the system for memory again and again moves with what was freed before, and
        # costs up to half of a short piece of work, in either checkout
        memory = {"MALLOC_MMAP_THRESHOLD_": str(2**26), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
        environment = (
            os.environ | threads | memory | {"PYTHONPATH": str(checkout / "src"), VARIABLE: str(data_folder())}
        )
        line = [sys.executable, str(Path(__file__).with_name("work.py")), piece]
        self.process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout
        )
        hello = self._answer()
        if "left_out" in hello:
            raise LeftOut(hello["left_out"])
        if checkout.resolve() not in Path(hello["ready"]).parents:
            raise SystemExit(f"{checkout} should be measured, but Python found {hello['ready']}.")

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise LeftOut(f"its process ended with code {self.process.wait()}, see above")
        return json.loads(line)

    def run(self) -> tuple[float, float]:
        """CPU seconds of one run, and what it found."""
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        found = self._answer()
        return found["seconds"], found["answer"]

    def end(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Paired(NamedTuple):
    """One piece of work: CPU seconds of each run in turn, and what was found on both sides."""

    base: list[float]
    new: list[float]
    answers: tuple[float, float]

    @property
    def ratio(self) -> float:
        return min(self.new) / min(self.base)

    @property
    def same(self) -> bool:
        one, two = self.answers
        return abs(one - two) <= SAME * max(1.0, abs(one))

    def row(self, name: str) -> list[object]:
        """A row of the table."""
        ratios = sorted(new / base for new, base in zip(self.new, self.base))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        agree = "same" if self.same else f"{self.answers[0]:.7g} and {self.answers[1]:.7g}"
        least = [f"{min(side):.3f}" for side in (self.base, self.new)]
        return [name, PIECES[name].what, *least, f"{self.ratio:.3f}", spread, agree]


def measure(base: Path, piece: str, rounds: int) -> Paired:
    """Both sides in turns.

    Raises:
        LeftOut: the work cannot be done here, or one side failed.
    """
    workers: list[Worker] = []
    try:
        workers += [Worker(base, piece)]
        workers += [Worker(ROOT, piece)]
        answers = workers[0].run()[1], workers[1].run()[1]
        seconds: tuple[list[float], list[float]] = ([], [])
        for side in [0, 1, 1, 0] * rounds:
            seconds[side].append(workers[side].run()[0])
    finally:
        for worker in workers:
            worker.end()
    return Paired(*seconds, answers)


def described(checkout: Path) -> str:
    """Which commit a checkout is at, where git knows."""
    line = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no git checkout"


def main() -> int:
    """Measure, write the page, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, metavar="BASE", help="checkout to compare with")
    parser.add_argument("--rounds", type=int, default=2, help="of base, new, new, base")
    parser.add_argument("--only", nargs="+", choices=list(PIECES), default=list(PIECES), metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULTS / "paired.md")
    options = parser.parse_args()
    if not (options.base / "src" / "clinch").is_dir():
        parser.error(f"{options.base} is no checkout: there is no src/clinch in it")
    found: dict[str, Paired] = {}
    left_out = []
    for name in options.only:
        try:
            found[name] = measure(options.base.resolve(), name, options.rounds)
        except LeftOut as reason:
            left_out.append(f"- {name} is left out: {reason}")
            print(left_out[-1], flush=True)
            continue
        print(*found[name].row(name), sep="  ", flush=True)
    if not found:
        return 2
    sums = [sum(min(side) for side in sides) for sides in zip(*((one.base, one.new) for one in found.values()))]
    rows = [one.row(name) for name, one in found.items()]
    rows.append(["sum", "", *(f"{s:.3f}" for s in sums), f"{sums[1] / sums[0]:.3f}", "", ""])
    slower = [name for name, one in found.items() if one.ratio > ALLOWED] + ["sum"] * (sums[1] > sums[0])
    verdict = f"Slower than allowed: {', '.join(slower)}." if slower else "Nothing is slower than allowed."
    columns = ["work", "what", "base: CPU s", "new: CPU s", "ratio", "neighbours", "answers"]
    lines = [
        f"Base {described(options.base)}, new {described(ROOT)}; base, new, new, base, {options.rounds} times.",
        "CPU seconds of one thread, the quickest run of each side; *neighbours*: range of the ratios of neighbouring",
        f"runs. Allowed: {ALLOWED} for each, 1 for the sum.", "",
        *table(columns, rows), "", *left_out, verdict,
    ]  # fmt: skip
    write_page(options.out, "Paired timings", lines)
    print(*lines[-1:], sep="\n")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
