"""Square: random search inside a ball by ever smaller squares, without gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of, radius_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into

#: shares of the steps after which the squares' area halves
HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
#: of an element's random numbers one step's draws
PLACE, SIGN = 0, 1


@attack_method
def square(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    steps: int = 1000,
    area: float = 0.8,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Change a random square of the input to the ball's edge, and keep what lowers the margin.

    ``δ_window ← ±ε`` for each channel, ``z ← P(x + δ)`` if the margin falls; the square's share of the image falls from
    ``area`` as in Andriushchenko et al. 2020 (arXiv 1912.00049, algorithms 1 and 2), beginning at vertical stripes. For
    p = 1 and 2 the window's own length is the radius and the projection onto ball and range takes what is too much,
    which is ours: the paper moves mass between windows. Inputs without rows and columns have intervals for squares.

    Args:
        steps: one pass forward each.
        area: of the first squares, as a share of the image.

    Example:
        >>> square(net, x, y, eps=0.1, steps=300).success.double().mean()
        tensor(0.5000, dtype=torch.float64)
    """
    if steps < 1 or not 0 < area <= 1:
        raise ProblemError(f"steps={steps} must be at least 1 and area={area} a share above 0, at most 1.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    check_norm(objective, "Square", tuple(p for p in (1.0, 2.0, torch.inf, objective.p) if p))
    radius = radius_of(objective, eps)
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    square_steps(best_points, objective.todo, radius, steps, objective.draws(seed), area)
    return best_points.result(radius)


def square_steps(
    best_points: BestPoints, indices: Tensor, radius: Tensor, steps: int, draws: Draws, area: float = 0.8
) -> None:
    """The search for inputs ``(A,)``; what is found goes to the best points, and inputs at their goal leave.

    Args:
        best_points: the attack.
        indices: the inputs.
        radius: ``(B,)``.
        steps: passes forward of each input.
        draws: ``(B,)``.
        area: of the first squares.
    """
    objective, shape = best_points.objective, _image(best_points.objective.x.shape[1:])
    ball = objective.within(radius[indices], indices)
    stripes = draws.at(0).take(indices).signs(objective.x.new_empty(len(indices), shape[0], 1, shape[2]))
    offset = _edge(objective, radius[indices], math.prod(shape)) * stripes.expand(-1, *shape)
    z = project_into(ball, objective.x[indices] + offset.reshape(objective.x[indices].shape))
    least = z.new_full((len(indices),), torch.inf)
    for k in range(steps):
        if not len(indices) or best_points.exhausted:
            return
        trial = z if not k else _changed(objective, z, indices, radius, _side(area, k, steps, shape), draws.at(k))
        trial = project_into(ball, trial)
        margin = objective.look(trial, indices)
        best_points.update(trial, indices, margin)
        better = margin < least
        z, least = torch.where(along(better, z), trial, z), torch.where(better, margin, least)
        going = least >= 0
        if not bool(going.all()):
            indices, z, least, ball = indices[going], z[going], least[going], ball.take(going)
        best_points.step()


def _changed(
    objective: AttackObjective, z: Tensor, indices: Tensor, radius: Tensor, side: tuple[int, int], draws: Draws
) -> Tensor:
    """Points with a window of so many rows and columns at the ball's edge, one sign for each channel."""
    shape = _image(z.shape[1:])
    own = draws.take(indices)
    place = own.at(PLACE).uniform(z.new_empty(len(z), 2))
    inside = torch.ones(len(z), 1, 1, 1, dtype=torch.bool, device=z.device)
    for axis, size in enumerate(side):
        first = (place[:, axis] * (shape[axis + 1] - size + 1)).long().reshape(-1, 1)
        at = torch.arange(shape[axis + 1], device=z.device)
        hit = (at >= first) & (at < first + size)
        inside = inside & hit.reshape(len(z), 1, *((-1, 1) if not axis else (1, -1)))
    sign = own.at(SIGN).signs(z.new_empty(len(z), shape[0], 1, 1))
    edge = _edge(objective, radius[indices], shape[0] * side[0] * side[1])
    x, flat = objective.x[indices].reshape(-1, *shape), z.reshape(-1, *shape)
    return torch.where(inside, x + sign * edge, flat).reshape(z.shape)


def _edge(objective: AttackObjective, radius: Tensor, count: int) -> Tensor:
    """``(A, 1, 1, 1)`` the size of ``count`` equal elements whose length is the radius."""
    one = objective.norm.of(torch.ones(1, count, dtype=torch.float64, device=radius.device))
    return (radius / one).to(objective.x).reshape(-1, 1, 1, 1)


def _image(shape: torch.Size) -> tuple[int, int, int]:
    """Channels, rows and columns of inputs; one row where there are no images."""
    if len(shape) < 2:
        return 1, 1, max(1, math.prod(shape))
    return max(1, math.prod(shape[:-2])), shape[-2], shape[-1]


def _side(area: float, step: int, steps: int, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Rows and columns of a square."""
    share = area / 2 ** sum(step > mark * steps for mark in HALVED)
    if shape[1] == 1:
        return 1, min(shape[2], max(1, round(share * shape[2])))
    side = max(1, round(math.sqrt(share * shape[1] * shape[2])))
    return min(side, shape[1]), min(side, shape[2])
