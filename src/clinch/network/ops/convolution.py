"""Convolutions in one, two and three dimensions, and transposed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clinch.network.ops.base import Affine, Pullback, Shape, Statement
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.scale import Scale, along, fits
from clinch.network.ops.select import Pad
from clinch.network.ops.views import FORWARD, TRANSPOSED, Kernel
from clinch.network.ops.windows import flat_padding, onnx_padding, spread


@dataclass(frozen=True, eq=False)
class _WithKernel(Affine):
    """What the two kinds share: a kernel, strides, and an added bias."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def spatial(self) -> int:
        """Number of spatial dimensions."""
        return self.weight.dim() - 2

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The operator with another kernel and no bias."""
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> Tensor:
        """The kernel applied, plus the bias."""
        y = self.apply(inputs[0], self.weight)
        return y if self.bias is None else y + self._spread_bias(self.bias)

    def times(self, *inputs: Tensor) -> Tensor:
        """The kernel applied."""
        return self.apply(inputs[0], self.weight)

    def absolute(self, *inputs: Tensor) -> Tensor:
        """The kernel's absolute values applied."""
        return self.apply(inputs[0], self.weight.abs())

    def offset(self, rows: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """``<rows, b>``."""
        if self.bias is None:
            return rows.new_zeros(rows.shape[0])
        if self.bias.dim() == 1:
            return rows.flatten(2).sum(2) @ self.bias
        return rows.flatten(1) @ self.bias.flatten()

    def _spread_bias(self, bias: Tensor) -> Tensor:
        return bias.reshape(-1, *([1] * self.spatial)) if bias.dim() == 1 else bias

    def _new_bias(self, added: Tensor | None, factor: Tensor | None, shape: Shape) -> Tensor | None:
        """``factor·bias + added``: a vector where it varies by channel only."""
        bias = None if self.bias is None else self._spread_bias(self.bias)
        if bias is not None and factor is not None:
            bias = bias * factor.reshape(-1, *([1] * self.spatial))
        if added is not None:
            bias = added if bias is None else bias + added
        if bias is None:
            return None
        vector = along(bias, shape, 0, 0.0, self.weight)
        return bias.expand(shape).contiguous() if vector is None else vector.contiguous()


@dataclass(frozen=True, eq=False)
class Convolution(_WithKernel):
    """``f(x) = W * x + b``, with zeros around the input.

    Attributes:
        weight: ``(out channels, in channels / groups, *kernel)``.
        bias: ``(out channels,)``, or ``(out channels, *output extents)`` after folding; or None.
        stride: one per spatial dimension.
        padding: on both sides, one per spatial dimension.
        dilation: one per spatial dimension.
        groups: of channels.
    """

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """``weight * x``."""
        return FORWARD[self.spatial](x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The transposed convolution, widened to the input's extents."""
        return [self.as_convolution(shapes).transposed(rows, shapes[0][1:])]

    def pullback(self, shapes: Sequence[Shape]) -> Pullback | None:
        """What autograd calls."""
        settings = self.stride, self.padding, self.dilation, False, [0] * self.spatial, self.groups

        def pull(gradient: Tensor, inputs: Sequence[Tensor], output: Tensor) -> list[Tensor]:
            back = torch.ops.aten.convolution_backward
            return [back(gradient, inputs[0], self.weight, None, *settings, (True, False, False))[0]]

        return pull

    def as_convolution(self, shapes: Sequence[Shape]) -> Kernel:
        """Itself."""
        return Kernel(self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """A kernel with its settings."""
        return self.as_convolution(shapes).statement()

    def after(self, earlier: Affine, shape: Shape, between: Shape) -> Affine | None:
        """Takes in a scaling of its input channels; a shift under zero padding makes the bias vary at the border."""
        if not isinstance(earlier, Scale) or shape != between:
            return None
        scale = along(earlier.scale, shape, 0, 1.0, self.weight)
        if scale is None or (earlier.shift is not None and not fits(earlier.shift, shape)):
            return None
        weight = self.weight * _per_input_channel(scale, self.weight, self.groups)
        if earlier.shift is None:
            return replace(self, weight=weight)
        added = self.apply(earlier.shift.expand(shape)[None], self.weight)[0]
        if not any(self.padding):
            flat = added.flatten(1)
            if along(earlier.shift, shape, 0, 0.0, self.weight) is not None:
                # Without padding a shift by channel moves every window alike.
                added = flat[:, :1].reshape(-1, *([1] * self.spatial))
        out = tuple(self.apply(self.weight.new_empty(1, *shape).to("meta"), self.weight.to("meta")).shape[1:])
        return replace(self, weight=weight, bias=self._new_bias(added, None, out))

    def scaled(self, scale: Tensor | None, shift: Tensor | None, shape: Shape) -> Affine | None:
        """Taken in where the scale varies by channel only."""
        by = along(scale, shape, 0, 1.0, self.weight)
        if by is None:
            return None
        weight = self.weight * by.reshape(-1, *([1] * (self.weight.dim() - 1)))
        return replace(self, weight=weight, bias=self._new_bias(shift, by, shape))


@dataclass(frozen=True, eq=False)
class TransposedConvolution(_WithKernel):
    """The transpose of a convolution, plus a bias: what upsampling decoders use.

    Attributes:
        weight: ``(in channels, out channels / groups, *kernel)``.
        output_padding: extra extent at the end, one per spatial dimension.
    """

    output_padding: tuple[int, ...] = ()

    def as_transposed(self, shapes: Sequence[Shape]) -> Kernel:
        """The convolution with the same kernel."""
        return Kernel(self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The transposed convolution with the kernel."""
        extra = self.output_padding or (0,) * self.spatial
        transposed = TRANSPOSED[self.spatial]
        return transposed(x, weight, None, self.stride, self.padding, extra, self.groups, self.dilation)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The convolution itself."""
        carried = self.as_transposed(shapes).applied(rows)
        # Output padding can leave room for windows that no input made: they come last.
        return [carried[(..., *(slice(n) for n in shapes[0][1:]))]]


def _per_input_channel(scale: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Factors per input channel, laid out for a grouped kernel."""
    outputs, per_group = weight.shape[:2]
    by_group = scale.reshape(groups, 1, per_group).expand(groups, outputs // groups, per_group)
    return by_group.reshape(outputs, per_group, *([1] * (weight.dim() - 2)))


@from_aten("aten.conv1d", "aten.conv2d", "aten.conv3d")
def _convolution(call: Call) -> Value:
    weight, x = call.tensor("weight"), call.activation("input")
    if weight is None:
        raise call.refuse("it has no constant kernel")
    spatial = weight.dim() - 2
    call.channels_first(x, spatial)
    stride, dilation = (spread(call.ints(name), spatial) for name in ("stride", "dilation"))
    padding = call["padding"]
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
        pairs = tuple((t // 2, t - t // 2) for t in totals)
    elif padding == "valid":
        pairs = ((0, 0),) * spatial
    else:
        pairs = tuple((p, p) for p in spread(call.ints("padding"), spatial))
    return _emit(call, x, weight, call.tensor("bias"), stride, pairs, dilation, call["groups"])


@from_onnx("Conv")
def _onnx_convolution(call: Call) -> Value:
    weight, x = call.tensor("W"), call.activation("X")
    if weight is None:
        raise call.refuse("it has no constant kernel")
    spatial = weight.dim() - 2
    call.channels_first(x, spatial)
    _check_kernel(call, weight)
    stride, dilation = (call.ints(name, [1] * spatial) for name in ("strides", "dilations"))
    padding = onnx_padding(call, x.shape[1:], weight.shape[2:], stride, dilation)
    return _emit(call, x, weight, call.tensor("B"), tuple(stride), padding, tuple(dilation), call.get("group", 1))


def _check_kernel(call: Call, weight: Tensor) -> None:
    """The stated size of the kernel must be its own: onnxruntime aborts the process on some that are not."""
    stated = call.ints("kernel_shape", list(weight.shape[2:]))
    if stated != list(weight.shape[2:]):
        raise call.refuse(f"its kernel_shape {stated} is not that of its kernel, {list(weight.shape[2:])}")


def _emit(
    call: Call, x: Value, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...], dilation: tuple[int, ...], groups: int,
) -> Value:  # fmt: skip
    """A convolution, behind a layer of padding where the two sides differ."""
    if any(a != b for a, b in padding):
        x = call.emit(Pad(tuple(flat_padding(padding))), x)
        padding = ((0, 0),) * len(padding)
    return call.emit(Convolution(weight, bias, stride, tuple(a for a, _ in padding), dilation, groups), x)


@from_aten("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def _transposed(call: Call) -> Value:
    weight, x = call.tensor("weight"), call.activation("input")
    if weight is None:
        raise call.refuse("it has no constant kernel")
    spatial = weight.dim() - 2
    call.channels_first(x, spatial)
    stride, padding, extra, dilation = (
        spread(call.ints(name), spatial) for name in ("stride", "padding", "output_padding", "dilation")
    )
    op = TransposedConvolution(weight, call.tensor("bias"), stride, padding, dilation, call["groups"], extra)
    return call.emit(op, x)


@from_onnx("ConvTranspose")
def _onnx_transposed(call: Call) -> Value:
    weight, x = call.tensor("W"), call.activation("X")
    if weight is None or call.get("auto_pad", "NOTSET") != "NOTSET" or call.get("output_shape") is not None:
        raise call.refuse("only a constant kernel with explicit pads is known")
    spatial = weight.dim() - 2
    call.channels_first(x, spatial)
    _check_kernel(call, weight)
    stride, dilation = (tuple(call.ints(name, [1] * spatial)) for name in ("strides", "dilations"))
    extra = tuple(call.ints("output_padding", [0] * spatial))
    pads = call.ints("pads", [0] * (2 * spatial))
    if pads[:spatial] != pads[spatial:]:
        raise call.refuse("its padding differs from side to side")
    op = TransposedConvolution(
        weight, call.tensor("B"), stride, tuple(pads[:spatial]), dilation, call.get("group", 1), extra
    )
    return call.emit(op, x)
