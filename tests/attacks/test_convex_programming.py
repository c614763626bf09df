"""Balda et al.'s framework: proposition 1, the closed forms, and each algorithm beside a plain loop of its formulas."""

import itertools
import math
import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import clinch as cl
from clinch.geometry.directions import steepest_direction
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.norms import norm
from clinch.papers.methods.first_order import INFEASIBLE
from clinch.papers.methods.linear_model_convex import UNSOLVED

INF = math.inf
NORMS = (1.0, 1.5, 2.0, 3.0, INF)
a = cl.attacks


def classifier(seed, size=6, classes=4, hidden=10):
    torch.manual_seed(seed)
    layers = [nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, classes)] if hidden else [nn.Linear(size, classes)]
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def inputs(net, seed, size=6, count=5):
    x = torch.rand(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, net(x).argmax(1)


def differences(net, x, y, softmax=False):
    """``L_k = f_y − f_k`` and gradients at one input, the label left out: a plain loop."""
    f = (lambda z: net(z).softmax(0)) if softmax else net
    others = [k for k in range(len(net(x))) if k != int(y)]
    jacobian = torch.autograd.functional.jacobian(f, x)
    return [(float(f(x)[y] - f(x)[k]), jacobian[y] - jacobian[k]) for k in others]


def dual(g, p):
    return float(torch.linalg.vector_norm(g, ord=INF if p == 1 else 1 if p == INF else p / (p - 1)))


# --- proposition 1 ------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([1.0, INF]), st.floats(0.05, 3))
def test_proposition_1_on_linear_models_by_all_vertices(seed, p, factor):
    """The ball's vertices decide GN: none reaches the other side below the radius, one does above."""
    assume(abs(factor - 1) > 1e-3)
    net = classifier(seed, size=3, classes=3, hidden=0)
    x, y = inputs(net, seed, size=3, count=1)
    radius = float(a.first_order_radius(net, x, y, norm=p))
    eps = factor * radius
    if p == 1:
        vertices = eps * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    else:
        vertices = eps * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    reached = bool((net(x + vertices).argmax(1) != y).any())
    assert reached == (factor > 1)
    found = a.linear_model_feasibility(net, x, y, eps=eps, norm=p, bounds=None)
    assert bool(found.success) == reached
    assert (found.reason[0] == INFEASIBLE) == (not reached)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_the_radius_is_the_least_ratio_of_all_class_pairs(p, outputs):
    net = classifier(1)
    x, y = inputs(net, 1)
    radius = a.first_order_radius(net, x, y, norm=p, outputs=outputs)
    for i in range(len(x)):
        pairs = differences(net, x[i], y[i], outputs == "probabilities")
        assert float(radius[i]) == pytest.approx(min(value / dual(g, p) for value, g in pairs), rel=1e-9)
    for factor, feasible in ((0.999, False), (1.001, True)):
        found = a.linear_model_feasibility(net, x, y, eps=factor * radius, norm=p, bounds=None, outputs=outputs)
        assert all((r != INFEASIBLE) == feasible for r in found.reason)


def test_the_radius_is_zero_infinite_or_a_problems():
    net = classifier(2)
    x, y = inputs(net, 2)
    y[0] = (y[0] + 1) % 4
    assert float(a.first_order_radius(net, x, y)[0]) == 0.0
    flat = nn.Sequential(nn.Linear(6, 3)).double().eval().requires_grad_(False)
    flat[0].weight.zero_()
    flat[0].bias.copy_(torch.tensor([0.0, 1.0, 0.5]))
    assert a.first_order_radius(flat, x[:1], torch.tensor([1])).tolist() == [INF]
    loaded = cl.load(classifier(2).float(), input_shape=(6,))
    i = int(a.first_order_radius(loaded, x[1:].float(), y[1:], norm=2).argmax()) + 1
    point = x[i].float()
    problem = cl.Problem(cl.Minimize(cl.norm(loaded.input - point, 2)), [loaded.output.argmax() != int(y[i])])
    of_labels = float(a.first_order_radius(loaded, point[None], y[i : i + 1], norm=2))
    assert float(a.first_order_radius(problem)) == pytest.approx(of_labels, rel=1e-3)
    with pytest.raises(cl.ClinchError, match="no dual norm"):
        a.first_order_radius(net, x, y, norm=0)
    with pytest.raises(cl.ClinchError, match="not among the norms"):
        a.deepfool(net, x, y, norm=0.5)


def test_the_range_takes_part_in_gn():
    """The only useful element is at its end already: infeasible for every radius."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False)).double().eval().requires_grad_(False)
    net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    x, y = torch.tensor([[0.4, 0.5]], dtype=torch.float64), torch.tensor([0])
    assert bool(a.linear_model_feasibility(net, x, y, eps=0.5, bounds=(-1.0, 1.0)).success)
    inside = a.linear_model_feasibility(net, x, y, eps=0.5, bounds=(0.1, 1.0))
    assert inside.reason == (INFEASIBLE,) and torch.equal(inside.x, x)


# --- GNII and its presets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
def test_gnii_is_proposition_2(p):
    net = classifier(3)
    x, y = inputs(net, 3)
    eps = torch.linspace(0.01, 0.3, len(x), dtype=torch.float64)
    found = a.linear_model_step(net, x, y, eps=eps, norm=p, bounds=None)
    for i in range(len(x)):
        _, g = min(differences(net, x[i], y[i]), key=lambda pair: pair[0])
        expected = x[i] - eps[i] * steepest_direction(g[None], p)[0]
        assert torch.allclose(found.x[i], expected, atol=1e-6)
        q = INF if p == 1 else 1 if p == INF else p / (p - 1)
        if p > 1:
            formula = g.sign() * g.abs() ** (q - 1) / torch.linalg.vector_norm(g, ord=q) ** (q - 1)
            assert torch.allclose(expected, x[i] - eps[i] * formula)


def test_algorithm_2_and_fast_grad_are_gnii_with_their_losses():
    net = classifier(4)
    x, y = inputs(net, 4)
    score = torch.stack([torch.autograd.functional.jacobian(net, x[i])[y[i]] for i in range(len(x))])
    assert torch.allclose(a.linear_model_score(net, x, y, eps=0.1, bounds=None).x, x - 0.1 * score.sign(), atol=1e-6)
    assert torch.allclose(a.fast_grad(net, x, y, eps=0.1).x, a.fgsm(net, x, y, eps=0.1).x, atol=1e-6)
    softmax = torch.stack([torch.autograd.functional.jacobian(lambda z: net(z).softmax(0), v)[k] for v, k in zip(x, y)])
    found = a.linear_model_score(net, x, y, eps=0.1, bounds=None, outputs="probabilities")
    assert torch.allclose(found.x, x - 0.1 * softmax.sign(), atol=1e-6)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("steps", [1, 4])
def test_algorithm_1_is_the_plain_loop_of_its_formulas(p, steps):
    net = classifier(33)  # one where the choice of the class matters
    x, y = inputs(net, 33, count=12)
    eps = 0.25
    found = a.linear_model_descent(net, x, y, eps=eps, norm=p, steps=steps, bounds=None)
    chosen = set()
    for i in range(len(x)):
        z = x[i]
        for _ in range(steps):
            if int(net(z).argmax()) != int(y[i]):
                break
            pairs = differences(net, z, y[i])
            index, (_, g) = min(enumerate(pairs), key=lambda e: e[1][0] - eps / steps * dual(e[1][1], p))
            chosen.add(index != min(range(len(pairs)), key=lambda k: pairs[k][0]))
            z = z - eps / steps * steepest_direction(g[None], p)[0]
        if bool(found.success[i]) or steps == 1:
            assert torch.allclose(found.x[i], z, atol=1e-5)
        assert (int(net(z).argmax()) != int(y[i])) == bool(found.success[i])
    assert True in chosen, "the choice of the class never mattered"


# --- equation 8 and DeepFool --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
def test_equation_8_once_and_deepfool_on_a_linear_classifier(p):
    net = classifier(6, hidden=0)
    x, y = inputs(net, 6)
    pairs = [differences(net, x[i], y[i]) for i in range(len(x))]
    exact = torch.tensor([min(value / dual(g, p) for value, g in each) for each in pairs], dtype=torch.float64)
    found = a.deepfool(net, x, y, norm=p, bounds=None, halvings=0)
    assert torch.allclose(found.distance, 1.02 * exact, rtol=1e-6)
    # one step, and one pass more for the unit of inputs that have no limits
    assert bool((found.forward == 3).all())
    drawn = a.deepfool(net, x, y, norm=p, bounds=None)
    assert bool((drawn.distance <= 1.001 * exact).all() and (drawn.distance >= exact * (1 - 1e-9)).all())
    once = a.shortest_linear(net, x, y, norm=p, bounds=None, halvings=0)
    for i, each in enumerate(pairs):
        value, g = min(each, key=lambda pair: pair[0])
        if bool(once.success[i]):
            assert float(once.distance[i]) == pytest.approx(1.02 * value / dual(g, p), rel=1e-6)
    assert bool(once.success.any())


@pytest.mark.parametrize("p", [1.5, 2.0, INF])
def test_deepfool_is_the_plain_loop_of_its_formulas(p):
    net = classifier(7, hidden=12)
    x, y = inputs(net, 7)
    found = a.deepfool(net, x, y, norm=p, bounds=None, halvings=0)
    for i in range(len(x)):
        z, total = x[i], torch.zeros_like(x[i])
        for _ in range(50):
            if int(net(z).argmax()) != int(y[i]):
                break
            value, g = min(differences(net, z, y[i]), key=lambda pair: abs(pair[0]) / dual(pair[1], p))
            total = total - value / dual(g, p) * steepest_direction(g[None], p)[0]
            z = x[i] + 1.02 * total
        assert bool(found.success[i]) and torch.allclose(found.x[i], z, atol=1e-6)


def test_deepfool_leaves_a_tie():
    """Without overshoot the first step ends exactly where both classes are equal."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False)).eval().requires_grad_(False)
    net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    found = a.deepfool(net, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), overshoot=0.0, halvings=0, bounds=None)
    assert bool(found.success) and float(found.distance) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("p", NORMS)
def test_in_the_range_deepfool_finds_the_exact_distance_of_a_linear_model(p):
    net = classifier(8, hidden=0, classes=2)
    x, y = inputs(net, 8, count=20)
    w, b = net[0].weight, net[0].bias
    rows, constant = (w[y] - w[1 - y])[:, None], (b[y] - b[1 - y])[:, None]
    found = a.deepfool(net, x, y, norm=p)
    if p in (1.0, 2.0, INF):
        exact = halfspace_distance(rows, constant, torch.zeros_like(x), torch.ones_like(x), x, p).distance[:, 0]
        assert torch.equal(found.success, exact.isfinite())
        reached = found.success
        assert torch.allclose(found.distance[reached], exact[reached], rtol=0.01)
        outside = a.deepfool(net, x, y, norm=p, bounds=None)
        assert bool((outside.distance[reached] < 0.99 * found.distance[reached]).any()), "the range never mattered"
    assert bool(((found.x >= 0) & (found.x <= 1)).all()) and bool(found.success.any())


# --- random signs -------------------------------------------------------------------------------------------------


def test_random_signs_are_fair_corners_of_the_ball():
    net = classifier(9, size=2000)
    x, y = inputs(net, 9, size=2000, count=3)
    one, two = (a.random_signs(net, x, y, eps=1e-3, bounds=None, seed=s).x - x for s in (0, 1))
    assert torch.allclose(one.abs(), torch.full_like(one, 1e-3), rtol=1e-5)
    assert abs(float((one > 0).double().mean()) - 0.5) < 0.04 and not torch.equal(one, two)
    assert not torch.equal(one[0], one[1])
    several = a.random_signs(net, x, y, eps=1e-3, steps=4)
    assert bool(((several.forward == 4) | several.success).all()) and not several.backward.any()
    loaded = cl.load(classifier(9).float(), input_shape=(6,))
    inside = [loaded.input >= 0, loaded.input <= 1, loaded.output.argmax() != 0]
    with pytest.raises(cl.ClinchError, match="corners of the ℓ∞ ball"):
        a.random_signs(cl.Problem(cl.Minimize(cl.norm(loaded.input - 0.5, 2)), inside), eps=0.1)


# --- extra constraints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_constraints_of_ones_own_hold_and_none_are_gnii(p):
    cp = pytest.importorskip("cvxpy")
    net = classifier(10)
    x, y = inputs(net, 10)
    plain = a.linear_model_step(net, x, y, eps=0.2, norm=p)
    same = a.linear_model_convex(net, x, y, eps=0.2, norm=p)
    for i in range(len(x)):
        _, g = min(differences(net, x[i], y[i]), key=lambda pair: pair[0])
        assert float(g @ (same.x - x)[i]) == pytest.approx(float(g @ (plain.x - x)[i]), abs=1e-4)
    even = a.linear_model_convex(net, x, y, eps=0.3, norm=p, constraints=lambda eta, _: [cp.sum(eta) == 0, eta[0] >= 0])
    eta = even.x - x
    assert float(eta.sum(1).abs().max()) < 1e-5 and float(eta[:, 0].min()) > -1e-6
    assert bool((norm(eta, p) <= 0.3 * (1 + 1e-6)).all())
    brighter = a.linear_model_convex(
        net, x, y, eps=0.3, norm=p, constraints=lambda eta, v: [eta + v >= 0.5 * v, eta <= 0.1 * v]
    )
    assert bool((brighter.x <= 1.1 * x + 1e-5).all()) and float((brighter.x - x).abs().max()) > 1e-3


def test_constraints_without_a_solution_or_without_convexity_and_a_missing_library(monkeypatch):
    cp = pytest.importorskip("cvxpy")
    net = classifier(11)
    x, y = inputs(net, 11)
    none = a.linear_model_convex(net, x, y, eps=0.2, constraints=lambda eta, _: [cp.sum(eta) >= 100])
    assert not none.success.any() and set(none.reason) == {UNSOLVED} and torch.equal(none.x, x)
    with pytest.raises(cl.ClinchError, match="not convex"):
        a.linear_model_convex(net, x, y, eps=0.2, constraints=lambda eta, _: [cp.norm(eta, 2) >= 0.1])
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(cl.ClinchError, match=r'pip install "clinch-nn\[convex\]"'):
        a.linear_model_convex(net, x, y, eps=0.2)


def test_a_constraint_that_rounding_breaks_is_no_success():
    cp = pytest.importorskip("cvxpy")
    net = classifier(12)
    x, y = inputs(net, 12)
    loose = a.linear_model_convex(net, x, y, eps=0.5, constraints=lambda eta, _: [cp.sum(eta) == 0.1])
    strict = a.linear_model_convex(net, x, y, eps=0.5, constraints=lambda eta, _: [cp.sum(eta) == 0.1], tolerance=0.0)
    assert bool(loose.success.any()) and int(strict.success.sum()) < int(loose.success.sum())
    assert any("rounded" in r for r in strict.reason)


# --- L-BFGS -------------------------------------------------------------------------------------------------------


def test_lbfgs_finds_the_exact_distance_of_two_linear_classes_in_the_range():
    net = classifier(13, hidden=0, classes=2)
    x, y = inputs(net, 13, count=4)
    w, b = net[0].weight, net[0].bias
    rows, constant = (w[y] - w[1 - y])[:, None], (b[y] - b[1 - y])[:, None]
    exact = halfspace_distance(rows, constant, torch.zeros_like(x), torch.ones_like(x), x, 2).distance[:, 0]
    found = a.lbfgs(net, x, y)
    assert torch.equal(found.success, exact.isfinite()) and bool(found.success.any())
    reached = found.success
    assert bool((found.distance[reached] <= 1.01 * exact[reached]).all())
    assert bool((found.distance[reached] >= exact[reached] * (1 - 1e-6)).all())


def test_lbfgs_weighs_the_distance_and_says_what_it_cannot_do():
    net = classifier(14)
    x, y = inputs(net, 14, count=2)
    crude = a.lbfgs(net, x, y, steps=30, searches=1, halvings=0, bounds=None)
    fine = a.lbfgs(net, x, y, steps=30, searches=8, halvings=0, bounds=None)
    assert bool(crude.success.all()) and bool((fine.distance < crude.distance).all())
    loaded = cl.load(net.float(), input_shape=(6,))
    problem = cl.Problem(cl.Minimize(cl.norm(loaded.input - x[0].float(), 2)), [loaded.output.argmax() != int(y[0])])
    with pytest.raises(cl.ClinchError, match="a problem has none"):
        a.lbfgs(problem)
    for bad in ({"steps": 0}, {"searches": 0}, {"sharpness": 0.0}, {"sharpness": INF}):
        with pytest.raises(cl.ClinchError, match=next(iter(bad))):
            a.lbfgs(net.double(), x, y, **bad)


@pytest.mark.parametrize("attack", [a.deepfool, a.shortest_linear])
def test_bad_numbers_are_named(attack):
    net = classifier(15)
    x, y = inputs(net, 15)
    for bad in ({"steps": 0}, {"halvings": -1}, {"overshoot": -0.1}, {"overshoot": INF}):
        with pytest.raises(cl.ClinchError, match=next(iter(bad))):
            attack(net, x, y, **bad)
