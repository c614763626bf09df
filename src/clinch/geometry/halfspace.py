"""The least distance from a centre to the part of a box behind a hyperplane: projection and certified bound in one.

``min ‖w ⊙ (x − center)‖_p  subject to  lower <= x <= upper,  <row, x> + constant <= 0``

With the linearised margin of a network this is the step of DeepFool (Moosavi-Dezfooli et al. 2016) and FAB (Croce and
Hein 2020), here exact with the box; with a proven linear relaxation it is a certified lower bound on the distance.

Every norm answers by one increasing function of one number: move each element in its useful direction until the
hyperplane is met (:mod:`clinch.geometry.norms`). Without weights, and with the centre inside the box, it does so in few
passes over the data.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.geometry.linear_minimum import BLOCK
from clinch.geometry.norms import norm_of
from clinch.geometry.norms.base import HalfspaceMove, InBox, Norm, corner


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
    p: float | Norm,
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
        p: 0, any number from 1 on, or infinity.
        weights: ``(B, n)``, non-negative; an element of weight zero is free. None stands for ones.

    Returns:
        distance, infinity where no point of the box satisfies the inequality; point, the corner that comes closest to
        satisfying it where none does; multiplier ``t >= 0`` of the Lagrangian ``D(x) + t·(<row, x> + constant)`` with
        ``D = ½‖·‖²`` for p = 2 and ``D = ‖·‖`` for other p (0 for p = 0, and where the inequality costs
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
    norm = norm_of(p)
    height = max(1, BLOCK // max(count * size, 1))
    parts = []
    with torch.no_grad():
        for i in range(0, batch, height):
            b = slice(i, i + height)
            parts.append(
                _block(
                    rows[b], constant[b], lower[b], upper[b], center[b], norm, None if weights is None else weights[b]
                )
            )
    if not parts:
        return Projection(rows.new_zeros(batch, count), rows.new_zeros(rows.shape), rows.new_zeros(batch, count))
    distance, point, multiplier = (torch.cat(column) for column in zip(*parts))
    if torch.is_grad_enabled() and (rows.requires_grad or constant.requires_grad):
        # d distance = t·d(<row, x> + constant) at the fixed minimiser
        scale = norm.dual_slope(multiplier, distance)
        change = (rows * point.nan_to_num()).sum(-1) + constant
        distance = distance + scale * (change - change.detach())
    return Projection(distance, point, multiplier)


def _block(
    rows: Tensor, constant: Tensor, lower: Tensor, upper: Tensor, center: Tensor, norm: Norm, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Distance ``(b, r)``, point ``(b, r, n)`` and multiplier ``(b, r)``."""
    if weights is None and norm.short_cut:
        plain = ((lower <= center) & (center <= upper)).all(1)
        if bool(plain.all()):
            return _in_box(rows, constant, lower, upper, center, norm)
        if bool(plain.any()):  # each problem by the method that it needs
            return _apart(plain, rows, constant, lower, upper, center, norm)
    a, b = (lower - center).unsqueeze(1), (upper - center).unsqueeze(1)
    scale = None if weights is None else weights.unsqueeze(1)
    base = torch.zeros_like(a).clamp(a, b)
    full = corner(rows, a, b, base)
    gain = rows.abs() * (full - base).abs()  # an element without use has full = base: no 0·inf
    need, rounding = _need(rows, base + center.unsqueeze(1), constant)
    whole = HalfspaceMove(rows, base.expand_as(full), full, gain, need, rounding, scale)
    move, free = whole.without_free(norm.counts)
    reachable = ~(move.gain.sum(-1) + rounding < move.need)  # NaN proves nothing
    target = torch.minimum(move.need, move.gain.sum(-1))
    away, moved, multiplier = norm.halfspace(move, target)
    here, nearest = target <= 0, norm.length(move.base, scale)
    distance = torch.where(here, nearest, torch.maximum(away, nearest))
    distance = torch.where(reachable, distance, torch.inf)
    multiplier = torch.where(here | ~reachable, 0.0, multiplier)
    moved = torch.where(here.unsqueeze(-1), move.base, moved)
    moved = torch.where(reachable.unsqueeze(-1), moved, full if free is None else torch.where(free, move.base, full))
    return distance, center.unsqueeze(1) + moved, multiplier


def _need(rows: Tensor, anchor: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
    """``(b, r)`` how far ``<row, x>`` at the anchor has to be lowered, and the rounding of that number.

    Where gain and need are equal both are at most the sum of sizes, and neither is off by more than this times that.
    """
    products = rows * anchor
    rounding = 32 * torch.finfo(rows.dtype).eps * (products.abs().sum(-1) + constant.abs())
    return products.sum(-1) + constant, rounding


def _in_box(
    rows: Tensor, constant: Tensor, lower: Tensor, upper: Tensor, center: Tensor, norm: Norm
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`_block` without weights, for centres inside the box: the everyday case, in few passes over the data."""
    middle = center.unsqueeze(1)
    need, rounding = _need(rows, middle, constant)
    below, above = (lower - center).unsqueeze(1), (upper - center).unsqueeze(1)
    finite = bool(torch.isfinite((above - below).sum()))
    distance, delta, multiplier = norm.halfspace_in_box(InBox(rows, below, above, need, rounding, finite))
    return distance, middle + delta, multiplier


def _apart(
    plain: Tensor, rows: Tensor, constant: Tensor, lower: Tensor, upper: Tensor, center: Tensor, norm: Norm
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`_block` for problems whose centre lies inside the box, and for the others."""
    found = constant.new_empty(constant.shape), rows.new_empty(rows.shape), constant.new_empty(constant.shape)
    for which in (plain, ~plain):
        part = _block(rows[which], constant[which], lower[which], upper[which], center[which], norm, None)
        for whole, piece in zip(found, part):
            whole[which] = piece
    return found
