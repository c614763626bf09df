"""Splits of layers beside splits of the input, on networks of smooth functions, products and attention.

The largest output over a box, for random networks (torch's own initial weights, times a factor): two layers of 16 units
of one function, gates, and softmax attention. Each is solved by general splitting with and without splits of layers, by
splitting the input with CROWN, and as ``solve`` chooses; all start from the same quick attack.

Ends with exit code 1 where a bound lies below another engine's value.

    python -m benchmarks general_branching [--networks NAME ...] [--seconds 15] [--out FILE]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, table, write_page
from clinch.search.engines import ENGINES
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Attack, GeneralSplit, InputSplit

TAKES = "8 minutes"
GAP = 1e-3


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Gate(nn.Module):
    """``(W x + b) ⊙ σ(V x + c)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * torch.sigmoid(self.gate(x))


class Attention(nn.Module):
    """Softmax attention of 4 tokens of 4 numbers, and a dense layer behind it."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.last = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, 4, 4)
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2) / 2
        return self.last((torch.softmax(scores, 2) @ self.value(tokens)).flatten(1))


def layered(function: Callable[[Tensor], Tensor], width: int = 16) -> Callable[[int], nn.Module]:
    """Two layers of a function; width is that of what it returns for 16 units."""
    return lambda n: nn.Sequential(
        nn.Linear(n, 16), Function(function), nn.Linear(width, 16), Function(function), nn.Linear(width, 3)
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "GELU": layered(functional.gelu), "SiLU": layered(functional.silu), "tanh": layered(torch.tanh),
    "sigmoid": layered(torch.sigmoid), "softplus": layered(functional.softplus), "sin": layered(torch.sin),
    "gate": lambda n: nn.Sequential(Gate(n, 16), Gate(16, 16), nn.Linear(16, 3)), "GLU": layered(functional.glu, 8),
    "attention": lambda n: nn.Sequential(nn.Linear(n, 16), Attention(3)) if n != 16 else Attention(3),
    "ReLU, tanh, max pool": lambda n: nn.Sequential(
        nn.Linear(n, 32), nn.ReLU(), Function(lambda x: functional.max_pool1d(x.unsqueeze(1), 2).squeeze(1)),
        nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3),
    ),
}  # fmt: skip


class Case(NamedTuple):
    """A network of n inputs, its weights times a factor, and the radius of the box."""

    model: str
    inputs: int
    factor: float
    radius: float


CASES = [
    *(Case(model, 8, 1.0, 0.3) for model in MODELS), Case("attention", 16, 1.0, 0.3),
    *(Case(model, 8, 2.0, 0.3) for model in ("GELU", "tanh", "sin", "gate", "GLU", "ReLU, tanh, max pool")),
    *(Case(model, 24, 2.0, 0.1) for model in ("GELU", "tanh", "sigmoid", "gate", "GLU", "ReLU, tanh, max pool")),
]  # fmt: skip

ENGINE: dict[str, tuple[str, GeneralSplit | InputSplit]] = {
    "layers and inputs": ("general_split", GeneralSplit()),
    "inputs, the same bounds": ("general_split", GeneralSplit(nodes=False)),
    "inputs, CROWN": ("input_split", InputSplit()),
}


class Answer(NamedTuple):
    """Value, bound (of the largest output), CPU seconds, and parts that were bounded."""

    value: float
    bound: float
    seconds: float
    parts: int | None


def problem_of(case: Case) -> cl.Problem:
    torch.manual_seed(0)
    model = MODELS[case.model](case.inputs).double().eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.mul_(case.factor)
    shape = (case.inputs,)
    net = cl.load(model, input_shape=shape)
    x0 = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return cl.Problem(cl.Maximize(net.output[0]), [net.input >= x0 - case.radius, net.input <= x0 + case.radius])


def by_engine(problem: cl.Problem, name: str, settings: GeneralSplit | InputSplit, seconds: float) -> Answer:
    """One engine, after a quick attack."""
    began = time.process_time()
    ledger = Ledger(problem.query, time_limit=seconds, gap=GAP)
    ENGINES["attack"].run(problem.query, ledger, 0, Attack(thorough=False))
    search = ENGINES[name].begin(problem.query, ledger, settings)  # type: ignore[attr-defined]
    search.run()
    parts = 0 if search.tree is None else int(search.tree.bounded.sum())
    return Answer(-float(ledger.value), -float(ledger.bound), time.process_time() - began, parts)


def as_solve(problem: cl.Problem, seconds: float) -> Answer:
    began = time.process_time()
    solution = problem.solve(time_limit=seconds, gap=GAP)
    return Answer(float(solution.value), float(solution.bound), time.process_time() - began, None)


def measure(case: Case, seconds: float) -> tuple[list[tuple], bool]:
    """Rows of the table, and whether no bound lies below a value."""
    problem = problem_of(case)
    answers = {side: by_engine(problem, name, chosen, seconds) for side, (name, chosen) in ENGINE.items()}
    answers["solve"] = as_solve(problem, seconds)
    sound = all(a.bound >= b.value - 1e-6 for a, b in itertools.product(answers.values(), repeat=2))
    rows = []
    for side, a in answers.items():
        gap = a.bound - a.value
        closed = gap <= GAP * abs(a.value) + 1e-9
        named = f"{case.model}, {case.inputs}, {case.factor:g}, {case.radius:g}"
        rows.append((named, side, "yes" if closed else "no", f"{gap:.1e}", f"{a.seconds:.2f}", a.parts))
    return rows, sound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "general_branching.md")
    options = parser.parse_args()
    count_cpu_seconds()
    rows, sound = [], True
    for case in CASES:
        if case.model in options.networks:
            found, holds = measure(case, options.seconds)
            print(*found, sep="\n", flush=True)
            rows, sound = [*rows, *found], sound and holds
    lines = [
        "The largest output of a random network over a box: kind, inputs, factor of torch's initial weights, radius.",
        f"CPU seconds of one thread, at most {options.seconds:g}; closed: bound minus value at most {GAP:g} of it.",
        "*Layers and inputs* is `general_split`; *inputs, the same bounds* is `general_split` with `nodes=False`;",
        "*inputs, CROWN* is `input_split`. The first three begin with a quick attack; `solve` is what users get.",
        "",
        *table(("network", "splits", "closed", "gap", "CPU s", "parts"), rows),
    ]
    write_page(options.out, "Splits of layers and of inputs", lines)
    print("" if sound else "A BOUND LIES BELOW A VALUE")
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
