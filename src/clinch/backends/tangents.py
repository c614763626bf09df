"""A convex quadratic program by linear ones: each ``½ q_i x_i²`` is the largest of its tangents (Kelley 1960).

The tangents meet the square at more and more points, until the linear program's optimum is the quadratic one's. Slower
than an active set, and it cannot lose its way: what is left for programs on which HiGHS's own method does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clinch.backends.program import Outcome, Program, Vector, sparse

#: rounds of tangents, each at the optimum of the last
ROUNDS = 60
#: how far below the quadratic objective the tangents may stay, relative to its size
CLOSE = 1e-7
#: distance at which a new tangent would add nothing that the linear program can see
SAME = 1e-7


def solve_by_tangents(solve: Callable[..., Outcome], program: Program, time_limit: float = np.inf) -> Outcome:
    """Hints about a program without integer variables whose ``quadratic`` is given, as HiGHS would give them.

    ``min c·x + Σ t_i  s.t.  t_i >= q_i·a·x_i − ½ q_i·a²`` for points a that are added round by round. The rows'
    multipliers of the last round come with the outcome: :meth:`Program.bound` makes a proof of them.

    Args:
        solve: of linear programs, ``solve(program, time_limit=)``, with multipliers.
        program: what to solve.
        time_limit: seconds.
    """
    began = time.monotonic()
    assert program.quadratic is not None
    curved = program.quadratic.nonzero()[0]
    points = _first_points(program, curved)
    outcome = Outcome("unknown")
    for _ in range(ROUNDS):
        left = time_limit - (time.monotonic() - began)
        if left <= 0:
            return replace(outcome, status="time", seconds=time.monotonic() - began)
        found = solve(_with_tangents(program, curved, points), time_limit=left)
        if found.point is None:
            ray = None if found.ray is None else found.ray[: program.constraints]
            return Outcome(found.status, None, None, ray, seconds=time.monotonic() - began)
        x = found.point[: program.variables]
        duals = None if found.duals is None else found.duals[: program.constraints]
        value = program.objective(x)
        outcome = Outcome("optimal", x, duals, None, value, value, time.monotonic() - began)
        near = np.abs(points - x[curved]).min(0, initial=np.inf)
        if value - found.value <= CLOSE * (1 + abs(value)) or near.max(initial=0.0) <= SAME:
            return outcome
        points = np.vstack([points, x[curved]])
    return replace(outcome, status="iterations")


def _first_points(program: Program, curved: np.ndarray) -> Vector:
    """Both ends of each element's range and its middle, ``(3, k)``; −1, 0 and 1 where there is no end."""
    lower, upper = program.lower[curved], program.upper[curved]
    lower = np.where(np.isfinite(lower), lower, np.where(np.isfinite(upper), upper - 2, -1.0))
    upper = np.where(np.isfinite(upper), upper, lower + 2)
    return np.stack([lower, (lower + upper) / 2, upper])


def _with_tangents(program: Program, curved: np.ndarray, points: Vector) -> Program:
    """The linear program: one variable more for each curved element, one row for each tangent."""
    assert program.quadratic is not None
    n, k, m = program.variables, len(curved), program.constraints
    q = np.tile(program.quadratic[curved], len(points))
    a, count = points.flatten(), points.size
    each = np.arange(count)
    rows = program.rows.tocoo()
    entries = np.concatenate([rows.data, np.ones(count), -q * a])
    row = np.concatenate([rows.row, m + each, m + each])
    column = np.concatenate([rows.col, n + each % k, np.tile(curved, len(points))])
    return Program(
        cost=np.concatenate([program.cost, np.ones(k)]),
        rows=sparse((entries, (row, column)), (m + count, n + k)),
        row_lower=np.concatenate([program.row_lower, -0.5 * q * a * a]),
        row_upper=np.concatenate([program.row_upper, np.full(count, np.inf)]),
        lower=np.concatenate([program.lower, np.zeros(k)]),
        upper=np.concatenate([program.upper, np.full(k, np.inf)]),
        integer=np.concatenate([program.integer, np.zeros(k, dtype=bool)]),
        constant=program.constant,
    )
