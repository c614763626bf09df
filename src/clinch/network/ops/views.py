"""What an operator also is: a matrix, a kernel, factors and shifts, a maximum, two pieces.

Engines have quicker or exact ways for some kinds of layers. They do not ask which operator a layer is, but whether it
can be seen that way (:class:`clinch.network.ops.base.Operator`), so that a new operator profits by saying so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.ops.interval import Interval, Shape
from clinch.network.ops.relaxation import Lines
from clinch.network.ops.statements import Statement

#: torch's transposed convolution by the number of spatial dimensions
TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d,
}  # fmt: skip

#: torch's convolution, likewise
FORWARD: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}

#: input channels from which on the transpose of a convolution in float64 pays for moving channels to the end and back
WIDE = 8


class Matrix(NamedTuple):
    """``weight @ x + bias`` on samples of one dimension: ``(out, in)``, and ``(out,)`` or None."""

    weight: Tensor
    bias: Tensor | None


class Reach(NamedTuple):
    """The places that each place of the output reads, one number per spatial dimension: output place p reads from
    ``p·stride − padding`` on, ``kernel`` places that are ``dilation`` apart."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def readers(self) -> int:
        """By how many places one place is read, at most."""
        return math.prod(-(-k // s) if d == 1 else k for k, s, d in zip(self.kernel, self.stride, self.dilation))


class Factors(NamedTuple):
    """``scale ⊙ x + shift``, each of them broadcast to a sample without widening it, or None for ones and zeros."""

    scale: Tensor | None
    shift: Tensor | None


@dataclass(frozen=True, eq=False)
class Kernel:
    """A convolution ``weight * x + bias`` with zeros around its input.

    Attributes:
        weight: ``(out channels, in channels / groups, *kernel)``.
        bias: ``(out channels,)``, or ``(out channels, *output extents)``; or None.
        stride, padding, dilation: one number per spatial dimension; groups: of channels.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def spatial(self) -> int:
        """Number of spatial dimensions."""
        return self.weight.dim() - 2

    @property
    def reach(self) -> Reach:
        """What each place reads."""
        return Reach(tuple(self.weight.shape[2:]), self.stride, self.padding, self.dilation)

    @property
    def unpadded(self) -> Kernel:
        """The same without the zeros."""
        return replace(self, padding=(0,) * self.spatial)

    def statement(self) -> Statement:
        """A layer of a certificate."""
        tensors = {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})
        settings = {name: list(getattr(self, name)) for name in ("stride", "padding", "dilation")}
        return {"kind": "convolution", **settings, "groups": self.groups}, tensors

    def to(self, like: Tensor) -> Kernel:
        """A copy with the dtype and on the device of a tensor."""
        return replace(self, weight=self.weight.to(like), bias=None if self.bias is None else self.bias.to(like))

    def transposed(self, rows: Tensor, extents: Sequence[int]) -> Tensor:
        """Rows ``(N, out channels, *output extents)`` through the transpose, widened to the input's extents."""
        if self._by_taps(rows):
            return self._tapped(rows, extents)
        left_over = tuple(
            (n + 2 * p - d * (k - 1) - 1) % s
            for n, k, s, p, d in zip(extents, self.weight.shape[2:], self.stride, self.padding, self.dilation)
        )
        transposed, weight = TRANSPOSED[self.spatial], self.weight
        if self._channels_last(rows):
            last = torch.channels_last
            rows, weight = rows.contiguous(memory_format=last), weight.contiguous(memory_format=last)
        found = transposed(rows, weight, None, self.stride, self.padding, left_over, self.groups, self.dilation)
        return found.contiguous()

    def applied(self, rows: Tensor) -> Tensor:
        """Images through the convolution itself."""
        return FORWARD[self.spatial](rows, self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def _by_taps(self, rows: Tensor) -> bool:
        """Whether it treats each channel by itself, in float64, where torch takes one channel after the other."""
        alone = self.groups > 1 and self.groups == self.weight.shape[0] and self.weight.shape[1] == 1
        plain = rows.dtype == torch.float64 and rows.device.type == "cpu"
        return alone and plain and not (rows.requires_grad or self.weight.requires_grad)

    def _tapped(self, rows: Tensor, extents: Sequence[int]) -> Tensor:
        """The transpose channel by channel, one element of the kernel after the other."""
        wide = rows.new_zeros(*rows.shape[:2], *(n + 2 * p for n, p in zip(extents, self.padding)))
        axes = list(zip(rows.shape[2:], self.stride, self.dilation))
        for tap in itertools.product(*map(range, self.weight.shape[2:])):
            places = tuple(slice(d * t, d * t + s * (n - 1) + 1, s) for t, (n, s, d) in zip(tap, axes))
            weight = self.weight[(slice(None), 0, *tap)].reshape(-1, *[1] * self.spatial)
            wide[(..., *places)].addcmul_(rows, weight)
        return wide[(..., *(slice(p, p + n) for n, p in zip(extents, self.padding)))].contiguous()

    def _channels_last(self, rows: Tensor) -> bool:
        """Whether torch is faster with channels last: in float64, which its library of kernels does not know."""
        wide = self.groups == 1 and self.weight.shape[1] >= WIDE and self.weight[0, 0].numel() > 1
        return wide and rows.dtype == torch.float64 and rows.dim() == 4 and rows.device.type == "cpu"


@dataclass(frozen=True, eq=False)
class Maximum:
    """Output element i is the largest of ``factor_k · x[index[k, i]]`` over the k with ``index[k, i] >= 0``.

    Attributes:
        index: ``(K, n)`` flat positions of input elements.
        factor: ``(K,)``.
    """

    index: Tensor
    factor: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """``(B, n)`` for inputs ``(B, *shape)``."""
        terms = x.flatten(1)[:, self.index.clamp(min=0)] * self.factor.to(x).unsqueeze(1)
        return terms.masked_fill(self.index < 0, -torch.inf).amax(1)


class TwoPieces(Protocol):
    """``max(x, a·x)`` with ``a < 1``, element by element: two linear pieces that meet at zero, where searches split."""

    @property
    def negative_slope(self) -> float:
        """The slope a left of zero; right of it the slope is 1."""
        ...

    def forward(self, *inputs: Tensor) -> Tensor:
        """The function."""
        ...

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Lines:
        """The chord above and CROWN's line below."""
        ...

    def relax_with(self, bounds: Interval, slope: Tensor) -> Lines:
        """The chord above and a line through zero of the given slope in ``[a, 1]`` below."""
        ...
