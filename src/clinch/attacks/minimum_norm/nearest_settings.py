"""What can be set about the default minimum-norm attack, and how its passes are divided."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.settings import AttackSettings
from clinch.attacks.core.units import FARTHEST, TYPICAL
from clinch.attacks.hop_skip_jump import HopSkipJumpSettings
from clinch.attacks.minimum_norm.averaged_linearization import AveragingSettings
from clinch.attacks.minimum_norm.candidates import CandidateSettings
from clinch.attacks.minimum_norm.feasible_steps import FeasibleSteps
from clinch.attacks.minimum_norm.multi_constraint import MultiConstraintSettings
from clinch.attacks.minimum_norm.sparse import DeepenSettings
from clinch.attacks.sigma_zero import SmoothCount
from clinch.solver.settings import Number, Pair, Positive, Quadruple, Share, Some, Triple


@dataclass(frozen=True)
class NearestSettings(AttackSettings):
    """Of :func:`nearest`. Problems whose candidates share conditions take ``multi_constraint`` instead.

    Attributes:
        both: passes from which on both recipes run for every input; half of it is the first rung.
        shares: of the passes for averaged linearisation, the ball, and averaged linearisation from the best point,
            where both run.
        misleading: how far the gradients of an input's candidates turn on the way to their linearised boundaries, as
            the mean of 1 − cos, from which on linearisation misleads: .02 to .65 on ordinarily trained networks,
            .85 to 1 on robust ones of MNIST.
        back: passes of the last line search towards the input; the shortest way back that it tries is ``near``.
        candidates: tried at first; ``kept`` after the first stage.
        look: share of the passes that looking at the gradients of candidates may take; a ``few`` are always looked at.
        ball_steps: step sizes of the ball's runs, for p = 1 of the first two.
        sparse_near: share of the first radius for p = 0, ``sparse_far`` of later runs.
        race: share of the steps for p = 0 after which the ball or σ-zero goes on alone.
        far: the ball's first radius for p = 0, 1, 2 and infinity, relative to the distance of the farthest corner of
            the box.
        sparse_back: share of the passes for elements that are restored.
        swap: share of the first rung's passes for p = 0 in which pairs of elements give way to single ones, of which
            ``swaps`` are tried for each pair; later rungs gain more by starting elsewhere.
        smooth: of σ-zero.
        run: passes of one run from far away where there are many.
        lost: what a run without a gradient counts farther.
        stages: shares of the passes for the first and second stage of the linearisation; ``ball_stage`` for the ball's
            runs from far away.
        linearised, averaged, deepened, decisions: of the parts.
    """

    both: Some = 480
    shares: Triple = (0.3, 0.6, 0.1)
    misleading: Positive = 0.7
    back: Number = 8
    near: Share = 0.9
    candidates: Some = 9
    kept: Some = 3
    look: Share = 0.1
    few: Some = 10
    ball_steps: Triple = (0.3, 0.7, 0.5)
    sparse_near: Share = 0.1
    sparse_far: Pair = (0.08, 0.13)
    race: Share = 0.33
    far: Quadruple = (1.0, 0.08, 0.15, 0.4)
    sparse_back: Share = 0.09
    swap: Share = 0.2
    swaps: Some = 4
    smooth: SmoothCount = field(default_factory=lambda: SmoothCount(sigma=3e-3, threshold=0.25))
    run: Some = 200
    lost: Positive = 1e6
    stages: Pair = (0.34, 0.23)
    ball_stage: Share = 0.68
    linearised: CandidateSettings = field(default_factory=CandidateSettings)
    averaged: AveragingSettings = field(default_factory=AveragingSettings)
    deepened: DeepenSettings = field(default_factory=DeepenSettings)
    decisions: HopSkipJumpSettings = field(default_factory=HopSkipJumpSettings)
    multi_constraint: MultiConstraintSettings = field(default_factory=MultiConstraintSettings)


def rungs(passes: int, both: int) -> list[int]:
    """A budget in parts: what half of ``both`` pays for, again as much, and so on, so that a larger budget begins with
    the parts of a smaller one.

    Example:
        >>> rungs(240, 480), rungs(480, 480), rungs(2400, 480)
        ([240], [240, 240], [240, 240, 480, 960, 480])
    """
    if passes < both:
        return [passes]
    parts = [both // 2]
    while 2 * sum(parts) <= passes:
        parts.append(sum(parts))
    return parts if sum(parts) == passes else [*parts, passes - sum(parts)]


def first_radii(objective: AttackObjective, indices: Tensor) -> Tensor:
    """First radii ``(L,)``: a share of the distance of the farthest corner of the box."""
    s = objective.numbers(NearestSettings)
    feasible = FeasibleSteps.of(objective, indices)
    reach = torch.maximum(-feasible.lower, feasible.upper)
    share = objective.norm.tuned(dict(zip((0.0, 1.0, 2.0, torch.inf), s.far)))
    return share * feasible.norm(torch.where(reach < FARTHEST, reach, TYPICAL))
