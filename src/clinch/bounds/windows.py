"""Windows: the part of each layer behind that a tile of a layer's elements can see, and where it lies.

The elements of a layer are looked at in tiles of a few places along each dimension, all channels together. The rows of
a tile's elements are zero outside a window, the tile's receptive field; windows of all tiles have one extent and stand
apart by one stride, so that a layer's slopes can be viewed tile by tile without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.graph import Graph
from clinch.network.ops.base import Relaxation
from clinch.network.ops.views import Reach


@dataclass(frozen=True)
class Window:
    """The part of a layer that tile p sees: along each dimension from ``p·stride + start`` on, ``extent`` places long.

    Attributes:
        tiles: how many there are along each spatial dimension; the others likewise one number per dimension.
    """

    tiles: tuple[int, ...]
    stride: tuple[int, ...]
    start: tuple[int, ...]
    extent: tuple[int, ...]

    @property
    def area(self) -> int:
        """Number of places."""
        return math.prod(self.extent)

    def behind(self, op: Reach) -> Window:
        """The window of an operator's input that this window of its output sees."""
        return Window(
            self.tiles,
            tuple(a * s for a, s in zip(self.stride, op.stride)),
            tuple(a * s - p for a, s, p in zip(self.start, op.stride, op.padding)),
            tuple((n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(self.extent, op.stride, op.dilation, op.kernel)),
        )

    def before(self, op: Reach) -> Window | None:
        """The window of the *output* of an operator that this window of its input meets, as the places whose own
        windows touch it: what the operator's transpose reads. None where tiles do not move alike there.
        """
        if any(a % s for a, s in zip(self.stride, op.stride)):
            return None
        axes = list(zip(self.start, self.extent, op.kernel, op.stride, op.padding, op.dilation))
        start = tuple(-((d * (k - 1) - a - p) // s) for a, _, k, s, p, d in axes)
        stop = tuple((a + n - 1 + p) // s for a, n, _, s, p, _ in axes)
        extent = tuple(b - a + 1 for a, b in zip(start, stop))
        if min(extent) < 1:
            return None
        return Window(self.tiles, tuple(a // s for a, s in zip(self.stride, op.stride)), start, extent)

    def union(self, other: Window) -> Window | None:
        """The smallest window around both; None where they move differently from tile to tile."""
        if self.stride != other.stride:
            return None
        start = tuple(map(min, self.start, other.start))
        stop = [max(a + n, b + m) for a, n, b, m in zip(self.start, self.extent, other.start, other.extent)]
        return Window(self.tiles, self.stride, start, tuple(b - a for a, b in zip(start, stop)))

    def view(self, layer: Tensor) -> Tensor:
        """Every tile's window of ``(B, channels, *extents)``, shape ``(B, channels, *tiles, *extent)``.

        Zero outside the layer. The padded layer is the only copy.
        """
        pads: list[int] = []
        for n, count, s, a, k in zip(layer.shape[2:], self.tiles, self.stride, self.start, self.extent):
            pads = [-a, max(0, (count - 1) * s + a + k - n), *pads]
        view = functional.pad(layer, pads)
        for d, (s, k) in enumerate(zip(self.stride, self.extent)):
            view = view.unfold(2 + d, k, s)
        return view

    def widen(self, rows: Tensor, narrow: Window) -> Tensor:
        """Rows on a window inside this one, with zeros around them."""
        if narrow == self:
            return rows
        pads: list[int] = []
        for a, n, b, m in zip(self.start, self.extent, narrow.start, narrow.extent):
            pads = [b - a, a + n - b - m, *pads]
        return functional.pad(rows, pads)

    def place(self, rows: Tensor, tile: Sequence[Tensor], extents: Sequence[int]) -> Tensor:
        """Rows ``(G, R, channels, *extent)`` of the windows of G tiles as rows on the whole layer.

        Args:
            rows: see above.
            tile: ``(G,)`` number of each tile along each dimension.
            extents: of the layer.
        """
        groups = rows.shape[0]
        index, inside = rows.new_zeros(groups, 1, dtype=torch.long), rows.new_ones(groups, 1, dtype=torch.bool)
        for t, s, a, k, n in zip(tile, self.stride, self.start, self.extent, extents):
            at = torch.arange(n, device=rows.device) - (t * s + a).unsqueeze(1)
            within = (at >= 0) & (at < k)
            index = (index.unsqueeze(2) * k + at.clamp(0, k - 1).unsqueeze(1)).flatten(1)
            inside = (inside.unsqueeze(2) & within.unsqueeze(1)).flatten(1)
        flat = rows.flatten(3)
        found = flat.gather(3, index[:, None, None].expand(*flat.shape[:3], -1)) * inside[:, None, None].to(rows.dtype)
        return found.reshape(*rows.shape[:3], *extents)

    def relative(self, places: Tensor, tile: Sequence[Tensor], extents: Sequence[int]) -> Tensor:
        """Flat places ``(G, channels, …)`` of a layer as flat places of G tiles' windows; any in them for others."""
        index, size = torch.zeros_like(places), 1
        for t, s, a, k, n in reversed([*zip(tile, self.stride, self.start, self.extent, extents)]):
            at = places % n - (t * s + a).reshape(-1, *[1] * (places.dim() - 1))
            index, size, places = index + at.clamp(0, k - 1) * size, size * k, places // n
        return index


#: node -> the window of it that is looked at, or None: all of it
Plan = dict[int, Window | None]


def plan(graph: Graph, j: int, relaxations: Mapping[int, Relaxation], end: int, tile: int) -> Plan:
    """What tiles of node j see of the nodes between it and node ``end``, on which every way back ends.

    Windows pass what works place by place, convolutions, transposed ones, pools, and sums and joins, whose branches'
    windows are put together.
    Elsewhere, and where a window is no smaller than its layer, the whole layer is looked at.
    """
    shape = graph.nodes[j].shape
    tiles = tuple(-(-n // tile) for n in shape[1:])
    side, zeros = (tile,) * len(tiles), (0,) * len(tiles)
    plan: Plan = {j: Window(tiles, side, zeros, side) if math.prod(tiles) > 1 else None}
    for i in reversed(graph.ancestors([j])):
        if i <= end or i not in plan:
            continue
        for k, window in zip(graph.nodes[i].inputs, sees(graph, i, relaxations[i], plan[i])):
            earlier = plan.get(k, window)
            both = None if window is None or earlier is None else earlier.union(window)
            plan[k] = None if both is None or both.area >= math.prod(graph.nodes[k].shape[1:]) else both
    return plan


def sees(graph: Graph, i: int, relaxation: Relaxation, window: Window | None) -> list[Window | None]:
    """The window of each input of node i that a window of its output sees; None: the whole of it."""
    op, shapes = graph.nodes[i].op, graph.shapes(i)
    if window is None:
        return [None] * len(shapes)
    if (lines := relaxation.by_place()) is not None:
        return [window] * len(lines.slopes)
    if op.as_factors(shapes) is not None or op.as_sum(shapes) is not None:
        return [window] * len(shapes)
    if op.treats_places_alike(shapes):
        return [window] * len(shapes)
    if (transposed := op.as_transposed(shapes)) is not None:
        return [window.before(transposed.reach)]
    kernel = op.as_convolution(shapes)
    reach = op.as_reach(shapes) if kernel is None else kernel.reach
    return [None] * len(shapes) if reach is None else [window.behind(reach)]


def convolves(graph: Graph, wanted: Iterable[int]) -> bool:
    """Whether a convolution lies below the wanted nodes."""
    return any(i and graph.nodes[i].op.as_convolution(graph.shapes(i)) is not None for i in graph.ancestors(wanted))


def size_of(graph: Graph, i: int, window: Window | None) -> int:
    """Number of activations of node i in a window."""
    node = graph.nodes[i]
    return node.size if window is None else node.shape[0] * window.area


def groups_of(open_: Tensor, tile: int) -> Tensor:
    """How many tiles of each problem hold an open element, ``(B,)``; ``(B, channels, *extents)`` elements."""
    some = open_.any(1)
    pads = [(0, -n % tile) for n in reversed(some.shape[1:])]
    some = functional.pad(some, [p for pair in pads for p in pair])
    for d in range(1, some.dim()):
        some = some.unfold(d, tile, tile)
    count = open_.dim() - 2
    return some.flatten(1 + count).any(-1).flatten(1).sum(1)
