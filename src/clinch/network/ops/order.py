"""Calls that compare elements: the larger of two, the largest of several, sorting, the k largest, medians.

The larger of two is a ReLU and a sum; a network of such exchanges sorts (Batcher's odd-even merge sort: Knuth 1998, The
Art of Computer Programming 3, algorithm 5.2.2M).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clinch.network.ops.add import Add
from clinch.network.ops.composites import Operand, Parts
from clinch.network.ops.dense import Dense
from clinch.network.ops.max_pool import MaxPool
from clinch.network.ops.reading import Call, Reader, Value, from_aten, from_onnx
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.select import Slice, Take
from clinch.network.ops.shape import Reshape, Transpose

#: elements that are sorted by exchanges at most
MOST_SORTED = 64


def larger(call: Call, a: Operand, b: Operand, sign: float = 1.0) -> Value:
    """``max(a, b) = b + relu(a − b)``, and ``min(a, b) = b − relu(b − a)`` for the sign −1."""
    parts = Parts(call)
    if isinstance(b, Value) and isinstance(a, Tensor):
        a, b = b, a
    above = parts.subtract(a, b) if sign > 0 else parts.subtract(b, a)
    bent = call.emit(LeakyReLU(), above)
    found = parts.add(b, bent) if sign > 0 else parts.subtract(b, bent)
    assert isinstance(found, Value)
    return found


def _pair(sign: float, *names: str) -> Reader:
    return lambda call: larger(call, call.operand(names[0]), call.operand(names[1]), sign)


from_aten("aten.maximum", "aten.fmax")(_pair(1.0, "self", "other"))
from_aten("aten.minimum", "aten.fmin")(_pair(-1.0, "self", "other"))


def _several(sign: float) -> Reader:
    def read(call: Call) -> Value | None:
        values = call["data_0"]
        if not isinstance(values, list) or not values:
            return None
        found = values[0] if isinstance(values[0], Value) else call.constant(values[0])
        for value in values[1:]:
            other = value if isinstance(value, Value) else call.constant(value)
            if isinstance(found, Tensor) and isinstance(other, Tensor):
                found = torch.maximum(found, other) if sign > 0 else torch.minimum(found, other)
            else:
                found = larger(call, found, other, sign)
        return found if isinstance(found, Value) else None

    return read


from_onnx("Max")(_several(1.0))
from_onnx("Min")(_several(-1.0))


def largest(call: Call, x: Value, dims: Sequence[int], keep: bool, sign: float) -> Value:
    """The largest (sign 1) or smallest element along dimensions of a sample: halves against each other."""
    parts = Parts(call)
    for dim in dims:
        while (size := x.shape[dim]) > 1:
            half = size // 2
            pair = larger(call, parts.part(x, dim, 0, half), parts.part(x, dim, half, half), sign)
            if size % 2:
                pair = parts.apply("aten.cat", tensors=[pair, parts.part(x, dim, size - 1, 1)], dim=dim + 1)
            x = pair
    return x if keep else call.emit(Reshape(tuple(n for d, n in enumerate(x.shape) if d not in dims)), x)


def _extreme(sign: float) -> Reader:
    def read(call: Call) -> Value:
        x = call.activation("self")
        given = call.ints("dim", [])
        dims = [call.axis(d, len(x.shape)) for d in given or range(1, len(x.shape) + 1)]
        if not given:
            raise call.refuse("without a dimension it works along the batch")
        return largest(call, x, dims, bool(call.get("keepdim", False)), sign)

    return read


from_aten("aten.amax")(_extreme(1.0))
from_aten("aten.amin")(_extreme(-1.0))


def _onnx_extreme(sign: float) -> Reader:
    def read(call: Call) -> Value:
        x = call.activation("data")
        if call.get("axes") is None:
            raise call.refuse("without axes it works along the batch")
        dims = [call.axis(d, len(x.shape)) for d in call.ints("axes")]
        return largest(call, x, dims, bool(call.get("keepdims", 1)), sign)

    return read


from_onnx("ReduceMax")(_onnx_extreme(1.0))
from_onnx("ReduceMin")(_onnx_extreme(-1.0))


# --- sorting ---------------------------------------------------------------------------------------------------------


def exchanges(n: int) -> list[list[tuple[int, int]]]:
    """Layers of disjoint pairs: if in each pair, layer by layer, the smaller goes first, n numbers are sorted."""
    if n < 2:
        return []
    top = 2 ** ((n - 1).bit_length() - 1)
    layers, p = [], top
    while p:
        q, r, d = top, 0, p
        while d:
            layers.append([(i, i + d) for i in range(n - d) if i & p == r])
            q, r, d = q // 2, p, q - p if q > p else 0
        p //= 2
    return [layer for layer in layers if layer]


def ascending(call: Call, x: Value, dim: int) -> Value:
    """The elements along a dimension of a sample, the smallest first."""
    n, rank = x.shape[dim], len(x.shape)
    swap = Transpose(tuple(rank - 1 if d == dim else dim if d == rank - 1 else d for d in range(rank)))
    x = call.emit(swap, x)
    for pairs in exchanges(n):
        first, second = torch.tensor(pairs).T
        at = torch.arange(len(pairs))
        differences = torch.zeros(len(pairs), n, dtype=torch.float64)
        differences[at, first], differences[at, second] = 1.0, -1.0
        excess = call.emit(LeakyReLU(), call.emit(Dense(differences), x))
        x = call.emit(Add(), x, call.emit(Dense(-differences.T.contiguous()), excess))
    return call.emit(swap, x)


def _sorted(call: Call) -> tuple[Value, int] | None:
    """What is sorted, and along which dimension; None where it is too long."""
    x = call.activation("self")
    if not x.shape:
        return None
    dim = call.axis(call.get("dim", -1), len(x.shape))
    return (ascending(call, x, dim), dim) if x.shape[dim] <= MOST_SORTED else None


@from_aten("values of aten.sort", "aten.msort")
def _sort(call: Call) -> Value | None:
    found = _sorted(call)
    if found is None:
        return None
    x, dim = found
    return Parts(call).apply("aten.flip", self=x, dims=[dim + 1]) if call.get("descending", False) else x


@from_aten("values of aten.topk")
def _topk(call: Call) -> Value | None:
    found = _sorted(call) if call.get("sorted", True) else None
    if found is None:
        return None
    (x, dim), k = found, call["k"]
    if not call.get("largest", True):
        return call.emit(Slice(dim, 0, k), x)
    top = call.emit(Slice(dim, x.shape[dim] - k, x.shape[dim]), x)
    return Parts(call).apply("aten.flip", self=top, dims=[dim + 1])


def _kth(call: Call, of: float) -> Value | None:
    found = _sorted(call)
    if found is None:
        return None
    x, dim = found
    k = call["k"] - 1 if of < 0 else int((x.shape[dim] - 1) * of)
    one = call.emit(Slice(dim, k, k + 1), x)
    if call.get("keepdim", False):
        return one
    return call.emit(Reshape((*x.shape[:dim], *x.shape[dim + 1 :])), one)


@from_aten("values of aten.median")
def _median(call: Call) -> Value | None:
    return _kth(call, 0.5)


@from_aten("values of aten.kthvalue")
def _kth_value(call: Call) -> Value | None:
    return _kth(call, -1.0)


@from_aten("aten.quantile")
def _quantile(call: Call) -> Value | None:
    """Between two elements it lies on the line between them."""
    q = call.get("q")
    if call.get("dim") is None or call.get("interpolation", "linear") != "linear" or q is None:
        return None
    found = _sorted(call) if not isinstance(q, Tensor) or q.numel() == 1 else None
    if found is None:
        return None
    x, dim = found
    at = float(q) * (x.shape[dim] - 1)
    parts, below = Parts(call), math.floor(at)
    low, high = (parts.part(x, dim, place, 1) for place in (below, math.ceil(at)))
    gap = parts.multiply(parts.subtract(high, low), call.constant(at - below))
    one = parts.add(low, gap)
    assert isinstance(one, Value)
    return one if call.get("keepdim", False) else call.emit(Reshape((*x.shape[:dim], *x.shape[dim + 1 :])), one)


def _running(sign: float) -> Reader:
    def read(call: Call) -> Value | None:
        x, parts = call.activation("self"), Parts(call)
        dim = call.axis(call["dim"], len(x.shape))
        if x.shape[dim] > MOST_SORTED:
            return None
        found = [parts.part(x, dim, 0, 1)]
        for i in range(1, x.shape[dim]):
            found.append(larger(call, found[-1], parts.part(x, dim, i, 1), sign))
        return parts.apply("aten.cat", tensors=found, dim=dim + 1)

    return read


from_aten("values of aten.cummax")(_running(1.0))
from_aten("values of aten.cummin")(_running(-1.0))


# --- pools of given extents ------------------------------------------------------------------------------------------


@from_aten(*(f"values of aten.adaptive_max_pool{d}d" for d in (1, 2, 3)))
def _adaptive_max_pool(call: Call) -> Value | None:
    """The largest of each window; windows of several sizes are filled up with their own elements."""
    x, extents = call.activation("self"), call.ints("output_size")
    spatial = x.shape[len(x.shape) - len(extents) :]
    channels = math.prod(x.shape[: len(x.shape) - len(extents)])
    numbers = torch.arange(math.prod(spatial)).reshape(spatial)
    windows: list[Tensor] = [numbers]
    for dim, (n, m) in enumerate(zip(spatial, extents)):
        ends = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        windows = [w.narrow(dim, a, b - a) for w in windows for a, b in ends]
    most = max(w.numel() for w in windows)
    index = torch.stack([w.flatten()[torch.arange(most) % w.numel()] for w in windows]).flatten()
    taken = call.emit(Take(1, index), call.emit(Reshape((channels, numbers.numel())), x))
    pooled = call.emit(MaxPool((most,), (most,), ((0, 0),), (1,)), taken)
    return call.emit(Reshape((*x.shape[: len(x.shape) - len(extents)], *extents)), pooled)
