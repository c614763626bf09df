"""The largest change of a network's linear model inside a ball: Balda et al.'s regression attack, with its bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.applications.arguments import Loadable, inputs_of, network_of, norm_among
from clinch.applications.regression.jacobian import BLOCK, Jacobian, top_singular_vector
from clinch.applications.regression.semidefinite import conic, low_rank, rounded
from clinch.errors import ProblemError
from clinch.geometry.norms import norm_of
from clinch.geometry.projection import project_into
from clinch.geometry.region import Ball, Region
from clinch.modeling.model import SymbolicNetwork
from clinch.runtime.arguments import checked_radii
from clinch.runtime.short import short_repr

#: the smaller side of J up to which its Gram matrix is formed to prove the bound for p = 2
GRAM = 512
#: elements of one Jacobian that p = infinity needs (2 GiB)
LARGEST = 1 << 28
#: how to solve the semidefinite relaxation
SOLVERS = {"low-rank": low_rank, "scs": conic}


@dataclass(frozen=True, repr=False)
class LinearChange:
    """The largest change of the linear model at B inputs.

    Attributes:
        eta: ``(B, *input_shape)`` perturbation inside the ball, and inside the range where one was given.
        value: ``(B,)`` ``‖J η‖₂``, float64.
        bound: ``(B,)`` proven: no perturbation inside the ball changes the linear model by more; infinity: not proven.
    """

    eta: Tensor
    value: Tensor
    bound: Tensor

    __repr__ = short_repr

    @property
    def ratio(self) -> Tensor:
        """``(B,)`` value by bound, 1 where both are zero."""
        return torch.where(self.bound > 0, self.value / self.bound, 1.0)


def linear_change(
    net: Loadable,
    x: Tensor,
    eps: float | Tensor,
    *,
    norm: float = 2,
    bounds: tuple[float, float] | None = None,
    semidefinite: str = "low-rank",
    seed: int = 0,
) -> LinearChange:
    """``max ‖J η‖₂ s.t. ‖η‖_p <= ε``, J the Jacobian of the output at x: the operator norm ``ε·‖J‖_{p→2}``.

    Balda et al. 2018 (arXiv 1803.03607, section III, equation 9):

    * p = 2: ``η = ε·v``, v the top right singular vector, by Lanczos' method; J is never formed. The bound
      ``ε·√λ_max(J Jᵀ)`` is computed where the smaller side of J is at most 512.
    * p = 1: ``η = ±ε·e_k``, k the longest column: a single element changes. J is never formed: its columns' lengths are
      summed up over blocks of rows, or taken from blocks of columns, whichever are fewer.
    * p = infinity: NP-hard. ``max tr(JᵀJ X), X ⪰ 0, X_ii = 1`` bounds it and is rounded, to at least 2/π of the squared
      bound on average over the rounding; see :mod:`clinch.applications.regression.semidefinite`. J is formed.

    With ``bounds``, p = infinity stays exact about the region: box ∩ ball is a box with centre c and half widths d, and
    ``max ‖J(c + d ⊙ s)‖`` is the same problem for the matrix ``[J·diag(d), J c]``. For p = 1 and 2 the bound is that of
    the ball alone, and the perturbation is cut to the range.

    Args:
        net: a network or module; all its outputs count.
        x: ``(B, *input_shape)``.
        eps: radius, one or ``(B,)``.
        norm: 1, 2 or ``cl.inf``.
        bounds: the range of inputs; None: no limits.
        semidefinite: for p = infinity ``"low-rank"`` (any size) or ``"scs"`` (CVXPY and SCS, small n).
        seed: of random starts and roundings.

    Raises:
        ClinchError: an argument that does not fit, in one line; a solver that is not installed.

    Example:
        >>> linear_change(net, x, 0.1, norm=cl.inf).ratio
        tensor([0.9923, 0.9967, 0.9749, 0.9663, 0.9998, 0.9287, 0.9990, 0.9734],
               dtype=torch.float64)
    """
    network, x, radius, norm = checked(net, x, eps, norm, bounds)
    if semidefinite not in SOLVERS:
        raise ProblemError(f"semidefinite='{semidefinite}' is not known. Write {' or '.join(map(repr, SOLVERS))}.")
    region = region_of(x, radius, norm, bounds)
    return linear_in(network, x, radius, region, norm, semidefinite, seed)


def linear_in(
    network: SymbolicNetwork, x: Tensor, radius: Tensor, region: Region, norm: float, semidefinite: str, seed: int
) -> LinearChange:
    """:func:`linear_change` for arguments that are checked, in a region around x."""
    kind = norm_of(norm)
    if not kind.is_box:
        jacobian = Jacobian(network, x)
        find = _single if kind.sparse else _steepest
        return _measured(jacobian, *find(jacobian, radius, region, seed))
    size = x[0].numel()
    rows = network.graph.nodes[network.graph.output].size
    if size * rows > LARGEST:
        raise ProblemError(
            f"The Jacobian of {rows:,} outputs by {size:,} inputs would take {size * rows * 8 / 2**30:.0f} GiB, and "
            "norm=cl.inf forms it. Take norm=2 or norm=1, or fewer outputs."
        )
    parts = torch.arange(len(x)).split(max(1, BLOCK // (size * rows)))
    found = [_corner(Jacobian(network, x[part]), region.take(part), semidefinite, seed) for part in parts]
    return LinearChange(*(torch.cat(column) for column in zip(*found)))


def checked(
    net: Loadable, x: Tensor, eps: float | Tensor, norm: float | str, bounds: tuple[float, float] | None
) -> tuple[SymbolicNetwork, Tensor, Tensor, float]:
    """The network, the inputs in its dtype as float64 on the CPU, radii ``(B,)`` and p.

    Raises:
        ProblemError, ShapeError, NonFiniteError: an argument that does not fit.
    """
    network = network_of(net, x)
    x = inputs_of(network, x, bounds).double()
    return network, x, checked_radii(eps, len(x)), norm_among(norm, (1, 2, torch.inf))


def region_of(x: Tensor, radius: Tensor, norm: float, bounds: tuple[float, float] | None) -> Region:
    """Box ∩ ball around float64 inputs."""
    low, high = (-torch.inf, torch.inf) if bounds is None else bounds
    whole = Region(torch.full_like(x, low), torch.full_like(x, high))
    return whole.within(Ball(x, radius, float(norm)))


def _measured(jacobian: Jacobian, eta: Tensor, bound: Tensor) -> LinearChange:
    """With the value of what was found; a value above its bound by rounding raises the bound."""
    value = torch.linalg.vector_norm(jacobian.times(eta.flatten(1).unsqueeze(1))[:, 0], dim=1)
    bound = torch.where(bound.isnan(), torch.inf, torch.maximum(bound, value))
    return LinearChange(eta.cpu(), value.cpu(), bound.cpu())


def _steepest(jacobian: Jacobian, radius: Tensor, region: Region, seed: int) -> tuple[Tensor, Tensor]:
    radius = radius.to(jacobian.x)
    v = top_singular_vector(jacobian, seed=seed)
    eta = _inside(jacobian, region, (radius.unsqueeze(1) * v).reshape(jacobian.x.shape))
    if jacobian.shorter > GRAM:
        return eta, torch.full_like(radius, torch.inf)
    gram = jacobian.gram()
    rounding = 8 * (jacobian.outputs + jacobian.inputs) * torch.finfo(gram.dtype).eps
    largest = torch.linalg.eigvalsh(gram)[:, -1] + rounding * gram.diagonal(dim1=1, dim2=2).sum(1)
    return eta, radius * largest.clamp(min=0).sqrt()


def _single(jacobian: Jacobian, radius: Tensor, region: Region, seed: int) -> tuple[Tensor, Tensor]:
    radius, lengths = radius.to(jacobian.x), jacobian.column_norms()
    at = jacobian.x.flatten(1)
    below, above = at - region.lower.to(at).flatten(1), region.upper.to(at).flatten(1) - at
    room = torch.maximum(below, above).clamp(max=radius.unsqueeze(1))
    best = (lengths * room).argmax(1, keepdim=True)
    sign = torch.where(above >= below, 1.0, -1.0)
    eta = torch.zeros_like(at).scatter(1, best, (sign * room).gather(1, best)).reshape(jacobian.x.shape)
    return _inside(jacobian, region, eta), radius * lengths.amax(1) * (1 + 1e-12)


def _corner(jacobian: Jacobian, region: Region, semidefinite: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """p = infinity: the region is a box, and the best input one of its corners."""
    at, (low, high) = jacobian.x.flatten(1), (t.flatten(1).to(jacobian.x) for t in (region.lower, region.upper))
    center, half = (high + low) / 2 - at, (high - low) / 2
    whole = jacobian.matrix()
    matrix = torch.cat([whole * half.unsqueeze(1), whole @ center.unsqueeze(2)], 2)
    if matrix.shape[1] > matrix.shape[2]:  # only MᵀM counts
        matrix = torch.linalg.qr(matrix, mode="r").R
    relaxed = SOLVERS[semidefinite](matrix) if semidefinite == "scs" else low_rank(matrix, seed=seed)
    signs = rounded(matrix, relaxed.factor, seed=seed)
    signs = signs[:, :-1] * signs[:, -1:]
    eta = (center + half * signs).reshape(jacobian.x.shape)
    found = _measured(jacobian, eta, relaxed.bound.clamp(min=0).sqrt() * (1 + 1e-12))
    return found.eta, found.value, found.bound


def _inside(jacobian: Jacobian, region: Region, eta: Tensor) -> Tensor:
    """The perturbation or its negative cut to the region, whichever keeps more of the change."""
    x = jacobian.x
    here = region.to(x.dtype, x.device)
    both = torch.stack([project_into(here, x + sign * eta) - x for sign in (1, -1)], 1)
    length = torch.linalg.vector_norm(jacobian.times(both.flatten(2)), dim=2)
    return both[torch.arange(len(x), device=x.device), length.argmax(1)]
