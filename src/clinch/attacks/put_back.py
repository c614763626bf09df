"""Fewer changed elements: put one after the other back, as long as the goal is still reached."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.track import Track


def put_back(track: Track, rows: Tensor, passes: int) -> None:
    """Greedy, for p = 0: of all changed elements of an input's best point, put back the one that leaves the smallest
    margin; again and again, as long as some trial reaches the goal and passes are left.

    Args:
        track: whose best points are improved.
        rows: ``(A,)`` inputs.
        passes: rows sent forward for each input, at most; a round takes one for each changed element.
    """
    goal = track.goal
    left = torch.full_like(rows, passes)
    active = torch.arange(len(rows), device=rows.device)
    while True:
        changed = (track.x[rows[active]] != goal.x[rows[active]]).flatten(1)
        count = changed.sum(1)
        keep = track.success[rows[active]] & (count > 1) & (count <= left[active])
        active, changed, count = active[keep], changed[keep], count[keep]
        if not len(active):
            return
        left[active] -= count
        lane, element = changed.nonzero(as_tuple=True)
        owner = rows[active][lane]
        trial = track.x[owner].flatten(1)
        trial[torch.arange(len(lane), device=lane.device), element] = goal.x[owner].flatten(1)[
            torch.arange(len(lane), device=lane.device), element
        ]
        trial = trial.reshape(-1, *goal.x.shape[1:])
        before = track.distance[rows[active]]
        margin = goal.look(trial, owner)
        # of trials that reach the goal all are equally near: the deepest one leaves most room for the next round
        deepest = margin.new_full((goal.size,), torch.inf).scatter_reduce(0, owner, margin, "amin")
        best = margin == deepest[owner]
        track.update(trial[best], owner[best], margin[best])
        active = active[track.distance[rows[active]] < before]
