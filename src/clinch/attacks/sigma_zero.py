"""σ-zero: a smooth stand-in for the number of changed elements, and a threshold that follows the boundary (p = 0)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.gradient_steps import Moments, cosine
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into
from clinch.solver.settings import Positive, Share


@attack_method
def sigma_zero(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    steps: int = 1000,
    step_size: float = 1.0,
    sigma: float = 1e-3,
    threshold: float = 0.3,
    threshold_rate: float = 0.01,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Few changed elements (p = 0), by gradient descent on a smooth count with small changes restored.

    ``L = max(m, 0) + 1/n·Σ_i δ_i²/(δ_i² + σ)``; ``g = ∇L/‖∇L‖_∞``; ``δ ← clip(x + δ − η·Adam(g)) − x``; elements with
    ``|δ_i| < τ`` are restored, ``τ ← τ ± t·η`` (+ where δ reached the goal); η by cosine annealing to a tenth. Cinà et
    al. 2025 (arXiv 2402.01879, algorithm 1), with Adam's averages as in the authors' code.

    Args:
        steps: one pass forward and one backward each.
        step_size: η at the start; as all lengths here in units of the input, published for the range (0, 1).
        sigma: σ, the sharpness of the count.
        threshold: τ at the start.
        threshold_rate: t.
        target: one class or ``(B,)``; None: any class but the label. The paper's attack has no target; a target changes
            the margin alone.

    Example:
        >>> sigma_zero(net, x, y, steps=120).distance.median()
        tensor(2., dtype=torch.float64)
    """
    if steps < 1 or step_size <= 0 or sigma <= 0:
        raise ProblemError(f"steps={steps}, step_size={step_size}, sigma={sigma}: at least 1, above 0, above 0.")
    objective = check_norm(objective_of(net, x, y, target=target, bounds=bounds, norm=0.0), "σ-zero", (0.0,))
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    numbers = SmoothCount(step_size, sigma, threshold, threshold_rate)
    runs = SmoothCountRuns(best_points, objective.todo, best_points.x[objective.todo], steps, numbers)
    for _ in range(steps if len(objective.todo) else 0):
        runs.advance(1)
        best_points.step()
    return best_points.result()


@dataclass(frozen=True)
class SmoothCount(AttackSettings):
    """Of :func:`sigma_zero` as a part of :func:`nearest`: its arguments, ``rate`` is ``threshold_rate``."""

    step_size: Positive = 1.0
    sigma: Positive = 1e-3
    threshold: Share = 0.3
    rate: Share = 0.01


class SmoothCountRuns:
    """The iteration on L runs, two passes for each step, to be interrupted at will; the best points keep what is found.

    Args:
        best_points: where points are kept.
        indices: ``(L,)`` inputs, may repeat.
        z: ``(L, *input_shape)`` where to begin.
        steps: number of steps planned.
        numbers: of the method.

    Attributes:
        nearest: ``(L,)`` the fewest changed elements with which each run has reached the goal.
    """

    def __init__(self, best_points: BestPoints, indices: Tensor, z: Tensor, steps: int, numbers: SmoothCount) -> None:
        self.best_points, self.numbers, self.steps, self.done = best_points, numbers, steps, 0
        self.indices, self.z, self.base = indices, z, best_points.objective.start[indices]
        self.limit = z.new_full((len(indices),), numbers.threshold)
        self.nearest, self.moments = torch.full_like(self.limit, torch.inf), Moments(z)

    def keep(self, which: Tensor) -> None:
        """Go on with the chosen runs alone."""
        for name in ("indices", "z", "base", "limit", "nearest"):
            setattr(self, name, getattr(self, name)[which])
        self.moments.keep(which)

    def advance(self, count: int) -> None:
        """So many of the steps."""
        s, objective, region = self.numbers, self.best_points.objective, None
        for k in range(self.done, min(self.done + count, self.steps) if len(self.indices) else 0):
            if self.best_points.exhausted:
                return
            self.done, z = k + 1, self.z
            slope = objective.slope(z, self.indices)
            self.best_points.note_gradient(slope.gradient, self.indices)
            changed = objective.distance(z, self.indices)
            self.best_points.update(z, self.indices, slope.margin, changed)
            inside, delta = slope.margin < 0, z - self.base
            self.nearest = torch.where(inside, torch.minimum(self.nearest, changed), self.nearest)
            few = 2 * s.sigma * delta / (self._squares(delta) + s.sigma).square() / max(delta[0].numel(), 1)
            gradient = torch.where(along(inside, z), 0.0, slope.gradient) + few
            size = gradient.flatten(1).abs().amax(1).clamp(min=1e-12)
            mean, scale = self.moments.add(gradient / along(size, z))
            eta = cosine(s.step_size, 0.1 * s.step_size, k, self.steps)
            region = objective.region.take(self.indices) if region is None else region
            z = project_into(region, z - eta * mean / scale)
            self.limit = (self.limit + s.rate * eta * torch.where(inside, 1.0, -1.0)).clamp(0, 1)
            small = self._squares(z - self.base) < along(self.limit, z).square()
            self.z = torch.where(small, self.base, z)

    def _squares(self, delta: Tensor) -> Tensor:
        """Of the changes, summed over what counts as one."""
        return self.best_points.objective.norm.summed(delta.square().flatten(1)).view_as(delta)
