"""Max pooling over windows of one, two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.ops.base import Affine, Interval, Operator, Relaxation, Shape, Statement
from clinch.network.ops.encoder import Expression, OperatorEncoder
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.relaxation import Picks
from clinch.network.ops.symbols import ROUNDINGS, SymbolicLimits, alike, between, plus_constant
from clinch.network.ops.views import Maximum, Reach
from clinch.network.ops.windows import Padding, flat_padding, onnx_padding, spread, taps

_FORWARD: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}


@dataclass(frozen=True, eq=False)
class MaxPool(Operator):
    """``f(x) = max over the window``, per channel; padding never wins.

    Attributes:
        kernel: extent of the window, one number per spatial dimension.
        stride: likewise.
        padding: in front of and behind each spatial dimension.
        dilation: distance between the positions a window reads.
        ceil_mode: the last window may reach beyond the end.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    ceil_mode: bool = False

    selects: ClassVar[bool] = True

    def as_maximum(self, shapes: Sequence[Shape]) -> Maximum:
        """The largest element of each window, whatever its sign."""
        index, (channels, *extents) = self.taps(shapes[0])[0], shapes[0]
        places = index + torch.arange(channels).reshape(-1, 1, 1) * math.prod(extents)
        places = torch.where(index < 0, -1, places).transpose(0, 1).flatten(1)
        return Maximum(places, torch.ones(len(places), dtype=torch.float64))

    def as_reach(self, shapes: Sequence[Shape]) -> Reach:
        """Its windows."""
        return Reach(self.kernel, self.stride, tuple(front for front, _ in self.padding), self.dilation)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The largest element of each window."""
        (x,) = inputs
        padding = tuple(a for a, _ in self.padding)
        if any(a != b or 2 * a > k for (a, b), k in zip(self.padding, self.kernel)):
            x = functional.pad(x, flat_padding(self.padding), value=-torch.inf)
            padding = (0,) * len(self.kernel)
        return _FORWARD[len(self.kernel)](x, self.kernel, self.stride, padding, self.dilation, self.ceil_mode)

    def interval(self, *inputs: Interval) -> Interval:
        """The function is increasing: limits go through it."""
        return Interval(self.forward(inputs[0].lower), self.forward(inputs[0].upper))

    def undecided(self, bounds: Interval) -> Tensor:
        """What may be above the largest lower limit of one of its windows."""
        lower, upper = bounds
        index = self.taps(tuple(lower.shape[1:]))[0].to(lower.device)
        least = self.forward(lower).flatten(2).unsqueeze(2).expand(-1, -1, len(index), -1).flatten(2)
        places = math.prod(lower.shape[2:])
        index = torch.where(index < 0, places, index).flatten().expand_as(least)
        room = lower.new_full((*lower.shape[:2], places + 1), torch.inf)
        room = room.scatter_reduce(2, index, least, "amin")[..., :-1].reshape(lower.shape)
        return (lower < upper) & (upper > room)

    def taps(self, shape: Shape) -> tuple[Tensor, tuple[int, ...]]:
        """See :func:`clinch.network.ops.windows.taps`, for a sample of the given shape."""
        return taps(tuple(shape[1:]), self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Relaxation:
        """One line below and one above each window, in one of its elements each.

        Below: ``y >= x_k`` for every k; the element of the largest lower limit is taken (of several, that of the
        largest upper limit).

        Above: for every threshold m with ``m >= max_k l_k``, ``y <= m + Σ_k max(x_k − m, 0)``, and each term lies under
        its chord. At the middle of the box this is ``m + Σ_{k: u_k > m} (u_k − m)/2``, smallest for m between the third
        and the second largest upper limit (or at ``max_k l_k`` if that is above). With m the second largest only the
        element j of the largest upper limit is left: ``y <= m + (u_j − m)/(u_j − l_j)·(x_j − l_j)``, which is ``x_j``
        itself where it dominates the window, and never above the constant ``u_j``.
        """
        index, _ = self.taps(shapes[0])
        index = index.to(inputs[0].lower.device)
        padded = (index < 0)[None, None]
        lower, upper = (t.flatten(2)[:, :, index.clamp(min=0)].masked_fill(padded, -torch.inf) for t in inputs[0])
        best_lower = lower.amax(2)
        below = upper.masked_fill(lower < best_lower.unsqueeze(2), -torch.inf).argmax(2)
        top, above = upper.max(2)
        others = upper.scatter(2, above.unsqueeze(2), -torch.inf).amax(2)
        threshold = torch.maximum(others, best_lower)
        start = lower.gather(2, above.unsqueeze(2)).squeeze(2)
        width = top - start
        slope = torch.where(width > 0, (top - threshold) / width.clamp(min=torch.finfo(width.dtype).tiny), 0.0)
        offset = torch.where(slope == 1, 0.0, threshold - slope * start)
        windows = torch.arange(index.shape[1], device=index.device)
        return MaxPoolLines(tuple(shapes[0]), index[below, windows], index[above, windows], slope, offset)

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement:
        """Its windows, by number."""
        settings = {"window": self.kernel, "stride": self.stride, "dilation": self.dilation, "extents": shape[1:]}
        padding = [list(pair) for pair in self.padding]
        return {"kind": "maxpool", **{name: list(t) for name, t in settings.items()}, "padding": padding}, {}

    def encode(
        self,
        encoder: OperatorEncoder,
        inputs: Sequence[Expression],
        bounds: Sequence[Interval],
        shapes: Sequence[Shape],
    ) -> Expression:
        """The largest of the window's positions, each an expression; padding has limits −∞ and is left out."""
        index, _ = self.taps(shapes[0])
        positions = [WindowTap(self, k, tuple(shapes[0])) for k in range(index.shape[0])]
        candidates = [encoder.affine(tap, inputs) for tap in positions]
        limits = []
        for tap in positions:
            padded = (index[tap.position] < 0).to(bounds[0].lower.device)
            both = (tap.forward(t).flatten(2).masked_fill(padded, -torch.inf) for t in bounds[0])
            limits.append(Interval(*(t.reshape(1, *tap.output_shape) for t in both)))
        return encoder.maximum(candidates, limits)


@dataclass(frozen=True, eq=False)
class MaxPoolLines(Relaxation):
    """``x_below <= y <= slope·x_above + offset`` for each window.

    Attributes:
        shape: of an input sample.
        below: flat spatial position of the lower line's element, ``(B, C, windows)``.
        above: of the upper line's element, likewise.
        slope: of the upper line, likewise.
        offset: of the upper line, likewise.
    """

    shape: Shape
    below: Tensor
    above: Tensor
    slope: Tensor
    offset: Tensor

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """A positive coefficient goes to the lower line's element, a negative one to the upper line's."""
        # rows shared by all problems come with a batch of one
        rows = rows.expand(max(rows.shape[0], self.below.shape[0]), *rows.shape[1:])
        batch, count = rows.shape[:2]
        flat = rows.flatten(3)
        positive, negative = flat.clamp(min=0), flat.clamp(max=0)
        carried = rows.new_zeros(batch, count, self.shape[0], math.prod(self.shape[1:]))
        carried = carried.scatter_add(3, self.below.unsqueeze(1).expand_as(flat), positive)
        carried = carried.scatter_add(3, self.above.unsqueeze(1).expand_as(flat), negative * self.slope.unsqueeze(1))
        offset = (negative * self.offset.unsqueeze(1)).flatten(2).sum(2)
        return [carried.reshape(batch, count, *self.shape)], offset

    def symbolic(self, inputs: Sequence[SymbolicLimits], shape: Shape) -> SymbolicLimits | None:
        """The lower limit of the lower line's element, the upper line at the upper limit of the other's."""
        middle, half = (t.flatten(3) for t in alike([inputs[0].middle, inputs[0].half]))
        below, above = (t.unsqueeze(1).expand(-1, middle.shape[1], -1, -1) for t in (self.below, self.above))
        low = (middle - half).gather(3, below)
        high = plus_constant(self.slope.unsqueeze(1) * (middle + half).gather(3, above), self.offset)
        sizes = inputs[0].size.flatten(2)
        sizes = sizes.gather(2, self.below) + self.slope * sizes.gather(2, self.above) + self.offset.abs()
        found = between(low, high).widened(ROUNDINGS * torch.finfo(sizes.dtype).eps * sizes)
        return SymbolicLimits(*(t.unflatten(3, shape[1:]) for t in (found.middle, found.half)))

    def picks(self) -> Picks:
        """Itself."""
        return Picks(self.below, self.above, self.slope, self.offset)

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """The lower line's element, the upper line where the coefficient is negative."""
        flat = inputs[0].flatten(2)
        below = flat.gather(2, self.below.expand(len(flat), -1, -1))
        above = self.slope * flat.gather(2, self.above.expand(len(flat), -1, -1)) + self.offset
        return torch.where(rows[:, 0].flatten(2) >= 0, below, above).reshape(len(flat), *rows.shape[2:])


@dataclass(frozen=True, eq=False)
class WindowTap(Affine):
    """The element that each window of a pool reads at one of its positions; zero where it reads padding.

    Attributes:
        pool: whose windows.
        position: within the window, counted along its last dimension first.
        shape: of an input sample.
    """

    pool: MaxPool
    position: int
    shape: Shape

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    @property
    def output_shape(self) -> Shape:
        """Shape of a sample of the output."""
        return (self.shape[0], *self.pool.taps(self.shape)[1])

    def forward(self, *inputs: Tensor) -> Tensor:
        """One element per window."""
        (x,) = inputs
        index = self.pool.taps(self.shape)[0][self.position].to(x.device)
        chosen = x.flatten(2)[:, :, index.clamp(min=0)].masked_fill(index < 0, 0.0)
        return chosen.reshape(x.shape[0], *self.output_shape)


def _emit(
    call: Call,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Value:
    call.channels_first(x, len(kernel))
    return call.emit(MaxPool(tuple(kernel), tuple(stride), padding, tuple(dilation), ceil_mode), x)


@from_aten(
    *(f"aten.max_pool{d}d" for d in (1, 2, 3)), *(f"values of aten.max_pool{d}d_with_indices" for d in (1, 2, 3))
)  # fmt: skip
def _max_pool(call: Call) -> Value:
    spatial = int(next(letter for letter in call.operator if letter.isdigit()))
    kernel = spread(call.ints("kernel_size"), spatial)
    stride = spread(call.ints("stride") or kernel, spatial)
    padding = tuple((p, p) for p in spread(call.ints("padding"), spatial))
    dilation = spread(call.ints("dilation"), spatial)
    return _emit(call, call.activation("self"), kernel, stride, padding, dilation, bool(call["ceil_mode"]))


@from_onnx("MaxPool")
def _onnx_max_pool(call: Call) -> Value:
    x, kernel = call.activation("X"), call.ints("kernel_shape")
    ones = [1] * len(kernel)
    stride, dilation = call.ints("strides", ones), call.ints("dilations", ones)
    call.channels_first(x, len(kernel))
    padding = onnx_padding(call, x.shape[1:], kernel, stride, dilation)
    return _emit(call, x, kernel, stride, padding, dilation, bool(call.get("ceil_mode", 0)))


@from_onnx("GlobalMaxPool")
def _global_max_pool(call: Call) -> Value:
    x = call.activation("X")
    spatial = len(x.shape) - 1
    ones, kernel = (1,) * spatial, x.shape[1:]
    return _emit(call, x, kernel, kernel, ((0, 0),) * spatial, ones, False)
