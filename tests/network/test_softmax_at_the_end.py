"""The class behind a softmax is that of what goes into it; choices between lines that meet are ReLUs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

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
    logits = net.graph.output - 1
    assert set(net.output.argmax().expression.terms) == {logits}
    assert set(net.output.argmax(0.1).expression.terms) == {net.graph.output}


class Chosen(nn.Module):
    """A function of the input, element by element."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "continuous"),
    [
        (lambda x: torch.where(x > 0, x, 0.1 * x), True), (lambda x: torch.where(x <= 0.5, 1 - x, 3 * x - 1), True),
        (lambda x: torch.where(x < -1, -1.0, x), True), (lambda x: x.masked_fill(x < 0, 0.0), True),
        (lambda x: torch.where(x > 0, 2.0, x), False), (lambda x: torch.where(x > 0, x * x, x), False),
    ],
)  # fmt: skip
def test_a_choice_between_lines_that_meet_is_a_relu(function, continuous):
    net = cl.load(Chosen(function).eval(), (3,))
    labels = {node.op.label for node in net.graph.nodes}
    assert ("ReLU" in labels) == continuous
    x = torch.linspace(-2, 2, 300).reshape(100, 3)
    torch.testing.assert_close(net.graph.forward(x)[net.graph.output], function(x))
