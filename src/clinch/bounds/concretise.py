"""From a linear lower limit on the input to a number: the last step of the dual function.

A search evaluates the dual function again and again with multipliers that change a little, so that the common cases
have an evaluation of their own, of a few passes over the rows:

* a linear objective over a box: closed form;
* p = infinity, centre inside the box: the gain is concave in the distance T, and its tangent at the largest T that the
  box leaves meets the goal at or left of where the gain does: a lower bound of the distance, near it where the box is
  not much larger than the incumbent's ball;
* p = 2, centre inside the box: any multiplier t gives a bound; one Newton step per call follows the best one;
* p = 1, centre inside the box: the largest coefficients alone, where they fill what is needed.

Everything else goes through :mod:`clinch.geometry.halfspace` and :mod:`clinch.geometry.linear_minimum`.

What depends on the sign of a coefficient is written with ``sign`` and not with ``where``, whose branches cannot be
predicted on such rows: a pass over them takes ten times as long.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import flatten_ball, linear_minimum
from clinch.geometry.norms import EuclideanNorm, MaximumNorm, Norm, TaxicabNorm
from clinch.query import Distance, Query

#: Newton steps of p = 2 without a start
COLD_STEPS = 12
#: coefficients of a row that are looked at first for p = 1
LARGEST = 32


class Concretised(NamedTuple):
    """Bounds ``(D,)``, minimisers ``(D, n)``, the weight ``(D,)`` of ``<rows, x> + offset`` in the dual function there,
    and where the next call may start ``(D,)``.
    """

    bound: Tensor
    point: Tensor
    weight: Tensor
    start: Tensor | None


class Concretiser:
    """The input side of a query: limits, centre and ball of B problems; :meth:`on` chooses those of some domains."""

    def __init__(self, query: Query) -> None:
        self.objective = query.objective
        region = query.region
        self.lower, self.upper = region.lower.flatten(1), region.upper.flatten(1)
        self.ball = flatten_ball(region.balls[0]) if region.balls else None
        self.center: Tensor | None = None
        self.weights: Tensor | None = None
        if isinstance(self.objective, Distance):
            self.center = self.objective.center.flatten(1)
            self.weights = None if self.objective.weights is None else self.objective.weights.flatten(1)
        elif self.ball is not None:
            self.center, self.weights = self.ball.center, self.ball.weights
        #: branches of one problem have one region: one copy then stays in cache
        self.shared = self._is_shared()
        self.kind = self._kind()

    def _is_shared(self) -> bool:
        radius = None if self.ball is None else self.ball.radius
        parts = [self.lower, self.upper, self.center, self.weights, radius]
        return all(t is None or bool((t == t[:1]).all()) for t in parts)

    def _kind(self) -> type[Concretise]:
        finite = bool((torch.isfinite(self.lower) & torch.isfinite(self.upper)).all())
        if self.center is None:
            return _LinearOverBox if finite else _General
        inside = bool(((self.lower <= self.center) & (self.center <= self.upper)).all())
        if not (finite and inside and self.weights is None):
            return _General
        if isinstance(self.objective, Distance):
            return DISTANCES.get(type(self.objective.norm), _General)
        assert self.ball is not None
        limited = bool((torch.isfinite(self.ball.radius) & (self.ball.radius > 0)).all())
        return IN_BALLS.get(type(self.ball.norm), _General) if limited else _General

    def on(self, problem: Tensor, *, exact: bool = False) -> Concretise:
        """For domains of the problems ``(D,)``; ``exact`` asks for the best number that follows, at any price."""
        kind = _General if exact and self.kind is _LargestMove else self.kind
        return kind(self, problem[:1] if self.shared else problem)


class Concretise:
    """The bound that ``<rows, x> + offset`` gives on each domain.

    Distance objectives: the distance from the centre to ``<rows, x> + offset <= 0`` within the box, infinity where that
    is out of reach. Others: the minimum of ``<rows, x> + offset`` over the box and the first ball.
    """

    def __init__(self, source: Concretiser, problem: Tensor) -> None:
        self.source, self.problem = source, problem
        self.prepare()

    def prepare(self) -> None:
        """Gather what every call needs."""

    def take(self, index: Tensor) -> Concretise:
        """For the chosen domains."""
        return self if self.source.shared else type(self)(self.source, self.problem[index])

    def __call__(self, rows: Tensor, offset: Tensor, start: Tensor | None) -> Concretised:
        """Evaluate.

        Args:
            rows: ``(D, n)``; offset: ``(D,)``.
            start: what an earlier call for the same domains returned, or None.
        """
        raise NotImplementedError


class _General(Concretise):
    def prepare(self) -> None:
        s, which = self.source, self.problem
        self.lower, self.upper = s.lower[which], s.upper[which]
        self.center = None if s.center is None else s.center[which]
        self.weights = None if s.weights is None else s.weights[which]
        self.ball = None if s.ball is None else s.ball.take(which)

    def __call__(self, rows: Tensor, offset: Tensor, start: Tensor | None) -> Concretised:
        objective, size = self.source.objective, rows.shape
        lower, upper = self.lower.expand(size), self.upper.expand(size)
        if isinstance(objective, Distance):
            assert self.center is not None
            weights = None if self.weights is None else self.weights.expand(size)
            found = halfspace_distance(rows, offset, lower, upper, self.center.expand(size), objective.norm, weights)
            return Concretised(found.distance, found.point, _climbing(found.multiplier), None)
        ball = self.ball
        if ball is not None and len(ball.radius) != size[0]:
            ball = ball.take(ball.radius.new_zeros(size[0], dtype=torch.int64))
        value, point = linear_minimum(rows.unsqueeze(1), lower, upper, ball)
        return Concretised(value[:, 0] + offset, point[:, 0], torch.ones_like(offset), None)


class _LinearOverBox(Concretise):
    def prepare(self) -> None:
        self.lower, self.upper = self.source.lower[self.problem], self.source.upper[self.problem]
        self.middle, self.half = (self.upper + self.lower) / 2, (self.upper - self.lower) / 2

    def __call__(self, rows: Tensor, offset: Tensor, start: Tensor | None) -> Concretised:
        bound = offset + _dot(rows, self.middle) - _dot(rows.abs(), self.half)
        point = torch.addcmul(self.middle, rows.sign(), self.half, value=-1)
        return Concretised(bound, point, torch.ones_like(offset), None)


class _AroundCenter(Concretise):
    """Limits relative to a centre inside the box: ``low <= 0 <= high``."""

    def prepare(self) -> None:
        s, which = self.source, self.problem
        assert s.center is not None
        self.center = s.center[which]
        self.low, self.high = s.lower[which] - self.center, s.upper[which] - self.center
        self.middle, self.half = (self.high + self.low) / 2, (self.high - self.low) / 2
        # what rows and their absolute values are multiplied with: the centre, the size of what is summed, and twice
        # what a whole move gains, Σ|λ|·room, each side by itself: |λ| and λ together know the side
        self.for_rows = [self.center, -(self.high + self.low)]
        self.for_sizes = [self.center.abs() + self.high - self.low, self.high - self.low]

    def sums(self, rows: Tensor, size: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """``need``, the limit's value at the centre, which has to be made up for; its rounding; the whole gain; each
        ``(D,)``, and more columns where ``for_rows`` and ``for_sizes`` have them.
        """
        at_rows, at_sizes = _products(rows, self.for_rows), _products(size, self.for_sizes)
        need = at_rows[:, 0] + offset
        rounding = 4 * torch.finfo(rows.dtype).eps * (at_sizes[:, 0] + offset.abs())
        return need, rounding, ((at_rows + at_sizes) / 2)[:, 1:].unbind(1)

    def corner(self, rows: Tensor) -> Tensor:
        """``(D, n)`` the move that changes the limit most."""
        return torch.addcmul(self.middle, rows.sign(), self.half, value=-1)

    def result(self, bound: Tensor, delta: Tensor, multiplier: Tensor, start: Tensor | None) -> Concretised:
        return Concretised(bound, delta.add_(self.center), _climbing(multiplier), start)


class _LargestMove(_AroundCenter):
    """p = infinity: every element may move by T, or to its limit where that is nearer."""

    def prepare(self) -> None:
        super().prepare()
        self.reach = torch.maximum(self.high, -self.low).amax(1)
        far = self.reach.unsqueeze(1) * (1 - 1e4 * torch.finfo(self.reach.dtype).eps)
        # moves that T limits, rather than the box
        self.low_free, self.high_free = (torch.where(t.abs() >= far, t, 0.0) for t in (self.low, self.high))
        down, up = ((t != 0).to(t.dtype) for t in (self.low_free, self.high_free))
        self.for_rows.append(down - up)
        self.for_sizes.append(down + up)
        self.middle_free, self.half_free = (self.high_free + self.low_free) / 2, (self.high_free - self.low_free) / 2

    def __call__(self, rows: Tensor, offset: Tensor, start: Tensor | None) -> Concretised:
        need, rounding, (most, slope) = self.sums(rows, rows.abs(), offset)
        excess = most - need
        tangent = self.reach - excess.clamp(min=0) / _above_zero(slope)
        # where T limits nothing, nothing is known about it
        length = torch.where((slope > 0) & (need > 0), tangent.clamp(min=0), 0.0)
        met = excess + rounding >= 0
        bound = torch.where(met, length, torch.inf)
        back = torch.where(met, length / _above_zero(self.reach) - 1, 0.0).clamp(max=0)
        free = torch.addcmul(self.middle_free, rows.sign(), self.half_free, value=-1)
        delta = self.corner(rows).addcmul_(free, back.unsqueeze(1))
        return self.result(bound, delta, torch.where(slope > 0, 1 / _above_zero(slope), 0.0), None)


class _Euclid(_AroundCenter):
    """p = 2: ``δ(t) = clip(−t·λ)`` minimises ``½‖δ‖² + t·(<λ, δ> + need)``, whose value bounds half the square."""

    def __call__(self, rows: Tensor, offset: Tensor, start: Tensor | None) -> Concretised:
        need, rounding, (most,) = self.sums(rows, rows.abs(), offset)
        met = most + rounding >= need
        goal = torch.minimum(need, most).clamp(min=0)
        if start is None:
            t = goal / _above_zero(torch.linalg.vecdot(rows, rows))
            for _ in range(COLD_STEPS):
                t = self._newton(rows, self._move(rows, t), goal, t)
        else:
            t = start
        delta = self._move(rows, t)
        following = self._newton(rows, delta, goal, t)
        dual = torch.linalg.vecdot(delta, delta) / 2 + t * (need + torch.linalg.vecdot(rows, delta))
        bound = torch.where(met, (2 * dual.clamp(min=0)).sqrt(), torch.inf)
        if not bool(met.all()):
            delta = torch.lerp(self.corner(rows), delta, met.to(delta).unsqueeze(1))
        return self.result(bound, delta, t, following)

    def _move(self, rows: Tensor, t: Tensor) -> Tensor:
        return torch.clamp(rows * -t.unsqueeze(1), self.low, self.high)

    def _newton(self, rows: Tensor, delta: Tensor, goal: Tensor, t: Tensor) -> Tensor:
        """A step towards ``gain(t) = −<λ, δ(t)> = goal``; the gain's slope is ``‖λ‖²`` over what is not at a limit."""
        gain = -torch.linalg.vecdot(rows, delta)
        slope = _free_square(rows, delta, t)
        missing = goal - gain
        # where everything is at its limit the gain is flat: come back from the right
        flat = torch.where(missing < 0, 0.5 * t, t)
        return torch.where(slope > 0, t + missing / _above_zero(slope), flat).clamp(min=0)


class _SumOfMoves(_AroundCenter):
    """p = 1: the largest coefficients move first, each to its limit; the last one in part."""

    def __call__(self, rows: Tensor, offset: Tensor, start: Tensor | None) -> Concretised:
        size = rows.abs()
        need, rounding, (most,) = self.sums(rows, size, offset)
        room = self.corner(rows).mul_(-rows.sign())
        size.mul_(room > 0)
        goal = need.clamp(min=0)
        count = min(LARGEST, rows.shape[1])
        met = most + rounding >= need
        best, at = size.topk(count, dim=1)
        filled = (best * room.gather(1, at)).cumsum(1)
        if count < rows.shape[1] and bool(((filled[:, -1] < goal) & met).any()):
            best, at = size.sort(dim=1, descending=True)
            filled = (best * room.gather(1, at)).cumsum(1)
        return self._fill(rows, need, goal, met, best, at, filled, room)

    def _fill(
        self,
        rows: Tensor,
        need: Tensor,
        goal: Tensor,
        met: Tensor,
        best: Tensor,
        at: Tensor,
        filled: Tensor,
        room: Tensor,
    ) -> Concretised:
        last = (filled < goal.unsqueeze(1)).sum(1, keepdim=True).clamp(max=best.shape[1] - 1)
        density = best.gather(1, last)
        price = torch.where(density > 0, 1 / _above_zero(density), 0.0)
        here = room.gather(1, at)
        # any price is a bound: price·need − Σ (price·|λ| − 1)₊·room, and beyond the last element nothing is positive
        saving = ((price * best - 1).clamp(min=0) * here).sum(1)
        bound = torch.where(met, (price[:, 0] * need - saving).clamp(min=0), torch.inf)
        before = torch.cat([filled.new_zeros(len(rows), 1), filled[:, :-1]], 1)
        part = ((goal.unsqueeze(1) - before) / _above_zero(best)).clamp(min=0)
        move = torch.minimum(part, here)
        delta = torch.zeros_like(rows).scatter_(1, at, move).mul_(-rows.sign())
        if not bool(met.all()):
            delta = torch.lerp(self.corner(rows), delta, met.to(delta).unsqueeze(1))
        return self.result(bound, delta, price[:, 0], None)


class _InBall(_AroundCenter):
    """Linear objectives over box ∩ ball."""

    def prepare(self) -> None:
        super().prepare()
        ball = self.source.ball
        assert ball is not None
        self.radius = ball.radius[self.problem]

    def in_box(self, rows: Tensor, size: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """The limit at the centre, and its minimum over the box alone."""
        need, _, (most,) = self.sums(rows, size, offset)
        return need, need - most


class _LinearInEuclid(_InBall):
    """p = 2: ``δ(t) = clip(−t·λ)`` minimises ``<λ, δ> + (‖δ‖² − R²)/(2t)``, a bound for every t > 0."""

    def __call__(self, rows: Tensor, offset: Tensor, start: Tensor | None) -> Concretised:
        size = rows.abs()
        at_center, in_box = self.in_box(rows, size, offset)
        if start is None:
            t = self.radius / _above_zero(torch.linalg.vector_norm(rows, dim=1))
            for _ in range(COLD_STEPS):
                t = self._newton(rows, self._move(rows, t), t)
        else:
            t = start
        delta = self._move(rows, t)
        following = self._newton(rows, delta, t)
        excess = torch.linalg.vecdot(delta, delta) - self.radius.square()
        value = torch.linalg.vecdot(rows, delta) + excess / (2 * t)
        # where the best corner lies inside the ball t grows without limit: the box alone says it all
        bound = torch.maximum(at_center + value.nan_to_num(-torch.inf, torch.inf, -torch.inf), in_box)
        return Concretised(bound, delta.add_(self.center), torch.ones_like(offset), following)

    def _move(self, rows: Tensor, t: Tensor) -> Tensor:
        return torch.clamp(rows * -t.unsqueeze(1), self.low, self.high)

    def _newton(self, rows: Tensor, delta: Tensor, t: Tensor) -> Tensor:
        """A step towards ``‖δ(t)‖ = R``; the square's slope is ``2t·‖λ‖²`` over what is not at a limit."""
        slope = 2 * t * _free_square(rows, delta, t)
        missing = self.radius.square() - torch.linalg.vecdot(delta, delta)
        step = t + missing / _above_zero(slope)
        step = torch.where(slope > 0, step, torch.where(missing > 0, 4 * t, 0.5 * t))
        return torch.minimum(torch.maximum(step, 0.1 * t), 10 * t).clamp(1e-12, 1e12)


class _LinearInSum(_InBall):
    """p = 1: the largest coefficients move first, each to its limit, until the ball is used up."""

    def __call__(self, rows: Tensor, offset: Tensor, start: Tensor | None) -> Concretised:
        size = rows.abs()
        at_center, in_box = self.in_box(rows, size, offset)
        room = self.corner(rows).mul_(-rows.sign())
        size.mul_(room > 0)
        count = min(LARGEST, rows.shape[1])
        best, at = size.topk(count, dim=1)
        used = room.gather(1, at).cumsum(1)
        if count < rows.shape[1] and bool(((used[:, -1] < self.radius) & (best[:, -1] > 0)).any()):
            best, at = size.sort(dim=1, descending=True)
            used = room.gather(1, at).cumsum(1)
        here = room.gather(1, at)
        radius = self.radius.unsqueeze(1)
        last = (used < radius).sum(1, keepdim=True).clamp(max=best.shape[1] - 1)
        price = best.gather(1, last)
        # any price is a bound: −price·R − Σ (|λ| − price)₊·room
        spent = price[:, 0] * self.radius + ((best - price).clamp(min=0) * here).sum(1)
        before = torch.cat([used.new_zeros(len(rows), 1), used[:, :-1]], 1)
        move = torch.minimum((radius - before).clamp(min=0), here)
        delta = torch.zeros_like(rows).scatter_(1, at, move).mul_(-rows.sign())
        bound = torch.maximum(at_center - spent, in_box)
        return Concretised(bound, delta.add_(self.center), torch.ones_like(offset), None)


#: the evaluations that follow a search, by norm: of distances, and of linear objectives in a ball
DISTANCES: dict[type[Norm], type[Concretise]] = {
    MaximumNorm: _LargestMove, EuclideanNorm: _Euclid, TaxicabNorm: _SumOfMoves
}  # fmt: skip
IN_BALLS: dict[type[Norm], type[Concretise]] = {EuclideanNorm: _LinearInEuclid, TaxicabNorm: _LinearInSum}


def _dot(rows: Tensor, vector: Tensor) -> Tensor:
    """``<rows_d, vector_d>``; one vector ``(1, n)`` for all rows is a single product."""
    return rows @ vector[0] if vector.shape[0] == 1 else torch.linalg.vecdot(rows, vector)


def _products(rows: Tensor, vectors: list[Tensor]) -> Tensor:
    """``(D, k)`` products with k vectors; vectors ``(1, n)`` that all rows share are a single matrix."""
    if vectors[0].shape[0] == 1:
        return rows @ torch.cat(vectors).T
    return torch.stack([torch.linalg.vecdot(rows, v) for v in vectors], 1)


def _free_square(rows: Tensor, delta: Tensor, t: Tensor) -> Tensor:
    """``Σ λ_i²`` over the elements whose move ``−t·λ`` was not clipped."""
    free = rows * (delta == rows * -t.unsqueeze(1))
    return torch.linalg.vecdot(free, rows)


def _above_zero(values: Tensor) -> Tensor:
    """No smaller than the smallest normal number: something to divide by."""
    return values.clamp(min=torch.finfo(values.dtype).tiny)


def _climbing(weight: Tensor) -> Tensor:
    """Where the centre satisfies the limit, or p = 0 has no multiplier, the limit itself at the point must rise."""
    return torch.where(weight > 0, weight, torch.ones_like(weight))
