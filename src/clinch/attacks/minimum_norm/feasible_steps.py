"""Where the moves of a minimum-norm attack may lead: its region as offsets from the inputs, in its own norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.units import FARTHEST
from clinch.geometry.projection import project, project_into
from clinch.geometry.region import Ball, Region
from clinch.geometry.steps import max_descent_step, min_norm_step

#: halvings of the weight between two half-spaces
MIX = 6
#: equalities of the inputs whose multipliers a step looks for, halvings of each, and sweeps where there are several
ROWS, HALVINGS, SWEEPS = 4, 14, 2
#: from feasible steps and what they need of each run to moves ``(L, n)``
Rule = Callable[..., Tensor]


@dataclass(frozen=True)
class HalfSpaces:
    """L averaged half-spaces ``<row, δ> <= limit`` of offsets, rows of about unit length.

    Attributes:
        row: ``(L, n)``.
        limit: ``(L,)``.
        fresh: ``(L,)`` whether there is none yet.
    """

    row: Tensor
    limit: Tensor
    fresh: Tensor

    @staticmethod
    def none(move: Tensor) -> HalfSpaces:
        """Nothing known about runs with moves ``(L, n)``."""
        nothing = move.new_zeros(len(move))
        return HalfSpaces(torch.zeros_like(move), nothing, nothing == 0)

    @staticmethod
    def of(parts: list[HalfSpaces]) -> HalfSpaces:
        """Those of several runs after each other."""
        return HalfSpaces(*(torch.cat([getattr(part, name) for part in parts]) for name in ("row", "limit", "fresh")))

    def take(self, which: Tensor) -> HalfSpaces:
        """The chosen ones, in that order."""
        return HalfSpaces(self.row[which], self.limit[which], self.fresh[which])

    def averaged(self, value: Tensor, gradient: Tensor, move: Tensor, keep: float) -> HalfSpaces:
        """``keep`` parts of these and ``1 − keep`` of ``value + <gradient, δ − move> <= 0``, scaled to unit length; one
        without a gradient leaves things as they are."""
        length = torch.linalg.vector_norm(gradient, dim=1)
        known = length > 0
        scale = known / torch.where(known, length, 1.0)
        limit = torch.where(known, (torch.linalg.vecdot(gradient, move) - value) * scale, 0.0)
        share = (torch.where(self.fresh, 1.0, 1 - keep) * known).to(gradient)
        row = torch.addcmul(self.row * (1 - share).unsqueeze(1), gradient, (share * scale).unsqueeze(1))
        return HalfSpaces(row, torch.lerp(self.limit, limit, share), self.fresh & ~known)

    def beyond(self, share: Tensor | float) -> HalfSpaces:
        """Moved away from where they hold at the edge, by a share of their limits, one or ``(L,)``."""
        return replace(self, limit=self.limit - share * self.limit.abs())


@dataclass(frozen=True)
class FeasibleSteps:
    """Limits of the offsets of L runs, and how their length is measured.

    Attributes:
        objective: what is attacked.
        indices: ``(L,)`` inputs of the runs.
        region: of the runs.
        lower: ``(L, n)`` limits of the box, as offsets.
        upper: the same.
        plain: ``(L,)`` whether the input lies in its box and there are no weights.
    """

    objective: AttackObjective
    indices: Tensor
    region: Region
    lower: Tensor
    upper: Tensor
    plain: Tensor

    @staticmethod
    def of(objective: AttackObjective, indices: Tensor) -> FeasibleSteps:
        """The room of the given indices ``(L,)``, which may repeat."""
        region, x = objective.region.take(indices), objective.x[indices].flatten(1)
        lower, upper = region.lower.flatten(1) - x, region.upper.flatten(1) - x
        plain = ((lower <= 0) & (upper >= 0)).all(1)
        if objective.weights is not None:
            plain = torch.zeros_like(plain)
        # finite limits, so that no move is infinity times zero
        lower = torch.where(plain.unsqueeze(1), lower.clamp(min=-FARTHEST), lower)
        upper = torch.where(plain.unsqueeze(1), upper.clamp(max=FARTHEST), upper)
        return FeasibleSteps(objective, indices, region, lower, upper, plain)

    @cached_property
    def _kinds(self) -> tuple[bool, bool]:
        """Whether there are plain runs, and others."""
        return bool(self.plain.any()), not bool(self.plain.all())

    def _each(self, quick: Rule, exact: Rule, *columns: Tensor) -> Tensor:
        """A rule for plain runs and one for others, each on its own: the kind of one run is no other's affair.

        Args:
            quick: takes the limits and columns, gives moves ``(L, n)``.
            exact: likewise.
            columns: ``(L, …)`` what rules need of each run; the first is of the shape of the result.
        """
        some, others = self._kinds
        if self.region.balls or self.region.planes is not None:
            return exact(self, *columns)
        if not others:
            return quick(self, *columns)
        if not some:
            return exact(self, *columns)
        moves = torch.empty_like(columns[0])
        for rule, which in ((quick, self.plain), (exact, ~self.plain)):
            moves[which] = rule(self.take(which), *(column[which] for column in columns))
        return moves

    @property
    def weights(self) -> Tensor | None:
        """``(L, n)`` or None."""
        return None if self.objective.weights is None else self.objective.weights[self.indices].flatten(1)

    def norm(self, move: Tensor) -> Tensor:
        """Lengths ``(L,)`` of moves ``(L, n)``."""
        return self.objective.norm.value(move, self.weights)

    def shortest(self, spaces: HalfSpaces) -> Tensor:
        """The shortest move ``(L, n)`` of the box into half-spaces; the corner nearest to them where there is none."""
        return self._step(min_norm_step, spaces.row, -spaces.limit)

    def meeting(self, one: HalfSpaces, two: HalfSpaces | None) -> Tensor:
        """The shortest move ``(L, n)`` into both half-spaces.

        The second matters only where the shortest move into the first breaks it. The weight between the two, the one
        dual variable that is left, is then bisected: it grows while the second is broken more than the first.
        """
        move = self.shortest(one)
        if two is None:
            return move
        excess = (two.row * move).sum(1) - two.limit
        on = (excess > 1e-6 * two.limit.abs()).nonzero().flatten()
        if not len(on):
            return move
        here, one, two = self.take(on), one.take(on), two.take(on)
        low, high, mixed = torch.zeros_like(one.limit), torch.ones_like(one.limit), move[on]
        for _ in range(MIX):
            share = (low + high) / 2
            row = torch.lerp(one.row, two.row, share.unsqueeze(1))
            mixed = here.shortest(HalfSpaces(row, torch.lerp(one.limit, two.limit, share), one.fresh))
            grow = (two.row * mixed).sum(1) - two.limit > (one.row * mixed).sum(1) - one.limit
            low, high = torch.where(grow, share, low), torch.where(grow, high, share)
        return move.index_copy(0, on, mixed)

    def farthest(self, gradient: Tensor, radius: Tensor) -> Tensor:
        """The move ``(L, n)`` of the box, at most ``radius (L,)`` long, that goes farthest against gradients."""
        return self._step(max_descent_step, gradient, radius)

    def _step(self, kernel: Rule, gradient: Tensor, limit: Tensor) -> Tensor:
        """One of the two kernels of :mod:`clinch.geometry.steps`; on planes with the multipliers of their equalities,
        found one after the other."""
        planes = self.region.planes
        if planes is None:
            return self._plain_step(kernel, gradient, limit)
        x = self.objective.x[self.indices]
        size = gradient.abs().amax(1, keepdim=True)
        equal = planes.equal.nonzero().flatten().tolist()
        move = None if equal else self._plain_step(kernel, gradient, limit)
        for k in equal[:ROWS] * (1 if len(equal) == 1 else SWEEPS):
            rows, off = planes.rows[:, k].to(gradient), (planes.upper - planes.sums(x))[:, k].to(limit)
            scale = size / rows.abs().amax(1, keepdim=True).clamp(min=1e-12)
            move, gradient, limit = self._balanced(kernel, gradient, limit, rows * scale, off * scale.squeeze(1))
        assert move is not None
        return self._onto_planes(move)

    def _plain_step(self, kernel: Rule, gradient: Tensor, limit: Tensor) -> Tensor:
        move = kernel(gradient, limit, self.lower, self.upper, self.objective.p, self.weights, self.plain)
        return move.nan_to_num(0.0, FARTHEST, -FARTHEST) if self._kinds[1] else move

    def _balanced(
        self, kernel: Rule, gradient: Tensor, limit: Tensor, row: Tensor, off: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A kernel's best move with ``<row, move> = off``, and the mixture of gradient and row, with its limit, that it
        is the best for: the row's share is bisected, and the two moves that are left are mixed so that the row holds,
        since where it changes its side the best move jumps."""
        shortest = kernel is min_norm_step
        low, high = torch.full_like(limit, -1.0), torch.ones_like(limit)
        below = above = self._plain_step(kernel, gradient, limit)
        under = over = torch.linalg.vecdot(row, below) - off
        mixed, aim = gradient, limit
        for _ in range(HALVINGS):
            share = (low + high) / 2
            mixed = gradient * (1 - share.abs()).unsqueeze(1) + share.unsqueeze(1) * row
            aim = (1 - share.abs()) * limit - share * off if shortest else limit
            move = self._plain_step(kernel, mixed, aim)
            missing = torch.linalg.vecdot(row, move) - off
            less = missing < 0
            low, high = torch.where(less, low, share), torch.where(less, share, high)
            below, under = torch.where(less.unsqueeze(1), move, below), torch.where(less, missing, under)
            above, over = torch.where(less.unsqueeze(1), above, move), torch.where(less, over, missing)
        part = (over / (over - under).clamp(min=1e-30)).clamp(0, 1)
        return torch.lerp(above, below, part.unsqueeze(1)), mixed, aim

    def _onto_planes(self, move: Tensor) -> Tensor:
        """Moves ``(L, n)`` taken to the planes so that they stay short in their norm: for p = infinity no element goes
        farther than the farthest, for p = 0 and 1 those that are not moved stay; then as far as it takes.
        """
        norm, x = self.objective.norm, self.objective.x[self.indices]
        if norm.is_box or norm.sparse:
            most = move.abs().amax(1, keepdim=True).expand_as(move)
            most = most if norm.is_box else torch.where(move == 0, 0.0, torch.inf)
            low, high = torch.maximum(self.lower, -most), torch.minimum(self.upper, most)
            assert self.region.planes is not None
            point = x + move.reshape(x.shape)
            point = self.region.planes.project(point, x + low.reshape(x.shape), x + high.reshape(x.shape))
            move = (point - x).flatten(1)
        return self.inside(move)

    def within(self, move: Tensor, radius: Tensor) -> Tensor:
        """Moves shortened to ``radius (L,)``."""
        return self._each(_within, _exact_within, move, radius)

    def inside(self, move: Tensor) -> Tensor:
        """The nearest moves that stay in box and balls; where the room is plain, moves of the box as they are."""
        return self._each(lambda _, move: move, _exact_inside, move)

    def boxed(self, move: Tensor) -> Tensor:
        """The same for moves that may leave the box."""
        return self.inside(torch.maximum(torch.minimum(move, self.upper), self.lower))

    def take(self, which: Tensor) -> FeasibleSteps:
        """Those of the chosen runs."""
        limits = self.lower[which], self.upper[which]
        return FeasibleSteps(self.objective, self.indices[which], self.region.take(which), *limits, self.plain[which])

    def ball(self, radius: Tensor) -> Ball:
        """Balls of the given radii ``(L,)`` around the inputs."""
        objective = self.objective
        weights = None if objective.weights is None else objective.weights[self.indices]
        return Ball(objective.x[self.indices], radius, objective.p, weights)


def _within(feasible: FeasibleSteps, move: Tensor, radius: Tensor) -> Tensor:
    return move * (radius / feasible.norm(move).clamp(min=1e-12)).clamp(max=1).unsqueeze(1)


def _exact_within(feasible: FeasibleSteps, move: Tensor, radius: Tensor) -> Tensor:
    x = feasible.objective.x[feasible.indices]
    point = project(x + move.reshape(x.shape), feasible.region.lower, feasible.region.upper, feasible.ball(radius))
    return _exact_inside(feasible, (point - x).flatten(1))


def _exact_inside(feasible: FeasibleSteps, move: Tensor) -> Tensor:
    x, region = feasible.objective.x[feasible.indices], feasible.region
    if region.planes is not None and feasible.objective.norm.counts:
        # what is not changed stays so: the elements of a sparse move make up for each other
        fixed = (move == 0).reshape(x.shape)
        low, high = torch.where(fixed, x, region.lower), torch.where(fixed, x, region.upper)
        region = replace(region, lower=low, upper=high)
    return (project_into(region, x + move.reshape(x.shape)) - x).flatten(1)
