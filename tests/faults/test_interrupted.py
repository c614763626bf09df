"""Interrupts, full disks, killed processes, crashed libraries: what was found is returned or on disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from problems import other_class, worst_margin

import clinch as cl
import clinch.solver.checkpoint
from clinch.backends.isolated import Isolated
from clinch.errors import BackendCrash, BackendError, ProblemError
from clinch.search.engines import ENGINES
from clinch.search.milp.milp import milp
from clinch.solver.settings import Milp
from clinch.solver.solution import Status
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import multilayer

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def problem(rng):
    return other_class(multilayer(rng), rng, 2.0)


def feasible(problem, x):
    point = torch.tensor(x, dtype=torch.float64).reshape(1, *problem.network.input_shape)
    return bool(problem.query.violation(problem.query.evaluate(point)[1]) <= 0)


def test_an_interrupt_returns_and_keeps_the_best(problem, tmp_path, monkeypatch):
    attack = ENGINES["attack"].run

    def interrupted(query, ledger, seed, settings):
        attack(query, ledger, seed, settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(ENGINES["attack"], "run", interrupted)
    solution = problem.solve(time_limit=60, solver="attack", keep=tmp_path / "best.json")
    kept = json.loads((tmp_path / "best.json").read_text())
    assert solution.status is Status.FEASIBLE and "Interrupted" in solution.notes[0]
    assert kept["value"] == [solution.value] and kept["x"][0] == solution.x.flatten().double().tolist()
    assert kept["bound"] == [None] and kept["problems"] == 1 and feasible(problem, kept["x"][0])


def test_what_is_kept_is_in_the_users_sense(rng, tmp_path):
    net = multilayer(rng)
    problem = cl.Problem(cl.Maximize(net.output[1]), [net.input >= -1, net.input <= 1])
    solution = problem.solve(time_limit=20, keep=tmp_path / "best.json")
    kept = json.loads((tmp_path / "best.json").read_text())
    assert kept["value"] == [solution.value] and kept["bound"] == [solution.bound] and kept["bound"] >= kept["value"]
    assert list(tmp_path.iterdir()) == [tmp_path / "best.json"]


def test_a_full_disk_does_not_end_a_solve(problem, tmp_path, monkeypatch):
    write, calls = clinch.solver.checkpoint.write_whole, []

    def full(path, text):
        calls.append(path)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text)

    monkeypatch.setattr(clinch.solver.checkpoint, "write_whole", full)
    monkeypatch.setattr(clinch.solver.checkpoint, "PAUSE", 0.0)
    monkeypatch.setattr(clinch.solver.checkpoint, "PATIENCE", 0.0)
    solution = problem.solve(time_limit=20, keep=tmp_path / "best.json")
    assert solution.status is Status.OPTIMAL and len(calls) > 2
    assert any("No space left" in note for note in solution.notes)
    # the file is whole, as it was before the disk was full
    assert json.loads((tmp_path / "best.json").read_text())["bound"][0] <= solution.bound


@FULL
def test_a_file_that_cannot_be_kept_is_told_before_work(problem, tmp_path):
    for place in ("/dev/full", tmp_path / "nowhere" / "best.json"):
        with pytest.raises(ProblemError, match=r"Cannot write .*Name another file"):
            problem.solve(time_limit=600, keep=place)


SLOW_SOLVE = """
import sys, torch
sys.path.insert(0, {laws!r})
from problems import other_class
from clinch.testing.networks import multilayer
from clinch.search.engines import ENGINES
attack = ENGINES["attack"].run
def endless(query, ledger, seed, settings):
    attack(query, ledger, seed, settings)
    import time; time.sleep(600)
ENGINES["attack"].run = endless
rng = torch.Generator().manual_seed(3)
other_class(multilayer(rng), rng, 2.0).solve(time_limit=600, solver="attack", keep={keep!r})
"""


def test_a_killed_process_leaves_the_best_on_disk(problem, tmp_path):
    keep, laws = tmp_path / "best.json", Path(__file__).parents[1] / "laws"
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW_SOLVE.format(laws=str(laws), keep=str(keep))],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        end = time.monotonic() + 500
        while time.monotonic() < end and child.poll() is None:
            if keep.exists() and json.loads(keep.read_text())["x"][0] is not None:
                break
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    kept = json.loads(keep.read_text())
    exact = brute_force(problem.query)
    assert kept["value"][0] >= exact - 1e-7 and feasible(problem, kept["x"][0])


# --- solver libraries -----------------------------------------------------------------------------------------------


def test_a_library_in_a_child_process_answers_as_it_does_here(rng):
    problem = worst_margin(multilayer(rng), rng, float("inf"))
    with Isolated("highs") as backend:
        ledger = milp(problem.query, settings=Milp(backend=backend), time_limit=60)
    assert float(ledger.value) == pytest.approx(brute_force(problem.query), abs=1e-5) and bool(ledger.closed)
    assert backend.crashes == []


def test_a_child_that_crashes_costs_its_hint_only(rng):
    """Each tenth answer is replaced by the child's death."""

    class Dying(Isolated):
        calls = 0

        def solve(self, program, **options):
            self.calls += 1
            child = self._started()
            if self.calls % 10 == 0:
                child.kill()
                child.wait()
            return super().solve(program, **options)

        def _started(self):
            # the death is noticed when the answer is read
            return self._child or super()._started()

    problem = worst_margin(multilayer(rng), rng, float("inf"))
    exact = brute_force(problem.query)
    with Dying("highs") as backend:
        ledger = milp(problem.query, settings=Milp(backend=backend), time_limit=30)
    assert backend.crashes and all("SIGKILL" in crash for crash in backend.crashes)
    assert float(ledger.bound) <= exact + 1e-6 <= float(ledger.value) + 2e-6


def test_a_library_that_always_crashes_is_given_up_and_the_bound_kept(problem, monkeypatch):
    def crashed(query, ledger, seed, settings):
        raise BackendCrash("The process of the solver library 'highs' has ended 21 times. Choose another backend.")

    monkeypatch.setattr(ENGINES["milp"], "run", crashed)
    solution = problem.solve(time_limit=5, solver="milp")
    assert solution.status is Status.UNKNOWN and "Choose another backend" in solution.notes[0]

    def missing(query, ledger, seed, settings):
        raise BackendError("HiGHS is missing.")

    monkeypatch.setattr(ENGINES["milp"], "run", missing)
    with pytest.raises(BackendError, match="missing"):
        problem.solve(time_limit=5, solver="milp")
