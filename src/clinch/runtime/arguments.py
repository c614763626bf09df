"""How arguments that hold inputs are read: one place for attacks, applications and bounds."""

from __future__ import annotations

import contextlib
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinch.errors import NetworkError, NonFiniteError, ProblemError, ShapeError

#: width of a range that is that of bytes, or larger
BYTES = 100.0
#: how far outside its range an element counts as rounding, in roundings of its dtype relative to the range's size
RANGE_ROUNDING = 8


def as_tensor(value: Any, name: str, example: str) -> Tensor:
    """A tensor of real numbers; a number may be written as text, ``"8/255"``.

    Raises:
        ShapeError: anything else, such as a text, rows of different lengths, or complex numbers.
    """
    if isinstance(value, str):
        with contextlib.suppress(ProblemError):
            value = as_number(value, name)
    try:
        # NumPy keeps a number that is written in Python in all its digits, torch would round it to float32
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ShapeError(f"{name} is a {type(value).__name__} that is no array of numbers. Pass {example}.") from None
    if tensor.is_complex():
        raise ShapeError(f"{name} holds complex numbers. Pass its real part.")
    return tensor.detach()


def checked_batch(value: Any, shape: tuple[int, ...] | None, name: str = "x") -> Tensor:
    """A batch of finite inputs ``(B, *shape)``; shape None: not known.

    Raises:
        ShapeError, NonFiniteError: it is none; the message says what it is and what to write instead.
    """
    x = as_tensor(value, name, "a tensor (B, *input_shape)")
    if shape is None:
        if x.dim() < 2:
            raise ShapeError(f"{name} has shape {tuple(x.shape)}; expected (B, *input_shape), a batch of inputs.")
    elif tuple(x.shape[1:]) != shape:
        wanted = ", ".join(map(str, shape))
        raise ShapeError(
            f"{name} has shape {tuple(x.shape)}; expected (B, {wanted}), a batch of inputs.{_advice(x, shape, name)}"
        )
    if not len(x):
        raise ShapeError(f"{name} has shape {tuple(x.shape)}: it holds no inputs. Pass one or more.")
    if not bool(x.isfinite().all()):
        raise NonFiniteError(f"{name} holds NaN or infinity. Check how the inputs were read.")
    return x


def _advice(x: Tensor, shape: tuple[int, ...], name: str) -> str:
    """What to write instead, where that is plain."""
    if tuple(x.shape) == shape:
        return f" For one input write {name}[None]."
    if len(shape) == 3 and x.dim() == 4 and (x.shape[3], *x.shape[1:3]) == shape:
        return f" Its channels stand last: write {name}.permute(0, 3, 1, 2)."
    return ""


def checked_range(bounds: Any, name: str = "bounds", example: str = "(0.0, 1.0)") -> tuple[float, float]:
    """Two numbers, rising.

    Raises:
        ProblemError: anything else.
    """
    try:
        low, high = (float(limit) for limit in (() if isinstance(bounds, str) else bounds))
    except (TypeError, ValueError, RuntimeError):
        low, high = math.nan, math.nan
    if not low < high:
        text = " ".join(f"{bounds}".split())
        where = "; for limits of each element state a cl.Problem" if name == "bounds" else ""
        raise ProblemError(f"{name}={text:.80} is no range. Write (lowest, highest), such as {example}{where}.")
    return low, high


def within_range(x: Tensor, low: float, high: float, dtype: torch.dtype, name: str = "x") -> Tensor:
    """Inputs; elements outside of ``[low, high]`` by rounding, of their own dtype or the model's, are clipped, with a
    warning.

    Raises:
        ProblemError: an element lies farther outside.
    """
    below, above = float((low - x.double()).max()), float((x.double() - high).max())
    if high - low >= BYTES and high < math.inf and float(x.max()) <= 1 and bool((x != x.round()).any()):
        raise ProblemError(
            f"{name} ranges from {float(x.min()):.4g} to {float(x.max()):.4g}, a small part of bounds=({low:g}, "
            f"{high:g}). Pass the range of your data, such as bounds=(0, 1); eps is in its units."
        )
    excess = max(below, above)
    if not excess > 0:
        return x
    eps = max(torch.finfo(d).eps for d in (dtype, x.dtype if x.is_floating_point() else dtype))
    if excess > RANGE_ROUNDING * eps * size_of_range(low, high):
        raise ProblemError(
            f"{name} ranges from {float(x.min()):.4g} to {float(x.max()):.4g}, outside bounds=({low}, {high}) by "
            f"{excess:.3g}, which is more than rounding. {_scale_advice(x, name, low, high)}"
        )
    warnings.warn(
        f"{name} lies outside bounds=({low:g}, {high:g}) by {excess:.3g}, which is rounding: it is clipped.",
        UserWarning,
        stacklevel=2,
    )
    return x.clamp(low, high)


def _scale_advice(x: Tensor, name: str, low: float, high: float) -> str:
    """What inputs outside of their range look like."""
    least, most = float(x.min()), float(x.max())
    if (low, high) == (0.0, 1.0) and least >= 0 and 1 < most <= 255:
        return (
            f"They look like bytes: pass {name} / 255; or bounds=(0, 255) where the model takes bytes, and eps in "
            "their units."
        )
    if least < 0 <= low:
        return (
            "They look normalised: pass them as they were before and let the model normalise, "
            "cl.study.normalised(model, mean, std); or bounds=, the range that they have."
        )
    return "Pass the range of your data, bounds=(lowest, highest), and keep the normalisation inside the model."


def checked_radii(eps: Any, size: int, name: str = "eps") -> Tensor:
    """Radii ``(B,)`` in float64 on the CPU.

    Raises:
        ShapeError, ProblemError: neither one number nor one for each input, or not positive and finite.
    """
    radius = as_tensor(eps, name, "a number such as 8/255, or one for each input").to("cpu", torch.float64)
    if radius.dim() and tuple(radius.shape) != (size,):
        raise ShapeError(f"{name} has shape {tuple(radius.shape)}; expected one number or ({size},).")
    if not bool((radius > 0).all() and radius.isfinite().all()):
        raise ProblemError(f"{name}={eps} must be positive and finite.")
    return radius.expand(size).clone()


def as_number(value: Any, name: str) -> float:
    """A number; also a fraction as text, ``"8/255"``.

    Raises:
        ProblemError: anything else.

    Example:
        >>> as_number("2/255", "eps") == 2 / 255
        True
    """
    try:
        above, slash, below = value.partition("/") if isinstance(value, str) else (value, "", "")
        return float(above) / float(below) if slash else float(above)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError):
        raise ProblemError(f"{name} is {str(value)!s:.40}; give a number, such as 0.1 or 8/255.") from None


def as_seconds(value: Any, name: str = "time_limit") -> float:
    """A limit of time in seconds; None: none.

    Raises:
        ProblemError: no number, or a negative one.
    """
    return math.inf if value is None else _from_zero(value, name, "seconds, zero or more, or None for no limit")


def as_gap(value: Any) -> float:
    """A relative gap; None: none is asked for, so that every proof goes to its end.

    Raises:
        ProblemError: no number, a negative one, or one above 1, which looks like per cent.
    """
    gap = 0.0 if value is None else _from_zero(value, "gap", "a relative gap of zero or more, such as 1e-3")
    if 1 < gap < math.inf:
        raise ProblemError(f"gap is {gap:g}, relative to the value; {gap:g} per cent are gap={gap / 100:g}.")
    return gap


def _from_zero(value: Any, name: str, wanted: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number >= 0:
        raise ProblemError(f"{name} is {str(value)!s:.40}; give {wanted}.")
    return number


def as_whole(value: Any, name: str) -> int:
    """A whole number, also where it is written as 3.0 or by NumPy.

    Raises:
        ProblemError: anything else.
    """
    try:
        whole = int(value)
        if whole != value or isinstance(value, bool | str):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ProblemError(f"{name} is {str(value)!s:.40}; give a whole number.") from None
    return whole


def size_of_range(low: float, high: float) -> float:
    """The largest of the finite limits; their distance where both are finite."""
    sizes = [abs(limit) for limit in (low, high) if math.isfinite(limit)]
    return max([*sizes, high - low]) if math.isfinite(high - low) else max([*sizes, 1.0])


def checked_outputs(run: Any, x: Tensor) -> Tensor:
    """What a model returns for a batch.

    Raises:
        NetworkError: it fails on inputs of that shape, or returns no tensor.
    """
    try:
        found = run(x)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ShapeError(
            f"The model fails on inputs x of shape {tuple(x.shape)}: {reason}. Pass a batch (B, *input_shape) as the "
            f"model takes it{_guess(x)}."
        ) from error
    if not isinstance(found, Tensor):
        raise NetworkError(
            f"The model returns a {type(found).__name__}, not a tensor. Wrap it in a module that returns one tensor."
        )
    return found


def _guess(x: Tensor) -> str:
    if x.dim() == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        return "; where its channels stand last, write x.permute(0, 3, 1, 2)"
    return "; for one input write x[None]" if x.dim() == 3 else ""


def _label_advice(name: str, y: Tensor, size: int, classes: int) -> str:
    """What to write instead, where that is plain."""
    if tuple(y.shape) == (size, classes):
        return f" One row for each input: write {name}.argmax(1)."
    if tuple(y.shape) == (size, 1):
        return f" Write {name}[:, 0]."
    if y.dim() == 0:
        return f" One label for all inputs: write torch.full(({size},), {name})."
    return f" Write {name}.long()." if tuple(y.shape) == (size,) and y.dtype != torch.bool else ""


def checked_labels(name: str, y: Any, size: int, classes: int) -> Tensor:
    """Labels ``(size,)``, each a whole number from 0 to ``classes - 1``.

    Raises:
        ShapeError, ProblemError: anything else; the message says what to write instead.
    """
    y = as_tensor(y, name, "a tensor (B,) of whole numbers")
    if tuple(y.shape) != (size,) or y.is_floating_point() or y.dtype == torch.bool:
        raise ShapeError(
            f"{name} has shape {tuple(y.shape)} and dtype {y.dtype}; expected ({size},) whole numbers."
            f"{_label_advice(name, y, size, classes)}"
        )
    wrong = (y < 0) | (y >= classes)
    if bool(wrong.any()):
        counted = " They look counted from 1: subtract 1." if int(y.min()) == 1 and int(y.max()) == classes else ""
        raise ProblemError(
            f"{name}[{int(wrong.nonzero()[0])}] is {int(y[wrong][0])}; classes are 0 to {classes - 1}.{counted}"
        )
    return y.long()
