"""What a call changes of the process that it runs in: nothing, neither afterwards nor while it runs."""

from __future__ import annotations

import locale
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from problems import monitor_objects, other_class, worst_margin
from torch import nn

import clinch as cl
from clinch.search.engines import ENGINES
from clinch.testing.networks import multilayer

SPECIFICATION = """
(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 1)) (assert (<= Y_0 Y_1))
"""
LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_")]


def state() -> dict[str, object]:
    """All of the process that a library could change without being asked."""
    return {
        "resource limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        "folder": os.getcwd(), "locale": locale.setlocale(locale.LC_ALL),
        "warnings": list(warnings.filters), "hooks": (sys.excepthook, threading.excepthook, warnings.showwarning),
        "recursion": sys.getrecursionlimit(), "path": list(sys.path), "profile": (sys.gettrace(), sys.getprofile()),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": torch.get_default_dtype(), "device": str(torch.get_default_device()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "numpy's errors": np.geterr(), "numpy's printing": repr(np.get_printoptions()),
        "random numbers": (
            random.getstate(), repr(np.random.get_state()), torch.random.get_rng_state().numpy().tobytes(),
        ),
    }  # fmt: skip


#: what may differ while a call is at work: gradients are needed, and warnings of other libraries are silenced
INSIDE = {"gradients", "warnings", "hooks"}


@pytest.fixture(scope="module")
def imported():
    """Libraries that calls import when they are first needed, some of which write filters: the law is about calls."""
    rng = torch.Generator().manual_seed(3)
    problem = worst_margin(multilayer(rng), rng, torch.inf)
    for engine in ("attack", "bounds", "milp", "branch_and_bound", "slsqp", "differential_evolution"):
        problem.solve(time_limit=2, solver=engine, certificate=engine == "bounds")


@pytest.fixture
def unchanged(imported):
    """Compares the state after a test with the state before it; call it to compare in between."""
    before = state()

    def compare(*_: object) -> None:
        now = state()
        assert {name for name in now if now[name] != before[name]} - INSIDE == set()

    yield compare
    after = state()
    assert {name: (before[name], after[name]) for name in after if after[name] != before[name]} == {}


@pytest.fixture
def net():
    return multilayer(torch.Generator().manual_seed(3))


@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_of_every_engine(engine, net, unchanged):
    rng = torch.Generator().manual_seed(4)
    for problem in (other_class(net, rng, 2.0), other_class(net, rng, 0.0), worst_margin(net, rng, torch.inf)):
        try:
            problem.solve(time_limit=0.5, solver=engine, progress=unchanged, bounds=net.layers[1:2])
        except cl.errors.UnsupportedByEngine:
            unchanged()


def test_of_a_certificate(net, unchanged):
    worst_margin(net, torch.Generator().manual_seed(4), 2.0).solve(time_limit=1, certificate=True, progress=unchanged)


def test_of_loading_and_verifying(tmp_path, unchanged):
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    before = state()
    (tmp_path / "a.vnnlib").write_text(SPECIFICATION)
    net = cl.load(model, input_shape=(2,))
    cl.verify(net, tmp_path / "a.vnnlib", timeout=2, keep_leaves=True)
    assert state() == before


def test_of_every_attack_and_of_evaluating(net, unchanged):
    x = torch.rand(3, *net.input_shape, generator=torch.Generator().manual_seed(2)).to(net.dtype)
    y = net.graph.forward(x)[net.graph.output].argmax(1)
    cl.attacks.nearest(net, x, y, passes=60, bounds=None, progress=unchanged)
    cl.attacks.worst(net, x, y, eps=0.1, bounds=None)
    cl.study.evaluate(net, (x, y), eps=0.05, time_limit=1, progress=unchanged)
    cl.study.evaluate(net, (x, y), norm=2, time_limit=1, progress=unchanged)


def test_a_limit_that_was_asked_for_holds_while_the_solve_runs_only(net, unchanged):
    seen = []
    problem = monitor_objects(net, torch.Generator().manual_seed(4), 2.0)
    problem.solve(
        time_limit=2, memory_limit=2**32, progress=lambda _: seen.append(resource.getrlimit(resource.RLIMIT_DATA))
    )
    if sys.platform.startswith("linux"):
        assert seen and all(soft != resource.RLIM_INFINITY for soft, _ in seen)


STOPPED = """
import sys
import torch
import clinch as cl
from clinch.papers.methods.scipy_solvers import _Stated
from clinch.testing.networks import multilayer

net = multilayer(torch.Generator().manual_seed(3))
looked = []
before = _Stated.look
def look(self, *given, **named):
    looked.append(set(sys.modules))
    return before(self, *given, **named)
_Stated.look = look
problem = cl.Problem(cl.Minimize(net.output[0]), [net.input >= -1, net.input <= 1])
problem.solve(time_limit=60, solver=sys.argv[1])
print(sorted(name for name in set(sys.modules) - looked[0] if name.startswith(("scipy", "numpy"))))
"""


@pytest.mark.parametrize("solver", ["slsqp", "shgo"])
def test_solvers_that_may_be_stopped_between_any_two_lines_import_nothing(solver):
    """An import that ends half way would leave a library in ruins for the rest of the process."""
    ended = subprocess.run([sys.executable, "-c", STOPPED, solver], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
