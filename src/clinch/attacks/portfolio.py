"""The strongest attack inside a ball: a portfolio, chosen by measurement."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.apgd import ApgdSettings, adaptive_steps
from clinch.attacks.core.arguments import Attacked, attack_method, lowering_objective, objective_of, radius_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.draws import Draws, place_of
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.problem_query import ProblemQuery
from clinch.attacks.core.restarts import Start, restarted, starts
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.attacks.frank_wolfe import extreme_steps
from clinch.attacks.local_search import polish_from
from clinch.attacks.minimise import minimise_steps, random_starts
from clinch.attacks.minimum_norm.averaged_linearization import LinearizedRuns
from clinch.attacks.minimum_norm.nearest import search
from clinch.attacks.minimum_norm.nearest_settings import NearestSettings
from clinch.attacks.square import square_steps
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into
from clinch.query import Distance, Query
from clinch.runtime.gradients import with_gradients
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Attack, Pair, Share, Some


@dataclass(frozen=True)
class FrankWolfeStage(AttackSettings):
    """Frank-Wolfe steps from where the runs began, each aimed at a single class.

    Attributes:
        runs: how many for each input.
        share: of the passes that the stages before all of them leave.
        average: weight of past gradients in the last step.
        last: length of the last step.
        next: how many go on to the stage after it, those that came closest.
    """

    runs: Some
    share: Share
    average: Share
    last: Share
    next: Some


@dataclass(frozen=True)
class WorstSettings(AttackSettings):
    """Of :func:`worst`; shares were chosen on other images than the benchmark's.

    Attributes:
        quick: gradient steps of the first stage, that most inputs of plain networks fall to.
        nearest_share: passes of the nearest input of another class, as a share of what the first stage leaves,
            ``nearest_most`` at most.
        closer: Frank-Wolfe steps from where that one ended, the first and the last of them ``short`` shares of the way.
        many: Frank-Wolfe steps on many runs, then on ``fewer``.
        restarts: random starts of each run of the last stage, which has what the others leave.
        nearest, apgd: of the parts.
    """

    quick: Some = 20
    nearest_share: Share = 0.6
    nearest_most: Some = 700
    closer: Some = 20
    short: Pair = (0.2, 0.02)
    many: FrankWolfeStage = field(default_factory=lambda: FrankWolfeStage(9, 0.2, average=0.8, last=0.2, next=3))
    fewer: FrankWolfeStage = field(default_factory=lambda: FrankWolfeStage(3, 0.4, average=0.8, last=0.05, next=2))
    restarts: Some = 3
    nearest: NearestSettings = field(default_factory=NearestSettings)
    apgd: ApgdSettings = field(default_factory=ApgdSettings)


#: halvings of the way from an input to a random point that reaches the goal, and points drawn for each that is polished
HALVINGS, DRAWN = 8, 16
#: fewest passes that leave each stage a few steps
FEWEST = 500


@attack_method
def worst(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    passes: int = 2000,
    settings: WorstSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Find what is left to find inside a ball: cheap attacks first, and an input leaves as soon as its goal is reached.

    1. 20 steps of APGD on the difference-of-logits ratio (Croce and Hein 2020, arXiv 2003.01690), which neither scale
       nor shift of the logits changes; for p = 0 of Frank-Wolfe on the margin.
    2. The nearest input of another class (:func:`nearest`), brought into the ball where it lies outside, and from there
       a few short steps of Frank-Wolfe.
    3. Frank-Wolfe with averaged gradients (:func:`frank_wolfe`) on the margins to the nine nearest classes at once;
       where there are fewer, from random starts too; then with more steps on the three runs that came closest.
    4. APGD on the two closest from random starts, on the difference-of-logits ratio.

    No input is given up before its passes are spent, whatever its margin or gradient. Where the first stage has found
    no gradient at all, random search by :func:`square` has the rest of the passes; where one is zero for a while, steps
    go in random directions. A portfolio as AutoAttack is (same source), but every part is there because it finds more
    for its passes on images other than those of the benchmark (``benchmarks/attacks/fixed_budget.py``).

    Args:
        passes: rows forward and backward for each input, 500 or more: so many where nothing is found, at most.

    Example:
        >>> worst(net, x, y, eps=0.1).success.double().mean()
        tensor(0.6250, dtype=torch.float64)
    """
    numbers = WorstSettings.of(settings)
    if passes < FEWEST:
        raise ProblemError(f"passes={passes} are too few for every stage. Write {FEWEST} or more, or take pgd or apgd.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    radius = radius_of(objective, eps)
    ratio, aimed = ("dlr", "margin") if isinstance(objective.query, ClassQuery) else 2 * (objective.query.default_loss,)
    plan = _Plan.of(
        numbers,
        passes,
        min(numbers.many.runs, objective.width),
        objective.query.graded,
        looks=len(numbers.apgd.stage_shares) if objective.norm.sparse and not objective.norm.counts else 1,
    )
    steps = numbers.quick + bool(plan.nearest) * (1 + numbers.closer) + sum(plan.steps) + plan.last
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=steps)
    gradient_steps = extreme_steps if objective.norm.counts else adaptive_steps
    first_loss = aimed if objective.norm.counts else ratio
    gradient_steps(best_points, starts(best_points, radius), radius, numbers.quick, first_loss)
    draws = objective.draws(seed)
    _without_gradients(best_points, radius, passes, draws.at(3))
    if plan.nearest:
        close = _nearest(best_points, radius, plan.nearest, draws.at(2))
        first, last = numbers.short
        extreme_steps(best_points, close, radius, numbers.closer, aimed, average=0.5, first=first, last=last)
    runs = starts(best_points, radius, targets=plan.width, restarts=numbers.many.runs // plan.width, draws=draws.at(0))
    for stage, count in zip((numbers.many, numbers.fewer), plan.steps):
        end = extreme_steps(best_points, runs, radius, count, aimed, average=stage.average, last=stage.last)
        runs = end.closest(stage.next)
    runs = restarted(objective, runs, radius, numbers.restarts, draws.at(1))
    gradient_steps(best_points, runs, radius, plan.last, ratio)
    return best_points.result(radius)


def _without_gradients(best_points: BestPoints, radius: Tensor, passes: int, draws: Draws) -> None:
    """Random search for the inputs whose gradient has been zero so far, in the place of all that needs one."""
    objective, blind = best_points.objective, best_points.blind
    if not len(blind) or objective.norm.counts:
        return
    best_points.tried.append("random search (Square)")
    # all of them have spent as much
    left = passes - int((objective.forward + objective.backward)[blind].max())
    square_steps(best_points, blind, radius, max(1, left), draws)
    objective.todo = objective.todo[~torch.isin(objective.todo, blind)]


class _Plan(NamedTuple):
    """How many passes or steps each stage has.

    Attributes:
        width: classes aimed at.
        nearest: passes.
        steps: of each Frank-Wolfe stage.
        last: steps of the last stage.
    """

    width: int
    nearest: int
    steps: tuple[int, ...]
    last: int

    @staticmethod
    def of(s: WorstSettings, passes: int, width: int, graded: bool, looks: int) -> _Plan:
        """All passes, to the last one that makes a step; without a nearest input where the goal has none. A run of
        gradient steps ends with so many looks."""
        left = passes - 2 * s.quick - looks - 3  # and one pass before each other stage
        left -= 0 if graded else 2 * s.closer + 1
        nearest = 0 if graded else min(s.nearest_most, int(s.nearest_share * left))
        runs = [width * (stage.runs // width) if stage is s.many else stage.runs for stage in (s.many, s.fewer)]
        steps = tuple(
            max(1, int((one.share * (left - nearest) / n - 1) / 2)) for one, n in zip((s.many, s.fewer), runs)
        )
        spent = nearest + sum(n * (2 * count + 1) for n, count in zip(runs, steps))
        return _Plan(width, nearest, steps, max(1, int(((left - spent) / (s.restarts * s.fewer.next) - looks) / 2)))


def _nearest(best_points: BestPoints, radius: Tensor, passes: int, draws: Draws) -> Start:
    """The nearest point that reaches the goal, brought into the ball where it lies outside, for what is left.

    Returns:
        Runs at those of these points that miss the goal.
    """
    objective = best_points.objective
    indices = objective.todo[~best_points.success[objective.todo]]
    rest = copy.copy(objective)  # counts its passes in the same place
    rest.todo = indices
    own = BestPoints(rest, settings=objective.settings)
    search(own, passes, draws)
    z = project_into(objective.within(radius[indices], indices), own.x[indices])
    if len(indices):
        best_points.update(z, indices, objective.look(z, indices))
    best_points.step()
    return Start(indices, None, z).take(~best_points.success[indices])


@with_gradients
def attack(
    query: Query,
    ledger: Ledger,
    *,
    seed: int = 0,
    thorough: bool = True,
    passes: int | None = None,
    settings: Attack | None = None,
) -> None:
    """Attack all problems of a query; what is found goes to the ledger.

    Args:
        query: the float64 normal form.
        ledger: receives the points and says when to stop.
        seed: of the random starts.
        thorough: False is enough where an exact search with walks of its own comes next.
        passes: for each problem whose objective is a distance; None: as many as ``thorough`` says.
        settings: the numbers of passes, runs and steps; None: the usual ones.
    """
    s = settings or Attack()
    if not isinstance(query.objective, Distance):
        objective = lowering_objective(query)
        best_points = BestPoints(objective, ledger=ledger)
        runs, steps = map(int, s.walks if thorough else s.quick_walks)
        try:
            minimise_steps(objective, best_points, count=runs, steps=steps, draws=objective.draws(seed))
        finally:
            best_points.report()
        return
    objective = AttackObjective(ProblemQuery(query, needed=False), scaled=True)
    best_points = BestPoints(objective, ledger=ledger)
    best_points.report()
    wanted = (
        s.sparse
        if objective.multi_constraint and objective.norm.counts
        else int((s.shared if objective.multi_constraint else s.others)[not thorough])
    )
    try:
        finalists = search(best_points, passes or wanted, objective.draws(seed), quick=not thorough)
    finally:
        best_points.report()
    if thorough and finalists is not None and not ledger.exhausted:
        _polish_runners_up(ledger, best_points, finalists, s)
    if thorough and s.polish and objective.region.planes is not None and not ledger.exhausted:
        _polish_from_random(ledger, best_points, objective.draws(seed).at(4), s)


def _polish_from_random(ledger: Ledger, best_points: BestPoints, draws: Draws, s: Attack) -> None:
    """Steps are less exact where inputs are tied to each other, walks are not: some begin at the boundary's points on
    the way to random ones that reach the goal."""
    objective = best_points.objective
    indices = objective.todo.repeat(DRAWN * s.random)
    start = objective.start[indices]
    spread = random_starts(objective.region.take(indices), start, 1 + len(indices), draws.runs(indices))
    reached = objective.look(spread, indices) < 0
    indices, start, spread = indices[reached], start[reached], spread[reached]
    low, high = torch.zeros_like(indices, dtype=start.dtype), torch.ones_like(indices, dtype=start.dtype)
    for _ in range(HALVINGS if len(indices) else 0):
        share = (low + high) / 2
        reached = objective.look(start + along(share, start) * (spread - start), indices) < 0
        low, high = torch.where(reached, low, share), torch.where(reached, share, high)
    points = objective.settled(start + along(high, start) * (spread - start), indices)
    near = objective.distance(objective.working(points, indices), indices).argsort(stable=True)
    near = near[place_of(indices[near]) < s.random]
    points, indices = points[near], indices[near]
    polish_from(ledger.query, ledger, points, indices.cpu(), s.polishing)


def _polish_runners_up(ledger: Ledger, best_points: BestPoints, runs: LinearizedRuns, s: Attack) -> None:
    """A runner-up may lie on a better piece than the incumbent: polish those that are not far behind."""
    value = best_points.objective.shortened(ledger.value.to(runs.indices.device))[runs.indices]
    close = (runs.distance <= (1 + s.runner_up) * value).nonzero().flatten()
    close = close[runs.distance[close].argsort(stable=True)]
    indices = runs.indices[close]
    x = best_points.objective.x[indices]
    points = best_points.objective.point(x + runs.nearest[close].view_as(x), indices)
    polish_from(ledger.query, ledger, points, indices.cpu(), s.polishing)
