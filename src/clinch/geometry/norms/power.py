"""``‖δ‖_p = (Σ |δ_i|^p)^(1/p)`` for every p between 1 and infinity.

Every question about it is one increasing function of one number t: ``δ_i(t) = −sign(g_i)·t·|g_i|^(q−1)``, cut at the
box, is the best that can be done against a gradient g; what it gains is piecewise linear in t, and the p-th power of
its length is piecewise linear in ``t^p`` (Balda et al. 2018, arXiv 1803.03607, proposition 2; box and
weights are ours).
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from clinch.geometry.elementwise import power
from clinch.geometry.norms.base import (
    HalfspaceMove,
    InBox,
    Norm,
    above_zero,
    clip,
    corner,
    ends_of,
    missed,
    most_of,
    norm_of,
    reach_of_sum,
    register,
)
from clinch.geometry.roots import FAR, decreasing_root, saturating_root, secant_root

#: Newton steps for one element of a projection, from a start beyond the root
ELEMENT_STEPS = 40


@register
class PowerNorm(Norm):
    """p between 1 and infinity."""

    short_cut = True
    smooth = True

    @classmethod
    def make(cls, p: float) -> Norm | None:
        """See :meth:`Norm.make`."""
        return PowerNorm(p) if 1 < p < math.inf else None

    def __init__(self, p: float) -> None:
        self.p = float(p)
        # the constants of the nearest of 1, 2 and infinity, measured by 1/p
        self.like = 1.0 if 1 / self.p > 0.75 else 2.0 if 1 / self.p > 0.25 else math.inf

    @cached_property
    def q(self) -> float:
        """``1/p + 1/q = 1``."""
        return self.p / (self.p - 1)

    @property
    def dual(self) -> Norm:
        """The norm of exponent q."""
        return norm_of(self.q)

    # --- the functions of one number; p = 2 and infinity have quicker ones --------------------------------------------

    def powered(self, size: Tensor) -> Tensor:
        """``|s|^p``."""
        return power(size.abs(), self.p)

    def rooted(self, size: Tensor) -> Tensor:
        """``s^(1/p)`` of ``s >= 0``."""
        return power(size, 1 / self.p)

    def rate(self, gradient: Tensor) -> Tensor:
        """``|g|^q``: what the step of t = 1 gains."""
        return power(gradient.abs(), self.q)

    def direction(self, gradient: Tensor) -> Tensor:
        """``sign(g)·|g|^(q−1)``: the step of t = 1, uphill."""
        return gradient.sign() * power(gradient.abs(), self.q - 1)

    def scaled(self, gradient: Tensor) -> Tensor:
        """The gradient in a scale in which no power under- or overflows that matters."""
        return gradient / above_zero(gradient.abs().amax(-1, keepdim=True))

    def unit_of(self, radius: Tensor) -> Tensor:
        """The unit of length in which powers of lengths up to the radius are taken."""
        return above_zero(torch.where(radius.isinf(), 0.0, radius))

    # --- pieces of a norm ---------------------------------------------------------------------------------------------

    def of(self, values: Tensor) -> Tensor:
        """See :meth:`Norm.of`."""
        return torch.linalg.vector_norm(values, ord=self.p, dim=-1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See :meth:`Norm.steepest`: ``sign(g)·|g|^(q−1)/‖g‖_q^(q−1)``."""
        # powers of tiny gradients would underflow
        step = self.direction(gradient / above_zero(gradient.abs().amax(-1, keepdim=True)))
        return step / above_zero(self.of(step).unsqueeze(-1))

    def project(
        self, z: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> Tensor:
        """See :meth:`Norm.project`: ``δ + μ·w^p·|δ|^(p−1) = |z|`` for each element, cut at the box."""
        unit = self.unit_of(radius).unsqueeze(1)
        z, a, b = z / unit, lower / unit, upper / unit
        cost = torch.ones_like(z) if weights is None else self.powered(weights.expand_as(z))

        def length(multiplier: Tensor) -> tuple[Tensor, Tensor]:
            delta = clip(z.sign() * self._shrunk(z.abs(), multiplier.unsqueeze(1) * cost), a, b)
            spent, size = cost * self.powered(delta), delta.abs()
            curve = above_zero(1 + (self.p - 1) * multiplier.unsqueeze(1) * cost * power(above_zero(size), self.p - 2))
            fall = self.p * (cost * power(size, self.p - 1)).square() / curve * ((delta > a) & (delta < b))
            return spent.sum(1), -fall.sum(1)

        goal = torch.where(radius.isinf(), torch.inf, (radius / unit[:, 0]).clamp(max=1))
        multiplier = decreasing_root(length, goal)
        found = clip(z.sign() * self._shrunk(z.abs(), multiplier.unsqueeze(1) * cost), a, b)
        return found * unit

    def _shrunk(self, size: Tensor, strength: Tensor) -> Tensor:
        """The root of ``δ + strength·δ^(p−1) = size`` element by element: Newton's method on a convex function, from
        the right, in δ for p > 2 and in ``δ^(p−1)`` below."""
        small, strength = self.p < 2, strength.clamp(max=FAR)
        k = 1 / (self.p - 1) if small else self.p - 1  # of the two powers 1 and p − 1 the larger by the smaller
        linear, curved = (strength, torch.ones_like(size)) if small else (torch.ones_like(size), strength)
        # linear·u + curved·u^k = size
        u = torch.minimum(size / above_zero(linear), power(size / above_zero(curved), 1 / k))
        u = torch.where(linear > 0, u, power(size, 1 / k)) if small else torch.where(curved > 0, u, size)
        rounding = 4 * torch.finfo(size.dtype).eps
        for _ in range(ELEMENT_STEPS):
            lower_power = power(u, k - 1)
            slope = linear + k * curved * lower_power
            following = u - (linear * u + curved * lower_power * u - size) / above_zero(slope)
            # what has settled stays as it is, so that it depends on nothing beside it
            going = u - following > rounding * u
            if not bool(going.any()):
                break
            u = torch.where(going, following.clamp(min=0), u)
        return power(u, k) if small else u

    def linear_minimum(
        self, rows: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.linear_minimum`, in units of the radius."""
        unit = self.unit_of(radius)
        each = unit.unsqueeze(-1)
        delta, slack, empty = self._in_ball(rows, lower / each, upper / each, base / each, radius / unit, weights)
        return clip(delta * each, lower, upper), slack * unit, empty

    def _in_ball(
        self, rows: Tensor, a: Tensor, b: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Newton's method for the multiplier, then the dual function's value there: an inexact one only lowers it."""
        free = None if weights is None else weights == 0
        scaled = _divided(rows, weights)
        size = scaled.abs().amax(-1, keepdim=True)
        size = torch.where(size > 0, size, torch.ones_like(size))
        scaled = scaled / size  # the largest is one: no square can underflow that matters
        direction = _divided(self.direction(scaled), weights)
        full = corner(rows, a, b, base)
        inner, outer = self._powers(base, weights, free), self._powers(full, weights, free)
        nearest = inner.sum(-1)
        room = torch.maximum(self.powered(radius), nearest)
        inside = outer.sum(-1) <= room
        cap = torch.minimum(outer, room.unsqueeze(-1))
        shifted = bool((base != 0).any())
        low = inner.expand_as(cap) if shifted else None
        step = self.rooted(saturating_root(self.rate(scaled), low, cap, room)[0])
        delta = clip(-step.unsqueeze(-1) * direction, a, b)
        delta = torch.where(inside.unsqueeze(-1), full, delta)
        if free is not None:
            delta = torch.where(free, full, delta)
        excess = self._powers(delta, weights, free).sum(-1) - room
        price = self.p * (step if self.p == 2 else power(step, self.p - 1))
        slack = torch.where(inside | (step == 0), 0.0, size.squeeze(-1) / price * excess)
        return delta, slack, missed(self.rooted(nearest), radius)

    def _powers(self, delta: Tensor, weights: Tensor | None, free: Tensor | None) -> Tensor:
        """``|w ⊙ δ|^p``, zero for free elements even where they are infinite."""
        if weights is None or free is None:
            return self.powered(delta)
        return self.powered(torch.where(free, 0.0, delta * weights))

    def halfspace(self, move: HalfspaceMove, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.halfspace`: ``δ(t) = clip(−t·direction(row/w)/w, box)``."""
        weights = move.positive_weights
        size = torch.where(move.movable, move.rows / weights, 0.0).abs().amax(-1, keepdim=True)
        size = torch.where(size > 0, size, torch.ones_like(size))
        scaled = torch.where(move.movable, move.rows / weights / size, 0.0)
        low = (scaled * move.base * weights).abs()
        high = torch.where(move.movable, (scaled * weights).abs() * move.full.abs(), 0.0)
        goal = target / size.squeeze(-1) + low.sum(-1)
        # the bracket needs finite ends: no element alone has to go beyond the whole target
        endless = (torch.isinf(high).any(-1) & (low != 0).any(-1)).unsqueeze(-1)
        high = torch.where(endless, torch.minimum(high, low + goal.unsqueeze(-1).clamp(min=0)), high)
        step, _ = saturating_root(self.rate(scaled), low, high, goal)
        delta = clip(-step.unsqueeze(-1) * self.direction(scaled) / weights, *move.ends)
        delta = torch.where(move.movable, delta, move.base)
        missing = target - torch.where(move.movable, move.rows * (move.base - delta), 0.0).sum(-1)
        spent = delta if move.weights is None else torch.where(move.weights == 0, 0.0, delta * move.weights)
        distance, multiplier = self._proven(spent, step, size.squeeze(-1), missing)
        return distance, delta, multiplier

    def halfspace_in_box(self, step: InBox) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.halfspace_in_box`."""
        rows, need, low, high = step.rows, step.need, step.lower, step.upper
        size = above_zero(rows.abs().amax(-1))
        unit = rows / size.unsqueeze(-1)
        best = None if step.finite else corner(rows, low, high, torch.zeros_like(low))
        gain = most_of(unit, low, high) if best is None else (unit * best).abs()
        most = gain.sum(-1) * size
        reachable = ~(most + step.rounding < need)  # NaN proves nothing
        target = torch.minimum(need, most).clamp(min=0)
        t, slope = saturating_root(self.rate(unit), None, gain, target / size)
        delta = clip(self.direction(unit) * -t.unsqueeze(-1), low, high)
        if not bool(reachable.all()):
            best = corner(rows, low, high, torch.zeros_like(low)) if best is None else best
            delta = torch.where(reachable.unsqueeze(-1), delta, best)
        change = rows * delta
        missing = target + (change if step.finite else change.nan_to_num()).sum(-1)
        distance, multiplier = self._settled(delta, t, slope, size, missing)
        distance = torch.where(need.isnan(), torch.nan, distance)
        return torch.where(reachable, distance, torch.inf), delta, torch.where(reachable, multiplier, 0.0)

    def _settled(
        self, delta: Tensor, step: Tensor, slope: Tensor, size: Tensor, missing: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Distance and multiplier of :meth:`halfspace_in_box`."""
        return self._proven(delta, step, size, missing)

    def _proven(self, spent: Tensor, step: Tensor, size: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """The value of the dual of ``‖·‖^p/p``, as a length, where the step of ``t`` misses the target by ``missing``;
        and the multiplier in the Lagrangian of the norm itself: in ratios, as no power of a length is in range."""
        length = self.of(spent)
        slope = power(step / above_zero(length), self.p - 1) / size
        relative = 1 + self.p * slope * missing / above_zero(length)
        return length * self.rooted(relative.clamp(min=0)), slope

    def min_norm_step(self, gradient: Tensor, need: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """See :meth:`Norm.min_norm_step`."""
        unit = self.scaled(gradient)
        # the need in the scale of the gradient: what the gradient gains is off by the same factor
        if unit is not gradient:
            need = need / above_zero(gradient.abs().amax(-1))
        t = secant_root(self.rate(unit), most_of(unit, lower, upper), need)
        return torch.clamp(self.direction(unit) * -t.unsqueeze(1), lower, upper)

    def max_descent_step(self, gradient: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """See :meth:`Norm.max_descent_step`: ``Σ min(t^p·|g|^q, |end|^p) = radius^p``."""
        unit = self.unit_of(radius)
        step = self._descent(self.scaled(gradient), ends_of(gradient, lower, upper) / unit.unsqueeze(1), radius / unit)
        return torch.clamp(step * unit.unsqueeze(1), lower, upper)

    def _descent(self, gradient: Tensor, end: Tensor, radius: Tensor) -> Tensor:
        t = self.rooted(secant_root(self.rate(gradient), self.powered(end), self.powered(radius)))
        return self.direction(gradient) * -t.unsqueeze(1)

    def reach(self, away: Tensor, radius: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`Norm.reach`: what the other elements spend of ``radius^p``, this one cannot."""
        return reach_of_sum(away, radius, weights, self.p)


def _divided(rows: Tensor, weights: Tensor | None) -> Tensor:
    """``rows / weights``, zero for free elements."""
    if weights is None:
        return rows
    return torch.where(weights == 0, 0.0, rows / torch.where(weights == 0, 1.0, weights))
