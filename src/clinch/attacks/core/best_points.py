"""The best points of an attack, the passes it may still spend on each input, and the result that is made of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clinch.attacks.core.objective import Goal, along
from clinch.attacks.core.result import ALREADY, NO_GRADIENT, NOT_FOUND, NUDGES, AttackResult, History
from clinch.geometry.projection import project_into
from clinch.solver.check_points import RADIUS_ROUNDING

if TYPE_CHECKING:
    from clinch.solver.ledger import Ledger

#: seconds between two reports to a ledger
REPORT_EVERY = 0.1
#: called after every step with the number of steps done and the number planned
Progress = Callable[[int, int], None]


class Track:
    """Keeps, for each input, the nearest point that reaches the goal, or without one the point of least margin.

    Args:
        goal: what is attacked.
        record: whether to keep a history, one line for each call of :meth:`step`.
        progress: called at the same time.
        steps: number of steps planned.
        ledger: receives the points as they are found, and says when to stop.
        who: the name under which it does.

    Attributes:
        x: ``(B, *input_shape)`` the points.
        distance: ``(B,)`` their distances where they reach the goal, infinity elsewhere; the objective of a problem
            that lowers another one.
        margin: ``(B,)`` their margins.
    """

    def __init__(
        self, goal: Goal, *, record: bool = False, progress: Progress | None = None, steps: int = 0,
        ledger: Ledger | None = None, who: str = "attack",
    ) -> None:  # fmt: skip
        self.goal, self.progress, self.ledger, self.who = goal, progress, ledger, who
        self._done, self._planned, self._reported = 0, steps, time.monotonic()
        self.x = goal.start
        self.distance = goal.x.new_full((goal.size,), torch.inf)
        self.margin = goal.x.new_full((goal.size,), torch.inf)
        #: inputs for which some gradient was not zero
        self._moved = torch.zeros(goal.size, dtype=torch.bool, device=goal.x.device)
        self._asked = self._moved.clone()
        self._lines: list[tuple[Tensor, Tensor, Tensor]] | None = [] if record else None
        done = torch.ones_like(self._moved)
        done[goal.todo] = False
        self._already = done
        self._fresh = done.clone()
        self.distance[done] = goal.distance(self.x, torch.arange(goal.size, device=self.x.device))[done]
        self._rank = torch.where(done, -torch.inf, torch.inf).to(torch.float64)

    @property
    def success(self) -> Tensor:
        """``(B,)`` whether a point that reaches the goal is known."""
        return self.distance.isfinite()

    @property
    def exhausted(self) -> bool:
        """Whether there is a ledger that says stop."""
        return self.ledger is not None and self.ledger.exhausted

    def update(self, z: Tensor, rows: Tensor, margin: Tensor, distance: Tensor | None = None) -> Tensor:
        """Keep what is better; rows may repeat. Returns which of the points ``(L,)`` were the best of their input.

        A point that reaches the goal goes before one that does not; then the nearer one is better, or where none
        reaches it the one of smaller margin. What lies outside the region's balls does not reach the goal.

        Args:
            z: ``(L, *input_shape)`` points of the box.
            rows: ``(L,)`` their inputs.
            margin: ``(L,)``.
            distance: ``(L,)`` what is lowered; None: the distance.
        """
        if self.goal.units is not None and self.goal.units.rounds:
            z = self.goal.working(self.goal.point(z.detach(), rows), rows)
        distance = self.goal.distance(z, rows) if distance is None else distance
        outside = self.goal.outside(z, rows)
        if outside is not None:
            margin = torch.where(outside > 0, torch.maximum(margin, outside), margin)
        rank = _rank(margin, distance)
        better = rank < self._rank[rows]
        if not bool(better.any()):
            return better
        least = self._rank.scatter_reduce(0, rows, rank, "amin")
        lane = torch.arange(len(rows), device=rows.device)
        winner = torch.where(better & (rank == least[rows]), lane, len(lane))
        winner = torch.full_like(self._already, len(lane), dtype=lane.dtype).scatter_reduce(0, rows, winner, "amin")
        index = (winner < len(lane)).nonzero().flatten()
        chosen = winner[index]
        self.x[index] = z.detach()[chosen]
        self.distance[index] = torch.where(margin < 0, distance, torch.inf)[chosen].to(self.distance)
        self.margin[index], self._rank = margin[chosen].to(self.margin), least
        if self.ledger is not None:
            self._fresh[index[margin[chosen] < 0]] = True
            if time.monotonic() - self._reported > REPORT_EVERY:
                self.report()
        return better

    def report(self) -> None:
        """Offer what is new to the ledger, if there is one; points that it rejects are forgotten."""
        self._reported = time.monotonic()
        rows = self._fresh.nonzero().flatten()
        if self.ledger is None or not len(rows):
            return
        self._fresh[rows] = False
        for nudge in NUDGES:
            accepted = self.ledger.offer(self.goal.point(self._nudged(self.x[rows], rows, nudge), rows), self.who, rows)
            rows = rows[~accepted.to(rows.device)]
            if not len(rows) or self.goal.p == 0:
                break
        value = self.goal.shortened(self.ledger.value.to(self.distance.device))[rows].cpu()
        known = value.isfinite()
        self.distance[rows] = value.to(self.distance)
        self.margin[rows] = torch.where(known, -1.0, torch.inf).to(self.margin)
        self._rank[rows] = _rank(self.margin[rows].double(), value.to(rows.device))
        found = rows[known.to(rows.device)]
        self.x[found] = self.goal.working(self.ledger.x[found.cpu()].to(rows.device), found)

    def _nudged(self, z: Tensor, rows: Tensor, nudge: float, radius: Tensor | None = None) -> Tensor:
        """Points a little farther along the ray from their inputs."""
        if not nudge:
            return z
        goal = self.goal
        region = goal.region.take(rows) if radius is None else goal.within(radius[rows], rows)
        return project_into(region, goal.x[rows] + (1 + nudge) * (z - goal.x[rows]))

    def note_gradient(self, gradient: Tensor, rows: Tensor) -> None:
        """Remember whether gradients ``(L, *input_shape)`` gave any direction."""
        self._asked[rows] = True
        if bool(self._moved[rows].all()):
            return
        self._moved[rows[(gradient != 0).flatten(1).any(1)]] = True

    def step(self) -> None:
        """End of one step: a line of history, and a call of ``progress``."""
        self._done += 1
        if self._lines is not None:
            passes = self.goal.forward + self.goal.backward
            distance = self.goal.lengths(self.distance, slice(None))
            self._lines.append((passes.clone(), distance.clone(), self.margin.clone()))
        if self.progress is not None:
            self.progress(self._done, max(self._done, self._planned))

    def result(self, radius: Tensor | None = None) -> AttackResult:
        """The points, checked by the original model and in float64.

        Where rounding has left a point just short of its goal it goes on along the ray from the input, as long as it
        stays within ``radius (B,)``.
        """
        goal, p0 = self.goal, self.goal.p == 0
        x, success = self.x.clone(), torch.zeros_like(self.distance, dtype=torch.bool)
        loss = torch.full_like(self.distance, torch.inf, dtype=torch.float64)
        everyone = torch.arange(goal.size, device=x.device)
        for nudge in NUDGES:
            rows = everyone[~success & (self.success if nudge else everyone >= 0)]
            if not len(rows) or (nudge and p0):
                break
            z = self._nudged(self.x[rows], rows, nudge, radius)
            reached, margin = goal.verdict(z, rows)
            if radius is not None:
                length = goal.distance(goal.working(goal.point(z, rows), rows).double(), rows)
                reached &= length <= radius[rows] * (1 + RADIUS_ROUNDING)
            better = reached | (loss[rows] == torch.inf)
            x[rows[better]], loss[rows[better]] = z[better], margin[better]
            success[rows] = reached
        x = goal.point(x, everyone)
        exact = goal.working(x, everyone)
        distance = goal.lengths(goal.distance(exact.double(), everyone), everyone).where(success, torch.inf)
        value = goal.lengths(goal.lowered(exact, everyone), everyone).where(success, torch.inf)
        return AttackResult(
            x, success, value, distance, loss, goal.forward.clone(), goal.backward.clone(), self._reasons(success),
            None if self._lines is None else History(*(torch.stack(c) for c in zip(*self._lines))), goal.exact,
        )  # fmt: skip

    def _reasons(self, success: Tensor) -> tuple[str, ...]:
        blind = self._asked & ~self._moved
        return tuple(
            ALREADY if a else "" if s else NO_GRADIENT if b else NOT_FOUND
            for a, s, b in zip(self._already.tolist(), success.tolist(), blind.tolist())
        )


def _rank(margin: Tensor, distance: Tensor) -> Tensor:
    """One order for all points, ``(L,)`` in float64: those that reach the goal are negative, the nearest of them first;
    increasing in the distance, which may be an objective of either sign, and as exact as that is."""
    distance = distance.double()
    lowered = torch.where(distance < 0, distance - 1, -1 / (1 + distance.clamp(min=0)))
    return torch.where(margin < 0, lowered, margin.double().nan_to_num(nan=torch.inf))


@dataclass(frozen=True)
class Budget:
    """So many passes for each input, from now on.

    Attributes:
        goal: counts what is spent.
        passes: for each input.
        before: ``(B,)`` what had been spent when the budget was made.
    """

    goal: Goal
    passes: int
    before: Tensor

    @staticmethod
    def of(goal: Goal, passes: int) -> Budget:
        """A budget that begins now."""
        return Budget(goal, passes, goal.forward + goal.backward)

    def left(self, rows: Tensor) -> Tensor:
        """Passes ``(A,)`` that the given inputs still have."""
        return self.passes - (self.goal.forward + self.goal.backward - self.before)[rows]

    def steps(self, lanes: Tensor, each: int, share: float = 1.0, most: float = torch.inf) -> Tensor:
        """Steps ``(L,)`` of lanes, whose inputs are ``lanes (L,)``, that a share of the budget and what is left of it
        pay for, at ``each`` passes of a step; not more than ``most``."""
        cost = each * torch.bincount(lanes, minlength=self.goal.size)[lanes]
        paid = (share * self.passes / cost).clamp(max=most)
        return torch.minimum(paid, self.left(lanes) / cost).clamp(min=0).long()


def groups(plans: Tensor) -> Iterator[tuple[list[int], Tensor]]:
    """Each plan ``(k,)`` among those of some inputs or lanes ``(L, k)``, and which of them follow it: what one of them
    can afford is not cut down to what all can."""
    if not len(plans):
        return
    each, which = plans.unique(dim=0, return_inverse=True)
    for number, plan in enumerate(each.tolist()):
        yield plan, (which == number).nonzero().flatten()


def retract(track: Track, rounds: int = 10, least: float = 0.0) -> None:
    """Bisect the way from the clean input to each best point; what is nearer and still reaches the goal is kept.

    Args:
        track: holds the points. For p = 0 nothing is done: a shorter way changes as many elements.
        rounds: forward passes of each input that has such a point.
        least: the shortest part of the way that is tried.
    """
    goal = track.goal
    if goal.p == 0:
        return
    rows = goal.todo[track.success[goal.todo]]
    far, center = track.x[rows].clone(), goal.start[rows]
    high = torch.ones_like(track.distance[rows])
    low = least * high
    for _ in range(rounds if len(rows) else 0):
        share = (low + high) / 2
        z = center + along(share, far) * (far - center)
        margin = goal.look(z, rows)
        reached = margin < 0
        track.update(z[reached], rows[reached], margin[reached])
        low, high = torch.where(reached, low, share), torch.where(reached, share, high)
