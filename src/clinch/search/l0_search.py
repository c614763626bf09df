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

from clinch.geometry.region import Ball, Region
from clinch.query import Distance, Query
from clinch.search.branch_and_bound import BestFirst, Branched
from clinch.search.ledger_goal import LedgerGoal
from clinch.search.node_store import Nodes
from clinch.search.relu_split import branch_and_bound
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Count
from clinch.solver.solution import Proof

WHO = "count"
#: by how much a bound may pass a whole number through rounding alone
ALLOWANCE = 1e-6
#: an element that is moved by this share of its room, or by all but this share, needs no branch
SHARE = 1e-6


def fewest_changes(query: Query, ledger: Ledger, settings: Count | None = None) -> None:
    """Minimise the number (weight) of changed elements until every problem is closed or the budget is spent.

    Args:
        query: the float64 normal form with a p = 0 distance.
        ledger: receives points and bounds; problems it has closed already are left out.
        settings: of the search; None: the usual ones.

    Raises:
        UnsupportedOperator: a layer has no linear relaxation; names it.
    """
    problems = (~ledger.closed).nonzero().flatten()
    if len(problems) and not ledger.exhausted:
        CountSearch(query.take(problems), ledger, problems, Count() if settings is None else settings).run()


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
        if ball.norm.counts:
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


@dataclass(frozen=True)
class CountNodes(Nodes):
    """Parts of the search.

    Attributes:
        state: ``(D, n)`` int8: −1 where an element stays at its centre, +1 where it is paid for, 0 where it is open.
        element: ``(D,)`` the element to branch on, −1 where the envelope suggests none.
    """

    state: Tensor
    element: Tensor


class CountEvaluation(NamedTuple):
    """Parts with the bounds of their envelopes."""

    nodes: CountNodes

    def take(self, index: Tensor) -> CountEvaluation:
        """The same for some of them."""
        return CountEvaluation(self.nodes.take(index))


class CountSearch(LedgerGoal):
    """Best-first over parts; each is bounded by a branch and bound over its own envelope."""

    def __init__(self, query: Query, ledger: Ledger, problems: Tensor, settings: Count) -> None:
        super().__init__(ledger, problems, WHO)
        self.query, self.settings = query, settings
        self.envelope, self.constant = count_envelope(query)
        assert isinstance(query.objective, Distance)
        weights = query.objective.weights
        self.cost = (torch.ones_like(query.objective.center) if weights is None else weights).flatten(1)
        #: 1 where all counts are whole numbers, 0 where nothing is known
        self.steps = (self.cost == self.cost.round()).all(1).to(torch.float64)
        self.search: BestFirst[CountNodes, CountEvaluation] = BestFirst(
            query.size, self, self, self, batch=settings.batch
        )

    def run(self) -> None:
        """Bound the whole problems, then split the parts of smallest bound until none is left."""
        size, elements = self.cost.shape
        none, state = torch.full((size,), -1), torch.zeros(size, elements, dtype=torch.int8)
        self.search.plant(CountNodes(torch.arange(size), self.ledger.bound[self.problems], none, state, none))
        self.search.run()

    def prove(self, bound: Tensor) -> None:
        """Only points better than the incumbent were looked for."""
        super().prove(torch.minimum(bound, self.value))

    # --- parts --------------------------------------------------------------------------------------------------------

    def bound(self, nodes: CountNodes, fresh: bool) -> CountEvaluation:
        """Bound parts together, and choose where to split each; fresh ones are whole problems."""
        query = self.envelope.take(nodes.problem)
        assert isinstance(query.objective, Distance) and query.objective.weights is not None
        shape = query.region.lower.shape
        state, center = nodes.state.reshape(shape), query.objective.center
        objective = Distance(center, 1.0, torch.where(state > 0, 0.0, query.objective.weights))
        lower = torch.where(state < 0, center, query.region.lower)
        upper = torch.where(state < 0, center, query.region.upper)
        constant = self.constant[nodes.problem] + (self.cost[nodes.problem] * (nodes.state > 0)).sum(1)
        # a point of fewer changes than the incumbent lies in this ball
        steps, ledger_rows = self.steps[nodes.problem], self.problems[nodes.problem]
        radius = (self.ledger.value[ledger_rows] - constant - steps + ALLOWANCE).clamp(min=0)
        region = Region(lower, upper, query.region.balls).within(objective.ball(radius))
        lifted = _Lifted(
            replace(query, objective=objective, region=region), self.ledger.remaining, self.ledger.gap,
            outer=self.ledger, problems=ledger_rows, constant=constant, steps=steps, whole=fresh,
        )  # fmt: skip
        branch_and_bound(lifted.query, lifted, self.settings.branch_and_bound)
        bound = torch.maximum(nodes.bound, lifted.lifted(lifted.bound))
        element = _half_moved(lifted, objective, self.cost[nodes.problem], nodes.state)
        return CountEvaluation(replace(nodes, bound=bound, element=element))

    def refine(self, found: CountEvaluation) -> CountEvaluation:
        """As they are."""
        return found

    def choose(self, found: CountEvaluation) -> CountNodes:
        """As they are."""
        return found.nodes

    def priority(self, nodes: CountNodes) -> Tensor:
        """Bounds; among equal ones the parts with most decisions come first: they reach points."""
        return nodes.bound - (nodes.state != 0).sum(1) / (2.0 * self.cost.shape[1])

    def split(self, nodes: CountNodes) -> Branched[CountNodes]:
        """Every part twice: its element to branch on stays, or is paid for. Without one it is a leaf."""
        leaf = nodes.element < 0
        inner = nodes.take(~leaf)
        at = inner.element.unsqueeze(1)
        sides = [inner.state.scatter(1, at, torch.full_like(at, side, dtype=torch.int8)) for side in (-1, 1)]
        return Branched(CountNodes.cat([replace(inner, state=state) for state in sides]), leaves=nodes.take(leaf))


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
