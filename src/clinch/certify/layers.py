"""Networks as the checker sees them: matrices, convolutions, ReLUs and sums, on flat vectors.

The neutral layer list is a safetensors file whose metadata ``clinch-network`` is JSON: ``{"version": 1, "layers":
[...]}``, see docs/certificates.md. The network it stands for is the real-number function of the stored numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from clinch.certify.matrices import Array, Convolution, Matrix

#: entries of one matrix or table beyond which a network is refused (2 GiB)
LARGEST = 2**28


#: what Python and NumPy raise where a file's values are of another kind than they should be
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, MemoryError, RecursionError)


class Refused(Exception):
    """The certificate does not prove what it says, or what it says cannot be read; the message is one line."""

    def __init__(self, text: str) -> None:
        # it may quote a file of a stranger
        super().__init__("".join(c if c.isprintable() else " " for c in text[:500]))


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


def digest(header: Any, tensors: dict[str, Array]) -> str:
    """SHA-256 of canonical JSON followed by name, dtype, shape and little-endian bytes of every tensor, by name."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        t = np.ascontiguousarray(tensors[name])
        found.update(f"\n{name} {t.dtype.str} {list(tensors[name].shape)}\n".encode())
        found.update(t.tobytes())
    return found.hexdigest()


def read_layers(header: dict[str, Any], tensors: dict[str, Array]) -> list[Layer]:
    """The layers of a neutral list.

    Raises:
        Refused: another version, an unknown kind, a tensor that is missing, does not fit or is not finite.
    """
    if header.get("version") != 1:
        raise Refused(f"The layer list has version {header.get('version')!r}; this checker reads version 1.")
    layers: list[Layer] = []
    try:
        for i, stated in enumerate(header["layers"]):
            inputs = wholes(stated.get("inputs", ()), 0)
            if any(j >= i for j in inputs) or (stated["kind"] == "input") != (i == 0):
                raise Refused(f"Layer {i} does not follow its inputs.")
            layers.append(_layer(stated, inputs, [layers[j].shape for j in inputs], tensors))
    except MALFORMED as error:
        raise Refused(f"Layer {len(layers)} is malformed: {type(error).__name__} {error}") from None
    if not layers:
        raise Refused("The layer list is empty.")
    return layers


def wholes(numbers: Iterable[Any], least: int) -> tuple[int, ...]:
    """Whole numbers of at least ``least``; nothing else is rounded to one."""
    found = tuple(numbers)
    if any(type(n) is not int or n < least for n in found):
        raise Refused(f"{list(found)!r:.60} are not whole numbers of at least {least}.")
    return found


def _layer(stated: dict[str, Any], inputs: tuple[int, ...], shapes: list[tuple[int, ...]], tensors: dict) -> Layer:
    kind = stated["kind"]
    if kind == "input" or kind == "reshape":
        shape = wholes(stated["shape"], 1)
        if kind == "input":
            return entry(shape)
        return _same(inputs, shapes[0], shape)
    if kind == "relu":
        return relu(inputs, shapes[0], float(stated.get("slope", 0.0)))
    if kind == "add":
        return add(inputs, shapes)
    bias = number(tensors, stated["bias"]) if stated.get("bias") else None
    if kind == "shift":
        return shift(inputs, shapes[0], bias)
    if kind == "dense":
        return dense(inputs, shapes[0], number(tensors, stated["weight"]), bias)
    if kind == "convolution":
        stride, padding, dilation = (stated[name] for name in ("stride", "padding", "dilation"))
        kernel = number(tensors, stated["weight"])
        return convolution(inputs, shapes[0], kernel, bias, stride, padding, dilation, stated["groups"])
    raise Refused(f"There is no layer kind {kind!r:.40}.")


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
    if math.prod(shape) > LARGEST:
        raise Refused("The input is too large for this checker.")
    return Layer("input", (), shape)


def relu(inputs: tuple[int, ...], shape: tuple[int, ...], slope: float) -> Layer:
    """``max(x, slope·x)`` with ``0 <= slope < 1``."""
    if not 0 <= slope < 1:
        raise Refused(f"A ReLU has the slope {slope}; it lies in [0, 1).")
    return Layer("relu", inputs, shape, slope=slope)


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


def _same(inputs: tuple[int, ...], old: tuple[int, ...], new: tuple[int, ...]) -> Layer:
    if math.prod(old) != math.prod(new):
        raise Refused(f"A reshape from {old} to {new} changes the number of elements.")
    return Layer("reshape", inputs, new)


def dense(inputs: tuple[int, ...], shape: tuple[int, ...], weight: Array, bias: Array | None) -> Layer:
    """``weight @ x + bias`` along the last axis; earlier axes repeat it."""
    if weight.ndim != 2 or not shape or weight.shape[1] != shape[-1]:
        raise Refused(f"A dense layer of weight {weight.shape} does not fit inputs of shape {shape}.")
    bias = np.zeros(len(weight)) if bias is None else bias
    times = math.prod(shape[:-1])
    if bias.shape != (len(weight),) or weight.size * times * times > LARGEST:
        raise Refused("A dense layer's bias does not fit, or it is too large for this checker.")
    if times > 1:
        weight, bias = np.kron(np.eye(times), weight), np.tile(bias, times)
    return Layer("affine", inputs, (*shape[:-1], len(bias) // times), weight, bias)


def convolution(
    inputs: tuple[int, ...], shape: tuple[int, ...], kernel: Array, bias: Array | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Layer:  # fmt: skip
    """A convolution in one or more dimensions, zeros around; its groups become zeros of the kernel."""
    outs, per_group, *window = kernel.shape
    stride, dilation, padding = wholes(stride, 1), wholes(dilation, 1), wholes(padding, 0)
    if len(shape) != len(window) + 1 or not len(stride) == len(padding) == len(dilation) == len(window):
        raise Refused(f"A convolution of kernel {kernel.shape} does not fit inputs of shape {shape}.")
    extents = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(shape[1:], padding, dilation, window, stride)
    ]
    offsets, places, pixels = math.prod(window), math.prod(extents), math.prod(shape[1:])
    (groups,) = wholes((groups,), 1)
    if per_group * groups != shape[0] or outs % groups or min(extents) < 1:
        raise Refused("A convolution's groups or extents do not fit.")
    if max(outs * shape[0] * offsets, places * offsets, outs * places) > LARGEST:
        raise Refused("A convolution is too large for this checker.")
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


def place(layers: list[Layer], name: str) -> int:
    """Position of "input", "output", "relu:k" (the output of the k-th ReLU layer) or "before:k" (its input).

    Raises:
        Refused: there is no such place.
    """
    relus = [i for i, layer in enumerate(layers) if layer.kind == "relu"]
    kind, _, k = name.partition(":")
    if name in ("input", "output"):
        return 0 if name == "input" else len(layers) - 1
    if kind not in ("relu", "before") or not k.isdecimal() or int(k) >= len(relus):
        raise Refused(f"The network has no place '{name}'.")
    return relus[int(k)] if kind == "relu" else layers[relus[int(k)]].inputs[0]
