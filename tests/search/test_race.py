"""Searches side by side: who gets the time, and that nothing is lost when one is interrupted."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.search.engines import ENGINES, Resumable
from clinch.search.race import AnyInput, Job, Race, Turn
from clinch.solve import solve
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Portfolio
from clinch.solver.solution import Proof, Status


def small(inputs=6, width=12, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 3)).double().eval()
    net = cl.load(model, input_shape=(inputs,))
    return net, [net.input >= -1, net.input <= 1]


def margin(**sizes):
    net, box = small(**sizes)
    return cl.Problem(cl.Maximize(net.output[0] - net.output[1]), box)


class Scripted:
    """A turn that proves what its script says after so many seconds of its own, on a clock of its own."""

    def __init__(self, name, clock, script):
        self.name, self.clock, self.script = name, clock, script
        self.seconds, self.done, self.begun, self.refused = 0.0, False, True, False
        self.proven, self.history = torch.tensor([-math.inf], dtype=torch.float64), []
        self.forecast = lambda *given: Turn.forecast(self, *given)

    def take_moment(self, job, seconds, patient=False):
        self.seconds += seconds
        self.clock.now += seconds
        self.proven = torch.tensor([self.script(self.seconds)], dtype=torch.float64)
        self.history.append((self.seconds, self.proven.clone()))
        job.ledger.prove(self.proven, Proof.TREE, self.name)
        return True

    def take(self, job):
        self.take_moment(job, job.ledger.remaining)


def raced(monkeypatch, scripts, limit=20.0):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("clinch.runtime.deadline.clock", lambda: clock.now)
    problem = margin()
    ledger = Ledger(problem.query, time_limit=limit)
    ledger.offer(torch.zeros(1, 6, dtype=torch.float64), "attack")
    target = float(ledger.target) + 1e-6
    turns = [Scripted(name, clock, lambda t, s=script: target + s(t)) for name, script in scripts.items()]
    race = Race(Job(problem.query, ledger, 0, Portfolio()), turns)
    with ledger.slice(0.3):
        race.run()
    race.run()
    return {turn.name: turn.seconds for turn in turns}, ledger


def test_what_closes_at_once_is_not_kept_waiting(monkeypatch):
    seconds, ledger = raced(monkeypatch, {
        "slow": lambda t: -1 / (1 + t), "at once": lambda t: 0.0 if t > 0.05 else -1.0, "never": lambda t: -2.0,
    })  # fmt: skip
    assert bool(ledger.closed) and sum(seconds.values()) < 1


def test_the_one_that_rises_gets_the_time_and_the_first_keeps_its_share(monkeypatch):
    seconds, _ = raced(monkeypatch, {
        "stuck": lambda t: -1.0, "rising": lambda t: -1.5 / (1 + t) ** 0.2, "worse": lambda t: -9 + 0.01 * t,
    })  # fmt: skip
    assert seconds["rising"] > 0.5 * sum(seconds.values())
    assert seconds["stuck"] > 0.14 * sum(seconds.values())


def test_a_search_that_starts_slowly_is_found_in_the_end(monkeypatch):
    seconds, ledger = raced(monkeypatch, {
        "first": lambda t: -1 + 0.01 * t, "late": lambda t: -1.0 if t < 1.2 else 0.0, "other": lambda t: -1.0,
    })  # fmt: skip
    assert bool(ledger.closed), seconds


@pytest.mark.parametrize("name", [name for name, engine in ENGINES.items() if isinstance(engine, Resumable)])
def test_moments_prove_what_one_run_does(name):
    net, box = small(inputs=4, width=8)
    x0 = torch.zeros(4, dtype=torch.float64)
    label = int(net.graph.forward(x0.unsqueeze(0))[net.graph.output].argmax())
    problem = cl.Problem(cl.Minimize(cl.norm(net.input - x0, math.inf)), [*box, net.output.argmax() != label])
    whole = solve(problem, solver=name, time_limit=60.0, gap=1e-4)
    query = problem.query
    ledger = Ledger(query, gap=1e-4)
    job = Job(query, ledger, 0, Portfolio())
    turn = Turn(name, job)
    for _ in range(60):
        if not turn.take_moment(job, max(0.02, turn.seconds / 2), patient=True) or ledger.exhausted:
            break
    assert float(ledger.bound) == pytest.approx(float(whole.bound), rel=2e-3, abs=1e-6)
    assert bool((turn.proven <= ledger.value + 1e-9).all()) or bool(torch.isinf(turn.proven).all())


def test_a_moment_does_not_cut_off_what_a_search_starts_from():
    net, box = small(inputs=4, width=24, seed=3)
    z = net.output
    low = float(cl.Problem(cl.Minimize(z[0] - z[1]), box).solve(time_limit=60.0).bound)
    query = cl.Problem(cl.Minimize(0), [*box, z[0] - z[1] <= low - 0.05]).query
    counts = []
    for moment in (math.inf, 0.005):
        ledger = Ledger(query)
        ledger.prove(torch.zeros(1, dtype=torch.float64), Proof.GEOMETRY, "geometry")
        search = ENGINES["input_split"].begin(query, ledger, Portfolio().input_split)
        while not search.done:
            with ledger.moment(moment):
                search.run()
        counts.append(int(search.tree.bounded.sum()))
        assert float(ledger.bound) == math.inf
    assert counts[1] <= 2 * counts[0] + 8, counts


def test_that_there_is_no_input_at_all_is_proven_without_the_objective():
    net, box = small()
    z = net.output
    impossible = [*box, z[0] >= z[1] + 1, z[1] >= z[2] + 1, z[2] >= z[0] - 1]
    query = cl.Problem(cl.Minimize(cl.norm(net.input, 2)), impossible).query
    ledger = Ledger(query)
    job = Job(query, ledger, 0, Portfolio())
    AnyInput("branch_and_bound", job).take(job)
    assert float(ledger.bound) == math.inf
    possible = cl.Problem(cl.Minimize(cl.norm(net.input - 1, 2)), [*box, z[0] >= z[1]]).query
    ledger = Ledger(possible)
    job = Job(possible, ledger, 0, Portfolio())
    AnyInput("branch_and_bound", job).take(job)
    assert not float(ledger.bound) > float(ledger.value)


def test_small_problems_of_all_kinds_are_closed_together():
    for problem in (margin(), margin(inputs=20, seed=1)):
        assert problem.solve(time_limit=60.0).status is Status.OPTIMAL


def test_what_is_about_to_close_is_known():
    problem = margin()
    ledger = Ledger(problem.query)
    ledger.offer(torch.zeros(1, 6, dtype=torch.float64), "attack")
    target = float(ledger.target)
    clock = SimpleNamespace(now=0.0)
    rising = Scripted("rising", clock, lambda t: target - 1 / (1 + t))
    race = Race(Job(problem.query, ledger, 0, Portfolio()), [rising])
    assert not race.soon(math.inf)
    for _ in range(4):
        rising.take_moment(race.job, 1.0)
    needed = rising.forecast(~ledger.closed, ledger.target)[0] - rising.seconds
    assert 0 < needed < math.inf and race.soon(1.01 * needed) and not race.soon(0.99 * needed)


def test_a_search_that_another_has_left_behind_in_less_time_does_not_lead(monkeypatch):
    # the first slows down as it comes nearer, so that its forecast is the worse one
    seconds, _ = raced(monkeypatch, {
        "ahead": lambda t: -0.3 - 0.2 / (1 + t), "behind": lambda t: -2.0 + 0.5 * min(1.0, t / 8),
    })  # fmt: skip
    assert seconds["ahead"] > 0.5 * sum(seconds.values())
