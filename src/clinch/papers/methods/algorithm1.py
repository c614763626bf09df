"""Algorithm 1 and its iterated form 1-n: GNII with the margin to the class whose linear model falls the lowest."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of, radius_of
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.result import AttackResult
from clinch.attacks.linear_model import first_points, steepest_step
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into


@attack_method
def algorithm1(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    steps: int = 1,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    outputs: str = "logits",
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """The class that falls the lowest within the step is attacked: ``min_k f_y − f_k − (ε/n)·‖∇f_y − ∇f_k‖_q``.

    n steps of length ε/n, each the exact minimum of that linear model over its ball and the range, re-linearised at the
    point reached; the sum never leaves the ball (Balda et al. 2018, arXiv 1803.03607, section IV, algorithms 1 and
    1-n). Where we differ: any p >= 1; the range is met within the model instead of being left out; an input stops at
    the first step that reaches its goal.

    Args:
        norm: any p >= 1 or ``cl.inf``.
        steps: n.
        bounds: the range of inputs; None: no limits, as in the paper.

    Example:
        >>> algorithm1(net, x, y, eps=0.1, steps=5).success
        tensor([ True,  True, False,  True, False,  True, False, False])
    """
    if steps < 1:
        raise ProblemError(f"steps={steps} must be at least 1.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm, outputs=outputs, any_p=True)
    radius = radius_of(objective, eps)
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    indices = objective.todo
    z, ball = first_points(objective, indices), objective.within(radius[indices], indices)
    for _ in range(steps):
        if not len(indices):
            break
        candidates, gradients = objective.jacobian(z, indices)
        best_points.note_gradient(gradients.flatten(1, 2), indices)
        margin = candidates.amin(1)
        best_points.update(z, indices, margin)
        going = margin >= 0
        indices, z, ball = indices[going], z[going], ball.take(going)
        step = steepest_step(objective, z, indices, candidates[going], gradients[going], radius[indices] / steps)
        z = project_into(ball, z + step)
        best_points.step()
    if len(indices):
        best_points.update(z, indices, objective.look(z, indices))
    return best_points.result(radius)
