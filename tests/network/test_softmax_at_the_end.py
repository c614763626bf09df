"""The class behind a softmax is that of what goes into it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import clinch as cl


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1)], ids=["softmax", "log-softmax"])
def test_the_nearest_input_of_another_class_is_that_of_the_logits(last: nn.Module):
    torch.manual_seed(4)
    logits = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x0 = torch.rand(4)
    label = int(logits(x0[None]).argmax())
    values = []
    for model in (logits, nn.Sequential(logits, last).eval()):
        net = cl.load(model, (4,))
        x = net.input
        problem = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [x >= -3, x <= 3, net.output.argmax() != label])
        solution = problem.solve(time_limit=60)
        assert solution.status.name == "OPTIMAL"
        values.append(solution.value)
    assert values[0] == pytest.approx(values[1], rel=2e-3)


def test_a_margin_of_probabilities_is_one_of_probabilities():
    net = cl.load(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)).eval(), (4,))
    (logits,) = net.graph.nodes[net.graph.output].computed.inputs
    assert set(net.output.argmax().expression.terms) == {logits}
    assert set(net.output.argmax(0.1).expression.terms) == {net.graph.output}
