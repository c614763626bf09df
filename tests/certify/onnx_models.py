"""Small ONNX models as bytes, what onnxruntime makes of them, and what the checker's layers amount to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from clinch.checker.layers import Layer
from clinch.checker.matrices import forward

onnxruntime.set_default_logger_severity(4)


def model(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray], *, shape: Sequence[int | str] = (1, 3),
    opset: int = 17, ir: int = 9, output: str = "y", dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:  # fmt: skip
    """A model with the input x and one output."""
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", dtype, list(shape))],
        [helper.make_tensor_value_info(output, dtype, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def session(content: bytes) -> onnxruntime.InferenceSession:
    """The model as onnxruntime runs it, one thread; raises where it refuses it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def evaluated(layers: list[Layer], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Output of the layers for inputs ``(N, n)`` in float64, and a bound of the sums of magnitudes behind it."""
    values, sizes = [x], [np.abs(x)]
    for layer in layers[1:]:
        h, size = values[layer.inputs[0]], sizes[layer.inputs[0]]
        if layer.kind == "relu":
            h = np.maximum(h, layer.slope * h)
        elif layer.kind == "add":
            h, size = h + values[layer.inputs[1]], size + sizes[layer.inputs[1]]
        elif layer.kind == "affine":
            if layer.weight is not None:
                h, size = forward(layer.weight, h), forward(_absolute(layer.weight), size)
            h, size = h + layer.bias, size + np.abs(layer.bias)
        values.append(h)
        sizes.append(size)
    return values[-1], sizes[-1]


def _absolute(weight):
    return np.abs(weight) if isinstance(weight, np.ndarray) else weight._replace(kernel=np.abs(weight.kernel))


def tolerance(layers: list[Layer], dtype: np.dtype) -> float:
    """Relative to the sums of magnitudes: what rounding in a dtype amounts to, with room."""
    terms = sum(4 + (0 if layer.weight is None else layer.weight.shape[1]) for layer in layers)
    return 4 * terms * float(np.finfo(dtype).eps)
