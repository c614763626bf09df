"""Nodes that act element by element, with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.onnx_functions.table import DTYPES, FUNCTIONS, Settings, node_type


class _Plain:
    """A function of tensors as one of a node: its attributes do not matter."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def __call__(self, node: Settings, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


_UNARY: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Log": torch.log, "Neg": torch.neg,
    "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh,
    "Softplus": functional.softplus, "Softsign": functional.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan,
    "Tanh": torch.tanh, "HardSwish": functional.hardswish, "Mish": functional.mish, "IsNaN": torch.isnan,
    "BitwiseNot": torch.bitwise_not, "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Where": torch.where,
}  # fmt: skip
FUNCTIONS.update({name: _Plain(function) for name, function in _UNARY.items()})


@node_type("Identity", "Dropout")
def _identity(node: Settings, x: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    return x if node.outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


@node_type("IsInf")
def _is_inf(node: Settings, x: Tensor) -> Tensor:
    up, down = node.get("detect_positive", 1), node.get("detect_negative", 1)
    return (torch.isposinf(x) & bool(up)) | (torch.isneginf(x) & bool(down))


@node_type("Elu")
def _elu(node: Settings, x: Tensor) -> Tensor:
    return functional.elu(x, node.get("alpha", 1.0))


@node_type("Celu")
def _celu(node: Settings, x: Tensor) -> Tensor:
    return functional.celu(x, node.get("alpha", 1.0))


@node_type("Selu")
def _selu(node: Settings, x: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha", 1.6732632), node.get("gamma", 1.050701)
    return gamma * functional.elu(x, alpha)


@node_type("LeakyRelu")
def _leaky_relu(node: Settings, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, node.get("alpha", 0.01))


@node_type("ThresholdedRelu")
def _thresholded_relu(node: Settings, x: Tensor) -> Tensor:
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


@node_type("HardSigmoid")
def _hard_sigmoid(node: Settings, x: Tensor) -> Tensor:
    return (node.get("alpha", 0.2) * x + node.get("beta", 0.5)).clamp(0.0, 1.0)


@node_type("Gelu")
def _gelu(node: Settings, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.get("approximate", "none"))


@node_type("Swish")
def _swish(node: Settings, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


@node_type("SwiGLU")
def _swiglu(node: Settings, x: Tensor, gate: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x) * gate


@node_type("Shrink")
def _shrink(node: Settings, x: Tensor) -> Tensor:
    bias, edge = node.get("bias", 0.0), node.get("lambd", 0.5)
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, torch.zeros_like(x)))


@node_type("PRelu")
def _prelu(node: Settings, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@node_type("Pow")
def _pow(node: Settings, x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y).to(x.dtype)


@node_type("Div")
def _div(node: Settings, x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@node_type("Mod")
def _mod(node: Settings, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if node.get("fmod", 0) else torch.remainder(x, y)


@node_type("BitShift")
def _bit_shift(node: Settings, x: Tensor, y: Tensor) -> Tensor:
    wide, by = x.to(torch.int64), y.to(torch.int64)
    return (wide << by if node.get("direction") == "LEFT" else wide >> by).to(x.dtype)


@node_type("Max")
def _max(node: Settings, *inputs: Tensor) -> Tensor:
    return reduce(torch.maximum, inputs)


@node_type("Min")
def _min(node: Settings, *inputs: Tensor) -> Tensor:
    return reduce(torch.minimum, inputs)


@node_type("Sum")
def _sum(node: Settings, *inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs)


@node_type("Mean")
def _mean(node: Settings, *inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs) / len(inputs)


@node_type("Clip")
def _clip(node: Settings, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    below = node.get("min") if low is None else low
    above = node.get("max") if high is None else high
    x = x if below is None else torch.maximum(x, torch.as_tensor(below, dtype=x.dtype, device=x.device))
    return x if above is None else torch.minimum(x, torch.as_tensor(above, dtype=x.dtype, device=x.device))


@node_type("Cast", "CastLike")
def _cast(node: Settings, x: Tensor, like: Tensor | None = None) -> Tensor:
    dtype = DTYPES[node.get("to", 0)] if like is None else like.dtype
    # a graph computes all real numbers in one type
    return x.to(node.dtype if dtype.is_floating_point else dtype)


@node_type("OneHot")
def _one_hot(node: Settings, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    count = int(depth)
    places = torch.arange(count, device=indices.device)
    axis = node.get("axis", -1)
    whole = indices.to(torch.int64)
    found = (torch.where(whole < 0, whole + count, whole).unsqueeze(-1) == places).movedim(-1, axis)
    return torch.where(found, values[1], values[0])


def _window(node: Settings, size: Tensor, *, terms: tuple[float, ...]) -> Tensor:
    count = int(size)
    length = count if node.get("periodic", 1) else count - 1
    places = torch.arange(count, dtype=torch.float64) * 2 * math.pi / length
    total = reduce(torch.add, (a * torch.cos(k * places) for k, a in enumerate(terms)))
    return total.to(DTYPES[node.get("output_datatype", 1)])


node_type("HannWindow")(partial(_window, terms=(0.5, -0.5)))
node_type("HammingWindow")(partial(_window, terms=(25 / 46, -21 / 46)))
node_type("BlackmanWindow")(partial(_window, terms=(0.42, -0.5, 0.08)))
