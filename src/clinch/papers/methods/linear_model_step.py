"""GNII, the best perturbation of a given size under a first-order model of any loss, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of, radius_of
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.result import AttackResult
from clinch.attacks.linear_model import first_points, steepest_step
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into
from clinch.network.network import Network


@attack_method
def linear_model_step(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    loss: str | None = "margin",
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    outputs: str = "logits",
) -> AttackResult:
    """One step: ``η = argmin L(x) + <∇L(x), η>  subject to  ‖η‖_p <= ε,  x + η in the range``.

    Without limits of the range ``η = −ε·sign(g)·|g|^(q−1)/‖g‖_q^(q−1)`` with ``g = ∇L(x)`` and ``q = p/(p−1)`` (Balda
    et al. 2018, arXiv 1803.03607, GNII and proposition 2); with them the exact minimum over both together, where the
    paper leaves the range out. With the margin L is the one class that is the nearest in f at x;
    :func:`linear_model_descent` chooses the class.

    Args:
        norm: any p >= 1 or ``cl.inf``.
        loss: L: ``"margin"`` or a key of :data:`clinch.attacks.LOSSES`; None: cross-entropy, for a problem the margin.

    Example:
        >>> linear_model_step(net, x, y, eps=0.5, norm=2).success
        tensor([ True,  True, False,  True, False,  True, False, False])
    """
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm, outputs=outputs, any_p=True)
    radius, function = radius_of(objective, eps), loss_of(objective.query, loss)
    best_points = BestPoints(objective)
    if len(indices := objective.todo):
        z = first_points(objective, indices)
        slope = objective.slope(z, indices, function)
        best_points.note_gradient(slope.gradient, indices)
        step = steepest_step(
            objective, z, indices, slope.loss.unsqueeze(1), slope.gradient.unsqueeze(1), radius[indices]
        )
        z = project_into(objective.within(radius[indices], indices), z + step)
        best_points.update(z, indices, objective.look(z, indices))
    return best_points.result(radius)


@attack_method
def linear_model_score(
    net: nn.Module | Network,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    outputs: str = "logits",
) -> AttackResult:
    """GNII with the label's own score, ``L = f_y`` (with a target ``−f_t``): one gradient however many the classes.

    Balda et al. 2018 (arXiv 1803.03607, section IV, algorithm 2). Arguments, result and errors: see
    :func:`linear_model_step`; a problem has no scores.

    Example:
        >>> linear_model_score(net, x, y, eps=0.1).success
        tensor([ True,  True, False,  True, False,  True, False, False])
    """
    return linear_model_step(net, x, y, eps=eps, norm=norm, loss="score", target=target, bounds=bounds, outputs=outputs)


@attack_method
def fast_grad(
    net: nn.Module | Network,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> AttackResult:
    """GNII with the training loss, ``L = −CE`` (with a target CE of that class): FastGrad.

    Goodfellow et al. 2015 (arXiv 1412.6572) for p = inf, in the form of Balda et al. 2018 (arXiv 1803.03607, section
    IV). For p = inf the same points as :func:`clinch.attacks.fgsm`; elsewhere the step fills ball ∩ range exactly,
    where FGSM's is projected. Arguments, result and errors: see :func:`linear_model_step`; a problem has no
    cross-entropy.

    Example:
        >>> fast_grad(net, x, y, eps=0.1).success
        tensor([ True,  True, False,  True, False,  True, False, False])
    """
    return linear_model_step(net, x, y, eps=eps, norm=norm, loss="cross-entropy", target=target, bounds=bounds)


@attack_method
def linear_model_descent(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    steps: int = 1,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    outputs: str = "logits",
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """The class that falls the lowest within the step is attacked: ``min_k f_y − f_k − (ε/n)·‖∇f_y − ∇f_k‖_q``.

    n steps of length ε/n, each the exact minimum of that linear model over its ball and the range, re-linearised at the
    point reached; the sum never leaves the ball (Balda et al. 2018, arXiv 1803.03607, section IV, algorithms 1 and
    1-n). Where we differ: any p >= 1; the range is met within the model instead of being left out; an input stops at
    the first step that reaches its goal.

    Args:
        norm: any p >= 1 or ``cl.inf``.
        steps: n.
        bounds: the range of inputs; None: no limits, as in the paper.

    Example:
        >>> linear_model_descent(net, x, y, eps=0.1, steps=5).success
        tensor([ True,  True, False,  True, False,  True, False, False])
    """
    if steps < 1:
        raise ProblemError(f"steps={steps} must be at least 1.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm, outputs=outputs, any_p=True)
    radius = radius_of(objective, eps)
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    indices = objective.todo
    z, ball = first_points(objective, indices), objective.within(radius[indices], indices)
    for _ in range(steps):
        if not len(indices):
            break
        candidates, gradients = objective.jacobian(z, indices)
        best_points.note_gradient(gradients.flatten(1, 2), indices)
        margin = candidates.amin(1)
        best_points.update(z, indices, margin)
        going = margin >= 0
        indices, z, ball = indices[going], z[going], ball.take(going)
        step = steepest_step(objective, z, indices, candidates[going], gradients[going], radius[indices] / steps)
        z = project_into(ball, z + step)
        best_points.step()
    if len(indices):
        best_points.update(z, indices, objective.look(z, indices))
    return best_points.result(radius)
