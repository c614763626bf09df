"""VNN-COMP: the instances of a folder through ``clinch verify``, each in a process of its own, start-up included.

    python -m benchmarks vnncomp ../shared/data/vnncomp/acasxu [--limit-share 1] [--only N] [--out runs/vnncomp]

The folder holds instances.csv (network, specification, seconds), or folders that do. A finished instance is one line
of ``results.jsonl`` in the output folder and is not run again; ``--fresh`` starts over. Every sat is checked without
Clinch (vnncomp_check.py), every verdict is compared with what the tools of VNN-COMP 2022 agreed on
(vnncomp_expected.csv). Writes the table to ``table.md`` beside the results; ends with exit code 1 if an answer is
wrong.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.page import write_page
from benchmarks.search.vnncomp_check import check

HERE = Path(__file__).parent
#: seconds after which a process that has not ended by itself is killed
GRACE = 10.0
TAKES = "hours; ACAS Xu 7 minutes"
WORDS = ("sat", "unsat", "timeout", "unknown", "error")
COMMAND = [sys.executable, "-c", "from clinch.cli import main; main()", "verify"]


class Instance(NamedTuple):
    category: str
    network: Path
    specification: Path
    limit: float

    @property
    def key(self) -> tuple[str, str, str, float]:
        return self.category, stem(self.network), stem(self.specification), self.limit


def stem(path: Path) -> str:
    return re.sub(r"\.(onnx|vnnlib)(\.gz)?$", "", path.name)


def instances(folder: Path, share: float, category: str | None) -> Iterator[Instance]:
    """All instances below a folder, in the order of their files."""
    files = (
        [folder / "instances.csv"] if (folder / "instances.csv").is_file() else sorted(folder.glob("*/instances.csv"))
    )
    for file in files:
        if category not in (None, file.parent.resolve().name):
            continue
        with file.open(newline="") as stream:
            for network, specification, limit in csv.reader(stream):
                paths = (packed(file.parent / name) for name in (network, specification))
                yield Instance(file.parent.resolve().name, *paths, share * float(limit))


def packed(path: Path) -> Path:
    compressed = path.with_name(path.name + ".gz")
    return compressed if compressed.is_file() and not path.is_file() else path


def run(instance: Instance, folder: Path) -> dict:
    """One instance: the word, wall and CPU time of the whole process, and what the check of a sat says.

    CPU time is the same however busy the machine is; it counts with one process at a time only.
    """
    point = folder / "counterexamples" / ("-".join(map(str, instance.key[:3])) + ".txt")
    point.parent.mkdir(parents=True, exist_ok=True)
    options = ["--timeout", str(instance.limit), "--counterexample", str(point)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    began, before = time.monotonic(), cpu_of_children()
    try:
        done = subprocess.run(
            [*COMMAND, str(instance.network), str(instance.specification), *options],
            capture_output=True, text=True, timeout=instance.limit + GRACE, env=environment, check=False,
        )  # fmt: skip
        word, told = done.stdout.strip(), done.stderr.strip()
    except subprocess.TimeoutExpired:
        word, told = "timeout", "killed"
    seconds, cpu = time.monotonic() - began, cpu_of_children() - before
    row = dict(zip(("category", "network", "specification", "limit"), instance.key))
    row |= {"verdict": word if word in WORDS else "error", "seconds": round(seconds, 3), "cpu": round(cpu, 3)}
    row["note"] = told[-500:]
    if word == "sat":
        row["confirmed"], row["note"] = check(instance.network, instance.specification, point)
    return row


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def expected() -> dict[tuple[str, str, str], str]:
    lines = [line for line in (HERE / "vnncomp_expected.csv").read_text().splitlines() if not line.startswith("#")]
    return {(r["category"], r["network"], r["specification"]): r["verdict"] for r in csv.DictReader(lines)}


def wrong(row: dict, known: dict[tuple[str, str, str], str]) -> bool:
    """A sat that is none, or a verdict that contradicts all tools."""
    truth = known.get((row["category"], row["network"], row["specification"]))
    contradicts = row["verdict"] in ("sat", "unsat") and truth is not None and row["verdict"] != truth
    return contradicts or row.get("confirmed") is False


def group(row: dict, by_network: bool) -> str:
    """The property; or the network, with the radius where the specification's name ends in one."""
    if not by_network:
        return row["specification"]
    radius = re.search(r"_(0?\.\d+)$", row["specification"])
    return row["network"] + (f", ε {radius[1]}" if radius else "")


def table(rows: list[dict], share: float) -> list[str]:
    known = expected()
    lines = [
        f"Wall time of the whole process, start-up included, {share:g} of each instance's limit, one thread.",
        "Every sat was checked by onnxruntime and an evaluator that shares nothing with Clinch; *wrong* counts sats",
        "that failed the check and verdicts against those that the tools of VNN-COMP 2022 agreed on.",
        "",
        f"| category | group | instances | solved | {' | '.join(WORDS)} | wrong | median s | mean s | worst s "
        "| median CPU s | worst CPU s |",
        "|---" * 15 + "|",
    ]  # fmt: skip
    for category in dict.fromkeys(row["category"] for row in rows):
        mine = [row for row in rows if row["category"] == category]
        by_network = len({row["network"] for row in mine}) <= len({row["specification"] for row in mine})
        groups = {"all": mine}
        for row in mine:
            groups.setdefault(group(row, by_network), []).append(row)
        for name, some in groups.items():
            count, seconds = Counter(row["verdict"] for row in some), [row["seconds"] for row in some]
            cpu = [row["cpu"] for row in some]
            cells = [
                category, name, len(some), count["sat"] + count["unsat"], *(count[word] for word in WORDS),
                sum(wrong(row, known) for row in some), f"{statistics.median(seconds):.2f}",
                f"{statistics.mean(seconds):.2f}", f"{max(seconds):.2f}",
                f"{statistics.median(cpu):.2f}", f"{max(cpu):.2f}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    bad = [f"{r['network']} {r['specification']}: {r['verdict']} ({r['note']})" for r in rows if wrong(r, known)]
    return [*lines, f"\nWrong: {'; '.join(bad) or 'none'}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit-share", type=float, default=1.0, help="of each instance's own limit")
    parser.add_argument("--only", type=int, metavar="N", help="N instances, spread evenly")
    parser.add_argument("--category", help="one of the folder's subfolders")
    parser.add_argument("--out", type=Path, default=Path("runs/vnncomp"))
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time; times are only good with 1")
    parser.add_argument("--fresh", action="store_true", help="forget finished instances")
    chosen = parser.parse_args()
    wanted = list(instances(chosen.folder, chosen.limit_share, chosen.category))
    if not wanted:
        sys.exit(f"There is no instances.csv in {chosen.folder}, nor one in its folders of that name.")
    if chosen.only:
        wanted = [wanted[i * len(wanted) // chosen.only] for i in range(min(chosen.only, len(wanted)))]
    chosen.out.mkdir(parents=True, exist_ok=True)
    log = chosen.out / "results.jsonl"
    if chosen.fresh:
        log.unlink(missing_ok=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    done = {(row["category"], row["network"], row["specification"], row["limit"]): row for row in rows}
    missing = [instance for instance in wanted if instance.key not in done]
    with ThreadPoolExecutor(chosen.jobs) as pool, log.open("a") as stream:
        for instance, row in zip(missing, pool.map(lambda i: run(i, chosen.out), missing)):
            done[instance.key] = row
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            print(f"{row['network']} {row['specification']}: {row['verdict']}, {row['seconds']:.2f} s {row['note']}")
    rows = [done[instance.key] for instance in wanted]
    lines = table(rows, chosen.limit_share)
    write_page(chosen.out / "table.md", "VNN-COMP instances through `clinch verify`", lines)
    print("\n".join(lines))
    known = expected()
    sys.exit(1 if any(wrong(row, known) for row in rows) else 0)


if __name__ == "__main__":
    main()
