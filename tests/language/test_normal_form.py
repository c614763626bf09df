"""Where each part of a statement ends up in the query: box, balls, clauses, objective, labels."""

import math

import numpy as np
import pytest
import torch
from small_networks import small_network, symbols

import clinch as cl
from clinch.modeling.expressions import Activation
from clinch.query import Distance, FormsNorm, Linear

NET = small_network()
x, h, z = symbols(NET)
X0 = np.linspace(-0.4, 0.9, 6).reshape(2, 3)
FREE = cl.Minimize(0 * z[0])


def query(*constraints, objective=FREE):
    return cl.Problem(objective, list(constraints)).query


def single(dtype):
    net = small_network(dtype)
    return net, *symbols(net)


def test_single_inputs_become_the_box():
    mask = np.array([[True, False, True], [False, False, True]])
    q = query(x >= -1, 2 * x[0] - 1 <= 0, x[mask] <= [0.1, 0.2, 0.3], -x[1, 1] <= 0.25, ~(x[1, 0] <= 0))
    expected_upper = [[0.1, 0.5, 0.2], [math.inf, math.inf, 0.3]]
    assert q.clauses == 0 and q.atoms.count == 0
    torch.testing.assert_close(q.region.upper[0], torch.tensor(expected_upper, dtype=torch.float64))
    torch.testing.assert_close(q.region.lower[0, 1], torch.tensor([1e-5, -0.25, -1.0], dtype=torch.float64))
    assert torch.equal(q.violation(torch.zeros(1, 0)), torch.tensor([-math.inf]))


def test_limits_live_in_the_dtype_of_the_model():
    _, x, _, z = single(torch.float32)
    q = cl.Problem(cl.Minimize(z[0]), [x >= 0.1, x <= 0.3]).query
    assert q.region.lower.dtype == torch.float64
    assert torch.equal(q.region.lower, torch.full((1, 2, 3), 0.1, dtype=torch.float32).double())
    assert torch.equal(q.region.upper, torch.full((1, 2, 3), 0.3, dtype=torch.float32).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_maximum_norm_ball_is_rounded_inwards(dtype):
    _, x, _, z = single(dtype)
    x0 = torch.rand(2, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    q = cl.Problem(cl.Minimize(z[0]), cl.norm(x - x0, cl.inf) <= 0.1).query
    assert q.region.balls == ()
    for corner in (q.region.lower, q.region.upper):
        assert torch.equal(corner.to(dtype).double(), corner)
        assert bool(((corner - x0.double()).abs() <= 0.1).all())
    wider = torch.nextafter(q.region.upper.to(dtype), torch.tensor(9.0, dtype=dtype))
    assert bool((wider.double() - x0.double() > 0.1).all())


def test_other_balls_stay_and_cut_the_box():
    q = query(x >= 0, x <= 1, cl.norm(x - 0.25, 2) <= 0.5, cl.norm(x - X0, 1) <= 2, cl.norm(x - X0, 0) <= 3)
    assert [ball.p for ball in q.region.balls] == [2, 1, 0]
    assert float(q.region.upper.max()) == 0.75
    assert q.region.balls[0].radius.shape == (1,) and q.region.balls[0].center.shape == (1, 2, 3)


def test_balls_of_parts_of_the_input_have_weights():
    mask = np.array([[True, False, True], [False, False, True]])
    direct = query(cl.norm(x - X0, 2, mask=mask) <= 1).region.balls[0]
    assert direct.weights is not None
    assert torch.equal(direct.weights[0], torch.tensor(mask, dtype=torch.float64))
    of_part = query(cl.norm(2 * (X0[mask] - x[mask]), 2) <= 1).region.balls[0]
    assert of_part.weights is not None
    assert torch.equal(of_part.weights, 2 * direct.weights)
    at = torch.rand(1, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(of_part.distance(at), 2 * direct.distance(at))


def test_fixed_inputs_are_fixed_exactly():
    _, x, _, z = single(torch.float32)
    q = cl.Problem(cl.Minimize(z[0]), [x[0] == [0.1, 0.2, 0.3]]).query
    assert torch.equal(q.region.lower[0, 0], q.region.upper[0, 0])
    assert torch.equal(q.region.lower[0, 0], torch.tensor([0.1, 0.2, 0.3]).double())
    assert q.clauses == 0


def test_equalities_of_activations_have_the_stated_tolerance():
    q = query(h[0] == 1.5, x[0, 0] == 0.5, x[0, 1] + x[0, 2] == 1)
    assert q.clauses == 4
    values = q.atoms.values(
        {0: torch.full((1, 2, 3), 0.5, dtype=torch.float64), 3: torch.full((1, 5), 1.5, dtype=torch.float64)}
    )
    torch.testing.assert_close(values, torch.full((1, 4), -cl.EQUALITY_TOLERANCE, dtype=torch.float64))
    assert float(q.region.lower[0, 0, 0]) == float(q.region.upper[0, 0, 0]) == 0.5


def test_equality_of_input_and_layer_in_one_array_is_split():
    both = x.flatten()[:2] * np.array([1.0, 1.0]) - h[:2] * np.array([0.0, 1.0])
    q = query(both == 0.25)
    assert float(q.region.lower[0, 0, 0]) == float(q.region.upper[0, 0, 0]) == 0.25
    assert q.clauses == 2 and float(q.region.upper[0, 0, 1]) == math.inf


def test_argmax_and_its_negation():
    same = query(z.argmax(margin=0.25) == 2)
    assert (same.clauses, same.atoms.count) == (3, 3)
    other = query(z.argmax(margin=0.25) != 2)
    assert (other.clauses, other.atoms.count) == (1, 3)
    negated = query(~(z.argmax(margin=0.25) == 2))
    assert torch.equal(negated.atoms.coefficients[4], other.atoms.coefficients[4])
    assert torch.equal(negated.atoms.constant, other.atoms.constant)
    assert torch.equal(same.atoms.coefficients[4], -other.atoms.coefficients[4])
    assert same.atoms.coefficients[4].shape == (1, 3, 4)


def test_labels_differ_from_problem_to_problem():
    q = query(z.argmax() == torch.tensor([0, 3]))
    rows = q.atoms.coefficients[4]
    assert rows.shape == (2, 3, 4)
    expected = torch.tensor([[-1.0, 1, 0, 0], [-1, 0, 1, 0], [-1, 0, 0, 1]], dtype=torch.float64)
    assert torch.equal(rows[0], expected)
    assert torch.equal(rows[1], torch.tensor([[1.0, 0, 0, -1], [0, 1, 0, -1], [0, 0, 1, -1]], dtype=torch.float64))


def test_infinite_limits_are_no_atoms():
    lo = np.array([-np.inf, -np.inf, 0.1, 0.1, -np.inf])
    hi = np.array([1, np.inf, 1, np.inf, np.inf])
    assert query(h.between(lo, hi)).clauses == 4
    outside = query(~h.between(lo, hi))
    assert (outside.clauses, outside.atoms.count) == (1, 4)
    assert bool(outside.atoms.constant.isfinite().all())
    assert query(x <= np.inf, h >= -np.inf).clauses == 0


def test_limits_that_are_infinite_in_one_problem_stay_finite_forms():
    hi = np.array([[1, np.inf, np.inf, np.inf, np.inf], [1, 2, np.inf, np.inf, np.inf]])
    outside = query(~h.between(-np.inf, hi))
    assert (outside.clauses, outside.atoms.count) == (1, 2)
    assert bool(outside.atoms.constant.isfinite().all())
    assert torch.equal(outside.atoms.coefficients[3][0, 1], torch.zeros(5, dtype=torch.float64))
    assert float(outside.atoms.constant[0, 1]) == 1.0
    inside = query(h.between(-np.inf, hi))
    assert float(inside.atoms.constant[0, 1]) == -1.0


def test_labels():
    q = query(h[3] >= 4.1, z[2] - z[3] >= 0.5, 2 * z[0] + h[1] <= 3, h.sum() + z.sum() <= 1, x[0, 0] - x[1, 2] <= 0)
    assert q.labels == (
        "relu1[3] >= 4.1",
        "output[2] - output[3] >= 0.5",
        "relu1[1] + 2·output[0] <= 3",
        "a sum of 9 terms of relu1, output <= 1",
        "input[0, 0] - input[1, 2] <= 0",
    )
    assert query(z.argmax() == 2).labels[0] == "output[2] - output[0] >= 1e-05"


def test_a_batch_is_the_stack_of_its_queries():
    generator = torch.Generator().manual_seed(5)
    x0, radius, labels = (
        torch.rand(3, 2, 3, generator=generator),
        torch.rand(3, generator=generator),
        torch.tensor([2, 0, 3]),
    )
    hi = torch.rand(3, 5, generator=generator)

    def stated(x0, radius, labels, hi):
        where = [x >= x0 - 0.3, cl.norm(x - x0, 1) <= radius, z.argmax() == labels, ~h.between(-1, hi)]
        return query(*where, objective=cl.Minimize(cl.norm(x - x0, 2)))

    whole = stated(x0, radius, labels, hi)
    for b in range(3):
        part, single = whole.take(torch.tensor([b])), stated(x0[b], radius[b], int(labels[b]), hi[b])
        pairs = [
            (part.region.lower, single.region.lower), (part.region.upper, single.region.upper),
            (part.region.balls[0].radius, single.region.balls[0].radius),
            (part.objective.center, single.objective.center),
            (part.atoms.constant, single.atoms.constant), (part.clause, single.clause),
            *((part.atoms.coefficients[node], single.atoms.coefficients[node]) for node in (3, 4)),
        ]  # fmt: skip
        assert all(torch.equal(together, alone) for together, alone in pairs)


def test_shared_coefficients_keep_a_leading_one():
    q = query(h <= np.arange(10.0).reshape(2, 5), objective=cl.Minimize(cl.norm(x - np.zeros((2, 2, 3)), 2)))
    assert q.atoms.coefficients[3].shape == (1, 5, 5)
    assert q.atoms.constant.shape == (2, 5)


def test_objectives():
    assert isinstance(query(objective=cl.Minimize(cl.norm(x - X0, 1))).objective, Distance)
    assert isinstance(query(objective=cl.Minimize(z[0] - z[1])).objective, Linear)
    assert isinstance(query(objective=cl.Minimize(cl.norm(z - 1, 2))).objective, FormsNorm)
    far = query(objective=cl.Maximize(cl.norm(x - X0, 2)))
    assert isinstance(far.objective, FormsNorm) and far.objective.scale == -1.0 and far.sense == -1
    assert far.objective.nodes == [0]
    largest = query(objective=cl.Maximize(z[0]))
    assert isinstance(largest.objective, Linear)
    assert float(largest.objective.form.coefficients[4].sum()) == -1.0


def test_centres_live_in_the_dtype_of_the_model():
    _, x, _, _ = single(torch.float32)
    x0 = np.full((2, 3), 0.1)
    near = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), cl.norm(x - x0, 1) <= 1).query
    kept = torch.full((1, 2, 3), 0.1, dtype=torch.float32).double()
    assert torch.equal(near.objective.center, kept)
    assert torch.equal(near.region.balls[0].center, kept)
    far = cl.Problem(cl.Maximize(cl.norm(x - x0, 2))).query
    assert torch.equal(far.objective.forms.constant, -kept.reshape(1, 6))


def test_maximum_norms_of_activations_and_inside_alternatives():
    assert query(cl.norm(h - 1, cl.inf) <= 0.5).clauses == 10
    assert query((cl.norm(x, cl.inf) <= 0.5) | (z[0] >= 1)).clauses == 12
    outside = query(~(cl.norm(x - X0, cl.inf) <= 0.5))
    assert (outside.clauses, outside.atoms.count) == (1, 12)


def test_everything_is_float64_and_moves_as_a_whole():
    net, x, h, z = single(torch.float32)
    q = cl.Problem(cl.Minimize(cl.norm(x - 0.5, 2)), [x >= 0, x <= 1, z.argmax() != 1, h <= 7]).query
    assert (
        q.dtype == torch.float64
        and q.atoms.constant.dtype == torch.float64
        and q.graph is net.graph_as(torch.float64, "cpu")
    )
    point = torch.rand(1, 2, 3)
    single_value, single_atoms = q.to(torch.float32, "cpu").evaluate(point)
    value, atoms = q.evaluate(point.double())
    torch.testing.assert_close(single_atoms.double(), atoms, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(single_value.double(), value, rtol=1e-4, atol=1e-4)


def test_constants_on_the_left_side():
    x0 = torch.linspace(-0.4, 0.9, 6, dtype=torch.float64).reshape(2, 3)
    for left in (x0, x0.numpy(), x0.tolist()):
        q = query(left <= x, 2 * x0.numpy() + 1 >= x)
        assert torch.equal(q.region.lower[0], x0)
        torch.testing.assert_close(q.region.upper[0], 2 * x0 + 1)
    for factor in (2.0, np.float64(2), np.float32(2), torch.tensor(2.0), np.full((2, 3), 2.0), torch.full((2, 3), 2.0)):
        q = query(factor * x <= 1, factor + x >= 0, factor - x <= 5)
        assert bool((q.region.upper == 0.5).all()) and bool((q.region.lower == -2).all())
    a = torch.ones(2, 5)
    assert (a @ h).shape == (a.numpy() @ h).shape == (2,)
    assert query(torch.tensor(1.0) == x[0, 0]).region.lower[0, 0, 0] == 1.0
    trained = torch.ones(2, 3, requires_grad=True)
    assert not query(trained * x <= 1).region.upper.requires_grad


def test_sums_and_loops_of_python_work():
    total = sum(z)
    q = query(objective=cl.Minimize(total - 3 * z[0]))
    assert q.objective.form.coefficients[4].tolist() == [[[-2.0, 1.0, 1.0, 1.0]]]
    assert len(z) == 4 and z.size == 4


def test_empty_selections():
    nothing = h[np.zeros(5, dtype=bool)]
    assert query(nothing <= 1).clauses == 0
    with pytest.raises(cl.ClinchError, match="hold for no input"):
        query(~(nothing <= 1))


def test_constant_atoms_are_decided():
    assert query(0 * z <= 1).clauses == 0
    with pytest.raises(cl.ClinchError, match="hold for no input"):
        query(0 * z[0] >= 1)
    only = query((0 * z[0] >= 1) | (z[1] >= 0))
    assert only.atoms.count == 1


def test_activation_names_every_layer():
    layer = Activation(NET, 2)
    assert layer.shape == (5,) and "fc1" in repr(layer)
