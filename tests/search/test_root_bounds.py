"""Bounds of the activations at the root: computed once, never cut off by a slice, narrowed by better incumbents."""

from __future__ import annotations

import math

import pytest
import torch
from dual_cases import query_of, random

from clinch.bounds.crown import activation_bounds
from clinch.runtime import deadline
from clinch.search import root_bounds as module
from clinch.search.refinement_schedule import Effort, Progress, risen
from clinch.search.root_bounds import root_bounds
from clinch.solver.ledger import Ledger
from clinch.solver.solution import Proof
from clinch.testing.networks import multilayer


@pytest.fixture
def clock(monkeypatch):
    """Time that passes where a test says so."""
    now = [0.0]
    monkeypatch.setattr(deadline, "clock", lambda: now[0])
    return now


def counted(monkeypatch, clock, seconds):
    """Every computation of bounds takes so many seconds; returns those that were made."""
    made = []

    def slow(graph, region, wanted, known=None, *, stop):
        made.append(known is not None)
        clock[0] += seconds
        stop()
        return activation_bounds(graph, region, wanted, known)

    monkeypatch.setattr(module, "activation_bounds", slow)
    return made


def test_they_are_computed_once_whatever_slice_is_at_work(monkeypatch, clock):
    rng = random(1)
    query = query_of(multilayer(rng), rng, "linear", None, size=3)
    ledger, made = Ledger(query, time_limit=100.0), counted(monkeypatch, clock, 20.0)
    with ledger.slice(0.1):
        before = ledger.remaining
        root = root_bounds(query, ledger)
        assert root.complete and ledger.remaining == pytest.approx(before)
        assert root_bounds(query, ledger) is not None and made == [False]
    assert ledger.remaining == pytest.approx(99.0 - 20.0)


def test_a_share_is_a_limit_and_what_was_cut_off_is_completed(monkeypatch, clock):
    rng = random(1)
    query = query_of(multilayer(rng), rng, "linear", None)
    ledger, made = Ledger(query, time_limit=100.0), counted(monkeypatch, clock, 20.0)
    with ledger.share(0.1):
        assert not root_bounds(query, ledger).complete
    assert root_bounds(query, ledger).complete and made == [False, True]


def test_problems_that_are_closed_are_left_out_and_others_keep_theirs():
    rng = random(2)
    query = query_of(multilayer(rng), rng, "linear", None, size=4)
    ledger = Ledger(query)
    all_ = root_bounds(query, ledger)
    ledger.prove(torch.tensor([math.inf]).double(), Proof.GEOMETRY, "test", torch.tensor([1]))
    rest = root_bounds(query, ledger)
    assert rest.problems.tolist() == [0, 2, 3]
    for i, held in rest.bounds.items():
        assert torch.equal(held.lower, all_.bounds[i].lower[rest.problems])


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_a_nearer_input_narrows_them_and_the_ball_stays_inside(p):
    rng = random(3)
    query = query_of(multilayer(rng), rng, "distance", p)
    ledger = Ledger(query)
    wide = root_bounds(query, ledger)
    steps = torch.rand(256, *query.graph.input_shape, generator=rng, dtype=torch.float64) - 0.5
    near = (0.2 * steps + query.objective.center[:1]).clamp(query.region.lower[:1], query.region.upper[:1])
    query = query.take(torch.tensor([0]))
    value = query.take(torch.zeros(256, dtype=torch.long)).objective.value(near, {})
    ledger.value[0] = value.max()
    narrow = root_bounds(query, ledger)
    assert torch.equal(narrow.value, ledger.value)
    wide, narrow = wide.of(torch.tensor([0])), narrow.of(torch.tensor([0]))
    inside = query.graph.forward(near, list(narrow.bounds))
    for i, held in narrow.bounds.items():
        assert bool((held.lower >= wide.bounds[i].lower).all() and (held.upper <= wide.bounds[i].upper).all())
        assert bool((inside[i] >= held.lower - 1e-9).all() and (inside[i] <= held.upper + 1e-9).all())


def test_an_effort_is_due_again_as_its_gain_compares_with_the_trees():
    equal, useless, better = Effort(5), Effort(5), Effort(5, least_pause=0.5)
    equal.account(brought=2.0, tree_rate=1.0, began=10.0, ended=12.0)
    useless.account(brought=0.0, tree_rate=1.0, began=10.0, ended=12.0)
    better.account(brought=200.0, tree_rate=1.0, began=10.0, ended=12.0)
    assert (equal.seconds, useless.seconds, better.seconds) == (14.0, 72.0, 13.0)
    assert better.due(5, 13.0) and not better.due(4, 13.0) and not better.due(5, 12.9)


def test_progress_forgets_what_is_long_ago_and_forecasts_the_end():
    bound = lambda *values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
    progress = Progress(bound(-10.0, math.inf), 1.0)
    progress.look(bound(-2.0, math.inf), 3.0)
    progress.look(bound(-1.0, math.inf), 7.0)
    assert progress.rate(bound(-1.0, math.inf), 7.0) == pytest.approx(0.25)
    assert progress.forecast(bound(-1.0, math.inf), bound(0.0, 0.0), 7.0) == pytest.approx(4.0)
    assert progress.forecast(bound(-2.0, math.inf), bound(0.0, 0.0), 7.0) == math.inf
    assert risen(bound(1.0, math.inf), bound(0.0, 1.0)) == 0.0


def test_problems_that_others_closed_meanwhile_keep_their_places():
    rng = random(2)
    query = query_of(multilayer(rng), rng, "linear", None, size=4)
    ledger, wanted = Ledger(query), torch.arange(4)
    ledger.prove(torch.tensor([math.inf]).double(), Proof.GEOMETRY, "test", torch.tensor([1]))
    assert root_bounds(query, ledger).problems.tolist() == [0, 2, 3]
    every = root_bounds(query, ledger, problems=wanted).of(wanted)
    whole = root_bounds(query, Ledger(query))
    for i, held in every.bounds.items():
        assert torch.equal(held.lower, whole.bounds[i].lower)
