"""What is said about the values of inputs: lists, groups, alternatives about one input, and mistakes."""

import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.errors import EmptyRegionError, ProblemError, ShapeError


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()


@pytest.fixture
def net():
    return cl.load(small(), input_shape=(4,))


def lists(net, *constraints):
    """The intervals of each discrete input, within −2 and 2."""
    x = net.input
    query = cl.Problem(cl.Minimize(net.output[0]), [x >= -2, x <= 2, *constraints]).query
    discrete, found = query.region.discrete, {}
    if discrete is not None:
        for element in discrete.elements.nonzero().flatten().tolist():
            low, high = discrete.pieces(element, -torch.inf, torch.inf)
            found[element] = list(zip(low.tolist(), high.tolist()))
    return found


def points(*values):
    return [(v, v) for v in values]


def test_each_way_to_say_it(net):
    x = net.input
    assert lists(net, x[0].integer()) == {0: points(-2, -1, 0, 1, 2)}
    assert lists(net, x[1].binary()) == {1: points(0, 1)}
    assert lists(net, x[2].among([1.5, -1, 1.5])) == {2: points(-1, 1.5)}
    assert lists(net, x[2:].multiple_of(1.5)) == {2: points(-1.5, 0, 1.5), 3: points(-1.5, 0, 1.5)}
    assert lists(net, (2 * x[0] - 1).integer()) == {0: points(*np.arange(-2, 2.5, 0.5))}
    assert lists(net, (x[0] <= -1) | (x[0] >= 0.5)) == {0: [(-2, -1), (0.5, 2)]}
    assert lists(net, (x[0] == 1) | (x[0] == 2) | (x[0] <= -1.5)) == {0: [(-2, -1.5), *points(1, 2)]}
    assert lists(net, (x[3] <= -1) | ((x[3] >= 0) & (x[3] <= 1))) == {3: [(-2, -1), (0, 1)]}


def test_all_that_is_said_of_an_input_holds(net):
    x = net.input
    assert lists(net, x[0].integer(), x[0] >= -1, x[0].among([-2, 0, 0.5, 1])) == {0: points(0, 1)}
    assert lists(net, x[0].integer(), (x[0] <= -1) | (x[0] >= 1)) == {0: points(-2, -1, 1, 2)}


def test_what_leaves_no_gap_is_a_limit(net):
    x = net.input
    assert lists(net, (x[0] <= 1) | (x[0] <= 0.5)) == {}
    query = cl.Problem(cl.Minimize(0), [net.output[0] >= 0, x >= -2, x <= 2, (x[0] <= 1) | (x[0] <= 0.5)]).query
    assert float(query.region.upper[0, 0]) == 1
    assert lists(net, x[0].among([0.5])) == {}


def test_values_are_numbers_of_the_models_dtype(net):
    (own,) = lists(net, net.input[0].multiple_of(1 / 255)).values()
    inside = [low for low, _ in own if 0 <= low <= 1]
    assert inside == (torch.arange(256) / 255).double().tolist()


def test_alternatives_about_several_inputs_stay_clauses(net):
    x = net.input
    query = cl.Problem(cl.Minimize(net.output[0]), [x >= -2, x <= 2, (x[0] <= 0) | (x[1] >= 1)]).query
    assert query.region.discrete is None
    assert query.clauses == 1


def test_gaps_as_clauses_say_the_same(net):
    x = net.input
    query = cl.Problem(
        cl.Minimize(net.output[0]), [x >= -2, x <= 2, x[:2].one_hot(), x[2].integer(), (x[3] <= 0) | (x[3] >= 1)]
    ).query
    other = query.with_gaps_as_clauses()
    assert other.region.discrete is None
    generator = torch.Generator().manual_seed(0)
    z = (torch.randint(-4, 5, (4000, 4), generator=generator) / 2).double()
    z[: len(z) // 2, :2] = torch.eye(2, dtype=torch.float64)[torch.randint(2, (2000,), generator=generator)]
    z = z.clamp(query.region.lower, query.region.upper)
    many = torch.zeros(len(z), dtype=torch.long)
    holds = other.violation(other.take(many).evaluate(z)[1]) <= 0
    inside = query.region.take(many).contains(z)
    assert torch.equal(holds, inside)
    assert 0 < int(inside.sum()) < len(z)


def test_variables_of_a_joint_network_can_be_discrete(net):
    d = cl.Variable((4,))
    solution = cl.Problem(cl.Minimize(net(d)[0]), [d >= -1, d <= 1, d.integer()]).solve(time_limit=20)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 4)
    best = float(small()(corners)[:, 0].detach().min())
    assert solution.value == pytest.approx(best, abs=1e-5)
    assert set(solution[d].tolist()) <= {-1.0, 0.0, 1.0}


def test_it_is_explained(net):
    x = net.input
    text = cl.Problem(cl.Minimize(net.output[0]), [x >= -2, x <= 2, x[:3].one_hot(), x[3].integer()]).explain()
    assert "4 inputs with 7 gaps between their values, 1 groups of which one is 1" in text


@pytest.mark.parametrize(
    ("say", "error", "text"),
    [
        (lambda x, z: x[0].integer() | (x[1] <= 0), ProblemError, "cannot stand inside"),
        (lambda x, z: ~x[0].integer(), ProblemError, "Give the values that are allowed"),
        (lambda x, z: z[0].integer(), ProblemError, "Only single inputs can be discrete"),
        (lambda x, z: (x[0] + x[1]).integer(), ProblemError, "Only single inputs can be discrete"),
        (lambda x, z: x[0].multiple_of(0), ProblemError, "greater than 0"),
        (lambda x, z: x[0].multiple_of(1e-9), ProblemError, "a list has at most 65,536"),
        (lambda x, z: x[0].among([]), ProblemError, "one or more finite numbers"),
        (lambda x, z: x[0].among([1, np.inf]), ProblemError, "one or more finite numbers"),
        (lambda x, z: x[0].one_hot(), ShapeError, "at least two elements"),
        (lambda x, z: (2 * x[:3]).one_hot(), ProblemError, "of inputs themselves"),
        (lambda x, z: x[:3].one_hot() & x[2:].one_hot(), ProblemError, "belongs to two"),
        (lambda x, z: x[0].among([5, 6]), EmptyRegionError, "has no value"),
        (lambda x, z: x[0].among([0, 1]) & x[0].among([0.5, 1.5]), EmptyRegionError, "has no value"),
    ],
)
def test_mistakes(net, say, error, text):
    x = net.input
    with pytest.raises(error, match=text):
        cl.Problem(cl.Minimize(net.output[0]), [x >= -2, x <= 2, say(x, net.output)])


def test_a_list_needs_an_end(net):
    with pytest.raises(ProblemError, match=r"has no limits\. Add constraints such as"):
        cl.Problem(cl.Minimize(net.output[0]), [net.input[0].integer()])


def test_long_lists_are_encoded_in_binary_digits_and_groups_close(net):
    """Forty values by six binaries, and a category; the optimum is that of all values tried one by one."""
    x = net.input
    limits = [x >= 0, x <= 1, x[1:].one_hot(), x[0].multiple_of(1 / 40)]
    values = torch.cat([torch.full((3, 1), k / 40, dtype=torch.float64) for k in range(41)])
    rows = torch.cat([values, torch.eye(3, dtype=torch.float64).repeat(41, 1)], 1)
    start = torch.tensor([0.33, 0.2, 0.3, 0.4], dtype=torch.float64)
    output = net.graph_as(torch.float64, "cpu").forward(rows)[net.graph.output][:, 0]
    least = float(output.quantile(0.7)) + 1e-4
    known = (rows - start).abs().sum(1)[output >= least].min()
    for solver in ("milp", "input_split"):
        problem = cl.Problem(cl.Minimize(cl.norm(x - start, 1)), [*limits, net.output[0] >= least])
        found = problem.solve(time_limit=20, solver=solver)
        assert found.status is cl.Status.OPTIMAL, solver
        assert found.value == pytest.approx(float(known), abs=1e-3)
        assert float(found.x[0] * 40) == pytest.approx(round(float(found.x[0] * 40)), abs=1e-5)
