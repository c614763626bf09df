"""SciPy's general solvers as reference: COBYLA, SLSQP, SHGO and differential evolution.

They read the same problems as every engine, in float64, and hand over points only: nothing they say about convergence
is believed. *Whole* is the problem as it is stated, ``max over clauses of min over atoms <= 0``, one condition; *by
sides* solves one problem for each atom of the largest clause, nearest first by linearisation, with smooth conditions.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinch.attacks.core.arguments import lowering_objective
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.problem_query import ProblemQuery, disjunctive_clause, with_rounding_margins
from clinch.attacks.core.result import AttackResult, HasQuery, query_of
from clinch.errors import ProblemError
from clinch.geometry.norms import norm_of
from clinch.query import Distance, Query
from clinch.runtime.deadline import OutOfTime
from clinch.runtime.gradients import with_gradients
from clinch.solver.engine import without_slope
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Scipy

Array = np.ndarray[Any, np.dtype[np.float64]]

LOCAL, GLOBAL = ("cobyla", "slsqp"), ("shgo", "differential_evolution")
#: conditions are asked for with so much to spare, as solvers return points on the edge
TO_SPARE = 1e-6
#: what is said where the time ended a run
STOPPED = "SciPy's {solver} was stopped by the time limit."


class _OutOfTime(BaseException):
    """The time of a problem is used up. Not an Exception, so that no solver takes it for a failure of its own."""


@with_gradients
def scipy_minimise(
    problem: HasQuery | Query, *, solver: str = "slsqp", sides: bool = True, time_limit: float = 12.0, seed: int = 0
) -> AttackResult:
    """One of SciPy's general solvers on a problem, one problem of a batch after the other.

    ``min f(x)  s.t.  g_i(x) <= 0, l <= x <= u``, with f the objective (a Euclidean distance squared, so that it is
    smooth) and exact gradients for SLSQP; the others take none. Powell 1994 (COBYLA), Kraft 1988 (SLSQP), Endres,
    Sandrock and Focke 2018 (SHGO), Storn and Price 1997 (differential evolution, here with the penalty-free rules of
    Lampinen 2002 for conditions), all as in ``scipy.optimize``.

    Args:
        problem: a ``cl.Problem``, or its normal form.
        solver: ``"cobyla"``, ``"slsqp"``, ``"shgo"`` or ``"differential_evolution"``.
        sides: one run for each atom of the largest clause; False: one run with one condition for everything, as
            the question states it. The global solvers always take the whole.
        time_limit: seconds for each problem; the point in hand counts when they are over.
        seed: of differential evolution.

    Returns:
        The best points that were evaluated; see :class:`AttackResult`.

    Raises:
        ProblemError: an unknown solver or a time limit without meaning.
        UnsupportedByEngine: the number of changed elements (p = 0) has no slope for these solvers to use.

    Example:
        >>> scipy_minimise(few, solver="slsqp", time_limit=12).value
        tensor([-0.1977], dtype=torch.float64)
    """
    if solver not in (*LOCAL, *GLOBAL):
        raise ProblemError(f"solver={solver!r} is not known. Write one of: {', '.join((*LOCAL, *GLOBAL))}.")
    if not time_limit > 0:
        raise ProblemError(f"time_limit={time_limit}; give seconds, more than zero.")
    query = query_of(problem).moved("cpu")
    objective = lowering_objective(query)
    if (refusal := without_slope(query)) is not None:
        raise refusal
    best_points = BestPoints(objective)
    _each(objective, best_points, solver, sides, seed, lambda: time_limit)
    return best_points.result()


def scipy_search(solver: str, sides: bool, ledger: Ledger, seed: int, settings: Scipy) -> None:
    """The same as an engine of ``solve()``: the problems of a batch share the time that the ledger has left."""
    left = ledger.query.size

    def seconds() -> float:
        nonlocal left
        share = ledger.remaining / max(1, left)
        left -= 1
        return share

    try:
        objective = lowering_objective(ledger.query)
        notes = _each(
            objective, BestPoints(objective, who=f"SciPy {solver}"), solver, sides, seed, seconds, ledger, settings
        )
    except OutOfTime:
        notes = [STOPPED.format(solver=solver)]
    for text in notes:
        ledger.note(text)


def _each(
    objective: AttackObjective, best_points: BestPoints, solver: str, sides: bool, seed: int,
    seconds: Callable[[], float], ledger: Ledger | None = None, settings: Scipy | None = None,
) -> list[str]:  # fmt: skip
    """All problems, one after the other; what went wrong, in words."""
    query = objective.query
    assert isinstance(query, ProblemQuery)
    # conditions of inputs alone are SciPy's too, though attacks keep them by projections
    tight = with_rounding_margins(query.stated, objective.start.to("cpu", query.dtype))
    slack = (tight.atoms.constant - query.stated.atoms.constant.to(tight.dtype)).double()
    notes: list[str] = []
    for b in range(objective.size):
        clock = time.monotonic if ledger is None else lambda: ledger.seconds
        stated = _Stated(
            objective,
            query.stated.take(torch.tensor([b])),
            best_points,
            b,
            slack[b],
            clock,
            clock() + seconds(),
            settings or Scipy(),
        )
        try:
            with warnings.catch_warnings():
                # what a solver thinks of its own progress is no concern of the user's
                warnings.simplefilter("ignore")
                _in_time(stated, partial(_run, stated, solver, sides, seed))
        except _OutOfTime:
            notes.append(STOPPED.format(solver=solver))
        except (ArithmeticError, ValueError, RuntimeError, IndexError, TypeError, MemoryError) as reason:
            if reason is stated.broken:
                raise
            line = str(reason).strip().splitlines()[:1] or [""]
            notes.append(f"SciPy's {solver} gave up on problem {b}: {type(reason).__name__} {line[0]}".rstrip())
        if ledger is not None and bool(best_points.success[b]):
            ledger.offer(best_points.x[b : b + 1], best_points.who, torch.tensor([b]))
    return notes


def _in_time(stated: _Stated, task: Callable[[], None]) -> None:
    """Run a solver, in a thread of its own so that it can be stopped between two lines of its own algebra, which may
    take a minute where there are many inputs. What it raises is raised here."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            task()
        except BaseException as reason:
            raised.append(reason)
        finally:
            ended.set()

    # an event of its own: Python 3.11 takes a thread for ended whose join() was interrupted
    ended = threading.Event()
    _import_all()
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while not stated.over and not ended.wait(0.02):
            pass
    finally:
        stated.deadline = -np.inf
        ended.wait(0.05)
        with _unseen_where_swallowed():
            while not ended.is_set() and worker.is_alive():
                with stated.lock:  # not while a point is being kept
                    _raise_in(worker)
                ended.wait(1.0)
    if raised:
        raise raised[0]


def _import_all() -> None:
    """What solvers import when they are first called: an import that is stopped half way leaves a module in ruins."""
    import scipy.optimize
    import scipy.stats  # noqa: F401


@contextmanager
def _unseen_where_swallowed() -> Iterator[None]:
    """Python reports and swallows what is raised inside a weak reference's callback or a finaliser: ours is no news,
    as it is raised again."""
    before = sys.unraisablehook

    def hook(report: sys.UnraisableHookArgs) -> None:
        if report.exc_type is not _OutOfTime:
            before(report)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _raise_in(worker: threading.Thread) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident or 0), ctypes.py_object(_OutOfTime))


@dataclass
class _Stated:
    """Problem b in float64 on flat arrays; every point that is looked at and satisfies everything is kept.

    Attributes:
        objective: all problems.
        query: this one, in float64.
        best_points: keeps the points.
        b: which problem.
        slack: ``(K,)`` what rounding may cost each atom in the model's dtype.
        clock: what tells the time, and ``deadline`` when it is over.
        settings: of the solvers.
    """

    objective: AttackObjective
    query: Query
    best_points: BestPoints
    b: int
    slack: Tensor
    clock: Callable[[], float]
    deadline: float
    settings: Scipy

    def __post_init__(self) -> None:
        self.index = torch.tensor([self.b])
        self.main = disjunctive_clause(self.query)
        self.lock = threading.Lock()
        #: what went wrong in the network rather than in the solver: that is not forgiven
        self.broken: Exception | None = None
        middle = self.objective.start[self.b].double()
        self.start: Array = middle.flatten().numpy()
        self.lower: Array = self.query.region.lower[0].flatten().numpy()
        self.upper: Array = self.query.region.upper[0].flatten().numpy()

    def look(self, points: Array, gradients: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Objectives ``(N,)``, atoms ``(N, K)`` and the points they flow to, for points ``(N, n)``."""
        with self.lock:
            try:
                return self._look(points, gradients)
            except Exception as reason:
                self.broken = reason
                raise

    @property
    def over(self) -> bool:
        """Whether the time is used up."""
        return self.clock() >= self.deadline

    def _look(self, points: Array, gradients: bool) -> tuple[Tensor, Tensor, Tensor]:
        if self.over:
            raise _OutOfTime
        x = torch.from_numpy(np.ascontiguousarray(points)).reshape(-1, *self.query.graph.input_shape)
        x = x.requires_grad_(gradients)
        query = self.query.take(torch.zeros(len(x), dtype=torch.long))
        with torch.set_grad_enabled(gradients):
            value, atoms = query.evaluate(x)
            atoms = torch.cat([atoms + self.slack, *(self._ball(ball, x) for ball in query.region.balls)], 1)
        problem = self.index.expand(len(x))
        self.objective.count(problem, forward=1)
        with torch.no_grad():
            violation = self._violation(atoms)
            met = (violation <= 0) & query.region.contains(x)
            margin = torch.where(met, -1.0, violation.clamp(min=TO_SPARE))
            self.best_points.update(x.detach().to(self.objective.x), problem, margin, value.detach())
        return value, atoms, x

    @staticmethod
    def _ball(ball: Any, x: Tensor) -> Tensor:
        """A ball as one more condition, with room for the rounding of float32."""
        return (ball.distance(x) - ball.radius * (1 - TO_SPARE)).unsqueeze(1)

    def _violation(self, atoms: Tensor) -> Tensor:
        """Largest of all clauses and balls, ``(N,)``."""
        count = len(self.slack)
        parts = [atoms[:, count:]]
        if self.query.clauses:
            parts.append(self.query.clause_values(atoms[:, :count]))
        everything = torch.cat(parts, 1)
        return everything.amax(1) if everything.shape[1] else atoms.new_full((len(atoms),), -torch.inf)

    # --- what SciPy asks for ----------------------------------------------------------------------------------------

    def smooth_objective(self, value: Tensor, x: Tensor) -> Tensor:
        """Smooth where it can be: a Euclidean distance is squared."""
        objective = self.query.objective
        if not isinstance(objective, Distance) or objective.norm is not norm_of(2):
            return value
        delta = x - objective.center
        return (delta if objective.weights is None else delta * objective.weights).square().flatten(1).sum(1)

    def conditions(self, atoms: Tensor, side: int | None) -> Tensor:
        """``(N, M)``, at least 0 where all holds: the whole as one, or with one atom of the largest clause."""
        if side is None:
            return -self._violation(atoms).unsqueeze(1) - TO_SPARE
        single = torch.bincount(self.query.clause)[self.query.clause] == 1
        kept = single.nonzero().flatten().tolist()
        columns = [-atoms[:, kept], -atoms[:, len(self.slack) :]]
        if side >= 0:
            columns.append(-atoms[:, [side]])
        # other clauses with a choice keep it
        clauses = self.query.clause_values(atoms[:, : len(self.slack)]) if self.query.clauses else atoms[:, :0]
        sizes = self.query.clause_sizes
        choice = [c for c in range(self.query.clauses) if int(sizes[c]) > 1 and c != self.main]
        return torch.cat([*columns, -clauses[:, choice]], 1) - TO_SPARE

    def value_at(self, x: Array) -> float:
        """Objective at one point ``(n,)``; a large number where it is not finite."""
        value, _, point = self.look(x[None])
        return float(np.nan_to_num(float(self.smooth_objective(value, point)[0]), nan=1e30, posinf=1e30, neginf=-1e30))

    def slope_at(self, x: Array) -> Array:
        """Gradient of the objective at one point."""
        value, _, point = self.look(x[None], gradients=True)
        return self._gradients(self.smooth_objective(value, point).unsqueeze(1), point)[0]

    def conditions_at(self, x: Array, side: int | None) -> Array:
        """Conditions at one point, or ``(M, N)`` for points ``(n, N)`` as differential evolution asks for them."""
        several = x.ndim == 2
        _, atoms, _ = self.look(x.T if several else x[None])
        values = self.conditions(atoms, side).numpy()
        return values.T if several else values[0]

    def jacobian_at(self, x: Array, side: int | None) -> Array:
        """``(M, n)``."""
        _, atoms, point = self.look(x[None], gradients=True)
        return self._gradients(self.conditions(atoms, side), point)

    def _gradients(self, values: Tensor, point: Tensor) -> Array:
        count = values.shape[1]
        self.objective.count(self.index, backward=count)
        if not values.requires_grad or not count:
            return np.zeros((count, point[0].numel()))
        rows = [torch.autograd.grad(v, point, retain_graph=True)[0].flatten() for v in values[0].unbind()]
        return torch.stack(rows).nan_to_num(0.0, 0.0, 0.0).numpy()

    def sides(self) -> list[int | None]:
        """Atoms of the largest clause, nearest first by linearisation; [−1] where no clause has a choice."""
        if self.main is None:
            return [-1]
        _, atoms, point = self.look(self.start[None], gradients=True)
        wanted = (self.query.clause == self.main).nonzero().flatten()
        length = np.linalg.norm(self._gradients(atoms[:, wanted], point), axis=1)
        value = atoms.detach()[0, wanted].numpy()
        # without a gradient there is nothing to follow: last
        order = np.argsort(np.where(length > 0, value / np.where(length > 0, length, 1.0), np.inf), kind="stable")
        return [int(wanted[k]) for k in order]


def _run(stated: _Stated, solver: str, sides: bool, seed: int) -> None:
    """One problem, through all of its sides or as a whole."""
    stated.look(stated.start[None])
    if solver in GLOBAL:
        (_shgo if solver == "shgo" else _evolution)(stated, seed)
        return
    for side in stated.sides() if sides else [None]:
        _local(stated, solver, side)


def _local(stated: _Stated, solver: str, side: int | None) -> None:
    from scipy.optimize import minimize

    def conditions(x: Array) -> Array:
        return stated.conditions_at(x, side)

    def jacobian(x: Array) -> Array:
        return stated.jacobian_at(x, side)

    exact, iterations = solver == "slsqp", stated.settings.iterations
    count = len(conditions(stated.start))
    limits = [(low, high) for low, high in zip(stated.lower.tolist(), stated.upper.tolist())]
    minimize(
        stated.value_at,
        stated.start,
        jac=stated.slope_at if exact else None,
        method=solver.upper(),
        bounds=limits,
        constraints=[{"type": "ineq", "fun": conditions, **({"jac": jacobian} if exact else {})}] if count else (),
        options={"maxiter": iterations, "ftol": 1e-9} if exact else {"maxiter": 100 * iterations, "tol": 1e-6},
    )


def _bounded(stated: _Stated) -> list[tuple[float, float]]:
    """Limits for solvers that sample the box."""
    lower = np.where(np.isfinite(stated.lower), stated.lower, stated.start - stated.settings.reach)
    upper = np.where(np.isfinite(stated.upper), stated.upper, stated.start + stated.settings.reach)
    return list(zip(lower.tolist(), upper.tolist()))


def _shgo(stated: _Stated, seed: int) -> None:
    from scipy.optimize import shgo

    condition = {"type": "ineq", "fun": lambda x: stated.conditions_at(x, None)}
    shgo(stated.value_at, _bounded(stated), constraints=[condition], n=stated.settings.sample, iters=3)


def _evolution(stated: _Stated, seed: int) -> None:
    from scipy.optimize import NonlinearConstraint, differential_evolution

    def values(x: Array) -> Array:
        found, _, point = stated.look(x.T)
        return np.nan_to_num(stated.smooth_objective(found, point).detach().numpy(), nan=1e30, posinf=1e30)

    limits = _bounded(stated)
    random = np.random.default_rng(seed)
    low, high = (np.array(side) for side in zip(*limits))
    first = low + (high - low) * random.random((stated.settings.population, len(low)))
    first[0] = np.clip(stated.start, low, high)
    whole = NonlinearConstraint(lambda x: stated.conditions_at(x, None), 0.0, np.inf)
    # SciPy's annotations know of no array for init
    start: Any = first
    differential_evolution(
        values, limits, init=start, maxiter=100_000, rng=random, polish=False, vectorized=True, updating="deferred",
        constraints=[whole],
    )  # fmt: skip
