"""The two moves of minimum-norm attacks against the exact ones of the geometry, and against random competitors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import linear_minimum
from clinch.geometry.norms import norm
from clinch.geometry.region import Ball
from clinch.geometry.steps import max_descent_step, min_norm_step

NORMS = [0.0, 1.0, 1.5, 2.0, 4.0, math.inf]
SEEDS = st.integers(0, 2**31)
LAW = settings(max_examples=15, deadline=None)


def case(seed: int, lanes: int = 7, size: int = 90):
    """Gradients, some of them zero, and a box around zero, some of whose elements have no room."""
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(lanes, size, generator=generator, dtype=torch.float64)
    gradient[torch.rand(lanes, size, generator=generator) < 0.2] = 0
    x = torch.rand(lanes, size, generator=generator, dtype=torch.float64)
    x[torch.rand(lanes, size, generator=generator) < 0.4] = 0
    most = torch.maximum(gradient * x, gradient * (x - 1)).sum(1)
    share = torch.rand(lanes, generator=generator, dtype=torch.float64)
    return gradient, share * most, -x, 1 - x


@pytest.mark.parametrize("p", NORMS)
@given(seed=SEEDS)
@LAW
def test_the_shortest_move_is_the_projection(p, seed):
    gradient, need, lower, upper = case(seed)
    need = 0.7 * need  # close to the best corner the secants are a few percent off
    move = min_norm_step(gradient, need, lower, upper, p)
    exact = halfspace_distance(gradient, need, lower, upper, torch.zeros_like(gradient), p)
    assert bool(((move >= lower) & (move <= upper)).all())
    assert bool(((gradient * move).sum(1) <= -need + 1e-3 * need).all())
    assert torch.allclose(norm(move, p), exact.distance, rtol=2e-3)


@pytest.mark.parametrize("p", NORMS)
def test_what_cannot_be_met_ends_in_the_best_corner_and_nothing_needed_moves_nothing(p):
    gradient, need, lower, upper = case(3)
    beyond = min_norm_step(gradient, torch.full_like(need, 1e6), lower, upper, p)
    assert torch.allclose((gradient * beyond).sum(1), torch.minimum(gradient * lower, gradient * upper).sum(1))
    assert not min_norm_step(gradient, -need, lower, upper, p).any()
    assert bool(min_norm_step(torch.zeros_like(gradient), need, lower, upper, p).isfinite().all())


@pytest.mark.parametrize("p", NORMS)
@given(seed=SEEDS)
@LAW
def test_the_farthest_move_stays_in_the_ball_and_beats_others(p, seed):
    gradient, _, lower, upper = case(seed)
    generator = torch.Generator().manual_seed(seed)
    radius = {0.0: 9.0, 1.0: 4.0, 1.5: 2.5, 2.0: 1.5, 4.0: 0.8, math.inf: 0.3}[p] * (
        0.2 + torch.rand(7, generator=generator).double()
    )
    radius = radius.floor().clamp(min=1) if p == 0 else radius
    move = max_descent_step(gradient, radius, lower, upper, p)
    assert bool(((move >= lower) & (move <= upper)).all())
    assert bool((norm(move, p) <= radius * (1 + 1e-3)).all())
    best = (gradient * move).sum(1)
    for _ in range(20):
        other = lower + (upper - lower) * torch.rand(move.shape, generator=generator).double()
        if p == 0:
            rank = torch.rand(move.shape, generator=generator).argsort(1)
            other = torch.where(rank < radius.unsqueeze(1), other, 0.0)
        else:
            other = other * (radius / norm(other, p)).clamp(max=1).unsqueeze(1)
        assert bool((best <= (gradient * other).sum(1) + 1e-3 * best.abs()).all())


@pytest.mark.parametrize("p", NORMS)
@given(seed=SEEDS)
@LAW
def test_all_paths_to_the_shortest_step_agree(p, seed):
    """The quick step, the short cut without weights, the general method, and a box of which no limit is ever met."""
    gradient, need, lower, upper = case(seed)
    need, ones = 0.7 * need, torch.ones_like(gradient)
    origin = torch.zeros_like(gradient)
    quick = min_norm_step(gradient, need, lower, upper, p)
    short = halfspace_distance(gradient, need, lower, upper, origin, p)
    general = halfspace_distance(gradient, need, lower, upper, origin, p, ones)
    assert torch.allclose(short.distance, general.distance, rtol=1e-9)
    assert torch.allclose(short.multiplier, general.multiplier, rtol=1e-6)
    assert torch.allclose(norm(quick, p), general.distance, rtol=2e-3)
    if p > 1:  # the minimiser is the only one where rows have no ties
        assert torch.allclose(short.point, general.point, atol=1e-7)
        assert torch.allclose(quick, general.point, atol=2e-3)
    assert torch.equal(min_norm_step(gradient, need, lower, upper, p, ones), general.point)
    alone = torch.cat([min_norm_step(*(t[i : i + 1] for t in (gradient, need, lower, upper)), p) for i in range(7)])
    assert torch.equal(alone, quick)


@pytest.mark.parametrize("p", NORMS)
@given(seed=SEEDS)
@LAW
def test_all_paths_to_the_best_step_agree(p, seed):
    gradient, _, lower, upper = case(seed)
    ones, generator = torch.ones_like(gradient), torch.Generator().manual_seed(seed)
    radius = torch.rand(7, generator=generator).double() + 0.1
    radius = (20 * radius).floor() if p == 0 else radius
    quick = max_descent_step(gradient, radius, lower, upper, p)
    general = max_descent_step(gradient, radius, lower, upper, p, ones)
    best = linear_minimum(gradient.unsqueeze(1), lower, upper, Ball(torch.zeros_like(gradient), radius, p))[0][:, 0]
    assert torch.allclose((gradient * general).sum(1), best, rtol=1e-6)
    assert torch.allclose((gradient * quick).sum(1), best, rtol=1e-3)
    alone = torch.cat(
        [max_descent_step(*(t[i : i + 1] for t in (gradient, radius, lower, upper)), p) for i in range(7)]
    )
    assert torch.equal(alone, quick)


@pytest.mark.parametrize("p", NORMS)
def test_a_start_outside_its_box_or_an_endless_box_is_no_other_lanes_affair(p):
    gradient, need, lower, upper = case(5)
    radius = need if p else need.floor()
    far, endless = lower.clone(), upper.clone()
    far[1], endless[2] = upper[1] / 2, math.inf
    for kernel, limit in ((min_norm_step, need), (max_descent_step, radius)):
        mixed, plain = kernel(gradient, limit, far, endless, p), kernel(gradient, limit, lower, upper, p)
        others = [0, 3, 4, 5, 6]
        assert torch.equal(mixed[others], plain[others])
        assert bool(((mixed >= far - 1e-12) & (mixed <= endless)).all())
        assert p == 0 or bool(mixed.isfinite().all())  # a count buys endless steps too
