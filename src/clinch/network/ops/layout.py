"""Where the batch is in a tensor of a module: in front, in another dimension, or one with elements of the sample.

A node of a graph has the batch in front. Modules move it about: sequences come as (length, batch, features), heads of
attention and windows of an image are folded into the batch. Such a tensor is a node and a :class:`Layout` that says how
its elements lie; calls that only move dimensions change the layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clinch.network.ops.base import Shape
from clinch.network.ops.reading import Value


@dataclass(frozen=True)
class Layout:
    """The batch is dimension ``axis`` of the tensor, of ``outer × batch × inner`` elements.

    The sample has the dimensions before it, ``outer`` and ``inner`` where they are not 1, and those behind it.
    """

    axis: int = 0
    outer: int = 1
    inner: int = 1

    @property
    def plain(self) -> bool:
        """The batch is in front, and alone."""
        return self == FRONT

    @property
    def folded(self) -> list[int]:
        """Dimensions of a sample that are folded into the batch."""
        return [n for n in (self.outer, self.inner) if n > 1]

    def sample(self, extents: Sequence[Any]) -> Shape:
        """Shape of a sample, from the tensor's."""
        return (*extents[: self.axis], *self.folded, *extents[self.axis + 1 :])

    def groups(self, rank: int) -> list[list[int]]:
        """Dimensions of a sample that each dimension of a tensor of that rank stands for."""
        count = len(self.folded)
        middle = list(range(self.axis, self.axis + count))
        return [middle if d == self.axis else [d] if d < self.axis else [d + count - 1] for d in range(rank)]

    def spread(self, rows: Tensor) -> Tensor:
        """The tensor, from rows ``(B, *sample)``."""
        before = self.axis + (self.outer > 1)
        y = rows.movedim(0, before)
        behind = y.shape[self.axis + 1 + len(self.folded) :]
        return y.reshape(*y.shape[: self.axis], self.outer * rows.shape[0] * self.inner, *behind)

    def rows(self, tensor: Tensor) -> Tensor:
        """Rows ``(B, *sample)`` of a tensor."""
        count = tensor.shape[self.axis] // (self.outer * self.inner)
        middle = ([self.outer] if self.outer > 1 else []) + [count] + ([self.inner] if self.inner > 1 else [])
        y = tensor.reshape(*tensor.shape[: self.axis], *middle, *tensor.shape[self.axis + 1 :])
        return y.movedim(self.axis + (self.outer > 1), 0)


#: the batch is in front, and alone
FRONT = Layout()


class Moved(NamedTuple):
    """A node whose tensor in the module has another layout than the graph's."""

    value: Value
    layout: Layout


#: an activation as a call of the module sees it
Activation = Value | Moved


def layout_of(activation: Activation) -> Layout:
    """Where its batch is."""
    return activation.layout if isinstance(activation, Moved) else FRONT


def value_of(activation: Activation) -> Value:
    """Its node."""
    return activation.value if isinstance(activation, Moved) else activation


def arranged(value: Value, layout: Layout) -> Activation:
    """A node with a layout."""
    return value if layout.plain else Moved(value, layout)


def batch_extent(size: Any) -> int | None:
    """How many elements of each input a dimension holds that grows with the batch; None: it does not.

    Raises:
        ValueError: it grows in another way.
    """
    if isinstance(size, int):
        return None
    expression = size.node.expr
    if expression.is_number:
        return None
    symbols = list(expression.free_symbols)
    factor = expression.subs(symbols[0], 1) if len(symbols) == 1 else 0
    if not factor or expression.subs(symbols[0], 5) != 5 * factor:
        raise ValueError(f"{expression} elements")
    return int(factor)


def batch_axis(extents: Sequence[Any]) -> tuple[int, int] | None:
    """The one dimension that holds the batch and how many elements of each input it holds; None: not one."""
    try:
        found = [(d, n) for d, size in enumerate(extents) if (n := batch_extent(size)) is not None]
    except ValueError:
        return None
    return found[0] if len(found) == 1 else None


def reshaped(layout: Layout, old: Sequence[Any], new: Sequence[Any]) -> Layout | None:
    """The layout after a reshape that keeps the order of all elements; None: a dimension cuts through the batch."""
    found = batch_axis(new)
    if found is None:
        return None
    axis, share = found
    in_front = math.prod(old[: layout.axis]) * layout.outer
    now = math.prod(new[:axis])
    if not now or in_front % now or share % (in_front // now):
        return None
    outer = in_front // now
    return Layout(axis, outer, share // outer)


def fitted(constant: Tensor, layout: Layout, rank: int) -> Tensor | None:
    """A constant that is broadcast to a tensor of that rank, for rows; None: it meets the batch."""
    if constant.dim() <= rank - 1 - layout.axis:
        return constant
    full = constant.reshape([1] * (rank - constant.dim()) + list(constant.shape)) if constant.dim() <= rank else None
    if full is not None and layout.folded and full.shape[layout.axis] == layout.outer * layout.inner:
        # of a batch of one, with the dimensions of a sample that are folded into it
        return full.unflatten(layout.axis, layout.folded).unsqueeze(0)
    if full is None or full.shape[layout.axis] != 1:
        return None
    for _ in range(max(len(layout.folded) - 1, 0)):
        full = full.unsqueeze(layout.axis)
    full = full if layout.folded else full.squeeze(layout.axis)
    # a batch of one in front, as constants of a plain batch have it
    return torch.unsqueeze(full, 0)
