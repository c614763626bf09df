"""Conditions that no activation of their layer can change are decided before any work."""

import pytest
import torch

import clinch as cl
from clinch.attacks import nearest
from clinch.modeling.canonicalize import range_of


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(1, 2, 2), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(2, 4),
        torch.nn.LeakyReLU(0.1), torch.nn.Linear(4, 3), torch.nn.Sigmoid(),
    ]  # fmt: skip
    return cl.load(torch.nn.Sequential(*layers).eval(), input_shape=(1, 3, 3))


def test_ranges_hold_for_every_input(net):
    x = 100 * torch.randn(500, 1, 3, 3, dtype=torch.float64)
    graph = net.graph_as(torch.float64, "cpu")
    values = graph.forward(x, list(range(1, len(graph.nodes))))
    limited = []
    for node, value in values.items():
        least, most = range_of(graph, node)
        assert bool(((value >= least) & (value <= most)).all())
        if bool((least > -torch.inf).all()):
            limited.append(type(graph.nodes[node].op).__name__)
    assert limited[:3] == ["LeakyReLU", "MaxPool", "Reshape"] and len(limited) == 4


def query(net, *constraints):
    distance = cl.norm(net.input - torch.full((1, 3, 3), 0.5), 2)
    return cl.Problem(cl.Minimize(distance), [net.input >= 0, net.input <= 1, *constraints]).query


def test_what_always_holds_is_dropped_and_what_never_holds_is_no_choice(net):
    h = net[net.layers[2]]
    assert query(net, h >= 0).clauses == 0
    assert query(net, h >= -1, h.sum() >= 0, h[0, 0, 0] + 2 * h[1, 1, 1] >= -3).clauses == 0
    assert query(net, h >= 0.1).clauses == h.size
    assert query(net, h.between(0, 5)).atoms.count == h.size
    outside = query(net, ~h.between(0, 5))
    assert (outside.clauses, outside.atoms.count) == (1, h.size)
    # one problem of a batch
    low = torch.tensor([0.0, 0.1]).reshape(2, 1, 1, 1)
    assert query(net, h[0, 0, 0] >= low.flatten()).atoms.constant.tolist() == [[-1.0], [pytest.approx(0.1)]]


def test_a_condition_that_cannot_hold_is_refuted_and_no_error(net):
    h = net[net.layers[2]]
    problem = cl.Problem(cl.Minimize(cl.norm(net.input - 0.5, 2)), [net.input >= 0, net.input <= 1, h[0, 0, 0] <= -0.5])
    assert problem.solve(time_limit=20).status is cl.Status.INFEASIBLE


def test_attacks_reach_boxes_that_begin_at_zero():
    """Tightened by rounding, "at least zero" held for no neuron that is switched off."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)).eval()
    net = cl.load(model, input_shape=(6,))
    x = torch.rand(20, 6)
    h = net[net.layers[2]]
    inside = model[:2](x)
    classes = model(x).argmax(1)
    k = int(classes.mode().values)
    low, high = inside[classes == k].amin(0), inside[classes == k].amax(0)
    start = torch.rand(6) * 0.2
    problem = cl.Problem(
        cl.Minimize(cl.norm(net.input - start, 2)),
        [net.input >= 0, net.input <= 1, h.between(low.clamp(max=0.0), high), net.output.argmax() == k],
    )
    assert bool(nearest(problem, passes=240).success.all())
