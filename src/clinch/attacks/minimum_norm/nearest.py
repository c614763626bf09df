"""Clinch's own minimum-norm attack: a portfolio within a budget of passes."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, nearest_objective_of
from clinch.attacks.core.attack_query import ANY
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Budget, Progress, groups, line_search_to_input
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.objective import AttackObjective, Slope, Slopes, taken
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import Fields
from clinch.attacks.hop_skip_jump import decision_steps
from clinch.attacks.minimum_norm.averaged_linearization import LinearizedRuns, linearised_steps, slopes_of
from clinch.attacks.minimum_norm.candidates import Linearised, nearest_candidates
from clinch.attacks.minimum_norm.feasible_steps import FeasibleSteps
from clinch.attacks.minimum_norm.fewest import search_fewest
from clinch.attacks.minimum_norm.multi_constraint import search_multi_constraint
from clinch.attacks.minimum_norm.nearest_settings import NearestSettings, first_radii, rungs
from clinch.attacks.minimum_norm.shrinking_ball import shrinking_steps
from clinch.errors import ProblemError

#: shares of the passes for averaged linearisation, the ball, and averaged linearisation from the best point: where both
#: run, and where the linearisation leads and where it misleads
LED, MISLED = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
#: fewest passes that make sense
FEWEST = 60


@attack_method
def nearest(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = 2,
    passes: int = 240,
    settings: NearestSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """The nearest input of another class, or of a target class, that a given number of passes finds.

    Two recipes, chosen by measurement. *Averaged linearisation* ranks the classes by their linearised distance, follows
    the best of them in ever smaller company, and is best where the linearisation says where the nearest boundary is: on
    ordinarily trained networks. The *shrinking ball* starts far away and is best on adversarially trained and certified
    ones; an input takes it first where the gradients of its candidates turn on the way to their linearised
    boundaries, the first points of averaged linearisation. For p = 0 the nearest classes by linearisation are tried,
    the shrinking ball and σ-zero (:func:`sigma_zero`) begin side by side, the one that is ahead goes on, and single
    elements are put back.

    A budget is spent in rungs of 240 passes, 240 more for the other recipe, then 480, 960 and so on for both, so that
    more passes never find less. Other inputs of the batch play no part.

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
    numbers = NearestSettings.of(settings)
    if passes < FEWEST:
        raise ProblemError(f"passes={passes} is too few for this attack. Give at least {FEWEST}, or use deepfool.")
    objective = nearest_objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress)
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
    s = best_points.objective.numbers(NearestSettings)
    objective, indices = best_points.objective, best_points.objective.todo
    if not len(indices):
        return None
    if (
        objective.query.surrogates
    ):  # a ball may have pushed the first point away from the input, and it may reach the goal
        best_points.update(objective.start[indices], indices, objective.look(objective.start[indices], indices))
    if objective.multi_constraint or (objective.query.surrogates and objective.width > s.few):
        return search_multi_constraint(best_points, passes, draws, quick)
    return (search_fewest if objective.norm.counts else _dense)(best_points, passes, draws)


def _dense(best_points: BestPoints, passes: int, draws: Draws) -> LinearizedRuns | None:
    """p = 1, 2 and infinity."""
    s = best_points.objective.numbers(NearestSettings)
    objective = best_points.objective
    budget = Budget.of(objective, passes)
    parts = rungs(passes, s.both)
    near = _ranked(best_points, objective.todo, parts[0])
    blind = best_points.blind
    if len(blind):
        best_points.tried.append("decisions alone (HopSkipJump)")
        decision_steps(best_points, blind, int(budget.left(blind).min()), draws.at(-1))
    if not len(near.indices):
        return None
    runs = LinearizedRuns.at(near.indices, near.candidate, near.move)
    first = slopes_of(objective, runs)
    misled = torch.zeros(objective.size, dtype=torch.bool, device=near.indices.device)
    misled[near.indices] = _misled(objective, near, first)
    finalists, later = [], passes
    for rung, part in enumerate(parts):
        if best_points.exhausted:
            break
        if rung:
            best_points.settle()
        later -= part
        found = _rung(best_points, runs, budget, later, misled, draws.at(rung), rung, first if not rung else None)
        finalists += found
        line_search_to_input(best_points, s.back, s.near, runs.indices.unique())
        best_points.step()
    return LinearizedRuns.of(finalists) if finalists else None


def _rung(
    best_points: BestPoints, runs: LinearizedRuns, budget: Budget, later: int, misled: Tensor, draws: Draws, rung: int,
    first: Slope | Slopes | None,
) -> list[LinearizedRuns]:  # fmt: skip
    """One part of the passes: first the recipe that suits an input, then the other one, then both.

    Args:
        best_points: the attack.
        runs: through the nearest candidates of each input.
        budget: of all parts; ``later`` passes of it are for the parts to come.
        later: see there.
        misled: ``(B,)`` for which inputs the ball goes first.
        draws: ``(B,)`` of this part.
        rung: its number.
        first: the slopes at the runs' points, where they are known.
    """
    s = best_points.objective.numbers(NearestSettings)
    indices = runs.indices.unique()  # an input without any gradient is lost
    each = torch.bincount(runs.indices, minlength=len(misled))[indices]
    left, finalists = budget.left(indices) - later - s.back, []
    for (passes, count, ball), which in groups(torch.stack([left, each, misled[indices].long()], 1)):
        some = indices[which]
        shares = s.shares if rung > 1 else MISLED if bool(ball) != bool(rung) else LED
        follow, balls, refine = (int(share * passes) for share in shares)
        if follow > 2 * count:
            own = torch.isin(runs.indices, some).nonzero().flatten()
            known = None if first is None else taken(first, own)
            finalists.append(_follow(best_points, runs.take(own), follow + (0 if known is None else 2 * count), known))
        if balls:
            _balls(best_points, some, balls, draws)
        if refine:
            _refine(best_points, some, (best_points.x - best_points.objective.x)[some].flatten(1), refine)
    return finalists


def _ranked(best_points: BestPoints, indices: Tensor, passes: int) -> Linearised:
    """The nearest candidates of each input that have a gradient."""
    s = best_points.objective.numbers(NearestSettings)
    near = nearest_candidates(best_points.objective, indices, s.candidates, max(s.few, int(s.look * passes)))
    best_points.note_gradient(near.steepness.unsqueeze(1), near.indices)
    return near.take((near.steepness > 0).nonzero().flatten())


def _misled(objective: AttackObjective, near: Linearised, there: Slope | Slopes) -> Tensor:
    """``(L,)`` whether the linearisations of a run's input mislead: their gradients turn on the way to the linearised
    boundaries."""
    gradient = (there.gradients[:, 0] if isinstance(there, Slopes) else there.gradient).flatten(1)
    lengths = torch.linalg.vector_norm(gradient, dim=1) * near.steepness
    cosine = torch.linalg.vecdot(gradient, near.gradient) / torch.where(lengths > 0, lengths, 1.0)
    turned = cosine.new_zeros(objective.size).scatter_reduce(0, near.indices, 1 - cosine, "mean", include_self=False)
    return (turned > objective.numbers(NearestSettings).misleading)[near.indices]


def _follow(best_points: BestPoints, runs: LinearizedRuns, passes: int, known: Slope | Slopes | None) -> LinearizedRuns:
    """Averaged linearisation: all candidates, whose slopes may be known, the best few, and the best one towards any
    candidate. Returns the few."""
    s = best_points.objective.numbers(NearestSettings)
    count = int(torch.bincount(runs.indices).max())
    first = max(1, int(s.stages[0] * passes / (2 * count)))
    kept = min(s.kept, count)
    second = max(1, int(s.stages[1] * passes / (2 * kept)))
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
    s = best_points.objective.numbers(NearestSettings)
    feasible = FeasibleSteps.of(best_points.objective, runs.indices)
    distance = feasible.norm(feasible.meeting(runs.own, runs.shared))
    distance = distance * torch.where(runs.distance.isfinite(), 1.0, 1.1) + s.lost * runs.lost
    order = distance.argsort(stable=True)
    order = order[runs.indices[order].argsort(stable=True)]
    indices = runs.indices[order]
    place = torch.arange(len(indices), device=indices.device) - torch.searchsorted(indices, indices)
    best_points.step()
    return runs.take(order[place < count])


def _balls(best_points: BestPoints, indices: Tensor, passes: int, draws: Draws) -> None:
    """Shrinking balls: runs of different step sizes from far away, a few side by side, then one from the best end."""
    s = best_points.objective.numbers(NearestSettings)
    objective = best_points.objective
    sizes = s.ball_steps[: 2 if objective.norm.like == 1 else None]
    runs = max(len(sizes), passes // s.run)
    length = int(s.ball_stage * passes / (2 * runs))
    radius, anyone = first_radii(objective, indices), torch.full_like(indices, ANY)
    known = range(not objective.norm.sparse)
    z, reached = objective.start[indices], radius.new_full((len(indices),), torch.inf)
    for begin in range(0, runs, len(sizes)):
        if best_points.exhausted:
            return
        few = range(begin, min(runs, begin + len(sizes)))
        # a random extreme point of the ball leads to other boundaries than the input does
        starts = [
            objective.start[indices] if run in known else _extreme(objective, indices, radius, draws.at(run))
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
