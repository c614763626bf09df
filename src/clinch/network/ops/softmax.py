"""Softmax, log-softmax and logsumexp: computed as torch does, bounded as sums of exponentials of differences.

``softmax_i = 1/Σ_j e^(x_j − x_i)`` has no product, and differences of activations cancel what they have in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.add import Add
from clinch.network.ops.average_pool import Reduce
from clinch.network.ops.base import Affine, Emit, Interval, Operator, Relaxation, Shape, Statement
from clinch.network.ops.bilinear import Multiply
from clinch.network.ops.functions import Exp, Log, Reciprocal
from clinch.network.ops.normalisation import Centre
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.s_shaped import Sigmoid
from clinch.network.ops.scale import Scale
from clinch.network.ops.shape import Reshape, Transpose
from clinch.network.ops.smooth_activations import LogSigmoid

#: differences of one softmax, beyond which it is written as a quotient of n exponentials
MOST_DIFFERENCES = 2**20


@dataclass(frozen=True, eq=False)
class Differences(Affine):
    """``f(x)_ji = x_j − x_i`` for all pairs along a dimension: j there, i in a new dimension behind it."""

    dim: int

    linear: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The differences."""
        return inputs[0].unsqueeze(self.dim + 2) - inputs[0].unsqueeze(self.dim + 1)

    def absolute(self, *inputs: Tensor) -> Tensor:
        """``x_j + x_i``, and zero for i = j."""
        (x,) = inputs
        n = x.shape[self.dim + 1]
        same = torch.eye(n, dtype=torch.bool, device=x.device).reshape(n, n, *[1] * (x.dim() - self.dim - 2))
        return (x.unsqueeze(self.dim + 2) + x.unsqueeze(self.dim + 1)).masked_fill(same, 0.0)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """What is read as the first, minus what is read as the second."""
        return [rows.sum(self.dim + 2) - rows.sum(self.dim + 1)]


@dataclass(frozen=True, eq=False)
class Shares(Operator):
    """``f(x) = x``, where the elements of x along a dimension are known not to be negative and to sum to one.

    Attributes:
        dim: the dimension.
        keep: truth values of the sample's shape, false where elements are zero; None: nowhere.
    """

    dim: int
    keep: Tensor | None = None

    affine: ClassVar[bool] = True
    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The same."""
        return inputs[0]

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """The same elements: a certificate's limits are its own."""
        return {"kind": "reshape", "shape": list(shape)}, {}

    def interval(self, *inputs: Interval) -> Interval:
        """``max(l_i, 0, 1 − Σ_(j≠i) u_j) <= x_i <= min(u_i, 1, 1 − Σ_(j≠i) l_j)``."""
        lower, upper = (t.clamp(0, 1) for t in inputs[0])
        room = (lower.shape[self.dim + 1] + 2) * torch.finfo(lower.dtype).eps
        low, high = (t.sum(self.dim + 1, keepdim=True) for t in (lower, upper))
        least, most = 1 - (high - upper) - room, 1 - (low - lower) + room
        return Interval(torch.maximum(lower, least), torch.minimum(upper, most)).intersect(Interval(lower, upper))

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Relaxation:
        """The equation itself."""
        return OnSimplex(self.dim, self.keep)


@dataclass(frozen=True, eq=False)
class OnSimplex(Relaxation):
    """``<a, x> = <a − m, x> + m`` for any m where x sums to one: the median of a leaves the least to be relaxed.

    Attributes:
        dim: along which it does.
        keep: of the elements that count; None: all.
    """

    dim: int
    keep: Tensor | None = None

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Less the median, which becomes a constant."""
        if self.keep is None:
            middle = rows.median(self.dim + 2, keepdim=True).values
            return [rows - middle], middle.flatten(2).sum(2)
        middle = rows.where(self.keep, torch.nan).nanmedian(self.dim + 2, keepdim=True).values
        return [(rows - middle).where(self.keep, 0.0)], middle.flatten(2).sum(2)

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """The same."""
        return inputs[0]


def _total(emit: Emit, x: Value, dim: int, keep: Tensor | None = None) -> Value | None:
    """``Σ_j e^(x_j − x_i)`` over the j that are kept, at kept i never below 1; None where these are too many
    differences."""
    if math.prod(x.shape) * x.shape[dim] > MOST_DIFFERENCES:
        return None
    powers = emit(Exp(), emit(Differences(dim), x))
    powers = powers if keep is None else emit(Scale(keep.unsqueeze(dim + 1).double()), powers)
    return emit(Reduce((dim,), False), powers)


def _softmax_parts(emit: Emit, x: Value, dim: int, keep: Tensor | None = None) -> Value:
    """``1/Σ_j e^(x_j − x_i)``, of very many a quotient; zero at what is not kept."""

    def only(value: Value) -> Value:
        return value if keep is None else emit(Scale(keep.double()), value)

    total = _total(emit, x, dim, keep)
    if total is not None:
        return emit(Shares(dim, keep), only(emit(Reciprocal(), total)))
    powers = only(emit(Exp(), emit(Centre((dim,)), x)))
    share = emit(Multiply(), powers, emit(Reciprocal(), emit(Reduce((dim,), True), powers)))
    return emit(Shares(dim, keep), share)


@dataclass(frozen=True, eq=False)
class Softmax(Operator):
    """``e^x_i / Σ_j e^x_j`` along a dimension of a sample."""

    dim: int

    has_absolute_error: ClassVar[bool] = True
    keeps_argmax: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The softmax."""
        return inputs[0].softmax(self.dim + 1)

    def of_difference(self) -> Operator:
        """A sigmoid."""
        return Sigmoid()

    def in_parts(self, emit: Emit, *inputs: Value) -> Value:
        """``1/Σ_j e^(x_j − x_i)``; of very many a quotient."""
        return _softmax_parts(emit, inputs[0], self.dim)


@dataclass(frozen=True, eq=False)
class MaskedSoftmax(Operator):
    """``e^x_i / Σ_j e^x_j`` over the elements along a dimension that a constant mask keeps; zero at all others.

    Attributes:
        dim: of a sample.
        keep: truth values of the sample's shape.
    """

    dim: int
    keep: Tensor

    has_absolute_error: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The softmax with minus infinity at the others."""
        return inputs[0].masked_fill(~self.keep, -torch.inf).softmax(self.dim + 1)

    def in_parts(self, emit: Emit, *inputs: Value) -> Value:
        """As :class:`Softmax`, over what is kept."""
        return _softmax_parts(emit, inputs[0], self.dim, self.keep)


@dataclass(frozen=True, eq=False)
class LogSoftmax(Operator):
    """``x_i − log Σ_j e^x_j`` along a dimension of a sample."""

    dim: int

    has_absolute_error: ClassVar[bool] = True
    keeps_argmax: ClassVar[bool] = True
    shifts: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The logarithm of the softmax."""
        return inputs[0].log_softmax(self.dim + 1)

    def of_difference(self) -> Operator:
        """The logarithm of a sigmoid."""
        return LogSigmoid()

    def absolute_error(self, *inputs: Tensor) -> Tensor:
        """The size of what is subtracted from each other."""
        return (1 + inputs[0].abs().amax(self.dim + 1, keepdim=True)).expand_as(inputs[0])

    def in_parts(self, emit: Emit, *inputs: Value) -> Value:
        """``−log Σ_j e^(x_j − x_i)``; of very many ``c_i − log Σ_j e^c_j`` for centred c."""
        (x,) = inputs
        minus, total = Scale(torch.tensor(-1.0, dtype=torch.float64)), _total(emit, x, self.dim)
        if total is not None:
            return emit(minus, emit(Log(), total))
        centred = emit(Centre((self.dim,)), x)
        logarithm = emit(Log(), emit(Reduce((self.dim,), True), emit(Exp(), centred)))
        return emit(Add(), centred, emit(minus, logarithm))


@dataclass(frozen=True, eq=False)
class LogSumExp(Operator):
    """``log Σ_j e^x_j`` over dimensions of a sample, which stay with extent one if ``keep``.

    One number is a row of one if ``row``; the sum is over the elements that ``kept`` says.
    """

    dims: tuple[int, ...]
    keep: bool
    row: bool = False
    kept: Tensor | None = None

    has_absolute_error: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The logarithm."""
        x = inputs[0] if self.kept is None else inputs[0].masked_fill(~self.kept, -torch.inf)
        found = x.logsumexp([d + 1 for d in self.dims], self.keep)
        return found.unsqueeze(1) if self.row else found

    def with_an_axis(self, shapes: Sequence[Shape]) -> LogSumExp:
        """The logarithm of everything is a row of one."""
        return replace(self, row=not self.keep and len(self.dims) == len(shapes[0]))

    def absolute_error(self, *inputs: Tensor) -> Tensor:
        """The size of what the largest adds to the logarithm."""
        size = 1 + inputs[0].abs().amax([d + 1 for d in self.dims], self.keep)
        return size.unsqueeze(1) if self.row else size

    def in_parts(self, emit: Emit, *inputs: Value) -> Value:
        """The mean, and that of the centred numbers."""
        (x,) = inputs
        size = math.prod(x.shape[d] for d in self.dims)
        powers = emit(Exp(), emit(Centre(self.dims), x))
        powers = powers if self.kept is None else emit(Scale(self.kept.double()), powers)
        total = emit(Reduce(self.dims, self.keep), powers)
        return emit(Add(), emit(Reduce(self.dims, self.keep, 1 / size), x), emit(Log(), total))


def before_softmax(call: Call, x: Value, dim: int) -> Value:
    """An activation whose elements along a dimension are ordered as those of x: what goes into softmaxes below it.

    Transposes and reshapes above them that keep the dimension are made anew, those that undo each other left out.
    """
    look, at, along, found = call.builder.computed, x.position, dim, x.position
    moves: list[Affine] = []
    kept = 0
    while True:
        op, inputs, shape = look(at)
        if isinstance(op, Softmax | LogSoftmax) and op.dim == along:
            found, kept = inputs[0], len(moves)
        elif isinstance(op, Transpose):
            along = op.permutation[along]
            moves.append(op)
        elif isinstance(op, Reshape) and (before := _same_dim(look(inputs[0])[2], shape, along)) is not None:
            along = before
            moves.append(op)
        else:
            break
        (at,) = inputs
    if found == x.position:
        return x
    value = Value(found, look(found)[2])
    chain: list[Affine] = []
    for op in reversed(moves[:kept]):
        both = op.after(chain[-1], (), ()) if chain else None
        chain = [*chain, op] if both is None else [*chain[:-1], both]
    for op in chain:
        value = call.emit(op, value)
    return value


def _same_dim(old: Shape, new: Shape, dim: int) -> int | None:
    """Where a dimension of a sample was before a reshape that adds or drops dimensions of size one."""
    wide, was = ([d for d, n in enumerate(shape) if n != 1] for shape in (new, old))
    same = dim in wide and [new[d] for d in wide] == [old[d] for d in was]
    return was[wide.index(dim)] if same else None


def _dim(call: Call, name: str, x: Value, default: int = -1) -> int:
    return call.axis(call.get(name, default), len(x.shape))


@from_aten("aten.softmax", "aten._softmax")
def _softmax(call: Call) -> Operator:
    return Softmax(_dim(call, "dim", call.activation("self")))


@from_aten("aten.log_softmax", "aten._log_softmax")
def _log_softmax(call: Call) -> Operator:
    return LogSoftmax(_dim(call, "dim", call.activation("self")))


@from_aten("aten.logsumexp")
def _logsumexp(call: Call) -> Operator:
    x = call.activation("self")
    dims = tuple(sorted({call.axis(d, len(x.shape)) for d in call.ints("dim")}))
    return LogSumExp(dims, bool(call.get("keepdim", False)))


@from_onnx("Softmax")
def _onnx_softmax(call: Call) -> Operator:
    return Softmax(_onnx_dim(call))


@from_onnx("LogSoftmax")
def _onnx_log_softmax(call: Call) -> Operator:
    return LogSoftmax(_onnx_dim(call))


@from_onnx("ReduceLogSumExp")
def _onnx_logsumexp(call: Call) -> Operator:
    x = call.activation("data")
    if call.get("axes") is None:
        raise call.refuse("without axes it works along the batch")
    dims = tuple(sorted({call.axis(d, len(x.shape)) for d in call.ints("axes")}))
    return LogSumExp(dims, bool(call.get("keepdims", 1)))


def _onnx_dim(call: Call) -> int:
    """Before opset 13 the softmax ran over all dimensions from ``axis`` on: the same where only the first is not 1."""
    x = call.activation("input")
    if call["opset"] >= 13:
        return _dim(call, "axis", x)
    axis = _dim(call, "axis", x, 1)
    if any(n != 1 for n in x.shape[axis + 1 :]):
        raise call.refuse("before opset 13 it runs over several dimensions at once; save the model with a newer opset")
    return axis
