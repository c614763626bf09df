"""Ways to spoil a file: its bytes, its words, or one thing of a model that can still be parsed."""

from __future__ import annotations

import random

import numpy as np
import onnx
from models import MODELS


def spoilt_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, drop, repeat, insert or overwrite bytes; numbers at the ends of their ranges are frequent."""
    if not content:
        return bytes(rng.randrange(256) for _ in range(8))
    i, j = sorted((rng.randrange(len(content)), rng.randrange(len(content))))
    edge = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * rng.choice([1, 2, 4, 8])
    return rng.choice([
        lambda: content[:i] + bytes([content[i] ^ (1 << rng.randrange(8))]) + content[i + 1 :],
        lambda: content[:i] + content[j:],
        lambda: content[:j] + content[i:j] + content[j:],
        lambda: content[:i],
        lambda: content[:i] + edge + content[i + len(edge) :],
        lambda: content[:i] + edge + content[i:],
    ])()  # fmt: skip


def spoilt_text(content: bytes, words: tuple[bytes, ...], rng: random.Random) -> bytes:
    """Exchange, drop, repeat or insert words and lines."""
    separator = rng.choice([b" ", b"\n"])
    parts = content.split(separator)
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    kind = rng.randrange(6)
    if kind == 0:
        parts[i], parts[j] = parts[j], parts[i]
    elif kind == 1:
        del parts[i]
    elif kind == 2:
        parts[i:i] = [parts[j]] * rng.choice([1, 3, 200])
    elif kind == 3:
        parts[i] = rng.choice(words)
    elif kind == 4:
        parts.insert(i, rng.choice(words) * rng.choice([1, 1, 50, 5000]))
    else:
        digit = str(rng.choice([-1, 0, 2, 10**9, 2**31, 2**63, 10**30])).encode()
        at = [k for k, byte in enumerate(parts[i]) if 48 <= byte < 58]
        parts[i] = parts[i][: at[0]] + digit + parts[i][at[0] + 1 :] if at else parts[i] + digit
    return separator.join(parts)


_NUMBERS = (-1, 0, 1, 2, 3, 7, 1000, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63))
_REALS = (0.0, -0.0, 1e-45, 1e38, -1e38, float("inf"), float("nan"), 1.5)


def spoilt_model(content: bytes, rng: random.Random) -> bytes:
    """Change one thing of an ONNX file that can still be parsed: wiring, shapes, types, attributes, weights, opset."""
    try:
        model = onnx.load_model_from_string(content)
    except Exception:
        return spoilt_bytes(content, rng)
    graph = model.graph
    changes = [_wiring, _attributes, _weights, _shapes, _header, _order]
    if not graph.node:
        return spoilt_bytes(content, rng)
    try:
        rng.choice(changes)(model, rng)
    except (ValueError, IndexError):
        # what is spoilt already may not be ready for this change
        return spoilt_bytes(content, rng)
    return model.SerializeToString()


def _wiring(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    names = [n for other in model.graph.node for n in (*other.input, *other.output)] + ["", "ghost", "\x1b[31m"]
    side = rng.choice([node.input, node.output])
    if side and rng.random() < 0.7:
        side[rng.randrange(len(side))] = rng.choice(names)
    elif side and rng.random() < 0.5:
        del side[rng.randrange(len(side))]
    else:
        side.append(rng.choice(names))


def _attributes(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    operators = [n.op_type for make in MODELS.values() for n in make().graph.node]
    if not node.attribute or rng.random() < 0.3:
        node.op_type = rng.choice(
            [*operators, "Loop", "If", "RandomNormal", "Tile", "Pad", "Expand", "Conv", "Slice", ""]
        )
        return
    attribute = rng.choice(node.attribute)
    if rng.random() < 0.2:
        attribute.type = rng.randrange(0, 15)
    elif attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_NUMBERS)
    else:
        attribute.i, attribute.f = rng.choice(_NUMBERS), rng.choice(_REALS)


def _weights(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    kind = rng.randrange(5)
    if kind == 0:
        tensor.data_type = rng.randrange(0, 27)
    elif kind == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_NUMBERS)
    elif kind == 2:
        tensor.raw_data = spoilt_bytes(tensor.raw_data, rng)
    elif kind == 3:
        tensor.data_location = 1
        for key, value in (
            ("location", rng.choice(["w.bin", "../w", "/etc/passwd", "model.onnx", ""])),
            ("offset", "-1"),
        ):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    elif tensor.data_type == onnx.TensorProto.FLOAT and tensor.raw_data:
        array = np.frombuffer(tensor.raw_data, np.float32).copy()
        if array.size:
            array[rng.randrange(array.size)] = rng.choice(_REALS)
            tensor.raw_data = array.tobytes()
    elif tensor.data_type == onnx.TensorProto.INT64 and tensor.raw_data:
        array = np.frombuffer(tensor.raw_data, np.int64).copy()
        if array.size:
            array[rng.randrange(array.size)] = rng.choice(_NUMBERS)
            tensor.raw_data = array.tobytes()


def _shapes(model: onnx.ModelProto, rng: random.Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    if not values:
        return
    value = rng.choice(values)
    kind = value.type.tensor_type
    if rng.random() < 0.2:
        kind.elem_type = rng.randrange(0, 27)
    elif kind.shape.dim and rng.random() < 0.8:
        dim = rng.choice(kind.shape.dim)
        if rng.random() < 0.3:
            dim.dim_param = "n"
        else:
            dim.dim_value = rng.choice(_NUMBERS)
    else:
        kind.shape.dim.add().dim_value = rng.choice(_NUMBERS)


def _header(model: onnx.ModelProto, rng: random.Random) -> None:
    if model.opset_import and rng.random() < 0.6:
        model.opset_import[0].version = rng.choice([*_NUMBERS, 6, 7, 11, 13, 21, 30])
    elif rng.random() < 0.5:
        model.ir_version = rng.choice([0, 3, 8, 99, 2**40])
    else:
        node = rng.choice(model.graph.node)
        node.domain, node.name = rng.choice(["", "ai.onnx", "com.microsoft"]), rng.choice(["", "x", "<script>", "\x9b"])


def _order(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = list(model.graph.node)
    kind = rng.randrange(3)
    if kind == 0:
        rng.shuffle(nodes)
    elif kind == 1:
        nodes.pop(rng.randrange(len(nodes)))
    else:
        nodes.append(rng.choice(nodes))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
