"""Mixed-integer encodings of operators: affine expressions of variables, and the rows that tie the variables together.

An affine operator adds nothing: it maps expressions to expressions, column by column through its own ``forward``, so
that the encoding and the network cannot drift apart. A piecewise-linear operator adds variables only where its inputs'
proven bounds leave the piece open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinch.backends.program import Program, Vector, sparse
from clinch.errors import UnsupportedByEngine
from clinch.network.ops.base import Interval
from clinch.network.ops.encoder import Expression, Function
from clinch.runtime import deadline

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: largest number of float64 coefficients that one expression may hold (1 GB)
COEFFICIENT_BUDGET = 2**27

#: coefficients that go through an operator at once
AT_ONCE = 2**20


@dataclass(frozen=True)
class Kink:
    """The binaries of a piecewise-linear node: variable ``first + i`` decides the element at position ``positions[i]``.

    For two pieces, 1 stands for the upper one, and ``parts`` gives the first variables of the input's positive and
    negative parts. For a maximum each candidate has a Kink of its own, 1: it is largest.
    """

    node: int
    positions: Tensor
    first: int
    parts: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Piecewise:
    """A convex function's variables and what it reads, see :meth:`Encoder.program`.

    Attributes:
        rows: first rows of the groups that tie its variables together.
        outputs: block -> its coefficient in the output; element k of the block is output k.
        binaries: for each block of binaries the outputs ``(m,)`` that they decide.
        inputs: expressions, each with the outputs ``(m,)`` that depend on its elements.
        rises: whether the function is nowhere falling.
    """

    rows: tuple[int, ...]
    outputs: dict[int, float]
    binaries: tuple[tuple[int, NDArray[np.int64]], ...]
    inputs: tuple[tuple[Expression, NDArray[np.int64]], ...]
    rises: bool


class Encoder:
    """Collects variables and rows. Block 0 is the network's input.

    Args:
        lower: ``(*input_shape)`` finite limits.
        upper: likewise.
    """

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        self.input_shape = tuple(lower.shape)
        #: position of the node that is being encoded, kept by the caller for :attr:`kinks`
        self.node = 0
        self.kinks: list[Kink] = []
        #: inputs that equal a number where their binary is 0: positions, columns of the binaries, numbers
        self.anchors: list[tuple[NDArray[np.int64], slice, Vector]] = []
        self._lower: list[Vector] = []
        self._upper: list[Vector] = []
        self._integer: list[bool] = []
        self._first: list[int] = []
        #: first row of each group -> its parts and limits
        self._rows: dict[int, tuple[dict[int, csr_array], Vector, Vector]] = {}
        self._count = 0
        self._row_count = 0
        self._fill: list[Callable[[Vector], None]] = []
        self._piecewise: list[_Piecewise] = []
        self.variables(lower.flatten(), upper.flatten())

    @property
    def input(self) -> Expression:
        """The input itself."""
        size = len(self._lower[0])
        eye = torch.eye(size, dtype=torch.float64).reshape(size, *self.input_shape)
        return Expression({0: eye}, torch.zeros(self.input_shape, dtype=torch.float64))

    # --- variables and rows -------------------------------------------------------------------------------------------

    def variables(self, lower: Tensor, upper: Tensor, *, integer: bool = False) -> int:
        """A new block of variables within limits ``(k,)``; its number."""
        self._first.append(self._count)
        self._count += len(lower)
        self._lower.append(lower.detach().to(torch.float64).numpy())
        self._upper.append(upper.detach().to(torch.float64).numpy())
        self._integer.append(integer)
        return len(self._lower) - 1

    def columns(self, block: int) -> slice:
        """Where a block's variables stand in the program."""
        return slice(self._first[block], self._first[block] + len(self._lower[block]))

    def block(self, block: int, which: Tensor | None = None, size: int | None = None) -> Expression:
        """The variables of a block as a flat expression: one after the other, or at positions ``which`` of ``size``."""
        count = len(self._lower[block])
        which = torch.arange(count) if which is None else which
        rows = torch.zeros(count, count if size is None else size, dtype=torch.float64)
        rows[torch.arange(count), which] = 1.0
        return Expression({block: rows}, torch.zeros(rows.shape[1], dtype=torch.float64))

    def rows(self, parts: dict[int, csr_array], lower: Vector, upper: Vector) -> slice:
        """Rows ``lower <= Σ_block parts[block] @ variables[block] <= upper``; parts are ``(k, block_size)``.

        Returns:
            Where they stand in the program.
        """
        self._rows[self._row_count] = (parts, lower, upper)
        self._row_count += len(lower)
        return slice(self._row_count - len(lower), self._row_count)

    def constrain(self, expression: Expression, lower: float | Vector, upper: float | Vector) -> slice:
        """Rows ``lower <= expression <= upper``, one for each of its elements."""
        flat = expression.flat()
        parts = {block: _sparse_columns(c) for block, c in flat.coefficients.items()}
        constant = flat.constant.numpy()
        return self.rows(parts, lower - constant, upper - constant)

    def limits(self, expression: Expression) -> Interval:
        """Limits of an expression from the limits of its variables, with a batch of one."""
        lower, upper = expression.constant, expression.constant
        for block, c in expression.coefficients.items():
            shape = (-1, *[1] * (c.dim() - 1))
            least, most = (torch.from_numpy(t[block]).reshape(shape) for t in (self._lower, self._upper))
            lower = lower + torch.where(c > 0, c * least, c * most).sum(0)
            upper = upper + torch.where(c > 0, c * most, c * least).sum(0)
        return Interval(lower.unsqueeze(0), upper.unsqueeze(0))

    def on_completion(self, fill: Callable[[Vector], None]) -> None:
        """Register how variables follow from those made before: ``fill`` writes into the vector of all variables."""
        self._fill.append(fill)

    # --- operators ----------------------------------------------------------------------------------------------------

    def affine(self, op: Function, inputs: Sequence[Expression]) -> Expression:
        """``op`` of expressions, for any affine operator: each variable's column goes through ``op.forward``.

        Raises:
            UnsupportedByEngine: the coefficients would not fit in memory.
        """
        constant = op.forward(*(e.constant.unsqueeze(0) for e in inputs))
        zero = op.forward(*(torch.zeros_like(e.constant).unsqueeze(0) for e in inputs))
        sizes = {block: c.shape[0] for e in inputs for block, c in e.coefficients.items()}
        if sum(sizes.values()) * constant.numel() > COEFFICIENT_BUDGET:
            raise UnsupportedByEngine(
                f"One layer of this network needs {sum(sizes.values())} x {constant.numel()} coefficients in the "
                "mixed-integer encoding, more than fit in memory. Use solver='branch_and_bound'."
            )
        coefficients = {}
        for block, size in sizes.items():
            columns = [e.coefficients.get(block, e.constant.new_zeros(1).expand(size, *e.shape)) for e in inputs]
            found = constant.new_empty(size, *constant.shape[1:])
            for part in _parts(size, max(constant.numel(), *(e.constant.numel() for e in inputs))):
                deadline.look()
                torch.sub(op.forward(*(c[part] for c in columns)), zero, out=found[part])
            coefficients[block] = found
        return Expression(coefficients, constant.squeeze(0))

    def two_pieces(self, expression: Expression, bounds: Interval, negative_slope: float) -> Expression:
        """``max(e, 0) + a·min(e, 0)`` element by element, for any slope ``a < 1`` of the negative side.

        An open element (``l < 0 < u``) gets ``v, s >= 0`` and a binary b with one dense row ``v − s = e``,
        ``v <= u·b`` and ``s <= −l·(1 − b)``; its value is ``v − a·s``. Relaxing b leaves the triangle
        (Tjeng, Xiao & Tedrake 2019, arXiv 1711.07356, eq. 3-7, who state several dense rows instead).
        """
        lower, upper = bounds.lower.flatten(), bounds.upper.flatten()
        is_open = (lower < 0) & (upper > 0)
        one = torch.ones_like(lower)
        factor = torch.where(lower >= 0, one, negative_slope * one) * ~is_open
        result = expression.scaled(factor.reshape(expression.shape))
        which = is_open.nonzero().flatten()
        if not len(which):
            return result
        low, up, zero = lower[which], upper[which], torch.zeros(len(which), dtype=torch.float64)
        v, s = self.variables(zero, up), self.variables(zero, -low)
        b = self.variables(zero, zero + 1, integer=True)
        eye, size = torch.eye(len(which), dtype=torch.float64), expression.constant.numel()
        read = expression.take(which)
        row = self.constrain(read.scaled(zero - 1) + self.block(v) + Expression({s: -eye}, zero), 0.0, 0.0)
        above = self.constrain(self.block(v) + Expression({b: -eye * up}, zero), -np.inf, 0.0)
        below = self.constrain(self.block(s) + Expression({b: -eye * low}, low), -np.inf, 0.0)
        every, own = np.arange(len(which)), (row.start, above.start, below.start)
        pieces = {v: 1.0, s: -negative_slope}
        self._piecewise.append(_Piecewise(own, pieces, ((b, every),), ((read, every),), negative_slope >= 0))
        parts = (self.columns(v).start, self.columns(s).start)
        self.kinks.append(Kink(self.node, which, self.columns(b).start, parts))

        def fill(vector: Vector, value: Vector) -> None:
            vector[self.columns(v)], vector[self.columns(s)] = np.maximum(value, 0), np.maximum(-value, 0)
            vector[self.columns(b)] = value > 0

        # with v = s = 0 the dense row is off by exactly e
        self._on_completion_of(row, fill)
        pieces = self.block(v, which, size) + self.block(s, which, size).scaled(
            torch.full((size,), -negative_slope, dtype=torch.float64)
        )
        return result + pieces.map(lambda t: t.reshape(-1, *expression.shape))

    def maximum(self, taps: Sequence[Expression], bounds: Sequence[Interval]) -> Expression:
        """The largest of several expressions of one shape, element by element.

        A candidate that cannot be the largest is left out; where one remains it is the result. Otherwise
        ``y = e_i + d_i`` with ``0 <= d_i <= M_i·(1 − a_i)``, binaries ``Σ a_i = 1`` and ``M_i = max over the others of
        u − l_i`` (Tjeng, Xiao & Tedrake 2019, eq. 8-11).
        """
        shape, flat = taps[0].shape, [tap.flat() for tap in taps]
        lower, upper = (torch.stack([t[k].flatten() for t in bounds]) for k in (0, 1))
        best, leader = lower.max(0)
        alive = upper > best
        alive[leader, torch.arange(alive.shape[1])] = True
        decided = alive.sum(0) == 1
        result = flat[0].scaled((alive[0] & decided).double())
        for tap, here in zip(flat[1:], alive[1:]):
            result = result + tap.scaled((here & decided).double())
        which = (~decided).nonzero().flatten()
        if len(which):
            result = result + self._largest(flat, lower, upper, alive, which)
        return result.map(lambda t: t.reshape(-1, *shape))

    def _largest(
        self, taps: list[Expression], lower: Tensor, upper: Tensor, alive: Tensor, which: Tensor
    ) -> Expression:
        candidates = torch.where(alive, upper, -torch.inf)
        y = self.variables(lower.amax(0)[which], candidates.amax(0)[which])
        one, parts = torch.ones(len(which), dtype=torch.float64), []
        own, read = list[int](), list[tuple[Expression, NDArray[np.int64]]]()
        for i, tap in enumerate(taps):
            others = torch.cat([candidates[:i], candidates[i + 1 :]]).amax(0)
            local = alive[i, which].nonzero().flatten()
            here = which[local]
            if not len(here):
                continue
            size = others[here] - lower[i, here]
            d = self.variables(torch.zeros_like(size), size)
            a = self.variables(torch.zeros_like(size), torch.ones_like(size), integer=True)
            difference = self.block(y).take(local) + tap.take(here).scaled(-one[: len(here)])
            row = self.constrain(difference + self.block(d).scaled(-one[: len(here)]), 0.0, 0.0)
            least = self.constrain(self.block(d) + self.block(a).scaled(size), -np.inf, size.numpy())
            self.kinks.append(Kink(self.node, here, self.columns(a).start))
            parts.append((local.numpy(), row, d, a))
            own += [row.start, least.start]
            read.append((tap.take(here), local.numpy()))
        chosen = {}
        for at, _, _, a in parts:
            chosen[a] = sparse((np.ones(len(at)), (at, np.arange(len(at)))), (len(which), len(at)))
        own.append(self.rows(chosen, one.numpy(), one.numpy()).start)
        binaries = tuple((a, at) for at, _, _, a in parts)
        self._piecewise.append(_Piecewise(tuple(own), {y: 1.0}, binaries, tuple(read), True))
        self._on_largest(y, parts)
        return self.block(y, which, lower.shape[1])

    def _on_largest(self, y: int, parts: list[tuple[NDArray, slice, int, int]]) -> None:
        residuals = [self.residual(row) for _, row, _, _ in parts]

        def fill(vector: Vector) -> None:
            # with y = d = 0 the dense row is off by exactly e_i
            values = np.full((len(parts), len(self._lower[y])), -np.inf)
            for value, (at, _, _, _), residual in zip(values, parts, residuals):
                value[at] = residual(vector)
            first = values.argmax(0)
            vector[self.columns(y)] = values.max(0)
            for i, (at, _, d, a) in enumerate(parts):
                vector[self.columns(d)] = values.max(0)[at] - values[i, at]
                vector[self.columns(a)] = first[at] == i

        self.on_completion(fill)

    def _on_completion_of(self, row: slice, fill: Callable[[Vector, Vector], None]) -> None:
        residual = self.residual(row)
        self.on_completion(lambda vector: fill(vector, residual(vector)))

    def residual(self, row: slice, *, upper: bool = False) -> Callable[[Vector], Vector]:
        """Right-hand side (default: the lower one) minus left-hand side of rows, for a vector of all variables."""
        parts, *limits = self._rows[row.start]
        side = limits[upper]
        return lambda vector: side - sum(part @ vector[self.columns(block)] for block, part in parts.items())

    # --- the result ---------------------------------------------------------------------------------------------------

    def program(self, objective: Expression, quadratic: Vector | None = None) -> Program:
        """Everything collected, with one objective to minimise.

        Args:
            objective: of shape ``(1,)``.
            quadratic: ``(k,)`` twice the coefficients of the first k variables' squares; None: all zero.
        """
        from scipy.sparse import block_array

        cost = np.zeros(self._count)
        for block, c in objective.coefficients.items():
            cost[self.columns(block)] += c[:, 0].numpy()
        sizes = [len(limits) for limits in self._lower]
        # rows without variables, of a constant, keep their place too
        filled = [parts or {0: sparse((len(low), sizes[0]))} for parts, low, _ in self._rows.values()]
        grid = [[parts.get(block) for block in range(len(sizes))] for parts in filled]
        # the first row of blocks is empty and only says how many columns each block has
        grid.insert(0, [sparse((0, size)) for size in sizes])
        none = [np.zeros(0)]
        return Program(
            cost=cost,
            rows=sparse(block_array(grid)),
            row_lower=np.concatenate(none + [lower for _, lower, _ in self._rows.values()]),
            row_upper=np.concatenate(none + [upper for _, _, upper in self._rows.values()]),
            lower=np.concatenate(self._lower),
            upper=np.concatenate(self._upper),
            integer=np.repeat(self._integer, sizes) & ~self._needless(cost),
            quadratic=None if quadratic is None else np.pad(quadratic, (0, self._count - len(quadratic))),
            constant=float(objective.constant[0]),
        )

    def _needless(self, cost: Vector) -> NDArray[np.bool_]:
        """Which binaries may be left free: those of convex functions whose values everything wants small.

        What a row or the objective wants small (up to a limit, at a cost) never gains by lying above the function, so
        that a relaxation that lies nowhere below it is all that is needed. Wishes are followed from the end to the
        beginning: a rising function hands its own on to what it reads.
        """
        own = {row for one in self._piecewise for row in one.rows}
        small, large = cost > 0, cost < 0
        for start, (parts, low, high) in self._rows.items():
            if start not in own:
                for block, part in parts.items():
                    columns, above, below = self.columns(block), np.isfinite(high), np.isfinite(low)
                    for wish, upwards, downwards in ((small, above, below), (large, below, above)):
                        wish[columns] |= (part[upwards] > 0).sum(0) + (part[downwards] < 0).sum(0) > 0
        needless = np.zeros(self._count, dtype=bool)
        for one in reversed(self._piecewise):
            count = len(self._lower[next(iter(one.outputs))])
            down, up = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
            for block, coefficient in one.outputs.items():
                columns = self.columns(block)
                first, second = (small, large) if coefficient > 0 else (large, small)
                if coefficient:
                    down, up = down | first[columns], up | second[columns]
            for block, which in one.binaries:
                needless[self.columns(block)] = ~up[which]
            if not one.rises:
                down = up = down | up
            for expression, which in one.inputs:
                for block, c in expression.coefficients.items():
                    columns, positive, negative = self.columns(block), (c > 0).numpy(), (c < 0).numpy()
                    small[columns] |= (positive & down[which] | negative & up[which]).any(1)
                    large[columns] |= (positive & up[which] | negative & down[which]).any(1)
        return needless

    def completion(self) -> Callable[[Vector], Vector]:
        """A function from an input ``(n,)`` to the values of all variables: what the network itself does."""
        fills, count, first = tuple(self._fill), self._count, self.columns(0)

        def complete(x: Vector) -> Vector:
            vector = np.zeros(count)
            vector[first] = x
            for fill in fills:
                fill(vector)
            return vector

        return complete


def _parts(count: int, width: int) -> Iterator[slice]:
    """Rows of a given width in parts that are worked on at once."""
    height = max(1, AT_ONCE // max(1, width))
    return (slice(start, start + height) for start in range(0, count, height))


def _sparse_columns(coefficients: Tensor) -> csr_array:
    """The transpose of ``(variables, k)``."""
    from scipy.sparse import vstack

    columns = coefficients.T
    found = []
    for part in _parts(*columns.shape):
        deadline.look()
        found.append(sparse(columns[part].numpy()))
    return sparse(found[0] if len(found) == 1 else vstack(found) if found else columns.numpy())
