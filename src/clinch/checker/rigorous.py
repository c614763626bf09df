"""Lower bounds of linear forms of a ReLU network in float64, with every rounding error accounted for.

An inner product of n terms computed in any order, fused or not, errs by at most ``γ_n |a|ᵀ|b|``, where
``γ_n = n u/(1 − n u)`` and ``u = 2⁻⁵³`` (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., equation
3.5), and by one smallest subnormal per product that underflows. :func:`gamma` is more than twice that, which covers the
rounding of the error figures themselves: sums of non-negative products. A backward pass keeps its coefficients as the
floats they are; what rounding changed in them is multiplied by the largest magnitude of the activation they belong to
and subtracted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from clinch.checker.layers import Array, Layer
from clinch.checker.matrices import Convolution, backward, block, forward, magnitude, reads

#: covers every underflow of a bound: fewer than 2⁶⁰ products, each off by at most 2⁻¹⁰⁷⁴, per unit they multiply
TINY = 1e-290
#: numbers that the coefficients of one pass may hold; entries of the dense parts of convolutions; halvings when the
#: multiplier of a ball is looked for: any multiplier is valid
SLICE, PARTS, HALVINGS = 2**20, 2**23, 36


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
    if layer.bias is None:
        return box
    if layer.weight is None:
        return Box(down(box.lower + layer.bias), up(box.upper + layer.bias))
    centre = box.lower / 2 + box.upper / 2
    radius = up(np.maximum(box.upper - centre, centre - box.lower))
    value = forward(layer.weight, centre) + layer.bias
    size = magnitude(layer.weight)
    spread = forward(size, radius)
    slack = gamma(layer.weight.shape[1]) * (forward(size, np.abs(centre)) + spread + np.abs(layer.bias)) + TINY * (
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
        limits: of every layer, where they are known.
    """

    def __init__(self, layers: list[Layer], box: Box, balls: list[Ball], limits: list[Box] | None = None) -> None:
        self.layers, self.balls, self.rounding = layers, balls, 0.0
        self.limits = [box] if limits is None else limits
        self._effects: dict[int, Array] = {}
        #: (layer, input) -> the places of what the layer reads of it, where that is not all of it
        self._within: dict[tuple[int, int], Array] = {}
        read = {layer.inputs[0] for layer in layers if layer.kind == "relu"}
        for i, layer in enumerate(layers[len(self.limits) :], len(self.limits)):
            self.limits.append(interval(layer, [self.limits[j] for j in layer.inputs]))
            if i in read and 0 not in (layer.inputs if layer.kind == "affine" and not balls else ()):
                self.limits[i] = self._refined(i)

    def _refined(self, i: int) -> Box:
        """CROWN's limits of the elements whose sign is open in some box, with slopes of its own rule."""
        lower, upper = (t.copy() for t in self.limits[i])
        # in each box its own: what a leaf is worth must not depend on the leaves that are looked at with it
        own = (lower < 0) & (upper > 0)
        open_ = np.flatnonzero(own.any(0))
        groups, shape = [open_], self.layers[i].shape
        if len(shape) > 1 and any(isinstance(layer.weight, Convolution) for layer in self.layers):
            # the channels of one place depend on the same elements, a small part of the network
            place = open_ % math.prod(shape[1:])
            order = np.argsort(place, kind="stable")
            groups = np.split(open_[order], np.flatnonzero(np.diff(place[order])) + 1)
        for group in groups:
            part, at = self._part(i, group)
            step = max(1, SLICE // (max(layer.work for layer in part.layers) * len(lower) + 1))
            for start in range(0, len(group), step):
                some = group[start : start + step]
                signs = (at[start : start + step, None] == np.arange(part.layers[i].size)).astype(float)
                found = part.lower({i: np.concatenate([signs, -signs])[None]}, np.zeros((1, 1)), np.zeros((1, 1)))
                low, high = np.split(np.where(np.tile(own[:, some], 2), found, np.nan), 2, 1)
                lower[:, some], upper[:, some] = np.fmax(lower[:, some], low), np.fmin(upper[:, some], -high)
        return Box(lower, upper)

    def _part(self, i: int, elements: Array) -> tuple[Relaxation, Array]:
        """What these elements of layer i depend on: their receptive field, and the balls' own part of it.

        The second is where they are in that part. It is the whole where the convolutions' parts would be too large.
        """
        kept = [np.zeros(0, dtype=np.int64)] * i + [elements]
        for j in range(i, 0, -1):
            if len(kept[j]):
                weight = self.layers[j].weight
                read = kept[j] if weight is None else reads(weight, kept[j])
                for k in self.layers[j].inputs:
                    kept[k] = np.union1d(kept[k], read)
        inner = [(layer, len(at), len(kept[layer.inputs[0]])) for layer, at in zip(self.layers[1:], kept[1:])]
        if sum(m * n for a, m, n in inner if isinstance(a.weight, Convolution) and (m, n) != a.weight.shape) > PARTS:
            return self, elements
        layers = [
            layer._replace(
                shape=(len(at),), bias=None if layer.bias is None else layer.bias[at],
                weight=None if layer.weight is None or not len(at) else block(layer.weight, at, kept[layer.inputs[0]]),
            )
            for layer, at in zip(self.layers, kept)
        ]  # fmt: skip
        limits = [Box(lower[:, at], upper[:, at]) for (lower, upper), at in zip(self.limits, kept)]
        balls = [b._replace(center=b.center[kept[0]], weights=b.weights[kept[0]]) for b in self.balls]
        part = Relaxation(layers, limits[0], balls, limits)
        for j, layer in enumerate(layers):
            for k in layer.inputs:
                if layer.weight is None and len(kept[j]) not in (0, len(kept[k])):
                    part._within[j, k] = np.searchsorted(kept[k], kept[j])
        return part, np.arange(len(elements))

    def _read(self, i: int) -> Box:
        """Limits of what a layer reads of its first input."""
        j = self.layers[i].inputs[0]
        at = self._within.get((i, j), slice(None))
        return Box(*(t[:, at] for t in self.limits[j]))

    def _effect(self, i: int) -> Array:
        """``|W| max |h| + |b|`` of an affine layer: what a relative error of a row's coefficient amounts to."""
        if i not in self._effects:
            layer, size = self.layers[i], self._read(i).size
            assert layer.bias is not None
            through = size if layer.weight is None else forward(magnitude(layer.weight), size)
            self._effects[i] = through + np.abs(layer.bias)
        return self._effects[i]

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
        pending, scale = dict(rows), np.ones((1, 1))
        for i in range(max(rows), 0, -1):
            if i not in pending:
                continue
            layer, row = self.layers[i], pending.pop(i)
            scale = scale + np.abs(row).sum(2)
            parts, first = [row] * len(layer.inputs), self._read(i)
            if layer.kind == "affine":
                assert layer.bias is not None
                error = error + gamma(layer.size + first.size.shape[1]) * _dot(np.abs(row), self._effect(i))
                offset = offset + row @ layer.bias
                parts = [row if layer.weight is None else backward(layer.weight, row)]
            elif layer.kind == "relu":
                sign, beta = (signs or {}).get(i, np.zeros((1, 1))), (multipliers or {}).get(i)
                low, high, intercept = _lines(layer, first, (slopes or {}).get(i, np.full((1, 1), np.nan)), sign)
                carried = row * np.where(row > 0, low[:, None], high[:, None])
                below = _dot(np.minimum(row, 0), intercept)
                offset, error = offset + below, error - gamma(layer.size) * below
                rounded = np.abs(carried)
                if beta is not None:
                    term = (beta * sign)[:, None]
                    carried, rounded = carried - term, rounded + np.abs(term)
                error = error + gamma(2) * _dot(rounded, first.size)
                parts = [carried]
            error = error + gamma(1) * np.abs(offset)
            for j, part in zip(layer.inputs, parts):
                if (i, j) in self._within:
                    whole = np.zeros((*part.shape[:2], self.layers[j].size))
                    whole[:, :, self._within[i, j]] = part
                    part = whole
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


def _lines(layer: Layer, z: Box, slope: Array, sign: Array) -> tuple[Array, Array, Array]:
    """Slopes of the lower line through zero and of the upper line, and the upper line's intercept rounded upwards."""
    a, (lower, upper) = layer.slope, z
    on, off = (lower >= 0) & (sign >= 0) | (sign > 0), (upper <= 0) & (sign <= 0) | (sign < 0)
    low = np.where(np.isnan(slope), np.where(upper > -lower, 1.0, a), slope)
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
    weights = np.where(w > 0, w, 1.0)
    scaled, part = np.where(w > 0, row / weights, 0.0), row
    scale = 1e-150 + (np.abs(scaled).max(2) if ball.p == 1 else np.sqrt((scaled**2).sum(2)) / (ball.radius + 1e-99))
    least, most = np.full(scale.shape, -50.0), np.full(scale.shape, 50.0)
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        step = (scale * 2**middle)[..., None]
        if ball.p == 1:
            # the whole multiplier, with the sign that helps, where the box keeps an element off the centre
            cut = np.clip(row, -step * w, step * w)
            part = np.where(low > 0, -step * w, np.where(high < 0, step * w, cut))
            moved = np.where(row > part, low, np.where(row < part, high, 0.0))
        else:
            moved = np.clip(-scaled / (step * weights), low, high)
            part = -step * w**2 * moved
        outside = np.linalg.norm(np.where(w > 0, w * moved, 0.0), ball.p, axis=2) > ball.radius
        least, most = np.where(outside, middle, least), np.where(outside, most, middle)
    return part
