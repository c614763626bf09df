"""Averaged linearisation: move to the nearest point where the linearised goal holds, again and again.

    g = ∇h(z)/‖∇h(z)‖₂,   c = <g, z − x> − h(z)/‖∇h(z)‖₂          at the point z, with h < 0 wanted
    G ← a·G + (1 − a)·g,   C ← a·C + (1 − a)·c                    hyperplanes are averaged over the steps
    z ← z + s·(x + P(G, C) − z)                                   P: shortest move inside the box with <G, δ> <= C

One step with a = 0 and s = 1 is DeepFool's (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599), with the exact box FAB's
(Croce and Hein 2020, arXiv 1907.02044). Averaging stops the zigzag at kinks and does nearly all of the work; it is
ours, as is the second half-space for conditions that all candidates of a problem share. Made for networks whose
linearisation says where their nearest boundary is; for others see :mod:`clinch.attacks.minimum_norm.shrinking_ball`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.core.losses import candidate_conditions, candidate_loss
from clinch.attacks.core.objective import AttackObjective, Slope, Slopes
from clinch.attacks.core.settings import AttackSettings
from clinch.attacks.minimum_norm.feasible_steps import FeasibleSteps, HalfSpaces
from clinch.solver.settings import Positive, Share


@dataclass(frozen=True)
class AveragingSettings(AttackSettings):
    """Of averaged linearisation.

    Attributes:
        farther: factor by which a run aims farther beyond the boundary after a step that misses the goal; ``nearer``
            after one that reaches it.
        nearer: see there.
        farthest: how far beyond the boundary a run aims at most, relative to its distance.
    """

    farther: Positive = 1.25
    nearer: Share = 0.8
    farthest: Positive = 0.5


@dataclass(frozen=True)
class LinearizedRuns:
    """L attempts: which input, which candidate, where, and the averaged half-spaces they aim into.

    Attributes:
        indices: ``(L,)``; may repeat.
        candidate: ``(L,)`` the wanted candidate, or ANY.
        move: ``(L, n)`` from the input to where the run is.
        own: where the run's candidate holds.
        shared: where the conditions hold that all candidates share; None where there are none.
        distance: ``(L,)`` of the nearest point of the run that reaches the goal, infinity before there is one.
        nearest: ``(L, n)`` the move to that point.
        lost: ``(L,)`` whether the last gradient of the run's candidate was zero, without its goal being reached.
    """

    indices: Tensor
    candidate: Tensor
    move: Tensor
    own: HalfSpaces
    shared: HalfSpaces | None
    distance: Tensor
    nearest: Tensor
    lost: Tensor

    @staticmethod
    def at(indices: Tensor, candidate: Tensor, move: Tensor) -> LinearizedRuns:
        """Runs without a past."""
        far = move.new_full((len(indices),), torch.inf)
        return LinearizedRuns(
            indices, candidate, move, HalfSpaces.none(move), None, far, move, torch.zeros_like(indices).bool()
        )

    @staticmethod
    def of(parts: list[LinearizedRuns]) -> LinearizedRuns:
        """Runs after each other; all or none of them have shared half-spaces."""
        shared = [part.shared for part in parts if part.shared is not None]
        return LinearizedRuns(
            torch.cat([part.indices for part in parts]), torch.cat([part.candidate for part in parts]),
            torch.cat([part.move for part in parts]), HalfSpaces.of([part.own for part in parts]),
            HalfSpaces.of(shared) if len(shared) == len(parts) else None,
            torch.cat([part.distance for part in parts]), torch.cat([part.nearest for part in parts]),
            torch.cat([part.lost for part in parts]),
        )  # fmt: skip

    def take(self, which: Tensor) -> LinearizedRuns:
        """The chosen runs, in that order."""
        return LinearizedRuns(
            self.indices[which], self.candidate[which], self.move[which], self.own.take(which),
            None if self.shared is None else self.shared.take(which), self.distance[which], self.nearest[which],
            self.lost[which],
        )  # fmt: skip


def linearised_steps(
    best_points: BestPoints,
    runs: LinearizedRuns,
    *,
    steps: int,
    step_size: tuple[float, float],
    averaging: tuple[float, float],
    overshoot: float,
    first: Slope | Slopes | None = None,
) -> LinearizedRuns:
    """Run the iteration, two passes for each step of each run (three where candidates share conditions); what is found
    goes to the best points.

    Args:
        best_points: where points are kept.
        runs: where to start.
        steps: number of steps.
        step_size: s at the first and at the last step.
        averaging: a at the first and at the last step.
        overshoot: how much farther than the linearised boundary to aim, at least: where a network curves away averaged
            half-spaces fall short, so a run aims farther with each step that misses the goal.
        first: what :func:`slopes_of` says about the runs where that is known already.
    """
    objective = best_points.objective
    feasible, x = FeasibleSteps.of(objective, runs.indices), objective.x[runs.indices]
    ask = _asking(objective, runs)
    farther, s = x.new_full((len(x),), overshoot - 1), objective.numbers(AveragingSettings)
    for k in range(steps):
        if best_points.exhausted:
            break
        z = x + runs.move.view_as(x)
        keep = cosine(*averaging, k, steps)
        slope = ask(z) if k or first is None else first
        runs = _kept(best_points, runs, feasible, z, slope.margin)
        if isinstance(slope, Slopes):
            best_points.note_gradient(slope.gradients, runs.indices)
            runs = _averaged_both(runs, slope.losses, slope.gradients.flatten(2), keep)
        else:
            runs = replace(runs, own=runs.own.averaged(slope.loss, slope.gradient.flatten(1), runs.move, keep))
        farther = (farther * torch.where(slope.margin < 0, s.nearer, s.farther)).clamp(overshoot - 1, s.farthest)
        shared = None if runs.shared is None else runs.shared.beyond(farther)
        aim = feasible.meeting(runs.own.beyond(farther), shared)
        move = torch.lerp(runs.move, aim, cosine(*step_size, k, steps))
        if objective.query.surrogates and bool(
            runs.own.fresh.any()
        ):  # without any gradient so far a run stays where it is
            move = torch.where(runs.own.fresh.unsqueeze(1), runs.move, move)
        runs = replace(runs, move=feasible.inside(move))
    return runs


def slopes_of(objective: AttackObjective, runs: LinearizedRuns) -> Slope | Slopes:
    """The conditions of runs where they are, and their gradients: :class:`Slopes` where candidates share conditions."""
    x = objective.x[runs.indices]
    return _asking(objective, runs)(x + runs.move.view_as(x))


def _asking(objective: AttackObjective, runs: LinearizedRuns) -> Callable[[Tensor], Slope | Slopes]:
    """:func:`slopes_of` at points ``(L, *input_shape)``."""
    if objective.query.surrogates:
        return partial(objective.slopes, indices=runs.indices, losses=candidate_conditions(runs.candidate))
    return partial(objective.slope, indices=runs.indices, loss=candidate_loss(runs.candidate))


def _kept(
    best_points: BestPoints, runs: LinearizedRuns, feasible: FeasibleSteps, z: Tensor, margin: Tensor
) -> LinearizedRuns:
    """With the nearest points brought up to date, of the runs and of the best points."""
    distance = feasible.norm(runs.move)
    best_points.update(z, runs.indices, margin, distance)
    better = ((margin < 0) & (distance < runs.distance)).nonzero().flatten()
    if not len(better):
        return runs
    nearest = runs.nearest.index_copy(0, better, runs.move[better])
    return replace(runs, distance=runs.distance.index_copy(0, better, distance[better]), nearest=nearest)


def _averaged_both(runs: LinearizedRuns, values: Tensor, gradients: Tensor, keep: float) -> LinearizedRuns:
    """With the half-spaces of this step averaged in: the candidate's own, and where there is one the shared."""
    lost = (gradients[:, 0] == 0).all(1) & runs.distance.isinf()
    runs = replace(runs, lost=lost, own=runs.own.averaged(values[:, 0], gradients[:, 0], runs.move, keep))
    if values.shape[1] == 1:
        return runs
    shared = HalfSpaces.none(runs.move) if runs.shared is None else runs.shared
    return replace(runs, shared=shared.averaged(values[:, 1], gradients[:, 1], runs.move, keep))
