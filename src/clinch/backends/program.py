"""What is handed to a solver library, and what comes back.

A solver's answer is a set of hints: :meth:`Program.bound` and :meth:`Program.refutation` turn its multipliers into
bounds that hold whatever the solver did, :meth:`Program.violation` measures its points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clinch.errors import BackendError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Vector = NDArray[np.float64]

#: unit roundoff of float64
_ROUNDOFF = 2.0**-53


def sparse(entries: Any, shape: tuple[int, int] | None = None) -> csr_array:
    """A sparse matrix by rows from whatever ``scipy.sparse.csr_array`` takes.

    SciPy's part for it is imported when the first is made: a proof without programs need not wait a tenth of a second.
    """
    from scipy.sparse import csr_array

    return csr_array(entries, shape)


@dataclass(frozen=True)
class Program:
    """``minimise costᵀx + ½ Σ_i q_i x_i² + constant  s.t.  row_lower <= A x <= row_upper, lower <= x <= upper``.

    Attributes:
        cost: ``(n,)``.
        rows: the matrix A, ``(m, n)``, sparse by rows.
        row_lower: ``(m,)``, −inf where there is no limit.
        row_upper: ``(m,)``, +inf where there is no limit.
        lower: ``(n,)``.
        upper: ``(n,)``.
        integer: ``(n,)`` boolean, the variables that must be whole numbers.
        quadratic: ``(n,)`` the non-negative diagonal q, or None.
        constant: a number added to the objective.

    Raises:
        BackendError: NaN anywhere, or an infinite coefficient.
    """

    cost: Vector
    rows: csr_array
    row_lower: Vector
    row_upper: Vector
    lower: Vector
    upper: Vector
    integer: NDArray[np.bool_]
    quadratic: Vector | None = None
    constant: float = 0.0
    _transposed: csr_array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = (self.row_lower, self.row_upper, self.lower, self.upper)
        finite = [self.cost, self.rows.data, np.array([self.constant])]
        finite += [] if self.quadratic is None else [self.quadratic]
        if any(np.isnan(a).any() for a in limits) or not all(np.isfinite(a).all() for a in finite):
            raise BackendError("The program contains NaN or infinity. Check the model's weights and the bounds.")
        object.__setattr__(self, "_transposed", self.rows.T.tocsr())

    @property
    def variables(self) -> int:
        """Number of variables n."""
        return len(self.cost)

    @property
    def constraints(self) -> int:
        """Number of rows m."""
        return len(self.row_lower)

    @cached_property
    def _magnitudes(self) -> csr_array:
        return abs(self._transposed)

    def objective(self, x: Vector) -> float:
        """Objective value at a point."""
        value = float(self.cost @ x) + self.constant
        return value if self.quadratic is None else value + 0.5 * float(self.quadratic @ (x * x))

    def violation(self, x: Vector) -> float:
        """The most by which a row, a limit or (for integer variables) a whole number is missed; infinity for NaN."""
        value = self.rows @ x
        off = [self.row_lower - value, value - self.row_upper, self.lower - x, x - self.upper]
        off.append(np.abs(x - np.round(x))[self.integer])
        worst = max((float(part.max()) for part in off if len(part)), default=0.0)
        return worst if np.isfinite(x).all() and not np.isnan(worst) else np.inf

    def bound(self, duals: Vector, lower: Vector | None = None, upper: Vector | None = None) -> float:
        """A lower bound of the objective from any row multipliers y: weak duality, safe against rounding.

        ``Σ_r y_r·(row_lower_r where y_r > 0, row_upper_r where y_r < 0)
        + Σ_j min over [l_j, u_j] of (c − Aᵀy)_j x_j + ½ q_j x_j²``
        (Neumaier & Shcherbina, Math. Program. 99, 2004, eq. 1.6, who have q = 0; with q_j > 0 the inner minimum is
        taken at ``clip(−(c − Aᵀy)_j / q_j)``). Holds for the program and for its continuous relaxation, for every y; an
        a-priori limit of the rounding error of the float64 sums is subtracted.

        Args:
            duals: ``(m,)``.
            lower: ``(n,)`` limits of a part of the program, such as a branch of a search; default: the program's own.
            upper: ``(n,)``, likewise.

        Returns:
            The bound, −infinity where nothing follows.
        """
        return self._weak_duality(self.cost, self.quadratic, self.constant, duals, lower, upper)

    def refutation(self, ray: Vector, lower: Vector | None = None, upper: Vector | None = None) -> bool:
        """Whether a Farkas ray proves that no point meets all rows within the limits (arguments: :meth:`bound`)."""
        scale = np.abs(ray).max(initial=0.0)
        if not 0 < scale < np.inf:
            return False
        return self._weak_duality(np.zeros_like(self.cost), None, 0.0, ray / scale, lower, upper) > 0

    def _weak_duality(
        self,
        cost: Vector,
        quadratic: Vector | None,
        constant: float,
        duals: Vector,
        lower: Vector | None,
        upper: Vector | None,
    ) -> float:
        lower, upper = self.lower if lower is None else lower, self.upper if upper is None else upper
        if duals.shape != self.row_lower.shape or not np.isfinite(duals).all():
            return -np.inf
        side = np.where(duals > 0, self.row_lower, self.row_upper)
        y = np.where(np.isfinite(side), duals, 0.0)
        at_rows = y * np.where(y != 0, side, 0.0)
        reduced = cost - self._transposed @ y
        # a coefficient's rounding error is at most γ·(|c| + |A|ᵀ|y|), with γ for a sum over all rows
        doubt = (self.constraints + 3) * _ROUNDOFF * (np.abs(cost) + self._magnitudes @ np.abs(y))
        nearest = np.where(reduced >= 0, lower, upper)
        curved = np.zeros_like(reduced)
        if quadratic is not None:
            bowl = np.clip(-reduced / np.where(quadratic > 0, quadratic, 1.0), lower, upper)
            nearest = np.where(quadratic > 0, bowl, nearest)
            # rounding of the minimiser itself moves the minimum by a square of the unit roundoff only
            curved = np.multiply(0.5 * quadratic, nearest * nearest, where=quadratic > 0, out=curved)
        farthest = np.maximum(np.abs(lower), np.abs(upper))
        used = (reduced != 0) | (doubt != 0)
        at_columns = np.multiply(reduced, nearest, where=reduced != 0, out=np.zeros_like(reduced))
        error = np.multiply(doubt, farthest, where=used, out=np.zeros_like(reduced)).sum()
        total = np.abs(at_rows).sum() + np.abs(at_columns).sum() + 2 * curved.sum() + abs(constant)
        error += (len(y) + 2 * len(cost) + 5) * _ROUNDOFF * total
        bound = float(at_rows.sum() + (at_columns + curved).sum() + constant - 1.01 * error)
        return bound if np.isfinite(bound) else -np.inf


@dataclass(frozen=True)
class Outcome:
    """A solver's answer: hints only. Nothing in it has been checked.

    Attributes:
        status: the solver's own claim in one word: ``optimal``, ``infeasible``, ``unbounded``, ``time``,
            ``iterations``, ``unknown``.
        point: ``(n,)`` or None.
        duals: ``(m,)`` row multipliers, positive at a lower and negative at an upper limit, or None.
        ray: ``(m,)`` Farkas ray in the same signs where the solver found infeasibility, or None.
        value: the claimed objective of the point.
        bound: the claimed lower bound of the objective.
        seconds: wall time.
    """

    status: str
    point: Vector | None = None
    duals: Vector | None = None
    ray: Vector | None = None
    value: float = np.inf
    bound: float = -np.inf
    seconds: float = 0.0
