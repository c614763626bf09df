"""GNII, the best perturbation of a given size under a first-order model of any loss, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of, radius_of
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.result import AttackResult
from clinch.attacks.linear_model import first_points, steepest_step
from clinch.geometry.projection import project_into
from clinch.network.network import Network


@attack_method
def gnii(
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
    paper leaves the range out. With the margin L is the one class that is the nearest in f at x; :func:`algorithm1`
    chooses the class.

    Args:
        norm: any p >= 1 or ``cl.inf``.
        loss: L: ``"margin"`` or a key of :data:`clinch.attacks.LOSSES`; None: cross-entropy, for a problem the margin.

    Example:
        >>> gnii(net, x, y, eps=0.5, norm=2).success
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
def algorithm2(
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

    Balda et al. 2018 (arXiv 1803.03607, section IV, algorithm 2). Arguments, result and errors: see :func:`gnii`; a
    problem has no scores.

    Example:
        >>> algorithm2(net, x, y, eps=0.1).success
        tensor([ True,  True, False,  True, False,  True, False, False])
    """
    return gnii(net, x, y, eps=eps, norm=norm, loss="score", target=target, bounds=bounds, outputs=outputs)


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
    where FGSM's is projected. Arguments, result and errors: see :func:`gnii`; a problem has no cross-entropy.

    Example:
        >>> fast_grad(net, x, y, eps=0.1).success
        tensor([ True,  True, False,  True, False,  True, False, False])
    """
    return gnii(net, x, y, eps=eps, norm=norm, loss="cross-entropy", target=target, bounds=bounds)
