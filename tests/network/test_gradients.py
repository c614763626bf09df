"""Gradients without autograd are autograd's."""

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.losses import LOSSES, candidate_loss, loss_of
from clinch.attacks.core.objective import AttackObjective
from clinch.network.gradients import Gradients, plain_graph

from .operator_specimens import specimens

ALL = {str(specimen): specimen for specimen in specimens()}


def test_every_operator_says_how_gradients_go_back_as_autograd_has_it():
    known = []
    for name, specimen in ALL.items():
        pull = specimen.op.pullback(specimen.shapes)
        if pull is None:
            continue
        known.append(name)
        generator = torch.Generator().manual_seed(len(name))
        low = max(0.2, specimen.within[0] + 0.1)
        width = min(0.7, specimen.within[1] - low - 0.1)
        inputs = [low + width * torch.rand(3, *shape, generator=generator).double() for shape in specimen.shapes]
        inputs = [x.requires_grad_() for x in inputs]
        output = specimen.op.forward(*inputs)
        gradient = torch.randn(output.shape, generator=generator).double()
        expected = torch.autograd.grad(output, inputs, gradient)
        for ours, theirs in zip(pull(gradient, inputs, output), expected):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=name)
    assert len(known) >= 60


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.first(x).tanh()
        return self.last(h + self.inner(h).relu()) * 2.0


def sequence() -> nn.Module:
    first = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.LeakyReLU(0.1), nn.Dropout())
    return nn.Sequential(first, nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 4), nn.Identity())


@pytest.mark.parametrize("name", ["sequence", "graph"])
def test_gradients_of_networks(name: str):
    torch.manual_seed(1)
    model = (sequence() if name == "sequence" else Residual()).eval().double()
    shape = (2, 6, 6) if name == "sequence" else (5,)
    x = torch.rand(3, *shape).double().requires_grad_()
    graph = plain_graph(model, x) if name == "sequence" else cl.load(model, input_shape=shape).graph
    plain = Gradients.of(graph, graph.output)
    values, output = plain.values(x.detach()), model(x)
    weights = torch.randn(output.shape).double()
    torch.testing.assert_close(values[graph.output], output.detach(), rtol=1e-12, atol=1e-12)
    (expected,) = torch.autograd.grad(output, x, weights)
    torch.testing.assert_close(plain.back(values, weights), expected, rtol=1e-12, atol=1e-12)


def test_what_is_no_sequence_of_plain_layers_is_left_to_autograd():
    x = torch.rand(2, 4)

    class Own(nn.Linear):
        pass

    hooked = nn.Sequential(nn.Linear(4, 3))
    hooked[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    replaced = nn.Sequential(nn.Linear(4, 3))
    replaced[0].forward = lambda x: x[:, :3]
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    for model in (Own(4, 3), Residual(), hooked, replaced, normed, nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))):
        assert plain_graph(model, x) is None
    assert plain_graph(nn.Linear(4, 3), x) is not None


@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_slopes_of_losses_are_those_of_autograd(target, outputs, monkeypatch):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    x = torch.rand(5, 6)
    objective = AttackObjective(ClassQuery(model, x, torch.tensor([0, 1, 3, 4, 0]), target=target, outputs=outputs))
    indices, z = torch.tensor([0, 1, 2, 3, 4, 0, 1]), torch.rand(7, 6)
    losses = [None, *(loss_of(objective.query, name) for name in ("margin", *LOSSES))]
    losses += [candidate_loss(torch.tensor(c)) for c in ([2, 0, 0, 2, 2, 1, 3], [-1, 0, 0, -1, 2, 1, 3])]
    for loss in losses if target is None else losses[:-2]:
        ours = objective.slope(z, indices, loss)
        with monkeypatch.context() as patch:
            patch.setattr(ClassQuery, "plain_slope", lambda *_: None)
            theirs = objective.slope(z, indices, loss)
        for one, other in zip(ours, theirs):
            torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-6)


def test_classes_that_tie_have_equal_shares():
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 1]]))
        model.bias.zero_()
    objective = AttackObjective(ClassQuery(model.eval(), torch.tensor([[0.9, 0.1]]), torch.tensor([0])))
    slope = objective.slope(objective.x, torch.tensor([0]))
    torch.testing.assert_close(slope.gradient, torch.tensor([[1.0, -1.0]]))
    assert objective.query.plain_slope(objective.x, torch.tensor([0]), None, torch.tensor([0])) is not None
