"""Elements that are looked up by numbers of other layers: each lies between the least and the largest it can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clinch.network.ops.base import Interval, Operator, Relaxation, Shape
from clinch.network.ops.lazy import Lazy
from clinch.network.ops.order import larger, largest
from clinch.network.ops.reading import Call, Value
from clinch.network.ops.shape import Expand


@dataclass(frozen=True, eq=False)
class Hull(Operator):
    """Any number between two others: bounds of an element that is looked up, whose value its whole computes."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Their middle."""
        return (inputs[0] + inputs[1]) / 2

    def interval(self, *inputs: Interval) -> Interval:
        """From the lower limit of the one to the upper limit of the other."""
        return Interval(inputs[0].lower, inputs[1].upper)

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Relaxation:
        """The lower one below, the upper one above."""
        return FromHull()


@dataclass(frozen=True, eq=False)
class FromHull(Relaxation):
    """``low <= f <= high`` for the two inputs."""

    def take(self, problems: Tensor | slice) -> FromHull:
        """The same for all problems."""
        return self

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """A positive coefficient takes the lower one, a negative one the upper one."""
        return [rows.clamp(min=0), rows.clamp(max=0)], rows.new_zeros(rows.shape[:2])

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """The lower one, the upper one where the coefficient is negative."""
        return torch.where(rows[:, 0] >= 0, *inputs)


def looked_up(call: Call, name: str, bound: dict[str, Any]) -> Value | None:
    """What bounds know of elements that are gathered from, or scattered into, places that other layers say; None: it is
    another call.

    Args:
        call: takes the nodes.
        name: of the call, such as ``aten.gather``.
        bound: its arguments.
    """
    if not isinstance(bound.get("index"), Lazy) or not isinstance(bound.get("dim"), int):
        return None
    shape, rank = call.output_shape, len(call.output_shape)
    dim = call.axis(bound["dim"], rank)
    if name == "aten.gather" and isinstance(bound["self"], Value):
        ends = _extremes(call, bound["self"], dim)
    elif name == "aten.scatter" and isinstance(bound.get("src"), Value):
        onto = bound["self"]
        onto = call.constant(onto).reshape(-1) if isinstance(onto, Tensor) else None
        if onto is None or not len(onto) or not bool((onto == onto[0]).all()):
            return None
        ends = [
            larger(call, end, onto[0], sign)
            for end, sign in zip(_extremes(call, bound["src"], dim), (-1.0, 1.0))
        ]  # fmt: skip
    else:
        return None
    if any(m not in (1, n) for end in ends for m, n in zip(end.shape, shape)):
        return None
    return call.emit(Hull(), *(end if end.shape == shape else call.emit(Expand(shape), end) for end in ends))


def _extremes(call: Call, x: Value, dim: int) -> list[Value]:
    """The least and the largest element along a dimension, which stays."""
    return [largest(call, x, [dim], True, sign) for sign in (-1.0, 1.0)]
