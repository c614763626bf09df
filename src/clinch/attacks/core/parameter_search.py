"""Attacks whose inputs are changed by a few parameters: a grid of them, random ones, and gradient steps from the best.

``x' = T(x, θ)`` with θ in a box: what is searched is θ, what counts is whether x' reaches the goal, as for any point.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.differentiation import gradient_of
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into

#: points of a grid that are looked at together for each input, and the first and last step relative to a parameter's
#: range
TOGETHER, STEP = 16, (0.25, 0.01)


class Family(NamedTuple):
    """Transformations of inputs with d parameters.

    Attributes:
        names: of the parameters.
        reach: ``(d,)`` how far each may be from 0, where nothing changes; those that are 0 are left alone.
        apply: from inputs ``(L, *input_shape)`` and parameters ``(L, d)`` to inputs; gradients flow to both.
    """

    names: tuple[str, ...]
    reach: Tensor
    apply: Callable[[Tensor, Tensor], Tensor]


class Effort(NamedTuple):
    """What a search spends on an input.

    Attributes:
        grid: values of each parameter that are combined, the smallest changes first; 0 or 1: no grid.
        random: random parameters.
        starts: best of those that gradient steps start from, besides 0.
        steps: gradient steps, one pass each way.
    """

    grid: int
    random: int
    starts: int
    steps: int

    def check(self) -> None:
        """Raise a ProblemError for what has no meaning."""
        if min(self) < 0 or not (self.grid > 1 or self.random or self.steps):
            text = ", ".join(f"{name}={value}" for name, value in self._asdict().items())
            raise ProblemError(f"{text}: whole numbers from 0 on, of which grid, random or steps says what to try.")


def search_parameters(
    best_points: BestPoints, family: Family, effort: Effort, draws: Draws, loss: str | None
) -> AttackResult:
    """The attack: an input leaves as soon as its goal is reached.

    Args:
        best_points: of inputs in the user's units.
        family: what is searched.
        effort: how long.
        draws: ``(B,)``.
        loss: what gradient steps lower.
    """
    search = _Search(best_points, family, draws)
    for part in _grid(family.reach, effort.grid).split(TOGETHER):
        search.look(part.expand(len(search.indices), -1, -1))
    if effort.random and len(search.indices):
        like = family.reach.expand(len(search.indices), effort.random, -1)
        search.look(draws.at(0).take(search.indices).symmetric(like) * family.reach)
    search.descend(effort, loss)
    best_points.step()
    theta = search.best
    return replace(best_points.result(), parameters={n: theta[:, k] for k, n in enumerate(family.names)})


class _Search:
    """Parameters ``best (B, d)`` of the best points so far, and the inputs ``indices (A,)`` that are left."""

    def __init__(self, best_points: BestPoints, family: Family, draws: Draws) -> None:
        objective = best_points.objective
        self.best_points, self.family, self.draws = best_points, family, draws
        self.indices = objective.todo
        self.best = family.reach.new_zeros(objective.size, len(family.reach))
        self.least = objective.x.new_full((objective.size,), torch.inf)
        #: parameters of the points looked at, and their margins, of the inputs that are left
        self.seen: list[tuple[Tensor, Tensor]] = []

    def look(self, theta: Tensor) -> None:
        """Try parameters ``(A, k, d)``, forward only; the first of them that reaches the goal is kept."""
        objective, (size, count) = self.best_points.objective, theta.shape[:2]
        if not size * count:
            return
        indices = self.indices.repeat_interleave(count)
        z = self._points(theta.flatten(0, 1), indices)
        margin = objective.look(z, indices).reshape(size, count)
        first = torch.where(margin < 0, torch.arange(count, device=z.device), count).amin(1)
        place = torch.where(first < count, first, margin.argmin(1))
        chosen = torch.arange(size, device=z.device) * count + place
        self._keep(theta.flatten(0, 1)[chosen], self.indices, z[chosen], margin.flatten()[chosen])
        self.seen.append((theta, margin))
        self._leave(first == count)

    def descend(self, effort: Effort, loss: str | None) -> None:
        """Gradient steps from the best parameters seen, and from none."""
        objective, reach = self.best_points.objective, self.family.reach
        if not effort.steps or not len(self.indices):
            return
        theta = reach.new_zeros(len(self.indices), 1, len(reach))
        if self.seen and effort.starts:
            every, margins = (torch.cat(columns, 1) for columns in zip(*self.seen))
            near = margins.topk(min(effort.starts, margins.shape[1]), dim=1, largest=False).indices
            theta = torch.cat([theta, every.gather(1, near.unsqueeze(2).expand(-1, -1, len(reach)))], 1)
        indices, theta = self.indices.repeat_interleave(theta.shape[1]), theta.flatten(0, 1)
        function = loss_of(objective.query, loss)
        for k in range(effort.steps):
            point = theta.detach().requires_grad_()
            with torch.enable_grad():
                x = self._points(point, indices)
                answer = objective.answer(x, indices)
                which = torch.arange(len(indices), device=x.device)
                value = answer.margin if function is None else function(answer, indices, which)
            objective.count(indices, forward=1, backward=1)
            gradient = gradient_of(value, point)
            self.best_points.note_gradient(gradient, indices)
            self._keep(theta, indices, x.detach(), answer.margin.detach())
            going = ~self.best_points.success[indices]
            indices, theta, gradient = indices[going], theta[going], gradient[going] * reach
            if not len(indices):
                return
            size = gradient.abs().amax(1, keepdim=True)
            unit = gradient / torch.where(size > 0, size, 1.0)
            theta = torch.clamp(theta - cosine(*STEP, k, effort.steps) * reach * unit, -reach, reach)
            self.best_points.step()
        z = self._points(theta, indices)
        self._keep(theta, indices, z, objective.look(z, indices))

    def _points(self, theta: Tensor, indices: Tensor) -> Tensor:
        """The inputs that parameters ``(L, d)`` make, inside their limits."""
        objective = self.best_points.objective
        return project_into(objective.region.take(indices), self.family.apply(objective.x[indices], theta))

    def _keep(self, theta: Tensor, indices: Tensor, z: Tensor, margin: Tensor) -> None:
        """Remember, of points whose inputs may repeat, those of least margin."""
        least = self.least.scatter_reduce(0, indices, margin.to(self.least), "amin")
        run = torch.arange(len(indices), device=indices.device)
        winner = torch.where((margin == least[indices]) & (margin < self.least[indices]), run, len(run))
        first = torch.full_like(self.least, len(run), dtype=torch.long).scatter_reduce(0, indices, winner, "amin")
        chosen = first[first < len(run)]
        self.least = least
        self.best[indices[chosen]] = theta.detach()[chosen].to(self.best)
        self.best_points.update(z[chosen], indices[chosen], margin[chosen])

    def _leave(self, going: Tensor) -> None:
        self.indices = self.indices[going]
        self.seen = [(theta[going], margin[going]) for theta, margin in self.seen]


def _grid(reach: Tensor, count: int) -> Tensor:
    """``(k, d)`` combinations of so many values of each parameter, without none at all, the smallest first."""
    if count <= 1:
        return reach.new_zeros(0, len(reach))
    values = [(2 * k - (count - 1)) / (count - 1) for k in range(count)]
    each = [values if most else [0.0] for most in reach.tolist()]
    every = torch.tensor(list(itertools.product(*each)), dtype=torch.float64)
    every = every[every.any(1)]
    order = (every.square().sum(1) * 1e6).round().argsort(stable=True)
    return every[order].to(reach) * reach
