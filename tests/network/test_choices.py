"""Choices by comparisons are functions of linear pieces: ReLUs where they do not jump, with tight limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import clinch as cl
from clinch.network.ops.piecewise import PiecewiseLinear

Function = Callable[[Tensor], Tensor]
where = torch.where


class Applied(nn.Module):
    """A function of the input, element by element."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


#: numbers at which the functions below turn, and some between
POINTS = torch.cat([torch.linspace(-4, 4, 321), torch.tensor([0.0, 0.0])]).double().unsqueeze(1)


def loaded(function: Function) -> cl.Network:
    """The network of a function, which has its values wherever it turns."""
    net = cl.load(Applied(function).eval(), (1,))
    graph = net.graph_as(torch.float64, "cpu")
    torch.testing.assert_close(graph.forward(POINTS)[graph.output], function(POINTS).double(), rtol=0, atol=1e-12)
    return net


CONTINUOUS: dict[str, Function] = {
    "leaky": lambda x: where(x > 0, x, 0.1 * x),
    "a kink elsewhere": lambda x: where(x <= 0.5, 1 - x, 3 * x - 1),
    "constant on the left": lambda x: where(x < -1, -1.0, x),
    "masked fill": lambda x: x.masked_fill(x < 0, 0.0),
    "mask": lambda x: x * (x > 0),
    "mask of numbers": lambda x: x * (x > 0).float(),
    "the rest of a mask": lambda x: (1 - (x >= 0).to(x.dtype)) * x,
    "not": lambda x: where(~(x > 0), -x, 0.0 * x),
    "nested": lambda x: where(x > 1, torch.ones_like(x), where(x < -1, -torch.ones_like(x), x)),
    "nested, falling": lambda x: where(x > 1, 1 - 2 * x, where(x < -1, torch.ones_like(x), -x)),
    "of a clamp": lambda x: where(x.clamp(-1, 1) >= 1, torch.ones_like(x), x.clamp(-1, 1)),
    "compared with a line": lambda x: where(x > 2 * x - 1, x, 2 * x - 1),
    "minimum of a ReLU": lambda x: torch.minimum(x.relu(), torch.tensor(3.0)),
}
JUMPING: dict[str, Function] = {
    "jump": lambda x: where(x > 0, x + 1, x - 1),
    "step of a ReLU": lambda x: (x.relu() > 0).float(),
    "window": lambda x: x * ((x > -1) & (x < 1)),
    "outside of a window": lambda x: where((x <= -1) | (x > 1), x, 0.5),
    "heaviside": lambda x: torch.heaviside(x, torch.tensor(1.0, dtype=x.dtype)),
    "integer mask": lambda x: x * (x < 1).int(),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_choice_between_lines_that_meet_is_made_of_relus_with_exact_limits(name: str):
    net = loaded(CONTINUOUS[name])
    assert all(node.op.affine or node.op.splits_at_zero for node in net.graph.nodes[1:])
    assert not any(isinstance(node.op, PiecewiseLinear) for node in net.graph.nodes)
    region = cl.bounds.box(POINTS.amin(0, keepdim=True), POINTS.amax(0, keepdim=True))
    least = float(CONTINUOUS[name](POINTS).amin())
    assert float(cl.bounds.interval(net, region)) == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize("name", JUMPING)
def test_a_choice_that_jumps_is_one_function(name: str):
    net = loaded(JUMPING[name])
    assert any(isinstance(node.op, PiecewiseLinear) for node in net.graph.nodes)
    region = cl.bounds.box(POINTS.amin(0, keepdim=True), POINTS.amax(0, keepdim=True))
    assert float(cl.bounds.interval(net, region)) <= float(JUMPING[name](POINTS).amin()) + 1e-9


def test_what_is_not_made_of_lines_is_computed_at_once():
    net = loaded(lambda x: where(x > 0, x * x, x))
    assert net.graph.nodes[-1].computed.op.label == "aten.where"


NUMBERS = st.integers(-6, 6).map(lambda n: n / 2)


@st.composite
def choices(draw: st.DrawFn, depth: int = 2) -> Function:
    """A line, or a choice between two functions."""
    slope, shift, at = draw(NUMBERS), draw(NUMBERS), draw(NUMBERS)
    if not depth or draw(st.booleans()):
        return lambda x: slope * x + shift
    first, second = draw(choices(depth=depth - 1)), draw(choices(depth=depth - 1))
    if draw(st.booleans()):
        return lambda x: where(first(x) > at, second(x), first(x).relu())
    return lambda x: where(x <= at, first(x), second(x))


@settings(deadline=None, max_examples=25)
@given(function=choices())
def test_nested_choices_have_their_values(function: Function):
    loaded(lambda x: x + function(x))
