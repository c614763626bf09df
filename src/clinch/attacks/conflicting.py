"""PGD on several losses in turn: selective and orthogonal projected gradient descent."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from clinch.attacks.goal import Goal, along
from clinch.attacks.result import AttackResult, HasQuery
from clinch.attacks.several import Rule, orthogonal, selective
from clinch.attacks.starts import random_offset
from clinch.attacks.state import goal_of, radius_of, steps_of
from clinch.attacks.track import Progress, Track
from clinch.errors import ProblemError
from clinch.geometry.directions import steepest_direction
from clinch.geometry.projection import project_into
from clinch.geometry.region import Region
from clinch.network.network import Network
from clinch.query import Query
from clinch.runtime.gradients import with_gradients


@with_gradients
def selective_pgd(
    net: nn.Module | Network | HasQuery | Query | Goal,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    steps: int = 40,
    step_size: float | Tensor | None = None,
    restarts: int = 1,
    separate: bool = False,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Follow in each step one loss alone: the first that is not yet negative.

    ``z ← P(z − α·∇L_i/‖∇L_i‖₂)``, i the first with ``L_i(z) ≥ 0``: Bryniarski et al. 2021 (arXiv 2106.15023, section
    4.1), where L₁ asks for another class and L₂ for a detector's consent. Here L₁ is the largest clause of a problem,
    what the clean input lacks, and L₂ the worst of all other clauses, which often hold there. Steps are Euclidean
    in every norm, as in the paper. A classifier has one loss, its margin. Each input stops at its goal.

    Args:
        net: a classifier; or a problem with constraints on the network, then without x and y.
        x: ``(B, *input_shape)``.
        y: ``(B,)`` labels.
        eps: radius, one or ``(B,)``; None: that of the problem's own ball.
        norm: 0, 1, 2 or ``cl.inf``.
        steps: gradient steps of each restart.
        step_size: α, one or ``(B,)``; None: ``2.5/steps`` of the ball's largest Euclidean radius.
        restarts: runs of each input; all but the first start at random points of the ball.
        separate: one loss for each of the other clauses instead of their worst; one backward pass for each.
        target: one class or ``(B,)``; None: any class but the label.
        bounds: the range of inputs; None: no limits.
        seed: of the random starts.
        history: whether to keep the course of the attack.
        progress: called after each step with the numbers of steps done and planned.

    Returns:
        Points inside the ball; see :class:`AttackResult`.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any gradient is spent.

    Example:
        >>> selective_pgd(cl.Problem(cl.Minimize(cl.norm(net.input - x0, 2)), rejected), eps=1.5).success
    """
    goal, radius = _stated(net, x, y, target, bounds, norm, eps, steps, restarts)
    return _in_turn(goal, radius, selective, steps, step_size, restarts, separate, seed, history, progress)


@with_gradients
def orthogonal_pgd(
    net: nn.Module | Network | HasQuery | Query | Goal,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    steps: int = 40,
    step_size: float | Tensor | None = None,
    restarts: int = 1,
    separate: bool = False,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Follow one loss in a direction that leaves the others as they are: ``d = ∇L₁ − proj_{∇L₂} ∇L₁``.

    ``z ← P(z − α·d/‖d‖₂)``; while ``L₁(z) ≥ 0`` as above, otherwise ``d = ∇L₂ − proj_{∇L₁} ∇L₂``, with
    ``proj_b a = (a·b/‖b‖²) b``: Bryniarski et al. 2021 (arXiv 2106.15023, section 4.2). With ``separate=True`` the
    projection is onto the complement of the span of all other gradients, which is ours. Losses, arguments, result and
    errors: see :func:`selective_pgd`.

    Example:
        >>> orthogonal_pgd(cl.Problem(cl.Minimize(cl.norm(net.input - x0, 2)), rejected), eps=1.5).success
    """
    goal, radius = _stated(net, x, y, target, bounds, norm, eps, steps, restarts)
    return _in_turn(goal, radius, orthogonal, steps, step_size, restarts, separate, seed, history, progress)


def _stated(
    net: nn.Module | Network | HasQuery | Query | Goal, x: Tensor | None, y: Tensor | None,
    target: Tensor | int | None, bounds: tuple[float, float] | None, norm: float, eps: float | Tensor | None,
    steps: int, restarts: int,
) -> tuple[Goal, Tensor]:  # fmt: skip
    if steps < 1 or restarts < 1:
        raise ProblemError(f"steps={steps} and restarts={restarts} must be at least 1.")
    goal = goal_of(net, x, y, target=target, bounds=bounds, norm=norm)
    return goal, radius_of(goal, eps)


def _in_turn(
    goal: Goal, radius: Tensor, rule: Rule, steps: int, step_size: float | Tensor | None, restarts: int,
    separate: bool, seed: int, history: bool, progress: Progress | None,
) -> AttackResult:  # fmt: skip
    size = 2.5 / steps * _euclidean(goal, radius) if step_size is None else steps_of(goal, step_size, radius)
    track = Track(goal, record=history, progress=progress, steps=restarts * steps)
    draws = goal.draws(seed)
    for run in range(restarts):
        rows = goal.todo[~track.success[goal.todo]]
        ball, z = goal.within(radius[rows], rows), goal.x[rows]
        if run:
            z = z + random_offset(goal, radius[rows], draws.at(run).take(rows))
        _descend(track, rows, project_into(ball, z), ball, size[rows], steps, rule, separate)
    return track.result(radius)


def _descend(
    track: Track, rows: Tensor, z: Tensor, ball: Region, size: Tensor, steps: int, rule: Rule, separate: bool
) -> None:
    """One run of rows ``(L,)`` from z; those that reach their goal leave it."""
    goal = track.goal
    for _ in range(steps):
        if not len(rows):
            return
        slopes = goal.slopes(z, rows, lambda answer, _: answer.conditions(together=not separate))
        track.note_gradient(slopes.gradients, rows)
        track.update(z, rows, slopes.margin)
        going = slopes.margin >= 0
        rows, z, ball, size = rows[going], z[going], ball.take(going), size[going]
        direction = steepest_direction(rule(slopes.losses[going], slopes.gradients[going]), 2.0)
        z = project_into(ball, z - along(size.to(z), z) * direction)
        track.step()
    track.update(z, rows, goal.look(z, rows))


def _euclidean(goal: Goal, radius: Tensor) -> Tensor:
    """The largest Euclidean distance within a ball of p = 1, 2 or infinity; for p = 0 elements count as one each."""
    if goal.p in (1.0, 2.0):
        return radius
    return radius.sqrt() if goal.p == 0 else radius * math.sqrt(max(1, goal.x[0].numel()))
