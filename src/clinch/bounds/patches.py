"""CROWN's limits of the elements of a convolution, each carried back as the patch of activations it can see.

A row of coefficients of one element of a convolution is zero outside a window: its receptive field. Behind the
convolution's input the window grows by every further convolution, but stays far smaller than the layer. So the rows
stay windows: the kernel itself at first, multiplied with a window of slopes at each ReLU, carried through an earlier
convolution by its transpose without padding, and met by a window of the box at the input. Elements of all problems
stand in one list, so that none is computed that is not open and none is padded. What a window holds outside the layer
(where the convolution reads its padding) meets slopes, constants and limits of zero there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from clinch.bounds import backward
from clinch.geometry.inner_products import products
from clinch.geometry.linear_minimum import minimum_over
from clinch.geometry.region import Ball, Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Lines, Relaxation
from clinch.network.ops.relaxation import through_lines
from clinch.network.ops.views import Factors, Kernel
from clinch.runtime import deadline

#: coefficients of one sign carried back at once
PIECE = 2**18
#: a transposed convolution of a window is written as a matrix where that has at most so many times its products
DENSE_LIMIT = 8
#: building that matrix carries as many rows back as it has: it pays for so many times more
ENOUGH_ROWS = 2


def patch_bounds(
    graph: Graph,
    j: int,
    open_: Tensor,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    limits: tuple[Tensor, Tensor],
    stop: Callable[[], bool],
) -> bool:
    """Write CROWN's limits of the open elements of a convolution into ``limits``.

    Args:
        graph: the network.
        j: position of the node.
        open_: ``(B, size)`` elements to bound.
        region: B regions.
        relaxations: of every node that j depends on.
        limits: lower and upper limits ``(B, size)``, changed in place.
        stop: asked between blocks; once true, the other elements keep their limits.

    Returns:
        Whether this could be done. Not so where j is no convolution, where something other than convolutions, average
        pools and element-wise layers lies between it and the input, where its windows are no smaller than the layers,
        or where a ball's centre lies outside its box, so that elements outside the window matter.
    """
    path = _path(graph, j, relaxations)
    if path is None or not all(_within(ball.center, region) for ball in region.balls):
        return False
    windows = _windows_along(graph, path)
    if sum(window.size for window in windows) >= sum(graph.nodes[i].size for i in path[1:]):
        return False
    shape = (region.size, *graph.nodes[j].shape)
    largest = max(window.size for window in windows)
    lower, upper = (t.view(shape) for t in limits)
    height = max(1, 4 * backward.BLOCK // max(graph.nodes[i].size for i in path))
    for first in range(0, region.size, height):
        problems = slice(first, first + height)
        # problem, place, channel: elements that share a window come one after the other
        elements = open_[problems].view(-1, *shape[1:]).movedim(1, -1).nonzero()
        if not len(elements):
            continue
        walk = _Walk(graph, path, windows, region.take(problems), relaxations, problems, len(elements))
        for part in elements.split(max(1, PIECE // largest)):
            if stop():
                return True
            better = walk(part)
            at = (part[:, 0] + first, part[:, -1], *part[:, 1:-1].T)
            lower[at], upper[at] = better[:, 0], -better[:, 1]
    return True


def _within(center: Tensor, region: Region) -> bool:
    return bool(((center >= region.lower) & (center <= region.upper)).all())


def _path(graph: Graph, j: int, relaxations: Mapping[int, Relaxation]) -> list[int] | None:
    """Node j and what lies behind it, down to the input or to a reshaped input; None where windows do not apply."""
    path, i = [j], j
    if _kernel(graph, j) is None:
        return None
    while True:
        known = isinstance(relaxations[i], Lines) or _kernel(graph, i) is not None or _factors(graph, i) is not None
        if not known:
            return None
        (i,) = graph.nodes[i].inputs
        path.append(i)
        if graph.unshaped(i) == 0:
            return path


def _kernel(graph: Graph, i: int) -> Kernel | None:
    return graph.nodes[i].op.as_convolution(graph.shapes(i))


def _factors(graph: Graph, i: int) -> Factors | None:
    return graph.nodes[i].op.as_factors(graph.shapes(i))


# --- windows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """The part of a layer that an element at place p sees: from ``p·stride + start`` on, ``extent`` places long.

    Attributes:
        channels: of the layer.
        places: extents of the layer at whose elements one looks.
        stride: one per spatial dimension; likewise start (never positive) and extent.
    """

    channels: int
    places: tuple[int, ...]
    stride: tuple[int, ...]
    start: tuple[int, ...]
    extent: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of activations in the window."""
        size = self.channels
        for n in self.extent:
            size *= n
        return size

    def behind(self, op: Kernel, channels: int) -> _Window:
        """The window of the convolution's input that this window of its output sees."""
        kernel = op.weight.shape[2:]
        return _Window(
            channels,
            self.places,
            tuple(a * s for a, s in zip(self.stride, op.stride)),
            tuple(a * s - p for a, s, p in zip(self.start, op.stride, op.padding)),
            tuple((n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(self.extent, op.stride, op.dilation, kernel)),
        )

    def view(self, layer: Tensor) -> Tensor:
        """Every place's window of ``(B, channels, *extents)``, shape ``(B, channels, *places, *extent)``.

        Zero outside the layer. The padded layer is the only copy.
        """
        pads: list[int] = []
        for n, count, s, a, k in zip(layer.shape[2:], self.places, self.stride, self.start, self.extent):
            pads = [-a, max(0, (count - 1) * s + a + k - n), *pads]
        view = functional.pad(layer, pads)
        for d, (s, k) in enumerate(zip(self.stride, self.extent)):
            view = view.unfold(2 + d, k, s)
        return view


def _windows_along(graph: Graph, path: list[int]) -> list[_Window]:
    """The window of each node of the path but the first."""
    places = graph.nodes[path[0]].shape[1:]
    ones, zeros = (1,) * len(places), (0,) * len(places)
    window = _Window(graph.nodes[path[0]].shape[0], tuple(places), ones, zeros, ones)
    windows = []
    for i, k in pairwise(path):
        channels = graph.nodes[k].shape[0]
        op = _kernel(graph, i)
        window = window if op is None else window.behind(op, channels)
        windows.append(window)
    return windows


# --- the way back ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Places:
    """Where the elements of one block stand.

    Attributes:
        problem: ``(U,)`` of each distinct place.
        place: ``(U,)`` for each spatial dimension.
        which: ``(N,)`` the distinct place of each element.
    """

    problem: Tensor
    place: tuple[Tensor, ...]
    which: Tensor

    def gather(self, view: Tensor) -> Tensor:
        """Windows ``(N, channels, *extent)`` of elements, from the view of a batch or of what all problems share."""
        problem = self.problem if view.shape[0] > 1 else torch.zeros_like(self.problem)
        found = view[(problem, slice(None), *self.place)]
        return found if len(found) == len(self.which) else found.index_select(0, self.which)


@dataclass(frozen=True)
class _Rows:
    """Rows of N elements for their lower limit and, negated, for their upper limit.

    Attributes:
        rows: ``(N, 2, channels, *extent)``; offset: ``(N, 2)``.
        clean: rows are zero outside the layer.
    """

    rows: Tensor
    offset: Tensor
    clean: bool = False


#: one layer's part of the way back
_Step = Callable[[_Rows, _Places], _Rows]


@dataclass
class _Walk:
    """The way from a convolution back to the input for one block of problems."""

    graph: Graph
    path: list[int]
    windows: list[_Window]
    region: Region
    relaxations: Mapping[int, Relaxation]
    problems: slice
    count: int
    steps: list[_Step] = field(init=False)
    box: list[Tensor] = field(init=False)
    balls: list[tuple[Tensor, Tensor | None, Ball]] = field(init=False)

    def __post_init__(self) -> None:
        first = _kernel(self.graph, self.path[0])
        assert first is not None
        first = first.to(self.region.lower)
        channels, dims = first.weight.shape[0], first.spatial
        unit = torch.eye(channels, dtype=first.weight.dtype, device=first.weight.device)
        kernel = _transposed(first, unit.reshape(channels, channels, *[1] * dims), self.windows[0])
        self.kernel = torch.stack([kernel, -kernel], 1)
        self.bias = None if first.bias is None else _bias_map(first.bias, self.graph.nodes[self.path[0]].shape)
        self.steps = [
            self._step(i, before, behind) for i, before, behind in zip(self.path[1:], self.windows, self.windows[1:])
        ]
        window = self.windows[-1]
        shape = self.graph.nodes[self.path[-1]].shape

        def view(t: Tensor) -> Tensor:
            return window.view(t.reshape(-1, *shape))

        self.box = [view(self.region.lower), view(self.region.upper)]
        self.balls = [(view(b.center), None if b.weights is None else view(b.weights), b) for b in self.region.balls]

    def __call__(self, elements: Tensor) -> Tensor:
        """Limits ``(N, 2)``: lower limits of the elements and of their negatives.

        Args:
            elements: ``(N, 2 + spatial dimensions)``: problem, place, channel; sorted.
        """
        problem, *place, channel = elements.unbind(1)
        number = problem
        for at, count in zip(place, self.windows[0].places):
            number = number * count + at
        distinct, which = number.unique_consecutive(return_inverse=True)
        numbers: list[Tensor] = []
        for count in reversed(self.windows[0].places):
            numbers.append(distinct % count)
            distinct = distinct // count
        at = _Places(distinct, tuple(reversed(numbers)), which)
        offset = self.kernel.new_zeros(len(elements), 2)
        if self.bias is not None:
            bias = self.bias[(channel, *place)]
            offset = torch.stack([bias, -bias], 1)
        state = _Rows(self.kernel.index_select(0, channel), offset)
        for step in self.steps:
            deadline.look()
            state = step(state, at)
        return minimum_over(self._seen(at), state.rows) + state.offset

    def _seen(self, at: _Places) -> Region:
        """The part of each element's region that its window sees: the rest has coefficients of zero."""
        problem = at.problem.index_select(0, at.which)
        balls = tuple(
            Ball(at.gather(c), b.radius[problem], b.p, None if w is None else at.gather(w)) for c, w, b in self.balls
        )
        return Region(at.gather(self.box[0]), at.gather(self.box[1]), balls)

    def _step(self, i: int, before: _Window, behind: _Window) -> _Step:
        """What node i does to rows on its output's window ``before``."""
        relaxation, shape = self.relaxations[i], self.graph.nodes[i].shape
        if isinstance(relaxation, Lines):
            return _through_lines(relaxation.take(self.problems), before)
        if (factors := _factors(self.graph, i)) is not None:
            full = [None if t is None else before.view(t.expand(shape).unsqueeze(0)) for t in factors]
            return _through_scale(full[0], full[1])
        kernel = _kernel(self.graph, i)
        assert kernel is not None
        return _through_convolution(kernel.to(self.region.lower), before, behind, shape, 2 * self.count)


def _through_lines(lines: Lines, window: _Window) -> _Step:
    rise = lines.lower_slope - lines.upper_slope
    gap = [] if lines.below_at_zero else [lines.lower_offset - lines.upper_offset]
    views = [window.view(t) for t in (lines.upper_slope, rise, lines.upper_offset, *gap)]

    def step(state: _Rows, at: _Places) -> _Rows:
        slope, rise, offset, *gap = (at.gather(view) for view in views)
        rows, constant = through_lines(state.rows, slope, rise, offset, gap[0] if gap else None)
        return _Rows(rows, state.offset + constant, True)

    return step


def _through_scale(scale: Tensor | None, shift: Tensor | None) -> _Step:
    """Factors and shifts are windows of what all problems share."""

    def step(state: _Rows, at: _Places) -> _Rows:
        rows, offset = state.rows, state.offset
        if shift is not None:
            offset = offset + products(rows, at.gather(shift))
        if scale is None:
            return _Rows(rows, offset, state.clean)
        return _Rows(rows * at.gather(scale).unsqueeze(1), offset, True)

    return step


def _through_convolution(op: Kernel, before: _Window, behind: _Window, shape: tuple[int, ...], count: int) -> _Step:
    """Rows on the output's window go through the transpose without padding: what falls outside meets zeros later."""
    matrix = _as_matrix(op, before, behind) if count >= ENOUGH_ROWS * before.size else None
    mask = before.view(op.weight.new_ones(1, *shape))
    bias = op.bias if op.bias is None or op.bias.dim() == 1 else before.view(op.bias.unsqueeze(0))

    def step(state: _Rows, at: _Places) -> _Rows:
        rows, offset = state.rows, state.offset
        if not state.clean:
            rows = rows * at.gather(mask).unsqueeze(1)
        if bias is not None:
            offset = offset + (rows.flatten(3).sum(3) @ bias if bias.dim() == 1 else products(rows, at.gather(bias)))
        flat = rows.flatten(0, 1)
        carried = _transposed(op, flat, behind) if matrix is None else flat.flatten(1) @ matrix
        return _Rows(carried.reshape(*rows.shape[:2], behind.channels, *behind.extent), offset)

    return step


def _transposed(op: Kernel, rows: Tensor, behind: _Window) -> Tensor:
    """The transposed convolution of windows ``(N, channels, *extent)``, without padding."""
    return op.unpadded.transposed(rows, behind.extent)


def _as_matrix(op: Kernel, before: _Window, behind: _Window) -> Tensor | None:
    """:func:`_transposed` as a matrix ``(size before, size behind)``, or None where that would cost more."""
    if behind.size > DENSE_LIMIT * op.weight[0].numel():
        return None
    unit = torch.eye(before.size, dtype=op.weight.dtype, device=op.weight.device)
    return _transposed(op, unit.reshape(before.size, before.channels, *before.extent), behind).flatten(1)


def _bias_map(bias: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A bias for each element of a layer: a convolution's may vary by place after folding."""
    return (bias.reshape(-1, *[1] * (len(shape) - 1)) if bias.dim() == 1 else bias).expand(shape)
