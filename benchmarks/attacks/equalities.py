"""The nearest inputs under linear equalities: attacks beside a MILP's proven optimum, on random networks.

A network of 12 ReLUs on 6 to 16 inputs in [0, 1]; the sum stays, or the inputs are shares of one, or two random sums
stay. Distances of the maximum norm and of p = 1, seeds in order until so many problems have an answer.

Ends with exit code 1 if a problem is left without a point, or one in ten by more than 2 % from its optimum.

    python -m benchmarks equalities [--problems 50]

Writes benchmarks/results/equalities.md.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import nn

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, judged_page

TAKES = "five minutes"
KINDS = ("the sum stays", "shares of one", "two sums stay")
#: how far from the optimum counts as near, and for what share of the problems
NEAR, ENOUGH = 0.02, 0.9


def problem(seed: int) -> tuple[cl.Problem, str]:
    """The seed's problem and its kind."""
    g = torch.Generator().manual_seed(seed)
    size = int(torch.randint(6, 17, (), generator=g))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(size, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    x0, kind = 0.2 + 0.6 * torch.rand(size, generator=g), seed % len(KINDS)
    x0 = x0 / x0.sum() if kind == 1 else x0
    rows = torch.randn(2, size, generator=g, dtype=torch.float64) if kind == 2 else torch.ones(1, size).double()
    net = cl.load(model, input_shape=(size,))
    x, label = net.input, int(model(x0[None]).argmax())
    kept = [(x * row.numpy()).sum() == float(row @ x0.double()) for row in rows]
    p = 1 if seed % 2 else cl.inf
    return cl.Problem(cl.Minimize(cl.norm(x - x0, p)), [x >= 0, x <= 1, *kept, net.output.argmax() != label]), KINDS[
        kind
    ]


def measured(seed: int) -> dict | None:
    """The seed's line; None where no input of another class exists, or the optimum is open."""
    stated, kind = problem(seed)
    exact = stated.solve(solver="milp", time_limit=20)
    if exact.status.name != "OPTIMAL":
        return None
    began = time.process_time()
    alone = stated.solve(solver="attack", time_limit=20)
    seconds = time.process_time() - began
    near = cl.attacks.nearest(stated)
    value = alone.value if alone.status.name == "FEASIBLE" else math.inf
    found = {"solve": value / exact.value - 1, "nearest": float(near.value) / exact.value - 1}
    return {"seed": seed, "kind": kind, "optimum": exact.value, "seconds": seconds, **found}


def main() -> int:
    """Measure, write the page, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=50)
    options = parser.parse_args()
    count_cpu_seconds()
    lines, seed = [], 0
    while len(lines) < options.problems:
        line = measured(seed)
        if line is not None:
            lines.append(line)
            print(line, flush=True)
        seed += 1
    rows, wrong = [], []
    for name in ("solve", "nearest"):
        excess = torch.tensor([line[name] for line in lines], dtype=torch.float64)
        known, near = int(excess.isfinite().sum()), int((excess <= NEAR).sum())
        rows.append(f"| {name} | {known} | {near} | {float(excess.median()):.2%} | {float(excess.max()):.2%} |")
        if name == "solve" and (known < len(lines) or near < ENOUGH * len(lines)):
            wrong.append(f"{name}: {known} points, {near} of them near, of {len(lines)} problems")
    seconds = torch.tensor([line["seconds"] for line in lines]).median()
    page = [
        '`solve` is `problem.solve(solver="attack")`, `nearest` is `cl.attacks.nearest(problem)` with 240 passes.',
        f"Excess over the optimum that a MILP proves, {len(lines)} problems (seeds below {seed} that have one); near",
        f"is within {NEAR:.0%}. Median CPU seconds of `solve`: {float(seconds):.1f}.", "",
        "| attack | points | near | median excess | largest |", "|---|---|---|---|---|", *rows, "",
    ]  # fmt: skip
    held = "a point on every problem, near on nine of ten or more."
    return judged_page(RESULTS / "equalities.md", "The nearest inputs under linear equalities", page, wrong, held)


if __name__ == "__main__":
    raise SystemExit(main())
