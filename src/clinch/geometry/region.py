"""The set of inputs to search: a box, cut by norm balls."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from clinch.errors import UnboundedInputError
from clinch.geometry.discrete import DiscreteSet
from clinch.geometry.norms import Norm, norm_of
from clinch.geometry.planes import Planes


@dataclass(frozen=True)
class Ball:
    """``{x : ‖w ⊙ (x − center)‖_p <= radius}`` for each problem of a batch; p = 0 counts (weighs) changed elements.

    Attributes:
        center: ``(B, *shape)``.
        radius: ``(B,)``; infinity where there is no limit.
        p: 0, any number from 1 on, or infinity.
        weights: ``(B, *shape)``, non-negative; None stands for ones. An element of weight zero is free.
    """

    center: Tensor
    radius: Tensor
    p: float
    weights: Tensor | None = None

    @cached_property
    def norm(self) -> Norm:
        """What p stands for."""
        return norm_of(self.p)

    def distance(self, x: Tensor) -> Tensor:
        """``‖w ⊙ (x − center)‖_p``, shape ``(B,)``."""
        return self.norm.value(x - self.center, self.weights)

    def take(self, problems: Tensor | slice) -> Ball:
        """The balls of the chosen problems, in that order."""
        weights = None if self.weights is None else self.weights[problems]
        return Ball(self.center[problems], self.radius[problems], self.p, weights)

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Ball:
        """A copy with the given dtype and device."""
        weights = None if self.weights is None else self.weights.to(device, dtype)
        return Ball(self.center.to(device, dtype), self.radius.to(device, dtype), self.p, weights)


@dataclass(frozen=True)
class Region:
    """``{lower <= x <= upper} ∩ balls ∩ planes ∩ discrete`` for each problem of a batch.

    Balls of the maximum norm are boxes and are merged into the limits, so that ``balls`` holds others only.
    Limits may be infinite where nothing bounds the input. ``planes`` are linear conditions of the inputs, for those who
    search: elsewhere they stand among the atoms of a query. ``discrete`` says what values elements take; bounds
    may leave it out, as they hold for all values between.
    """

    lower: Tensor
    upper: Tensor
    balls: tuple[Ball, ...] = ()
    planes: Planes | None = None
    discrete: DiscreteSet | None = None

    @property
    def size(self) -> int:
        """Number of problems B."""
        return self.lower.shape[0]

    @property
    def free_elements(self) -> float:
        """Number of elements that have room, at most over the problems; infinity where a limit is not finite."""
        lower, upper = self.lower.flatten(1), self.upper.flatten(1)
        if not bool((torch.isfinite(lower) & torch.isfinite(upper)).all()):
            return math.inf
        return float((lower < upper).sum(1).max()) if len(lower) else 0.0

    def within(self, ball: Ball) -> Region:
        """The part of the region inside a ball."""
        box = self if ball.norm.counts else self._hull(ball)
        return box if ball.norm.is_box else replace(box, balls=(*self.balls, ball))

    def _hull(self, ball: Ball) -> Region:
        """Cut the box down to the ball's own box: each element moves by at most radius / weight."""
        radius = ball.radius.reshape(-1, *[1] * (self.lower.dim() - 1)).expand_as(self.lower)
        reach = radius if ball.weights is None else torch.where(ball.weights > 0, radius / ball.weights, torch.inf)
        lower = torch.maximum(self.lower, ball.center - reach)
        upper = torch.minimum(self.upper, ball.center + reach)
        return replace(self, lower=lower, upper=upper)

    def take(self, problems: Tensor | slice) -> Region:
        """The regions of the chosen problems, in that order."""
        balls = tuple(ball.take(problems) for ball in self.balls)
        planes = None if self.planes is None else self.planes.take(problems)
        return Region(self.lower[problems], self.upper[problems], balls, planes, self.discrete)

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Region:
        """A copy with the given dtype and device."""
        balls = tuple(ball.to(dtype, device) for ball in self.balls)
        planes = None if self.planes is None else self.planes.on(device)
        discrete = None if self.discrete is None else self.discrete.on(device)
        return Region(self.lower.to(device, dtype), self.upper.to(device, dtype), balls, planes, discrete)

    def on_values(self, x: Tensor) -> Tensor:
        """Points ``(B, *shape)`` of the box with discrete elements at their nearest values."""
        return x if self.discrete is None else self.discrete.nearest(x, self.lower, self.upper)

    def cut_to_values(self) -> Region:
        """The region with its box cut down to the values of discrete elements; ``lower > upper`` where none is left."""
        if self.discrete is None:
            return self
        lower, upper = self.discrete.inwards(self.lower, self.upper)
        return replace(self, lower=lower, upper=upper)

    def contains(self, x: Tensor) -> Tensor:
        """Whether each point ``(B, *shape)`` lies in its region, exactly, shape ``(B,)``; in planes up to the
        rounding of its dtype."""
        inside = ((x >= self.lower) & (x <= self.upper)).flatten(1).all(1)
        for ball in self.balls:
            inside &= ball.distance(x) <= ball.radius
        if self.planes is not None:
            inside &= self.planes.excess(x).abs().amax(1) <= self.planes.rounding(x)
        if self.discrete is not None:
            inside &= self.discrete.contains(x)
        return inside


def unbounded(region: Region, what: str) -> UnboundedInputError | None:
    """The error of what needs limits, where an input element has none; None: all have.

    Args:
        what: what needs them, as its first words.
    """
    if bool((region.lower.isfinite() & region.upper.isfinite()).all()):
        return None
    return UnboundedInputError(
        f"{what} needs finite limits of every input element. Add constraints such as x >= 0 and x <= 1."
    )
