"""The campaign by hand, as long as one likes: ``python tests/laws/run.py --count 5000``.

Every problem goes to every engine and to enumeration; what any of them says wrongly is a complaint. Seeds that stand in
``--runs`` are not repeated, so that it can be stopped and started again. Writes the table of what was run.
"""

from __future__ import annotations

import platform
import sys
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from campaign import EXACT, case, complaints

from resumable import run_campaign


def measured(seed: int) -> dict:
    """What came of a seed."""
    began = time.process_time()
    problem = case(seed)
    found = complaints(problem)
    return {
        "seed": seed, "network": problem.network, "kind": problem.kind, "clauses": problem.clauses,
        "ball": problem.ball and str(problem.ball), "complaints": found, "seconds": time.process_time() - began,
    }  # fmt: skip


def page(records: list[dict]) -> str:
    """The table of all records, as Markdown."""
    wrong = [r for r in records if r["complaints"]]
    unsound = [r for r in wrong if any("not closed" not in text for text in r["complaints"])]
    lines = [
        "# Random problems against enumeration",
        "",
        f"    python tests/laws/run.py --count {len(records)}",
        "",
        f"{len(records)} small random problems: {len({r['network'] for r in records})} networks, every objective,",
        f"every kind of clause, boxes and balls. Each goes to `solve`, to {', '.join(EXACT)} by themselves, and to an",
        "enumeration of all linear pieces that shares no search and no bound with them. Unsound: a bound beyond the",
        "optimum, a value better than it, a wrong *optimal* or *infeasible*. Not closed: an engine that promises to",
        "close problems of this kind did not within 60 s.",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}.",
        "",
        f"**{len(unsound)} unsound answers, {len(wrong) - len(unsound)} problems not closed;** "
        f"{sum(r['seconds'] for r in records) / 60:.0f} CPU minutes.",
        "",
        "| objective | problems | complaints |",
        "|---|---|---|",
    ]
    kinds, bad = Counter(r["kind"] for r in records), Counter(r["kind"] for r in wrong)
    lines += [f"| {kind} | {count} | {bad[kind]} |" for kind, count in sorted(kinds.items())]
    lines += ["", "| clauses | problems | complaints |", "|---|---|---|"]
    kinds, bad = Counter(r["clauses"] for r in records), Counter(r["clauses"] for r in wrong)
    lines += [f"| {kind.replace('_', ' ')} | {count} | {bad[kind]} |" for kind, count in sorted(kinds.items())]
    lines += [""] + [f"- seed {r['seed']}: {text}" for r in wrong for text in r["complaints"]]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    run_campaign(__doc__, 5000, "random_problems", measured, lambda r: r["complaints"], page)
