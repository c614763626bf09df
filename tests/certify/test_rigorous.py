"""The checker's arithmetic: below every exact value, near it, and the same for a box alone or among others."""

from fractions import Fraction

import numpy as np
import pytest
import torch

import clinch as cl
from clinch.certificates.layer_list import layer_list
from clinch.checker.layers import Layer, read_layers
from clinch.checker.rigorous import Ball, Box, Relaxation, interval
from clinch.geometry.linear_minimum import linear_minimum
from clinch.geometry.region import Ball as RegionBall


def test_intervals_hold_the_exact_value():
    """Cancelling terms of 1e17, a denormal and a tiny one: checked with fractions."""
    rng = np.random.default_rng(0)
    scales = np.array([1e17, 1e-17, 1.0, 5e-324, 1e-160, 1e8])
    for _ in range(50):
        weight = rng.normal(size=(3, 6)) * scales
        weight[:, 1] = -weight[:, 0]
        x = rng.normal(size=(1, 6))
        x[0, 1] = x[0, 0]
        box = interval(Layer("affine", (0,), (3,), weight, rng.normal(size=3) * 0), [Box(x, x)])
        for row, low, high in zip(weight, box.lower[0], box.upper[0]):
            exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, x[0]))
            assert Fraction(float(low)) <= exact <= Fraction(float(high))


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("scale", [1.0, 1e9, 1e-9])
def test_bounds_lie_below_exact_values_and_near_them(p, scale):
    rng = np.random.default_rng(1)
    shapes = [(7, 4), (6, 7), (2, 6)]
    layers = [Layer("input", (), (4,))]
    for i, (m, n) in enumerate(shapes):
        layers.append(Layer("affine", (len(layers) - 1,), (m,), rng.normal(size=(m, n)) * scale, rng.normal(size=m)))
        if i < 2:
            layers.append(Layer("relu", (len(layers) - 1,), (m,), slope=0.25 * i))
    center = rng.random(4)
    box = Box(center[None] - 0.1, center[None] + 0.1)
    ball = Ball(center, 0.12, p, np.array([1.0, 2.0, 0.0, 1.0]))
    network = Relaxation(layers, box, [ball])
    rows = rng.normal(size=(1, 3, 2))
    found = network.lower({5: rows}, np.zeros((1, 1)), np.zeros((1, 1)))[0]
    x = rng.uniform(box.lower, box.upper, size=(20000, 4))
    moved = ball.weights * np.abs(x - center)
    x = x[(moved.sum(1) if p == 1 else np.sqrt((moved**2).sum(1))) <= ball.radius]
    h = x
    for layer in layers[1:]:
        h = h @ layer.weight.T + layer.bias if layer.kind == "affine" else np.maximum(h, layer.slope * h)
    values = h @ rows[0].T
    assert (found <= values.min(0) + 1e-12 * np.abs(values).max()).all()
    spread = values.max(0) - values.min(0)
    assert (values.min(0) - found < 2 * spread + 1e-9 * np.abs(values).max()).all()


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_minimum_over_box_and_ball_is_found_to_rounding(p):
    """By a multiplier of the checker's own, against the exact minimum by sorting and bisection."""
    rng = np.random.default_rng(2)
    for _ in range(40):
        center, rows = rng.random(9), rng.normal(size=(1, 5, 9)) * 10.0 ** rng.integers(-3, 4)
        box = Box(center[None] - rng.random(9), center[None] + rng.random(9))
        ball = Ball(center, float(rng.uniform(0.01, 2)), p, rng.choice([0.3, 1.0, 4.0], 9))
        network = Relaxation([Layer("input", (), (9,))], box, [ball])
        found = network.lower({0: rows}, np.zeros((1, 1)), np.zeros((1, 1)))[0]
        sides = (torch.from_numpy(t) for t in box)
        region = RegionBall(torch.from_numpy(center)[None], torch.tensor([ball.radius], dtype=torch.float64), p,
                            torch.from_numpy(ball.weights)[None])  # fmt: skip
        exact = linear_minimum(torch.from_numpy(rows), *sides, region)[0].numpy()[0]
        size = np.abs(rows[0]).sum(1)
        assert (found <= exact + 1e-12 * size).all() and (found >= exact - 1e-8 * size).all()


def test_a_box_has_the_limits_it_has_alone():
    """A leaf's proof must not depend on the leaves that are looked at with it."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, stride=2, padding=1), torch.nn.LeakyReLU(0.25), torch.nn.Flatten(),
        torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3),
    ).eval()  # fmt: skip
    layers = read_layers(*layer_list(cl.load(model, input_shape=(1, 4, 4)).graph))
    rng = np.random.default_rng(3)
    lower = rng.random((6, 16)) * 0.5
    boxes = Box(lower, lower + rng.random((6, 1)))
    together = Relaxation(layers, boxes, [])
    for d in range(6):
        alone = Relaxation(layers, Box(*(t[d : d + 1] for t in boxes)), [])
        for many, one in zip(together.limits, alone.limits):
            np.testing.assert_allclose(many.lower[d], one.lower[0], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(many.upper[d], one.upper[0], rtol=1e-12, atol=1e-12)
