"""HiGHS through highspy: linear, convex quadratic (diagonal) and mixed-integer linear programs.

The only file that imports highspy, and only when a solver is made.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinch.backends.program import Outcome, Program, Vector
from clinch.backends.quiet import silenced
from clinch.backends.tangents import solve_by_tangents
from clinch.errors import BackendError
from clinch.runtime import deadline

_ROWWISE, _TRIANGULAR, _MINIMISE, _FEASIBLE = 2, 1, 1, 2
#: magnitude of an entry beyond which HiGHS takes no program (its option large_matrix_value)
_LARGEST = 1e15


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
        program: linear, convex quadratic or mixed-integer linear.
        time_limit: seconds; reaching it is a normal ending.
        gap: relative gap at which a mixed-integer solve may stop.
        start: ``(n,)`` a point to start a mixed-integer solve from.
        threads: of HiGHS.
        seed: of HiGHS.

    Returns:
        Hints, see :class:`Outcome`.

    Raises:
        BackendError: highspy is missing, or refuses the program.
    """
    options = {"mip_rel_gap": gap, "threads": threads, "random_seed": seed}
    model = HighsModel(program, presolve=bool(program.integer.any()), **options)
    if start is not None:
        model.start(start)
    outcome = model.solve(time_limit=time_limit)
    if outcome.status == "infeasible" and not program.integer.any() and outcome.ray is None:
        outcome = HighsModel(program, presolve=False, solver="simplex", **options).solve(time_limit=time_limit)
    return outcome


def load(program: Program) -> HighsModel:
    """The program without integrality, loaded for many solves."""
    return HighsModel(replace(program, integer=np.zeros_like(program.integer)))


class HighsModel:
    """A program loaded into HiGHS, solved again and again with changed costs and limits, from the last basis each time.

    Args:
        program: what to load; changes do not touch it.
        presolve: let HiGHS reduce the program first. Off, an infeasible program yields its Farkas ray.
        options: HiGHS options by their own names.

    Raises:
        BackendError: highspy is missing, or refuses the program or an option.
    """

    def __init__(self, program: Program, *, presolve: bool = False, **options: float | int | str) -> None:
        self._library = _library()
        self._program = program
        self._highs: Any = self._library.Highs()
        self._columns, self._rows = program.variables, program.constraints
        self._discrete = bool(program.integer.any())
        self._quadratic = program.quadratic is not None
        defaults = {"output_flag": False, "threads": 1, "presolve": "on" if presolve else "off"}
        if self._quadratic:  # small programs take some dozen; now and then HiGHS circles for ever
            defaults["qp_iteration_limit"] = 1000 + 100 * (self._columns + self._rows)
        for name, value in {**defaults, **options}.items():
            self._check(self._highs.setOptionValue(name, value), f"the option {name} = {value}")
        self._load(program)

    def _load(self, program: Program) -> None:
        rows, n = program.rows, program.variables
        largest = float(np.abs(rows.data).max(initial=0.0))
        if largest > _LARGEST:
            raise BackendError(
                f"A weight or limit of {largest:.3g} is beyond what HiGHS takes, {_LARGEST:.0e}. "
                'Use solver="branch_and_bound", which needs no linear programs.'
            )
        limits = (program.lower, program.upper, program.row_lower, program.row_upper)
        matrix = (rows.indptr.astype(np.int32), rows.indices.astype(np.int32), rows.data)
        kinds = program.integer.astype(np.int32)
        if program.quadratic is None:
            arguments = (n, program.constraints, rows.nnz, _ROWWISE, _MINIMISE, program.constant, program.cost)
            status = self._highs.passModel(*arguments, *limits, *matrix, kinds)
        else:
            diagonal = np.arange(n, dtype=np.int32)
            sizes = (n, program.constraints, rows.nnz, n, _ROWWISE, _TRIANGULAR, _MINIMISE)
            hessian = (diagonal, diagonal, program.quadratic)
            status = self._highs.passModel(*sizes, program.constant, program.cost, *limits, *matrix, *hessian, kinds)
        self._check(status, "the program")

    # --- changes ----------------------------------------------------------------------------------------------------

    def change_cost(self, cost: Vector) -> None:
        """New objective coefficients ``(n,)``."""
        if self._quadratic:
            self._program = replace(self._program, cost=cost)
        self._check(self._highs.changeColsCost(self._columns, self._index(self._columns), _clean(cost)), "the cost")

    def change_limits(self, columns: NDArray[np.integer], lower: Vector, upper: Vector) -> None:
        """New limits of the chosen variables."""
        index = np.asarray(columns, dtype=np.int32)
        if len(index):
            if self._quadratic:
                low, high = self._program.lower.copy(), self._program.upper.copy()
                low[index], high[index] = lower, upper
                self._program = replace(self._program, lower=low, upper=high)
            self._check(self._highs.changeColsBounds(len(index), index, _clean(lower), _clean(upper)), "the limits")

    def change_rows(self, lower: Vector, upper: Vector) -> None:
        """New limits ``(m,)`` of all rows."""
        index = self._index(self._rows)
        if self._quadratic:
            self._program = replace(self._program, row_lower=lower, row_upper=upper)
        self._check(self._highs.changeRowsBounds(self._rows, index, _clean(lower), _clean(upper)), "the row limits")

    def start(self, point: Vector) -> None:
        """A point from which a mixed-integer solve starts."""
        self._highs.setSolution(self._columns, self._index(self._columns), _clean(point))

    def basis(self) -> Any:
        """The basis of the last solve, to return to with :meth:`set_basis`."""
        return self._highs.getBasis()

    def set_basis(self, basis: Any) -> None:
        """Start the next solve from a basis of this model (None: from the last one)."""
        if basis is not None:
            self._highs.setBasis(basis)

    # --- solving ----------------------------------------------------------------------------------------------------

    def solve(self, *, time_limit: float = np.inf, iterations: int | None = None) -> Outcome:
        """Solve the program as it stands now, within so many seconds and simplex iterations.

        HiGHS's active set method calls about one of 200 small bounded quadratic programs unbounded or not convex (its
        issue 1363), or circles. In −x it meets the same vertices in another order, and solves three in four
        of these; what is left is solved by tangents.
        """
        outcome = self._attempt(time_limit, iterations)
        if not self._quadratic or outcome.status not in ("unbounded", "unknown", "iterations"):
            return outcome
        p = self._program
        mirror = HighsModel(replace(p, cost=-p.cost, rows=-p.rows, lower=-p.upper, upper=-p.lower))
        seconds = outcome.seconds
        outcome = mirror._attempt(time_limit - seconds, iterations)
        if outcome.status in ("unbounded", "unknown", "iterations"):
            return solve_by_tangents(solve, p, time_limit - seconds - outcome.seconds)
        return replace(outcome, point=None if outcome.point is None else -outcome.point)

    def _attempt(self, time_limit: float, iterations: int | None) -> Outcome:
        began = time.monotonic()
        time_limit = min(time_limit, deadline.left())
        if time_limit <= 0:
            return Outcome("time")
        # HiGHS's own clock runs on from solve to solve of one model
        limit = self._highs.getRunTime() + time_limit if np.isfinite(time_limit) else np.inf
        self._highs.setOptionValue("time_limit", limit)
        self._highs.setOptionValue("simplex_iteration_limit", 2**31 - 1 if iterations is None else iterations)
        self._run(long=self._discrete or self._quadratic)
        return self._outcome(time.monotonic() - began)

    def _run(self, long: bool) -> None:
        """Run HiGHS. A long solve runs beside this thread: a keyboard interrupt then ends it at once and passes on."""
        if not long or threading.current_thread() is not threading.main_thread():
            self._run_here()
            return
        self._highs.HandleUserInterrupt = True
        # an event of its own: Python 3.11 takes a thread for ended whose join() was interrupted
        ended = threading.Event()

        def work() -> None:
            try:
                self._run_here()
            finally:
                ended.set()

        threading.Thread(target=work, daemon=True).start()
        try:
            while not ended.wait(0.1):
                pass
        except BaseException:
            self._highs.cancelSolve()
            ended.wait(2.0)
            raise

    def _run_here(self) -> None:
        if self._highs.run() == self._library.HighsStatus.kError:
            # HiGHS keeps one pool of threads per process: another user of it may have made one of another size
            self._library.Highs.resetGlobalScheduler(True)
            self._highs.run()

    def _outcome(self, seconds: float) -> Outcome:
        highs, status = self._highs, self._library.HighsModelStatus
        words = {
            status.kOptimal: "optimal", status.kInfeasible: "infeasible", status.kUnbounded: "unbounded",
            status.kTimeLimit: "time", status.kInterrupt: "time", status.kIterationLimit: "iterations",
        }  # fmt: skip
        word = words.get(highs.getModelStatus(), "unknown")
        solution, info = highs.getSolution(), highs.getInfo()
        feasible = solution.value_valid and info.primal_solution_status == _FEASIBLE
        point = np.array(solution.col_value) if feasible else None
        duals = np.array(solution.row_dual) if solution.dual_valid and not self._discrete else None
        ray = self._ray() if word == "infeasible" and not self._discrete else None
        value = info.objective_function_value if point is not None else np.inf
        claimed = info.mip_dual_bound if self._discrete else value if word == "optimal" else -np.inf
        return Outcome(word, _known(point), _known(duals), ray, value, claimed, seconds)

    def _ray(self) -> Vector | None:
        if self._quadratic:  # HiGHS gives no ray for quadratic programs: whether rows and limits clash is linear
            return solve(replace(self._program, cost=np.zeros(self._columns), quadratic=None)).ray
        _, found, ray = self._highs.getDualRay()
        return _known(np.array(ray)) if found else None

    # --- small helpers ----------------------------------------------------------------------------------------------

    def _index(self, count: int) -> NDArray[np.int32]:
        return np.arange(count, dtype=np.int32)

    def _check(self, status: Any, what: str) -> None:
        if status == self._library.HighsStatus.kError:
            raise BackendError(f"HiGHS refuses {what}. Please report this problem.")


def _library() -> Any:
    try:
        import highspy
    except ImportError as error:
        raise BackendError("HiGHS is missing. Install it with: pip install highspy") from error
    _print_banner()
    return highspy


@cache
def _print_banner() -> None:
    """The first solver of a process prints a banner (HiGHS 1.16) before an option could forbid it: to nobody, here."""
    from highspy import Highs

    with silenced():
        Highs()


def _clean(values: Vector) -> Vector:
    values = np.ascontiguousarray(values, dtype=np.float64)
    if np.isnan(values).any():
        raise BackendError("A change of the program contains NaN. Check the model's weights and the bounds.")
    return values


def _known(values: Vector | None) -> Vector | None:
    return None if values is None or not np.isfinite(values).all() else values
