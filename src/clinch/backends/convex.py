"""Minimise a distance or a linear form over a box cut by linear rows.

The least-squares distance is solved in the space of the row multipliers, where the box has a closed form; the other
objectives are linear programs. All results are hints: whoever needs a bound evaluates the multipliers again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clinch.backends import highs
from clinch.backends.program import Outcome, Program, Vector, sparse
from clinch.errors import BackendError
from clinch.geometry.halfspace import Projection, halfspace_distance
from clinch.geometry.norms import Encoded, Norm, norm_of
from clinch.runtime import deadline

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_TOLERANCE = 1e-9
_STEPS = 100
#: by how much a solver's point may miss a row
ROWS_MET = 1e-6
#: weight, relative to the largest, of coordinates that have none
RIDGE = 1e-7


@dataclass(frozen=True)
class LinearCost:
    """``costᵀx``, cost ``(n,)``."""

    cost: Vector


@dataclass(frozen=True)
class DistanceCost:
    """``‖w ⊙ (x − center)‖_p`` for p = 1 and infinity, ``½‖w ⊙ (x − center)‖²`` for p = 2.

    Attributes:
        center: ``(n,)``.
        p: 1, 2 or infinity.
        weights: ``(n,)`` non-negative; None stands for ones.
    """

    center: Vector
    p: float
    weights: Vector | None = None

    @property
    def norm(self) -> Norm:
        """What p stands for."""
        return norm_of(self.p)


@dataclass(frozen=True)
class BallLimit:
    """``‖w ⊙ (x − center)‖_p <= radius``, p = 1 or 2.

    Attributes:
        center: ``(n,)``.
        radius: a number.
        p: 1 or 2.
        weights: ``(n,)`` positive; None stands for ones.
    """

    center: Vector
    radius: float
    p: float
    weights: Vector | None = None

    @property
    def norm(self) -> Norm:
        """What p stands for."""
        return norm_of(self.p)


@dataclass(frozen=True)
class ConvexResult:
    """Hints, none of them checked.

    Attributes:
        point: ``(n,)`` inside the box, rows met to about 1e-9; None where infeasible or out of time.
        multipliers: ``(m,)`` non-negative: ``min over the box of cost(x) + μᵀ(A x − limits)`` is a lower bound for
            every μ >= 0, near the optimum for these.
        ray: ``(m,)`` non-negative, ``min over the box of rayᵀ(A x − limits) > 0``, where the rows contradict the box.
    """

    point: Vector | None
    multipliers: Vector
    ray: Vector | None


def minimise_over_polyhedron(
    objective: LinearCost | DistanceCost,
    lower: Vector,
    upper: Vector,
    rows: Vector,
    limits: Vector,
    *,
    time_limit: float = np.inf,
) -> ConvexResult:
    """``min cost(x)  s.t.  lower <= x <= upper,  rows @ x <= limits``.

    Args:
        objective: what is minimised; note the ½‖·‖² of p = 2.
        lower: ``(n,)``.
        upper: ``(n,)``.
        rows: ``(m, n)``.
        limits: ``(m,)``.
        time_limit: seconds.

    Raises:
        BackendError: NaN or an infinite coefficient, or p is not 1, 2 or infinity
            (with a single row any number from 1 on).

    Example:
        >>> one = np.ones(2)
        >>> result = minimise_over_polyhedron(DistanceCost(0 * one, 2), -one, one, -one[None], -one[:1])
        >>> result.point, result.multipliers
        (array([0.5, 0.5]), array([0.5]))
    """
    began = time.monotonic()
    if not all(np.isfinite(a).all() for a in (rows, limits)) or np.isnan(lower).any() or np.isnan(upper).any():
        raise BackendError("A convex program contains NaN or infinity. Check the model's weights and the bounds.")
    if (lower > upper).any():
        return ConvexResult(None, np.zeros(len(limits)), None)
    if isinstance(objective, LinearCost):
        return _linear(objective.cost, lower, upper, rows, limits, time_limit)
    norm = objective.norm
    if norm.encoded is Encoded.QUADRATIC:
        weights = np.ones(len(lower)) if objective.weights is None else objective.weights
        if (weights > 0).all():
            result = _Dual(objective.center, weights**2, lower, upper, rows, limits).solve(time_limit)
            if result is not None:
                return result
        remaining = began + time_limit - time.monotonic()
        return _quadratic(objective.center, weights**2, lower, upper, rows, limits, remaining)
    if not norm.counts and len(limits) == 1:
        return _one_row(objective, lower, upper, rows, limits)
    if norm.encoded is Encoded.LINEAR:
        solve = _maximum if norm.is_box else _sum
        return solve(objective, lower, upper, rows, limits, time_limit)
    raise BackendError(
        f"A distance with p = {norm.written} is no linear or quadratic program. Use p = 1, 2 or infinity."
    )


def minimise_in_ball(
    cost: Vector,
    ball: BallLimit,
    lower: Vector,
    upper: Vector,
    rows: Vector,
    limits: Vector,
    *,
    time_limit: float = np.inf,
) -> ConvexResult:
    """``min costᵀx`` over a box cut by linear rows and by one ball.

    p = 1 is one linear program. For p = 2 the ball's multiplier ν is bisected: for a given ν the minimiser of
    ``costᵀx + ν/2·‖w ⊙ (x − center)‖²`` is the point nearest to ``center − cost/(ν w²)``, and its distance from the
    centre falls as ν rises. The multipliers returned are those of the rows alone.

    Args:
        cost: ``(n,)``.
        ball: the ball.
        lower: ``(n,)``.
        upper: ``(n,)``.
        rows: ``(m, n)``.
        limits: ``(m,)``.
        time_limit: seconds.

    Raises:
        BackendError: p is neither 1 nor 2, or a weight is not positive.
    """
    began = time.monotonic()
    weights = np.ones(len(cost)) if ball.weights is None else ball.weights
    if not ball.norm.in_convex_programs or ball.norm.is_box or not (weights > 0).all():
        raise BackendError("A ball takes p = 1 or 2 and positive weights.")
    if ball.norm.encoded is Encoded.LINEAR:
        return _linear_in_cross_polytope(cost, ball, weights, lower, upper, rows, limits, time_limit)
    free = minimise_over_polyhedron(LinearCost(cost), lower, upper, rows, limits, time_limit=time_limit)
    if free.point is None or np.linalg.norm(weights * (free.point - ball.center)) <= ball.radius:
        return free
    left = began + time_limit - time.monotonic()
    to_centre = DistanceCost(ball.center, 2, weights)
    nearest = minimise_over_polyhedron(to_centre, lower, upper, rows, limits, time_limit=left)
    if nearest.point is None or np.linalg.norm(weights * (nearest.point - ball.center)) > ball.radius:
        return ConvexResult(None, nearest.multipliers, nearest.ray)
    best = ConvexResult(nearest.point, np.zeros(len(limits)), None)
    if not cost.any() or ball.radius == 0:
        return best
    low, high = 1e-6, 1e6
    unit = np.linalg.norm(cost / weights) / ball.radius
    while high / low > 1 + 1e-9 and time.monotonic() - began < time_limit:
        middle = np.sqrt(low * high)
        strength = middle * unit
        shifted = ball.center - cost / (strength * weights**2)
        left = began + time_limit - time.monotonic()
        found = minimise_over_polyhedron(DistanceCost(shifted, 2, weights), lower, upper, rows, limits, time_limit=left)
        if found.point is None:
            break
        inside = np.linalg.norm(weights * (found.point - ball.center)) <= ball.radius
        low, high = (low, middle) if inside else (middle, high)
        if inside:
            best = ConvexResult(found.point, strength * found.multipliers, None)
    return best


def _linear_in_cross_polytope(
    cost: Vector,
    ball: BallLimit,
    weights: Vector,
    lower: Vector,
    upper: Vector,
    rows: Vector,
    limits: Vector,
    seconds: float,
) -> ConvexResult:
    """``x = x̄ + a − b`` as in :func:`_sum`, with the ball as one more row."""
    base = np.clip(ball.center, lower, upper)
    n, reach = len(base), np.concatenate([upper - base, base - lower])
    left = ball.radius - weights @ np.abs(base - ball.center)
    both = np.vstack([np.hstack([rows, -rows]), np.tile(weights, 2)])
    ends = np.append(limits - rows @ base, left)
    program = _program(np.concatenate([cost, -cost]), np.zeros(2 * n), reach, sparse(both), ends)
    outcome = highs.solve(program, time_limit=seconds)
    return _result(outcome, len(limits), lambda v: base + v[:n] - v[n:], lower, upper)


# --- least squares: semismooth Newton on the multipliers ----------------------------------------------------------


class _Dual:
    """``max over μ >= 0 of g(μ) = min over the box of ½ Σ_i s_i (x_i − c_i)² + μᵀ(A x − b)``.

    The inner minimiser is ``x(μ) = clip(c − Aᵀμ / s)``, ``∇g = A x(μ) − b``, and a generalised Hessian is
    ``−A_F S_F⁻¹ A_Fᵀ`` over the coordinates F strictly inside their limits. Steps: projected Newton (Bertsekas 1982,
    SIAM J. Control Optim. 20).
    """

    def __init__(
        self, center: Vector, square: Vector, lower: Vector, upper: Vector, rows: Vector, limits: Vector
    ) -> None:
        self.center, self.square, self.lower, self.upper = center, square, lower, upper
        # rows of unit length: the multipliers then have comparable sizes
        length = np.sqrt((rows * rows) @ (1 / square))
        self.length = np.where(length > 0, length, 1.0)
        self.rows, self.limits = rows / self.length[:, None], limits / self.length
        farthest = np.maximum(np.abs(lower - center), np.abs(upper - center))
        self.highest = 0.5 * float(square @ (farthest * farthest))
        self.tolerance = _TOLERANCE * (1.0 + np.abs(self.limits).max(initial=0.0))

    def solve(self, time_limit: float) -> ConvexResult | None:
        """None where no multipliers within the tolerance were found."""
        end = time.monotonic() + min(time_limit, deadline.left())
        mu = np.zeros(len(self.limits))
        x, value, slope = self._evaluate(mu)
        for _ in range(_STEPS):
            if value > self.highest:  # no point of the box costs that much: μ is a ray
                return ConvexResult(None, mu / self.length, mu / np.abs(mu).max() / self.length)
            if np.where(mu > 0, np.abs(slope), slope).max(initial=0.0) <= self.tolerance:
                return ConvexResult(x, mu / self.length, None)
            if time.monotonic() > end:
                return ConvexResult(None, mu / self.length, None)
            step = self._search(mu, value, slope, self._direction(mu, x, slope))
            if step is None:
                return None
            mu, x, value, slope = step
        return None

    def _evaluate(self, mu: Vector) -> tuple[Vector, float, Vector]:
        x = np.clip(self.center - (mu @ self.rows) / self.square, self.lower, self.upper)
        slope = self.rows @ x - self.limits
        off = x - self.center
        return x, float(0.5 * self.square @ (off * off) + mu @ slope), slope

    def _direction(self, mu: Vector, x: Vector, slope: Vector) -> Vector:
        from scipy.linalg import cho_factor, cho_solve

        working = (mu > 0) | (slope > 0)
        inside = (x > self.lower) & (x < self.upper)
        part = self.rows[np.ix_(working, inside)] / np.sqrt(self.square[inside])
        curvature = part @ part.T
        # rows may be dependent and few coordinates free: the ridge keeps the system solvable and the steps finite
        curvature[np.diag_indices_from(curvature)] += 1e-12 + 1e-10 * np.trace(curvature) / max(1, working.sum())
        direction = np.zeros_like(mu)
        try:
            direction[working] = cho_solve(cho_factor(curvature), slope[working])
        except np.linalg.LinAlgError:
            direction[working] = slope[working]
        return direction

    def _search(self, mu: Vector, value: float, slope: Vector, direction: Vector) -> tuple | None:
        """Armijo's rule along the projected direction; then along the projected gradient where that fails."""
        for way in (direction, slope):
            length = 1.0
            for _ in range(40):
                trial = np.maximum(mu + length * way, 0.0)
                x, reached, new = self._evaluate(trial)
                if reached >= value + 1e-4 * float(slope @ (trial - mu)) and reached > value:
                    return trial, x, reached, new
                length *= 0.5
        return None


def _quadratic(
    center: Vector, square: Vector, lower: Vector, upper: Vector, rows: Vector, limits: Vector, time_limit: float
) -> ConvexResult:
    """The same program by HiGHS, for weights of zero and where Newton's method stalls."""
    program = _program(-square * center, lower, upper, sparse(rows), limits, quadratic=square)
    result = _result(highs.solve(program, time_limit=time_limit), len(limits), lambda x: x, lower, upper)
    if result.point is not None:
        if (rows @ result.point - limits).max(initial=0.0) <= ROWS_MET:
            return result
        # HiGHS's QP can call a point optimal that breaks its rows where some weights are zero: weigh those a little
        weighed = np.maximum(square, RIDGE * square.max())
        found = _Dual(center, weighed, lower, upper, rows, limits).solve(time_limit)
        return ConvexResult(None, result.multipliers, None) if found is None else found
    # HiGHS gives no ray for quadratic programs: whether the rows contradict the box is a linear question
    return _linear(np.zeros_like(center), lower, upper, rows, limits, time_limit, keep_point=False)


# --- linear programs ------------------------------------------------------------------------------------------------


def _linear(
    cost: Vector, lower: Vector, upper: Vector, rows: Vector, limits: Vector, time_limit: float, keep_point: bool = True
) -> ConvexResult:
    outcome = highs.solve(_program(cost, lower, upper, sparse(rows), limits), time_limit=time_limit)
    result = _result(outcome, len(limits), lambda x: x, lower, upper)
    return result if keep_point else ConvexResult(None, np.zeros(len(limits)), result.ray)


def _one_row(o: DistanceCost, lower: Vector, upper: Vector, rows: Vector, limits: Vector) -> ConvexResult:
    """A single row: closed form."""
    found = _halfspaces(o, rows, limits, lower, upper)
    if not bool(torch.isfinite(found.distance)):
        return ConvexResult(None, np.zeros(1), np.ones(1))
    return ConvexResult(np.clip(found.point[0].numpy(), lower, upper), found.multiplier.numpy(), None)


def _halfspaces(o: DistanceCost, rows: Vector, limits: Vector, lower: Vector, upper: Vector) -> Projection:
    """The distance from the centre to each ``{row @ x <= limit}`` within the box."""

    def repeated(values: Vector) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).expand(len(rows), -1)

    weights = None if o.weights is None else repeated(o.weights)
    around = repeated(lower), repeated(upper), repeated(o.center)
    return halfspace_distance(torch.from_numpy(rows), torch.from_numpy(-limits), *around, o.norm, weights)


def _sum(
    o: DistanceCost, lower: Vector, upper: Vector, rows: Vector, limits: Vector, time_limit: float
) -> ConvexResult:
    """p = 1 with ``x = x̄ + a − b``, ``a, b >= 0``; x̄ is the centre moved into the box: moving on costs its length."""
    weights = np.ones(len(lower)) if o.weights is None else o.weights
    base = np.clip(o.center, lower, upper)
    both = np.hstack([rows, -rows])
    n, reach = len(base), np.concatenate([upper - base, base - lower])
    program = _program(np.tile(weights, 2), np.zeros(2 * n), reach, sparse(both), limits - rows @ base)
    outcome = highs.solve(program, time_limit=time_limit)
    return _result(outcome, len(limits), lambda v: base + v[:n] - v[n:], lower, upper)


def _maximum(
    o: DistanceCost, lower: Vector, upper: Vector, rows: Vector, limits: Vector, time_limit: float
) -> ConvexResult:
    """p = infinity: the smallest t whose box ``|w_i (x_i − c_i)| <= t`` holds a point that meets the rows.

    Within the box of some t a linear program finds by how much the rows must be missed. Its multipliers weigh them into
    one row whose distance is closed form and becomes the next t: never beyond the smallest one, which is reached after
    finitely many steps. The program has one row per condition, where the usual one has two more per element.
    """
    count, ends, began = len(limits), np.stack([lower, upper]), time.monotonic()
    scale = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
    scaled, sides = rows / scale[:, None], limits / scale
    weights = np.eye(count) if count else np.zeros((1, 0))
    model, heavy = None, np.zeros(count)
    for _ in range(_STEPS):
        found = _halfspaces(o, weights @ scaled, weights @ sides, *ends)
        length, multiplier = found.distance.numpy(), found.multiplier.numpy()
        best = int(length.argmax())
        if not np.isfinite(length[best]):
            return ConvexResult(None, np.zeros(count), weights[best] / scale)
        heavy = multiplier[best] * weights[best] / scale
        near, far = _within(o, float(length[best]), *ends)
        if model is None:
            model = _missed_rows(scaled, sides, near, far)
        else:
            model.change_limits(np.arange(len(lower)), near, far)
        outcome = model.solve(time_limit=began + time_limit - time.monotonic())
        if outcome.point is None or outcome.duals is None or outcome.status != "optimal":
            return ConvexResult(None, heavy, None)
        if outcome.value <= _TOLERANCE:
            return ConvexResult(np.clip(outcome.point[:-1], near, far), heavy, None)
        weights = np.maximum(-outcome.duals, 0.0)[None]
    return ConvexResult(None, heavy, None)


def _missed_rows(rows: Vector, limits: Vector, lower: Vector, upper: Vector) -> highs.HighsModel:
    """``min s  s.t.  rows @ x − s <= limits,  s >= 0``, loaded."""
    n, count = len(lower), len(limits)
    matrix = sparse(np.hstack([rows, -np.ones((count, 1))]))
    cost = np.append(np.zeros(n), 1.0)
    program = _program(cost, np.append(lower, 0.0), np.append(upper, np.inf), matrix, limits)
    return highs.HighsModel(program, primal_feasibility_tolerance=_TOLERANCE, dual_feasibility_tolerance=_TOLERANCE)


def _within(o: DistanceCost, length: float, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
    """The part of the box within a distance, widened by rounding so that it is not empty."""
    weights = np.ones(len(lower)) if o.weights is None else o.weights
    reach = np.divide(length, weights, out=np.full(len(lower), np.inf), where=weights > 0)
    reach = reach * (1 + 4e-16) + 1e-15
    near, far = np.maximum(lower, o.center - reach), np.minimum(upper, o.center + reach)
    return np.minimum(near, upper), np.maximum(far, lower)


def _program(
    cost: Vector, lower: Vector, upper: Vector, rows: csr_array, limits: Vector, quadratic: Vector | None = None
) -> Program:
    continuous = np.zeros(len(cost), dtype=bool)
    return Program(cost, rows, np.full(len(limits), -np.inf), limits, lower, upper, continuous, quadratic)


def _result(
    outcome: Outcome, count: int, back: Callable[[Vector], Vector], lower: Vector, upper: Vector
) -> ConvexResult:
    optimal = outcome.point is not None and outcome.status == "optimal"
    point = np.clip(back(outcome.point), lower, upper) if optimal and outcome.point is not None else None
    multipliers = np.zeros(count) if outcome.duals is None else np.maximum(-outcome.duals[:count], 0.0)
    ray = None if outcome.ray is None else np.maximum(-outcome.ray[:count], 0.0)
    return ConvexResult(point, multipliers, ray)
