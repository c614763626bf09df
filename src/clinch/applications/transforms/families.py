"""Changes of images with few parameters: what they do, and boxes that hold what they can do.

With a place p of the result, ``A(θ)`` the rotation by −θ and ``σ`` the scale, the changed image is

    x'(p) = m + (1 + c)·(B_t(x(A(θ)(p − s) / (1 + σ))) − m) + b·w,   clipped to the range,

x between its pixels bilinear and zero outside, s the shift, ``B_t(x) = x + |t|·(G x − x)`` with the binomial mean G of
3 × 3, m the range's middle and w its width. Over a box of parameters every place moves in a rectangle, on which a
bilinear function has its extremes where each coordinate is an end or whole; the rest is interval arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from clinch.attacks.core.batches import along
from clinch.attacks.core.parameter_search import Family
from clinch.attacks.rotation_translation import moved
from clinch.errors import ProblemError
from clinch.network.ops.base import Interval

#: what boxes are widened by, relative to the range: an image that was changed in single precision lies inside too
PADDING = 2e-6


@dataclass(frozen=True)
class Transforms:
    """How far images may be changed; what is 0 is left alone.

    Attributes:
        rotation: largest angle in degrees. translation: largest shift along each side, as a share of it.
        scaling: largest change of size, as a share. blur: largest weight of the mean over 3 × 3 pixels, at most 1.
        contrast, brightness: as of :func:`clinch.attacks.colour`: shares.
        sticker: side of a square of pixels that may take any values, at any place; alone.

    Raises:
        ProblemError: a number out of its range, or none above 0.

    Example:
        >>> Transforms.read("rotation=5,brightness=0.1")
        Transforms(rotation=5.0, translation=0.0, scaling=0.0, blur=0.0, contrast=0.0, brightness=0.1, sticker=0)
    """

    rotation: float = 0.0
    translation: float = 0.0
    scaling: float = 0.0
    blur: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    sticker: int = 0

    def __post_init__(self) -> None:
        most = {"rotation": 180, "translation": 1, "scaling": 0.9, "blur": 1, "contrast": 1, "brightness": 1}
        for name, largest in most.items():
            if not 0 <= getattr(self, name) <= largest:
                raise ProblemError(f"{name} = {getattr(self, name)}. Write a number from 0 to {largest}.")
        if self.sticker != int(self.sticker) or self.sticker < 0:
            raise ProblemError(f"sticker = {self.sticker}. Write the side of a square, in whole pixels.")
        others = any(getattr(self, name) for name in most)
        if bool(self.sticker) == others:
            reason = "a sticker comes alone" if others else "nothing may change"
            raise ProblemError(f"{self}: {reason}. Write rotation=5,brightness=0.1, or sticker=3.")

    @staticmethod
    def read(text: str) -> Transforms:
        """From text such as ``rotation=5,brightness=0.1``."""
        names = [field.name for field in fields(Transforms)]
        given: dict[str, float] = {}
        for part in text.split(","):
            name, _, number = (piece.strip() for piece in part.partition("="))
            try:
                given[name] = float(number)
            except ValueError:
                raise ProblemError(
                    f"'{part}' is no change. Write name=number with a name of {', '.join(names)}."
                ) from None
            if name not in names:
                raise ProblemError(f"There is no change '{name}'. Choose among {', '.join(names)}.")
        if "sticker" in given and given["sticker"].is_integer():
            given["sticker"] = int(given["sticker"])
        return Transforms(**given)  # type: ignore[arg-type]

    def __str__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{name}={value:g}" for name, value in given.items() if value) or "no change"

    @property
    def reach(self) -> tuple[float, ...]:
        """How far each parameter may be from 0, in the order of :data:`NAMES`."""
        return (
            self.rotation, self.translation, self.translation, self.scaling, self.blur, self.contrast, self.brightness
        )  # fmt: skip

    def family(self, low: Tensor, high: Tensor) -> Family:
        """For attacks; images lie between low and high."""
        return Family(NAMES, torch.tensor(self.reach).to(low), lambda x, theta: changed(x, theta, low, high))


#: parameters of a change, in their order
NAMES = ("angle", "down", "right", "scale", "blur", "contrast", "brightness")


def changed(x: Tensor, theta: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Images ``(L, …, height, width)`` changed by ``(L, 7)`` parameters, not clipped yet."""
    x = moved(x, theta[:, :4])
    x = x + along(theta[:, 4].abs(), x) * (mean_of_nine(x) - x)
    middle = (low + high) / 2
    return middle + along(1 + theta[:, 5], x) * (x - middle) + along(theta[:, 6] * (high - low), x)


def enclosed(x: Tensor, least: Tensor, most: Tensor, low: Tensor, high: Tensor) -> Interval:
    """Boxes of images that hold all that :func:`changed` makes, clipped to the range.

    Args:
        x: ``(L, …, height, width)`` float64.
        least, most: ``(L, 7)`` limits of the parameters.
        low, high: the range of pixels.
    """
    lower, upper = _moved_limits(x, least[:, :4], most[:, :4])
    across = (least[:, 4] <= 0) & (most[:, 4] >= 0)
    ends = torch.stack([least[:, 4].abs(), most[:, 4].abs()])
    shares = torch.where(across, 0.0, ends.amin(0)), ends.amax(0)
    # the share is at most 1, so that each side grows with every pixel
    blurred = [[side + along(t, side) * (mean_of_nine(side) - side) for t in shares] for side in (lower, upper)]
    lower, upper = torch.minimum(*blurred[0]), torch.maximum(*blurred[1])
    middle, width = (low + high) / 2, high - low
    factors = along(1 + least[:, 5], x), along(1 + most[:, 5], x)
    lower = torch.minimum(*(factor * (lower - middle) for factor in factors))
    upper = torch.maximum(*(factor * (upper - middle) for factor in factors))
    lower = middle + lower + along(least[:, 6] * width, x) - PADDING * width
    upper = middle + upper + along(most[:, 6] * width, x) + PADDING * width
    return Interval(lower.clamp(low, high), upper.clamp(low, high))


def mean_of_nine(x: Tensor) -> Tensor:
    """Weighted by 1, 2, 4 from the corners to the centre; zeros outside."""
    image = _planes(x)
    kernel = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype, device=x.device)
    channels = image.shape[1]
    weight = (kernel[:, None] * kernel / 16).expand(channels, 1, 3, 3)
    return F.conv2d(image, weight, padding=1, groups=channels).reshape(x.shape)


def _planes(x: Tensor) -> Tensor:
    """Images ``(L, channels, height, width)``."""
    return x.reshape(len(x), -1, *(x.shape[-2:] if x.dim() > 2 else (1, x.shape[-1])))


def _moved_limits(x: Tensor, least: Tensor, most: Tensor) -> Interval:
    """Limits of :func:`clinch.attacks.rotation_translation.moved` over boxes of its parameters ``(L, 4)``."""
    if not bool(least.any()) and not bool(most.any()):
        return Interval(x, x)
    image = _planes(x)
    height, width = image.shape[-2:]
    down, right = _places(least, most, height, width)
    lower, upper = torch.full_like(image, torch.inf), torch.full_like(image, -torch.inf)
    for i in _turning_points(down):
        for j in _turning_points(right):
            grid = torch.stack([(2 * j + 1) / width - 1, (2 * i + 1) / height - 1], 3)
            value = F.grid_sample(image, grid, align_corners=False)
            lower, upper = torch.minimum(lower, value), torch.maximum(upper, value)
    return Interval(lower.reshape(x.shape), upper.reshape(x.shape))


def _turning_points(place: Interval) -> list[Tensor]:
    """Both ends, and the whole numbers in between."""
    between = int((place.upper.floor() - place.lower.ceil()).amax().clamp(min=-1)) + 1
    whole = [torch.clamp(place.lower.ceil() + k, place.lower, place.upper) for k in range(between)]
    return [place.lower, place.upper, *whole]


def _places(least: Tensor, most: Tensor, height: int, width: int) -> tuple[Interval, Interval]:
    """Limits ``(L, height, width)`` of the rows and columns that are read, in pixels from the first one's centre."""
    like = {"dtype": least.dtype, "device": least.device}
    # distances from the middle, in pixels
    rows = torch.arange(height, **like).view(1, -1, 1) - (height - 1) / 2
    columns = torch.arange(width, **like).view(1, 1, -1) - (width - 1) / 2
    angle, down, right, scale = (Interval(least[:, k].view(-1, 1, 1), most[:, k].view(-1, 1, 1)) for k in range(4))
    y = Interval(rows - height * down.upper, rows - height * down.lower)
    x = Interval(columns - width * right.upper, columns - width * right.lower)
    cos, sin = _cos(angle), _cos(Interval(angle.lower - 90, angle.upper - 90))
    size = Interval(1 / (1 + scale.upper), 1 / (1 + scale.lower))
    minus = Interval(-sin.upper, -sin.lower)
    at_column = _product(size, _sum(_product(cos, x), _product(minus, y)))
    at_row = _product(size, _sum(_product(sin, x), _product(cos, y)))
    shift = 1e-9 * (height + width)  # far beyond rounding
    return (
        Interval(at_row.lower + (height - 1) / 2 - shift, at_row.upper + (height - 1) / 2 + shift),
        Interval(at_column.lower + (width - 1) / 2 - shift, at_column.upper + (width - 1) / 2 + shift),
    )


def _cos(degrees: Interval) -> Interval:
    """Cosines over intervals within ±360 degrees."""
    ends = [(t * (math.pi / 180)).cos() for t in degrees]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    for turn, value in ((-360, 1.0), (-180, -1.0), (0, 1.0), (180, -1.0), (360, 1.0)):
        inside = (degrees.lower <= turn) & (degrees.upper >= turn)
        low = torch.where(inside & (value < 0), -1.0, low)
        high = torch.where(inside & (value > 0), 1.0, high)
    return Interval(low, high)


def _product(a: Interval, b: Interval) -> Interval:
    corners = torch.stack(torch.broadcast_tensors(*(s * t for s in a for t in b)))
    return Interval(corners.amin(0), corners.amax(0))


def _sum(a: Interval, b: Interval) -> Interval:
    return Interval(a.lower + b.lower, a.upper + b.upper)
