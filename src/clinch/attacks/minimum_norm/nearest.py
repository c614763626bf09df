"""Clinch's own minimum-norm attack: a portfolio within a budget of passes."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, nearest_objective_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Budget, Progress, groups, line_search_to_input
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.objective import ANY, AttackObjective, Slope, Slopes, taken
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.units import FARTHEST, TYPICAL
from clinch.attacks.minimum_norm.averaged_linearization import LinearizedRuns, linearised_steps, slopes_of
from clinch.attacks.minimum_norm.candidates import Linearised, nearest_candidates
from clinch.attacks.minimum_norm.feasible_steps import FeasibleSteps
from clinch.attacks.minimum_norm.multi_constraint import search_multi_constraint
from clinch.attacks.minimum_norm.shrinking_ball import shrinking_steps
from clinch.attacks.minimum_norm.sparse import greedy_sparsify
from clinch.errors import ProblemError

#: passes from which on both recipes run for every input
BOTH = 480
#: shares of the passes for averaged linearisation, the ball, and averaged linearisation from the best point: where both
#: run, and where the linearisation leads and where it misleads
SHARES, LED, MISLED = (0.3, 0.6, 0.1), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
#: how far the gradients of an input's candidates turn on the way to their linearised boundaries, as the mean of 1 −
#: cos, from which on linearisation misleads: .02 to .4 on ordinarily trained MNIST networks, .6 to 1 on robust ones.
#: Where p = 2 the ball is no better where a candidate is not even nearly at zero at its boundary, relative to the
#: margin.
MISLEADING, ASTRAY = 0.55, {2.0: 0.8}
#: passes of the last bisection towards the input, and the shortest way back that it tries
BACK, NEAR = 8, 0.9
#: candidates tried at first, and kept after the first stage
CANDIDATES, KEPT = 9, 3
#: share of the passes that looking at the gradients of candidates may take; a few are always looked at
LOOK, FEW = 0.1, 10
#: step sizes of the ball's runs, its first radius relative to the distance of the farthest corner of the box, and the
#: shares of that of two runs for p = 0
BALL_STEPS = {1.0: (0.3, 0.7), 2.0: (0.3, 0.7, 0.5), torch.inf: (0.3, 0.7, 0.5)}
FAR, SPARSE_FAR = {0.0: 1.0, 1.0: 0.04, 2.0: 0.15, torch.inf: 0.4}, (0.08, 0.13)
#: share of the passes for elements that are restored
SPARSE_BACK = 0.12
#: passes of one run from far away where there are many
RUN = 200
#: what a run without a gradient counts farther
LOST = 1e6
#: fewest passes that make sense
FEWEST = 60
#: shares of the passes for the first and second stage of the linearisation, and for the ball's runs from far away
STAGES, BALL_STAGE = (0.34, 0.23), 0.68


@attack_method
def nearest(
    net: Attacked,
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
    candidates turn on the way to their linearised boundaries, the first points of averaged linearisation. p = 0 has the
    shrinking ball alone, and puts single elements back. Other inputs of the batch play no part.

    Args:
        net: a classifier; or a problem whose objective is a distance, then without x and y. Conditions that all its
            candidates share become a second half-space that moves must lead into.
        passes: rows sent forward or backward for each input, at most; the clean prediction and the check of the
            result are not counted.
        progress: called after each stage with the numbers of stages done and planned.

    Returns:
        The points, their distances and pass counts; see :class:`AttackResult`.

    Example:
        >>> found = nearest(net, x, y, norm=2, passes=240)
        >>> found.distance.median(), found.passes.max()
        (tensor(0.4596, dtype=torch.float64), tensor(239))
    """
    if passes < FEWEST:
        raise ProblemError(f"passes={passes} is too few for this attack. Give at least {FEWEST}, or use deepfool.")
    objective = nearest_objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    best_points = BestPoints(objective, record=history, progress=progress)
    search(best_points, passes, objective.draws(seed))
    return best_points.result()


def search(best_points: BestPoints, passes: int, draws: Draws, quick: bool = False) -> LinearizedRuns | None:
    """The attack itself: what it finds goes to the best points.

    Args:
        best_points: of a goal whose distance is lowered.
        passes: for each input, at most.
        draws: ``(B,)`` of random starts.
        quick: see :func:`~clinch.attacks.minimum_norm.multi_constraint.search_shared`.

    Returns:
        The runs of averaged linearisation that were left before the last one was chosen: where other pieces of the
        network may be better. None where there were none.
    """
    objective, indices = best_points.objective, best_points.objective.todo
    if not len(indices):
        return None
    if (
        objective.query.surrogates
    ):  # a ball may have pushed the first point away from the input, and it may reach the goal
        best_points.update(objective.start[indices], indices, objective.look(objective.start[indices], indices))
    if objective.multi_constraint or (objective.query.surrogates and objective.width > FEW):
        return search_multi_constraint(best_points, passes, draws, quick)
    return (_sparse if objective.norm.counts else _dense)(best_points, passes, draws)


def _dense(best_points: BestPoints, passes: int, draws: Draws) -> LinearizedRuns | None:
    """p = 1, 2 and infinity."""
    objective = best_points.objective
    budget = Budget.of(objective, passes)
    near = _ranked(best_points, objective.todo, passes)
    if not len(near.indices):
        return None
    runs = LinearizedRuns.at(near.indices, near.candidate, near.move)
    indices = runs.indices.unique()  # an input without any gradient is lost
    one = budget.left(runs.indices) - BACK < BOTH
    some = one.nonzero().flatten()
    misled = torch.zeros(objective.size, dtype=torch.long, device=indices.device)
    first = slopes_of(objective, runs.take(some)) if len(some) else None
    if first is not None:
        misled[runs.indices[some]] = _misled(objective, near.take(some), first).long()
    count = torch.bincount(runs.indices, minlength=objective.size)
    left, place = budget.left(indices) - BACK, one.cumsum(0) - 1
    finalists = []
    for (passes_left, each, ball), which in groups(torch.stack([left, count[indices], misled[indices]], 1)):
        some = indices[which]
        shares = SHARES if passes_left >= BOTH else MISLED if ball else LED
        follow, balls, refine = (int(share * passes_left) for share in shares)
        if follow:
            own = torch.isin(runs.indices, some).nonzero().flatten()
            known = None if first is None or passes_left >= BOTH else taken(first, place[own])
            finalists.append(_follow(best_points, runs.take(own), follow + (0 if known is None else 2 * each), known))
        if balls:
            _balls(best_points, some, balls, draws)
        if refine:
            _refine(best_points, some, (best_points.x - objective.x)[some].flatten(1), refine)
    line_search_to_input(best_points, BACK, NEAR)
    best_points.step()
    return LinearizedRuns.of(finalists) if finalists else None


def _sparse(best_points: BestPoints, passes: int, draws: Draws) -> None:
    """p = 0: shrinking balls, and single elements restored."""
    objective, indices = best_points.objective, best_points.objective.todo
    budget = Budget.of(objective, passes)
    back = int(SPARSE_BACK * passes)
    runs = max(len(SPARSE_FAR), passes // RUN)
    anyone, reach = torch.full_like(indices, ANY), _far(objective, indices)
    for run in range(runs):
        if best_points.exhausted:
            return
        start = objective.start[indices]
        if run >= len(SPARSE_FAR):
            # half of the elements from the best point, so that other elements get their turn
            start = torch.where(draws.at(run).take(indices).uniform(start) < 0.5, start, best_points.x[indices])
        radius = SPARSE_FAR[run % len(SPARSE_FAR)] * reach
        shrinking_steps(
            best_points, indices, anyone, start, radius, (passes - back) // (2 * runs),
            rate=(0.3, 0.01), averaging=(0.3, 0.8),
        )  # fmt: skip
        best_points.step()
    greedy_sparsify(best_points, indices, budget.left(indices))
    best_points.step()


def _ranked(best_points: BestPoints, indices: Tensor, passes: int) -> Linearised:
    """The nearest candidates of each input that have a gradient."""
    near = nearest_candidates(best_points.objective, indices, CANDIDATES, max(FEW, int(LOOK * passes)))
    best_points.note_gradient(near.steepness.unsqueeze(1), near.indices)
    return near.take((near.steepness > 0).nonzero().flatten())


def _misled(objective: AttackObjective, near: Linearised, there: Slope | Slopes) -> Tensor:
    """``(L,)`` whether the linearisations of a run's input mislead: their gradients turn on the way to the linearised
    boundaries, and where p = 2 none of the candidates is very large there."""
    surrogates = isinstance(there, Slopes)
    value, gradient = (there.losses[:, 0], there.gradients[:, 0]) if surrogates else (there.loss, there.gradient)
    gradient = gradient.flatten(1)
    lengths = torch.linalg.vector_norm(gradient, dim=1) * near.steepness
    cosine = torch.linalg.vecdot(gradient, near.gradient) / torch.where(lengths > 0, lengths, 1.0)
    turned = cosine.new_zeros(objective.size).scatter_reduce(0, near.indices, 1 - cosine, "mean", include_self=False)
    misled, limit = turned > MISLEADING, ASTRAY.get(objective.norm.like)
    if limit is not None:
        error = (value / near.value).abs()
        misled &= error.new_zeros(objective.size).scatter_reduce(0, near.indices, error, "amax") < limit
    return misled[near.indices]


def _follow(best_points: BestPoints, runs: LinearizedRuns, passes: int, known: Slope | Slopes | None) -> LinearizedRuns:
    """Averaged linearisation: all candidates, whose slopes may be known, the best few, and the best one towards any
    candidate. Returns the few."""
    count = int(torch.bincount(runs.indices).max())
    first = max(1, int(STAGES[0] * passes / (2 * count)))
    kept = min(KEPT, count)
    second = max(1, int(STAGES[1] * passes / (2 * kept)))
    runs = linearised_steps(
        best_points, runs, steps=first, step_size=(0.8, 0.5), averaging=(0.5, 0.5), overshoot=1.2, first=known
    )
    runs = _best(best_points, runs, kept)
    few = linearised_steps(best_points, runs, steps=second, step_size=(0.5, 0.3), averaging=(0.8, 0.9), overshoot=1.05)
    runs = _best(best_points, few, 1)
    move = torch.where(runs.distance.isfinite().unsqueeze(1), runs.nearest, runs.move)
    _refine(best_points, runs.indices, move, passes - 2 * (first * count + second * kept))
    return few


def _refine(best_points: BestPoints, indices: Tensor, move: Tensor, passes: int) -> None:
    """Averaged linearisation towards any candidate, from the given moves ``(L, n)``."""
    runs = LinearizedRuns.at(indices, torch.full_like(indices, ANY), move)
    linearised_steps(
        best_points, runs, steps=passes // 2, step_size=(0.4, 0.03), averaging=(0.8, 0.95), overshoot=1.005
    )
    best_points.step()


def _best(best_points: BestPoints, runs: LinearizedRuns, count: int) -> LinearizedRuns:
    """The runs of each input that aim the nearest, by their averaged hyperplanes and without overshoot; one that has
    not reached the goal counts a little farther than that, one that has lost its gradient comes last."""
    feasible = FeasibleSteps.of(best_points.objective, runs.indices)
    distance = feasible.norm(feasible.meeting(runs.own, runs.shared))
    distance = distance * torch.where(runs.distance.isfinite(), 1.0, 1.1) + LOST * runs.lost
    order = distance.argsort(stable=True)
    order = order[runs.indices[order].argsort(stable=True)]
    indices = runs.indices[order]
    place = torch.arange(len(indices), device=indices.device) - torch.searchsorted(indices, indices)
    best_points.step()
    return runs.take(order[place < count])


def _balls(best_points: BestPoints, indices: Tensor, passes: int, draws: Draws) -> None:
    """Shrinking balls: runs of different step sizes from far away, a few side by side, then one from the best end."""
    objective = best_points.objective
    sizes = objective.norm.tuned(BALL_STEPS)
    runs = max(len(sizes), passes // RUN)
    length = int(BALL_STAGE * passes / (2 * runs))
    radius, anyone = _far(objective, indices), torch.full_like(indices, ANY)
    z, reached = objective.start[indices], radius.new_full((len(indices),), torch.inf)
    for begin in range(0, runs, len(sizes)):
        if best_points.exhausted:
            return
        few = range(begin, min(runs, begin + len(sizes)))
        starts = [
            objective.start[indices] if begin == 0 else _extreme(objective, indices, radius, draws.at(run))
            for run in few
        ]
        own = torch.tensor([sizes[run - begin] for run in few], dtype=radius.dtype, device=radius.device)
        first = own.repeat_interleave(len(indices)).unsqueeze(1)
        near, move = shrinking_steps(
            best_points, indices.repeat(len(few)), anyone.repeat(len(few)), torch.cat(starts),
            radius.repeat(len(few)), length, step_size=(first, 0.1),
        )  # fmt: skip
        best_points.step()
        for distance, best in zip(near.split(len(indices)), move.split(len(indices))):
            better = distance < reached
            z = torch.where(along(better, z), objective.x[indices] + best.view_as(z), z)
            reached = torch.minimum(reached, distance)
    start = torch.where(reached.isfinite(), 0.97 * reached, radius)
    steps = passes // 2 - runs * length
    shrinking_steps(best_points, indices, anyone, z, start, steps, rate=(0.05, 0.005), step_size=(0.3, 0.1))
    best_points.step()


def _extreme(objective: AttackObjective, indices: Tensor, radius: Tensor, draws: Draws) -> Tensor:
    """The points of balls that are farthest in random directions."""
    x = objective.x[indices]
    direction = draws.take(indices).normal(x).flatten(1)
    feasible = FeasibleSteps.of(objective, indices)
    return x + feasible.inside(feasible.farthest(direction, radius)).reshape(x.shape)


def _far(objective: AttackObjective, indices: Tensor) -> Tensor:
    """First radii ``(L,)``: a share of the distance of the farthest corner of the box."""
    feasible = FeasibleSteps.of(objective, indices)
    reach = torch.maximum(-feasible.lower, feasible.upper)
    return objective.norm.tuned(FAR) * feasible.norm(torch.where(reach < FARTHEST, reach, TYPICAL))
