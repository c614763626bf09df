"""Descents over the latent inputs of a decoder, every one batched over targets and starts.

Each takes a :class:`~clinch.applications.latent.misfit.Misfit`, the target of each of L runs, where the runs begin, and
a number of steps; it returns the best latents it saw. :data:`DESCENTS` is the table; a method is a function and its
row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.applications.latent.activation import activation_descent
from clinch.applications.latent.lbfgs import lbfgs
from clinch.applications.latent.misfit import Misfit, Residuals

#: misfit, targets ``(L,)``, latents ``(L, n)``, number of steps -> best latents ``(L, n)``
Descent = Callable[[Misfit, Tensor, Tensor, int], Tensor]


class Method(NamedTuple):
    """A row of the table.

    Attributes:
        descend: the descent.
        steps: how many steps it gets unless the caller says otherwise.
    """

    descend: Descent
    steps: int


#: gradient descent: first step, and by what it grows after a step that gains and shrinks after one that does not
FIRST, GROWTH, SHRINKAGE = 1.0, 1.3, 0.5
#: Adam: step size at first (it ends at zero along a cosine), and the averages' decay
STEP, DECAY, SQUARE_DECAY, TINY = 0.2, 0.9, 0.99, 1e-12
#: Levenberg-Marquardt: first damping, the factors by which it falls and rises, and where a lane is given up
DAMPING, EASE, TIGHTEN, HOPELESS = 0.1, 0.2, 4.0, 1e8
#: relative gain below which a lane is done
SETTLED = 1e-7


def gradient_descent(misfit: Misfit, rows: Tensor, z: Tensor, steps: int) -> Tensor:
    """``z ← P(z − α ∇E/‖∇E‖)``, each lane with a step α of its own that grows while it gains and halves where not.

    The plain method of Lee et al. 2024 (ICML, activation-descent regularisation), which takes one constant step size;
    ours never lets a lane rise.

    Args:
        misfit: E, with the limits that P respects.
        rows: ``(L,)`` the target of each lane.
        z: ``(L, n)`` where lanes begin.
        steps: gradients of each lane.

    Returns:
        ``(L, n)`` the best latents.
    """
    value, gradient = misfit.slope(z, rows)
    size = torch.full_like(value, FIRST)
    for _ in range(steps):
        trial = misfit.clip(z - size.unsqueeze(1) * _unit(gradient))
        found, slope = misfit.slope(trial, rows)
        better = found < value
        z, gradient = _where(better, trial, z), _where(better, slope, gradient)
        value = torch.where(better, found, value)
        size = size * torch.where(better, GROWTH, SHRINKAGE)
    return z


def adam(misfit: Misfit, rows: Tensor, z: Tensor, steps: int) -> Tensor:
    """Adam with a step size that falls to zero along a cosine (Kingma and Ba 2015, arXiv 1412.6980).

    Arguments and result: see :func:`gradient_descent`.
    """
    mean, square = torch.zeros_like(z), torch.zeros_like(z)
    best, least = z, torch.full_like(z[:, 0], torch.inf)
    for k in range(steps):
        value, gradient = misfit.slope(z, rows)
        best, least = _where(value < least, z, best), torch.minimum(value, least)
        mean = DECAY * mean + (1 - DECAY) * gradient
        square = SQUARE_DECAY * square + (1 - SQUARE_DECAY) * gradient**2
        scale = (square / (1 - SQUARE_DECAY ** (k + 1))).sqrt() + TINY
        size = STEP * 0.5 * (1 + math.cos(math.pi * k / steps))
        z = misfit.clip(z - size * mean / (1 - DECAY ** (k + 1)) / scale)
    value, _ = misfit.slope(z, rows)
    return _where(value < least, z, best)


def gauss_newton(misfit: Misfit, rows: Tensor, z: Tensor, steps: int) -> Tensor:
    """Levenberg-Marquardt: ``(JᵀJ + μ diag JᵀJ) d = −Jᵀr`` with the Jacobian J of the decoder, in each lane.

    A ReLU decoder is linear on each of its pieces, where a full step is the minimum itself: a few steps go as far as
    hundreds of gradients. A lane's damping μ falls after a step that gains and rises after one that does not; elements
    that press against a limit stay there; lanes that gain nothing more leave. Marquardt 1963; for latents it is ours.

    Each step sends n tangents forward for n latent elements: meant for decoders with up to a few hundred of them.
    Arguments and result: see :func:`gradient_descent`.
    """
    result, lane = z.clone(), torch.arange(len(z), device=z.device)
    here = misfit.residuals(z, rows)
    damping = torch.full_like(here.value, DAMPING)
    for _ in range(steps):
        trial = misfit.clip(z + _damped_step(here, misfit.free(z, here.gradient), damping))
        there = misfit.residuals(trial, rows[lane])
        better = there.value < here.value
        done = better & (here.value - there.value <= SETTLED * here.value)
        z = _where(better, trial, z)
        here = Residuals(*(_where(better, new, old) for new, old in zip(there, here)))
        damping = damping * torch.where(better, EASE, TIGHTEN)
        result[lane] = z
        going = ~done & (damping < HOPELESS)
        if not bool(going.any()):
            break
        if not bool(going.all()):
            lane, z, damping = lane[going], z[going], damping[going]
            here = Residuals(*(t[going] for t in here))
    return result


def _damped_step(here: Residuals, free: Tensor, damping: Tensor) -> Tensor:
    """The step ``(L, n)`` of the free elements."""
    diagonal = here.normal.diagonal(dim1=1, dim2=2)
    # an element that the output does not depend on is damped like the others
    floor = 1e-6 * diagonal.amax(1, keepdim=True) + torch.finfo(diagonal.dtype).tiny
    matrix = here.normal + torch.diag_embed(damping.unsqueeze(1) * torch.maximum(diagonal, floor) + floor)
    both = free.unsqueeze(1) & free.unsqueeze(2)
    matrix = torch.where(both, matrix, torch.diag_embed(torch.ones_like(diagonal)))
    step = torch.linalg.solve_ex(matrix, -(here.gradient * free).unsqueeze(2))[0].squeeze(2)
    return torch.where(step.isfinite(), step, 0.0)


def _where(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(which.reshape(-1, *[1] * (new.dim() - 1)), new, old)


def _unit(gradient: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    return gradient / torch.where(length > 0, length, 1.0)


DESCENTS: dict[str, Method] = {
    "gradient descent": Method(gradient_descent, 300),
    "activation descent": Method(activation_descent, 300),
    "adam": Method(adam, 200),
    "lbfgs": Method(lbfgs, 150),
    "gauss-newton": Method(gauss_newton, 25),
}
