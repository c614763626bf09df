"""Loops, scans, sequences, trees, support vectors and fused nodes of ONNX files: onnxruntime's values, sound bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import clinch as cl
from clinch.errors import UnsupportedOperator

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
ML, MICROSOFT = "ai.onnx.ml", "com.microsoft"
node = helper.make_node


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def graph(nodes: list[NodeProto], inputs: dict[str, int], outputs: dict[str, int], **constants: Any) -> GraphProto:
    """A body of a loop."""
    first, last = (
        [helper.make_tensor_value_info(n, kind, None if kind == FLOAT else []) for n, kind in side.items()]
        for side in (inputs, outputs)
    )
    initial = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    return helper.make_graph(nodes, "body", first, last, initial)


def file(nodes: list[NodeProto], shape: list[Any], opset: int = 18, **constants: Any) -> ModelProto:
    """A file from x to y."""
    ends = [helper.make_tensor_value_info(name, FLOAT, s) for name, s in (("x", shape), ("y", None))]
    initial = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    sets = [
        helper.make_opsetid("", opset),
        helper.make_opsetid(ML, 5 if opset > 20 else 3),
        helper.make_opsetid(MICROSOFT, 1),
    ]
    return helper.make_model(
        helper.make_graph(nodes, "file", [ends[0]], [ends[1]], initial), opset_imports=sets, ir_version=10
    )


def loop(most: bool) -> ModelProto:
    """Three passes, because three are asked for or because the condition ends."""
    nodes = [node("Less", ["i", "two"], ["again"]), node("MatMul", ["v", "W"], ["m"]), node("Tanh", ["m"], ["w"])]
    nodes += [node("ReduceSum", ["w", "axis"], ["s"], keepdims=0)]
    if most:
        nodes[0] = node("Identity", ["go"], ["again"])
    body = graph(nodes, {"i": INT, "go": BOOL, "v": FLOAT}, {"again": BOOL, "w": FLOAT, "s": FLOAT}, axis=np.array([1]))
    outer = [node("Loop", ["M" if most else "", "C", "x"], ["v_end", "sums"], body=body)]
    outer += [node("Transpose", ["sums"], ["t"], perm=[1, 0]), node("Concat", ["t", "v_end"], ["y"], axis=1)]
    return file(outer, ["N", 4], M=np.int64(3), C=np.bool_(True), W=weights(4, 4), two=np.int64(2))


def scan() -> ModelProto:
    """A recurrent cell from the last time to the first."""
    nodes = [node("Concat", ["h", "xt"], ["c"], axis=1), node("MatMul", ["c", "W"], ["m"]), node("Tanh", ["m"], ["n"])]
    nodes += [node("Identity", ["n"], ["o"])]
    body = graph(nodes, {"h": FLOAT, "xt": FLOAT}, {"n": FLOAT, "o": FLOAT})
    outer = [
        node("Scan", ["h0", "x"], ["end", "all"], body=body, num_scan_inputs=1, scan_input_axes=[1],
             scan_input_directions=[1], scan_output_axes=[1], scan_output_directions=[1]),
        node("Flatten", ["all"], ["f"]), node("Concat", ["f", "end"], ["y"], axis=1),
    ]  # fmt: skip
    return file(outer, [1, 3, 2], h0=np.zeros((1, 3), np.float32), W=weights(5, 3))


def sequence() -> ModelProto:
    nodes = [
        node("SplitToSequence", ["x", "two"], ["s"], axis=1), node("SequenceAt", ["s", "last"], ["a"]),
        node("SequenceErase", ["s", "zero"], ["r"]), node("SequenceAt", ["s", "zero"], ["b"]),
        node("Mul", ["a", "b"], ["p"]), node("SequenceInsert", ["r", "p", "zero"], ["q"]),
        node("ConcatFromSequence", ["q"], ["y"], axis=1),
    ]  # fmt: skip
    return file(nodes, ["N", 4], two=np.int64(2), last=np.int64(-1), zero=np.int64(0))


TREES: dict[str, Any] = {
    "nodes_treeids": [0] * 5 + [1] * 3, "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
    "nodes_featureids": [0, 1, 0, 0, 0, 3, 0, 0],
    "nodes_values": [0.5, 0.3, 0.0, 0.0, 0.0, 0.4, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "BRANCH_GT", "LEAF", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 3, 0, 0, 0, 1, 0, 0], "nodes_falsenodeids": [2, 4, 0, 0, 0, 2, 0, 0],
}  # fmt: skip
LEAVES = {"treeids": [0, 0, 0, 1, 1], "nodeids": [2, 3, 4, 1, 2], "weights": [0.1, -0.2, 0.3, 0.5, -0.4]}


def regressor(**further: Any) -> ModelProto:
    leaves = {f"target_{k}": v for k, v in LEAVES.items()} | {
        "target_ids": [0] * 5,
        "n_targets": 1,
        "base_values": [0.25],
    }
    return file([node("TreeEnsembleRegressor", ["x"], ["y"], domain=ML, **TREES, **leaves, **further)], ["N", 4])


def classifier(classes: list[int], post: str, labels: int) -> ModelProto:
    leaves = {f"class_{k}": v for k, v in LEAVES.items()} | {"class_ids": classes}
    names = {"classlabels_int64s": list(range(labels)), "post_transform": post}
    return file([node("TreeEnsembleClassifier", ["x"], ["l", "y"], domain=ML, **TREES, **leaves, **names)], ["N", 4])


def ensemble() -> ModelProto:
    def tensor(values: Any, kind: Any = np.float32) -> TensorProto:
        return numpy_helper.from_array(np.array(values, kind))

    given = {
        "nodes_splits": tensor([0.5, 0.3]), "nodes_featureids": [0, 2], "nodes_modes": tensor([0, 2], np.uint8),
        "nodes_truenodeids": [1, 0], "nodes_falsenodeids": [2, 1], "nodes_trueleafs": [0, 1],
        "nodes_falseleafs": [1, 1],
        "tree_roots": [0], "leaf_targetids": [0, 0, 0], "leaf_weights": tensor([0.5, -0.2, 0.9]), "n_targets": 1,
    }  # fmt: skip
    return file([node("TreeEnsemble", ["x"], ["y"], domain=ML, **given)], ["N", 4], opset=21)


def support(kernel: str) -> ModelProto:
    given = {"kernel_type": kernel, "kernel_params": [0.3, 0.5, 2.0], "rho": [0.1]}
    vectors = {"support_vectors": weights(12).tolist(), "coefficients": weights(3).tolist(), "n_supports": 3}
    return file([node("SVMRegressor", ["x"], ["y"], domain=ML, **given, **vectors)], ["N", 4])


def vectors_of_two() -> ModelProto:
    given = {"kernel_type": "RBF", "kernel_params": [0.3, 0.0, 3.0], "rho": [0.1], "vectors_per_class": [2, 2]}
    vectors = {"support_vectors": weights(16).tolist(), "coefficients": weights(4).tolist(), "classlabels_ints": [0, 1]}
    return file([node("SVMClassifier", ["x"], ["l", "y"], domain=ML, **given, **vectors)], ["N", 4])


def fused() -> ModelProto:
    nodes = [
        node("FusedMatMul", ["x", "W"], ["m"], domain=MICROSOFT, transB=1, alpha=0.5),
        node("BiasGelu", ["m", "b"], ["g"], domain=MICROSOFT),
        node("FusedGemm", ["g", "V", "c"], ["f"], domain=MICROSOFT, activation="LeakyRelu", activation_alpha=0.1),
        node("QuickGelu", ["f"], ["y"], domain=MICROSOFT, alpha=1.7),
    ]
    return file(nodes, ["N", 4], W=weights(6, 4), b=weights(6), V=weights(6, 3), c=weights(3))


def skipping() -> ModelProto:
    """A residual sum in front of a layer norm."""
    given = node("SkipLayerNormalization", ["x", "r", "gamma", "b"], ["y"], domain=MICROSOFT, epsilon=1e-2)
    return file([node("Mul", ["x", "x"], ["r"]), given], ["N", 4], gamma=weights(4), b=weights(4))


def fused_convolution() -> ModelProto:
    nodes = [node("FusedConv", ["x", "W", "b"], ["y"], domain=MICROSOFT, activation="Relu", pads=[1, 1, 1, 1])]
    return file(nodes, ["N", 1, 3, 3], W=weights(2, 1, 3, 3), b=weights(2))


def attention() -> ModelProto:
    given = node("Attention", ["x", "W", "b"], ["y"], domain=MICROSOFT, num_heads=2, unidirectional=1)
    return file([given], ["N", 3, 4], W=weights(4, 12), b=weights(12))


def of_four_bits() -> ModelProto:
    """Two blocks of weights, two of them a byte, with a zero of their own."""
    numbers = np.random.default_rng(0).integers(0, 256, (3, 2, 8)).astype(np.uint8)
    given = node("MatMulNBits", ["x", "W", "s", "z"], ["y"], domain=MICROSOFT, K=30, N=3, bits=4, block_size=16)
    zeros = np.array([0x78, 0x97, 0x86], np.uint8)
    return file([given], ["N", 30], W=numbers, s=0.1 * abs(weights(6)), z=zeros)


def one_of() -> ModelProto:
    nodes = [node("Mul", ["x", "two"], ["m"]), node("Floor", ["m"], ["f"])]
    nodes += [node("OneHotEncoder", ["f"], ["o"], domain=ML, cats_int64s=[0, 1, 2], zeros=1)]
    return file([*nodes, node("Flatten", ["o"], ["y"])], ["N", 4], two=np.float32(2))


def peepholes() -> ModelProto:
    """An LSTM that sees its cell, with weights of their own in either direction."""
    nodes = [
        node("LSTM", ["x", "W", "R", "B", "", "", "", "P"], ["", "h"], hidden_size=2, direction="bidirectional"),
        node("Reshape", ["h", "s"], ["y"]),
    ]
    own = (weights(2, 8, 2), weights(2, 8, 2), weights(2, 16), weights(2, 6))
    return file(nodes, [2, 1, 2], 18, W=own[0], R=own[1], B=own[2], P=own[3], s=np.array([1, -1]))


def finite() -> ModelProto:
    """A guard against what is not a number."""
    nodes = [node("Div", ["x", "d"], ["q"]), node("IsInf", ["q"], ["i"]), node("IsNaN", ["q"], ["n"])]
    nodes += [node("Or", ["i", "n"], ["o"]), node("Where", ["o", "zero", "q"], ["y"])]
    return file(nodes, ["N", 4], d=np.array([1, 2, 0.5, 4], np.float32), zero=np.float32(0))


FILES: dict[str, Callable[[], ModelProto]] = {
    "loop of three": lambda: loop(most=True), "loop by condition": lambda: loop(most=False), "scan": scan,
    "sequence": sequence, "trees": regressor, "trees averaged": lambda: regressor(aggregate_function="AVERAGE"),
    "trees, least": lambda: regressor(aggregate_function="MIN"),
    "trees of three classes": lambda: classifier([0, 1, 2, 1, 0], "SOFTMAX", 3),
    "trees of two classes": lambda: classifier([0] * 5, "LOGISTIC", 2), "tree ensemble": ensemble,
    "support vectors, polynomial": lambda: support("POLY"), "support vectors, sigmoid": lambda: support("SIGMOID"),
    "support vectors, linear": lambda: support("LINEAR"), "support vectors of two classes": vectors_of_two,
    "fused": fused, "fused attention": attention, "weights of four bits": of_four_bits, "one of three": one_of,
    "layer norm of a sum": skipping, "fused convolution": fused_convolution,
    "swish": lambda: file([node("Swish", ["x"], ["y"], alpha=1.5)], ["N", 4], 24),
    "peepholes": peepholes, "finite": finite,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_load_and_their_bounds_hold(name: str) -> None:
    """Loading compares the values with onnxruntime's; no sample passes the bounds."""
    network = cl.load(FILES[name](), (2, 1, 2) if name == "peepholes" else None)
    centre = torch.rand(network.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = network.graph_as(torch.float64, "cpu")
    noise = torch.rand(200, *centre.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
    values = exact.forward(centre + 0.3 * noise)[exact.output]
    region = cl.bounds.box(centre[None] - 0.3, centre[None] + 0.3)
    for bound in (cl.bounds.interval, cl.bounds.crown):
        lower = bound(network, region)
        assert bool(lower.isfinite().all()) and bool((values.flatten(1) >= lower - 1e-9).all())


def test_a_loop_that_depends_on_the_input_is_refused_by_name() -> None:
    """How often it runs has to be known."""
    body = graph(
        [node("Identity", ["go"], ["again"]), node("Relu", ["v"], ["w"])],
        {"i": INT, "go": BOOL, "v": FLOAT},
        {"again": BOOL, "w": FLOAT},
    )
    nodes = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Cast", ["s"], ["M"], to=INT)]
    model = file([*nodes, node("Loop", ["M", "", "x"], ["y"], body=body, name="again and again")], ["N", 4])
    with pytest.raises(
        UnsupportedOperator, match=r"'again and again'.*how often it runs depends on the network's input"
    ):
        cl.load(model)
