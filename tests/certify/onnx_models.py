"""Small ONNX models as bytes, what onnxruntime makes of them, and what the checker's layers amount to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from clinch.checker.layers import Layer
from clinch.checker.matrices import forward, magnitude

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
    with np.errstate(all="ignore"):
        return _evaluated(layers, x)


def _evaluated(layers: list[Layer], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, sizes = [x], [np.abs(x)]
    for layer in layers[1:]:
        every, each = [values[j] for j in layer.inputs], [sizes[j] for j in layer.inputs]
        h, size = every[0], each[0]
        if layer.kind == "relu":
            h = np.maximum(h, layer.slope * h)
        elif layer.kind == "add":
            h, size = h + every[1], size + each[1]
        elif layer.kind == "product":
            h, size = h * every[1], size * each[1]
        elif layer.kind == "maximum":
            h, size = np.max(every, 0), np.max(each, 0)
        elif layer.kind == "function":
            h, size = _function(layer, h, size)
        elif layer.kind == "affine":
            h, size = np.concatenate(every, 1), np.concatenate(each, 1)
            if layer.weight is not None:
                h, size = forward(layer.weight, h), forward(magnitude(layer.weight), size)
            h, size = h + layer.bias, size + np.abs(layer.bias)
        values.append(h)
        sizes.append(size)
    return values[-1], sizes[-1]


#: what torch computes for a function of the checker's
FUNCTIONS = {
    "exp": torch.exp, "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p, "sqrt": torch.sqrt,
    "power": torch.pow, "reciprocal": torch.reciprocal, "sin": torch.sin, "cos": torch.cos, "sinh": torch.sinh,
    "cosh": torch.cosh, "tanh": torch.tanh, "tanhshrink": lambda x: x - x.tanh(), "atan": torch.atan,
    "asinh": torch.asinh, "erf": torch.erf, "sigmoid": torch.sigmoid, "log sigmoid": functional.logsigmoid,
    "softplus": lambda x, b: functional.softplus(x, b, 1e9), "gelu": functional.gelu,
    "gelu tanh": lambda x: functional.gelu(x, approximate="tanh"), "silu": functional.silu, "mish": functional.mish,
    "elu": lambda x, a, s, c: torch.where(x > 0, s * x, s * a * torch.expm1(c * x)), "softsign": functional.softsign,
    "hardswish": functional.hardswish, "sign": torch.sign, "floor": torch.floor, "ceil": torch.ceil,
    "round": torch.round, "softplus until": lambda x, b, t: functional.softplus(x, b, b * t),
}  # fmt: skip


def _function(layer: Layer, h: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value, and by what a relative error of the size could move it."""
    assert layer.function is not None

    def value(x: np.ndarray) -> np.ndarray:
        return FUNCTIONS[layer.function.name](torch.from_numpy(x), *layer.function.parameters).numpy()

    y, step = value(h), 1e-6 * size + 1e-12
    slope = np.fmax(np.abs(value(h + step) - y), np.abs(value(h - step) - y)) / step
    # libraries compute some up to an absolute error
    return y, np.where(np.maximum(size, np.abs(y)) > 1e30, np.inf, np.abs(y) + slope * size + 1)


def tolerance(layers: list[Layer], dtype: np.dtype) -> float:
    """Relative to the sums of magnitudes: what rounding in a dtype amounts to, with room."""
    each = ((16 if layer.function else 4, 0 if layer.weight is None else layer.weight.shape[1]) for layer in layers)
    terms = sum(a + b for a, b in each)
    return 4 * terms * float(np.finfo(dtype).eps)
