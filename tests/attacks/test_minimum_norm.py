"""What is particular to the minimum-norm attacks of the literature: their pass counts and their parts."""

from __future__ import annotations

import math

import pytest
import torch
from test_conformance import closed_form, images, linear, mlp
from torch import nn

import clinch as cl
from clinch.attacks.alma import _first_size
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.pdpgd import _proximal
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.norms import norm_of

pytestmark = pytest.mark.table

INF = math.inf
A = cl.attacks


class Counting(nn.Module):
    """Counts the rows sent forward with a gradient to come."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, x):
        self.rows += len(x) * x.requires_grad
        return self.inner(x)


@pytest.mark.parametrize(
    ("attack", "arguments", "forward", "backward"),
    [
        (A.ddn, {"steps": 7}, 7, 7),
        (A.fmn, {"steps": 7, "norm": 2}, 7, 7),
        (A.alma, {"steps": 7, "norm": 2}, 7, 7),
        (A.pdpgd, {"steps": 7, "norm": 1}, 7, 7),
        (A.fab, {"steps": 5, "norm": 2}, 2 * 5 + 4, 4 * 5),
        (A.fab_t, {"steps": 5, "norm": 2}, 1 + 2 * 5 * 3 + 4, 5 * 3),
        (A.fab_t, {"steps": 5, "norm": 2, "classes": 2}, 1 + 2 * 5 * 2 + 4, 5 * 2),
        (A.sigma_zero, {"steps": 7}, 7, 7),
    ],
)
def test_passes_are_as_documented(attack, arguments, forward, backward):
    model = mlp()
    x, y = (torch.cat([t, t])[:8] for t in images(model, (3, 4)))  # a multiple of four, so that no row fills a batch
    net = Counting(model).eval()
    found = attack(net, x, y, **arguments)
    assert found.forward.tolist() == [forward] * len(x) and found.backward.tolist() == [backward] * len(x)
    assert net.rows == backward // (4 if attack is A.fab else 1) * len(x)


def test_vfga_spends_two_passes_and_its_samples_on_each_changed_element():
    model = mlp()
    x, y = images(model, (3, 4))
    found = A.vfga(model, x, y, samples=3)
    assert bool(found.success.all())
    assert torch.equal(found.forward, 7 * found.backward)
    assert bool((found.distance <= found.backward).all())


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, INF])
def test_proximal_steps_are_minima(p):
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    weight = torch.tensor([0.01, 0.1, 0.3, 0.7, 3.0], dtype=torch.float64)

    def value(u):
        size = u.abs().pow(2 / 3).sum(-1) if p == 0 else torch.linalg.vector_norm(u, p, dim=-1)
        return (u - delta).square().sum(-1) / 2 + weight * size

    found = _proximal(delta, weight, norm_of(p))
    least = value(found)
    assert bool((least <= value(torch.zeros_like(delta)) + 1e-9).all()) and bool((least <= value(delta) + 1e-9).all())
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        others = found + scale * torch.randn(4000, 5, 4, dtype=torch.float64, generator=generator)
        assert bool((value(others) >= least - 1e-9).all())


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_first_step_has_the_length_asked_for(p):
    model = mlp()
    x, _ = images(model, (3, 4))
    x[:, 0] = 1.0
    goal = AttackObjective(ClassQuery(model, x, model(x).argmax(1), p=p))
    change = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    size = _first_size(goal, x, goal.todo, change, 0.3, p)
    moved = (x - size.reshape(-1, 1, 1) * change).clamp(0, 1)
    assert torch.allclose(goal.distance(moved, goal.todo), torch.full((len(x),), 0.3), rtol=1e-5)


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
@pytest.mark.parametrize("attack", [A.fab, A.fab_t])
def test_fab_needs_three_steps_on_linear_classifiers_without_limits(attack, p):
    model = linear()
    x, y = images(model, (5, 6))
    found = attack(model, x, y, norm=p, steps=3, bounds=None)
    assert bool((found.distance <= closed_form(model, x, y, p) * (1 + 1e-4)).all())


@pytest.mark.parametrize("attack", [A.fmn, A.sigma_zero, A.vfga])
def test_few_changes_on_linear_classifiers_are_near_the_fewest(attack):
    model = linear()
    x, y = images(model, (5, 6), count=8)
    weight, bias = model[1].weight, model[1].bias
    rows, constant = weight[y][:, None] - weight, bias[y][:, None] - bias
    box = torch.zeros(8, 30), torch.ones(8, 30)
    exact = halfspace_distance(rows, constant, *box, x.flatten(1), 0).distance
    exact = exact.masked_fill(nn.functional.one_hot(y, 3).bool(), INF).amin(1)
    more = {} if attack is A.vfga else {"steps": 100}
    found = attack(model, x, y, **more, **({"norm": 0} if attack is A.fmn else {}))
    assert bool((found.distance >= exact).all()) and bool((found.distance <= exact + 2).all())


def test_the_margin_leads_ddn_to_the_nearest_point():
    model = linear()
    x, y = images(model, (5, 6))
    exact = closed_form(model, x, y, 2.0)
    assert bool((A.ddn(model, x, y, steps=200, loss="margin", bounds=None).distance <= 1.005 * exact).all())


def test_more_restarts_of_fab_are_not_worse():
    model = mlp(5)
    x, y = images(model, (3, 4), count=10)
    one, three = (A.fab(model, x, y, norm=1, steps=10, restarts=n).distance for n in (1, 3))
    assert bool((three <= one * 1.0001).all())


def test_two_classes_have_no_ratio_of_logits():
    model = mlp(2, classes=2)
    x, y = images(model, (3, 4))
    assert bool(A.alma(model, x, y, norm=2, steps=60).success.all())


@pytest.mark.parametrize("attack", [A.alma, A.ddn, A.fab, A.sigma_zero, A.vfga])
def test_a_norm_without_meaning_is_named(attack):
    model = mlp()
    x, _ = images(model, (3, 4), count=1)
    net = cl.load(model, input_shape=(3, 4))
    p = 0 if attack in (A.alma, A.ddn, A.fab) else 1
    problem = cl.Problem(cl.Minimize(cl.norm(net.input - x[0], p)), [net.output.argmax() != 0])
    with pytest.raises(cl.ClinchError, match=f"no meaning for norm={p}"):
        attack(problem)


@pytest.mark.parametrize("attack", [A.alma, A.ddn, A.fab, A.fmn, A.pdpgd, A.sigma_zero, A.vfga])
def test_steps_have_to_be_positive(attack):
    model = mlp()
    x, y = images(model, (3, 4))
    with pytest.raises(cl.ClinchError, match="steps=0"):
        attack(model, x, y, steps=0)
