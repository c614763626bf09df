"""Document 3's measures of robustness: fooling ratio, ρ̂₁, ρ̂₂ and ε₉₉ (Balda et al. 2018, arXiv 1803.03607).

All of them are about the inputs that are classified correctly as they are; the others are left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clinch.attacks.result import ALREADY, AttackResult
from clinch.errors import ProblemError, ShapeError
from clinch.geometry.norms import norm as norm_of


def fooling_ratio(found: AttackResult, eps: Tensor | float | None = None) -> Tensor:
    """The share of correctly classified inputs that become misclassified, at distances up to eps.

    Moosavi-Dezfooli et al. 2016 (arXiv 1511.04599), as Balda et al. 2018 (arXiv 1803.03607, section IV) use it.

    Args:
        found: what an attack found.
        eps: radii of any shape: the curve of a method that looks for the nearest point; None: all points that were
            found, for a method that was given its radius.

    Returns:
        eps's shape, a scalar without; float64.

    Raises:
        ProblemError: no input is classified correctly.

    Example:
        >>> fooling_ratio(fast_grad(net, x, y, eps=0.1))
        >>> fooling_ratio(deepfool(net, x, y, norm=cl.inf), torch.linspace(0, 0.2, 11))
    """
    distance = _distances(found)
    limits = torch.as_tensor(torch.finfo(torch.float64).max if eps is None else eps, dtype=torch.float64)
    return (distance <= limits.to(distance.device).unsqueeze(-1)).double().mean(-1)


def rho1(found: AttackResult, x: Tensor, norm: float = torch.inf) -> float:
    """``ρ̂₁ = mean ‖r̂(x)‖_p/‖x‖_p`` with the smallest perturbations that DeepFool finds.

    Moosavi-Dezfooli et al. 2016 (arXiv 1511.04599, equation 3), as in Balda et al. 2018 (arXiv 1803.03607, section II).

    Args:
        found: of an attack that looks for the nearest point, in this norm.
        x: ``(B, *input_shape)`` its inputs.
        norm: any p >= 1 or ``cl.inf``.

    Returns:
        The mean over the inputs that were fooled, as in the authors' program: read it together with
        :func:`fooling_ratio`. Infinity where none was.

    Raises:
        ProblemError: no input is classified correctly.
        ShapeError: another number of inputs.
    """
    if len(x) != len(found.distance):
        raise ShapeError(f"x has {len(x)} inputs; the attack had {len(found.distance)}.")
    size = norm_of(x.to(found.distance.device).double(), norm)[_correct(found)]
    distance = _distances(found)
    fooled = distance.isfinite()
    return float((distance[fooled] / size[fooled]).mean()) if bool(fooled.any()) else math.inf


def rho2(radius: Tensor) -> float:
    """``ρ̂₂ = mean L(x)/‖∇L(x)‖_q``, the mean first-order radius (Balda et al. 2018, arXiv 1803.03607, section II).

    Args:
        radius: ``(B,)`` of :func:`clinch.attacks.first_order_radius`; zeros, the inputs that are misclassified as they
            are, are left out.

    Raises:
        ProblemError: no input is classified correctly.
    """
    positive = radius.double()[radius > 0]
    if not len(positive):
        raise ProblemError("No input is classified correctly, so there is nothing to measure. Check the labels.")
    return float(positive.mean())


def eps_99(found: AttackResult, share: float = 0.99) -> float:
    """The smallest ε at which more than 99% of the correctly classified inputs are fooled, with DeepFool's distances.

    Table I of Balda et al. 2018 (arXiv 1803.03607).

    Args:
        found: of an attack that looks for the nearest point.
        share: another share than 0.99, at least 0 and below 1.

    Returns:
        Infinity where the attack fools no more than that share.

    Raises:
        ProblemError: no input is classified correctly, or a share that is none.
    """
    if not 0 <= share < 1:
        raise ProblemError(f"share={share} must be at least 0 and below 1.")
    distance = _distances(found).sort().values
    # more than the share: one input beyond the whole number below it
    return float(distance[math.floor(share * len(distance) * (1 + 1e-12))])


def _correct(found: AttackResult) -> Tensor:
    return torch.tensor([r != ALREADY for r in found.reason], device=found.distance.device)


def _distances(found: AttackResult) -> Tensor:
    """``(C,)`` of the correctly classified inputs, infinity where nothing was found."""
    correct = _correct(found)
    if not bool(correct.any()):
        raise ProblemError("No input is classified correctly, so there is nothing to measure. Check the labels.")
    return found.distance[correct].double()
