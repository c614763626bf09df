"""Long campaigns by hand: a record for each seed in a file of lines, so that they can be stopped and started again."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def run_campaign(
    description: str,
    count: int,
    name: str,
    examined: Callable[[int], dict],
    wrong: Callable[[dict], Iterable[str]],
    page: Callable[[list[dict]], str],
) -> list[dict]:
    """Examine the seeds that have no record yet, print what is wrong, and write the page of all of them.

    A seed at which the process died, as it may inside another library, is not tried again: the page names it.

    Args:
        description: of the command.
        count: of seeds, unless ``--count`` says otherwise.
        name: of the file of records below ``runs`` and of the page below ``benchmarks/results``.
        examined: the record of a seed, with the seed in it.
        wrong: what is to be printed of a record.
        page: the page.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / f"{name}.jsonl")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / f"{name}.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.runs.parent.mkdir(parents=True, exist_ok=True)
    lines = options.runs.read_text().splitlines() if options.runs.is_file() else []
    records = {r["seed"]: r for r in map(json.loads, lines)}
    begun, died = options.runs.with_suffix(".begun"), options.runs.with_suffix(".died")
    lost = {int(seed) for seed in died.read_text().split()} if died.is_file() else set()
    if begun.is_file() and int(begun.read_text()) not in records:
        lost.add(int(begun.read_text()))
        died.write_text(" ".join(map(str, sorted(lost))))
    end = time.monotonic() + 60 * options.minutes
    with options.runs.open("a") as file:
        for seed in range(options.count):
            if time.monotonic() > end:
                break
            if seed not in records and seed not in lost:
                begun.write_text(str(seed))
                records[seed] = examined(seed)
                file.write(json.dumps(records[seed]) + "\n")
                file.flush()
                os.fsync(file.fileno())
                for text in wrong(records[seed]):
                    print(f"seed {seed}: {text}", flush=True)
    chosen = [records[seed] for seed in sorted(records) if seed < options.count]
    seeds = ", ".join(str(seed) for seed in sorted(lost) if seed < options.count)
    ended = (
        f"\nThe process died, inside another library, at these seeds, which are not counted: {seeds}.\n"
        if seeds
        else ""
    )
    options.out.write_text(page(chosen) + ended)
    print(f"{len(chosen)} records; wrote {options.out}")
    return chosen
