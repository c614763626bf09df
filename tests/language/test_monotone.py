"""Questions about a last sigmoid, softmax or log-softmax are those about what goes into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import clinch as cl
from clinch.modeling.monotone import preimage
from clinch.network.ops.s_shaped import Sigmoid, Tanh
from clinch.network.ops.smooth_activations import Softplus


def body(outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, outputs))


X0 = torch.rand(4, generator=torch.Generator().manual_seed(1))
LOGIT = float(torch.tensor(0.55).double().logit())

#: a last layer, how many outputs go into it, the question about it, and the one about what goes into it
QUESTIONS: dict[str, tuple[nn.Module, int, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "probability of two": (nn.Softmax(1), 2, lambda p: p[0] >= 0.55, lambda z: z[0] - z[1] >= LOGIT),
    "the other probability": (nn.Softmax(1), 2, lambda p: p[1] <= 0.45, lambda z: z[0] - z[1] >= LOGIT),
    "logarithm of a probability": (
        nn.LogSoftmax(1), 2, lambda p: p[0] >= float(torch.tensor(0.55).double().log()), lambda z: z[0] - z[1] >= LOGIT
    ),
    "difference of logarithms": (nn.LogSoftmax(1), 3, lambda p: p[0] - p[2] >= 0.3, lambda z: z[0] - z[2] >= 0.3),
    "two probabilities": (nn.Softmax(1), 3, lambda p: p[0] >= p[2], lambda z: z[0] >= z[2]),
    "sigmoid": (nn.Sigmoid(), 1, lambda p: p[0] >= 0.55, lambda z: z[0] >= LOGIT),
    "either of two sigmoids": (
        nn.Sigmoid(), 2, lambda p: (p[0] >= 0.55) | (p[1] <= 0.3),
        lambda z: (z[0] >= LOGIT) | (z[1] <= float(torch.tensor(0.3).double().logit())),
    ),
}  # fmt: skip


def nearest(model: nn.Module, question: Callable[[Any], Any]) -> cl.Problem:
    net = cl.load(model.eval(), (4,))
    x = net.input
    return cl.Problem(cl.Minimize(cl.norm(x - X0, 2)), [x >= -3, x <= 3, question(net.output)])


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_answer_is_that_about_what_goes_in(name: str):
    last, outputs, asked, before = QUESTIONS[name]
    network = body(outputs)
    problem = nearest(nn.Sequential(network, last), asked)
    assert set(problem.query.atoms.coefficients) == {problem.query.graph.output - _parts(problem)}
    solution, expected = (p.solve(time_limit=60) for p in (problem, nearest(network, before)))
    assert solution.status.name == expected.status.name == "OPTIMAL"
    assert solution.value == pytest.approx(expected.value, rel=2e-3, abs=1e-6)


def _parts(problem: cl.Problem) -> int:
    """How many nodes the last layer is written out in."""
    graph = problem.query.graph
    return graph.output - graph.nodes[graph.output].computed.inputs[0]


def test_points_meet_the_threshold_as_the_model_computes_it():
    model = nn.Sequential(body(1), nn.Sigmoid()).eval()
    solution = nearest(model, lambda p: p[0] >= 0.55).solve(time_limit=60)
    assert solution.x is not None
    x = solution.x.reshape(1, 4)
    with torch.no_grad():
        assert float(model(x.float())) >= 0.55


def test_a_log_likelihood_ratio_is_a_difference_of_logits():
    net = cl.load(nn.Sequential(body(3), nn.LogSoftmax(1)).eval(), (4,))
    problem = cl.Problem(cl.Maximize(net.output[0] - net.output[1]), [net.input >= 0, net.input <= 1])
    (node,) = problem.query.objective.form.coefficients
    assert node == net.graph.nodes[net.graph.output].computed.inputs[0]


def test_an_attack_by_labels_follows_the_logits():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    sharp = nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)).eval()
    with torch.no_grad():
        sharp[0].weight.copy_(60 * torch.eye(3))  # probabilities of 0 and 1, whose gradients vanish
        sharp[0].bias.zero_()
    x = torch.rand(16, 4)
    y = network(x).argmax(1)
    found = [
        cl.attacks.pgd(cl.load(model.eval(), (4,)), x, y, eps=2.0, steps=20, bounds=None).success.sum()
        for model in (network, nn.Sequential(network, sharp))
    ]
    assert found[0] == found[1] > 0


@settings(deadline=None, max_examples=50)
@given(
    value=st.integers(-98, 98).map(lambda n: n / 100),
    above=st.booleans(),
    which=st.sampled_from([Sigmoid(), Tanh(), Softplus()]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_preimage_is_the_first_number_of_the_dtype(value: float, above: bool, which: Any, dtype: torch.dtype):
    values, sides = torch.tensor([[value]], dtype=torch.float64), torch.tensor([[above]])
    found = preimage(which, values, sides, dtype)
    if not bool(found.isfinite()):
        assert not isinstance(which, Tanh) and value < 0.02
        return
    x = found.to(dtype)
    assert float(x) == float(found)

    def meets(at: Tensor) -> bool:
        results = [which.forward(t).double() for t in (at, at.double())]
        return all(bool(y >= value) if above else bool(y <= value) for y in results)

    assert meets(x)
    assert not meets(x - (1 if above else -1) * 1e-3 * (1 + x.abs()))
