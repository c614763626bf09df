"""Lower bounds of linear forms of a network in float64, with every rounding error accounted for.

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

from clinch.checker.layers import LEAST, NONLINEAR, Array, Layer, read_by_bends
from clinch.checker.lines import Box, Lines, down, gamma, lines_of, relu_lines, up
from clinch.checker.matrices import Convolution, Sparse, backward, block, forward, magnitude, reads

#: covers every underflow of a bound: fewer than 2⁶⁰ products, each off by at most 2⁻¹⁰⁷⁴, per unit they multiply
TINY = 1e-290
#: numbers that the coefficients of one pass may hold; entries of the dense parts of convolutions; halvings when the
#: multiplier of a ball is looked for: any multiplier is valid
SLICE, PARTS, HALVINGS = 2**18, 2**23, 36


class Ball(NamedTuple):
    """``‖w ⊙ (x − center)‖_p <= radius`` with p = 1 or 2; an element of weight zero is free."""

    center: Array
    radius: float
    p: float
    weights: Array


def interval(layer: Layer, inputs: list[Box]) -> Box:
    """Limits of a layer from limits of its inputs; unknown (infinite) where the arithmetic overflows."""
    box = inputs[0]
    if layer.kind == "relu":
        left = [layer.slope * t for t in box]
        lower, upper = (np.where(t > 0, t, side(s) if layer.slope else s) for t, s, side in zip(box, left, (down, up)))
        # with a negative slope it falls to zero and rises from there
        least = np.where(box.upper < 0, down(left[1]), np.maximum(box.lower, 0.0)) if layer.slope < 0 else lower
        return Box(least, upper if layer.slope >= 0 else np.maximum(box.upper, up(left[0])))
    if layer.kind == "add":
        return Box(down(box.lower + inputs[1].lower), up(box.upper + inputs[1].upper))
    if layer.kind in NONLINEAR:
        return lines_of(layer, inputs)[1]
    if layer.kind != "affine":
        return box
    if len(inputs) > 1:
        box = Box(*(np.concatenate(side, 1) for side in zip(*inputs)))
    if isinstance(layer.weight, Sparse) and layer.selects:
        return Box(*(side[:, layer.weight.column] for side in box))
    if layer.weight is None:
        return Box(down(box.lower + layer.bias), up(box.upper + layer.bias))
    centre = box.lower / 2 + box.upper / 2
    radius = up(np.maximum(box.upper - centre, centre - box.lower))
    value = forward(layer.weight, centre) + layer.bias
    size = magnitude(layer.weight)
    spread = forward(size, radius)
    count = layer.weight.terms if isinstance(layer.weight, Sparse) else layer.weight.shape[1]
    slack = gamma(count + layer.rounded) * (forward(size, np.abs(centre)) + spread + np.abs(layer.bias) + LEAST)
    slack = slack + TINY * (1 + (radius + np.abs(centre)).sum(1, keepdims=True))
    total = up((spread + slack) * (1 + 1e-12))
    lower, upper = down(value - total), up(value + total)
    return Box(np.where(np.isnan(lower), -np.inf, lower), np.where(np.isnan(upper), np.inf, upper))


class Relaxation:
    """The network over D boxes, cut by balls, with limits of every layer and lines for all that is not affine.

    Args:
        layers: the network.
        box: limits of the input, ``(D, n)``.
        balls: shared by all.
        cuts: limits of some layers ``(D, size)`` that hold beside those found here.
        limits: of every layer, where they are known.

    Attributes:
        empty: ``(D,)`` boxes in which the cuts contradict what is found.
    """

    def __init__(
        self, layers: list[Layer], box: Box, balls: list[Ball], cuts: dict[int, Box] | None = None,
        limits: list[Box] | None = None,
    ) -> None:  # fmt: skip
        self.layers, self.balls, self.rounding = layers, balls, 0.0
        self.limits, self.empty = [box] if limits is None else limits, np.zeros(len(box.lower), dtype=bool)
        self._effects: dict[int, Array] = {}
        #: of layers other than ReLUs, whose lines depend on the leaf
        self.lines: dict[int, Lines] = {}
        #: (layer, input) -> the places of what the layer reads of it, where that is not all of it
        self._within: dict[tuple[int, int], Array] = {}
        read = read_by_bends(layers) if limits is None else {}
        for i, layer in enumerate(layers[len(self.limits) :], len(self.limits)):
            inputs = [self.limits[j] for j in layer.inputs]
            if layer.kind in NONLINEAR and layer.kind != "relu":
                self.lines[i], found = lines_of(layer, inputs)
                self.limits.append(found)
            else:
                self.limits.append(interval(layer, inputs))
            if i in read and 0 not in (layer.inputs if layer.kind == "affine" and not balls else ()):
                self.limits[i] = self._refined(i, read[i])
            if cuts and i in cuts:
                self.cut(i, cuts[i])

    def cut(self, i: int, to: Box) -> None:
        """Take limits of a layer that were proven elsewhere; where they contradict those found a box is empty."""
        found, both = self.limits[i], self.limits[i].within(to)
        crossed = both.lower > both.upper
        self.empty = self.empty | crossed.any(1)
        self.limits[i] = Box(*(np.where(crossed, old, new) for old, new in zip(found, both)))

    def take(self, rows: Array) -> Relaxation:
        """The same for some boxes; one may repeat."""
        limits = [Box(*(side[rows] for side in box)) for box in self.limits]
        part = Relaxation(self.layers, limits[0], self.balls, limits=limits)
        lines = {i: Lines(*(t[..., rows, :] for t in found)) for i, found in self.lines.items()}
        part.empty, part.lines = self.empty[rows], lines
        return part

    def _refined(self, i: int, signs: bool) -> Box:
        """CROWN's limits, with slopes of its own rule; only of the elements whose sign is open where signs matter."""
        lower, upper = (t.copy() for t in self.limits[i])
        # in each box its own: what a leaf is worth must not depend on the leaves that are looked at with it
        own = (lower < 0) & (upper > 0) if signs else lower < upper
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
            layer = self.layers[j]
            if not len(kept[j]):
                continue
            read, start = kept[j] if layer.weight is None else reads(layer.weight, kept[j]), 0
            for k in layer.inputs:
                size = self.layers[k].size
                own = read if layer.weight is None else read[(read >= start) & (read < start + size)] - start
                kept[k], start = np.union1d(kept[k], own), start + size
        inner = [(layer, len(at), len(kept[layer.inputs[0]])) for layer, at in zip(self.layers[1:], kept[1:])]
        if sum(m * n for a, m, n in inner if isinstance(a.weight, Convolution) and (m, n) != a.weight.shape) > PARTS:
            return self, elements
        layers = [
            layer._replace(
                shape=(len(at),), bias=layer.bias[at] if layer.kind == "affine" else layer.bias,
                weight=None if layer.weight is None or not len(at) else block(layer.weight, at, self._all(layer, kept)),
            )
            for layer, at in zip(self.layers, kept)
        ]  # fmt: skip
        limits = [Box(lower[:, at], upper[:, at]) for (lower, upper), at in zip(self.limits, kept)]
        balls = [b._replace(center=b.center[kept[0]], weights=b.weights[kept[0]]) for b in self.balls]
        part = Relaxation(layers, limits[0], balls, limits=limits)
        part.lines = {j: found.take(kept[j]) for j, found in self.lines.items()}
        for j, layer in enumerate(layers):
            for k in layer.inputs:
                if layer.weight is None and len(kept[j]) not in (0, len(kept[k])):
                    part._within[j, k] = np.searchsorted(kept[k], kept[j])
        return part, np.arange(len(elements))

    def _all(self, layer: Layer, kept: list[Array]) -> Array:
        """What is kept of a layer's inputs, as places of all their elements in a row."""
        sizes = [self.layers[k].size for k in layer.inputs]
        return np.concatenate([kept[k] + sum(sizes[:at]) for at, k in enumerate(layer.inputs)])

    def _read(self, i: int) -> list[Box]:
        """Limits of what a layer reads of each of its inputs."""
        within = ((self.limits[j], self._within.get((i, j), slice(None))) for j in self.layers[i].inputs)
        return [Box(lower[:, at], upper[:, at]) for (lower, upper), at in within]

    def _effect(self, i: int) -> Array:
        """``|W| max |h| + |b|`` of an affine layer: what a relative error of a row's coefficient amounts to."""
        if i not in self._effects:
            weight, size = self.layers[i].weight, np.concatenate([box.size for box in self._read(i)], 1)
            size = size if weight is None else forward(magnitude(weight), size)
            self._effects[i] = np.maximum(size + np.abs(self.layers[i].bias), LEAST)
        return self._effects[i]

    def lower(
        self, rows: dict[int, Array], offset: Array, error: Array,
        known: dict[int, tuple[Array | None, Array] | Lines] | None = None,
    ) -> Array:  # fmt: skip
        """Lower bounds ``(D, R)`` of ``Σ_i <rows_i, layer_i(x)> + offset`` less ``error``; NaN where nothing is known.

        Args:
            rows: position of a layer -> ``(D or 1, R, size)``.
            offset: ``(D or 1, R or 1)``; error: how far it, or the rows' effect, is off by rounding.
            known: ReLU -> ``(D, size)`` slopes of the lower lines, NaN for CROWN's own, and ``(D, size)`` signs: +1
                where the input is known to be >= 0, −1 where it is known to be <= 0, 0 where neither; another layer
                that is not affine -> its lines.
        """
        pending, scale = dict(rows), np.ones((1, 1))
        for i in range(max(rows), 0, -1):
            if i not in pending or not pending[i].shape[2]:
                continue
            layer, row = self.layers[i], pending.pop(i)
            parts, first, scale = [row] * len(layer.inputs), self._read(i), scale + np.abs(row).sum(2)
            if layer.kind == "affine":
                parts, off = self._through_affine(i, row, first)
                offset, error = offset + row @ layer.bias, error + off
            elif layer.kind in NONLINEAR:
                lines = (known or {}).get(i, self.lines.get(i, (None, np.zeros((1, 1)))))
                lines = lines if isinstance(lines, Lines) else relu_lines(layer.slope, first[0], *lines)
                positive, above, below = row > 0, np.maximum(row, 0), np.minimum(row, 0)
                parts = [row * np.where(positive, low[:, None], high[:, None]) for low, high in zip(*lines[:2])]
                for part, box in zip(parts, first):
                    error = error + gamma(2) * _dot(np.abs(part), box.size)
                for signed, ends in ((above, lines.low_offset), (below, lines.high_offset)):
                    offset = offset + _dot(signed, ends)
                    error = error + gamma(layer.size) * _dot(np.abs(signed), np.abs(ends))
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

    def _through_affine(self, i: int, row: Array, boxes: list[Box]) -> tuple[list[Array], Array]:
        """Rows on the inputs of an affine layer, and the rounding of these and of what its bias adds."""
        layer = self.layers[i]
        carried = row if layer.weight is None else backward(layer.weight, row)
        count = layer.weight.terms if isinstance(layer.weight, Sparse) else layer.size + carried.shape[2]
        count += layer.size if isinstance(layer.weight, Sparse) and layer.bias.any() else 0
        error = gamma(count + layer.rounded) * _dot(np.abs(row), self._effect(i))
        return np.split(carried, np.cumsum([box.lower.shape[1] for box in boxes])[:-1], 2), error

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
