"""Two moves that minimum-norm attacks are made of, for L offsets of n elements inside a box: as short as a linear
condition allows, and as far as a ball allows. Without weights, and quick: a few passes over the data.

:mod:`clinch.geometry` has the same with weights, centres outside the box and proven distances. Here arithmetic takes
the place of ``torch.where``, which is ten times slower than a product.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: secant steps on an increasing, concave and piecewise linear function
SECANTS = 5
#: what they may miss, relative to the goal, and the largest argument
CLOSE, FAR = 1e-5, 1e30
#: elements sorted at first where few of them have to move, and the factor where they do not do
FEW, MORE = 64, 4


def shortest(gradient: Tensor, need: Tensor, lower: Tensor, upper: Tensor, p: float) -> Tensor:
    """``argmin ‖δ‖_p  subject to  <g, δ> <= −need,  lower <= δ <= upper``; the best corner where that cannot be met.

    Within a per mille for p = 2 and infinity, a few percent where nearly the whole box is needed.

    Args:
        gradient: ``(L, n)``.
        need: ``(L,)``; where it is not positive nothing moves.
        lower: ``(L, n)``, at most 0.
        upper: ``(L, n)``, at least 0.
        p: 0, 1, 2 or infinity.

    Example:
        >>> box = torch.full((1, 2), 10.0)
        >>> shortest(torch.tensor([[3.0, -4.0]]), torch.tensor([5.0]), -box, box, 2)
        tensor([[-0.6000,  0.8000]])
    """
    gain = torch.maximum(gradient * -lower, gradient * -upper)
    if p < 2:
        return _fill(gradient, gain, need, lower, upper, by_gain=p == 0)
    rate, direction = (gradient.square(), gradient) if p == 2 else (gradient.abs(), gradient.sign())
    step = _root(rate, gain, need)
    return torch.clamp(direction * -step.unsqueeze(1), lower, upper)


def farthest(gradient: Tensor, radius: Tensor, lower: Tensor, upper: Tensor, p: float) -> Tensor:
    """``argmin <g, δ>  subject to  ‖δ‖_p <= radius,  lower <= δ <= upper``.

    Args and example: as :func:`shortest`, with radii ``(L,)``.
    """
    if p == torch.inf:
        return torch.clamp(gradient.sign() * -radius.unsqueeze(1), lower, upper)
    if p == 2:
        # Σ min(t²·g², end²) = radius², linear in t² between its kinks
        end = torch.maximum(gradient.sign() * -lower, gradient.sign() * -upper)
        step = _root(gradient.square(), end.square(), radius.square()).sqrt()
        return torch.clamp(gradient * -step.unsqueeze(1), lower, upper)
    gain = torch.maximum(gradient * -lower, gradient * -upper)
    return (_largest if p == 0 else _spend)(gradient, gain, radius, lower, upper)


def _root(rate: Tensor, high: Tensor, need: Tensor) -> Tensor:
    """About the smallest ``t >= 0`` with ``Σ min(t·rate, high) >= need``; a large one where there is none.

    Extrapolation by the last chord stays below the root, as the function is concave, and gets there fast.
    """
    need = need.clamp(min=0)
    tiny = torch.finfo(rate.dtype).tiny
    before, value = torch.zeros_like(need), torch.zeros_like(need)
    step = (need / rate.sum(1).clamp(min=tiny)).clamp(max=FAR)
    for _ in range(SECANTS):
        reached = torch.minimum(step.unsqueeze(1) * rate, high).sum(1)
        slope = (reached - value) / (step - before).clamp(min=tiny)
        missing = need - reached
        before, value = step, reached
        step = torch.where(missing > CLOSE * need, step + missing / slope.clamp(min=tiny), step)
        step = step.clamp(max=FAR)  # infinity times a gradient of zero would be NaN
    return step


def _fill(
    gradient: Tensor, gain: Tensor, need: Tensor, lower: Tensor, upper: Tensor, by_gain: bool, count: int = FEW
) -> Tensor:
    """Elements move to their ends, those of largest slope (p = 1) or gain (p = 0) first, until the need is met."""
    key = gain if by_gain else gain.sign() * gradient.abs()
    top, gains, total = _top(key, gain, count)
    before = total - gains
    share = ((need.unsqueeze(1) - before) / gains.clamp(min=torch.finfo(gain.dtype).tiny)).clamp(0, 1)
    share = share.ceil() if by_gain else share
    ends = _ends(gradient, lower, upper, top)
    moved = torch.zeros_like(gradient).scatter(1, top, share * ends)
    rest = _short(total, need, key.shape[1])
    if not len(rest):
        return moved
    columns = (t[rest] for t in (gradient, gain, need, lower, upper))
    return moved.index_copy(0, rest, _fill(*columns, by_gain=by_gain, count=MORE * count))


def _largest(gradient: Tensor, gain: Tensor, count: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The ``count`` elements of largest gain at their ends."""
    rank = count.long().clamp(1, gain.shape[1]).unsqueeze(1)
    least = gain.topk(int(rank.max()) if len(rank) else 1, dim=1).values.gather(1, rank - 1)
    least = torch.where(count.unsqueeze(1) >= 1, least.clamp(min=torch.finfo(gain.dtype).tiny), torch.inf)
    chosen = gain >= least
    if bool((chosen.sum(1, keepdim=True) > rank).any()):  # of equal ones the first, however many the others take
        more, equal = gain > least, gain == least
        chosen = more | (equal & (equal.cumsum(1) <= rank - more.sum(1, keepdim=True)))
    return torch.where(gradient > 0, lower, upper) * chosen


def _spend(gradient: Tensor, gain: Tensor, radius: Tensor, lower: Tensor, upper: Tensor, count: int = FEW) -> Tensor:
    """p = 1: elements of largest slope move to their ends until the radius is spent."""
    room = torch.maximum(gradient.sign() * -lower, gradient.sign() * -upper)
    top, rooms, total = _top(gain.sign() * gradient.abs(), room, count)
    amount = torch.minimum((radius.unsqueeze(1) - (total - rooms)).clamp(min=0), rooms)
    moved = torch.zeros_like(gradient).scatter(1, top, -amount * gradient.gather(1, top).sign())
    rest = _short(total, radius, gain.shape[1])
    if not len(rest):
        return moved
    columns = (t[rest] for t in (gradient, gain, radius, lower, upper))
    return moved.index_copy(0, rest, _spend(*columns, count=MORE * count))


def _top(key: Tensor, amount: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` elements of largest key, their amounts, and the running sums of those."""
    top = key.topk(min(count, key.shape[1]), dim=1).indices
    amounts = amount.gather(1, top)
    return top, amounts, amounts.cumsum(1)


def _short(total: Tensor, need: Tensor, size: int) -> Tensor:
    """Rows whose need the elements sorted so far do not meet, while there are others: they alone get more."""
    if total.shape[1] == size:
        return total.new_empty(0, dtype=torch.long)
    return (total[:, -1] < need).nonzero().flatten()


def _ends(gradient: Tensor, lower: Tensor, upper: Tensor, top: Tensor) -> Tensor:
    """Where the chosen elements go."""
    return torch.where(gradient.gather(1, top) > 0, lower.gather(1, top), upper.gather(1, top))
