"""Fewer changed elements: put one after the other back, as long as the goal is still reached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.attack_query import ANY
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.gradient_steps import cosine, toward
from clinch.attacks.core.settings import AttackSettings
from clinch.geometry.norms import Norm
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
        owner = active[run]
        trial = _restored(norm, z[owner], clean[owner], which)
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


def swapped(best_points: BestPoints, indices: Tensor, passes: Tensor, trials: int) -> None:
    """For p = 0: two changed elements of an input's best point restored, and another one changed in their place.

    The pairs whose elements are missed the least come first; what is changed is what the gradient without them says to
    gain most. Where that reaches the goal it goes on from there.

    Args:
        best_points: whose best points are improved.
        indices: ``(A,)`` inputs.
        passes: ``(A,)`` for each input, at most.
        trials: elements that are tried for each pair.
    """
    norm, clean = best_points.objective.norm, _clean(best_points, indices)
    left, pair = passes.clone(), torch.zeros_like(indices)
    before = torch.full_like(best_points.distance[indices], torch.inf)
    worth = before.new_full(norm.counted(clean != clean).shape, torch.inf)
    trials = min(trials, clean.shape[1])
    while not best_points.exhausted:
        z = best_points.x[indices].flatten(1)
        changed = norm.counted(z != clean)
        count, fresh = changed.sum(1), best_points.distance[indices] < before
        cost, pair = torch.where(fresh, count, 0) + 2 + trials, torch.where(fresh, 0, pair)
        going = best_points.success[indices] & (count > 1) & (cost <= left) & (2 * pair < count * (count - 1))
        active = going.nonzero().flatten()
        if not len(active):
            return
        before[active] = best_points.distance[indices[active]]
        some = active[fresh[active]]
        run, which = changed[some].nonzero(as_tuple=True)
        owner = some[run]
        worth[some] = torch.inf
        if len(some):
            worth[owner, which] = _margins(best_points, _restored(norm, z[owner], clean[owner], which), indices[owner])
        order = worth[active].argsort(1)
        # (0, 1), (0, 2), (1, 2), (0, 3), and so on: the second one comes first
        second = ((1 + (1 + 8 * pair[active].double()).sqrt()) / 2 + 1e-9).long()
        for place in (second, pair[active] - second * (second - 1) // 2):
            z[active] = _restored(norm, z[active], clean[active], order.gather(1, place.unsqueeze(1)).squeeze(1))
        _one_more(best_points, z[active], changed[active], indices[active], trials)
        pair[active] += 1
        left[active] -= cost[active]


def _one_more(best_points: BestPoints, z: Tensor, changed: Tensor, indices: Tensor, trials: int) -> None:
    """Points ``(L, n)`` with one more of what counts moved as far as it goes, those that gain most by their gradients;
    not what is ``changed (L, m)`` already."""
    objective, norm = best_points.objective, best_points.objective.norm
    lower, upper = (side[indices].flatten(1) for side in (objective.region.lower, objective.region.upper))
    gradient = objective.slope(z.reshape(-1, *objective.x.shape[1:]), indices).gradient.flatten(1)
    end = torch.where(gradient > 0, lower, upper)
    gain = norm.summed(gradient * (z - end))[:, : changed.shape[1]].masked_fill(changed, -torch.inf)
    best = gain.topk(min(trials, gain.shape[1]), dim=1).indices
    owner = torch.arange(len(z), device=z.device).repeat_interleave(best.shape[1])
    trial = _restored(norm, z[owner], end[owner], best.flatten())
    margin = _margins(best_points, trial, indices[owner])
    best_points.update(trial.reshape(-1, *objective.x.shape[1:]), indices[owner], margin)


def _restored(norm: Norm, z: Tensor, to: Tensor, which: Tensor) -> Tensor:
    """Points ``(L, n)`` with the elements of what counts, one for each ``(L,)``, as in other points."""
    elements = norm.elements(which, z.shape[1])
    return z.scatter(1, elements, to.gather(1, elements))


def _margins(best_points: BestPoints, z: Tensor, indices: Tensor) -> Tensor:
    objective = best_points.objective
    return objective.look(z.reshape(-1, *objective.x.shape[1:]), indices)
