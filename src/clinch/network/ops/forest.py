"""Decision trees whose values are added up: constant between thresholds, bounded by the leaves that can be reached."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from clinch.network.ops.base import Interval
from clinch.network.ops.reading import Call, from_aten
from clinch.network.ops.whole import Piecewise


@torch.library.custom_op("clinch::forest", mutates_args=())
def forest(x: Tensor, feature: Tensor, threshold: Tensor, values: Tensor, base: Tensor) -> Tensor:
    """``base + Σ`` of the values of the leaves that x reaches, one of each tree.

    Trees are filled up to one depth D; a node of depth d of tree t stands at ``2^d − 1 + i`` of its row.

    Args:
        x: ``(B, n)``.
        feature: ``(T, 2^D − 1)`` which element a node asks for.
        threshold: ``(T, 2^D − 1)``: to the left where ``x <= threshold``.
        values: ``(T, 2^D, K)`` of the leaves.
        base: ``(K,)``.

    Returns:
        ``(B, K)``.
    """
    at = torch.zeros(len(x), len(feature), dtype=torch.long, device=x.device)
    trees = torch.arange(len(feature), device=x.device)
    for _ in range((values.shape[1]).bit_length() - 1):
        right = x.gather(1, feature[trees, at]) > threshold[trees, at]
        at = 2 * at + 1 + right.long()
    return values[trees, at - feature.shape[1]].sum(1) + base


@forest.register_fake
def _(x: Tensor, feature: Tensor, threshold: Tensor, values: Tensor, base: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], base.shape[0])


@forest.register_vmap
def _(info: Any, in_dims: tuple, x: Tensor, *constants: Tensor) -> tuple[Tensor, int]:
    rows = x.movedim(in_dims[0], 0)
    found = forest(rows.flatten(0, 1), *constants)
    return found.unflatten(0, rows.shape[:2]), 0


# it is constant between thresholds
forest.register_autograd(
    lambda ctx, gradient: (gradient.new_zeros(ctx.shape), None, None, None, None),
    setup_context=lambda ctx, inputs, output: setattr(ctx, "shape", inputs[0].shape),
)


@dataclass(frozen=True, eq=False)
class Forest(Piecewise):
    """Trees of one depth, see :func:`forest`.

    Attributes:
        feature: ``(T, 2^D − 1)``.
        threshold: ``(T, 2^D − 1)``.
        values: ``(T, 2^D, K)``.
        base: ``(K,)``.
    """

    feature: Tensor = field(repr=False)
    threshold: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    base: Tensor = field(repr=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Shape ``(B, K)``."""
        return forest(inputs[0].contiguous(), self.feature, self.threshold, self.values, self.base)

    def interval(self, *inputs: Interval) -> Interval:
        """From the leaves up: of a node the sides that can be reached, of each tree the least and the largest."""
        lower, upper = (side[:, self.feature] for side in inputs[0])
        left, right = ~(lower > self.threshold), ~(upper <= self.threshold)
        least = most = self.values.unsqueeze(0).expand(len(lower), -1, -1, -1)
        while least.shape[2] > 1:
            count = least.shape[2] // 2
            at = slice(count - 1, 2 * count - 1)
            goes = (left[:, :, at].unsqueeze(3), right[:, :, at].unsqueeze(3))
            low = [torch.where(go, least[:, :, k::2], torch.inf) for k, go in enumerate(goes)]
            high = [torch.where(go, most[:, :, k::2], -torch.inf) for k, go in enumerate(goes)]
            least, most = torch.minimum(*low), torch.maximum(*high)
        return Interval(least[:, :, 0].sum(1) + self.base, most[:, :, 0].sum(1) + self.base)

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy whose constants have the given dtype and device."""
        moved = {name: getattr(self, name).to(device, dtype) for name in ("threshold", "values", "base")}
        return replace(self, feature=self.feature.to(device), **moved)


@from_aten("clinch.forest")
def _forest(call: Call) -> Forest:
    constants = [call.arguments[name] for name in ("feature", "threshold", "values", "base")]
    return Forest(constants[0], *(call.constant(c) for c in constants[1:]))
