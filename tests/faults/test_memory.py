"""Memory that runs out ends a solve with what is known by then and one sentence."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from problems import other_class

import clinch as cl
from clinch.errors import ClinchError, NetworkError, ProblemError
from clinch.network.ops.relu import LeakyReLU
from clinch.runtime import memory
from clinch.search.engines import ENGINES
from clinch.solver.engine import MEMORY_NOTE
from clinch.solver.solution import Proof, Status
from clinch.testing.networks import dense, multilayer, network_of

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of a process's memory are Linux's")


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(5)


@LINUX
def test_a_guard_refuses_what_is_too_much_and_is_gone_afterwards():
    with memory.guarded(2**28), memory.guarded(2**40):
        for allocate in (lambda: np.ones(2**28), lambda: torch.ones(2**28), lambda: bytearray(2**29)):
            with pytest.raises((MemoryError, RuntimeError)) as caught:
                allocate()
            assert memory.ran_out(caught.value)
        assert len(np.ones(2**20)) == 2**20
    assert len(bytearray(2**29)) == 2**29


def test_other_errors_do_not_count_as_memory():
    assert not any(map(memory.ran_out, (RuntimeError("shapes do not match"), ValueError("bad_alloc"), OSError(12, ""))))


def test_what_is_free_is_told_where_the_system_tells_it():
    free = memory.available()
    assert free is None or 0 < free < 2**60


@LINUX
def test_a_problem_ten_times_too_large_ends_with_value_bound_and_a_sentence(rng):
    """Both problems at once need some 1.5 GiB; they get 100 MB beyond what the process has."""
    act, width = LeakyReLU(), 1500
    layers = [
        ("fc1", dense(rng, 100, width), (0,)), ("relu1", act, (1,)), ("fc2", dense(rng, width, width), (2,)),
        ("relu2", act, (3,)), ("fc3", dense(rng, width, 2), (4,)),
    ]  # fmt: skip
    net = network_of(layers, (100,))
    x0 = torch.rand(64, 100, generator=rng, dtype=torch.float64)
    problem = cl.Problem(
        cl.Minimize(net.output[0] - net.output[1]),
        [net.input >= 0, net.input <= 1, cl.norm(net.input - x0, cl.inf) <= 0.3],
    )
    solution = problem.solve(time_limit=200, memory_limit=10**8)
    assert any("Memory ran out" in note for note in solution.notes)
    assert bool(torch.isfinite(solution.bound).all())
    sampled = x0 + 0.3 * (2 * torch.rand(200, 64, 100, generator=rng, dtype=torch.float64) - 1)
    values = net.graph.forward(sampled.clamp(0, 1).flatten(0, 1))[net.graph.output]
    best = (values[:, 0] - values[:, 1]).reshape(200, 64).amin(0)
    assert bool((solution.bound <= best).all())
    assert bool((solution.bound <= solution.value).all())


def failing(error):
    """An engine that finds a point and proves a bound, and then fails."""

    def engine(query, ledger, seed, settings):
        ledger.prove(torch.full((query.size,), 1e-3, dtype=torch.float64), Proof.INTERVAL, "honest bound")
        raise error

    return engine


OUT_OF_MEMORY = {
    "numpy": MemoryError(),
    "torch": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    "cuda": torch.OutOfMemoryError("CUDA out of memory."),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_an_engine_that_runs_out_keeps_its_bound(rng, monkeypatch, error):
    monkeypatch.setattr(ENGINES["bounds"], "run", failing(error))
    solution = other_class(multilayer(rng), rng, 2.0).solve(time_limit=5, solver="bounds")
    assert solution.status is Status.BOUND_ONLY and solution.bound == pytest.approx(1e-3)
    assert solution.notes == (MEMORY_NOTE,)


def test_another_error_of_an_engine_is_no_matter_of_memory(rng, monkeypatch):
    monkeypatch.setattr(ENGINES["bounds"], "run", failing(RuntimeError("a defect")))
    with pytest.raises(RuntimeError, match="a defect"):
        other_class(multilayer(rng), rng, 2.0).solve(time_limit=5, solver="bounds")


def test_without_memory_for_relaxations_there_are_interval_bounds(rng, monkeypatch):
    def starved(query, ledger, seed, settings):
        raise MemoryError

    net = multilayer(rng)
    problem = cl.Problem(cl.Minimize(net.output[0]), [net.input >= -1, net.input <= 1])
    monkeypatch.setattr(ENGINES["bounds"], "run", starved)
    solution = problem.solve(time_limit=5, solver="bounds")
    exact = problem.solve(time_limit=20).value
    assert solution.proof is Proof.INTERVAL and math.isfinite(solution.bound) and solution.bound <= exact


@LINUX
def test_a_model_that_does_not_fit_is_told_in_one_line(monkeypatch):
    module = torch.nn.Linear(4, 2).eval()

    def starved(*_):
        raise MemoryError

    monkeypatch.setattr("clinch.network.load._load_module", starved)
    with pytest.raises(NetworkError, match="more memory than is free"):
        cl.load(module, input_shape=(4,))


def test_a_limit_without_meaning_is_refused(rng):
    with pytest.raises(ProblemError, match="give bytes") as caught:
        other_class(multilayer(rng), rng, 2.0).solve(memory_limit=0)
    assert isinstance(caught.value, ClinchError)
