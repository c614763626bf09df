"""Sliding windows: what convolution and pooling share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from clinch.network.ops.reading import Call

#: padding in front of and behind each spatial dimension
Padding = tuple[tuple[int, int], ...]


def spread(values: Sequence[int], spatial: int) -> tuple[int, ...]:
    """One number per spatial dimension: a single one stands for all."""
    return tuple(values) if len(values) == spatial else (values[0],) * spatial


def output_extent(
    extent: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int, ceil_mode: bool
) -> int:
    """Number of windows along one dimension; with ``ceil_mode`` the last may reach beyond the end."""
    room = extent + sum(padding) - dilation * (kernel - 1) - 1
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    # A window that starts in the padding behind the input is not counted (torch and ONNX agree on this).
    return count - 1 if ceil_mode and (count - 1) * stride >= extent + padding[0] else count


def flat_padding(padding: Padding) -> list[int]:
    """In the order of ``torch.nn.functional.pad``: last dimension first."""
    return [n for pair in reversed(padding) for n in pair]


@lru_cache(maxsize=64)
def taps(
    extents: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: Padding,
    dilation: tuple[int, ...], ceil_mode: bool,
) -> tuple[Tensor, tuple[int, ...]]:  # fmt: skip
    """Which input element each window reads at each of its positions.

    Returns:
        Flat positions ``(positions of the window, windows)``, −1 where it reads padding; and the spatial output shape.
    """
    flat = torch.zeros(1, 1, dtype=torch.long)
    inside = torch.ones(1, 1, dtype=torch.bool)
    out = []
    for n, k, s, p, d in zip(extents, kernel, stride, padding, dilation):
        count = output_extent(n, k, s, p, d, ceil_mode)
        at = torch.arange(k)[:, None] * d + torch.arange(count)[None] * s - p[0]
        valid = (at >= 0) & (at < n)
        # Kronecker sums over dimensions: (K, P) with (k, count) becomes (K·k, P·count).
        flat = (flat[:, None, :, None] * n + at[None, :, None, :]).flatten(0, 1).flatten(1, 2)
        inside = (inside[:, None, :, None] & valid[None, :, None, :]).flatten(0, 1).flatten(1, 2)
        out.append(count)
    return torch.where(inside, flat, -1), tuple(out)


def onnx_padding(
    call: Call, extents: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Padding:
    """The padding of an ONNX convolution or pool, from ``pads`` or ``auto_pad``."""
    mode = call.get("auto_pad", "NOTSET")
    spatial = len(extents)
    if mode in ("NOTSET", "VALID"):
        pads = call.ints("pads", [0] * (2 * spatial)) if mode == "NOTSET" else [0] * (2 * spatial)
        return tuple(zip(pads[:spatial], pads[spatial:]))
    result = []
    for n, k, s, d in zip(extents, kernel, stride, dilation):
        total = max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(result)
