"""Sums and differences: of two activations (residual connections), or of one and a constant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clinch.network.ops.base import Affine, Interval, Shape, Statement
from clinch.network.ops.masks import Masked
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.scale import Scale, per_sample
from clinch.network.ops.statements import sparse


@dataclass(frozen=True, eq=False)
class Add(Affine):
    """``f(x, y) = x + y``, broadcast within a sample."""

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``x + y``."""
        x, y = inputs
        return x + y

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Rows go to both, summed where a sample was widened."""
        return [rows.sum_to_size(rows.shape[0], *shape) for shape in shapes]

    def as_sum(self, shapes: Sequence[Shape]) -> tuple[float, ...] | None:
        """Of two samples of one shape."""
        return (1.0, 1.0) if len(set(shapes)) == 1 else None

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement | None:
        """A sum of two layers of one shape."""
        return ({"kind": "add"}, {}) if len(set(shapes)) == 1 else super().statement(shapes, shape)


@dataclass(frozen=True, eq=False)
class Subtract(Affine):
    """``f(x, y) = x − y``, broadcast within a sample."""

    linear: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """``x − y``."""
        x, y = inputs
        return x - y

    def absolute(self, *inputs: Tensor) -> Tensor:
        """``x + y``."""
        x, y = inputs
        return x + y

    def interval(self, *inputs: Interval) -> Interval:
        """``[lower_x − upper_y, upper_x − lower_y]``."""
        x, y = inputs
        return Interval(x.lower - y.upper, x.upper - y.lower)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Rows go to both, with the sign turned for the second."""
        first, second = (rows.sum_to_size(rows.shape[0], *shape) for shape in shapes)
        return [first, -second]

    def as_sum(self, shapes: Sequence[Shape]) -> tuple[float, ...] | None:
        """Of two samples of one shape."""
        return (1.0, -1.0) if len(set(shapes)) == 1 else None

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement | None:
        """An element of each, with the sign turned for the second."""
        if len(set(shapes)) > 1:
            return super().statement(shapes, shape)
        numbers = torch.arange(2 * math.prod(shape))
        return sparse(numbers % math.prod(shape), numbers, torch.where(numbers < math.prod(shape), 1.0, -1.0), shape)


def _combine(call: Call, a: Value | Tensor, b: Value | Tensor, sign: float) -> Value:
    """``a + sign·b``."""
    if isinstance(a, Tensor):
        if isinstance(b, Tensor):
            raise call.refuse("it adds two constants")
        return call.emit(Scale(a.new_tensor(sign) if sign != 1.0 else None, per_sample(call, a, len(b.shape))), b)
    if isinstance(b, Tensor):
        shift = sign * per_sample(call, b, len(a.shape))
        return _plus(call, a, shift)
    if len(a.shape) != len(b.shape):
        raise call.refuse(
            f"it adds samples of shapes {a.shape} and {b.shape}, so that one meets the other's batch dimension"
        )
    if sign not in (1.0, -1.0):
        b = call.emit(Scale(torch.tensor(abs(sign), dtype=torch.float64)), b)
    return call.emit(Add() if sign > 0 else Subtract(), a, b)


def _plus(call: Call, x: Value, shift: Tensor) -> Value:
    """``x + shift``, where minus infinity is a mask."""
    low = torch.isneginf(shift)
    if not bool(low.any()):
        return call.emit(Scale(None, shift), x)
    rest = torch.where(low, 0.0, shift)
    return call.emit(Masked(~low), call.emit(Scale(None, rest), x))


@from_aten("aten.add")
def _add(call: Call) -> Value:
    return _combine(call, call.operand("self"), call.operand("other"), call.number("alpha", 1.0))


@from_aten("aten.sub", "aten.subtract")
def _subtract(call: Call) -> Value:
    return _combine(call, call.operand("self"), call.operand("other"), -call.number("alpha", 1.0))


@from_aten("aten.rsub")
def _subtract_from(call: Call) -> Value | None:
    if call.number("alpha", 1.0) != 1.0:
        return None
    return _combine(call, call.operand("other"), call.operand("self"), -1.0)


@from_onnx("Add")
def _onnx_add(call: Call) -> Value:
    return _combine(call, call.operand("A"), call.operand("B"), 1.0)


@from_onnx("Sub")
def _onnx_subtract(call: Call) -> Value:
    return _combine(call, call.operand("A"), call.operand("B"), -1.0)


@from_onnx("Sum")
def _onnx_sum(call: Call) -> Value:
    terms = [call.constant(t) if isinstance(t, Tensor) else t for t in call["data_0"]]
    total: Value | Tensor = terms[0]
    for term in terms[1:]:
        if isinstance(total, Tensor) and isinstance(term, Tensor):
            total = total + term
        else:
            total = _combine(call, total, term, 1.0)
    assert not isinstance(total, Tensor)
    return total
