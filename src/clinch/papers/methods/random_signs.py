"""Random signs: what noise of the same size does without looking at the network."""

from __future__ import annotations

from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of, radius_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into


@attack_method
def random_signs(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    steps: int = 1,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """``η_i = ±ε`` with probability 1/2 each: a corner of the ℓ∞ ball, drawn at random.

    Balda et al. 2018 (arXiv 1803.03607, section IV, Random); noise that leaves the range is cut off there, which the
    paper does not do.

    Args:
        steps: number of draws; an input stops at the first that reaches its goal.
        progress: called after each draw with the numbers of draws done and planned.

    Raises:
        ClinchError: an argument that does not fit, or a problem whose norm is not the maximum norm.

    Example:
        >>> random_signs(net, x, y, eps=0.1).success.double().mean()
        tensor(0., dtype=torch.float64)
    """
    if steps < 1:
        raise ProblemError(f"steps={steps} must be at least 1.")
    objective = objective_of(net, x, y, target=target, bounds=bounds)
    if not objective.norm.is_box or objective.weights is not None:
        raise ProblemError("Random signs are corners of the ℓ∞ ball. State the problem with cl.norm(…, cl.inf).")
    radius = radius_of(objective, eps)
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    draws = objective.draws(seed)
    for step in range(steps):
        indices = objective.todo[~best_points.success[objective.todo]]
        if not len(indices):
            break
        x = objective.x[indices]
        signs = draws.at(step).take(indices).signs(x)
        z = project_into(objective.within(radius[indices], indices), x + along(radius[indices].to(x), x) * signs)
        best_points.update(z, indices, objective.look(z, indices))
        best_points.step()
    return best_points.result(radius)
