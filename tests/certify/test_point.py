"""The check of points: what fails on either side fails."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import small_network, symbols

import clinch as cl
from clinch.errors import ProblemError, ShapeError
from clinch.geometry.region import Region
from clinch.solver.check_points import check_points

ZERO = torch.tensor([0])


def lying_network(change, dtype=torch.float32):
    """A network whose user's model gives ``change`` of what the graph computes."""
    honest = small_network(dtype)

    def original(x, names):
        wanted = {honest.graph.names[name]: name for name in names}
        return {wanted[i]: change(h) for i, h in honest.graph.forward(x, wanted).items()}

    return small_network(dtype, original=original)


def problem_of(net, *constraints, objective=None):
    x, _, z = symbols(net)
    return cl.Problem(
        objective(x, z) if objective else cl.Minimize(cl.norm(x, 2)), [c(x, z) for c in constraints]
    ).query


def output(net, point, dtype):
    return net.graph_as(dtype, "cpu").forward(point.to(dtype))[4]


def test_an_honest_point_passes():
    net = small_network(torch.float32)
    point = torch.full((1, 2, 3), 0.5)
    limit = float(output(net, point, torch.float32)[0, 0]) + 1
    check = check_points(problem_of(net, lambda x, z: z[0] <= limit, lambda x, z: x <= 1), point, ZERO)
    assert bool(check.feasible) and float(check.value) == pytest.approx(0.5 * math.sqrt(6))
    assert check.x.dtype == torch.float32 and check.value.dtype == torch.float64
    assert float(check.violation) == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_point_must_pass_in_the_models_dtype_and_in_float64(sign):
    """The limit lies between the float32 and the float64 value of an output: exactly one of the two is above it."""
    net = small_network(torch.float32)
    generator = torch.Generator().manual_seed(0)
    for point in torch.rand(50, 1, 2, 3, generator=generator):
        single = float(output(net, point, torch.float32)[0, 0])
        double = float(output(net, point, torch.float64)[0, 0])
        if single == double:
            continue
        middle = (single + double) / 2
        query = problem_of(net, lambda x, z, c=middle: sign * z[0] <= sign * c)
        check = check_points(query, point, ZERO)
        assert not bool(check.feasible)
        assert 0 < float(check.violation) < 1e-4
        loose = middle + sign * 1e-4
        query = problem_of(net, lambda x, z, c=loose: sign * z[0] <= sign * c)
        assert bool(check_points(query, point, ZERO).feasible)


@pytest.mark.parametrize("amount", [0.5, -0.5])
def test_a_model_that_disagrees_with_the_graph_fails_the_point(amount):
    """Where only one of the two sides satisfies the constraint, whichever it is, the point does not count."""
    net = lying_network(lambda h: h + amount)
    point = torch.full((1, 2, 3), 0.5)
    value = float(output(net, point, torch.float64)[0, 0])
    for limit, expected in ((value + 0.25, amount < 0), (value - 0.25, False), (value + 1, True)):
        assert bool(check_points(problem_of(net, lambda x, z, u=limit: z[0] <= u), point, ZERO).feasible) is expected
    for limit, expected in ((value - 0.25, amount > 0), (value + 0.25, False), (value - 1, True)):
        assert bool(check_points(problem_of(net, lambda x, z, u=limit: z[0] >= u), point, ZERO).feasible) is expected


@pytest.mark.parametrize("amount", [0.5, -0.5])
def test_the_value_is_the_worse_of_both(amount):
    net = lying_network(lambda h: h + amount)
    point = torch.full((1, 2, 3), 0.5)
    value = float(output(net, point, torch.float64)[0, 0])
    least = check_points(problem_of(net, objective=lambda x, z: cl.Minimize(z[0])), point, ZERO)
    assert float(least.value) == pytest.approx(value + max(amount, 0), abs=1e-5)
    most = check_points(problem_of(net, objective=lambda x, z: cl.Maximize(z[0])), point, ZERO)
    assert float(most.value) == pytest.approx(-(value + min(amount, 0)), abs=1e-5)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes(broken):
    point = torch.full((1, 2, 3), 0.5)
    net = lying_network(lambda h: torch.cat([h[:, :-1], torch.full_like(h[:, -1:], broken)], 1))
    for query in (problem_of(net, lambda x, z: z[3] <= 1e9), problem_of(net, objective=lambda x, z: cl.Minimize(z[0]))):
        check = check_points(query, point, ZERO)
        assert not bool(check.feasible) and float(check.violation) == math.inf and float(check.value) == math.inf
    honest = small_network(torch.float32)
    point[0, 1, 1] = broken
    for query in (problem_of(honest), problem_of(honest, lambda x, z: x >= 0, lambda x, z: x <= 1)):
        assert not bool(check_points(query, point, ZERO).feasible)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_are_clipped_into_the_box(dtype):
    net = small_network(dtype)
    query = problem_of(net, lambda x, z: x >= 0, lambda x, z: x <= 1)
    ulp_above = torch.nextafter(torch.ones(1, 2, 3, dtype=dtype), torch.tensor(2.0, dtype=dtype))
    check = check_points(query, ulp_above, ZERO)
    assert bool(check.feasible) and bool((check.x == 1).all())
    assert bool(check_points(query, torch.full((1, 2, 3), -7.0), ZERO).feasible)


def test_points_are_rounded_to_the_models_dtype_before_the_check():
    net = small_network(torch.float32)
    query = problem_of(net, lambda x, z: x <= 0.1)
    check = check_points(query, torch.full((1, 2, 3), 0.1, dtype=torch.float64), ZERO)
    assert torch.equal(check.x, torch.full((1, 2, 3), 0.1)) and bool(check.feasible)
    assert float(check.value) == float(check.x.double().norm())


def test_a_box_without_an_input_of_the_models_dtype_is_empty():
    """Engines may shrink boxes in float64; corners are rounded inwards, never outwards."""
    net = small_network(torch.float32)
    query = problem_of(net, lambda x, z: x <= 1)
    narrow = torch.full((1, 2, 3), 0.1, dtype=torch.float64)
    check = check_points(dataclasses.replace(query, region=Region(narrow, narrow + 1e-12)), narrow, ZERO)
    assert not bool(check.feasible) and float(check.violation) == math.inf


def test_corners_that_the_model_does_not_know_are_rounded_inwards():
    net = small_network(torch.float32)
    limit = torch.full((1, 2, 3), 0.1, dtype=torch.float64)  # float32 has a neighbour above and one below
    for region in (Region(0 * limit, limit), Region(-limit, 0 * limit)):
        query = dataclasses.replace(problem_of(net), region=region)
        for start in (limit, -limit):
            check = check_points(query, start, ZERO)
            assert bool(check.feasible) and bool((check.x.double().abs() <= limit).all())


def test_a_norm_that_counts_does_not_count_nan():
    net = lying_network(lambda h: torch.full_like(h, math.nan))
    query = problem_of(net, objective=lambda x, z: cl.Minimize(cl.norm(z, 0)))
    check = check_points(query, torch.zeros(1, 2, 3), ZERO)
    assert not bool(check.feasible) and float(check.value) == math.inf


@pytest.mark.parametrize(("p", "radius"), [(2, math.sqrt(6) / 2), (1, 3.0), (0, 6.0)])
def test_balls(p, radius):
    net = small_network(torch.float32)
    point = torch.full((1, 2, 3), 0.5)
    assert bool(check_points(problem_of(net, lambda x, z: cl.norm(x, p) <= radius), point, ZERO).feasible)
    smaller = 5 if p == 0 else radius * (1 - 1e-4)
    check = check_points(problem_of(net, lambda x, z: cl.norm(x - 1, p) <= smaller), point.clone(), ZERO)
    assert not bool(check.feasible) and float(check.violation) > 0


def test_rounding_of_the_radius_is_one_part_in_a_billion():
    net = small_network(torch.float64)
    x, _, z = symbols(net)
    query = cl.Problem(cl.Minimize(z[0]), cl.norm(x[0, :2], 2) <= 5).query
    at = torch.zeros(1, 2, 3, dtype=torch.float64)
    at[0, 0, :2] = torch.tensor([3.0, 4.0])
    assert bool(check_points(query, at * (1 + 1e-10), ZERO).feasible)
    assert not bool(check_points(query, at * (1 + 1e-8), ZERO).feasible)


def test_each_point_is_checked_against_its_own_problem():
    net = small_network(torch.float32)
    _, _, z = symbols(net)
    at = torch.full((1, 2, 3), 0.5)
    value = float(output(net, at, torch.float64)[0, 0])
    limits = [value - 1, value + 1, value - 2]
    query = cl.Problem(cl.Minimize(z[0]), z[0] <= limits).query
    check = check_points(query, at.expand(4, 2, 3), torch.tensor([1, 0, 1, 2]))
    assert check.feasible.tolist() == [True, False, True, False]


def test_wrong_arguments():
    net = small_network(torch.float32)
    query = problem_of(net)
    point = torch.zeros(2, 2, 3)
    with pytest.raises(ProblemError, match="outside 0 to 0"):
        check_points(query, point, torch.tensor([0, 1]))
    with pytest.raises(ProblemError, match="outside 0 to 0"):
        check_points(query, point, torch.tensor([0, -1]))
    with pytest.raises(ShapeError, match=r"problems of 2 points have shape \(1,\)"):
        check_points(query, point, ZERO)
    with pytest.raises(ShapeError, match=r"points have shape \(2, 3\); expected \(N, 2, 3\)"):
        check_points(query, point[0], ZERO)
    with pytest.raises(ProblemError, match="float64 query"):
        check_points(query.to(torch.float32, "cpu"), point, torch.tensor([0, 0]))
    nothing = check_points(query, point[:0], torch.zeros(0, dtype=torch.long))
    assert nothing.x.shape == (0, 2, 3) and nothing.feasible.shape == (0,)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_a_feasible_point_satisfies_everything_on_both_sides(seed):
    generator = torch.Generator().manual_seed(seed)
    net = small_network(torch.float32)
    x, h, z = symbols(net)
    problem = cl.Problem(
        cl.Minimize(cl.norm(x, 1)),
        [x >= -1, x <= 1, z.argmax() == torch.arange(4), ~h.between(-1, 1), cl.norm(x, 2) <= 2],
    )
    points = 2 * torch.randn(20, 2, 3, generator=generator, dtype=torch.float64)
    problems = torch.randint(0, 4, (20,), generator=generator)
    check = check_points(problem.query, points, problems)
    for dtype in (torch.float32, torch.float64):
        found = net.graph_as(dtype, "cpu").forward(check.x.to(dtype), [3, 4])
        outside = (found[3].abs() >= 1 + 1e-5).any(1)
        inside = (check.x.double().flatten(1).norm(dim=1) <= 2 + 1e-9) & (check.x.abs() <= 1).flatten(1).all(1)
        z_c = found[4].gather(1, problems[:, None])
        same = (z_c - found[4] >= 1e-5).sum(1) == 3
        assert not bool((check.feasible & ~(outside & inside & same)).any())
    assert torch.equal(check.feasible, check.violation <= 0)


def test_long_lists_are_checked_slice_by_slice(monkeypatch):
    net = small_network(torch.float32)
    x, _, z = symbols(net)
    problem = cl.Problem(cl.Minimize(z[1]), [x >= -1, x <= 1, z.argmax() == torch.arange(4)])
    points = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(3))
    problems = torch.arange(50) % 4
    whole = check_points(problem.query, points, problems)
    monkeypatch.setattr("clinch.solver.check_points.SLICE", 60)
    parts = check_points(problem.query, points, problems)
    assert 0 < int(whole.feasible.sum()) < 50
    assert torch.equal(whole.x, parts.x) and torch.equal(whole.feasible, parts.feasible)
    torch.testing.assert_close(whole.violation, parts.violation, rtol=0, atol=1e-5)
