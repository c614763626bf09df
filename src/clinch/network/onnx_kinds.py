"""Whole numbers and truth values of an ONNX file as real layers: what casts, argmax and comparisons of them make.

Such a layer holds whole numbers alone, 0 and 1 for truth values. What is known of that follows: two of them are equal
where ``max(1 − |a − b|, 0)`` is one, and it is zero elsewhere. So they have the bounds of ReLUs and of the sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from onnx import TensorProto
from torch import Tensor

from clinch.network.onnx_functions.table import DTYPES
from clinch.network.ops.composites import Operand, Parts
from clinch.network.ops.piecewise import Sign
from clinch.network.ops.reading import ONNX, Call, Value
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.shape import Reshape
from clinch.network.ops.softmax import before_softmax
from clinch.network.ops.whole import ArgMax

#: node types that give whole numbers from whole numbers as they give real ones from real ones
_ALIKE = frozenset(
    {
        "Gather", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Concat", "Split", "Identity",
        "ReduceSum", "Expand", "Add", "Sub", "Mul", "Neg", "Abs", "Max", "Min", "ReduceMax", "ReduceMin",
    }
)  # fmt: skip


def read_kinds(
    call: Call, kinds: Sequence[torch.dtype | None], real: torch.dtype
) -> tuple[list[Value], torch.dtype | None] | None:
    """The layers of a node and the type of their elements, None for real numbers; None: no operator covers it.

    Args:
        call: of the node.
        kinds: of its activations, in order.
        real: the file's type of real numbers.
    """
    if call.operator in _CASTS:
        return _cast(call, kinds[0], real)
    if call.operator in _READERS:
        if all(kinds):
            found = _READERS[call.operator](call)
        else:
            found = _OF_REALS[call.operator](call) if call.operator in _OF_REALS else None
        return None if found is None else ([found[0]], found[1])
    kind = kinds[0]
    if any(kinds) and (len(set(kinds)) > 1 or kind == torch.bool or call.operator not in _ALIKE):
        return None
    reader = ONNX.get(call.operator)
    result = None if reader is None else call.read(reader)
    if result is None:
        return None
    return (result if isinstance(result, list) else [result]), kind


_CASTS = ("Cast", "CastLike")
_FLOATS = (torch.float16, torch.float32, torch.float64)


def _cast(call: Call, kind: torch.dtype | None, real: torch.dtype) -> tuple[list[Value], torch.dtype | None] | None:
    """Nothing where all values are kept: whole numbers of any type are taken to fit."""
    x = call.activation("input")
    if call.operator == "Cast":
        target = DTYPES.get(call.get("to", TensorProto.FLOAT))
    else:
        like = call.get("target_type")
        target = like.dtype if isinstance(like, Tensor) else real
    if target in _FLOATS:
        return [x], None
    if target == torch.bool and kind not in (None, torch.bool):
        x = call.emit(LeakyReLU(-1.0), call.emit(Sign(), x))
    # real numbers that become indices need no layer
    return None if kind is None or target is None else ([x], target)


def _same(call: Call, a: Operand, b: Operand) -> Value:
    """1 where two whole numbers are equal."""
    distance = call.emit(LeakyReLU(-1.0), Parts(call).subtract(a, b))
    return call.emit(LeakyReLU(), Parts(call).subtract(call.constant(1.0), distance))


Kinded = tuple[Value, torch.dtype]


def _argmax(call: Call) -> Kinded | None:
    """Of two: 1 where the second is larger."""
    x, parts = call.activation("data"), Parts(call)
    axis = call.axis(call.get("axis", 0), len(x.shape))
    if call.get("select_last_index", 0):
        return None
    x = before_softmax(call, x, axis)
    if x.shape[axis] == 2:
        larger = call.emit(LeakyReLU(), call.emit(Sign(), parts.subtract(*(parts.part(x, axis, i, 1) for i in (1, 0)))))
    else:
        larger = call.emit(ArgMax(axis), x)
    if call.get("keepdims", 1):
        return larger, torch.int64
    return call.emit(Reshape((*x.shape[:axis], *x.shape[axis + 1 :])), larger), torch.int64


def _one_hot(call: Call) -> Kinded | None:
    """For each class whether the index is it; an index below zero counts from the end."""
    index, depth, values = call.activation("indices"), call.get("depth"), call.get("values")
    if not isinstance(depth, Tensor) or not isinstance(values, Tensor) or values.is_floating_point():
        return None
    parts, count = Parts(call), int(depth.reshape(-1)[0])
    off, on = (float(v) for v in values)
    rank = len(index.shape) + 1
    axis = call.axis(call.get("axis", -1), rank)
    classes = [
        parts.add(*(_same(call, index, call.constant(float(k - turn))) for turn in (0, count))) for k in range(count)
    ]
    found = parts.stacked(classes, axis)  # type: ignore[arg-type]
    return parts.add(parts.multiply(found, call.constant(on - off)), call.constant(off)), values.dtype  # type: ignore[return-value]


def _equal(call: Call) -> Kinded:
    return _same(call, call.operand("A"), call.operand("B")), torch.bool


def _not(call: Call) -> Kinded:
    return Parts(call).subtract(call.constant(1.0), call.activation("X")), torch.bool


def _and(call: Call) -> Kinded:
    """``max(a + b − 1, 0)``."""
    parts = Parts(call)
    both = parts.add(parts.add(call.operand("A"), call.operand("B")), call.constant(-1.0))
    return call.emit(LeakyReLU(), both), torch.bool  # type: ignore[arg-type]


def _or(call: Call) -> Kinded:
    """``1 − max(1 − a − b, 0)``."""
    parts = Parts(call)
    neither = parts.subtract(call.constant(1.0), parts.add(call.operand("A"), call.operand("B")))
    return parts.subtract(call.constant(1.0), call.emit(LeakyReLU(), neither)), torch.bool


_READERS: dict[str, Callable[[Call], Kinded | None]] = {
    "ArgMax": _argmax, "OneHot": _one_hot, "Equal": _equal, "Not": _not, "And": _and, "Or": _or,
}  # fmt: skip
#: what makes whole numbers of real ones
_OF_REALS: dict[str, Callable[[Call], Kinded | None]] = {"ArgMax": _argmax}
