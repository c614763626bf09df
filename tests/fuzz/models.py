"""Small ONNX files that use much of the format: shape arithmetic, convolutions, pools, several constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def _model(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int | str], constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def dense() -> onnx.ModelProto:
    """Two inputs, three hidden neurons, two outputs."""
    node = helper.make_node
    nodes = [
        node("Gemm", ["x", "a", "b"], ["g"], transB=1),
        node("Relu", ["g"], ["h"], name="h"),
        node("MatMul", ["h", "c"], ["m"]),
        node("Add", ["m", "d"], ["y"]),
    ]
    return _model(nodes, ["n", 2], {"a": _random(3, 2), "b": _random(3), "c": _random(3, 2), "d": _random(2)})


def convolution() -> onnx.ModelProto:
    """A convolution, batch normalisation, a pool, and a reshape by shape arithmetic."""
    node = helper.make_node
    nodes = [
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "w", "b"], ["c"], strides=[1, 1], dilations=[1, 1], pads=[0, 0, 0, 0], kernel_shape=[3, 3]),
        node("BatchNormalization", ["c", "s", "b", "b", "v"], ["n"], epsilon=1e-3),
        node("LeakyRelu", ["n"], ["r"], alpha=0.1),
        node("MaxPool", ["r"], ["q"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=0),
        node("Shape", ["q"], ["size"]),
        node("Gather", ["size", "zero"], ["first"], axis=0),
        node("Unsqueeze", ["first", "axis"], ["one"]),
        node("Concat", ["one", "minus"], ["target"], axis=0),
        node("Reshape", ["q", "target"], ["f"]),
        node("Slice", ["f", "axis", "four", "minus"], ["t"]),
        node("Sigmoid", ["t"], ["y"]),
    ]
    constants = {
        "w": _random(2, 1, 3, 3), "b": _random(2), "s": _random(2), "v": np.ones(2, np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "zero": np.array(0), "axis": np.array([0]), "minus": np.array([-1]),
        "four": np.array([4]),
    }  # fmt: skip
    return _model(nodes, [1, 1, 4, 4], constants)


def residual() -> onnx.ModelProto:
    """A sum of two branches, constants made by nodes, a concatenation, a split."""
    node = helper.make_node
    nodes = [
        node("ConstantOfShape", ["size"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        node("Range", ["start", "stop", "start1"], ["index"]),
        node("Constant", [], ["two"], value=numpy_helper.from_array(np.array([2.0], np.float32))),
        node("Mul", ["x", "two"], ["u"]),
        node("Add", ["u", "ones"], ["v"]),
        node("Gather", ["v", "index"], ["w"], axis=1),
        node("Sub", ["w", "x"], ["k"]),
        node("Concat", ["k", "x"], ["l"], axis=1),
        node("Split", ["l"], ["left", "right"], axis=1),
        node("Clip", ["left", "low", "high"], ["y"]),
    ]
    constants = {
        "size": np.array([3]), "start": np.array(0), "stop": np.array(3), "start1": np.array(1),
        "low": np.array(-1, np.float32), "high": np.array(1, np.float32),
    }  # fmt: skip
    return _model(nodes, ["n", 3], constants)


def checked() -> onnx.ModelProto:
    """What the checker of certificates reads: a convolution, leaky ReLUs, sums of branches, dense layers."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2], dilations=[1, 1], pads=[1, 1, 1, 1], group=1),
        node("LeakyRelu", ["c"], ["r"], alpha=0.1),
        node("Add", ["r", "c"], ["s"]),
        node("Flatten", ["s"], ["f"], axis=1),
        node("Gemm", ["f", "d", "e"], ["g"], transB=1),
        node("Relu", ["g"], ["h"]),
        node("Reshape", ["h", "shape"], ["k"]),
        node("Sub", ["k", "e"], ["y"]),
    ]
    constants = {
        "w": _random(2, 1, 3, 3), "b": _random(2), "d": _random(3, 8), "e": _random(3), "shape": np.array([1, -1]),
    }  # fmt: skip
    return _model(nodes, [1, 1, 4, 4], constants)


MODELS = {make.__name__: make for make in (dense, convolution, residual)}
