"""Limits of the inputs that every attack takes: masks, reaches, grids, ranges of elements, pixels that count once."""

from __future__ import annotations

import math

import pytest
import torch
from methods import METHODS
from test_conformance import assert_true, images, mlp, needs, run
from torch import nn

import clinch as cl
from clinch.geometry.norms import norm, pixel_count

pytestmark = pytest.mark.table

#: attacks that have no place for them: they state programs of their own, or have parameters in place of elements
OWN_SPACE = {"linear_model_convex", "lbfgs", "carlini_wagner", "activation_descent"}
LIMITED = [
    pytest.param(m, p, id=f"{m.name}-{p}", marks=needs(m))
    for m in METHODS for p in m.norms if m.name not in OWN_SPACE and m.kind in ("budget", "nearest")
]  # fmt: skip
EPS = {0.0: 4.0, 1.0: 1.2, 2.0: 0.6}


def colourful(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 4)).eval().requires_grad_(False)


@pytest.mark.parametrize(("method", "p"), LIMITED)
def test_every_attack_keeps_to_masks_and_reaches(method, p):
    model = mlp()
    x, y = images(model, (3, 4))
    mask, reach = torch.ones(3, 4, dtype=torch.bool), torch.full((3, 4), 0.25)
    mask[0], reach[1] = False, 0.1
    found = run(method, model, x, y, p, eps=EPS.get(p, 0.3), mask=mask, reach=reach)
    assert_true(found, model, x, y, p)
    away = (found.x.double() - x.double()).abs()
    assert not away[:, 0].any() and bool((away <= reach.double()).all())


@pytest.mark.parametrize(("method", "p"), LIMITED)
def test_every_attack_keeps_to_grids(method, p):
    model, levels = mlp(), 20
    x, y = images(model, (3, 4))
    x = (levels * x).round() / levels
    y = model(x).argmax(1)
    found = run(method, model, x, y, p, eps=EPS.get(p, 0.3), grid=1 / levels)
    assert_true(found, model, x, y, p)
    assert torch.allclose(levels * found.x, (levels * found.x).round(), atol=1e-5)


def test_a_grid_costs_little():
    model = mlp()
    x, y = images(model, (3, 4), count=12)
    for p, most in ((1.0, 1.15), (2.0, 1.25), (math.inf, 2.0)):
        fine, coarse = (cl.attacks.nearest(model, x, y, norm=p, grid=g).distance for g in (None, 0.1))
        assert bool(coarse.isfinite().all()) and bool((coarse >= fine * 0.999).all())
        assert float((coarse / fine).mean()) <= most


def test_few_and_small_changes():
    """p = 0 within a box around the input, which Croce and Hein 2019 call l0+linf."""
    model = mlp()
    x, y = images(model, (3, 4), count=12)
    found = cl.attacks.worst(model, x, y, norm=0, eps=5, reach=0.3, passes=500)
    away = (found.x.double() - x.double()).abs()
    assert bool(found.success.any()) and bool(((away > 0).flatten(1).sum(1) <= 5).all()) and float(away.max()) <= 0.3
    near = cl.attacks.nearest(model, x, y, norm=0, reach=0.3, passes=480)
    assert bool((near.success | ~found.success).all())
    free = cl.attacks.nearest(model, x, y, norm=0, passes=480)
    assert bool((free.distance <= near.distance).all())


@pytest.mark.parametrize("name", ["nearest", "sigma_zero", "fmn", "pdpgd", "vfga"])
def test_pixels_count_once(name):
    model = colourful()
    x, y = images(model, (3, 4, 4))
    more = {} if name in ("sigma_zero", "vfga") else {"norm": 0}
    found = getattr(cl.attacks, name)(model, x, y, pixels=True, **more)
    changed = (found.x != x).any(1).flatten(1).sum(1)
    assert bool(found.success.all()) and torch.equal(found.distance, changed.double())
    if name in ("nearest", "sigma_zero"):
        elements = getattr(cl.attacks, name)(model, x, y, **more)
        assert float(changed.double().mean()) <= float((elements.x != x).any(1).flatten(1).sum(1).double().mean())


def test_pixels_inside_a_ball():
    model = colourful()
    x, y = images(model, (3, 4, 4))
    for attack in (cl.attacks.pgd, cl.attacks.frank_wolfe):
        found = attack(model, x, y, norm=0, eps=2, pixels=True)
        assert bool((norm(found.x - x, pixel_count(3)) <= 2).all()) and bool(found.success.any())


def test_the_norm_of_pixels_is_consistent():
    generator = torch.Generator().manual_seed(0)
    own = pixel_count(3).norm
    z = torch.randn(5, 12, generator=generator)
    low, high, origin = -torch.ones_like(z), torch.ones_like(z), torch.zeros_like(z)
    radius = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    near = own.project(z, low, high, origin, radius, None)
    assert bool((own.of(near) <= radius).all()) and bool(((near == 0) | (near == z.clamp(-1, 1))).all())
    step = own.max_descent_step(z, radius, low, high)
    assert bool((own.of(step) <= radius).all())
    exact = own.linear_minimum(z.unsqueeze(1), low[:, None], high[:, None], origin[:, None], radius[:, None], None)[0]
    assert torch.equal(step, exact.squeeze(1))
    # no choice of two of the four pixels is better
    gain = z[2].abs().reshape(3, 4).sum(0)
    assert torch.isclose(-(z[2] * step[2]).sum(), gain.topk(2).values.sum())


def test_limits_that_differ_between_elements():
    model = mlp()
    x, y = images(model, (3, 4))
    low, high = torch.zeros(3, 4), torch.ones(3, 4)
    low[1], high[1] = 0.2, 0.9
    found = cl.attacks.nearest(model, x, y, norm=2, bounds=(low, high))
    assert bool(found.success.all()) and bool(((found.x >= low) & (found.x <= high)).all())
    same = cl.attacks.nearest(model, x, y, norm=2, bounds=(torch.zeros(3, 4), torch.ones(3, 4)))
    assert torch.equal(same.x, cl.attacks.nearest(model, x, y, norm=2).x)


BAD = {
    "mask of numbers": ({"mask": torch.ones(3, 4)}, "truth values"),
    "mask of another shape": ({"mask": torch.ones(5, dtype=torch.bool)}, "mask has shape"),
    "a reach below zero": ({"reach": -0.1}, "negative"),
    "a grid that is no number": ({"grid": math.nan}, "grid="),
    "pixels of sizes": ({"pixels": True}, "norm=0"),
    "pixels of what is no image": ({"pixels": True, "norm": 0}, "images"),
    "bounds in the wrong order": ({"bounds": (torch.ones(3, 4), torch.zeros(3, 4))}, "order"),
    "inputs outside of their bounds": ({"bounds": (torch.ones(3, 4), 2.0)}, "outside bounds"),
}


@pytest.mark.parametrize("case", BAD)
def test_limits_that_do_not_fit_are_named(case):
    arguments, words = BAD[case]
    x, y = images(mlp(), (3, 4))
    with pytest.raises(cl.ClinchError, match=words):
        cl.attacks.nearest(mlp(), x, y, **arguments)


def test_a_problem_states_its_own_conditions():
    model = mlp()
    x, y = images(model, (3, 4), count=1)
    net = cl.load(model, input_shape=(3, 4))
    problem = cl.Problem(cl.Minimize(cl.norm(net.input - x[0], 2)), [net.output.argmax() != int(y)])
    with pytest.raises(cl.ClinchError, match=r"mask=.* own conditions"):
        cl.attacks.nearest(problem, mask=torch.ones(3, 4, dtype=torch.bool))
