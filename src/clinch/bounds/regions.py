"""Regions for people who call a bound by itself: a box, or a ball inside a box."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from clinch.devices import usable_device
from clinch.errors import EmptyRegionError, NonFiniteError, ShapeError
from clinch.geometry.norms import NORMS
from clinch.geometry.region import Ball, Region


def box(lower: Any, upper: Any, *, device: torch.device | str | None = None) -> Region:
    """``{lower <= x <= upper}`` for each input of a batch.

    Args:
        lower: ``(B, *input_shape)``.
        upper: same shape.
        device: where bounds over the region are computed, such as ``"cuda"``; None: where ``lower`` is.

    Raises:
        ShapeError: the shapes differ. NonFiniteError: NaN. EmptyRegionError: a lower limit above its upper limit.
        ProblemError: there is no such device.

    Example:
        >>> box(torch.zeros(2, 3), torch.ones(2, 3)).size
        2
    """
    low = _placed(lower, device)
    high = _placed(upper, low.device)
    if low.shape != high.shape:
        raise ShapeError(f"lower has shape {tuple(low.shape)}, upper {tuple(high.shape)}; give both (B, *input_shape).")
    if bool(torch.isnan(low).any() or torch.isnan(high).any()):
        raise NonFiniteError("lower or upper contains NaN; remove it.")
    if bool((low > high).any()):
        at = tuple((low > high).nonzero()[0].tolist())
        raise EmptyRegionError(f"lower is above upper at {at}: {low[at].item():g} > {high[at].item():g}.")
    return Region(low, high)


def ball(
    center: Any,
    radius: Any,
    norm: float,
    *,
    lower: Any = -math.inf,
    upper: Any = math.inf,
    device: torch.device | str | None = None,
) -> Region:
    """``{‖x − center‖_p <= radius} ∩ {lower <= x <= upper}`` for each input of a batch.

    Args:
        center: ``(B, *input_shape)``.
        radius: a number, or one per input ``(B,)``.
        norm: p: 0, 1, 2 or infinity.
        lower: a number or ``(B, *input_shape)``.
        upper: a number or ``(B, *input_shape)``.
        device: where bounds over the region are computed; None: where ``center`` is.

    Raises:
        ShapeError, NonFiniteError, EmptyRegionError, ProblemError: as :func:`box`; also for a norm that is none of the
            four.

    Example:
        >>> ball(torch.zeros(1, 3), 0.1, math.inf, lower=0, upper=1).upper
        tensor([[0.1000, 0.1000, 0.1000]], dtype=torch.float64)
    """
    if float(norm) not in NORMS:
        raise ShapeError(f"norm is {norm}; choose 0, 1, 2 or infinity.")
    middle = _placed(center, device)
    if not bool(torch.isfinite(middle).all()):
        raise NonFiniteError("center contains NaN or infinity; remove it.")
    reach = torch.as_tensor(radius, dtype=torch.float64).detach().to(middle).expand(middle.shape[0])
    if not bool((reach >= 0).all()):
        raise EmptyRegionError("radius is negative or NaN; give a radius of zero or more.")
    whole = box(_filled(lower, middle), _filled(upper, middle))
    region = whole.within(Ball(middle, reach, float(norm)))
    if bool((region.lower > region.upper).any()):
        raise EmptyRegionError("The ball does not meet the box; enlarge the radius or the limits.")
    return region


def _filled(limit: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(limit, dtype=torch.float64).detach().to(like).expand_as(like).clone()


def _placed(value: Any, device: torch.device | str | None) -> Tensor:
    """As float64 on the device; None: where it is."""
    tensor = torch.as_tensor(value, dtype=torch.float64).detach()
    return tensor.to(tensor.device if device is None else usable_device(device))
