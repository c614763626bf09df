"""The portfolio beside each of its engines: ``solve`` with all of the time, engines alone with a quarter of it.

Small random problems of every kind: distances in all norms, margins, monitors, norms of activations, feasibility,
discrete inputs, disjunctions, over networks of ReLUs, convolutions, max pools, smooth functions and attention. The law:
the bound of ``solve`` after T is at least that of every engine alone after T/4, and its value at most theirs.

Ends with exit code 1 where it does not hold.

    python -m benchmarks conductor [--count 200] [--seconds 2] [--kinds NAME ...] [--runs FILE] [--out FILE]

What engines alone have found is kept in the file of runs and not made again; ``--fresh`` starts over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, table, write_page
from benchmarks.search.general_branching import Attention, Gate
from clinch.errors import UnsupportedByEngine
from clinch.search.engines import ENGINES
from clinch.solve import capabilities

TAKES = "20 minutes"
GAP = 1e-3
#: bounds that differ by less than this share of the value's size are the same
SAME = 2e-3
#: what each engine alone gets of the time
QUARTER = 0.25


class Answer(NamedTuple):
    """In the minimising sense; seconds until it ended."""

    value: float
    bound: float
    seconds: float


# --- networks -----------------------------------------------------------------------------------------------------


def dense(*sizes: int, function: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Layers of these widths with functions between."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), function()]
    return nn.Sequential(*layers[:-1])


def convolution(*, pool: bool) -> nn.Sequential:
    """A convolution of a 6 × 6 image, with max pools or a second one behind it."""
    then = nn.MaxPool2d(2) if pool else nn.Sequential(nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.ReLU())
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), then, nn.Flatten(), nn.Linear(18, 3))


def attention() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), Attention(3))


def gated() -> nn.Sequential:
    return nn.Sequential(Gate(8, 8), nn.Linear(8, 3))


class Shifts(nn.Module):
    """One perturbation of four points, and the network's scores for each."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.net, self.points = dense(inputs, 16, 3), nn.Parameter(torch.rand(4, inputs) * 0.6 + 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.points[None] + x[:, None])


# --- problems -----------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """A loaded network and a random point of its box [0, 1]."""

    net: cl.Network
    x0: Tensor
    rng: torch.Generator

    @property
    def box(self) -> list:
        return [self.net.input >= 0, self.net.input <= 1]

    @property
    def label(self) -> int:
        return int(self.net.graph.forward(self.x0.unsqueeze(0))[self.net.graph.output].argmax())

    def near(self, radius: float) -> list:
        return [self.net.input >= (self.x0 - radius).clamp(min=0), self.net.input <= (self.x0 + radius).clamp(max=1)]


def setting(model: nn.Module, shape: tuple[int, ...], seed: int, factor: float = 2.0) -> Setting:
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.mul_(factor)
    rng = torch.Generator().manual_seed(seed)
    net = cl.load(model.double().eval().requires_grad_(False), input_shape=shape)
    return Setting(net, torch.rand(shape, generator=rng, dtype=torch.float64), rng)


def nearest(at: Setting, p: float) -> cl.Problem:
    return cl.Problem(cl.Minimize(cl.norm(at.net.input - at.x0, p)), [*at.box, at.net.output.argmax() != at.label])


def largest(at: Setting, radius: float) -> cl.Problem:
    return cl.Problem(cl.Maximize(at.net.output[0] - at.net.output[1]), at.near(radius))


def within(at: Setting, radius: float, share: float) -> cl.Problem:
    """Any input at which an output passes a share of what bounds allow: rarely possible."""
    z = at.net.output
    points = at.x0 + radius * (2 * torch.rand(400, *at.x0.shape, generator=at.rng, dtype=torch.float64) - 1)
    values = at.net.graph.forward(points.clamp(0, 1))[at.net.graph.output]
    margin = values[:, 0] - values[:, 1]
    limit = float(margin.max() + share * (margin.max() - margin.median()))
    return cl.Problem(cl.Minimize(0), [*at.near(radius), z[0] - z[1] >= limit])


def monitor(at: Setting, p: float) -> cl.Problem:
    """The nearest input of the same class whose hidden activations leave the box of 30 samples."""
    layer = next(name for name in at.net.layers if name.startswith(("relu", "1")))
    samples = torch.rand(30, *at.x0.shape, generator=at.rng, dtype=torch.float64)
    (values,) = at.net.graph.forward(samples, [at.net.position(layer)]).values()
    outside = ~at.net[layer].between(values.amin(0) - 0.05, values.amax(0) + 0.05, margin=1e-3)
    same = at.net.output.argmax(margin=1e-3) == at.label
    return cl.Problem(cl.Minimize(cl.norm(at.net.input - at.x0, p)), [*at.box, same, outside])


def farthest_output(at: Setting, p: float) -> cl.Problem:
    z0 = at.net.graph.forward(at.x0.unsqueeze(0))[at.net.graph.output][0]
    return cl.Problem(cl.Maximize(cl.norm(at.net.output - z0, p)), at.near(0.2))


def levels(at: Setting) -> cl.Problem:
    """Inputs of five values each."""
    return cl.Problem(cl.Maximize(at.net.output[0] - at.net.output[1]), [*at.box, at.net.input.multiple_of(0.25)])


def binary(at: Setting) -> cl.Problem:
    x = at.net.input
    return cl.Problem(cl.Maximize(at.net.output[0]), [*at.box, x.integer(), x.sum() <= 0.5 * at.net.input.size])


def either(at: Setting) -> cl.Problem:
    z, x = at.net.output, at.net.input
    conditions = [*at.box, (z[0] >= z[1] + 0.3) | (z[2] >= z[0] + 0.3), x[0] + x[1] <= 0.8]
    return cl.Problem(cl.Minimize(cl.norm(x - at.x0, 1)), conditions)


def universal(at: Setting) -> cl.Problem:
    """The smallest perturbation that changes the class of two points; the box allows any of them."""
    d, z = at.net.input, at.net.output
    labels = at.net.graph.forward(torch.zeros_like(at.x0).unsqueeze(0))[at.net.graph.output][0].argmax(1)
    conditions = [d >= -0.2, d <= 0.2, *(z[i].argmax() != int(labels[i]) for i in range(2))]
    return cl.Problem(cl.Minimize(cl.norm(d, cl.inf)), conditions)


def _made(model: Callable[[], nn.Module], shape: tuple[int, ...], problem: Callable[..., cl.Problem], *more: float):
    return lambda seed: problem(setting(model(), shape, seed), *more)


KINDS: dict[str, Callable[[int], cl.Problem]] = {
    "linf, dense": _made(lambda: dense(12, 24, 24, 3), (12,), nearest, math.inf),
    "l2, dense": _made(lambda: dense(20, 32, 32, 4), (20,), nearest, 2.0),
    "l1, dense": _made(lambda: dense(20, 24, 24, 3), (20,), nearest, 1.0),
    "l0, dense": _made(lambda: dense(12, 16, 16, 3), (12,), nearest, 0.0),
    "l2, convolution": _made(lambda: convolution(pool=False), (1, 6, 6), nearest, 2.0),
    "linf, max pool": _made(lambda: convolution(pool=True), (1, 6, 6), nearest, math.inf),
    "margin, 4 inputs": _made(lambda: dense(4, 32, 32, 3), (4,), largest, 0.5),
    "margin, 40 inputs": _made(lambda: dense(40, 48, 3), (40,), largest, 0.5),
    "margin, deep": _made(lambda: dense(10, 16, 16, 16, 16, 3), (10,), largest, 0.3),
    "margin, max pool": _made(lambda: convolution(pool=True), (1, 6, 6), largest, 0.5),
    "margin, sigmoid": _made(lambda: dense(8, 16, 16, 3, function=nn.Sigmoid), (8,), largest, 0.3),
    "margin, GELU": _made(lambda: dense(8, 16, 16, 3, function=nn.GELU), (8,), largest, 0.3),
    "margin, attention": _made(attention, (8,), largest, 0.2),
    "linf, gate": _made(gated, (8,), nearest, math.inf),
    "feasibility, 3 inputs": _made(lambda: dense(3, 16, 16, 3), (3,), within, 0.5, 0.3),
    "feasibility, 30 inputs": _made(lambda: dense(30, 64, 3), (30,), within, 0.5, 2.5),
    "feasibility, tanh": _made(lambda: dense(8, 12, 3, function=nn.Tanh), (8,), within, 0.5, 0.6),
    "monitor, l2": _made(lambda: dense(8, 16, 3), (8,), monitor, 2.0),
    "norm of outputs": _made(lambda: dense(8, 16, 16, 3), (8,), farthest_output, math.inf),
    "five values": _made(lambda: dense(12, 24, 24, 3), (12,), levels),
    "binary": _made(lambda: dense(16, 32, 3), (16,), binary),
    "either, or": _made(lambda: dense(10, 24, 24, 3), (10,), either),
    "universal": _made(lambda: Shifts(16), (16,), universal),
}  # fmt: skip


# --- runs ---------------------------------------------------------------------------------------------------------


def solved(problem: cl.Problem, solver: str | None, seconds: float) -> Answer | None:
    """None where the engine does not take the problem."""
    began = time.process_time()
    try:
        found = problem.solve(time_limit=seconds, gap=GAP, solver=solver)
    except UnsupportedByEngine:
        return None
    sense = problem.query.sense
    value = math.inf if math.isnan(found.value) else sense * float(found.value)
    return Answer(value, sense * float(found.bound), time.process_time() - began)


def behind(whole: Answer, alone: Answer) -> float:
    """By how much the portfolio's bound is lower than an engine's, relative to the value or 0.01."""
    if alone.bound == math.inf:
        return 0.0 if whole.bound == math.inf else math.inf
    known = [abs(v) for v in (whole.value, alone.value) if math.isfinite(v)]
    if whole.bound == alone.bound:
        return 0.0
    return (alone.bound - whole.bound) / max([0.01, *known])


def worse(whole: Answer, alone: Answer) -> float:
    """By how much its value is larger."""
    if whole.value == alone.value or alone.value == math.inf:
        return 0.0
    return (whole.value - alone.value) / max(0.01, abs(alone.value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--runs", type=Path, default=Path("runs/conductor.json"))
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "conductor.md")
    options = parser.parse_args()
    count_cpu_seconds()
    names: list[str] = options.kinds
    beaten: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, list[float]] = defaultdict(list)
    closed: Counter[str] = Counter()
    broken = 0
    kept = json.loads(options.runs.read_text()) if options.runs.is_file() and not options.fresh else {}
    for number in range(options.first, options.first + options.count):
        kind = names[number % len(names)]
        torch.manual_seed(number)
        problem = KINDS[kind](number)
        whole = solved(problem, None, options.seconds)
        assert whole is not None
        ended = whole.bound == math.inf or whole.value - whole.bound <= 1.01 * max(GAP * abs(whole.value), 1e-9)
        closed[kind] += ended
        seconds[kind].append(whole.seconds)
        print(f"{number} {kind}: {whole.value:.5g} {whole.bound:.5g} {whole.seconds:.2f} s", end="", flush=True)
        failed = False
        for name in [name for name in capabilities(problem.query) if ENGINES[name].proves]:
            key = f"{number} {kind} {name} {options.seconds:g}"
            if key not in kept:
                kept[key] = solved(problem, name, QUARTER * options.seconds)
            if kept[key] is None:
                continue
            alone = Answer(*kept[key])
            low, high = behind(whole, alone), worse(whole, alone)
            mark = "" if low <= SAME and high <= SAME else " **"
            if low > SAME:
                beaten[kind][name] += 1
            if high > SAME:
                beaten[kind][f"{name} (value)"] += 1
            failed |= bool(mark)
            print(f"; {name} {alone.value:.5g} {alone.bound:.5g} {alone.seconds:.2f}{mark}", end="", flush=True)
        broken += failed
        options.runs.parent.mkdir(parents=True, exist_ok=True)
        options.runs.write_text(json.dumps(kept))
        print(flush=True)
    rows = [
        (kind, len(seconds[kind]), closed[kind], f"{statistics.median(seconds[kind]):.2f}",
         ", ".join(f"{name} {n}" for name, n in beaten[kind].items()) or "none")
        for kind in names if seconds[kind]
    ]  # fmt: skip
    lines = [
        f"`solve` has {options.seconds:g} CPU s of one thread, each engine alone a quarter of that; gap {GAP:g}.",
        f"The law is broken on **{broken} of {options.count}** problems.", "",
        *table(("kind", "problems", "closed", "CPU s, median", "engines that did better"), rows),
    ]  # fmt: skip
    print(*lines, sep="\n")
    write_page(options.out, "The portfolio beside its engines", lines)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
