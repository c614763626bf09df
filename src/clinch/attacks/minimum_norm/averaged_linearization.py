"""Averaged linearisation: move to the nearest point where the linearised goal holds, again and again.

    g = ∇h(z)/‖∇h(z)‖₂,   c = <g, z − x> − h(z)/‖∇h(z)‖₂          at the point z, with h < 0 wanted
    G ← a·G + (1 − a)·g,   C ← a·C + (1 − a)·c                    hyperplanes are averaged over the steps
    z ← z + s·(x + P(G, C) − z)                                   P: shortest move inside the box with <G, δ> <= C

One step with a = 0 and s = 1 is DeepFool's (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599), with the exact box FAB's
(Croce and Hein 2020, arXiv 1907.02044). Averaging stops the zigzag at kinks and does nearly all of the work; it is
ours, as is the second half-space for conditions that all branches of a problem share. Made for networks whose
linearisation says where their nearest boundary is; for others see :mod:`clinch.attacks.minimum_norm.shrinking_ball`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clinch.attacks.core.best_points import Track
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.core.losses import branch_conditions, branch_loss
from clinch.attacks.core.objective import Goal, Slope, Slopes
from clinch.attacks.minimum_norm.feasible_steps import HalfSpaces, Room


@dataclass(frozen=True)
class Lanes:
    """L attempts: which input, which branch, where, and the averaged half-spaces they aim into.

    Attributes:
        rows: ``(L,)``; may repeat.
        branch: ``(L,)`` the wanted branch, or ANY.
        move: ``(L, n)`` from the input to where the lane is.
        own: where the lane's branch holds.
        shared: where the conditions hold that all branches share; None where there are none.
        distance: ``(L,)`` of the nearest point of the lane that reaches the goal, infinity before there is one.
        nearest: ``(L, n)`` the move to that point.
        lost: ``(L,)`` whether the last gradient of the lane's branch was zero, without its goal being reached.
    """

    rows: Tensor
    branch: Tensor
    move: Tensor
    own: HalfSpaces
    shared: HalfSpaces | None
    distance: Tensor
    nearest: Tensor
    lost: Tensor

    @staticmethod
    def at(rows: Tensor, branch: Tensor, move: Tensor) -> Lanes:
        """Lanes without a past."""
        far = move.new_full((len(rows),), torch.inf)
        return Lanes(rows, branch, move, HalfSpaces.none(move), None, far, move, torch.zeros_like(rows).bool())

    @staticmethod
    def of(parts: list[Lanes]) -> Lanes:
        """Lanes after each other; all or none of them have shared half-spaces."""
        shared = [part.shared for part in parts if part.shared is not None]
        return Lanes(
            torch.cat([part.rows for part in parts]), torch.cat([part.branch for part in parts]),
            torch.cat([part.move for part in parts]), HalfSpaces.of([part.own for part in parts]),
            HalfSpaces.of(shared) if len(shared) == len(parts) else None,
            torch.cat([part.distance for part in parts]), torch.cat([part.nearest for part in parts]),
            torch.cat([part.lost for part in parts]),
        )  # fmt: skip

    def take(self, which: Tensor) -> Lanes:
        """The chosen lanes, in that order."""
        return Lanes(
            self.rows[which], self.branch[which], self.move[which], self.own.take(which),
            None if self.shared is None else self.shared.take(which), self.distance[which], self.nearest[which],
            self.lost[which],
        )  # fmt: skip


def linearised_steps(
    track: Track,
    lanes: Lanes,
    *,
    steps: int,
    step_size: tuple[float, float],
    averaging: tuple[float, float],
    overshoot: float,
    first: Slope | Slopes | None = None,
) -> Lanes:
    """Run the iteration, two passes for each step of each lane (three where branches share conditions); what is found
    goes to the track.

    Args:
        track: where points are kept.
        lanes: where to start.
        steps: number of steps.
        step_size: s at the first and at the last step.
        averaging: a at the first and at the last step.
        overshoot: how much farther than the linearised boundary to aim.
        first: what :func:`slopes_of` says about the lanes where that is known already.
    """
    goal = track.goal
    room, x = Room.of(goal, lanes.rows), goal.x[lanes.rows]
    for k in range(steps):
        if track.exhausted:
            break
        z = x + lanes.move.view_as(x)
        keep = cosine(*averaging, k, steps)
        slope = slopes_of(goal, lanes) if k or first is None else first
        lanes = _kept(track, lanes, room, z, slope.margin)
        if isinstance(slope, Slopes):
            track.note_gradient(slope.gradients, lanes.rows)
            lanes = _averaged_both(lanes, slope.losses, slope.gradients.flatten(2), keep)
        else:
            lanes = replace(lanes, own=lanes.own.averaged(slope.loss, slope.gradient.flatten(1), lanes.move, keep))
        shared = None if lanes.shared is None else lanes.shared.beyond(overshoot)
        aim = room.meeting(lanes.own.beyond(overshoot), shared)
        move = torch.lerp(lanes.move, aim, cosine(*step_size, k, steps))
        if goal.several and bool(lanes.own.fresh.any()):  # without any gradient so far a lane stays where it is
            move = torch.where(lanes.own.fresh.unsqueeze(1), lanes.move, move)
        lanes = replace(lanes, move=room.inside(move))
    return lanes


def slopes_of(goal: Goal, lanes: Lanes) -> Slope | Slopes:
    """The conditions of lanes where they are, and their gradients: :class:`Slopes` where branches share conditions."""
    z = goal.x[lanes.rows] + lanes.move.view(len(lanes.rows), *goal.x.shape[1:])
    if goal.several:
        return goal.slopes(z, lanes.rows, branch_conditions(lanes.branch))
    return goal.slope(z, lanes.rows, branch_loss(lanes.branch))


def _kept(track: Track, lanes: Lanes, room: Room, z: Tensor, margin: Tensor) -> Lanes:
    """With the nearest points brought up to date, of the lanes and of the track."""
    distance = room.norm(lanes.move)
    track.update(z, lanes.rows, margin, distance)
    better = ((margin < 0) & (distance < lanes.distance)).nonzero().flatten()
    if not len(better):
        return lanes
    nearest = lanes.nearest.index_copy(0, better, lanes.move[better])
    return replace(lanes, distance=lanes.distance.index_copy(0, better, distance[better]), nearest=nearest)


def _averaged_both(lanes: Lanes, values: Tensor, gradients: Tensor, keep: float) -> Lanes:
    """With the half-spaces of this step averaged in: the branch's own, and where there is one the shared."""
    lost = (gradients[:, 0] == 0).all(1) & lanes.distance.isinf()
    lanes = replace(lanes, lost=lost, own=lanes.own.averaged(values[:, 0], gradients[:, 0], lanes.move, keep))
    if values.shape[1] == 1:
        return lanes
    shared = HalfSpaces.none(lanes.move) if lanes.shared is None else lanes.shared
    return replace(lanes, shared=shared.averaged(values[:, 1], gradients[:, 1], lanes.move, keep))
