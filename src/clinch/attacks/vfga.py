"""VFGA: one element after the other, with random new values of which the best stays (p = 0)."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of
from clinch.attacks.core.attack_query import Loss
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError


@attack_method
def vfga(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    steps: int | None = None,
    samples: int = 10,
    loss: str | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Few changed elements (p = 0): each step changes one more, upwards or downwards, until the goal is reached.

    Of the elements not changed yet, the one with the largest expected gain upwards, ``−∂L·(u − z)``, and the one with
    the largest downwards, ``∂L·(z − l)``, are tried at values ``z ± |N(0, 1)|·room``, clipped, and the value of least L
    stays, one that reaches the goal before any other. Césaire et al. 2021 (arXiv 2011.12423, the voting folded Gaussian
    attack). Where we differ: L is log-probability instead of probability (the same order, but its gradient does not
    vanish for sure predictions), and an input whose gradient is zero is given up.

    Args:
        steps: elements that may change; None: all. A step is ``2·samples + 1`` passes forward and one backward.
        samples: values tried in each direction.
        bounds: the range of inputs; without limits the values have a spread of one.
        seed: of the random values.

    Example:
        >>> vfga(net, x, y).distance.median()
        tensor(2., dtype=torch.float64)
    """
    if samples < 1 or (steps is not None and steps < 1):
        raise ProblemError(f"steps={steps} and samples={samples} must be at least 1.")
    objective = check_norm(objective_of(net, x, y, target=target, bounds=bounds, norm=0.0), "VFGA", (0.0,))
    function = loss_of(objective.query, loss)
    most = objective.x[:1].numel() if steps is None else steps
    best_points = BestPoints(objective, record=history, progress=progress, steps=most)
    draws = objective.draws(seed)
    start, indices = best_points.x.clone(), objective.todo
    z = start[indices]
    for step in range(most):
        if not len(indices):
            break
        slope = objective.slope(z, indices, function)
        best_points.note_gradient(slope.gradient, indices)
        best_points.update(z, indices, slope.margin)
        free = (z == start[indices]).flatten(1)
        trials = _trials(objective, z, indices, slope.gradient.flatten(1), free, samples, draws.at(step).take(indices))
        margin, value = _weigh(objective, trials.flatten(0, 1), indices.repeat_interleave(trials.shape[1]), function)
        order = torch.where(margin < 0, -torch.inf, value).reshape(len(indices), -1)
        best = order.argmin(1)
        z = trials[torch.arange(len(indices), device=z.device), best]
        margin = margin.reshape(order.shape).gather(1, best[:, None]).squeeze(1)
        best_points.update(z, indices, margin)
        going = (margin >= 0) & free.any(1)
        indices, z = indices[going], z[going]
        best_points.step()
    return best_points.result()


def _trials(
    objective: AttackObjective, z: Tensor, indices: Tensor, gradient: Tensor, free: Tensor, samples: int, draws: Draws
) -> Tensor:
    """Points ``(L, 2·samples, *input_shape)``: z with the element changed that gains most upwards, or downwards."""
    region, flat = objective.region.take(indices), z.flatten(1)
    lower, upper = region.lower.flatten(1), region.upper.flatten(1)
    up, down = ((side - flat).abs().nan_to_num(posinf=1.0) for side in (upper, lower))
    gains = torch.stack([-gradient * up, gradient * down], 1)
    picked = torch.where(free.unsqueeze(1), gains, -torch.inf).argmax(2)
    room = torch.stack([up, -down], 1).gather(2, picked.unsqueeze(2))
    noise = draws.normal(z.new_empty(len(indices), 2, samples)).abs()
    where = picked.repeat_interleave(samples, 1).unsqueeze(2)
    trials = flat.unsqueeze(1).expand(-1, 2 * samples, -1).scatter_add(2, where, (noise * room).flatten(1).unsqueeze(2))
    trials = torch.maximum(torch.minimum(trials, upper.unsqueeze(1)), lower.unsqueeze(1))
    return trials.unflatten(2, z.shape[1:])


def _weigh(objective: AttackObjective, z: Tensor, indices: Tensor, loss: Loss | None) -> tuple[Tensor, Tensor]:
    """Margin and loss ``(L,)`` of points, forward only."""
    with torch.no_grad():
        answer = objective.answer(z, indices)
        value = (
            answer.margin if loss is None else loss(answer, indices, torch.arange(len(indices), device=indices.device))
        )
    objective.count(indices, forward=1)
    return answer.margin, value
