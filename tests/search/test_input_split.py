"""Branch and bound over boxes of the input, against enumeration, closed forms and sampling."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from exact_cases import ALL_OBJECTIVES, CLAUSES, close, generator, normal, query
from hypothesis import given, settings
from hypothesis import strategies as st

import clinch as cl
from clinch.errors import UnboundedInputError, UnsupportedOperator
from clinch.geometry.region import Ball, Region
from clinch.network.ops.base import Operator
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.s_shaped import Sigmoid
from clinch.query import Distance, Forms, FormsNorm, Linear
from clinch.search.engines import ENGINES
from clinch.search.input_split import BoxSearch, input_split
from clinch.solver.ledger import Ledger
from clinch.solver.settings import InputSplit as Settings
from clinch.solver.solution import Status
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import dense, leaky, max_pooled, multilayer, network_of, residual

pytestmark = pytest.mark.table

SEEDS = st.integers(0, 10_000)
NETWORKS = st.sampled_from([multilayer, leaky, residual])


def solved(q, *, gap=1e-3, limit=20.0):
    ledger = Ledger(q, time_limit=limit, gap=gap)
    input_split(q, ledger)
    return ledger


def smooth(rng):
    """3 inputs, two layers of 4 sigmoids, 3 outputs."""
    layers = [
        ("fc1", dense(rng, 3, 4), (0,)), ("act1", Sigmoid(), (1,)), ("fc2", dense(rng, 4, 4), (2,)),
        ("act2", Sigmoid(), (3,)), ("fc3", dense(rng, 4, 3), (4,)),
    ]  # fmt: skip
    return network_of(layers, (3,), "smooth")


def assert_sound(q, ledger):
    """The bound never passes the optimum and the value never beats it; returns the optimum."""
    best, value, bound = brute_force(q), float(ledger.value), float(ledger.bound)
    size = max(1.0, abs(best)) if math.isfinite(best) else 1.0
    assert bound <= best + 1e-6 * size and value >= best - 1e-6 * size, (value, bound, best)
    return best


@settings(deadline=None, max_examples=15)
@given(SEEDS, NETWORKS, st.sampled_from(ALL_OBJECTIVES), st.sampled_from(CLAUSES))
def test_the_optimum_lies_between_bound_and_value_whenever_it_stops(seed, make, kind, clauses):
    rng = generator(seed)
    q = query(make(rng), rng, kind, clauses)
    assert_sound(q, solved(q, limit=0.2))


@pytest.mark.parametrize("kind", ["linear", "distance 1", "distance 2", "distance inf"])
@pytest.mark.parametrize("clauses", CLAUSES)
@pytest.mark.parametrize("make", [multilayer], ids=lambda f: f.__name__)
def test_bound_and_value_meet_at_the_optimum(make, clauses, kind):
    rng = generator(5)
    q = query(make(rng), rng, kind, clauses)
    ledger = solved(q, gap=0.01)
    assert_sound(q, ledger)
    assert bool(ledger.closed.all())


@pytest.mark.parametrize(
    ("make", "clauses"), [*itertools.product([leaky, residual], CLAUSES), (max_pooled, "any"), (max_pooled, "mixed")]
)
def test_a_question_is_answered_as_enumeration_answers_it(make, clauses):
    rng = generator(3)
    q = query(make(rng), rng, "linear", clauses)
    q = replace(q, objective=Linear(Forms({}, torch.zeros(1, 1, dtype=torch.float64))))
    best = brute_force(q)
    ledger = solved(q)
    assert float(ledger.value) == best
    assert float(ledger.bound) == best


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["linear", "distance inf"])
def test_balls_cut_the_region(kind, p):
    rng = generator(1)
    q = query(multilayer(rng), rng, kind, "any")
    middle = (q.region.lower + q.region.upper) / 2
    ball = Ball(middle, torch.tensor([0.6], dtype=torch.float64), p)
    q = replace(q, region=replace(q.region, balls=(ball,)))
    assert_sound(q, solved(q, limit=0.5))


def test_sigmoids_converge_to_what_a_fine_grid_finds():
    rng = generator(3)
    net = smooth(rng)
    x, z = net.input, net.output
    box = [x >= -1, x <= 1]
    middle = float(net.graph.forward(torch.zeros(1, 3, dtype=torch.float64))[net.graph.output][0, 2])
    q = cl.Problem(cl.Minimize(z[0] - z[1]), [*box, z[2] >= middle + 0.02]).query
    ledger = solved(q, gap=1e-3)
    assert bool(ledger.closed.all())
    axis = torch.linspace(-1, 1, 41, dtype=torch.float64)
    values, atoms = q.evaluate(torch.cartesian_prod(axis, axis, axis))
    least = float(values[q.violation(atoms) <= 0].min())
    assert float(ledger.bound) <= least + 1e-9
    assert float(ledger.value) <= least + 2e-3 * max(1.0, abs(least))


def test_sigmoids_are_solved_by_default_too():
    rng = generator(5)
    net = smooth(rng)
    problem = cl.Problem(cl.Maximize(net.output[0]), [net.input >= -1, net.input <= 1])
    solution = problem.solve(time_limit=20)
    assert solution.status is Status.OPTIMAL
    assert solution.notes == ()


def test_the_norm_of_a_smooth_output_is_solved_by_default():
    rng = generator(6)
    net = smooth(rng)
    problem = cl.Problem(cl.Maximize(cl.norm(net.output, 2)), [net.input >= -1, net.input <= 1])
    solution = problem.solve(time_limit=20)
    x = torch.rand(20_000, 3, generator=rng, dtype=torch.float64) * 2 - 1
    largest = float(net.graph.forward(x)[net.graph.output].norm(dim=1).max())
    assert solution.status is Status.OPTIMAL
    assert solution.bound >= largest and solution.value >= largest - 1e-2


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_the_distance_to_a_half_space_is_known(p):
    net = network_of([("relu", LeakyReLU(), (0,))], (2,))
    x, z = net.input, net.output
    centre = torch.zeros(2, dtype=torch.float64)
    problem = cl.Problem(cl.Minimize(cl.norm(x - centre, p)), [x >= -2, x <= 2, z[0] >= 1, z[1] >= 1])
    solution = cl.exact.input_split(problem, time_limit=10)
    assert solution.status is Status.OPTIMAL
    assert solution.value == pytest.approx({1.0: 2.0, 2.0: math.sqrt(2), math.inf: 1.0}[p], rel=1e-3)


@pytest.mark.parametrize("kind", ALL_OBJECTIVES)
def test_a_box_that_is_a_point_has_the_value_there(kind):
    rng = generator(2)
    q = query(multilayer(rng), rng, kind, "none")
    point = q.region.lower
    ledger = solved(replace(q, region=Region(point, point.clone())))
    assert bool(ledger.closed.all())
    assert close(float(q.evaluate(point)[0]), float(ledger.bound), 1e-6)


def test_contradicting_limits_are_infeasible():
    rng = generator(2)
    q = query(multilayer(rng), rng, "linear", "none")
    empty = replace(q, region=Region(q.region.upper, q.region.lower))
    assert float(solved(empty).bound) == math.inf


def test_a_network_of_nan_proves_nothing_and_ends():
    rng = generator(2)
    layers = [
        ("fc1", dense(rng, 2, 3), (0,)), ("relu", LeakyReLU(), (1,)), ("fc2", dense(rng, 3, 2), (2,)),
    ]  # fmt: skip
    net = network_of(layers, (2,), "broken")
    net.graph.nodes[1].op.weight[0, 0] = math.nan
    for kind in ("linear", "distance 2", "norm 1"):
        q = query(net, rng, kind, "each")
        ledger = solved(q, limit=0.3)
        assert not bool(torch.isfinite(ledger.value).any())
        assert float(ledger.bound) < math.inf


def test_the_bound_only_rises_and_the_value_only_falls():
    ledger = Ledger(narrow_and_deep(3).query, time_limit=20.0, gap=1e-3)
    input_split(ledger.query, ledger, Settings(batch=8))
    assert bool(ledger.closed.all())
    assert len({float(event.bound) for event in ledger.history}) > 3
    for earlier, later in zip(ledger.history, ledger.history[1:]):
        assert bool((later.bound >= earlier.bound).all() and (later.value <= earlier.value).all())


def test_a_search_goes_on_where_its_time_was_up():
    rng = generator(11)
    q = query(residual(rng), rng, "linear", "mixed")
    ledger = Ledger(q, time_limit=30.0, gap=1e-3)
    search = BoxSearch(q, ledger, Settings(batch=4))
    with ledger.share(0.0):
        search.run()
    assert not ledger.history
    slices = 0
    while not ledger.exhausted:
        with ledger.share(1e-4):
            search.run()
        slices += 1
    assert slices > 1
    assert close(brute_force(q), float(ledger.value), 2e-3)
    assert close(brute_force(q), float(ledger.bound), 2e-3)


def test_what_was_at_work_when_something_broke_stays_open(monkeypatch):
    rng = generator(11)
    q = query(residual(rng), rng, "linear", "mixed")
    ledger = Ledger(q, time_limit=30.0, gap=1e-3)
    search = BoxSearch(q, ledger, Settings(batch=4))
    settle = search.tree.settle

    def broken(found):
        luck = float(torch.rand((), generator=rng))
        if luck < 0.6:
            settle(found)
        if luck > 0.3:
            raise KeyboardInterrupt

    monkeypatch.setattr(search.tree, "settle", broken)
    interrupts = 0
    while not ledger.exhausted:
        try:
            search.run()
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts > 1
    assert close(brute_force(q), float(ledger.value), 2e-3)
    assert close(brute_force(q), float(ledger.bound), 2e-3)


class Unbounded(Operator):
    """A function without any rule."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0].softmax(1)


def test_a_layer_without_a_relaxation_proves_nothing_however_often_it_is_tried():
    net = network_of([("softmax", Unbounded(), (0,))], (2,))
    x, y = net.input, net.output
    problem = cl.Problem(cl.Minimize(0), [x >= -1, x <= 1, y[0] >= 2])
    ledger = Ledger(problem.query, time_limit=5.0)
    search = BoxSearch(problem.query, ledger)
    for _ in range(2):
        with pytest.raises(UnsupportedOperator, match="softmax"):
            search.run()
    assert float(ledger.bound) < math.inf
    assert problem.solve(time_limit=5).status is not Status.INFEASIBLE


def test_a_batch_is_solved_problem_by_problem():
    rng = generator(4)
    q = query(multilayer(rng), rng, "distance 2", "any")
    assert isinstance(q.objective, Distance)
    share = torch.rand(4, *q.graph.input_shape, generator=rng, dtype=torch.float64)
    center = q.region.lower + share * (q.region.upper - q.region.lower)
    same = q.take(torch.zeros(4, dtype=torch.long))
    many = replace(same, objective=Distance(center, 2.0))
    ledger = solved(many)
    for b in range(4):
        assert close(brute_force(many, b), float(ledger.value[b]), 2e-3)


def test_weights_of_a_norm_of_activations_count():
    rng = generator(8)
    q = query(multilayer(rng), rng, "norm 1", "none")
    assert isinstance(q.objective, FormsNorm)
    weights = torch.tensor([[0.5, 2.0]], dtype=torch.float64)
    q = replace(q, objective=replace(q.objective, weights=weights, scale=-1.0))
    ledger = solved(q)
    assert_sound(q, ledger)
    assert bool(ledger.closed.all())


def test_an_input_without_limits_is_refused_in_one_line():
    rng = generator(2)
    q = query(multilayer(rng), rng, "linear", "none")
    q = replace(q, region=Region(q.region.lower, torch.full_like(q.region.upper, math.inf)))
    with pytest.raises(UnboundedInputError, match="finite limits"):
        ENGINES["input_split"].run(q, Ledger(q), 0, Settings())


def test_no_time_gives_no_answer_and_no_error():
    rng = generator(2)
    q = query(multilayer(rng), rng, "linear", "any")
    assert not solved(q, limit=0.0).history


def narrow_and_deep(inputs):
    """A ReLU network with many kinks and few inputs: splitting the input is the only way to close it."""
    rng = generator(1)
    layers = [("fc0", dense(rng, inputs, 24), (0,))]
    for k in range(3):
        layers += [(f"relu{k}", LeakyReLU(), (2 * k + 1,)), (f"fc{k + 1}", dense(rng, 24, 24), (2 * k + 2,))]
    net = network_of(layers, (inputs,), "narrow")
    return cl.Problem(cl.Maximize(net.output[0] + 0.1 * float(normal(rng, 1))), [net.input >= -1, net.input <= 1])


def test_few_inputs_and_many_kinks_are_closed_by_default():
    finders = []
    solution = narrow_and_deep(2).solve(time_limit=20, progress=lambda event: finders.append(event.who))
    assert solution.status is Status.OPTIMAL
    assert "input split" in finders


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_questions_at_the_very_edge_of_few_inputs_are_decided(seed):
    """Boxes shrink for ever beside the best corner; three kinks are soon split."""
    rng = torch.Generator().manual_seed(seed)
    net = network_of(
        [("fc", dense(rng, 3, 4), (0,)), ("relu", LeakyReLU(), (1,)), ("out", dense(rng, 4, 1), (2,))], (3,)
    )
    x, z = net.input, net.output[0]
    box = [x >= 0, x <= 1]
    best = cl.Problem(cl.Maximize(z), box).solve(gap=1e-12, solver="branch_and_bound").value
    beyond = cl.Problem(cl.Minimize(0), [*box, z >= best + 1e-5]).solve(time_limit=60)
    within = cl.Problem(cl.Minimize(0), [*box, z >= best - 1e-5]).solve(time_limit=60)
    assert (beyond.status, within.status) == (cl.Status.INFEASIBLE, cl.Status.OPTIMAL)


def test_points_outside_of_a_ball_do_not_crowd_out_the_one_inside():
    net = cl.load(torch.nn.Linear(8, 1, bias=False).double().eval(), input_shape=(8,))
    x = net.input
    q = cl.Problem(cl.Maximize(net.output[0]), [x.binary(), cl.norm(x, 1) <= 1]).query
    points = torch.cat([1.0 - torch.eye(8).repeat(5, 1), torch.eye(8)[:1]]).double()
    problem = torch.zeros(41, dtype=torch.long)
    violation, values = torch.zeros(41, dtype=torch.float64), torch.arange(41.0, dtype=torch.float64)
    ledger = Ledger(q)
    goal = BoxSearch(q, ledger).goal
    goal.walking = math.inf  # no walks: these points alone
    goal._on_values = lambda points, problem: (points, values, violation)
    goal._offer_points(points, values, violation, problem)
    assert torch.equal(ledger.x, points[40:].to(ledger.x))
