"""Clinch's own minimum-norm attack: a portfolio within a budget of passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clinch.attacks.core.arguments import nearest_goal_of
from clinch.attacks.core.best_points import Budget, Progress, Track, groups, retract
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.objective import ANY, Goal, Slope, Slopes, along, taken
from clinch.attacks.core.result import AttackResult, HasQuery
from clinch.attacks.core.units import FARTHEST, TYPICAL
from clinch.attacks.minimum_norm.averaged_linearization import Lanes, linearised_steps, slopes_of
from clinch.attacks.minimum_norm.candidates import Linearised, nearest_branches
from clinch.attacks.minimum_norm.feasible_steps import Room
from clinch.attacks.minimum_norm.multi_constraint import search_shared
from clinch.attacks.minimum_norm.shrinking_ball import shrinking_steps
from clinch.attacks.minimum_norm.sparse import put_back
from clinch.errors import ProblemError
from clinch.network.network import Network
from clinch.query import Query
from clinch.runtime.gradients import with_gradients

#: passes from which on both recipes run for every input
BOTH = 480
#: shares of the passes for averaged linearisation, the ball, and averaged linearisation from the best point: where both
#: run, and where the linearisation leads and where it misleads
SHARES, LED, MISLED = (0.3, 0.6, 0.1), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
#: how far the gradients of an input's branches turn on the way to their linearised boundaries, as the mean of 1 − cos,
#: from which on linearisation misleads: .02 to .4 on ordinarily trained MNIST networks, .6 to 1 on robust ones. Where
#: p = 2 the ball is no better where a branch is not even nearly at zero at its boundary, relative to the margin.
MISLEADING, ASTRAY = 0.55, {2.0: 0.8}
#: passes of the last bisection towards the input, and the shortest way back that it tries
BACK, NEAR = 8, 0.9
#: branches tried at first, and kept after the first stage
BRANCHES, KEPT = 9, 3
#: share of the passes that looking at the gradients of branches may take; a few are always looked at
LOOK, FEW = 0.1, 10
#: step sizes of the ball's runs, its first radius relative to the distance of the farthest corner of the box, and the
#: shares of that of two runs for p = 0
BALL_STEPS = {1.0: (0.3, 0.7), 2.0: (0.3, 0.7, 0.5), torch.inf: (0.3, 0.7, 0.5)}
FAR, SPARSE_FAR = {0.0: 1.0, 1.0: 0.04, 2.0: 0.15, torch.inf: 0.4}, (0.08, 0.13)
#: share of the passes for elements that are put back
SPARSE_BACK = 0.12
#: passes of one run from far away where there are many
RUN = 200
#: what a lane without a gradient counts farther
LOST = 1e6
#: fewest passes that make sense
FEWEST = 60
#: shares of the passes for the first and second stage of the linearisation, and for the ball's runs from far away
STAGES, BALL_STAGE = (0.34, 0.23), 0.68


@with_gradients
def nearest(
    net: nn.Module | Network | HasQuery | Query,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = 2,
    passes: int = 240,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """The nearest input of another class, or of a target class, that a given number of passes finds.

    Two recipes, chosen by measurement. *Averaged linearisation* ranks the classes by their linearised distance, follows
    the best of them in ever smaller company, and is best where the linearisation says where the nearest boundary is: on
    ordinarily trained networks. The *shrinking ball* starts far away and is best elsewhere, on adversarially trained
    ones. From 480 passes on both run for every input; below that an input takes the ball where the gradients of its
    branches turn on the way to their linearised boundaries, the first points of averaged linearisation. p = 0 has the
    shrinking ball alone, and puts single elements back. Other inputs of the batch play no part.

    Args:
        net: a classifier; or a problem whose objective is a distance, then without x and y. Conditions that all its
            branches share become a second half-space that moves must lead into.
        x: ``(B, *input_shape)``.
        y: ``(B,)`` labels.
        norm: 0, 1, 2 or ``cl.inf``.
        passes: rows sent forward or backward for each input, at most; the clean prediction and the check of the
            result are not counted.
        target: one class or ``(B,)``; None: any class but the label.
        bounds: the range of inputs; None: no limits.
        seed: of random starts.
        history: whether to keep the course of the attack.
        progress: called after each stage with the numbers of stages done and planned.

    Returns:
        The points, their distances and pass counts; see :class:`AttackResult`.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any gradient is spent.

    Example:
        >>> found = nearest(net, x, y, norm=2, passes=240)
        >>> found.distance.median(), found.passes.max()
        (tensor(0.4596, dtype=torch.float64), tensor(239))
    """
    if passes < FEWEST:
        raise ProblemError(f"passes={passes} is too few for this attack. Give at least {FEWEST}, or use deepfool.")
    goal = nearest_goal_of(net, x, y, target=target, bounds=bounds, norm=norm)
    track = Track(goal, record=history, progress=progress)
    search(track, passes, goal.draws(seed))
    return track.result()


def search(track: Track, passes: int, draws: Draws, quick: bool = False) -> Lanes | None:
    """The attack itself: what it finds goes to the track.

    Args:
        track: of a goal whose distance is lowered.
        passes: for each input, at most.
        draws: ``(B,)`` of random starts.
        quick: see :func:`~clinch.attacks.minimum_norm.multi_constraint.search_shared`.

    Returns:
        The lanes of averaged linearisation that were left before the last one was chosen: where other pieces of the
        network may be better. None where there were none.
    """
    goal, rows = track.goal, track.goal.todo
    if not len(rows):
        return None
    if goal.several:  # a ball may have pushed the first point away from the input, and it may reach the goal
        track.update(goal.start[rows], rows, goal.look(goal.start[rows], rows))
    if goal.shared or (goal.several and goal.width > FEW):
        return search_shared(track, passes, draws, quick)
    return (_sparse if goal.p == 0 else _dense)(track, passes, draws)


def _dense(track: Track, passes: int, draws: Draws) -> Lanes | None:
    """p = 1, 2 and infinity."""
    goal = track.goal
    budget = Budget.of(goal, passes)
    near = _ranked(track, goal.todo, passes)
    if not len(near.rows):
        return None
    lanes = Lanes.at(near.rows, near.branch, near.move)
    rows = lanes.rows.unique()  # an input without any gradient is lost
    one = budget.left(lanes.rows) - BACK < BOTH
    some = one.nonzero().flatten()
    misled = torch.zeros(goal.size, dtype=torch.long, device=rows.device)
    first = slopes_of(goal, lanes.take(some)) if len(some) else None
    if first is not None:
        misled[lanes.rows[some]] = _misled(goal, near.take(some), first).long()
    count = torch.bincount(lanes.rows, minlength=goal.size)
    left, place = budget.left(rows) - BACK, one.cumsum(0) - 1
    finalists = []
    for (passes_left, each, ball), which in groups(torch.stack([left, count[rows], misled[rows]], 1)):
        some = rows[which]
        shares = SHARES if passes_left >= BOTH else MISLED if ball else LED
        follow, balls, refine = (int(share * passes_left) for share in shares)
        if follow:
            own = torch.isin(lanes.rows, some).nonzero().flatten()
            known = None if first is None or passes_left >= BOTH else taken(first, place[own])
            finalists.append(_follow(track, lanes.take(own), follow + (0 if known is None else 2 * each), known))
        if balls:
            _balls(track, some, balls, draws)
        if refine:
            _refine(track, some, (track.x - goal.x)[some].flatten(1), refine)
    retract(track, BACK, NEAR)
    track.step()
    return Lanes.of(finalists) if finalists else None


def _sparse(track: Track, passes: int, draws: Draws) -> None:
    """p = 0: shrinking balls, and single elements put back."""
    goal, rows = track.goal, track.goal.todo
    budget = Budget.of(goal, passes)
    back = int(SPARSE_BACK * passes)
    runs = max(len(SPARSE_FAR), passes // RUN)
    anyone, reach = torch.full_like(rows, ANY), _far(goal, rows)
    for run in range(runs):
        if track.exhausted:
            return
        start = goal.start[rows]
        if run >= len(SPARSE_FAR):
            # half of the elements from the best point, so that other elements get their turn
            start = torch.where(draws.at(run).take(rows).uniform(start) < 0.5, start, track.x[rows])
        radius = SPARSE_FAR[run % len(SPARSE_FAR)] * reach
        shrinking_steps(
            track, rows, anyone, start, radius, (passes - back) // (2 * runs),
            rate=(0.3, 0.01), averaging=(0.3, 0.8),
        )  # fmt: skip
        track.step()
    put_back(track, rows, budget.left(rows))
    track.step()


def _ranked(track: Track, rows: Tensor, passes: int) -> Linearised:
    """The nearest branches of each input that have a gradient."""
    near = nearest_branches(track.goal, rows, BRANCHES, max(FEW, int(LOOK * passes)))
    track.note_gradient(near.steepness.unsqueeze(1), near.rows)
    return near.take((near.steepness > 0).nonzero().flatten())


def _misled(goal: Goal, near: Linearised, there: Slope | Slopes) -> Tensor:
    """``(L,)`` whether the linearisations of a lane's input mislead: their gradients turn on the way to the linearised
    boundaries, and where p = 2 none of the branches is very large there."""
    several = isinstance(there, Slopes)
    value, gradient = (there.losses[:, 0], there.gradients[:, 0]) if several else (there.loss, there.gradient)
    gradient = gradient.flatten(1)
    lengths = torch.linalg.vector_norm(gradient, dim=1) * near.steepness
    cosine = torch.linalg.vecdot(gradient, near.gradient) / torch.where(lengths > 0, lengths, 1.0)
    turned = cosine.new_zeros(goal.size).scatter_reduce(0, near.rows, 1 - cosine, "mean", include_self=False)
    misled, limit = turned > MISLEADING, ASTRAY.get(goal.p)
    if limit is not None:
        error = (value / near.value).abs()
        misled &= error.new_zeros(goal.size).scatter_reduce(0, near.rows, error, "amax") < limit
    return misled[near.rows]


def _follow(track: Track, lanes: Lanes, passes: int, known: Slope | Slopes | None) -> Lanes:
    """Averaged linearisation: all branches, whose slopes may be known, the best few, and the best one towards any
    branch. Returns the few."""
    count = int(torch.bincount(lanes.rows).max())
    first = max(1, int(STAGES[0] * passes / (2 * count)))
    kept = min(KEPT, count)
    second = max(1, int(STAGES[1] * passes / (2 * kept)))
    lanes = linearised_steps(
        track, lanes, steps=first, step_size=(0.8, 0.5), averaging=(0.5, 0.5), overshoot=1.2, first=known
    )
    lanes = _best(track, lanes, kept)
    few = linearised_steps(track, lanes, steps=second, step_size=(0.5, 0.3), averaging=(0.8, 0.9), overshoot=1.05)
    lanes = _best(track, few, 1)
    move = torch.where(lanes.distance.isfinite().unsqueeze(1), lanes.nearest, lanes.move)
    _refine(track, lanes.rows, move, passes - 2 * (first * count + second * kept))
    return few


def _refine(track: Track, rows: Tensor, move: Tensor, passes: int) -> None:
    """Averaged linearisation towards any branch, from the given moves ``(L, n)``."""
    lanes = Lanes.at(rows, torch.full_like(rows, ANY), move)
    linearised_steps(track, lanes, steps=passes // 2, step_size=(0.4, 0.03), averaging=(0.8, 0.95), overshoot=1.005)
    track.step()


def _best(track: Track, lanes: Lanes, count: int) -> Lanes:
    """The lanes of each input that aim the nearest, by their averaged hyperplanes and without overshoot; one that has
    not reached the goal counts a little farther than that, one that has lost its gradient comes last."""
    room = Room.of(track.goal, lanes.rows)
    distance = room.norm(room.meeting(lanes.own, lanes.shared))
    distance = distance * torch.where(lanes.distance.isfinite(), 1.0, 1.1) + LOST * lanes.lost
    order = distance.argsort(stable=True)
    order = order[lanes.rows[order].argsort(stable=True)]
    rows = lanes.rows[order]
    place = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    track.step()
    return lanes.take(order[place < count])


def _balls(track: Track, rows: Tensor, passes: int, draws: Draws) -> None:
    """Shrinking balls: runs of different step sizes from far away, a few side by side, then one from the best end."""
    goal = track.goal
    sizes = BALL_STEPS[goal.p]
    runs = max(len(sizes), passes // RUN)
    length = int(BALL_STAGE * passes / (2 * runs))
    radius, anyone = _far(goal, rows), torch.full_like(rows, ANY)
    z, reached = goal.start[rows], radius.new_full((len(rows),), torch.inf)
    for begin in range(0, runs, len(sizes)):
        if track.exhausted:
            return
        few = range(begin, min(runs, begin + len(sizes)))
        starts = [goal.start[rows] if begin == 0 else _extreme(goal, rows, radius, draws.at(run)) for run in few]
        own = torch.tensor([sizes[run - begin] for run in few], dtype=radius.dtype, device=radius.device)
        first = own.repeat_interleave(len(rows)).unsqueeze(1)
        near, move = shrinking_steps(
            track, rows.repeat(len(few)), anyone.repeat(len(few)), torch.cat(starts), radius.repeat(len(few)), length,
            step_size=(first, 0.1),
        )  # fmt: skip
        track.step()
        for distance, best in zip(near.split(len(rows)), move.split(len(rows))):
            better = distance < reached
            z = torch.where(along(better, z), goal.x[rows] + best.view_as(z), z)
            reached = torch.minimum(reached, distance)
    start = torch.where(reached.isfinite(), 0.97 * reached, radius)
    steps = passes // 2 - runs * length
    shrinking_steps(track, rows, anyone, z, start, steps, rate=(0.05, 0.005), step_size=(0.3, 0.1))
    track.step()


def _extreme(goal: Goal, rows: Tensor, radius: Tensor, draws: Draws) -> Tensor:
    """The points of balls that are farthest in random directions."""
    x = goal.x[rows]
    direction = draws.take(rows).normal(x).flatten(1)
    room = Room.of(goal, rows)
    return x + room.inside(room.farthest(direction, radius)).reshape(x.shape)


def _far(goal: Goal, rows: Tensor) -> Tensor:
    """First radii ``(L,)``: a share of the distance of the farthest corner of the box."""
    room = Room.of(goal, rows)
    reach = torch.maximum(-room.lower, room.upper)
    return FAR[goal.p] * room.norm(torch.where(reach < FARTHEST, reach, TYPICAL))
