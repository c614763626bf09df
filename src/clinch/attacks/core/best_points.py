"""The best points of an attack, the passes it may still spend on each input, and the result that is made of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clinch.attacks.core.batches import along
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import (
    ALREADY,
    COARSE_NUDGES,
    NO_GRADIENT,
    NOT_FOUND,
    NUDGES,
    AttackResult,
    History,
)
from clinch.attacks.core.settings import AttackSettings
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into
from clinch.solver.check_points import RADIUS_ROUNDING

if TYPE_CHECKING:
    from clinch.solver.ledger import Ledger

#: seconds between two reports to a ledger
REPORT_EVERY = 0.1
#: and so many times what the last report took, so that checking points is a small part of an attack
REPORT_PAUSE = 8
#: called after every step with the number of steps done and the number planned
Progress = Callable[[int, int], None]


class Checked(NamedTuple):
    """Points of B inputs after the last check: ``(B, *input_shape)``, in the user's units, and ``(B,)`` each."""

    x: Tensor
    success: Tensor
    value: Tensor
    distance: Tensor
    margin: Tensor

    def or_earlier(self, other: Checked | None) -> Checked:
        """With the other points where those are better."""
        if other is None:
            return self
        better = other.success & ~(self.value <= other.value)
        return Checked(*(torch.where(along(better, mine), theirs, mine) for mine, theirs in zip(self, other)))


class BestPoints:
    """Keeps, for each input, the nearest point that reaches the goal, or without one the point of least margin.

    Args:
        objective: what is attacked.
        record: whether to keep a history, one line for each call of :meth:`step`.
        progress: called at the same time.
        steps: number of steps planned.
        ledger: receives the points as they are found, and says when to stop.
        who: the name under which it does.
        settings: of the attack; None: the usual ones.

    Attributes:
        x: ``(B, *input_shape)`` the points.
        distance: ``(B,)`` their distances where they reach the goal, infinity elsewhere; the objective of a problem
            that lowers another one.
        margin: ``(B,)`` their margins.
    """

    def __init__(
        self, objective: AttackObjective, *, record: bool = False, progress: Progress | None = None, steps: int = 0,
        ledger: Ledger | None = None, who: str = "attack", settings: AttackSettings | None = None,
    ) -> None:  # fmt: skip
        objective.settings = settings
        self.objective, self.progress, self.ledger, self.who = objective, progress, ledger, who
        self._done, self._planned, self._reported, self._cost = 0, steps, time.monotonic(), 0.0
        self.x = objective.start
        self.distance = objective.x.new_full((objective.size,), torch.inf)
        self.margin = objective.x.new_full((objective.size,), torch.inf)
        #: inputs for which some gradient was not zero
        self._moved = torch.zeros(objective.size, dtype=torch.bool, device=objective.x.device)
        self._asked, self._all_moved = self._moved.clone(), False
        self._lines: list[tuple[Tensor, Tensor, Tensor]] | None = [] if record else None
        self._settled: Checked | None = None
        done = torch.ones_like(self._moved)
        done[objective.todo] = False
        self._already = done
        #: what was tried where the gradient was zero
        self.tried: list[str] = []
        self._fresh = done.clone()
        self.distance[done] = objective.distance(self.x, torch.arange(objective.size, device=self.x.device))[done]
        self._rank = torch.where(done, -torch.inf, torch.inf).to(torch.float64)

    @property
    def success(self) -> Tensor:
        """``(B,)`` whether a point that reaches the goal is known."""
        return self.distance.isfinite()

    @property
    def exhausted(self) -> bool:
        """Whether there is a ledger that says stop."""
        return self.ledger is not None and self.ledger.exhausted

    def update(self, z: Tensor, indices: Tensor, margin: Tensor, distance: Tensor | None = None) -> Tensor:
        """Keep what is better; rows may repeat. Returns which of the points ``(L,)`` were the best of their input.

        A point that reaches the goal goes before one that does not; then the nearer one is better, or where none
        reaches it the one of smaller margin. What lies outside the region's balls does not reach the goal.

        Args:
            z: ``(L, *input_shape)`` points of the box.
            indices: ``(L,)`` their inputs.
            margin: ``(L,)``.
            distance: ``(L,)`` what is lowered; None: the distance.
        """
        if self.objective.units is not None and self.objective.units.rounds:
            z = self.objective.working(self.objective.point(z.detach(), indices), indices)
            distance = distance if self.objective.query.lowers else None
        outside = self.objective.outside(z, indices)
        if outside is not None:
            margin = torch.where(outside > 0, torch.maximum(margin, outside), margin)
        if bool((margin < 0).any()):
            distance = self.objective.distance(z, indices) if distance is None else distance
            rank = _rank(margin, distance)
        else:  # no distance counts
            distance = rank = margin
        better = rank < self._rank[indices]
        if not bool(better.any()):
            return better
        rank = rank.double().nan_to_num(nan=torch.inf)
        least = self._rank.scatter_reduce(0, indices, rank, "amin")
        run = torch.arange(len(indices), device=indices.device)
        winner = torch.where(better & (rank == least[indices]), run, len(run))
        winner = torch.full_like(self._already, len(run), dtype=run.dtype).scatter_reduce(0, indices, winner, "amin")
        index = (winner < len(run)).nonzero().flatten()
        chosen = winner[index]
        self.x[index] = z.detach()[chosen]
        self.distance[index] = torch.where(margin < 0, distance, torch.inf)[chosen].to(self.distance)
        self.margin[index], self._rank = margin[chosen].to(self.margin), least
        if self.ledger is not None:
            self._fresh[index[margin[chosen] < 0]] = True
            if time.monotonic() - self._reported > max(REPORT_EVERY, REPORT_PAUSE * self._cost):
                self.report()
        return better

    def report(self) -> None:
        """Offer what is new to the ledger, if there is one; points that it rejects are forgotten."""
        began = self._reported = time.monotonic()
        indices = self._fresh.nonzero().flatten()
        if self.ledger is None or not len(indices):
            return
        self._fresh[indices] = False
        for nudge in self._nudges:
            accepted = self.ledger.offer(
                self.objective.settled(self._nudged(self.x[indices], indices, nudge), indices), self.who, indices
            )
            indices = indices[~accepted.to(indices.device)]
            if not len(indices) or self.objective.norm.counts:
                break
        value = self.objective.shortened(self.ledger.value.to(self.distance.device))[indices].cpu()
        known = value.isfinite()
        self.distance[indices] = value.to(self.distance)
        self.margin[indices] = torch.where(known, -1.0, torch.inf).to(self.margin)
        self._rank[indices] = _rank(self.margin[indices].double(), value.to(indices.device))
        found = indices[known.to(indices.device)]
        self.x[found] = self.objective.working(self.ledger.x[found.cpu()].to(indices.device), found)
        self._reported = time.monotonic()
        self._cost = self._reported - began

    @property
    def _nudges(self) -> tuple[float, ...]:
        rounds = self.objective.units is not None and self.objective.units.rounds
        return COARSE_NUDGES if rounds else NUDGES

    def state(self) -> dict[str, Tensor]:
        """All that decides what is found from now on, by name."""
        objective = self.objective
        return {
            "x": self.x, "distance": self.distance, "margin": self.margin, "rank": self._rank, "moved": self._moved,
            "asked": self._asked, **objective.state(),
        }  # fmt: skip

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a :meth:`state`, whose numbers may come in another dtype."""
        for name, mine in self.state().items():
            if state[name].shape != mine.shape:
                raise ProblemError(f"The state's {name} has shape {tuple(state[name].shape)}, not {tuple(mine.shape)}.")
            mine.copy_(state[name])
        self.objective.restored()

    def _nudged(self, z: Tensor, indices: Tensor, nudge: float, radius: Tensor | None = None) -> Tensor:
        """Points a little farther along the ray from their inputs."""
        if not nudge:
            return z
        objective = self.objective
        region = objective.region.take(indices) if radius is None else objective.within(radius[indices], indices)
        return project_into(region, objective.x[indices] + (1 + nudge) * (z - objective.x[indices]))

    def note_gradient(self, gradient: Tensor, indices: Tensor) -> None:
        """Remember whether gradients ``(L, *input_shape)`` gave any direction."""
        if self._all_moved:
            return
        self._asked[indices] = True
        if bool(self._moved[indices].all()):
            return
        self._moved[indices[(gradient != 0).flatten(1).any(1)]] = True
        self._all_moved = bool(self._moved[self.objective.todo].all())

    def note_gradients_of(self, other: BestPoints) -> None:
        """Remember too what :meth:`note_gradient` told a part of the attack that keeps points of its own."""
        self._asked |= other._asked
        self._moved |= other._moved

    def step(self) -> None:
        """End of one step: a line of history, and a call of ``progress``."""
        self._done += 1
        if self._lines is not None:
            passes = self.objective.forward + self.objective.backward
            distance = self.objective.lengths(self.distance, slice(None))
            self._lines.append((passes.clone(), distance.clone(), self.margin.clone()))
        if self.progress is not None:
            self.progress(self._done, max(self._done, self._planned))

    def settle(self) -> None:
        """Check the points that are known by now, as :meth:`result` does, and keep what holds: what is found later may
        be nearer by less than the check moves it."""
        if self.ledger is None:
            self._settled = self._checked(None)

    def result(self, radius: Tensor | None = None) -> AttackResult:
        """The points, checked by the original model and in float64.

        Where rounding has left a point just short of its goal it goes on along the ray from the input, as long as it
        stays within ``radius (B,)``.
        """
        objective, found = self.objective, self._checked(radius)
        everyone = torch.arange(objective.size, device=found.x.device)
        return AttackResult(
            found.x, found.success, found.value, found.distance, found.margin, objective.forward.clone(),
            objective.backward.clone(), self._reasons(found.success),
            None if self._lines is None else History(*map(torch.stack, zip(*self._lines))),
            objective.query.exact, objective.settings, objective.query.rate(found.x, everyone),
        )  # fmt: skip

    def _checked(self, radius: Tensor | None) -> Checked:
        """What holds of the points known by now, and of those that were settled before."""
        objective, p0 = self.objective, self.objective.norm.counts
        x, success = self.x.clone(), torch.zeros_like(self.distance, dtype=torch.bool)
        loss = torch.full_like(self.distance, torch.inf, dtype=torch.float64)
        everyone = torch.arange(objective.size, device=x.device)
        for nudge in self._nudges:
            indices = everyone[~success & (self.success if nudge else everyone >= 0)]
            if not len(indices) or (nudge and p0):
                break
            z = self._nudged(self.x[indices], indices, nudge, radius)
            reached, margin = objective.verdict(z, indices)
            if radius is not None:
                length = objective.distance(objective.working(objective.settled(z, indices), indices).double(), indices)
                reached &= length <= radius[indices] * (1 + RADIUS_ROUNDING)
            better = reached | (loss[indices] == torch.inf)
            x[indices[better]], loss[indices[better]] = z[better], margin[better]
            success[indices] = reached
        x = objective.settled(x, everyone)
        exact = objective.working(x, everyone)
        distance = objective.lengths(objective.distance(exact.double(), everyone), everyone).where(success, torch.inf)
        value = objective.lengths(objective.lowered(exact, everyone), everyone).where(success, torch.inf)
        return Checked(x, success, value, distance, loss).or_earlier(self._settled)

    @property
    def blind(self) -> Tensor:
        """``(A,)`` inputs without success whose gradient was zero wherever it was asked for."""
        todo = self.objective.todo
        return todo[(self._asked & ~self._moved & ~self.success)[todo]]

    def _reasons(self, success: Tensor) -> tuple[str, ...]:
        blind = self._asked & ~self._moved
        none = "; ".join([NO_GRADIENT, *(f"{what} found nothing" for what in self.tried)])
        return tuple(
            ALREADY if a else "" if s else none if b else NOT_FOUND
            for a, s, b in zip(self._already.tolist(), success.tolist(), blind.tolist())
        )


def _rank(margin: Tensor, distance: Tensor) -> Tensor:
    """One order for all points, ``(L,)`` in float64: those that reach the goal are negative, the nearest of them first;
    increasing in the distance, which may be an objective of either sign, and as exact as that is."""
    distance = distance.double()
    lowered = distance.clamp(max=0) - (1 + distance.clamp(min=0)).reciprocal()
    return torch.where(margin < 0, lowered, margin).nan_to_num(nan=torch.inf)


@dataclass(frozen=True)
class Budget:
    """So many passes for each input, from now on.

    Attributes:
        objective: counts what is spent.
        passes: for each input.
        before: ``(B,)`` what had been spent when the budget was made.
    """

    objective: AttackObjective
    passes: int
    before: Tensor

    @staticmethod
    def of(objective: AttackObjective, passes: int) -> Budget:
        """A budget that begins now."""
        return Budget(objective, passes, objective.forward + objective.backward)

    def left(self, indices: Tensor) -> Tensor:
        """Passes ``(A,)`` that the given inputs still have."""
        return self.passes - (self.objective.forward + self.objective.backward - self.before)[indices]

    def steps(self, runs: Tensor, each: int, share: float = 1.0, most: float = torch.inf) -> Tensor:
        """Steps ``(L,)`` of runs, whose inputs are ``runs (L,)``, that a share of the budget and what is left of it
        pay for, at ``each`` passes of a step; not more than ``most``."""
        cost = each * torch.bincount(runs, minlength=self.objective.size)[runs]
        paid = (share * self.passes / cost).clamp(max=most)
        return torch.minimum(paid, self.left(runs) / cost).clamp(min=0).long()


def groups(plans: Tensor) -> Iterator[tuple[list[int], Tensor]]:
    """Each plan ``(k,)`` among those of some inputs or runs ``(L, k)``, and which of them follow it: what one of them
    can afford is not cut down to what all can."""
    if not len(plans):
        return
    each, which = plans.unique(dim=0, return_inverse=True)
    for number, plan in enumerate(each.tolist()):
        yield plan, (which == number).nonzero().flatten()


def line_search_to_input(
    best_points: BestPoints, rounds: int = 10, least: float = 0.0, indices: Tensor | None = None
) -> None:
    """Bisect the way from the clean input to each best point; what is nearer and still reaches the goal is kept.

    Args:
        best_points: holds the points. For p = 0 nothing is done: a shorter way changes as many elements.
        rounds: forward passes of each input that has such a point.
        least: the shortest part of the way that is tried.
        indices: ``(A,)`` inputs; None: all that are attacked.
    """
    objective = best_points.objective
    if objective.norm.counts:
        return
    indices = objective.todo if indices is None else indices
    indices = indices[best_points.success[indices]]
    far, center = best_points.x[indices].clone(), objective.start[indices]
    high = torch.ones_like(best_points.distance[indices])
    low = least * high
    for _ in range(rounds if len(indices) else 0):
        share = (low + high) / 2
        z = center + along(share, far) * (far - center)
        margin = objective.look(z, indices)
        reached = margin < 0
        best_points.update(z[reached], indices[reached], margin[reached])
        low, high = torch.where(reached, low, share), torch.where(reached, share, high)
