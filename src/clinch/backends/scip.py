"""SCIP through pyscipopt: mixed-integer and convex quadratic (diagonal) programs.

The only file that imports pyscipopt, and only when a solver is made. Linear programs go to HiGHS, which is always
there: SCIP keeps none to change and solve again, and gives multipliers and rays only for programs it did not reduce.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from clinch.backends import highs
from clinch.backends.highs import load as load
from clinch.backends.program import Outcome, Program, Vector
from clinch.backends.quiet import silenced
from clinch.errors import BackendError
from clinch.runtime.optional import required

_WORDS = {
    "optimal": "optimal", "gaplimit": "optimal", "infeasible": "infeasible", "unbounded": "unbounded",
    "inforunbd": "unknown", "timelimit": "time",
}  # fmt: skip


def solve(
    program: Program,
    *,
    time_limit: float = np.inf,
    gap: float = 1e-6,
    start: Vector | None = None,
    threads: int = 1,
    seed: int = 0,
) -> Outcome:
    """Solve a program once.

    Args:
        program: linear or convex quadratic, with or without integer variables.
        time_limit: seconds; reaching it is a normal ending.
        gap: relative gap at which the solve may stop.
        start: ``(n,)`` a point to start from.
        threads: SCIP's own search uses one, whatever is asked for.
        seed: of SCIP.

    Returns:
        Hints, see :class:`Outcome`.

    Raises:
        BackendError: pyscipopt is missing.
    """
    began = time.monotonic()
    if not program.integer.any() and program.quadratic is None:
        return highs.solve(program, time_limit=time_limit, threads=threads, seed=seed)
    if time_limit <= 0:
        return Outcome("time")
    library = _library()
    with silenced():
        model = library.Model()
        model.hideOutput()
    model.setParam("randomization/randomseedshift", seed)
    model.setParam("limits/gap", gap)
    variables = _build(library, model, program)
    if start is not None:
        _start(model, variables, start, program)
    if np.isfinite(time_limit):
        model.setParam("limits/time", max(time_limit - (time.monotonic() - began), 1e-3))
    try:
        model.optimize()
    except Exception:  # pyscipopt raises no narrower class where SCIP gives up; its best point may still be good
        return replace(_outcome(model, program, variables, time.monotonic() - began), status="unknown")
    if model.getStatus() == "userinterrupt":
        raise KeyboardInterrupt
    return _outcome(model, program, variables, time.monotonic() - began)


def _build(library: Any, model: Any, program: Program) -> list[Any]:
    """The program's variables and rows in SCIP; a quadratic objective becomes a variable above it."""
    kinds = np.where(program.integer, "I", "C")
    limits = [[None if np.isinf(v) else float(v) for v in side] for side in (program.lower, program.upper)]
    variables = [
        model.addVar(vtype=str(kind), lb=low, ub=high, obj=float(cost))
        for kind, low, high, cost in zip(kinds, *limits, program.cost)
    ]
    model.addObjoffset(program.constant)
    matrix = program.rows
    for r, (low, high) in enumerate(zip(program.row_lower, program.row_upper)):
        part = slice(matrix.indptr[r], matrix.indptr[r + 1])
        columns, values = matrix.indices[part].tolist(), matrix.data[part].tolist()
        # one call per coefficient is ten times faster than an expression of dense rows
        row = model.addCons((0.0 * variables[0] <= 1.0), name=f"row{r}")
        for column, value in zip(columns, values):
            model.addConsCoeff(row, variables[column], value)
        model.chgRhs(row, None if np.isinf(high) else float(high))
        model.chgLhs(row, None if np.isinf(low) else float(low))
    if program.quadratic is not None:
        above = model.addVar(lb=0.0, ub=None, obj=1.0)
        terms = [(0.5 * float(q), v) for q, v in zip(program.quadratic, variables) if q]
        model.addCons(library.quicksum(q * v * v for q, v in terms) <= above)
    return variables


def _start(model: Any, variables: list[Any], start: Vector, program: Program) -> None:
    solution = model.createPartialSol() if program.quadratic is not None else model.createSol()
    for variable, value in zip(variables, start.tolist()):
        model.setSolVal(solution, variable, value)
    model.addSol(solution)


def _outcome(model: Any, program: Program, variables: list[Any], seconds: float) -> Outcome:
    point, value = None, np.inf
    if model.getNSols():
        best = model.getBestSol()
        point = np.array([model.getSolVal(best, v) for v in variables])
        point = point if np.isfinite(point).all() else None
        value = np.inf if point is None else program.objective(point)
    word = _WORDS.get(model.getStatus(), "unknown")
    return Outcome(word, point, None, None, value, float(model.getDualbound()), seconds)


def _library() -> Any:
    return required("pyscipopt", "scip", "or take another backend", BackendError)
