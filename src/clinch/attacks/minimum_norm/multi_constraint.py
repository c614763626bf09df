"""The default attack where candidates share conditions: the clauses of a problem besides its largest.

A candidate that is near by itself may lie where the other clauses forbid it, and many lead nowhere: "below the box" of
    a
neuron that is switched off already. So runs through many candidates start at once, from two points each, and run in
ever smaller company; then the ball shrinks around a few, the best are started again around where they ended, and the
rest of the passes refines them through their own candidate and through any.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.alma import lagrangian_steps
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Budget, groups, line_search_to_input
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.objective import ANY
from clinch.attacks.core.units import FARTHEST, TYPICAL
from clinch.attacks.minimum_norm.averaged_linearization import LinearizedRuns, linearised_steps
from clinch.attacks.minimum_norm.candidates import Linearised, nearest_candidates
from clinch.attacks.minimum_norm.feasible_steps import FeasibleSteps
from clinch.attacks.minimum_norm.shrinking_ball import shrinking_steps
from clinch.attacks.minimum_norm.sparse import deepened, greedy_sparsify
from clinch.geometry.projection import project_into

#: passes of one step of one run: one forward, one backward for its candidate, one for what candidates share
EACH = 3
#: candidates tried at first, left after the first stage, and after the second; starts of each at first
CANDIDATES, KEPT, FINALISTS, STARTS = 64, 12, 2, 2


class Stage(NamedTuple):
    """Averaged linearisation: its share of the passes, its steps at most for each :data:`USUAL` passes (where there are
    few runs more would not pay), and the settings of the steps."""

    share: float
    most: int
    step_size: tuple[float, float]
    averaging: tuple[float, float]
    overshoot: float


USUAL = 5000
FIRST = Stage(0.3, 6, (0.8, 0.5), (0.5, 0.5), 1.02)
SECOND = Stage(0.1, 16, (0.5, 0.3), (0.5, 0.5), 1.01)
#: of a quick attack, which has no others
QUICK = FIRST._replace(share=0.75), SECOND._replace(share=0.25)
RESTARTED = Stage(0.2, 20, (0.5, 0.1), (0.3, 0.9), 1.01)
REFINED = Stage(0.1, 60, (0.4, 0.03), (0.8, 0.95), 1.005)
#: shares of the passes and steps of the shrinking balls; for p = 0, and for its elements that are restored
SHRINK, SPARSE, SPARSE_BACK = (0.2, 120), (0.5, 120), 0.15
#: where every clause has one alternative, as inside a box: share of the passes and steps at most of the augmented
#: Lagrangian, which weighs conditions against each other over many steps
ALL_MUST_HOLD = (0.6, 400)
#: share of the passes that says how many candidates are tried, the fewest that are, and how many are looked at at most
#: where fewer are tried
TRIED, FEWEST, MOST_LOOKED_AT = 0.025, 6, 24
#: restarts of each finalist, and how much farther one counts that has not reached its goal
RESTARTS, UNREACHED = 8, 1.1
#: what a run without a gradient counts farther
LOST = 1e6
#: rounds of elements that are restored, sign steps before each but the first, and passes of the last bisection
ROUNDS, DEEPEN, BACK = 3, 20, 10


def search_multi_constraint(
    best_points: BestPoints, passes: int, draws: Draws, quick: bool = False
) -> LinearizedRuns | None:
    """The attack itself: what it finds goes to the best points.

    Args:
        best_points: of a goal whose distance is lowered.
        passes: for each input, at most.
        draws: ``(B,)`` of random starts.
        quick: whether to end after the two stages that rank the candidates; has no meaning for p = 0.

    Returns:
        The last runs that aimed through candidates of their own: other pieces of the network may be better. None where
        there were none.
    """
    objective = best_points.objective
    budget = Budget.of(objective, passes - BACK)
    if objective.width == 1:
        lagrangian_steps(best_points, int(min(ALL_MUST_HOLD[0] * budget.passes / 2, ALL_MUST_HOLD[1])), draws.at(0))
        if best_points.exhausted:
            return None
    candidates = min(CANDIDATES, max(FEWEST, int(TRIED * passes)))
    near = nearest_candidates(objective, objective.todo, candidates, max(MOST_LOOKED_AT, candidates))
    best_points.note_gradient(near.steepness.unsqueeze(1), near.indices)
    near = near.take((near.steepness > 0).nonzero().flatten())
    if objective.norm.counts:
        _sparse(best_points, near, budget, draws)
        return None
    first, second = QUICK if quick else (FIRST, SECOND)
    runs = _stage(best_points, _with_random_starts(best_points, near, draws.at(1)), first, budget)
    runs = _stage(best_points, _continued(_best(best_points, runs, KEPT)), second, budget)
    runs = _best(best_points, runs, FINALISTS)
    if quick or best_points.exhausted:
        return runs
    _shrink(best_points, runs.indices, runs.candidate, SHRINK, budget, draws.at(2))
    again = _stage(best_points, _around(best_points, runs, draws.at(3)), RESTARTED, budget)
    own = _stage(
        best_points, _joined(_continued(runs), _continued(_best(best_points, again, FINALISTS))), REFINED, budget
    )
    indices = objective.todo
    anywhere = LinearizedRuns.at(
        indices, torch.full_like(indices, ANY), (best_points.x - objective.x)[indices].flatten(1)
    )
    _stage(best_points, anywhere, REFINED, budget)
    line_search_to_input(best_points, BACK)
    return own


def _stage(best_points: BestPoints, runs: LinearizedRuns, stage: Stage, budget: Budget) -> LinearizedRuns:
    """One stage on all runs."""
    steps = budget.steps(runs.indices, EACH, stage.share, stage.most * max(1.0, budget.passes / USUAL))
    parts: list[tuple[Tensor, LinearizedRuns]] = []
    for (count,), which in groups(steps.unsqueeze(1)):
        part = linearised_steps(
            best_points, runs.take(which), steps=count, step_size=stage.step_size, averaging=stage.averaging,
            overshoot=stage.overshoot,
        )  # fmt: skip
        parts.append((which, part))
    best_points.step()
    if len(parts) < 2:
        return parts[0][1] if parts else runs
    return LinearizedRuns.of([part for _, part in parts]).take(torch.cat([which for which, _ in parts]).argsort())


def _with_random_starts(best_points: BestPoints, near: Linearised, draws: Draws) -> LinearizedRuns:
    """Each candidate at its linearised boundary, and once more about as far away in a random direction."""
    reach = near.move.abs().amax(1, keepdim=True).clamp(min=1e-3)
    noise = draws.runs(near.indices).symmetric(near.move)
    moves = FeasibleSteps.of(best_points.objective, near.indices).boxed(near.move + reach * noise)
    indices, candidate = near.indices.repeat(STARTS), near.candidate.repeat(STARTS)
    return LinearizedRuns.at(indices, candidate, torch.cat([near.move, moves]))


def _best(best_points: BestPoints, runs: LinearizedRuns, count: int) -> LinearizedRuns:
    """The runs of each input through different candidates that are or aim the nearest."""
    feasible = FeasibleSteps.of(best_points.objective, runs.indices)
    aim = UNREACHED * feasible.norm(feasible.meeting(runs.own, runs.shared)) + LOST * runs.lost
    value = torch.where(runs.distance.isfinite(), runs.distance, aim)
    order = value.argsort(stable=True)
    order = order[_first_of_each((runs.indices * (best_points.objective.width + 1) + runs.candidate)[order])]
    order = order[runs.indices[order].argsort(stable=True)]
    indices = runs.indices[order]
    place = torch.arange(len(indices), device=indices.device) - torch.searchsorted(indices, indices)
    return runs.take(order[place < count])


def _first_of_each(key: Tensor) -> Tensor:
    """Positions of the first appearance of each key, in increasing order."""
    if not len(key):
        return key
    _, group = key.unique(return_inverse=True)
    place = torch.arange(len(key), device=key.device)
    first = torch.full((int(group.max()) + 1,), len(key), device=key.device).scatter_reduce(0, group, place, "amin")
    return first.sort()[0]


def _around(best_points: BestPoints, runs: LinearizedRuns, draws: Draws) -> LinearizedRuns:
    """The finalists from random points around them: one candidate can have several local optima."""
    every = torch.arange(len(runs.indices), device=runs.indices.device).repeat(RESTARTS)
    reach = runs.move.abs().amax(1, keepdim=True)[every]
    indices = runs.indices[every]
    noise = draws.runs(indices).symmetric(runs.move[every])
    return LinearizedRuns.at(
        indices, runs.candidate[every], FeasibleSteps.of(best_points.objective, indices).boxed(reach * noise)
    )


def _continued(runs: LinearizedRuns) -> LinearizedRuns:
    """Runs without a past, from their nearest points that reach the goal, or from where they are."""
    move = torch.where(runs.distance.isfinite().unsqueeze(1), runs.nearest, runs.move)
    return LinearizedRuns.at(runs.indices, runs.candidate, move)


def _joined(one: LinearizedRuns, two: LinearizedRuns) -> LinearizedRuns:
    return LinearizedRuns.at(
        torch.cat([one.indices, two.indices]),
        torch.cat([one.candidate, two.candidate]),
        torch.cat([one.move, two.move]),
    )


def _shrink(
    best_points: BestPoints, indices: Tensor, candidate: Tensor, stage: tuple[float, int], budget: Budget, draws: Draws
) -> None:
    """Shrinking balls: for each input one through any candidate from the input, one from a random point, and one for
    each run that is left."""
    objective, todo = best_points.objective, best_points.objective.todo
    anyone = torch.full_like(todo, ANY)
    indices, candidate = torch.cat([todo, todo, indices]), torch.cat([anyone, anyone, candidate])
    steps = budget.steps(indices, EACH, stage[0], stage[1] * max(1.0, budget.passes / USUAL))
    z, distance = objective.start[indices], best_points.distance[indices]
    radius = torch.where(best_points.success[indices], 1.5 * distance, _half_way(best_points, indices))
    if objective.norm.counts:
        radius = radius.clamp(min=max(4.0, 0.08 * z[0].numel()))
    second = slice(len(todo), 2 * len(todo))
    noise = draws.take(todo).symmetric(z[second])
    reach = (best_points.x[todo] - z[second]).flatten(1).abs().amax(1)
    z[second] = project_into(objective.region.take(todo), z[second] + noise * along(reach, z))
    for (count,), some in groups(steps.unsqueeze(1)):
        columns = indices[some], candidate[some], z[some], radius[some]
        shrinking_steps(best_points, *columns, count, averaging=(0.0, 0.8 if objective.norm.counts else 0.5))
    best_points.step()


def _half_way(best_points: BestPoints, indices: Tensor) -> Tensor:
    """Half the distance to the farthest corner of the box."""
    feasible = FeasibleSteps.of(best_points.objective, indices)
    reach = torch.maximum(-feasible.lower, feasible.upper)
    return feasible.norm(torch.where(reach < FARTHEST, reach / 2, TYPICAL))


def _sparse(best_points: BestPoints, near: Linearised, budget: Budget, draws: Draws) -> None:
    """p = 0: shrinking balls through the nearest candidates, then single elements restored."""
    near = near.take((near.place < KEPT).nonzero().flatten())
    _shrink(best_points, near.indices, near.candidate, SPARSE, budget, draws)
    indices = best_points.objective.todo
    for round_ in range(ROUNDS):
        indices = indices[best_points.success[indices]]
        if not len(indices) or best_points.exhausted:
            return
        before = best_points.distance[indices]
        each = (budget.left(indices) - (2 * DEEPEN if round_ else 0)).clamp(max=int(SPARSE_BACK * budget.passes))
        indices, before, each = indices[each > 0], before[each > 0], each[each > 0]
        greedy_sparsify(best_points, indices, each, deepened(best_points, indices, DEEPEN) if round_ else None)
        best_points.step()
        indices = indices[(best_points.distance[indices] < before) | (round_ == 0)]
