"""The last few passes of an attack: back along the ray to the clean input as long as the goal stays reached."""

from __future__ import annotations

import torch

from clinch.attacks.goal import along
from clinch.attacks.track import Track


def retract(track: Track, rounds: int = 10, least: float = 0.0) -> None:
    """Bisect the way from the clean input to each best point; what is nearer and still reaches the goal is kept.

    Args:
        track: holds the points. For p = 0 nothing is done: a shorter way changes as many elements.
        rounds: forward passes of each input that has such a point.
        least: the shortest part of the way that is tried.
    """
    goal = track.goal
    if goal.p == 0:
        return
    rows = goal.todo[track.success[goal.todo]]
    far, center = track.x[rows].clone(), goal.start[rows]
    high = torch.ones_like(track.distance[rows])
    low = least * high
    for _ in range(rounds if len(rows) else 0):
        share = (low + high) / 2
        z = center + along(share, far) * (far - center)
        margin = goal.look(z, rows)
        reached = margin < 0
        track.update(z[reached], rows[reached], margin[reached])
        low, high = torch.where(reached, low, share), torch.where(reached, share, high)
