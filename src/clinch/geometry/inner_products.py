"""Inner products of many rows with one vector per problem: what every linear bound ends in."""

from __future__ import annotations

import torch
from torch import Tensor


def products(rows: Tensor, vectors: Tensor) -> Tensor:
    """``<rows[b, r], vectors[b]>`` for all problems b and rows r.

    Args:
        rows: ``(B, R, *shape)``; a batch of one is shared by all problems.
        vectors: ``(B, *shape)``, a batch of one likewise; or ``(B, R, *shape)`` where each row has its own.

    Returns:
        Shape ``(B, R)``; gradients flow to both.

    Example:
        >>> products(torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[3.0, 4.0]]))
        tensor([[11.,  4.]])
    """
    if vectors.dim() == rows.dim():
        return (rows * vectors).flatten(2).sum(2)
    flat, vector = rows.flatten(2), vectors.flatten(1)
    if flat.shape[0] == 1:
        return vector @ flat[0].T
    if vector.shape[0] == 1:
        return flat @ vector[0]
    # a row vector on the left: on the right of a batched product it is up to four times slower
    return torch.bmm(vector.unsqueeze(1), flat.transpose(1, 2)).squeeze(1)
