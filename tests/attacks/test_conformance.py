"""What every attack must do: stay inside, tell the truth, leave alone what needs no attack, and name bad arguments."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import math

import pytest
import torch
from methods import METHODS, Method
from torch import nn

import clinch as cl
from clinch.attacks import AttackResult
from clinch.geometry.norms import norm, norm_of

pytestmark = pytest.mark.table

INF = math.inf


def needs(method: Method):
    missing = bool(method.needs) and importlib.util.find_spec(method.needs) is None
    return pytest.mark.skipif(missing, reason=f"{method.name} needs {method.needs}")


EACH = [pytest.param(m, p, id=f"{m.name}-{p}", marks=needs(m)) for m in METHODS for p in m.norms]
ONE = [pytest.param(m, id=m.name, marks=needs(m)) for m in METHODS]
#: attacks of the library that take no labels, or are parts of others
OTHERS = {
    "attack",
    "decomposition",
    "first_order_radius",
    "minimise",
    "minimise_by_activation_descent",
    "polish",
    "scipy_minimise",
}


def mlp(seed: int = 0, size: int = 12, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Flatten(), nn.Linear(size, 24), nn.ReLU(), nn.Linear(24, classes)
    return nn.Sequential(*layers).eval().requires_grad_(False)


def linear(seed: int = 0, size: int = 30, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).eval().requires_grad_(False)


def images(
    model: nn.Module, shape: tuple[int, ...], count: int = 6, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * torch.rand(count, *shape, generator=generator)
    return x, model(x).argmax(1)


def closed_form(model: nn.Module, x: torch.Tensor, y: torch.Tensor, p: float) -> torch.Tensor:
    """Smallest distance to another class of a linear classifier, without limits of the range."""
    w, b = model[1].weight.double(), model[1].bias.double()
    z = x.flatten(1).double() @ w.T + b
    gap = z.gather(1, y[:, None]) - z
    slope = w[y][:, None] - w[None]
    if p == 0:
        raise AssertionError("p = 0 has no closed form without a range")
    distance = gap / norm_of(p).dual.of(slope.flatten(2))
    return distance.masked_fill(torch.nn.functional.one_hot(y, len(b)).bool(), INF).amin(1)


def run(method: Method, net, x, y, p: float, eps=None, **more) -> AttackResult:
    arguments = {**method.settings, **more}
    if len(method.norms) > 1 or "norm" in inspect.signature(method.function).parameters:
        arguments["norm"] = p
    if method.kind == "budget":
        arguments["eps"] = 0.1 if eps is None else eps
    return method.function(net, x, y, **arguments)


def assert_true(found: AttackResult, model: nn.Module, x, y, p: float, target=None) -> None:
    """The result says nothing that a second look does not confirm."""
    exact = doubled(model)
    for f, points in ((model, found.x), (exact, found.x.double())):
        z = f(points)
        wrong = z.argmax(1) != y if target is None else z.argmax(1) == target
        assert bool(wrong[found.success].all())
    assert bool(((found.x >= 0) & (found.x <= 1)).all())
    d = norm(found.x.double() - x.double(), p)
    assert torch.allclose(found.distance[found.success], d[found.success])
    assert bool(found.distance[~found.success].isinf().all())
    assert bool((found.loss[found.success] < 0).all())


def doubled(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def test_every_attack_has_a_row():
    listed = {m.name for m in METHODS}
    functions = {n for n in cl.attacks.__all__ if inspect.isfunction(getattr(cl.attacks, n))}
    assert functions - OTHERS == listed


@pytest.mark.parametrize(("method", "p"), EACH)
@pytest.mark.parametrize("loaded", [False, True])
def test_results_tell_the_truth(method, p, loaded):
    model = mlp()
    x, y = images(model, (3, 4))
    net = cl.load(model, input_shape=(3, 4)) if loaded else model
    eps = {0.0: 3.0, 1.0: 1.0, 2.0: 0.5}.get(p, 0.2)
    found = run(method, net, x, y, p, eps=eps)
    assert_true(found, model, x, y, p)
    if method.kind == "budget":
        assert bool((found.distance[found.success] <= eps * (1 + 1e-9)).all())
        assert bool((norm(found.x.double() - x.double(), p) <= eps * (1 + 1e-6)).all())
    assert found.x.shape == x.shape and found.x.dtype == x.dtype
    assert found.forward.shape == found.backward.shape == (len(x),)
    assert bool((found.forward > 0).all()) and len(found.reason) == len(x)
    assert [bool(r) for r in found.reason] == [not s for s in found.success.tolist()]


@pytest.mark.parametrize(("method", "p"), EACH)
def test_the_same_seed_gives_the_same_points(method, p):
    model = mlp(3)
    x, y = images(model, (3, 4))
    one, two = (run(method, model, x, y, p).x for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(("method", "p"), [e for e in EACH if e.values[0].targets])
def test_targets_are_aimed_at(method, p):
    model = mlp(1)
    x, y = images(model, (3, 4))
    target = (y + 1) % 4
    found = run(method, model, x, y, p, eps={0.0: 12.0, 1.0: 6.0, 2.0: 2.0}.get(p, 0.8), target=target)
    assert_true(found, model, x, y, p, target)
    if method.strong:
        assert bool(found.success.any())


@pytest.mark.parametrize("method", ONE)
def test_what_is_misclassified_already_is_left_alone(method):
    model, p = mlp(), method.norms[-1]
    x, y = images(model, (3, 4))
    y[:2] = (y[:2] + 1) % 4
    found = run(method, model, x, y, p)
    assert bool(found.success[:2].all()) and not found.distance[:2].any() and torch.equal(found.x[:2], x[:2])
    assert all("already" in r for r in found.reason[:2]) and not found.passes[:2].any()


@pytest.mark.parametrize("method", [m for m in ONE if m.values[0].gradients])
def test_gradients_that_are_zero_are_reported(method):
    constant = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval().requires_grad_(False)
    constant[1].weight.zero_()
    constant[1].bias.copy_(torch.tensor([0.0, 1.0, 0.5, 0.2]))
    x = torch.full((2, 3, 4), 0.5)
    found = run(method, constant, x, torch.tensor([1, 1]), method.norms[-1])
    assert not found.success.any() and bool(found.x.isfinite().all())
    assert all("gradient" in r for r in found.reason)


@pytest.mark.parametrize(("method", "p"), [e for e in EACH if e.values[1] != 0])
def test_linear_classifiers(method, p):
    """ "nearest" comes within its factor of the closed form, "budget" finds what lies inside and nothing else."""
    if method.kind == "parameters":
        pytest.skip("its limits are no ball")
    model = linear()
    x, y = images(model, (5, 6), count=8)
    exact = closed_form(model, x, y, p)
    if method.kind == "nearest":
        found = run(method, model, x, y, p, bounds=None, **method.thorough)
        assert bool(found.success.all())
        assert bool((found.distance >= exact * (1 - 1e-6)).all())
        assert bool((found.distance <= exact * method.linear).all())
        return
    if method.shared:
        exact = exact.amin()
    inside = run(method, model, x, y, p, eps=2 * exact, bounds=None)
    outside = run(method, model, x, y, p, eps=0.99 * exact, bounds=None)
    assert not outside.success.any()
    if method.strong:
        assert bool(inside.success.all())


@pytest.mark.parametrize("method", [m for m in ONE if m.values[0].problems])
def test_problems_are_attacked_as_labels_are(method):
    model, p = mlp(), method.norms[-1]
    x, y = images(model, (3, 4), count=1)
    net = cl.load(model, input_shape=(3, 4))
    inside = [net.input >= 0, net.input <= 1, net.output.argmax() != int(y)]
    problem = cl.Problem(cl.Minimize(cl.norm(net.input - x[0], p)), inside)
    more = {"eps": 0.5} if method.kind == "budget" else {}
    found = method.function(problem, **method.settings, **more)
    if bool(found.success):
        assert_true(found, model, x, y, p)
    with pytest.raises(cl.ClinchError, match="Leave out x"):
        method.function(problem, x, y, **more)


BAD = {
    "labels out of range": (lambda x, y: {"y": torch.full_like(y, 4)}, r"y\[0\] is 4; classes are 0 to 3"),
    "labels of another shape": (lambda x, y: {"y": y[:2]}, "y has shape"),
    "fractional labels": (lambda x, y: {"y": y.double()}, "whole numbers"),
    "inputs without a batch": (lambda x, y: {"x": x[0, 0]}, "x has shape"),
    "no inputs": (lambda x, y: {"x": x[:0], "y": y[:0]}, "it holds no inputs"),
    "NaN": (lambda x, y: {"x": x * torch.nan}, "x holds NaN"),
    "outside the range": (lambda x, y: {"x": 255 * x}, "outside bounds"),
    "an empty range": (lambda x, y: {"bounds": (1.0, 0.0)}, "is no range"),
    "no labels": (lambda x, y: {"y": None}, "Pass both"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("method", ONE)
def test_bad_arguments_are_named_before_a_gradient_is_spent(method, case):
    class Counting(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            assert not x.requires_grad, "a gradient was asked for"
            return self.inner(x)

    model = mlp()
    x, y = images(model, (3, 4))
    change, message = BAD[case]
    arguments = {"x": x, "y": y, **({"eps": 0.1} if method.kind == "budget" else {}), **change(x, y)}
    with pytest.raises(cl.ClinchError, match=message):
        method.function(Counting(model).eval(), **arguments)


@pytest.mark.parametrize("method", ONE)
def test_training_mode_and_a_radius_without_meaning(method):
    model = mlp()
    x, y = images(model, (3, 4))
    with pytest.raises(cl.ClinchError, match="training mode"):
        run(method, model.train(), x, y, method.norms[-1])
    if method.kind == "budget":
        for eps in (0.0, -1.0, math.nan, INF):
            with pytest.raises(cl.ClinchError, match="positive and finite"):
                run(method, mlp(), x, y, method.norms[-1], eps=eps)
        with pytest.raises(cl.ClinchError, match="eps has shape"):
            run(method, mlp(), x, y, method.norms[-1], eps=torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize("method", ONE)
def test_history_and_progress(method):
    if "history" not in inspect.signature(method.function).parameters:
        pytest.skip("one step")
    calls: list[tuple[int, int]] = []
    model = mlp()
    x, y = images(model, (3, 4))
    found = run(method, model, x, y, method.norms[-1], history=True, progress=lambda a, b: calls.append((a, b)))
    assert found.history is not None and len(found.history.passes) == len(calls) > 0
    assert bool((found.history.passes.diff(dim=0) >= 0).all())
    assert bool((found.history.distance.nan_to_num(posinf=1e9).diff(dim=0) <= 0).all())
    assert all(a <= b for a, b in calls)
