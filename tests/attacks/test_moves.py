"""The two moves of minimum-norm attacks against the exact ones of the geometry, and against random competitors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinch.attacks.moves import farthest, shortest
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.norms import norm

NORMS = [0.0, 1.0, 2.0, math.inf]
SEEDS = st.integers(0, 2**31)
LAW = settings(max_examples=30, deadline=None)


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
    move = shortest(gradient, need, lower, upper, p)
    exact = halfspace_distance(gradient, need, lower, upper, torch.zeros_like(gradient), p)
    assert bool(((move >= lower) & (move <= upper)).all())
    assert bool(((gradient * move).sum(1) <= -need + 1e-3 * need).all())
    assert torch.allclose(norm(move, p), exact.distance, rtol=2e-3)


@pytest.mark.parametrize("p", NORMS)
def test_what_cannot_be_met_ends_in_the_best_corner_and_nothing_needed_moves_nothing(p):
    gradient, need, lower, upper = case(3)
    beyond = shortest(gradient, torch.full_like(need, 1e6), lower, upper, p)
    assert torch.allclose((gradient * beyond).sum(1), torch.minimum(gradient * lower, gradient * upper).sum(1))
    assert not shortest(gradient, -need, lower, upper, p).any()
    assert bool(shortest(torch.zeros_like(gradient), need, lower, upper, p).isfinite().all())


@pytest.mark.parametrize("p", NORMS)
@given(seed=SEEDS)
@LAW
def test_the_farthest_move_stays_in_the_ball_and_beats_others(p, seed):
    gradient, _, lower, upper = case(seed)
    generator = torch.Generator().manual_seed(seed)
    radius = {0.0: 9.0, 1.0: 4.0, 2.0: 1.5, math.inf: 0.3}[p] * (0.2 + torch.rand(7, generator=generator).double())
    radius = radius.floor().clamp(min=1) if p == 0 else radius
    move = farthest(gradient, radius, lower, upper, p)
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
