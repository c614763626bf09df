"""``‖δ‖_∞ = max |δ_i|``, the maximum norm: its balls are boxes. The limit q = 1 of
:mod:`clinch.geometry.norms.power`, with steps of one size for all elements.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clinch.geometry.norms.base import (
    Encoded,
    HalfspaceMove,
    Norm,
    above_zero,
    clip,
    corner,
    missed,
    norm_of,
    register,
)
from clinch.geometry.norms.power import PowerNorm
from clinch.geometry.roots import saturating_root


@register
class MaximumNorm(PowerNorm):
    """p = infinity."""

    encoded = Encoded.LINEAR
    certified = True
    is_box = True
    smooth = False

    @classmethod
    def make(cls, p: float) -> Norm | None:
        """See :meth:`Norm.make`."""
        return MaximumNorm() if p == math.inf else None

    def __init__(self) -> None:
        self.p = self.like = math.inf

    @property
    def name(self) -> str:
        """See :attr:`Norm.name`."""
        return "linf"

    @property
    def text(self) -> str:
        """See :attr:`Norm.text`."""
        return "ℓ∞"

    @property
    def written(self) -> str:
        """See :attr:`Norm.written`."""
        return "cl.inf"

    @property
    def dual(self) -> Norm:
        """The sum of sizes."""
        return norm_of(1)

    def rate(self, gradient: Tensor) -> Tensor:
        """``|g|``."""
        return gradient.abs()

    def direction(self, gradient: Tensor) -> Tensor:
        """``sign(g)``."""
        return gradient.sign()

    def scaled(self, gradient: Tensor) -> Tensor:
        """As it is: there are no powers."""
        return gradient

    def of(self, values: Tensor) -> Tensor:
        """See :meth:`Norm.of`."""
        return values.abs().amax(-1) if values.shape[-1] else values.new_zeros(values.shape[:-1])

    def steepest(self, gradient: Tensor) -> Tensor:
        """See :meth:`Norm.steepest`: ``sign(g)``."""
        return gradient.sign()

    def project(
        self, z: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> Tensor:
        """See :meth:`Norm.project`: a smaller box."""
        wide = radius.unsqueeze(1)
        reach = wide if weights is None else self.reach(z, wide, weights)
        return clip(clip(z, -reach, reach), lower, upper)

    def proximal(self, delta: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`Norm.proximal`: a clip at the ``t >= 0`` with ``Σ (|δ_i| − t)₊ = weight``, zero where the sum is
        smaller; by sorting (Duchi et al. 2008)."""
        order = delta.abs().sort(1, descending=True).values
        count = torch.arange(1, delta.shape[1] + 1, device=delta.device)
        level = ((order.cumsum(1) - weight.unsqueeze(1)) / count).amax(1, keepdim=True).clamp(min=0)
        return clip(delta, -level, level)

    def linear_minimum(
        self, rows: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.linear_minimum`: over a smaller box."""
        nearest = self.length(base, weights)
        wide = torch.maximum(radius, nearest).unsqueeze(-1)
        reach = wide if weights is None else torch.where(weights > 0, wide / weights, torch.inf)
        a, b = torch.maximum(lower, -reach), torch.minimum(upper, reach)
        return corner(rows, a, b, base), torch.zeros_like(radius), missed(nearest, radius)

    def halfspace(self, move: HalfspaceMove, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.halfspace`: every element may use the whole distance T, so that the gain is concave in T from
        the box's own on. A Newton step from the left is the dual's value at the multiplier ``1/slope``, hence itself a
        lower bound."""
        weights = move.positive_weights
        counted = move.base if move.weights is None else torch.where(move.weights == 0, 0.0, move.base * move.weights)
        start = counted.abs().amax(-1)
        rate = torch.where(move.movable, move.rows.abs() / weights, 0.0)
        high = torch.where(move.movable, move.rows.abs() * move.full.abs(), 0.0)
        low = torch.where(move.movable, move.rows.abs() * move.base.abs(), 0.0)
        length, slope = saturating_root(rate, None, high, target + low.sum(-1), start)
        delta = clip(-move.rows.sign() * (length.unsqueeze(-1) / weights), *move.ends)
        delta = torch.where(move.movable, delta, move.base)
        return length, delta, torch.where(slope > 0, 1 / above_zero(slope), 0.0)

    def _settled(
        self, delta: Tensor, step: Tensor, slope: Tensor, size: Tensor, missing: Tensor
    ) -> tuple[Tensor, Tensor]:
        return step, torch.where(slope > 0, 1 / torch.where(slope > 0, slope * size, 1.0), 0.0)

    def max_descent_step(self, gradient: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """See :meth:`Norm.max_descent_step`."""
        return torch.clamp(gradient.sign() * -radius.unsqueeze(1), lower, upper)

    def reach(self, away: Tensor, radius: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`Norm.reach`."""
        return torch.where(weights > 0, radius / above_zero(weights), torch.inf)
