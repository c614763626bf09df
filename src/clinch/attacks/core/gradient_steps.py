"""Several losses that must all become negative: which of their gradients to follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

from clinch.attacks.core.losses import candidate_conditions, candidate_loss
from clinch.attacks.core.objective import AttackObjective, Slope

#: from losses ``(L, M)`` and gradients ``(L, M, *shape)`` to what is descended, ``(L, *shape)``
Rule = Callable[[Tensor, Tensor], Tensor]

#: what must be left of a gradient, relative to its length, once it is made orthogonal to others
LEFT = 1e-3


def together(losses: Tensor, gradients: Tensor) -> Tensor:
    """The unit gradients of the losses that are not yet negative, added; that of the largest where all are.

    Args:
        losses: ``(L, M)``.
        gradients: ``(L, M, *shape)``.

    Returns:
        Shape ``(L, *shape)``.
    """
    flat = _unit(gradients.flatten(2))
    active = (losses >= 0) | (losses >= losses.amax(1, keepdim=True))
    return (flat * active.unsqueeze(2)).sum(1).reshape(gradients[:, 0].shape)


def selective(losses: Tensor, gradients: Tensor) -> Tensor:
    """The gradient of the first loss that is not yet negative (Bryniarski et al. 2021, arXiv 2106.15023, section 4.1).

    Arguments and result: see :func:`together`.
    """
    run = torch.arange(len(losses), device=losses.device)
    return gradients[run, _first(losses)]


def orthogonal(losses: Tensor, gradients: Tensor) -> Tensor:
    """The same, without its part in the span of all other gradients: ``∇f − proj_∇g ∇f`` where there are two losses.

    So a step changes, to first order, no other loss (Bryniarski et al. 2021, arXiv 2106.15023, section 4.2; more than
    two losses are ours). Where nothing is left, because the gradients are parallel, the gradient itself is followed.

    Arguments and result: see :func:`together`.
    """
    run, first = torch.arange(len(losses), device=losses.device), _first(losses)
    flat = _unit(gradients.flatten(2))
    own = flat[run, first].unsqueeze(1)
    rest = flat.clone()
    rest[run, first] = 0.0
    # the smallest coefficients c with rest·restᵀ c = rest·own, whatever gradients are zero or parallel
    gram = (rest @ rest.mT).double()
    share = torch.linalg.pinv(gram, rtol=1e-6, hermitian=True) @ (rest @ own.mT).double()
    left = own - share.to(rest).mT @ rest
    enough = torch.linalg.vector_norm(left, dim=2, keepdim=True) > LEFT
    return torch.where(enough, left, own).squeeze(1).reshape(gradients[:, 0].shape)


RULES: dict[str, Rule] = {"together": together, "selective": selective, "orthogonal": orthogonal}


def toward(objective: AttackObjective, z: Tensor, indices: Tensor, candidate: Tensor) -> Slope:
    """What leads runs to their candidates: the candidate's value and gradient, and where candidates share conditions
    the largest of both and :func:`together` of their gradients.

    Args:
        objective: what is attacked.
        z: ``(L, *input_shape)``.
        indices: ``(L,)`` their inputs.
        candidate: ``(L,)`` wanted candidates, or ANY.
    """
    if not objective.query.surrogates:
        return objective.slope(z, indices, candidate_loss(candidate))
    slopes = objective.slopes(z, indices, candidate_conditions(candidate))
    gradient = together(slopes.losses, slopes.gradients)
    return Slope(slopes.losses.amax(1), slopes.margin, gradient, ~gradient.flatten(1).any(1))


def _first(losses: Tensor) -> Tensor:
    """The first loss that is not negative; the largest where all are."""
    unmet = losses >= 0
    return torch.where(unmet.any(1), unmet.to(torch.uint8).argmax(1), losses.argmax(1))


def _unit(gradients: Tensor) -> Tensor:
    """Rows ``(L, M, n)`` of unit length; zero stays zero. Squares of tiny gradients would underflow."""
    size = gradients.abs().amax(2, keepdim=True)
    scaled = gradients / torch.where(size > 0, size, 1.0)
    length = torch.linalg.vector_norm(scaled, dim=2, keepdim=True)
    return scaled / torch.where(length > 0, length, 1.0)


#: a step size, or one for each run
Size = TypeVar("Size", bound=float | Tensor)


def cosine(start: Size, end: float, step: int, steps: int) -> Size:
    """From ``start`` at step 0 to ``end`` at the last step, along half a cosine."""
    share = step / max(1, steps - 1)
    return cast(Size, end + (start - end) * 0.5 * (1 + math.cos(math.pi * share)))


#: decay of the two averages, and what keeps the denominator away from zero
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8


class Moments:
    """Bias-corrected averages of gradients and of their squares (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1)."""

    def __init__(self, like: Tensor) -> None:
        self._mean, self._square, self._steps = torch.zeros_like(like), torch.zeros_like(like), 0

    def keep(self, which: Tensor) -> None:
        """Go on with the chosen rows alone."""
        self._mean, self._square = self._mean[which], self._square[which]

    def add(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Take a gradient in; returns the average m̂ and the scale ``√v̂ + 1e-8``, Adam's step being their ratio."""
        self._steps += 1
        self._mean = FIRST * self._mean + (1 - FIRST) * gradient
        self._square = SECOND * self._square + (1 - SECOND) * gradient.square()
        scale = (self._square / (1 - SECOND**self._steps)).sqrt() + TINY
        return self._mean / (1 - FIRST**self._steps), scale
