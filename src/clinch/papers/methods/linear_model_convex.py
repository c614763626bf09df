"""GNII with convex constraints of the user's own on the perturbation, stated and solved in CVXPY."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of, radius_of
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.attacks.linear_model import first_points
from clinch.errors import BackendError, ProblemError
from clinch.geometry.projection import project_into
from clinch.runtime.optional import required

#: ``constraints(eta, x)``: what must hold of the perturbation ``(n,)``, given the input ``(n,)`` as a parameter
Constraints = Callable[[Any, Any], Sequence[Any]]
#: why an input has no point
UNSOLVED, UNMET = (
    "no perturbation satisfies the constraints, or the solver found none",
    "rounded to the model's dtype the perturbation misses the constraints",
)


@attack_method
def linear_model_convex(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    constraints: Constraints | None = None,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    loss: str | None = "margin",
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    outputs: str = "logits",
    tolerance: float = 1e-5,
) -> AttackResult:
    """``min_η L(x) + <∇L(x), η>  s.t.  ‖η‖_p <= ε,  x + η in the range``, and any convex constraints on η.

    Balda et al. 2018 (arXiv 1803.03607, GNII, and the remark after proposition 2 that other convex constraints may
    join). ``constraints`` is called once with a CVXPY variable and a CVXPY parameter, both flat ``(n,)`` in row-major
    order, and returns a list of CVXPY constraints; the problem is compiled once where x enters linearly, and solved by
    Clarabel for each input in turn. Needs ``pip install "clinch-nn[convex]"``.

    Args:
        constraints: such as ``lambda eta, x: [cp.sum(eta) == 0]``; None: no others.
        norm: any p >= 1 or ``cl.inf``.
        loss: L: ``"margin"`` or a key of :data:`clinch.attacks.LOSSES`; None: cross-entropy, for a problem the margin.
        tolerance: by how much a constraint may be missed, measured again by CVXPY at the final rounded point.

    Returns:
        Points inside the ball; without success where a constraint is missed by more, ``reason`` says so. See
        :class:`AttackResult`.

    Raises:
        BackendError: CVXPY or Clarabel is not installed.
        ClinchError: an argument that does not fit, constraints that are not convex; in one line.

    Example:
        >>> import cvxpy as cp
        >>> linear_model_convex(net, x, y, eps=0.1, constraints=lambda eta, x: [cp.sum(eta) == 0, eta >= 0]).success
        tensor([False, False, False, False, False, False, False, False])
    """
    objective = objective_of(
        net, x, y, target=target, bounds=bounds, norm=norm, outputs=outputs, any_p=True, scaled=constraints is None
    )
    radius, function = radius_of(objective, eps), loss_of(objective.query, loss)
    program = _Program(objective, constraints)
    best_points = BestPoints(objective)
    trouble = [""] * objective.size
    if len(indices := objective.todo):
        z = first_points(objective, indices)
        slope = objective.slope(z, indices, function)
        best_points.note_gradient(slope.gradient, indices)
        region = objective.within(radius[indices], indices)
        offsets = objective.x[indices]
        weights = torch.ones_like(offsets) if objective.weights is None else objective.weights[indices]
        columns = slope.gradient, offsets, region.lower, region.upper, weights, radius[indices]
        moves = [program.solve(*run) for run in zip(*columns)]
        for row, move in zip(indices.tolist(), moves):
            trouble[row] = UNSOLVED if move is None else ""
        step = torch.stack([torch.zeros_like(o) if m is None else m.to(o) for m, o in zip(moves, offsets)])
        z = project_into(region, offsets + step)
        best_points.update(z, indices, objective.look(z, indices))
    found = best_points.result(radius)
    for row in objective.todo.tolist():
        if not trouble[row] and not program.missed(found.x[row], objective.x[row], radius[row]) <= tolerance:
            trouble[row] = UNMET
    return _without(found, trouble)


class _Program:
    """GNII for one input, with the gradient, the input and the limits as parameters."""

    def __init__(self, objective: AttackObjective, constraints: Constraints | None) -> None:
        self.cp = cp = _cvxpy()
        size = objective.x[0].numel()
        self.eta = cp.Variable(size)
        self.gradient, self.x = cp.Parameter(size), cp.Parameter(size)
        self.lower, self.upper = cp.Parameter(size), cp.Parameter(size)
        self.radius = cp.Parameter(nonneg=True)
        extra = list(constraints(self.eta, self.x)) if constraints is not None else []
        self.boxed = bool(objective.region.lower.isfinite().all() or objective.norm.is_box)
        limits = [self.eta >= self.lower, self.eta <= self.upper] if self.boxed else []
        self.weights = cp.Parameter(size, nonneg=True)
        scaled = self.eta if objective.weights is None else cp.multiply(self.weights, self.eta)
        ball = [] if objective.norm.is_box else [cp.norm(scaled, objective.p) <= self.radius]
        self.extra = extra
        self.problem = cp.Problem(cp.Minimize(self.gradient @ self.eta), [*extra, *limits, *ball])
        if not self.problem.is_dcp():
            raise ProblemError(
                "The constraints are not convex by CVXPY's rules. State them with convex functions of eta."
            )

    def solve(
        self, gradient: Tensor, x: Tensor, lower: Tensor, upper: Tensor, weights: Tensor, radius: Tensor
    ) -> Tensor | None:
        """The best η in x's shape, in float64; None where there is none."""
        scale = float(gradient.abs().max()) or 1.0
        self.gradient.value, self.x.value = _flat(gradient) / scale, _flat(x)
        self.lower.value, self.upper.value = _flat(lower) - _flat(x), _flat(upper) - _flat(x)
        if not self.boxed:
            self.lower.value = self.upper.value = np.zeros_like(self.x.value)
        self.weights.value, self.radius.value = _flat(weights), float(radius)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # inaccurate solutions: the constraints are measured again
                self.problem.solve(solver=self.cp.CLARABEL)
        except self.cp.SolverError:
            return None
        value = self.eta.value
        if self.problem.status not in (self.cp.OPTIMAL, self.cp.OPTIMAL_INACCURATE) or value is None:
            return None
        return torch.as_tensor(value, device=x.device).reshape(x.shape) if np.isfinite(value).all() else None

    def missed(self, z: Tensor, x: Tensor, radius: Tensor) -> float:
        """The largest violation of the user's constraints at ``η = z − x``."""
        self.eta.value, self.x.value, self.radius.value = _flat(z) - _flat(x), _flat(x), float(radius)
        return max((float(np.max(c.violation())) for c in self.extra), default=0.0)


def _cvxpy() -> Any:
    required("clarabel", "convex", error=BackendError)
    return required("cvxpy", "convex", error=BackendError)


def _flat(t: Tensor) -> np.ndarray:
    return t.detach().double().flatten().cpu().numpy()


def _without(found: AttackResult, trouble: list[str]) -> AttackResult:
    """The result without success where there was trouble."""
    bad = torch.tensor([bool(t) for t in trouble], device=found.success.device)
    infinite = torch.full_like(found.distance, torch.inf)
    distance = torch.where(bad, infinite, found.distance)
    return replace(
        found,
        success=found.success & ~bad,
        value=distance,
        distance=distance,
        reason=tuple(t or r for t, r in zip(trouble, found.reason)),
    )
