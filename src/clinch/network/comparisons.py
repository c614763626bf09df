"""Comparisons of any activations as layers of zeros and ones: a step at zero of the difference of both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clinch.network.build import Builder
from clinch.network.ops.add import Add, Subtract
from clinch.network.ops.average_pool import Reduce
from clinch.network.ops.base import Operator
from clinch.network.ops.layout import Moved
from clinch.network.ops.lazy import Lazy, evaluate, leaves
from clinch.network.ops.piecewise import Line, PiecewiseLinear
from clinch.network.ops.reading import Value
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.scale import Scale
from clinch.network.ops.shape import Expand, Reshape

#: comparison -> whether it holds for larger numbers, and where both are equal
COMPARES = {
    "gt": (True, False), "greater": (True, False), "ge": (True, True), "greater_equal": (True, True),
    "lt": (False, False), "less": (False, False), "le": (False, True), "less_equal": (False, True),
}  # fmt: skip
#: two conditions in one, as indicators
JOINS: dict[str, Callable[[float, float], float]] = {
    "logical_and": min, "bitwise_and": min, "__and__": min, "mul": min, "logical_or": max, "bitwise_or": max,
    "__or__": max, "logical_xor": lambda a, b: abs(a - b), "bitwise_xor": lambda a, b: abs(a - b),
}  # fmt: skip
NOT = ("logical_not", "bitwise_not")
#: calls that make numbers of a comparison
NUMBERS = ("to", "_to_copy", "type_as", "float", "double", "int", "long", "clone")
#: comparisons that hold at single points, and whether they do
EQUALS = {"eq": True, "equal": True, "ne": False, "not_equal": False}


#: whether they hold for any real number
_OF_NUMBERS = {"isnan": False, "isinf": False, "isposinf": False, "isneginf": False, "isfinite": True}


def always_true(word: str, arguments: Sequence[Any]) -> bool | None:
    """Whether a condition holds for all real numbers, or for none: ``isnan(x)``, ``x != x``; None: it varies."""
    if word in EQUALS and isinstance(arguments[0], Value) and arguments[0] is arguments[1]:
        return EQUALS[word]
    return _OF_NUMBERS.get(word) if isinstance(arguments[0], Value) else None


def _step(left: float, right: float, middle: float) -> PiecewiseLinear:
    """``left`` below zero, ``right`` above it, and one of both at zero."""
    return PiecewiseLinear((0.0,), (Line(0.0, left), Line(0.0, right)), (middle == left,))


class Comparisons:
    """Emits conditions as activations.

    Args:
        builder: takes the nodes.
        layer: their name.
        source: where they come from.
    """

    def __init__(self, builder: Builder, layer: str, source: str) -> None:
        self.builder, self.layer, self.source = builder, layer, source

    def number(self, condition: Any) -> Value | None:
        """1 where a condition holds and 0 elsewhere; None: it is none of comparisons of activations and constants."""
        if not isinstance(condition, Lazy):
            return None
        real: Callable[[], Value | None] = getattr(condition, "real", lambda: None)
        found = self._compared(condition) if getattr(condition, "truth", True) else None
        return real() if found is None else found

    def _compared(self, condition: Lazy) -> Value | None:
        word = str(getattr(condition.function, "overloadpacket", "")).partition(".")[2]
        arguments = condition.arguments
        if word in NUMBERS:
            return self.number(arguments[0])
        if (always := always_true(word, arguments)) is not None:
            return self._scaled(arguments[0], 0.0, float(always))
        if word == "sum" and len(arguments) > 1:
            return self._counted(*arguments[:2], keep=len(arguments) > 2 and bool(arguments[2]))
        if word in NOT or word in JOINS:
            parts = [self.number(argument) for argument in arguments]
            known = [part for part in parts if part is not None]
            return self._joined(word, known) if len(known) == len(parts) else None
        if len(arguments) != 2 or word not in COMPARES | EQUALS:
            return None
        gap = self._gap(*arguments)
        if gap is None:
            return None
        if word in COMPARES:
            above, equal = COMPARES[word]
            return self._emit(_step(float(not above), float(above), float(equal)), gap)
        # at zero both steps are one
        sides = (self._emit(_step(*ends, 1.0), gap) for ends in ((0.0, 1.0), (1.0, 0.0)))
        same = self._scaled(self._emit(Add(), *sides), 1.0, -1.0)
        return same if EQUALS[word] else self._scaled(same, -1.0, 1.0)

    def _emit(self, op: Operator, *inputs: Value) -> Value:
        return self.builder.emit(op, inputs, self.layer, self.source)

    def _scaled(self, x: Value, scale: float, shift: float) -> Value:
        return self._emit(Scale(*(torch.tensor(n, dtype=torch.float64) for n in (scale, shift))), x)

    def _joined(self, word: str, parts: list[Value]) -> Value | None:
        """``1 − a``, ``max(a + b − 1, 0)``, ``1 − max(1 − a − b, 0)`` or ``|a − b|``."""
        if word in NOT:
            return self._scaled(parts[0], -1.0, 1.0)
        if len(parts) != 2 or len(parts[0].shape) != len(parts[1].shape):
            return None
        join = JOINS[word]
        if join is min:
            return self._emit(LeakyReLU(), self._scaled(self._emit(Add(), *parts), 1.0, -1.0))
        if join is max:
            return self._scaled(self._emit(LeakyReLU(), self._scaled(self._emit(Add(), *parts), -1.0, 1.0)), -1.0, 1.0)
        return self._emit(LeakyReLU(-1.0), self._emit(Subtract(), *parts))

    def _counted(self, condition: Any, dims: Any, *, keep: bool) -> Value | None:
        """How often a condition holds along dimensions."""
        inner = self.number(condition)
        if inner is None or not isinstance(dims, (list, tuple)):
            return None
        axes = tuple(sorted((d + len(inner.shape) + 1 if d < 0 else d) - 1 for d in dims))
        return self._emit(Reduce(axes, keep), inner) if axes and axes[0] >= 0 else None

    def _gap(self, a: Any, b: Any) -> Value | None:
        """``a − b``; None: neither is an activation, or shapes do not fit."""
        a, b = (side if isinstance(side, Value) else self._side(side) for side in (a, b))
        if a is None or b is None or (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return None
        if isinstance(a, Tensor):
            return None if (x := self._of(a, b)) is None else self._emit(Scale(a.new_tensor(-1.0), x), self._wide(b, x))
        if isinstance(b, Tensor):
            return None if (x := self._of(b, a)) is None else self._emit(Scale(None, -x), self._wide(a, x))
        rank = max(len(a.shape), len(b.shape))
        a, b = (
            x if len(x.shape) == rank else self._emit(Reshape((*[1] * (rank - len(x.shape)), *x.shape)), x)
            for x in (a, b)
        )
        return self._emit(Subtract(), a, b)

    def _wide(self, x: Value, beside: Tensor) -> Value:
        """An activation repeated to the shape that it has beside a constant."""
        shape = tuple(torch.broadcast_shapes(x.shape, beside.shape))
        return x if shape == x.shape else self._emit(Expand(shape), x)

    def _side(self, side: Any) -> Value | Tensor | None:
        """A constant, or whole numbers that depend on activations as a real one."""
        real: Callable[[], Value | None] = getattr(side, "real", lambda: None)
        constant = self._constant(side)
        return real() if constant is None else constant

    @staticmethod
    def _of(constant: Tensor, x: Value) -> Tensor | None:
        """A finite constant for one sample."""
        if constant.dim() == len(x.shape) + 1 and constant.shape[0] == 1:
            constant = constant[0]
        return constant if constant.dim() <= len(x.shape) and bool(constant.isfinite().all()) else None

    @staticmethod
    def _constant(value: Any) -> Tensor | None:
        if isinstance(value, Lazy):
            if any(isinstance(leaf, (Value, Moved)) for leaf in leaves(value)):
                return None
            value = evaluate(value, [], size=1)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return torch.tensor(float(value), dtype=torch.float64)
        if not isinstance(value, Tensor) or value.dtype == torch.bool or value.is_complex():
            return None
        return value.to(torch.float64)
