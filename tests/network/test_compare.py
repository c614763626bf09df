"""Loading compares graph and original: rounding passes, whatever the size of the outputs, a wrong reading does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from clinch.errors import NetworkError
from clinch.modeling.model import load
from clinch.network.compare import compare


def file(ops: list[str], shift: float, scale: float = 1.0):
    """A dense ReLU network whose outputs are about ``shift ± scale``, then some functions."""
    rng = np.random.default_rng(0)
    parameters = {
        "W": rng.normal(size=(4, 8)),
        "V": scale * rng.normal(size=(8, 3)),
        "b": np.full(3, shift),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "V", "b"], ["z0"]),
        *(helper.make_node(op, [f"z{i}"], [f"z{i + 1}"]) for i, op in enumerate(ops)),
    ]
    ends = [("x", [None, 4]), (f"z{len(ops)}", [None, 3])]
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in parameters.items()]
    graph = helper.make_graph(nodes, "net", [first], [last], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("shift", [-60.0, -20.0, -10.0, 0.0, 20.0])
@pytest.mark.parametrize("ops", [["Sigmoid"], ["Softmax"], ["Tanh"], ["LogSoftmax"], ["Sigmoid", "Sigmoid"]], ids=str)
def test_the_size_of_the_outputs_does_not_matter(ops, shift):
    for scale in (1e-3, 1.0, 30.0):
        load(file(ops, shift, scale))


@pytest.mark.parametrize("function", [torch.sigmoid, torch.tanh, torch.exp, lambda h: h.sigmoid().log()])
@pytest.mark.parametrize("shift", [-80.0, 0.0, 80.0])
def test_modules_with_tiny_and_huge_outputs(function, shift):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return function(self.inner(x) + shift)

    load(Net().eval(), (4,))


@pytest.mark.parametrize("shift", [-20.0, -10.0, 0.0])
def test_a_wrong_reading_is_refused_behind_a_sigmoid_too(shift):
    network, other = load(file(["Sigmoid"], shift)), load(file(["Sigmoid"], shift + 0.05))
    samples = [torch.rand(3, 4, generator=torch.Generator().manual_seed(0))]

    def original(x: Tensor, layers: list[str]) -> dict[str, Tensor]:
        return other.original(x, layers)

    with pytest.raises(NetworkError, match="differs from the original"):
        compare(network.graph_as(torch.float64, "cpu"), network.graph, original, samples, "net")
    compare(network.graph_as(torch.float64, "cpu"), network.graph, network.original, samples, "net")


def test_what_overflows_on_every_sample_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).eval().requires_grad_(False)
    for layer in model:
        layer.weight.fill_(1e30)
        layer.bias.fill_(1e30)
    with pytest.raises(NetworkError, match="overflows on random inputs"):
        load(model, (2,))
