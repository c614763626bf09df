"""Quantised nodes, as what they compute: real numbers rounded to a grid. Gradients pass through the rounding.

Whole numbers are kept as real ones, which hold all of 32 bits exactly in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.network.onnx_functions.table import DTYPES, FUNCTIONS, Settings, node_type
from clinch.network.onnx_functions.windows import convolution

_RANGES = {
    torch.uint8: (0, 255), torch.int8: (-128, 127), torch.uint16: (0, 65535), torch.int16: (-32768, 32767),
    torch.int32: (-(2**31), 2**31 - 1),
}  # fmt: skip


def _rounded(x: Tensor) -> Tensor:
    """Half to even. ``round(x) − x`` is exact, so that the sum is; its gradient is that of x."""
    return x + (x.round() - x).detach()


def _along(scale: Tensor, x: Tensor, node: Settings) -> Tensor:
    """A scale or zero point beside a tensor: one number, one per index of an axis, or one per block."""
    if scale.dim() == 0 or scale.numel() == 1:
        return scale.reshape(())
    axis, block = node.get("axis", 1) % x.dim(), node.get("block_size", 0)
    if scale.dim() == 1:
        return scale.reshape([-1 if d == axis else 1 for d in range(x.dim())])
    return scale.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis]) if block else scale


def quantised(node: Settings, x: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``clamp(round(x / scale) + zero)``."""
    low, high = _RANGES[dtype]
    y = _rounded(x / _along(scale, x, node).to(x))
    return (y if zero is None else y + _along(zero, x, node).to(x)).clamp(low, high)


def real(x: Tensor, zero: Tensor | None, node: Settings, like: Tensor) -> Tensor:
    """``x − zero`` as a real number."""
    y = x if x.is_floating_point() else x.to(like.dtype)
    return y if zero is None else y - _along(zero, x, node).to(y)


@node_type("QuantizeLinear")
def _quantize(node: Settings, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    kind = node.get("output_dtype", 0)
    dtype = zero.dtype if zero is not None else DTYPES[kind] if kind else torch.uint8
    return quantised(node, x, scale, zero, dtype)


@node_type("DequantizeLinear")
def _dequantize(node: Settings, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    y = real(x, zero, node, scale)
    return y * _along(scale, x, node).to(y)


@node_type("DynamicQuantizeLinear")
def _dynamic(node: Settings, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = _rounded((-low / scale).clamp(0, 255))
    return (_rounded(x / scale) + zero).clamp(0, 255), scale, zero


@node_type("MatMulInteger")
def _matmul_integer(
    node: Settings, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    like = torch.zeros((), dtype=node.dtype)
    rows, columns = Settings({"axis": -2}, node.opset), Settings({"axis": -1}, node.opset)
    return real(a, a_zero, rows, like) @ real(b, b_zero, columns, like)


@node_type("ConvInteger")
def _conv_integer(
    node: Settings, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    like, first = torch.zeros((), dtype=node.dtype), Settings({"axis": 0}, node.opset)
    return convolution(node, real(x, x_zero, first, like), real(w, w_zero, first, like))


@node_type("QLinearMatMul")
def _qlinear_matmul(
    node: Settings,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    rows, columns = Settings({"axis": -2}, node.opset), Settings({"axis": -1}, node.opset)
    left = real(a, a_zero, rows, a_scale) * _along(a_scale, a, rows)
    right = real(b, b_zero, columns, b_scale) * _along(b_scale, b, columns)
    return quantised(rows, left @ right.to(left), y_scale, y_zero, _kind(y_zero, a))


@node_type("QLinearConv")
def _qlinear_conv(
    node: Settings,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    first, channel = Settings({"axis": 0}, node.opset), Settings({"axis": 1}, node.opset)
    weight = real(w, w_zero, first, w_scale) * _along(w_scale, w, first)
    y = convolution(node, real(x, x_zero, first, x_scale) * x_scale, weight)
    if bias is not None:
        y = y + (bias.to(y) * x_scale * w_scale).reshape([1, -1] + [1] * (y.dim() - 2))
    return quantised(channel, y, y_scale, y_zero, _kind(y_zero, x))


def _kind(zero: Tensor, x: Tensor) -> torch.dtype:
    return zero.dtype if zero.dtype in _RANGES else x.dtype


FUNCTIONS["com.microsoft.QuantizeLinear"] = FUNCTIONS["QuantizeLinear"]
FUNCTIONS["com.microsoft.DequantizeLinear"] = FUNCTIONS["DequantizeLinear"]
