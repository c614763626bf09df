"""Projected gradient descent on a loss inside a ball, and its one-step preset FGSM."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of, radius_of, steps_of
from clinch.attacks.core.attack_query import Loss
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.gradient_steps import Rule, orthogonal, selective
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.restarts import never_blind, random_offset
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError
from clinch.geometry.directions import sparse_direction, steepest_direction, with_room
from clinch.geometry.norms import Norm
from clinch.geometry.projection import project_into
from clinch.geometry.region import Region


@attack_method
def pgd(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    steps: int = 40,
    step_size: float | Tensor | None = None,
    restarts: int = 1,
    random_start: bool | None = None,
    normalise: bool = True,
    momentum: float = 0.0,
    share: float = 0.01,
    loss: str | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Follow the gradient of a loss inside a ball, stopping for each input as soon as its goal is reached.

    ``g ← β·g + ∇L/‖∇L‖₁,   z ← P(z − α·v(g))`` with the steepest direction v of unit length in the norm and the exact
    projection P onto ball ∩ range; not normalised, ``z ← P(z − α·∇L)``. Madry et al. 2018 (arXiv 1706.06083), momentum
    as Dong et al. 2018 (arXiv 1710.06081). For p = 1 the best ``share`` of the elements change by the same amount, and
    the projection is that of Croce and Hein 2021 (arXiv 2103.01208, section 4.1); for p = 0 all change in proportion to
    the gradient, the most by α, and the projection keeps the elements that matter (Croce and Hein 2019, arXiv
    1909.05040). We differ in that elements which the range does not let move are not chosen.

    Args:
        steps: gradient steps of each restart.
        step_size: α, one or ``(B,)``; None: ``2.5·eps/steps``, at least 1 for p = 0.
        restarts: runs of each input; those that are left start at random points of the ball.
        random_start: whether the first run does so too; None: only where there are several.
        normalise: follow the steepest direction; otherwise the plain gradient, which shows why that is needed.
        momentum: β.
        share: of the elements that change in one step, for p = 1 at least one.

    Example:
        >>> pgd(net, x, y, eps=0.1, steps=40, step_size=0.01, restarts=10).success.double().mean()
        tensor(0.6250, dtype=torch.float64)
    """
    if steps < 1 or restarts < 1:
        raise ProblemError(f"steps={steps} and restarts={restarts} must be at least 1.")
    if not 0 < share <= 1:
        raise ProblemError(f"share={share} is no share of the elements. Write a number above 0, at most 1.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    radius, function = radius_of(objective, eps), loss_of(objective.query, loss, published=not normalise)
    size = 2.5 * radius / steps if step_size is None else steps_of(objective, step_size, radius)
    size = size.clamp(min=1.0) if step_size is None and objective.norm.counts else size
    best_points = BestPoints(objective, record=history, progress=progress, steps=restarts * steps)
    draws = objective.draws(seed)
    noisy = restarts > 1 if random_start is None else random_start
    for run in range(restarts):
        indices = objective.todo[~best_points.success[objective.todo]]
        ball = objective.within(radius[indices], indices)
        start = objective.x[indices]
        if noisy or run:
            start = start + random_offset(objective, radius[indices], draws.at(run).take(indices))
        _descend(
            best_points,
            indices,
            project_into(ball, start),
            ball,
            size[indices],
            steps,
            function,
            normalise,
            momentum,
            share,
        )
    return best_points.result(radius)


def _descend(
    best_points: BestPoints, indices: Tensor, z: Tensor, ball: Region, size: Tensor, steps: int, loss: Loss | None,
    normalise: bool, momentum: float, share: float,
) -> None:  # fmt: skip
    """One run of indices ``(L,)`` from z; those that reach their goal leave it."""
    objective, average = best_points.objective, torch.zeros_like(z)
    for k in range(steps):
        if not len(indices):
            return
        slope = objective.slope(z, indices, loss)
        best_points.note_gradient(slope.gradient, indices)
        best_points.update(z, indices, slope.margin)
        going = slope.margin >= 0
        gradient = never_blind(slope.gradient, k, slope.blind) if normalise else slope.gradient
        if not bool(going.all()):
            indices, z, average, gradient = indices[going], z[going], average[going], gradient[going]
            ball, size = ball.take(going), size[going]
        if momentum:
            length = gradient.flatten(1).abs().sum(1)
            average = momentum * average + gradient / along(torch.where(length > 0, length, 1.0), gradient)
            gradient = average
        direction = _direction(gradient, z, ball, objective.norm, share) if normalise else gradient
        z = project_into(ball, z - along(size.to(z), z) * direction)
        best_points.step()
    best_points.update(z, indices, objective.look(z, indices))


def _direction(gradient: Tensor, z: Tensor, ball: Region, norm: Norm, share: float) -> Tensor:
    """Unit length for p >= 1; for p = 0 the largest change is one."""
    if not norm.sparse:
        return steepest_direction(gradient, norm)
    gradient = with_room(gradient, z, ball)
    if not norm.counts:
        count = max(1.0, share * gradient.shape[1:].numel())
        return sparse_direction(gradient, torch.full_like(gradient.flatten(1)[:, 0], count))
    largest = gradient.abs().flatten(1).amax(1)
    return gradient / along(torch.where(largest > 0, largest, 1.0), gradient)


@attack_method
def fgsm(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    loss: str | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> AttackResult:
    """One steepest step to the sphere, ``z = P(x − ε·v(∇L(x)))``: Goodfellow et al. 2015 (arXiv 1412.6572) for p = inf.

    Arguments, result and errors: see :func:`pgd`.

    Example:
        >>> fgsm(net, x, y, eps=0.1).success
        tensor([ True,  True, False,  True, False,  True, False, False])
    """
    return pgd(net, x, y, eps=eps, norm=norm, steps=1, step_size=eps, loss=loss, target=target, bounds=bounds)


@attack_method
def selective_pgd(
    net: Attacked,
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
        steps: gradient steps of each restart.
        step_size: α, one or ``(B,)``; None: ``2.5/steps`` of the ball's largest Euclidean radius.
        restarts: runs of each input; all but the first start at random points of the ball.
        separate: one loss for each of the other clauses instead of their worst; one backward pass for each.

    Example:
        >>> selective_pgd(cl.Problem(cl.Minimize(cl.norm(net.input - x0, 2)), rejected), eps=1.5).success
        tensor([True])
    """
    objective, radius = _stated(net, x, y, target, bounds, norm, eps, steps, restarts)
    return _in_turn(objective, radius, selective, steps, step_size, restarts, separate, seed, history, progress)


@attack_method
def orthogonal_pgd(
    net: Attacked,
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
        tensor([True])
    """
    objective, radius = _stated(net, x, y, target, bounds, norm, eps, steps, restarts)
    return _in_turn(objective, radius, orthogonal, steps, step_size, restarts, separate, seed, history, progress)


def _stated(
    net: Attacked, x: Tensor | None, y: Tensor | None,
    target: Tensor | int | None, bounds: tuple[float, float] | None, norm: float, eps: float | Tensor | None,
    steps: int, restarts: int,
) -> tuple[AttackObjective, Tensor]:  # fmt: skip
    if steps < 1 or restarts < 1:
        raise ProblemError(f"steps={steps} and restarts={restarts} must be at least 1.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    return objective, radius_of(objective, eps)


def _in_turn(
    objective: AttackObjective, radius: Tensor, rule: Rule, steps: int, step_size: float | Tensor | None, restarts: int,
    separate: bool, seed: int, history: bool, progress: Progress | None,
) -> AttackResult:  # fmt: skip
    size = 2.5 / steps * _euclidean(objective, radius) if step_size is None else steps_of(objective, step_size, radius)
    best_points = BestPoints(objective, record=history, progress=progress, steps=restarts * steps)
    draws = objective.draws(seed)
    for run in range(restarts):
        indices = objective.todo[~best_points.success[objective.todo]]
        ball, z = objective.within(radius[indices], indices), objective.x[indices]
        if run:
            z = z + random_offset(objective, radius[indices], draws.at(run).take(indices))
        _descend_in_turn(best_points, indices, project_into(ball, z), ball, size[indices], steps, rule, separate)
    return best_points.result(radius)


def _descend_in_turn(
    best_points: BestPoints,
    indices: Tensor,
    z: Tensor,
    ball: Region,
    size: Tensor,
    steps: int,
    rule: Rule,
    separate: bool,
) -> None:
    """One run of indices ``(L,)`` from z; those that reach their goal leave it."""
    objective = best_points.objective
    for _ in range(steps):
        if not len(indices):
            return
        slopes = objective.slopes(z, indices, lambda answer, _: answer.conditions(together=not separate))
        best_points.note_gradient(slopes.gradients, indices)
        best_points.update(z, indices, slopes.margin)
        going = slopes.margin >= 0
        indices, z, ball, size = indices[going], z[going], ball.take(going), size[going]
        direction = steepest_direction(rule(slopes.losses[going], slopes.gradients[going]), 2.0)
        z = project_into(ball, z - along(size.to(z), z) * direction)
        best_points.step()
    best_points.update(z, indices, objective.look(z, indices))


def _euclidean(objective: AttackObjective, radius: Tensor) -> Tensor:
    """The largest Euclidean distance within a ball; for p = 0 elements count as one each."""
    return objective.norm.euclidean(radius, max(1, objective.x[0].numel()))
