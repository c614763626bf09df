"""Whole parts and what is left of them: truncation, remainders, division with rounding, signs of other numbers.

They are written out in floors and ReLUs, and what is left lies between zero and the divisor however wide limits are.
"""

from __future__ import annotations

import torch

from clinch.network.ops.composites import Operand, Parts
from clinch.network.ops.piecewise import Floor, Line, PiecewiseLinear, Round
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.within import Within


def _floor(call: Call, x: Value) -> Value:
    return call.emit(Floor(), x)


def truncated(call: Call, x: Value) -> Value:
    """``⌊max(x, 0)⌋ − ⌊max(−x, 0)⌋``."""
    parts = Parts(call)
    sides = (x, parts.multiply(x, call.constant(-1.0)))
    above, below = (_floor(call, call.emit(LeakyReLU(), side)) for side in sides)  # type: ignore[arg-type]
    return parts.subtract(above, below)


def _activation(value: Operand) -> Value:
    assert isinstance(value, Value)
    return value


def _rest(call: Call, x: Value, divisor: float, *, floored: bool) -> Value | None:
    """``x − c·⌊x/c⌋``, or of ``x/c`` the part without decimals."""
    if divisor == 0:
        return None
    parts = Parts(call)
    ratio = _activation(parts.multiply(x, call.constant(1 / divisor)))
    whole = _floor(call, ratio) if floored else truncated(call, ratio)
    rest = parts.subtract(x, parts.multiply(whole, call.constant(divisor)))
    ends = (min(divisor, 0.0), max(divisor, 0.0)) if floored else (-abs(divisor), abs(divisor))
    return call.emit(Within(*ends), rest)


@from_aten("aten.trunc", "aten.fix")
def _trunc(call: Call) -> Value:
    return truncated(call, call.activation("self"))


@from_aten("aten.frac")
def _frac(call: Call) -> Value | None:
    return _rest(call, call.activation("self"), 1.0, floored=False)


@from_aten("aten.remainder")
def _remainder(call: Call) -> Value | None:
    return _rest(call, call.activation("self"), call.number("other", 1.0), floored=True)


@from_aten("aten.fmod")
def _fmod(call: Call) -> Value | None:
    return _rest(call, call.activation("self"), call.number("other", 1.0), floored=False)


@from_onnx("Mod")
def _onnx_mod(call: Call) -> Value | None:
    return _rest(call, call.activation("A"), call.number("B", 1.0), floored=not call.get("fmod", 0))


@from_aten("aten.floor_divide")
def _floor_divide(call: Call) -> Value:
    return _floor(call, Parts(call).apply("aten.div", self=call.operand("self"), other=call.operand("other")))


def rounded_quotient(call: Call, quotient: Value, mode: str) -> Value:
    """A quotient rounded down, or towards zero."""
    return _floor(call, quotient) if mode == "floor" else truncated(call, quotient)


@from_aten("aten.round")
@from_onnx("Round")
def _round(call: Call) -> Value:
    parts, x = Parts(call), call.activation("self" if "self" in call.arguments else "X")
    size = 10.0 ** call.number("decimals", 0)
    found = call.emit(Round(), _activation(parts.multiply(x, call.constant(size))))
    return _activation(parts.multiply(found, call.constant(1 / size)))


@from_aten("aten.copysign")
def _copysign(call: Call) -> Value | None:
    """``|x|`` with the sign of another number, that of zero being positive."""
    parts, sign = Parts(call), call.operand("other")
    size = parts.function("aten.abs", call.operand("self"))
    if isinstance(sign, Value):
        steps = PiecewiseLinear((0.0,), (Line(0.0, -1.0), Line(0.0, 1.0)), (False,))
        return _activation(parts.multiply(size, call.emit(steps, sign)))
    return _activation(parts.multiply(size, torch.where(torch.signbit(sign), -1.0, 1.0).double()))
