"""Symbols for input, layers and output of a network, and the operators on them.

Every expression is an array of linear forms of the activations of one network. Arithmetic with constants, indexing as
in NumPy, ``sum``, ``flatten`` and ``@`` keep it linear; comparisons give constraints; ``norm``, ``argmax`` and
``between`` are the three ways beyond that (norms: :mod:`clinch.modeling.norms`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from clinch.errors import EmptyRegionError, NonFiniteError, ProblemError, ShapeError
from clinch.modeling.constraints import EQUALITY_TOLERANCE, MARGIN, Change, Constraint
from clinch.modeling.sparse_maps import Terms
from clinch.modeling.symbols import (
    FUNCTIONS,
    Constant,
    Shape,
    Symbolic,
    as_tensor,
    common_network,
    constant,
    merge_batches,
)

if TYPE_CHECKING:
    from clinch.network.network import Network


@dataclass(frozen=True, eq=False, repr=False)
class LinearExpression(Symbolic):
    """An array of linear forms ``Σ_node A_node h_node + d`` of the activations of one network.

    Constants have the expression's shape, or one more axis in front, which states one problem per entry (a *batch*).

    Attributes:
        network: the network whose activations are meant.
        shape: of the array, without the batch.
        terms: position of a layer -> its coefficients; rows count the elements of the array in row-major order.
        constant: d, shape ``(B, n)`` or ``(1, n)``.
        batch: number of problems that the constants state; None without a batch axis.
    """

    network: Network
    shape: Shape
    terms: dict[int, Terms]
    constant: Tensor
    batch: int | None = None

    _kind: ClassVar[str] = "linear expressions"

    # --- shape ----------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("A scalar expression has no length.")
        return self.shape[0]

    def __iter__(self) -> Iterator[LinearExpression]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> LinearExpression:
        """Elements as in NumPy: integers, slices, boolean masks, index arrays, ``...``, None."""
        keys = tuple(map(_index, key)) if isinstance(key, tuple) else _index(key)
        try:
            picked = np.asarray(np.arange(self.size).reshape(self.shape)[keys])
        except (IndexError, OverflowError) as error:
            raise ShapeError(f"Index {key!r:.60} does not fit an expression of shape {self.shape}: {error}.") from None
        return self.picked(torch.from_numpy(picked.reshape(-1).copy()), picked.shape)

    def flatten(self) -> LinearExpression:
        """The same elements, one axis, row-major."""
        return self._with((self.size,), self.terms, self.constant, self.batch)

    def sum(self) -> LinearExpression:
        """The sum of all elements, a scalar."""
        zero = torch.zeros(self.size, dtype=torch.long)
        terms = {node: part.renumbered(zero) for node, part in self.terms.items()}
        return self._with((), terms, self.constant.sum(1, keepdim=True), self.batch)

    def reshape(self, *shape: Any) -> LinearExpression:
        """The same elements in row-major order, in another shape; one extent may be −1.

        Raises:
            ShapeError: the number of elements differs.
        """
        wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        try:
            found = np.empty(self.shape, bool).reshape(wanted).shape
        except (ValueError, TypeError):
            raise ShapeError(f"An expression of shape {self.shape} cannot be reshaped to {wanted!r:.60}.") from None
        return self._with(found, self.terms, self.constant, self.batch)

    def mean(self) -> LinearExpression:
        """The mean of all elements, a scalar."""
        return self.sum() / self.size

    def stacked(self, *others: LinearExpression) -> LinearExpression:
        """The elements of this and the other one-dimensional expressions, one after the other."""
        return concatenate([self, *others])

    def picked(self, rows: Tensor, shape: Shape) -> LinearExpression:
        """The elements at the given positions in row-major order, as an array of the given shape."""
        terms = {node: part.rows(rows, self.size) for node, part in self.terms.items()}
        return self._with(tuple(shape), terms, self.constant[:, rows], self.batch)

    def over(self, network: Network) -> LinearExpression:
        """The same as an expression over a joint network that has all its variables and layers."""
        return self if network is self.network else network.taken_in(self)  # type: ignore[attr-defined]

    def _with(self, shape: Shape, terms: dict[int, Terms], constant: Tensor, batch: int | None) -> LinearExpression:
        return LinearExpression(self.network, shape, terms, constant, batch)

    # --- arithmetic -----------------------------------------------------------------------------------------------

    def shifted(self, amount: Tensor, batch: int | None) -> LinearExpression:
        """Plus a constant, shape ``(B, n)`` or broadcastable to it."""
        merged = merge_batches([self.batch, batch])
        return self._with(self.shape, self.terms, self.constant + amount, merged)

    def scaled(self, factor: Tensor, batch: int | None) -> LinearExpression:
        """Element by element times a finite constant, shape ``(B, n)`` or ``(1, n)``."""
        merged = merge_batches([self.batch, batch])
        terms = {node: part.scaled(factor) for node, part in self.terms.items()}
        return self._with(self.shape, terms, self.constant * factor, merged)

    def __neg__(self) -> LinearExpression:
        return self.scaled(-torch.ones(1, self.size, dtype=torch.float64), None)

    def __add__(self, other: LinearExpression | Constant) -> LinearExpression:
        if isinstance(other, LinearExpression):
            return _added(self, other)
        if isinstance(other, Symbolic):
            return NotImplemented
        e = _meeting(self, other)
        return e.shifted(*constant(other, e.shape, "constant added to the expression"))

    __radd__ = __add__

    def __sub__(self, other: LinearExpression | Constant) -> LinearExpression:
        if isinstance(other, Symbolic):
            return self + (-other)
        e = _meeting(self, other)
        amount, batch = constant(other, e.shape, "constant subtracted from the expression")
        return e.shifted(-amount, batch)

    def __rsub__(self, other: Constant) -> LinearExpression:
        return (-self) + other

    def __mul__(self, other: Constant) -> LinearExpression:
        if isinstance(other, LinearExpression):
            return FUNCTIONS["product"](self, other)
        if isinstance(other, Symbolic):
            return NotImplemented
        e = _meeting(self, other)
        return e.scaled(*constant(other, e.shape, "factor"))

    __rmul__ = __mul__

    def __truediv__(self, other: Constant) -> LinearExpression:
        if isinstance(other, Symbolic):
            raise ProblemError("A quotient of two symbols is not linear. Divide by constants only.")
        divisor, batch = constant(other, self.shape, "divisor")
        if bool((divisor == 0).any()):
            raise ProblemError("The divisor contains a zero. Leave those elements out by indexing.")
        return self.scaled(1 / divisor, batch)

    def __pow__(self, other: object) -> LinearExpression:
        return FUNCTIONS["power"](self, other)

    def __abs__(self) -> LinearExpression:
        return FUNCTIONS["abs"](self)

    def __matmul__(self, other: Constant) -> LinearExpression:
        """``e @ A`` with e ``(m,)`` and A ``(m,)``, ``(m, k)`` or, one per problem, ``(B, m, k)``; of two vectors of
        expressions their inner product."""
        if isinstance(other, LinearExpression) and len(self.shape) == len(other.shape) == 1:
            return FUNCTIONS["product"](self, other).sum()
        matrix = self._matrix(other)
        return self.applied(matrix.mT if matrix.dim() > 1 else matrix)

    def __rmatmul__(self, other: Constant) -> LinearExpression:
        """``A @ e`` with e ``(m,)`` and A ``(m,)``, ``(k, m)`` or, one per problem, ``(B, k, m)``."""
        return self.applied(self._matrix(other))

    def _matrix(self, other: Constant) -> Tensor:
        if isinstance(other, Symbolic):
            raise ProblemError("A matrix product of two symbols is not defined. Multiply elements: (A * B).sum().")
        matrix = as_tensor(other, "matrix")
        if not bool(matrix.isfinite().all()):
            raise NonFiniteError("The matrix contains an infinity. Write a finite number.")
        return matrix

    def applied(self, matrix: Tensor) -> LinearExpression:
        """``matrix @ e``, for a finite float64 matrix; see :meth:`__rmatmul__`."""
        if len(self.shape) != 1:
            raise ShapeError(
                f"@ needs an expression with one axis, this one has shape {self.shape}: write e.flatten() first."
            )
        if matrix.dim() not in (1, 2, 3) or matrix.shape[-1] != self.size:
            raise ShapeError(
                f"The matrix of @ has shape {tuple(matrix.shape)} where its inner axis is put last; expected "
                f"({self.size},), (k, {self.size}), or (B, k, {self.size}) for B problems at once."
            )
        batch = matrix.shape[0] if matrix.dim() == 3 else None
        merged = merge_batches([self.batch, batch])
        shape = () if matrix.dim() == 1 else (matrix.shape[-2],)
        stack = matrix.reshape(batch or 1, -1, self.size)
        terms = {node: part.multiplied(stack) for node, part in self.terms.items()}
        d = (stack @ self.constant.unsqueeze(2)).squeeze(2)
        return self._with(shape, terms, d, merged)

    # --- comparisons ----------------------------------------------------------------------------------------------

    def _difference(self, other: LinearExpression | Constant, what: str) -> LinearExpression:
        if isinstance(other, LinearExpression):
            return (self - other).flatten()
        amount, batch = constant(other, self.shape, what, infinite=True)
        return self.shifted(-amount, batch).flatten()

    def __le__(self, other: LinearExpression | Constant) -> Any:
        if _is_other_symbol(other):
            return NotImplemented
        difference = self._difference(other, "upper limit")
        return Atoms(difference, (-difference) + MARGIN)

    def __ge__(self, other: LinearExpression | Constant) -> Any:
        if _is_other_symbol(other):
            return NotImplemented
        difference = -self._difference(other, "lower limit")
        return Atoms(difference, (-difference) + MARGIN)

    def __eq__(self, other: object) -> Any:
        if _is_other_symbol(other):
            return NotImplemented
        difference = self._difference(other, "right side of ==")
        if not bool(difference.constant.isfinite().all()):
            raise NonFiniteError("The right side of == contains an infinity. Write a finite number.")
        both = difference.stacked(-difference)
        return Atoms(both - EQUALITY_TOLERANCE, (-both) + MARGIN, equality=difference)

    __hash__ = object.__hash__

    def between(self, lo: Constant, hi: Constant, margin: Constant = MARGIN) -> Atoms:
        """The closed box ``lo <= e <= hi``; its negation ``~e.between(lo, hi)`` says that some element is outside.

        Outside means ``e_j >= hi_j + margin_j`` or ``e_j <= lo_j − margin_j`` for some j.

        Args:
            lo: lower limits; minus infinity where there is none.
            hi: upper limits; infinity where there is none.
            margin: by how much the negation must hold, in the units of e, one or one per element.

        Raises:
            EmptyRegionError: ``lo > hi`` somewhere.
        """
        lower, lower_batch = constant(lo, self.shape, "lower limit", infinite=True)
        upper, upper_batch = constant(hi, self.shape, "upper limit", infinite=True)
        by, margin_batch = margins(margin, self.shape)
        limits = merge_batches([lower_batch, upper_batch])
        crossed = (lower > upper).any(0).nonzero().flatten()
        if len(crossed):
            at = tuple(int(i) for i in np.unravel_index(int(crossed[0]), self.shape))
            raise EmptyRegionError(f"between: the lower limit is above the upper limit at index {at}. Swap lo and hi.")
        e = self.flatten()
        inside = ((-e).shifted(lower, lower_batch)).stacked(e.shifted(-upper, upper_batch))
        both = torch.cat([by, by], 1)
        return Atoms(inside, (-inside).shifted(both, merge_batches([limits, margin_batch])))

    def argmax(self, margin: float = MARGIN) -> Argmax:
        """The index of the largest element, to be compared with a class: ``z.argmax() == 7``, ``z.argmax() != 7``."""
        return Argmax(self, margin)

    # --- discrete inputs ------------------------------------------------------------------------------------------

    def integer(self) -> Discrete:
        """Every element is a whole number: ``x[3].integer()``, ``(255 * x).integer()``; see :class:`Discrete`."""
        return self.multiple_of(1.0)

    def multiple_of(self, step: float) -> Discrete:
        """Every element is ``k·step``, k a whole number: ``x.multiple_of(1 / 255)`` is an image of 8 bits."""
        size = float(as_tensor(step, "step"))
        if not (math.isfinite(size) and size > 0):
            raise ProblemError(f"The step is {size:g}. Write a number greater than 0, such as 1 / 255.")
        return Discrete(self.flatten(), step=size)

    def among(self, values: Constant) -> Discrete:
        """Every element is one of the values: ``x[7].among([0, 1, 4])``."""
        found = as_tensor(values, "list of values").flatten().unique()
        if not len(found) or not bool(found.isfinite().all()):
            raise ProblemError("among() needs a list of one or more finite numbers, such as x[7].among([0, 1, 4]).")
        return Discrete(self.flatten(), values=found)

    def binary(self) -> Discrete:
        """Every element is 0 or 1."""
        return self.among([0.0, 1.0])

    def one_hot(self) -> Discrete:
        """One element is 1 and all others are 0, as categories are encoded: ``x[5:9].one_hot()``."""
        if self.size < 2:
            raise ShapeError(
                f"one_hot() needs at least two elements, this expression has shape {self.shape}. Write "
                "x[5:9].one_hot(), or x[5].binary() for one."
            )
        return Discrete(self.flatten(), values=torch.tensor([0.0, 1.0], dtype=torch.float64), one_hot=True)

    def __repr__(self) -> str:
        layers = ", ".join(self.network.graph.nodes[node].name for node in sorted(self.terms)) or "constants"
        return f"<{type(self).__name__} of shape {self.shape} over {layers}>"


@dataclass(frozen=True, eq=False)
class Atoms(Constraint):
    """Linear atoms ``atom_k <= 0`` of which every one must hold, or at least one.

    Attributes:
        atoms: one-dimensional expression.
        opposite: the atoms of the negation, of which at least one must hold, or every one.
        every: whether all atoms must hold.
        equality: for ``a == b``, the difference ``a − b``, one-dimensional: single inputs in it are fixed exactly.
    """

    atoms: LinearExpression
    opposite: LinearExpression
    every: bool = True
    equality: LinearExpression | None = None

    @property
    def network(self) -> Network:
        """The network whose activations are constrained."""
        return self.atoms.network

    @property
    def batch(self) -> int | None:
        """Number of problems that its constants state; None without a batch axis."""
        return merge_batches([self.atoms.batch, self.opposite.batch])

    def mapped(self, change: Change) -> Atoms:
        """See :meth:`Constraint.mapped`."""
        equality = None if self.equality is None else change(self.equality)
        return Atoms(change(self.atoms), change(self.opposite), self.every, equality)

    def __invert__(self) -> Constraint:
        return Atoms(self.opposite, self.atoms, not self.every, self.equality)


@dataclass(frozen=True, eq=False)
class Discrete(Constraint):
    """Inputs that take the values of a list only, each element for itself; it holds as a whole, not inside ``|``.

    Values are rounded to the model's dtype, as all that inputs are compared with. Lists that a step makes end at the
    limits of the box, so that it must have some.

    Attributes:
        expression: one-dimensional; each element is ``a·x_i + b`` of one input.
        values: ``(V,)`` increasing; None: all multiples of ``step``.
        one_hot: whether one element is 1 and all others are 0.
    """

    expression: LinearExpression
    values: Tensor | None = None
    step: float = 1.0
    one_hot: bool = False

    @property
    def network(self) -> Network:
        """The network whose input is meant."""
        return self.expression.network

    @property
    def batch(self) -> int | None:
        """None: lists are the same for all problems."""
        return None

    def mapped(self, change: Change) -> Discrete:
        """See :meth:`Constraint.mapped`."""
        return replace(self, expression=change(self.expression))

    def __invert__(self) -> Constraint:
        raise ProblemError("What is no value of a list cannot be asked for. Give the values that are allowed instead.")

    def as_alternative(self) -> Constraint:
        """Raised where it is joined by ``|``."""
        raise ProblemError(
            "Discrete inputs cannot stand inside '|': an input is discrete for the whole problem. State two problems, "
            "or give all values with among()."
        )


@dataclass(frozen=True, eq=False)
class Argmax(Symbolic):
    """The index of the largest element of a one-dimensional expression; only ``==`` and ``!=`` have a meaning.

    ``== c`` says ``z_c − z_k >= margin`` for all ``k ≠ c``; ``!= c`` says ``z_k − z_c >= margin`` for some ``k ≠ c``.
    """

    expression: LinearExpression
    margin: float

    _kind: ClassVar[str] = "argmax (compare it with a class: z.argmax() == 7)"

    def __post_init__(self) -> None:
        if len(self.expression.shape) != 1 or self.expression.size < 2:
            raise ShapeError(
                f"argmax needs one axis with at least two elements, this expression has shape {self.expression.shape}: "
                "index or flatten it first."
            )
        margins(self.margin, ())

    def __eq__(self, other: object) -> Any:
        return Atoms(self._above(other, 1.0), self._above(other, -1.0), every=True)

    def __ne__(self, other: object) -> Any:
        return Atoms(self._above(other, -1.0), self._above(other, 1.0), every=False)

    __hash__ = object.__hash__

    def _above(self, other: object, sign: float) -> LinearExpression:
        """Atoms ``sign·(z_k − z_c) + margin <= 0`` for k ≠ c in increasing order."""
        labels, batch = self._labels(other)
        z, classes = self.expression, self.expression.size
        by, margin_batch = margins(self.margin, ())
        others = torch.arange(classes - 1).expand(len(labels), -1)
        others = others + (others >= labels.unsqueeze(1))
        if batch is None:
            rows = z.picked(others[0], (classes - 1,)) - z[int(labels)]
        else:
            one_hot = torch.nn.functional.one_hot
            rows = z.applied((one_hot(others, classes) - one_hot(labels, classes).unsqueeze(1)).to(torch.float64))
        return rows.scaled(torch.full((1, classes - 1), sign, dtype=torch.float64), None).shifted(by, margin_batch)

    def _labels(self, other: object) -> tuple[Tensor, int | None]:
        if isinstance(other, (bool, Symbolic)):
            raise ProblemError("argmax is compared with a class index or an array of them: z.argmax() == 7.")
        values, batch = constant(other, (), "label")
        if _is_one_hot(other, self.expression.size):
            raise ProblemError(
                f"The label looks like one class written as {self.expression.size} zeros and ones. Write its number: "
                ".argmax()."
            )
        labels = values[:, 0].to(torch.long)
        if bool((labels != values[:, 0]).any()):
            raise ProblemError("Labels must be whole numbers.")
        outside = labels[(labels < 0) | (labels >= self.expression.size)]
        if len(outside):
            raise ProblemError(
                f"Label {int(outside[0])} is out of range: there are {self.expression.size} classes, from 0 to "
                f"{self.expression.size - 1}."
            )
        return labels, batch


class Activation(LinearExpression):
    """The activations of one layer, as a symbol: ``net.input``, ``net["relu2"]``, ``net.output``."""

    def __init__(self, network: Network, node: int) -> None:
        shape = tuple(network.graph.nodes[node].shape)
        size = math.prod(shape)
        terms = {node: Terms.identity(size)}
        super().__init__(network, shape, terms, torch.zeros(1, size, dtype=torch.float64))
        self.node = node

    def argmax(self, margin: float = MARGIN) -> Argmax:
        """The index of the largest element, see :meth:`LinearExpression.argmax`.

        Of a softmax or log-softmax it is that of what goes into it, which has bounds that close: the default margin is
        one of those numbers then, and none is none. Another margin is taken as it is said, of the probabilities.
        """
        node = self.network.graph.deciding(self.node) if margin in (0.0, MARGIN) else self.node
        return Argmax(Activation(self.network, node), margin)


def _is_one_hot(labels: Any, classes: int) -> bool:
    """Whether labels are one class as zeros and ones; whole numbers may be those of a batch."""
    given = labels if isinstance(labels, Tensor) else torch.as_tensor(np.asarray(labels))
    found = given.is_floating_point() and given.shape == (classes,) and classes > 1
    return found and sorted(given.tolist()) == [*[0.0] * (classes - 1), 1.0]


def _is_other_symbol(value: object) -> bool:
    """Whether a symbol is of another kind than a linear expression: its own operator answers."""
    return isinstance(value, Symbolic) and not isinstance(value, LinearExpression)


def _index(key: Any) -> Any:
    """A key that NumPy understands."""
    if isinstance(key, Symbolic):
        raise ProblemError("An index must be a constant, not a symbol.")
    return key.detach().cpu().numpy() if isinstance(key, Tensor) else key


def margins(margin: Constant, shape: Shape) -> tuple[Tensor, int | None]:
    """A margin as in :func:`clinch.modeling.symbols.constant`; a negative one is refused."""
    by, batch = constant(margin, shape, "margin")
    if bool((by < 0).any()):
        raise ProblemError("The margin is negative. Write a number >= 0.")
    return by, batch


def _added(left: LinearExpression, right: LinearExpression) -> LinearExpression:
    """The sum of two expressions; shapes are broadcast as in NumPy."""
    left, right = united([left, right])
    if left.shape != right.shape:
        try:
            shape = np.broadcast_shapes(left.shape, right.shape)
        except ValueError:
            raise ShapeError(f"Expressions of shapes {left.shape} and {right.shape} do not fit together.") from None
        left, right = _stretched(left, shape), _stretched(right, shape)
    batch = merge_batches([left.batch, right.batch])
    terms = dict(left.terms)
    for node, part in right.terms.items():
        terms[node] = Terms.joined([terms[node], part]) if node in terms else part
    return LinearExpression(left.network, left.shape, terms, left.constant + right.constant, batch)


def _meeting(e: LinearExpression, other: Constant) -> LinearExpression:
    """The expression with axes of length one stretched to those of an array with as many axes."""
    shape = tuple(getattr(other, "shape", ()))
    longer = len(shape) == len(e.shape) and any(m == 1 != n for m, n in zip(e.shape, shape))
    fits = longer and all(m == n or 1 in (m, n) for m, n in zip(e.shape, shape))
    return _stretched(e, np.broadcast_shapes(e.shape, shape)) if fits else e


def united(parts: list[LinearExpression]) -> list[LinearExpression]:
    """The expressions over one network."""
    network = common_network(part.network for part in parts)
    return [part.over(network) for part in parts]


def _stretched(e: LinearExpression, shape: Shape) -> LinearExpression:
    if e.shape == shape:
        return e
    rows = np.broadcast_to(np.arange(e.size).reshape(e.shape), shape)
    return e.picked(torch.from_numpy(rows.reshape(-1).copy()), shape)


def concatenate(parts: list[LinearExpression]) -> LinearExpression:
    """One-dimensional expressions, one after the other."""
    parts = united(parts)
    batch = merge_batches(part.batch for part in parts)
    stacks: dict[int, list[Terms]] = {}
    total = 0
    for part in parts:
        for node, terms in part.terms.items():
            stacks.setdefault(node, []).append(Terms(terms.row + total, terms.col, terms.value))
        total += part.size
    joined = {node: Terms.joined(stack) for node, stack in stacks.items()}
    d = torch.cat([part.constant.expand(batch or 1, -1) for part in parts], 1)
    return LinearExpression(parts[0].network, (total,), joined, d, batch)
