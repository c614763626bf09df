"""What an attack wants of each input of a batch, and how it asks the network: the one thing that methods are written
against.

A goal has K *branches*, numbers that depend on the input: it is reached where the smallest of them, the *margin*, is
negative. For a label those are ``f_y − f_c`` for every other class c, for a target class ``max_{c≠t} f_c − f_t``
(:mod:`clinch.attacks.core.classification`); for a problem they are the atoms of its largest clause, each with the other
clauses (:mod:`clinch.attacks.core.query_objective`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from clinch.attacks.core.batches import BLOCK
from clinch.attacks.core.draws import Draws, fingerprint
from clinch.attacks.core.units import Units
from clinch.geometry.norms import norm
from clinch.geometry.projection import project_into
from clinch.geometry.region import Ball, Region
from clinch.geometry.rounding import round_down, round_up


class Answer(NamedTuple):
    """What the network says about L points; gradients flow.

    Attributes:
        branches: ``(L, K)``; infinity for a branch that a row does not have.
        logits: ``(L, C)`` outputs of a classifier; None for a problem.
        atoms: ``(L, K)`` the branches without the conditions that all of them share; None where they share none.
        others: ``(L, M)`` those conditions, each negative where it holds; None where there are none.
        value: ``(L,)`` the objective of a problem that lowers one; None where distances are what is lowered.
    """

    branches: Tensor
    logits: Tensor | None
    atoms: Tensor | None = None
    others: Tensor | None = None
    value: Tensor | None = None

    @property
    def alone(self) -> Tensor:
        """``(L, K)`` the branches without what they share."""
        return self.branches if self.atoms is None else self.atoms

    @property
    def margin(self) -> Tensor:
        """``(L,)`` the smallest branch: negative where the goal is reached."""
        return self.branches.amin(1)

    def conditions(self, branch: Tensor | None = None, together: bool = True) -> Tensor:
        """What must all become negative, one after the other.

        Args:
            branch: ``(L,)`` the branch that each row is to take, :data:`ANY` for the smallest; None: the smallest.
            together: whether the conditions that branches share count as one, the largest of them.

        Returns:
            ``(L, 1)`` the branch alone where there are no others, ``(L, 2)`` or ``(L, 1 + M)``.
        """
        own = self.alone.amin(1, keepdim=True)
        if branch is not None:
            chosen = self.alone.gather(1, branch.clamp(min=0).unsqueeze(1))
            own = torch.where((branch == ANY).unsqueeze(1), own, chosen)
        if self.others is None:
            return own
        return torch.cat([own, self.others.amax(1, keepdim=True) if together else self.others], 1)


#: a branch of ANY stands for whichever is the smallest
ANY = -1

#: what gradient steps lower, for points ``which`` among those that were asked about: ``loss(answer, rows, which)``
Loss = Callable[[Answer, Tensor, Tensor], Tensor]
#: several of them, for some of the points that were asked about: ``losses(answer, which) -> (len(which), M)``
Losses = Callable[[Answer, Tensor], Tensor]

#: input elements sent through the network at once
AT_ONCE = 2**21
#: losses up to which one backward pass after the other is quicker than all in one
FEW = 2
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


class Slopes(NamedTuple):
    """M losses and their gradients at L points.

    Attributes:
        losses: ``(L, M)``.
        margin: ``(L,)``.
        gradients: ``(L, M, *input_shape)``; zero where there is none or it is not finite.
        leaky: ``(L, M)`` where the true gradient is zero, and that of :meth:`Goal.leaky_answer` stands in its place.
    """

    losses: Tensor
    margin: Tensor
    gradients: Tensor
    leaky: Tensor


Rows = TypeVar("Rows", Slope, Slopes)


class Goal(ABC):
    """B inputs with what is wanted of each.

    Attributes:
        units: from the units of attacks to those of the user; None where there is no difference.
        x: ``(B, *input_shape)`` where distances are measured from, in the units of attacks, on the model's device.
        region: where points must stay, besides any ball of the attack's own; in those units, as all points are.
        p: the norm of distances, 0, 1, 2 or infinity, for some attacks any number from 1 on; ``weights`` its weights
            ``(B, *input_shape)`` or None.
        forward: ``(B,)`` rows sent forward so far; ``backward`` the same for gradients.
        todo: ``(A,)`` rows that are worth an attack: those that do not reach the goal as they are.
        several: whether branches may share conditions, or have gradients that are zero for want of a switched-on
            element: :meth:`slopes` then says more than :meth:`slope`.
        losses: what gradient steps can lower besides the margin, by name; ``default_loss`` the one they take unless
            told otherwise.
        partial: whether a point short of the goal is worth something too, so that no attack gives up on an input.
    """

    units: Units | None = None
    x: Tensor
    region: Region
    p: float
    weights: Tensor | None = None
    several: bool = False
    forward: Tensor
    backward: Tensor
    todo: Tensor
    losses: Mapping[str, Loss] = MappingProxyType({})
    default_loss: str = "margin"
    partial: bool = False

    @property
    def exact(self) -> bool:
        """Whether verdicts are those of float64 too."""
        return True

    @property
    def size(self) -> int:
        """Number of inputs B."""
        return len(self.x)

    @property
    def shared(self) -> bool:
        """Whether all branches share conditions."""
        return False

    @property
    def fingerprint(self) -> Tensor:
        """``(B,)`` a hash of each input and of what is wanted of it, which its random numbers are drawn from."""
        return fingerprint(self.x)

    def draws(self, seed: int) -> Draws:
        """The random numbers of each input ``(B,)``, which no other input has a part in."""
        return Draws.of(self.fingerprint, seed)

    @property
    def start(self) -> Tensor:
        """``(B, *input_shape)`` the points of the region next to x: x itself where that lies inside."""
        return project_into(self.region, self.x)

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

    def leaky_answer(self, z: Tensor, rows: Tensor) -> Answer | None:
        """The same answer, with gradients that pass switched-off elements: where the true gradient is zero it shows a
        way. None where the network cannot be looked into."""
        return None

    # --- asking -------------------------------------------------------------------------------------------------------

    def look(self, z: Tensor, rows: Tensor) -> Tensor:
        """Margins ``(L,)`` without gradients."""
        with torch.no_grad():
            margins = [self.answer(z[part], rows[part]).margin for part in parts_of(z)]
        self.count(rows, forward=1)
        return torch.cat(margins)

    def slope(self, z: Tensor, rows: Tensor, loss: Loss | None = None) -> Slope:
        """A loss (None: the margin) and its gradient at points ``(L, *input_shape)``: one pass each way."""
        self.count(rows, forward=1, backward=1)
        return _joined([self._slope(z[part], rows[part], loss, _positions(part, z)) for part in parts_of(z)])

    def _slope(self, z: Tensor, rows: Tensor, loss: Loss | None, which: Tensor) -> Slope:
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            answer = self.answer(z, rows)
            margin = answer.margin
            value = margin if loss is None else loss(answer, rows, which)
        return Slope(value.detach(), margin.detach(), _gradient(value, z))

    def slopes(self, z: Tensor, rows: Tensor, losses: Losses) -> Slopes:
        """Several losses and the gradient of each at points ``(L, *input_shape)``: one pass forward, one backward for
        each loss. A positive loss whose gradient is zero gets that of :meth:`leaky_answer`, at two passes more."""
        return _joined([self._slopes(z[part], rows[part], losses, _positions(part, z)) for part in parts_of(z)])

    def _slopes(self, z: Tensor, rows: Tensor, losses: Losses, which: Tensor) -> Slopes:
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            answer = self.answer(z, rows)
            values = losses(answer, which)
        self.count(rows, forward=1, backward=values.shape[1])
        gradients = _gradients(values, z)
        dead = (values.detach() > 0) & (gradients == 0).flatten(2).all(2)
        lanes = dead.any(1).nonzero().flatten()
        if len(lanes):
            point = z[lanes].detach().requires_grad_()
            with torch.enable_grad():
                leaky = self.leaky_answer(point, rows[lanes])
            if leaky is not None:
                with torch.enable_grad():
                    again = losses(leaky, which[lanes])
                self.count(rows[lanes], forward=1, backward=values.shape[1])
                gradients[dead] = _gradients(again, point)[dead[lanes]]
        return Slopes(values.detach(), answer.margin.detach(), gradients, dead)

    def jacobian(
        self, z: Tensor, rows: Tensor, which: Tensor | None = None, alone: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The branches ``which (L, T)`` of each point (None: all K), ``(L, T)``, and their gradients
        ``(L, T, *input_shape)``: one pass forward, T backward. ``alone``: without what branches share."""
        count = self.width if which is None else which.shape[1]
        self.count(rows, forward=1, backward=count)
        found = []
        for part in parts_of(z, count):
            point = z[part].detach().requires_grad_()
            with torch.enable_grad():
                answer = self.answer(point, rows[part])
                branches = answer.alone if alone else answer.branches
                branches = branches if which is None else branches.gather(1, which[part])
            found.append((branches.detach(), _gradients(branches, point)))
        return found[0] if len(found) == 1 else (torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found]))

    def count(self, rows: Tensor, forward: int = 0, backward: int = 0) -> None:
        """Note passes of the given rows, which may repeat."""
        passes = torch.bincount(rows, minlength=self.size)
        self.forward += forward * passes
        self.backward += backward * passes

    # --- units -------------------------------------------------------------------------------------------------------

    def point(self, z: Tensor, rows: Tensor) -> Tensor:
        """The model's inputs at points ``(L, *input_shape)``: in the user's units, the model's dtype and the limits."""
        return z if self.units is None else self.units.point(z, rows)

    def working(self, x: Tensor, rows: Tensor) -> Tensor:
        """Inputs of the model as points."""
        return x.to(self.x) if self.units is None else self.units.back(x.to(self.x.device), rows)

    def lengths(self, values: Tensor, rows: Tensor | slice) -> Tensor:
        """Distances ``(L,)`` between points in the user's units."""
        return values if self.units is None or self.p == 0 else self.units.lengths(values, rows)

    def shortened(self, values: Tensor, *, steps: bool = False) -> Tensor:
        """Radii ``(B,)`` of the user, or ``steps`` of elements, between points."""
        return values if self.units is None or (self.p == 0 and not steps) else self.units.shortened(values)

    # --- distances and balls ------------------------------------------------------------------------------------------

    def distance(self, z: Tensor, rows: Tensor) -> Tensor:
        """``‖w ⊙ (z − x)‖_p``, ``(L,)``."""
        return norm(z - self.x[rows], self.p, None if self.weights is None else self.weights[rows])

    def lowered(self, z: Tensor, rows: Tensor) -> Tensor:
        """What the attack lowers at points that reach the goal, ``(L,)`` in float64: the distance, unless a problem has
        another objective."""
        return self.distance(z.double(), rows)

    def outside(self, z: Tensor, rows: Tensor) -> Tensor | None:
        """How far points lie outside the region's balls ``(L,)``, 0 inside; None where it has none."""
        if not self.region.balls:
            return None
        balls = [ball.take(rows) for ball in self.region.balls]
        return torch.stack([(ball.distance(z) - ball.radius).clamp(min=0) for ball in balls]).amax(0)

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


def linearised_distance(goal: Goal, rows: Tensor) -> Tensor:
    """Euclidean distances ``(L,)`` from the given inputs to where their margin would vanish if it was linear."""
    slope = goal.slope(goal.start[rows], rows)
    steepness = torch.linalg.vector_norm(slope.gradient.double().flatten(1), dim=1)
    return slope.margin.double().abs() / steepness


def parts_of(z: Tensor, times: int = 1) -> list[slice]:
    """Points ``(L, *input_shape)`` in parts that the network takes at once: what it keeps for gradients is many times
    its input. ``times``: rows that each point stands for."""
    size = max(1, AT_ONCE // (times * max(1, z.shape[1:].numel())))
    size -= size % BLOCK if size > BLOCK else 0
    return [slice(begin, begin + size) for begin in range(0, max(1, len(z)), size)]


def taken(slope: Slope | Slopes, which: Tensor) -> Slope | Slopes:
    """Those of the chosen points, in that order."""
    return type(slope)(*(column[which] for column in slope))


def _positions(part: slice, z: Tensor) -> Tensor:
    return torch.arange(part.start, min(part.stop, len(z)), device=z.device)


def _joined(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    return type(parts[0])(*(torch.cat(column) for column in zip(*parts)))


def _gradient(value: Tensor, z: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(z)
    finite = torch.where(value.isfinite(), value, torch.zeros_like(value))
    (gradient,) = torch.autograd.grad(finite.sum(), z, allow_unused=True)
    if gradient is None:
        return torch.zeros_like(z)
    return gradient if bool(gradient.sum().isfinite()) else gradient.nan_to_num(0.0, 0.0, 0.0)


def _gradients(values: Tensor, z: Tensor) -> Tensor:
    """``(L, M, *input_shape)`` for values ``(L, M)``, row by row."""
    if not values.requires_grad:
        return z.new_zeros(len(z), values.shape[1], *z.shape[1:])
    finite = torch.where(values.isfinite(), values, torch.zeros_like(values))
    if values.shape[1] <= FEW:
        each = [
            torch.autograd.grad(column.sum(), z, retain_graph=True)[0]
            for column in (finite[:, k] for k in range(finite.shape[1]))
        ]
        return torch.stack(each, 1).nan_to_num(0.0, 0.0, 0.0)
    picks = torch.eye(values.shape[1], dtype=z.dtype, device=z.device).unsqueeze(1).expand(-1, len(z), -1)
    (gradients,) = torch.autograd.grad(finite, z, picks, is_grads_batched=True)
    return gradients.transpose(0, 1).nan_to_num(0.0, 0.0, 0.0)


def along(values: Tensor, like: Tensor) -> Tensor:
    """Numbers ``(L,)`` shaped so that they multiply the rows of ``(L, *input_shape)``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
