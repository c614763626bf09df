"""What may change of an input, and by how much: one meaning for every attack on labels.

A mask, a reach and a grid of each element, or pixels in place of elements where changes are counted. They travel with
the network from where an attack is called to where its objective is made, so that no attack says anything about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clinch.errors import ProblemError, ShapeError
from clinch.geometry.norms import norm_of, pixel_count
from clinch.geometry.region import Region
from clinch.geometry.rounding import round_down, round_up
from clinch.runtime.arguments import as_tensor, checked_range, within_range

#: how far outside its own limits an element counts as rounding, in roundings of its dtype relative to their size
ROUNDING = 8


@dataclass(frozen=True)
class InputLimits:
    """Of the inputs of one attack, as users write them; None: no such limit.

    Attributes:
        mask: where elements may change.
        reach: how far each may move.
        grid: spacing of the values that each may take.
        pixels: whether p = 0 counts pixels.
    """

    mask: Any = None
    reach: Any = None
    grid: Any = None
    pixels: bool | None = None


#: none of them
NO_LIMITS = InputLimits()


@dataclass(frozen=True)
class Limited:
    """A classifier with limits of its inputs."""

    net: Any
    limits: InputLimits


def counting(p: float, limits: InputLimits, x: Tensor) -> float:
    """p, or that of the norm that counts pixels.

    Raises:
        ProblemError: pixels of another norm, or of inputs that are no images.
    """
    if not limits.pixels:
        return p
    if not norm_of(p).counts:
        raise ProblemError(f"pixels=True counts changed pixels, and norm={p:g} measures sizes. Write norm=0.")
    if x.dim() != 4:
        raise ProblemError(f"pixels=True needs images (B, channels, height, width); x has shape {tuple(x.shape)}.")
    return pixel_count(x.shape[1])


def inside(x: Tensor, bounds: Any, dtype: torch.dtype) -> Tensor:
    """Inputs ``(B, *input_shape)`` of which what lies outside their range by rounding is clipped.

    Args:
        x: the inputs.
        bounds: two numbers, or tensors that broadcast to x; None: no limits.
        dtype: the model's.

    Raises:
        ProblemError, ShapeError: what does not fit; the message says what to write.
    """
    if bounds is None:
        return x
    if not _of_elements(bounds):
        return within_range(x, *checked_range(bounds), dtype)
    low, high = (_like("bounds", side, x) for side in bounds)
    if not bool((low <= high).all()):
        raise ProblemError("bounds hold an element whose lowest value is above its highest, or NaN. Check their order.")
    clipped = torch.clamp(x.double(), low, high)
    sizes = torch.where(low.isfinite(), low.abs(), 0.0) + torch.where(high.isfinite(), high.abs(), 0.0)
    far = (clipped - x.double()).abs() > ROUNDING * torch.finfo(dtype).eps * sizes
    if bool(far.any()):
        place = tuple(far.nonzero()[0].tolist())
        raise ProblemError(f"x{list(place)} = {float(x[place]):.4g} lies outside bounds. Pass the range of your data.")
    return clipped.to(x.dtype if x.is_floating_point() else dtype)


def box_of(x: Tensor, bounds: Any, limits: InputLimits) -> Region:
    """Where points must stay, in the dtype of inputs ``(B, *input_shape)`` that lie in their range: a box of one input
    where all have the same.

    Raises:
        ProblemError, ShapeError: see :func:`inside`.
    """
    if bounds is None:
        bounds = (-torch.inf, torch.inf)
    elif not _of_elements(bounds):
        bounds = checked_range(bounds)
    if limits.mask is None and limits.reach is None and not _of_elements(bounds):
        low, high = (torch.full_like(x[:1], end) for end in bounds)
        return Region(low, high)
    low, high = (_like("bounds", side, x) for side in bounds)
    exact = x.double()
    if limits.reach is not None:
        reach = _like("reach", limits.reach, x)
        if not bool((reach >= 0).all()):
            raise ProblemError("reach= holds a negative number or NaN. Write how far each element may move, from 0 on.")
        low, high = torch.maximum(low, exact - reach), torch.minimum(high, exact + reach)
    if limits.mask is not None:
        may = _like("mask", limits.mask, x, torch.bool)
        low, high = torch.where(may, low, exact), torch.where(may, high, exact)
    # rounded inwards, but never past the input itself
    low, high = round_up(low, x.dtype).to(x), round_down(high, x.dtype).to(x)
    return Region(torch.minimum(low, x), torch.maximum(high, x))


def grid_of(x: Tensor, limits: InputLimits) -> Tensor | None:
    """Spacings that broadcast to x, infinity for an element that may take any value."""
    if limits.grid is None:
        return None
    grid = _like("grid", limits.grid, x).double()
    if not bool((grid >= 0).all()):
        raise ProblemError("grid= holds a negative number or NaN. Write spacings such as 1/255; 0 for any value.")
    return torch.where(grid > 0, grid, torch.nan)


def _of_elements(bounds: Any) -> bool:
    """Whether limits differ between elements."""
    try:
        return len(bounds) == 2 and any(getattr(side, "ndim", 0) for side in bounds)
    except TypeError:
        return False


def _like(name: str, value: Any, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of numbers, or of truth values, that broadcasts to x, ``(B, *input_shape)`` or ``(1, …)``."""
    found = as_tensor(value, name, "a tensor that broadcasts to x")
    if dtype is torch.bool and found.dtype != torch.bool:
        raise ProblemError(f"{name}= holds {found.dtype}, not truth values. Write True where an element may change.")
    found = found.to(x.device, dtype or torch.float64)
    shape = tuple(found.shape)
    try:
        fits = torch.broadcast_shapes(shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ShapeError(f"{name} has shape {shape}; expected one that broadcasts to x, {tuple(x.shape)}.")
    batch = len(x) if found.dim() == x.dim() and len(found) == len(x) else 1
    return found.expand(batch, *x.shape[1:])
