"""Boxes cut down by clauses and balls: nothing that satisfies them is lost, and simple cases are known."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinch.geometry.clip import clip_to_ball, clip_to_clauses
from clinch.geometry.region import Ball

sys.path.insert(0, str(Path(__file__).parent))
from geometry_cases import Case, cases

#: points drawn from each box
POINTS = 400
#: by how much a point may satisfy an inequality only in theory
ROUNDING = 1e-9


def points_of(lower, upper, center, seed):
    """Random points of a box, many of them with elements at a limit or at the centre."""
    random = np.random.default_rng(seed)
    shape = (POINTS, len(lower))
    x = lower + (upper - lower) * random.random(shape)
    ends = np.where(random.random(shape) < 0.5, lower, upper)
    x = np.where(random.random(shape) < 0.4, ends, x)
    return np.where(random.random(shape) < 0.3, np.clip(center, lower, upper), x)


def batch(*arrays):
    return [torch.from_numpy(np.asarray(a))[None] for a in arrays]


def assert_inside(x, low, high):
    if len(x):
        assert (x >= low[0].numpy()).all() and (x <= high[0].numpy()).all()


@settings(max_examples=80, deadline=None)
@given(cases(infinite=False), st.integers(0, 2**31), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_clauses_lose_no_point_that_satisfies_them(case: Case, seed, sizes):
    random = np.random.default_rng(seed)
    n, count = len(case.row), sum(sizes)
    rows = random.normal(size=(count, n)) * random.choice([0.0, 1.0, 1.0, 50.0], size=(count, n))
    x = points_of(case.lower, case.upper, case.center, seed)
    # every inequality holds with equality at one of the points, so that cuts go right through them
    offset = -(rows * x[random.integers(len(x), size=count)]).sum(1)
    clause = np.repeat(np.arange(len(sizes)), sizes)
    low, high = clip_to_clauses(
        *batch(case.lower, case.upper, rows, offset), torch.from_numpy(clause), rounds=int(random.integers(1, 4))
    )
    atoms = x @ rows.T + offset
    held = np.stack([(atoms[:, clause == c] <= 0).any(1) for c in range(len(sizes))], 1).all(1)
    assert_inside(x[held], low, high)
    assert bool((low >= torch.from_numpy(case.lower)).all() and (high <= torch.from_numpy(case.upper)).all())


@settings(max_examples=80, deadline=None)
@given(cases(infinite=False), st.integers(0, 2**31))
def test_a_ball_loses_no_point_of_it(case: Case, seed):
    lower, upper, center = batch(case.lower, case.upper, case.center)
    weights = None if case.weights is None else torch.from_numpy(case.weights)[None]
    ball = Ball(center, torch.tensor([case.radius], dtype=torch.float64), case.p, weights)
    low, high = clip_to_ball(lower, upper, ball)
    x = points_of(case.lower, case.upper, case.center, seed)
    held = (ball.distance(torch.from_numpy(x)) <= case.radius).numpy()
    assert_inside(x[held], low, high)


def test_one_inequality_is_closed_form():
    box = [torch.tensor([[-1.0, -1.0, 0.0]], dtype=torch.float64), torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64)]
    rows = torch.tensor([[[1.0, -2.0, 0.0]]], dtype=torch.float64)
    low, high = clip_to_clauses(*box, rows, torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([0]))
    # x − 2y + 2 <= 0: y >= (x + 2)/2 >= 1/2 and x <= 2y − 2 <= 0
    assert torch.allclose(low, torch.tensor([[-1.0, 0.5, 0.0]], dtype=torch.float64))
    assert torch.allclose(high, torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64))


def test_a_disjunction_keeps_the_hull_of_its_alternatives_and_an_impossible_one_keeps_nothing():
    lower, upper = -torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    rows = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    far = torch.tensor([[0.5, 2.0]], dtype=torch.float64)  # x <= −1/2 or x >= 2
    low, high = clip_to_clauses(lower, upper, rows, far, torch.tensor([0, 0]))
    assert torch.allclose(low, lower) and float(high) == pytest.approx(-0.5)
    low, high = clip_to_clauses(lower, upper, rows, far, torch.tensor([0, 1]))
    assert bool((low > high).any())


def test_nan_cuts_nothing():
    lower, upper = -torch.ones(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    nan = torch.full((1, 1, 2), math.nan, dtype=torch.float64)
    for rows, offset in ((nan, torch.ones(1, 1).double()), (torch.ones(1, 1, 2).double(), nan[..., 0])):
        low, high = clip_to_clauses(lower, upper, rows, offset, torch.tensor([0]))
        assert torch.equal(low, lower) and torch.equal(high, upper)


@pytest.mark.parametrize(("p", "reach"), [(0.0, 0.0), (1.0, 0.5), (2.0, math.sqrt(1.25)), (math.inf, 1.5)])
def test_what_one_element_must_spend_the_others_cannot(p, reach):
    # the first element is at least 1 away from the centre
    lower, upper = (torch.tensor([x], dtype=torch.float64) for x in ([1.0, -3.0], [3.0, 3.0]))
    ball = Ball(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64), p)
    low, high = clip_to_ball(lower, upper, ball)
    assert low[0].tolist() == pytest.approx([1.0, -reach], abs=1e-6)
    assert high[0].tolist() == pytest.approx([3.0 if p == 0 else 1.5, reach], abs=1e-6)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, math.inf])
def test_a_ball_that_misses_the_box_leaves_nothing(p):
    lower, upper = (torch.full((1, 3), x, dtype=torch.float64) for x in (1.0, 2.0))
    ball = Ball(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0.9], dtype=torch.float64), p)
    low, high = clip_to_ball(lower, upper, ball)
    assert bool((low > high).any())
