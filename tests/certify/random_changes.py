"""Changes of a whole ONNX model that keep it valid: how it says things, their order, names, storage, other wires."""

from __future__ import annotations

import random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node


def some(rng: random.Random, model: onnx.ModelProto, what: str = "initializer"):
    """One of the graph's initialisers or nodes; ValueError, which ends the attempt, where there is none."""
    found = list(getattr(model.graph, what))
    if not found:
        raise ValueError(f"no {what}")
    return rng.choice(found)


def sparse(model: onnx.ModelProto, rng: random.Random) -> None:
    """An initialiser is stored as its elements that are not zero."""
    chosen = some(rng, model)
    array = numpy_helper.to_array(chosen)
    if array.dtype.kind != "f" or not array.ndim:
        raise ValueError("no vector")
    flat = array.reshape(-1).copy()
    flat[rng.randrange(len(flat))] = 0
    at = np.flatnonzero(flat)
    found = model.graph.sparse_initializer.add()
    found.values.CopyFrom(numpy_helper.from_array(flat[at], chosen.name))
    found.indices.CopyFrom(numpy_helper.from_array(at.astype(np.int64), "at"))
    found.dims.extend(array.shape)
    model.graph.initializer.remove(chosen)


def replaceable(model: onnx.ModelProto, rng: random.Random) -> None:
    chosen = some(rng, model)
    model.graph.input.append(helper.make_tensor_value_info(chosen.name, chosen.data_type, list(chosen.dims)))


def all_replaceable(model: onnx.ModelProto, rng: random.Random) -> None:
    for one in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)))


def shuffled(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def named_twice(model: onnx.ModelProto, rng: random.Random) -> None:
    """A value's name is that of another value, of a constant, or of the input."""
    names = [t.name for t in model.graph.initializer] + [o for n in model.graph.node for o in n.output] + ["x"]
    rng.choice([some(rng, model, "node"), some(rng, model)])
    some(rng, model, "node").output[0] = rng.choice(names)


def initialiser_twice(model: onnx.ModelProto, rng: random.Random) -> None:
    chosen = some(rng, model)
    again = model.graph.initializer.add()
    again.CopyFrom(chosen)
    array = numpy_helper.to_array(chosen)
    again.raw_data = (array + 1).astype(array.dtype).tobytes()


def another_wire(model: onnx.ModelProto, rng: random.Random) -> None:
    """An operand is exchanged for any other value, or left out."""
    chosen = some(rng, model, "node")
    names = [t.name for t in model.graph.initializer] + [o for n in model.graph.node for o in n.output] + ["x", ""]
    if not chosen.input:
        raise ValueError("no operand")
    chosen.input[rng.randrange(len(chosen.input))] = rng.choice(names)


def operand_more(model: onnx.ModelProto, rng: random.Random) -> None:
    names = [t.name for t in model.graph.initializer] + ["x", ""]
    some(rng, model, "node").input.append(rng.choice(names))


def dead_node(model: onnx.ModelProto, rng: random.Random) -> None:
    kind, at = rng.choice(["Softmax", "Relu", "Neg", "Shape"]), rng.choice([0, len(model.graph.node)])
    model.graph.node.insert(at, node(kind, ["x"], ["unused"]))


def another_input(model: onnx.ModelProto, rng: random.Random) -> None:
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 2]))


def another_output(model: onnx.ModelProto, rng: random.Random) -> None:
    name = some(rng, model, "node").output[0]
    model.graph.output.append(
        helper.make_tensor_value_info(name, model.graph.input[0].type.tensor_type.elem_type, None)
    )


def types_stated(model: onnx.ModelProto, rng: random.Random) -> None:
    """The shape of a value is stated, right or wrong."""
    name, kind = some(rng, model, "node").output[0], model.graph.input[0].type.tensor_type.elem_type
    shape = rng.choice([None, [rng.choice([1, "n"]), rng.randint(1, 4)], ["n", "m"], [1, 1, 4]])
    model.graph.value_info.append(helper.make_tensor_value_info(name, kind, shape))


def words(model: onnx.ModelProto, rng: random.Random) -> None:
    """Documentation, names of nodes and of producers: nothing of it means anything."""
    model.producer_name, model.graph.doc_string = "p\n", "\x1b[31m"
    some(rng, model, "node").name = rng.choice(["", "x", "Relu", "same"])
    some(rng, model, "node").doc_string = "alpha=2"
    if rng.random() < 0.5:
        model.metadata_props.add(key=rng.choice(["pkg.own", "Image.BitmapPixelFormat", "own"]), value="Bgr8")


def strange_names(model: onnx.ModelProto, rng: random.Random) -> None:
    """A value has another name, everywhere: digits of another script, line ends, names of operators."""
    names = sorted({o for n in model.graph.node for o in n.output} - {o.name for o in model.graph.output})
    if not names:
        raise ValueError("no name")
    old, new = rng.choice(names), rng.choice(["relu:\u0660", "a\nb", "Relu", "output", "input", " ", "\u202ex"])
    for one in model.graph.node:
        for side in (one.input, one.output):
            for i, name in enumerate(side):
                side[i] = new if name == old else name


def other_storage(model: onnx.ModelProto, rng: random.Random) -> None:
    """Elements lie in the field of their type."""
    chosen = some(rng, model)
    array = numpy_helper.to_array(chosen)
    field = {"float32": "float_data", "float64": "double_data", "int64": "int64_data", "bool": "int32_data"}
    getattr(chosen, field[str(array.dtype)]).extend((array + 0).reshape(-1).tolist())
    if rng.random() < 0.8:
        chosen.ClearField("raw_data")


def sets_named(model: onnx.ModelProto, rng: random.Random) -> None:
    domain = rng.choice(["", "ai.onnx", "ai.onnx.ml", "own", "com.microsoft"])
    version = rng.choice([1, 7, model.opset_import[0].version])
    model.opset_import.insert(rng.choice([0, 1]), helper.make_opsetid(domain, version))


def attribute_more(model: onnx.ModelProto, rng: random.Random) -> None:
    name, value = rng.choice([("alpha", 2.0), ("axis", 1), ("axis", 2), ("transA", 1), ("transB", 1), ("group", 1),
                              ("allowzero", 1), ("broadcast", 1), ("ratio", 0.5), ("beta", 1.0)])  # fmt: skip
    some(rng, model, "node").attribute.append(helper.make_attribute(name, value))


def attribute_of_another_type(model: onnx.ModelProto, rng: random.Random) -> None:
    chosen = some(rng, model, "node")
    if not chosen.attribute:
        raise ValueError("no attribute")
    rng.choice(chosen.attribute).type = rng.choice([0, 1, 2, 3, 6, 7])


def quantisation_noted(model: onnx.ModelProto, rng: random.Random) -> None:
    model.graph.quantization_annotation.add(tensor_name="x").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="c"
    )


WHOLE = (
    sparse, replaceable, all_replaceable, shuffled, named_twice, initialiser_twice, another_wire, another_wire,
    operand_more, dead_node, another_input, another_output, types_stated, words, strange_names, other_storage,
    sets_named, attribute_more, attribute_of_another_type, quantisation_noted,
)  # fmt: skip
