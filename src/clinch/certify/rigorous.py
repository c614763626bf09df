"""Lower bounds of linear forms of a ReLU network in float64, with every rounding error accounted for.

An inner product of n terms computed in any order, fused or not, errs by at most ``γ_n |a|ᵀ|b|``, where
``γ_n = n u/(1 − n u)`` and ``u = 2⁻⁵³`` (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., equation
3.5), and by one smallest subnormal per product that underflows. :func:`gamma` is more than twice that, which covers the
rounding of the error figures themselves: sums of non-negative products. A backward pass keeps its coefficients as the
floats they are; what rounding changed in them is multiplied by the largest magnitude of the activation they belong to
and subtracted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clinch.certify.layers import Array, Layer

#: covers every underflow of a bound: fewer than 2⁶⁰ products, each off by at most 2⁻¹⁰⁷⁴, per unit they multiply
TINY = 1e-290
#: halvings when the multiplier of a ball is looked for: any multiplier is valid
HALVINGS = 30


class Ball(NamedTuple):
    """``‖w ⊙ (x − center)‖_p <= radius`` with p = 1 or 2; an element of weight zero is free."""

    center: Array
    radius: float
    p: float
    weights: Array


class Box(NamedTuple):
    """Limits ``(D, n)`` of a layer's elements."""

    lower: Array
    upper: Array

    @property
    def size(self) -> Array:
        """Largest magnitudes."""
        return np.maximum(np.abs(self.lower), np.abs(self.upper))


def gamma(n: int) -> float:
    """Relative error of n float64 operations, with room: more than ``2 n u / (1 − n u)`` for n < 2⁴⁰."""
    return (n + 4) * 2.0**-51


def down(x: Array) -> Array:
    """The next float below."""
    return np.nextafter(x, -np.inf)


def up(x: Array) -> Array:
    """The next float above."""
    return np.nextafter(x, np.inf)


def interval(layer: Layer, inputs: list[Box]) -> Box:
    """Limits of a layer from limits of its inputs; unknown (infinite) where the arithmetic overflows."""
    box = inputs[0]
    if layer.kind == "relu":
        low, high = (layer.slope * t for t in box)
        low, high = (down(low), up(high)) if layer.slope else (low, high)
        return Box(np.where(box.lower > 0, box.lower, low), np.where(box.upper > 0, box.upper, high))
    if layer.kind == "add":
        return Box(down(box.lower + inputs[1].lower), up(box.upper + inputs[1].upper))
    if layer.weight is None or layer.bias is None:
        return box
    centre = box.lower / 2 + box.upper / 2
    radius = up(np.maximum(box.upper - centre, centre - box.lower))
    value = centre @ layer.weight.T + layer.bias
    weight = np.abs(layer.weight).T
    spread = radius @ weight
    slack = gamma(layer.weight.shape[1]) * (np.abs(centre) @ weight + spread + np.abs(layer.bias)) + TINY * (
        1 + (radius + np.abs(centre)).sum(1, keepdims=True)
    )
    total = up((spread + slack) * (1 + 1e-12))
    lower, upper = down(value - total), up(value + total)
    return Box(np.where(np.isnan(lower), -np.inf, lower), np.where(np.isnan(upper), np.inf, upper))


class Relaxation:
    """The network over D boxes, cut by balls, with limits of every layer and lines for every ReLU.

    Args:
        layers: the network.
        box: limits of the input, ``(D, n)``.
        balls: shared by all.
    """

    def __init__(self, layers: list[Layer], box: Box, balls: list[Ball]) -> None:
        self.layers, self.balls, self.rounding = layers, balls, 0.0
        self.limits = [box]
        read = {layer.inputs[0] for layer in layers if layer.kind == "relu"}
        for i, layer in enumerate(layers[1:], 1):
            self.limits.append(interval(layer, [self.limits[j] for j in layer.inputs]))
            if i in read and 0 not in (layer.inputs if layer.kind == "affine" and not balls else ()):
                self.limits[i] = self._refined(i)

    def _refined(self, i: int) -> Box:
        """CROWN's limits of the elements whose sign is open in some box, with slopes of its own rule."""
        lower, upper = (t.copy() for t in self.limits[i])
        open_ = np.flatnonzero(((lower < 0) & (upper > 0)).any(0))
        step = max(1, 2**24 // (max(layer.size for layer in self.layers) * len(lower)))
        for start in range(0, len(open_), step):
            some = open_[start : start + step]
            rows = np.zeros((1, 2 * len(some), self.layers[i].size))
            rows[0, np.arange(len(some)), some] = 1.0
            rows[0, np.arange(len(some)) + len(some), some] = -1.0
            found = self.lower({i: rows}, np.zeros((1, 1)), np.zeros((1, 1)))
            lower[:, some] = np.fmax(lower[:, some], found[:, : len(some)])
            upper[:, some] = np.fmin(upper[:, some], -found[:, len(some) :])
        return Box(lower, upper)

    def lower(
        self, rows: dict[int, Array], offset: Array, error: Array,
        slopes: dict[int, Array] | None = None, signs: dict[int, Array] | None = None,
        multipliers: dict[int, Array] | None = None,
    ) -> Array:  # fmt: skip
        """Lower bounds ``(D, R)`` of ``Σ_i <rows_i, layer_i(x)> + offset`` less ``error``; NaN where nothing is known.

        Args:
            rows: position of a layer -> ``(D or 1, R, size)``.
            offset: ``(D or 1, R or 1)``; error: how far it, or the rows' effect, is off by rounding.
            slopes: ReLU -> ``(D, size)`` slopes of the lower lines, NaN for CROWN's own; signs: ``(D, size)`` +1 where
                the input is known to be >= 0, −1 where it is known to be <= 0, 0 where neither; multipliers:
                ``(D, size)`` >= 0 of these sign conditions, subtracted as ``multiplier · sign · input``.
        """
        pending, none, scale = dict(rows), {}, np.ones((1, 1))
        for i in range(max(rows), 0, -1):
            if i not in pending:
                continue
            layer, row = self.layers[i], pending.pop(i)
            scale = scale + np.abs(row).sum(2)
            parts, first = [row] * len(layer.inputs), self.limits[layer.inputs[0]]
            if layer.kind == "affine":
                assert layer.weight is not None and layer.bias is not None
                effect = first.size @ np.abs(layer.weight).T + np.abs(layer.bias)
                error = error + gamma(sum(layer.weight.shape)) * _dot(np.abs(row), effect)
                offset = offset + row @ layer.bias
                # one product for all domains
                parts = [(row.reshape(-1, layer.size) @ layer.weight).reshape(*row.shape[:2], -1)]
            elif layer.kind == "relu":
                sign = (signs or none).get(i)
                low, high, intercept = _lines(layer, first, (slopes or none).get(i), sign)
                carried = row * np.where(row > 0, low[:, None], high[:, None])
                below = _dot(np.minimum(row, 0), intercept)
                offset, error = offset + below, error - gamma(layer.size) * below
                rounded = np.abs(carried)
                if multipliers is not None and i in multipliers and sign is not None:
                    term = (multipliers[i] * sign)[:, None]
                    carried, rounded = carried - term, rounded + np.abs(term)
                error = error + gamma(2) * _dot(rounded, first.size)
                parts = [carried]
            error = error + gamma(1) * np.abs(offset)
            for j, part in zip(layer.inputs, parts):
                if j in pending:
                    part = pending[j] + part
                    error = error + gamma(1) * _dot(np.abs(part), self.limits[j].size)
                pending[j] = part
        row = pending.get(0, np.zeros((1, 1, self.layers[0].size)))
        unit = 1 + np.sum([limits.size.sum(1) for limits in self.limits[: max(rows) + 1]], 0)
        error = error * (1 + 1e-6) + TINY * unit[:, None] * (scale + np.abs(row).sum(2))
        self.rounding = max(self.rounding, float(np.max(error)))
        least = self._minimum(row)
        return down(least + offset - error - gamma(4) * (np.abs(least) + np.abs(offset) + error))

    def _minimum(self, row: Array) -> Array:
        """Lower bound of ``<row, x>`` over box and balls: the box alone, or any split of the row between the two."""
        best = _over_box(row, self.limits[0])
        for ball in self.balls:
            part = _share_of_ball(row, self.limits[0], ball)
            rest = row - part
            size = _dot(np.abs(row) + np.abs(rest) + np.abs(part), self.limits[0].size)
            found = _over_box(rest, self.limits[0]) + _over_ball(part, ball)
            best = np.fmax(best, down(found - gamma(3) * (size + np.abs(found))))
        return best


def _dot(a: Array, b: Array) -> Array:
    """``(D, R, n)`` with ``(D, n)``: ``(D, R)``."""
    return (a @ b[..., None])[..., 0]


def _lines(layer: Layer, z: Box, slope: Array | None, sign: Array | None) -> tuple[Array, Array, Array]:
    """Slopes of the lower line through zero and of the upper line, and the upper line's intercept rounded upwards."""
    a, (lower, upper) = layer.slope, z
    on, off = lower >= 0, upper <= 0
    if sign is not None:
        on, off = on & (sign >= 0) | (sign > 0), off & (sign <= 0) | (sign < 0)
    low = np.where(upper > -lower, 1.0, a)
    if slope is not None:
        low = np.where(np.isnan(slope), low, slope)
    high = np.clip((upper - a * lower) / (upper - lower), a, 1.0)
    intercept = np.maximum(up(up(upper) - down(high * upper)), up(up(a * lower) - down(high * lower)))
    fixed = np.where(on, 1.0, a)
    stable = on | off
    return np.where(stable, fixed, low), np.where(stable, fixed, high), np.where(stable, 0.0, np.maximum(intercept, 0))


def _over_box(row: Array, box: Box) -> Array:
    low = _dot(np.maximum(row, 0), box.lower) + _dot(np.minimum(row, 0), box.upper)
    return down(low - gamma(2 * row.shape[2]) * _dot(np.abs(row), box.size))


def _over_ball(row: Array, ball: Ball) -> Array:
    """``<row, center> − radius·‖row / w‖_q``, q dual to p; the row is zero where w is."""
    n, scaled = row.shape[2], np.abs(row) / np.where(ball.weights > 0, ball.weights, 1.0)
    norm = scaled.max(2) if ball.p == 1 else np.sqrt((scaled**2).sum(2)) + 1e-150
    reach = norm * ball.radius * (1 + gamma(n + 4))
    return down(row @ ball.center - gamma(n) * (np.abs(row) @ np.abs(ball.center) + reach) - reach)


def _share_of_ball(row: Array, box: Box, ball: Ball) -> Array:
    """The part of the row that the ball is to bound: by the multiplier that makes the sum largest, found by halving."""
    w, low, high = ball.weights, (box.lower - ball.center)[:, None], (box.upper - ball.center)[:, None]
    if ball.p == 1:
        least, most = np.zeros(row.shape[:2]), 2 * (np.abs(row) / np.where(w > 0, w, np.inf)).max(2)
        for _ in range(2 * HALVINGS):
            middle = (least + most) / 2
            rest = row - _clipped(row, middle[..., None] * w, low, high)
            moved = np.where(rest > 0, low, np.where(rest < 0, high, 0.0))
            above = np.where(w > 0, w * np.abs(moved), 0.0).sum(2) > ball.radius
            least, most = np.where(above, middle, least), np.where(above, most, middle)
        return _clipped(row, most[..., None] * w, low, high)
    square = np.where(w > 0, w, 1.0) ** 2
    direction = np.where(w > 0, row / square, 0.0)
    norm = np.sqrt((w**2 * direction**2).sum(2))
    length = ball.radius / np.where(norm > 0, norm, 1.0)
    least, most = np.full(length.shape, -50.0), np.full(length.shape, 50.0)
    for _ in range(HALVINGS):
        step = length * 2 ** ((least + most) / 2)
        moved = np.clip(-step[..., None] * direction, low, high)
        inside = ((w * moved) ** 2).sum(2) < ball.radius**2
        least, most = np.where(inside, (least + most) / 2, least), np.where(inside, most, (least + most) / 2)
    step = length * 2**least
    moved = np.clip(-step[..., None] * direction, low, high)
    return np.where(w > 0, -square * moved / np.where(step > 0, step, 1.0)[..., None], 0.0)


def _clipped(row: Array, most: Array, low: Array, high: Array) -> Array:
    """Entries cut to ``±most``; all of it, with the sign that helps, where the box keeps an element off the centre."""
    return np.where(low > 0, -most, np.where(high < 0, most, np.clip(row, -most, most)))
