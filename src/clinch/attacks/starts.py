"""Where attacks inside a ball start: one lane for each input, target and restart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.draws import Draws
from clinch.attacks.goal import Goal, along
from clinch.attacks.losses import least_branches
from clinch.attacks.track import Track
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
