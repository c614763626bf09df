"""Dense layers: a constant matrix applied to the last dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.ops.base import Affine, Operator, Shape, Statement
from clinch.network.ops.bilinear import MatrixProduct
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.scale import Scale, along, per_sample
from clinch.network.ops.shape import Reshape, Transpose
from clinch.network.ops.views import Matrix

#: elements at most of a sparse matrix that a certificate states
MOST_STATED = 2**24


@dataclass(frozen=True, eq=False)
class Dense(Affine):
    """``f(x) = W x + b`` along the last dimension.

    Attributes:
        weight: ``(out, in)``.
        bias: ``(out,)`` or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    def forward(self, *inputs: Tensor) -> Tensor:
        """``W x + b``."""
        return functional.linear(inputs[0], self.weight, self.bias)

    def times(self, *inputs: Tensor) -> Tensor:
        """``W x``."""
        return functional.linear(inputs[0], self.weight)

    def absolute(self, *inputs: Tensor) -> Tensor:
        """``|W| x``."""
        return functional.linear(inputs[0], self.weight.abs())

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """``Wᵀ rows``."""
        return [rows @ self.weight]

    def offset(self, rows: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """``<rows, b>``."""
        if self.bias is None:
            return rows.new_zeros(rows.shape[0])
        return (rows @ self.bias).flatten(1).sum(1) if rows.dim() > 2 else rows @ self.bias

    def as_matrix(self, shapes: Sequence[Shape]) -> Matrix | None:
        """Itself, where a sample has one dimension."""
        return Matrix(self.weight, self.bias) if len(shapes[0]) == 1 else None

    def prune(
        self, shapes: Sequence[Shape], outputs: Tensor | None = None, inputs: Tensor | None = None
    ) -> Operator | None:
        """Rows and columns of the matrix, where a sample has one dimension."""
        if len(shapes[0]) != 1:
            return None
        weight, bias = self.weight, self.bias
        if outputs is not None:
            weight, bias = weight[outputs], None if bias is None else bias[outputs]
        return Dense(weight if inputs is None else weight[:, inputs], bias)

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """A matrix along the last dimension."""
        tensors = {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})
        return {"kind": "dense"}, tensors

    def after(self, earlier: Affine, shape: Shape, between: Shape) -> Affine | None:
        """Takes in a scaling of its inputs, and another dense layer where the product is no larger than the two."""
        bias = self.weight.new_zeros(self.weight.shape[0]) if self.bias is None else self.bias
        if isinstance(earlier, Scale) and shape == between:
            scale = along(earlier.scale, shape, len(shape) - 1, 1.0, self.weight)
            shift = along(earlier.shift, shape, len(shape) - 1, 0.0, self.weight)
            if scale is None or shift is None:
                return None
            return Dense(self.weight * scale, bias + self.weight @ shift)
        if isinstance(earlier, Dense):
            outputs, hidden, inputs = *self.weight.shape, earlier.weight.shape[1]
            if outputs * inputs > outputs * hidden + hidden * inputs:
                return None
            moved = 0.0 if earlier.bias is None else self.weight @ earlier.bias
            return Dense(self.weight @ earlier.weight, bias + moved)
        return None

    def scaled(self, scale: Tensor | None, shift: Tensor | None, shape: Shape) -> Affine | None:
        """Taken in where it varies along the outputs only."""
        by = along(scale, shape, len(shape) - 1, 1.0, self.weight)
        added = along(shift, shape, len(shape) - 1, 0.0, self.weight)
        if by is None or added is None:
            return None
        return Dense(self.weight * by[:, None], added if self.bias is None else self.bias * by + added)


@dataclass(frozen=True, eq=False)
class SparseDense(Affine):
    """``f(x) = W x + b`` along the last dimension, of a W that is nearly all zeros.

    Attributes:
        values: of W where it is not zero, row by row.
        places: their rows and columns, ``(2, n)``.
        size: rows and columns of W.
        bias: ``(out,)`` or None.
    """

    values: Tensor
    places: Tensor
    size: tuple[int, int]
    bias: Tensor | None = None

    @staticmethod
    def of(weight: Tensor, bias: Tensor | None = None) -> SparseDense:
        """From a matrix in torch's sparse layout."""
        weight = weight.coalesce()
        return SparseDense(weight.values(), weight.indices(), (weight.shape[0], weight.shape[1]), bias)

    @property
    def label(self) -> str:
        """What it is like any other."""
        return "Dense"

    @cached_property
    def _back(self) -> tuple[Tensor, Tensor]:
        """Order and places of the transpose."""
        order = (self.places[1] * self.size[0] + self.places[0]).argsort()
        return order, self.places.flip(0)[:, order]

    def _times(self, x: Tensor, places: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
        if x.is_meta:  # shapes alone: torch has no sparse product of those
            return x.new_empty(*x.shape[:-1], size[0])
        matrix = torch.sparse_coo_tensor(places, values, size, is_coalesced=True, check_invariants=False)
        return torch.sparse.mm(matrix, x.reshape(-1, size[1]).mT).mT.reshape(*x.shape[:-1], size[0])

    def times(self, *inputs: Tensor) -> Tensor:
        """``W x``."""
        return self._times(inputs[0], self.places, self.values, self.size)

    def forward(self, *inputs: Tensor) -> Tensor:
        """``W x + b``."""
        y = self.times(*inputs)
        return y if self.bias is None else y + self.bias

    def absolute(self, *inputs: Tensor) -> Tensor:
        """``|W| x``."""
        return self._times(inputs[0], self.places, self.values.abs(), self.size)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """``Wᵀ rows``."""
        order, places = self._back
        return [self._times(rows, places, self.values[order], (self.size[1], self.size[0]))]

    def offset(self, rows: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """``<rows, b>``."""
        if self.bias is None:
            return rows.new_zeros(rows.shape[0])
        return (rows @ self.bias).flatten(1).sum(1) if rows.dim() > 2 else rows @ self.bias

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement | None:
        """A matrix along the last dimension, zeros and all, where it is not too large for a file."""
        if self.size[0] * self.size[1] > MOST_STATED:
            return None
        weight = self.values.new_zeros(self.size)
        return Dense(weight.index_put(tuple(self.places), self.values), self.bias).statement(shapes, shape)

    def scaled(self, scale: Tensor | None, shift: Tensor | None, shape: Shape) -> Affine | None:
        """Taken in where it varies along the outputs only."""
        by = along(scale, shape, len(shape) - 1, 1.0, self.values)
        added = along(shift, shape, len(shape) - 1, 0.0, self.values)
        if by is None or added is None:
            return None
        bias = added if self.bias is None else self.bias * by + added
        return replace(self, values=self.values * by[self.places[0]], bias=bias)


def matrix(weight: Tensor, bias: Tensor | None = None) -> Affine:
    """``W x + b``, for a W in either of torch's layouts."""
    return SparseDense.of(weight, bias) if weight.is_sparse else Dense(weight.contiguous(), bias)


def _product(call: Call, a: Value | Tensor, b: Value | Tensor) -> Value | None:
    """``a @ b``: affine where one of the two is a constant."""
    if isinstance(b, Tensor) and not isinstance(a, Tensor):
        if b.dim() == 1:
            column = call.emit(Dense(b[None]), a)
            return call.emit(Reshape(a.shape[:-1]), column)
        while b.dim() > 2 and b.shape[0] == 1:
            b = b[0]
        if b.dim() == 2 and a.shape:
            return call.emit(matrix(b.T), a)
    if isinstance(a, Tensor) and not isinstance(b, Tensor):
        while a.dim() > 2 and a.shape[0] == 1:
            a = a[0]
        rank = len(b.shape)
        if a.dim() == 2 and rank == 1 and call.get("alone", False):
            return call.emit(matrix(a), b)
        if a.dim() == 2 and rank >= 2:
            swap = Transpose((*range(rank - 2), rank - 1, rank - 2))
            return call.emit(swap, call.emit(matrix(a), call.emit(swap, b)))
    if not isinstance(a, Tensor) and not isinstance(b, Tensor) and len(a.shape) == len(b.shape) >= 2:
        return call.emit(MatrixProduct(), a, b)
    return None


@from_aten("aten.linear")
def _linear(call: Call) -> Dense | None:
    call.activation("input")
    weight = call.tensor("weight")
    assert weight is not None
    return Dense(weight, call.tensor("bias"))


@from_aten("aten.matmul", "aten.mm")
def _matmul(call: Call) -> Value | None:
    return _product(call, call.operand("self"), call.operand("other" if "other" in call.arguments else "mat2"))


@from_aten("aten.addmm")
def _addmm(call: Call) -> Value | None:
    product = _product(call, call.operand("mat1"), call.operand("mat2"))
    added = call.operand("self")
    if product is None or not isinstance(added, Tensor):
        return None
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    shift = beta * per_sample(call, added, len(product.shape))
    return call.emit(Scale(added.new_tensor(alpha) if alpha != 1.0 else None, shift), product)


@from_onnx("MatMul")
def _onnx_matmul(call: Call) -> Value | None:
    return _product(call, call.operand("A"), call.operand("B"))


@from_onnx("Gemm")
def _gemm(call: Call) -> Value | None:
    if call.get("transA", 0):
        raise call.refuse("transA=1 puts the batch last")
    call.activation("A")
    weight, added = call.tensor("B"), call.tensor("C")
    assert weight is not None
    weight = call.number("alpha", 1.0) * (weight if call.get("transB", 0) else weight.T)
    bias = None if added is None else call.number("beta", 1.0) * added
    if bias is not None:
        if bias.dim() == 2 and bias.shape[0] != 1:
            raise call.refuse("its C differs from row to row of the batch")
        bias = torch.broadcast_to(bias.reshape(-1), (weight.shape[0],))
    return call.emit(matrix(weight, bias), call.activation("A"))
