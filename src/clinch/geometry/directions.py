"""Directions of steepest ascent in a norm, and the best points of a region in a direction."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.geometry.linear_minimum import flatten_ball, linear_minimum
from clinch.geometry.norms import Norm, norm_of
from clinch.geometry.region import Ball, Region


def steepest_direction(gradient: Tensor, p: float | Norm, weights: Tensor | None = None) -> Tensor:
    """The direction of unit length that gains most: ``argmax <g, v>  subject to  ‖w ⊙ v‖_p <= 1``.

    ``v = sign(g)·|g/w|^(q−1)/‖g/w‖_q^(q−1)/w`` with ``q = p/(p−1)``: for p = inf ``sign(g)/w``, for p = 2
    ``(g/w²)/‖g/w‖₂``, for p = 1 ``sign(g_i)/w_i · e_i`` at ``i = argmax |g_i|/w_i`` (Balda et al. 2018, arXiv
    1803.03607, proposition 2; the weights are ours). p = 0 has no unit length: it takes the direction of p = 1.
    Elements of weight zero cost nothing and are left alone.

    Args:
        gradient: ``(B, *shape)``.
        p: 0, any number from 1 on, or infinity.
        weights: ``(B, *shape)``, non-negative; None stands for ones.

    Returns:
        Shape ``(B, *shape)``; zero where the gradient is zero.

    Example:
        >>> steepest_direction(torch.tensor([[3.0, -4.0]]), 2)
        tensor([[ 0.6000, -0.8000]])
    """
    scaled = gradient.flatten(1)
    w = None if weights is None else weights.flatten(1)
    inverse = None if w is None else torch.where(w > 0, 1 / torch.where(w > 0, w, 1.0), 0.0)
    if inverse is not None:
        scaled = scaled * inverse
    unit = norm_of(p).steepest(scaled)
    if inverse is not None:
        unit = unit * inverse
    return unit.reshape(gradient.shape)


def sparse_direction(gradient: Tensor, count: Tensor) -> Tensor:
    """Equal changes of the elements that gain most, of unit length for p = 1: ``v_i = sign(g_i)/k`` for the k largest
    ``|g_i|`` (Croce and Hein 2021, arXiv 2103.01208, section 4.1).

    Args:
        gradient: ``(B, *shape)``.
        count: ``(B,)`` numbers of elements k, at least 1; fewer where fewer are not zero.

    Returns:
        Shape ``(B, *shape)``; zero where the gradient is zero.

    Example:
        >>> sparse_direction(torch.tensor([[3.0, -4.0, 1.0]]), torch.tensor([2]))
        tensor([[ 0.5000, -0.5000,  0.0000]])
    """
    size = gradient.flatten(1).abs()
    rank = count.long().clamp(1, size.shape[1]) - 1
    least = size.topk(int(rank.max()) + 1 if len(rank) else 1, dim=1).values.gather(1, rank.unsqueeze(1))
    unit = gradient.flatten(1).sign() * (size >= least)
    return (unit / unit.abs().sum(1, keepdim=True).clamp(min=1)).reshape(gradient.shape)


def with_room(gradient: Tensor, x: Tensor, region: Region) -> Tensor:
    """The gradient where a step against it does not leave the region's limits at once, zero elsewhere.

    Args:
        gradient: ``(B, *shape)``.
        x: ``(B, *shape)``.
        region: B regions; only their limits count.
    """
    room = torch.where(gradient > 0, x > region.lower, x < region.upper)
    return torch.where(room, gradient, 0.0)


def linear_maximiser(gradient: Tensor, lower: Tensor, upper: Tensor, ball: Ball) -> Tensor:
    """The point of box ∩ ball with the largest ``<g, x>``.

    Args:
        gradient: ``(B, *shape)``.
        lower: ``(B, *shape)``.
        upper: ``(B, *shape)``.
        ball: with centre and weights of shape ``(B, *shape)``.

    Returns:
        Shape ``(B, *shape)``.
    """
    rows = -gradient.detach().flatten(1).unsqueeze(1)
    point = linear_minimum(rows, lower.flatten(1), upper.flatten(1), flatten_ball(ball))[1]
    return point.squeeze(1).reshape(gradient.shape)
