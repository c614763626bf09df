"""One perturbation for all inputs of a batch."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of, radius_of
from clinch.attacks.core.attack_query import Answer
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.core.losses import spread
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError, UnsupportedByEngine
from clinch.geometry.directions import sparse_direction, steepest_direction
from clinch.geometry.norms import Norm
from clinch.geometry.projection import project, project_into
from clinch.geometry.region import Ball

#: first and last step of gradients, in radii, and the weight of past ones
STEP, MOMENTUM = (0.5, 0.1), 0.9
#: differences of logits, relative to their spread, over which an input goes from fallen to not, at the first step and
#: at the last
WIDTH = (0.3, 0.1)
#: share of elements that one step changes for p = 1
SHARE = 0.05
#: how far a step of DeepFool goes beyond the linearised boundary, relative to its length
OVERSHOOT = 0.02
RULES = ("gradient", "deepfool")


@attack_method
def universal(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    rule: str = "gradient",
    steps: int = 100,
    together: int = 10,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """One δ with ``‖δ‖_p <= eps`` that brings as many of the inputs as possible to their goal.

    ``rule="gradient"``: ``δ ← P(δ − α·v(mean of ∇L))`` on all inputs at once, as Shafahi et al. 2018 (arXiv
    1811.11304), whose cross-entropy is capped, so that inputs which have fallen no longer count. Ours is a smooth count
    of those that have not, a sigmoid of the margin relative to the spread of the logits; momentum besides, and α falls
    along half a cosine.
    ``rule="deepfool"``: ``δ ← P(δ + shortest step to the nearest linearised boundary)`` for the inputs that have not
    fallen, Moosavi-Dezfooli et al. 2016 (arXiv 1610.08401, algorithm 1); ours takes the mean step of a few inputs
    ``together``, not of one after the other. The δ that has brought most inputs to their goal is kept. It is made for
    these inputs: apply ``parameters["perturbation"]`` to others to see what it does there.

    Args:
        eps: one radius for all.
        norm: 1, 2 or ``cl.inf``.
        rule: ``"gradient"`` or ``"deepfool"``.
        steps: gradient steps; or rounds over all inputs.
        together: inputs of one step of DeepFool.

    Returns:
        ``x + δ``, clipped to the range, for each input that is not at its goal already; ``parameters`` has
        ``"perturbation"`` ``(*input_shape)``.

    Example:
        >>> found = universal(net, x, y, eps=0.15)
        >>> found.success.double().mean(), found.parameters["perturbation"].shape
        (tensor(0.8750, dtype=torch.float64), torch.Size([8, 8]))
    """
    if rule not in RULES:
        raise ProblemError(f"rule={rule!r:.40} is not known. Write one of: {', '.join(RULES)}.")
    if min(steps, together) < 1:
        raise ProblemError(f"steps={steps} and together={together} must be at least 1.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm, scaled=False)
    if not isinstance(objective.query, ClassQuery):
        raise UnsupportedByEngine("A universal perturbation is for classifiers with inputs and labels. Pass these.")
    check_norm(objective, "A universal perturbation", (1.0, 2.0, torch.inf))
    radius = radius_of(objective, eps)
    if len(radius) and bool((radius != radius[0]).any()):
        raise ProblemError("eps differs between inputs, and a perturbation that they share has one radius. Give one.")
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    shared = _Shared(best_points, radius)
    for k in range(steps if len(objective.todo) else 0):
        if rule == "gradient":
            shared.descend(k, steps)
        else:
            for some in objective.todo.split(together):
                shared.push(some)
        best_points.step()
    delta = shared.finish()
    return replace(best_points.result(radius), parameters={"perturbation": delta.squeeze(0)})


class _Shared:
    """A perturbation ``delta (1, *input_shape)`` and the best one so far."""

    def __init__(self, best_points: BestPoints, radius: Tensor) -> None:
        self.best_points, self.objective = best_points, best_points.objective
        like = self.objective.x[:1]
        self.delta = self.best = like.new_zeros(1, *like.shape[1:])
        self.average = torch.zeros_like(self.delta)
        self.radius = radius[:1].to(like) if len(radius) else like.new_ones(1)
        self.each = self.objective.within(radius[self.objective.todo], self.objective.todo)
        self.most, self.least = -1, math.inf

    def points(self, indices: Tensor | None = None) -> Tensor:
        """Inputs with the perturbation, inside their limits."""
        objective = self.objective
        if indices is None:
            return project_into(self.each, objective.x[objective.todo] + self.delta)
        return project_into(objective.region.take(indices), objective.x[indices] + self.delta)

    def descend(self, step: int, steps: int) -> None:
        """One gradient step of all inputs."""
        objective, indices = self.objective, self.objective.todo
        width = cosine(WIDTH[0], WIDTH[1], step, steps)
        slope = objective.slope(self.points(), indices, partial(_soft_count, width))
        self.best_points.note_gradient(slope.gradient, indices)
        self.judge(slope.margin, slope.loss)
        gradient = slope.gradient.mean(0, keepdim=True)
        length = gradient.abs().sum().clamp(min=torch.finfo(gradient.dtype).tiny)
        self.average = MOMENTUM * self.average + gradient / length
        size = cosine(STEP[0], STEP[1], step, steps) * self.radius
        self.moved(-size * _direction(self.average, objective.norm))

    def push(self, indices: Tensor) -> None:
        """One step of DeepFool of a few inputs."""
        objective, z = self.objective, self.points(indices)
        candidates, gradients = objective.jacobian(z, indices)
        self.best_points.note_gradient(gradients.flatten(1, 2), indices)
        left = candidates.amin(1) >= 0
        if not bool(left.any()):
            return
        step = _to_boundary(candidates[left], gradients[left])
        self.moved((1 + OVERSHOOT) * step.mean(0, keepdim=True))
        if bool((indices[-1:] == objective.todo[-1:]).all()):  # a round is over
            margin = objective.look(self.points(), objective.todo)
            self.judge(margin, margin)

    def moved(self, step: Tensor) -> None:
        """δ a step on, inside its ball."""
        endless = torch.full_like(self.delta, torch.inf)
        ball = Ball(torch.zeros_like(self.delta), self.radius, self.objective.p)
        self.delta = project(self.delta + step, -endless, endless, ball)

    def judge(self, margin: Tensor, loss: Tensor) -> None:
        """Keep δ where it has brought more inputs to their goal, or as many with less loss."""
        count, mean = int((margin < 0).sum()), float(loss.double().mean())
        if (count, -mean) > (self.most, -self.least):
            self.most, self.least, self.best = count, mean, self.delta

    def finish(self) -> Tensor:
        """The best δ, whose points are the result."""
        objective, indices = self.objective, self.objective.todo
        if len(indices):
            margin = objective.look(self.points(), indices)
            self.judge(margin, torch.full_like(margin, torch.inf))
            self.delta = self.best
            z = self.points()
            self.best_points.update(z, indices, objective.look(z, indices))
        return self.best


def _soft_count(width: float, answer: Answer, indices: Tensor, which: Tensor) -> Tensor:
    """A smooth count of what has not fallen, in margins relative to the spread of the logits: what lies far on either
    side of its boundary counts little."""
    assert answer.logits is not None
    below = spread(answer.logits, targeted=False)
    return torch.sigmoid((answer.margin if below is None else answer.margin / below) / width)


def _to_boundary(candidates: Tensor, gradients: Tensor) -> Tensor:
    """The shortest Euclidean steps ``(L, *input_shape)`` to the nearest of the linearised boundaries ``(L, K)``."""
    slopes = gradients.flatten(2)
    length = torch.linalg.vector_norm(slopes, dim=2)
    distance = torch.where(length > 0, candidates / length, torch.inf)
    run, nearest = torch.arange(len(candidates), device=candidates.device), distance.argmin(1)
    size = distance[run, nearest] / length[run, nearest]
    step = -torch.where(size.isfinite(), size, 0.0).unsqueeze(1) * slopes[run, nearest]
    return step.reshape(gradients[:, 0].shape)


def _direction(gradient: Tensor, norm: Norm) -> Tensor:
    if norm.sparse:
        return sparse_direction(gradient, gradient.new_full((1,), max(1.0, SHARE * gradient.numel())))
    return steepest_direction(gradient, norm)
