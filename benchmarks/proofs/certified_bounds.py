"""Bounds of ``solve`` on small random problems of every kind: how many have a certificate of all that was reported.

    python -m benchmarks certified_bounds [--count 63] [--seconds 5] [--kinds NAME ...] [--out runs/certified_bounds]

The problems are those of ``conductor``. Each is solved with ``certificate=True``: the limit holds for the solve, and
again for its certificate, in CPU seconds of one thread. *Whole*: the file, read back, is accepted, and the bound that
it states is at least the one reported less 1e-6 of it (1e-8 at least). What has no bound, or a feasible input and no
objective, has nothing to prove and is left out. A finished problem is one line of ``results.jsonl`` and is not solved
again. Writes ``benchmarks/results/certified_bounds.md``; ends with exit code 1 where a file is refused.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, table, write_page
from benchmarks.search.conductor import GAP, KINDS
from clinch.certificates import SavedProof
from clinch.checker.certificate import read_certificate, read_network
from clinch.checker.check import check
from clinch.checker.layers import Refused

TAKES = "10 minutes"
#: by how much, relative and absolute, the bound of the certificate may lie below the one reported
SLACK, LEAST_SLACK = 1e-6, 1e-8


def one(kind: str, seed: int, seconds: float) -> dict:
    """A line of the results."""
    torch.manual_seed(seed)
    problem = KINDS[kind](seed)
    began = time.process_time()
    solution = problem.solve(time_limit=seconds, gap=GAP, certificate=True)
    row = {"kind": kind, "seed": seed, "seconds": time.process_time() - began, "refused": False, "leaves": 0}
    sense = problem.query.sense
    bound = sense * float(solution.bound)
    asked = bound == math.inf if problem.query.feasibility else bound > -math.inf
    row |= {"asked": asked, "bound": bound, "certified": -math.inf, "checking": 0.0, "reason": ""}
    proof = solution.certificate
    if not isinstance(proof, SavedProof):
        return row | {"reason": " ".join(solution.notes)[:300] if asked else ""}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.safetensors"
        beside = proof.save(path)
        began = time.process_time()
        try:
            report = check(read_certificate(path), *read_network(beside))
            row |= {"certified": report.bound, "leaves": report.leaves}
        except Refused as reason:
            row |= {"refused": True, "reason": f"refused: {reason}"[:300]}
        row["checking"] = time.process_time() - began
    return row


def behind(row: dict) -> float:
    """By how much the certified bound lies below the reported one, beside what is allowed: at most 1 is whole."""
    if row["certified"] >= row["bound"]:
        return 0.0
    return (row["bound"] - row["certified"]) / max(LEAST_SLACK, SLACK * abs(row["bound"]))


def lines_of(rows: list[dict], seconds: float) -> list[str]:
    """The page."""
    asked = [row for row in rows if row["asked"]]
    whole = [row for row in asked if behind(row) <= 1.001]
    lines = [
        f"At most {seconds:g} CPU s for each solve, and again for its certificate; one thread, other work beside it.",
        f"*Whole*: certified at the bound reported less 1e-6 of it: **{len(whole)} of {len(asked)}**. CPU s are sums.",
        "",
    ]
    body = []
    for kind in [*dict.fromkeys(row["kind"] for row in rows), "all"]:
        mine = [row for row in asked if kind in (row["kind"], "all")]
        body.append([
            kind, len(mine), sum(row in whole for row in mine), sum(row["refused"] for row in mine),
            sum(row["seconds"] for row in mine), sum(row["checking"] for row in mine),
            sum(row["leaves"] for row in mine),
        ])  # fmt: skip
    lines += table(["kind", "bounds", "whole", "refused", "solve and proof", "checking", "leaves"], body)
    missing = [
        f"- {r['kind']} {r['seed']}: {r['bound']:.8g} reported, {r['certified']:.8g} certified. {r['reason']}"
        for r in asked if r not in whole
    ]  # fmt: skip
    return [*lines, "", "Not whole:", "", *(missing or ["- none"])]


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=63)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("runs/certified_bounds"))
    parser.add_argument("--page", type=Path, default=RESULTS / "certified_bounds.md")
    chosen = parser.parse_args()
    count_cpu_seconds()
    chosen.out.mkdir(parents=True, exist_ok=True)
    log = chosen.out / "results.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    done = {(row["kind"], row["seed"]): row for row in rows}
    wanted = [(chosen.kinds[seed % len(chosen.kinds)], seed) for seed in range(chosen.count)]
    with log.open("a") as stream:
        for kind, seed in wanted:
            if (kind, seed) not in done:
                done[kind, seed] = one(kind, seed, chosen.seconds)
                stream.write(json.dumps(done[kind, seed]) + "\n")
                stream.flush()
                print(done[kind, seed], flush=True)
    rows = [done[key] for key in wanted]
    write_page(chosen.page, "Certificates of what solve reports", lines_of(rows, chosen.seconds))
    sys.exit(1 if any(row["refused"] for row in rows) else 0)


if __name__ == "__main__":
    main()
