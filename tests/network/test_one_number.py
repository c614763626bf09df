"""Networks that return one number per input, shape ``(B,)``, one in a row, ``(B, 1)``, or a table, ``(B, 2, 3)``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import clinch as cl
from clinch.network.network import Network

ENDINGS = {
    "squeeze": lambda h: h[:, :1].squeeze(-1),
    "select": lambda h: h[:, 1],
    "sum": lambda h: h.sum(1),
    "mean": lambda h: h.mean(-1),
    "product with a vector": lambda h: h @ torch.arange(6.0),
    "arithmetic": lambda h: torch.relu(h[:, 0] + 2 * h[:, 1]) - h[:, 2] * 0.5 + 1,
    "in the middle": lambda h: torch.cat([torch.relu(h[:, 0] - h[:, 1]).unsqueeze(1), h[:, 2:3]], 1).sum(1),
    "a row": lambda h: h[:, :1],
    "a table": lambda h: h.view(-1, 2, 3),
}
ONLY_FORWARD = {"largest": lambda h: h.amax(1), "sigmoid of one": lambda h: torch.logsumexp(h, 1)}


def module(function) -> nn.Module:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            return function(self.inner(x))

    return Net().eval().requires_grad_(False)


def onnx_file(ending: str):
    """Two dense layers; one output through Squeeze, Gather or ReduceSum."""
    rng = np.random.default_rng(0)
    values = {"W": rng.normal(size=(2, 6)), "V": rng.normal(size=(6, 1 if ending == "Squeeze" else 6))}
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    weights.append(numpy_helper.from_array(np.array(1) if ending == "Gather" else np.array([1]), "k"))
    options = {"Squeeze": {}, "Gather": {"axis": 1}, "ReduceSum": {"keepdims": 0}}[ending]
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["h"]),
        helper.make_node(ending, ["h", "k"], ["y"], **options),
    ]
    first = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])
    last = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    graph = helper.make_graph(nodes, "net", [first], [last], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def grid() -> Tensor:
    side = torch.linspace(0, 1, 201)
    return torch.cartesian_prod(side, side)


def assert_solved(net: Network, values: Tensor) -> None:
    """Maximum by every engine, distances, bounds and attacks, beside a grid."""
    best, box = float(values.max()), [net.input >= 0, net.input <= 1]
    z = net.output.flatten()[0]
    for solver in (None, "branch_and_bound", "input_split", "general_split", "milp"):
        found = cl.Problem(cl.Maximize(z), box).solve(time_limit=20, solver=solver)
        assert found.status is cl.Status.OPTIMAL
        assert best - 1e-6 <= found.bound <= best + 0.05 and found.value >= best - 1e-5
    region = cl.bounds.box(torch.zeros(1, 2), torch.ones(1, 2))
    for bound in (cl.bounds.interval, cl.bounds.crown, cl.bounds.lp):
        assert float(bound(net, region).flatten()[0]) <= float(values.min()) + 1e-6
    middle = (float(values.min()) + best) / 2
    problem = cl.Problem(cl.Minimize(cl.norm(net.input - torch.tensor([0.5, 0.5]), 2)), [*box, z >= middle])
    assert problem.solve(time_limit=20).status is cl.Status.OPTIMAL
    assert bool(cl.attacks.nearest(problem).success)


@pytest.mark.parametrize("name", ENDINGS)
def test_modules(name):
    model = module(ENDINGS[name])
    net = cl.load(model, (2,))
    values = model(grid())
    if values.dim() == 1:
        assert net.output.shape == (1,)
    assert_solved(net, values.flatten(1)[:, 0] if values.dim() > 1 else values)


@pytest.mark.parametrize("name", ONLY_FORWARD)
def test_functions_that_attacks_alone_can_follow(name):
    model = module(ONLY_FORWARD[name])
    net = cl.load(model, (2,))
    found = cl.attacks.minimise(cl.Problem(cl.Maximize(net.output), [net.input >= 0, net.input <= 1]))
    assert float(-found.value) == pytest.approx(float(model(grid()).max()), abs=1e-2)


@pytest.mark.parametrize("ending", ["Squeeze", "Gather", "ReduceSum"])
def test_files(ending):
    net = cl.load(onnx_file(ending))
    assert net.output.shape == (1,)
    assert_solved(net, net.original(grid(), [net.layers[-1]])[net.layers[-1]].flatten())


def test_an_output_of_one_element_is_an_objective_as_it_is():
    net = cl.load(module(ENDINGS["squeeze"]), (2,))
    box = [net.input >= 0, net.input <= 1]
    whole, indexed = (cl.Problem(cl.Maximize(e), box).solve(time_limit=20) for e in (net.output, net.output[0]))
    assert whole.value == indexed.value
