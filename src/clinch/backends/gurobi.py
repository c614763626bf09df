"""Gurobi through gurobipy: linear, convex quadratic (diagonal) and mixed-integer programs of both kinds.

The only file that imports gurobipy, and only when a solver is made. Gurobi is used only where it is named: its free
licence takes at most 2000 variables and 2000 rows, and what it refuses is passed on as one clear error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix, diags_array

from clinch.backends.program import Outcome, Program, Vector
from clinch.backends.quiet import silenced
from clinch.errors import BackendError
from clinch.runtime.optional import required

_DUAL_SIMPLEX = 1


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
        gap: relative gap at which a mixed-integer solve may stop.
        start: ``(n,)`` a point to start a mixed-integer solve from.
        threads: of Gurobi.
        seed: of Gurobi.

    Returns:
        Hints, see :class:`Outcome`.

    Raises:
        BackendError: gurobipy is missing, finds no licence, or refuses the program because of its size.
    """
    model = GurobiModel(program, MIPGap=gap, Threads=threads, Seed=seed)
    if start is not None:
        model.start(start)
    return model.solve(time_limit=time_limit)


def load(program: Program) -> GurobiModel:
    """The program without integrality, loaded for many solves (raises as :func:`solve`)."""
    return GurobiModel(replace(program, integer=np.zeros_like(program.integer)), Threads=1, Presolve=0)


class _Sides(NamedTuple):
    """Gurobi's rows have one side each: which row of the program each of them is, and its sense ``<``, ``>``, ``=``."""

    row: NDArray[np.int64]
    sense: NDArray[np.str_]

    @staticmethod
    def of(lower: Vector, upper: Vector) -> _Sides:
        equal = lower == upper
        kinds = {"=": equal, ">": np.isfinite(lower) & ~equal, "<": np.isfinite(upper) & ~equal}
        row = np.concatenate([which.nonzero()[0] for which in kinds.values()])
        return _Sides(row, np.repeat(list(kinds), [int(which.sum()) for which in kinds.values()]))

    def right_hand_sides(self, lower: Vector, upper: Vector) -> Vector:
        return np.where(self.sense == "<", upper[self.row], lower[self.row])


class GurobiModel:
    """A program loaded into Gurobi and solved again and again with changed costs and limits, from the last basis.

    Args:
        program: what to load; changes do not touch it.
        parameters: Gurobi parameters by their own names.

    Raises:
        BackendError: gurobipy is missing, finds no licence, or refuses the program because of its size.
    """

    def __init__(self, program: Program, **parameters: float | int | str) -> None:
        self._library = _library()
        self._program = program
        self._discrete = bool(program.integer.any())
        self._parameters = parameters
        self._model: Any = None
        with self._errors(), silenced():
            self._environment = self._library.Env(empty=True)
            self._environment.setParam("OutputFlag", 0)
            self._environment.start()
        self._load()

    def _load(self) -> None:
        program = self._program
        self._sides = _Sides.of(program.row_lower, program.row_upper)
        with self._errors():
            model = self._library.Model(env=self._environment)
            for name, value in self._parameters.items():
                model.setParam(name, value)
            if not self._discrete:
                model.setParam("InfUnbdInfo", 1)
                model.setParam("Method", _DUAL_SIMPLEX)  # also for quadratic programs: sharper than the barrier
            kinds = np.where(program.integer, "I", "C")
            self._x = model.addMVar(program.variables, lb=program.lower, ub=program.upper, vtype=kinds)
            if len(self._sides.row):
                rows = csr_matrix(csr_array(program.rows)[self._sides.row])
                right = self._sides.right_hand_sides(program.row_lower, program.row_upper)
                self._rows = model.addMConstr(rows, self._x, self._sides.sense, right)
            model.update()
        self._model = model
        self.change_cost(program.cost)

    # --- changes ----------------------------------------------------------------------------------------------------

    def change_cost(self, cost: Vector) -> None:
        """New objective coefficients ``(n,)``."""
        self._program = replace(self._program, cost=np.asarray(cost, dtype=np.float64))
        quadratic = self._program.quadratic
        matrix = None if quadratic is None else diags_array(0.5 * quadratic)
        with self._errors():
            self._model.setMObjective(matrix, self._program.cost, self._program.constant, self._x, self._x, self._x)

    def change_limits(self, columns: NDArray[np.integer], lower: Vector, upper: Vector) -> None:
        """New limits of the chosen variables."""
        low, high = self._program.lower.copy(), self._program.upper.copy()
        low[columns], high[columns] = lower, upper
        self._program = replace(self._program, lower=low, upper=high)
        if len(columns):
            with self._errors():
                self._x[columns].LB, self._x[columns].UB = np.asarray(lower), np.asarray(upper)

    def change_rows(self, lower: Vector, upper: Vector) -> None:
        """New limits ``(m,)`` of all rows."""
        self._program = replace(self._program, row_lower=lower, row_upper=upper)
        sides = _Sides.of(lower, upper)
        if not (np.array_equal(sides.row, self._sides.row) and np.array_equal(sides.sense, self._sides.sense)):
            self._load()
        elif len(sides.row):
            with self._errors():
                self._rows.RHS = sides.right_hand_sides(lower, upper)

    def start(self, point: Vector) -> None:
        """A point from which a mixed-integer solve starts."""
        self._x.Start = point

    def basis(self) -> Any:
        """The basis of the last solve, to return to with :meth:`set_basis`; None where there is none."""
        try:
            rows = self._rows.CBasis if len(self._sides.row) else None
            return self._x.VBasis, rows
        except (self._library.GurobiError, AttributeError):
            return None

    def set_basis(self, basis: Any) -> None:
        """Start the next solve from a basis of this model (None: from the last one)."""
        if basis is None:
            return
        self._x.VBasis = basis[0]
        if basis[1] is not None:
            self._rows.CBasis = basis[1]

    # --- solving ----------------------------------------------------------------------------------------------------

    def solve(self, *, time_limit: float = np.inf, iterations: int | None = None) -> Outcome:
        """Solve the program as it stands now, within so many seconds and simplex iterations."""
        began = time.monotonic()
        if time_limit <= 0:
            return Outcome("time")
        self._model.setParam("TimeLimit", time_limit if np.isfinite(time_limit) else self._library.GRB.INFINITY)
        self._model.setParam("IterationLimit", np.inf if iterations is None else iterations)
        with self._errors():
            self._model.optimize()
        if self._model.Status == self._library.GRB.INTERRUPTED:
            raise KeyboardInterrupt
        return self._outcome(time.monotonic() - began)

    def _outcome(self, seconds: float) -> Outcome:
        codes = self._library.GRB
        words = {
            codes.OPTIMAL: "optimal", codes.INFEASIBLE: "infeasible", codes.UNBOUNDED: "unbounded",
            codes.TIME_LIMIT: "time", codes.ITERATION_LIMIT: "iterations",
        }  # fmt: skip
        word = words.get(self._model.Status, "unknown")
        point = self._known(lambda: self._x.X) if word == "optimal" or self._discrete else None
        value = self._program.objective(point) if point is not None else np.inf
        multipliers = None if self._discrete else self._known(lambda: self._rows.Pi)
        ray = self._ray() if word == "infeasible" and not self._discrete else None
        claimed = self._known(lambda: np.array(self._model.ObjBound)) if self._discrete else None
        bound = value if word == "optimal" else -np.inf
        return Outcome(
            word, point, self._by_row(multipliers), ray, value,
            bound if claimed is None else float(claimed), seconds,
        )  # fmt: skip

    def _ray(self) -> Vector | None:
        if self._program.quadratic is not None:  # Gurobi gives a ray for linear programs only
            linear = replace(self._program, cost=np.zeros_like(self._program.cost), quadratic=None)
            return GurobiModel(linear, Threads=1, Presolve=0).solve().ray
        return self._by_row(self._known(lambda: -self._rows.FarkasDual))

    def _by_row(self, values: Vector | None) -> Vector | None:
        """Of the two sides of one row at most one binds: their multipliers add up."""
        if values is None:
            return None
        total = np.zeros(self._program.constraints)
        np.add.at(total, self._sides.row, values)
        return total

    def _known(self, read: Any) -> Vector | None:
        try:
            values = np.asarray(read(), dtype=np.float64)
        except (self._library.GurobiError, AttributeError):  # Gurobi has no such answer
            return None
        return values if np.isfinite(values).all() else None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._library.GurobiError as error:
            raise BackendError(self._said(error)) from error

    def _said(self, error: Any) -> str:
        codes = self._library.GRB.Error
        if error.errno == codes.SIZE_LIMIT_EXCEEDED:
            program = self._program
            return (
                f"Gurobi's licence here is limited in size and refuses a program of {program.variables} variables and "
                f"{program.constraints} rows. Use backend='highs' or backend='scip', or install a full Gurobi licence."
            )
        if error.errno == codes.NO_LICENSE:
            return f"Gurobi finds no licence ({error}). Use backend='highs' or backend='scip', or install a licence."
        return f"Gurobi refuses the program: {error}. Use backend='highs' or backend='scip'."


def _library() -> Any:
    return required("gurobipy", "gurobi", "or take another backend", BackendError)
