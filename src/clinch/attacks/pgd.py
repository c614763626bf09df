"""Projected gradient descent on a loss inside a ball, and its one-step preset FGSM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clinch.attacks.goal import Goal, Loss, along
from clinch.attacks.losses import loss_of
from clinch.attacks.result import AttackResult, HasQuery
from clinch.attacks.starts import never_blind, random_offset
from clinch.attacks.state import goal_of, radius_of, steps_of
from clinch.attacks.track import Progress, Track
from clinch.errors import ProblemError
from clinch.geometry.directions import sparse_direction, steepest_direction, with_room
from clinch.geometry.projection import project_into
from clinch.geometry.region import Region
from clinch.network.network import Network
from clinch.query import Query
from clinch.runtime.gradients import with_gradients


@with_gradients
def pgd(
    net: nn.Module | Network | HasQuery | Query | Goal,
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
        net: a classifier; or a problem with constraints on the network, or a :class:`Goal`, then without x and y.
        x: ``(B, *input_shape)``.
        y: ``(B,)`` labels.
        eps: radius, one or ``(B,)``; None: that of the problem's own ball.
        norm: 0, 1, 2 or ``cl.inf``.
        steps: gradient steps of each restart.
        step_size: α, one or ``(B,)``; None: ``2.5·eps/steps``, at least 1 for p = 0.
        restarts: runs of each input; those that are left start at random points of the ball.
        random_start: whether the first run does so too; None: only where there are several.
        normalise: follow the steepest direction; otherwise the plain gradient, which shows why that is needed.
        momentum: β.
        share: of the elements that change in one step, for p = 1 at least one.
        loss: ``"margin"`` or a key of :data:`clinch.attacks.LOSSES`; None: cross-entropy, for a problem the margin.
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
        >>> pgd(net, x, y, eps=0.1, steps=40, step_size=0.01, restarts=10).success.double().mean()
    """
    if steps < 1 or restarts < 1:
        raise ProblemError(f"steps={steps} and restarts={restarts} must be at least 1.")
    if not 0 < share <= 1:
        raise ProblemError(f"share={share} is no share of the elements. Write a number above 0, at most 1.")
    goal = goal_of(net, x, y, target=target, bounds=bounds, norm=norm)
    radius, function = radius_of(goal, eps), loss_of(goal, loss, published=not normalise)
    size = 2.5 * radius / steps if step_size is None else steps_of(goal, step_size, radius)
    size = size.clamp(min=1.0) if step_size is None and goal.p == 0 else size
    track = Track(goal, record=history, progress=progress, steps=restarts * steps)
    draws = goal.draws(seed)
    noisy = restarts > 1 if random_start is None else random_start
    for run in range(restarts):
        rows = goal.todo[~track.success[goal.todo]]
        ball = goal.within(radius[rows], rows)
        start = goal.x[rows]
        if noisy or run:
            start = start + random_offset(goal, radius[rows], draws.at(run).take(rows))
        _descend(track, rows, project_into(ball, start), ball, size[rows], steps, function, normalise, momentum, share)
    return track.result(radius)


def _descend(
    track: Track, rows: Tensor, z: Tensor, ball: Region, size: Tensor, steps: int, loss: Loss | None,
    normalise: bool, momentum: float, share: float,
) -> None:  # fmt: skip
    """One run of rows ``(L,)`` from z; those that reach their goal leave it."""
    goal, average = track.goal, torch.zeros_like(z)
    for k in range(steps):
        if not len(rows):
            return
        slope = goal.slope(z, rows, loss)
        track.note_gradient(slope.gradient, rows)
        track.update(z, rows, slope.margin)
        going = slope.margin >= 0
        gradient = never_blind(slope.gradient, k) if normalise else slope.gradient
        rows, z, average, gradient = rows[going], z[going], average[going], gradient[going]
        ball, size = ball.take(going), size[going]
        if momentum:
            length = gradient.flatten(1).abs().sum(1)
            average = momentum * average + gradient / along(torch.where(length > 0, length, 1.0), gradient)
            gradient = average
        direction = _direction(gradient, z, ball, goal.p, share) if normalise else gradient
        z = project_into(ball, z - along(size.to(z), z) * direction)
        track.step()
    track.update(z, rows, goal.look(z, rows))


def _direction(gradient: Tensor, z: Tensor, ball: Region, p: float, share: float) -> Tensor:
    """Unit length for p = 1, 2 and infinity; for p = 0 the largest change is one."""
    if p > 1:
        return steepest_direction(gradient, p)
    gradient = with_room(gradient, z, ball)
    if p == 1:
        count = max(1.0, share * gradient.shape[1:].numel())
        return sparse_direction(gradient, torch.full_like(gradient.flatten(1)[:, 0], count))
    largest = gradient.abs().flatten(1).amax(1)
    return gradient / along(torch.where(largest > 0, largest, 1.0), gradient)


@with_gradients
def fgsm(
    net: nn.Module | Network | HasQuery | Query | Goal,
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
    """
    return pgd(net, x, y, eps=eps, norm=norm, steps=1, step_size=eps, loss=loss, target=target, bounds=bounds)
