"""Calls whose result is no row of real numbers per input: kept, and computed by the node that uses it.

A mask, an index, a shape, a tuple of results, or a tensor whose batch is not in front is no activation. It is a tree of
calls over activations (:class:`Lazy`). The next call with a real result becomes a node that evaluates the whole tree:
attacks follow it, bounds do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from clinch.network.ops.base import Operator, Shape


@dataclass(frozen=True)
class Slot:
    """Stands for the i-th activation among the leaves of a tree."""

    index: int


class BatchSize:
    """Stands for the number of inputs."""

    def __repr__(self) -> str:
        return "the batch size"


@dataclass(frozen=True, eq=False)
class Lazy:
    """``function(*arguments, **keywords)``; activations, the number of inputs and further calls among the arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


def is_sequence(value: Any) -> bool:
    """Whether a value is a list or tuple of further ones; an activation, a tuple with names, is not."""
    return isinstance(value, list) or type(value) is tuple


def map_leaves(value: Any, leaf: Callable[[Any], Any], done: dict[int, Lazy] | None = None) -> Any:
    """A copy of a tree of calls with other leaves; a call that occurs twice stays one."""
    done = {} if done is None else done
    if isinstance(value, Lazy):
        if id(value) not in done:
            arguments, keywords = (map_leaves(v, leaf, done) for v in (value.arguments, value.keywords))
            done[id(value)] = Lazy(value.function, arguments, keywords)
        return done[id(value)]
    if isinstance(value, dict):
        return {key: map_leaves(v, leaf, done) for key, v in value.items()}
    if is_sequence(value):
        return (list if isinstance(value, list) else tuple)(map_leaves(v, leaf, done) for v in value)
    return leaf(value)


def evaluate(value: Any, inputs: Sequence[Tensor], done: dict[int, Any] | None = None, *, size: int = 1) -> Any:
    """The value of a tree, given those of its activations and the number of inputs."""
    done = {} if done is None else done
    if isinstance(value, Lazy):
        if id(value) not in done:
            arguments, keywords = (evaluate(v, inputs, done, size=size) for v in (value.arguments, value.keywords))
            done[id(value)] = value.function(*arguments, **keywords)
        return done[id(value)]
    if isinstance(value, Slot):
        return inputs[value.index]
    if isinstance(value, BatchSize):
        return size
    if isinstance(value, dict):
        return {key: evaluate(v, inputs, done, size=size) for key, v in value.items()}
    if is_sequence(value):
        return (list if isinstance(value, list) else tuple)(evaluate(v, inputs, done, size=size) for v in value)
    return value


def leaves(value: Any, done: set[int] | None = None) -> list[Any]:
    """The leaves of a tree of calls; those of a call that occurs twice once."""
    done = set() if done is None else done
    if isinstance(value, Lazy):
        if id(value) in done:
            return []
        done.add(id(value))
        return [*leaves(value.arguments, done), *leaves(value.keywords, done)]
    if isinstance(value, dict):
        value = list(value.values())
    if is_sequence(value):
        return [leaf for v in value for leaf in leaves(v, done)]
    return [value]


def moved(value: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    """A tree whose real constants, and whose calls that name a type of real numbers, have the given one."""

    def leaf(v: Any) -> Any:
        if isinstance(v, Tensor):
            if v.is_complex():
                return v.to(device, dtype.to_complex())
            return v.to(device, dtype) if v.is_floating_point() else v.to(device)
        if isinstance(v, torch.dtype):
            return dtype if v.is_floating_point else v
        if isinstance(v, torch.device):
            return torch.device(device)
        if is_dataclass(v) and not isinstance(v, type) and any(f.name == "dtype" for f in fields(v)):
            return replace(v, dtype=dtype)  # type: ignore[arg-type]
        return v

    return map_leaves(value, leaf)


@dataclass(frozen=True, eq=False)
class RowFunction(Operator):
    """A tree of calls that takes one input at a time; a batch goes through it at once by ``torch.func.vmap``.

    Attributes:
        name: for tables and messages, such as ``ArgMax``.
        value: the tree, with a :class:`Slot` for each activation.
        shapes: in which it takes them.
        shape: of the result, as a sample.
        at_once: whether the calls allow a batch at once; else row by row.
    """

    name: str
    value: Any
    shapes: tuple[Shape, ...]
    shape: Shape
    at_once: bool = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The tree's value for each row."""
        if not len(inputs[0]):
            return inputs[0].new_zeros(0, *self.shape)
        if self.at_once:
            return torch.func.vmap(self.row)(*inputs)
        return torch.stack([self.row(*row) for row in zip(*inputs)])

    def row(self, *row: Tensor) -> Tensor:
        """The tree's value for one input."""
        found = evaluate(self.value, [x.reshape(shape) for x, shape in zip(row, self.shapes)])
        return found.to(row[0].dtype).reshape(self.shape)

    def with_an_axis(self, shapes: Sequence[Shape]) -> RowFunction:
        """One number is a row of one."""
        return replace(self, shape=self.shape or (1,))

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy whose constants have the given dtype and device."""
        return replace(self, value=moved(self.value, dtype, device))

    @property
    def label(self) -> str:
        """The function's name."""
        return self.name
