"""Clinch's own minimum-norm attack: a portfolio within a budget of passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clinch.attacks.branches import nearest_branches
from clinch.attacks.budget import Budget, groups
from clinch.attacks.draws import Draws
from clinch.attacks.goal import ANY, Goal, along, parts_of
from clinch.attacks.linearised import Lanes, linearised_steps
from clinch.attacks.put_back import put_back
from clinch.attacks.result import AttackResult, HasQuery
from clinch.attacks.retract import retract
from clinch.attacks.room import Room
from clinch.attacks.shared import search_shared
from clinch.attacks.shrinking_ball import shrinking_steps
from clinch.attacks.state import nearest_goal_of
from clinch.attacks.track import Progress, Track
from clinch.attacks.units import FARTHEST, TYPICAL
from clinch.errors import ProblemError
from clinch.gradients import with_gradients
from clinch.network.network import Network
from clinch.query import Query

#: passes from which on both recipes run for every input
BOTH = 480
#: shares of the passes for averaged linearisation, the ball, and averaged linearisation from the best point: where both
#: run, and where the linearisation leads and where it misleads
SHARES, LED, MISLED = (0.3, 0.6, 0.1), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
#: largest error of an input's linearised branches half way to their boundaries, relative to the margin, from which on
#: they mislead: chosen on 40 images and four MNIST networks. Where p = 2 the ball is no better where a branch is not
#: even nearly at zero at its boundary.
MISLEADING, ASTRAY = 0.35, {2.0: 0.8}
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

    Two recipes, chosen by measurement. *Averaged linearisation* (:mod:`clinch.attacks.linearised`) ranks the classes by
    their linearised distance, follows the best of them in ever smaller company, and is best where the linearisation
    says where the nearest boundary is: on ordinarily trained networks. The *shrinking ball*
    (:mod:`clinch.attacks.shrinking_ball`) starts far away and is best elsewhere, on adversarially trained ones. From
    480 passes on both run for every input; below that an input takes the ball where some of its branches are far from
    half their value half way to their linearised boundaries, which costs a pass for each branch (two for p = 2). p = 0
    has the shrinking ball alone, and puts single elements back. Other inputs of the batch play no part.

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
        quick: see :func:`~clinch.attacks.shared.search_shared`.

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
    lanes, values = _ranked(track, goal.todo, passes)
    if not len(lanes.rows):
        return None
    rows = lanes.rows.unique()  # an input without any gradient is lost
    misled = torch.zeros(goal.size, dtype=torch.long, device=rows.device)
    some = (budget.left(lanes.rows) - BACK < BOTH).nonzero().flatten()
    misled[lanes.rows[some]] = _misled(track, lanes.take(some), values[some]).long()
    count = torch.bincount(lanes.rows, minlength=goal.size)
    left = budget.left(rows) - BACK
    finalists = []
    for (passes_left, _, ball), which in groups(torch.stack([left, count[rows], misled[rows]], 1)):
        some = rows[which]
        shares = SHARES if passes_left >= BOTH else MISLED if ball else LED
        follow, balls, refine = (int(share * passes_left) for share in shares)
        if follow:
            own = lanes.take(torch.isin(lanes.rows, some).nonzero().flatten())
            finalists.append(_follow(track, own, follow))
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


def _ranked(track: Track, rows: Tensor, passes: int) -> tuple[Lanes, Tensor]:
    """Lanes at the linearised boundary of the nearest branches of each input, and the values ``(L,)`` of these branches
    at the input."""
    near = nearest_branches(track.goal, rows, BRANCHES, max(FEW, int(LOOK * passes)))
    track.note_gradient(near.steepness.unsqueeze(1), near.rows)
    near = near.take((near.steepness > 0).nonzero().flatten())
    return Lanes.at(near.rows, near.branch, near.move), near.value


def _misled(track: Track, lanes: Lanes, values: Tensor) -> Tensor:
    """``(L,)`` whether the linearisations of a lane's input mislead: some error ``2·|h(x + δ/2)/h(x) − ½|``, δ leading
    to the linearised boundary of h, is large; where p = 2 none of ``|h(x + δ)/h(x)|`` is very large. A pass or two for
    each lane."""
    goal, rows = track.goal, lanes.rows

    def largest(share: float, promised: float) -> Tensor:
        z = goal.x[rows] + share * lanes.move.view(len(rows), *goal.x.shape[1:])
        with torch.no_grad():
            found = torch.cat([goal.answer(z[part], rows[part]).alone for part in parts_of(z)])
        goal.count(rows, forward=1)
        error = (found.gather(1, lanes.branch.unsqueeze(1)).squeeze(1) / values - promised).abs()
        return error.new_zeros(goal.size).scatter_reduce(0, rows, error, "amax")[rows]

    misled = 2 * largest(0.5, 0.5) > MISLEADING
    limit = ASTRAY.get(goal.p)
    return misled if limit is None else misled & (largest(1.0, 0.0) < limit)


def _follow(track: Track, lanes: Lanes, passes: int) -> Lanes:
    """Averaged linearisation: all branches, the best few, and the best one towards any branch. Returns the few."""
    count = int(torch.bincount(lanes.rows).max())
    first = max(1, int(STAGES[0] * passes / (2 * count)))
    kept = min(KEPT, count)
    second = max(1, int(STAGES[1] * passes / (2 * kept)))
    lanes = linearised_steps(track, lanes, steps=first, step_size=(0.8, 0.5), averaging=(0.5, 0.5), overshoot=1.2)
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
    """Shrinking balls: runs of different step sizes from far away, then one from the best end."""
    goal = track.goal
    sizes = BALL_STEPS[goal.p]
    runs = max(len(sizes), passes // RUN)
    length = int(BALL_STAGE * passes / (2 * runs))
    radius, anyone = _far(goal, rows), torch.full_like(rows, ANY)
    z, reached = goal.start[rows], radius.new_full((len(rows),), torch.inf)
    for run in range(runs):
        if track.exhausted:
            return
        one = Track(goal, ledger=track.ledger)
        start = goal.start[rows] if run < len(sizes) else _extreme(goal, rows, radius, draws.at(run))
        shrinking_steps(one, rows, anyone, start, radius, length, step_size=(sizes[run % len(sizes)], 0.1))
        better = one.distance[rows] < reached
        z, reached = torch.where(along(better, z), one.x[rows], z), torch.minimum(reached, one.distance[rows])
        track.update(one.x[rows], rows, one.margin[rows], one.distance[rows])
        track.step()
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
