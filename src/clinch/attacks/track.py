"""The best points of an attack on a :class:`~clinch.attacks.goal.Goal`, and the result that is made of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clinch.attacks.goal import Goal
from clinch.attacks.result import ALREADY, NO_GRADIENT, NOT_FOUND, NUDGES, AttackResult, History
from clinch.certify.point import RADIUS_ROUNDING
from clinch.geometry.projection import project_into

#: called after every step with the number of steps done and the number planned
Progress = Callable[[int, int], None]


class Track:
    """Keeps, for each input, the nearest point that reaches the goal, or without one the point of least margin.

    Args:
        goal: what is attacked.
        record: whether to keep a history, one line for each call of :meth:`step`.
        progress: called at the same time.
        steps: number of steps planned.

    Attributes:
        x: ``(B, *input_shape)`` the points.
        distance: ``(B,)`` their distances where they reach the goal, infinity elsewhere.
        margin: ``(B,)`` their margins.
    """

    def __init__(self, goal: Goal, *, record: bool = False, progress: Progress | None = None, steps: int = 0) -> None:
        self.goal, self.progress = goal, progress
        self._done, self._planned = 0, steps
        self.x = project_into(goal.region, goal.x)
        self.distance = goal.x.new_full((goal.size,), torch.inf)
        self.margin = goal.x.new_full((goal.size,), torch.inf)
        #: inputs for which some gradient was not zero
        self._moved = torch.zeros(goal.size, dtype=torch.bool, device=goal.x.device)
        self._asked = self._moved.clone()
        self._lines: list[tuple[Tensor, Tensor, Tensor]] | None = [] if record else None
        done = torch.ones_like(self._moved)
        done[goal.todo] = False
        self._already = done
        self.distance[done] = 0.0
        self._rank = torch.where(done, -1.0, torch.inf).to(torch.float64)

    @property
    def success(self) -> Tensor:
        """``(B,)`` whether a point that reaches the goal is known."""
        return self.distance.isfinite()

    def update(self, z: Tensor, rows: Tensor, margin: Tensor, distance: Tensor | None = None) -> Tensor:
        """Keep what is better; rows may repeat. Returns which of the points ``(L,)`` were the best of their input.

        A point that reaches the goal goes before one that does not; then the nearer one is better, or where none
        reaches it the one of smaller margin.
        """
        distance = self.goal.distance(z, rows) if distance is None else distance
        # one order for all points: those that reach the goal are negative, the nearest of them first
        rank = torch.where(margin < 0, -1 / (1 + distance.double()), margin.double().nan_to_num(nan=torch.inf))
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
        return better

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
            self._lines.append((passes.clone(), self.distance.clone(), self.margin.clone()))
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
            z = self.x[rows]
            if nudge:
                region = goal.region.take(rows) if radius is None else goal.within(radius[rows], rows)
                z = project_into(region, goal.x[rows] + (1 + nudge) * (z - goal.x[rows]))
            reached, margin = goal.verdict(z, rows)
            if radius is not None:
                reached &= goal.distance(z.double(), rows) <= radius[rows] * (1 + RADIUS_ROUNDING)
            better = reached | (loss[rows] == torch.inf)
            x[rows[better]], loss[rows[better]] = z[better], margin[better]
            success[rows] = reached
        distance = goal.distance(x.double(), everyone).where(success, torch.inf)
        return AttackResult(
            x, success, distance, distance, loss, goal.forward.clone(), goal.backward.clone(), self._reasons(success),
            None if self._lines is None else History(*(torch.stack(c) for c in zip(*self._lines))),
        )  # fmt: skip

    def _reasons(self, success: Tensor) -> tuple[str, ...]:
        blind = self._asked & ~self._moved
        return tuple(
            ALREADY if a else "" if s else NO_GRADIENT if b else NOT_FOUND
            for a, s, b in zip(self._already.tolist(), success.tolist(), blind.tolist())
        )
