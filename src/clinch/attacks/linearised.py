"""Averaged linearisation: move to the nearest point where the linearised goal holds, again and again.

    g = ∇h(z)/‖∇h(z)‖₂,   c = <g, z − x> − h(z)/‖∇h(z)‖₂          at the point z, with h < 0 wanted
    G ← a·G + (1 − a)·g,   C ← a·C + (1 − a)·c                    hyperplanes are averaged over the steps
    z ← z + s·(x + P(G, C) − z)                                   P: shortest move inside the box with <G, δ> <= C

One step with a = 0 and s = 1 is DeepFool's (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599), with the exact box FAB's
(Croce and Hein 2020, arXiv 1907.02044). Averaging stops the zigzag at kinks and does nearly all of the work; it is
ours. Made for networks whose linearisation says where their nearest boundary is; for those whose does not see
:mod:`clinch.attacks.shrinking_ball`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clinch.attacks.goal import Goal
from clinch.attacks.losses import branch_loss
from clinch.attacks.moves import shortest
from clinch.attacks.schedule import cosine
from clinch.attacks.track import Track
from clinch.geometry.norms import norm

#: how far an element without limits may move
UNBOUNDED = 1e4


@dataclass(frozen=True)
class Lanes:
    """L attempts: which input, which branch, where, and the averaged hyperplane ``<row, δ> <= limit``.

    Attributes:
        rows: ``(L,)``; may repeat.
        branch: ``(L,)`` the wanted branch, or ANY.
        move: ``(L, n)`` from the input to where the lane is.
        row: ``(L, n)``.
        limit: ``(L,)``.
        fresh: ``(L,)`` whether there is no hyperplane yet.
        distance: ``(L,)`` of the nearest point of the lane that reaches the goal, infinity before there is one.
        nearest: ``(L, n)`` the move to that point.
    """

    rows: Tensor
    branch: Tensor
    move: Tensor
    row: Tensor
    limit: Tensor
    fresh: Tensor
    distance: Tensor
    nearest: Tensor

    @staticmethod
    def at(rows: Tensor, branch: Tensor, move: Tensor) -> Lanes:
        """Lanes without a past."""
        nothing = move.new_zeros(len(rows))
        return Lanes(rows, branch, move, torch.zeros_like(move), nothing, nothing == 0, nothing + torch.inf, move)

    def take(self, which: Tensor) -> Lanes:
        """The chosen lanes, in that order."""
        return Lanes(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def linearised_steps(
    track: Track,
    lanes: Lanes,
    *,
    steps: int,
    step_size: tuple[float, float],
    averaging: tuple[float, float],
    overshoot: float,
) -> Lanes:
    """Run the iteration, two passes for each step of each lane; what is found goes to the track.

    Args:
        track: where points are kept.
        lanes: where to start.
        steps: number of steps.
        step_size: s at the first and at the last step.
        averaging: a at the first and at the last step.
        overshoot: how much farther than the linearised boundary to aim.
    """
    goal = track.goal
    box, wish, x = box_of(goal, lanes.rows), branch_loss(lanes.branch), goal.x[lanes.rows]
    for k in range(steps):
        z = x + lanes.move.view_as(x)
        slope = goal.slope(z, lanes.rows, wish)
        lanes = _kept(track, lanes, z, slope.margin)
        lanes = _averaged(lanes, slope.loss, slope.gradient.flatten(1), cosine(*averaging, k, steps))
        aim = shortest(lanes.row, -overshoot * lanes.limit, *box, goal.p)
        lanes = replace(lanes, move=torch.lerp(lanes.move, aim, cosine(*step_size, k, steps)))
    return lanes


def box_of(goal: Goal, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Limits ``(L, n)`` of offsets from the inputs; finite ones, so that no move is infinity times zero."""
    x = goal.x[rows].flatten(1)
    lower, upper = goal.region.lower[rows].flatten(1) - x, goal.region.upper[rows].flatten(1) - x
    return lower.clamp(min=-UNBOUNDED), upper.clamp(max=UNBOUNDED)


def _kept(track: Track, lanes: Lanes, z: Tensor, margin: Tensor) -> Lanes:
    """With the nearest points brought up to date, of the lanes and of the track."""
    distance = norm(lanes.move, track.goal.p)
    track.update(z, lanes.rows, margin, distance)
    better = ((margin < 0) & (distance < lanes.distance)).nonzero().flatten()
    if not len(better):
        return lanes
    nearest = lanes.nearest.index_copy(0, better, lanes.move[better])
    return replace(lanes, distance=lanes.distance.index_copy(0, better, distance[better]), nearest=nearest)


def _averaged(lanes: Lanes, value: Tensor, g: Tensor, keep: float) -> Lanes:
    """With the hyperplane of this step averaged in; a lane without a gradient keeps what it has."""
    length = torch.linalg.vector_norm(g, dim=1)
    known = length > 0
    scale = torch.where(known, 1 / length, 0.0)
    limit = (torch.linalg.vecdot(g, lanes.move) - value) * scale
    share = torch.where(known, torch.where(lanes.fresh, 1.0, 1 - keep), 0.0).to(g)
    row = torch.addcmul(lanes.row * (1 - share).unsqueeze(1), g, (share * scale).unsqueeze(1))
    return replace(lanes, row=row, limit=(1 - share) * lanes.limit + share * limit, fresh=lanes.fresh & ~known)
