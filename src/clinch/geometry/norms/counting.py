"""``‖δ‖_0``, the number of changed elements, or the sum of their weights: no norm, but used like one.

Whole elements are bought, those of the largest gain per weight first. With unequal weights this is a knapsack, which is
relaxed: a valid bound, exact where all positive weights are equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.geometry.knapsack import common_weight, fill, fill_with
from clinch.geometry.norms.base import Encoded, HalfspaceMove, Norm, clip, corner, most_of, norm_of, register
from clinch.geometry.norms.taxicab import largest_alone


@register
class CountingNorm(Norm):
    """p = 0."""

    p = like = 0.0
    encoded = Encoded.COUNTING
    counts = True
    sparse = True

    @classmethod
    def make(cls, p: float) -> Norm | None:
        """See :meth:`Norm.make`."""
        return CountingNorm() if p == 0 else None

    def of(self, values: Tensor) -> Tensor:
        """See :meth:`Norm.of`; no gradient flows."""
        return (values != 0).to(values.dtype).sum(-1)

    @property
    def dual(self) -> Norm:
        """That of the sum of sizes, as counting has none."""
        return norm_of(torch.inf)

    def value(self, delta: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Norm.value`: ``Σ_i w_i [δ_i ≠ 0]``."""
        changed = (delta != 0).to(delta.dtype)
        return (changed if weights is None else changed * weights).flatten(1).sum(1)

    def proximal(self, delta: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`Norm.proximal`: an element stays where it saves more than it costs."""
        return torch.where(delta.square() > 2 * weight.unsqueeze(1), delta, 0.0)

    def euclidean(self, radius: Tensor, size: int) -> Tensor:
        """See :meth:`Norm.euclidean`: changed elements count as one each."""
        return radius.sqrt()

    def length(self, delta: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Norm.length`."""
        changed = (delta != 0).to(delta.dtype)
        return (changed if weights is None else changed * weights).sum(-1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See :meth:`Norm.steepest`: there is no unit length, so that it takes the direction of p = 1."""
        return largest_alone(gradient)

    def project(
        self, z: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> Tensor:
        """See :meth:`Norm.project`: ``gain_i = z_i² − (z_i − clip(z_i))²`` is what changing element i saves; with
        unequal weights the greedy choice of the knapsack."""
        cost = torch.ones_like(z) if weights is None else weights.expand_as(z)
        free = (cost == 0) | (base != 0)
        budget = (radius - torch.where(base != 0, cost, 0.0).sum(1)).clamp(min=0)
        target = clip(z, lower, upper)
        gain = torch.where(free, 0.0, (z.square() - (z - target).square()).clamp(min=0))
        spent = fill(gain / torch.where(free, 1.0, cost), torch.where(free, 0.0, cost), budget)
        return torch.where(free | ((spent >= cost) & (gain > 0)), target, torch.zeros_like(z))

    def linear_minimum(
        self, rows: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.linear_minimum`: elements whose box excludes the centre are changed anyway and hence free,
        like those of weight zero."""
        cost = torch.ones_like(lower) if weights is None else weights
        forced = base != 0
        nearest = (cost * forced).sum(-1)
        budget = (radius - nearest).clamp(min=0)
        unit = common_weight(cost)
        budget = torch.where(unit > 0, (budget / unit).floor() * unit, budget)
        full = corner(rows, lower, upper, base)
        gain = torch.where(rows == 0, 0.0, -rows * full)
        free = forced | (cost == 0)
        open_cost = torch.where(free, 0.0, cost).expand_as(gain)
        density = torch.where(free, 0.0, gain / torch.where(free, 1.0, cost))
        spent = fill(density, open_cost, budget)
        share = torch.where(free, 1.0, spent / torch.where(free, 1.0, cost))
        delta = torch.where(share > 0, torch.where(share < 1, share * full, full), torch.zeros_like(full))
        return delta, torch.zeros_like(radius), nearest > radius

    def halfspace(self, move: HalfspaceMove, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Norm.halfspace`: the largest gains first. Equal weights: their number; otherwise the fractional
        relaxation. There is no multiplier."""
        cost = torch.ones_like(move.rows) if move.weights is None else move.weights.expand_as(move.rows)
        taken = torch.where((cost == 0) | ~move.movable, 0.0, move.gain)
        density = torch.where(cost > 0, taken / torch.where(cost > 0, cost, 1.0), 0.0)
        amount = fill(density, taken, target.clamp(min=0))
        # an element that only makes up for rounding is not proven to be needed
        needed = fill(density, taken, (target - move.threshold).clamp(min=0))
        share = torch.where((needed > 0) & torch.isfinite(taken), needed / torch.where(needed > 0, taken, 1.0), 0.0)
        share = torch.where(common_weight(cost).isnan().unsqueeze(-1), share, (needed > 0).to(cost.dtype))
        base = self.length(move.base, move.weights)
        return base + (cost * share).sum(-1), move.after(amount), torch.zeros_like(target)

    def min_norm_step(self, gradient: Tensor, need: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """See :meth:`Norm.min_norm_step`: whole elements, those of the largest gain first."""
        gain = most_of(gradient, lower, upper)
        return fill_with(_whole, gain, gain, need, gradient, lower, upper)

    def max_descent_step(self, gradient: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """See :meth:`Norm.max_descent_step`: the ``radius`` elements of largest gain at their ends."""
        gain = most_of(gradient, lower, upper)
        rank = radius.long().clamp(1, gain.shape[1]).unsqueeze(1)
        least = gain.topk(int(rank.max()) if len(rank) else 1, dim=1).values.gather(1, rank - 1)
        least = torch.where(radius.unsqueeze(1) >= 1, least.clamp(min=torch.finfo(gain.dtype).tiny), torch.inf)
        chosen = gain >= least
        if bool((chosen.sum(1, keepdim=True) > rank).any()):  # of equal ones the first, however many the others take
            more, equal = gain > least, gain == least
            chosen = more | (equal & (equal.cumsum(1) <= rank - more.sum(1, keepdim=True)))
        return torch.where(gradient > 0, lower, upper) * chosen

    def reach(self, away: Tensor, radius: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`Norm.reach`: an element that cannot pay stays at the centre."""
        spent = torch.where(away > 0, weights, 0.0)
        left = radius - (spent.sum(1, keepdim=True) - spent)
        return torch.where(left >= weights, torch.inf, torch.where(left >= 0, 0.0, -torch.inf))


def _whole(spent: Tensor, cost: Tensor, gradient: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The ends of elements that anything is spent on."""
    return torch.where(spent > 0, torch.where(gradient > 0, lower, upper), 0.0)
