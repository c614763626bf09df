"""Choices by comparing an activation with a number: functions of linear pieces, as ReLUs where they do not jump.

``where(x > 0, a, b)``, masks that are multiplied with, comparisons turned into numbers. Both branches and what is
compared must be made of linear pieces of one activation, element by element; the choice is then one function of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from clinch.network.build import Builder
from clinch.network.comparisons import COMPARES, JOINS, NOT, NUMBERS, Comparisons, always_true
from clinch.network.ops.add import Add, Subtract
from clinch.network.ops.bilinear import Multiply
from clinch.network.ops.layout import Moved
from clinch.network.ops.lazy import Lazy, evaluate, leaves
from clinch.network.ops.piecewise import Line, PiecewiseLinear, emit_piecewise
from clinch.network.ops.reading import Value
from clinch.network.ops.scale import Scale
from clinch.network.ops.shape import Expand

#: layers that a branch may be written in, breaks that a function may have
_DEPTH, _BREAKS = 8, 16
#: how far a number at a break may be from both sides by rounding
_NEAR = 1e-9

Piecewise = PiecewiseLinear


def written_out(builder: Builder, name: str, bound: dict[str, Any], layer: str, source: str) -> Value | None:
    """A choice that a call makes, as one function of linear pieces; None: it is none, or another call.

    Args:
        builder: takes the nodes.
        name: of the call, such as ``aten.where``.
        bound: its arguments.
        layer, source: for the nodes.
    """

    branches = _branches(name.removeprefix("aten."), bound)
    if name in ("aten.mul", "aten.multiply") and isinstance(bound.get("self"), Value):
        masked = _masked(builder, bound["self"], bound.get("other"), layer, source)
        if masked is not None:
            return masked
    return None if branches is None else _emitted(builder, *branches, layer, source)


def masked(builder: Builder, name: str, bound: dict[str, Any], layer: str, source: str) -> Value | None:
    """A choice between any two activations or numbers, as a sum of each times zeros and ones; None: it is no choice.

    Arguments: see :func:`written_out`.
    """
    branches = _branches(name.removeprefix("aten."), bound) if name in ("aten.where", "aten.masked_fill") else None
    condition, *either = branches or (None,)
    kept = [b if isinstance(b, Value) else _number(b) for b in either]
    if not isinstance(condition, Lazy) or not kept or any(b is None for b in kept):
        return None
    mask = as_number(builder, condition, layer, source)
    if mask is None:
        return None
    shapes = {mask.shape, *(b.shape for b in kept if isinstance(b, Value))}
    whole = torch.broadcast_shapes(*shapes)
    if len(set(map(len, shapes))) > 1:
        return None
    if mask.shape != whole:
        mask = builder.emit(Expand(tuple(whole)), [mask], layer, source)
    kept = [
        builder.emit(Expand(tuple(whole)), [b], layer, source) if isinstance(b, Value) and b.shape != whole else b
        for b in kept
    ]

    def scaled(value: Value, slope: float, shift: float) -> Value:
        scale = Scale(*(torch.tensor(n, dtype=torch.float64) for n in (slope, shift)))
        return builder.emit(scale, [value], layer, source)

    def chosen(where: Value, branch: Value | float) -> Value:
        whole = isinstance(branch, Value)
        return builder.emit(Multiply(), [branch, where], layer, source) if whole else scaled(where, branch, 0.0)

    parts = [chosen(where, branch) for where, branch in zip((mask, scaled(mask, -1.0, 1.0)), kept)]  # type: ignore[arg-type]
    return builder.emit(Add(), parts, layer, source)


def as_number(builder: Builder, condition: Any, layer: str, source: str) -> Value | None:
    """A condition as an activation that is 1 where it holds and 0 elsewhere; None: it is none of comparisons."""
    found = _emitted(builder, condition, 1.0, 0.0, layer, source)
    return found if found is not None else Comparisons(builder, layer, source).number(condition)


def _emitted(builder: Builder, condition: Any, first: Any, second: Any, layer: str, source: str) -> Value | None:
    """``condition ? first : second`` as one function of linear pieces."""
    root = _first_activation(condition)
    for _ in range(_DEPTH):
        if root is None:
            break
        holds, branches = _indicator(builder, condition, root), _all_pieces(builder, (first, second), root)
        if holds is not None and branches is not None:
            f = _joined([holds, *branches], lambda at, of: of[1] if at[0] > 0.5 else of[2])
            if f is not None and len(f.breaks) <= _BREAKS:
                return emit_piecewise(lambda op, *inputs: builder.emit(op, inputs, layer, source), root, f)
        root = _before(builder, root)
    return None


def _masked(builder: Builder, x: Value, y: Any, layer: str, source: str) -> Value | None:
    """A product with a function of steps of the same activation, such as a mask."""
    for operand in (x, y):
        root, seen = operand if isinstance(operand, Value) else None, False
        for _ in range(_DEPTH):
            if root is None:
                break
            seen |= isinstance(builder.nodes[root.position].op, Piecewise)
            root = _before(builder, root)
            parts = None if root is None or not seen else _all_pieces(builder, (x, y), root)
            if root is None or parts is None:
                continue
            f = _joined(parts, lambda at, of: of[0].times(of[1]))
            if f is not None and len(f.breaks) <= _BREAKS and not any(math.isnan(line.slope) for line in f.lines):
                return emit_piecewise(lambda op, *inputs: builder.emit(op, inputs, layer, source), root, f)
    return None


def _branches(name: str, bound: dict[str, Any]) -> tuple[Any, Any, Any] | None:
    """The condition, and what is chosen where it holds and where it does not."""
    if name == "where":
        return bound.get("condition"), bound.get("self"), bound.get("other")
    if name == "masked_fill":
        return bound.get("mask"), bound.get("value"), bound.get("self")
    if name in ("mul", "multiply"):
        x, mask = bound.get("self"), bound.get("other")
        return (x, mask, 0.0) if isinstance(x, Lazy) else (mask, x, 0.0)
    return (bound.get("self"), 1.0, 0.0) if name in NUMBERS else None


def _first_activation(condition: Any) -> Value | None:
    """Of a comparison."""
    found = leaves(condition) if isinstance(condition, Lazy) else []
    return next((leaf for leaf in found if isinstance(leaf, Value)), None)


def _number(value: Any) -> float | None:
    """A number, or a tensor of one number again and again."""
    if isinstance(value, Lazy):
        if any(isinstance(leaf, (Value, Moved)) for leaf in leaves(value)):
            return None
        value = evaluate(value, [], size=2)
    if isinstance(value, Tensor) and value.numel() and value.dtype != torch.bool and not value.is_complex():
        first = value.flatten()[0]
        return float(first) if bool((value == first).all()) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _indicator(builder: Builder, condition: Any, root: Value) -> Piecewise | None:
    """1 where a condition holds and 0 elsewhere, as a function of the root; None: it is none of linear pieces."""
    if not isinstance(condition, Lazy):
        return None
    word = str(getattr(condition.function, "overloadpacket", "")).partition(".")[2]
    arguments = condition.arguments
    if word in NUMBERS:
        return _indicator(builder, arguments[0], root)
    if (always := always_true(word, arguments)) is not None:
        return PiecewiseLinear((), (Line(0.0, float(always)),), ())
    if word in NOT or word in JOINS:
        parts = [_indicator(builder, argument, root) for argument in arguments]
        known = [part for part in parts if part is not None]
        join = JOINS.get(word, lambda a, _: 1.0 - a)
        return _joined(known, lambda at, of: Line(0.0, join(at[0], at[-1]))) if len(known) == len(parts) else None
    if word not in COMPARES or len(arguments) != 2:
        return None
    above, equal = COMPARES[word]
    sides = _all_pieces(builder, arguments, root)
    gap = None if sides is None else _joined(sides, lambda at, of: of[0].plus(of[1].moved(-1.0, 0.0)))
    if sides is None or gap is None:
        return None

    def holds(at: list[float], of: list[Line]) -> Line:
        return Line(0.0, float(equal if at[0] == at[1] else (at[0] > at[1]) == above))

    return _joined(sides, holds, _crossings(gap, 0.0))


def _before(builder: Builder, value: Value) -> Value | None:
    """The activation that a piecewise linear function of one is applied to."""
    node = builder.nodes[value.position]
    if len(node.inputs) != 1 or not (isinstance(node.op, Scale | Piecewise) or node.op.splits_at_zero):
        return None
    shape = builder.nodes[node.inputs[0]].shape
    return Value(node.inputs[0], value.shape) if shape == node.shape else None


# --- functions of linear pieces --------------------------------------------------------------------------------------

_SAME = PiecewiseLinear((), (Line(1.0, 0.0),), ())


def _pieces(builder: Builder, value: Any, root: Value, depth: int) -> Piecewise | None:
    """A number or an activation as a function of the root; None: it is none of linear pieces."""
    number = _number(value)
    if number is not None:
        return PiecewiseLinear((), (Line(0.0, number),), ())
    if not isinstance(value, Value) or value.shape != root.shape:
        return None
    if value.position == root.position:
        return _SAME
    node = builder.nodes[value.position]
    if not depth or value.position < root.position or any(builder.nodes[i].shape != node.shape for i in node.inputs):
        return None
    inputs = _all_pieces(builder, [Value(i, root.shape) for i in node.inputs], root, depth - 1)
    if not inputs:
        return None
    first, *rest = inputs
    if isinstance(node.op, Scale):
        scale = 1.0 if node.op.scale is None else _number(node.op.scale)
        shift = 0.0 if node.op.shift is None else _number(node.op.shift)
        return None if scale is None or shift is None else _joined([first], lambda at, of: of[0].moved(scale, shift))
    if isinstance(node.op, Add | Subtract):
        sign = 1.0 if isinstance(node.op, Add) else -1.0
        return _joined([first, rest[0]], lambda at, of: of[0].plus(of[1].moved(sign, 0.0)))
    if isinstance(node.op, Piecewise):
        outer = node.op
        breaks = [x for at in outer.breaks for x in _crossings(first, at)]
        return _joined([first], lambda at, of: of[0].followed_by(outer.line_at(at[0])), breaks)
    two = node.op.two_pieces()
    if two is not None:
        slope = two.negative_slope
        return _joined([first], lambda at, of: of[0] if at[0] >= 0 else of[0].moved(slope, 0.0), _crossings(first, 0.0))
    return None


def _all_pieces(builder: Builder, values: Sequence[Any], root: Value, depth: int = _DEPTH) -> list[Piecewise] | None:
    """Several of them; None: one is none of linear pieces."""
    found = [_pieces(builder, value, root, depth) for value in values]
    known = [f for f in found if f is not None]
    return known if len(known) == len(found) else None


def _crossings(f: Piecewise, level: float) -> list[float]:
    """Where f passes a number inside its intervals."""
    edges = [-torch.inf, *f.breaks, torch.inf]
    at = [((level - line.shift) / line.slope if line.slope else torch.nan) for line in f.lines]
    return [x for x, low, high in zip(at, edges, edges[1:]) if low < x < high]


def _joined(
    parts: list[Piecewise], combine: Callable[[list[float], list[Line]], Line], more: Sequence[float] = ()
) -> Piecewise | None:
    """A combination of functions; None: a value at a break belongs to neither side.

    Args:
        parts: the functions.
        combine: their values at a point, and their lines there, to the line of the combination.
        more: where it may have breaks beside those of the functions.
    """
    breaks = sorted({at for f in parts for at in f.breaks} | set(more))
    edges = [(breaks or [0.0])[0] - 2.0, *breaks, (breaks or [0.0])[-1] + 2.0]
    lines = []
    for low, high in pairwise(edges):
        middle = (low + high) / 2
        own = [f.line_right_of(middle) for f in parts]
        lines.append(combine([line.at(middle) for line in own], own))
    kept: list[tuple[float, bool]] = []
    result = [lines[0]]
    for at, line in zip(breaks, lines[1:]):
        values = [f.line_at(at).at(at) for f in parts]
        here = combine(values, [Line(0.0, value) for value in values]).shift
        off = [abs(here - side.at(at)) for side in (result[-1], line)]
        if min(off) > _NEAR * (1 + abs(here)):
            return None
        if line != result[-1]:
            kept.append((at, off[0] <= off[1]))
            result.append(line)
        elif off[0] > _NEAR * (1 + abs(here)):
            return None
    return PiecewiseLinear(tuple(at for at, _ in kept), tuple(result), tuple(closed for _, closed in kept))
