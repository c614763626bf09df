"""Functions that attacks can follow and that have no bounds yet: softmax, layer norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.ops.base import Operator
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx


@dataclass(frozen=True, eq=False)
class Softmax(Operator):
    """``e^x_i / Σ_j e^x_j`` along a dimension of a sample."""

    dim: int

    has_absolute_error: ClassVar[bool] = True
    keeps_argmax: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The softmax."""
        return inputs[0].softmax(self.dim + 1)


@dataclass(frozen=True, eq=False)
class LogSoftmax(Operator):
    """``x_i − log Σ_j e^x_j`` along a dimension of a sample."""

    dim: int

    has_absolute_error: ClassVar[bool] = True
    keeps_argmax: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The logarithm of the softmax."""
        return inputs[0].log_softmax(self.dim + 1)

    def absolute_error(self, *inputs: Tensor) -> Tensor:
        """The size of what is subtracted from each other."""
        return (1 + inputs[0].abs().amax(self.dim + 1, keepdim=True)).expand_as(inputs[0])


@dataclass(frozen=True, eq=False)
class LayerNorm(Operator):
    """``(x − mean)/√(variance + eps)·weight + bias`` over the last dimensions of a sample.

    Attributes:
        weight: its shape says which dimensions.
        bias: of the same shape, or None.
        eps: see above.
    """

    weight: Tensor
    bias: Tensor | None
    eps: float

    def forward(self, *inputs: Tensor) -> Tensor:
        """The normalised activations."""
        return functional.layer_norm(inputs[0], list(self.weight.shape), self.weight, self.bias, self.eps)


def _dim(call: Call, name: str, x: Value, default: int = -1) -> int:
    return call.axis(call.get(name, default), len(x.shape))


@from_aten("aten.softmax", "aten._softmax")
def _softmax(call: Call) -> Operator:
    return Softmax(_dim(call, "dim", call.activation("self")))


@from_aten("aten.log_softmax", "aten._log_softmax")
def _log_softmax(call: Call) -> Operator:
    return LogSoftmax(_dim(call, "dim", call.activation("self")))


@from_onnx("Softmax")
def _onnx_softmax(call: Call) -> Operator:
    return Softmax(_onnx_dim(call))


@from_onnx("LogSoftmax")
def _onnx_log_softmax(call: Call) -> Operator:
    return LogSoftmax(_onnx_dim(call))


def _onnx_dim(call: Call) -> int:
    """Before opset 13 the softmax ran over all dimensions from ``axis`` on: the same where only the first is not 1."""
    x = call.activation("input")
    if call["opset"] >= 13:
        return _dim(call, "axis", x)
    axis = _dim(call, "axis", x, 1)
    if any(n != 1 for n in x.shape[axis + 1 :]):
        raise call.refuse("before opset 13 it runs over several dimensions at once; save the model with a newer opset")
    return axis


@from_aten("aten.layer_norm")
def _layer_norm(call: Call) -> Operator:
    weight = call.tensor("weight")
    weight = torch.ones(call.ints("normalized_shape"), dtype=torch.float64) if weight is None else weight
    return LayerNorm(weight, call.tensor("bias"), float(call["eps"]))


@from_onnx("LayerNormalization")
def _onnx_layer_norm(call: Call) -> Operator:
    x, weight = call.activation("X"), call.tensor("Scale")
    shape = x.shape[_dim(call, "axis", x) :]
    if weight is None or tuple(weight.shape) != tuple(shape):
        raise call.refuse("its scale does not have the shape of the normalised dimensions")
    return LayerNorm(weight, call.tensor("B"), call.number("epsilon", 1e-5))
