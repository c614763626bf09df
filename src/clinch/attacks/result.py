"""What an attack returns, and how it keeps the best points on the way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from clinch.certify.point import check_points
from clinch.geometry.projection import project_into
from clinch.query import Distance, Query

if TYPE_CHECKING:
    from clinch.ledger import Ledger

#: seconds between two reports of intermediate points
REPORT_EVERY = 0.1
#: how far to go on along the ray from the centre where rounding has left a point just short of its goal
NUDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


class HasQuery(Protocol):
    """A problem statement with its normal form, such as ``clinch.Problem``."""

    @property
    def query(self) -> Query:
        """The normal form in float64."""
        ...


class AttackResult(NamedTuple):
    """The best points of an attack.

    Attributes:
        x: ``(B, *input_shape)`` in the model's dtype; the last resort of the attack where nothing feasible was found.
        feasible: ``(B,)`` whether the point satisfies everything, in the model's dtype and in float64.
        value: ``(B,)`` objective in float64, in the query's minimising sense; infinity where not feasible.
        forward: rows sent forward through the network.
        backward: rows sent backward.
    """

    x: Tensor
    feasible: Tensor
    value: Tensor
    forward: int
    backward: int


def query_of(problem: HasQuery | Query) -> Query:
    """The normal form of a problem, on its model's device; a query stays on its own."""
    if isinstance(problem, Query):
        return problem
    return problem.query.moved(problem.query.network.device)


class Best:
    """The best feasible point of each problem so far; reports to a ledger where there is one.

    Attributes:
        value: ``(B,)`` float64, infinity where there is none.
        x: ``(B, *input_shape)`` in the model's dtype.
    """

    def __init__(self, query: Query, who: str, ledger: Ledger | None = None) -> None:
        self.query, self.who, self.ledger = query.moved("cpu"), who, ledger
        self.model = query.to(query.network.dtype, query.device)
        self.anchor = project_into(self.model.region, _reference_point(self.model))
        self.x = self.anchor.clone()
        self.value = torch.full((query.size,), torch.inf, dtype=torch.float64)
        self.forward = self.backward = 0
        self._fresh = torch.zeros(query.size, dtype=torch.bool)
        self._last = time.monotonic()

    @property
    def exhausted(self) -> bool:
        """Whether the ledger says stop."""
        return self.ledger is not None and self.ledger.exhausted

    def update(self, x: Tensor, value: Tensor, feasible: Tensor, problem: Tensor) -> None:
        """Keep what is better.

        Args:
            x: ``(L, *input_shape)`` points of L lanes.
            value: ``(L,)`` their objective.
            feasible: ``(L,)`` whether they satisfy everything.
            problem: ``(L,)`` the problem of each lane.
        """
        where = problem.cpu()
        offered = torch.where(feasible & torch.isfinite(value), value, torch.inf).detach().to("cpu", torch.float64)
        first = torch.full_like(self.value, torch.inf).scatter_reduce(0, where, offered, "amin")
        better = first < self.value
        if not bool(better.any()):
            return
        lane = torch.arange(len(where))
        winner = torch.where((offered == first[where]) & better[where], lane, len(lane))
        winner = torch.full(self.value.shape, len(lane)).scatter_reduce(0, where, winner, "amin")[better]
        self.x[better.to(self.x.device)] = x.detach()[winner.to(x.device)]
        self.value = torch.where(better, first, self.value)
        self._fresh |= better
        if time.monotonic() - self._last > REPORT_EVERY:
            self.report()

    def report(self) -> None:
        """Offer what is new to the ledger; points it rejects are forgotten."""
        self._last = time.monotonic()
        if self.ledger is None or not bool(self._fresh.any()):
            return
        problems = self._fresh.nonzero().flatten()
        self._fresh[:] = False
        settled = self._settled(problems)[0]
        accepted = self.ledger.offer(settled, self.who, problems).cpu()
        lost = problems[~accepted]
        known = self.ledger.x[lost]
        usable = torch.isfinite(self.ledger.value[lost])
        self.value[lost] = self.ledger.value[lost]
        self.x[lost[usable].to(self.x.device)] = known[usable].to(self.x)

    def result(self) -> AttackResult:
        """The best points, checked by the graph in both dtypes."""
        self.report()
        x, feasible, value = self._settled(torch.arange(self.query.size))
        return AttackResult(x, feasible, value, self.forward, self.backward)

    def _settled(self, problems: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points that satisfy everything in both dtypes, going on along the ray from the anchor where they do not."""
        x = self.x[problems.to(self.x.device)]
        anchor = self.anchor[problems.to(self.x.device)]
        feasible = torch.zeros(len(problems), dtype=torch.bool)
        value = torch.full((len(problems),), torch.inf, dtype=torch.float64)
        sparse = isinstance(self.query.objective, Distance) and self.query.objective.p == 0
        for nudge in NUDGES:
            rows = (~feasible & torch.isfinite(self.value[problems])).nonzero().flatten()
            if not len(rows):
                break
            on = rows.to(x.device)
            moved = x[on] if nudge == 0 else anchor[on] + (x[on] - anchor[on]) * (1 + nudge)
            check = check_points(self.query, moved, problems[rows])
            self.forward += 2 * len(rows)
            good = check.feasible
            feasible[rows], value[rows] = good, torch.where(good, check.value, torch.inf)
            x[on[good.to(on.device)]] = check.x[good].to(x)
            if sparse:
                break
        return x, feasible, value


def _reference_point(query: Query) -> Tensor:
    """The centre of a distance, else that of the first ball, else the middle of the box."""
    if isinstance(query.objective, Distance):
        return query.objective.center
    if query.region.balls:
        return query.region.balls[0].center
    middle = (query.region.lower + query.region.upper) / 2
    zero = torch.zeros_like(middle).clamp(query.region.lower, query.region.upper)
    return torch.where(torch.isfinite(middle), middle, zero)
