"""Nodes of files that a function of torch computes have bounds where they are choices or affine in their data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import clinch as cl

ROW = np.array([[0.2, -0.1, 0.4, 0.0]], dtype=np.float32)
N = helper.make_node
#: name -> the nodes from x to y, and their constants
NODES = {
    "leaky by where": (
        [N("Greater", ["x", "zero"], ["c"]), N("Mul", ["x", "tenth"], ["s"]), N("Where", ["c", "x", "s"], ["y"])],
        {"zero": np.float32(0), "tenth": np.float32(0.1)},
    ),
    "larger of a row": (
        [N("LessOrEqual", ["x", "row"], ["c"]), N("Neg", ["x"], ["m"]), N("Where", ["c", "m", "x"], ["y"])],
        {"row": ROW},
    ),
    "in a window": (
        [
            N("Less", ["x", "high"], ["a"]), N("Greater", ["x", "low"], ["b"]), N("And", ["a", "b"], ["c"]),
            N("Cast", ["c"], ["f"], to=TensorProto.FLOAT), N("Mul", ["f", "x"], ["y"]),
        ],
        {"high": np.float32(0.5), "low": np.float32(-0.25)},
    ),
    "neither, as numbers": (
        [
            N("Exp", ["x"], ["e"]), N("Less", ["e", "x"], ["a"]), N("Equal", ["x", "row"], ["b"]),
            N("Or", ["a", "b"], ["o"]), N("Not", ["o"], ["c"]), N("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
        ],
        {"row": ROW},
    ),
    "running sum": ([N("CumSum", ["x", "one"], ["y"], reverse=1)], {"one": np.int64(1)}),
    "tiles": ([N("Tile", ["x", "times"], ["y"])], {"times": np.array([1, 2])}),
    "scattered": (
        [N("ScatterElements", ["row", "places", "x"], ["y"], axis=1, reduction="add")],
        {"row": ROW, "places": np.array([[0, 0, 3, 1]])},
    ),
    "contraction": ([N("Einsum", ["x", "w"], ["y"], equation="bi,io->bo")], {"w": np.outer(ROW, ROW + 1)}),
    "length": ([N("ReduceL2", ["x", "axes"], ["y"])], {"axes": np.array([1])}),
    "size": ([N("ReduceL1", ["x", "axes"], ["y"])], {"axes": np.array([1])}),
}  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_nodes_have_bounds_that_no_value_passes(name: str):
    nodes, constants = NODES[name]
    value = lambda label: helper.make_tensor_value_info(label, TensorProto.FLOAT, None)  # noqa: E731
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])], [value("y")],
        [numpy_helper.from_array(np.asarray(v), label) for label, v in constants.items()],
    )  # fmt: skip
    net = cl.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    assert net.graph.lacking([net.graph.output], ("interval", "relax")) is None
    x = torch.rand(300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    values = net.graph_as(torch.float64, "cpu").forward(x)[net.graph.output]
    region = cl.bounds.box(-torch.ones(1, 4), torch.ones(1, 4))
    for bound in (cl.bounds.interval(net, region), cl.bounds.crown(net, region)):
        assert bool(bound.isfinite().all())
        assert bool((bound[0] <= values.amin(0) + 1e-9).all())


def test_a_number_without_a_batch_is_compared_with_one_of_the_batch():
    nodes = [
        N("ArgMax", ["x"], ["at"], axis=1, keepdims=0), N("Cast", ["at"], ["place"], to=TensorProto.FLOAT),
        N("Reshape", ["x", "flat"], ["all"]), N("Gather", ["all", "third"], ["label"]),
        N("Equal", ["place", "label"], ["same"]), N("Cast", ["same"], ["y"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    value = lambda label, shape: helper.make_tensor_value_info(label, TensorProto.FLOAT, shape)  # noqa: E731
    constants = {"flat": np.array([-1]), "third": np.int64(2)}
    graph = helper.make_graph(
        nodes, "g", [value("x", [1, 3])], [value("y", [1])],
        [numpy_helper.from_array(np.asarray(v), label) for label, v in constants.items()],
    )  # fmt: skip
    net = cl.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    inputs = torch.tensor([[0.5, 2.0, 1.0], [0.5, 0.2, 0.0], [0.5, 0.2, 1.0]], dtype=torch.float64)
    assert [float(net.graph_as(torch.float64, "cpu").forward(x[None])[net.graph.output]) for x in inputs] == [1, 1, 0]
    for x, most in zip(inputs, (1.0, 1.0, 0.0)):
        lower, upper = (x[None] - 0.05).clone(), (x[None] + 0.05).clone()
        lower[0, 2] = upper[0, 2] = x[2]
        region = cl.bounds.box(lower, upper)
        below, above = cl.bounds.crown(net, region), -cl.bounds.crown(net, region, torch.tensor([[-1.0]]))
        assert below.item() <= most + 1e-9 and above.item() >= most - 1e-9 and bool(above.isfinite().all())
