"""``‖δ‖_2``, the Euclidean norm: the powers of :mod:`clinch.geometry.norms.power` are squares and roots."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.geometry.norms.base import Encoded, Norm, clip, ends_of, register
from clinch.geometry.norms.power import PowerNorm
from clinch.geometry.roots import decreasing_root, saturating_root


@register
class EuclideanNorm(PowerNorm):
    """p = 2."""

    encoded = Encoded.QUADRATIC
    certified = True

    @classmethod
    def make(cls, p: float) -> Norm | None:
        """See :meth:`Norm.make`."""
        return EuclideanNorm() if p == 2 else None

    def __init__(self) -> None:
        self.p = self.like = 2.0

    @property
    def dual(self) -> Norm:
        """Itself."""
        return self

    def powered(self, size: Tensor) -> Tensor:
        """``s²``."""
        return size.square()

    def rooted(self, size: Tensor) -> Tensor:
        """``√s``."""
        return size.sqrt()

    def rate(self, gradient: Tensor) -> Tensor:
        """``g²``."""
        return gradient.square()

    def direction(self, gradient: Tensor) -> Tensor:
        """``g``."""
        return gradient

    def scaled(self, gradient: Tensor) -> Tensor:
        """As it is: squares stay in range."""
        return gradient

    def of(self, values: Tensor) -> Tensor:
        """See :meth:`Norm.of`."""
        return torch.linalg.vector_norm(values, dim=-1)

    def dual_slope(self, multiplier: Tensor, distance: Tensor) -> Tensor:
        """See :meth:`Norm.dual_slope`: the multiplier is that of half the square."""
        return multiplier / torch.where(distance > 0, distance, torch.inf)

    def _proven(self, spent: Tensor, step: Tensor, size: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """``√(2·dual(t))`` of half the square, whose multiplier is t."""
        multiplier = step / size
        return (spent.square().sum(-1) + 2 * multiplier * missing).clamp(min=0).sqrt(), multiplier

    def linear_minimum(
        self, rows: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.linear_minimum`."""
        return self._in_ball(rows, lower, upper, base, radius, weights)

    def max_descent_step(self, gradient: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """See :meth:`Norm.max_descent_step`."""
        return torch.clamp(self._descent(gradient, ends_of(gradient, lower, upper), radius), lower, upper)

    def proximal(self, delta: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`Norm.proximal`."""
        length = torch.linalg.vector_norm(delta, dim=1, keepdim=True)
        return delta * (1 - weight.unsqueeze(1) / length.clamp(min=1e-12)).clamp(min=0)

    def project(
        self, z: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> Tensor:
        """See :meth:`Norm.project`: ``‖w ⊙ clip(z/(1 + μ·w²), box)‖² = radius²``, for weights 0 and 1 piecewise linear
        in ``1/(1 + μ)²``."""
        if weights is None:
            return _unweighted(z, lower, upper, base, radius, torch.ones_like(z))
        plain = ((weights == 0) | (weights == 1)).all(1)
        if bool(plain.all()):
            return _unweighted(z, lower, upper, base, radius, weights)
        found = torch.empty_like(z)
        found[plain] = _unweighted(*(t[plain] for t in (z, lower, upper, base, radius, weights)))
        found[~plain] = _weighted(*(t[~plain] for t in (z, lower, upper, radius, weights)))
        return found


def _unweighted(z: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, counted: Tensor) -> Tensor:
    """Weights 0 and 1."""
    end = clip(z, a, b)
    low, high = base.square() * counted, end.square() * counted
    rate = torch.where((end != base) & (counted > 0), z.square(), 0.0)
    if not bool((base != 0).any()):
        share = saturating_root(rate, None, high, radius.square())[0]
    else:
        share = saturating_root(rate, torch.minimum(low, high), torch.maximum(low, high), radius.square())[0]
    share = share.clamp(max=1).sqrt().unsqueeze(1)
    return torch.where(counted > 0, clip(share * z, a, b), end)


def _weighted(z: Tensor, a: Tensor, b: Tensor, radius: Tensor, weights: Tensor) -> Tensor:
    """Any weights."""
    square = weights.square()

    def length(multiplier: Tensor) -> tuple[Tensor, Tensor]:
        inner = z / (1 + multiplier.unsqueeze(1) * square)
        delta = clip(inner, a, b)
        slope = -2 * square.square() * delta.square() / (1 + multiplier.unsqueeze(1) * square) * (delta == inner)
        return (square * delta.square()).sum(1), slope.sum(1)

    multiplier = decreasing_root(length, radius.square())
    return clip(z / (1 + multiplier.unsqueeze(1) * square), a, b)
