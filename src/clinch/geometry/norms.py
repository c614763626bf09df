"""Weighted p-norms, p = 0 and every p >= 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: the norms that can be stated in a problem, and projected onto
NORMS = (0.0, 1.0, 2.0, math.inf)


def norm(delta: Tensor, p: float, weights: Tensor | None = None) -> Tensor:
    """``‖w ⊙ δ‖_p`` over all but the first axis; for p = 0 ``Σ_i w_i [δ_i ≠ 0]``.

    Args:
        delta: ``(B, *shape)``.
        p: 0, any number from 1 on, or infinity.
        weights: broadcastable to delta, non-negative; None stands for ones.

    Returns:
        Shape ``(B,)``.

    Example:
        >>> norm(torch.tensor([[3.0, -4.0]]), 2)
        tensor([5.])
    """
    if p == 0:
        changed = (delta != 0).to(delta.dtype)
        return (changed if weights is None else changed * weights).flatten(1).sum(1)
    scaled = (delta if weights is None else delta * weights).flatten(1)
    if p == 1:
        return scaled.abs().sum(1)
    if p == 2:
        return torch.linalg.vector_norm(scaled, dim=1)
    if p != math.inf:
        return torch.linalg.vector_norm(scaled, ord=p, dim=1)
    return scaled.abs().amax(1) if scaled.shape[1] else scaled.new_zeros(scaled.shape[0])


def dual_exponent(p: float) -> float:
    """``q`` with ``1/p + 1/q = 1``, for p >= 1."""
    if p == 1:
        return math.inf
    return 1.0 if p == math.inf else p / (p - 1)
