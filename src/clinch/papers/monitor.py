"""The monitor problem on MNIST: the nearest input that keeps its class while a box monitor calls it invalid.

``min ‖x − x0‖₂`` where the class stays (by a margin of 1e-3), one of the 20 activations of the second hidden layer of
784-50-20-10 leaves its class's box by 1% of its range, and pixels are in [0, 1]. The question publishes no numbers: its
claims are about SciPy's solvers on the problem as one condition, with the ways that its answer proposes, and the
certified optimum that it asks for. Its network is not available either.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

import clinch as cl
from clinch import attacks
from clinch.applications.monitors import BoxMonitor, predicted
from clinch.attacks import AttackResult
from clinch.io.data import mnist
from clinch.papers.parts.figure_comparison import Group, comparison_figure
from clinch.papers.parts.reproduction import Claim, Entry, Reproduction, Table
from clinch.papers.parts.tutorial import small_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES, SECONDS, LIMIT, GAP = 5, 4.0, 60.0, 1e-3
#: images that the boxes are fitted to in the small setting
FITTED = 2000
#: the second hidden layer of the reference model
LAYER, CLASS_MARGIN = "4", 1e-3
COBYLA, SLSQP, SHGO, EVOLUTION = "COBYLA", "SLSQP", "SHGO", "differential evolution"
ENGINES = {COBYLA: "cobyla_whole", SLSQP: "slsqp_whole", SHGO: "shgo", EVOLUTION: "differential_evolution"}
LOCAL, GLOBAL = (COBYLA, SLSQP), (SHGO, EVOLUTION)
PENALTY, BISECTION, SELECTIVE, ORTHOGONAL, OURS, EXACT = (
    "penalty", "PGD + bisection", "selective PGD", "orthogonal PGD", "Clinch's attack", "certified optimum",
)  # fmt: skip
WAYS: dict[str, Callable[..., AttackResult]] = {
    PENALTY: attacks.penalty,
    BISECTION: attacks.bisection,
    SELECTIVE: partial(attacks.bisection, rule="selective"),
    ORTHOGONAL: partial(attacks.bisection, rule="orthogonal"),
}
#: two distances further apart than this are different results
DIFFERENT = 0.01
#: of distances in float32
ROUNDING = 1e-6


@dataclass(frozen=True)
class Outcome:
    """One image: distances by method, infinity where nothing was found, the proven lower limit, CPU seconds."""

    values: dict[str, float]
    bound: float
    seconds: dict[str, float]


def run(*, seed: int, quick: bool, note: Callable[[str], None]) -> Reproduction:
    """Everything; see :func:`clinch.study.reproduce`."""
    net, count, limit = small_network(), 1 if quick else IMAGES, 0.3 if quick else SECONDS
    train = mnist("train", few=quick).x
    monitor = BoxMonitor.fit(net, LAYER, train[:FITTED] if quick else train)
    points, found = mnist("test", few=True).x[:count], []
    for k, (x0, label) in enumerate(zip(points, predicted(net, points).tolist())):
        note(f"image {k + 1} of {count}")
        x, z = net.input, net.output
        rejected = [x >= 0, x <= 1, z.argmax(margin=CLASS_MARGIN) == label, monitor.outside(net, label)]
        found.append(_solved(cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), rejected), limit, seed, quick))
    return Reproduction(
        "monitor", "L2 norm optimization problem (Computer Science Stack Exchange)",
        f"784-50-20-10, the first {count} MNIST test images, boxes around the activations of the training images; "
        f"SciPy's solvers have {limit:g} s per image. The question publishes no numbers.",
        (_table(found),), tuple(_claims(found)), _figure(found),
    )  # fmt: skip


def _solved(problem: cl.Problem, limit: float, seed: int, quick: bool) -> Outcome:
    values, seconds = {}, {}

    def timed(name: str, method: Callable[[], float | Tensor]) -> None:
        begun = time.process_time()
        values[name] = float(method())
        seconds[name] = time.process_time() - begun

    for name, engine in ENGINES.items():
        timed(name, lambda engine=engine: problem.solve(solver=engine, time_limit=limit, seed=seed).value)
    for name, way in WAYS.items():
        way = partial(way, steps=10, rounds=1) if quick else way
        timed(name, lambda way=way: way(problem).value[0])
    timed(OURS, lambda: problem.solve(solver="attack", time_limit=limit, seed=seed).value)
    begun = time.process_time()
    exact = problem.solve(gap=GAP, time_limit=3.0 if quick else LIMIT, seed=seed)
    values[EXACT], seconds[EXACT] = float(exact.value), time.process_time() - begun
    return Outcome(values, float(exact.bound), seconds)


def _excess(found: list[Outcome], name: str) -> list[float]:
    """How far the distances lie over the proven limit, relative to it, where something was found."""
    pairs = [(o.values[name], o.bound) for o in found]
    return [v / b - 1 for v, b in pairs if math.isfinite(v) and b > 0]


def _table(found: list[Outcome]) -> Table:
    rows: list[tuple[Entry, ...]] = []
    for name in found[0].values:
        cells = [o.values[name] if math.isfinite(o.values[name]) else None for o in found]
        excess = _excess(found, name)
        mean = 100 * statistics.mean(excess) if excess else None
        rows.append((name, *cells, mean, statistics.median(o.seconds[name] for o in found)))
    bounds = tuple(o.bound for o in found)
    rows.append(("proven: nothing is nearer than", *bounds, None, None))
    heads = ("method", *(f"image {k}" for k in range(len(found))), "mean excess %", "median CPU s")
    return Table("Smallest distances found", heads, tuple(rows), digits=5)


def _claims(found: list[Outcome]) -> list[Claim]:
    counts = {name: sum(math.isfinite(o.values[name]) for o in found) for name in found[0].values}
    n = len(found)

    def score(name: str) -> tuple[int, float]:
        excess = _excess(found, name)
        return (-counts[name], statistics.mean(excess) if excess else math.inf)

    best = min(ENGINES, key=score)
    scipy = ", ".join(f"{name} {counts[name]} of {n}" for name in ENGINES)
    differ = [_differ(o) for o in found]
    over = max((max(_excess(found, name), default=0.0) for name in (*WAYS, OURS)), default=0.0)
    below = min(v - o.bound for o in found for v in o.values.values())
    closed = sum(v - o.bound <= 2 * GAP * v for o in found for v in [o.values[EXACT]])
    wins = all(counts[w] == n for w in WAYS)
    return [
        Claim.that("Local and global solvers give different results", any(differ), f"on {sum(differ)} of {n} images"),
        Claim.that("SHGO performs best of SciPy's four solvers", best == SHGO and counts[best] > 0,
                   f"found something: {scipy}; best is {best if counts[best] else 'none'}"),
        Claim.that("SciPy's solvers do not always converge", any(counts[name] < n for name in ENGINES), scipy),
        Claim.that("The answer's ways (penalty, PGD with bisection, orthogonal) find an input on every image", wins,
                   ", ".join(f"{w} {counts[w]} of {n}" for w in WAYS)),
        Claim.that("Orthogonal PGD is the better way: nearer than penalty and plain PGD on average",
                   score(ORTHOGONAL) < min(score(PENALTY), score(BISECTION)),
                   ", ".join(f"{w} {100 * score(w)[1]:.2f}%" for w in WAYS) + " over the proven limit"),
        Claim.that("A global solver can say how good a local solution is: the optimum is certified", closed == n,
                   f"{closed} of {n} within a gap of {GAP:g}; the answer's ways are at most {100 * over:.1f}% above"),
        Claim.that("Nothing lies below what is proven (ours)", below >= -ROUNDING, f"{below:.1e} at least"),
    ]  # fmt: skip


def _differ(o: Outcome) -> bool:
    """Whether a local and a global solver end apart: at other distances, or one of them without any."""
    one, two = (min(o.values[name] for name in group) for group in (LOCAL, GLOBAL))
    if math.isinf(one) or math.isinf(two):
        return math.isinf(one) != math.isinf(two)
    return abs(one - two) > DIFFERENT * min(one, two)


def _figure(found: list[Outcome]) -> Figure:
    names = tuple(found[0].values)
    values = tuple(tuple(100 * e for e in _excess(found, name)) for name in names)
    group = Group(
        "784-50-20-10", "above the proven limit, %\n(left end: 0.01% or less; no mark: nothing found)", names, values,
        emphasis="mean", single="single images", floor=1e-2,
    )  # fmt: skip
    return comparison_figure([group], "The nearest input that the monitor rejects")
