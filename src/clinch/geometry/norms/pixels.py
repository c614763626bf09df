"""``‖δ‖_0`` of pixels: an image's pixel counts once, however many of its channels change.

Whole pixels are bought: what an element of :class:`CountingNorm` gains, a pixel gains over its channels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.geometry.knapsack import fill
from clinch.geometry.norms.base import HalfspaceMove, Norm, clip, corner, most_of
from clinch.geometry.norms.counting import CountingNorm


class PixelCount(float):
    """The number 0, as p of :class:`PixelCountingNorm`: equal to 0, with a norm of its own.

    Attributes:
        norm: that one.
    """

    norm: Norm

    def __new__(cls, norm: Norm) -> PixelCount:
        """The p of a norm."""
        found = super().__new__(cls, 0.0)
        found.norm = norm
        return found


class PixelCountingNorm(CountingNorm):
    """p = 0 over the pixels of images whose elements are ordered channel by channel.

    Args:
        channels: elements ``c·m + i``, c = 0 … channels − 1, are those of pixel i of m.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.p = PixelCount(self)

    def of(self, values: Tensor) -> Tensor:
        """See :meth:`Norm.of`."""
        return self._pixels(values != 0).any(-2).to(values.dtype).sum(-1)

    def value(self, delta: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Norm.value`."""
        self._unweighted(weights)
        return self.of(delta.flatten(1))

    def length(self, delta: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Norm.length`."""
        self._unweighted(weights)
        return self.of(delta)

    def proximal(self, delta: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`Norm.proximal`: a pixel stays where it saves more than it costs."""
        stays = self._pixels(delta.square()).sum(-2) > 2 * weight.unsqueeze(1)
        return torch.where(self._spread(stays), delta, 0.0)

    def project(
        self, z: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> Tensor:
        """See :meth:`Norm.project`."""
        self._unweighted(weights)
        target = clip(z, lower, upper)
        gain = (z.square() - (z - target).square()).clamp(min=0)
        bought = self._bought(gain, base != 0, radius)
        return torch.where(bought, target, torch.zeros_like(z))

    def linear_minimum(
        self, rows: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.linear_minimum`."""
        self._unweighted(weights)
        full = corner(rows, lower, upper, base)
        gain = torch.where(rows == 0, 0.0, -rows * full)
        forced = base != 0
        delta = torch.where(self._bought(gain, forced.expand_as(gain), radius), full, base.expand_as(full))
        return delta, torch.zeros_like(radius), self.of(base) > radius

    def halfspace(self, move: HalfspaceMove, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.halfspace`: the pixels of the largest gains first, the last one in part."""
        self._unweighted(move.weights)
        taken = torch.where(move.movable, move.gain, 0.0)
        each = self._pixels(taken).sum(-2)
        amount = fill(each, each, target.clamp(min=0))
        needed = fill(each, each, (target - move.threshold).clamp(min=0)) > 0
        share = self._spread(torch.where(each > 0, amount / torch.where(each > 0, each, 1.0), 0.0))
        base = self.length(move.base)
        return base + needed.to(each).sum(-1), move.after(share * taken), torch.zeros_like(target)

    def min_norm_step(self, gradient: Tensor, need: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """See :meth:`Norm.min_norm_step`: whole pixels, those of the largest gain first."""
        each = self._pixels(most_of(gradient, lower, upper)).sum(-2)
        return torch.where(self._spread(fill(each, each, need) > 0), _end(gradient, lower, upper), 0.0)

    def max_descent_step(self, gradient: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """See :meth:`Norm.max_descent_step`: the ``radius`` pixels of largest gain at their ends."""
        each = self._pixels(most_of(gradient, lower, upper)).sum(-2)
        spent = fill(each, torch.ones_like(each), radius.floor().clamp(min=0))
        return torch.where(self._spread((spent >= 1) & (each > 0)), _end(gradient, lower, upper), 0.0)

    def reach(self, away: Tensor, radius: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`Norm.reach`."""
        forced = self._pixels(away > 0).any(-2)
        left = radius - (forced.sum(1, keepdim=True) - forced.to(radius))
        each = torch.where(left >= 1, torch.inf, torch.where(left < 0, -torch.inf, 0.0))
        return self._spread(each)

    def counted(self, changed: Tensor) -> Tensor:
        """See :meth:`Norm.counted`."""
        return self._pixels(changed).any(-2)

    def elements(self, ones: Tensor, size: int) -> Tensor:
        """See :meth:`Norm.elements`."""
        return ones.unsqueeze(1) + size // self.channels * torch.arange(self.channels, device=ones.device)

    def summed(self, values: Tensor) -> Tensor:
        """See :meth:`Norm.summed`."""
        return self._spread(self._pixels(values).sum(-2))

    def _bought(self, gain: Tensor, free: Tensor, radius: Tensor) -> Tensor:
        """Which elements change: those of pixels that do anyway, and of those that gain most."""
        forced = self._pixels(free).any(-2)
        each = torch.where(forced, 0.0, self._pixels(gain).sum(-2))
        budget = (radius - forced.sum(-1)).floor().clamp(min=0)
        spent = fill(each, torch.ones_like(each), budget)
        return self._spread(forced | ((spent >= 1) & (each > 0)))

    def _pixels(self, values: Tensor) -> Tensor:
        """``(…, channels, m)``."""
        return values.unflatten(-1, (self.channels, -1))

    def _spread(self, pixels: Tensor) -> Tensor:
        """Values of pixels ``(…, m)`` for all their elements ``(…, n)``."""
        return pixels.unsqueeze(-2).expand(*pixels.shape[:-1], self.channels, -1).flatten(-2)

    def _unweighted(self, weights: Tensor | None) -> None:
        if weights is not None:
            raise ProblemError("Pixels are counted without weights. Leave the weights out, or count elements.")


def _end(gradient: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return torch.where(gradient > 0, lower, torch.where(gradient < 0, upper, 0.0))


@lru_cache(maxsize=16)
def pixel_count(channels: int) -> PixelCount:
    """The p of the norm that counts pixels of so many channels.

    Example:
        >>> from clinch.geometry.norms import norm
        >>> delta = torch.tensor([[[0.0, 1.0], [0.0, 2.0]]])
        >>> norm(delta, 0), norm(delta, pixel_count(2))
        (tensor([2.]), tensor([1.]))
    """
    return PixelCount(PixelCountingNorm(channels))
