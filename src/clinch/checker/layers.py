"""Networks as the checker sees them: matrices, convolutions, ReLUs and sums, on flat vectors.

The neutral layer list is a safetensors file whose metadata ``clinch-network`` is JSON: ``{"version": 2, "layers":
[...]}``, see docs/certificates.md. The network it stands for is the real-number function of the stored numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from clinch.checker.function_kinds import FUNCTIONS
from clinch.checker.functions import Function
from clinch.checker.matrices import Array, Convolution, Matrix, Sparse

#: of certificates and layer lists
VERSION = 3
#: versions that are read; in version 2 there are fewer kinds of layers and of splits
READ = (2, 3)
#: numbers that a network may take beside one for each byte of its file, and the largest stride, padding or dilation;
#: magnitude that rounding errors of an affine layer are relative to, at least: products of float32 may underflow
LARGEST, LEAST = 2**22, 2.0**-100
#: numbers that a function's tables may hold
FUNCTION = 2**18

#: what Python and NumPy raise where a file's values are of another kind than they should be
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, MemoryError, RecursionError)


class Refused(Exception):
    """The certificate does not prove what it says, or what it says cannot be read; the message is one line."""

    def __init__(self, text: str) -> None:
        # it may quote a file of a stranger
        super().__init__("".join(c if c.isprintable() else " " for c in text[:500]))


class Room:
    """What is left of the numbers that a network may take: matrices, tables and elements of all layers together.

    A small file may state much; it is counted before there is room for it.
    """

    def __init__(self, file: int) -> None:
        self.left = LARGEST + file
        #: functions by name and parameters, whose tables layers share
        self.functions: dict[tuple[Any, ...], Function] = {}

    def take(self, *numbers: int) -> None:
        """Count these, or refuse."""
        self.left -= sum(numbers)
        if self.left < 0:
            raise Refused("The network is too large for this checker, which grants it a share of its file's size.")


#: kinds of layers that are not affine; they act place by place on inputs of one shape
NONLINEAR = ("relu", "function", "product", "maximum")


class Layer(NamedTuple):
    """``weight @ x + bias`` (kind "affine", the identity without a weight; several inputs stand in a row), ``max(x,
    slope·x)`` ("relu"), ``x + y`` ("add"), the same in another shape ("reshape"), the "input", a "function" of one
    number, ``x·y`` ("product") or the largest of the inputs ("maximum").

    ``rounded`` is how often the weights that are meant were rounded.
    """

    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    weight: Matrix | None = None
    bias: Array = np.zeros(0)
    slope: float = 0.0
    function: Function | None = None
    rounded: int = 0

    @property
    def selects(self) -> bool:
        """Whether every element is one of the inputs."""
        return isinstance(self.weight, Sparse) and self.weight.selects and not self.bias.any()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def work(self) -> int:
        """Numbers that its evaluation takes: its elements, or the channels that a convolution's places read."""
        weight, taken = self.weight, 0
        if isinstance(weight, Convolution):
            taken = weight.kernel.shape[2] * weight.source.shape[1]
        elif isinstance(weight, Sparse):
            taken = len(weight.row)
        elif self.kind in ("function", "product", "maximum"):
            # parts of a function's cells, corners of limits, all inputs
            taken = self.size * (4 * len(self.inputs) if self.function is None else 24)
        return max(self.size, taken)


def digest(header: Any, tensors: dict[str, Array]) -> str:
    """SHA-256 of canonical JSON and, by name, of every tensor's name, dtype, shape and little-endian bytes.

    Each part is preceded by its length, so that no two contents are the same stream of bytes.
    """
    found = hashlib.sha256()
    parts = [json.dumps(header, sort_keys=True, separators=(",", ":")).encode()]
    for name in sorted(tensors):
        t = tensors[name].astype(tensors[name].dtype.newbyteorder("<"), order="C", copy=False)
        parts += [name.encode(), t.dtype.str.encode(), np.array(t.shape, "<i8").tobytes(), t.tobytes()]
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


#: kind of a stated layer -> number of its inputs (None: any), what is stated of it, and what may be missing
KINDS: dict[str, tuple[int | None, set[str], set[str]]] = {
    "input": (0, {"shape"}, {"inputs"}),
    "reshape": (1, {"shape", "inputs"}, set()),
    "relu": (1, {"inputs"}, {"slope"}),
    "add": (2, {"inputs"}, set()),
    "shift": (1, {"inputs", "bias"}, set()),
    "dense": (1, {"inputs", "weight"}, {"bias"}),
    "convolution": (1, {"inputs", "weight", "stride", "padding", "dilation", "groups"}, {"bias"}),
    "sparse": (None, {"inputs", "shape", "row", "column", "value"}, {"bias"}),
    "function": (1, {"inputs", "name", "parameters"}, set()),
    "maxpool": (1, {"inputs", "window", "stride", "padding", "dilation", "extents"}, set()),
    "product": (2, {"inputs", "shape"}, {"left", "right", "out"}),
}


def read_layers(header: dict[str, Any], tensors: dict[str, Array], positions: list[int] | None = None) -> list[Layer]:
    """The layers of a neutral list; ``positions`` receives where each stated layer ended up among them.

    Raises:
        Refused: another version, an unknown kind, a tensor that is missing, does not fit or is not finite.
    """
    if header.get("version") not in READ:
        raise Refused(f"The layer list has version {header.get('version')!r}; this checker reads version {VERSION}.")
    layers: list[Layer] = []
    at: list[int] = [] if positions is None else positions
    room = Room(sum(t.nbytes for t in tensors.values()))
    try:
        if header.keys() - {"version", "layers", "sha256"}:
            raise Refused("The layer list states something that has no meaning in this format.")
        for i, stated in enumerate(header["layers"]):
            inputs = wholes(stated.get("inputs", ()), 0)
            if any(j >= i for j in inputs) or (stated["kind"] == "input") != (i == 0):
                raise Refused(f"Layer {i} does not follow its inputs.")
            _append(stated, tuple(at[j] for j in inputs), layers, tensors, room)
            at.append(len(layers) - 1)
    except MALFORMED as error:
        raise Refused(f"Layer {len(at)} is malformed: {type(error).__name__} {error}") from None
    if not layers:
        raise Refused("The layer list is empty.")
    return layers


def as_float32(layers: list[Layer]) -> list[Layer]:
    """The layers as they run in float32, products and sums in any order, fused or not: with n terms they err by at
    most ``γ (|W| |x| + |b|)``, ``γ = n u/(1 − n u)``, ``u = 2⁻²⁴`` (Higham 2002, equation 3.5), which is in
    ``rounded``.

    Raises:
        Refused: a layer does more than sum products, or has weights that are computed from others.
    """
    found = []
    for i, layer in enumerate(layers):
        exact = layer.kind in ("input", "reshape", "maximum") or layer.selects
        if layer.kind == "add":
            ones = np.tile(np.arange(layer.size), 2), np.arange(2 * layer.size), np.ones(2 * layer.size)
            layer = sparse(layer.inputs, [layer.shape] * 2, layer.shape, ones, None, Room(10 * layer.size))
        exact = exact or (layer.kind == "relu" and layer.slope in (0.0, -1.0))
        if not exact and (layer.kind != "affine" or layer.rounded):
            raise Refused(f"Layer {i} ({layer.kind}) does more than sum products: how float32 rounds it is not known.")
        found.append(layer if exact else layer._replace(rounded=(16 + terms(layer.weight)) * 2**28))
    return found


def terms(weight: Matrix | None) -> int:
    """Of a sum that makes an element of an affine layer, at most."""
    if isinstance(weight, Convolution):
        return weight.kernel[:, 0].size
    return weight.terms if isinstance(weight, Sparse) else 1 if weight is None else weight.shape[1]


def wholes(numbers: Iterable[Any], least: int, most: int = 2**62) -> tuple[int, ...]:
    """Whole numbers from ``least`` to ``most``; nothing else is rounded to one."""
    found = tuple(numbers)
    if any(type(n) is not int or not least <= n <= most for n in found):
        raise Refused(f"{list(found)!r:.60} are not whole numbers from {least} to {most}.")
    return found


def _append(
    stated: dict[str, Any], inputs: tuple[int, ...], layers: list[Layer], tensors: dict[str, Array], room: Room
) -> None:
    """Add a stated layer, as one or several."""
    kind = stated["kind"]
    if kind not in KINDS:
        raise Refused(f"There is no layer kind {kind!r:.40}.")
    count, needed, optional = KINDS[kind]
    if len(inputs) != (count or len(inputs)) or not needed <= stated.keys() - {"kind"} <= needed | optional:
        raise Refused(f"A layer of the kind {kind!r} has other inputs or settings than the format gives it.")
    shapes = [layers[j].shape for j in inputs]
    if kind == "maxpool":
        window, stride, dilation, extents = (wholes(stated[t], 1) for t in ("window", "stride", "dilation", "extents"))
        padding = [wholes(pair, 0, LARGEST) for pair in stated["padding"]]
        maxpool(inputs, shapes[0], window, stride, dilation, padding, extents, layers, room)
    elif kind == "product":
        at = {name: tensors[stated[name]] for name in ("left", "right", "out") if name in stated}
        product(inputs, wholes(stated["shape"], 1), at, layers, room)
    else:
        append(layers, _layer(stated, inputs, shapes, tensors, room), room)


def append(layers: list[Layer], layer: Layer, room: Room) -> int:
    """Add a layer; its position. A shift of what has no bias is read as one layer."""
    room.take(layer.size)
    below = layers[layer.inputs[0]] if layer.kind == "affine" and layer.weight is None else layer
    if below.kind == "affine" and below.weight is not None and not below.bias.any():
        layer = below._replace(bias=layer.bias)
    layers.append(layer)
    return len(layers) - 1


def _layer(
    stated: dict[str, Any],
    inputs: tuple[int, ...],
    shapes: list[tuple[int, ...]],
    tensors: dict[str, Array],
    room: Room,
) -> Layer:
    kind = stated["kind"]
    bias = number(tensors, stated["bias"]) if "bias" in stated else None
    if kind == "input":
        return entry(wholes(stated["shape"], 1))
    if kind == "reshape":
        return reshape(inputs, shapes[0], wholes(stated["shape"], 1))
    if kind == "relu":
        return relu(inputs, shapes[0], stated.get("slope", 0.0))
    if kind == "add":
        return add(inputs, shapes)
    if kind == "shift":
        return shift(inputs, shapes[0], bias)
    if kind == "function":
        return function(inputs, shapes[0], stated["name"], stated["parameters"], room)
    if kind == "sparse":
        entries = (tensors[stated["row"]], tensors[stated["column"]], number(tensors, stated["value"]))
        return sparse(inputs, shapes, wholes(stated["shape"], 1), entries, bias, room)
    weight = number(tensors, stated["weight"])
    if kind == "dense":
        return dense(inputs, shapes[0], weight, bias, room)
    stride, padding, dilation = (stated[name] for name in ("stride", "padding", "dilation"))
    return convolution(inputs, shapes[0], weight, bias, stride, padding, dilation, stated["groups"], room)


def number(tensors: dict[str, Array], name: str) -> Array:
    """A tensor as float64, refused where it is missing or not finite; every narrower float becomes one exactly."""
    if name not in tensors or tensors[name].dtype.kind != "f":
        raise Refused(f"The tensor '{name}' is missing or holds no floating-point numbers.")
    found = tensors[name].astype(np.float64)
    if not np.isfinite(found).all():
        raise Refused(f"The tensor '{name}' holds NaN or infinity.")
    return found


def entry(shape: tuple[int, ...]) -> Layer:
    """The input."""
    return Layer("input", (), shape)


def relu(inputs: tuple[int, ...], shape: tuple[int, ...], slope: float) -> Layer:
    """``max(x, slope·x)`` with ``slope < 1``; with −1 the absolute value."""
    if type(slope) not in (int, float) or not -LARGEST <= slope < 1:
        raise Refused(f"A ReLU has the slope {slope}; it is less than 1, and no large negative number.")
    return Layer("relu", inputs, shape, slope=float(slope))


def add(inputs: tuple[int, ...], shapes: list[tuple[int, ...]]) -> Layer:
    """The sum of two layers of one shape."""
    if len(shapes) != 2 or shapes[0] != shapes[1]:
        raise Refused("A sum joins two layers of one shape.")
    return Layer("add", inputs, shapes[0])


def shift(inputs: tuple[int, ...], shape: tuple[int, ...], bias: Array | None) -> Layer:
    """``x + bias``, an entry for each element."""
    if bias is None or bias.shape != (math.prod(shape),):
        raise Refused("A shift has not one entry for each element.")
    return Layer("affine", inputs, shape, bias=bias)


def reshape(inputs: tuple[int, ...], old: tuple[int, ...], new: tuple[int, ...]) -> Layer:
    """The same elements, in the same order, in another shape."""
    if math.prod(old) != math.prod(new):
        raise Refused(f"A reshape from {old} to {new} changes the number of elements.")
    return Layer("reshape", inputs, new)


def dense(inputs: tuple[int, ...], shape: tuple[int, ...], weight: Array, bias: Array | None, room: Room) -> Layer:
    """``weight @ x + bias`` along the last axis; earlier axes repeat it."""
    if weight.ndim != 2 or not shape or weight.shape[1] != shape[-1]:
        raise Refused(f"A dense layer of weight {weight.shape} does not fit inputs of shape {shape}.")
    bias = np.zeros(len(weight)) if bias is None else bias
    times = math.prod(shape[:-1])
    if bias.shape != (len(weight),):
        raise Refused("A dense layer's bias does not fit.")
    room.take(weight.size * times * times)
    if times > 1:
        weight, bias = np.kron(np.eye(times), weight), np.tile(bias, times)
    return Layer("affine", inputs, (*shape[:-1], len(bias) // times), weight, bias)


def convolution(
    inputs: tuple[int, ...], shape: tuple[int, ...], kernel: Array, bias: Array | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int, room: Room,
) -> Layer:  # fmt: skip
    """A convolution in one or more dimensions, zeros around; its groups become zeros of the kernel."""
    outs, per_group, *window = kernel.shape
    stride, dilation, padding = wholes(stride, 1, LARGEST), wholes(dilation, 1, LARGEST), wholes(padding, 0, LARGEST)
    if not window or len(shape) != len(window) + 1 or not len(stride) == len(padding) == len(dilation) == len(window):
        raise Refused(f"A convolution of kernel {kernel.shape} does not fit inputs of shape {shape}.")
    extents = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(shape[1:], padding, dilation, window, stride)
    ]
    offsets, places, pixels = math.prod(window), math.prod(extents), math.prod(shape[1:])
    (groups,) = wholes((groups,), 1)
    if per_group * groups != shape[0] or outs % groups or min(extents) < 1:
        raise Refused("A convolution's groups or extents do not fit.")
    # kernel, table with what it is made from, and what a product takes
    room.take(outs * shape[0] * offsets, places * offsets * (2 + len(window)), max(outs, shape[0]) * places)
    full = np.zeros((offsets, outs, groups, per_group))
    own = np.arange(outs) // (outs // groups)
    full[:, np.arange(outs), own] = kernel.reshape(outs, per_group, offsets).transpose(2, 0, 1)
    source = taps(shape[1:], window, stride, padding, dilation, extents)
    bias = np.zeros(outs) if bias is None else bias
    bias = np.repeat(bias, places) if bias.shape == (outs,) else bias.reshape(-1)
    if bias.shape != (outs * places,):
        raise Refused("A convolution's bias does not fit.")
    return Layer("affine", inputs, (outs, *extents), Convolution(full.reshape(offsets, outs, -1), source, pixels), bias)


def function(inputs: tuple[int, ...], shape: tuple[int, ...], name: str, parameters: Any, room: Room) -> Layer:
    """A function of one number at every place."""
    if name not in FUNCTIONS or any(type(p) not in (int, float) for p in parameters):
        raise Refused(f"The checker knows no function {name!r:.40} with the parameters {parameters!r:.60}.")
    key = (name, *map(float, parameters))
    if key not in room.functions:
        # cells and their polynomials
        room.take(FUNCTION, 16 * len(key))
        room.functions[key] = Function(name, key[1:])  # type: ignore[arg-type]
    found = room.functions[key]
    if found.needs_balls and find_spec("flint") is None:
        raise Refused(f"A layer computes {name}: the checker needs python-flint for it, pip install python-flint.")
    return Layer("function", inputs, shape, function=found)


def _indices(t: Array, size: int) -> Array:
    """Whole numbers from 0 on, in a row."""
    if t.dtype.kind not in "iu" or t.ndim != 1 or (t.size and not 0 <= int(t.min()) <= int(t.max()) < size):
        raise Refused("Places among a layer's elements are no list of whole numbers, or lie outside of it.")
    return t.astype(np.int64)


def sparse(
    inputs: tuple[int, ...], shapes: list[tuple[int, ...]], shape: tuple[int, ...], entries: tuple[Array, Array, Array],
    bias: Array | None, room: Room, rounded: int = 0,
) -> Layer:  # fmt: skip
    """A matrix by its entries: rows, columns among the elements of all inputs in a row, values."""
    size, read = math.prod(shape), sum(map(math.prod, shapes))
    row, column, value = _indices(entries[0], size), _indices(entries[1], read), entries[2]
    bias = np.zeros(size) if bias is None else bias
    if not inputs or not row.shape == column.shape == value.shape or bias.shape != (size,):
        raise Refused("A sparse layer's entries or bias do not fit.")
    room.take(5 * len(row))
    return Layer("affine", inputs, shape, Sparse.of(row, column, value, (size, read)), bias, rounded=rounded)


def select(at: int, chosen: Array, shape: tuple[int, ...], layers: list[Layer], room: Room) -> int:
    """Some elements of a layer, any of them as often as one likes; its position."""
    room.take(6 * chosen.size)
    entries = np.arange(chosen.size), chosen.ravel(), np.ones(chosen.size)
    return append(layers, sparse((at,), [layers[at].shape], shape, entries, None, room), room)


def product(
    inputs: tuple[int, ...], shape: tuple[int, ...], at: dict[str, Array], layers: list[Layer], room: Room
) -> int:
    """Sums of products ``x[left]·y[right]``, each in the element ``out``; without places element by element."""
    sides, count = list(inputs), None
    for k, name in enumerate(("left", "right")):
        if name in at:
            chosen = _indices(at[name], layers[inputs[k]].size)
            sides[k] = select(inputs[k], chosen, chosen.shape, layers, room)
    count = layers[sides[0]].size
    if count != layers[sides[1]].size or ("out" not in at and math.prod(shape) != count):
        raise Refused("A product's two sides have other numbers of elements.")
    found = append(layers, Layer("product", tuple(sides), shape if "out" not in at else (count,)), room)
    if "out" in at:
        entries = at["out"], np.arange(count), np.ones(count)
        found = append(layers, sparse((found,), [(count,)], shape, entries, None, room), room)
    return found


def maxpool(
    inputs: tuple[int, ...], shape: tuple[int, ...], window: Sequence[int], stride: Sequence[int],
    dilation: Sequence[int], padding: Sequence[Sequence[int]], extents: Sequence[int], layers: list[Layer], room: Room,
) -> int:  # fmt: skip
    """The largest element of each window that is not padding, per channel."""
    n, channels = len(window), shape[0]
    if not n or len(shape) != n + 1 or not n == len(stride) == len(dilation) == len(padding) == len(extents):
        raise Refused(f"A pool of windows {list(window)} does not fit inputs of shape {shape}.")
    if max(*stride, *dilation, *window) > LARGEST or any(len(pair) != 2 for pair in padding):
        raise Refused("A pool's windows are too large, or its padding is no list of pairs.")
    offsets, places = math.prod(window), math.prod(extents)
    room.take(offsets * places * (2 + n), 8 * offsets * places * channels)
    source = taps(shape[1:], window, stride, [front for front, _ in padding], dilation, extents)
    inside = source < math.prod(shape[1:])
    if not inside.any(0).all():
        raise Refused("A pool has a window of padding alone.")
    # what reads padding reads another element of its window instead
    source = np.where(inside, source, np.take_along_axis(source, inside.argmax(0)[None], 0))
    chosen = source[:, None] + np.arange(channels)[:, None] * math.prod(shape[1:])
    sides = tuple(select(inputs[0], tap, (channels, *extents), layers, room) for tap in chosen)
    return append(layers, Layer("maximum", sides, (channels, *extents)), room)


def taps(
    extents: Sequence[int], window: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], places: Sequence[int],
) -> Array:  # fmt: skip
    """``(window, places)`` the pixel that each window reads at each of its offsets; their number for padding."""
    n = len(window)
    grid, within = (np.stack(np.meshgrid(*map(np.arange, t), indexing="ij"), -1) for t in (places, window))
    at = grid.reshape(-1, n) * stride - np.array(padding) + np.multiply(within, dilation).reshape(-1, 1, n)
    inside = np.all((at >= 0) & (at < extents), 2)
    flat = np.ravel_multi_index(tuple((at * inside[..., None]).transpose(2, 0, 1)), tuple(extents))
    return np.where(inside, flat, math.prod(extents))


def places(layers: list[Layer]) -> dict[str, int]:
    """The one name of every layer that a certificate may look at, and the layer's position.

    It is the first that fits of "input", "output", "relu:k", "function:k", "maximum:k" (the output of the k-th layer of
    that kind, counted from 0) and "before:k" (the input of a ReLU layer, with the smallest k).
    """
    relus = [i for i, layer in enumerate(layers) if layer.kind == "relu"]
    names = {0: "input"} | ({len(layers) - 1: "output"} if len(layers) > 1 else {})
    for kind in ("relu", "function", "maximum"):
        for k, i in enumerate(i for i, layer in enumerate(layers) if layer.kind == kind):
            names.setdefault(i, f"{kind}:{k}")
    for k, i in enumerate(relus):
        names.setdefault(layers[i].inputs[0], f"before:{k}")
    return {name: i for i, name in names.items()}


def read_by_bends(layers: list[Layer]) -> dict[int, bool]:
    """What layers that are not affine read, through what only selects, in the order of the layers; whether its signs
    alone matter to all of them."""
    found: dict[int, bool] = {}
    for layer in layers:
        if layer.kind in NONLINEAR:
            pending = list(layer.inputs)
            while pending:
                j = pending.pop(0)
                if layers[j].selects or layers[j].kind == "reshape":
                    pending += layers[j].inputs
                elif j:
                    # the input is known
                    found[j] = found.get(j, True) and layer.kind == "relu"
    return dict(sorted(found.items()))
