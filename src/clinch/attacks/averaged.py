"""Averaged linearisation: project the centre onto the half-space where the linearised condition holds, again and again.

    gu = g/‖g‖,   cc = <gu, z − c> − h/‖g‖                       at the current point z, with h(z) <= 0 wanted
    G ← a·G + (1 − a)·gu,   C ← a·C + (1 − a)·cc                 hyperplanes are averaged over the steps
    z ← z + s·(P(G, C) − z)                                      P: nearest point of the box with <G, x − c> <= C

One step with a = 0 and s = 1 is DeepFool's (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599), with the exact box FAB's
(Croce and Hein 2020, arXiv 1907.02044). Averaging stops the zigzag at kinks and does nearly all of the work; it is
ours, as is the second half-space for the other clauses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.lanes import Lanes, Reading
from clinch.attacks.schedule import cosine
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.projection import project_into
from clinch.query import Distance

#: halvings of the weight between the two half-spaces
MIX = 6


@dataclass
class HalfSpace:
    """Averaged half-spaces ``<row, x − center> <= limit``, rows of about unit length."""

    row: Tensor
    limit: Tensor

    @staticmethod
    def at(z: Tensor, value: Tensor, slope: Tensor) -> HalfSpace:
        """The linearised condition ``value + <slope, x − z> <= 0`` at offsets ``z (L, n)`` from the centre."""
        length = torch.linalg.vector_norm(slope, dim=1)
        known = (length > 0) & torch.isfinite(value)
        scale = torch.where(known, 1 / torch.where(known, length, 1.0), 0.0)
        row = slope * scale.unsqueeze(1)
        limit = (row * z).sum(1) - torch.where(known, value, 0.0) * scale
        return HalfSpace(row, torch.where(known, limit, torch.inf))

    def averaged(self, new: HalfSpace, keep: float) -> HalfSpace:
        """``keep`` parts of this and ``1 − keep`` of the new one; where one is unknown, the other alone."""
        old_known, new_known = torch.isfinite(self.limit), torch.isfinite(new.limit)
        share = torch.where(old_known & new_known, keep, torch.where(old_known, 1.0, 0.0)).to(self.limit)
        row = share.unsqueeze(1) * self.row + (1 - share).unsqueeze(1) * new.row
        limit = share * self.limit.nan_to_num(posinf=0.0) + (1 - share) * new.limit.nan_to_num(posinf=0.0)
        return HalfSpace(row, torch.where(old_known | new_known, limit, torch.inf))

    def beyond(self, overshoot: float) -> HalfSpace:
        """Moved away from the centre by the given factor."""
        return HalfSpace(self.row, self.limit - (overshoot - 1) * self.limit.abs().nan_to_num(posinf=0.0))


def averaged_steps(
    lanes: Lanes,
    z: Tensor,
    *,
    steps: int,
    step_size: tuple[float, float],
    averaging: tuple[float, float],
    overshoot: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the iteration on lanes of a distance problem.

    Args:
        lanes: L lanes.
        z: ``(L, *input_shape)`` where to start.
        steps: number of steps.
        step_size: s at the first and at the last step.
        averaging: a at the first and at the last step.
        overshoot: how much farther than the linearised boundary to aim.

    Returns:
        Each lane's nearest feasible point (its last one where there is none); its distance ``(L,)``, infinity where
        there is none; and the distance ``(L,)`` of the point it aimed at last, infinity where it had no aim.
    """
    objective = lanes.query.objective
    assert isinstance(objective, Distance)
    center, region = objective.center, lanes.query.region
    nearest, value = z.clone(), torch.full((lanes.size,), torch.inf, dtype=z.dtype, device=z.device)
    aim = value.clone()
    one: HalfSpace | None = None
    two: HalfSpace | None = None
    for k in range(steps + 1):
        reading = lanes.read(z, gradients=k < steps)
        better = reading.feasible & (reading.value < value)
        nearest[better], value = z[better], torch.where(better, reading.value, value)
        if k == steps or lanes.best.exhausted:
            break
        offset = (z - center).flatten(1)
        keep = cosine(*averaging, k, steps)
        new = HalfSpace.at(offset, reading.primary, reading.primary_slope)
        one = _renewed(one, new, keep)
        two = _renewed(two, HalfSpace.at(offset, reading.secondary, reading.secondary_slope), keep)
        target = meet(lanes, one.beyond(overshoot), two.beyond(overshoot)).reshape(z.shape)
        known = torch.isfinite(one.limit) & torch.isfinite(target).flatten(1).all(1)
        # a lane that has lost its gradient has no aim, whatever its average still says
        aim = torch.where(known & torch.isfinite(new.limit), objective.value(center + target, {}), torch.inf)
        moved = z + cosine(*step_size, k, steps) * (center + target - z)
        moved = project_into(region, moved)
        z = torch.where(known.view(-1, *[1] * (z.dim() - 1)), moved, z)
    nearest = torch.where(torch.isfinite(value).view(-1, *[1] * (z.dim() - 1)), nearest, z)
    return nearest, value, aim


def _renewed(old: HalfSpace | None, new: HalfSpace, keep: float) -> HalfSpace:
    return new if old is None else old.averaged(new, keep)


def meet(lanes: Lanes, one: HalfSpace, two: HalfSpace) -> Tensor:
    """The nearest offset ``(L, n)`` from the centre in the box and both half-spaces.

    The second half-space matters only where the nearest point of the first violates it. The weight between the two,
    the one dual variable that is left, is then bisected: it grows while the second is violated more than the first.
    """
    objective = lanes.query.objective
    assert isinstance(objective, Distance)
    center = objective.center.flatten(1)
    lower, upper = lanes.query.region.lower.flatten(1) - center, lanes.query.region.upper.flatten(1) - center
    weights = None if objective.weights is None else objective.weights.flatten(1)

    def nearest(row: Tensor, limit: Tensor, on: Tensor) -> Tensor:
        w = None if weights is None else weights[on]
        origin = torch.zeros_like(lower[on])
        return halfspace_distance(row, -limit, lower[on], upper[on], origin, objective.p, w).point

    every = torch.arange(lanes.size, device=center.device)
    point = nearest(one.row, one.limit.nan_to_num(posinf=0.0), every)
    excess = (two.row * point).sum(1) - two.limit
    on = (excess > 1e-6 * two.limit.abs()).nonzero().flatten()
    if not len(on):
        return point
    rows, limits = (one.row[on], two.row[on]), (one.limit[on].nan_to_num(posinf=0.0), two.limit[on])
    low, high = torch.zeros_like(limits[0]), torch.ones_like(limits[0])
    mixed = point[on]
    for _ in range(MIX):
        share = (low + high) / 2
        row = (1 - share).unsqueeze(1) * rows[0] + share.unsqueeze(1) * rows[1]
        mixed = nearest(row, (1 - share) * limits[0] + share * limits[1], on)
        grow = (rows[1] * mixed).sum(1) - limits[1] > (rows[0] * mixed).sum(1) - limits[0]
        low, high = torch.where(grow, share, low), torch.where(grow, high, share)
    return point.index_copy(0, on, mixed)


def linearised_distance(lanes: Lanes, reading: Reading, z: Tensor) -> tuple[Tensor, Tensor]:
    """Distance at which the linearised wanted atom holds, ``(L,)``, and the point of the box where it does."""
    objective = lanes.query.objective
    assert isinstance(objective, Distance)
    center = objective.center.flatten(1)
    space = HalfSpace.at((z - objective.center).flatten(1), reading.primary, reading.primary_slope)
    known = torch.isfinite(space.limit)
    found = halfspace_distance(
        space.row,
        -torch.where(known, space.limit, 0.0),
        lanes.query.region.lower.flatten(1) - center,
        lanes.query.region.upper.flatten(1) - center,
        torch.zeros_like(center),
        objective.p,
        None if objective.weights is None else objective.weights.flatten(1),
    )
    distance = torch.where(known, found.distance, torch.inf)
    usable = known & torch.isfinite(found.point).all(1)
    point = torch.where(usable.view(-1, *[1] * (z.dim() - 1)), objective.center + found.point.reshape(z.shape), z)
    return distance, project_into(lanes.query.region, point)


def retract(lanes: Lanes, x: Tensor, rounds: int = 10) -> None:
    """Bisect the way from the anchor to feasible points ``(L, *input_shape)``; what is found goes to ``lanes.best``."""
    anchor = lanes.best.anchor[lanes.problem]
    low, high = x.new_zeros(lanes.size), x.new_ones(lanes.size)
    for _ in range(rounds):
        middle = (low + high) / 2
        z = anchor + middle.view(-1, *[1] * (x.dim() - 1)) * (x - anchor)
        feasible = lanes.read(z, gradients=False).feasible
        low, high = torch.where(feasible, low, middle), torch.where(feasible, middle, high)
