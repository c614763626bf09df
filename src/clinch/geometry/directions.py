"""Directions of steepest ascent in a norm, and the best points of a region in a direction."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.geometry.linear_minimum import flatten_ball, linear_minimum
from clinch.geometry.region import Ball


def steepest_direction(gradient: Tensor, p: float, weights: Tensor | None = None) -> Tensor:
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
    if p == torch.inf:
        unit = scaled.sign()
    elif p > 1:
        size = scaled.abs().amax(1, keepdim=True)
        scaled = scaled / torch.where(size > 0, size, 1.0)  # powers of tiny gradients would underflow
        scaled = scaled if p == 2 else scaled.sign() * scaled.abs().pow(1 / (p - 1))
        length = torch.linalg.vector_norm(scaled, ord=p, dim=1, keepdim=True)
        unit = scaled / torch.where(length > 0, length, 1.0)
    else:
        where = scaled.abs().argmax(1, keepdim=True)
        unit = torch.zeros_like(scaled).scatter(1, where, scaled.gather(1, where).sign())
    if inverse is not None:
        unit = unit * inverse
    return unit.reshape(gradient.shape)


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
