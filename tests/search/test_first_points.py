"""A few points first: what they find is feasible, and what is easy to meet needs no bounds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.search.first_points import WHO, first_points
from clinch.solver.ledger import Ledger


def problem(margin, *, side=1.0, free=False):
    """Is the first of three scores ahead of the second by a margin somewhere in a box of five inputs?"""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)).double().eval()
    net = cl.load(module, input_shape=(5,))
    box = [net.input >= -side] if free else [net.input >= -side, net.input <= side]
    return cl.Problem(cl.Minimize(0), [*box, net.output[0] - net.output[1] >= margin])


def found(query, **limits):
    ledger = Ledger(query, **limits)
    first_points(query, ledger)
    return ledger


@pytest.mark.parametrize("side", [0.01, 1.0, 30.0])
def test_a_point_that_meets_all_conditions_is_found_and_checked(side):
    least = problem(-1e9, side=side).query
    _, atoms = least.evaluate(torch.rand(64, 5).double() * 2 * side - side)
    query = problem(-1e9 - float(atoms[:, 0].median()), side=side).query
    ledger = found(query)
    assert bool(torch.isfinite(ledger.value).all()) and ledger.finders == [WHO]
    assert bool((query.violation(query.evaluate(ledger.x.double())[1]) <= 0).all())


def test_walks_reach_what_random_points_do_not():
    query = problem(0.0).query
    _, atoms = query.evaluate(torch.rand(4096, 5, generator=torch.Generator().manual_seed(5)).double() * 2 - 1)
    best = float(-atoms.min())
    assert bool(torch.isfinite(found(problem(best + 0.01 * abs(best)).query).value).all())


def test_nothing_is_found_where_nothing_is_or_where_nobody_can_draw_points():
    assert not bool(torch.isfinite(found(problem(1e6).query).value).any())
    ledger = found(problem(0.0, free=True).query)
    assert not ledger.queries


def test_each_problem_of_a_batch_is_looked_at():
    query = problem(0.0).query.take(torch.tensor([0, 0, 0]))
    assert bool(torch.isfinite(found(query).value).all())


def test_without_time_a_single_look_is_all():
    assert found(problem(1e6).query, time_limit=0.0).queries == 0
