import _thread
import ast
import math
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import knapsack, program, reference
from scipy.optimize import linprog
from scipy.sparse import csr_array

import clinch
from clinch.backends import find_backend, highs
from clinch.backends.program import Program
from clinch.errors import BackendError


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 4))
def test_optimum_duals_and_point_agree_with_another_interface(seed, integers):
    p = program(seed, integers=integers)
    outcome, known = highs.solve(p), reference(p)
    assert outcome.status == "optimal"
    assert outcome.value == pytest.approx(known.fun + 0.5, abs=1e-6)
    assert p.violation(outcome.point) <= 1e-6
    if not integers:
        assert p.bound(outcome.duals) == pytest.approx(outcome.value, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_infeasible_programs_come_with_a_ray_that_refutes_them(seed):
    p = program(seed, feasible=False)
    outcome = highs.solve(p)
    assert outcome.status == "infeasible" and outcome.point is None
    assert p.refutation(outcome.ray)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_no_multipliers_refute_or_overbound_a_feasible_program(seed):
    p = program(seed)
    rng = np.random.default_rng(seed + 1)
    optimum = linprog_value(p)
    for _ in range(5):
        y = rng.normal(size=p.constraints) * 10.0 ** rng.integers(-3, 6)
        assert p.bound(y) <= optimum + 1e-9
        assert not p.refutation(y)
    assert p.bound(np.full(p.constraints, np.nan)) == -math.inf
    assert not p.refutation(np.full(p.constraints, np.nan))
    assert not p.refutation(np.zeros(p.constraints))


def linprog_value(p):
    a = np.vstack([p.rows.toarray(), -p.rows.toarray()])
    b = np.concatenate([p.row_upper, -p.row_lower])
    known = np.isfinite(b)
    return linprog(p.cost, A_ub=a[known], b_ub=b[known], bounds=list(zip(p.lower, p.upper))).fun + p.constant


def test_a_diagonal_quadratic_program():
    # min ½ x² − x + ½ y² s.t. x + y >= 3: x = 2, y = 1
    p = Program(
        np.array([-1.0, 0.0]), csr_array(np.ones((1, 2))), np.array([3.0]), np.array([np.inf]), np.full(2, -5.0),
        np.full(2, 5.0), np.zeros(2, dtype=bool), quadratic=np.ones(2),
    )  # fmt: skip
    outcome = highs.solve(p)
    assert outcome.point == pytest.approx([2.0, 1.0], abs=1e-5)
    assert outcome.value == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
def test_a_time_limit_is_a_normal_ending(seconds):
    outcome = highs.solve(knapsack(), time_limit=seconds, gap=0.0)
    assert outcome.status in ("time", "optimal")


def test_a_start_is_used():
    p = knapsack()
    start = highs.solve(p, time_limit=0.2).point
    again = highs.solve(p, time_limit=0.05, start=start)
    assert again.value <= p.objective(start) + 1e-6


@pytest.fixture
def interruptible():
    """Shells let what they start in the background ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_keyboard_interrupt_passes_through(interruptible):
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        highs.solve(knapsack(80), time_limit=60, gap=0.0)
    timer.join()


def test_an_interrupted_program_ends_cleanly():
    """The solver's own thread has ended by then: the process would abort otherwise."""
    program = (
        "import _thread, signal, sys, threading; sys.path.insert(0, sys.argv[1])\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from programs import knapsack\n"
        "from clinch.backends import highs\n"
        "threading.Timer(0.3, _thread.interrupt_main).start()\n"
        "try: highs.solve(knapsack(80), time_limit=60, gap=0.0)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    here = str(Path(__file__).parent)
    ended = subprocess.run([sys.executable, "-c", program, here], capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stdout.strip()) == (0, "interrupted"), ended.stderr


def test_another_user_of_the_library_with_other_threads_is_no_obstacle():
    assert highs.solve(program(0), threads=2).status == "optimal"
    assert highs.solve(program(0), threads=1).status == "optimal"


def test_nothing_is_printed(capfd):
    highs.solve(program(1, integers=3))
    assert capfd.readouterr() == ("", "")


def test_not_a_number_is_refused():
    p = program(0)
    with pytest.raises(BackendError, match="NaN"):
        Program(p.cost * np.nan, p.rows, p.row_lower, p.row_upper, p.lower, p.upper, p.integer)
    with pytest.raises(BackendError, match="NaN"):
        highs.load(p).change_cost(p.cost * np.nan)


def test_backends_are_found_by_name():
    assert find_backend("highs") is highs
    with pytest.raises(BackendError, match="Choose one of: highs, scip, gurobi"):
        find_backend("nothing")


@pytest.mark.parametrize("name, package", [("highs", "highspy"), ("scip", "pyscipopt"), ("gurobi", "gurobipy")])
def test_only_one_file_imports_the_library(name, package):
    root = Path(clinch.__file__).parent
    texts = {file.relative_to(root).as_posix(): file.read_text() for file in root.rglob("*.py")}
    users = {
        file
        for file, text in texts.items()
        for node in (ast.walk(ast.parse(text)) if package in text else ())
        if (isinstance(node, ast.Import | ast.ImportFrom) and package in ast.unparse(node))
        or (isinstance(node, ast.Call) and ast.unparse(node).startswith(f"required('{package}'"))
    }
    assert users == {f"backends/{name}.py"}
