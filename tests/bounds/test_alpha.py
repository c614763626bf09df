"""α-CROWN: never looser than CROWN, never above a value, and at the optimum where the optimum is known."""

from __future__ import annotations

import math

import pytest
import torch
from bound_cases import NETWORKS, NORMS, around, inside

import clinch as cl
from clinch.bounds import alpha, dead, free_lines, layerwise, slopes
from clinch.bounds.alpha import alpha_activation_bounds, alpha_form_bounds
from clinch.bounds.crown import activation_bounds, form_bounds, relaxations_from
from clinch.errors import ProblemError
from clinch.network.ops.add import Add
from clinch.network.ops.relu import LeakyReLU
from clinch.query import Forms
from clinch.testing.networks import dense, multilayer, network_of

pytestmark = pytest.mark.table


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_every_limit_holds_and_none_is_wider_than_crowns(make, p: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    net = make(rng)
    region = around(rng, net, p)
    crown = activation_bounds(net.graph, region, include_wanted=True)
    tight = alpha_activation_bounds(net.graph, region, include_wanted=True)
    assert set(tight) == set(crown)
    points = inside(rng, region, 200)
    values = [net.graph.forward(x, tight) for x in points]
    for j, limits in tight.items():
        assert bool((limits.lower >= crown[j].lower).all() and (limits.upper <= crown[j].upper).all())
        for value in values:
            assert bool((value[j] >= limits.lower - 1e-9).all() and (value[j] <= limits.upper + 1e-9).all())


def test_limits_are_tightened_at_all() -> None:
    rng = torch.Generator().manual_seed(0)
    gained = 0
    for _ in range(5):
        net = multilayer(rng)
        region = around(rng, net, math.inf)
        crown, tight = (
            f(net.graph, region, include_wanted=True)[net.graph.output]
            for f in (activation_bounds, alpha_activation_bounds)
        )
        gained += int((tight.lower > crown.lower + 1e-6).sum())
    assert gained > 10


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("make", NETWORKS)
def test_the_gradient_is_that_of_the_bound(make, p: float) -> None:
    rng = torch.Generator().manual_seed(1)
    net = make(rng)
    graph, region = net.graph, around(rng, net, p)
    rows = torch.randn(4, 3, 3, generator=rng, dtype=torch.float64)
    forms = Forms({graph.output: rows}, rows.new_zeros(4, 3))
    limits = activation_bounds(graph, region)
    lines, fixed = {}, {}
    for i in graph.ancestors(forms.nodes):
        op, inputs = graph.nodes[i].op, graph.nodes[i].inputs
        if isinstance(op, LeakyReLU):
            lines[i] = free_lines.OpenLines.of(op, limits[inputs[0]])
        elif i and not op.affine:
            fixed[i] = graph.relax(i, [limits[j] for j in inputs])
    passes = slopes.Passes(graph, forms, region, lines, fixed)
    start = {}
    for i, line in lines.items():
        share = 0.2 + 0.6 * torch.rand(4, 3, line.least.shape[2], generator=rng, dtype=torch.float64)
        start[i] = line.least + share * (line.most - line.least)
    _, point = passes.backward(start)
    found = passes.gradient(start, point)
    step = 1e-7
    for i, line in lines.items():
        is_open = (line.least < line.most)[:, 0]
        for j in is_open.any(0).nonzero().flatten().tolist():
            where = is_open[:, j]
            moved = [{k: s.clone() for k, s in start.items()} for _ in range(2)]
            moved[0][i][..., j] += step
            moved[1][i][..., j] -= step
            slope = (passes.backward(moved[0])[0] - passes.backward(moved[1])[0]) / (2 * step)
            torch.testing.assert_close(found[i][where, :, j], slope[where], atol=2e-5, rtol=1e-4)


def test_one_step_is_crown_and_more_steps_never_hurt() -> None:
    rng = torch.Generator().manual_seed(2)
    net = multilayer(rng)
    region = around(rng, net, math.inf)
    graph = net.graph
    limits = activation_bounds(graph, region)
    forms = Forms({graph.output: torch.eye(3, dtype=torch.float64)[None]}, torch.zeros(4, 3, dtype=torch.float64))
    crown = form_bounds(graph, forms, region, relaxations_from(graph, limits, forms.nodes))
    torch.testing.assert_close(alpha_form_bounds(graph, forms, region, limits, steps=1), crown)
    for steps in (2, 5, 20):
        assert bool((alpha_form_bounds(graph, forms, region, limits, steps=steps) >= crown).all())


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(3)
    net = multilayer(rng)
    region = around(rng, net, 2.0, size=7)
    whole = cl.bounds.alpha_crown(net, region)
    monkeypatch.setattr(alpha, "BLOCK", 40)
    monkeypatch.setattr(layerwise, "BLOCK", 40)
    torch.testing.assert_close(cl.bounds.alpha_crown(net, region), whole, atol=1e-6, rtol=0)


def test_stopping_keeps_crowns_limits() -> None:
    rng = torch.Generator().manual_seed(4)
    net = multilayer(rng)
    region = around(rng, net, math.inf)
    stopped = alpha_activation_bounds(net.graph, region, stop=lambda: True)
    asked = activation_bounds(net.graph, region, stop=lambda: True)
    for j, limits in asked.items():
        assert torch.equal(stopped[j].lower, limits.lower) and torch.equal(stopped[j].upper, limits.upper)


def test_known_limits_are_used() -> None:
    rng = torch.Generator().manual_seed(5)
    net = multilayer(rng)
    region = around(rng, net, math.inf)
    node = net.position("relu1")
    free = alpha_activation_bounds(net.graph, region)
    inner = net.graph.forward(torch.zeros(4, 3, dtype=torch.float64), [node])[node]
    known = {node: cl.bounds.Interval(inner, inner)}
    held = alpha_activation_bounds(net.graph, region, known=known)[net.position("fc2")]
    assert bool((held.upper - held.lower < 1e-9).all())
    assert bool((free[net.position("fc2")].upper - free[net.position("fc2")].lower > 1e-3).all())


def test_an_unbounded_input_gives_no_nan() -> None:
    net = multilayer(torch.Generator().manual_seed(6))
    lower = torch.tensor([[-math.inf, -1.0, -1.0]], dtype=torch.float64)
    bounds = cl.bounds.alpha_crown(net, cl.bounds.box(lower, torch.ones(1, 3)))
    assert not bool(bounds.isnan().any())


@pytest.mark.parametrize("steps", [0, -3, 2.5, True])
def test_steps_without_meaning(steps) -> None:
    net = multilayer(torch.Generator().manual_seed(0))
    with pytest.raises(ProblemError, match="give a whole number of 1 or more"):
        cl.bounds.alpha_crown(net, cl.bounds.box(torch.zeros(1, 3), torch.ones(1, 3)), steps=steps)


@pytest.mark.parametrize("p", NORMS)
def test_leaving_out_dead_elements_changes_nothing(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(7)
    layers = [
        ("fc1", dense(rng, 3, 12), (0,)), ("relu1", LeakyReLU(), (1,)), ("fc2", dense(rng, 12, 12), (2,)),
        ("relu2", LeakyReLU(), (3,)), ("fc3", dense(rng, 12, 8), (4,)), ("relu3", LeakyReLU(), (5,)),
        ("skip", dense(rng, 12, 8), (4,)), ("add", Add(), (6, 7)), ("relu4", LeakyReLU(), (8,)),
        ("fc4", dense(rng, 8, 3), (9,)),
    ]  # fmt: skip
    net = network_of(layers, (3,))
    region = around(rng, net, p, size=2)
    assert dead.cuttable(net.graph, [net.graph.output]) == [net.position("relu1"), net.position("relu2")]
    c = torch.randn(2, 4, 12, generator=rng, dtype=torch.float64)
    monkeypatch.setattr(slopes, "MOSTLY_ALIVE", 0.0)
    whole = [cl.bounds.alpha_crown(net, region), cl.bounds.alpha_crown(net, region, c, layer="relu2")]
    monkeypatch.setattr(slopes, "MOSTLY_ALIVE", 2.0)
    taken = [cl.bounds.alpha_crown(net, region), cl.bounds.alpha_crown(net, region, c, layer="relu2")]
    for a, b in zip(whole, taken):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
