"""What operators of ONNX files mean as layers of the checker, beyond those of :mod:`clinch.checker.onnx_layers`.

An operator adds its layers to those read so far, and returns the position of the last one. Shapes have no batch axis;
axes count it, as in the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clinch.checker.layers import (
    Array,
    Layer,
    Refused,
    Room,
    append,
    convolution,
    function,
    maxpool,
    product,
    relu,
    reshape,
    sparse,
    wholes,
)

#: operators that are one function without parameters
NAMED = {
    "Sigmoid": "sigmoid", "Tanh": "tanh", "Erf": "erf", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Sin": "sin",
    "Reciprocal": "reciprocal", "Softsign": "softsign", "Cos": "cos", "Sinh": "sinh", "Cosh": "cosh", "Atan": "atan",
    "Asinh": "asinh", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Sign": "sign", "HardSwish": "hardswish",
    "Mish": "mish",
}  # fmt: skip
#: roundings of a constant that is made of the file's by a few operations
ROUNDED = 16


class Layers:
    """The layers read so far.

    Args:
        layers: grows. room: what is left. opset: of the file. single: its numbers are float32.
    """

    def __init__(self, layers: list[Layer], room: Room, opset: int, single: bool) -> None:
        self.layers, self.room, self.opset, self.single = layers, room, opset, single

    def shape(self, at: int) -> tuple[int, ...]:
        """Of a layer."""
        return self.layers[at].shape

    def add(self, layer: Layer) -> int:
        """Append it; its position."""
        return append(self.layers, layer, self.room)

    def named(self, at: int, name: str, *parameters: float) -> int:
        """A function of one number."""
        return self.add(function((at,), self.shape(at), name, list(parameters), self.room))

    def entries(
        self, inputs: Sequence[int], shape: tuple[int, ...], column: Array, value: Array | float,
        row: Array | None = None, bias: Array | None = None, rounded: int = 0,
    ) -> int:  # fmt: skip
        """A sparse matrix; one entry in each row unless rows are given."""
        column = column.ravel()
        row = np.arange(len(column)) if row is None else row.ravel()
        full = np.broadcast_to(np.asarray(value, np.float64), column.shape)
        given, shapes = (row, column, full), [self.shape(i) for i in inputs]
        return self.add(sparse(tuple(inputs), shapes, shape, given, bias, self.room, rounded))

    def places(self, at: int) -> Array:
        """The elements' numbers, with a batch axis in front."""
        size = self.layers[at].size
        self.room.take(4 * size)
        return np.arange(size).reshape(1, *self.shape(at))

    def scaled(self, at: int, factor: Array | float, shift: Array | float = 0.0, rounded: int = 0) -> int:
        """``factor ⊙ x + shift``, constants broadcast as in the file."""
        parts = np.broadcast_arrays(self.places(at), factor, shift)
        full, a, b = parts
        if full.ndim != len(self.shape(at)) + 1 or full.shape[0] != 1:
            raise Refused("A constant is wider than what it meets.")
        self.room.take(4 * full.size)
        return self.entries([at], full.shape[1:], full, a.ravel(), bias=b.ravel().astype(np.float64), rounded=rounded)

    def times(self, a: int, b: int) -> int:
        """``a ⊙ b``, broadcast."""
        x, y = self.places(a), self.places(b)
        if x.ndim != y.ndim:
            raise Refused("A product joins samples of other numbers of dimensions.")
        x, y = np.broadcast_arrays(x, y)
        self.room.take(2 * x.size)
        return product((a, b), x.shape[1:], {"left": x.ravel(), "right": y.ravel()}, self.layers, self.room)

    def summed(self, at: int, axes: Sequence[int], keep: bool, factor: float = 1.0, rounded: int = 0) -> int:
        """Sums along axes of a sample."""
        shape = self.shape(at)
        kept = tuple(1 if d in axes else n for d, n in enumerate(shape))
        row = np.broadcast_to(np.arange(math.prod(kept)).reshape(kept), shape)
        left = kept if keep else tuple(n for d, n in enumerate(shape) if d not in axes)
        return self.entries([at], left or (1,), self.places(at), factor, row, rounded=rounded)

    def axes(self, given: Sequence[int], rank: int) -> list[int]:
        """Axes of a file as dimensions of a sample; the batch is none of them."""
        found = [a + rank if a < 0 else a for a in given]
        if not all(0 < a < rank for a in found) or len(set(found)) < len(found):
            raise Refused(f"Axes {list(given)} reach the batch, or are not there.")
        return [a - 1 for a in found]


Operands = list[Any]
Settings = dict[str, Any]


def named(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    """A function without parameters."""
    return g.named(x[0], NAMED[kind])


def _absolute(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    return g.add(relu((x[0],), g.shape(x[0]), -1.0))


def _negative(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    return g.scaled(x[0], -1.0)


def _softplus(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    return g.named(x[0], "softplus", 1.0)


def _elu(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    return g.named(x[0], "elu", s["alpha"], s.get("gamma", 1.0), 1.0)


def _gelu(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    return g.named(x[0], {b"none": "gelu", b"tanh": "gelu tanh"}[s["approximate"]])


def _power(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    if x[1].size != 1 or x[1].ndim > len(g.shape(x[0])) + 1:
        raise Refused("A Pow has an exponent that is not one number.")
    return g.named(x[0], "power", float(x[1].ravel()[0]))


def _multiply(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    a, b = x if isinstance(x[0], int) else x[::-1]
    return g.times(a, b) if isinstance(b, int) else g.scaled(a, b)


def _divide(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    a, b = x
    if not isinstance(b, int):
        if (b == 0).any():
            raise Refused("A Div divides by zero.")
        return g.scaled(a, 1.0 / b, rounded=ROUNDED)
    inverse = g.named(b, "reciprocal")
    return g.times(a, inverse) if isinstance(a, int) else g.scaled(inverse, a)


def _subtract(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    a, b = x
    if not isinstance(b, int):
        return g.scaled(a, 1.0, -b)
    if not isinstance(a, int):
        return g.scaled(b, -1.0, a)
    if g.shape(a) != g.shape(b):
        raise Refused("A difference joins two layers of one shape.")
    column = np.concatenate([g.places(a).ravel(), g.places(b).ravel() + g.layers[a].size])
    return g.entries([a, b], g.shape(a), column, np.repeat([1.0, -1.0], g.layers[a].size), column % g.layers[a].size)


def _normalised(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    at, *constants = x
    channels = g.shape(at)[0]
    if any(t.shape != (channels,) for t in constants) or (constants[3] + s["epsilon"] <= 0).any():
        raise Refused("A BatchNormalization has not one positive variance, and so on, for each channel.")
    scale, shift, mean, variance = (t.reshape(-1, *[1] * (len(g.shape(at)) - 1)) for t in constants)
    # the mean before, so that what rounding may do is relative to each constant
    centred = g.scaled(at, 1.0, -mean)
    return g.scaled(centred, scale / np.sqrt(variance + s["epsilon"]), shift, rounded=ROUNDED)


def _clip(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    """``low + max(x − low, 0)``, then ``high − max(high − y, 0)``."""
    at, *given = x
    limits = given if g.opset >= 11 else [s["min"], s["max"]]
    low, high = (None if t is None else float(np.asarray(t).reshape(())) for t in limits)
    if low is not None and high is not None and low > high:
        raise Refused("A Clip has limits in the wrong order.")
    for limit, sign in ((low, 1.0), (high, -1.0)):
        # the largest float32 is how a file of float32 says that there is no limit
        if limit is not None and not (g.single and abs(limit) == float(np.finfo(np.float32).max)):
            at = g.scaled(at, sign, -sign * limit)
            at = g.scaled(g.add(relu((at,), g.shape(at), 0.0)), sign, limit)
    return at


def _window(g: Layers, at: int, s: Settings) -> tuple[list[int], ...]:
    """Window, strides, dilations and pads in front and behind; without a window the whole sample."""
    n = len(g.shape(at)) - 1
    window = list(s.get("kernel_shape", g.shape(at)[1:]))
    strides, dilations = (list(s.get(name) or [1] * n) for name in ("strides", "dilations"))
    pads = list(s.get("pads") or [0] * 2 * n)
    if n < 1 or not len(window) == len(strides) == len(dilations) == n or len(pads) != 2 * n or min(pads) < 0:
        raise Refused("A pool's settings do not fit its input.")
    return window, strides, dilations, pads[:n], pads[n:]


def _max_pool(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    window, strides, dilations, front, behind = _window(g, x[0], s)
    shape = g.shape(x[0])
    extents = [
        (n + a + b - d * (k - 1) - 1) // t + 1
        for n, a, b, d, k, t in zip(shape[1:], front, behind, dilations, window, strides)
    ]
    if min(extents) < 1 or min(window) < 1 or min(strides) < 1 or min(dilations) < 1:
        raise Refused("A MaxPool has no windows.")
    return maxpool(
        (x[0],), shape, window, strides, dilations, list(zip(front, behind)), extents, g.layers, g.room
    )  # fmt: skip


def _average_pool(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    window, strides, dilations, front, behind = _window(g, x[0], s)
    if front != behind or (any(front) and not s.get("count_include_pad", 0)):
        raise Refused("An AveragePool has other padding at its ends, or padding that does not count.")
    shape, kernel = g.shape(x[0]), np.full((1, 1, *window), 1.0 / math.prod(window))
    g.room.take(shape[0] ** 2 * math.prod(window))
    layer = convolution(
        (x[0],), shape, np.repeat(kernel, shape[0], 0), None, strides, front, dilations, shape[0], g.room
    )  # fmt: skip
    return g.add(layer._replace(rounded=ROUNDED))


def _global_average(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    shape = g.shape(x[0])
    return g.summed(x[0], range(1, len(shape)), True, 1.0 / math.prod(shape[1:]), rounded=ROUNDED)


def _reduced(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    given = s["axes"] if x[1] is None else x[1].tolist()
    if not given:
        raise Refused(f"A {kind} without axes reaches the batch.")
    axes = g.axes(given, len(g.shape(x[0])) + 1)
    size = math.prod(g.shape(x[0])[d] for d in axes) if kind == "ReduceMean" else 1
    return g.summed(x[0], axes, bool(s["keepdims"]), 1.0 / size, rounded=ROUNDED)


def _transposed(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    rank = len(g.shape(x[0])) + 1
    order = s["perm"] or list(range(rank))[::-1]
    if sorted(order) != list(range(rank)) or order[0] != 0:
        raise Refused("A Transpose moves the batch.")
    moved = g.places(x[0]).transpose(order)
    return g.entries([x[0]], moved.shape[1:], moved, 1.0)


def _softmax(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    """``1/Σ_j e^(x_j − x_i)``; its logarithm is minus that of the sum."""
    shape, rank = g.shape(x[0]), len(g.shape(x[0])) + 1
    (axis,) = g.axes([(1 if g.opset < 13 else -1) if s["axis"] is None else s["axis"]], rank)
    if g.opset < 13 and axis != len(shape) - 1:
        raise Refused(f"A {kind} of opset {g.opset} runs over several axes.")
    n, places = shape[axis], np.moveaxis(g.places(x[0])[0], axis, 0)
    g.room.take(4 * n * places.size)
    first, second = (np.broadcast_to(t, (n, *places.shape)) for t in (places[:, None], places[None]))
    row = np.tile(np.arange(first.size), 2)
    column, value = np.concatenate([first.ravel(), second.ravel()]), np.repeat([1.0, -1.0], first.size)
    same = np.concatenate([(first != second).ravel()] * 2)
    pairs = g.entries([x[0]], (n, *places.shape), column[same], value[same], row[same])
    total = g.summed(g.named(pairs, "exp"), [0], False)
    found = g.named(total, "reciprocal") if kind == "Softmax" else g.scaled(g.named(total, "log"), -1.0)
    back = np.moveaxis(g.places(found)[0], 0, axis)
    return g.entries([found], shape, back, 1.0)


def matrix_product(g: Layers, kind: str, operands: Operands, s: Settings) -> int:
    """``A B`` of the last two dimensions of two layers; those before are alike."""
    a, b = operands
    x, y = g.shape(a), g.shape(b)
    if len(x) < 2 or len(x) != len(y) or x[:-2] != y[:-2] or x[-1] != y[-2]:
        raise Refused(f"A MatMul joins layers of shapes {x} and {y}.")
    terms = (*x, y[-1])
    g.room.take(6 * math.prod(terms))
    out = (*x[:-1], y[-1])
    left = np.broadcast_to(g.places(a)[0][..., None], terms)
    right = np.broadcast_to(g.places(b)[0][..., None, :, :], terms)
    into = np.broadcast_to(np.arange(math.prod(out)).reshape(out)[..., None, :], terms)
    at = {"left": left.ravel(), "right": right.ravel(), "out": into.ravel()}
    return product((a, b), out, at, g.layers, g.room)


def _layer_normalised(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    """``(x − mean)/√(variance + eps)·scale + bias`` over the last axes."""
    at, scale, bias = x
    shape = g.shape(at)
    (first,) = g.axes([s["axis"]], len(shape) + 1)
    axes = list(range(first, len(shape)))
    size = math.prod(shape[first:])
    mean = g.summed(at, axes, True, 1.0 / size, rounded=ROUNDED)
    full = np.broadcast_to(g.places(mean)[0], shape)
    column = np.concatenate([g.places(at).ravel(), full.ravel() + g.layers[at].size])
    row, value = np.tile(np.arange(g.layers[at].size), 2), np.repeat([1.0, -1.0], g.layers[at].size)
    centred = g.entries([at, mean], shape, column, value, row)
    variance = g.summed(g.named(centred, "power", 2.0), axes, True, 1.0 / size, rounded=ROUNDED)
    if not s["epsilon"] > 0:
        raise Refused("A LayerNormalization has no positive epsilon.")
    root = g.named(g.scaled(variance, 1.0, s["epsilon"]), "power", -0.5)
    return g.scaled(g.times(centred, root), scale, 0.0 if bias is None else bias)


def _reshaped(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    """Axes of one element that go or come."""
    shape, given = g.shape(x[0]), s["axes"] if x[1] is None else x[1].tolist()
    if not given:
        raise Refused(f"A {kind} without axes may drop the batch.")
    if kind == "Unsqueeze":
        axes, rest = g.axes(given, len(shape) + 1 + len(given)), iter(shape)
        new = tuple(1 if d in axes else next(rest) for d in range(len(shape) + len(given)))
    else:
        axes = g.axes(given, len(shape) + 1)
        if any(shape[d] != 1 for d in axes):
            raise Refused("A Squeeze drops an axis of several elements.")
        new = tuple(n for d, n in enumerate(shape) if d not in axes) or (1,)
    return g.add(reshape((x[0],), shape, new))


def _joined(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    shapes = [g.shape(at) for at in x]
    (axis,) = g.axes([s["axis"]], len(shapes[0]) + 1)
    if len({(*t[:axis], -1, *t[axis + 1 :]) for t in shapes}) > 1:
        raise Refused(f"A Concat joins layers of shapes {shapes}.")
    starts = np.cumsum([0, *(g.layers[at].size for at in x)])
    whole = np.concatenate([g.places(at)[0] + start for at, start in zip(x, starts)], axis)
    return g.entries(x, whole.shape, whole, 1.0)


def _padded(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    """Zeros, or another constant, around a sample."""
    at, pads, value, _ = x
    pads = list(s["pads"] if g.opset < 11 else ([] if pads is None else pads.tolist()))
    rank, value = len(g.shape(at)) + 1, s.get("value", 0.0) if value is None else float(value.reshape(()))
    if len(pads) != 2 * rank or min(pads) < 0 or pads[0] or pads[rank]:
        raise Refused("A Pad reaches the batch, or takes elements away.")
    around = list(zip(pads, pads[rank:]))
    g.room.take(math.prod(n + a + b for n, (a, b) in zip((1, *g.shape(at)), around)))
    whole = np.pad(g.places(at), around, constant_values=-1)
    row = np.flatnonzero(whole.ravel() >= 0)
    bias = np.where(whole.ravel() < 0, value, 0.0)
    return g.entries([at], whole.shape[1:], whole.ravel()[row], 1.0, row, bias)


def _sliced(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    """Consecutive elements, or every so many, along axes of a sample."""
    at, *given = x
    said = (
        [s["starts"], s["ends"], s["axes"], None] if g.opset < 10 else [t if t is None else t.tolist() for t in given]
    )
    (starts, ends), (axes, steps) = (list(t or ()) for t in said[:2]), said[2:]
    rank = len(g.shape(at)) + 1
    axes, steps = range(len(starts)) if axes is None else axes, [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or min(steps, default=1) < 1:
        raise Refused("A Slice has lists of other lengths, or goes backwards.")
    # as in Python; what lies before the first element or behind the last one ends there
    index = [slice(None)] * rank
    for axis, start, end, step in zip(g.axes(axes, rank), starts, ends, steps):
        index[axis + 1] = slice(start, end, step)
    chosen = g.places(at)[tuple(index)]
    return g.entries([at], wholes(chosen.shape[1:], 1), chosen, 1.0)


def _gathered(g: Layers, kind: str, x: Operands, s: Settings) -> int:
    """Elements at constant places along an axis of a sample, which goes where there is one place."""
    at, places = x
    (axis,) = g.axes([s["axis"]], len(g.shape(at)) + 1)
    if places.ndim > 1 or not places.size:
        raise Refused("A Gather has places in several dimensions, or none.")
    chosen = np.take(g.places(at), places, axis + 1)
    g.room.take(8 * chosen.size)
    return g.entries([at], chosen.shape[1:] or (1,), chosen, 1.0)


#: operator -> what adds its layers
OPERATORS: dict[str, Callable[[Layers, str, Operands, Settings], int]] = {
    **dict.fromkeys(NAMED, named), "Abs": _absolute, "Neg": _negative, "Softplus": _softplus, "Elu": _elu,
    "Selu": _elu, "Gelu": _gelu, "Pow": _power, "Mul": _multiply, "Div": _divide, "Sub": _subtract,
    "BatchNormalization": _normalised, "Clip": _clip, "MaxPool": _max_pool, "GlobalMaxPool": _max_pool,
    "AveragePool": _average_pool, "GlobalAveragePool": _global_average, "ReduceMean": _reduced, "ReduceSum": _reduced,
    "Transpose": _transposed, "Softmax": _softmax, "LogSoftmax": _softmax, "LayerNormalization": _layer_normalised,
    "Squeeze": _reshaped, "Unsqueeze": _reshaped, "Concat": _joined, "Pad": _padded,
    "Slice": _sliced, "Gather": _gathered,
}  # fmt: skip
