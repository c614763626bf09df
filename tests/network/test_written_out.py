"""Functions that are computed at once and bounded in parts: softmax, norms, variances, and networks made of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl
from clinch.bounds.alpha import alpha_activation_bounds, alpha_form_bounds
from clinch.bounds.crown import activation_bounds
from clinch.bounds.interval import interval_bounds
from clinch.geometry.region import Region
from clinch.network.fold import fold
from clinch.network.ops.base import Interval, Operator
from clinch.network.ops.softmax import Shares
from clinch.query import Forms

from .conformance import written_out
from .operator_specimens import Specimen, specimens

PARTS = [s for s in specimens() if type(s.op).in_parts is not Operator.in_parts]
ENDS = list(itertools.combinations([-torch.inf, -1e200, -1e3, 0.0, 1e3, 1e200, torch.inf], 2))


def region(specimen: Specimen, radius: float) -> Region:
    centre = torch.randn(2, *specimen.shapes[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return cl.bounds.box(centre - radius, centre + radius)


@pytest.mark.parametrize("radius", [0.01, 0.5, 5.0])
@pytest.mark.parametrize("specimen", PARTS, ids=str)
def test_no_bound_is_passed(specimen: Specimen, radius: float):
    graph, where = written_out(specimen.op, specimen.shapes[0]), region(specimen, radius)
    assert graph is not None
    size, shape = graph.nodes[graph.output].size, graph.nodes[graph.output].shape
    share = torch.rand(300, 1, *specimen.shapes[0], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    points = torch.lerp(where.lower, where.upper, torch.cat([share, share.round()]))
    values = specimen.reference(points.flatten(0, 1)).reshape(-1, 2, size)
    limits = interval_bounds(graph, where)[graph.output]
    crown = activation_bounds(graph, where, include_wanted=True)[graph.output]
    rows = torch.eye(size, dtype=torch.float64)
    both = torch.cat([rows, -rows]).reshape(1, 2 * size, *shape)
    forms = Forms({graph.output: both}, torch.zeros(2, 2 * size, dtype=torch.float64))
    held = alpha_activation_bounds(graph, where, steps=4)
    alpha = alpha_form_bounds(graph, forms, where, held, steps=4)
    for lower, upper in (limits, crown, (alpha[:, :size], -alpha[:, size:])):
        lower, upper = lower.reshape(2, size), upper.reshape(2, size)
        assert not bool((lower.isnan() | upper.isnan()).any())
        assert bool((values >= lower - 1e-9 * (1 + values.abs())).all())
        assert bool((values <= upper + 1e-9 * (1 + values.abs())).all())


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("specimen", PARTS, ids=str)
def test_limits_without_end_give_no_nan(specimen: Specimen, ends: tuple[float, float]):
    graph = written_out(specimen.op, specimen.shapes[0])
    assert graph is not None
    lower, upper = (torch.full((1, *specimen.shapes[0]), end, dtype=torch.float64) for end in ends)
    for found in (interval_bounds, activation_bounds):
        limits = found(graph, Region(lower, upper), [graph.output])
        assert not any(bool(t.isnan().any()) for pair in limits.values() for t in pair)


@pytest.mark.parametrize("specimen", PARTS, ids=str)
def test_values_are_those_of_torch_whatever_the_size_of_the_numbers(specimen: Specimen):
    graph = written_out(specimen.op, specimen.shapes[0])
    assert graph is not None
    graph = graph.to(torch.float32)
    x = torch.randn(5, *specimen.shapes[0], generator=torch.Generator().manual_seed(3)) * 300
    x.requires_grad_()
    y = graph.forward(x)[graph.output]
    torch.testing.assert_close(y, specimen.op.to(torch.float32, "cpu").forward(x), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert bool(gradient.isfinite().all())


def test_what_sums_to_one_is_bounded_as_such():
    share = torch.randn(2, 500, 3, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64).softmax(3)
    limits = Interval(share.amin(1), share.amax(1))
    found = Shares(1).interval(Interval(limits.lower - 0.3, limits.upper + 0.1))
    assert bool((found.lower <= limits.lower).all()) and bool((limits.upper <= found.upper).all())
    assert bool((found.lower >= 0).all()) and bool((found.upper <= 1).all())
    rows = torch.randn(1, 7, 3, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (carried,), constant = Shares(1).relax([], [(3, 5)]).backward(rows)
    value = torch.einsum("brij,bsij->bsr", rows.expand(2, -1, -1, -1), share)
    through = torch.einsum("brij,bsij->bsr", carried.expand(2, -1, -1, -1), share) + constant
    torch.testing.assert_close(through, value)
    assert float(carried.abs().sum()) < float(rows.abs().sum())


class Attention(nn.Module):
    """Softmax attention of four tokens, with a layer norm and a gate behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.norm, self.last = nn.Linear(4, 12), nn.LayerNorm(4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.view(-1, 4, 4)).chunk(3, 2)
        z = functional.scaled_dot_product_attention(q, k, v)
        return self.last((self.norm(z) * torch.sigmoid(v)).flatten(1)).softmax(1)


def test_a_transformer_is_bounded_as_a_whole():
    torch.manual_seed(0)
    net = cl.load(Attention().eval(), (16,))
    x = torch.rand(16, dtype=torch.float64)
    where = cl.bounds.ball(x[None], 0.05, cl.inf)
    crown, alpha = cl.bounds.crown(net, where)[0], cl.bounds.alpha_crown(net, where, steps=5)[0]
    noise = torch.rand(2000, 16, dtype=torch.float64) * 0.1 - 0.05
    least = net.graph_as(torch.float64, "cpu").forward(x + noise)[net.graph.output].amin(0)
    assert bool((crown <= alpha + 1e-12).all()) and bool((alpha <= least + 1e-9).all())
    # probabilities are not below zero, and the bound says more than that
    assert bool((alpha > 0.02).all())


def test_folding_keeps_what_computes_a_value():
    torch.manual_seed(0)
    dense = [nn.Linear(4, 4) for _ in range(3)]
    net = cl.load(nn.Sequential(*dense[:2], nn.LayerNorm(4), dense[2], nn.Softmax(1)).eval(), (4,))
    graph = net.graph_as(torch.float64, "cpu")
    folded, _ = fold(graph)
    assert len(folded.nodes) < len(graph.nodes)
    x = torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(folded.forward(x)[folded.output], graph.forward(x)[graph.output])
    torch.testing.assert_close(folded.forward(x, in_parts=True)[folded.output], graph.forward(x)[graph.output])
    assert sum(node.whole is not None for node in folded.nodes) == 2
