"""Exact worst margins of Kolter and Madry's tutorial by mixed-integer programming, one image, every target.

``min z_y − z_t`` over ``‖x − x0‖_∞ <= ε`` and the range of pixels, by Clinch's ``milp`` engine (HiGHS, kinks that CROWN
leaves open as binaries), where the tutorial has Gurobi, interval limits and a binary for each of the 70 units. Beside
it Clinch's own search, all nine targets as one batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clinch.modeling.model import SymbolicNetwork
from clinch.papers.parts.figure_comparison import Group, comparison_figure
from clinch.papers.parts.reproduction import CANNOT, Claim, Entry, Reproduction, Table
from clinch.papers.parts.tutorial import (
    LABEL,
    SOURCE,
    TARGETS,
    WEIGHTS,
    image,
    margins,
    small_network,
    worst_margin,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: published optima for targets 0 … 9 without the label
PUBLISHED = {
    0.05: (5.8100, 10.8362, 2.0393, 0.0189, 13.5284, 5.1461, 20.4544, 3.5429, 4.2740),
    0.1: (-2.5450, 3.0434, -4.9661, -7.3098, 4.7410, -4.8706, 7.9804, -6.9536, -3.3144),
}
#: the target whose solve is said to take less than a second, and its radius
TIMED, TIMED_EPS, SECOND = 2, 0.1, 1.0
LIMIT, QUICK, GAP = 150.0, 20.0, 1e-6
#: float32 activations of the network against the program's float64
ROUNDING = 1e-3


@dataclass(frozen=True)
class Outcome:
    """For each target: the program's value, bound and CPU seconds, the network's own margin at its point, and value and
    bound of Clinch's search, with its CPU seconds for all targets."""

    value: Tensor
    bound: Tensor
    seconds: Tensor
    forward: Tensor
    search_value: Tensor
    search_bound: Tensor
    search_seconds: float

    @property
    def closed(self) -> Tensor:
        """Where value and bound of the program have met."""
        near = self.value - self.bound <= GAP * self.value.abs().clamp(min=1) + ROUNDING
        return near & self.value.isfinite()

    @property
    def searched(self) -> Tensor:
        """Where value and bound of the search have met."""
        return self.search_value - self.search_bound <= ROUNDING


def run(*, seed: int, quick: bool, note: Callable[[str], None]) -> Reproduction:
    """Everything; see :func:`clinch.study.reproduce`."""
    net, x0, found = small_network(), image(), {}
    for eps in (0.05,) if quick else PUBLISHED:
        note(f"ε = {eps:g}")
        found[eps] = _solved(net, x0, eps, seed, QUICK if quick else LIMIT)
    return Reproduction(
        "tutorial-milp", SOURCE,
        f"The first MNIST test image, a {LABEL}; 784-50-20-10 trained here by the tutorial's recipe; HiGHS to a "
        f"relative gap of {GAP:g}, at most {QUICK if quick else LIMIT:g} s per target.",
        tuple(_table(eps, o) for eps, o in found.items()), tuple(_claims(found)), _figure(found),
    )  # fmt: skip


def _solved(net: SymbolicNetwork, x0: Tensor, eps: float, seed: int, limit: float) -> Outcome:
    rows, columns = margins(), []
    # one program for each target, as in the tutorial: a solver of programs takes one at a time
    for row in rows:
        begun = time.process_time()
        s = worst_margin(net, x0[0], row, eps).solve(solver="milp", time_limit=limit, gap=GAP, seed=seed)
        seconds = time.process_time() - begun
        with torch.no_grad():
            z = net.graph.forward(s.x.float().unsqueeze(0))[net.graph.output][0].double()
        columns.append((float(s.value), float(s.bound), seconds, float(row @ z)))
    begun = time.process_time()
    s = worst_margin(net, x0[0], rows, eps).solve(time_limit=limit * len(rows), gap=GAP, seed=seed)
    spent = time.process_time() - begun
    value, bound, cpu, forward = torch.tensor(columns, dtype=torch.float64).unbind(1)
    return Outcome(
        value,
        bound,
        cpu,
        forward,
        torch.as_tensor(s.value, dtype=torch.float64),
        torch.as_tensor(s.bound, dtype=torch.float64),
        spent,
    )


def _table(eps: float, o: Outcome) -> Table:
    columns = (o.value, o.bound, o.forward, o.seconds, o.search_value, o.search_bound)
    rows: tuple[tuple[Entry, ...], ...] = tuple(zip(TARGETS, PUBLISHED[eps], *(c.tolist() for c in columns)))
    heads = ("target", "published", "MILP", "proven", "network", "CPU s", "search", "proven")
    return Table(f"Worst margins, ε = {eps:g} (search: {o.search_seconds:.2f} CPU s for all)", heads, rows, digits=5)


def _claims(found: dict[float, Outcome]) -> list[Claim]:
    claims = []
    for eps, o in found.items():
        ours = " ".join(f"{v:.2f}" for v in o.value.tolist())
        theirs = " ".join(f"{v:.2f}" for v in PUBLISHED[eps])
        claims.append(Claim(f"ε = {eps:g}: the optima are {theirs}", CANNOT, f"{WEIGHTS}; ours: {ours}"))
        claims.append(
            Claim.that(
                f"ε = {eps:g}: every target is solved to its optimum", bool(o.closed.all()),
                f"{int(o.closed.sum())} of {len(TARGETS)}; Clinch's search {int(o.searched.sum())}",
            )
        )  # fmt: skip
        # the value is the network's already; the bound of a closed solve is the program's own optimum
        apart = float((o.forward - o.bound)[o.closed].abs().max()) if bool(o.closed.any()) else float("inf")
        text = f"ε = {eps:g}: the network gives the program's own optimum at its solutions"
        claims.append(Claim.that(text, apart <= ROUNDING, f"{apart:.1e} apart at most"))
        both = o.closed & o.searched
        apart = float((o.value - o.search_value)[both].abs().max()) if bool(both.any()) else float("inf")
        text = f"ε = {eps:g}: Clinch's search finds the same optima, where both are closed (ours)"
        claims.append(Claim.that(text, apart <= ROUNDING, f"{apart:.1e} apart at most, on {int(both.sum())}"))
    lowest = float(found[0.05].bound.min())
    claims.append(Claim.that("ε = 0.05: certified, no other class is possible", lowest > 0, f"proven {lowest:.4f}"))
    if TIMED_EPS in found:
        o = found[TIMED_EPS]
        most, least = float(o.bound.max()), float(o.value.min())
        claims.append(Claim.that("ε = 0.1: there are adversarial examples", least < 0, f"margin {least:.3f}"))
        claims.append(Claim.that("ε = 0.1: some class cannot be reached", most > 0, f"proven {most:.3f}"))
        seconds = float(o.seconds[TARGETS.index(TIMED)])
        text = f"{LABEL}→{TIMED} at ε = {TIMED_EPS:g} takes less than a second"
        claims.append(Claim.that(text, seconds < SECOND, f"{seconds:.2f} CPU s with HiGHS; the tutorial has Gurobi"))
    return claims


def _figure(found: dict[float, Outcome]) -> Figure:
    names = tuple(f"{LABEL}→{t}" for t in TARGETS)
    groups = [
        Group(f"ε = {eps:g}", "worst margin (below 0: adversarial)", names, tuple((v,) for v in o.value.tolist()),
              PUBLISHED[eps])
        for eps, o in found.items()
    ]  # fmt: skip
    return comparison_figure(groups, "Exact worst margins of the first test image")
