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
from clinch.network.ops.select import Take
from clinch.network.ops.shape import Expand, Reshape
from clinch.network.ops.softmax import LogSumExp
from clinch.network.ops.within import Within


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


@from_aten("aten.xlogy", "aten.special_xlogy")
def _times_log(call: Call) -> Value:
    """``x·log y``."""
    parts, y = Parts(call), call.operand("other")
    return _activation(parts.multiply(call.operand("self"), parts.function("aten.log", y)))


@from_aten("aten.nan_to_num")
def _numbers_alone(call: Call) -> Value:
    """The same: activations are numbers."""
    return call.activation("self")


@from_aten("aten.atan2", "aten.arctan2")
def _angle(call: Call) -> Value:
    """``2·arctan(y/(√(x² + y²) + x))``, whose limits reach over all angles where x may be negative or zero."""
    parts, y, x = Parts(call), call.operand("self"), call.operand("other")
    length = parts.apply("aten.hypot", self=x, other=y)
    half = parts.apply("aten.div", self=y, other=parts.add(length, x))
    found = _activation(parts.multiply(parts.function("aten.atan", half), call.constant(2.0)))
    return call.emit(Within(-math.pi, math.pi), found)


@from_aten("aten.linalg_cross", "aten.cross")
def _cross(call: Call) -> Value:
    """``a_(i+1)·b_(i+2) − a_(i+2)·b_(i+1)``."""
    parts, a, b = Parts(call), call.operand("self"), call.operand("other")
    rank = max(len(v.shape) - isinstance(v, Tensor) for v in (a, b))
    dim = call.axis(call.get("dim", -1), rank)

    def turned(v: Operand, by: int) -> Operand:
        order = torch.arange(3).roll(-by)
        return v.index_select(dim - rank, order) if isinstance(v, Tensor) else call.emit(Take(dim, order), v)

    products = (parts.multiply(turned(a, i), turned(b, j)) for i, j in ((1, 2), (2, 1)))
    return parts.subtract(*products)


@from_aten("aten.logcumsumexp")
def _running_log_of_sum(call: Call) -> Value:
    """``log Σ_(j<=i) e^x_j``: a masked logarithm of a sum for each i."""
    x = call.activation("self")
    dim, rank = call.axis(call["dim"], len(x.shape)), len(x.shape)
    n = x.shape[dim]
    shape = (*x.shape[: dim + 1], n, *x.shape[dim + 1 :])
    wide = call.emit(Expand(shape), call.emit(Reshape((*x.shape[: dim + 1], 1, *x.shape[dim + 1 :])), x))
    until = torch.ones(n, n, dtype=torch.bool).triu().reshape(n, n, *[1] * (rank - dim - 1))
    return call.emit(LogSumExp((dim,), False, kept=until.expand(shape)), wide)


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
