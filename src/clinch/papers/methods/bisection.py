"""Projected gradient with bisection on the distance: the baseline that everything else is measured against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clinch.attacks.core.arguments import nearest_goal_of
from clinch.attacks.core.best_points import Progress, Track, retract
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.gradient_steps import RULES, Rule, cosine
from clinch.attacks.core.losses import branch_conditions
from clinch.attacks.core.objective import Goal, along
from clinch.attacks.core.result import AttackResult, HasQuery
from clinch.attacks.minimum_norm.candidates import nearest_branches
from clinch.errors import ProblemError
from clinch.geometry.directions import steepest_direction
from clinch.geometry.projection import project_into
from clinch.network.network import Network
from clinch.query import Query
from clinch.runtime.gradients import with_gradients

#: a lane stops where it cannot come nearer than this share of what its input has reached
BETTER = 0.999
#: step length at the first and at the last step of a round, in radii
STEP = (0.5, 0.005)


@with_gradients
def bisection(
    net: nn.Module | Network | HasQuery | Query | Goal,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = torch.inf,
    steps: int = 30,
    rounds: int = 10,
    starts: int = 2,
    branches: int = 32,
    rule: str = "together",
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
    one raises it. One lane for each branch and start ("leave through the top of neuron 3", "become class 5"), all of
    them in one tensor; a lane ends where it cannot pass another one of its input, and all of them where the ray back to
    the clean input is bisected. The user who stated the monitor problem was advised so; Madry et al. 2018 (arXiv
    1706.06083) for the steps. Ours: lanes, the decaying step (by cosine from 0.5 to 0.005 radii), starts at linearised
    solutions, and gradients that pass switched-off elements where the true one is zero. p = 1 takes Euclidean steps.

    Args:
        net: a classifier; or a problem whose objective is a distance, then without x and y.
        x: ``(B, *input_shape)``.
        y: ``(B,)`` labels.
        norm: 0, 1, 2 or ``cl.inf``; a problem states its own.
        steps: gradient steps for each radius.
        rounds: radii tried.
        starts: lanes for each branch, the first from its linearised solution, others from random points around it.
        branches: of each input, at most, those that linearisation says to be the nearest.
        rule: ``"together"``, ``"selective"`` or ``"orthogonal"``: see :mod:`clinch.attacks.core.gradient_steps`.
        target: one class or ``(B,)``; None: any class but the label.
        bounds: the range of inputs; None: no limits.
        seed: of the random starts.
        history: whether to keep the course of the attack.
        progress: called after each step with the numbers of steps done and planned.

    Returns:
        The nearest points found; see :class:`AttackResult`.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any gradient is spent.

    Example:
        >>> problem = cl.Problem(cl.Minimize(cl.norm(net.input - x0, 2)), rejected)
        >>> bisection(problem, steps=20, rounds=7).distance
        tensor([0.5907], dtype=torch.float64)
    """
    if min(steps, rounds, starts, branches) < 1:
        raise ProblemError(
            f"steps={steps}, rounds={rounds}, starts={starts} and branches={branches} must be at least 1."
        )
    if rule not in RULES:
        raise ProblemError(f"rule={rule!r} is not known. Write one of: {', '.join(RULES)}.")
    goal = nearest_goal_of(net, x, y, target=target, bounds=bounds, norm=norm)
    track = Track(goal, record=history, progress=progress, steps=rounds * steps)
    lanes = _lanes(goal, branches, starts, goal.draws(seed))
    for _ in range(rounds):
        if not len(lanes.rows):
            break
        lanes = _next_radius(track, lanes, *_descend(track, lanes, steps, RULES[rule]))
    retract(track)
    return track.result()


@dataclass
class _Lanes:
    """L attempts: row, branch and start of each, its radius, and the largest that failed and smallest distance."""

    rows: Tensor
    branch: Tensor
    z: Tensor
    radius: Tensor
    low: Tensor
    high: Tensor

    def take(self, which: Tensor) -> _Lanes:
        return _Lanes(*(t[which] for t in vars(self).values()))


def _lanes(goal: Goal, branches: int, starts: int, draws: Draws) -> _Lanes:
    near = nearest_branches(goal, goal.todo, branches)
    near = near.take(torch.arange(len(near.rows), device=goal.x.device).repeat_interleave(starts))
    point = near.point(goal)
    radius = 1.2 * torch.where(near.met & (near.length > 0), near.length, 1.0)
    noise = draws.lanes(near.rows).symmetric(point) * along(radius, point)
    random = torch.arange(len(near.rows), device=goal.x.device) % starts != 0
    z = torch.where(along(random, noise), point + noise, point)
    return _Lanes(near.rows, near.branch, z, radius, torch.zeros_like(radius), torch.full_like(radius, torch.inf))


def _descend(track: Track, lanes: _Lanes, steps: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Steps inside the balls; each lane's nearest point that reaches the goal, and its distance."""
    goal, rows = track.goal, lanes.rows
    ball = goal.within(lanes.radius.double(), rows)
    weights = None if goal.weights is None else goal.weights[rows]
    p = 2.0 if goal.p in (0, 1) else goal.p  # one element at a time would take one step per element
    z = project_into(ball, lanes.z)
    point, reached = z.clone(), torch.full_like(lanes.radius, torch.inf)
    length = along(lanes.radius, z)
    for k in range(steps):
        slopes = goal.slopes(z, rows, branch_conditions(lanes.branch))
        track.note_gradient(slopes.gradients, rows)
        distance = goal.distance(z, rows)
        track.update(z, rows, slopes.margin, distance)
        nearer = (slopes.margin < 0) & (distance < reached)
        point[nearer], reached = z[nearer], torch.where(nearer, distance, reached)
        direction = steepest_direction(rule(slopes.losses, slopes.gradients), p, weights)
        z = project_into(ball, z - cosine(*STEP, k, steps) * length * direction)
        track.step()
    margin, distance = goal.look(z, rows), goal.distance(z, rows)
    track.update(z, rows, margin, distance)
    nearer = (margin < 0) & (distance < reached)
    point[nearer], reached = z[nearer], torch.where(nearer, distance, reached)
    return point, reached


def _next_radius(track: Track, lanes: _Lanes, point: Tensor, reached: Tensor) -> _Lanes:
    """The next radius of each lane that can still win."""
    found = torch.isfinite(reached)
    high = torch.minimum(lanes.high, reached)
    low = torch.minimum(torch.where(found, lanes.low, torch.maximum(lanes.low, lanes.radius)), high)
    if track.goal.p == 0:
        radius = torch.where(torch.isfinite(high), ((low + high) / 2).floor(), (2 * lanes.radius).ceil())
    else:
        radius = torch.where(torch.isfinite(high), (low + high) / 2, 2 * lanes.radius)
    best = BETTER * track.distance[lanes.rows]
    z = torch.where(along(found, point), point, lanes.z)
    following = _Lanes(lanes.rows, lanes.branch, z, torch.minimum(radius, best), low, high)
    return following.take((low < best).nonzero().flatten())
