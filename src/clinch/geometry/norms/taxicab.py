"""``‖δ‖_1 = Σ |δ_i|``: what is best is a fractional knapsack, the steepest elements first."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.geometry.knapsack import fill, fill_with
from clinch.geometry.norms.base import (
    Encoded,
    HalfspaceMove,
    Norm,
    above_zero,
    clip,
    corner,
    ends_of,
    missed,
    most_of,
    norm_of,
    reach_of_sum,
    register,
)
from clinch.geometry.roots import decreasing_root


@register
class TaxicabNorm(Norm):
    """p = 1."""

    p = like = 1.0
    encoded = Encoded.LINEAR
    certified = True
    sparse = True

    @classmethod
    def make(cls, p: float) -> Norm | None:
        """See :meth:`Norm.make`."""
        return TaxicabNorm() if p == 1 else None

    def of(self, values: Tensor) -> Tensor:
        """See :meth:`Norm.of`."""
        return values.abs().sum(-1)

    @property
    def dual(self) -> Norm:
        """The largest size."""
        return norm_of(torch.inf)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See :meth:`Norm.steepest`: ``sign(g_i)·e_i`` at ``i = argmax |g_i|``."""
        return largest_alone(gradient)

    def project(
        self, z: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> Tensor:
        """See :meth:`Norm.project`: ``Σ w·|clip(sign(z)·(|z| − μ·w)₊, box)| = radius``, piecewise linear in μ."""
        w = torch.ones_like(z) if weights is None else weights.expand_as(z)

        def soft(multiplier: Tensor) -> tuple[Tensor, Tensor]:
            inner = z.sign() * (z.abs() - multiplier.unsqueeze(1) * w).clamp(min=0)
            return clip(inner, lower, upper), inner

        def length(multiplier: Tensor) -> tuple[Tensor, Tensor]:
            delta, inner = soft(multiplier)
            return (w * delta.abs()).sum(1), -(w.square() * ((delta == inner) & (inner != 0))).sum(1)

        return soft(decreasing_root(length, radius))[0]

    def proximal(self, delta: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`Norm.proximal`."""
        return delta.sign() * (delta.abs() - weight.unsqueeze(1)).clamp(min=0)

    def linear_minimum(
        self, rows: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.linear_minimum`: what is left of the radius after reaching the box is spent on the steepest
        elements."""
        full = corner(rows, lower, upper, base)
        room = (full - base).abs()
        if weights is None:
            nearest = base.abs().sum(-1)
            moved = fill(rows.abs(), room, (radius - nearest).clamp(min=0))
        else:
            free = weights == 0
            scale = torch.where(free, 1.0, weights)
            nearest = (base.abs() * weights).sum(-1)
            density = torch.where(free, 0.0, rows.abs() / scale)
            spent = fill(density, torch.where(free, 0.0, room * scale), (radius - nearest).clamp(min=0))
            moved = torch.where(free, room, torch.minimum(spent / scale, room))
        delta = torch.where(moved >= room, full, base - rows.sign() * moved)
        return delta, torch.zeros_like(radius), missed(nearest, radius)

    def halfspace(self, move: HalfspaceMove, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.halfspace`: the elements with the largest ``|row|/w`` move first; the last, moved in part,
        gives the multiplier."""
        weights = move.positive_weights
        density = torch.where(move.movable, move.rows.abs() / weights, 0.0)
        amount = fill(density, move.gain, target.clamp(min=0))
        last = torch.where(amount > 0, density, torch.inf).amin(-1)
        last = torch.where(torch.isinf(last), density.amax(-1), last)
        multiplier = torch.where(last > 0, 1 / above_zero(last), 0.0)
        steeper = density > last.unsqueeze(-1)
        room = torch.where(steeper, (move.full - move.base).abs(), 0.0)
        saving = ((weights - multiplier.unsqueeze(-1) * move.rows.abs()) * room).sum(-1)
        return self.length(move.base, move.weights) + multiplier * target + saving, move.after(amount), multiplier

    def min_norm_step(self, gradient: Tensor, need: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """See :meth:`Norm.min_norm_step`."""
        gain = most_of(gradient, lower, upper)
        return fill_with(_lowered, gain.sign() * gradient.abs(), gain, need, gradient, lower, upper)

    def max_descent_step(self, gradient: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """See :meth:`Norm.max_descent_step`."""
        room = ends_of(gradient, lower, upper)
        return fill_with(_spent, room.sign() * gradient.abs(), room, radius, gradient)

    def reach(self, away: Tensor, radius: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`Norm.reach`."""
        return reach_of_sum(away, radius, weights, 1.0)


def largest_alone(gradient: Tensor) -> Tensor:
    """The sign of the element of largest size, zero elsewhere."""
    where = gradient.abs().argmax(1, keepdim=True)
    return torch.zeros_like(gradient).scatter(1, where, gradient.gather(1, where).sign())


def _lowered(gained: Tensor, gain: Tensor, gradient: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The part of the way to their ends that elements go."""
    share = gained / gain.clamp(min=torch.finfo(gain.dtype).tiny)
    return share * torch.where(gradient > 0, lower, upper)


def _spent(spent: Tensor, room: Tensor, gradient: Tensor) -> Tensor:
    return -spent * gradient.sign()
