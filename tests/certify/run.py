"""Mutated certificates by hand, as many as one likes: ``python tests/certify/run.py --count 10000``.

Every certificate is changed in one to three places and written with a digest that fits; what the checker accepts all
the same is compared with an enumeration. Seeds that stand in ``--runs`` are not repeated, so that it can be stopped and
started again. Writes the table of what was run; ends with exit code 1 where something false was accepted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from mutated import FALSE, examined, page

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "mutated_certificates.jsonl")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "mutated_certificates.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.runs.parent.mkdir(parents=True, exist_ok=True)
    lines = options.runs.read_text().splitlines() if options.runs.is_file() else []
    records = {r["seed"]: r for r in map(json.loads, lines)}
    end = time.monotonic() + 60 * options.minutes
    with options.runs.open("a") as file:
        for seed in range(options.count):
            if time.monotonic() > end:
                break
            if seed not in records:
                records[seed] = examined(seed)
                file.write(json.dumps(records[seed]) + "\n")
                file.flush()
                if records[seed]["wrong"]:
                    print(f"seed {seed}: {records[seed]['wrong']}", flush=True)
    chosen = [records[seed] for seed in sorted(records) if seed < options.count]
    options.out.write_text(page(chosen))
    print(f"{len(chosen)} certificates; wrote {options.out}")
    return int(any(r["outcome"] == FALSE for r in chosen))


if __name__ == "__main__":
    sys.exit(main())
