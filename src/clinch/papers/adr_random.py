"""Random networks maximised over a box: Yu and Gao 2024, section 6.4, and the example of its authors' program.

Yu and Gao 2024 (arXiv 2406.00494). Each method has as many gradients as five runs of activation descent from the middle
of the box that differ in their noise; gradient ascent is published as one run's last point. The symbols of ablations M1
and M2 are lost in the text at hand: M1 is read as the objective's gradient on the patterns detached, M2 as the
consistency loss's gradient on the input.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

import clinch as cl
from clinch.attacks import minimise_by_activation_descent
from clinch.attacks.activation_steps import LARGE, SMALL, PatternSettings
from clinch.papers.parts.box_rivals import (
    gradient_ascent,
    lbfgs_ascent,
    maximum_over_box,
    multi_start,
)
from clinch.papers.parts.figure_comparison import Group, comparison_figure
from clinch.papers.parts.random_network import random_network
from clinch.papers.parts.reproduction import Claim, Reproduction, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: ablation -> the switch that is off
ABLATIONS = {
    "M1": "output_moves_patterns", "M2": "consistency_moves_input", "M3": "normalise", "M4": "perturb",
}  # fmt: skip
ASCENT, BEST, PERTURBED = "gradient ascent, last point", "gradient ascent, best point", "perturbed gradient ascent"
ADR, MULTI, LBFGS, DEFAULT = "ADR-GD, best of five", "multi-start projected gradient", "L-BFGS", "Clinch's default"
SHRINKING = "ADR-GD, shrinking steps"
METHODS = (ASCENT, BEST, PERTURBED, ADR, *(f"ADR-GD, {m}" for m in ABLATIONS), SHRINKING, MULTI, LBFGS, DEFAULT)
#: published length of a step; runs that differ in their noise
STEP, RUNS = 0.5, 5
#: last step of the variant whose steps shrink, in first ones, which is ours
LAST = 0.02


@dataclass(frozen=True)
class Kind:
    """Networks of one size: layer widths, the authors' seed, settings, published values and those to reach, how many
    further seeds, and on how many networks the ablations and L-BFGS run, which take the longest."""

    title: str
    widths: tuple[int, ...]
    seed: int
    settings: PatternSettings
    published: dict[str, float]
    asked: dict[str, float]
    more: int
    ablated: int
    steps: int = 3000


KINDS = (
    Kind("small, 10-64-64-1", (10, 64, 64, 1), 337550, SMALL, {ASCENT: 19.96, ADR: 24.84},
         {ADR: 24.84, DEFAULT: 24.861}, more=20, ablated=5),
    Kind("large, 128-500-500-500-1", (128, 500, 500, 500, 1), 499777, LARGE, {ASCENT: 31236.5, ADR: 34681.1},
         {ADR: 34400.0, DEFAULT: 35850.0}, more=4, ablated=1),
)  # fmt: skip
QUICK = (
    replace(KINDS[0], more=1, ablated=1, steps=60),
    replace(KINDS[1], more=0, ablated=0, steps=8),
)
#: seconds for the certified interval of each published seed
BOUND_SECONDS = 60.0
#: what may be missing for a network to count as closed
CLOSE = 1e-4
#: fewest seconds of Clinch's default
SHORTEST = 1.0


@dataclass
class Outcome:
    """Values of all methods on one network, those of the five runs, CPU seconds, and the proven limit."""

    seed: int
    values: dict[str, float]
    runs: tuple[float, ...]
    seconds: dict[str, float]
    limit: float = math.inf


def run(*, seed: int, quick: bool, note: Callable[[str], None]) -> Reproduction:
    """Everything; see :func:`clinch.study.reproduce`."""
    outcomes: list[tuple[Kind, list[Outcome]]] = []
    for kind in QUICK if quick else KINDS:
        seeds = [kind.seed, *range(seed + 1, seed + 1 + kind.more)]
        found = []
        for k, network_seed in enumerate(seeds):
            note(f"{kind.title}, network {k + 1} of {len(seeds)}")
            limit = (0.5 if quick else BOUND_SECONDS) if k == 0 else 0.0
            found.append(_network(kind, network_seed, seed, k < kind.ablated, limit))
        outcomes.append((kind, found))
    tables = [_table(kind, found) for kind, found in outcomes]
    claims = [claim for kind, found in outcomes for claim in _claims(kind, found)]
    return Reproduction(
        "adr-random", "Yu and Gao 2024 (arXiv 2406.00494), section 6.4",
        f"Largest output over [−1, 1]^n; published seeds and {' and '.join(str(k.more) for k, _ in outcomes)} more; "
        f"{RUNS} runs of {outcomes[0][0].steps} steps and the same number of gradients for every other method.",
        tuple(tables), tuple(claims), _figure(outcomes),
    )  # fmt: skip


def _network(kind: Kind, network_seed: int, seed: int, ablate: bool, bound_seconds: float) -> Outcome:
    net = cl.load(random_network(network_seed, kind.widths), input_shape=(kind.widths[0],))
    problem, steps = maximum_over_box(net), kind.steps
    gradients, middle = 2 * RUNS * steps, torch.zeros(RUNS, *net.input_shape)
    begun, wall = time.process_time(), time.monotonic()
    runs = _descents(problem, kind.settings, steps, seed)
    wall = time.monotonic() - wall
    found = Outcome(network_seed, {ADR: max(runs)}, runs, {ADR: time.process_time() - begun})

    def timed(name: str, method: Callable[[], float]) -> None:
        start = time.process_time()
        found.values[name] = method()
        found.seconds[name] = time.process_time() - start

    plain = gradient_ascent(net, middle[:1], steps, STEP)
    found.values |= {ASCENT: float(plain.last), BEST: float(plain.best)}
    timed(PERTURBED, lambda: float(gradient_ascent(net, middle, 2 * steps, STEP, noise=STEP, seed=seed).best.max()))
    for name, switch in ABLATIONS.items() if ablate else ():
        settings = replace(kind.settings, **{switch: False})
        timed(f"ADR-GD, {name}", lambda settings=settings: max(_descents(problem, settings, steps, seed)))
    timed(MULTI, lambda: multi_start(net, gradients, seed))
    if ablate:
        timed(SHRINKING, lambda: max(_descents(problem, kind.settings, steps, seed, LAST)))
        timed(LBFGS, lambda: lbfgs_ascent(net, gradients, seed))
    timed(DEFAULT, lambda: float(problem.solve(time_limit=max(wall, SHORTEST), seed=seed).value))
    if bound_seconds:
        found.limit = float(problem.solve(time_limit=bound_seconds, seed=seed).bound)
    return found


def _descents(
    problem: cl.Problem, settings: PatternSettings, steps: int, seed: int, last: float = 1.0
) -> tuple[float, ...]:
    """Values of five runs from the middle of the box, each with noise of its own."""
    five = problem.query.take(torch.zeros(RUNS, dtype=torch.long))
    found = minimise_by_activation_descent(
        five, steps=steps, starts=1, step_size=STEP, last=last, settings=settings, seed=seed
    )
    return tuple((-found.value).tolist())


def _table(kind: Kind, found: list[Outcome]) -> Table:
    """The published network, theirs beside ours with what is proven, and what is missing on average over all."""
    first, rows = found[0], []
    for method in METHODS:
        missed = shortfalls(found, method)
        mean = 100 * sum(missed) / len(missed) if missed else None
        close = f"{sum(m <= CLOSE for m in missed)} of {len(missed)}"
        values = kind.published.get(method), first.values.get(method), first.seconds.get(method)
        rows.append((method, *values, None if mean is None else round(mean, 3), close))
    rows.append(("proven: no input gives more than", None, first.limit, None, None, None))
    columns = (
        "method", f"published, seed {kind.seed}", "ours", "CPU s", "missing to the best value found, mean %", "closed",
    )  # fmt: skip
    return Table(f"{kind.title}: seed {kind.seed} and {kind.more} more", columns, tuple(rows), digits=6)


def shortfalls(found: list[Outcome], method: str) -> list[float]:
    """By how much a method misses the best value of any method, relative to it, on the networks it ran on."""
    best = [max(*o.values.values(), *o.runs) for o in found]
    return [(b - o.values[method]) / abs(b) for b, o in zip(best, found) if method in o.values]


def _claims(kind: Kind, found: list[Outcome]) -> list[Claim]:
    """What the paper says, what is asked of us, and what a strong baseline makes of it."""
    first, size = found[0], kind.title.partition(",")[0]

    def mean(method: str, among: list[Outcome]) -> float:
        missed = shortfalls(among, method)
        return sum(missed) / len(missed)

    def against(text: str, other: str) -> Claim:
        both = [o for o in found if other in o.values]
        ours, theirs = mean(ADR, both), mean(other, both)
        reason = f"mean shortfall {ours:.3%} against {theirs:.3%} on {len(both)} networks"
        return Claim.that(f"{size}: {text}", ours < theirs, reason)

    published = [
        Claim.that(
            f"{size}: {m} reaches {asked:g} on seed {kind.seed}", first.values[m] >= asked, f"{first.values[m]:.8g}"
        )
        for m, asked in kind.asked.items()
    ]
    rivals = [
        against("ADR-GD finds more than gradient ascent's last point", ASCENT),
        against("ADR-GD finds more than gradient ascent's best point", BEST),
        against("ADR-GD finds more than perturbed gradient ascent", PERTURBED),
    ]
    parts = [
        against(f"ADR-GD finds more than without its part {m}", f"ADR-GD, {m}")
        for m in ABLATIONS if f"ADR-GD, {m}" in first.values
    ]  # fmt: skip
    strong = [
        against("ADR-GD finds more than multi-start projected gradient at equal gradients", MULTI),
        against("ADR-GD finds more than Clinch's default in the same time", DEFAULT),
    ]
    if LBFGS in first.values:
        strong.append(against("ADR-GD finds more than L-BFGS at equal gradients", LBFGS))
    return [*published, *rivals, *parts, *strong]


def _figure(outcomes: list[tuple[Kind, list[Outcome]]]) -> Figure:
    groups = []
    for kind, found in outcomes:
        values = tuple(tuple(100 * m for m in shortfalls(found, method)) for method in METHODS)
        best = max(*found[0].values.values(), *found[0].runs)
        theirs = [kind.published.get(m) for m in METHODS]
        marks = tuple(None if t is None else 100 * (best - t) / best for t in theirs)
        groups.append(
            Group(kind.title, "missing to the best value found, %\n(left end: 0.001% or less)", METHODS, values, marks,
                  "mean", "single networks", floor=1e-3)
        )  # fmt: skip
    return comparison_figure(groups, "The largest output of random networks")
