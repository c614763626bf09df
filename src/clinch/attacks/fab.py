"""FAB: steps onto the linearised boundary, drawn towards the clean input (any p from 1 on)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.losses import candidate_loss
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.errors import ProblemError
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.projection import project_into
from clinch.solver.settings import Number, Share, Triple


@dataclass(frozen=True)
class FabSettings(AttackSettings):
    """Of :func:`fab`.

    Attributes:
        start: length of random starts for p = 1, 2 and infinity, where no nearer point is known.
        search: passes forward of the last search between the clean input and the best point.
        beyond: share of the rest by which each of them goes beyond the linear root, which may lie just short.
    """

    start: Triple = (5.0, 1.0, 0.3)
    search: Number = 3
    beyond: Share = 1e-3


@attack_method
def fab(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = torch.inf,
    steps: int = 100,
    restarts: int = 1,
    classes: int | None = None,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    settings: FabSettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """The fast adaptive boundary attack: small perturbations in three norms.

    With d₁, d₂ the projections of z and of x onto box ∩ ``{m + <∇m, · − z> = 0}``, each exact, and
    ``α = min(‖d₁ − z‖/(‖d₁ − z‖ + ‖d₂ − x‖), α_max)``: ``z ← clip((1−α)·(z + η(d₁ − z)) + α·(x + η(d₂ − x)))``; where
    that reaches the goal ``z ← (1−β)·x + β·z``. The candidate m is that with the least ``|m|/‖∇m‖_q`` of all, or where
    ``classes`` is given each of that many gets a run of its own (FAB-T). Three steps of regula falsi towards x, each a
    thousandth beyond the root, end the attack. Croce and Hein 2020 (arXiv 1907.02044, algorithm 1).

    Args:
        net: a classifier; or a problem with constraints on the network, then without x and y. x: ``(B, *input_shape)``.
            y: ``(B,)`` labels. norm: 1, 2 or ``cl.inf``. steps: each one pass forward and one back per candidate (with
            ``classes``: one), and one forward for the new point.
        restarts: runs of each input; those after the first start at random points.
        classes: number of candidates that get a run each, nearest first; None: one run over all candidates.
        alpha_max: largest share of the projection of x.
        eta: η, how far to go beyond the boundary.
        beta: β.

    Example:
        >>> fab(net, x, y, norm=2, steps=20).distance.median()
        tensor(0.4738, dtype=torch.float64)
    """
    numbers = FabSettings.of(settings)
    if steps < 1 or restarts < 1 or (classes is not None and classes < 1):
        raise ProblemError(f"steps={steps}, restarts={restarts} and classes={classes} must be at least 1.")
    objective = check_norm(objective_of(net, x, y, target=target, bounds=bounds, norm=norm), "FAB")
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=steps * restarts)
    shares = alpha_max, eta, beta
    fab_steps(best_points, objective.draws(seed), steps=steps, restarts=restarts, classes=classes, shares=shares)
    return best_points.result()


@attack_method
def fab_t(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = torch.inf,
    steps: int = 100,
    restarts: int = 1,
    classes: int = 9,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """FAB with a run for each of the nearest classes: ``fab(..., classes=9)``, as in AutoAttack (arXiv 2003.01690).

    Arguments, result and errors: see :func:`fab`. A step costs three passes for each class.

    Example:
        >>> fab_t(net, x, y, norm=2, steps=8).distance.median()
        tensor(0.4797, dtype=torch.float64)
    """
    return fab(net, x, y, norm=norm, steps=steps, restarts=restarts, classes=classes, target=target, bounds=bounds,
               seed=seed, history=history, progress=progress)  # fmt: skip


def fab_steps(
    best_points: BestPoints, draws: Draws, *, steps: int, restarts: int = 1, classes: int | None = None,
    shares: tuple[float, float, float] = (0.1, 1.05, 0.9),
) -> None:  # fmt: skip
    """The attack itself: what it finds goes to the best points.

    Args:
        best_points: of the goal.
        draws: ``(B,)`` of the restarts.
        steps: see :func:`fab`, as ``restarts`` and ``classes``.
        restarts: see there.
        classes: see there.
        shares: α_max, η and β.
    """
    objective = best_points.objective
    if not len(objective.todo):
        return
    indices, candidate = _runs(objective, best_points, classes)
    for run in range(restarts):
        start = _start(best_points, indices, draws.at(run) if run else None)
        _run(best_points, indices, candidate, start, steps, *shares)
    _search(best_points)


def _runs(objective: AttackObjective, best_points: BestPoints, classes: int | None) -> tuple[Tensor, Tensor | None]:
    """Rows of the runs ``(L,)`` and the candidate of each, or None for all candidates in one run."""
    indices = objective.todo
    if classes is None or objective.width == 1:
        return indices, None if objective.width > 1 else torch.zeros_like(indices)
    with torch.no_grad():
        candidates = objective.answer(best_points.x[indices], indices).candidates
    objective.count(indices, forward=1)
    value, candidate = candidates.topk(min(classes, objective.width), dim=1, largest=False)
    known = value.isfinite()
    return indices.repeat_interleave(value.shape[1])[known.flatten()], candidate[known]


def _start(best_points: BestPoints, indices: Tensor, draws: Draws | None) -> Tensor:
    """The clean inputs, or points at half the best known distance from them in random directions."""
    s = best_points.objective.numbers(FabSettings)
    objective, x = best_points.objective, best_points.objective.x[indices]
    if draws is None:
        return project_into(objective.region.take(indices), x)
    noise = draws.runs(indices).symmetric(x)
    norm, near = objective.norm, best_points.distance[indices]
    most = norm.tuned(dict(zip((1.0, 2.0, torch.inf), s.start)))
    length = near.clamp(max=most) / 2 / norm.value(noise).clamp(min=1e-12)
    return project_into(objective.region.take(indices), x + along(length, x) * noise)


def _run(
    best_points: BestPoints,
    indices: Tensor,
    candidate: Tensor | None,
    z: Tensor,
    steps: int,
    alpha_max: float,
    eta: float,
    beta: float,
) -> None:
    """One run of all runs."""
    objective = best_points.objective
    x, region = objective.x[indices], objective.region.take(indices)
    lower, upper = region.lower.flatten(1), region.upper.flatten(1)
    for _ in range(steps):
        value, normal = _boundary(objective, z, indices, candidate)
        best_points.note_gradient(normal, indices)
        normal, points = normal.flatten(1), torch.stack([z.flatten(1), x.flatten(1)])
        height = value + ((points - points[0]) * normal).sum(2)  # of the linear model at z and at x
        side = torch.where(height >= 0, 1.0, -1.0)
        found = halfspace_distance(
            (side.unsqueeze(2) * normal).flatten(0, 1), (side * (height - (points * normal).sum(2))).flatten(),
            lower.repeat(2, 1), upper.repeat(2, 1), points.flatten(0, 1), objective.p,
        ).point.reshape(points.shape)  # fmt: skip
        near, far = (objective.norm.value(d) for d in found - points)
        alpha = (near / (near + far).clamp(min=1e-12)).clamp(max=alpha_max)
        shares = torch.stack([1 - alpha, alpha]).unsqueeze(2)
        moved = (shares * (points + eta * (found - points))).sum(0).reshape(z.shape)
        z = project_into(region, torch.where(moved.isfinite(), moved, z))
        margin = objective.look(z, indices)
        best_points.update(z, indices, margin)
        z = torch.where(along(margin < 0, z), (1 - beta) * x + beta * z, z)
        best_points.step()


def _boundary(
    objective: AttackObjective, z: Tensor, indices: Tensor, candidate: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Value ``(L,)`` and gradient of the candidate whose linearised boundary is nearest, or of the run's own."""
    if candidate is None:
        values, normals = objective.jacobian(z, indices)
        steepness = objective.norm.dual.value(normals.flatten(0, 1)).reshape(values.shape)
        nearest = (values.abs() / steepness.clamp(min=1e-12)).argmin(1)
        run = torch.arange(len(indices), device=z.device)
        return values[run, nearest], normals[run, nearest]
    slope = objective.slope(z, indices, candidate_loss(candidate))
    return slope.loss, slope.gradient


def _search(best_points: BestPoints) -> None:
    """Regula falsi between the clean inputs and the best points."""
    s = best_points.objective.numbers(FabSettings)
    objective = best_points.objective
    indices = objective.todo[best_points.success[objective.todo]]
    if not len(indices):
        return
    x, best = objective.x[indices], best_points.x[indices]
    low, high = torch.zeros_like(best_points.distance[indices]), torch.ones_like(best_points.distance[indices])
    outside, inside = objective.look(x, indices), best_points.margin[indices]
    for _ in range(s.search):
        middle = low + (high - low) * outside / (outside - inside)
        middle = middle + s.beyond * (high - middle)
        z = x + along(middle, x) * (best - x)
        margin = objective.look(z, indices)
        best_points.update(z, indices, margin)
        reached = margin < 0
        high, inside = torch.where(reached, middle, high), torch.where(reached, margin, inside)
        low, outside = torch.where(reached, low, middle), torch.where(reached, outside, margin)
