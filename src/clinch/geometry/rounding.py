"""Rounding to a model's dtype towards the inside of an interval, so that every corner of a box is an input."""

from __future__ import annotations

import torch
from torch import Tensor


def round_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest numbers of the dtype that are not above the given float64 numbers, as float64.

    Example:
        >>> float(round_down(torch.tensor([0.6], dtype=torch.float64), torch.float32)) <= 0.6
        True
    """
    rounded = values.to(dtype)
    below = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded.to(torch.float64) > values, below, rounded).to(torch.float64)


def round_towards(values: Tensor, center: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers of a narrower dtype next to the given ones, and no farther from the centre, element by element.

    Args:
        values: of a wider dtype.
        center: of the same dtype and shape, each a number of the narrower one.
        dtype: the narrower one.
    """
    rounded = values.to(dtype)
    beyond = (rounded.to(values) - center).abs() > (values - center).abs()
    return torch.where(beyond, torch.nextafter(rounded, center.to(dtype)), rounded)


def round_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest numbers of the dtype that are not below the given float64 numbers, as float64."""
    return -round_down(-values, dtype)
