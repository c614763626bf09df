"""Projected gradient with bisection on the distance: the baseline that everything else is measured against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, nearest_objective_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress, line_search_to_input
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.gradient_steps import RULES, Rule, cosine
from clinch.attacks.core.losses import candidate_conditions
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.attacks.minimum_norm.candidates import nearest_candidates
from clinch.errors import ProblemError
from clinch.geometry.directions import steepest_direction
from clinch.geometry.norms import norm_of
from clinch.geometry.projection import project_into
from clinch.solver.settings import Pair, Share


@dataclass(frozen=True)
class BisectionSettings(AttackSettings):
    """Of :func:`bisection`.

    Attributes:
        better: a run stops where it cannot come nearer than this share of what its input has reached.
        step: step length at the first and at the last step of a round, in radii.
    """

    better: Share = 0.999
    step: Pair = (0.5, 0.005)


@attack_method
def bisection(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = torch.inf,
    steps: int = 30,
    rounds: int = 10,
    starts: int = 2,
    branches: int = 32,
    rule: str = "together",
    settings: BisectionSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Smallest distance by projected gradient inside balls whose radius b is bisected.

    ``z ← P_b(z − α·b·v(d))`` with the steepest direction v of what a rule makes of the gradients of the conditions that
    do not hold yet, such as their sum ``d = Σ ∇L_i/‖∇L_i‖``, and the exact projection P_b onto ball(b) ∩ range. A round
    that reaches the goal lowers b to half way between the largest radius that failed and the distance reached, another
    one raises it. One run for each candidate and start ("leave through the top of neuron 3", "become class 5"), all of
    them in one tensor; a run ends where it cannot pass another one of its input, and all of them where the ray back to
    the clean input is bisected. The user who stated the monitor problem was advised so; Madry et al. 2018 (arXiv
    1706.06083) for the steps. Ours: runs, the decaying step (by cosine from 0.5 to 0.005 radii), starts at linearised
    solutions, and gradients that pass inactive neurons where the true one is zero. p = 1 takes Euclidean steps.

    Args:
        steps: gradient steps for each radius.
        rounds: radii tried.
        starts: runs for each candidate, the first from its linearised solution, others from random points around it.
        candidates: of each input, at most, those that linearisation says to be the nearest.
        rule: ``"together"``, ``"selective"`` or ``"orthogonal"``: see :mod:`clinch.attacks.core.gradient_steps`.

    Example:
        >>> problem = cl.Problem(cl.Minimize(cl.norm(net.input - x0, 2)), rejected)
        >>> bisection(problem, steps=20, rounds=7).distance
        tensor([0.5907], dtype=torch.float64)
    """
    numbers = BisectionSettings.of(settings)
    if min(steps, rounds, starts, branches) < 1:
        raise ProblemError(
            f"steps={steps}, rounds={rounds}, starts={starts} and branches={branches} must be at least 1."
        )
    if rule not in RULES:
        raise ProblemError(f"rule={rule!r} is not known. Write one of: {', '.join(RULES)}.")
    objective = nearest_objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=rounds * steps)
    runs = _runs(objective, branches, starts, objective.draws(seed))
    for _ in range(rounds):
        if not len(runs.indices):
            break
        runs = _next_radius(best_points, runs, *_descend(best_points, runs, steps, RULES[rule]))
    line_search_to_input(best_points)
    return best_points.result()


@dataclass
class _Runs:
    """L attempts: row, candidate and start of each, its radius, and the largest that failed and smallest distance."""

    indices: Tensor
    candidate: Tensor
    z: Tensor
    radius: Tensor
    low: Tensor
    high: Tensor

    def take(self, which: Tensor) -> _Runs:
        return _Runs(*(t[which] for t in vars(self).values()))


def _runs(objective: AttackObjective, branches: int, starts: int, draws: Draws) -> _Runs:
    near = nearest_candidates(objective, objective.todo, branches)
    near = near.take(torch.arange(len(near.indices), device=objective.x.device).repeat_interleave(starts))
    point = near.point(objective)
    radius = 1.2 * torch.where(near.met & (near.length > 0), near.length, 1.0)
    noise = draws.runs(near.indices).symmetric(point) * along(radius, point)
    random = torch.arange(len(near.indices), device=objective.x.device) % starts != 0
    z = torch.where(along(random, noise), point + noise, point)
    return _Runs(near.indices, near.candidate, z, radius, torch.zeros_like(radius), torch.full_like(radius, torch.inf))


def _descend(best_points: BestPoints, runs: _Runs, steps: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Steps inside the balls; each run's nearest point that reaches the goal, and its distance."""
    s = best_points.objective.numbers(BisectionSettings)
    objective, indices = best_points.objective, runs.indices
    ball = objective.within(runs.radius.double(), indices)
    weights = None if objective.weights is None else objective.weights[indices]
    p = norm_of(2) if objective.norm.sparse else objective.norm  # one element at a time would take one step per element
    z = project_into(ball, runs.z)
    point, reached = z.clone(), torch.full_like(runs.radius, torch.inf)
    length = along(runs.radius, z)
    for k in range(steps):
        slopes = objective.slopes(z, indices, candidate_conditions(runs.candidate))
        best_points.note_gradient(slopes.gradients, indices)
        distance = objective.distance(z, indices)
        best_points.update(z, indices, slopes.margin, distance)
        nearer = (slopes.margin < 0) & (distance < reached)
        point[nearer], reached = z[nearer], torch.where(nearer, distance, reached)
        direction = steepest_direction(rule(slopes.losses, slopes.gradients), p, weights)
        z = project_into(ball, z - cosine(*s.step, k, steps) * length * direction)
        best_points.step()
    margin, distance = objective.look(z, indices), objective.distance(z, indices)
    best_points.update(z, indices, margin, distance)
    nearer = (margin < 0) & (distance < reached)
    point[nearer], reached = z[nearer], torch.where(nearer, distance, reached)
    return point, reached


def _next_radius(best_points: BestPoints, runs: _Runs, point: Tensor, reached: Tensor) -> _Runs:
    """The next radius of each run that can still win."""
    s = best_points.objective.numbers(BisectionSettings)
    found = torch.isfinite(reached)
    high = torch.minimum(runs.high, reached)
    low = torch.minimum(torch.where(found, runs.low, torch.maximum(runs.low, runs.radius)), high)
    if best_points.objective.norm.counts:
        radius = torch.where(torch.isfinite(high), ((low + high) / 2).floor(), (2 * runs.radius).ceil())
    else:
        radius = torch.where(torch.isfinite(high), (low + high) / 2, 2 * runs.radius)
    best = s.better * best_points.distance[runs.indices]
    z = torch.where(along(found, point), point, runs.z)
    following = _Runs(runs.indices, runs.candidate, z, torch.minimum(radius, best), low, high)
    return following.take((low < best).nonzero().flatten())
