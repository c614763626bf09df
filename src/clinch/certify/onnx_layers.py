"""ONNX files for the checker: dense layers, convolutions, ReLUs, sums and reshapes of floating-point constants."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from clinch.certify.layers import MALFORMED, Array, Layer, Refused, add, convolution, dense, entry, relu, shift

#: bytes beyond which a file is not read, and bytes read at once
LARGEST_FILE, PIECE = 2**31, 2**20


def read_onnx(path: Path) -> tuple[list[Layer], str]:
    """Layers of an ONNX file and SHA-256 of its unpacked bytes; weights outside of the file are not followed.

    Raises:
        Refused: no ONNX file, or an operator whose real-number function the checker does not know.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            # piece by piece: a small file may hold much, and room for what is asked for is made before
            data = b"".join(islice(iter(lambda: file.read(PIECE), b""), LARGEST_FILE // PIECE + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f"'{path.name}' cannot be read: {error}.") from None
    if len(data) > LARGEST_FILE:
        raise Refused(f"'{path.name}' is too large.")
    try:
        graph = onnx.load_from_string(data).graph
        constants = {t.name: _stored(t) for t in graph.initializer}
        inputs = [i for i in graph.input if i.name not in constants]
        extents = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim][1:]
        if len(inputs) != 1 or len(graph.output) != 1 or not extents or min(extents) < 1:
            raise Refused(f"'{path.name}' has no single input of known shape, or several outputs.")
        layers, at = [entry(tuple(extents))], {inputs[0].name: 0}
        for node in graph.node:
            settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                constants[node.output[0]] = _stored(settings["value"])
                continue
            layer = _layer(node.op_type, list(node.input), settings, layers, at, constants)
            at[node.output[0]] = len(layers)
            layers.append(layer)
        last = at[graph.output[0].name]
    except (DecodeError, *MALFORMED) as error:
        raise Refused(f"'{path.name}' is no ONNX file that the checker can read: {type(error).__name__}.") from None
    return layers[: last + 1], hashlib.sha256(data).hexdigest()


def _stored(tensor: Any) -> Array:
    """A tensor that lies in the file itself: the library would open another one in whatever folder this runs in."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        raise Refused("The file's weights lie outside of it; save the model in one file.")
    return numpy_helper.to_array(tensor)


def _layer(
    kind: str, names: list[str], settings: dict[str, Any], layers: list[Layer], at: dict[str, int],
    constants: dict[str, Array],
) -> Layer:  # fmt: skip
    read = [at[name] for name in names if name in at]
    given = [constants[name] for name in names if name in constants]
    fixed = [_number(t) for t in given if t.dtype.kind == "f"]
    inputs, shapes = tuple(read), [layers[j].shape for j in read]
    if kind in ("Relu", "LeakyRelu"):
        # the attribute is a float32, and so is the number meant
        return relu(inputs, shapes[0], float(settings.get("alpha", np.float32(0.01))) if kind == "LeakyRelu" else 0.0)
    if kind == "Add" and len(read) == 2:
        return add(inputs, shapes)
    if kind in ("Add", "Sub") and len(read) == 1 and names[0] in at:
        if fixed[0].ndim > len(shapes[0]) + 1:
            raise Refused("A constant is wider than what it is added to.")
        spread = np.broadcast_to(fixed[0] if kind == "Add" else -fixed[0], (1, *shapes[0]))
        return shift(inputs, shapes[0], spread.reshape(-1).copy())
    if kind == "Gemm" and names[0] in at and not settings.get("transA") and _plain(settings):
        weight = fixed[0] if settings.get("transB") else fixed[0].T
        return dense(inputs, shapes[0], weight, fixed[1].reshape(-1) if len(fixed) > 1 else None)
    if kind == "MatMul" and names[0] in at:
        return dense(inputs, shapes[0], fixed[0].T, None)
    if kind == "Conv" and settings.get("auto_pad", b"NOTSET") == b"NOTSET":
        n = fixed[0].ndim - 2
        pads = list(settings.get("pads", [0] * 2 * n))
        if pads[:n] == pads[n:]:
            stride, dilation = (list(settings.get(name, [1] * n)) for name in ("strides", "dilations"))
            bias = fixed[1] if len(fixed) > 1 else None
            return convolution(inputs, shapes[0], fixed[0], bias, stride, pads[:n], dilation, settings.get("group", 1))
    if kind in ("Flatten", "Reshape", "Identity", "Dropout"):
        flat = (math.prod(shapes[0]),)
        if kind in ("Identity", "Dropout") or (kind == "Flatten" and settings.get("axis", 1) == 1):
            return Layer("reshape", inputs, flat if kind == "Flatten" else shapes[0])
        target = [int(n) for n in given[0]] if kind == "Reshape" else []
        if len(target) == 2 and target[0] in (1, -1, 0) and target[1] in (-1, *flat):
            return Layer("reshape", inputs, flat)
    raise Refused(f"The checker does not know an ONNX operator {kind} of this form; use the neutral layer list.")


def _plain(settings: dict[str, Any]) -> bool:
    return settings.get("alpha", 1.0) == 1.0 and settings.get("beta", 1.0) == 1.0


def _number(t: Array) -> Array:
    if not np.isfinite(t).all():
        raise Refused("The file holds NaN or infinity.")
    return t.astype(np.float64)
