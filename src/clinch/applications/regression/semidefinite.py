"""``max ‖M s‖₂² over s in {−1, 1}ⁿ``: a proven upper bound by semidefinite relaxation, and a rounded sign vector.

With ``A = MᵀM`` the relaxation is ``max tr(A X)  s.t.  X ⪰ 0, X_ii = 1`` (Goemans and Williamson 1995; for positive
semidefinite A Nesterov 1998: rounding reaches 2/π of it). Its dual is ``min Σ y_i  s.t.  Diag(y) ⪰ A``. Any ``y > 0``
gives a bound, however it was found:

    μ = λ_max(M Diag(y)⁻¹ Mᵀ)   ⇒   Diag(μ·y) ⪰ A   ⇒   tr(A X) <= μ·Σ y_i

by Schur's complement, with an eigenvalue problem of the smaller side of M only. A solver's tolerance never matters.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clinch.attacks.core.draws import Draws, fingerprint
from clinch.errors import BackendError
from clinch.runtime.optional import required

#: sign vectors that are rounded from one relaxation, and how many of them are searched by single flips
ROUNDINGS, SEARCHED = 64, 8
#: steps of the low-rank method between two certificates, and the relative gap at which it stops
BETWEEN, MET = 25, 1e-9


class Relaxed(NamedTuple):
    """What a relaxation gives: ``bound (B,)`` proven ``>= ‖M s‖²`` for every s, and ``factor (B, n, r)``.

    The factor V has rows of unit length, ``X = V Vᵀ``.
    """

    bound: Tensor
    factor: Tensor


def certificate(matrix: Tensor, y: Tensor) -> Tensor:
    """``μ·Σ y_i`` of the module's text: proven for any y, with an allowance for the rounding of μ.

    Args:
        matrix: ``(B, m, n)`` M.
        y: ``(B, n)`` multipliers; those that are zero or negative are raised a little.

    Returns:
        ``(B,)``.
    """
    most = y.amax(1, keepdim=True)
    y = torch.maximum(y, 1e-9 * most) + (most <= 0).to(y)
    weighted = matrix * y.rsqrt().unsqueeze(1)
    gram = weighted @ weighted.mT if matrix.shape[1] <= matrix.shape[2] else weighted.mT @ weighted
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    rounding = 8 * sum(matrix.shape[1:]) * torch.finfo(y.dtype).eps * trace
    return (torch.linalg.eigvalsh(gram)[:, -1] + rounding) * y.sum(1)


def low_rank(matrix: Tensor, *, steps: int = 1000, seed: int = 0) -> Relaxed:
    """Solve the relaxation over ``X = V Vᵀ`` with few columns, for all matrices at once.

    Burer and Monteiro 2003 (Math. Program. 95, 329). ``tr(VᵀAV)`` is convex in V, so that ``V ← rows of A V scaled to
    unit length`` never lowers it; extrapolated points make that fast, and where one would lower it the plain step is
    taken. At a solution ``A V = Diag(y) V``: the lengths of the rows of A V are the multipliers for
    :func:`certificate`. With ``r(r+1)/2 > n`` columns, or as many as M has rows, nothing but the solution attracts.

    Args:
        matrix: ``(B, m, n)``.
        steps: at most so many; it stops where value and certificate have met.
        seed: of the first V.
    """
    size, rows, n = matrix.shape
    rank = max(2, min(math.ceil(math.sqrt(2 * n)) + 1, rows + 1))
    factor = normalize(Draws.of(fingerprint(matrix), seed).normal(matrix.new_empty(size, n, rank)), dim=2)
    before, age = factor, matrix.new_zeros(size, 1, 1)
    value, bound = _value(matrix, factor), matrix.new_full((size,), torch.inf)
    going = torch.ones_like(bound, dtype=torch.bool)
    for k in range(1, steps + 1):
        age = age + 1
        ahead = factor + (age - 1) / (age + 2) * (factor - before)
        moved = _step(matrix, ahead)
        worse = _value(matrix, moved) < value
        if bool(worse.any()):
            again = worse.view(-1, 1, 1)
            moved, age = torch.where(again, _step(matrix, factor), moved), torch.where(again, 0.0, age)
        moved = torch.where(going.view(-1, 1, 1), moved, factor)  # a matrix that is done waits for the others
        before, factor, value = factor, moved, _value(matrix, moved)
        if k % BETWEEN == 0 or k == steps:
            multipliers = torch.linalg.vector_norm(matrix.mT @ (matrix @ factor), dim=2)
            bound = torch.where(going, torch.minimum(bound, certificate(matrix, multipliers)), bound)
            going = going & ~(bound - value <= MET * bound)
            if not bool(going.any()):
                break
    return Relaxed(bound, factor)


def conic(matrix: Tensor, *, tolerance: float = 1e-7) -> Relaxed:
    """Solve the relaxation with CVXPY and SCS, one matrix after the other: for small n, beside :func:`low_rank`.

    Args:
        matrix: ``(B, m, n)``.
        tolerance: of SCS; the bound holds whatever it is.

    Raises:
        BackendError: CVXPY or SCS is not installed, or SCS fails.
    """
    cp = _cvxpy()
    bounds, factors = [], []
    for one in matrix:
        scale = float(torch.linalg.matrix_norm(one)) or 1.0
        gram = ((one / scale).mT @ (one / scale)).cpu().numpy()
        variable = cp.Variable(gram.shape, PSD=True)
        diagonal = cp.diag(variable) == 1
        problem = cp.Problem(cp.Maximize(cp.trace(gram @ variable)), [diagonal])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an inaccurate solution is certified all the same
            try:
                problem.solve(solver=cp.SCS, eps=tolerance, max_iters=20_000)
            except cp.SolverError as error:
                raise BackendError(f"SCS failed: {error}. Take semidefinite='low-rank'.") from None
        if variable.value is None or diagonal.dual_value is None:
            raise BackendError(f"SCS ended with status {problem.status}. Take semidefinite='low-rank'.")
        y = torch.from_numpy(diagonal.dual_value).to(one).abs()
        # the dual is close to rows of A X; where SCS stopped early one of the two is the better one
        values, vectors = torch.linalg.eigh(torch.from_numpy((variable.value + variable.value.T) / 2).to(one))
        factor = normalize(vectors * values.clamp(min=0).sqrt(), dim=1)
        lengths = torch.linalg.vector_norm((one / scale).mT @ ((one / scale) @ factor), dim=1)
        tries = torch.stack([y, lengths])
        proven = certificate((one / scale).expand(2, -1, -1), tries)
        bounds.append(proven.min() * scale**2)
        factors.append(factor)
    return Relaxed(torch.stack(bounds), torch.stack(factors))


def rounded(matrix: Tensor, factor: Tensor, *, seed: int = 0) -> Tensor:
    """Sign vectors ``(B, n)`` from a relaxation, improved until no single flip helps.

    ``s = sign(V g)`` with 64 Gaussian vectors g at once (Goemans and Williamson 1995), then ``s ← sign(A s)``, which
    never lowers a convex objective, while that changes anything; of the best 8 the flip that gains most,
    ``4·(a_ii − s_i (A s)_i)``, as long as one gains.

    Args:
        matrix: ``(B, m, n)``.
        factor: ``(B, n, r)``.
        seed: of the Gaussian vectors.
    """
    size, _, n = matrix.shape
    gauss = Draws.of(fingerprint(matrix), seed).normal(factor.new_empty(size, factor.shape[2], ROUNDINGS))
    signs = _signs(factor @ gauss)
    for _ in range(n):
        moved = _signs(matrix.mT @ (matrix @ signs))
        if bool((moved == signs).all()):
            break
        signs = moved
    best = (matrix @ signs).square().sum(1).topk(min(SEARCHED, ROUNDINGS), dim=1).indices
    signs = signs.gather(2, best.unsqueeze(1).expand(-1, n, -1))
    own = matrix.square().sum(1).unsqueeze(2)
    for _ in range(4 * n):
        image = matrix @ signs
        gain = own - signs * (matrix.mT @ image)
        most, which = gain.max(1, keepdim=True)
        flip = most > 1e-12 * image.square().sum(1, keepdim=True)
        if not bool(flip.any()):
            break
        signs = signs.scatter(1, which, torch.where(flip, -1.0, 1.0) * signs.gather(1, which))
    winner = (matrix @ signs).square().sum(1).argmax(1)
    return signs[torch.arange(size, device=signs.device), :, winner]


def _step(matrix: Tensor, factor: Tensor) -> Tensor:
    return normalize(matrix.mT @ (matrix @ factor), dim=2)


def _value(matrix: Tensor, factor: Tensor) -> Tensor:
    return (matrix @ factor).square().sum((1, 2))


def _signs(t: Tensor) -> Tensor:
    return torch.where(t >= 0, 1.0, -1.0).to(t)


def _cvxpy() -> Any:
    instead = "or take semidefinite='low-rank'"
    required("scs", "convex", instead, BackendError)
    return required("cvxpy", "convex", instead, BackendError)
