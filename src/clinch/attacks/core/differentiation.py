"""Gradients of what a network says about points, row by row: zero where there are none or they are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: losses up to which one backward pass after the other is quicker than all in one
FEW = 2


def in_order(parts: Sequence[Tensor], rows: list[Tensor] | None) -> Tensor:
    """Parts after each other, or in the order of their rows."""
    if len(parts) == 1:
        return parts[0]
    found = torch.cat(list(parts))
    return found if rows is None else torch.empty_like(found).index_copy_(0, torch.cat(rows), found)


def gradient_of(value: Tensor, z: Tensor) -> Tensor:
    """``(L, *input_shape)`` for values ``(L,)``."""
    if not value.requires_grad:
        return torch.zeros_like(z)
    total = value.sum()
    if not math.isfinite(total.item()):
        total = torch.where(value.isfinite(), value, torch.zeros_like(value)).sum()
    (gradient,) = torch.autograd.grad(total, z, allow_unused=True)
    if gradient is None:
        return torch.zeros_like(z)
    return gradient if math.isfinite(gradient.sum().item()) else gradient.nan_to_num(0.0, 0.0, 0.0)


def gradients_of(values: Tensor, z: Tensor) -> Tensor:
    """``(L, M, *input_shape)`` for values ``(L, M)``, row by row."""
    if not values.requires_grad:
        return z.new_zeros(len(z), values.shape[1], *z.shape[1:])
    finite = torch.where(values.isfinite(), values, torch.zeros_like(values))
    if values.shape[1] <= FEW:
        each = [
            torch.autograd.grad(column.sum(), z, retain_graph=True, allow_unused=True)[0]
            for column in (finite[:, k] for k in range(finite.shape[1]))
        ]
        each = [torch.zeros_like(z) if gradient is None else gradient for gradient in each]
        return torch.stack(each, 1).nan_to_num(0.0, 0.0, 0.0)
    picks = torch.eye(values.shape[1], dtype=finite.dtype, device=z.device).unsqueeze(1).expand(-1, len(z), -1)
    (gradients,) = torch.autograd.grad(finite, z, picks, is_grads_batched=True, allow_unused=True)
    if gradients is None:
        return z.new_zeros(len(z), values.shape[1], *z.shape[1:])
    return gradients.transpose(0, 1).nan_to_num(0.0, 0.0, 0.0)
