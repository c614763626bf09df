"""Fewer changed elements: put one after the other back, as long as the goal is still reached."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.best_points import Track
from clinch.attacks.core.gradient_steps import cosine, toward
from clinch.attacks.core.objective import ANY

#: sign steps at the first and at the last, in widths of the box, no wider than WIDEST
STEP, WIDEST = (0.5, 0.02), 2.0


def put_back(track: Track, rows: Tensor, passes: Tensor, points: Tensor | None = None) -> None:
    """Greedy, for p = 0: of all changed elements of an input's point, put back the one that leaves the smallest
    margin; again and again, as long as some trial reaches the goal and passes are left.

    Args:
        track: whose best points are improved.
        rows: ``(A,)`` inputs.
        passes: ``(A,)`` rows sent forward for each input, at most; a round takes one for each changed element.
        points: ``(A, *input_shape)`` where to begin; None: the best points.
    """
    goal = track.goal
    clean = _clean(track, rows)
    z = (track.x[rows] if points is None else points).flatten(1).clone()
    left = passes.clone()
    active = torch.arange(len(rows), device=rows.device)[track.success[rows]]
    while not track.exhausted:
        changed = z[active] != clean[active]
        count = changed.sum(1)
        keep = (count > 1) & (count <= left[active])
        active, changed, count = active[keep], changed[keep], count[keep]
        if not len(active):
            return
        left[active] -= count
        lane, element = changed.nonzero(as_tuple=True)
        owner = active[lane]
        trial = z[owner]
        place = torch.arange(len(lane), device=lane.device)
        trial[place, element] = clean[owner, element]
        point = trial.reshape(-1, *goal.x.shape[1:])
        margin = goal.look(point, rows[owner])
        # of trials that reach the goal all are equally near: the deepest one leaves most room for the next round
        deepest = margin.new_full((len(rows),), torch.inf).scatter_reduce(0, owner, margin, "amin")
        best = margin == deepest[owner]
        track.update(point[best], rows[owner[best]], margin[best])
        z[owner[best]] = trial[best]
        active = active[deepest[active] < 0]


def pushed(track: Track, rows: Tensor, steps: int) -> Tensor:
    """The points with the same changed elements as the best ones that lie deepest in the goal, by sign steps: they
    leave most room for elements to be put back. Two passes for each step.

    Args:
        track: whose best points to begin at.
        rows: ``(A,)`` inputs.
        steps: number of steps.
    """
    goal = track.goal
    x, lower, upper = track.x[rows], goal.region.lower[rows], goal.region.upper[rows]
    changed = (x.flatten(1) != _clean(track, rows)).reshape(x.shape)
    width = (upper - lower).nan_to_num(posinf=WIDEST).clamp(max=WIDEST) * changed
    deepest, depth = x.clone(), track.margin[rows].clone()
    anyone = torch.full_like(rows, ANY)
    for k in range(steps):
        slope = toward(goal, x, rows, anyone)
        deeper = slope.margin < depth
        deepest[deeper], depth = x[deeper], torch.where(deeper, slope.margin, depth)
        x = torch.clamp(x - cosine(*STEP, k, steps) * width * slope.gradient.sign(), lower, upper)
        # an element that is not changed has no width, but the clean input may lie outside its box
        x = torch.where(changed, x, track.x[rows])
    return deepest


def _clean(track: Track, rows: Tensor) -> Tensor:
    """The inputs as they are, ``(A, n)``, brought into the box."""
    region = track.goal.region
    return torch.clamp(track.goal.x[rows], region.lower[rows], region.upper[rows]).flatten(1)
