"""What an operator's exact encoding is made of: affine expressions of variables, and what it asks of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from clinch.network.ops.interval import Interval, Shape

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Expression:
    """Affine functions of the variables: ``e(variables) = Σ_block coefficients[block]ᵀ variables[block] + constant``.

    Attributes:
        coefficients: block -> ``(block_size, *shape)``, float64.
        constant: ``(*shape)``, float64.
    """

    coefficients: dict[int, Tensor]
    constant: Tensor

    @property
    def shape(self) -> Shape:
        """Shape of the activations that the expression stands for."""
        return tuple(self.constant.shape)

    def map(self, linear: Linear) -> Expression:
        """Apply a linear function of tensors ``(N, *shape)``, each row by itself: a reshape, a slice, a gather."""
        moved = {block: linear(c) for block, c in self.coefficients.items()}
        return Expression(moved, linear(self.constant.unsqueeze(0)).squeeze(0))

    def flat(self) -> Expression:
        """The same functions in one axis."""
        return self.map(lambda t: t.flatten(1))

    def take(self, which: Tensor) -> Expression:
        """The functions at flat positions ``(k,)``, shape ``(k,)``."""
        return self.map(lambda t: t.flatten(1)[:, which])

    def scaled(self, factor: Tensor) -> Expression:
        """Each function times its factor ``(*shape)``; blocks that drop out are left out."""
        moved = {block: c * factor for block, c in self.coefficients.items()}
        return Expression({block: c for block, c in moved.items() if bool(c.any())}, self.constant * factor)

    def __add__(self, other: Expression) -> Expression:
        total = dict(self.coefficients)
        for block, c in other.coefficients.items():
            total[block] = total[block] + c if block in total else c
        return Expression(total, self.constant + other.constant)


class Function(Protocol):
    """What can be applied to activations: an operator, as far as an encoder sees it."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """The value for inputs of shape ``(B, *shape)``."""
        ...


class OperatorEncoder(Protocol):
    """What :meth:`clinch.network.ops.base.Operator.encode` may ask for; :mod:`clinch.encoding` answers."""

    def affine(self, op: Function, inputs: Sequence[Expression]) -> Expression:
        """An affine operator: its own ``forward`` on the coefficients, nothing is added to the program."""
        ...

    def two_pieces(self, expression: Expression, bounds: Interval, negative_slope: float) -> Expression:
        """``max(e, negative_slope * e)``: a binary for every element that its bounds leave open."""
        ...

    def maximum(self, taps: Sequence[Expression], bounds: Sequence[Interval]) -> Expression:
        """The elementwise largest of several expressions: a binary for each candidate that its bounds leave open."""
        ...
