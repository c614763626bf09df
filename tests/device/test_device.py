"""``device=``: every engine computes where it is asked to, and answers as on the CPU.

On a pretend device in every run (a tensor made in the wrong place is an error there), on CUDA where there is one.
"""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from pretend import PretendCuda
from problems import KINDS, uniform

import clinch as cl
from clinch.errors import ProblemError
from clinch.modeling.model import SymbolicNetwork
from clinch.search.input_split import input_split
from clinch.solver.ledger import Ledger
from clinch.solver.settings import InputSplit
from clinch.testing.networks import ENCODABLE, convolutional, max_pooled, multilayer, residual

pytestmark = pytest.mark.table

PLACES = [
    pytest.param(PretendCuda, id="pretend"),
    pytest.param(
        contextlib.nullcontext,
        id="cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine"),
        ],
    ),
]
REGION_BOUNDS = ("interval", "fast_dual", "crown", "alpha_crown")


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem_of(make, kind: str, p: float, seed: int = 3) -> cl.Problem:
    rng = random(seed)
    return KINDS[kind](make(rng), rng, p)


def assert_same(a: cl.Solution, b: cl.Solution) -> None:
    assert a.status is b.status
    for ours, theirs in ((a.value, b.value), (a.bound, b.bound)):
        assert ours == theirs or math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-6), (a, b)
    assert b.x.device.type == "cpu"


def assert_consistent(a: cl.Solution, b: cl.Solution, sense: int) -> None:
    """Both closed the problem, each in its own order: no bound passes a value, and the values agree up to the gap."""
    assert a.status is b.status is cl.Status.OPTIMAL
    assert sense * a.bound <= sense * b.value + 1e-7 and sense * b.bound <= sense * a.value + 1e-7
    assert math.isclose(a.value, b.value, rel_tol=2e-3, abs_tol=1e-5)
    assert b.x.device.type == "cpu"


@pytest.fixture(params=PLACES)
def place(request):
    return request.param


@pytest.mark.parametrize(
    ("make", "kind", "p"),
    [
        (multilayer, "worst_margin", 2.0), (residual, "other_class", math.inf),
        (convolutional, "largest_output", math.inf), (max_pooled, "worst_margin", math.inf),
    ],
)  # fmt: skip
def test_the_whole_solve(place, make, kind, p):
    problem = problem_of(make, kind, p)
    here = problem.solve(time_limit=60)
    with place():
        assert_consistent(here, problem.solve(time_limit=60, device="cuda"), problem.query.sense)


@pytest.mark.parametrize(
    ("solver", "p"),
    [
        ("attack", 0.0), ("attack", 2.0), ("bounds", 1.0), ("bounds", math.inf), ("branch_and_bound", 1.0),
        ("branch_and_bound", 2.0), ("branch_and_bound", math.inf), ("count", 0.0), ("milp", 1.0),
    ],
)  # fmt: skip
def test_each_engine_on_distances(place, solver, p):
    problem = problem_of(residual, "other_class", p)
    here = problem.solve(time_limit=60, solver=solver)
    with place():
        assert_same(here, problem.solve(time_limit=60, solver=solver, device="cuda"))


@pytest.mark.parametrize(
    ("solver", "kind"),
    [("attack", "worst_margin"), ("bounds", "largest_output"), ("bounds", "either_or"), ("bounds", "monitor_objects")],
)
def test_attack_and_bounds_on_the_other_objectives_and_clauses(place, solver, kind):
    problem = problem_of(multilayer, kind, 1.0)
    here = problem.solve(time_limit=60, solver=solver)
    with place():
        assert_same(here, problem.solve(time_limit=60, solver=solver, device="cuda"))


@pytest.mark.parametrize("kind", ["other_class", "worst_margin"])
def test_splitting_the_input(place, kind):
    problem = problem_of(multilayer, kind, math.inf)
    found = []
    for where, device in ((contextlib.nullcontext, "cpu"), (place, "cuda")):
        ledger = Ledger(problem.query, time_limit=60, gap=0.5)
        with where():
            input_split(problem.query.moved(device), ledger, InputSplit(batch=8))
        assert bool(ledger.closed.all())
        found.append(ledger)
    here, there = found
    assert bool((there.bound <= here.value + 1e-9).all()) and bool((here.bound <= there.value + 1e-9).all())


def test_a_batch_of_problems_with_disjunctions_and_leaves(place):
    net = multilayer(random(5))
    x0 = uniform(random(6), (3, 3))
    z = net.output
    problem = cl.Problem(
        cl.Minimize(cl.norm(net.input - x0, cl.inf)),
        [net.input >= -1, net.input <= 1, (z[0] >= z[1] + 0.2) | (z[2] >= z[1]), (z[0] <= 1) | (z[1] <= 0.1)],
    )
    here = problem.solve(time_limit=60, solver="branch_and_bound")
    with place():
        there = problem.solve(time_limit=60, solver="branch_and_bound", device="cuda")
    assert here.status == there.status
    for ours, theirs in ((here.value, there.value), (here.bound, there.bound)):
        assert torch.allclose(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("bound", REGION_BOUNDS)
@pytest.mark.parametrize("make", [residual, convolutional, max_pooled], ids=lambda f: f.__name__)
def test_bounds_over_a_region_live_where_the_region_does(place, make, bound, p):
    rng = random(1)
    net = make(rng)
    x = uniform(rng, (2, *net.input_shape))
    c = torch.randn(4, 3, generator=rng, dtype=torch.float64)
    limited = {"lower": -1, "upper": 1}
    function = getattr(cl.bounds, bound)
    here = function(net, cl.bounds.ball(x, 0.3, p, **limited), c)
    with place():
        region = cl.bounds.ball(x, 0.3, p, **limited, device="cuda")
        there = function(net, region, c)
        assert region.lower.device.type == there.device.type == "cuda"
        assert torch.allclose(there.detach().cpu(), here.detach(), rtol=1e-7, atol=1e-9)
        limits = cl.bounds.layer_limits(net, region, method=bound)
        assert all(side.device.type == "cuda" for both in limits.values() for side in both)


@pytest.mark.parametrize("make", ENCODABLE, ids=lambda f: f.__name__)
def test_reported_limits_of_layers(place, make):
    problem = problem_of(make, "largest_output", 1.0)
    layers = problem.network.layers[1:]
    here = problem.solve(time_limit=60, solver="bounds", bounds=layers).bounds
    with place():
        there = problem.solve(time_limit=60, solver="bounds", bounds=layers, device="cuda").bounds
    for layer in layers:
        for ours, theirs in zip(here[layer], there[layer]):
            assert theirs.device.type == "cpu" and torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def living_there(net: SymbolicNetwork) -> SymbolicNetwork:
    """The same network, whose own model takes inputs on the device."""

    def original(x: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
        assert x.device.type == "cuda"
        graph = net.graph_as(torch.float64, "cuda")
        values = graph.forward(x, [graph.names[n] for n in names])
        return {n: values[graph.names[n]].detach() for n in names}

    return SymbolicNetwork(net.graph, original, dtype=torch.float64, device="cuda:0", name="there")


def test_engines_follow_the_model_where_no_device_is_named(place):
    def problem(net: SymbolicNetwork) -> cl.Problem:
        x, z = net.input, net.output
        return cl.Problem(cl.Minimize(cl.norm(x - torch.ones(3), 2)), [x >= -1, x <= 1, z[0] >= z[1] + 0.1])

    net = multilayer(random(0))
    here = problem(net).solve(time_limit=60, solver="branch_and_bound")
    with place():
        there = problem(living_there(net))
        assert_same(here, there.solve(time_limit=60, solver="branch_and_bound"))
        for attack in (cl.attacks.bisection, cl.attacks.minimise):
            found = attack(there, steps=3)
            assert found.x.device.type == "cuda"
            assert bool((found.value >= float(here.bound) - 1e-9).all())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")
def test_a_module_on_cuda():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()

    def solved(net: SymbolicNetwork) -> cl.Solution:
        inside = [net.input >= -1, net.input <= 1]
        return cl.Problem(cl.Minimize(net.output[0] - net.output[1]), inside).solve(time_limit=60)

    assert_consistent(solved(cl.load(model, input_shape=(3,))), solved(cl.load(model.cuda(), input_shape=(3,))), 1)


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nowhere"])
def test_a_device_that_is_not_there_is_one_clear_line(device):
    problem = problem_of(multilayer, "largest_output", 1.0)
    calls = [
        lambda: problem.solve(device=device),
        lambda: cl.exact.branch_and_bound(problem, device=device),
        lambda: cl.bounds.box(torch.zeros(1, 3), torch.ones(1, 3), device=device),
        lambda: cl.bounds.ball(torch.zeros(1, 3), 1.0, 2, device=device),
    ]
    for call in calls:
        with pytest.raises(ProblemError, match=rf"^The device '{device}' cannot be used \(.*\)\. Write 'cpu'") as error:
            call()
        assert "\n" not in str(error.value)
