"""Clamps as compositions of ReLUs, so that every engine that knows the ReLU knows them."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.network.ops.composites import Operand, Parts
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.scale import Scale, per_sample


def clamp(call: Call, x: Value, low: float | None, high: float | None) -> Value:
    """``max(x, low) = low + relu(x − low)`` and ``min(y, high) = high − relu(high − y)``."""
    if low is not None and high is not None and low > high:
        raise call.refuse(f"its limits {low} and {high} are in the wrong order")
    sign, shift = 1.0, 0.0  # the clamped value is sign·(value of x) + shift
    for limit, turn in ((low, 1.0), (high, -1.0)):
        if limit is None:
            continue
        x = _affine(call, x, turn * sign, turn * (shift - limit))
        x = call.emit(LeakyReLU(), x)
        sign, shift = turn, limit
    return _affine(call, x, sign, shift)


def _affine(call: Call, x: Value, scale: float, shift: float) -> Value:
    constants = [None if v == n else torch.tensor(v, dtype=torch.float64) for v, n in ((scale, 1.0), (shift, 0.0))]
    return call.emit(Scale(*constants), x)


def _limit(call: Call, name: str) -> float | None:
    value = call.get(name)
    if value is None:
        return None
    number = call.number(name, 0.0)
    return None if abs(number) == float("inf") or abs(number) >= torch.finfo(torch.float32).max else number


def _by_element(call: Call, x: Value) -> Value:
    """Limits that differ from element to element, one after the other."""
    for name, sign in (("min", 1.0), ("max", -1.0)):
        if call.get(name) is not None:
            limit = sign * per_sample(call, call.constant(call[name]), len(x.shape))
            x = call.emit(Scale(limit.new_tensor(sign) if sign < 0 else None, -limit), x)
            x = call.emit(Scale(limit.new_tensor(sign) if sign < 0 else None, sign * limit), call.emit(LeakyReLU(), x))
    return x


def _between(call: Call, limits: dict[str, Operand | None]) -> Value:
    """Limits that are activations."""
    parts, x = Parts(call), call.operand("self" if "self" in call.arguments else "input")
    for name, other in (("min", "aten.maximum"), ("max", "aten.minimum")):
        limit = limits[name]
        if limit is not None:
            limit = limit if isinstance(limit, Value) else call.constant(limit)
            x = parts.apply(other, self=x, other=limit)
    assert isinstance(x, Value)
    return x


@from_aten("aten.clamp", "aten.clip")
@from_onnx("Clip")
def _clamp(call: Call) -> Value:
    limits = {name: call.get(name) for name in ("min", "max")}
    if any(isinstance(limit, Value) for limit in limits.values()):
        return _between(call, limits)
    if any(isinstance(call.get(name), Tensor) and call[name].numel() != 1 for name in ("min", "max")):
        return _by_element(call, call.activations[0])
    return clamp(call, call.activations[0], _limit(call, "min"), _limit(call, "max"))


@from_aten("aten.clamp_min")
def _clamp_min(call: Call) -> Value:
    return clamp(call, call.activation("self"), _limit(call, "min"), None)


@from_aten("aten.clamp_max")
def _clamp_max(call: Call) -> Value:
    return clamp(call, call.activation("self"), None, _limit(call, "max"))


@from_aten("aten.hardtanh")
def _hardtanh(call: Call) -> Value:
    return clamp(call, call.activation("self"), _limit(call, "min_val"), _limit(call, "max_val"))


@from_aten("aten.relu6")
def _relu6(call: Call) -> Value:
    return clamp(call, call.activation("self"), 0.0, 6.0)
