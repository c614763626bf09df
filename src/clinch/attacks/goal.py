"""What an attack wants of each input of a batch, and how it asks the network: the one thing that methods are written
against.

A goal has K *branches*, numbers that depend on the input: it is reached where the smallest of them, the *margin*, is
negative. For a label those are ``f_y − f_c`` for every other class c, for a target class ``max_{c≠t} f_c − f_t``
(:mod:`clinch.attacks.labels`); for a problem they are the atoms of its largest clause, each with the other clauses
(:mod:`clinch.attacks.conditions`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.geometry.norms import norm
from clinch.geometry.region import Ball, Region
from clinch.geometry.rounding import round_down, round_up


class Answer(NamedTuple):
    """What the network says about L points; gradients flow.

    Attributes:
        branches: ``(L, K)``; infinity for a branch that a row does not have.
        logits: ``(L, C)`` outputs of a classifier; None for a problem.
    """

    branches: Tensor
    logits: Tensor | None

    @property
    def margin(self) -> Tensor:
        """``(L,)`` the smallest branch: negative where the goal is reached."""
        return self.branches.amin(1)


#: what gradient steps lower: ``loss(answer, rows) -> (L,)``
Loss = Callable[[Answer, Tensor], Tensor]

#: how much smaller than asked for the balls of p = 1 and 2 are, in roundings of the model's dtype
BALL_ROUNDING = 16


class Slope(NamedTuple):
    """A loss and its gradient at L points.

    Attributes:
        loss: ``(L,)``.
        margin: ``(L,)``.
        gradient: ``(L, *input_shape)``; zero where there is none or it is not finite.
    """

    loss: Tensor
    margin: Tensor
    gradient: Tensor


class Goal(ABC):
    """B inputs with what is wanted of each.

    Attributes:
        x: ``(B, *input_shape)`` where distances are measured from, in the model's dtype, on its device.
        region: where points must stay, besides any ball of the attack's own.
        p: the norm of distances, 0, 1, 2 or infinity, for some attacks any number from 1 on; ``weights`` its weights
            ``(B, *input_shape)`` or None.
        forward: ``(B,)`` rows sent forward so far; ``backward`` the same for gradients.
        todo: ``(A,)`` rows that are worth an attack: those that do not reach the goal as they are.
    """

    x: Tensor
    region: Region
    p: float
    weights: Tensor | None = None
    forward: Tensor
    backward: Tensor
    todo: Tensor

    @property
    def size(self) -> int:
        """Number of inputs B."""
        return len(self.x)

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of branches K."""

    @abstractmethod
    def answer(self, z: Tensor, rows: Tensor) -> Answer:
        """What the network says about points ``(L, *input_shape)`` of the given rows ``(L,)``, uncounted."""

    @abstractmethod
    def verdict(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Whether points reach the goal ``(L,)``, and their margin ``(L,)`` in float64: the worse of the original
        model's in its own dtype and of float64, so that a point that counts holds in both."""

    # --- asking -------------------------------------------------------------------------------------------------------

    def look(self, z: Tensor, rows: Tensor) -> Tensor:
        """Margins ``(L,)`` without gradients."""
        with torch.no_grad():
            answer = self.answer(z, rows)
        self.count(rows, forward=1)
        return answer.margin

    def slope(self, z: Tensor, rows: Tensor, loss: Loss | None = None) -> Slope:
        """A loss (None: the margin) and its gradient at points ``(L, *input_shape)``: one pass each way."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            answer = self.answer(z, rows)
            margin = answer.margin
            value = margin if loss is None else loss(answer, rows)
        self.count(rows, forward=1, backward=1)
        return Slope(value.detach(), margin.detach(), _gradient(value, z))

    def jacobian(self, z: Tensor, rows: Tensor, which: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The branches ``which (L, T)`` of each point (None: all K), ``(L, T)``, and their gradients
        ``(L, T, *input_shape)``: one pass forward, T backward."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            branches = self.answer(z, rows).branches
            branches = branches if which is None else branches.gather(1, which)
        count = branches.shape[1]
        self.count(rows, forward=1, backward=count)
        if not branches.requires_grad:
            return branches.detach(), z.new_zeros(len(z), count, *z.shape[1:])
        known = branches.isfinite()
        picks = torch.eye(count, dtype=z.dtype, device=z.device).unsqueeze(1) * known.to(z.dtype)
        finite = torch.where(known, branches, torch.zeros_like(branches))
        (slopes,) = torch.autograd.grad(finite, z, picks, is_grads_batched=True)
        return branches.detach(), slopes.transpose(0, 1).nan_to_num(0.0, 0.0, 0.0)

    def count(self, rows: Tensor, forward: int = 0, backward: int = 0) -> None:
        """Note passes of the given rows, which may repeat."""
        passes = torch.bincount(rows, minlength=self.size)
        self.forward += forward * passes
        self.backward += backward * passes

    # --- distances and balls ------------------------------------------------------------------------------------------

    def distance(self, z: Tensor, rows: Tensor) -> Tensor:
        """``‖w ⊙ (z − x)‖_p``, ``(L,)``."""
        return norm(z - self.x[rows], self.p, None if self.weights is None else self.weights[rows])

    def within(self, radius: Tensor, rows: Tensor) -> Region:
        """The region cut by balls with radii ``(L,)``, float64, small enough that all that the model's dtype says to
        lie inside does so in exact arithmetic too."""
        region, center = self.region.take(rows), self.x[rows]
        weights = None if self.weights is None else self.weights[rows]
        if self.p != torch.inf:
            shrunk = radius if self.p == 0 else radius * (1 - BALL_ROUNDING * torch.finfo(center.dtype).eps)
            return region.within(Ball(center, shrunk.to(center), self.p, weights))
        exact = None if weights is None else weights.double()
        box = Region(region.lower.double(), region.upper.double()).within(Ball(center.double(), radius, self.p, exact))
        lower, upper = round_up(box.lower, center.dtype).to(center), round_down(box.upper, center.dtype).to(center)
        return Region(torch.minimum(lower, upper), upper, region.balls)


def _gradient(value: Tensor, z: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(z)
    finite = torch.where(value.isfinite(), value, torch.zeros_like(value))
    (gradient,) = torch.autograd.grad(finite.sum(), z, allow_unused=True)
    return torch.zeros_like(z) if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)


def along(values: Tensor, like: Tensor) -> Tensor:
    """Numbers ``(L,)`` shaped so that they multiply the rows of ``(L, *input_shape)``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
