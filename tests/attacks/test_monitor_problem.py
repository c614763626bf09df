"""The ways to solve the monitor problem: against closed forms, against the exact search, and against liars."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.attacks.core.gradient_steps import orthogonal, selective, together
from clinch.attacks.core.problem_query import ProblemQuery
from clinch.errors import ClinchError, ProblemError, UnsupportedByEngine
from clinch.search.engines import ENGINES
from clinch.solver.check_points import check_points

sys.path.insert(0, str(Path(__file__).parent))
from attack_cases import mlp, other_class, query
from test_nearest import closed_form, linear_classifier

pytestmark = pytest.mark.table

INF = math.inf
A = cl.attacks
NEAREST = {
    "penalty": lambda p: A.penalty(p, steps=80, rounds=3),
    "carlini_wagner": lambda p: A.carlini_wagner(p, steps=100, rounds=4, first_weight=0.5, step_size=0.05),
    "decomposition": lambda p: A.decomposition(lambda goal: A.penalty(goal, branches=1, steps=80, rounds=3), p),
    "bisection": lambda p: A.bisection(p, steps=20, rounds=7, starts=1),
    "selective": lambda p: A.bisection(p, steps=20, rounds=7, starts=1, rule="selective"),
    "orthogonal": lambda p: A.bisection(p, steps=20, rounds=7, starts=1, rule="orthogonal"),
}
#: by how much the mirror image's monitor is wider, so that another class is possible inside
WIDER = 0.5
SOLVERS = ("slsqp", "cobyla", "shgo", "differential_evolution")


def watched_network(seed: int = 0) -> tuple[nn.Module, cl.Network]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    for layer in (0, 2, 4):
        model[layer].weight.data *= 2.5
    return model, cl.load(model, input_shape=(4,))


def monitor_problems(seed: int) -> list[cl.Problem]:
    """The monitor problem on a small random network, and its mirror image."""
    model, net = watched_network(seed)
    generator = torch.Generator().manual_seed(seed)
    sample = torch.rand(400, 4, generator=generator)
    x0 = torch.full((4,), 0.5) + 0.1 * torch.rand(4, generator=generator)
    near = torch.cat([x0[None], sample[(sample - x0).norm(dim=1) < 0.45]])
    h = model[:4](near).detach().double()
    lower, upper = h.amin(0) - 1e-3, h.amax(0) + 1e-3
    label = int(model(x0[None]).argmax())
    x, z, watched = net.input, net.output, net["3"]
    inside = [x >= -1, x <= 2]
    objective = cl.Minimize(cl.norm(x - x0, 2))
    same = [*inside, z.argmax(margin=1e-3) == label, ~watched.between(lower, upper, margin=1e-3)]
    wide = watched.between(lower - WIDER, upper + WIDER)
    return [cl.Problem(objective, same), cl.Problem(objective, [*inside, z.argmax(margin=1e-3) != label, wide])]


@pytest.mark.parametrize("name", NEAREST)
def test_linear_networks_have_a_closed_form(name):
    net, x0 = linear_classifier(3)
    problem = other_class(net, x0, 2.0, margin=1e-3)
    best, found = closed_form(problem), NEAREST[name](problem)
    assert bool(found.success.all())
    assert bool((found.value >= best * (1 - 1e-6)).all())
    # the change of variables is slow where a limit is met
    within = 1.1 if name == "carlini_wagner" else 1.02
    assert bool((found.value <= best * within).all()), found.value / best


@pytest.mark.parametrize(("seed", "mirror"), [(2, False), (0, True)], ids=["outside", "inside, another class"])
def test_the_monitor_problem_against_the_exact_search(seed, mirror):
    problem = monitor_problems(seed)[mirror]
    exact = problem.solve(time_limit=30, gap=1e-4)
    if exact.status is cl.Status.INFEASIBLE:
        for method in NEAREST.values():
            assert not method(problem).success.any()
        return
    assert exact.status is cl.Status.OPTIMAL
    for name, method in NEAREST.items():
        found = method(problem)
        assert bool((found.value >= float(exact.bound) * (1 - 1e-6)).all()), name
        if name not in ("carlini_wagner", "selective", "orthogonal"):
            assert bool(found.success.all()) and float(found.value) <= 1.1 * float(exact.value), (name, found.value)
        if bool(found.success):
            assert bool(check_points(problem.query, found.x, torch.zeros(1, dtype=torch.long)).feasible.all()), name


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("mirror", [False, True], ids=["outside, same class", "inside, another class"])
def test_scipy_against_the_exact_search(solver, mirror):
    problem = monitor_problems(2)[mirror]
    exact = problem.solve(time_limit=30, gap=1e-4)
    assert exact.status is cl.Status.OPTIMAL
    found = problem.solve(solver=solver, time_limit=3.0)
    assert not math.isfinite(float(found.bound)), "these solvers prove nothing"
    # SLSQP ends in a local optimum of each side
    if solver in ("slsqp", "differential_evolution"):
        within = 1.5 if solver == "slsqp" else 1.1
        assert found.status is cl.Status.FEASIBLE and float(found.value) <= within * float(exact.value)
    assert float(found.value) >= float(exact.bound) - 1e-9


@pytest.mark.parametrize("solver", ["slsqp", "slsqp_whole", "cobyla", "cobyla_whole", "shgo"])
def test_scipy_finds_the_nearest_point_of_a_half_space(solver):
    torch.manual_seed(1)
    layer = nn.Linear(3, 2)
    net = cl.load(nn.Sequential(layer, nn.Identity()).eval(), input_shape=(3,))
    x0 = torch.tensor([0.4, 0.5, 0.6])
    z = layer(x0).detach().double()
    label = int(z.argmax())
    row = (layer.weight[label] - layer.weight[1 - label]).detach().double()
    best = float((z[label] - z[1 - label] + 1e-5) / row.norm())
    x = net.input
    problem = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [x >= -9, x <= 9, net.output.argmax() != label])
    found = problem.solve(solver=solver, time_limit=2.0)
    assert found.status is cl.Status.FEASIBLE
    assert best * (1 - 1e-6) <= float(found.value) <= best * (1.2 if solver == "shgo" else 1.01)


def test_scipy_takes_other_objectives_balls_and_batches():
    _, net = watched_network(1)
    x, centers = net.input, torch.tensor([[0.5] * 4, [0.2] * 4])
    inside = [x >= 0, x <= 1, cl.norm(x - centers, 2) <= 0.2]
    problem = cl.Problem(cl.Minimize(net.output[0] - net.output[1]), inside)
    exact, found = problem.solve(time_limit=20), problem.solve(solver="slsqp", time_limit=4)
    assert bool(torch.isfinite(found.value).all())
    assert bool((found.value >= exact.bound - 1e-9).all())
    assert bool((found.value <= exact.value + 0.05 * exact.value.abs() + 1e-3).all())
    alone = A.scipy_minimise(problem, solver="slsqp", time_limit=2)
    assert bool(alone.success.all()) and torch.allclose(alone.value, found.value, atol=1e-3)


def test_scipy_ends_with_a_note_and_never_breaks_the_ledger(monkeypatch):
    problem = monitor_problems(0)[0]
    over = problem.solve(solver="differential_evolution", time_limit=0.0)
    assert over.status is cl.Status.UNKNOWN and any("time limit" in note for note in over.notes)

    def broken(*arguments, **options):
        raise np_error

    np_error = ValueError("array must not contain infs or NaNs")
    monkeypatch.setattr("scipy.optimize.minimize", broken)
    failed = problem.solve(solver="slsqp", time_limit=1.0)
    assert failed.status is cl.Status.UNKNOWN and any("gave up" in note for note in failed.notes)
    counted = cl.Problem(
        cl.Minimize(cl.norm(problem.network.input - torch.ones(4), 0)), [problem.network.output.argmax() != 0]
    )
    with pytest.raises(UnsupportedByEngine, match="slopes"):
        counted.solve(solver="slsqp")
    with pytest.raises(ProblemError, match="not known"):
        A.scipy_minimise(problem, solver="newton")


def test_a_solver_that_lies_changes_nothing(monkeypatch):
    """Whatever a solver returns, only points that were evaluated and re-checked count."""

    class Lie:
        x, fun, success = torch.zeros(4).numpy(), 0.0, True

    monkeypatch.setattr("scipy.optimize.minimize", lambda *arguments, **options: Lie)
    problem = monitor_problems(0)[0]
    assert problem.solve(solver="slsqp", time_limit=1.0).status is cl.Status.UNKNOWN


@pytest.mark.parametrize("name", NEAREST)
def test_an_attack_on_a_goal_that_lies_has_no_success(name, monkeypatch):
    """Steps see margins that are always met; the verdict is taken by the model, not by the attack."""
    net = mlp([6, 8, 3], seed=4)
    x0 = torch.rand(2, 6, generator=torch.Generator().manual_seed(2))
    honest = ProblemQuery.answer_from

    def lying(self, activations, rows):
        answer = honest(self, activations, rows)
        return answer._replace(candidates=-answer.candidates.abs() - 1)

    monkeypatch.setattr(ProblemQuery, "answer_from", lying)
    never = query(net, x0, torch.zeros(2, 3), torch.ones(2, 2), [0, 0], 2.0)
    found = NEAREST[name](never)
    assert not found.success.any() and bool(found.distance.isinf().all())


def test_rules_of_two_losses():
    gradients = torch.tensor([[[3.0, 0.0], [1.0, 1.0]]]).repeat(3, 1, 1)
    losses = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    assert torch.equal(selective(losses, gradients), gradients[[0, 1, 2], [0, 1, 0]])
    found = orthogonal(losses, gradients)
    for lane, other in ((0, 1), (1, 0), (2, 1)):
        assert abs(float(found[lane] @ gradients[lane, other])) < 1e-6 and float(found[lane].norm()) > 0.1
    # proj_b a = (a·b/‖b‖²) b, for the unit vector of a
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    assert torch.allclose(found[0], a - (a @ b) / (b @ b) * b)
    unit = gradients / gradients.norm(dim=2, keepdim=True)
    assert torch.allclose(together(losses, gradients), torch.stack([unit[0].sum(0), unit[1, 1], unit[2, 0]]))


def test_rules_of_parallel_and_zero_gradients():
    parallel = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])
    losses = torch.ones(2, 2)
    assert torch.allclose(orthogonal(losses, parallel), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert not orthogonal(losses, torch.zeros(2, 2, 2)).any()
    three = torch.eye(3).repeat(1, 1, 1) + 0.2
    direction = orthogonal(torch.ones(1, 3), three)[0]
    assert torch.allclose(three[0, 1:] @ direction, torch.zeros(2), atol=1e-6)


@pytest.mark.parametrize("method", [A.selective_pgd, A.orthogonal_pgd])
@pytest.mark.parametrize("separate", [False, True])
def test_losses_in_turn_reach_the_monitor_problem(method, separate):
    problem = monitor_problems(0)[0]
    exact = problem.solve(time_limit=30)
    found = method(problem, eps=2 * float(exact.value), restarts=4, steps=60, separate=separate)
    assert bool(found.success) and float(found.distance) <= 2 * float(exact.value) * (1 + 1e-9)
    none = method(problem, eps=0.95 * float(exact.bound), restarts=2, separate=separate)
    assert not none.success.any()


def test_decomposition_wraps_any_attack_and_counts_its_passes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    x = torch.rand(5, 3, 4, generator=generator)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    alone = A.pgd(model, x, y, eps=0.3)
    split = A.decomposition(lambda goal: A.pgd(goal, eps=0.3, history=True), model, x, y)
    assert bool((split.success | ~alone.success).all())
    assert bool((split.distance[split.success] <= 0.3 * (1 + 1e-9)).all())
    assert bool((model(split.x).argmax(1) != y)[split.success].all())
    assert split.reason[0].startswith("the clean input") and not split.passes[0]
    assert bool((split.passes[1:] > alone.passes[1:]).all())
    assert split.history is not None and bool((split.history.distance.diff(dim=0).nan_to_num() <= 0).all())


def test_every_way_is_one_line_when_it_cannot_be():
    net = mlp([4, 8, 3], seed=1)
    x0 = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    for method in (A.penalty, A.carlini_wagner):
        with pytest.raises(ProblemError, match="norm=2"):
            method(other_class(net, x0, INF))
    with pytest.raises(ProblemError, match="rule="):
        A.bisection(other_class(net, x0, 2.0), rule="sideways")
    with pytest.raises(ProblemError, match="first_weight"):
        A.penalty(other_class(net, x0, 2.0), first_weight=0.0)
    _, loaded = watched_network()
    largest = cl.Problem(cl.Maximize(loaded.output[0]), [loaded.input >= 0, loaded.input <= 1, loaded.output[1] >= 0])
    for method in (A.penalty, A.bisection, A.carlini_wagner):
        with pytest.raises(ClinchError, match="minimise"):
            method(largest)
    assert {"cobyla", "cobyla_whole", "slsqp", "slsqp_whole", "shgo", "differential_evolution"} <= set(ENGINES)
