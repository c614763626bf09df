"""Ending early is a normal ending: the best point and bound so far come back, and the bound still holds."""

from __future__ import annotations

import math

import pytest
import torch
from problems import KINDS, other_class
from work_clock import counted

import clinch as cl
from clinch.errors import ProblemError
from clinch.network.ops.relu import LeakyReLU
from clinch.search.engines import ENGINES
from clinch.solver.solution import Status
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import dense, multilayer, network_of


def wide() -> cl.Problem:
    """A problem that no engine closes within the limits used here."""
    rng = torch.Generator().manual_seed(0)
    act = LeakyReLU()
    layers = [
        ("fc1", dense(rng, 40, 120), (0,)), ("relu1", act, (1,)), ("fc2", dense(rng, 120, 120), (2,)),
        ("relu2", act, (3,)), ("fc3", dense(rng, 120, 5), (4,)),
    ]  # fmt: skip
    net = network_of(layers, (40,), "wide")
    x0 = torch.rand(40, generator=rng, dtype=torch.float64)
    y = int(net.graph.forward(x0.unsqueeze(0))[net.graph.output].argmax())
    box = [net.input >= -1, net.input <= 2]
    return cl.Problem(cl.Minimize(cl.norm(net.input - x0, 2)), [*box, net.output.argmax() != y])


def test_a_second_of_work_gives_a_point_and_a_bound(monkeypatch):
    with counted(monkeypatch):
        solution = wide().solve(time_limit=1.0, gap=0.0)
    assert solution.status is Status.FEASIBLE
    assert math.isfinite(solution.value)
    assert 0.0 <= solution.bound <= solution.value


def test_no_time_at_all_is_an_ending_too():
    solution = wide().solve(time_limit=0.0)
    assert solution.status in (Status.UNKNOWN, Status.BOUND_ONLY, Status.FEASIBLE)
    assert not solution.bound > solution.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_cut_short_still_holds(kind):
    rng = torch.Generator().manual_seed(11)
    problem = KINDS[kind](multilayer(rng), rng, math.inf)
    solution = problem.solve(time_limit=0.05, gap=0.0)
    sense = problem.query.sense
    assert sense * solution.bound <= brute_force(problem.query) + 2e-6


def test_an_interrupt_returns_what_was_found(monkeypatch):
    rng = torch.Generator().manual_seed(3)
    problem = other_class(multilayer(rng), rng, 2.0)
    point = problem.solve(time_limit=10).x.unsqueeze(0)

    def interrupted(query, ledger, seed, settings):
        ledger.offer(point, "attack")
        raise KeyboardInterrupt

    monkeypatch.setattr(ENGINES["attack"], "run", interrupted)
    solution = problem.solve(solver="attack")
    assert math.isfinite(solution.value)
    assert any("Interrupted" in note for note in solution.notes)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"time_limit": -1.0}, "time_limit"), ({"gap": math.nan}, "gap"), ({"solver": "cplex"}, "Choose one of")],
)
def test_settings_without_meaning_are_refused(setting, message):
    with pytest.raises(ProblemError, match=message):
        wide().solve(**setting)
