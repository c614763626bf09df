"""What the checker reads of an ONNX file is what the file means; what it does not know is refused by name."""

import gzip

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import evaluated, model, session, tolerance

from clinch.checker import onnx_kinds
from clinch.checker.layers import Refused
from clinch.checker.onnx_layers import read_onnx

node = helper.make_node
RNG = np.random.default_rng(0)
W, B = (RNG.standard_normal(n).astype(np.float32) for n in ((4, 3), (4,)))
V = RNG.standard_normal((2, 4)).astype(np.float32)
GEMM = node("Gemm", ["x", "w", "b"], ["h"], transB=1)
PLAIN = [GEMM, node("Relu", ["h"], ["r"]), node("Gemm", ["r", "v"], ["y"], transB=1)]
CONSTANTS = {"w": W, "b": B, "v": V}


def plain(**settings):
    return model(PLAIN, CONSTANTS, **settings)


def read(content, folder):
    content = content if isinstance(content, bytes) else content.SerializeToString()
    path = folder / "m.onnx"
    path.write_bytes(content)
    return read_onnx(path)[0]


# --- models that are valid, and do not mean what a careless reader finds in them -------------------------------------


def bias_that_is_a_layer():
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("MatMul", ["r", "u"], ["c"]),
        node("Gemm", ["x", "w", "c"], ["y"], transB=1),
    ]
    return model(nodes, {"w": W, "u": np.ones((3, 4), np.float32)})


def operator_of_another_domain():
    negation = helper.make_function(
        "own", "Relu", ["a"], ["b"], [node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    found = model([GEMM, node("Relu", ["h"], ["y"], domain="own")], CONSTANTS)
    found.opset_import.append(helper.make_opsetid("own", 1))
    found.functions.append(negation)
    return found


def weight_that_is_the_input():
    return model([node("Gemm", ["x", "x", "c"], ["y"])], {"c": np.array([1.0], np.float32)}, shape=(1, 1))


def kernel_that_is_a_layer():
    image = np.ones((1, 1, 3, 3), np.float32)
    return model([node("Conv", ["k", "x"], ["y"])], {"k": image}, shape=(1, 1, 2, 2))


def sparse_bias():
    found = model([GEMM], {"w": W}, output="h")
    values = numpy_helper.from_array(np.array([-9.0], np.float32), "b")
    sparse = found.graph.sparse_initializer.add()
    sparse.values.CopyFrom(values)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0], np.int64), "i"))
    sparse.dims.append(4)
    return found


def bias_that_is_made_later():
    later = node("Constant", [], ["b"], value=numpy_helper.from_array(B, "b"))
    return model([GEMM, later], {"w": W}, output="h")


FORGERIES = (
    bias_that_is_a_layer, operator_of_another_domain, weight_that_is_the_input, kernel_that_is_a_layer, sparse_bias,
    bias_that_is_made_later,
)  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_role_that_the_checker_does_not_know_is_refused(forgery, tmp_path):
    found = forgery()
    # it is no malformed file: it runs
    shape = [d.dim_value for d in found.graph.input[0].type.tensor_type.shape.dim]
    assert session(found.SerializeToString()).run(None, {"x": np.ones(shape, np.float32)})
    with pytest.raises(Refused):
        read(found, tmp_path)


# --- one thing changed -----------------------------------------------------------------------------------------------


def edited(change, **settings):
    def make():
        found = plain(**settings)
        change(found)
        return found

    return make


def attribute(**values):
    return edited(lambda m: m.graph.node[0].attribute.extend(helper.make_attribute(k, v) for k, v in values.items()))


def also_an_input(m):
    m.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [4]))


def external(m):
    tensor = m.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "w.bin"


def typed_by(field, value):
    def change(m):
        own = m.graph.node[0].attribute[0]
        own.Clear()
        own.name, own.type = "transB", onnx.AttributeProto.INT
        getattr(own, field).extend(value) if isinstance(value, list) else setattr(own, field, value)

    return edited(change)


def weights(change):
    return lambda: model(PLAIN, {**CONSTANTS, "w": change(W.copy())})


def put(t, value):
    t.reshape(-1)[0] = value
    return t


def notes(m):
    m.metadata_props.add(key="Image.BitmapPixelFormat", value="Bgr8")


def quantised(m):
    m.graph.quantization_annotation.add(tensor_name="x")


def subgraph(m):
    m.graph.node[0].attribute.append(helper.make_attribute("body", m.graph))


def second(field, name):
    def change(m):
        getattr(m.graph, field).append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]))

    return edited(change)


def stated(name, shape, kind=TensorProto.FLOAT):
    return edited(lambda m: m.graph.value_info.append(helper.make_tensor_value_info(name, kind, shape)))


def raw(content):
    return lambda: plain().SerializeToString() + content


REFUSED = {
    "operator": (lambda: model([node("Tan", ["x"], ["y"])], {}), "Tan"),
    "operator of a later set": (lambda: model([node("Gelu", ["x"], ["y"])], {}, opset=17), "Gelu"),
    "its domain": (edited(lambda m: setattr(m.graph.node[1], "domain", "com.microsoft")), "com.microsoft"),
    "overload": (edited(lambda m: setattr(m.graph.node[1], "overload", "other")), "overload"),
    "operand that nothing makes": (lambda: model([node("Gemm", ["x", "w", "q"], ["y"], transB=1)], {"w": W}), "'q'"),
    "operand too many": (lambda: model([node("Relu", ["x", "b"], ["y"])], CONSTANTS), "2 operands"),
    "operand too few": (lambda: model([node("MatMul", ["x"], ["y"])], CONSTANTS), "absent"),
    "operand of old left out": (lambda: model([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": W}, opset=10),
                                "absent"),
    "operands exchanged": (lambda: model([node("MatMul", ["w", "x"], ["y"])], {"w": W}), "takes 'w' as its A"),
    "constant of another type": (lambda: model([GEMM], {"w": W, "b": B.astype(float)}, output="h"), "float64"),
    "whole numbers as a bias": (lambda: model([GEMM], {"w": W, "b": np.arange(4)}, output="h"), "int64"),
    "half precision": (weights(lambda t: t.astype(np.float16)), "type 10"),
    "float16 input": (lambda: plain(dtype=TensorProto.FLOAT16), "neither float32 nor float64"),
    "two outputs of a node": (lambda: model([node("Dropout", ["x"], ["y", "m"])], {}), "2 outputs"),
    "training": (lambda: model([node("Dropout", ["x", "p", "t"], ["y"])],
                               {"p": np.array(0.5, np.float32), "t": np.array(True)}), "train"),
    "attribute unknown": (attribute(broadcast=1), "broadcast"),
    "attribute twice": (attribute(transB=1), "transB"),
    "attribute of another type": (typed_by("f", 1.0), "transB"),
    "attribute of lists": (typed_by("ints", [1]), "transB"),
    "attribute of nothing": (typed_by("doc_string", "1"), "transB"),
    "attribute of a later opset": (lambda: model([node("Reshape", ["x", "s"], ["y"], allowzero=0)],
                                                 {"s": np.array([1, 3])}, opset=13), "allowzero"),
    "attribute's value": (attribute(alpha=2.0), "alpha"),
    "transposed input": (attribute(transA=1), "transA"),
    "subgraph": (edited(subgraph), "'g'"),
    "padding at one end": (lambda: model([node("Conv", ["x", "k"], ["y"], pads=[0, 0, 1, 1])],
                                         {"k": np.ones((1, 1, 2, 2), np.float32)}, shape=(1, 1, 3, 3)), "padding"),
    "padding by name": (lambda: model([node("Conv", ["x", "k"], ["y"], auto_pad="SAME_UPPER")],
                                      {"k": np.ones((1, 1, 2, 2), np.float32)}, shape=(1, 1, 3, 3)), "auto_pad"),
    "kernel of another size": (lambda: model([node("Conv", ["x", "k"], ["y"], kernel_shape=[3, 3])],
                                             {"k": np.ones((1, 1, 2, 2), np.float32)}, shape=(1, 1, 3, 3)), "kernel"),
    "bias for each place": (lambda: model([node("Conv", ["x", "k", "c"], ["y"])],
                                          {"k": np.ones((1, 1, 2, 2), np.float32), "c": np.ones(4, np.float32)},
                                          shape=(1, 1, 3, 3)), "bias"),
    "Gemm of a cube": (lambda: model([GEMM], CONSTANTS, shape=(1, 2, 3), output="h"), "no matrices"),
    "batch axis lost": (lambda: model([node("Reshape", ["x", "s"], ["y"])], {"s": np.array([3, 1])}), "batch"),
    "no unknown extent left": (lambda: model([node("Reshape", ["x", "s"], ["y"])], {"s": np.array([-1, -1])}), "batch"),
    "zero that means nothing": (lambda: model([node("Reshape", ["x", "s"], ["y"], allowzero=1)],
                                              {"s": np.array([0, 3])}), "no elements"),
    "wider constant": (lambda: model([node("Add", ["x", "k"], ["y"])], {"k": np.ones((1, 1, 3), np.float32)}), "wider"),
    "only constants": (lambda: model([node("Add", ["b", "b"], ["y"])], CONSTANTS), "no activation"),
    "constant for an output": (lambda: model(PLAIN, CONSTANTS, output="b"), "constant"),
    "name twice": (lambda: model([*PLAIN, node("Relu", ["h"], ["r"])], CONSTANTS), "'r'"),
    "constant's name twice": (lambda: model([GEMM, node("Relu", ["h"], ["b"])], CONSTANTS, output="h"), "'b'"),
    "input's name twice": (lambda: model([node("Relu", ["x"], ["x"])], {}, output="x"), "'x'"),
    "no name": (lambda: model([node("Relu", ["x"], [""]), *PLAIN], CONSTANTS), "''"),
    "initialiser that is an input": (edited(also_an_input), "replace weights"),
    "two inputs": (second("input", "z"), "2 inputs"),
    "two outputs": (second("output", "h"), "2 outputs"),
    "another shape stated": (stated("h", [1, 5]), "'h'"),
    "another rank stated": (stated("h", [1, 4, 1]), "'h'"),
    "another type stated": (stated("h", [1, 4], TensorProto.DOUBLE), "'h'"),
    "type of no value": (stated("q", [1, 4]), "'q'"),
    "batch of two": (lambda: plain(shape=(2, 3)), "batch"),
    "free extent": (lambda: plain(shape=(1, "n")), "batch"),
    "no extent": (lambda: plain(shape=(1, 0)), "batch"),
    "no axis but the batch": (lambda: plain(shape=(1,)), "batch"),
    "no opset": (edited(lambda m: m.ClearField("opset_import")), "operator sets"),
    "two opsets": (edited(lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 9))), "operator sets"),
    "an unknown set": (edited(lambda m: m.opset_import.append(helper.make_opsetid("own", 1))), "own"),
    "an old opset": (lambda: plain(opset=6), "opset 6"),
    "a future opset": (lambda: plain(opset=onnx_kinds.OPSETS.stop), f"opset {onnx_kinds.OPSETS.stop}"),
    "a future format": (lambda: plain(ir=99), "version 99"),
    "no format": (edited(lambda m: m.ClearField("ir_version")), "version 0"),
    "functions": (edited(lambda m: m.functions.append(helper.make_function("own", "F", ["a"], ["b"],
                  [node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 17)]))), "functions"),
    "quantisation": (edited(quantised), "quantization_annotation"),
    "metadata": (edited(notes), "metadata"),
    "weights elsewhere": (edited(external), "external_data"),
    "an unknown field": (raw(b"\xf8\x3f\x01"), "ModelProto"),
    "NaN": (weights(lambda t: put(t, np.nan)), "NaN"),
    "infinity": (weights(lambda t: put(t, np.inf)), "NaN"),
    "too few bytes": (edited(lambda m: setattr(m.graph.initializer[0], "raw_data", b"\0" * 44)), "extents"),
    "two fields of elements": (edited(lambda m: m.graph.initializer[0].float_data.append(1.0)), "field"),
    "no elements": (lambda: model(PLAIN, {**CONSTANTS, "e": np.zeros((0, 3), np.float32)}), "extents"),
    "steep slope": (lambda: model([node("LeakyRelu", ["x"], ["y"], alpha=1.5)], {}), "slope"),
    "NaN slope": (lambda: model([node("LeakyRelu", ["x"], ["y"], alpha=float("nan"))], {}), "slope"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_by_name(name, tmp_path):
    make, word = REFUSED[name]
    with pytest.raises(Refused) as reason:
        read(make(), tmp_path)
    assert word in str(reason.value) and "\n" not in str(reason.value)


def vector(*numbers):
    return np.array(numbers, np.float32)


IMAGE = {"k": RNG.standard_normal((2, 1, 2, 2)).astype(np.float32), "c": RNG.standard_normal(2).astype(np.float32)}
READ = {
    "plain": plain,
    "an unused set is named": edited(lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))),
    "a free batch": lambda: plain(shape=("n", 3)),
    "the old format's initialisers": edited(also_an_input, ir=3),
    "the default domain by its name": edited(lambda m: setattr(m.graph.node[1], "domain", "ai.onnx")),
    "float64": lambda: model([node("Add", ["x", "b"], ["y"])], {"b": np.arange(3.0)}, dtype=TensorProto.DOUBLE),
    "one bias for all": lambda: model([GEMM], {"w": W, "b": np.array(2, np.float32)}, output="h"),
    "a bias in a row": lambda: model([GEMM], {"w": W, "b": B[None]}, output="h"),
    "no bias": lambda: model([node("Gemm", ["x", "w", ""], ["y"], transB=1)], {"w": W}),
    "a constant first": lambda: model([node("Add", ["b", "x"], ["y"])], {"b": vector(1, 2, 3)}),
    "a layer twice": lambda: model([node("Add", ["x", "x"], ["y"])], {}),
    "a difference": lambda: model([node("Sub", ["x", "b"], ["y"])], {"b": vector(1, 2, 3)}),
    "a node for a constant": lambda: model(
        [node("Constant", [], ["b"], value=numpy_helper.from_array(vector(4), "q")), node("Add", ["x", "b"], ["y"])], {}
    ),
    "the smallest leaky ReLU": lambda: model([node("LeakyRelu", ["x"], ["y"])], {}),
    "a matrix over the last axis": lambda: model([node("MatMul", ["x", "w"], ["y"])], {"w": W.T}, shape=(1, 2, 2, 3)),
    "an image": lambda: model(
        [node("Conv", ["x", "k", "c"], ["y"], pads=[1, 0, 1, 0], strides=[2, 1])], IMAGE, shape=(1, 1, 4, 5)
    ),
    "a reshape": lambda: model([node("Reshape", ["x", "s"], ["y"])], {"s": np.array([0, 2, -1])}, shape=(1, 4, 3)),
    "dropout": lambda: model([node("Dropout", ["x", "", "t"], ["y"])], {"t": np.array(False)}),
    "dropout of old": lambda: model([node("Dropout", ["x"], ["y"], ratio=0.3)], {}, opset=11),
    "notes of exporters": edited(lambda m: m.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name", value="x")),
    "what is stated rightly": stated("h", ["n", 4]),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_is_known_means_what_onnxruntime_computes(name, tmp_path):
    found = READ[name]()
    layers = read(found, tmp_path)
    run = session(found.SerializeToString())
    dtype = np.float64 if "double" in run.get_inputs()[0].type else np.float32
    x = np.random.default_rng(1).standard_normal((20, *layers[0].shape)).astype(dtype)
    values, sizes = evaluated(layers, x.reshape(20, -1).astype(np.float64))
    for one, value, size in zip(x, values, sizes):
        wanted = run.run(None, {"x": one[None]})[0]
        assert wanted.shape == (1, *layers[-1].shape)
        assert (np.abs(wanted.reshape(-1) - value) <= tolerance(layers, dtype) * size).all()


def test_the_table_knows_every_version_of_its_operators():
    """Attributes and operands of the standard that the table does not have are refused; none is taken for another."""
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain or schema.name not in onnx_kinds.KINDS or schema.since_version not in onnx_kinds.OPSETS:
            continue
        kind, opset = onnx_kinds.KINDS[schema.name], schema.since_version
        known = {name for name, one in kind.attributes.items() if opset in one.opsets}
        unknown = schema.attributes.keys() - known
        # of a constant, the other ways to state it
        assert known <= schema.attributes.keys() and all(name.startswith(("value_", "sparse_")) for name in unknown)
        names = [o.name for o in kind.operands if o.since <= opset]
        assert len(names) == schema.max_input or kind.several
        assert sum(o.since <= opset < o.optional for o in kind.operands) == schema.min_input and opset >= kind.since
        for name in known:
            stated, types = schema.attributes[name], onnx_kinds.ATTRIBUTE_TYPES
            assert types[kind.attributes[name].field] == stated.type.value
            if stated.default_value.name:
                # none: the reader says what is meant, set by set
                assert kind.attributes[name].default in (None, helper.get_attribute_value(stated.default_value))


def test_a_packed_file_that_holds_too_much_is_not_unpacked(tmp_path):
    path = tmp_path / "m.onnx.gz"
    path.write_bytes(gzip.compress(b"\x0a\x00" * 2**24))
    with pytest.raises(Refused, match="too large"):
        read_onnx(path)
