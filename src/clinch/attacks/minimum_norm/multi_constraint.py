"""The default attack where candidates share conditions: the clauses of a problem besides its largest.

A candidate that is near by itself may lie where the other clauses forbid it, and many lead nowhere: "below the box" of
    a
neuron that is switched off already. So runs through many candidates start at once, from two points each, and run in
ever smaller company; then the ball shrinks around a few, the best are started again around where they ended, and the
rest of the passes refines them through their own candidate and through any.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from clinch.attacks.alma import lagrangian_steps
from clinch.attacks.core.attack_query import ANY
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Budget, groups, line_search_to_input
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.settings import AttackSettings
from clinch.attacks.core.units import FARTHEST, TYPICAL
from clinch.attacks.minimum_norm.averaged_linearization import LinearizedRuns, linearised_steps
from clinch.attacks.minimum_norm.candidates import Linearised, nearest_candidates
from clinch.attacks.minimum_norm.feasible_steps import FeasibleSteps
from clinch.attacks.minimum_norm.shrinking_ball import shrinking_steps
from clinch.attacks.minimum_norm.sparse import deepened, greedy_sparsify
from clinch.geometry.projection import project_into
from clinch.solver.settings import Number, Pair, Positive, Share, Some

#: passes of one step of one run: one forward, one backward for its candidate, one for what candidates share
EACH = 3


@dataclass(frozen=True)
class MultiConstraintSettings(AttackSettings):
    """Of the default attack where candidates share conditions.

    Attributes:
        candidates: tried at first; ``kept`` after the first stage, ``finalists`` after the second; ``starts`` of each
            at first.
        usual: passes that the most steps of a stage are stated for.
        quick_first: of a quick attack, which has ``quick_second`` besides.
        first: all candidates; then ``second`` those kept, ``restarted`` the finalists from around where they ended,
            ``refined`` the best.
        shrink: share of the passes and steps of the shrinking balls; ``sparse`` for p = 0, with ``sparse_back`` for its
            elements that are restored.
        all_must_hold: where every clause has one alternative, as inside a box: share of the passes and steps at most of
            the augmented Lagrangian, which weighs conditions against each other over many steps.
        tried: share of the passes that says how many candidates are tried, ``fewest`` at least; ``most_looked_at`` are
            looked at at most where fewer are tried.
        restarts: of each finalist.
        unreached: how much farther one counts that has not reached its goal.
        lost: what a run without a gradient counts farther.
        rounds: of elements that are restored, with ``deepen`` sign steps before each but the first.
        back: passes of the last line search towards the input.
    """

    candidates: Some = 64
    kept: Some = 12
    finalists: Some = 2
    starts: Some = 2
    usual: Some = 5000
    quick_first: Stage = field(default_factory=lambda: Stage(0.75, 6, (0.8, 0.5), (0.5, 0.5), 1.02))
    quick_second: Stage = field(default_factory=lambda: Stage(0.25, 16, (0.5, 0.3), (0.5, 0.5), 1.01))
    first: Stage = field(default_factory=lambda: Stage(0.3, 6, (0.8, 0.5), (0.5, 0.5), 1.02))
    second: Stage = field(default_factory=lambda: Stage(0.1, 16, (0.5, 0.3), (0.5, 0.5), 1.01))
    restarted: Stage = field(default_factory=lambda: Stage(0.2, 20, (0.5, 0.1), (0.3, 0.9), 1.01))
    refined: Stage = field(default_factory=lambda: Stage(0.1, 60, (0.4, 0.03), (0.8, 0.95), 1.005))
    shrink: Pair = (0.2, 120)
    sparse: Pair = (0.5, 120)
    sparse_back: Share = 0.15
    all_must_hold: Pair = (0.6, 400)
    tried: Share = 0.025
    fewest: Some = 6
    most_looked_at: Some = 24
    restarts: Some = 8
    unreached: Positive = 1.1
    lost: Positive = 1e6
    rounds: Some = 3
    deepen: Number = 20
    back: Number = 10


@dataclass(frozen=True)
class Stage(AttackSettings):
    """Averaged linearisation: its share of the passes, its steps at most for each :data:`USUAL` passes (where there are
    few runs more would not pay), and the settings of the steps."""

    share: Share
    most: Some
    step_size: Pair
    averaging: Pair
    overshoot: Positive


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
    s = best_points.objective.numbers(MultiConstraintSettings)
    objective = best_points.objective
    budget = Budget.of(objective, passes - s.back)
    if objective.width == 1:
        lagrangian_steps(best_points, int(min(s.all_must_hold[0] * budget.passes / 2, s.all_must_hold[1])), draws.at(0))
        if best_points.exhausted:
            return None
    candidates = min(s.candidates, max(s.fewest, int(s.tried * passes)))
    near = nearest_candidates(objective, objective.todo, candidates, max(s.most_looked_at, candidates))
    best_points.note_gradient(near.steepness.unsqueeze(1), near.indices)
    near = near.take((near.steepness > 0).nonzero().flatten())
    if objective.norm.counts:
        _sparse(best_points, near, budget, draws)
        return None
    first, second = (s.quick_first, s.quick_second) if quick else (s.first, s.second)
    runs = _stage(best_points, _with_random_starts(best_points, near, draws.at(1)), first, budget)
    runs = _stage(best_points, _continued(_best(best_points, runs, s.kept)), second, budget)
    runs = _best(best_points, runs, s.finalists)
    if quick or best_points.exhausted:
        return runs
    _shrink(best_points, runs.indices, runs.candidate, s.shrink, budget, draws.at(2))
    again = _stage(best_points, _around(best_points, runs, draws.at(3)), s.restarted, budget)
    own = _stage(
        best_points, _joined(_continued(runs), _continued(_best(best_points, again, s.finalists))), s.refined, budget
    )
    indices = objective.todo
    anywhere = LinearizedRuns.at(
        indices, torch.full_like(indices, ANY), (best_points.x - objective.x)[indices].flatten(1)
    )
    _stage(best_points, anywhere, s.refined, budget)
    line_search_to_input(best_points, s.back)
    return own


def _stage(best_points: BestPoints, runs: LinearizedRuns, stage: Stage, budget: Budget) -> LinearizedRuns:
    """One stage on all runs."""
    s = best_points.objective.numbers(MultiConstraintSettings)
    steps = budget.steps(runs.indices, EACH, stage.share, stage.most * max(1.0, budget.passes / s.usual))
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
    s = best_points.objective.numbers(MultiConstraintSettings)
    reach = near.move.abs().amax(1, keepdim=True).clamp(min=1e-3)
    noise = draws.runs(near.indices).symmetric(near.move)
    moves = FeasibleSteps.of(best_points.objective, near.indices).boxed(near.move + reach * noise)
    indices, candidate = near.indices.repeat(s.starts), near.candidate.repeat(s.starts)
    return LinearizedRuns.at(indices, candidate, torch.cat([near.move, moves]))


def _best(best_points: BestPoints, runs: LinearizedRuns, count: int) -> LinearizedRuns:
    """The runs of each input through different candidates that are or aim the nearest."""
    s = best_points.objective.numbers(MultiConstraintSettings)
    feasible = FeasibleSteps.of(best_points.objective, runs.indices)
    aim = s.unreached * feasible.norm(feasible.meeting(runs.own, runs.shared)) + s.lost * runs.lost
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
    s = best_points.objective.numbers(MultiConstraintSettings)
    every = torch.arange(len(runs.indices), device=runs.indices.device).repeat(s.restarts)
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
    best_points: BestPoints,
    indices: Tensor,
    candidate: Tensor,
    stage: tuple[float, float],
    budget: Budget,
    draws: Draws,
) -> None:
    """Shrinking balls: for each input one through any candidate from the input, one from a random point, and one for
    each run that is left."""
    s = best_points.objective.numbers(MultiConstraintSettings)
    objective, todo = best_points.objective, best_points.objective.todo
    anyone = torch.full_like(todo, ANY)
    indices, candidate = torch.cat([todo, todo, indices]), torch.cat([anyone, anyone, candidate])
    steps = budget.steps(indices, EACH, stage[0], stage[1] * max(1.0, budget.passes / s.usual))
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
    s = best_points.objective.numbers(MultiConstraintSettings)
    near = near.take((near.place < s.kept).nonzero().flatten())
    _shrink(best_points, near.indices, near.candidate, s.sparse, budget, draws)
    indices = best_points.objective.todo
    for round_ in range(s.rounds):
        indices = indices[best_points.success[indices]]
        if not len(indices) or best_points.exhausted:
            return
        before = best_points.distance[indices]
        each = (budget.left(indices) - (2 * s.deepen if round_ else 0)).clamp(max=int(s.sparse_back * budget.passes))
        indices, before, each = indices[each > 0], before[each > 0], each[each > 0]
        greedy_sparsify(best_points, indices, each, deepened(best_points, indices, s.deepen) if round_ else None)
        best_points.step()
        indices = indices[(best_points.distance[indices] < before) | (round_ == 0)]
