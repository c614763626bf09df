"""Networks as the checker sees them: matrices, convolutions, ReLUs and sums, on flat vectors.

The neutral layer list is a safetensors file whose metadata ``clinch-network`` is JSON: ``{"version": 2, "layers":
[...]}``, see docs/certificates.md. The network it stands for is the real-number function of the stored numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from clinch.checker.matrices import Array, Convolution, Matrix

#: of certificates and layer lists
VERSION = 2
#: numbers that a network may take beside one for each byte of its file, and the largest stride, padding or dilation
LARGEST = 2**22

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

    def take(self, *numbers: int) -> None:
        """Count these, or refuse."""
        self.left -= sum(numbers)
        if self.left < 0:
            raise Refused("The network is too large for this checker, which grants it a share of its file's size.")


class Layer(NamedTuple):
    """``weight @ x + bias`` (kind "affine", the identity without a weight), ``max(x, slope·x)`` ("relu"), ``x + y``
    ("add"), the same in another shape ("reshape"), or the "input"."""

    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    weight: Matrix | None = None
    bias: Array | None = None
    slope: float = 0.0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def work(self) -> int:
        """Numbers that its evaluation takes: its elements, or the channels that a convolution's places read."""
        weight = self.weight
        return max(self.size, weight.kernel.shape[2] * weight.source.shape[1] if isinstance(weight, Convolution) else 0)


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


#: kind of a stated layer -> number of its inputs, what is stated of it, and what may be missing
KINDS: dict[str, tuple[int, set[str], set[str]]] = {
    "input": (0, {"shape"}, {"inputs"}),
    "reshape": (1, {"shape", "inputs"}, set()),
    "relu": (1, {"inputs"}, {"slope"}),
    "add": (2, {"inputs"}, set()),
    "shift": (1, {"inputs", "bias"}, set()),
    "dense": (1, {"inputs", "weight"}, {"bias"}),
    "convolution": (1, {"inputs", "weight", "stride", "padding", "dilation", "groups"}, {"bias"}),
}


def read_layers(header: dict[str, Any], tensors: dict[str, Array]) -> list[Layer]:
    """The layers of a neutral list.

    Raises:
        Refused: another version, an unknown kind, a tensor that is missing, does not fit or is not finite.
    """
    if header.get("version") != VERSION:
        raise Refused(f"The layer list has version {header.get('version')!r}; this checker reads version {VERSION}.")
    layers: list[Layer] = []
    room = Room(sum(t.nbytes for t in tensors.values()))
    try:
        if header.keys() - {"version", "layers", "sha256"}:
            raise Refused("The layer list states something that has no meaning in this format.")
        for i, stated in enumerate(header["layers"]):
            inputs = wholes(stated.get("inputs", ()), 0)
            if any(j >= i for j in inputs) or (stated["kind"] == "input") != (i == 0):
                raise Refused(f"Layer {i} does not follow its inputs.")
            layers.append(_layer(stated, inputs, [layers[j].shape for j in inputs], tensors, room))
            room.take(layers[-1].size)
    except MALFORMED as error:
        raise Refused(f"Layer {len(layers)} is malformed: {type(error).__name__} {error}") from None
    if not layers:
        raise Refused("The layer list is empty.")
    return layers


def wholes(numbers: Iterable[Any], least: int, most: int = 2**62) -> tuple[int, ...]:
    """Whole numbers from ``least`` to ``most``; nothing else is rounded to one."""
    found = tuple(numbers)
    if any(type(n) is not int or not least <= n <= most for n in found):
        raise Refused(f"{list(found)!r:.60} are not whole numbers from {least} to {most}.")
    return found


def _layer(
    stated: dict[str, Any],
    inputs: tuple[int, ...],
    shapes: list[tuple[int, ...]],
    tensors: dict[str, Array],
    room: Room,
) -> Layer:
    kind = stated["kind"]
    if kind not in KINDS:
        raise Refused(f"There is no layer kind {kind!r:.40}.")
    count, needed, optional = KINDS[kind]
    if len(inputs) != count or not needed <= stated.keys() - {"kind"} <= needed | optional:
        raise Refused(f"A layer of the kind {kind!r} has other inputs or settings than the format gives it.")
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
    """``max(x, slope·x)`` with ``0 <= slope < 1``."""
    if type(slope) not in (int, float) or not 0 <= slope < 1:
        raise Refused(f"A ReLU has the slope {slope}; it lies in [0, 1).")
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
    grid, within = (np.stack(np.meshgrid(*map(np.arange, n), indexing="ij"), -1) for n in (extents, window))
    at = grid.reshape(-1, len(window)) * stride - padding + np.multiply(within, dilation).reshape(offsets, 1, -1)
    inside = np.all((at >= 0) & (at < shape[1:]), 2)
    flat = np.ravel_multi_index(tuple((at * inside[..., None]).transpose(2, 0, 1)), tuple(shape[1:]))
    bias = np.zeros(outs) if bias is None else bias
    bias = np.repeat(bias, places) if bias.shape == (outs,) else bias.reshape(-1)
    if bias.shape != (outs * places,):
        raise Refused("A convolution's bias does not fit.")
    matrix = Convolution(full.reshape(offsets, outs, -1), np.where(inside, flat, pixels), pixels)
    return Layer("affine", inputs, (outs, *extents), matrix, bias)


def places(layers: list[Layer]) -> dict[str, int]:
    """The one name of every layer that a certificate may look at, and the layer's position.

    It is the first that fits of "input", "output", "relu:k" (the output of the k-th ReLU layer, counted from 0) and
    "before:k" (its input, with the smallest k).
    """
    relus = [i for i, layer in enumerate(layers) if layer.kind == "relu"]
    names = {0: "input"} | ({len(layers) - 1: "output"} if len(layers) > 1 else {})
    for k, i in enumerate(relus):
        names.setdefault(i, f"relu:{k}")
    for k, i in enumerate(relus):
        names.setdefault(layers[i].inputs[0], f"before:{k}")
    return {name: i for i, name in names.items()}
