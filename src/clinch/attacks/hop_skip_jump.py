"""HopSkipJump: the nearest input by decisions alone, without gradients or scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, nearest_objective_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Budget, Progress
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.attacks.core.units import FARTHEST, TYPICAL
from clinch.errors import ProblemError
from clinch.geometry.directions import steepest_direction
from clinch.geometry.projection import project_into
from clinch.solver.settings import Some


@dataclass(frozen=True)
class HopSkipJumpSettings(AttackSettings):
    """Of :func:`hop_skip_jump`.

    Attributes:
        first: random inputs that are tried for a first point that reaches the goal.
        back: halvings of the way back to the boundary.
        shorter: halvings of a step that has lost the goal.
        around: points around the boundary that the first direction is estimated from.
    """

    first: Some = 100
    back: Some = 8
    shorter: Some = 8
    around: Some = 20


@attack_method
def hop_skip_jump(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = 2.0,
    passes: int = 1000,
    settings: HopSkipJumpSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Walk along the boundary of the goal: estimate its normal from decisions nearby, step, and go back to it.

    ``v = Σ_b (φ_b − mean φ)·u_b`` with ``φ_b = ±1`` where ``z + δ·u_b`` reaches the goal or not, ``z ← z + ξ·v/‖v‖``
    with ``ξ = ‖z − x‖/√t`` halved until the goal is kept, then bisection towards x (Chen et al. 2020, arXiv 1904.02144,
    algorithm 2). It begins at the first of random inputs that reaches the goal, and uses no more than whether one does.
    We differ in the number of points around, ``20·√t``, which small budgets need.

    Args:
        passes: rows forward of each input, at most.

    Example:
        >>> hop_skip_jump(net, x, y, passes=1000).success.all()
        tensor(True)
    """
    numbers = HopSkipJumpSettings.of(settings)
    if passes < numbers.around:
        raise ProblemError(f"passes={passes} is too few for this attack. Give at least {numbers.around}.")
    objective = nearest_objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    check_norm(objective, "HopSkipJump", (1.0, 2.0, torch.inf))
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress)
    decision_steps(best_points, objective.todo, passes, objective.draws(seed))
    return best_points.result()


def decision_steps(best_points: BestPoints, indices: Tensor, passes: int, draws: Draws) -> None:
    """The walk of inputs ``(A,)``, each with so many passes at most; what is found goes to the best points.

    Args:
        best_points: the attack.
        indices: the inputs, each once.
        passes: rows forward of each.
        draws: ``(B,)``.
    """
    objective, s = best_points.objective, best_points.objective.numbers(HopSkipJumpSettings)
    budget = Budget.of(objective, passes)
    indices = _first(best_points, indices, min(s.first, passes // 2), draws)
    size = max(1, objective.x[0].numel())
    share = 1 / size if objective.norm.is_box else 1 / math.sqrt(size)
    _drawn_back(best_points, best_points.x[indices], indices)
    t = 0
    while not best_points.exhausted:
        t += 1
        count = int(s.around * math.sqrt(t))
        indices = indices[budget.left(indices) >= count + s.shorter + s.back]
        if not len(indices):
            return
        z, length = best_points.x[indices], best_points.distance[indices].to(objective.x)
        normal = _normal(objective, z, indices, share * length, count, draws.at(t))
        _step(best_points, z, indices, normal, length / math.sqrt(t))
        best_points.step()


def _first(best_points: BestPoints, indices: Tensor, tries: int, draws: Draws) -> Tensor:
    """The inputs for which one of so many random points of the region reaches the goal."""
    objective, todo = best_points.objective, indices
    for k in range(tries):
        todo = todo[~best_points.success[todo]]
        if not len(todo) or best_points.exhausted:
            break
        region = objective.region.take(todo)
        low, high = region.lower.clamp(min=-FARTHEST), region.upper.clamp(max=FARTHEST)
        wide = (low <= -FARTHEST) | (high >= FARTHEST)
        noise = draws.at(-1 - k).take(todo).uniform(objective.x[todo])
        anywhere = torch.where(wide, objective.x[todo] + TYPICAL * (2 * noise - 1), low + noise * (high - low))
        z = project_into(region, anywhere)
        best_points.update(z, todo, objective.look(z, todo))
    return indices[best_points.success[indices]]


def _normal(objective: AttackObjective, z: Tensor, indices: Tensor, reach: Tensor, count: int, draws: Draws) -> Tensor:
    """The goal's side of the boundary at ``z (A, *input_shape)``, from decisions at ``count`` points around each."""
    each = torch.arange(len(z), device=z.device).repeat_interleave(count)
    around = draws.runs(indices[each])
    noise = z[each]
    noise = around.symmetric(noise) if objective.norm.is_box else steepest_direction(around.normal(noise), 2)
    region = objective.region.take(indices[each])
    point = project_into(region, z[each] + along(reach[each], noise) * noise)
    moved = (point - z[each]) / along(reach[each].clamp(min=1e-12), noise)
    hit = torch.where(objective.look(point, indices[each]) < 0, 1.0, -1.0).to(z).reshape(len(z), count)
    # where all decisions agree their mean is the only one there is
    weight = torch.where((hit.abs().sum(1) == hit.sum(1).abs()).unsqueeze(1), hit, hit - hit.mean(1, keepdim=True))
    return (weight.reshape(len(z), count, 1) * moved.reshape(len(z), count, -1)).mean(1).reshape(z.shape)


def _step(best_points: BestPoints, z: Tensor, indices: Tensor, normal: Tensor, size: Tensor) -> None:
    """Move along the normal, half as far each time the goal is lost, and from there back to the boundary."""
    objective = best_points.objective
    direction = steepest_direction(normal, torch.inf if objective.norm.is_box else 2)
    left = torch.arange(len(indices), device=z.device)
    for k in range(objective.numbers(HopSkipJumpSettings).shorter):
        here = indices[left]
        trial = project_into(objective.region.take(here), z[left] + along(0.5**k * size[left], z) * direction[left])
        margin = objective.look(trial, here)
        reached = margin < 0
        _drawn_back(best_points, trial[reached], here[reached])
        left = left[~reached]
        if not len(left):
            return


def _drawn_back(best_points: BestPoints, z: Tensor, indices: Tensor) -> None:
    """The nearest point that still reaches the goal on the way from ``z`` to the inputs; for p = infinity the way cuts
    all elements to the same distance."""
    objective, x = best_points.objective, best_points.objective.start[indices]
    low, high = z.new_zeros(len(z)), z.new_ones(len(z))
    longest = (z - x).flatten(1).abs().amax(1) if z[0:1].numel() else low
    for _ in range(objective.numbers(HopSkipJumpSettings).back if len(z) else 0):
        share = (low + high) / 2
        if objective.norm.is_box:
            most = along(share * longest, z)
            trial = x + torch.maximum(torch.minimum(z - x, most), -most)
        else:
            trial = x + along(share, z) * (z - x)
        margin = objective.look(trial, indices)
        reached = margin < 0
        best_points.update(trial[reached], indices[reached], margin[reached])
        low, high = torch.where(reached, low, share), torch.where(reached, share, high)
