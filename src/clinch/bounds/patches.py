"""CROWN's limits of a layer's elements, each carried back as the window of activations it can see.

A row of coefficients of one element is zero outside its receptive field. So rows stay windows (:mod:`.windows`), those
of one tile of places together: they meet the same slopes. They pass a ReLU by a window of slopes, a convolution by its
transpose without padding, a sum by going both ways; at the input a window of the box meets them. What a window holds
outside the layer (where a convolution reads its padding) meets slopes, constants and limits of zero there. Where a
window is no smaller than its layer, or an operator knows nothing of places, rows are on whole layers from there on.

Rows are those of the network seen from the region's middle (:mod:`.centred`), which gives the same limits, and lets
many rows go in float32 with a proven allowance. That is done for the side that the sign at the middle suggests: it
decides most signs, whose limits no relaxation then looks at. What stays open is bounded in float64, on both sides.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds import backward
from clinch.bounds.centred import LARGEST, Centred
from clinch.bounds.vectors import At, Way
from clinch.bounds.way_back import Layers
from clinch.bounds.windows import groups_of, plan, size_of
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Relaxation

#: coefficients carried back at once, on a layer of average size, and how many times more on the largest one
PIECE, LARGER = 2**18, 4
#: places of a tile along each dimension, to choose from; and what fetching a window's slopes costs, in rows
TILES, FETCH = (1, 2, 4), 4
#: coefficients of one problem's rows, one side each, from which on they go in float32 first
HEAVY = 2**23
#: one of so many elements is tried first, and the share of them that must be settled for the others to follow
SAMPLE, WORTHWHILE = 16, 0.2
#: how far behind the limits that are known float32 must end for float64 to be of no use, as a share of their distance
BEHIND = 0.01


class Elements(NamedTuple):
    """Elements of a layer, each with the side to bound: problem, flat position, and 1 for its lower limit or −1 for its
    upper one, ``(N,)`` each."""

    problem: Tensor
    place: Tensor
    sign: Tensor

    def take(self, which: Tensor) -> Elements:
        """The chosen ones."""
        return Elements(*(t[which] for t in self))

    @staticmethod
    def of(open_: Tensor, sign: Tensor | None = None) -> Elements:
        """The elements ``(B, size)``, with the given sides ``(B, size)``; None: both."""
        problem, place = open_.nonzero().unbind(1)
        if sign is not None:
            return Elements(problem, place, sign[problem, place])
        one = torch.ones_like(place)
        return Elements(torch.cat([problem] * 2), torch.cat([place] * 2), torch.cat([one, -one]))


def patch_bounds(
    graph: Graph,
    j: int,
    open_: Tensor,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    limits: tuple[Tensor, Tensor],
    stop: Callable[[], bool],
    centred: Centred,
) -> bool:
    """Write CROWN's limits of the open elements of a node into ``limits``.

    Args:
        graph: the network.
        j: position of the node.
        open_: ``(B, size)`` elements to bound.
        region: B regions.
        relaxations: of every node that j depends on.
        limits: lower and upper limits ``(B, size)``, changed in place.
        stop: asked between blocks; once true, the other elements keep their limits.
        centred: the network around these regions.

    Returns:
        Whether this could be done. Not so where windows are no smaller than the layers, where the box is not bounded,
        or where a ball's centre lies outside of it, so that elements outside the window matter.
    """
    if not _bounded(region):
        return False
    walk = _Walk.of(graph, j, region, relaxations, centred, open_, 2)
    if walk.cost >= sum(graph.nodes[i].size for i in walk.way.plan):
        return False
    walk.write(Elements.of(open_), limits, stop, region.lower.dtype)
    return True


def screened(
    graph: Graph,
    j: int,
    open_: Tensor,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    limits: tuple[Tensor, Tensor],
    stop: Callable[[], bool],
    centred: Centred,
    at_zero: bool,
) -> Tensor:
    """The elements ``(B, size)`` that float64 may say more of, after one side was bounded in float32: not those whose
    sign that decides, and not those whose limits are far narrower already, on the other side too.

    For problems of many rows on networks with convolutions; the others' elements all stay. What is decided gets limits,
    on the other side those that the same rows give.

    Arguments: see :func:`patch_bounds`; at_zero: whether signs alone matter.
    """
    largest = max(graph.nodes[i].size for i in graph.ancestors([j]))
    if not centred.single or largest > LARGEST or not _bounded(region):
        return open_
    value = centred.value(j).flatten(1)
    walk = _Walk.of(graph, j, region, relaxations, centred, open_, 1)
    heavy = (walk.cost * open_.sum(1) >= HEAVY).unsqueeze(1)
    if value.requires_grad or not bool(heavy.any()):
        return open_
    first = torch.where(value >= 0, 1, -1) if at_zero else torch.ones_like(open_, dtype=torch.long)
    settled = torch.zeros_like(open_)
    for part in _parts(open_ & heavy):
        vain = walk.write(Elements.of(part, first), limits, stop, torch.float32)
        decided = (limits[0] >= 0) | (limits[1] <= 0) if at_zero else torch.zeros_like(open_)
        vain = walk.write(Elements.of(vain & ~decided, -first), limits, stop, torch.float32)
        settled = settled | (part & decided) | vain
        if float((settled & part).sum()) < WORTHWHILE * float(part.sum()):
            break
    return open_ & ~settled


def _parts(open_: Tensor) -> tuple[Tensor, Tensor]:
    """A few elements of each problem ``(B, size)``, to see whether it pays, and the others."""
    some = open_ & (open_.cumsum(1) % SAMPLE == 1)
    return some, open_ & ~some


def _bounded(region: Region) -> bool:
    inside = all(bool(((b.center >= region.lower) & (b.center <= region.upper)).all()) for b in region.balls)
    return inside and bool(torch.isfinite(region.lower).all() & torch.isfinite(region.upper).all())


def _end(graph: Graph, j: int) -> int:
    """The input, or what it is first reshaped, permuted or cut to: windows are on that."""
    passed, end = _passed(graph, j), 0
    while True:
        readers = [k for k in passed if end in graph.nodes[k].inputs]
        if len(readers) != 1 or readers[0] == j or not _copies(graph, readers[0]):
            return end
        end = readers[0]


def _passed(graph: Graph, j: int) -> list[int]:
    """The nodes that rows of node j are carried through: no constants, where they end."""
    passed = {j}
    for i in range(j, 0, -1):
        if i in passed and not graph.nodes[i].op.enclosed:
            passed.update(graph.nodes[i].inputs)
    return sorted(i for i in passed if not graph.nodes[i].op.enclosed)


def _copies(graph: Graph, i: int) -> bool:
    """Whether a node has elements of its one input, in some order, none of them twice."""
    op, shapes = graph.nodes[i].op, graph.shapes(i)
    if op.rearranges or not (op.affine and op.selects and len(shapes) == 1):
        return op.rearranges
    count = math.prod(shapes[0])
    places = torch.arange(2 * count, dtype=torch.float64).reshape(2, *shapes[0])
    first, second = op.forward(places).flatten(1)
    return bool((second - first == count).all()) and len(first.unique()) == len(first)


def _region_at(graph: Graph, end: int, region: Region) -> Region:
    """The region of a node that is the input in another order, or a part of it: a ball's centre lies inside the box, so
    that the other elements may stay there."""

    def moved(t: Tensor) -> Tensor:
        return graph.forward(t.reshape(-1, *graph.input_shape), [end])[end]

    balls = (
        replace(b, center=moved(b.center), weights=None if b.weights is None else moved(b.weights))
        for b in region.balls
    )
    return Region(moved(region.lower), moved(region.upper), tuple(balls))


@dataclass(frozen=True)
class _Walk:
    """How the elements of a node are carried back.

    Attributes:
        tile: places of a tile along each dimension.
        cost: coefficients of one row on the way.
    """

    way: Way
    tile: int
    cost: int

    @staticmethod
    def of(
        graph: Graph,
        j: int,
        region: Region,
        relaxations: Mapping[int, Relaxation],
        centred: Centred,
        open_: Tensor,
        sides: int,
    ) -> _Walk:
        """The tiles that cost least for so many sides of the open elements ``(B, size)``."""
        end, layer = _end(graph, j), open_.reshape(-1, *graph.nodes[j].shape)
        rows, found, at_end = sides * int(open_.sum()), [], _region_at(graph, end, region)
        for tile in TILES if layer.dim() > 2 else TILES[:1]:
            if found and rows * found[0][1].cost < HEAVY:
                break  # looking for larger tiles would cost more than they save
            made = plan(graph, j, relaxations, end, tile)
            cost = sum(size_of(graph, i, window) for i, window in made.items())
            groups = int(groups_of(layer, tile).sum()) if layer.dim() > 2 else len(layer)
            way = Way(graph, j, end, at_end, relaxations, centred, made, sides == 1)
            found.append((cost * (rows + FETCH * groups), _Walk(way, tile, cost)))
        return min(found, key=lambda pair: pair[0])[1]

    def write(
        self, elements: Elements, limits: tuple[Tensor, Tensor], stop: Callable[[], bool], dtype: torch.dtype
    ) -> Tensor:
        """Write limits of elements, carried back in the given dtype; those ``(B, size)`` whose limits were narrower."""
        vain = torch.zeros_like(limits[0], dtype=torch.bool)
        if not len(elements.place):
            return vain
        value, other, most = self._bound(elements, stop, dtype)
        all_ = elements.problem, elements.place
        centre = self.way.centred.value(self.way.j).flatten(1)[all_]
        lower, upper = (side[all_] for side in limits)
        known = torch.where(elements.sign == 1, lower - centre, centre - upper)
        vain[all_] = most <= known - BEHIND * (upper - lower)
        for side, opposite, sign in zip(limits, reversed(limits), (1, -1)):
            here = (elements.sign == sign) & (value > -torch.inf)
            where = elements.problem[here], elements.place[here]
            higher, lesser = (torch.maximum, torch.minimum)[::sign]
            side[where] = higher(side[where], centre[here] + sign * value[here])
            if self.way.sided:
                opposite[where] = lesser(opposite[where], centre[here] + sign * other[here])
        return vain

    def _bound(self, elements: Elements, stop: Callable[[], bool], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Lower limits ``(N,)`` of ``sign·(element − its value at the middle)``, upper ones by the same rows, and what
        the lower ones may be without rounding."""
        graph, made = self.way.graph, self.way.plan
        value = self.way.region.lower.new_full(elements.place.shape, -torch.inf)
        other = -value
        best = other.clone()
        largest = max(size_of(graph, i, window) for i, window in made.items())
        most = max(1, min(PIECE * len(made) // self.cost, LARGER * PIECE // largest))
        height = max(1, 4 * backward.BLOCK // max(graph.nodes[i].size for i in made))
        window, (tile, local) = made[self.way.j], self._located(elements.place)
        for first in range(0, self.way.region.size, height):
            here = ((elements.problem >= first) & (elements.problem < first + height)).nonzero().flatten()
            if not len(here):
                continue
            layers = Layers(self.way, slice(first, first + height), dtype, len(here))
            number = elements.problem[here]
            for t, count in zip(tile, () if window is None else window.tiles):
                number = number * count + t[here]
            for table, kept in _tables(number, most):
                if stop():
                    return value, other, best
                rows = here[table]
                at = At(elements.problem[rows[:, 0]] - first, tuple(t[rows[:, 0]] for t in tile))
                found = layers(at, local[rows], elements.place[rows], elements.sign[rows])
                for whole, part in zip((value, other, best), found):
                    whole[rows[kept]] = part[kept]
        return value, other, best

    def _located(self, place: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Of flat places the tile, one number per dimension, and the flat place in its window."""
        if self.way.plan[self.way.j] is None:
            return (), place
        tiles, local, size = [], torch.zeros_like(place), 1
        for n in reversed(self.way.graph.nodes[self.way.j].shape[1:]):
            at, place = place % n, place // n
            tiles.append(at // self.tile)
            local, size = local + at % self.tile * size, size * self.tile
        return tuple(reversed(tiles)), local + place * size


def _tables(number: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Groups of elements of one number each, put together in tables ``(G, R)`` of about ``most`` elements.

    Groups of about one size make a table. It is filled up with elements of the same group: the mask ``(G, R)`` says
    what counts.
    """
    order = number.argsort(stable=True)
    counts = number[order].unique_consecutive(return_counts=True)[1]
    pieces = -(-counts // most)
    index = torch.arange(int(pieces.sum()), device=number.device) - (pieces.cumsum(0) - pieces).repeat_interleave(
        pieces
    )
    starts = (counts.cumsum(0) - counts).repeat_interleave(pieces) + index * most
    sizes = (counts.repeat_interleave(pieces) - index * most).clamp(max=most)
    sizes, by_size = sizes.sort(descending=True, stable=True)
    starts, falling, first = starts[by_size], (-sizes).tolist(), 0
    while first < len(falling):
        width = -falling[first]
        last = min(first + max(1, most // width), bisect_left(falling, -width / 2))
        last = max(last, first + 1)
        column = torch.arange(width, device=number.device)
        kept = column < sizes[first:last, None]
        yield order[starts[first:last, None] + torch.minimum(column, sizes[first:last, None] - 1)], kept
        first = last
