"""Certificates of VNN-COMP's unsats: how many come out and are accepted, and what finding and checking them costs.

    python -m benchmarks proofs_vnncomp ../shared/data/vnncomp [--only N] [--sets A,B] [--seconds S] [--out runs/proofs]

The folder holds one folder a set, each with an instances.csv. Every instance is asked twice in a process of its own:
plainly, and where that says unsat once more with the leaves kept and written as certificates, which are read back and
checked. Times are CPU seconds of one thread, start-up left out; the limit holds for the answer, and again for its
certificates. What the tools of VNN-COMP found to be sat is left out. A finished instance is one line of
``results.jsonl`` and is not run again. Writes ``benchmarks/results/proofs_vnncomp.md``; ends with exit code 1 where the
checker refuses a certificate that was written.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, again, table, write_page
from benchmarks.search.vnncomp import expected, packed, stem

TAKES = "hours; --only 3 --seconds 10 takes half an hour"
#: wall seconds for each CPU second, after which a process is ended
PATIENCE = 12.0


def instances(folder: Path, sets: list[str] | None, only: int | None) -> Iterator[tuple[str, Path, Path]]:
    """Set, network and specification of what is not known to be sat; of each set so many, spread evenly."""
    known = expected()
    for file in sorted(folder.glob("*/instances.csv")):
        name = file.parent.name
        if sets is not None and name not in sets:
            continue
        verdicts = {key[1:]: word for key, word in known.items() if key[0] == name}
        if (beside := file.with_name("expected.csv")).is_file():
            rows = csv.reader(line for line in beside.open() if not line.startswith("#"))
            verdicts |= {(stem(Path(row[0])), stem(Path(row[1]))): row[2] for row in rows if len(row) > 2}
        rows = [(packed(file.parent / row[0]), packed(file.parent / row[1])) for row in csv.reader(file.open())]
        rows = [row for row in rows if verdicts.get((stem(row[0]), stem(row[1]))) != "sat"]
        count = len(rows) if only is None else min(only, len(rows))
        for i in range(count):
            yield name, *rows[i * len(rows) // count]


def one(network: Path, specification: Path, seconds: float) -> dict:
    """One line of the results."""
    import clinch as cl
    from clinch.certificates import SavedProof
    from clinch.checker.certificate import read_certificate, read_network
    from clinch.checker.check import check
    from clinch.checker.layers import Refused
    from clinch.errors import ClinchError
    from clinch.vnnlib.verification import Answer

    count_cpu_seconds()
    row: dict = {"asked": 0, "accepted": 0, "refused": 0, "leaves": 0, "checking": 0.0, "bytes": 0, "reason": ""}
    began = time.process_time()
    try:
        verdict = cl.verify(network, specification, timeout=seconds)
    except (ClinchError, MemoryError) as error:
        return {**row, "answer": "error", "without": time.process_time() - began, "reason": str(error)[:300]}
    row |= {"answer": verdict.answer.value, "without": time.process_time() - began}
    if verdict.answer is not Answer.UNSAT:
        return row
    began = time.process_time()
    verdict = cl.verify(network, specification, timeout=seconds, keep_leaves=True)
    row["search"] = time.process_time() - began
    if verdict.answer is not Answer.UNSAT:
        return {**row, "with": row["search"], "asked": 1, "reason": f"{verdict.answer.value} with leaves kept"}
    try:
        proofs = verdict.certify(seconds)
    except ClinchError as error:
        proofs = [error]
    row |= {"with": time.process_time() - began, "asked": len(proofs)}
    with tempfile.TemporaryDirectory() as folder:
        for proof in proofs:
            if not isinstance(proof, SavedProof):
                row["reason"] = str(proof)[:300]
                continue
            path = Path(folder) / "c.safetensors"
            beside = proof.save(path)
            row["bytes"] += path.stat().st_size
            began = time.process_time()
            try:
                row["leaves"] += check(read_certificate(path), *read_network(beside)).leaves
                row["accepted"] += 1
            except Refused as reason:
                row |= {"reason": f"refused: {reason}"[:300], "refused": row["refused"] + 1}
            row["checking"] += time.process_time() - began
    return row


def lines_of(rows: list[dict], seconds: float) -> list[str]:
    """The page."""
    unsat = [row for row in rows if row["answer"] == "unsat"]
    whole = [row for row in unsat if row["accepted"] == row["asked"]]
    found = [row for row in unsat if "with" in row]
    lines = [
        f"At most {seconds:g} CPU s for each answer, and again for its certificates; one thread, other work beside it.",
        f"*Whole*: every case of the specification has an accepted certificate: {len(whole)} of {len(unsat)} unsats.",
        "*Without*: the answer alone; *with*: the answer with its leaves kept, and the certificates, which are checked",
        "once before they are handed out; *checking*: reading the files back and checking them. CPU s, sums over the",
        "unsats.",
        "",
    ]
    body = []
    for name in [*dict.fromkeys(row["set"] for row in rows), "all"]:
        mine = [row for row in rows if name in (row["set"], "all")]
        some, done = ([row for row in part if row in mine] for part in (unsat, whole))
        without, search, with_, checking = (
            sum(row.get(key, 0.0) for row in some if row in found) for key in ("without", "search", "with", "checking")
        )
        body.append([
            name, len(mine), len(some), len(done), sum(row["refused"] for row in some), without, search, with_,
            with_ / without if without else None, checking, sum(row["leaves"] for row in some),
        ])  # fmt: skip
    heads = ["set", "instances", "unsat", "whole", "refused", "without", "search with leaves", "with", "with / without",
             "checking", "leaves"]  # fmt: skip
    lines += table(heads, body)
    missing = [f"- {r['set']}, {r['network']} {r['specification']}: {r['accepted']} of {r['asked']}. {r['reason']}"
               for r in unsat if r not in whole]  # fmt: skip
    return [*lines, "", "Not whole:", "", *(missing or ["- none"])]


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", type=int, metavar="N", help="N instances of each set, spread evenly")
    parser.add_argument("--sets", help="folders, separated by commas")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each answer, and again for its certificates")
    parser.add_argument("--out", type=Path, default=Path("runs/proofs"))
    parser.add_argument("--page", type=Path, default=RESULTS / "proofs_vnncomp.md")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(one(*chosen.one, chosen.seconds)))
        return
    chosen.out.mkdir(parents=True, exist_ok=True)
    log = chosen.out / "results.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    done = {(row["set"], row["network"], row["specification"]): row for row in rows}
    wanted = list(instances(chosen.folder, chosen.sets and chosen.sets.split(","), chosen.only))
    with log.open("a") as stream:
        for name, network, specification in wanted:
            key = name, stem(network), stem(specification)
            if key in done:
                continue
            command = again(chosen.folder, "--seconds", chosen.seconds, "--one", network, specification)
            try:
                patience = PATIENCE * chosen.seconds + 60
                ended = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
                row = json.loads(ended.stdout.splitlines()[-1]) if ended.returncode == 0 else None
                said = ended.stderr[-300:]
            except subprocess.TimeoutExpired:
                row, said = None, "ended by the benchmark"
            if row is None:
                row = {"answer": "died", "asked": 0, "accepted": 0, "refused": 0, "leaves": 0, "reason": said}
            done[key] = {**dict(zip(("set", "network", "specification"), key)), **row}
            stream.write(json.dumps(done[key]) + "\n")
            stream.flush()
            print(done[key], flush=True)
    rows = [done[name, stem(network), stem(specification)] for name, network, specification in wanted]
    write_page(chosen.page, "Certificates of VNN-COMP's unsats", lines_of(rows, chosen.seconds))
    sys.exit(1 if any(row["refused"] for row in rows) else 0)


if __name__ == "__main__":
    main()
