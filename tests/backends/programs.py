"""Random programs, and their optima by another interface."""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from clinch.backends.program import Program


def program(seed, *, integers=0, feasible=True, n=6, m=4):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(m, n)) * (rng.uniform(size=(m, n)) < 0.7)
    lower, upper = -rng.integers(0, 3, n).astype(float), rng.integers(1, 4, n).astype(float)
    middle = rows @ np.round((lower + upper) / 2)
    row_upper = middle + rng.uniform(0, 1, m)
    row_lower = np.where(rng.uniform(size=m) < 0.5, -np.inf, middle - rng.uniform(0, 1, m))
    if not feasible:
        rows[1], row_lower[0], row_upper[0], row_lower[1], row_upper[1] = rows[0], 2.0, 3.0, -np.inf, 1.0
    integer = np.arange(n) < integers
    return Program(rng.normal(size=n), csr_array(rows), row_lower, row_upper, lower, upper, integer, constant=0.5)


def reference(p):
    constraints = LinearConstraint(p.rows.toarray(), p.row_lower, p.row_upper)
    return milp(p.cost, integrality=p.integer.astype(int), bounds=Bounds(p.lower, p.upper), constraints=constraints)


def knapsack(n=60):
    """Takes far longer than a moment."""
    rng = np.random.default_rng(0)
    rows = rng.integers(100, 1000, size=(5, n)).astype(float)
    return Program(
        -rows.sum(0), csr_array(rows), np.full(5, -np.inf), np.floor(rows.sum(1) / 2) + 0.5, np.zeros(n), np.ones(n),
        np.ones(n, dtype=bool),
    )  # fmt: skip
