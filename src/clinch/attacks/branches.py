"""Where the branches of a goal are met by linearisation, and which of them are near."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.averaged import HalfSpace
from clinch.attacks.goal import Goal, along
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.projection import project_into

#: elements of one batch of points while branches are compared, so that memory stays bounded
BATCH = 1 << 24
#: branches of an input that are kept whatever their linearisation says
KEPT = 12


class Linearised(NamedTuple):
    """Branches of inputs, linearised at the clean input. L entries, those of one input beside each other.

    Attributes:
        rows: ``(L,)`` the input of each.
        branch: ``(L,)``.
        distance: ``(L,)`` where the linearised branch is met; infinity where it cannot be, or has no gradient.
        point: ``(L, *input_shape)`` of the region; the clean input where the distance is infinite.
        value: ``(L,)`` at the clean input; infinity for a branch that the input does not have.
        steepness: ``(L,)`` Euclidean length of the gradient.
        leaky: ``(L,)`` where that gradient is not the true one, see :class:`clinch.attacks.goal.Slopes`.
    """

    rows: Tensor
    branch: Tensor
    distance: Tensor
    point: Tensor
    value: Tensor
    steepness: Tensor
    leaky: Tensor

    def take(self, which: Tensor) -> Linearised:
        """The chosen entries, in that order."""
        return Linearised(*(t[which] for t in self))


def nearest_branches(goal: Goal, rows: Tensor, count: int) -> Linearised:
    """The ``count`` branches of each row that linearisation at the clean input says to be nearest.

    The nearest come first, those without a true gradient last.

    Costs one pass forward and one backward for each branch. Conditions that all branches share are not looked at.

    Args:
        goal: what is attacked.
        rows: ``(A,)`` inputs.
        count: branches of each row, at most.
    """
    width = goal.width
    count = min(count, width)
    height = max(1, BATCH // (width * max(1, goal.x[0].numel())))
    parts = []
    for some in rows.split(height):
        every = torch.arange(width, device=rows.device).repeat(len(some))
        found = linearised(goal, some.repeat_interleave(width), every)
        # what a switched-off element promises is less certain than any true gradient
        doubt = torch.where(found.leaky, 2, torch.where(found.distance.isfinite(), 0, 1)).reshape(len(some), width)
        order = found.distance.reshape(len(some), width).argsort(dim=1, stable=True)
        order = order.gather(1, doubt.gather(1, order).argsort(dim=1, stable=True))[:, :count]
        start = width * torch.arange(len(some), device=rows.device).unsqueeze(1)
        # one that cannot be met, even by linearisation, is tried only where little else is left
        worth = found.distance[start + order].isfinite()
        worth[:, :KEPT] = True
        chosen = (start + order)[worth]
        parts.append(found.take(chosen[found.value[chosen].isfinite()]))
    if not parts:
        return linearised(goal, rows, rows)
    return Linearised(*(torch.cat(column) for column in zip(*parts)))


def linearised(goal: Goal, rows: Tensor, branch: Tensor) -> Linearised:
    """The given branches ``(L,)`` of the given rows ``(L,)``, linearised at the clean input.

    With ``h(z) ≈ h(x) + <g, z − x>``: the nearest point of the box where that is at most 0.
    """
    z = goal.x[rows]
    slopes = goal.slopes(z, rows, lambda answer, which: answer.conditions(branch[which])[:, :1])
    gradient = slopes.gradients[:, 0].flatten(1)
    space = HalfSpace.at(torch.zeros_like(gradient), slopes.losses[:, 0], gradient)
    known = torch.isfinite(space.limit)
    region = goal.region.take(rows)
    center = z.flatten(1)
    lower, upper = region.lower.flatten(1) - center, region.upper.flatten(1) - center
    weights = None if goal.weights is None else goal.weights[rows].flatten(1)
    limit = torch.where(known, space.limit, 0.0)
    found = halfspace_distance(space.row, -limit, lower, upper, torch.zeros_like(center), goal.p, weights)
    usable = known & torch.isfinite(found.point).all(1)
    distance = torch.where(usable, found.distance, torch.inf)
    point = torch.where(along(usable, z), z + found.point.reshape(z.shape), z)
    steepness = torch.linalg.vector_norm(gradient, dim=1)
    return Linearised(
        rows, branch, distance, project_into(region, point), slopes.losses[:, 0], steepness, slopes.leaky[:, 0]
    )
