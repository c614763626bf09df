"""Regions for people who call a bound by itself: a box, or a ball inside a box."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from clinch.errors import EmptyRegionError, NonFiniteError, ShapeError
from clinch.geometry.norms import Norm, norm_of
from clinch.geometry.region import Ball, Region
from clinch.runtime.arguments import as_tensor
from clinch.runtime.devices import usable_device


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
    low = _placed(lower, device, "lower")
    high = _placed(upper, low.device, "upper")
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
    norm: float | str,
    *,
    lower: Any = None,
    upper: Any = None,
    device: torch.device | str | None = None,
) -> Region:
    """``{‖x − center‖_p <= radius} ∩ {lower <= x <= upper}`` for each input of a batch.

    Args:
        center: ``(B, *input_shape)``.
        radius: a number, one per input ``(B,)``, or one per element, ``(1, *input_shape)`` or
            ``(B, *input_shape)``: then ``{‖(x − center)/radius‖_p <= 1}``, for p = infinity a box; where it is 0 the
            element stays at the centre.
        norm: p: 0, any number from 1 on, or infinity.
        lower: a number or ``(B, *input_shape)``; None: no limit.
        upper: a number or ``(B, *input_shape)``; None: no limit.
        device: where bounds over the region are computed; None: where ``center`` is.

    Raises:
        ShapeError, NonFiniteError, EmptyRegionError, ProblemError: as :func:`box`; also for what is no norm.

    Example:
        >>> ball(torch.zeros(1, 3), 0.1, math.inf, lower=0, upper=1).upper
        tensor([[0.1000, 0.1000, 0.1000]], dtype=torch.float64)
    """
    kind = norm_of(norm)
    middle = _placed(center, device, "center")
    if middle.dim() < 2:
        raise ShapeError(f"center has shape {tuple(middle.shape)}; give (B, *input_shape), for one input center[None].")
    if not bool(torch.isfinite(middle).all()):
        raise NonFiniteError("center contains NaN or infinity; remove it.")
    reach = _placed(radius, middle.device, "radius")
    if not bool((reach >= 0).all()):
        raise EmptyRegionError("radius is negative or NaN; give a radius of zero or more.")
    lowest, highest = (-math.inf if lower is None else lower), (math.inf if upper is None else upper)
    whole = box(_filled(lowest, middle, "lower"), _filled(highest, middle, "upper"))
    if tuple(reach.shape) in ((), (len(middle),)):
        region = whole.within(Ball(middle, reach.expand(len(middle)), kind.p))
    else:
        region = _stretched(whole, middle, reach, kind)
    if bool((region.lower > region.upper).any()):
        raise EmptyRegionError(
            f"The ball does not meet the box: the centre ranges from {float(middle.min()):.4g} to "
            f"{float(middle.max()):.4g}, the box from {float(whole.lower.min()):.4g} to "
            f"{float(whole.upper.max()):.4g}. Give both in the same units, or enlarge the radius."
        )
    return region


def _stretched(whole: Region, middle: Tensor, reach: Tensor, norm: Norm) -> Region:
    """The part of a box inside a ball with a radius for each element."""
    shape = tuple(middle.shape)
    if tuple(reach.shape) not in ((1, *shape[1:]), shape):
        one = " Here write radius[None]." if tuple(reach.shape) == shape[1:] else ""
        raise ShapeError(
            f"radius has shape {tuple(reach.shape)}; give one number, ({len(middle)},) for one per input, or "
            f"{(1, *shape[1:])} or {shape} for one per element.{one}"
        )
    if norm.counts:
        raise ShapeError("A ball of p = 0 counts elements: its radius is one number per input, not one per element.")
    reach = reach.expand_as(middle)
    region = Region(torch.maximum(whole.lower, middle - reach), torch.minimum(whole.upper, middle + reach))
    if norm.is_box:
        return region
    weights = torch.where((reach > 0) & reach.isfinite(), 1 / torch.where(reach > 0, reach, 1.0), 0.0)
    return region.within(Ball(middle, middle.new_ones(len(middle)), norm.p, weights))


def _filled(limit: Any, like: Tensor, name: str) -> Tensor:
    tensor = _placed(limit, like.device, name)
    try:
        return tensor.expand_as(like).clone()
    except RuntimeError:
        raise ShapeError(
            f"{name} has shape {tuple(tensor.shape)}; give a number or an array of shape {tuple(like.shape)}."
        ) from None


def _placed(value: Any, device: torch.device | str | None, name: str) -> Tensor:
    """As float64 on the device; None: where it is."""
    tensor = as_tensor(value, name, "a number or an array").to(torch.float64)
    return tensor.to(tensor.device if device is None else usable_device(device))
