"""The fractional knapsack: a budget is spent on the densest items first, the last one in part."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

#: items sorted at first where few of them have to be bought, and the factor where they do not do
FEW, MORE = 64, 4


def common_weight(cost: Tensor) -> Tensor:
    """``(…)`` the one value of all positive weights of a row ``(…, n)``, 1 where there are none, NaN where they differ:
    then counting is a knapsack."""
    least = torch.where(cost > 0, cost, torch.inf).amin(-1)
    least = torch.where(least.isinf(), 1.0, least)
    return torch.where((cost <= least.unsqueeze(-1)).all(-1), least, torch.nan)


def fill(density: Tensor, cost: Tensor, budget: Tensor) -> Tensor:
    """Spend a budget on items in the order of density, the last one in part.

    Args:
        density: ``(…, n)``; items of density zero get nothing.
        cost: ``(…, n)`` what the whole item costs, non-negative, may be infinite.
        budget: ``(…)`` or broadcastable to it, non-negative, may be infinite.

    Returns:
        What is spent on each item, ``(…, n)``.
    """
    size = density.shape[-1]
    budget = budget.expand(density.shape[:-1]).reshape(-1)
    return fill_with(_spent, density.reshape(-1, size), cost.reshape(-1, size), budget).reshape(density.shape)


def fill_with(
    amount: Callable[..., Tensor], density: Tensor, cost: Tensor, budget: Tensor, *columns: Tensor, few: int = FEW
) -> Tensor:
    """What follows from :func:`fill`, for the few items that get something: the others get zero.

    Args:
        amount: from what is spent on items ``(L, k)``, what they cost ``(L, k)`` and further columns of them to what
            each of them gets, ``(L, k)``.
        density: ``(L, n)``.
        cost: ``(L, n)``.
        budget: ``(L,)``.
        columns: ``(L, n)`` what else ``amount`` needs of the items.
        few: how many items are sorted at first. Rows that need more get more, and no others: which of equal items are
            sorted to the front may depend on how many are asked for.

    Returns:
        Shape ``(L, n)``.
    """
    few = min(density.shape[-1], few)
    top, order = density.topk(few)
    taken = cost.gather(-1, order)
    before = functional.pad(taken[..., :-1].cumsum(-1), (1, 0))
    limit = budget.unsqueeze(-1)
    left = torch.where(torch.isinf(limit), torch.inf, limit - before)
    spent = torch.where(top > 0, torch.minimum(left.clamp(min=0), taken), torch.zeros_like(taken))
    gets = amount(spent, taken, *(column.gather(-1, order) for column in columns))
    filled = torch.zeros_like(density).scatter(-1, order, gets)
    if few == density.shape[-1]:
        return filled
    rest = ((taken.sum(-1) < budget) & (top[..., -1] > 0)).nonzero().flatten()
    if not len(rest):
        return filled
    again = (t[rest] for t in (density, cost, budget, *columns))
    return filled.index_copy(0, rest, fill_with(amount, *again, few=MORE * few))


def _spent(spent: Tensor, cost: Tensor) -> Tensor:
    return spent
