"""What an attack returns, and how it keeps the best points on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from clinch.certify.point import check_points
from clinch.geometry.norms import norm
from clinch.geometry.projection import project_into
from clinch.query import Distance, Query

if TYPE_CHECKING:
    from clinch.ledger import Ledger

#: why an input has no success, and why it needed no attack
ALREADY, NO_GRADIENT, NOT_FOUND = (
    "the clean input reaches the goal already", "the gradient was zero wherever the attack looked",
    "not found with the passes given",
)  # fmt: skip
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


class History(NamedTuple):
    """An attack's course, one line for each of S steps.

    Attributes:
        passes: ``(S, B)`` rows sent through the network so far, forward and backward together.
        distance: ``(S, B)`` of the nearest point so far that reaches the goal, infinity before there is one.
        margin: ``(S, B)`` of the best point so far; negative where it reaches the goal.
    """

    passes: Tensor
    distance: Tensor
    margin: Tensor


@dataclass(frozen=True)
class AttackResult:
    """The best points of an attack, and what they cost.

    Attributes:
        x: ``(B, *input_shape)`` in the model's dtype; without success the best attempt.
        success: ``(B,)`` whether the point reaches its goal, by the original model in its own dtype and in float64.
        value: ``(B,)`` objective in float64, in the query's minimising sense, for labels the distance; infinity
            without success.
        distance: ``(B,)`` distance from the clean input in the attack's norm, in float64; infinity without success.
        loss: ``(B,)`` the margin in float64: negative (a problem's violation: at most 0) exactly where the goal is
            reached.
        forward: ``(B,)`` rows sent forward through the network.
        backward: ``(B,)`` rows sent backward; neither counts the clean prediction nor the check of the result.
        reason: for each input why there is no success, or why no attack was needed; empty elsewhere.
        history: the course of the attack, where asked for.
    """

    x: Tensor
    success: Tensor
    value: Tensor
    distance: Tensor
    loss: Tensor
    forward: Tensor
    backward: Tensor
    reason: tuple[str, ...]
    history: History | None = None

    @property
    def passes(self) -> Tensor:
        """``(B,)`` forward and backward rows together."""
        return self.forward + self.backward


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
        self.forward = torch.zeros(query.size, dtype=torch.int64)
        self.backward = self.forward.clone()
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
        x, feasible, value, violation = self._settled(torch.arange(self.query.size))
        objective = self.query.objective
        moved = norm(x.cpu().double() - self.anchor.cpu().double(), torch.inf)
        distance = value if isinstance(objective, Distance) else torch.where(feasible, moved, torch.inf)
        reason = tuple("" if found else NOT_FOUND for found in feasible.tolist())
        return AttackResult(x, feasible, value, distance, violation, self.forward, self.backward, reason)

    def count(self, problem: Tensor, forward: int = 0, backward: int = 0) -> None:
        """Note rows sent through the network for the given problems, which may repeat."""
        rows = torch.bincount(problem.cpu(), minlength=self.query.size)
        self.forward += forward * rows
        self.backward += backward * rows

    def _settled(self, problems: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Points that satisfy everything in both dtypes, going on along the ray from the anchor where they do not;
        whether they do, their values and their violations."""
        x = self.x[problems.to(self.x.device)]
        anchor = self.anchor[problems.to(self.x.device)]
        feasible = torch.zeros(len(problems), dtype=torch.bool)
        value = torch.full((len(problems),), torch.inf, dtype=torch.float64)
        violation = torch.full_like(value, torch.inf)
        sparse = isinstance(self.query.objective, Distance) and self.query.objective.p == 0
        for nudge in NUDGES:
            rows = (~feasible & (torch.isfinite(self.value[problems]) | (nudge == 0))).nonzero().flatten()
            if not len(rows):
                break
            on = rows.to(x.device)
            moved = x[on] if nudge == 0 else anchor[on] + (x[on] - anchor[on]) * (1 + nudge)
            check = check_points(self.query, moved, problems[rows])
            self.count(problems[rows], forward=2)
            good = check.feasible
            violation[rows] = torch.where(good, check.violation, torch.minimum(violation[rows], check.violation))
            feasible[rows], value[rows] = good, torch.where(good, check.value, torch.inf)
            x[on[good.to(on.device)]] = check.x[good].to(x)
            if sparse:
                break
        return x, feasible, value, violation


def _reference_point(query: Query) -> Tensor:
    """The centre of a distance, else that of the first ball, else the middle of the box."""
    if isinstance(query.objective, Distance):
        return query.objective.center
    if query.region.balls:
        return query.region.balls[0].center
    middle = (query.region.lower + query.region.upper) / 2
    zero = torch.zeros_like(middle).clamp(query.region.lower, query.region.upper)
    return torch.where(torch.isfinite(middle), middle, zero)
