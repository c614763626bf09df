"""Where attacks inside a ball start: one run for each input, target and restart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.losses import least_candidates, run_loss
from clinch.attacks.core.objective import AttackObjective
from clinch.geometry.projection import project_into


class Start(NamedTuple):
    """L runs.

    Attributes:
        indices: ``(L,)`` the input of each.
        aims: ``(L,)`` the candidate that its loss is aimed at; None: the loss as it is.
        z: ``(L, *input_shape)`` where it is.
    """

    indices: Tensor
    aims: Tensor | None
    z: Tensor

    def take(self, which: Tensor) -> Start:
        """The chosen runs."""
        return Start(self.indices[which], None if self.aims is None else self.aims[which], self.z[which])


class End(NamedTuple):
    """The runs that are left after a run.

    Attributes:
        start: where they began.
        z: ``(L, *input_shape)`` their best points.
        loss: ``(L,)`` the loss there.
    """

    start: Start
    z: Tensor
    loss: Tensor

    def closest(self, count: int) -> Start:
        """Where the runs of least loss began, at most ``count`` for each input."""
        indices, by_loss = self.start.indices, self.loss.argsort(stable=True)
        order = by_loss[indices[by_loss].argsort(stable=True)]
        _, runs = indices[order].unique_consecutive(return_counts=True)
        place = torch.arange(len(indices), device=indices.device) - (runs.cumsum(0) - runs).repeat_interleave(runs)
        return self.start.take(order[place < count])


def starts(
    best_points: BestPoints, radius: Tensor, *, targets: int = 0, restarts: int = 1, noisy: bool = False,
    draws: Draws | None = None,
) -> Start:  # fmt: skip
    """Runs of all inputs whose goal is not reached yet.

    Args:
        best_points: the attack.
        radius: ``(B,)``.
        targets: aim at so many of the nearest candidates, one run each; 0: not at one alone.
        restarts: runs for each of those; all but the first start at a random point of the ball.
        noisy: whether the first does so too.
        draws: ``(B,)`` of the random starts; None: those of seed 0.
    """
    objective, aims = best_points.objective, None
    indices = objective.todo[~best_points.success[objective.todo]]
    if targets and objective.width > 1:
        indices, aims = least_candidates(objective, indices, targets)
        aims = aims.repeat(restarts)
    random = 0 if noisy else len(indices)
    indices = indices.repeat(restarts)
    z = objective.x[indices]
    if random < len(indices):
        offset = random_offset(objective, radius[indices], (draws or objective.draws(0)).runs(indices))
        z[random:] += offset[random:]
    return Start(indices, aims, project_into(objective.within(radius[indices], indices), z))


def restarted(objective: AttackObjective, start: Start, radius: Tensor, count: int, draws: Draws) -> Start:
    """The same runs, each ``count`` times from random points of the ball."""
    indices, aims = start.indices.repeat(count), None if start.aims is None else start.aims.repeat(count)
    z = objective.x[indices] + random_offset(objective, radius[indices], draws.runs(indices))
    return Start(indices, aims, project_into(objective.within(radius[indices], indices), z))


def random_offset(objective: AttackObjective, radius: Tensor, draws: Draws) -> Tensor:
    """Uniform in the cube around balls of radii ``(L,)``; for p = 0 in that of side 2. ``draws (L,)``."""
    noise = draws.symmetric(objective.x.new_empty(len(radius), *objective.x.shape[1:]))
    return noise if objective.norm.counts else along(radius.to(noise), noise) * noise


def never_blind(gradient: Tensor, step: int, blind: Tensor | None = None) -> Tensor:
    """Gradients ``(L, *input_shape)``, a random direction where they are zero, so that a flat part of the network is
    left again: the same one for all runs of a step, as no input's course may depend on those beside it. ``blind``
    ``(L,)`` where that is, if it is known."""
    blind = ~gradient.flatten(1).any(1) if blind is None else blind
    if not bool(blind.any()):
        return gradient
    generator = torch.Generator().manual_seed(step)
    noise = torch.randn(gradient.shape[1:], generator=generator, dtype=gradient.dtype).to(gradient.device)
    return torch.where(along(blind, gradient), noise, gradient)


class BallRuns:
    """L runs inside balls.

    Args:
        objective: what is attacked.
        start: where they begin.
        radius: ``(B,)``.
        size: ``(B,)`` first step sizes.

    Attributes:
        indices: ``(L,)``; ``aims`` ``(L,)`` or None, see :class:`Start`.
        z: ``(L, *input_shape)`` where runs are, ``previous`` where they were before, ``origin`` where they began,
            ``center`` the inputs themselves.
        gradient: the gradient at z; ``loss (L,)`` the loss there.
        best: the point of least loss, ``best_gradient`` the gradient and ``least (L,)`` the loss there.
        size: ``(L,)``.
        ball: where they must stay.
        asked: how many gradients were asked for.
    """

    def __init__(self, objective: AttackObjective, start: Start, radius: Tensor, size: Tensor) -> None:
        self.indices, self.aims, self.z = start
        self.origin = self.z
        self.center = objective.x[self.indices]
        self.previous, self.best = self.z, self.z
        self.gradient = self.best_gradient = torch.zeros_like(self.z)
        self.loss = self.least = objective.x.new_full((len(self.indices),), torch.inf)
        self.size = size[self.indices].to(objective.x)
        self.ball = objective.within(radius[self.indices], self.indices)
        self.asked = 0

    def keep(self, which: Tensor) -> None:
        """Drop the other runs."""
        if bool(which.all()):
            return
        for name in (
            "indices",
            "z",
            "origin",
            "center",
            "previous",
            "best",
            "gradient",
            "best_gradient",
            "loss",
            "least",
        ):
            setattr(self, name, getattr(self, name)[which])
        self.size = self.size[which]
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

    def finish(self, best_points: BestPoints, radius: Tensor | None = None) -> End:
        """One last look at where runs are; the runs that are left, at their best points."""
        if len(self.indices):
            _note(best_points, self, best_points.objective.look(self.z, self.indices), radius)
            self.keep(~best_points.success[self.indices])
        return End(Start(self.indices, self.aims, self.origin), self.best, self.least)


def ask(best_points: BestPoints, runs: BallRuns, loss: str | None, radius: Tensor | None = None) -> Tensor:
    """Loss and gradient of all runs, a random direction where it is zero; runs at their goal leave.

    Args:
        best_points: the attack.
        runs: changed in place.
        loss: its name.
        radius: ``(B,)`` points further away do not count; None: no point is.

    Returns:
        ``(L,)`` which runs are left.
    """
    slope = best_points.objective.slope(runs.z, runs.indices, run_loss(best_points.objective.query, loss, runs.aims))
    best_points.note_gradient(slope.gradient, runs.indices)
    _note(best_points, runs, slope.margin, radius)
    better = slope.loss < runs.least
    gradient, runs.asked = never_blind(slope.gradient, runs.asked, slope.blind), runs.asked + 1
    runs.gradient, runs.loss = gradient, slope.loss
    runs.best = torch.where(along(better, runs.z), runs.z, runs.best)
    runs.best_gradient = torch.where(along(better, runs.z), gradient, runs.best_gradient)
    runs.least = torch.where(better, slope.loss, runs.least)
    going = ~best_points.success[runs.indices]
    runs.keep(going)
    return going


def _note(best_points: BestPoints, runs: BallRuns, margin: Tensor, radius: Tensor | None) -> None:
    if radius is None:
        best_points.update(runs.z, runs.indices, margin)
        return
    distance = best_points.objective.distance(runs.z, runs.indices)
    near = distance <= radius[runs.indices]
    best_points.update(runs.z[near], runs.indices[near], margin[near], distance[near])
