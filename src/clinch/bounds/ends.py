"""Where rows that were carried back become numbers: at the input, or at a dense layer right behind it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional

from clinch.bounds.symbols import affine_symbols, mixes
from clinch.geometry.inner_products import products
from clinch.geometry.linear_minimum import minimum_over
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Lines, Relaxation
from clinch.network.ops.symbols import SymbolicLimits
from clinch.network.ops.views import Matrix

#: coefficients on the input for which problems are put together: smaller products are mostly overhead
PIECE = 2**16
#: coefficients on the input looked at once: they and the matrix they come from should fit a core's cache
LARGEST_PIECE = 2**18
#: free inputs with which rows end at symbols
FEW = 32
#: share of a matrix's rows that must be in use for the others to be multiplied along: choosing costs about as much
MOSTLY_USED = 0.85


class End(Protocol):
    """The node at which rows end, and their minimum there over a batch of regions."""

    @property
    def node(self) -> int:
        """Position of the node whose value the rows multiply."""
        ...

    def take(self, problems: Tensor | slice) -> Self:
        """The same for the chosen problems."""
        ...

    def least(self, rows: Tensor) -> Tensor:
        """Lower limits ``(B, R)`` of ``<rows, value of the node>`` for rows ``(B, R, *node_shape)``."""
        ...


@dataclass(frozen=True)
class AtInput:
    """Rows on the input: their minimum over the region."""

    region: Region
    node: int = 0

    def take(self, problems: Tensor | slice) -> AtInput:
        """The same for the chosen problems."""
        return AtInput(self.region.take(problems))

    def least(self, rows: Tensor) -> Tensor:
        """Exact for at most one ball."""
        return minimum_over(self.region, rows)


@dataclass(frozen=True)
class AtDense:
    """Rows on ``W x + b`` with x in a box of centre m and half widths h: ``<rows, W m + b> − <|Wᵀ rows|, h>``, exactly.

    The long vectors ``Wᵀ rows`` are looked at only once, for their absolute values, in pieces that stay in the cache.

    Attributes:
        node: the dense layer's position.
        weight: W, ``(n, inputs)``.
        centre: ``W m + b``, ``(B, n)``.
        half: h, ``(B, inputs)``.
        used: ``(B, n)`` where rows may differ from zero: rows of W that no problem of a block uses are left out.
    """

    node: int
    weight: Tensor
    centre: Tensor
    half: Tensor
    used: Tensor

    def take(self, problems: Tensor | slice) -> AtDense:
        """The same for the chosen problems."""
        return AtDense(self.node, self.weight, self.centre[problems], self.half[problems], self.used[problems])

    def least(self, rows: Tensor) -> Tensor:
        """Exact."""
        rows = rows[:1] if rows.stride(0) == 0 else rows
        middle = products(rows, self.centre)
        if rows.shape[0] == 1:
            return middle - self._spread(rows, self.half, self.used)
        height = max(1, PIECE // (rows.shape[1] * self.weight.shape[1]))
        pieces = zip(rows.split(height), self.half.split(height), self.used.split(height))
        return middle - torch.cat([self._spread(*piece) for piece in pieces])

    def _spread(self, rows: Tensor, half: Tensor, used: Tensor) -> Tensor:
        """``<|Wᵀ rows|, h>``; rows ``(b, R, n)``, or ``(1, R, n)`` where all problems share them."""
        weight, which = self.weight, used.any(0).nonzero().flatten()
        if len(which) < MOSTLY_USED * len(weight):
            rows, weight = rows.index_select(2, which), weight.index_select(0, which)
        parts = []
        for part in rows.split(max(1, LARGEST_PIECE // (rows.shape[0] * weight.shape[1])), 1):
            carried = part.flatten(0, 1) @ weight
            size = carried.abs() if carried.requires_grad else carried.abs_()
            parts.append(products(size.view(*part.shape[:2], -1), half))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


@dataclass(frozen=True)
class AtSymbols:
    """Rows on an affine function ``m_0 + Σ_k m_k e_k`` of symbols in [−1, 1]: ``<rows, m_0> − Σ_k |<rows, m_k>|``,
    exactly.

    Attributes:
        node: the layer's position.
        columns: ``m``, ``(B, 1 + K, n)``.
    """

    node: int
    columns: Tensor

    def take(self, problems: Tensor | slice) -> AtSymbols:
        """The same for the chosen problems."""
        return AtSymbols(self.node, self.columns[problems])

    def least(self, rows: Tensor) -> Tensor:
        """Exact."""
        flat = rows.flatten(2)
        found = (flat[:1] if flat.stride(0) == 0 else flat) @ self.columns.mT
        return found[..., 0] - found[..., 1:].abs().sum(2)


def end_of(graph: Graph, wanted: Collection[int], region: Region, relaxations: Mapping[int, Relaxation]) -> End:
    """Where the rows of forms of the wanted nodes end.

    In a bounded box with few free inputs at the last affine layer through which every way to the input leads; in any
    other bounded box at the dense layer right behind it, if there is one.

    Args:
        graph: the network.
        wanted: positions of nodes.
        region: B regions.
        relaxations: of what the wanted nodes depend on, for these regions.
    """
    first = None if region.balls else _first_dense(graph, wanted)
    last = 0 if region.balls else _last_affine(graph, wanted)
    if last and (symbols := _symbols(graph, last, region, first)) is not None:
        return AtSymbols(last, symbols.middle.flatten(2))
    lower, upper = region.lower.flatten(1), region.upper.flatten(1)
    if first is None or not bool(torch.isfinite(lower).all() & torch.isfinite(upper).all()):
        return AtInput(region)
    i, matrix = first
    centre = functional.linear(lower / 2 + upper / 2, matrix.weight, matrix.bias)
    return AtDense(i, matrix.weight, centre, upper / 2 - lower / 2, _used(graph, i, wanted, centre, relaxations))


def _first_dense(graph: Graph, wanted: Collection[int]) -> tuple[int, Matrix] | None:
    """The dense layer through which every way from the wanted nodes to the input leads, and its matrix, or None."""
    needed = graph.ancestors(wanted)
    i = 0
    while i not in wanted:
        readers = [k for k in needed if i in graph.nodes[k].inputs]
        if len(readers) != 1:
            return None
        (i,) = readers
        if (matrix := graph.matrix(i)) is not None:
            return i, matrix
        if not graph.nodes[i].op.keeps_order:
            return None
    return None


def _last_affine(graph: Graph, wanted: Collection[int]) -> int:
    """The last of the affine layers behind the input through each of which every way from the wanted nodes leads."""
    needed, i = graph.ancestors(wanted), 0
    while i not in wanted:
        readers = [k for k in needed if i in graph.nodes[k].inputs]
        if len(readers) != 1 or not graph.nodes[readers[0]].op.affine or len(graph.nodes[readers[0]].inputs) != 1:
            return i
        (i,) = readers
    return i


def _symbols(graph: Graph, last: int, region: Region, first: tuple[int, Matrix] | None) -> SymbolicLimits | None:
    """A layer in symbols, where these are few and rows would pass through layers that mix elements behind it."""
    start = 0 if first is None else first[0]
    passed = [i for i in graph.ancestors([last]) if i > start and mixes(graph, i)]
    if not passed or int((region.lower < region.upper).flatten(1).sum(1).max()) > FEW:
        return None
    return affine_symbols(graph, last, region)


def _used(
    graph: Graph, first: int, wanted: Collection[int], like: Tensor, relaxations: Mapping[int, Relaxation]
) -> Tensor:
    """``(B, n)`` where rows on a layer may differ from zero: not where its only reader has no slope (dead ReLUs)."""
    readers = [k for k in graph.ancestors(wanted) if first in graph.nodes[k].inputs]
    lines = relaxations[readers[0]] if len(readers) == 1 and first not in wanted else None
    if not isinstance(lines, Lines) or lines.upper_slope.dim() != 2:
        return torch.ones_like(like, dtype=torch.bool)
    return (lines.upper_slope != 0) | (lines.lower_slope != 0)  # NaN is in use
