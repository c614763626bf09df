"""Largest changes: closed forms, brute force on tiny cases, intervals that hold, and mistakes that are named."""

import itertools
import sys

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.applications.regression import largest_change, linear_change
from clinch.applications.regression.jacobian import Jacobian, top_singular_vector
from clinch.applications.regression.proof import Directions
from clinch.applications.regression.semidefinite import certificate, conic, low_rank, rounded
from clinch.errors import BackendError, ClinchError, NonFiniteError, ProblemError, ShapeError

ROUNDING = 1e-9


def network(inputs, outputs, hidden=16, *, activation=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, outputs))
    return cl.load(model.eval(), input_shape=(inputs,))


def points(count, inputs, seed=0):
    return torch.rand(count, inputs, generator=torch.Generator().manual_seed(seed))


def matrices(batch, rows, columns, seed=0):
    return torch.randn(batch, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def corners(n):
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)


# --- the Jacobian --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 3), (3, 6), (4, 1)])
def test_products_agree_with_the_matrix(inputs, outputs):
    net, x = network(inputs, outputs, activation=nn.Tanh), points(3, inputs)
    jacobian = Jacobian(net, x)
    graph = net.graph_as(torch.float64, "cpu")
    exact = torch.stack(
        [torch.func.jacrev(lambda t: graph.forward(t[None])[graph.output][0])(row) for row in x.double()]
    )
    assert torch.allclose(jacobian.matrix(), exact)
    assert torch.allclose(jacobian.column_norms(), exact.norm(dim=1))
    smaller = exact @ exact.mT if outputs <= inputs else exact.mT @ exact
    assert torch.allclose(jacobian.gram(), smaller)
    v = top_singular_vector(jacobian)
    assert torch.allclose((exact @ v.unsqueeze(2)).norm(dim=(1, 2)), torch.linalg.matrix_norm(exact, 2))


def test_lanczos_needs_far_fewer_products_than_the_matrix_has_rows():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(300, 300, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    weight = left @ torch.diag(0.8 ** torch.arange(300, dtype=torch.float64)) @ right
    model = nn.Sequential(nn.Linear(300, 300, bias=False)).double().eval()
    model[0].weight.data = weight
    calls = []

    class Counted(Jacobian):
        def times(self, v):
            calls.append(len(v))
            return super().times(v)

    jacobian = Counted(cl.load(model, input_shape=(300,)), torch.zeros(1, 300))
    v = top_singular_vector(jacobian)
    assert float((weight @ v[0]).norm()) == pytest.approx(1.0, rel=1e-12)
    assert len(calls) < 60


# --- the linear model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 1), (6, 3), (3, 6)])
@pytest.mark.parametrize("p", [1, 2, cl.inf])
def test_linear_change_is_the_operator_norm(inputs, outputs, p):
    net, x = network(inputs, outputs, activation=nn.Tanh), points(4, inputs)
    eps = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    found = linear_change(net, x, eps, norm=p)
    matrix = Jacobian(net, x).matrix()
    exact = {
        1: matrix.norm(dim=1).amax(1),
        2: torch.linalg.matrix_norm(matrix, 2),
        cl.inf: (matrix @ corners(inputs).T).norm(dim=1).amax(1),
    }[p]
    assert torch.allclose(found.value, eps * exact, rtol=1e-9)  # these sign vectors are few: rounding finds the best
    assert bool((found.bound >= eps * exact * (1 - 1e-12)).all())
    assert bool((torch.linalg.vector_norm(found.eta, ord=p, dim=1) <= eps * (1 + 1e-9)).all())
    assert torch.allclose((matrix @ found.eta.unsqueeze(2)).norm(dim=(1, 2)), found.value)
    if p != cl.inf:
        assert torch.allclose(found.bound, found.value, rtol=1e-6)


def test_a_range_cuts_the_box_exactly():
    net, x = network(5, 3, activation=nn.Tanh), points(6, 5)
    found = linear_change(net, x, 0.6, norm=cl.inf, bounds=(0.0, 1.0))
    low = torch.maximum(x.double() - 0.6, torch.zeros(1)) - x.double()
    high = torch.minimum(x.double() + 0.6, torch.ones(1)) - x.double()
    ends = low.unsqueeze(1) + (high - low).unsqueeze(1) * (corners(5) + 1) / 2
    exact = (ends @ Jacobian(net, x).matrix().mT).norm(dim=2).amax(1)
    assert torch.allclose(found.value, exact)
    assert bool((found.bound >= exact * (1 - 1e-12)).all())
    assert bool((low - 1e-12 <= found.eta).all()) and bool((found.eta <= high + 1e-12).all())


@pytest.mark.parametrize("p", [1, 2])
def test_points_stay_in_the_range_for_other_norms(p):
    net, x = network(5, 3, activation=nn.Tanh), points(6, 5)
    found = linear_change(net, x, 0.6, norm=p, bounds=(0.0, 1.0))
    z = x.double() + found.eta
    assert float(z.min()) >= 0 and float(z.max()) <= 1
    assert bool((found.value <= found.bound).all()) and bool((found.value > 0).all())


# --- the semidefinite relaxation -----------------------------------------------------------------------------------


def test_any_multipliers_give_a_bound():
    matrix = matrices(20, 3, 8)
    exact = (matrix @ corners(8).T).square().sum(1).amax(1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        y = torch.rand(20, 8, generator=generator, dtype=torch.float64).pow(3)
        assert bool((certificate(matrix, y) >= exact).all())
    assert bool((certificate(matrix, torch.zeros(20, 8, dtype=torch.float64)) >= exact).all())


def test_multipliers_that_are_too_small_would_be_no_bound():
    """The certificate is what makes them one: the plain sum of such multipliers lies below the optimum."""
    matrix = matrices(20, 3, 8)
    exact = (matrix @ corners(8).T).square().sum(1).amax(1)
    y = 0.5 * torch.linalg.vector_norm(matrix.mT @ (matrix @ low_rank(matrix).factor), dim=2)
    assert bool((y.sum(1) < exact).any()) and bool((certificate(matrix, y) >= exact).all())


@pytest.mark.parametrize("shape", [(30, 1, 7), (30, 3, 9), (30, 12, 8), (10, 5, 200)])
def test_rounding_keeps_two_thirds_of_the_bound(shape):
    matrix = matrices(*shape)
    relaxed = low_rank(matrix)
    signs = rounded(matrix, relaxed.factor)
    value = (matrix @ signs.unsqueeze(2)).square().sum((1, 2))
    assert bool((value <= relaxed.bound).all()) and bool((value >= 2 / torch.pi * relaxed.bound).all())
    # what the relaxation itself reaches is met by its certificate
    reached = (matrix @ relaxed.factor).square().sum((1, 2))
    assert torch.allclose(reached, relaxed.bound, rtol=1e-6)
    if shape[2] < 10:
        exact = (matrix @ corners(shape[2]).T).square().sum(1).amax(1)
        assert bool((relaxed.bound >= exact).all()) and torch.allclose(value, exact)


def test_columns_and_matrices_of_zeros():
    matrix = matrices(2, 3, 6)
    matrix[0, :, 2:4] = 0.0
    matrix[1] = 0.0
    relaxed = low_rank(matrix)
    value = (matrix @ rounded(matrix, relaxed.factor).unsqueeze(2)).square().sum((1, 2))
    assert bool((value <= relaxed.bound).all()) and float(relaxed.bound[1]) == 0.0


def test_scs_gives_the_same_bound():
    pytest.importorskip("cvxpy")
    pytest.importorskip("scs")
    matrix = matrices(3, 4, 10)
    assert torch.allclose(conic(matrix).bound, low_rank(matrix).bound, rtol=1e-4)
    rough = conic(matrix, tolerance=0.1)
    assert bool((rough.bound >= low_rank(matrix).bound * (1 - 1e-9)).all())
    net, x = network(6, 3), points(2, 6)
    one, other = (linear_change(net, x, 0.1, norm=cl.inf, semidefinite=s) for s in ("scs", "low-rank"))
    assert torch.allclose(one.bound, other.bound, rtol=1e-4)


def test_without_scs_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scs", None)
    with pytest.raises(BackendError, match=r'scs is not installed. Run: pip install "clinch-nn\[convex\]"'):
        conic(matrices(1, 2, 3))


# --- the network itself --------------------------------------------------------------------------------------------


def sampled(net, x, eps, p, count=4000):
    """Largest change over random inputs of the balls, many at their ends."""
    generator = torch.Generator().manual_seed(7)
    offset = torch.randn(len(x), count, x.shape[1], generator=generator, dtype=torch.float64)
    offset = offset.sign() if p == cl.inf else offset.pow(5) if p == 1 else offset
    offset = offset / torch.linalg.vector_norm(offset, ord=p, dim=2, keepdim=True)
    offset = eps * offset * torch.rand(len(x), count, 1, generator=generator, dtype=torch.float64).pow(0.05)
    graph = net.graph_as(torch.float64, "cpu")
    with torch.no_grad():
        moved = graph.forward((x.double().unsqueeze(1) + offset).flatten(0, 1))[graph.output].reshape(len(x), count, -1)
        return (moved - graph.forward(x.double())[graph.output].unsqueeze(1)).norm(dim=2).amax(1)


@pytest.mark.parametrize("p", [1, 2, cl.inf])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 1), (3, 2), (4, 3), (4, 8)])
def test_the_interval_holds_brute_force(inputs, outputs, p):
    net, x, eps = network(inputs, outputs, 8), points(2, inputs), 0.7
    # those of few outputs are closed long before that
    found = largest_change(net, x, eps, norm=p, time_limit=30 if outputs < 8 else 1)
    brute = sampled(net, x, eps, p)
    assert bool((found.value <= found.bound * (1 + ROUNDING)).all()) and bool((brute <= found.bound).all())
    assert bool((found.value >= brute * (0.99 if outputs < 8 else 0.9)).all())
    assert bool((torch.linalg.vector_norm((found.x - x).double(), ord=p, dim=1) <= eps * (1 + 1e-6)).all())
    graph = net.graph_as(torch.float64, "cpu")
    ends, start = (graph.forward(t.double())[graph.output] for t in (found.x, x))
    assert torch.allclose((ends - start).norm(dim=1), found.value, atol=1e-6)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_small_networks_are_closed(outputs):
    net, x = network(4, outputs, 12), points(2, 4)
    found = largest_change(net, x, 0.3, norm=2, time_limit=60, gap=1e-2)
    assert bool((found.value >= 0.99 * found.bound).all())
    assert {event.who for event in found.solution.history} >= {"projected gradient from the linear model"}


def test_it_is_at_least_what_the_linear_models_answer_gives():
    net, x = network(20, 4, 32), points(5, 20)
    found = largest_change(net, x, 0.2, norm=cl.inf, time_limit=1)
    graph = net.graph_as(torch.float64, "cpu")
    ends = graph.forward(x.double() + found.linear.eta)[graph.output]
    change = (ends - graph.forward(x.double())[graph.output]).norm(dim=1)
    assert bool((found.value >= change * (1 - 1e-5)).all())


def test_smooth_networks_have_a_bound_too():
    net, x = network(3, 2, 8, activation=nn.Tanh), points(2, 3)
    found = largest_change(net, x, 0.5, norm=2, time_limit=1.5)
    assert bool((sampled(net, x, 0.5, 2) <= found.bound).all()) and bool(found.bound.isfinite().all())


def test_cones_bound_every_vector_that_their_limits_allow():
    """Random vectors w with the exact ``h(u) = <u, w>``: no cone that holds w may bound it below ‖w‖."""
    generator = torch.Generator().manual_seed(0)
    for count in (2, 3, 5):
        units = torch.randn(200, count, count, generator=generator, dtype=torch.float64)
        units = units / units.norm(dim=2, keepdim=True)
        inside = torch.rand(200, count, 1, generator=generator, dtype=torch.float64)
        w = (units.mT @ inside)[:, :, 0]
        directions = object.__new__(Directions)
        directions.units = units.flatten(0, 1)
        directions.highest = (units @ w.unsqueeze(2)).clamp(min=0).flatten()
        bound, _ = directions.cone_bounds(torch.arange(200 * count).reshape(200, count))
        assert bool((bound >= w.norm(dim=1) * (1 - 1e-6)).all())


def test_halving_covers_the_cone():
    net, x = network(4, 3, 8), points(1, 4)
    from clinch.applications.regression.proof import _orthants, axes_of
    from clinch.applications.regression.statement import Statement

    jacobian = Jacobian(net, x)
    statement = Statement(net, x.double(), torch.tensor([0.1]).double(), 2.0, None, jacobian.value, axes_of(jacobian))
    directions = Directions(statement, statement.problem().query)
    cones = _orthants(1, 3)
    for _ in range(4):
        cones = directions.halved(cones)
    w = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.linalg.solve(
        directions.units[cones].mT.unsqueeze(0), w[:, None, :, None].expand(-1, len(cones), -1, -1)
    )
    assert bool((weights[..., 0] >= -1e-9).all(2).any(1).all())


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"norm": 3}, ProblemError, "Write 1, 2 or cl.inf"),
        ({"eps": 0.0}, ProblemError, "positive and finite"),
        ({"eps": torch.ones(3)}, ShapeError, r"expected one number or \(2,\)"),
        ({"bounds": (1.0, 0.0)}, ProblemError, "is no range"),
        ({"bounds": (0.0, 0.1)}, ProblemError, "outside bounds"),
        ({"semidefinite": "mosek"}, ProblemError, "'low-rank' or 'scs'"),
        ({"x": torch.ones(2, 5)}, ShapeError, r"expected \(B, 4\)"),
        ({"x": torch.ones(4)}, ShapeError, "a batch of inputs"),
        ({"x": torch.full((2, 4), torch.nan)}, NonFiniteError, "NaN or infinity"),
    ],
)
def test_mistakes_are_named(arguments, error, words):
    net = network(4, 2)
    given = {"x": points(2, 4), "eps": 0.1, **arguments}
    for function in (linear_change, largest_change):
        with pytest.raises(error, match=words) as caught:
            function(net, **given)
        assert isinstance(caught.value, ClinchError) and "\n" not in str(caught.value)


def test_a_jacobian_too_large_to_form_is_refused(monkeypatch):
    monkeypatch.setattr("clinch.applications.regression.linear.LARGEST", 7)
    with pytest.raises(ProblemError, match="Take norm=2 or norm=1"):
        linear_change(network(4, 2), points(1, 4), 0.1, norm=cl.inf)


def test_time_and_gap_must_have_a_meaning():
    for setting in ({"time_limit": -1.0}, {"gap": -1.0}):
        with pytest.raises(ProblemError, match="zero or more"):
            largest_change(network(4, 2), points(1, 4), 0.1, **setting)
