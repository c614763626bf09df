"""What the checker finds for a network, limits and lines, as a search takes them: then what a search proves is proven.

The checker expands some layers of the list into several; a node of the graph stands for all of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from clinch.bounds.domains import Relaxed, relax_query
from clinch.checker.layers import NONLINEAR, Layer
from clinch.checker.lines import Box
from clinch.checker.matrices import Sparse
from clinch.checker.rigorous import Ball
from clinch.checker.rigorous import Relaxation as Checked
from clinch.network.graph import Graph
from clinch.network.ops.base import AffineRelaxation, Interval, Relaxation, Shape
from clinch.network.ops.shape import Reshape
from clinch.query import Query


def checked_balls(query: Query) -> list[Ball]:
    """The balls of one problem's region in the checker's numbers."""
    found = []
    for ball in query.region.balls:
        weights = torch.ones_like(ball.center[0]) if ball.weights is None else ball.weights[0]
        numbers = ball.center[0].flatten().numpy(), float(ball.radius[0]), ball.p, weights.flatten().numpy()
        found.append(Ball(*numbers))
    return found


def source_of(layers: Sequence[Layer], i: int, element: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where elements of a layer come from, through what only selects or reshapes: layers, and places there."""
    layer = layers[i]
    if layer.kind != "reshape" and not layer.selects:
        return np.full(len(element), i), element
    if isinstance(layer.weight, Sparse):
        element = layer.weight.column[element]
    at, start, element = np.full(len(element), i), 0, element.copy()
    ends = np.cumsum([layers[j].size for j in layer.inputs])
    which = np.searchsorted(ends, element, "right")
    for k, j in enumerate(layer.inputs):
        here = np.flatnonzero(which == k)
        start = ends[k] - layers[j].size
        at[here], element[here] = source_of(layers, j, element[here] - start)
    return at, element


class CheckedNetwork(NamedTuple):
    """The layers that the checker reads, and where the nodes of the graph are among them.

    Attributes:
        root: what the checker finds over the whole region, cut to what lemmas prove; None: not looked at yet.
        proven: limits that lemmas have proven over the region, by layer; None: there are no lemmas.
    """

    layers: list[Layer]
    positions: list[int]
    root: Checked | None = None
    proven: dict[int, Box] | None = None

    @property
    def bends(self) -> bool:
        """Whether anything but ReLUs is not affine."""
        return any(layer.kind in NONLINEAR and layer.kind != "relu" for layer in self.layers)

    def relax(self, query: Query, every: dict[int, Tensor] | None) -> Relaxed:
        """The query's relaxation with the checker's limits and lines, see :func:`clinch.bounds.domains.relax_query`."""
        box = Box(*(t.flatten(1).numpy() for t in (query.region.lower, query.region.upper)))
        if self.root is not None and all(map(np.array_equal, box, self.root.limits[0])):
            return self.relaxed(query, self.root, every)
        with np.errstate(all="ignore"):
            return self.relaxed(query, Checked(self.layers, box, checked_balls(query), self.proven), every)

    def relaxed(self, query: Query, found: Checked, every: dict[int, Tensor] | None) -> Relaxed:
        """The same from what the checker has found."""
        graph, limits = query.graph, {}
        for i, node in enumerate(graph.nodes):
            at = found.limits[self.positions[i]]
            limits[i] = Interval(*(torch.from_numpy(t).reshape(-1, *node.shape) for t in at))
        made = {i: lines for i in range(1, len(graph.nodes)) if (lines := self.lines(graph, i, found)) is not None}
        return relax_query(
            query, limits, every, lambda graph, i, inputs: made[i] if i in made else graph.relax(i, inputs)
        )

    def bend(self, i: int) -> int | None:
        """Where the layer is that a node is not affine for, other than a ReLU; None: there is none."""
        own = range(self.positions[i - 1] + 1, self.positions[i] + 1)
        return next((p for p in own if self.layers[p].kind in NONLINEAR and self.layers[p].kind != "relu"), None)

    def lines(self, graph: Graph, i: int, found: Checked) -> Relaxation | None:
        """The lines of a node that is neither affine nor a ReLU."""
        own, at = range(self.positions[i - 1] + 1, self.positions[i] + 1), self.bend(i)
        if at is None:
            # what the checker takes for the identity, whatever else is known of it
            alike = self.layers[self.positions[i]].kind == "reshape"
            return AffineRelaxation(Reshape(graph.nodes[i].shape), graph.shapes(i)) if alike else None
        inputs, sides = [self.positions[j] for j in graph.nodes[i].inputs], []
        for slot, p in enumerate(self.layers[at].inputs):
            weight = self.layers[p].weight if p in own else None
            source = self.layers[p].inputs[0] if p in own else p
            places = torch.from_numpy(weight.column) if isinstance(weight, Sparse) else None
            same = len(inputs) > slot and inputs[slot] == source
            sides.append((slot if same else inputs.index(source), places))
        out, last = None, self.layers[self.positions[i]].weight
        if at != self.positions[i] and isinstance(last, Sparse):
            out = torch.empty(len(last.row), dtype=torch.long)
            out[torch.from_numpy(last.column)] = torch.from_numpy(last.row)
        low, high, low_offset, high_offset = (torch.from_numpy(t) for t in found.lines[at])
        return PlaceLines(
            graph.shapes(i), graph.nodes[i].shape, tuple(sides), out,
            low.transpose(0, 1), high.transpose(0, 1), low_offset, high_offset,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class PlaceLines(Relaxation):
    """Lines of T terms, each of one element of every side; terms add up to the elements of the output.

    Attributes:
        shapes: of the inputs; shape: of the output.
        sides: which input, and the place there of each term, None for its own.
        out: ``(T,)`` element of the output, None for its own.
        low, high: ``(B, sides, T)`` slopes; low_offset, high_offset: ``(B, T)``.
    """

    shapes: tuple[Shape, ...]
    shape: Shape
    sides: tuple[tuple[int, Tensor | None], ...]
    out: Tensor | None
    low: Tensor
    high: Tensor
    low_offset: Tensor
    high_offset: Tensor

    def _each(self, change: object) -> Self:
        names = ("low", "low_offset", "high", "high_offset")
        return dataclasses.replace(self, **{name: change(getattr(self, name)) for name in names})  # type: ignore[operator]

    def take(self, problems: Tensor | slice) -> Self:
        """The chosen problems."""
        return self._each(lambda t: t[problems])

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy with the given dtype."""
        return self._each(lambda t: t.to(device, dtype))

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Positive coefficients take the lower lines, negative ones the upper ones."""
        batch, count = max(len(rows), len(self.low)), rows.shape[1]
        flat = rows.flatten(2)
        flat = flat if self.out is None else flat[:, :, self.out]
        above, below = flat.clamp(min=0), flat.clamp(max=0)
        offset = (above * self.low_offset.unsqueeze(1) + below * self.high_offset.unsqueeze(1)).sum(2)
        carried = [rows.new_zeros(batch, count, math.prod(shape)) for shape in self.shapes]
        for k, (slot, places) in enumerate(self.sides):
            part = above * self.low[:, k].unsqueeze(1) + below * self.high[:, k].unsqueeze(1)
            carried[slot] = carried[slot] + part if places is None else carried[slot].index_add(2, places, part)
        return [t.reshape(batch, count, *shape) for t, shape in zip(carried, self.shapes)], offset

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """The lower line where the coefficient is not negative, the upper one elsewhere."""
        flat = rows[:, 0].flatten(1)
        up = (flat if self.out is None else flat[:, self.out]) >= 0
        found = torch.where(up, self.low_offset, self.high_offset)
        for k, (slot, places) in enumerate(self.sides):
            h = inputs[slot].flatten(1)
            found = found + torch.where(up, self.low[:, k], self.high[:, k]) * (h if places is None else h[:, places])
        if self.out is not None:
            found = found.new_zeros(len(found), math.prod(self.shape)).index_add(1, self.out, found)
        return found.reshape(len(found), *self.shape)
