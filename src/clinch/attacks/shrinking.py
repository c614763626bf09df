"""A shrinking ball with averaged extreme points: for networks whose linearisation at the centre misleads.

    G ← a·G + (1 − a)·g/‖g‖,   z ← z + s·(L(−G, e) − z)          L: extreme point of ball(e) ∩ box
    feasible:  e ← min(e, ‖z − c‖)·(1 − γ)        else  e ← min(e·(1 + γ), 0.998·best)

starting from a large radius. Related to FMN (Pintor et al. 2021, arXiv 2102.12827) with projected gradient steps
replaced by Frank-Wolfe steps with momentum, which matters most for p = 0 and 1. For p = 0 the step is s = 1, so that
the iterate stays sparse, and a feasible point is followed by the attempt to change at least one element less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.lanes import Lanes, Reading
from clinch.attacks.schedule import cosine
from clinch.geometry.directions import linear_maximiser
from clinch.geometry.projection import project, project_into
from clinch.query import Distance


def shrinking_steps(lanes: Lanes, z: Tensor, radius: Tensor, steps: int) -> None:
    """Run the iteration on lanes of a distance problem; what is found goes to ``lanes.best``.

    Args:
        lanes: L lanes.
        z: ``(L, *input_shape)`` where to start.
        radius: ``(L,)`` first radius.
        steps: number of steps.
    """
    objective, region = lanes.query.objective, lanes.query.region
    assert isinstance(objective, Distance)
    sparse = objective.p == 0
    average = torch.zeros_like(z)
    nearest = torch.full_like(radius, torch.inf)
    shape = (-1, *[1] * (z.dim() - 1))
    for k in range(steps + 1):
        reading = lanes.read(z, gradients=k < steps)
        if k == steps or lanes.best.exhausted:
            return
        nearest = torch.where(reading.feasible, torch.minimum(nearest, reading.value), nearest)
        rate = cosine(0.2, 0.01, k, steps)
        if sparse:
            smaller = torch.minimum(torch.minimum(radius, reading.value) * (1 - rate), reading.value - 1).clamp(min=0)
        else:
            smaller = torch.minimum(radius, reading.value) * (1 - rate)
        radius = torch.where(reading.feasible, smaller, torch.minimum(radius * (1 + rate), 0.998 * nearest))
        keep = cosine(0.0, 0.8 if sparse else 0.5, k, steps)
        average = keep * average + (1 - keep) * uphill(reading).reshape(z.shape)
        ball = objective.ball(radius)
        extreme = linear_maximiser(-average, region.lower, region.upper, ball)
        extreme = torch.where(torch.isfinite(extreme), extreme, z)
        if sparse:
            z = project_into(region, extreme)
            continue
        moved = z + cosine(0.5, 0.1, k, steps) * (extreme - z)
        z = project_into(region, project(moved, region.lower, region.upper, ball))
        z = torch.where(torch.isfinite(z).flatten(1).all(1).view(shape), z, objective.center)


def uphill(reading: Reading) -> Tensor:
    """Unit gradients of the violated conditions, added; that of the larger one where none is violated. ``(L, n)``."""
    first = (reading.primary > 0) | (reading.primary >= reading.secondary)
    second = (reading.secondary > 0) | (reading.secondary > reading.primary)
    total = _unit(reading.primary_slope) * first.unsqueeze(1) + _unit(reading.secondary_slope) * second.unsqueeze(1)
    return _unit(total)


def _unit(slope: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(slope, dim=1, keepdim=True)
    return slope / torch.where(length > 0, length, 1.0)
