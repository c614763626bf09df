"""The default attack where branches share conditions: the clauses of a problem besides its largest.

A branch that is near by itself may lie where the other clauses forbid it, and many lead nowhere: "below the box" of a
neuron that is switched off already. So lanes through many branches start at once, from two points each, and run in ever
smaller company; then the ball shrinks around a few, the best are started again around where they ended, and the rest of
the passes refines them through their own branch and through any.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.alma import lagrangian_steps
from clinch.attacks.core.best_points import Budget, Track, groups, retract
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.objective import ANY, along
from clinch.attacks.core.units import FARTHEST, TYPICAL
from clinch.attacks.minimum_norm.averaged_linearization import Lanes, linearised_steps
from clinch.attacks.minimum_norm.candidates import Linearised, nearest_branches
from clinch.attacks.minimum_norm.feasible_steps import Room
from clinch.attacks.minimum_norm.shrinking_ball import shrinking_steps
from clinch.attacks.minimum_norm.sparse import pushed, put_back
from clinch.geometry.projection import project_into

#: passes of one step of one lane: one forward, one backward for its branch, one for what branches share
EACH = 3
#: branches tried at first, left after the first stage, and after the second; starts of each at first
BRANCHES, KEPT, FINALISTS, STARTS = 64, 12, 2, 2


class Stage(NamedTuple):
    """Averaged linearisation: its share of the passes, its steps at most for each :data:`USUAL` passes (where there are
    few lanes more would not pay), and the settings of the steps."""

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
#: shares of the passes and steps of the shrinking balls; for p = 0, and for its elements that are put back
SHRINK, SPARSE, SPARSE_BACK = (0.2, 120), (0.5, 120), 0.15
#: where every clause has one alternative, as inside a box: share of the passes and steps at most of the augmented
#: Lagrangian, which weighs conditions against each other over many steps
ALL_MUST_HOLD = (0.6, 400)
#: share of the passes that says how many branches are tried, the fewest that are, and how many are looked at at most
#: where fewer are tried
TRIED, FEWEST, MOST_LOOKED_AT = 0.025, 6, 24
#: restarts of each finalist, and how much farther one counts that has not reached its goal
RESTARTS, UNREACHED = 8, 1.1
#: what a lane without a gradient counts farther
LOST = 1e6
#: rounds of elements that are put back, sign steps before each but the first, and passes of the last bisection
ROUNDS, PUSH, BACK = 3, 20, 10


def search_shared(track: Track, passes: int, draws: Draws, quick: bool = False) -> Lanes | None:
    """The attack itself: what it finds goes to the track.

    Args:
        track: of a goal whose distance is lowered.
        passes: for each input, at most.
        draws: ``(B,)`` of random starts.
        quick: whether to end after the two stages that rank the branches; has no meaning for p = 0.

    Returns:
        The last lanes that aimed through branches of their own: other pieces of the network may be better. None where
        there were none.
    """
    goal = track.goal
    budget = Budget.of(goal, passes - BACK)
    if goal.width == 1:
        lagrangian_steps(track, int(min(ALL_MUST_HOLD[0] * budget.passes / 2, ALL_MUST_HOLD[1])), draws.at(0))
        if track.exhausted:
            return None
    branches = min(BRANCHES, max(FEWEST, int(TRIED * passes)))
    near = nearest_branches(goal, goal.todo, branches, max(MOST_LOOKED_AT, branches))
    track.note_gradient(near.steepness.unsqueeze(1), near.rows)
    near = near.take((near.steepness > 0).nonzero().flatten())
    if goal.p == 0:
        _sparse(track, near, budget, draws)
        return None
    first, second = QUICK if quick else (FIRST, SECOND)
    lanes = _stage(track, _with_random_starts(track, near, draws.at(1)), first, budget)
    lanes = _stage(track, _continued(_best(track, lanes, KEPT)), second, budget)
    lanes = _best(track, lanes, FINALISTS)
    if quick or track.exhausted:
        return lanes
    _shrink(track, lanes.rows, lanes.branch, SHRINK, budget, draws.at(2))
    again = _stage(track, _around(track, lanes, draws.at(3)), RESTARTED, budget)
    own = _stage(track, _joined(_continued(lanes), _continued(_best(track, again, FINALISTS))), REFINED, budget)
    rows = goal.todo
    anywhere = Lanes.at(rows, torch.full_like(rows, ANY), (track.x - goal.x)[rows].flatten(1))
    _stage(track, anywhere, REFINED, budget)
    retract(track, BACK)
    return own


def _stage(track: Track, lanes: Lanes, stage: Stage, budget: Budget) -> Lanes:
    """One stage on all lanes."""
    steps = budget.steps(lanes.rows, EACH, stage.share, stage.most * max(1.0, budget.passes / USUAL))
    parts: list[tuple[Tensor, Lanes]] = []
    for (count,), which in groups(steps.unsqueeze(1)):
        part = linearised_steps(
            track, lanes.take(which), steps=count, step_size=stage.step_size, averaging=stage.averaging,
            overshoot=stage.overshoot,
        )  # fmt: skip
        parts.append((which, part))
    track.step()
    if len(parts) < 2:
        return parts[0][1] if parts else lanes
    return Lanes.of([part for _, part in parts]).take(torch.cat([which for which, _ in parts]).argsort())


def _with_random_starts(track: Track, near: Linearised, draws: Draws) -> Lanes:
    """Each branch at its linearised boundary, and once more about as far away in a random direction."""
    reach = near.move.abs().amax(1, keepdim=True).clamp(min=1e-3)
    noise = draws.lanes(near.rows).symmetric(near.move)
    moves = Room.of(track.goal, near.rows).boxed(near.move + reach * noise)
    rows, branch = near.rows.repeat(STARTS), near.branch.repeat(STARTS)
    return Lanes.at(rows, branch, torch.cat([near.move, moves]))


def _best(track: Track, lanes: Lanes, count: int) -> Lanes:
    """The lanes of each input through different branches that are or aim the nearest."""
    room = Room.of(track.goal, lanes.rows)
    aim = UNREACHED * room.norm(room.meeting(lanes.own, lanes.shared)) + LOST * lanes.lost
    value = torch.where(lanes.distance.isfinite(), lanes.distance, aim)
    order = value.argsort(stable=True)
    order = order[_first_of_each((lanes.rows * (track.goal.width + 1) + lanes.branch)[order])]
    order = order[lanes.rows[order].argsort(stable=True)]
    rows = lanes.rows[order]
    place = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    return lanes.take(order[place < count])


def _first_of_each(key: Tensor) -> Tensor:
    """Positions of the first appearance of each key, in increasing order."""
    if not len(key):
        return key
    _, group = key.unique(return_inverse=True)
    place = torch.arange(len(key), device=key.device)
    first = torch.full((int(group.max()) + 1,), len(key), device=key.device).scatter_reduce(0, group, place, "amin")
    return first.sort()[0]


def _around(track: Track, lanes: Lanes, draws: Draws) -> Lanes:
    """The finalists from random points around them: one branch can have several local optima."""
    every = torch.arange(len(lanes.rows), device=lanes.rows.device).repeat(RESTARTS)
    reach = lanes.move.abs().amax(1, keepdim=True)[every]
    rows = lanes.rows[every]
    noise = draws.lanes(rows).symmetric(lanes.move[every])
    return Lanes.at(rows, lanes.branch[every], Room.of(track.goal, rows).boxed(reach * noise))


def _continued(lanes: Lanes) -> Lanes:
    """Lanes without a past, from their nearest points that reach the goal, or from where they are."""
    move = torch.where(lanes.distance.isfinite().unsqueeze(1), lanes.nearest, lanes.move)
    return Lanes.at(lanes.rows, lanes.branch, move)


def _joined(one: Lanes, two: Lanes) -> Lanes:
    return Lanes.at(
        torch.cat([one.rows, two.rows]), torch.cat([one.branch, two.branch]), torch.cat([one.move, two.move])
    )


def _shrink(track: Track, rows: Tensor, branch: Tensor, stage: tuple[float, int], budget: Budget, draws: Draws) -> None:
    """Shrinking balls: for each input one through any branch from the input, one from a random point, and one for each
    lane that is left."""
    goal, todo = track.goal, track.goal.todo
    anyone = torch.full_like(todo, ANY)
    rows, branch = torch.cat([todo, todo, rows]), torch.cat([anyone, anyone, branch])
    steps = budget.steps(rows, EACH, stage[0], stage[1] * max(1.0, budget.passes / USUAL))
    z, distance = goal.start[rows], track.distance[rows]
    radius = torch.where(track.success[rows], 1.5 * distance, _half_way(track, rows))
    if goal.p == 0:
        radius = radius.clamp(min=max(4.0, 0.08 * z[0].numel()))
    second = slice(len(todo), 2 * len(todo))
    noise = draws.take(todo).symmetric(z[second])
    reach = (track.x[todo] - z[second]).flatten(1).abs().amax(1)
    z[second] = project_into(goal.region.take(todo), z[second] + noise * along(reach, z))
    for (count,), some in groups(steps.unsqueeze(1)):
        columns = rows[some], branch[some], z[some], radius[some]
        shrinking_steps(track, *columns, count, averaging=(0.0, 0.5 if goal.p else 0.8))
    track.step()


def _half_way(track: Track, rows: Tensor) -> Tensor:
    """Half the distance to the farthest corner of the box."""
    room = Room.of(track.goal, rows)
    reach = torch.maximum(-room.lower, room.upper)
    return room.norm(torch.where(reach < FARTHEST, reach / 2, TYPICAL))


def _sparse(track: Track, near: Linearised, budget: Budget, draws: Draws) -> None:
    """p = 0: shrinking balls through the nearest branches, then single elements put back."""
    near = near.take((near.place < KEPT).nonzero().flatten())
    _shrink(track, near.rows, near.branch, SPARSE, budget, draws)
    rows = track.goal.todo
    for round_ in range(ROUNDS):
        rows = rows[track.success[rows]]
        if not len(rows) or track.exhausted:
            return
        before = track.distance[rows]
        each = (budget.left(rows) - (2 * PUSH if round_ else 0)).clamp(max=int(SPARSE_BACK * budget.passes))
        rows, before, each = rows[each > 0], before[each > 0], each[each > 0]
        put_back(track, rows, each, pushed(track, rows, PUSH) if round_ else None)
        track.step()
        rows = rows[(track.distance[rows] < before) | (round_ == 0)]
