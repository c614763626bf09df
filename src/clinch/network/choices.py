"""A choice by a comparison of an activation with a number, between lines through it: a ReLU and an affine function."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from clinch.network.build import Builder
from clinch.network.ops.add import Add
from clinch.network.ops.base import Operator
from clinch.network.ops.lazy import Lazy
from clinch.network.ops.reading import Value
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.scale import Scale

_ABOVE = {"aten.gt": True, "aten.ge": True, "aten.lt": False, "aten.le": False}


class _Line(NamedTuple):
    """``slope·x + shift``."""

    slope: float
    shift: float


def written_out(builder: Builder, name: str, bound: dict[str, Any], layer: str, source: str) -> Value | None:
    """``where(x > c, a x + b, d x + e)`` whose two lines meet at c, as ``d x + e + (a − d) relu(x − c)``; None: other.

    Args:
        builder: takes the nodes.
        name: of the call, ``aten.where`` or ``aten.masked_fill``.
        bound: its arguments.
        layer, source: for the nodes.
    """
    if name == "aten.where":
        condition, first, second = bound.get("condition"), bound.get("self"), bound.get("other")
    elif name == "aten.masked_fill":
        condition, first, second = bound.get("mask"), bound.get("value"), bound.get("self")
    else:
        return None
    compared = _comparison(condition)
    if compared is None:
        return None
    x, threshold, above = compared
    lines = [_line(builder, branch, x) for branch in (first, second)]
    if None in lines:
        return None
    over, under = lines if above else lines[::-1]
    assert over is not None and under is not None
    if over.slope * threshold + over.shift != under.slope * threshold + under.shift:
        return None

    def emit(op: Operator, *inputs: Value) -> Value:
        return builder.emit(op, inputs, layer, source)

    def scaled(value: Value, slope: float, shift: float) -> Value:
        return emit(Scale(*(torch.tensor(n, dtype=torch.float64) for n in (slope, shift))), value)

    bent = emit(LeakyReLU(), scaled(x, 1.0, -threshold))
    bent = scaled(bent, over.slope - under.slope, under.shift)
    if under.slope == 0:
        return bent
    return emit(Add(), scaled(x, under.slope, 0.0), bent)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _comparison(condition: Any) -> tuple[Value, float, bool] | None:
    """What is compared with which number, and whether it must be above."""
    if not isinstance(condition, Lazy) or len(condition.arguments) != 2:
        return None
    above = _ABOVE.get(str(getattr(condition.function, "overloadpacket", "")))
    x, number = condition.arguments[0], _number(condition.arguments[1])
    return None if above is None or number is None or not isinstance(x, Value) else (x, number, above)


def _line(builder: Builder, branch: Any, x: Value) -> _Line | None:
    """A branch as a line through x: a number, x itself, or x scaled and shifted by numbers."""
    number = _number(branch)
    if number is not None:
        return _Line(0.0, number)
    if not isinstance(branch, Value) or branch.shape != x.shape:
        return None
    slope, shift, at = 1.0, 0.0, branch.position
    while at != x.position:
        node = builder.nodes[at]
        if not isinstance(node.op, Scale):
            return None
        factor = 1.0 if node.op.scale is None else _number(node.op.scale)
        added = 0.0 if node.op.shift is None else _number(node.op.shift)
        if factor is None or added is None:
            return None
        slope, shift = slope * factor, slope * added + shift
        (at,) = node.inputs
    return _Line(slope, shift)
