"""Averages and sums: average pooling, and means over whole dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.ops.base import Affine, Shape, Statement
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.select import Pad
from clinch.network.ops.views import Kernel
from clinch.network.ops.windows import flat_padding, onnx_padding, spread

_FORWARD: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_ADAPTIVE: dict[int, Callable[..., Tensor]] = {
    1: functional.adaptive_avg_pool1d, 2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class AveragePool(Affine):
    """The mean over each window, per channel.

    Attributes:
        kernel: extent of the window, one number per spatial dimension.
        stride: likewise.
        padding: zeros on both sides, likewise.
        ceil_mode: the last window may reach beyond the end.
        count_include_pad: padding counts as elements of value zero.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The means."""
        pool = _FORWARD[len(self.kernel)]
        return pool(inputs[0], self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad)

    def as_convolution(self, shapes: Sequence[Shape]) -> Kernel | None:
        """A kernel of equal numbers for each channel, where every window counts all its places."""
        if self.ceil_mode or (any(self.padding) and not self.count_include_pad):
            return None
        channels, ones = shapes[0][0], (1,) * len(self.kernel)
        weight = torch.full((channels, 1, *self.kernel), 1.0, dtype=torch.float64)
        return Kernel(weight / weight[0].numel(), None, self.stride, self.padding, ones, channels)

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement | None:
        """As the convolution that it is, where it is one."""
        kernel = self.as_convolution(shapes)
        return super().statement(shapes, shape) if kernel is None else kernel.statement()


@dataclass(frozen=True, eq=False)
class AdaptiveAveragePool(Affine):
    """Means over windows chosen so that the output has the given extents."""

    extents: tuple[int, ...]

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The means."""
        return _ADAPTIVE[len(self.extents)](inputs[0], self.extents)


@dataclass(frozen=True, eq=False)
class Reduce(Affine):
    """The sum over whole dimensions of a sample, times a factor: 1 for a sum, one over their size for a mean.

    Attributes:
        dims: the dimensions.
        keep: whether they stay, with extent one.
        factor: of the sum.
        row: whether what is left, one number, is a row of one element.
    """

    dims: tuple[int, ...]
    keep: bool
    factor: float = 1.0
    row: bool = False

    linear: ClassVar[bool] = True
    nonnegative: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sum, scaled."""
        total = inputs[0].sum([d + 1 for d in self.dims], keepdim=self.keep) * self.factor
        return total.unsqueeze(1) if self.row else total

    def with_an_axis(self, shapes: Sequence[Shape]) -> Reduce:
        """The sum over everything is a row of one."""
        return replace(self, row=not self.keep and len(self.dims) == len(shapes[0]))

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Each element of a group gets the group's row."""
        kept = [1 if d in self.dims else n for d, n in enumerate(shapes[0])]
        return [(rows * self.factor).reshape(rows.shape[0], *kept).expand(rows.shape[0], *shapes[0])]


def _reduce(call: Call, x: Value, axes: Sequence[int], keep: bool, mean: bool) -> Value:
    dims = tuple(sorted({call.axis(a, len(x.shape)) for a in axes}))
    size = math.prod(x.shape[d] for d in dims)
    return call.emit(Reduce(dims, keep, 1.0 / size if mean else 1.0), x)


@from_aten("aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d")
def _average_pool(call: Call) -> Value | None:
    spatial = int(call.operator[-2])
    x = call.activation("self")
    call.channels_first(x, spatial)
    if call.get("divisor_override") is not None:
        return None
    kernel = spread(call.ints("kernel_size"), spatial)
    stride = spread(call.ints("stride") or kernel, spatial)
    padding = spread(call.ints("padding"), spatial)
    return call.emit(AveragePool(kernel, stride, padding, bool(call["ceil_mode"]), bool(call["count_include_pad"])), x)


@from_aten("aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d")
def _adaptive(call: Call) -> Value:
    spatial = int(call.operator[-2])
    x = call.activation("self")
    call.channels_first(x, spatial)
    extents = spread(call.ints("output_size"), spatial)
    if all(e == 1 for e in extents):
        return _reduce(call, x, range(-spatial, 0), True, True)
    return call.emit(AdaptiveAveragePool(extents), x)


@from_aten("aten.mean")
def _mean(call: Call) -> Value:
    return _aten_reduce(call, True)


@from_aten("aten.sum")
def _sum(call: Call) -> Value:
    return _aten_reduce(call, False)


def _aten_reduce(call: Call, mean: bool) -> Value:
    x = call.activation("self")
    if call.get("dim") is None:
        raise call.refuse("it reduces over the batch too; name the dimensions to reduce, all but the first")
    return _reduce(call, x, call.ints("dim"), bool(call.get("keepdim", False)), mean)


@from_onnx("AveragePool")
def _onnx_average_pool(call: Call) -> Value:
    x, kernel = call.activation("X"), tuple(call.ints("kernel_shape"))
    ones = [1] * len(kernel)
    stride, dilation = tuple(call.ints("strides", ones)), call.ints("dilations", ones)
    call.channels_first(x, len(kernel))
    if any(d != 1 for d in dilation):
        raise call.refuse("a dilated average pool is not known")
    padding = onnx_padding(call, x.shape[1:], kernel, stride, dilation)
    counted, ceil_mode = bool(call.get("count_include_pad", 0)), bool(call.get("ceil_mode", 0))
    if any(a != b or 2 * a > k for (a, b), k in zip(padding, kernel)):
        if not counted or ceil_mode:
            raise call.refuse("its padding differs from side to side and does not count as zeros")
        x = call.emit(Pad(tuple(flat_padding(padding))), x)
        padding = ((0, 0),) * len(kernel)
    return call.emit(AveragePool(kernel, stride, tuple(a for a, _ in padding), ceil_mode, counted), x)


@from_onnx("GlobalAveragePool")
def _global_average_pool(call: Call) -> Value:
    x = call.activation("X")
    return _reduce(call, x, range(2, len(x.shape) + 1), True, True)


@from_onnx("ReduceMean")
def _reduce_mean(call: Call) -> Value:
    return _onnx_reduce(call, True)


@from_onnx("ReduceSum")
def _reduce_sum(call: Call) -> Value:
    return _onnx_reduce(call, False)


def _onnx_reduce(call: Call, mean: bool) -> Value:
    if call.get("axes") is None:
        raise call.refuse("without axes it reduces over the batch too")
    return _reduce(call, call.activation("data"), call.ints("axes"), bool(call.get("keepdims", 1)), mean)
