"""DeepFool and equation 8: the shortest step to the goal of the linear model, again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.attacks.linear_model import draw_back, first_points, shortest_step
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into
from clinch.solver.settings import Positive

#: candidates ``(L, R)`` and their gradients ``(L, R, *input_shape)`` at points of rows
Models = Callable[[AttackObjective, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DeepfoolSettings(AttackSettings):
    """Of :func:`deepfool` and :func:`shortest_linear`.

    Attributes:
        least: that a step takes off a candidate, relative to the margin at the start: at a tie the exact step has no
            length.
    """

    least: Positive = 1e-5


@attack_method
def deepfool(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = 2.0,
    steps: int = 50,
    overshoot: float = 0.02,
    halvings: int = 10,
    settings: DeepfoolSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    outputs: str = "logits",
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Step to the class that is the nearest by its linear model, until the label changes.

    ``l̂ = argmin_k L_k/‖∇L_k‖_q,  r = argmin ‖r‖_p  s.t.  L_l̂ + <∇L_l̂, r> <= 0`` with ``L_k = f_y − f_k``, all taken
    at ``x + (1 + overshoot)·Σr`` (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599, algorithm 2; for any p as in Balda et
    al. 2018, arXiv 1803.03607, section IV). Where we differ: each step is the shortest one inside the range, where the
    original clips; p = 1 is taken too; the end is drawn back along its own ray by ``halvings`` forward passes, which
    undoes what the overshoot did not need. ``halvings=0, bounds=None`` is the paper's.

    Args:
        norm: any p >= 1 or ``cl.inf``; a problem whose objective is a distance has its own.
        steps: at most so many.
        overshoot: how far each point lies beyond the sum of its steps, relative to that sum.
        halvings: of the bisection at the end.

    Example:
        >>> deepfool(net, x, y, norm=cl.inf).distance.median()
        tensor(0.0905, dtype=torch.float64)
    """
    numbers = DeepfoolSettings.of(settings)
    _check(steps, overshoot, halvings)
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm, outputs=outputs, any_p=True)
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=steps)
    _walk(best_points, AttackObjective.jacobian, steps, overshoot)
    draw_back(best_points, halvings)
    return best_points.result()


@attack_method
def shortest_linear(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = 2.0,
    steps: int = 1,
    overshoot: float = 0.02,
    halvings: int = 10,
    settings: DeepfoolSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    outputs: str = "logits",
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Equation 8, ``min ‖η‖_p  s.t.  L + <∇L, η> <= 0`` with the margin L, once or repeated until the label changes.

    Without limits of the range ``η = −(L/‖∇L‖_q)·v`` with the steepest direction v (Balda et al. 2018, arXiv
    1803.03607, equation 8). L is the class that is the nearest in f, so that a step costs one gradient;
    :func:`deepfool` compares all classes. The boundary of the model itself is passed by the overshoot, which is ours.

    Arguments, result and errors: see :func:`deepfool`; ``steps`` 1 is the equation itself.

    Example:
        >>> shortest_linear(net, x, y, norm=2, steps=20).distance
        tensor([0.4874, 0.2250, 0.6747, 0.3282, 0.5650, 0.3700, 0.7034, 0.6375],
               dtype=torch.float64)
    """
    numbers = DeepfoolSettings.of(settings)
    _check(steps, overshoot, halvings)
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm, outputs=outputs, any_p=True)
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=steps)
    _walk(best_points, _margin, steps, overshoot)
    draw_back(best_points, halvings)
    return best_points.result()


def _walk(best_points: BestPoints, models: Models, steps: int, overshoot: float) -> None:
    objective, indices = best_points.objective, best_points.objective.todo
    start, share = first_points(objective, indices), objective.numbers(DeepfoolSettings).least
    inner = z = start  # the sum of the steps, and beyond it
    least = None
    for _ in range(steps):
        if not len(indices):
            return
        candidates, gradients = models(objective, z, indices)
        best_points.note_gradient(gradients.flatten(1, 2), indices)
        margin = candidates.amin(1)
        best_points.update(z, indices, margin)
        going = margin >= 0
        least = (share * margin if least is None else least)[going]
        indices, start, inner, z = indices[going], start[going], inner[going], z[going]
        region = objective.region.take(indices)
        need = torch.maximum(candidates[going], least.unsqueeze(1))
        inner = project_into(region, inner + shortest_step(objective, z, indices, need, gradients[going])[1])
        z = project_into(region, start + (1 + overshoot) * (inner - start))
        best_points.step()
    if len(indices):
        best_points.update(z, indices, objective.look(z, indices))


def _margin(objective: AttackObjective, z: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    slope = objective.slope(z, indices)
    return slope.margin.unsqueeze(1), slope.gradient.unsqueeze(1)


def _check(steps: int, overshoot: float, halvings: int) -> None:
    if steps < 1 or halvings < 0:
        raise ProblemError(f"steps={steps} must be at least 1 and halvings={halvings} at least 0.")
    if not 0 <= overshoot < torch.inf:
        raise ProblemError(f"overshoot={overshoot} must be finite and not negative.")
