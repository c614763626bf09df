"""Whole numbers and truth values that depend on activations, as real activations: what bounds see of them.

A call that gives whole numbers waits for the one that makes real numbers of them (:class:`Lazy`). Beside it stands how
it is read as a real activation: comparisons, counts, the place of the largest element, places in a table of steps. A
table that is looked up by a whole number r is ``T_0 + Σ_k (T_k − T_{k−1})·[r ≥ k − 1/2]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from clinch.network.comparisons import NUMBERS
from clinch.network.ops.average_pool import Reduce
from clinch.network.ops.composites import Operand, Parts
from clinch.network.ops.dense import Dense
from clinch.network.ops.hull import Hull
from clinch.network.ops.lazy import Lazy
from clinch.network.ops.order import MOST_SORTED
from clinch.network.ops.piecewise import Line, PiecewiseLinear
from clinch.network.ops.reading import Call, Value
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.rests import truncated
from clinch.network.ops.scale import Scale
from clinch.network.ops.shape import Expand, Reshape
from clinch.network.ops.whole import ArgMax

#: entries of a table that is looked up by steps
MOST_STEPS = 256
#: calls that look up by their whole numbers
LOOKS_UP = frozenset(
    f"aten.{name}"
    for name in ("index", "gather", "scatter", "scatter_add", "scatter_reduce", "embedding", "index_select", "take",
                 "take_along_dim", "index_put", "index_add", "index_copy", "index_fill", "index_reduce", "one_hot")
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class WholeNumbers(Lazy):
    """A call that gives whole numbers or truth values.

    Attributes:
        truth: it gives truth values.
        real: emits them as a real activation, or gives None; see :func:`whole_value`.
    """

    truth: bool
    real: Callable[[], Value | None]


def _step(above: float, *, at: bool) -> PiecewiseLinear:
    """``[x > a]``, or ``[x ≥ a]``."""
    return PiecewiseLinear((above,), (Line(0.0, 0.0), Line(0.0, 1.0)), (not at,))


def whole_value(call: Call, name: str, of: dict[str, Any]) -> Value | None:
    """A call that gives whole numbers as a real activation; None: it is none that is known.

    Args:
        call: takes the nodes.
        name: of the call, such as ``aten.argmax``.
        of: its arguments; whole numbers that depend on activations are real activations.
    """
    word = name.removeprefix("aten.")
    x = of.get("self", of.get("input"))
    if word == "where" and isinstance(of.get("condition"), Value):
        return _either(Parts(call), of["condition"], of.get("self"), of.get("other"))
    if word in ("any", "all", "count_nonzero") and isinstance(x, Value):
        return _counted(call, word, of, x)
    if word in NUMBERS and isinstance(x, Value):
        return truncated(call, x)
    if word == "signbit" and isinstance(x, Value):
        return call.emit(_step(0.0, at=False), call.emit(Scale(*_numbers(-1.0, 0.0)), x))
    if word in ("argmax", "argmin"):
        return _place_of_largest(call, of, x, 1.0 if word == "argmax" else -1.0)
    if word == "bucketize" and isinstance(x, Value):
        return _below(call, x, of.get("boundaries"), right=bool(of.get("right")))
    if word == "searchsorted" and isinstance(of.get("sorted_sequence"), Tensor):
        y = of.get("self")
        right = bool(of.get("right")) or of.get("side") == "right"
        if not isinstance(y, Value) or of.get("sorter") is not None:
            return None
        return _below(call, y, of["sorted_sequence"], right=right)
    if word == "one_hot" and isinstance(x, Value) and isinstance(of.get("num_classes"), int):
        return _one_hot(call, x, of["num_classes"])
    return None


def _numbers(*of: float) -> list[Tensor]:
    return [torch.tensor(n, dtype=torch.float64) for n in of]


def _counted(call: Call, word: str, of: dict[str, Any], x: Value) -> Value | None:
    """How many are not zero, of truth values as zeros and ones; ``any`` is ``min(count, 1)``."""
    given = of.get("dim")
    dims = [given] if isinstance(given, int) else given
    if not dims:
        return None
    parts, n = Parts(call), 1
    count = parts.apply("aten.sum", self=x, dim=list(dims), keepdim=bool(of.get("keepdim", False)))
    if word == "count_nonzero":
        return count
    for dim in dims:
        n *= x.shape[call.axis(dim, len(x.shape))]
    if word == "all":
        return call.emit(LeakyReLU(), call.emit(Scale(*_numbers(1.0, 1.0 - n)), count))
    none = call.emit(LeakyReLU(), call.emit(Scale(*_numbers(-1.0, 1.0)), count))
    return call.emit(Scale(*_numbers(-1.0, 1.0)), none)


def _either(parts: Parts, chosen: Value, first: Any, second: Any) -> Value | None:
    """``b + c·(a − b)`` for c of zeros and ones."""
    a, b = (side if isinstance(side, Value) else parts.call.constant(side) for side in (first, second))
    gap = a - b if isinstance(a, Tensor) and isinstance(b, Tensor) else parts.subtract(a, b)
    found = parts.add(parts.multiply(gap, chosen), b)
    return found if isinstance(found, Value) else None


def _below(call: Call, x: Value, edges: Any, *, right: bool) -> Value | None:
    """How many of ascending numbers lie below each element, those that are equal too where the right side counts."""
    if not isinstance(edges, Tensor) or edges.dim() != 1 or len(edges) > MOST_STEPS:
        return None
    lines = tuple(Line(0.0, float(k)) for k in range(len(edges) + 1))
    breaks = tuple(edges.double().tolist())
    if any(a >= b for a, b in pairwise(breaks)):
        return None
    return call.emit(PiecewiseLinear(breaks, lines, (not right,) * len(breaks)), x)


def _place_of_largest(call: Call, of: dict[str, Any], x: Operand | None, sign: float) -> Value | None:
    """``Σ_j j·[x_j is the first of the largest]``; of many elements the limits of the place alone."""
    if not isinstance(x, Value) or not isinstance(of.get("dim"), int):
        return None
    dim, keep = call.axis(of["dim"], len(x.shape)), bool(of.get("keepdim"))
    chosen = is_largest(call, x, dim, sign)
    if chosen is None:
        x = x if sign > 0 else call.emit(Scale(*_numbers(-1.0, 0.0)), x)
        place = call.emit(ArgMax(dim), x)
        shape = place.shape if keep else (*x.shape[:dim], *x.shape[dim + 1 :])
        return place if place.shape == shape else call.emit(Reshape(shape), place)
    places = torch.arange(x.shape[dim], dtype=torch.float64).reshape(-1, *[1] * (len(x.shape) - dim - 1))
    weighted = call.emit(Scale(places), chosen)
    return Parts(call).apply("aten.sum", self=weighted, dim=[dim + 1], keepdim=keep)


def is_largest(call: Call, x: Value, dim: int, sign: float = 1.0) -> Value | None:
    """1 at the first of the largest (sign 1) or smallest elements along a dimension of a sample, 0 elsewhere.

    An element is that where it exceeds all before it and is below none behind it. None: there are too many.
    """
    n = x.shape[dim]
    if n > MOST_SORTED:
        return None
    if n == 1:
        return call.emit(Scale(*_numbers(0.0, 1.0)), x)
    parts = Parts(call)
    x = x if sign > 0 else call.emit(Scale(*_numbers(-1.0, 0.0)), x)

    def largest_so_far(y: Value) -> Value:
        return parts.apply("values of aten.cummax", self=y, dim=dim + 1)

    front = largest_so_far(parts.part(x, dim, 0, n - 1))
    behind = parts.apply("aten.flip", self=parts.part(x, dim, 1, n - 1), dims=[dim + 1])
    behind = parts.apply("aten.flip", self=largest_so_far(behind), dims=[dim + 1])
    exceeds = call.emit(_step(0.0, at=False), parts.subtract(parts.part(x, dim, 1, n - 1), front))
    reaches = call.emit(_step(0.0, at=True), parts.subtract(parts.part(x, dim, 0, n - 1), behind))
    first, last = parts.part(reaches, dim, 0, 1), parts.part(exceeds, dim, n - 2, 1)
    if n == 2:
        return parts.apply("aten.cat", tensors=[first, last], dim=dim + 1)
    both = parts.add(parts.part(exceeds, dim, 0, n - 2), parts.part(reaches, dim, 1, n - 2))
    between = call.emit(LeakyReLU(), call.emit(Scale(*_numbers(1.0, -1.0)), both))  # type: ignore[arg-type]
    return parts.apply("aten.cat", tensors=[first, between, last], dim=dim + 1)


def _steps(call: Call, place: Value, count: int) -> Value:
    """``[r ≥ k − 1/2]`` for k = 1, …, count − 1, in a new last dimension."""
    wide = call.emit(Reshape((*place.shape, 1)), place)
    wide = call.emit(Expand((*place.shape, count - 1)), wide) if count > 2 else wide
    middles = torch.arange(1, count, dtype=torch.float64) - 0.5
    return call.emit(_step(0.0, at=True), call.emit(Scale(None, -middles), wide))


def _one_hot(call: Call, place: Value, count: int) -> Value | None:
    """``[r ≥ k − 1/2] − [r ≥ k + 1/2]``."""
    if not 1 < count <= MOST_STEPS:
        return None
    return rows_of_table(call, place, torch.eye(count, dtype=torch.float64))


def rows_of_table(call: Call, place: Value, table: Tensor) -> Value | None:
    """The rows ``table[r]`` of a constant ``(count, *row)`` at whole numbers."""
    count = len(table)
    if not 0 < count <= MOST_STEPS:
        return None
    flat = table.reshape(count, -1).double()
    shape = (*place.shape, *table.shape[1:])
    if table.dim() == 1:
        lines = tuple(Line(0.0, float(n)) for n in flat[:, 0])
        breaks = tuple(k - 0.5 for k in range(1, count))
        return call.emit(PiecewiseLinear(breaks, lines, (False,) * len(breaks)), place)
    if count == 1:
        return None
    steps = _steps(call, place, count)
    rows = call.emit(Dense((flat[1:] - flat[:-1]).T.contiguous(), flat[0]), steps)
    return call.emit(Reshape(shape), rows) if rows.shape != shape else rows


def table_lookup(name: str, of: dict[str, Any]) -> tuple[Tensor, Any] | None:
    """The constant table and the whole numbers of a call that looks up rows; None: it is another call."""
    if name == "aten.embedding" and isinstance(of.get("weight"), Tensor):
        return of["weight"], of.get("indices")
    if name == "aten.index" and isinstance(of.get("self"), Tensor) and isinstance(of.get("indices"), Sequence):
        indices = of["indices"]
        return (of["self"], indices[0]) if len(indices) == 1 else None
    return None


#: calls that look up elements of a table, by the argument that is the table
TABLES = {"aten.index": "self", "aten.gather": "self", "aten.embedding": "weight", "aten.take_along_dim": "self"}


def elements_of_tables(
    call: Call, name: str, of: dict[str, Any], number: Callable[[Any], Any], anchor: Callable[[Lazy], Value]
) -> Value | None:
    """Elements of a constant table, each at a whole number of its own: by steps, or between the least and the largest.

    Args:
        call: takes the nodes.
        name: of the call that looks up.
        of: its arguments, constants but for one index.
        number: an index as a real activation, where it can be one.
        anchor: an activation that an index depends on.
    """
    table = of.get(TABLES.get(name, ""))
    flat = [v for v in of.values() for v in (v if isinstance(v, (list, tuple)) else [v])]
    places = [v for v in flat if isinstance(v, Lazy)]
    if not isinstance(table, Tensor) or len(places) != 1 or any(isinstance(v, Value) for v in flat):
        return None
    indices, place = of.get("indices"), number(places[0])
    dim = 0 if name == "aten.embedding" else of.get("dim")
    if name == "aten.index" and isinstance(indices, Sequence):
        dim = next(d for d, v in enumerate(indices) if isinstance(v, Lazy))
    found = None
    if isinstance(place, Value) and isinstance(dim, int) and table.shape[dim] <= MOST_STEPS:
        # a negative index counts from the end
        first = -table.shape[dim] if name == "aten.index" else 0

        def at(k: int) -> Tensor:
            one = torch.full((1, *place.shape), k)
            given = {key: [one if v is places[0] else v for v in value] if isinstance(value, (list, tuple)) else value
                     for key, value in of.items()}  # fmt: skip
            given = {key: one if value is places[0] else value for key, value in given.items()}
            return getattr(torch.ops.aten, name.removeprefix("aten."))(**given)[0].double()

        found = _by_steps(call, place, torch.stack([at(k) for k in range(first, table.shape[dim])]), first)
    return found or _between(call, anchor(places[0]), table)


def _by_steps(call: Call, place: Value, values: Tensor, first: int) -> Value | None:
    """``T_0 + Σ_k (T_k − T_{k−1})·[r ≥ k − 1/2]`` with a table T for each element, whose entries begin at a number."""
    shape, count, rank = tuple(values.shape[1:]), len(values), len(place.shape)
    if shape[:rank] != place.shape or count < 2:
        return None
    place = call.emit(Scale(None, torch.tensor(-float(first), dtype=torch.float64)), place) if first else place
    steps = _steps(call, place, count)
    steps = call.emit(Reshape((*place.shape, *[1] * (len(shape) - rank), count - 1)), steps)
    steps = call.emit(Expand((*shape, count - 1)), steps)
    rises = call.emit(Scale((values[1:] - values[:-1]).movedim(0, -1).contiguous()), steps)
    return call.emit(Scale(None, values[0]), call.emit(Reduce((len(shape),), False), rises))


def _between(call: Call, anchor: Value, table: Tensor) -> Value:
    """Any number between the least and the largest of a table."""
    shape = call.output_shape
    one = call.emit(Reduce((0,), True), call.emit(Reshape((math.prod(anchor.shape),)), anchor))
    ends = []
    for end in (table.min(), table.max()):
        constant = call.emit(Scale(torch.zeros((), dtype=torch.float64), end.double()), one)
        constant = call.emit(Reshape((1,) * len(shape)), constant)
        ends.append(call.emit(Expand(shape), constant))
    return call.emit(Hull(), *ends)
