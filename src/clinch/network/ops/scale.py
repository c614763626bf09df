"""Element-wise affine functions: batch norm, normalisation, arithmetic with constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clinch.network.ops.base import Affine, Interval, Operator, Shape, Statement
from clinch.network.ops.bilinear import multiply
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.statements import sparse
from clinch.network.ops.views import Factors


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """``f(x) = scale ⊙ x + shift``, both broadcast over a sample.

    Attributes:
        scale: a tensor of no more dimensions than a sample, or None for ones.
        shift: likewise, or None for zeros.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None

    def forward(self, *inputs: Tensor) -> Tensor:
        """``scale ⊙ x + shift``."""
        (y,) = inputs
        if self.scale is not None:
            y = y * self.scale
        return y if self.shift is None else y + self.shift

    def times(self, *inputs: Tensor) -> Tensor:
        """``scale ⊙ x``."""
        return replace(self, shift=None if self.shift is None else torch.zeros_like(self.shift)).forward(*inputs)

    def absolute(self, *inputs: Tensor) -> Tensor:
        """``|scale| ⊙ x``."""
        return replace(self, scale=None if self.scale is None else self.scale.abs()).times(*inputs)

    def interval(self, *inputs: Interval) -> Interval:
        """The two limits are carried over and put in order."""
        a, b = (self.forward(limit) for limit in inputs[0])
        return Interval(torch.minimum(a, b), torch.maximum(a, b))

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """``scale ⊙ rows``, summed over dimensions that the constants widened."""
        carried = rows if self.scale is None else rows * self.scale
        return [carried.sum_to_size(rows.shape[0], *shapes[0])]

    def offset(self, rows: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """``<rows, shift>``."""
        if self.shift is None:
            return rows.new_zeros(rows.shape[0])
        return (rows * self.shift).flatten(1).sum(1)

    def as_factors(self, shapes: Sequence[Shape]) -> Factors | None:
        """Its constants, where they do not widen a sample."""
        if any(t is not None and not fits(t, shapes[0]) for t in (self.scale, self.shift)):
            return None
        return Factors(self.scale, self.shift)

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement | None:
        """A shift by a constant of the layer's shape, or a matrix with entries on its diagonal."""
        if shapes[0] != shape:
            return super().statement(shapes, shape)
        scale, shift = (None if t is None else t.broadcast_to(shape).flatten() for t in (self.scale, self.shift))
        if shift is not None and (scale is None or bool((scale == 1).all())):
            return {"kind": "shift"}, {"bias": shift}
        size = torch.arange(math.prod(shape))
        return sparse(size, size, torch.ones(len(size)) if scale is None else scale, shape, shift)

    def is_identity(self, shapes: Sequence[Shape]) -> bool:
        """Neither changes anything."""
        return (self.scale is None or (bool((self.scale == 1).all()) and fits(self.scale, shapes[0]))) and (
            self.shift is None or (bool((self.shift == 0).all()) and fits(self.shift, shapes[0]))
        )

    def after(self, earlier: Affine, shape: Shape, between: Shape) -> Affine | None:
        """Taken in by another scaling, and by a dense or convolution layer along whose outputs it varies."""
        if any(t is not None and not fits(t, between) for t in (self.scale, self.shift)):
            return None
        return earlier.scaled(self.scale, self.shift, between)

    def scaled(self, scale: Tensor | None, shift: Tensor | None, shape: Shape) -> Affine | None:
        """Two scalings are one."""
        moved = self.shift if scale is None else None if self.shift is None else self.shift * scale
        return Scale(_both(self.scale, scale), shift if moved is None else moved if shift is None else moved + shift)

    def reshaped(self, old: Shape, new: Shape) -> Scale | None:
        """The same function behind a reshape from ``old`` to ``new``."""
        if any(t is not None and not fits(t, old) for t in (self.scale, self.shift)):
            return None
        moved = [
            None if t is None else t if t.numel() == 1 else t.expand(old).reshape(new) for t in (self.scale, self.shift)
        ]
        moved = [t.reshape(()) if t is not None and t.numel() == 1 else t for t in moved]
        return Scale(*moved)


def fits(constant: Tensor, shape: Shape) -> bool:
    """Whether a constant broadcasts to the shape without widening it."""
    if constant.dim() > len(shape):
        return False
    return all(c in (1, n) for c, n in zip(reversed(constant.shape), reversed(shape)))


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b


def along(constant: Tensor | None, shape: Shape, axis: int, neutral: float, like: Tensor) -> Tensor | None:
    """A constant as a vector along one axis of a sample, or None where it varies along another.

    Args:
        constant: broadcasts to a sample; None stands for ``neutral`` everywhere.
        shape: of a sample.
        axis: of the sample.
        neutral: see above.
        like: gives dtype and device.
    """
    if constant is None:
        return like.new_full((shape[axis],), neutral)
    full = constant.reshape(*([1] * (len(shape) - constant.dim())), *constant.shape)
    if any(n != 1 for d, n in enumerate(full.shape) if d != axis):
        return None
    return full.reshape(-1).expand(shape[axis])


def per_sample(call: Call, constant: Tensor, rank: int) -> Tensor:
    """A constant that is written for a batch, for a sample of ``rank`` dimensions."""
    if constant.dim() == rank + 1 and constant.shape[0] == 1:
        constant = constant[0]
    if constant.dim() > rank:
        raise call.refuse(f"a constant of shape {tuple(constant.shape)} meets the batch dimension")
    return constant


def sides(call: Call) -> tuple[Value | Tensor, Value | Tensor]:
    """Both arguments of an arithmetic call."""
    names = ("self", "other") if "self" in call.arguments else ("A", "B")
    return call.operand(names[0]), call.operand(names[1])


@from_aten("aten.mul", "aten.multiply")
@from_onnx("Mul")
def _multiply(call: Call) -> Operator | Value:
    a, b = sides(call)
    if isinstance(a, Tensor):
        a, b = b, a
    if isinstance(a, Tensor):
        raise call.refuse("it multiplies two constants")
    return Scale(per_sample(call, b, len(a.shape))) if isinstance(b, Tensor) else multiply(call, a, b)


@from_aten("aten.neg", "aten.negative")
@from_onnx("Neg")
def _negate(call: Call) -> Operator:
    return Scale(torch.tensor(-1.0, dtype=torch.float64))


@from_aten("aten.batch_norm", "values of aten._native_batch_norm_legit_no_training")
def _batch_norm(call: Call) -> Operator:
    mean, variance = call.tensor("running_mean"), call.tensor("running_var")
    if call.get("training", False) or mean is None or variance is None:
        raise call.refuse("it normalises by the statistics of the batch (track_running_stats=False or training mode)")
    return _normalisation(call, call.activation("input"), mean, variance, call.tensor("weight"), call.tensor("bias"))


@from_onnx("BatchNormalization")
def _onnx_batch_norm(call: Call) -> Operator:
    mean = call.tensor("input_mean" if "input_mean" in call.arguments else "mean")
    variance = call.tensor("input_var" if "input_var" in call.arguments else "var")
    if call.get("training_mode", 0) or mean is None or variance is None:
        raise call.refuse("it is in training mode")
    return _normalisation(call, call.activation("X"), mean, variance, call.tensor("scale"), call.tensor("B"))


def _normalisation(
    call: Call, x: Value, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Scale:
    """``(x − mean)/√(variance + eps)·weight + bias`` per channel."""
    eps = call.number("eps" if "eps" in call.arguments else "epsilon", 1e-5)
    scale = 1.0 / torch.sqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    rank = len(x.shape)
    per_channel = [-1 if d == call.get("channel", 0) else 1 for d in range(rank)]
    return Scale(scale.reshape(per_channel), shift.reshape(per_channel))
