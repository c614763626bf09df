"""The largest certified ball: a lower bound of a distance from balls that hold nothing feasible.

Linear relaxations are tight in small balls and useless in large ones, so that the bound of the incumbent's ball is
often 0 where a ball of a third of its radius is proven free at once. The radius is searched: for every problem the root
of the *margin*,

    m(r) = max over clauses  min over the clause's atoms  (lower limit of the atom in region ∩ ball(r)),

which is positive where some clause holds nowhere in the ball. What is left of a ball that is not free still bounds the
distance, by the half-spaces that linear limits of the atoms leave (:mod:`clinch.bounds.objective`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.crown import activation_bounds, form_bounds, never, relaxations_from
from clinch.bounds.objective import bound_from
from clinch.geometry.region import Region
from clinch.query import Distance, Query

#: evaluations of a search, and the relative width of the bracket at which it ends
EVALUATIONS, PRECISION = 6, 0.04
#: a new radius keeps this share of the bracket away from either end
INSIDE = 0.1
#: and lies here where nothing is known about the upper end
UNKNOWN = 0.1
#: a margin this many times as far below zero as that of the centre is above it says that relaxations are no use there
LOOSE = 5.0


class InBall(NamedTuple):
    """What is known about balls of B problems.

    Attributes:
        bound: ``(B,)`` proven: no feasible input of the region is nearer; at most the radius.
        margin: ``(B,)`` of the balls; positive where they hold nothing feasible.
    """

    bound: Tensor
    margin: Tensor


@torch.no_grad()
def crown_ball(query: Query, radius: Tensor, stop: Callable[[], bool] = never) -> InBall:
    """What CROWN proves about balls around the centres of distances.

    Args:
        query: B problems with a distance, in float64.
        radius: ``(B,)``.
        stop: asked now and then; once true, limits of the activations stay wider.

    Raises:
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.
    """
    narrowed = query.narrowed(radius)
    graph, atoms = query.graph, query.atoms
    limits = activation_bounds(graph, narrowed.region, query.nodes, stop=stop)
    relaxations = relaxations_from(graph, limits, query.nodes)
    lower = form_bounds(graph, atoms, narrowed.region, relaxations)
    return InBall(torch.minimum(bound_from(narrowed, relaxations), radius), margin_of(query, lower))


def margin_of(query: Query, lower: Tensor) -> Tensor:
    """``(B,)`` margin of lower limits ``(B, K)`` of the atoms: positive where some clause cannot hold."""
    if not query.clauses:
        return lower.new_full((len(lower),), -torch.inf)
    return query.clause_values(lower).amax(1)


@torch.no_grad()
def central_margin(query: Query) -> Tensor:
    """``(B,)`` margin of the region's points nearest to the centres, balls of radius zero."""
    assert isinstance(query.objective, Distance)
    nearest = query.objective.center.clamp(query.region.lower, query.region.upper)
    return margin_of(query, query.evaluate(nearest)[1])


def loose(query: Query, found: InBall) -> Tensor:
    """``(B,)`` whether relaxations over these balls miss by far more than what the centres have to lose, so that a
    search that starts from them starts from nothing."""
    return ~(found.margin >= -LOOSE * central_margin(query).clamp(min=0))


def certified_radius(
    query: Query,
    low: Tensor,
    high: Tensor,
    *,
    known: InBall | None = None,
    evaluations: int = EVALUATIONS,
    stop: Callable[[], bool] = never,
) -> Tensor:
    """Lower bounds of distances from the largest balls that are proven to hold nothing feasible.

    Regula falsi on ``asinh(m(r)/m(0))``, which is nearly straight (margins fall faster and faster with the radius); an
    end that stays twice loses half of its weight (the Illinois rule), and all problems are evaluated together.

    Args:
        query: B problems with a distance, in float64.
        low: ``(B,)`` known bounds.
        high: ``(B,)`` distances at which inputs are known; infinity: none is known, and the search ends at the farthest
            input of the region.
        known: of the balls of radius ``high``, where they have been bounded already; None: that comes first.
        evaluations: of other balls, at most.
        stop: asked before each of them, and within.

    Returns:
        ``(B,)`` proven: no feasible input is nearer; ``low <= … <= high``.

    Raises:
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.

    Example:
        >>> query = problem.query
        >>> low = certified_radius(query, torch.zeros(query.size), torch.full((query.size,), torch.inf))
    """
    assert isinstance(query.objective, Distance)
    known = crown_ball(query, high.to(query.region.lower), stop) if known is None else known
    bracket = _Bracket.around(query, low, high, known)
    for _ in range(evaluations):
        todo = bracket.wide()
        if not len(todo) or stop():
            break
        radius = bracket.inside(todo)
        found = crown_ball(query.take(todo), radius, stop)
        bracket.shrink(todo, radius, found)
    return torch.fmin(bracket.bound, high)


@dataclass
class _Bracket:
    """Radii between which margins change their sign; all ``(B,)``.

    Attributes:
        bound: proven. low, high: the ends; above, below: the transformed margins there.
        scale: what margins are measured in.
        side: which end the last evaluation replaced: −1 the lower, +1 the upper, 0 none yet.
    """

    bound: Tensor
    low: Tensor
    high: Tensor
    above: Tensor
    below: Tensor
    scale: Tensor
    side: Tensor

    @classmethod
    def around(cls, query: Query, low: Tensor, high: Tensor, known: InBall) -> _Bracket:
        scale = central_margin(query).clamp(min=0)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        start = low.to(scale).nan_to_num(nan=0.0).clamp(min=0)
        assert isinstance(query.objective, Distance)
        end = torch.where(torch.isfinite(high), high.to(scale), _farthest(query.region, query.objective))
        above, nothing = torch.ones_like(scale).asinh(), torch.full_like(scale, -torch.inf)
        bracket = cls(start, start.clone(), end, above, nothing, scale, torch.zeros_like(scale))
        bracket.shrink(torch.arange(query.size, device=scale.device), end, known)
        return bracket

    def wide(self) -> Tensor:
        """The problems whose search goes on."""
        return (self.low < (1 - PRECISION) * self.high).nonzero().flatten()

    def inside(self, todo: Tensor) -> Tensor:
        """The next radii ``(T,)``."""
        low, high = self.low[todo], self.high[todo]
        share = self.above[todo] / (self.above[todo] - self.below[todo])
        share = torch.where(torch.isfinite(self.below[todo]), share, UNKNOWN)
        radius = low + share.clamp(INSIDE, 1 - INSIDE) * (high - low)
        return torch.where(torch.isfinite(high), radius, (4 * low).clamp(min=1.0))

    def shrink(self, todo: Tensor, radius: Tensor, found: InBall) -> None:
        """Take over what balls of these radii have shown."""
        self.bound[todo] = torch.fmax(self.bound[todo], found.bound)
        free = found.bound >= radius
        height = (found.margin / self.scale[todo]).asinh().nan_to_num(nan=-torch.inf, posinf=1.0)
        height = torch.where(free, height.clamp(min=1e-3), height.clamp(max=-1e-3))
        moved = torch.where(free, -torch.ones_like(height), torch.ones_like(height))
        kept = torch.where(moved == self.side[todo], 0.5 * torch.ones_like(height), torch.ones_like(height))
        self.above[todo] = torch.where(free, height, self.above[todo] * kept)
        self.below[todo] = torch.where(free, self.below[todo] * kept, height)
        self.low[todo] = torch.where(free, radius, torch.fmax(self.low[todo], found.bound.clamp(max=radius)))
        self.high[todo] = torch.where(free, self.high[todo], radius)
        self.side[todo] = moved


def _farthest(region: Region, objective: Distance) -> Tensor:
    """``(B,)`` the largest distance of an input in the region's box; infinity where a side has no limit."""
    reach = torch.maximum((region.upper - objective.center).abs(), (region.lower - objective.center).abs())
    return objective.value(objective.center + reach, {})
