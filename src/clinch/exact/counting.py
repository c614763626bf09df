"""Fewest changed elements (p = 0): a search over the convex envelope of the count, lifted to whole numbers.

Over the box ``l <= x <= u`` the weighted count is at least a weighted ℓ1 distance,

    ‖w ⊙ (x − c)‖_0  >=  Σ_i w_i |x_i − c_i| / r_i,    r_i = max(u_i − c_i, c_i − l_i),

with equality at corners; images have most of their pixels at a limit, where sparse points are corners. Unlike the count
the distance is convex: branch and bound closes it, its leaves are linear programs, and its bound b proves a count of at
least ``⌈b⌉`` where all weights are whole. What that leaves open is settled by branching over single elements, which
stay at their centre or are paid for in full.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.errors import UnsupportedByEngine
from clinch.exact.branch_and_bound import branch_and_bound
from clinch.geometry.region import Ball, Region
from clinch.ledger import Ledger
from clinch.query import Distance, Query
from clinch.solution import Proof

WHO = "count"
#: by how much a bound may pass a whole number through rounding alone
ALLOWANCE = 1e-6
#: parts of the search that are split at once
BATCH = 4
#: an element that is moved by this share of its room, or by all but this share, needs no branch
SHARE = 1e-6


def fewest_changes(query: Query, ledger: Ledger) -> None:
    """Minimise the number (weight) of changed elements until every problem is closed or the budget is spent.

    Args:
        query: the float64 normal form with a p = 0 distance.
        ledger: receives points and bounds; problems it has closed already are left out.

    Raises:
        UnsupportedByEngine: the objective is no count.
        UnsupportedOperator: a layer has no linear relaxation; names it.
    """
    if not isinstance(query.objective, Distance) or query.objective.p != 0:
        raise UnsupportedByEngine(
            "The search for the fewest changed elements takes distances with p = 0. Use solver='branch_and_bound'."
        )
    problems = (~ledger.closed).nonzero().flatten()
    if len(problems) and not ledger.exhausted:
        _Search(query.take(problems), ledger, problems).run()


# --- the envelope -------------------------------------------------------------------------------------------------


def count_envelope(query: Query) -> tuple[Query, Tensor]:
    """The query with every count replaced by its lower limit over the box: a relaxation.

    Elements whose centre lies outside the box are changed by every point: they move into the constant. Elements
    without finite limits can move any distance and cost nothing.

    Args:
        query: B problems with a p = 0 distance.

    Returns:
        The relaxation with an ℓ1 distance, and ``(B,)``: distance plus constant bounds the count from below.
    """
    assert isinstance(query.objective, Distance)
    objective, balls = query.objective, []
    weights, constant = _envelope(objective.center, objective.weights, query.region)
    for ball in query.region.balls:
        if ball.p == 0:
            scaled, spent = _envelope(ball.center, ball.weights, query.region)
            ball = Ball(ball.center, ball.radius - spent + ALLOWANCE, 1.0, scaled)
        balls.append(ball)
    region = replace(query.region, balls=tuple(balls))
    return replace(query, objective=Distance(objective.center, 1.0, weights), region=region), constant


def _envelope(center: Tensor, weights: Tensor | None, region: Region) -> tuple[Tensor, Tensor]:
    """Weights of the ℓ1 distance, ``(B, *shape)``, and the constant, ``(B,)``."""
    weights = torch.ones_like(center) if weights is None else weights
    room = torch.maximum(region.upper - center, center - region.lower)
    outside = (center < region.lower) | (center > region.upper)
    counted = ~outside & (room > 0) & torch.isfinite(room)
    scaled = torch.where(counted, weights / torch.where(counted, room, torch.ones_like(room)), 0.0)
    return scaled, torch.where(outside, weights, 0.0).flatten(1).sum(1)


# --- the search ---------------------------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """N parts of the search.

    Attributes:
        problem: ``(N,)``.
        state: ``(N, n)`` int8: −1 where an element stays at its centre, +1 where it is paid for, 0 where it is open.
        bound: ``(N,)`` proven counts.
        split: ``(N,)`` the element to branch on, −1 where the envelope suggests none.
    """

    problem: Tensor
    state: Tensor
    bound: Tensor
    split: Tensor

    def take(self, index: Tensor) -> _Parts:
        """The chosen parts."""
        return _Parts(*(t[index] for t in self))

    def halves(self) -> _Parts:
        """Every part twice: its element to branch on stays, or is paid for."""
        sides = []
        for side in (-1, 1):
            at = self.split.unsqueeze(1)
            sides.append(self.state.scatter(1, at, torch.full_like(at, side, dtype=torch.int8)))
        return _Parts(self.problem.repeat(2), torch.cat(sides), self.bound.repeat(2), self.split.repeat(2))


class _Search:
    """Best-first over parts; each is bounded by a branch and bound over its own envelope."""

    def __init__(self, query: Query, ledger: Ledger, problems: Tensor) -> None:
        self.query, self.ledger, self.problems = query, ledger, problems
        self.envelope, self.constant = count_envelope(query)
        assert isinstance(query.objective, Distance)
        weights = query.objective.weights
        self.cost = (torch.ones_like(query.objective.center) if weights is None else weights).flatten(1)
        #: 1 where all counts are whole numbers, 0 where nothing is known
        self.steps = (self.cost == self.cost.round()).all(1).to(torch.float64)
        self.finished = torch.full((query.size,), torch.inf, dtype=torch.float64)

    def run(self) -> None:
        """Bound the whole problems, then split the parts of smallest bound until none is left."""
        size, elements = self.cost.shape
        none = torch.full((size,), -1)
        whole = _Parts(
            torch.arange(size), torch.zeros(size, elements, dtype=torch.int8), self.ledger.bound[self.problems], none
        )
        waiting = self._settle(self._bounded(whole, whole=True))
        while len(waiting.problem) and not self.ledger.exhausted:
            # among equal bounds the parts with most decisions come first: they reach points
            depth = (waiting.state != 0).sum(1)
            order = (waiting.bound - depth / (2.0 * elements)).argsort(stable=True)
            now, later = waiting.take(order[:BATCH]), waiting.take(order[BATCH:])
            try:
                children = self._bounded(now.halves(), whole=False)
            except KeyboardInterrupt:
                self._report(waiting)
                raise
            kept = self._settle(children)
            waiting = _Parts(*(torch.cat(pair) for pair in zip(kept, later)))
            self._report(waiting)

    def _bounded(self, parts: _Parts, *, whole: bool) -> _Parts:
        """Bound the parts together, and choose where to split each."""
        query = self.envelope.take(parts.problem)
        assert isinstance(query.objective, Distance) and query.objective.weights is not None
        shape = query.region.lower.shape
        state, center = parts.state.reshape(shape), query.objective.center
        objective = Distance(center, 1.0, torch.where(state > 0, 0.0, query.objective.weights))
        lower = torch.where(state < 0, center, query.region.lower)
        upper = torch.where(state < 0, center, query.region.upper)
        constant = self.constant[parts.problem] + (self.cost[parts.problem] * (parts.state > 0)).sum(1)
        # a point of fewer changes than the incumbent lies in this ball
        steps, ledger_rows = self.steps[parts.problem], self.problems[parts.problem]
        radius = (self.ledger.value[ledger_rows] - constant - steps + ALLOWANCE).clamp(min=0)
        region = Region(lower, upper, query.region.balls).within(objective.ball(radius))
        lifted = _Lifted(
            replace(query, objective=objective, region=region), self.ledger.remaining, self.ledger.gap,
            outer=self.ledger, problems=ledger_rows, constant=constant, steps=steps, whole=whole,
        )  # fmt: skip
        branch_and_bound(lifted.query, lifted)
        bound = torch.maximum(parts.bound, lifted.lifted(lifted.bound))
        return parts._replace(bound=bound, split=_half_moved(lifted, objective, self.cost[parts.problem], parts.state))

    def _settle(self, parts: _Parts) -> _Parts:
        """Finish parts that hold nothing better or cannot be split; the others are returned."""
        going = (parts.bound < self.ledger.target[self.problems][parts.problem]) & (parts.split >= 0)
        done = parts.take((~going).nonzero().flatten())
        self.finished.scatter_reduce_(0, done.problem, done.bound, "amin")
        return parts.take(going.nonzero().flatten())

    def _report(self, waiting: _Parts) -> None:
        bound = self.finished.scatter_reduce(0, waiting.problem, waiting.bound, "amin")
        # only points better than the incumbent were looked for
        bound = torch.minimum(bound, self.ledger.value[self.problems])
        self.ledger.prove(bound, Proof.TREE, WHO, self.problems)


def _half_moved(lifted: _Lifted, objective: Distance, cost: Tensor, state: Tensor) -> Tensor:
    """``(N,)`` the open element whose share of its room at the best relaxed point is nearest to one half, or −1."""
    assert objective.weights is not None
    paid = (lifted.x.double() - objective.center).flatten(1).abs() * objective.weights.flatten(1)
    share = torch.where(cost > 0, paid / torch.where(cost > 0, cost, torch.ones_like(cost)), 0.0)
    gap = torch.where((state == 0) & (share > SHARE) & (share < 1 - SHARE), (share - 0.5).abs(), torch.inf)
    least, at = gap.min(1)
    return torch.where(torch.isfinite(least), at, -1)


@dataclass
class _Lifted(Ledger):
    """The ledger of an envelope: what it receives goes on to the ledger of the count.

    A problem counts as closed where the envelope can say nothing more about the whole number.

    Attributes:
        outer: the count's ledger.
        problems: ``(N,)`` problem of the outer ledger of each problem here.
        constant: ``(N,)`` what is added to a distance to bound a count.
        steps: ``(N,)`` counts are whole multiples of it; 0 where nothing is known.
        whole: the problems are not parts: their bounds are bounds of the outer problems.
    """

    outer: Ledger = field(kw_only=True)
    problems: Tensor = field(kw_only=True)
    constant: Tensor = field(kw_only=True)
    steps: Tensor = field(kw_only=True)
    whole: bool = field(kw_only=True)

    def lifted(self, number: Tensor) -> Tensor:
        """The least count that a distance of this size allows, ``(N,)``."""
        count = number + self.constant
        return torch.where(self.steps > 0, torch.ceil(count - ALLOWANCE), count)

    @property
    def target(self) -> Tensor:
        """``(N,)`` a bound of this size closes the problem."""
        enough = torch.minimum(self.lifted(self.value), self.outer.value[self.problems])
        whole = enough - self.steps - self.constant + 2 * ALLOWANCE
        other = torch.minimum(super().target, self.outer.target[self.problems] - self.constant)
        return torch.where(self.steps > 0, whole, other)

    @property
    def closed(self) -> Tensor:
        """``(N,)`` whether the count is closed, or the envelope can add nothing."""
        return self.outer.closed[self.problems] | (self.bound >= self.target)

    def offer(self, x: Tensor, who: str, problems: Tensor | None = None) -> Tensor:
        """Points of the envelope are points of the count too."""
        problems = torch.arange(self.query.size) if problems is None else problems.cpu()
        self.outer.offer(x, WHO, self.problems[problems])
        return super().offer(x, who, problems)

    def prove(self, bound: Tensor, proof: Proof, who: str, problems: Tensor | None = None) -> None:
        """Bounds of whole problems, lifted, are bounds of the count inside the incumbent's ball."""
        super().prove(bound, proof, who, problems)
        if self.whole:
            count = torch.minimum(self.lifted(self.bound), self.outer.value[self.problems])
            self.outer.prove(count, proof, WHO, self.problems)
