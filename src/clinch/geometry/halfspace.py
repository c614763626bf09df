"""The least distance from a centre to the part of a box behind a hyperplane: projection and certified bound in one.

``min ‖w ⊙ (x − center)‖_p  subject to  lower <= x <= upper,  <row, x> + constant <= 0``

With the linearised margin of a network this is the step of DeepFool (Moosavi-Dezfooli et al. 2016) and FAB (Croce and
Hein 2020), here exact with the box; with a proven linear relaxation it is a certified lower bound on the distance.

Every p is one increasing function of one number: move each element in its useful direction until the hyperplane is
met. For p = 2 and infinity that function is piecewise linear (:func:`saturating_root`), for p = 1 and 0 it is a
fractional knapsack (:func:`fill`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.geometry.linear_minimum import BLOCK, common_weight, corner, fill, saturating_root


class Projection(NamedTuple):
    """What :func:`halfspace_distance` returns: distance and multiplier ``(B[, R])``, point ``(B[, R], n)``."""

    distance: Tensor
    point: Tensor
    multiplier: Tensor


def halfspace_distance(
    rows: Tensor,
    constant: Tensor,
    lower: Tensor,
    upper: Tensor,
    center: Tensor,
    p: float,
    weights: Tensor | None = None,
) -> Projection:
    """Distance from the centre to the nearest point of the box with ``<row, x> + constant <= 0``.

    The distance is the value of the Lagrangian dual, a valid lower bound up to rounding; by the envelope theorem it
    has gradients with respect to rows and constant.

    Args:
        rows: ``(B, n)`` or ``(B, R, n)``.
        constant: ``(B,)`` or ``(B, R)``.
        lower: ``(B, n)``; may be −infinity.
        upper: ``(B, n)``; may be infinity.
        center: ``(B, n)``; may lie outside the box, the distance is then at least that to the box.
        p: 0, 1, 2 or infinity.
        weights: ``(B, n)``, non-negative; an element of weight zero is free. None stands for ones.

    Returns:
        distance, infinity where no point of the box satisfies the inequality; point, the corner that comes closest to
        satisfying it where none does; multiplier ``t >= 0`` of the Lagrangian ``D(x) + t·(<row, x> + constant)`` with
        ``D = ½‖·‖²`` for p = 2 and ``D = ‖·‖`` for p = 1 and infinity (0 for p = 0, and where the inequality costs
        nothing). For p = 0 with unequal positive weights the distance is that of the fractional relaxation, while the
        point satisfies the inequality at a weight that may be larger.

    Example:
        >>> row, box = torch.tensor([[3.0, -4.0]]), torch.full((1, 2), 10.0)
        >>> halfspace_distance(row, torch.tensor([5.0]), -box, box, torch.zeros(1, 2), 2).distance
        tensor([1.])
    """
    if rows.dim() == 2:
        result = halfspace_distance(rows.unsqueeze(1), constant.unsqueeze(1), lower, upper, center, p, weights)
        return Projection(*(part.squeeze(1) for part in result))
    batch, count, size = rows.shape
    height = max(1, BLOCK // max(count * size, 1))
    parts = []
    with torch.no_grad():
        for i in range(0, batch, height):
            b = slice(i, i + height)
            parts.append(
                _block(rows[b], constant[b], lower[b], upper[b], center[b], p, None if weights is None else weights[b])
            )
    if not parts:
        return Projection(rows.new_zeros(batch, count), rows.new_zeros(rows.shape), rows.new_zeros(batch, count))
    distance, point, multiplier = (torch.cat(column) for column in zip(*parts))
    if torch.is_grad_enabled() and (rows.requires_grad or constant.requires_grad):
        # d distance = t·d(<row, x> + constant) at the fixed minimiser; D = ½‖·‖² for p = 2 divides by the distance
        scale = multiplier / torch.where(distance > 0, distance, torch.inf) if p == 2 else multiplier
        change = (rows * point.nan_to_num()).sum(-1) + constant
        distance = distance + scale * (change - change.detach())
    return Projection(distance, point, multiplier)


@dataclass(frozen=True)
class _Move:
    """The useful move of each element from ``base``, the box's point next to the centre, towards its best corner.

    Coordinates are relative to the centre: ``base`` and ``full`` are the move's ends, ``gain`` is how far the whole
    move lowers ``<row, x>``, ``need`` how far it has to be lowered and ``threshold`` the rounding of that number.
    """

    rows: Tensor
    base: Tensor
    full: Tensor
    gain: Tensor
    need: Tensor
    threshold: Tensor
    weights: Tensor | None

    @property
    def movable(self) -> Tensor:
        """Elements that have somewhere to go."""
        return self.full != self.base

    def free(self, p: float) -> Tensor | None:
        """Elements whose move costs nothing: weight zero, and for p = 0 those that leave the centre anyway."""
        forced = (self.base != 0) if p == 0 else None
        if self.weights is None:
            return None if forced is None or not bool(forced.any()) else forced.expand_as(self.rows)
        zero = self.weights == 0 if forced is None else (self.weights == 0) | forced
        return zero.expand_as(self.rows) if bool(zero.any()) else None

    def after(self, amount: Tensor) -> Tensor:
        """The position after lowering ``<row, x>`` by the given amount per element."""
        step = amount / torch.where(self.rows == 0, 1.0, self.rows)
        position = self.base - step
        return torch.where(self.movable & (amount >= self.gain), self.full, position)


def _block(
    rows: Tensor, constant: Tensor, lower: Tensor, upper: Tensor, center: Tensor, p: float, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Distance ``(b, r)``, point ``(b, r, n)`` and multiplier ``(b, r)``."""
    a, b = (lower - center).unsqueeze(1), (upper - center).unsqueeze(1)
    scale = None if weights is None else weights.unsqueeze(1)
    base = torch.zeros_like(a).clamp(a, b)
    full = corner(rows, a, b, base)
    gain = rows.abs() * (full - base).abs()  # an element without use has full = base: no 0·inf
    anchor = base + center.unsqueeze(1)
    need = (rows * anchor).sum(-1) + constant
    # where gain and need are equal both are at most this sum, and neither is off by more than this times its size
    rounding = 32 * torch.finfo(rows.dtype).eps * ((rows * anchor).abs().sum(-1) + constant.abs())
    if p >= 2 and scale is None:
        shifted = base.flatten(1).any(1)
        if not bool(shifted.any()):
            return _plain(rows, a, b, full, need, rounding, center, p)
        if not bool(shifted.all()):  # each problem by the method that it needs
            return _apart(shifted, rows, constant, lower, upper, center, p)
    move = _Move(rows, base.expand_as(full), full, gain, need, rounding, scale)
    free = move.free(p)
    delta = move.base
    if free is not None:
        given = torch.where(free, gain, 0.0)
        rate = torch.where(free, rows.square(), 0.0)
        share, _ = saturating_root(rate, None, given, need.clamp(min=0))
        delta = torch.where(free, move.after(torch.minimum(share.unsqueeze(-1) * rate, given)), delta)
        rest = torch.where(torch.isinf(given.sum(-1)), 0.0, need - given.sum(-1))
        gain = torch.where(free, 0.0, gain)
        move = _Move(rows, delta, torch.where(free, delta, full), gain, rest, rounding, scale)
    reachable = ~(move.gain.sum(-1) + rounding < move.need)  # NaN proves nothing
    target = torch.minimum(move.need, move.gain.sum(-1))
    solve = {0.0: _count, 1.0: _sum, 2.0: _euclid}.get(float(p), _largest)
    away, moved, multiplier = solve(move, target)
    here = target <= 0
    nearest = _norm(delta, p, scale)
    distance = torch.where(here, nearest, torch.maximum(away, nearest))
    distance = torch.where(reachable, distance, torch.inf)
    multiplier = torch.where(here | ~reachable, 0.0, multiplier)
    moved = torch.where(here.unsqueeze(-1), delta, moved)
    moved = torch.where(reachable.unsqueeze(-1), moved, torch.where(free, delta, full) if free is not None else full)
    return distance, center.unsqueeze(1) + moved, multiplier


def _apart(
    shifted: Tensor, rows: Tensor, constant: Tensor, lower: Tensor, upper: Tensor, center: Tensor, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`_block` for problems whose centre lies outside the box, and for the others."""
    found = constant.new_empty(constant.shape), rows.new_empty(rows.shape), constant.new_empty(constant.shape)
    for which in (shifted, ~shifted):
        part = _block(rows[which], constant[which], lower[which], upper[which], center[which], p, None)
        for whole, piece in zip(found, part):
            whole[which] = piece
    return found


def _norm(delta: Tensor, p: float, weights: Tensor | None) -> Tensor:
    """``‖w ⊙ δ‖_p`` over the last axis; free elements do not count."""
    if weights is not None:
        delta = torch.where(weights == 0, 0.0, delta)
    if p == 0:
        return ((delta != 0) * (1.0 if weights is None else weights)).sum(-1).to(delta.dtype)
    return torch.linalg.vector_norm(delta if weights is None else delta * weights, ord=p, dim=-1)


def _unweighted(move: _Move) -> Tensor:
    """Weights with ones in place of zeros: free elements have been moved before and no longer matter."""
    if move.weights is None:
        return torch.ones_like(move.base[..., :1])
    return torch.where(move.weights == 0, 1.0, move.weights)


def _plain(
    rows: Tensor, a: Tensor, b: Tensor, full: Tensor, need: Tensor, rounding: Tensor, center: Tensor, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """p = 2 and infinity without weights, the centre inside the box: the everyday case, in few passes over the data."""
    size = rows.abs().amax(-1)
    size = torch.where(size > 0, size, torch.ones_like(size))
    unit = rows / size.unsqueeze(-1)
    high = (unit * full).abs()
    most = high.sum(-1) * size
    reachable = ~(most + rounding < need)  # NaN proves nothing
    target = torch.minimum(need, most).clamp(min=0)
    rate, direction = (unit.square(), unit) if p == 2 else (unit.abs(), unit.sign())
    step, slope = saturating_root(rate, None, high, target / size)
    delta = torch.maximum(torch.minimum(direction * -step.unsqueeze(-1), b), a)
    delta = torch.where(reachable.unsqueeze(-1), delta, full)
    if p == 2:
        multiplier = step / size
        missing = target + (rows * delta).nan_to_num().sum(-1)
        distance = (delta.square().sum(-1) + 2 * multiplier * missing).clamp(min=0).sqrt()
    else:
        multiplier = torch.where(slope > 0, 1 / torch.where(slope > 0, slope * size, 1.0), 0.0)
        distance = torch.where(need.isnan(), torch.nan, step)
    multiplier = torch.where(reachable, multiplier, 0.0)
    return torch.where(reachable, distance, torch.inf), center.unsqueeze(1) + delta, multiplier


def _euclid(move: _Move, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p = 2: ``δ(t) = clip(−t·row/w², box)``; the distance is ``√(2·dual(t))``."""
    weights = _unweighted(move)
    size = torch.where(move.movable, move.rows / weights, 0.0).abs().amax(-1, keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    scaled = torch.where(move.movable, move.rows / weights / size, 0.0)
    low = (scaled * move.base * weights).abs()
    high = torch.where(move.movable, (scaled * weights).abs() * move.full.abs(), 0.0)
    goal = target / size.squeeze(-1) + low.sum(-1)
    # the bracket needs finite ends: no element alone has to go beyond the whole target
    endless = (torch.isinf(high).any(-1) & (low != 0).any(-1)).unsqueeze(-1)
    high = torch.where(endless, torch.minimum(high, low + goal.unsqueeze(-1).clamp(min=0)), high)
    step, _ = saturating_root(scaled.square(), low, high, goal)
    ends = torch.minimum(move.base, move.full), torch.maximum(move.base, move.full)
    delta = torch.maximum(torch.minimum(-step.unsqueeze(-1) * scaled / weights, ends[1]), ends[0])
    delta = torch.where(move.movable, delta, move.base)
    spent = delta if move.weights is None else torch.where(move.weights == 0, 0.0, delta * move.weights)
    missing = target - torch.where(move.movable, move.rows * (move.base - delta), 0.0).sum(-1)
    multiplier = step / size.squeeze(-1)
    dual = spent.square().sum(-1) + 2 * multiplier * missing
    return dual.clamp(min=0).sqrt(), delta, multiplier


def _largest(move: _Move, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p = infinity: every element may use the whole distance T, so the gain is concave in T from the box's own on.

    A Newton step from the left is the dual's value at the multiplier ``1/slope``, hence itself a lower bound.
    """
    weights = _unweighted(move)
    counted = move.base if move.weights is None else torch.where(move.weights == 0, 0.0, move.base * move.weights)
    start = counted.abs().amax(-1)
    rate = torch.where(move.movable, move.rows.abs() / weights, 0.0)
    high = torch.where(move.movable, move.rows.abs() * move.full.abs(), 0.0)
    low = torch.where(move.movable, move.rows.abs() * move.base.abs(), 0.0)
    length, slope = saturating_root(rate, None, high, target + low.sum(-1), start)
    reach = length.unsqueeze(-1) / weights
    ends = torch.minimum(move.base, move.full), torch.maximum(move.base, move.full)
    delta = torch.maximum(torch.minimum(-move.rows.sign() * reach, ends[1]), ends[0])
    delta = torch.where(move.movable, delta, move.base)
    return length, delta, torch.where(slope > 0, 1 / torch.where(slope > 0, slope, 1.0), 0.0)


def _sum(move: _Move, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p = 1: the elements with the largest ``|row|/w`` move first; the last, moved in part, gives the multiplier."""
    weights = _unweighted(move)
    density = torch.where(move.movable, move.rows.abs() / weights, 0.0)
    amount = fill(density, move.gain, target.clamp(min=0))
    last = torch.where(amount > 0, density, torch.inf).amin(-1)
    last = torch.where(torch.isinf(last), density.amax(-1), last)
    multiplier = torch.where(last > 0, 1 / torch.where(last > 0, last, 1.0), 0.0)
    steeper = density > last.unsqueeze(-1)
    room = torch.where(steeper, (move.full - move.base).abs(), 0.0)
    saving = ((weights - multiplier.unsqueeze(-1) * move.rows.abs()) * room).sum(-1)
    dual = _norm(move.base, 1, move.weights) + multiplier * target + saving
    return dual, move.after(amount), multiplier


def _count(move: _Move, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p = 0: the largest gains first. Equal weights: their number; otherwise the fractional relaxation."""
    cost = torch.ones_like(move.rows) if move.weights is None else move.weights.expand_as(move.rows)
    taken = torch.where((cost == 0) | ~move.movable, 0.0, move.gain)
    density = torch.where(cost > 0, taken / torch.where(cost > 0, cost, 1.0), 0.0)
    amount = fill(density, taken, target.clamp(min=0))
    # an element that only makes up for rounding is not proven to be needed
    needed = fill(density, taken, (target - move.threshold).clamp(min=0))
    share = torch.where((needed > 0) & torch.isfinite(taken), needed / torch.where(needed > 0, taken, 1.0), 0.0)
    share = torch.where(common_weight(cost).isnan().unsqueeze(-1), share, (needed > 0).to(cost.dtype))
    base = _norm(move.base, 0, move.weights)
    return base + (cost * share).sum(-1), move.after(amount), torch.zeros_like(target)
