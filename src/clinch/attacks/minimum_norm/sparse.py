"""Fewer changed elements: put one after the other back, as long as the goal is still reached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.attack_query import ANY
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.gradient_steps import cosine, toward
from clinch.attacks.core.settings import AttackSettings
from clinch.solver.settings import Pair, Positive


@dataclass(frozen=True)
class DeepenSettings(AttackSettings):
    """Of :func:`deepened`.

    Attributes:
        step: sign steps at the first and at the last, in widths of the box, no wider than ``widest``.
        widest: see there.
    """

    step: Pair = (0.5, 0.02)
    widest: Positive = 2.0


def greedy_sparsify(best_points: BestPoints, indices: Tensor, passes: Tensor, points: Tensor | None = None) -> None:
    """Greedy, for p = 0: of all changed elements of an input's point, restored the one that leaves the smallest
    margin; again and again, as long as some trial reaches the goal and passes are left.

    Args:
        best_points: whose best points are improved.
        indices: ``(A,)`` inputs.
        passes: ``(A,)`` rows sent forward for each input, at most; a round takes one for each changed element.
        points: ``(A, *input_shape)`` where to begin; None: the best points.
    """
    objective, norm = best_points.objective, best_points.objective.norm
    clean = _clean(best_points, indices)
    z = (best_points.x[indices] if points is None else points).flatten(1).clone()
    left = passes.clone()
    active = torch.arange(len(indices), device=indices.device)[best_points.success[indices]]
    while not best_points.exhausted:
        changed = norm.counted(z[active] != clean[active])
        count = changed.sum(1)
        keep = (count > 1) & (count <= left[active])
        active, changed, count = active[keep], changed[keep], count[keep]
        if not len(active):
            return
        left[active] -= count
        run, which = changed.nonzero(as_tuple=True)
        owner, elements = active[run], norm.elements(which, z.shape[1])
        trial = z[owner].scatter(1, elements, clean[owner].gather(1, elements))
        point = trial.reshape(-1, *objective.x.shape[1:])
        margin = objective.look(point, indices[owner])
        # of trials that reach the goal all are equally near: the deepest one leaves most room for the next round
        deepest = margin.new_full((len(indices),), torch.inf).scatter_reduce(0, owner, margin, "amin")
        best = margin == deepest[owner]
        best_points.update(point[best], indices[owner[best]], margin[best])
        z[owner[best]] = trial[best]
        active = active[deepest[active] < 0]


def deepened(best_points: BestPoints, indices: Tensor, steps: int) -> Tensor:
    """The points with the same changed elements as the best ones that lie deepest in the goal, by sign steps: they
    leave most room for elements to be restored. Two passes for each step.

    Args:
        best_points: whose best points to begin at.
        indices: ``(A,)`` inputs.
        steps: number of steps.
    """
    objective, s = best_points.objective, best_points.objective.numbers(DeepenSettings)
    x, lower, upper = best_points.x[indices], objective.region.lower[indices], objective.region.upper[indices]
    changed = (x.flatten(1) != _clean(best_points, indices)).reshape(x.shape)
    width = (upper - lower).nan_to_num(posinf=s.widest).clamp(max=s.widest) * changed
    deepest, depth = x.clone(), best_points.margin[indices].clone()
    anyone = torch.full_like(indices, ANY)
    for k in range(steps):
        slope = toward(objective, x, indices, anyone)
        deeper = slope.margin < depth
        deepest[deeper], depth = x[deeper], torch.where(deeper, slope.margin, depth)
        x = torch.clamp(x - cosine(*s.step, k, steps) * width * slope.gradient.sign(), lower, upper)
        # an element that is not changed has no width, but the clean input may lie outside its box
        x = torch.where(changed, x, best_points.x[indices])
    return deepest


def _clean(best_points: BestPoints, indices: Tensor) -> Tensor:
    """The inputs as they are, ``(A, n)``, brought into the box."""
    region = best_points.objective.region
    return torch.clamp(best_points.objective.x[indices], region.lower[indices], region.upper[indices]).flatten(1)
