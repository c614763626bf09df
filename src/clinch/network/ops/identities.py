"""Calls that are other calls by an identity: powers and logarithms of other bases, losses, sums in the exponent, masks.

They are written out with the readers of their parts, so that every fact of the parts holds for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clinch.network.ops.composites import Operand, Parts
from clinch.network.ops.reading import Call, Reader, Value, from_aten, from_onnx
from clinch.network.ops.scale import Scale, per_sample


def _activation(value: Operand) -> Value:
    """A sum or product of which one part is an activation."""
    assert isinstance(value, Value)
    return value


def _scaled_in(name: str, factor: float) -> Reader:
    """A function of a multiple of its input."""
    return lambda call: Parts(call).apply(
        name, self=Parts(call).multiply(call.activation("self"), call.constant(factor))
    )


def _scaled_out(name: str, factor: float, shift: float = 0.0) -> Reader:
    """A multiple of a function, and a constant."""

    def read(call: Call) -> Value:
        value = Parts(call).apply(name, self=call.activation("self"))
        constants = (torch.tensor(n, dtype=torch.float64) for n in (factor, shift))
        return call.emit(Scale(*constants), value)

    return read


from_aten("aten.exp2", "aten.special_exp2")(_scaled_in("aten.exp", math.log(2)))
from_aten("aten.log2")(_scaled_out("aten.log", 1 / math.log(2)))
from_aten("aten.log10")(_scaled_out("aten.log", 1 / math.log(10)))
from_aten("aten.erfc", "aten.special_erfc")(_scaled_out("aten.erf", -1.0, 1.0))


@from_aten("aten.logit", "aten.special_logit")
def _logit(call: Call) -> Value:
    """``log x − log (1 − x)``."""
    parts, x, eps = Parts(call), call.activation("self"), call.get("eps")
    if eps is not None:
        x = parts.apply("aten.clamp", self=x, min=eps, max=1 - eps)
    rest = parts.subtract(call.constant(1.0), x)
    return parts.subtract(parts.function("aten.log", x), parts.function("aten.log", rest))


@from_aten("aten.logaddexp")
def _log_of_sum(call: Call) -> Value:
    """``log (e^a + e^b) = b + softplus(a − b)``."""
    parts, b = Parts(call), call.operand("other")
    return _activation(parts.add(parts.apply("aten.softplus", self=parts.subtract(call.operand("self"), b)), b))


def _loss(of: Callable[[Call, Parts, Value], Operand]) -> Reader:
    """A function of the difference, element by element."""

    def read(call: Call) -> Value | None:
        if call.get("reduction", 1) != 0:
            return None
        parts = Parts(call)
        return _activation(of(call, parts, parts.subtract(call.operand("self"), call.operand("target"))))

    return read


def _bent_square(call: Call, parts: Parts, gap: Value, near: float, square: float, line: float) -> Operand:
    """``square·c² + line·(|gap| − c)`` with ``c = min(|gap|, near)``."""
    size = parts.function("aten.abs", gap)
    inner = parts.apply("aten.clamp_max", self=size, max=near)
    outer = parts.multiply(parts.subtract(size, inner), call.constant(line))
    return parts.add(parts.multiply(parts.function("aten.square", inner), call.constant(square)), outer)


def _huber(call: Call, parts: Parts, gap: Value) -> Operand:
    delta = call.number("delta", 1.0)
    return _bent_square(call, parts, gap, delta, 0.5, delta)


def _smooth_l1(call: Call, parts: Parts, gap: Value) -> Operand:
    beta = call.number("beta", 1.0)
    return _bent_square(call, parts, gap, beta, 0.5 / beta, 1.0) if beta else parts.function("aten.abs", gap)


from_aten("aten.huber_loss")(_loss(_huber))
from_aten("aten.smooth_l1_loss")(_loss(_smooth_l1))
from_aten("aten.mse_loss")(_loss(lambda call, parts, gap: parts.function("aten.square", gap)))
from_aten("aten.l1_loss")(_loss(lambda call, parts, gap: parts.function("aten.abs", gap)))


@from_aten("aten.baddbmm")
def _sum_with_a_product(call: Call) -> Value | None:
    """``β·self + α·(a @ b)``."""
    parts = Parts(call)
    product = parts.product(call.operand("batch1"), call.operand("batch2"))
    added = call.operand("self")
    factors = ((product, call.number("alpha", 1.0)), (added, call.number("beta", 1.0)))
    product, added = (parts.multiply(value, call.constant(by)) if by != 1 else value for value, by in factors)
    return _activation(parts.add(product, added))


# --- constant masks --------------------------------------------------------------------------------------------------


@from_aten("aten.masked_fill")
def _filled(call: Call) -> Value | None:
    mask, value = call.get("mask"), call.get("value")
    if not isinstance(mask, Tensor) or not isinstance(call.arguments.get("self"), Value):
        return None
    return chosen(call, ~mask, call.activation("self"), call.constant(value))


@from_aten("aten.where")
@from_onnx("Where")
def _where(call: Call) -> Value | None:
    """A choice by a constant mask."""
    mask, names = call.get("condition"), ("self", "other") if "self" in call.arguments else ("X", "Y")
    if not isinstance(mask, Tensor):
        return None
    return chosen(call, mask, *(call.operand(name) for name in names))


def chosen(call: Call, mask: Tensor, first: Operand, second: Operand) -> Value | None:
    """The first where a constant mask holds, else the second: a sum of the two, masked."""
    parts = Parts(call)
    kept: list[Operand] = []
    for branch, holds in ((first, mask), (second, ~mask)):
        if isinstance(branch, Tensor):
            constant = torch.where(holds, branch.double(), 0.0)
            if bool((constant.isnan() | constant.isposinf()).any()):
                return None
            kept.append(constant)
        else:
            kept.append(parts.multiply(branch, per_sample(call, holds, len(branch.shape)).double()))
    return _activation(parts.add(*kept))
