"""The default attack for the fewest changed elements: linearised classes, a shrinking ball, σ-zero, and elements
restored."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.attack_query import ANY
from clinch.attacks.core.best_points import BestPoints, Budget
from clinch.attacks.core.draws import Draws
from clinch.attacks.minimum_norm.candidates import nearest_candidates
from clinch.attacks.minimum_norm.nearest_settings import NearestSettings, first_radii, rungs
from clinch.attacks.minimum_norm.shrinking_ball import ShrinkingRuns
from clinch.attacks.minimum_norm.sparse import greedy_sparsify, swapped
from clinch.attacks.sigma_zero import SmoothCountRuns


def search_fewest(best_points: BestPoints, passes: int, draws: Draws) -> None:
    """Shrinking balls and σ-zero, and single elements restored; in rungs, so that more passes only add to what
    fewer find."""
    objective, indices = best_points.objective, best_points.objective.todo
    s, budget, spent = objective.numbers(NearestSettings), Budget.of(objective, passes), 0
    for rung, part in enumerate(rungs(passes, s.both)):
        if best_points.exhausted:
            return
        if rung:
            best_points.settle()
        spent += part
        back = int((s.sparse_back + (0.0 if rung else s.swap)) * part)
        steps = (part - back) // 2
        if not rung:
            _raced(best_points, indices, steps - _linearised(best_points, indices) // 2)
        else:
            _both_sparse(best_points, indices, steps, draws.at(rung), rung)
        best_points.step()
        greedy_sparsify(best_points, indices, budget.left(indices) - (passes - spent))
        if not rung:
            swapped(best_points, indices, budget.left(indices) - (passes - spent), s.swaps)
    best_points.step()


def _linearised(best_points: BestPoints, indices: Tensor) -> int:
    """The nearest classes by linearisation, which for a linear network are the answer. Returns the passes of an input,
    at most, rounded up to an even number."""
    objective = best_points.objective
    s = objective.numbers(NearestSettings)
    near = nearest_candidates(objective, indices, s.kept, s.few)
    points = near.point(objective)
    best_points.update(points, near.indices, objective.look(points, near.indices))
    passes = min(objective.width, s.few) + 1 + (objective.width > s.few) + s.kept
    return passes + passes % 2


def _raced(best_points: BestPoints, indices: Tensor, steps: int) -> None:
    """A shrinking ball and σ-zero begin, and for each input the one that is ahead goes on alone."""
    s, objective = best_points.objective.numbers(NearestSettings), best_points.objective
    early = int(s.race * steps)
    lanes = (
        _sparse_ball(best_points, indices, s.sparse_near, steps - early),
        SmoothCountRuns(best_points, indices, objective.start[indices], steps - early, s.smooth),
    )
    for lane in lanes:
        lane.advance(early)
    ball = lanes[0].nearest <= lanes[1].nearest
    for lane, ahead in zip(lanes, (ball, ~ball)):
        lane.keep(ahead.nonzero().flatten())
        lane.advance(steps)


def _both_sparse(best_points: BestPoints, indices: Tensor, steps: int, draws: Draws, rung: int) -> None:
    """Half of the steps for σ-zero, the rest for balls: from the inputs, then with half of the best point's elements,
    so that others get their turn."""
    s, objective = best_points.objective.numbers(NearestSettings), best_points.objective
    start = objective.start[indices]
    SmoothCountRuns(best_points, indices, start, steps // 2, s.smooth).advance(steps)
    left = steps - steps // 2
    runs = max(1, 2 * left // s.run)
    for run in range(runs):
        begin = start
        if rung + run > 1:
            some = draws.at(run).take(indices).uniform(start) < 0.5
            begin = torch.where(some, start, best_points.x[indices])
        far = s.sparse_far[(rung + run) % len(s.sparse_far)]
        _sparse_ball(best_points, indices, far, left // runs, begin).advance(left)


def _sparse_ball(
    best_points: BestPoints, indices: Tensor, far: float, steps: int, start: Tensor | None = None
) -> ShrinkingRuns:
    objective = best_points.objective
    start = objective.start[indices] if start is None else start
    return ShrinkingRuns(
        best_points, indices, torch.full_like(indices, ANY), start, far * first_radii(objective, indices), steps,
        rate=(0.3, 0.01), step_size=(1.0, 1.0), averaging=(0.3, 0.8),
    )  # fmt: skip
