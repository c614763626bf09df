"""L-BFGS on many lanes at once: each has its own curvature pairs and its own line search, all ask together.

Liu and Nocedal 1989 for the directions; the weak Wolfe bisection of Lewis and Overton 2013 for the steps, because it
ends on functions with kinks, such as ReLU networks. The search is one state machine per lane that moves by one trial
per round, so that a round is one pass forward and one backward for every lane, whatever stage each has reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.applications.latent.misfit import Misfit

#: curvature pairs of each lane
MEMORY = 10
#: share of the linear fall that a step must gain, and of the slope that it must leave behind
GAIN, FLATTEN = 1e-4, 0.9
#: trials of one search before its lane starts anew along the gradient
TRIALS = 12
#: smallest curvature of a pair, relative to its lengths
CURVATURE = 1e-10


@dataclass
class Lanes:
    """The state of L searches.

    Attributes:
        z, value, gradient, direction: ``(L, n)`` (value ``(L,)``) the point, E there, and where the search goes.
        low, high, size, trials: ``(L,)`` bracket and length of the next trial, and the trials so far.
        steps, changes: ``(L, MEMORY, n)`` curvature pairs s and y, the newest last; zero where there is none.
        best, least: the best point seen ``(L, n)`` and E there ``(L,)``.
    """

    z: Tensor
    value: Tensor
    gradient: Tensor
    direction: Tensor
    low: Tensor
    high: Tensor
    size: Tensor
    trials: Tensor
    steps: Tensor
    changes: Tensor
    best: Tensor
    least: Tensor

    def put(self, which: Tensor, **new: Tensor) -> None:
        """Replace the named fields in the lanes ``which (L,)``."""
        for name, value in new.items():
            old = getattr(self, name)
            setattr(self, name, torch.where(which.reshape(-1, *[1] * (old.dim() - 1)), value, old))


def lbfgs(misfit: Misfit, rows: Tensor, z: Tensor, steps: int) -> Tensor:
    """``z ← P(z − t H ∇E)`` with the inverse Hessian H of the last ten curvature pairs and t from a weak Wolfe search.

    Limits: elements that press against theirs take no part in the direction, and trials are clipped (projected
    quasi-Newton; Bertsekas 1982).

    Args:
        misfit: E, with the limits that P respects.
        rows: ``(L,)`` the target of each lane.
        z: ``(L, n)`` where lanes begin.
        steps: gradients of each lane, one per trial.

    Returns:
        ``(L, n)`` the best latents.
    """
    value, gradient = misfit.slope(z, rows)
    zero = torch.zeros_like(value)
    pairs = z.new_zeros(len(z), MEMORY, z.shape[1])
    lanes = Lanes(
        z, value, gradient, _along_gradient(misfit, z, gradient), zero, zero + torch.inf, zero + 1, zero,
        pairs, pairs, z, value,
    )  # fmt: skip
    for _ in range(steps):
        trial = misfit.clip(lanes.z + lanes.size.unsqueeze(1) * lanes.direction)
        _advance(misfit, lanes, trial, *misfit.slope(trial, rows))
    return lanes.best


def _advance(misfit: Misfit, lanes: Lanes, trial: Tensor, value: Tensor, gradient: Tensor) -> None:
    """One round: every lane narrows its bracket, takes its step, or starts anew."""
    lanes.put(value < lanes.least, best=trial, least=value)
    moved = trial - lanes.z
    enough = value <= lanes.value + GAIN * (lanes.gradient * moved).sum(1)
    # along what the limits let through
    flat = (gradient * moved).sum(1) >= FLATTEN * (lanes.gradient * moved).sum(1)
    lanes.put(~enough, high=lanes.size)
    lanes.put(enough & ~flat, low=lanes.size)
    wider = torch.where(lanes.high.isfinite(), (lanes.low + lanes.high) / 2, 2 * lanes.size)
    taken = enough & flat
    spent = lanes.trials + 1 >= TRIALS
    # a search that ends without the second condition takes what it has gained
    taken = taken | (spent & enough)
    lanes.put(~taken, size=wider, trials=lanes.trials + 1)
    _take(misfit, lanes, taken, trial, value, gradient, moved)
    lost = spent & ~taken
    if bool(lost.any()):
        # as at the very start, from the best point: whatever curvature says, this is a way down
        _restart(misfit, lanes, lost)


def _take(
    misfit: Misfit, lanes: Lanes, taken: Tensor, trial: Tensor, value: Tensor, gradient: Tensor, moved: Tensor
) -> None:
    change = gradient - lanes.gradient
    curved = (moved * change).sum(1)
    sure = taken & (curved > CURVATURE * moved.norm(dim=1) * change.norm(dim=1)) & (curved > 0)
    lanes.put(
        sure,
        steps=torch.cat([lanes.steps[:, 1:], moved.unsqueeze(1)], 1),
        changes=torch.cat([lanes.changes[:, 1:], change.unsqueeze(1)], 1),
    )
    lanes.put(taken, z=trial, value=value, gradient=gradient)
    free = misfit.free(lanes.z, lanes.gradient)
    direction = _two_loops(lanes, lanes.gradient * free) * free
    downhill = (direction * lanes.gradient).sum(1) < 0
    direction = torch.where(downhill.unsqueeze(1), direction, _along_gradient(misfit, lanes.z, lanes.gradient))
    one = torch.ones_like(lanes.size)
    lanes.put(taken, direction=direction, low=0 * one, high=torch.inf * one, size=one, trials=0 * one)


def _restart(misfit: Misfit, lanes: Lanes, lost: Tensor) -> None:
    one = torch.ones_like(lanes.size)
    shorter = lanes.size * lanes.direction.norm(dim=1)
    lanes.put(
        lost, steps=0 * lanes.steps, changes=0 * lanes.changes,
        direction=_along_gradient(misfit, lanes.z, lanes.gradient), low=0 * one, high=torch.inf * one,
        size=shorter, trials=0 * one,
    )  # fmt: skip


def _two_loops(lanes: Lanes, gradient: Tensor) -> Tensor:
    """``−H g`` by the two-loop recursion; pairs that are zero do nothing."""
    products = (lanes.steps * lanes.changes).sum(2)
    inverse = torch.where(products > 0, 1 / torch.where(products > 0, products, 1.0), 0.0)
    q, shares = gradient, []
    for i in reversed(range(MEMORY)):
        share = inverse[:, i] * (lanes.steps[:, i] * q).sum(1)
        q = q - share.unsqueeze(1) * lanes.changes[:, i]
        shares.append(share)
    newest = (lanes.changes[:, -1] ** 2).sum(1)
    scale = torch.where(newest > 0, products[:, -1] / torch.where(newest > 0, newest, 1.0), 1.0)
    q = scale.unsqueeze(1) * q
    for i, share in zip(range(MEMORY), reversed(shares)):
        back = inverse[:, i] * (lanes.changes[:, i] * q).sum(1)
        q = q + (share - back).unsqueeze(1) * lanes.steps[:, i]
    return -q


def _along_gradient(misfit: Misfit, z: Tensor, gradient: Tensor) -> Tensor:
    """Against the free part of the gradient, of length one: latents have the unit of a standard normal variable."""
    free = gradient * misfit.free(z, gradient)
    length = free.norm(dim=1, keepdim=True)
    return -free / torch.where(length > 0, length, 1.0)
