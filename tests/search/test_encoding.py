import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from exact_cases import ALL_OBJECTIVES, CLAUSES, OBJECTIVES, forms, generator, normal, query
from hypothesis import given, settings
from hypothesis import strategies as st

import clinch as cl
from clinch.backends import highs
from clinch.bounds.crown import activation_bounds, limits_of_forms
from clinch.encoding.mixed_integer import Encoder, Expression
from clinch.encoding.query_program import encode
from clinch.errors import UnboundedInputError, UnsupportedByEngine, UnsupportedOperator
from clinch.geometry.region import Ball, Region
from clinch.network.ops.base import Interval
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.s_shaped import Sigmoid
from clinch.query import Distance, FormsNorm
from clinch.testing.networks import ENCODABLE, dense, multilayer, network_of

SEEDS = st.integers(0, 10_000)


def encoded(q):
    return encode(q, 0, activation_bounds(q.graph, q.region, q.nodes), form_limits=limits_of_forms)


def inside(q, rng, count):
    share = torch.rand(count, *q.graph.input_shape, generator=rng, dtype=torch.float64)
    return q.region.lower + share * (q.region.upper - q.region.lower)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sampled_from(ENCODABLE), st.sampled_from(ALL_OBJECTIVES), st.sampled_from(CLAUSES))
def test_every_input_has_an_assignment_that_reproduces_the_network(seed, make, kind, clauses):
    rng = generator(seed)
    q = query(make(rng), rng, kind, clauses)
    e = encoded(q)
    for x in inside(q, rng, 20):
        vector = e.complete(x.flatten().numpy())
        value, atoms = q.evaluate(x.unsqueeze(0))
        violation = float(q.violation(atoms))
        assert e.program.objective(vector) == pytest.approx(float(value) ** e.power, abs=1e-9)
        assert bool(e.program.violation(vector) <= 1e-9) == (violation <= 0)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sampled_from(ENCODABLE), st.sampled_from(ALL_OBJECTIVES), st.sampled_from(CLAUSES))
def test_what_a_solver_finds_is_what_the_network_computes(seed, make, kind, clauses):
    rng = generator(seed)
    q = query(make(rng), rng, kind, clauses)
    e = encoded(q)
    # a random second objective leads to a random vertex of the feasible set
    cost = normal(rng, e.inputs).numpy()
    cost = np.concatenate([cost, np.zeros(e.program.variables - e.inputs)])
    steered = replace(e.program, cost=cost, quadratic=None)
    outcome = highs.solve(steered, time_limit=10)
    if outcome.status == "infeasible":
        points = inside(q, rng, 200)
        assert float(q.violation(q.evaluate(points)[1].reshape(200, -1)).min()) > -1e-7
        return
    value, atoms = q.evaluate(e.point(outcome.point))
    assert float(q.violation(atoms)) <= 1e-5
    # what everything wants small, and epigraph variables, are free to lie above where nothing presses on them
    assert e.program.objective(outcome.point) >= float(value) ** e.power - 1e-4
    if e.power == 1:
        best = highs.solve(e.program, time_limit=10)
        value, _ = q.evaluate(e.point(best.point))
        assert e.program.objective(best.point) == pytest.approx(float(value), abs=1e-4)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sampled_from(ENCODABLE), st.sampled_from(OBJECTIVES), st.sampled_from(CLAUSES))
def test_binaries_that_are_left_free_change_no_optimum(seed, make, kind, clauses):
    rng = generator(seed)
    e = encoded(query(make(rng), rng, kind, clauses))
    if e.power > 1:
        return
    whole = e.program.integer | np.isin(np.arange(e.program.variables), [
        kink.first + i for kink in e.kinks for i in range(len(kink.positions))
    ])  # fmt: skip
    free, all_whole = (highs.solve(replace(e.program, integer=which), gap=1e-9) for which in (e.program.integer, whole))
    assert free.status == all_whole.status
    if free.status == "optimal":
        assert free.value == pytest.approx(all_whole.value, abs=1e-5 * max(1.0, abs(free.value)))


@settings(deadline=None, max_examples=15)
@given(SEEDS, st.sampled_from(ENCODABLE), st.sampled_from(OBJECTIVES))
def test_weak_duality_bounds_the_relaxation_for_any_multipliers(seed, make, kind):
    rng = generator(seed)
    q = query(make(rng), rng, kind, "none")
    e = encoded(q)
    relaxed = replace(e.program, integer=np.zeros_like(e.program.integer))
    outcome = highs.solve(relaxed)
    near = 1e-6 if e.power == 1 else 1e-4
    assert e.program.bound(outcome.duals) == pytest.approx(outcome.value, abs=near)
    lowest = min(float(q.evaluate(x.unsqueeze(0))[0]) ** e.power for x in inside(q, rng, 50))
    assert outcome.value <= lowest + 1e-9
    arbitrary = normal(rng, e.program.constraints).numpy()
    assert e.program.bound(arbitrary) <= outcome.value + 1e-9
    assert not e.program.refutation(arbitrary)


def test_stable_elements_need_no_variable():
    encoder = Encoder(torch.zeros(2), torch.ones(2))
    expression = encoder.input
    known = Interval(torch.tensor([[0.0, -1.0]]), torch.tensor([[1.0, 0.0]]))
    out = encoder.two_pieces(expression, known, 0.25)
    assert not encoder.kinks
    assert torch.equal(out.coefficients[0], torch.tensor([[1.0, 0.0], [0.0, 0.25]], dtype=torch.float64))


def test_a_dominating_candidate_is_the_maximum():
    encoder = Encoder(torch.tensor([2.0, 0.0, 0.0]), torch.tensor([3.0, 1.0, 1.0]))
    each = [encoder.input.take(torch.tensor([k])) for k in range(3)]
    limits = [encoder.limits(e) for e in each]
    assert torch.equal(encoder.maximum(each, limits).coefficients[0], each[0].coefficients[0])
    assert not encoder.kinks
    encoder.maximum(each[1:], limits[1:])
    assert len(encoder.kinks) == 2


def test_limits_of_an_expression_come_from_its_variables():
    encoder = Encoder(torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 1.0]))
    expression = Expression({0: torch.tensor([[1.0], [-3.0]], dtype=torch.float64)}, torch.ones(1, dtype=torch.float64))
    assert encoder.limits(expression) == (torch.tensor([[-3.0]]), torch.tensor([[3.0]]))


def test_an_unbounded_input_is_refused_with_advice():
    rng = generator(0)
    q = query(multilayer(rng), rng, "linear", "none")
    free = replace(q, region=Region(q.region.lower - math.inf, q.region.upper))
    with pytest.raises(UnboundedInputError, match="x >= 0"):
        encode(free, 0, {}, form_limits=limits_of_forms)


@pytest.mark.parametrize("where", ["objective", "ball", "another ball"])
def test_quadratic_constraints_name_the_engine_that_takes_them(where):
    rng = generator(0)
    q = query(multilayer(rng), rng, "linear", "none")
    center, radius = q.region.lower, torch.ones(1, dtype=torch.float64)
    if where == "objective":
        q = replace(q, objective=FormsNorm(forms(q.network, rng, [q.graph.output], 2), 2.0))
    elif where == "ball":
        q = replace(q, region=Region(q.region.lower, q.region.upper, (Ball(center, radius, 2.0),)))
    else:
        ball = Ball(center + 0.1, radius, 2.0)
        q = replace(q, region=Region(center, q.region.upper, (ball,)), objective=Distance(center, 2.0))
    with pytest.raises(UnsupportedByEngine, match=r"branch_and_bound|bounds"):
        encoded(q)


def test_the_ball_of_an_l2_incumbent_needs_no_row():
    rng = generator(1)
    q = query(multilayer(rng), rng, "distance 2", "any")
    narrowed = q.narrowed(torch.tensor([0.4], dtype=torch.float64))
    e = encoded(narrowed)
    assert e.power == 2
    assert e.program.constraints <= encoded(q).program.constraints
    assert e.value(e.program_value(0.3)) == pytest.approx(0.3) and e.value(-1e-12) == 0.0


def test_an_element_at_a_limit_needs_one_row_of_the_count():
    rng = generator(2)
    q = query(multilayer(rng), rng, "linear", "none")
    size = q.region.lower.numel()
    inside = replace(q, objective=Distance((q.region.lower + q.region.upper) / 2, 0.0))
    at_limit = replace(q, objective=Distance(q.region.lower, 0.0))
    assert encoded(inside).program.constraints - encoded(at_limit).program.constraints == size


def test_an_operator_without_encoding_is_named_with_its_layer():
    rng = generator(0)
    net = network_of([("fc", dense(rng, 3, 4), (0,)), ("relu", LeakyReLU(), (1,)), ("squash", Sigmoid(), (2,))], (3,))
    q = query(net, rng, "linear", "none")
    with pytest.raises(UnsupportedOperator, match="'squash'"):
        encoded(q)


def test_l1_and_l0_balls_are_kept():
    rng = generator(3)
    q = query(multilayer(rng), rng, "linear", "none")
    center = (q.region.lower + q.region.upper) / 2
    for p, radius in ((1.0, 0.3), (0.0, 1.0)):
        ball = Ball(center, torch.tensor([radius], dtype=torch.float64), p)
        e = encoded(replace(q, region=Region(q.region.lower, q.region.upper, (ball,))))
        outcome = highs.solve(e.program)
        assert float(ball.distance(e.point(outcome.point))) <= radius + 1e-6
        assert len(e.strict) == 1


@pytest.mark.parametrize("constant", [1.0, -1.0])
def test_rows_of_a_constant_keep_their_place(constant):
    """What does not depend on any variable is a row all the same: the ones behind it must not move up."""
    encoder = Encoder(torch.full((2,), -1.0, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    encoder.constrain(Expression({}, torch.tensor([constant], dtype=torch.float64)), -np.inf, 0.0)
    total = Expression({0: torch.ones(2, 1, dtype=torch.float64)}, torch.zeros(1, dtype=torch.float64))
    last = encoder.constrain(total, 1.5, np.inf)
    program = encoder.program(total)
    assert last == slice(1, 2) and program.rows.shape == (2, 2) and len(program.row_lower) == 2
    outcome = highs.solve(program, time_limit=10)
    if constant > 0:
        assert outcome.status == "infeasible"
    else:
        assert outcome.status == "optimal" and math.isclose(outcome.value, 1.5)


def test_a_convex_last_layer_needs_no_binary_and_pools_choose_before_their_functions():
    torch.manual_seed(0)
    pooled = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    pooled.append(torch.nn.Flatten()).append(torch.nn.Linear(18, 1))
    counts = []
    for sign in (1.0, -1.0):
        pooled[-1].weight.data = sign * torch.rand(1, 18) + 0.1 * sign
        net = cl.load(pooled.double().eval(), input_shape=(1, 6, 6))
        problem = cl.Problem(cl.Minimize(net.output[0]), [net.input >= 0, net.input <= 1])
        counts.append(int(encoded(problem.query).program.integer.sum()))
    assert counts[0] == 0 and 18 < counts[1] <= 5 * 18
