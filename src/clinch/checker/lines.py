"""Lines and limits of what is not affine: ReLUs, functions of one number, products, maxima. All act place by place.

Lines are ``low·x + low_offset <= f(x) <= high·x + high_offset`` for all x within limits, offsets rounded outwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clinch.checker.functions import lines as function_lines
from clinch.checker.layers import Array, Layer


class Box(NamedTuple):
    """Limits ``(D, n)`` of a layer's elements."""

    lower: Array
    upper: Array

    @property
    def size(self) -> Array:
        """Largest magnitudes."""
        return np.maximum(np.abs(self.lower), np.abs(self.upper))

    def within(self, other: Box) -> Box:
        """What both allow."""
        return Box(np.maximum(self.lower, other.lower), np.minimum(self.upper, other.upper))


def gamma(n: int) -> float:
    """Relative error of n float64 operations, with room: more than ``2 n u / (1 − n u)`` for n < 2⁴⁰."""
    return (n + 4) * 2.0**-51


def down(x: Array) -> Array:
    """The next float below."""
    return np.nextafter(x, -np.inf)


def up(x: Array) -> Array:
    """The next float above."""
    return np.nextafter(x, np.inf)


class Lines(NamedTuple):
    """Slopes ``(inputs, D, n)``, one for each input, and offsets ``(D, n)``."""

    low: Array
    high: Array
    low_offset: Array
    high_offset: Array

    def take(self, at: Array) -> Lines:
        """Those of some places."""
        return Lines(*(t[..., at] for t in self))


def relu_lines(a: float, z: Box, slope: Array | None, sign: Array) -> Lines:
    """A lower line through zero and the chord above, or the piece whose side the input is on.

    Args:
        a: slope left of zero; z: limits of the input.
        slope: of the lower line, NaN or None for CROWN's own; sign: of the input, where it is known.
    """
    lower, upper = z
    on, off = (lower >= 0) & (sign >= 0) | (sign > 0), (upper <= 0) & (sign <= 0) | (sign < 0)
    own = np.where(upper > -lower, 1.0, a)
    low = own if slope is None else np.where(np.isnan(slope), own, slope)
    high = np.clip((upper - a * lower) / (upper - lower), a, 1.0)
    offset = np.maximum(up(up(upper) - down(high * upper)), up(up(a * lower) - down(high * lower)))
    stable, fixed = on | off, np.where(on, 1.0, a)
    low, high = (np.where(stable, fixed, t)[None] for t in (low, high))
    return Lines(low, high, np.zeros(lower.shape), np.where(stable, 0.0, np.maximum(offset, 0)))


def lines_of(layer: Layer, boxes: list[Box], slopes: Sequence[Array] | None = None) -> tuple[Lines, Box]:
    """Lines and limits of a layer that is no ReLU.

    Args:
        slopes: of the lower and of the upper lines of a function or product, ``(inputs, D, n)`` each; None: such that
            they are about the best in the middle of the limits.
    """
    if layer.kind == "function":
        assert layer.function is not None
        low, high, *offsets, lower, upper = function_lines(layer.function, *boxes[0], slopes)
        return Lines(low[None], high[None], *offsets), Box(lower, upper)
    return _product(boxes, slopes) if layer.kind == "product" else _maximum(boxes)


def _product(boxes: list[Box], slopes: Sequence[Array] | None) -> tuple[Lines, Box]:
    """Planes of the slopes given, or mixtures of McCormick's (1976, Mathematical Programming 10), such that a plane's
    extreme over the limits is about that of the product. Less any plane ``x·y`` is bilinear: it is least and largest at
    corners."""
    (x, y), limits, ends = boxes, Box(np.array(np.inf), np.array(-np.inf)), [np.array(np.inf), np.array(np.inf)]
    if slopes is None:
        p, q = (np.clip(np.nan_to_num((t.upper + t.lower) / (t.upper - t.lower)), -1, 1) for t in (x, y))
        mixed = ((2 + p + q) / 4, x.lower, x.upper), ((2 - p + q) / 4, x.upper, x.lower)
        slopes = [np.stack([w * y.lower + (1 - w) * y.upper, w * a + (1 - w) * b]) for w, a, b in mixed]
    for s in x:
        for t in y:
            product = s * t
            limits = Box(np.minimum(limits.lower, down(product)), np.maximum(limits.upper, up(product)))
            for k, (sign, (a, b)) in enumerate(zip((1, -1), slopes)):
                error = gamma(4) * (np.abs(product) + np.abs(a * s) + np.abs(b * t)) + 1e-300
                ends[k] = np.minimum(ends[k], sign * (product - a * s - b * t) - error)
    limits = Box(*(np.where(np.isnan(t), side * np.inf, t) for side, t in zip((-1, 1), limits)))
    return Lines(slopes[0], slopes[1], down(ends[0]), up(-ends[1])), limits


def _maximum(boxes: list[Box]) -> tuple[Lines, Box]:
    """Below, the input of the largest lower limit; above, the chord of ``max(x, m)`` for the input x of the largest
    upper limit, where m is at least every other input, and every lower limit."""
    lower, upper = (np.stack([box[side] for box in boxes]) for side in (0, 1))
    least, every = lower.max(0), np.arange(len(boxes))[:, None, None]
    below, above = np.where(lower < least, -np.inf, upper).argmax(0), upper.argmax(0)
    others = np.where(every == above, -np.inf, upper).max(0)
    start, top = (np.take_along_axis(t, above[None], 0)[0] for t in (lower, upper))
    m = np.maximum(others, least)
    slope = np.where(top > start, np.clip((top - m) / (top - start), 0.0, 1.0), 0.0)
    offset = np.maximum(up(up(top) - down(slope * top)), up(up(np.maximum(start, m)) - down(slope * start)))
    low, high = (every == below).astype(float), np.where(every == above, slope, 0.0)
    return Lines(low, high, np.zeros_like(least), offset), Box(least, upper.max(0))
