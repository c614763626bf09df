"""Worst margins of a small MNIST network, beside an independent mixed-integer program.

For the first 10 correctly classified test images and each of the 9 other classes: ``min z_y − z_t`` over
``‖x − x0‖_∞ <= eps`` and ``0 <= x <= 1``. Clinch solves it as ``solve`` chooses, one pair at a time and the nine
targets of an image as one batch, with ``--milp`` also with its MILP engine alone; the reference is written directly for
Gurobi (its free wheel is large enough) or SCIP. The reference shares nothing with Clinch but the weights: bounds,
encoding and solver are its own.

Ends with exit code 1 if two closed answers differ by more than both tolerances together.

    python -m benchmarks margins [--images 10] [--eps 0.05 0.1] [--time-limit 60] [--milp]
        [--reference gurobi|scip|none] [--reference-images 10] [--reference-time-limit 60]
        [--out benchmarks/results/margins.md]
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, write_page
from clinch.io.data import mnist, model_file

Layers = list[tuple[np.ndarray, np.ndarray]]
#: how near value and proven bound must come, absolute and relative, and what two closed answers may differ by
AGREEMENT, GAP = 1e-5, 1e-6
TAKES = "10 minutes; without a reference one"
ONE, NINE, MILP = "Clinch, one pair at a time", "Clinch, an image's nine at once", "Clinch, MILP engine alone"


@dataclass
class Answer:
    """One side's answer for one pair, and its CPU seconds; for a batch, its share of them."""

    value: float
    closed: bool
    seconds: float


def allowed(value: float) -> float:
    """How far apart two numbers may be and count as the same."""
    return AGREEMENT + GAP * abs(value)


def load_network() -> tuple[torch.nn.Sequential, Layers]:
    state = load_file(model_file("mnist_small.safetensors"))
    sizes = [784, 50, 20, 10]
    modules: list[torch.nn.Module] = [torch.nn.Flatten()]
    for k, (a, b) in enumerate(itertools.pairwise(sizes)):
        modules += [torch.nn.Linear(a, b), *([torch.nn.ReLU()] if k < 2 else [])]
    model = torch.nn.Sequential(*modules)
    model.load_state_dict(state)
    layers = [(state[f"{i}.weight"].double().numpy(), state[f"{i}.bias"].double().numpy()) for i in (1, 3, 5)]
    return model.eval(), layers


# --- the reference: no Clinch below this line but the weights -----------------------------------------------------


def pre_activation_limits(layers: Layers, lower: np.ndarray, upper: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Interval arithmetic."""
    limits = []
    for weight, bias in layers[:-1]:
        positive, negative = weight.clip(min=0), weight.clip(max=0)
        low, high = positive @ lower + negative @ upper + bias, positive @ upper + negative @ lower + bias
        limits.append((low, high))
        lower, upper = low.clip(min=0), high.clip(min=0)
    return limits


def gurobi(layers: Layers, lower: np.ndarray, upper: np.ndarray, row: np.ndarray, time_limit: float) -> Answer:
    import gurobipy

    began = time.process_time()
    with gurobipy.Env(empty=True) as environment:
        environment.setParam("OutputFlag", 0)
        environment.start()
        with gurobipy.Model(env=environment) as model:
            for name, setting in {
                "Threads": 1, "MIPGap": 1e-9, "MIPGapAbs": 1e-7, "FeasibilityTol": 1e-9, "IntFeasTol": 1e-9,
                "OptimalityTol": 1e-9, "TimeLimit": time_limit,
            }.items():  # fmt: skip
                model.setParam(name, setting)
            x = model.addMVar(len(lower), lb=lower, ub=upper)
            for (weight, bias), (low, high) in zip(layers, pre_activation_limits(layers, lower, upper)):
                before = model.addMVar(len(bias), lb=low, ub=high)
                after = model.addMVar(len(bias), lb=0.0, ub=high.clip(min=0))
                on = model.addMVar(len(bias), vtype="B", lb=(low >= 0).astype(float), ub=(high > 0).astype(float))
                model.addConstr(before == weight @ x + bias)
                model.addConstr(after >= before)
                model.addConstr(after <= high.clip(min=0) * on)
                model.addConstr(after <= before - low.clip(max=0) * (1 - on))
                x = after
            weight, bias = layers[-1]
            model.setObjective((row @ weight) @ x + float(row @ bias))
            model.optimize()
            closed = model.Status == gurobipy.GRB.OPTIMAL
            return Answer(model.ObjVal if model.SolCount else np.inf, closed, time.process_time() - began)


def scip(layers: Layers, lower: np.ndarray, upper: np.ndarray, row: np.ndarray, time_limit: float) -> Answer:
    from pyscipopt import Model, quicksum

    began = time.process_time()
    model = Model()
    model.hideOutput()
    model.setParam("limits/time", time_limit)
    model.setParam("numerics/feastol", 1e-9)
    x = [model.addVar(lb=a, ub=b) for a, b in zip(lower, upper)]
    for (weight, bias), (low, high) in zip(layers, pre_activation_limits(layers, lower, upper)):
        after = []
        for w, b, least, most in zip(weight, bias, low, high):
            z, a = model.addVar(lb=least, ub=most), model.addVar(lb=0.0, ub=max(most, 0.0))
            on = model.addVar(vtype="B", lb=float(least >= 0), ub=float(most > 0))
            model.addCons(z == quicksum(c * v for c, v in zip(w.tolist(), x)) + b)
            model.addCons(a >= z)
            model.addCons(a <= max(most, 0.0) * on)
            model.addCons(a <= z - min(least, 0.0) * (1 - on))
            after.append(a)
        x = after
    weight, bias = layers[-1]
    model.setObjective(quicksum(c * v for c, v in zip((row @ weight).tolist(), x)))
    model.optimize()
    value = model.getObjVal() + float(row @ bias) if model.getNSols() else np.inf
    return Answer(value, model.getStatus() == "optimal", time.process_time() - began)


def reference(name: str) -> tuple[str, Callable[[Layers, np.ndarray, np.ndarray, np.ndarray, float], Answer]]:
    if name == "scip":
        return "SCIP", scip
    import gurobipy

    return f"Gurobi {'.'.join(map(str, gurobipy.gurobi.version()))}", gurobi


# --- Clinch ---------------------------------------------------------------------------------------------------------


def targets_of(y: int) -> list[int]:
    return [t for t in range(10) if t != y]


def one_by_one(net: cl.Network, x0: torch.Tensor, y: int, eps: float, limit: float, solver: str | None) -> list[Answer]:
    """Nine problems, each with the whole time."""
    x, z = net.input, net.output
    answers = []
    for t in targets_of(y):
        began = time.process_time()
        problem = cl.Problem(cl.Minimize(z[y] - z[t]), [x >= 0, x <= 1, cl.norm(x - x0, cl.inf) <= eps])
        s = problem.solve(time_limit=limit, gap=GAP, solver=solver)
        answers.append(answer(float(s.value), float(s.bound), time.process_time() - began))
    return answers


def at_once(net: cl.Network, x0: torch.Tensor, y: int, eps: float, limit: float) -> list[Answer]:
    """One batch of nine problems, which share nine times the time."""
    x, z = net.input, net.output
    eye, targets = torch.eye(10, dtype=torch.float64), targets_of(y)
    began = time.process_time()
    margins = ((eye[y] - eye[targets]) * z).sum()
    problem = cl.Problem(cl.Minimize(margins), [x >= 0, x <= 1, cl.norm(x - x0, cl.inf) <= eps])
    s = problem.solve(time_limit=limit * len(targets), gap=GAP)
    share = (time.process_time() - began) / len(targets)
    values, bounds = torch.as_tensor(s.value).tolist(), torch.as_tensor(s.bound).tolist()
    return [answer(value, bound, share) for value, bound in zip(values, bounds)]


def answer(value: float, bound: float, seconds: float) -> Answer:
    met = math.isfinite(value) and math.isfinite(bound) and value - bound <= allowed(value)
    return Answer(value, met, seconds)


def correct_images(model: torch.nn.Module, count: int) -> list[tuple[torch.Tensor, int]]:
    x, y = mnist("test")
    with torch.no_grad():
        right = (model(x[: 20 * count]).argmax(1) == y[: 20 * count]).nonzero().flatten()[:count]
    return [(x[i], int(y[i])) for i in right.tolist()]


def measure(options: argparse.Namespace, eps: float) -> tuple[list[str], bool]:
    """Rows of the table for one eps, and whether every two closed answers agree."""
    model, layers = load_network()
    net = cl.load(model, input_shape=(1, 28, 28))
    answers: dict[str, list[Answer]] = {ONE: [], NINE: []}
    if options.milp:
        answers[MILP] = []
    name, independent = ("", None) if options.reference == "none" else reference(options.reference)
    theirs: list[Answer] = []
    for k, (x0, y) in enumerate(correct_images(model, options.images)):
        answers[ONE] += one_by_one(net, x0, y, eps, options.time_limit, None)
        answers[NINE] += at_once(net, x0, y, eps, options.time_limit)
        if options.milp:
            answers[MILP] += one_by_one(net, x0, y, eps, options.time_limit, "milp")
        if independent is not None and k < options.reference_images:
            low, high = ((x0.double() + shift).clamp(0, 1).flatten().numpy() for shift in (-eps, eps))
            eye = np.eye(10)
            theirs += [
                independent(layers, low, high, eye[y] - eye[t], options.reference_time_limit) for t in targets_of(y)
            ]
        print(f"eps {eps:g}, image {k}: " + row(eps, NINE, answers[NINE][-9:], []), flush=True)
    rows, agree = [], True
    for side, mine in answers.items():
        # the reference's images come first
        both = [(a.value, b.value) for a, b in zip(mine, theirs) if a.closed and b.closed]
        agree &= all(abs(a - b) <= 2 * allowed(b) for a, b in both)
        rows.append(row(eps, side, mine, [abs(a - b) for a, b in both]))
    if theirs:
        rows.append(row(eps, name, theirs, []))
    return rows, agree


def row(eps: float, side: str, answers: list[Answer], differences: list[float]) -> str:
    seconds = [a.seconds for a in answers]
    difference = f"{max(differences):.1e}" if differences else "–"
    return (
        f"| {eps:g} | {side} | {sum(a.closed for a in answers)} of {len(answers)} | {statistics.median(seconds):.3f} "
        f"| {statistics.mean(seconds):.3f} | {max(seconds):.2f} | {difference} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--milp", action="store_true", help="Clinch's MILP engine alone as well")
    parser.add_argument("--reference", default="gurobi", choices=["gurobi", "scip", "none"])
    parser.add_argument("--reference-images", type=int, default=10)
    parser.add_argument("--reference-time-limit", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "margins.md")
    options = parser.parse_args()
    count_cpu_seconds()
    lines = [
        f"`min z_y − z_t` for the first {options.images} correctly classified test images and 9 targets. CPU seconds",
        f"of one thread per pair (of a batch: its ninth part); at most {options.time_limit:g} s per pair, "
        f"{options.reference_time_limit:g} s for the reference.",
        f"Closed: value and proven bound differ by at most {AGREEMENT:g} + {GAP:g}·|value|. The reference has interval",
        f"big-M; its answer is its own claim, on the first {options.reference_images} images.",
        "",
        "| eps | engine | closed | median s | mean s | worst s | largest difference where both closed |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    agree = True
    for eps in options.eps:
        rows, same = measure(options, eps)
        print(*rows, sep="\n", flush=True)
        lines, agree = [*lines, *rows], agree and same
    write_page(options.out, "Worst margins of mnist_small", lines)
    print("" if agree else "ANSWERS DIFFER")
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
