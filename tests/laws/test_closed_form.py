"""Linear classifiers, whose nearest input of another class is known in closed form or from a small convex program."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

import clinch as cl
from clinch.solver.solution import Status
from clinch.testing.networks import dense, network_of

pytestmark = pytest.mark.table

MARGIN = 1e-3
SIZE = 4


def reference(row: np.ndarray, need: float, x0: np.ndarray, p: float, box: bool) -> float:
    """min ‖x − x0‖_p with row·(x − x0) >= need, x in [0, 1] where there is a box."""
    if need <= 0:
        return 0.0
    if not box:
        q = {1.0: math.inf, 2.0: 2, math.inf: 1}.get(p)
        return 1.0 if p == 0 else need / float(np.linalg.norm(row, q))
    n = len(row)
    limits = list(zip(-x0, 1 - x0))
    if p == 0:
        gains = np.where(row > 0, row * (1 - x0), -row * x0)
        sizes = (
            len(s) for k in range(n + 1) for s in itertools.combinations(range(n), k) if gains[list(s)].sum() >= need
        )
        return min(sizes, default=math.inf)
    if p == 2:
        start = np.where(row > 0, 1 - x0, -x0)
        if row @ start < need:
            return math.inf
        found = minimize(
            lambda d: d @ d, start, jac=lambda d: 2 * d, method="SLSQP", bounds=limits, options={"ftol": 1e-14},
            constraints={"type": "ineq", "fun": lambda d: row @ d - need, "jac": lambda d: row},
        )  # fmt: skip
        return math.sqrt(found.fun)
    eye, zero = np.eye(n), np.zeros((1, n if p == 1 else 1))
    spread = eye if p == 1 else np.ones((n, 1))
    rows = np.block([[eye, -spread], [-eye, -spread], [-row[None], zero]])
    cost = np.concatenate([np.zeros(n), np.ones(spread.shape[1])])
    found = linprog(cost, rows, np.r_[np.zeros(2 * n), -need], bounds=limits + [(0, None)] * spread.shape[1])
    return found.fun if found.status == 0 else math.inf


@pytest.mark.parametrize("box", [True, False], ids=["box", "no box"])
@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, math.inf])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=8, deadline=None)
def test_nearest_other_class_of_a_linear_classifier(p, box, seed):
    rng = torch.Generator().manual_seed(seed)
    layer = dense(rng, SIZE, 3)
    net = network_of([("fc", layer, (0,))], (SIZE,), "linear")
    x0 = torch.rand(SIZE, generator=rng, dtype=torch.float64)
    assert layer.bias is not None
    z = layer.weight @ x0 + layer.bias
    y = int(z.argmax())
    expected = min(
        reference((layer.weight[k] - layer.weight[y]).numpy(), float(z[y] - z[k]) + MARGIN, x0.numpy(), p, box)
        for k in range(3)
        if k != y
    )
    limits = [net.input >= 0, net.input <= 1] if box else []
    problem = cl.Problem(cl.Minimize(cl.norm(net.input - x0, p)), [*limits, net.output.argmax(margin=MARGIN) != y])
    solution = problem.solve(time_limit=20, gap=1e-3)
    if expected == math.inf:
        assert solution.status is Status.INFEASIBLE
        return
    assert solution.status is Status.OPTIMAL
    assert solution.bound <= expected * (1 + 1e-6) + 1e-9
    assert solution.value >= expected * (1 - 1e-6) - 1e-9
    assert math.isclose(solution.value, expected, rel_tol=2e-3, abs_tol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=8, deadline=None)
def test_worst_margin_of_a_linear_classifier_is_its_dual_norm(p, seed):
    rng = torch.Generator().manual_seed(seed)
    layer = dense(rng, SIZE, 2)
    net = network_of([("fc", layer, (0,))], (SIZE,), "linear")
    x0 = torch.randn(SIZE, generator=rng, dtype=torch.float64)
    assert layer.bias is not None
    row = layer.weight[0] - layer.weight[1]
    q = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[p]
    expected = float(row @ x0 + layer.bias[0] - layer.bias[1] - 0.3 * torch.linalg.vector_norm(row, q))
    z = net.output
    solution = cl.Problem(cl.Minimize(z[0] - z[1]), [cl.norm(net.input - x0, p) <= 0.3]).solve(time_limit=20, gap=1e-4)
    assert solution.status is Status.OPTIMAL
    assert math.isclose(solution.bound, expected, rel_tol=1e-3, abs_tol=1e-5)
    assert math.isclose(solution.value, expected, rel_tol=1e-3, abs_tol=1e-5)
