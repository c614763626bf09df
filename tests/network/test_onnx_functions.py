"""Node types that are deterministic and real are computed as the standard's own tests say, and files with them load."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

import clinch as cl
from clinch.errors import NetworkError
from clinch.modeling.model import load
from clinch.network.network import Network
from clinch.network.onnx_functions import FUNCTIONS, Settings


def proto(
    nodes: Sequence[NodeProto],
    shape: Sequence[int | str],
    constants: dict[str, Any] | None = None,
    outputs: Sequence[tuple[str, int]] = (("y", TensorProto.FLOAT),),
    opset: int = 20,
    further: Sequence[Any] = (),
) -> ModelProto:
    """A file with input x."""
    initial = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), *further]
    ends = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs]
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(
        helper.make_graph(nodes, "test", inputs, ends, initial), opset_imports=domains, ir_version=8
    )


def node(kind: str, sources: str, results: str = "y", **attributes: Any) -> NodeProto:
    return helper.make_node(kind, [s.strip("_") for s in sources.split()], results.split(), **attributes)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def agreeing(network: Network, count: int = 40) -> torch.Tensor:
    """The output at random inputs, which is onnxruntime's."""
    x = torch.randn(count, *network.input_shape, generator=torch.Generator().manual_seed(1)).to(network.dtype)
    (theirs,) = network.original(x, [network.layers[-1]]).values()
    ours = network.graph_as(torch.float64, "cpu").forward(x.double())[network.graph.output]
    torch.testing.assert_close(theirs.double(), ours, rtol=1e-4, atol=1e-4 * (1 + float(ours.abs().max())))
    return ours


def check(network: Network) -> None:
    """The output is onnxruntime's (loading compares it too), and gradients reach the input."""
    x = torch.rand(3, *network.input_shape, generator=torch.Generator().manual_seed(1)).to(network.dtype)
    (theirs,) = network.original(x, [network.layers[-1]]).values()
    graph = network.graph_as(torch.float64, "cpu")
    leaf = x.double().requires_grad_()
    ours = graph.forward(leaf)[graph.output]
    torch.testing.assert_close(
        theirs.double(), ours.detach(), rtol=1e-4, atol=1e-4 * (1 + float(ours.detach().abs().max()))
    )
    (gradient,) = torch.autograd.grad(ours.sum(), leaf, allow_unused=True)
    assert gradient is not None
    assert bool(gradient.isfinite().all())


# --- the standard's tests --------------------------------------------------------------------------------------------

#: variants that are not computed: other types of whole numbers than torch has, training, windows of attention
NOT_COMPUTED = ("uint16", "uint32", "uint64", "bitwise_not_3d", "training", "window", "empty_set", "blocked_symmetric")


def plain(attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return torch.from_numpy(np.array(numpy_helper.to_array(value)))
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.slow
def test_the_standards_own_tests():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        cases = [case for case in load_model_tests(kind="node") if case.model and len(case.model.graph.node) == 1]
    wrong, seen = [], set()
    for case in cases:
        (one,) = case.model.graph.node
        kind = one.op_type if one.domain in ("", "ai.onnx") else f"{one.domain}.{one.op_type}"
        if kind not in FUNCTIONS or any(word in case.name for word in NOT_COMPUTED):
            continue
        versions = {entry.domain: entry.version for entry in case.model.opset_import}
        schema = defs.get_schema(one.op_type, versions[one.domain], one.domain)
        settings = {name: plain(a.default_value) for name, a in schema.attributes.items() if a.default_value.type}
        settings |= {a.name: plain(a) for a in one.attribute if a.type != onnx.AttributeProto.GRAPH}
        for inputs, outputs in case.data_sets:
            given = dict(zip([i.name for i in case.model.graph.input], inputs))
            try:
                values = [torch.from_numpy(np.array(given[name])) if name else None for name in one.input]
            except (TypeError, ValueError):  # a type that torch does not have
                continue
            found = FUNCTIONS[kind](Settings(settings, versions.get("", 1), len(one.output)), *values)
            results = dict(zip(one.output, found if isinstance(found, tuple) else (found,)))
            for entry, expected in zip(case.model.graph.output, outputs):
                value = results[entry.name].double().numpy()
                expected = np.asarray(expected, dtype=np.float64)
                half = any(v is not None and v.dtype == torch.float16 for v in values)
                same = value.shape == expected.shape and np.allclose(
                    value, expected, max(case.rtol, 1e-2 if half else 1e-3), 1e-3 if half else 1e-6, equal_nan=True
                )
                wrong += [] if same else [(case.name, entry.name)]
            seen.add(kind)
    assert not wrong
    assert len(seen) >= 155


# --- files of one such node ------------------------------------------------------------------------------------------

i64 = lambda *v: np.array(v, dtype=np.int64)  # noqa: E731
PLAIN = re.findall(
    r"\w+",
    """Abs Atan Cos Elu Celu Selu Erf Exp HardSigmoid HardSwish Mish Sin Softplus Softsign ThresholdedRelu Shrink
           Sign Floor Reciprocal Sqrt Log""",
)
SINGLE: dict[str, ModelProto] = {
    **{
        kind: proto(
            [node("Gemm", "x w", "h"), node("Sigmoid", "h", "s"), node(kind, "s")], ["n", 4], {"w": normal(4, 3)}
        )
        for kind in PLAIN
    },
    "Max": proto([node("Max", "x c")], ["n", 4], {"c": normal(4)}),
    "Mean": proto([node("Mean", "x c x")], ["n", 4], {"c": normal(4)}),
    "PRelu": proto([node("PRelu", "x c")], ["n", 4], {"c": normal(4)}),
    "Pow": proto([node("Pow", "x c")], ["n", 4], {"c": np.float32(2)}),
    "Where": proto([node("Greater", "x c", "m"), node("Where", "m x c")], ["n", 4], {"c": normal(4)}),
    "ReduceMax": proto([node("ReduceMax", "x a")], ["n", 3, 4], {"a": i64(-1)}),
    "ReduceL2": proto([node("ReduceL2", "x a", keepdims=0)], ["n", 3, 4], {"a": i64(1)}),
    "TopK": proto([node("TopK", "x k", "y places")], ["n", 6], {"k": i64(3)}),
    "ArgMax": proto([node("ArgMax", "x", "i", axis=1), node("Cast", "i", "f", to=1), node("Add", "x f")], ["n", 4]),
    "Tile": proto([node("Tile", "x r")], ["n", 4], {"r": i64(1, 2)}),
    "DepthToSpace": proto([node("DepthToSpace", "x", blocksize=2)], ["n", 8, 2, 3]),
    "Resize": proto([node("Resize", "x _ s", mode="linear")], ["n", 2, 3, 3], {"s": np.float32([1, 1, 2, 2])}),
    "Einsum": proto([node("Einsum", "x c", equation="bij,jk->bik")], ["n", 2, 4], {"c": normal(4, 3)}),
    "CumSum": proto([node("CumSum", "x a")], ["n", 4], {"a": np.array(1)}),
    "GatherElements": proto([node("GatherElements", "x i", axis=1)], [1, 4], {"i": np.array([[3, 0, -1]])}),
    "ScatterElements": proto([node("ScatterElements", "x i x", axis=1)], [1, 3], {"i": np.array([[2, 0, 1]])}),
    "Trilu": proto([node("Trilu", "x")], ["n", 3, 3]),
    "LRN": proto([node("LRN", "x", size=3)], ["n", 4, 2, 2]),
    "InstanceNormalization": proto(
        [node("InstanceNormalization", "x s b")], ["n", 2, 3, 3], {"s": normal(2), "b": normal(2, seed=1)}
    ),
    "LpPool": proto([node("LpPool", "x", kernel_shape=[2, 2])], ["n", 2, 4, 4]),
    "attention": proto(
        [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "s"), node("Softmax", "s", "p", axis=-1),
         node("MatMul", "p x")], ["n", 3, 4],
    ),
    "LSTM": proto(
        [node("Transpose", "x", "t", perm=[1, 0, 2]), node("LSTM", "t w r b", "h last", hidden_size=3),
         node("Squeeze", "last a")],
        ["n", 4, 2], {"w": normal(1, 12, 2), "r": normal(1, 12, 3), "b": normal(1, 24), "a": i64(0)},
    ),
    "GRU in a fixed batch": proto(
        [node("Transpose", "x", "t", perm=[1, 0, 2]),
         node("GRU", "t w r", "h", hidden_size=3, direction="bidirectional"),
         node("Transpose", "h", "u", perm=[2, 0, 1, 3]), node("Flatten", "u")],
        [1, 4, 2], {"w": normal(2, 9, 2), "r": normal(2, 9, 3)},
    ),
    "quantised": proto(
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"), node("MatMul", "d w")],
        ["n", 4], {"s": np.float32(0.05), "z": np.int8(3), "w": normal(4, 2)},
    ),
    "mask": proto(
        [node("Less", "x c", "m"), node("Not", "m", "k"), node("Cast", "k", "f", to=1), node("Mul", "x f")], ["n", 3],
        {"c": np.float32(0.2)},
    ),
    "If": proto(
        [node("If", "c", "y", then_branch=helper.make_graph(
            [node("Relu", "x", "t")], "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]),
            else_branch=helper.make_graph(
            [node("Exp", "x", "e")], "else", [], [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)]))],
        ["n", 3], {"c": np.array(True)},
    ),
    "Scaler": proto(
        [helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.5, 1.0], scale=[2.0, 3.0])], ["n", 2]
    ),
    "LinearClassifier": proto(
        [helper.make_node("LinearClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", post_transform="SOFTMAX",
                          coefficients=[0.5, 1.0, -1.0, 2.0, 0.3, 0.2], intercepts=[0.1, 0.2, 0.3],
                          classlabels_ints=[0, 1, 2])], ["n", 2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_files_of_one_node(name: str):
    check(load(SINGLE[name]))


def test_a_file_without_batch_has_operators():
    """Tensors without a first dimension of one are samples: rules of operators hold for them as well."""
    nodes = [
        node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Softmax", "r", "s", axis=0),
        node("Split", "s", "a b"), node("Concat", "b a", "c", axis=0), node("Unsqueeze", "c zero", "u"),
        node("Gemm", "u v", "g"), node("Squeeze", "g zero", "y"),
    ]  # fmt: skip
    network = load(proto(nodes, [5], {"w": normal(5, 6), "v": normal(6, 2), "zero": i64(0)}, opset=17))
    assert network.input_shape == (5,)
    assert {n.computed.op.label for n in network.graph.nodes} >= {"Dense", "ReLU", "Softmax", "Slice", "Concatenate"}
    check(network)


def test_of_one_input_the_first_dimension_is_one_as_any_other():
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "w t", "m"), node("Relu", "m", "r"),
        node("Transpose", "r", "b", perm=[1, 0]), node("Gather", "b zero", "g", axis=0), node("Add", "g b", "y"),
    ]  # fmt: skip
    constants = {"w": normal(4, 3), "zero": np.array(0, dtype=np.int64)}
    network = load(proto(nodes, [1, 3], constants, opset=17))
    known = {"Reshape", "Transpose", "Dense", "ReLU", "Slice", "Take", "Add"}
    assert {n.op.label for n in network.graph.nodes[1:]} <= known
    check(network)


def test_a_matrix_times_a_vector_without_a_batch():
    network = load(proto([node("MatMul", "w x", "h"), node("Relu", "h", "y")], [3], {"w": normal(4, 3)}, opset=17))
    assert network.input_shape == (3,)
    assert [n.op.label for n in network.graph.nodes[1:]] == ["Dense", "ReLU"]
    check(network)
    check(load(proto([node("MatMul", "x w", "y")], [1], {"w": normal(1, 2)}, opset=17)))


# --- whole numbers, and shapes that depend on values -----------------------------------------------------------------


def test_whole_numbers_are_layers_with_bounds():
    """Places where the larger of two scores is what a mask says, counted: the accuracy of a segmentation."""
    nodes = [
        node("Slice", "x zeros one axis", "image"), node("Slice", "x one four axis", "mask"),
        node("Conv", "image k", "z"), node("ArgMax", "z", "c", axis=1, keepdims=0),
        node("OneHot", "c two values", "h", axis=1),
        node("Gather", "h first", "p", axis=1), node("Cast", "p", "q", to=TensorProto.UINT8),
        node("Cast", "mask", "m", to=TensorProto.UINT8), node("Squeeze", "m axis", "s"), node("Equal", "q s", "e"),
        node("Not", "e", "n"), node("Not", "n", "ee"), node("And", "ee e", "both"), node("Or", "both e", "any"),
        node("Cast", "any", "i", to=TensorProto.INT64), node("ReduceSum", "i", "y", keepdims=0),
    ]  # fmt: skip
    i64 = lambda *v: np.array(v, dtype=np.int64)  # noqa: E731
    constants = {
        "zeros": i64(0), "one": i64(1), "four": i64(4), "axis": i64(1), "k": normal(2, 1, 3, 3), "two": np.array(2),
        "values": i64(0, 1), "first": np.array(1),
    }  # fmt: skip
    model = proto(nodes, [1, 2, 5, 6], constants | {"k": normal(2, 1, 1, 1)}, (("y", TensorProto.INT64),), opset=13)
    network = load(model)
    assert 0 < float(agreeing(network).amin()) < float(agreeing(network).amax()) < 30
    centre = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    centre[1] = centre[1].round()
    radius = torch.stack([torch.full((5, 6), 0.2), torch.zeros(5, 6)]).double()
    region = cl.bounds.box((centre - radius)[None], (centre + radius)[None])
    x = centre + radius * (2 * torch.rand(200, 2, 5, 6, generator=torch.Generator().manual_seed(3)).double() - 1)
    counts = network.graph_as(torch.float64, "cpu").forward(x)[network.graph.output]
    for bound in (cl.bounds.interval, cl.bounds.crown):
        low, high = bound(network, region)[0, 0], -bound(network, region, -torch.ones(1, 1))[0, 0]
        assert 0 <= float(low) <= float(counts.min()) and float(counts.max()) <= float(high) <= 30


def test_a_part_whose_size_depends_on_values_is_computed_at_each_input():
    """A patch is put where the input says, and cut off at the border."""
    i64 = lambda *v: np.array(v, dtype=np.int64)  # noqa: E731
    nodes = [
        node("Slice", "x zero six", "image"), node("Slice", "x six seven", "at"), node("Cast", "at", "start", to=7),
        node("Add", "start two", "end"), node("Slice", "ones start end", "part"), node("Shape", "part", "size"),
        node("Expand", "minus size", "values"), node("Slice", "places start end", "where"),
        node("Unsqueeze", "where axis", "indices"), node("ScatterND", "ones indices values", "factors"),
        node("Mul", "image factors", "y"),
    ]  # fmt: skip
    constants = {
        "zero": i64(0), "two": i64(2), "six": i64(6), "seven": i64(7), "axis": i64(1), "places": i64(*range(6)),
        "ones": np.ones(6, np.float32), "minus": np.array([-1.0], np.float32),
    }  # fmt: skip
    network = load(proto(nodes, [7], constants, opset=13))
    x = torch.ones(8, 7)
    x[:, 6] = torch.arange(8)
    (theirs,) = network.original(x, [network.layers[-1]]).values()
    ours = network.graph.forward(x)[network.graph.output]
    assert torch.equal(ours, theirs)
    assert ours.sum(1).tolist() == [2.0, 2.0, 2.0, 2.0, 2.0, 4.0, 6.0, 6.0]


def test_an_open_first_dimension_belongs_to_the_input_where_its_shape_says_so():
    nodes = [node("ReduceMean", "x", "m", keepdims=0), node("Sub", "x m", "y")]
    network = load(proto(nodes, ["time", 3], opset=17), input_shape=(4, 3))
    assert network.input_shape == (4, 3)
    check(network)


# --- several inputs and outputs --------------------------------------------------------------------------------------

TWO = proto(
    [node("Gemm", "x w", "scores"), node("ArgMax", "scores", "label", axis=1), node("Softmax", "scores", "p", axis=1)],
    ["n", 3], {"w": normal(3, 2)}, (("label", TensorProto.INT64), ("scores", 1), ("p", 1)),
)  # fmt: skip


def test_an_output_is_chosen():
    for output in ("scores", "p"):
        network = load(TWO, output=output)
        assert output in network
        assert network.position(output) == network.graph.output
        check(network)
    with pytest.raises(NetworkError, match=r"3 outputs, label, scores, p, 2 of them of real.*output='scores'"):
        load(TWO)
    with pytest.raises(NetworkError, match=r"no output 'q'.*label, scores, p"):
        load(TWO, output="q")
    labels = load(TWO, output="label")
    assert set(agreeing(labels).flatten().tolist()) == {0.0, 1.0}


def test_the_only_output_of_real_numbers_is_taken():
    labels = proto(
        [node("Gemm", "x w", "h"), node("ArgMax", "h", "label"), helper.make_node("ZipMap", ["h"], ["z"],
         domain="ai.onnx.ml", classlabels_int64s=[0, 1])], ["n", 3], {"w": normal(3, 2)}, (("label", 7),),
    )  # fmt: skip
    labels.graph.output.add().name = "z"
    network = load(labels)
    assert network.position("h") == network.graph.output
    check(network)


def test_all_inputs_but_one_are_fixed():
    context = helper.make_tensor_value_info("context", TensorProto.FLOAT, ["n", 2])
    model = proto(
        [node("Concat", "x context", "j", axis=1), node("Gemm", "j w")],
        ["n", 3],
        {"w": normal(5, 2)},
        further=[context],
    )
    for value in ([1.0, 2.0], np.array([[1.0, 2.0]]), torch.tensor([1.0, 2.0])):
        network = load(model, fixed={"context": value})
        assert network.input_shape == (3,)
        check(network)
    assert load(model, fixed={"x": [0.0, 0.0, 1.0]}).input_shape == (2,)
    with pytest.raises(NetworkError, match=r"2 inputs, x \(\?×3\), context \(\?×2\), and 2.*fixed="):
        load(model)
    with pytest.raises(NetworkError, match=r"no input 'other'.*context"):
        load(model, fixed={"other": 1.0})
    with pytest.raises(NetworkError, match=r"'context' has shape \(3,\)"):
        load(model, fixed={"context": [1.0, 2.0, 3.0]})


def test_nodes_that_the_output_does_not_need_are_not_read():
    random = proto([node("Relu", "x", "y"), node("Multinomial", "y", "drawn")], ["n", 3])
    check(load(random))


# --- layers that are written out -------------------------------------------------------------------------------------


def recurrent(kind, layout=0, **attributes):
    """Two inputs over four steps, states of three."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    both = 2 if attributes.get("direction") == "bidirectional" else 1
    constants = {"w": normal(both, gates * 3, 2), "r": normal(both, gates * 3, 3), "b": normal(both, gates * 6)}
    first = [] if layout else [node("Transpose", "x", "t", perm=[1, 0, 2])]
    results = "h last" if kind != "LSTM" else "h last cell"
    cell = node(kind, "x w r b" if layout else "t w r b", results, hidden_size=3, layout=layout, **attributes)
    turned = [node("Transpose", "h", "u", perm=[2, 0, 1, 3]), node("Flatten", "u")]
    end = [node("Flatten", "h")] if layout else turned if both == 2 else [node("Squeeze", "last a")]
    shape = [1, 4, 2] if layout or both == 2 else ["n", 4, 2]
    return proto([*first, cell, *end], shape, constants | {"a": np.array([0], np.int64)}, opset=14)


@pytest.mark.parametrize(
    "model",
    [
        recurrent("LSTM"), recurrent("GRU"), recurrent("GRU", linear_before_reset=1), recurrent("RNN"),
        recurrent("RNN", activations=["Relu"]), recurrent("LSTM", direction="reverse"),
        recurrent("GRU", direction="bidirectional"),
    ],
)  # fmt: skip
def test_recurrent_layers_are_their_parts(model):
    network = load(model)
    assert not {"LSTM", "GRU", "RNN"} & {n.op.label for n in network.graph.nodes}
    check(network)
    holds(network)


def test_attention_is_its_parts():
    constants = {"q": normal(6, 6), "k": normal(6, 6, seed=1), "v": normal(6, 6, seed=2)}
    nodes = [
        node("MatMul", "x q", "a"), node("MatMul", "x k", "b"), node("MatMul", "x v", "c"),
        node("Attention", "a b c", q_num_heads=2, kv_num_heads=2, is_causal=1),
    ]  # fmt: skip
    network = load(proto(nodes, ["n", 3, 6], constants, opset=23))
    assert "Attention" not in {n.op.label for n in network.graph.nodes}
    check(network)
    holds(network)


def holds(network: Network) -> None:
    """Interval and CROWN bounds are not passed by samples."""
    rng = torch.Generator().manual_seed(5)
    centre = torch.randn(network.input_shape, generator=rng, dtype=torch.float64)
    x = centre + 0.1 * (2 * torch.rand(300, *network.input_shape, generator=rng, dtype=torch.float64) - 1)
    y = network.graph_as(torch.float64, "cpu").forward(x)[network.graph.output].flatten(1)
    region = cl.bounds.box((centre - 0.1)[None], (centre + 0.1)[None])
    for bound in (cl.bounds.interval, cl.bounds.crown):
        low = bound(network, region)[0]
        assert bool((low <= y.amin(0) + 1e-9).all())
        assert bool((low > y.amin(0) - 5).all())


def test_steps_between_a_transposition_and_its_inverse_need_neither():
    nodes = [
        node("Conv", "x k", "a"), node("Transpose", "a", "b", perm=[0, 2, 3, 1]), node("Sign", "b", "c"),
        node("Add", "c tenth", "d"), node("Sign", "d", "e"), node("Transpose", "e", "f", perm=[0, 3, 1, 2]),
        node("Conv", "f l", "y"),
    ]  # fmt: skip
    constants = {"k": normal(3, 1, 2, 2), "l": normal(2, 3, 2, 2, seed=1), "tenth": np.float32(0.1)}
    network = load(proto(nodes, ["n", 1, 5, 4], constants, opset=13))
    assert [n.op.label for n in network.graph.nodes[1:]] == ["Convolution", "Sign", "Scale", "Sign", "Convolution"]
    agreeing(network)
    assert tuple(network.original(torch.zeros(1, 1, 5, 4), ["f"])["f"].shape) == (1, 3, 4, 3)
