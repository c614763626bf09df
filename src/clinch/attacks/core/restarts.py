"""Where attacks inside a ball start: one lane for each input, target and restart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.core.best_points import Track
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.losses import lane_loss, least_branches
from clinch.attacks.core.objective import Goal, along
from clinch.geometry.projection import project_into


class Start(NamedTuple):
    """L lanes.

    Attributes:
        rows: ``(L,)`` the input of each.
        aims: ``(L,)`` the branch that its loss is aimed at; None: the loss as it is.
        z: ``(L, *input_shape)`` where it is.
    """

    rows: Tensor
    aims: Tensor | None
    z: Tensor

    def take(self, which: Tensor) -> Start:
        """The chosen lanes."""
        return Start(self.rows[which], None if self.aims is None else self.aims[which], self.z[which])


class End(NamedTuple):
    """The lanes that are left after a run.

    Attributes:
        start: where they began.
        z: ``(L, *input_shape)`` their best points.
        loss: ``(L,)`` the loss there.
    """

    start: Start
    z: Tensor
    loss: Tensor

    def closest(self, count: int) -> Start:
        """Where the lanes of least loss began, at most ``count`` for each input."""
        rows, by_loss = self.start.rows, self.loss.argsort(stable=True)
        order = by_loss[rows[by_loss].argsort(stable=True)]
        _, lanes = rows[order].unique_consecutive(return_counts=True)
        place = torch.arange(len(rows), device=rows.device) - (lanes.cumsum(0) - lanes).repeat_interleave(lanes)
        return self.start.take(order[place < count])


def starts(
    track: Track, radius: Tensor, *, targets: int = 0, restarts: int = 1, noisy: bool = False,
    draws: Draws | None = None,
) -> Start:  # fmt: skip
    """Lanes of all inputs whose goal is not reached yet.

    Args:
        track: the attack.
        radius: ``(B,)``.
        targets: aim at so many of the nearest branches, one lane each; 0: not at one alone.
        restarts: lanes for each of those; all but the first start at a random point of the ball.
        noisy: whether the first does so too.
        draws: ``(B,)`` of the random starts; None: those of seed 0.
    """
    goal, aims = track.goal, None
    rows = goal.todo[~track.success[goal.todo]]
    if targets and goal.width > 1:
        rows, aims = least_branches(goal, rows, targets)
        aims = aims.repeat(restarts)
    random = 0 if noisy else len(rows)
    rows = rows.repeat(restarts)
    z = goal.x[rows]
    if random < len(rows):
        offset = random_offset(goal, radius[rows], (draws or goal.draws(0)).lanes(rows))
        z[random:] += offset[random:]
    return Start(rows, aims, project_into(goal.within(radius[rows], rows), z))


def restarted(goal: Goal, start: Start, radius: Tensor, count: int, draws: Draws) -> Start:
    """The same lanes, each ``count`` times from random points of the ball."""
    rows, aims = start.rows.repeat(count), None if start.aims is None else start.aims.repeat(count)
    z = goal.x[rows] + random_offset(goal, radius[rows], draws.lanes(rows))
    return Start(rows, aims, project_into(goal.within(radius[rows], rows), z))


def random_offset(goal: Goal, radius: Tensor, draws: Draws) -> Tensor:
    """Uniform in the cube around balls of radii ``(L,)``; for p = 0 in that of side 2. ``draws (L,)``."""
    noise = draws.symmetric(goal.x.new_empty(len(radius), *goal.x.shape[1:]))
    return noise if goal.p == 0 else along(radius.to(noise), noise) * noise


def never_blind(gradient: Tensor, step: int) -> Tensor:
    """Gradients ``(L, *input_shape)``, a random direction where they are zero, so that a flat part of the network is
    left again: the same one for all lanes of a step, as no input's course may depend on those beside it."""
    blind = ~gradient.flatten(1).any(1)
    if not bool(blind.any()):
        return gradient
    generator = torch.Generator().manual_seed(step)
    noise = torch.randn(gradient.shape[1:], generator=generator, dtype=gradient.dtype).to(gradient.device)
    return torch.where(along(blind, gradient), noise, gradient)


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
