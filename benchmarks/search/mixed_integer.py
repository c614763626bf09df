"""Mixed-integer problems over small networks, beside an independent big-M model in HiGHS.

The smallest output of a network of two layers of 32 or 64 ReLUs over 5 to 30 inputs, a third of them discrete (whole
numbers, lists, categories), under two linear constraints. Weights are torch's own initial ones. HiGHS gets the textbook
model, its big-M from interval arithmetic, written here without any part of Clinch. Optima may differ by the
1e-6 to which HiGHS meets its own conditions.

Ends with exit code 1 where a bound lies above the other's value.

    python -m benchmarks mixed_integer [--count 200] [--seconds 60] [--out FILE]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import highspy
import numpy as np
import torch
from torch import nn

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds, stop_highs_after
from benchmarks.common.page import RESULTS, table, write_page

TAKES = "two hours"
#: relative gap of both
GAP = 1e-7
#: what both may differ by, relative to the value or 1
SAME = 1e-6


class Task(NamedTuple):
    """``min net(x)`` over a box with ``A x <= b``; kinds of inputs: ``("whole", i)``, ``("list", i, values)``,
    ``("one", first, last)``."""

    model: nn.Sequential
    lower: np.ndarray
    upper: np.ndarray
    kinds: list[tuple]
    matrix: np.ndarray
    limit: np.ndarray


def task(number: int) -> Task:
    rng = np.random.default_rng(number)
    torch.manual_seed(number)
    n, width = int(rng.integers(5, 31)), int(rng.choice([32, 64]))
    model = nn.Sequential(
        nn.Linear(n, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
    ).double().eval().requires_grad_(False)  # fmt: skip
    lower, upper = -np.ones(n), np.ones(n)
    kinds: list[tuple] = []
    at, inside = 0, rng.uniform(-1, 1, n)
    while at < n // 3:
        kind = rng.choice(["whole", "list", "one"])
        if kind == "one" and at + 3 <= max(3, n // 3):
            kinds.append(("one", at, at + 3))
            lower[at : at + 3], inside[at : at + 3] = 0, np.eye(3)[rng.integers(3)]
            at += 3
            continue
        if kind == "list":
            values = np.sort(rng.uniform(-1, 1, 4)).round(3)
            kinds.append(("list", at, values))
            lower[at], upper[at], inside[at] = values[0], values[-1], rng.choice(values)
        else:
            lower[at], upper[at] = -int(rng.integers(0, 2)), int(rng.integers(1, 3))
            kinds.append(("whole", at))
            inside[at] = rng.integers(lower[at], upper[at] + 1)
        at += 1
    matrix = rng.normal(size=(2, n))
    return Task(model, lower, upper, kinds, matrix, matrix @ inside + 0.1 * rng.uniform(size=2))


class Answer(NamedTuple):
    value: float
    bound: float
    seconds: float


def by_clinch(one: Task, seconds: float, solver: str | None) -> Answer:
    began = time.process_time()
    net = cl.load(one.model, input_shape=(len(one.lower),))
    x = net.input
    conditions = [x >= one.lower, x <= one.upper, one.matrix @ x <= one.limit]
    for kind, at, *rest in one.kinds:
        if kind == "whole":
            conditions.append(x[at].integer())
        elif kind == "list":
            conditions.append(x[at].among(rest[0]))
        else:
            conditions.append(x[at : rest[0]].one_hot())
    found = cl.Problem(cl.Minimize(net.output[0]), conditions).solve(time_limit=seconds, gap=GAP, solver=solver)
    return Answer(float(found.value), float(found.bound), time.process_time() - began)


def by_highs(one: Task, seconds: float) -> Answer:
    """The big-M model: ``h = z + s`` with ``0 <= h <= u·b``, ``0 <= s <= −l·(1 − b)``."""
    began = time.process_time()
    h = highspy.Highs()
    h.silent()
    for option, value in {
        "threads": 1, "mip_rel_gap": GAP, "mip_abs_gap": 1e-9,
        "primal_feasibility_tolerance": 1e-9, "mip_feasibility_tolerance": 1e-9,
    }.items():  # fmt: skip
        h.setOptionValue(option, value)
    stop_highs_after(h, seconds)
    whole = {at for kind, at, *_ in one.kinds if kind == "whole"}
    whole |= {k for kind, at, *rest in one.kinds if kind == "one" for k in range(at, rest[0])}
    integer, real = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
    x = [
        h.addVariable(lb=low, ub=high, type=integer if i in whole else real)
        for i, (low, high) in enumerate(zip(one.lower, one.upper))
    ]
    for kind, at, *rest in one.kinds:
        if kind == "list":
            chosen = [h.addVariable(lb=0, ub=1, type=integer) for _ in rest[0]]
            h.addConstr(h.qsum(chosen) == 1)
            h.addConstr(h.qsum(float(v) * b for v, b in zip(rest[0], chosen)) - x[at] == 0)
        elif kind == "one":
            h.addConstr(h.qsum(x[at : rest[0]]) == 1)
    for row, limit in zip(one.matrix, one.limit):
        h.addConstr(h.qsum(float(a) * v for a, v in zip(row, x)) <= float(limit))
    low, high, layer = one.lower, one.upper, x
    linear = [m for m in one.model if isinstance(m, nn.Linear)]
    for k, module in enumerate(linear):
        weight, bias = module.weight.numpy(), module.bias.numpy()
        least = np.clip(weight, 0, None) @ low + np.clip(weight, None, 0) @ high + bias
        most = np.clip(weight, 0, None) @ high + np.clip(weight, None, 0) @ low + bias
        z = [h.qsum(float(a) * v for a, v in zip(row, layer)) + float(b) for row, b in zip(weight, bias)]
        if k == len(linear) - 1:
            h.minimize(z[0])
            break
        layer = []
        for form, below, above in zip(z, least, most):
            if above <= 0:
                layer.append(h.addVariable(lb=0, ub=0))
                continue
            out = h.addVariable(lb=0, ub=float(above))
            if below >= 0:
                h.addConstr(out - form == 0)
            else:
                b = h.addVariable(lb=0, ub=1, type=integer)
                h.addConstr(out - form >= 0)
                h.addConstr(out - float(above) * b <= 0)
                h.addConstr(out - form - float(below) * b <= -float(below))
            layer.append(out)
        low, high = least.clip(0), most.clip(0)
    info = h.getInfo()
    return Answer(info.objective_function_value, info.mip_dual_bound, time.process_time() - began)


def closed(one: Answer) -> bool:
    return math.isfinite(one.value) and one.value - one.bound <= SAME * max(1.0, abs(one.value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--solver")
    parser.add_argument("--out", type=Path, default=RESULTS / "mixed_integer.md")
    options = parser.parse_args()
    count_cpu_seconds()
    ratios, wrong, differ, ours, theirs, rows = [], 0, 0, 0, 0, []
    for number in range(options.first, options.first + options.count):
        one = task(number)
        clinch, highs = by_clinch(one, options.seconds, options.solver), by_highs(one, options.seconds)
        scale = SAME * max(1.0, abs(highs.value))
        wrong += clinch.bound > highs.value + 2 * scale or highs.bound > clinch.value + 2 * scale
        both = closed(clinch) and closed(highs)
        differ += both and abs(clinch.value - highs.value) > 2 * scale
        ours, theirs = ours + closed(clinch), theirs + closed(highs)
        ratios.append(clinch.seconds / highs.seconds)
        shape = f"{len(one.lower)} inputs, {one.model[0].out_features} units, {len(one.kinds)} discrete"
        rows.append((shape, f"{clinch.value:.7g}", f"{clinch.bound:.7g}", f"{clinch.seconds:.2f}", f"{highs.value:.7g}",
                     f"{highs.bound:.7g}", f"{highs.seconds:.2f}"))  # fmt: skip
        print(number, *rows[-1], sep="  ", flush=True)
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    facts = [
        ("closed by Clinch", f"{ours} of {options.count}"), ("closed by HiGHS", f"{theirs} of {options.count}"),
        ("optima that differ", differ), ("bounds above the other's value", wrong),
        ("geometric mean of time over HiGHS's", f"{mean:.2f}"), ("median", f"{statistics.median(ratios):.2f}"),
    ]  # fmt: skip
    lines = [
        f"CPU seconds of one thread, at most {options.seconds:g} for each; closed: to {SAME:g} of the value or 1.",
        "", *table(("", ""), facts), "",
        *table(("problem", "value", "bound", "CPU s", "HiGHS's value", "its bound", "CPU s"), rows),
    ]  # fmt: skip
    print(*facts, sep="\n")
    write_page(options.out, "Mixed-integer problems over networks", lines, ["highspy"])
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
