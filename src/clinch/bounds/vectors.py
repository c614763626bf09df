"""What rows meet on their way back: the vectors and matrices of each layer, made once for a block of problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.centred import LARGEST, UNDERFLOW, Centred
from clinch.bounds.windows import Plan, Window, size_of
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Relaxation, Shape
from clinch.network.ops.views import Kernel

#: what a transposed convolution of one row takes in nanoseconds, measured on one core, in float64 and in float32: each
#: call of a group, each product, each product that is not summed over channels; and each product of a matrix instead
CALL, PRODUCT, SCATTER, DENSE = (1600.0, 400.0), (1 / 13, 1 / 45), (3.5, 3.0), (1 / 18, 1 / 37)
#: where torch's kernels for float32 take over, nothing is scattered; small matrices, one per group, are half as quick
KNOWN_CHANNELS, SMALL = 16, 2
#: building that matrix carries as many rows back as it has: it pays for so many times more
ENOUGH_ROWS = 2


@dataclass(frozen=True)
class Way:
    """The way from node j back to node ``end``, the input or what it is first reshaped to.

    Attributes:
        plan: the windows of the nodes on the way.
        region: B regions, as node ``end`` has them.
        sided: whether rows say something of the other side of their elements too, see :meth:`Layers._far`.
    """

    graph: Graph
    j: int
    end: int
    region: Region
    relaxations: Mapping[int, Relaxation]
    centred: Centred
    plan: Plan
    sided: bool


def _is_cheaper(kernel: Kernel, area: int, behind: int, single: bool) -> bool:
    """Whether the transpose from ``area`` places to ``behind`` is cheaper as a matrix for each group."""
    channels, taps = kernel.weight.shape[1], kernel.weight[0, 0].numel()
    outputs = kernel.weight.shape[0] // kernel.groups
    by_matrix = DENSE[single] * outputs * area * channels * behind * (SMALL if kernel.groups > 1 else 1)
    copies = area * channels * taps
    scattered = 0 if single and channels >= KNOWN_CHANNELS and max(kernel.stride) == 1 else copies
    # in float64 torch takes one group after the other
    calls = 1 / kernel.groups if single else 1
    return by_matrix < CALL[single] * calls + PRODUCT[single] * outputs * copies + SCATTER[single] * scattered


class At(NamedTuple):
    """Problem ``(G,)`` and tile, ``(G,)`` per spatial dimension, of each group of rows."""

    problem: Tensor
    tile: tuple[Tensor, ...]


class Vectors:
    """For some problems, in the dtype of the rows.

    Args:
        way: all of it.
        problems: those to look at.
        dtype: of the rows.
        count: how many rows there will be.
    """

    def __init__(self, way: Way, problems: slice, dtype: torch.dtype, count: int) -> None:
        self.way, self.graph, self.plan, self.dtype, self.count = way, way.graph, way.plan, dtype, count
        self.problems, self.region = problems, way.region.take(problems)
        #: rows have fewer digits than the network
        self.single = dtype != way.region.lower.dtype
        self.vectors: dict[object, Tensor] = {}
        self.parts: dict[object, int] = {}
        self.matrices: dict[int, Tensor | None] = {}
        self.kernels: dict[int, Kernel] = {}
        self.transposes: dict[int, Kernel] = {}

    def _shape(self, i: int) -> tuple[int, ...]:
        return self.graph.shapes(i)[0]

    def value(self, i: int) -> Tensor:
        """At the boxes' middles, of these problems."""
        return self.way.centred.value(i)[self.problems]

    def radius(self, i: int) -> Tensor:
        """How far from it."""
        return self.way.centred.radius(i)[self.problems]

    def spread(self, i: int) -> Tensor:
        """What an affine layer makes of that."""
        return self.way.centred.spread(i)[self.problems]

    def _relaxation(self, i: int) -> Relaxation:
        relaxation = self.way.relaxations[i]
        return relaxation if self.graph.nodes[i].op.affine else relaxation.take(self.problems)

    def _kernel(self, i: int) -> Kernel | None:
        """Of a convolution."""
        return self._cast(i, self.kernels, self.graph.nodes[i].op.as_convolution)

    def _transposed(self, i: int) -> Kernel | None:
        """Of a transposed convolution."""
        return self._cast(i, self.transposes, self.graph.nodes[i].op.as_transposed)

    def _cast(self, i: int, held: dict[int, Kernel], of: Callable[[tuple[Shape, ...]], Kernel | None]) -> Kernel | None:
        if i not in held:
            kernel = of(self.graph.shapes(i))
            if kernel is None:
                return None
            held[i] = kernel.to(torch.zeros((), dtype=self.dtype, device=self.region.lower.device))
        return held[i]

    def _matrix(self, i: int, kernel: Kernel, window: Window | None) -> Tensor | None:
        """The transpose of a kernel on a window, or on all of its layer, as a matrix ``(groups, outputs, inputs)``,
        where that pays."""
        if i not in self.matrices:
            size, groups = size_of(self.graph, i, window), kernel.groups
            extent = self.graph.nodes[i].shape[1:] if window is None else window.extent
            behind = self._shape(i)[1:] if window is None else window.behind(kernel.reach).extent
            few = _is_cheaper(kernel, math.prod(extent), math.prod(behind), self.dtype == torch.float32)
            self.matrices[i] = None
            if few and groups * self.count >= ENOUGH_ROWS * size:
                rows = size // groups
                unit = torch.eye(rows, dtype=self.dtype, device=kernel.weight.device)
                unit = unit.reshape(rows, 1, -1).expand(-1, groups, -1)
                unit = unit.reshape(rows, kernel.weight.shape[0], *extent)
                carried = (kernel if window is None else kernel.unpadded).transposed(unit, behind)
                self.matrices[i] = carried.reshape(rows, groups, -1).transpose(0, 1).contiguous()
        return self.matrices[i]

    def _fetch(
        self, key: object, window: Window | None, at: At, made: Callable[[], list[Tensor]],
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Vectors ``(B, *shape)``, made once, for each group: its problem's, on its window."""
        if key not in self.vectors:
            parts = made()
            stacked = torch.stack([t.to(dtype or self.dtype) for t in parts], 1).flatten(1, 2)
            self.vectors[key] = stacked if window is None else window.view(stacked)
            self.parts[key] = len(parts)
        view = self.vectors[key]
        problem = at.problem if view.shape[0] > 1 else torch.zeros_like(at.problem)
        if window is not None:
            found = view[(problem, slice(None), *at.tile)]
        else:
            found = view if view.shape[0] == 1 else view[problem]
        return found.unflatten(1, (self.parts[key], -1)).unbind(1)

    @cached_property
    def lost(self) -> Tensor:
        """``(B,)`` what may underflow on the way, of at most 2²⁰ products of each sum."""
        total = self.region.lower.new_zeros(self.region.size)
        for i in self.plan:
            if i > self.way.end:
                relaxation = self._relaxation(i)
                lines = relaxation.by_place()
                slopes = [] if lines is None else [t for pair in lines.slopes for t in pair]
                largest = max((float(t.abs().max()) for t in slopes), default=0.0)
                seen = self._kernel(i), self._transposed(i), self.graph.matrix(i)
                weights = [w.weight for w in seen if w is not None]
                largest = max([largest, *(float(w.abs().max()) for w in weights)])
                sizes = sum(self.radius(k).flatten(1).sum(1) for k in self.graph.nodes[i].inputs)
                total = total + LARGEST * UNDERFLOW * (1 + largest) * sizes
        return total
