"""VNN-COMP's sets, a few instances of each that somebody decided, in CPU seconds: which are decided here.

    python -m benchmarks vnncomp_sets ../shared/data/vnncomp [--only N] [--sets NAME ...] [--seconds 60]

An instance is a process of its own whose time limit counts its CPU seconds, so that other work on the machine does not
shorten it; reading the files counts, starting Python does not. Finished instances are lines of the file of runs and are
not run again; ``--fresh`` starts over. Ends with exit code 1 if an answer is wrong.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, again, table, write_page
from clinch.vnnlib.batch import Instance, read_expected, read_instances, stem

TAKES = "an hour"
#: wall seconds in which no process ends: something stands still
STANDSTILL = 1200.0


def decide(network: str, specification: str, seconds: float) -> dict:
    """The answer to one instance, and the CPU seconds that it took."""
    import clinch as cl

    count_cpu_seconds()
    began = time.process_time()
    verdict = cl.verify(network, specification, timeout=seconds)
    return {"answer": verdict.answer.value, "cpu": round(time.process_time() - began, 2)}


def run(instance: Instance) -> dict:
    """The same in a process of its own."""
    names = [instance.path(name) for name in (instance.network, instance.specification)]
    line = again("--one", *names, "--seconds", instance.limit)
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=STANDSTILL, check=False)
    except subprocess.TimeoutExpired:
        return {"answer": "error", "cpu": STANDSTILL, "note": "stood still"}
    if done.returncode:
        return {"answer": "error", "cpu": 0.0, "note": done.stderr[-500:]}
    return json.loads(done.stdout.splitlines()[-1])


def chosen(instances: list[Instance], known: dict[tuple[str, str], str], only: int | None) -> list[Instance]:
    """Instances that somebody decided, so many of each set, spread evenly."""
    found = []
    for name in dict.fromkeys(one.set for one in instances):
        mine = [one for one in instances if one.set == name]
        # sets without expected answers have been decided in full
        decided = [one for one in mine if _key(one) in known] or mine
        count = len(decided) if only is None else min(only, len(decided))
        found += [decided[i * len(decided) // count] for i in range(count)]
    return found


def _key(instance: Instance) -> tuple[str, str]:
    return stem(instance.network), stem(instance.specification)


def main() -> int:
    """Run what is missing, write the page, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of the sets, with instances.csv and expected.csv")
    parser.add_argument("--only", type=int, metavar="N", help="instances of each set")
    parser.add_argument("--sets", nargs="*", metavar="NAME")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/vnncomp_sets.jsonl"))
    parser.add_argument("--fresh", action="store_true", help="forget finished instances")
    parser.add_argument("--out", type=Path, default=RESULTS / "vnncomp_sets.md")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "SPECIFICATION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        network, specification = options.one
        print(json.dumps(decide(network, specification, options.seconds)))
        return 0
    if options.folder is None:
        parser.error("name the folder of the sets")
    known = read_expected(options.folder)
    wanted = chosen(read_instances(options.folder, limit=options.seconds), known, options.only)
    wanted = [one for one in wanted if not options.sets or one.set in options.sets]
    options.runs.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        options.runs.unlink(missing_ok=True)
    lines = options.runs.read_text().splitlines() if options.runs.is_file() else []
    finished = {tuple(row["key"]): row for row in map(json.loads, lines)}
    with options.runs.open("a") as stream:
        for one in wanted:
            if one.key not in finished:
                row = finished[one.key] = {"key": one.key, **run(one)}
                print(json.dumps(row), file=stream, flush=True)
                print(*_key(one), row["answer"], row["cpu"], known.get(_key(one)), flush=True)
    return report(wanted, finished, known, options)


def report(wanted: list[Instance], finished: dict, known: dict, options: argparse.Namespace) -> int:
    """Write the page; 1 if an answer contradicts the expected one."""
    rows, wrong, solved_of_all = [], 0, 0
    for name in dict.fromkeys(one.set for one in wanted):
        mine = [(_key(one), finished[one.key]) for one in wanted if one.set == name]
        solved = [(key, row) for key, row in mine if row["answer"] in ("sat", "unsat")]
        wrong += sum(known.get(key, row["answer"]) != row["answer"] for key, row in solved)
        solved_of_all += len(solved)
        open_ = ", ".join(f"{key[1]} ({row['answer']})" for key, row in mine if row["answer"] not in ("sat", "unsat"))
        cpu = [row["cpu"] for _, row in solved]
        figures = (f"{statistics.median(cpu):.2f}", f"{max(cpu):.2f}") if cpu else ("", "")
        rows.append((name, len(mine), len(solved), *figures, f"{max(row['cpu'] for _, row in mine):.1f}", open_))
    text = [
        f"{options.seconds:g} CPU s of one thread for an instance, or its own limit where that is less; instances that "
        "some tool of the competition decided.",
        f"Decided: **{solved_of_all} of {len(wanted)}**, wrong: {wrong}.", "",
        *table(("set", "instances", "decided", "CPU s, median", "worst decided", "worst", "open"), rows),
    ]  # fmt: skip
    print(*text, sep="\n")
    write_page(options.out, "VNN-COMP's sets", text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
