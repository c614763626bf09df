"""Functions of torch that are affine in the activations: gather, scatter, writing into a part, einsum with constants,
Fourier transforms, resampling.

Which functions are is listed; that a tree of them is one is tried out on numbers too. A small one becomes a matrix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from clinch.network.ops.add import Add
from clinch.network.ops.base import Affine, Interval, Shape
from clinch.network.ops.dense import Dense
from clinch.network.ops.lazy import Lazy, RowFunction, Slot, is_sequence, leaves
from clinch.network.ops.reading import Call, Value
from clinch.network.ops.shape import Reshape
from clinch.network.ops.torch_function import TorchFunction

#: elements are chosen, moved, repeated and added up: no coefficient is negative
_MOVING = frozenset(
    re.findall(
        r"\w+",
        """
        add sum mean cat concat concatenate stack hstack vstack column_stack slice select narrow split
        split_with_sizes chunk unbind tensor_split getitem index index_select gather take_along_dim take permute
        transpose t mT swapaxes swapdims movedim moveaxis view reshape _unsafe_view flatten unflatten squeeze unsqueeze
        expand expand_as broadcast_to broadcast_tensors repeat repeat_interleave tile flip fliplr flipud rot90 roll
        unfold im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle cumsum tril triu diagonal diag_embed
        constant_pad_nd pad zero_pad reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d scatter
        scatter_add index_add index_copy index_put slice_scatter select_scatter diagonal_scatter copied copy fill
        masked_fill masked_scatter clone contiguous alias positive view_as where avg_pool1d avg_pool2d avg_pool3d
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d
        upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d
        upsample_trilinear3d _upsample_bilinear2d_aa as_strided hsplit vsplit dsplit dstack unsafe_split unsafe_chunk
        diagonal_copy select_copy slice_copy ravel adjoint atleast_1d atleast_2d atleast_3d
        trace block_diag zeros_like ones_like full_like fill lift_fresh_copy
        """,
    )
)
#: the same with coefficients of both signs
_MIXING = frozenset(
    re.findall(
        r"\w+",
        """
        sub subtract rsub neg negative diff lerp upsample_bicubic2d _upsample_bicubic2d_aa grid_sampler grid_sampler_2d
        view_as_real view_as_complex real imag conj _conj resolve_conj conj_physical _conj_physical complex
        fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn
        fft_irfftn fft_hfft fft_ihfft fft_fftshift fft_ifftshift stft istft
        """,
    )
)
#: linear in each of these arguments while the others are constants
_PRODUCTS = {
    "mul": (0, 1), "multiply": (0, 1), "div": (0,), "divide": (0,), "true_divide": (0,), "matmul": (0, 1),
    "mm": (0, 1), "bmm": (0, 1), "mv": (0, 1), "dot": (0, 1), "inner": (0, 1), "outer": (0, 1), "kron": (0, 1),
    "linalg_solve": (1,), "cholesky_solve": (0,), "linalg_solve_triangular": (1,), "linalg_lu_solve": (2,),
    "trapezoid": (0,), "cumulative_trapezoid": (0,),
    "einsum": (1,), "tensordot": (0, 1), "linear": (0,), "linalg_multi_dot": (0,), "baddbmm": (1, 2), "addmm": (1, 2),
    "addmv": (1, 2), "addbmm": (1, 2), "addcmul": (1, 2), "bilinear": (0, 1), "conv1d": (0,), "conv2d": (0,),
    "conv3d": (0,), "convolution": (0,), "conv_transpose1d": (0,), "conv_transpose2d": (0,), "conv_transpose3d": (0,),
}  # fmt: skip
#: of a sum with a product, the argument that is added
_ADDED = {"baddbmm": 0, "addmm": 0, "addmv": 0, "addbmm": 0, "addcmul": 0}
#: elements of a matrix that a function may become, and that limits may be found with
MOST_DENSE, _SPARSE = 2**16, 2**28
#: how far from affine rounding may be
_EXACT = 1e-9


@dataclass(frozen=True, eq=False)
class LinearFunction(Affine):
    """``A x + b`` where a function of torch says what that is; its transpose is found by differentiating it.

    Attributes:
        call: the function.
        increasing: whether no coefficient is negative.
    """

    call: TorchFunction | RowFunction
    increasing: bool

    def forward(self, *inputs: Tensor) -> Tensor:
        """The call."""
        return self.call.forward(*inputs)

    def interval(self, *inputs: Interval) -> Interval:
        """The limits go through the call, or ``A m + b ± |A| r`` for midpoints m and radii r."""
        if self.increasing:
            return Interval(*(self.forward(*side) for side in zip(*inputs)))
        centre = self.forward(*((i.lower + i.upper) / 2 for i in inputs))
        radius = torch.cat([(i.upper - i.lower).flatten(1) / 2 for i in inputs], 1)
        spread = (self._sizes.to(radius) @ radius.T).T.reshape(centre.shape)
        return Interval(centre - spread, centre + spread)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """By differentiating; what the call only takes the shape of gets zeros."""
        with torch.enable_grad():
            zeros = [rows.new_zeros(len(rows), *shape, requires_grad=True) for shape in shapes]
            graph = rows.requires_grad
            out = self.forward(*zeros)
            return list(torch.autograd.grad(out, zeros, rows, create_graph=graph, materialize_grads=True))

    @cached_property
    def _sizes(self) -> Tensor:
        """``|A|``, sparse, for the elements of all inputs one after the other."""
        return torch.cat([columns.abs().to_sparse() for columns in columns_of(self.call)], 1).coalesce()

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy whose constants have the given dtype and device."""
        return replace(self, call=self.call.to(dtype, device))

    def with_an_axis(self, shapes: Sequence[Shape]) -> LinearFunction:
        """As its call does."""
        return replace(self, call=self.call.with_an_axis(shapes))

    @property
    def label(self) -> str:
        """The function's name."""
        return self.call.label


def columns_of(call: TorchFunction | RowFunction) -> list[Tensor]:
    """The matrix ``(out, in)`` of an affine function, in parts of its inputs' elements."""
    zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in call.shapes]
    call = call.to(torch.float64, "cpu")
    start, found = call.forward(*zeros), []
    for k, zero in enumerate(zeros):
        units = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *zero.shape[1:])
        for part in units.split(max(1, 2**22 // max(start.numel(), 1))):
            others = [z.expand(len(part), *z.shape[1:]) for z in zeros]
            others[k] = part
            found.append((call.forward(*others) - start).reshape(len(part), -1).T)
    return found


def linear_function(call: TorchFunction) -> LinearFunction | None:
    """The function as an affine one; None where it is not known to be one, or too large for limits."""
    signs: list[bool] = []
    if not call.differentiable or not _affine(call.value, signs):
        return None
    op = LinearFunction(call, not any(signs))
    inputs = sum(torch.Size(shape).numel() for shape in call.shapes)
    generator = torch.Generator().manual_seed(0)
    x, y = (
        [torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in call.shapes] for _ in range(2)
    )
    exact = call.to(torch.float64, "cpu")
    with torch.no_grad():
        f, g, both = (exact.forward(*at) for at in (x, y, [2 * b - a for a, b in zip(x, y)]))
    outputs = f[0].numel()
    size = 1 + float(torch.cat([f, g]).abs().amax()) if outputs else 1.0
    if not bool(((both - (2 * g - f)).abs() <= _EXACT * size).all()) or not size < torch.inf:
        return None
    return op if op.increasing or inputs * outputs <= _SPARSE else None


def emit_linear(call: Call, op: LinearFunction, values: Sequence[Value], shape: Shape) -> Value:
    """The function as a matrix for the elements of each activation where those are small, else as it is.

    Args:
        call: takes the nodes.
        op: the function.
        values: its activations.
        shape: of its result.
    """
    sizes = [torch.Size(one).numel() for one in op.call.shapes]
    if sum(sizes) * torch.Size(shape).numel() > MOST_DENSE:
        return call.emit(op, *values)
    at_zero = op.call.to(torch.float64, "cpu").forward(
        *(torch.zeros(1, *one, dtype=torch.float64) for one in op.call.shapes)
    )
    total: Value | None = None
    for value, weight, size in zip(values, torch.cat(columns_of(op.call), 1).split(sizes, 1), sizes):
        bias = at_zero.flatten() if total is None and bool(at_zero.any()) else None
        part = call.emit(Dense(weight, bias), call.emit(Reshape((size,)), value))
        total = part if total is None else call.emit(Add(), total, part)
    assert total is not None
    return call.emit(Reshape(shape), total)


def _affine(value: Any, signs: list[bool]) -> bool:
    """Whether a tree of calls is affine in its activations as far as the names of its functions say; notes which of
    them may turn signs."""
    if not _depends(value) or isinstance(value, Slot):
        return True
    if isinstance(value, dict):
        return all(_affine(v, signs) for v in value.values())
    if is_sequence(value):
        return all(_affine(v, signs) for v in value)
    if not isinstance(value, Lazy):
        return False
    name = _name(value.function)
    if not all(_affine(v, signs) for v in (value.arguments, value.keywords)):
        return False
    if name not in _PRODUCTS:
        signs.append(name in _MIXING or "alpha" in value.keywords)
        return (name in _MOVING or name in _MIXING) and not _depends(value.keywords)
    signs.append(True)
    factors = _PRODUCTS[name]
    moving = [i for i, argument in enumerate(value.arguments) if _depends(argument)]
    if _depends(value.keywords) or any(i not in factors and i != _ADDED.get(name) for i in moving):
        return False
    if name in ("einsum", "linalg_multi_dot"):
        return sum(map(_depends, value.arguments[factors[0]])) <= 1
    return sum(i in factors for i in moving) <= 1


def _depends(value: Any) -> bool:
    return any(isinstance(leaf, Slot) for leaf in leaves(value))


def _name(function: Any) -> str:
    if isinstance(function, torch._ops.OpOverload):
        name = str(function.overloadpacket).partition(".")[2]
        return name if name in _PRODUCTS or name in _MIXING else name.removesuffix("_") if name[0] != "_" else name
    return str(getattr(function, "__name__", ""))
