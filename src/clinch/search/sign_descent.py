"""A short walk by projected sign steps from many points: out of violated clauses, then down the objective."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.geometry.projection import project_into
from clinch.query import Query

#: length of the first step, relative to half the width of the region's box
FIRST_STEP = 0.1


class Walked(NamedTuple):
    """The best feasible point of each walk, ``(N, *input_shape)``, and its value ``(N,)``, infinity without any."""

    x: Tensor
    value: Tensor


def walk(query: Query, points: Tensor, *, steps: int = 10) -> Walked:
    """Walk from each point within the region: down the largest violation while there is one, else down the objective.

    ``x ← project(x − s·η·sign ∇f(x))`` with η half the width of the region's box and s falling from
    :data:`FIRST_STEP` to zero.

    Args:
        query: N problems, one per point.
        points: ``(N, *input_shape)`` inside the region's box.
        steps: gradient steps.
    """
    region = query.region
    scale = FIRST_STEP * (region.upper - region.lower).nan_to_num(posinf=1.0) / 2
    x, best = points, Walked(points, torch.full((len(points),), torch.inf, dtype=points.dtype, device=points.device))
    for step in range(steps + 1):
        # slopes are those at the values of discrete elements, which move on where they have added up
        at = region.on_values(x).detach().requires_grad_()
        with torch.enable_grad():
            value, atoms = query.evaluate(at)
            violation = query.violation(atoms.expand(len(x), -1))
            (slope,) = torch.autograd.grad(
                torch.where(violation > 0, violation, value).sum() + 0.0 * at.sum(), at
            )  # fmt: skip
        at, value = at.detach(), value.detach()
        improved = (violation.detach() <= 0) & (value < best.value)
        shaped = improved.view(-1, *[1] * (x.dim() - 1))
        best = Walked(torch.where(shaped, at, best.x), torch.where(improved, value, best.value))
        if step < steps:
            x = project_into(region, x - (1 - step / steps) * scale * slope.sign())
    return best
