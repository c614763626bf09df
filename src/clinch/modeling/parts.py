"""What joint networks consist of: variables, and networks applied to expressions, with the ways into them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.modeling.sparse_maps import Terms
from clinch.modeling.symbols import Shape
from clinch.network.network import Network
from clinch.network.ops.base import Operator
from clinch.network.ops.dense import Dense
from clinch.network.ops.scale import Scale
from clinch.network.ops.select import Take
from clinch.network.ops.shape import Reshape

if TYPE_CHECKING:
    from clinch.modeling.expressions import LinearExpression

#: numbers of a matrix through which an expression goes into a network, at most (1 GiB)
COEFFICIENTS = 2**27
#: operators one after the other, each with the shape of what it gives
Way = list[tuple[Operator, Shape]]


@dataclass(frozen=True, eq=False)
class Root:
    """What a variable stands for: part of the input of every joint network in which it occurs."""

    shape: Shape
    name: str

    @property
    def key(self) -> Any:
        """By which it is told from others."""
        return id(self)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Application:
    """A network applied to an expression over a joint network, of the shape of its input."""

    network: Network
    argument: LinearExpression

    @cached_property
    def key(self) -> Any:
        """The same for the same network applied to the same expression."""
        read = frozenset((p.part.key, p.node, *map(_bytes, vars(p.terms).values())) for p in self.pieces)
        return id(self.network), read, _bytes(self.argument.constant)

    @cached_property
    def pieces(self) -> list[Piece]:
        """What the argument takes of each part."""
        return self.argument.network.pieces(self.argument)  # type: ignore[attr-defined]

    @property
    def steps(self) -> int:
        """Operators between what the argument reads and the input, the sums of pieces among them."""
        return sum(map(len, self.ways)) + len(self.ways) - 1

    @cached_property
    def ways(self) -> list[Way]:
        """See :func:`ways_of`."""
        return ways_of(self.argument, self.pieces)


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().numpy().tobytes()


@dataclass(frozen=True, eq=False)
class Piece:
    """What an expression takes of one part: terms over the elements of one of its nodes, of a variable's (node 0)."""

    part: Root | Application
    node: int
    terms: Terms

    @property
    def shape(self) -> Shape:
        """Of a sample of the node."""
        return self.part.shape if isinstance(self.part, Root) else self.part.network.graph.nodes[self.node].shape

    @property
    def size(self) -> int:
        """Elements of the node."""
        return math.prod(self.shape)

    def way(self, shape: Shape, shift: Tensor | None = None) -> Way:
        """Operators that take a sample of the node to these terms of it, in the given shape, plus a constant."""
        steps: Way = []
        rows, size, terms = math.prod(shape), self.size, self.terms
        single = len(terms.row) == len(terms.row.unique())
        as_they_stand = single and size == rows and bool((terms.row == terms.col).all())
        factor: Tensor | None = None
        if not as_they_stand:
            steps.append((Reshape((size,)), (size,)))
        if single and (as_they_stand or len(terms.row) == rows):
            if not as_they_stand:
                steps.append((Take(0, torch.empty_like(terms.row).index_copy(0, terms.row, terms.col)), (rows,)))
            factor = torch.zeros(rows, dtype=torch.float64).index_copy(0, terms.row, terms.value[0]).reshape(shape)
        elif rows * size > COEFFICIENTS:
            raise ProblemError(
                f"An expression of {rows:,} elements over {size:,} others would go into a network through a matrix of "
                f"{rows * size * 8 / 2**30:.0f} GiB. Put that map into the model, as a layer."
            )
        else:
            steps.append((Dense(terms.dense(rows, size)[0]), (rows,)))
        steps.append((Reshape(shape), shape))
        factor = None if factor is None or bool((factor == 1).all()) else factor
        if factor is not None or shift is not None:
            steps.append((Scale(factor, shift), shape))
        return _changing(steps, self.shape)


def _changing(steps: Way, shape: Shape) -> Way:
    """Without what gives its input back."""
    befores = [shape, *(after for _, after in steps)]
    return [step for step, before in zip(steps, befores) if not step[0].is_identity((before,))]


def ways_of(e: LinearExpression, pieces: list[Piece]) -> list[Way]:
    """For each piece of an expression the operators that lead to its share of it; the constant goes with the first."""
    shift = e.constant.reshape(e.shape)
    moved = shift if bool((shift != 0).any()) else None
    return [piece.way(e.shape, None if k else moved) for k, piece in enumerate(pieces)]
