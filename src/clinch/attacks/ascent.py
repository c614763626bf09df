"""Lanes that follow a loss and remember their best point: what the methods inside a ball share."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.goal import Goal, along
from clinch.attacks.losses import lane_loss
from clinch.attacks.starts import End, Start, never_blind
from clinch.attacks.track import Track


class Lanes:
    """L lanes inside balls.

    Args:
        goal: what is attacked.
        start: where they begin.
        radius: ``(B,)``.
        size: ``(B,)`` first step sizes.

    Attributes:
        rows: ``(L,)``; ``aims`` ``(L,)`` or None, see :class:`Start`.
        z: ``(L, *input_shape)`` where lanes are, ``previous`` where they were before, ``origin`` where they began,
            ``center`` the inputs themselves.
        gradient: the gradient at z; ``loss (L,)`` the loss there.
        best: the point of least loss, ``best_gradient`` the gradient and ``least (L,)`` the loss there.
        size: ``(L,)``.
        ball: where they must stay.
        asked: how many gradients were asked for.
    """

    def __init__(self, goal: Goal, start: Start, radius: Tensor, size: Tensor) -> None:
        self.rows, self.aims, self.z = start
        self.origin = self.z
        self.center = goal.x[self.rows]
        self.previous, self.best = self.z, self.z
        self.gradient = self.best_gradient = torch.zeros_like(self.z)
        self.loss = self.least = goal.x.new_full((len(self.rows),), torch.inf)
        self.size = size[self.rows].to(goal.x)
        self.ball = goal.within(radius[self.rows], self.rows)
        self.asked = 0

    def keep(self, which: Tensor) -> None:
        """Drop the other lanes."""
        if bool(which.all()):
            return
        for name in (
            "rows",
            "z",
            "origin",
            "center",
            "previous",
            "best",
            "gradient",
            "best_gradient",
            "loss",
            "least",
            "size",
        ):
            setattr(self, name, getattr(self, name)[which])
        self.aims, self.ball = None if self.aims is None else self.aims[which], self.ball.take(which)

    def go_back(self, which: Tensor) -> None:
        """Return to the best points, at rest."""
        back = along(which, self.z)
        self.z = torch.where(back, self.best, self.z)
        self.previous = torch.where(back, self.best, self.previous)
        self.gradient = torch.where(back, self.best_gradient, self.gradient)

    def changed(self) -> Tensor:
        """``(L,)`` how many elements the best points change."""
        return (self.best != self.center).flatten(1).sum(1).to(self.z)

    def finish(self, track: Track, radius: Tensor | None = None) -> End:
        """One last look at where lanes are; the lanes that are left, at their best points."""
        if len(self.rows):
            _note(track, self, track.goal.look(self.z, self.rows), radius)
            self.keep(~track.success[self.rows])
        return End(Start(self.rows, self.aims, self.origin), self.best, self.least)


def ask(track: Track, lanes: Lanes, loss: str | None, radius: Tensor | None = None) -> Tensor:
    """Loss and gradient of all lanes, a random direction where it is zero; lanes at their goal leave.

    Args:
        track: the attack.
        lanes: changed in place.
        loss: its name.
        radius: ``(B,)`` points further away do not count; None: no point is.

    Returns:
        ``(L,)`` which lanes are left.
    """
    slope = track.goal.slope(lanes.z, lanes.rows, lane_loss(track.goal, loss, lanes.aims))
    track.note_gradient(slope.gradient, lanes.rows)
    _note(track, lanes, slope.margin, radius)
    better = slope.loss < lanes.least
    gradient, lanes.asked = never_blind(slope.gradient, lanes.asked), lanes.asked + 1
    lanes.gradient, lanes.loss = gradient, slope.loss
    lanes.best = torch.where(along(better, lanes.z), lanes.z, lanes.best)
    lanes.best_gradient = torch.where(along(better, lanes.z), gradient, lanes.best_gradient)
    lanes.least = torch.where(better, slope.loss, lanes.least)
    going = ~track.success[lanes.rows]
    lanes.keep(going)
    return going


def _note(track: Track, lanes: Lanes, margin: Tensor, radius: Tensor | None) -> None:
    if radius is None:
        track.update(lanes.z, lanes.rows, margin)
        return
    distance = track.goal.distance(lanes.z, lanes.rows)
    near = distance <= radius[lanes.rows]
    track.update(lanes.z[near], lanes.rows[near], margin[near], distance[near])
