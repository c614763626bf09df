"""ONNX files for the checker: dense layers, convolutions, ReLUs, sums and reshapes of floating-point constants.

A file is read against the tables of :mod:`clinch.checker.onnx_kinds`: what is not in them is refused by name. It stands
for the function of one input, that is of a batch of one; layers have no batch axis.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import clinch.checker.onnx_kinds as known
from clinch.checker.layers import (
    MALFORMED,
    Array,
    Layer,
    Refused,
    Room,
    add,
    append,
    convolution,
    dense,
    entry,
    relu,
    reshape,
    shift,
)  # fmt: skip
from clinch.checker.onnx_kinds import Attribute, Operand  # fmt: skip
from clinch.checker.onnx_operators import OPERATORS, Layers, matrix_product

#: bytes beyond which a file is not read, and bytes read at once
LARGEST_FILE, PIECE = 2**31, 2**20
#: how many times its size a packed file may hold, beside a piece; nodes of a graph
PACKED, NODES = 64, 2**16


def read_onnx(path: Path) -> tuple[list[Layer], str]:
    """Layers of an ONNX file and SHA-256 of its unpacked bytes.

    Raises:
        Refused: no ONNX file, or something in it that the checker does not know; says what.
    """
    import onnx
    from google.protobuf.message import DecodeError

    data = _unpacked(path)
    try:
        model = onnx.ModelProto()
        model.ParseFromString(data)
        _closed(model)
        return _Graph(model, len(data)).layers, hashlib.sha256(data).hexdigest()
    except (DecodeError, *MALFORMED) as error:
        raise Refused(f"'{path.name}' is no ONNX file that the checker can read: {type(error).__name__}.") from None


def _unpacked(path: Path) -> bytes:
    packed = path.name.lower().endswith(".gz")
    try:
        most = min(LARGEST_FILE, PIECE + PACKED * path.stat().st_size if packed else LARGEST_FILE)
        with gzip.open(path) if packed else path.open("rb") as file:
            # piece by piece: a small file may hold much, and room for what is asked for is made before
            data = b"".join(islice(iter(lambda: file.read(PIECE), b""), most // PIECE + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f"'{path.name}' cannot be read: {error}.") from None
    if len(data) > most:
        raise Refused(f"'{path.name}' is too large, or holds more than {PACKED} times its size; unpack it.")
    return data


def _closed(message: Any) -> None:
    """Refuse a message that has, at any depth, a field that :data:`FIELDS` does not list."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    kind = message.DESCRIPTOR.full_name.removeprefix("onnx.")
    if len(UnknownFieldSet(message)):
        raise Refused(f"The file has a field in a {kind} that the checker does not know.")
    for field, value in message.ListFields():
        if field.name not in known.FIELDS[kind]:
            raise Refused(f"The file has '{field.name}' in a {kind}, which the checker does not take.")
        if field.name == "metadata_props" and not all(p.key.startswith(known.NOTES) for p in value):
            raise Refused("The file has metadata that may change what the model means; save it without.")
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "DESCRIPTOR") else value:
                _closed(part)


class _Activation(NamedTuple):
    """The output of a layer."""

    layer: int


class _Graph:
    """A graph as it is read: one value for each name, made before it is used."""

    def __init__(self, model: Any, size: int) -> None:
        graph, self.room = model.graph, Room(size)
        self.opset, self.layers = _opset(model), list[Layer]()
        self.values: dict[str, _Activation | Array] = {}
        if len(graph.node) > NODES:
            raise Refused(f"The graph has more than {NODES} nodes.")
        for tensor in graph.initializer:
            self._define(tensor.name, _stored(tensor))
        inputs = [info for info in graph.input if info.name not in self.values]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise Refused(f"The graph has {len(inputs)} inputs and {len(graph.output)} outputs; the checker takes one.")
        if len(graph.input) > 1 and model.ir_version > 3:
            raise Refused("The graph lets its caller replace weights: some are inputs, too. Save it without that.")
        #: NumPy's type of the input and, so, of every activation
        self.dtype = np.dtype(known.DTYPES.get(inputs[0].type.tensor_type.elem_type, ("V",))[0])
        if self.dtype.kind != "f":
            raise Refused("The input holds neither float32 nor float64.")
        self._append(inputs[0].name, entry(_extents(inputs[0])))
        for node in graph.node:
            self._node(node)
        if len({info.name for info in graph.input}) < len(graph.input):
            raise Refused("Two inputs have one name.")
        for info in (*graph.input, *graph.value_info, *graph.output):
            self._declared(info)
        last = self.values[graph.output[0].name]
        if not isinstance(last, _Activation):
            raise Refused("The output is a constant.")
        self.layers = self.layers[: last.layer + 1]

    def _define(self, name: str, value: _Activation | Array) -> None:
        if not name or name in self.values:
            raise Refused(f"The name '{name}' stands for two values, or for none.")
        self.values[name] = value

    def _append(self, name: str, layer: Layer) -> None:
        self._define(name, _Activation(append(self.layers, layer, self.room)))

    def _node(self, node: Any) -> None:
        kind = known.KINDS.get(node.op_type)
        if node.domain not in known.DEFAULT or kind is None or self.opset < kind.since:
            raise Refused(
                f"The checker does not know an ONNX operator {node.op_type} of the domain "
                f"'{node.domain}'; use the neutral layer list."
            )
        if len(node.output) != 1:
            raise Refused(f"A {node.op_type} has {len(node.output)} outputs; the checker takes one.")
        settings = _settings(node, kind.attributes, self.opset)
        table = kind.operands * max(1, len(node.input)) if kind.several else kind.operands
        if len(node.input) > len(table):
            raise Refused(f"A {node.op_type} has {len(node.input)} operands.")
        names = [*node.input, *[""] * (len(table) - len(node.input))]
        operands = [self._operand(node.op_type, o, name) for o, name in zip(table, names)]
        if node.op_type == "Constant":
            self._define(node.output[0], _stored(settings["value"]))
        elif node.op_type in OPERATORS or (all(isinstance(o, int) for o in operands[:2]) and node.op_type == "MatMul"):
            if not any(isinstance(o, int) for o in operands):
                raise Refused(f"A {node.op_type} has no activation among its operands.")
            layers = Layers(self.layers, self.room, self.opset, self.dtype == np.float32)
            found = OPERATORS.get(node.op_type, matrix_product)(layers, node.op_type, operands, settings)
            self._define(node.output[0], _Activation(found))
        else:
            self._append(node.output[0], self._layer(node.op_type, operands, settings))

    def _operand(self, kind: str, operand: Operand, name: str) -> Any:
        """A layer's position, a constant, or None where it is absent; only in a role that the operand may have."""
        if name and name not in self.values:
            raise Refused(f"'{name}', which a {kind} takes as its {operand.name}, is made by nothing before it.")
        value = self.values[name] if name else None
        if value is None:
            role, fits = "absent", self.opset >= operand.optional or self.opset < operand.since
        elif isinstance(value, _Activation):
            role, fits = "activation", "activation" in operand.roles
        else:
            roles = {"f": "real", "i": "whole", "b": "truth"}
            role, fits = f"constant of the type {value.dtype}", roles[value.dtype.kind] in operand.roles
            fits = fits and (value.dtype.kind != "f" or value.dtype == self.dtype)
        if not fits or (value is not None and self.opset < operand.since):
            raise Refused(f"A {kind} takes '{name}' as its {operand.name}: this is {role}, which the checker refuses.")
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            return _number(value)
        return value.layer if isinstance(value, _Activation) else value

    def _layer(self, kind: str, operands: list[Any], settings: dict[str, Any]) -> Layer:
        at, *others = operands if isinstance(operands[0], int) else operands[::-1]
        if not isinstance(at, int):
            raise Refused(f"A {kind} has no activation among its operands.")
        inputs, shape = (at,), self.layers[at].shape
        if kind in ("Relu", "LeakyRelu"):
            return relu(inputs, shape, settings.get("alpha", 0.0))
        if kind == "Add" and isinstance(others[0], int):
            return add((at, others[0]), [shape, self.layers[others[0]].shape])
        if kind == "Add":
            return _shifted(inputs, shape, others[0])
        if kind == "Gemm":
            return _gemm(inputs, shape, others[0], others[1], settings["transB"], self.room)
        if kind == "MatMul":
            return dense(inputs, shape, others[0].T, None, self.room)
        if kind == "Conv":
            return _convolved(inputs, shape, others[0], others[1], settings, self.room)
        if kind == "Flatten":
            return reshape(inputs, shape, (math.prod(shape),))
        if kind == "Reshape":
            return reshape(inputs, shape, _target(shape, others[0], settings.get("allowzero", 0)))
        if kind == "Dropout" and others[1] is not None and (others[1].ndim or others[1]):
            raise Refused("A Dropout is told to train.")
        return reshape(inputs, shape, shape)

    def _declared(self, info: Any) -> None:
        """Refuse a stated type or shape that is not the one found: what runs the file may go by either."""
        value, stated = self.values.get(info.name), info.type.tensor_type
        if value is None:
            raise Refused(f"The file states the type of '{info.name}', which is no value of the graph.")
        at = isinstance(value, _Activation)
        dtype, shape = (self.dtype, (1, *self.layers[value.layer].shape)) if at else (value.dtype, value.shape)
        fits = np.dtype(known.DTYPES.get(stated.elem_type, ("V",))[0]) == dtype
        dims = [d.dim_value if d.HasField("dim_value") else None for d in stated.shape.dim]
        if stated.HasField("shape"):
            fits &= len(dims) == len(shape) and all(n in (None, size) for n, size in zip(dims, shape))
        if not fits:
            raise Refused(f"The file states another type or shape of '{info.name}' than it has.")


def _opset(model: Any) -> int:
    """Version of the default operator set."""
    if model.ir_version not in known.IR:
        raise Refused(
            f"The file has the format's version {model.ir_version}; the checker reads {known.IR[0]} to {known.IR[-1]}."
        )
    # one that stands twice says the same
    sets = sorted({(one.domain, one.version) for one in model.opset_import})
    domains, default = [domain for domain, _ in sets], [version for domain, version in sets if domain in known.DEFAULT]
    if len(default) != 1 or len(set(domains)) < len(domains) or not {*domains} <= {*known.DEFAULT, *known.UNUSED}:
        raise Refused(f"The file names the operator sets {domains!r}; the checker takes the default one, once.")
    if default[0] not in known.OPSETS:
        raise Refused(f"The file has opset {default[0]}; the checker reads {known.OPSETS[0]} to {known.OPSETS[-1]}.")
    return default[0]


def _extents(info: Any) -> tuple[int, ...]:
    """Shape of the input without its first axis, which is the batch: of size 1 or free."""
    batch, *dims = info.type.tensor_type.shape.dim
    if (batch.HasField("dim_value") and batch.dim_value != 1) or not dims or any(d.dim_value < 1 for d in dims):
        raise Refused("The input has no known shape that begins with a batch of one, or of any size.")
    return tuple(d.dim_value for d in dims)


def _settings(node: Any, attributes: dict[str, Attribute], opset: int) -> dict[str, Any]:
    """Attributes with the standard's defaults; each once, of its type, with a value that is understood."""
    found = {name: one.default for name, one in attributes.items() if opset in one.opsets}
    stated = [a.name for a in node.attribute]
    for a in node.attribute:
        one = attributes.get(a.name)
        if one is None or opset not in one.opsets or stated.count(a.name) > 1:
            raise Refused(
                f"A {node.op_type} has the attribute '{a.name}', which opset {opset} does not have, or twice."
            )
        fields = {field.name for field, _ in a.ListFields()} - {"name", "type", "doc_string"}
        if a.type != known.ATTRIBUTE_TYPES[one.field] or fields != {one.field}:
            raise Refused(f"The attribute '{a.name}' of a {node.op_type} has another type than the standard gives it.")
        value = getattr(a, one.field)
        found[a.name] = value = list(value) if one.field == "ints" else value
        if one.values and value not in one.values:
            raise Refused(f"The checker does not know a {node.op_type} whose '{a.name}' is {value!r}.")
    if ... in found.values():
        raise Refused(f"A {node.op_type} lacks an attribute.")
    return found


def _stored(tensor: Any) -> Array:
    """A tensor that lies in the file itself, read by its own dtype and extents, which must fit its bytes exactly."""
    if tensor.data_location != 0:
        raise Refused("The file's weights lie outside of it; save the model in one file.")
    if tensor.data_type not in known.DTYPES:
        raise Refused(f"The tensor '{tensor.name}' holds elements of the type {tensor.data_type}.")
    dtype, field = known.DTYPES[tensor.data_type]
    stored = {f.name for f, _ in tensor.ListFields() if f.name.endswith("_data")}
    if stored != {"raw_data"} and stored != {field}:
        raise Refused(f"The tensor '{tensor.name}' is empty, or has its elements in a field of another type.")
    found = np.frombuffer(tensor.raw_data, dtype) if "raw_data" in stored else np.array(getattr(tensor, field), dtype)
    if any(n < 1 for n in tensor.dims) or math.prod(tensor.dims) != found.size:
        raise Refused(f"The tensor '{tensor.name}' has other extents than elements.")
    return found.reshape(tuple(tensor.dims))


def _number(t: Array) -> Array:
    if not np.isfinite(t).all():
        raise Refused("The file holds NaN or infinity.")
    return t.astype(np.float64)


def _shifted(inputs: tuple[int, ...], shape: tuple[int, ...], constant: Array) -> Layer:
    if constant.ndim > len(shape) + 1:
        raise Refused("A constant is wider than what it is added to.")
    return shift(inputs, shape, np.broadcast_to(constant, (1, *shape)).reshape(-1).copy())


def _gemm(
    inputs: tuple[int, ...], shape: tuple[int, ...], b: Array, c: Array | None, transposed: int, room: Room
) -> Layer:
    if len(shape) != 1 or b.ndim != 2 or (c is not None and c.ndim > 2):
        raise Refused("A Gemm has operands that are no matrices.")
    weight = b if transposed else b.T
    bias = None if c is None else np.broadcast_to(c, (1, len(weight)))[0].copy()
    return dense(inputs, shape, weight, bias, room)


def _convolved(
    inputs: tuple[int, ...],
    shape: tuple[int, ...],
    kernel: Array,
    bias: Array | None,
    settings: dict[str, Any],
    room: Room,
) -> Layer:
    n, outs = kernel.ndim - 2, len(kernel)
    window = settings["kernel_shape"] or list(kernel.shape[2:])
    strides, dilations = (settings[name] or [1] * n for name in ("strides", "dilations"))
    pads = settings["pads"] or [0] * 2 * n
    if window != list(kernel.shape[2:]) or len(pads) != 2 * n or pads[:n] != pads[n:]:
        raise Refused("A Conv has another kernel than it states, or other padding at its ends than at its beginnings.")
    if bias is not None and bias.shape != (outs,):
        raise Refused("A Conv's bias has not one entry for each channel.")
    return convolution(inputs, shape, kernel, bias, strides, pads[:n], dilations, settings["group"], room)


def _target(shape: tuple[int, ...], stated: Array, allowzero: int) -> tuple[int, ...]:
    """Shape that a Reshape leads to, without the batch axis."""
    old, target = (1, *shape), [int(n) for n in np.atleast_1d(stated)]
    if stated.ndim != 1 or (allowzero and 0 in target):
        raise Refused("A Reshape's target is no list, or has no elements.")
    new = [old[i] if n == 0 else n for i, n in enumerate(target)]
    if new.count(-1) == 1:
        rest = -math.prod(new)
        new[new.index(-1)] = math.prod(old) // rest if rest > 0 else 0
    if len(new) < 2 or new[0] != 1 or min(new) < 1:
        raise Refused(f"A Reshape to {target} does not keep the batch axis.")
    return tuple(new[1:])
