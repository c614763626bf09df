"""No attack may depend on the units of the logits: their scale, a shift common to all classes, or their order."""

from __future__ import annotations

import math

import pytest
import torch
from methods import METHODS, Method
from test_conformance import images, mlp, needs, run
from torch import nn

import clinch as cl
from clinch.attacks.core.arguments import objective_of
from clinch.attacks.core.losses import LOSSES, loss_of

pytestmark = pytest.mark.table

#: powers of two: products with them are exact, so that every decision must come out the same to the last bit
SCALES = (2.0**-10, 2.0**4, 2.0**10)
#: attacks whose published iteration weighs a loss against a distance, or takes a loss that has a scale of its own, by
#: default: what stands here makes them follow one without
OWN_SCALE = {
    "activation_descent": {"loss": "margin"}, "apgd": {"loss": "dlr"}, "ddn": {"loss": "dlr"},
    "fgsm": {"loss": "margin"}, "minimal_apgd": {"loss": "dlr"}, "pgd": {"loss": "margin"},
    "transfer": {"loss": "dlr"}, "vfga": {"loss": "margin"},
}  # fmt: skip
#: attacks that follow cross-entropy alone, or weigh a loss of the logits' own size against a distance
PUBLISHED = {"autoattack", "carlini_wagner", "fast_grad", "lbfgs", "pdpgd", "sigma_zero"}
CASES = [pytest.param(m, p, id=f"{m.name}-{p}", marks=needs(m)) for m in METHODS for p in m.norms]
FREE = [case for case in CASES if case.values[0].name not in PUBLISHED]
#: of the attacks that are published with cross-entropy
CERTAIN = [case for case in CASES if case.values[0].name in {*OWN_SCALE, "fast_grad"}]
EPS = {0.0: 4.0, 1.0: 1.5, 2.0: 0.6}


class Rescaled(nn.Module):
    """``factor · f(x)[order] + shift``."""

    def __init__(self, net: nn.Module, factor: float = 1.0, shift: float = 0.0, order: torch.Tensor | None = None):
        super().__init__()
        self.last = nn.Linear(4, 4)
        self.net, order = net, torch.arange(4) if order is None else order
        self.last.weight.data = factor * torch.eye(4)[order]
        self.last.bias.data.fill_(shift)
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.net(x))


@pytest.mark.parametrize(("method", "p"), FREE)
def test_the_scale_of_logits_changes_no_bit(method: Method, p: float):
    x, y = images(mlp(5), (3, 4), count=3)
    more = OWN_SCALE.get(method.name, {})
    expected = run(method, Rescaled(mlp(5)), x, y, p, eps=EPS.get(p, 0.25), **more)
    for scale in SCALES:
        found = run(method, Rescaled(mlp(5), scale), x, y, p, eps=EPS.get(p, 0.25), **more)
        if method.name == "penalty":  # searches over the logarithm of a weight, which is rounded
            assert torch.allclose(found.distance, expected.distance, rtol=1e-4)
        else:
            assert torch.equal(found.x, expected.x) and torch.equal(found.distance, expected.distance)
        assert found.reason == expected.reason


@pytest.mark.parametrize(("method", "p"), CERTAIN)
@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_certainty_blinds_no_attack(method: Method, p: float, scale: float):
    """Cross-entropy's gradient is zero in any dtype here: only what lies within reach decides."""
    x, y = images(mlp(5), (3, 4))
    eps = {0.0: 12.0, 1.0: 8.0, 2.0: 2.5}.get(p, 0.9)
    found = run(method, Rescaled(mlp(5), scale), x, y, p, eps=eps)
    assert not any("gradient" in reason for reason in found.reason)
    assert bool(found.success.any())


@pytest.mark.parametrize("attack", ["worst", "nearest"])
@pytest.mark.parametrize(("shift", "order"), [(1000.0, [0, 1, 2, 3]), (0.0, [3, 1, 0, 2]), (-50.0, [1, 0, 3, 2])])
def test_neither_a_shift_nor_the_order_of_classes_changes_a_verdict(attack, shift, order):
    x, y = images(mlp(5), (3, 4), count=12)
    order = torch.tensor(order)
    changed, places = Rescaled(mlp(5), 1.0, shift, order), order.argsort()
    distance = cl.attacks.nearest(mlp(5), x, y, norm=math.inf).distance.sort().values
    between = float(distance[distance.diff().argmax()] + distance.diff().amax() / 2)
    budget = {"eps": between, "passes": 500} if attack == "worst" else {"norm": math.inf, "passes": 240}
    cases = (mlp(5), y), (changed, places[y])
    one, two = (getattr(cl.attacks, attack)(net, x, labels, **budget) for net, labels in cases)
    assert torch.equal(one.success, two.success)
    if attack == "nearest":
        # a shift is rounded, and walks from random points end elsewhere
        assert torch.allclose(one.distance, two.distance, rtol=1e-2)
    else:
        assert 0 < int(one.success.sum()) < len(x), "a radius that tells inputs apart"


@pytest.mark.parametrize(("classes", "target"), [(2, False), (2, True), (3, True), (3, False), (4, True), (5, False)])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_gradient_whatever_the_number_of_classes(name, classes, target):
    """Two classes, a target among three, certainty, ties: a loss that cannot fall is no loss."""
    model = mlp(2, classes=classes)
    x, y = images(model, (3, 4), count=8)
    wanted = model(x).argsort(1)[:, 0] if target else None
    for factor in (1.0, 1e3):
        net = nn.Sequential(model, nn.Linear(classes, classes, bias=False)).eval().requires_grad_(False)
        net[1].weight.data = factor * torch.eye(classes)
        goal = objective_of(net, x, y, target=wanted)
        slope = goal.slope(x, goal.todo, loss_of(goal.query, name))
        assert bool(slope.gradient.flatten(1).any(1).all()) and bool(slope.loss.isfinite().all())
        stepped = x - 1e-3 * slope.gradient.sign()
        assert bool((goal.slope(stepped, goal.todo, loss_of(goal.query, name)).loss <= slope.loss).all())


@pytest.mark.parametrize(("classes", "target"), [(2, None), (2, 1), (3, 2)])
def test_the_ratio_of_few_classes_finds_what_the_margin_does(classes, target):
    model = mlp(2, classes=classes)
    x, y = images(model, (3, 4), count=20)
    apgd = cl.attacks.apgd
    ratio, margin = (
        apgd(model, x, y, eps=0.3, steps=30, target=target, loss=loss).success for loss in ("dlr", "margin")
    )
    assert torch.equal(ratio, margin) and bool(ratio.any())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ties_of_all_logits_divide_nothing_by_zero(name, dtype):
    z = torch.zeros(2, 5, dtype=dtype, requires_grad=True)
    for target in (None, torch.tensor([1, 2])):
        value = LOSSES[name](z, torch.tensor([0, 3]), target)
        (slope,) = torch.autograd.grad(value.sum(), z)
        assert bool(value.isfinite().all()) and bool(slope.isfinite().all())


class Steps(nn.Module):
    """Class scores that are flat almost everywhere, and never tie."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (4 * self.net(x)).round() + 0.1 * torch.arange(4)


@pytest.mark.parametrize("name", ["worst", "apgd", "frank_wolfe"])
def test_where_gradients_are_zero_random_directions_are_tried(name):
    inner = mlp(0)
    x, _ = images(inner, (3, 4), count=12)
    inner[3].bias.data -= inner(x).mean(0)
    model = Steps(inner).eval()
    found = getattr(cl.attacks, name)(model, x, model(x).argmax(1), eps=0.3)
    assert int(found.success.sum()) >= 3 and bool((found.passes > 0).all())
    assert all(bool(reason) != success for success, reason in zip(found.success.tolist(), found.reason))
