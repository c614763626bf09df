"""Elements of an image repeated: resampling to a multiple of its extents by the nearest element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.base import Affine, Shape
from clinch.network.ops.reading import Call, from_onnx
from clinch.network.ops.views import Kernel


@dataclass(frozen=True, eq=False)
class Repeat(Affine):
    """Each place of an image ``factors`` times along each spatial dimension."""

    factors: tuple[int, ...]

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The wider image."""
        (x,) = inputs
        for d, factor in enumerate(self.factors):
            x = x.repeat_interleave(factor, d + 2) if factor > 1 else x
        return x

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Sums over what was repeated."""
        channels, *extents = shapes[0]
        split = [n for pair in zip(extents, self.factors) for n in pair]
        wide = rows.reshape(len(rows), channels, *split)
        return [wide.sum(tuple(range(3, 3 + 2 * len(extents), 2)))]

    def as_transposed(self, shapes: Sequence[Shape]) -> Kernel:
        """The transpose of sums over blocks."""
        channels, zeros, ones = shapes[0][0], (0,) * len(self.factors), (1,) * len(self.factors)
        weight = torch.ones(channels, 1, *self.factors, dtype=torch.float64)
        return Kernel(weight, None, self.factors, zeros, ones, channels)

    def is_identity(self, shapes: Sequence[Shape]) -> bool:
        """Nothing is repeated."""
        return math.prod(self.factors) == 1


#: how positions may be told where elements are repeated a whole number of times, with how they are rounded
_REPEATS = {
    "asymmetric": ("floor",),
    "half_pixel": ("round_prefer_floor", "round_prefer_ceil"),
    "pytorch_half_pixel": ("round_prefer_floor", "round_prefer_ceil"),
}


@from_onnx("Resize", "Upsample")
def _resize(call: Call) -> Repeat | None:
    x = call.activation("X")
    extents, scales, sizes = x.shape[1:], call.get("scales"), call.get("sizes")
    if call.get("mode", "nearest") != "nearest" or call.get("axes") or not extents:
        return None
    if call["opset"] >= 11:
        rounding = _REPEATS.get(call.get("coordinate_transformation_mode", "half_pixel"), ())
        if call.get("nearest_mode", "round_prefer_floor") not in rounding:
            return None
    if isinstance(sizes, Tensor) and sizes.numel():
        if call.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            return None
        wanted = [n / m for n, m in zip(sizes.tolist(), (1, *x.shape))]
    else:
        wanted = scales.tolist() if isinstance(scales, Tensor) else list(scales or ())
    if len(wanted) != len(x.shape) + 1 or any(f != round(f) or f < 1 for f in wanted) or wanted[:2] != [1, 1]:
        return None
    return Repeat(tuple(int(f) for f in wanted[2:]))
