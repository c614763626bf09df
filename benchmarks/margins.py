"""Worst margins of a small MNIST network, beside an independent mixed-integer program.

For the first 10 correctly classified test images and each of the 9 other classes: ``min z_y − z_t`` over
``‖x − x0‖_∞ <= eps`` and ``0 <= x <= 1``. Clinch solves it as a problem (as ``solve`` chooses, and with its MILP engine
alone); the reference is written directly for Gurobi (its free wheel is large enough) or, where that is missing, for
SCIP. The reference shares nothing with Clinch but the weights: bounds, encoding and solver are its own.

Ends with exit code 1 if two closed answers differ by more than 1e-5.

    python benchmarks/margins.py [--images 10] [--eps 0.02 0.05] [--time-limit 60]

Writes benchmarks/results/margins.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import platform
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
from clinch.data import mnist, model_file

Layers = list[tuple[np.ndarray, np.ndarray]]
#: what two closed answers may differ by; Clinch's counts as closed when its value and bound are this near
AGREEMENT = 1e-5
#: relative gap at which Clinch may stop early: margins reach 30, so that 1e-6 would leave more than the agreement
GAP = 1e-7
RESULTS = Path(__file__).parent / "results" / "margins.md"


@dataclass
class Answer:
    value: float
    closed: bool
    seconds: float


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

    began = time.perf_counter()
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
            return Answer(model.ObjVal if model.SolCount else np.inf, closed, time.perf_counter() - began)


def scip(layers: Layers, lower: np.ndarray, upper: np.ndarray, row: np.ndarray, time_limit: float) -> Answer:
    from pyscipopt import Model, quicksum

    began = time.perf_counter()
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
    return Answer(value, model.getStatus() == "optimal", time.perf_counter() - began)


def reference() -> tuple[str, Callable[[Layers, np.ndarray, np.ndarray, np.ndarray, float], Answer]]:
    if importlib.util.find_spec("gurobipy"):
        import gurobipy

        return f"Gurobi {'.'.join(map(str, gurobipy.gurobi.version()))}", gurobi
    if importlib.util.find_spec("pyscipopt"):
        return "SCIP", scip
    raise SystemExit("The reference needs Gurobi or SCIP: pip install gurobipy==13.0.3, or pip install pyscipopt")


# --- Clinch ---------------------------------------------------------------------------------------------------------


def clinch(net: cl.Network, x0: torch.Tensor, y: int, t: int, eps: float, limit: float, solver: str | None) -> Answer:
    x, z = net.input, net.output
    problem = cl.Problem(cl.Minimize(z[y] - z[t]), [x >= 0, x <= 1, cl.norm(x - x0, cl.inf) <= eps])
    began = time.perf_counter()
    s = problem.solve(time_limit=limit, gap=GAP, solver=solver)
    return Answer(float(s.value), float(s.value - s.bound) <= AGREEMENT, time.perf_counter() - began)


def correct_images(model: torch.nn.Module, count: int) -> list[tuple[torch.Tensor, int]]:
    x, y = mnist("test")
    with torch.no_grad():
        right = (model(x[: 20 * count]).argmax(1) == y[: 20 * count]).nonzero().flatten()[:count]
    return [(x[i], int(y[i])) for i in right.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.02, 0.05])
    parser.add_argument("--time-limit", type=float, default=60.0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model, layers = load_network()
    net = cl.load(model, input_shape=(1, 28, 28))
    name, independent = reference()
    sides = {"Clinch": None, "Clinch, MILP engine alone": "milp"}
    lines = [
        f"# Worst margins of mnist_small: Clinch beside {name}", "",
        f"`min z_y − z_t` for the first {chosen.images} correctly classified test images and 9 targets, one thread,",
        f"at most {chosen.time_limit:g} s per problem. Clinch counts as closed when value and proven bound differ",
        f"by at most {AGREEMENT:g}. The reference uses interval big-M.",
        f"Python {platform.python_version()}, {platform.machine()}.", "",
        "| eps | engine | closed | median s | mean s | largest difference where both closed |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    worst = 0.0
    for eps in chosen.eps:
        answers: dict[str, list[Answer]] = {side: [] for side in (*sides, name)}
        for x0, y in correct_images(model, chosen.images):
            exact = x0.double()
            low, high = ((exact + shift).clamp(0, 1).flatten().numpy() for shift in (-eps, eps))
            for t in set(range(10)) - {y}:
                row = np.eye(10)[y] - np.eye(10)[t]
                answers[name].append(independent(layers, low, high, row, chosen.time_limit))
                for side, solver in sides.items():
                    answers[side].append(clinch(net, exact, y, t, eps, chosen.time_limit, solver))
        for side, mine in answers.items():
            both = [abs(a.value - b.value) for a, b in zip(mine, answers[name]) if a.closed and b.closed]
            worst = max([worst, *both])
            seconds = [a.seconds for a in mine]
            difference = "–" if side == name else f"{max(both, default=float('nan')):.1e}"
            lines.append(
                f"| {eps:g} | {side} | {sum(a.closed for a in mine)} of {len(mine)} | {statistics.median(seconds):.2f} "
                f"| {statistics.mean(seconds):.2f} | {difference} |"
            )
            print(lines[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")
    print(f"Written to {RESULTS.relative_to(Path(__file__).parent.parent)}")
    sys.exit(0 if worst <= AGREEMENT else 1)


if __name__ == "__main__":
    main()
