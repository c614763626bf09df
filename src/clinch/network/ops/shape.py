"""Rearrangements: flatten, reshape, squeeze, transpose, and calls that change nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.base import Affine, Shape, Statement
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """The same elements in another shape (without the batch)."""

    shape: Shape

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    keeps_order: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    rearranges: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """Each row in the new shape."""
        return inputs[0].reshape(inputs[0].shape[0], *self.shape)

    def with_an_axis(self, shapes: Sequence[Shape]) -> Reshape:
        """One number is a row of one."""
        return Reshape(self.shape or (1,))

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The old shape."""
        return [rows.reshape(rows.shape[0], *shapes[0])]

    def is_identity(self, shapes: Sequence[Shape]) -> bool:
        """The shape is the old one."""
        return tuple(shapes[0]) == tuple(self.shape)

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """A reshape."""
        return {"kind": "reshape", "shape": list(shape)}, {}

    def after(self, earlier: Affine, shape: Shape, between: Shape) -> Affine | None:
        """Only the last shape counts."""
        return self if isinstance(earlier, Reshape) else None


@dataclass(frozen=True, eq=False)
class Transpose(Affine):
    """Dimension ``permutation[i]`` of a sample becomes dimension i (the batch is not counted)."""

    permutation: tuple[int, ...]

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    rearranges: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The permuted activations."""
        return inputs[0].permute(0, *(d + 1 for d in self.permutation))

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The inverse permutation."""
        inverse = sorted(range(len(self.permutation)), key=self.permutation.__getitem__)
        return [rows.permute(0, *(d + 1 for d in inverse))]

    def is_identity(self, shapes: Sequence[Shape]) -> bool:
        """Every dimension stays where it is."""
        return self.permutation == tuple(range(len(self.permutation)))

    def after(self, earlier: Affine, shape: Shape, between: Shape) -> Affine | None:
        """Two permutations are one."""
        if not isinstance(earlier, Transpose):
            return None
        return Transpose(tuple(earlier.permutation[d] for d in self.permutation))


@from_aten(
    "aten.reshape", "aten.view", "aten._unsafe_view", "aten.flatten", "aten.unflatten", "aten.squeeze", "aten.unsqueeze"
)  # fmt: skip
def _reshape(call: Call) -> Reshape:
    return Reshape(call.output_shape)


@from_aten("aten.reshape_as")
def _reshape_as(call: Call) -> Value:
    return call.emit(Reshape(call.output_shape), call.activation("self"))


@dataclass(frozen=True, eq=False)
class Expand(Affine):
    """The same elements again along dimensions of size 1, and in new dimensions in front of a sample."""

    shape: Shape

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The repeated activations."""
        (x,) = inputs
        added = [1] * (len(self.shape) - (x.dim() - 1))
        return x.reshape(len(x), *added, *x.shape[1:]).expand(len(x), *self.shape)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Rows are added up over what was repeated."""
        (shape,) = shapes
        added = [1] * (len(self.shape) - len(shape))
        return [rows.sum_to_size(len(rows), *added, *shape).reshape(len(rows), *shape)]


@from_aten("aten.permute")
def _permute(call: Call) -> Transpose:
    rank = len(call.activation("self").shape)
    dims = [d % (rank + 1) for d in call.ints("dims")]
    if dims[0] != 0:
        raise call.refuse("it moves the batch dimension")
    return Transpose(tuple(d - 1 for d in dims[1:]))


@from_aten("aten.transpose", "aten.swapaxes", "aten.swapdims")
def _transpose(call: Call) -> Transpose:
    rank = len(call.activation("self").shape)
    names = [name for name in call.arguments if name.startswith(("dim", "axis"))]
    first, second = (call.axis(call[name], rank) for name in names)
    permutation = list(range(rank))
    permutation[first], permutation[second] = second, first
    return Transpose(tuple(permutation))


@from_aten("aten.mT", "aten.mH", "aten.adjoint")
def _matrix_transpose(call: Call) -> Transpose:
    rank = len(call.activation("self").shape)
    if rank < 2:
        raise call.refuse("it moves the batch dimension")
    return Transpose((*range(rank - 2), rank - 1, rank - 2))


@from_aten(
    "aten.clone", "aten.contiguous", "aten.detach", "aten.alias", "aten.lift_fresh_copy", "aten.positive",
    "aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout", "aten.view_as",
)  # fmt: skip
def _nothing(call: Call) -> Value:
    if call.get("train", False):
        raise call.refuse("it drops activations at random, as in training mode")
    return call.activations[0]


@from_aten("aten.to", "aten._to_copy", "aten.type_as", "aten.float", "aten.double")
def _convert(call: Call) -> Value:
    dtype = call.get("dtype")
    wider = dtype is None or (
        call.dtype is not None and dtype.is_floating_point and dtype.itemsize > call.dtype.itemsize
    )
    if dtype != call.dtype and not wider:
        raise call.refuse(f"it converts activations to {dtype}; keep one dtype throughout the model")
    return call.activations[0]


@from_aten("aten.expand")
def _expand(call: Call) -> Value | None:
    x = call.activation("self")
    shape = call.output_shape
    return x if shape == x.shape else call.emit(Expand(shape), x)


# --- ONNX ----------------------------------------------------------------------------------------------------------


@from_onnx("Identity", "Dropout", "Cast", "CastLike")
def _onnx_nothing(call: Call) -> Value:
    return call.activations[0]


@from_onnx("Reshape")
def _onnx_reshape(call: Call) -> Value:
    """Dimension 0 of the target must stand for the batch (written as -1, 0 or 1); the rest must hold one sample."""
    x = call.activation("data")
    target = call.ints("shape")
    if not call.get("allowzero", 0):
        target = [(1, *x.shape)[i] if t == 0 and i <= len(x.shape) else t for i, t in enumerate(target)]
    size = math.prod(x.shape)
    rest = target[1:]
    if -1 in rest:
        known = -math.prod(rest)
        rest[rest.index(-1)] = size // known if known > 0 else 0
    if not target or target[0] not in (-1, 1) or math.prod(rest) != size:
        raise call.refuse(f"its target shape {target} mixes the batch with the {size} elements of a sample")
    return call.emit(Reshape(tuple(rest)), x)


@from_onnx("Flatten")
def _onnx_flatten(call: Call) -> Value:
    x = call.activation("input")
    axis = call.get("axis", 1) % (len(x.shape) + 1)
    if axis == 0 or math.prod(x.shape[: axis - 1]) != 1:
        raise call.refuse(f"axis={axis} merges the batch with other dimensions")
    return call.emit(Reshape((math.prod(x.shape),)), x)


@from_onnx("Squeeze")
def _onnx_squeeze(call: Call) -> Value:
    x = call.activation("data")
    rank = len(x.shape)
    if call.get("axes") is None:
        raise call.refuse("without axes it may drop the batch dimension")
    dropped = {call.axis(a, rank) for a in call.ints("axes")}
    return call.emit(Reshape(tuple(n for d, n in enumerate(x.shape) if d not in dropped)), x)


@from_onnx("Unsqueeze")
def _onnx_unsqueeze(call: Call) -> Value:
    x = call.activation("data")
    axes = call.ints("axes")
    added = {call.axis(a, len(x.shape) + len(axes)) for a in axes}
    rest = iter(x.shape)
    return call.emit(Reshape(tuple(1 if d in added else next(rest) for d in range(len(x.shape) + len(axes)))), x)


@from_onnx("Transpose")
def _onnx_transpose(call: Call) -> Value:
    x = call.activation("data")
    permutation = call.ints("perm", list(range(len(x.shape), -1, -1)))
    if permutation[0] != 0:
        raise call.refuse("it moves the batch dimension")
    return call.emit(Transpose(tuple(d - 1 for d in permutation[1:])), x)


@from_onnx("Expand")
def _onnx_expand(call: Call) -> Value | None:
    x = call.activation("input")
    target = tuple(call.ints("shape"))
    widened = torch.broadcast_shapes((1, *x.shape), target)
    if widened[0] != 1:
        return None
    return x if widened == (1, *x.shape) else call.emit(Expand(tuple(widened[1:])), x)
