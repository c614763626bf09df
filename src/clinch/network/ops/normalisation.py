"""Layer, group, instance and RMS norm, variances: computed as torch does, bounded in their parts.

``y = c/√(mean c² + eps)`` for the centred c: a square, a mean, a power and a product; and ``|y| <= √(n − 1)``, for
RMS norms ``√n``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.ops.average_pool import Reduce
from clinch.network.ops.base import Affine, Emit, Operator, Shape
from clinch.network.ops.bilinear import Multiply
from clinch.network.ops.functions import Power, Sqrt
from clinch.network.ops.reading import Call, Reader, Value, from_aten, from_onnx
from clinch.network.ops.scale import Scale
from clinch.network.ops.shape import Reshape
from clinch.network.ops.within import Within


@dataclass(frozen=True, eq=False)
class Centre(Affine):
    """``f(x) = x − mean(x)`` over dimensions of a sample."""

    dims: tuple[int, ...]

    linear: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """What is left of the mean."""
        return inputs[0] - inputs[0].mean([d + 1 for d in self.dims], keepdim=True)

    def absolute(self, *inputs: Tensor) -> Tensor:
        """``(1 − 1/n) x_i + Σ_(j≠i) x_j/n``."""
        (x,) = inputs
        dims = [d + 1 for d in self.dims]
        size = math.prod(x.shape[d] for d in dims)
        return (1 - 2 / size) * x + x.mean(dims, keepdim=True)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The same: the matrix is symmetric."""
        return [self.forward(rows)]


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _mean_square(emit: Emit, x: Value, dims: tuple[int, ...], by: float, keep: bool = True) -> Value:
    """``Σ x²/by``."""
    return emit(Reduce(dims, keep, 1 / by), emit(Power(2.0), x))


def _normalised(emit: Emit, x: Value, dims: tuple[int, ...], eps: float, *, centre: bool) -> Value:
    size = math.prod(x.shape[d] for d in dims)
    centred = emit(Centre(dims), x) if centre else x
    spread = emit(Power(-0.5), emit(Scale(None, _number(eps)), _mean_square(emit, centred, dims, size)))
    bound = math.sqrt(size - centre)
    return emit(Within(-bound, bound), emit(Multiply(), centred, spread))


def _last(x: Value, weight: Tensor) -> tuple[int, ...]:
    return tuple(range(len(x.shape) - weight.dim(), len(x.shape)))


@dataclass(frozen=True, eq=False)
class LayerNorm(Operator):
    """``(x − mean)/√(variance + eps)·weight + bias`` over the last dimensions of a sample.

    Attributes:
        weight: its shape says which dimensions.
        bias: of the same shape, or None.
        eps: see above.
    """

    weight: Tensor
    bias: Tensor | None
    eps: float

    def forward(self, *inputs: Tensor) -> Tensor:
        """The normalised activations."""
        return functional.layer_norm(inputs[0], list(self.weight.shape), self.weight, self.bias, self.eps)

    def in_parts(self, emit: Emit, *inputs: Value) -> Value:
        """Centred, divided, scaled."""
        dims = _last(inputs[0], self.weight)
        return emit(Scale(self.weight, self.bias), _normalised(emit, inputs[0], dims, self.eps, centre=True))


@dataclass(frozen=True, eq=False)
class RMSNorm(Operator):
    """``x/√(mean x² + eps)·weight`` over the last dimensions of a sample.

    Attributes:
        weight: its shape says which dimensions.
        eps: see above.
    """

    weight: Tensor
    eps: float

    def forward(self, *inputs: Tensor) -> Tensor:
        """The normalised activations."""
        return functional.rms_norm(inputs[0], list(self.weight.shape), self.weight, self.eps)

    def in_parts(self, emit: Emit, *inputs: Value) -> Value:
        """Divided, scaled."""
        dims = _last(inputs[0], self.weight)
        return emit(Scale(self.weight), _normalised(emit, inputs[0], dims, self.eps, centre=False))


@dataclass(frozen=True, eq=False)
class GroupNorm(Operator):
    """A layer norm over each of some groups of channels; with one group for each channel an instance norm.

    Attributes:
        groups: how many.
        weight, bias: one number for each channel, or None.
        eps: added to the variance.
    """

    groups: int
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def forward(self, *inputs: Tensor) -> Tensor:
        """The normalised activations."""
        return functional.group_norm(inputs[0], self.groups, self.weight, self.bias, self.eps)

    def in_parts(self, emit: Emit, *inputs: Value) -> Value:
        """Centred and divided in a matrix of one row for each group, and scaled."""
        (x,) = inputs
        rows = emit(Reshape((self.groups, math.prod(x.shape) // self.groups)), x)
        back = emit(Reshape(x.shape), _normalised(emit, rows, (1,), self.eps, centre=True))
        channels = (-1, *[1] * (len(x.shape) - 1))
        scale, shift = (None if t is None else t.reshape(channels) for t in (self.weight, self.bias))
        return emit(Scale(scale, shift), back)


@dataclass(frozen=True, eq=False)
class Variance(Operator):
    """``Σ (x − mean)²/(n − correction)`` over dimensions of a sample, or its root.

    One number is a row of one if ``row``.
    """

    dims: tuple[int, ...]
    keep: bool
    correction: float = 1.0
    root: bool = False
    row: bool = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The variance, or the standard deviation."""
        function = torch.std if self.root else torch.var
        found = function(inputs[0], [d + 1 for d in self.dims], correction=self.correction, keepdim=self.keep)
        return found.unsqueeze(1) if self.row else found

    def with_an_axis(self, shapes: Sequence[Shape]) -> Variance:
        """That of everything is a row of one."""
        return replace(self, row=not self.keep and len(self.dims) == len(shapes[0]))

    def in_parts(self, emit: Emit, *inputs: Value) -> Value:
        """Centred, squared, summed."""
        (x,) = inputs
        size = math.prod(x.shape[d] for d in self.dims)
        squares = _mean_square(emit, emit(Centre(self.dims), x), self.dims, size - self.correction, self.keep)
        return emit(Sqrt(), squares) if self.root else squares


@from_aten("aten.layer_norm")
def _layer_norm(call: Call) -> Operator:
    weight = call.tensor("weight")
    weight = torch.ones(call.ints("normalized_shape"), dtype=torch.float64) if weight is None else weight
    return LayerNorm(weight, call.tensor("bias"), float(call["eps"]))


@from_onnx("LayerNormalization")
def _onnx_layer_norm(call: Call) -> Operator:
    x, weight = call.activation("X"), call.tensor("Scale")
    shape = x.shape[call.axis(call.get("axis", -1), len(x.shape)) :]
    if weight is None or tuple(weight.shape) != tuple(shape):
        raise call.refuse("its scale does not have the shape of the normalised dimensions")
    return LayerNorm(weight, call.tensor("B"), call.number("epsilon", 1e-5))


@from_aten("aten.rms_norm")
def _rms_norm(call: Call) -> Operator:
    call.activation("input")
    weight = call.tensor("weight")
    weight = torch.ones(call.ints("normalized_shape"), dtype=torch.float64) if weight is None else weight
    return RMSNorm(weight, call.number("eps", torch.finfo(call.dtype or torch.float32).eps))


@from_aten("aten.group_norm")
def _group_norm(call: Call) -> Operator:
    call.activation("input")
    return GroupNorm(call["num_groups"], call.tensor("weight"), call.tensor("bias"), call.number("eps", 1e-5))


@from_aten("aten.instance_norm")
def _instance_norm(call: Call) -> Operator | None:
    x = call.activation("input")
    if not call["use_input_stats"] or len(x.shape) < 2:
        return None
    return GroupNorm(x.shape[0], call.tensor("weight"), call.tensor("bias"), call.number("eps", 1e-5))


@from_onnx("InstanceNormalization")
def _onnx_instance_norm(call: Call) -> Operator | None:
    x = call.activation("input")
    if len(x.shape) < 2:
        return None
    return GroupNorm(x.shape[0], call.tensor("scale"), call.tensor("B"), call.number("epsilon", 1e-5))


def _deviation(root: bool) -> Reader:
    def read(call: Call) -> Operator | None:
        x = call.activation("self")
        if call.get("dim") is None:
            return None
        dims = tuple(sorted({call.axis(d, len(x.shape)) for d in call.ints("dim")}))
        size, correction = math.prod(x.shape[d] for d in dims), call.number("correction", 1.0)
        correction = correction if call.get("unbiased", True) else 0.0
        return Variance(dims, bool(call.get("keepdim", False)), correction, root) if size > correction else None

    return read


from_aten("aten.var", "values of aten.var_mean")(_deviation(False))
from_aten("aten.std", "values of aten.std_mean")(_deviation(True))
