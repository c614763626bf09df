"""Parts and wholes: slice, take, concatenate, pad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.ops.add import Add
from clinch.network.ops.base import Affine, Shape
from clinch.network.ops.reading import Call, Value, from_aten, from_onnx
from clinch.network.ops.scale import Scale, per_sample
from clinch.network.ops.shape import Reshape
from clinch.network.ops.views import Reach


@dataclass(frozen=True, eq=False)
class Slice(Affine):
    """Elements ``start, start + step, … < stop`` along dimension ``dim`` of a sample."""

    dim: int
    start: int
    stop: int
    step: int = 1

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def _index(self) -> tuple[slice, ...]:
        return (*([slice(None)] * (self.dim + 1)), slice(self.start, self.stop, self.step))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The chosen part."""
        return inputs[0][self._index()]

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Rows at the chosen places, zero elsewhere."""
        index = torch.arange(self.start, self.stop, self.step, device=rows.device)
        return [rows.new_zeros(rows.shape[0], *shapes[0]).index_copy(self.dim + 1, index, rows)]

    def as_reach(self, shapes: Sequence[Shape]) -> Reach | None:
        """Each place reads one, where it is the places of an image that are chosen."""
        spatial = len(shapes[0]) - 1
        if self.dim == 0 or self.step != 1:
            return None
        ones = (1,) * spatial
        return Reach(ones, ones, tuple(-self.start if d == self.dim else 0 for d in range(1, spatial + 1)), ones)

    def treats_places_alike(self, shapes: Sequence[Shape]) -> bool:
        """Where channels are chosen."""
        return self.dim == 0 and len(shapes[0]) > 1

    def is_identity(self, shapes: Sequence[Shape]) -> bool:
        """Everything is chosen."""
        return self.start == 0 and self.step == 1 and self.stop == shapes[0][self.dim]


@dataclass(frozen=True, eq=False)
class Take(Affine):
    """Elements ``indices`` along dimension ``dim`` of a sample, in that order; an index may repeat."""

    dim: int
    indices: Tensor

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The chosen elements."""
        return inputs[0].index_select(self.dim + 1, self.indices)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Rows added up at the chosen places."""
        return [rows.new_zeros(rows.shape[0], *shapes[0]).index_add(self.dim + 1, self.indices, rows)]

    def treats_places_alike(self, shapes: Sequence[Shape]) -> bool:
        """Where channels are chosen, none of them twice."""
        return self.dim == 0 and len(shapes[0]) > 1 and len(self.indices.unique()) == len(self.indices)


@dataclass(frozen=True, eq=False)
class Concatenate(Affine):
    """The inputs one after the other along dimension ``dim`` of a sample."""

    dim: int

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The joined activations."""
        return torch.cat(inputs, self.dim + 1)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Each input's part."""
        return list(rows.split([shape[self.dim] for shape in shapes], self.dim + 1))

    def treats_places_alike(self, shapes: Sequence[Shape]) -> bool:
        """Where channels are joined."""
        return self.dim == 0 and len(shapes[0]) > 1

    def is_identity(self, shapes: Sequence[Shape]) -> bool:
        """There is one input only."""
        return len(shapes) == 1


@dataclass(frozen=True, eq=False)
class Pad(Affine):
    """Elements added around a sample (or taken away, where negative).

    Attributes:
        pads: in the order of ``torch.nn.functional.pad``: last dimension first, in front and behind.
        mode: "constant", "reflect", "replicate" or "circular".
        value: of the added elements in mode "constant".
    """

    pads: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0

    nonnegative: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The padded activations."""
        return functional.pad(inputs[0], list(self.pads), self.mode, self.value if self.mode == "constant" else None)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The added elements are cut off; copies of elements are added up."""
        if self.mode == "constant":
            return [functional.pad(rows, [-p for p in self.pads])]
        return super().transpose(rows, shapes)

    def offset(self, rows: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """The rows' share on the added elements."""
        if self.mode != "constant" or self.value == 0.0:
            return rows.new_zeros(rows.shape[0])
        return super().offset(rows, shapes)

    def as_reach(self, shapes: Sequence[Shape]) -> Reach | None:
        """Each place reads one, where constants are added behind and in front of an image's places alone."""
        spatial = len(shapes[0]) - 1
        if self.mode != "constant" or spatial < 1 or any(self.pads[2 * spatial :]):
            return None
        fronts = [*self.pads[::2], *[0] * spatial][:spatial]
        ones = (1,) * spatial
        return Reach(ones, ones, tuple(reversed(fronts)), ones)

    def is_identity(self, shapes: Sequence[Shape]) -> bool:
        """Nothing is added."""
        return not any(self.pads)


def _slice(call: Call, x: Value, axis: int, start: int, stop: int, step: int) -> Value:
    """A slice in Python's convention, along an axis of the batch; of the batch itself only the whole may be taken."""
    rank = len(x.shape)
    if (axis if axis >= 0 else axis + rank + 1) == 0:
        if start == 0 and step == 1 and stop >= 2**31 - 1:
            return x
        raise call.refuse("it picks rows of the batch; each input must be treated alone")
    dim = call.axis(axis, rank)
    chosen = range(x.shape[dim])[slice(start, stop, step)]
    if step < 0:
        return call.emit(Take(dim, torch.tensor(list(chosen))), x)
    return call.emit(Slice(dim, chosen.start, chosen.stop, chosen.step), x)


def _select(call: Call, x: Value, axis: int, index: int) -> Value:
    """One element along an axis, which disappears."""
    dim = call.axis(axis, len(x.shape))
    at = index % x.shape[dim]
    part = call.emit(Slice(dim, at, at + 1), x)
    return call.emit(Reshape((*x.shape[:dim], *x.shape[dim + 1 :])), part)


def _parts(call: Call, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
    """Consecutive pieces along an axis."""
    dim = call.axis(axis, len(x.shape))
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [call.emit(Slice(dim, end - size, end), x) for size, end in zip(sizes, ends)]


def _pieces(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


@from_aten("aten.slice")
def _aten_slice(call: Call) -> Value:
    bounds = [call.get(name, default) for name, default in (("start", 0), ("end", 2**63 - 1), ("step", 1))]
    if not all(isinstance(b, int) for b in bounds):
        raise call.refuse("its limits depend on the size of the batch")
    return _slice(call, call.activation("self"), call["dim"], *bounds)


@from_aten("aten.narrow")
def _narrow(call: Call) -> Value:
    start = int(call.number("start", 0))
    return _slice(call, call.activation("self"), call["dim"], start, start + int(call.number("length", 0)), 1)


@from_aten("aten.select")
def _aten_select(call: Call) -> Value:
    return _select(call, call.activation("self"), call["dim"], int(call.number("index", 0)))


@from_aten("aten.index_select")
def _index_select(call: Call) -> Value | None:
    x, indices = call.activation("self"), call["index"]
    return call.emit(Take(call.axis(call["dim"], len(x.shape)), indices), x) if isinstance(indices, Tensor) else None


@from_aten("aten.flip")
def _flip(call: Call) -> Value:
    x = call.activation("self")
    for axis in call.ints("dims"):
        x = _slice(call, x, axis, -1, -(2**31), -1)
    return x


@from_aten("aten.chunk")
def _chunk(call: Call) -> list[Value]:
    x = call.activation("self")
    total = x.shape[call.axis(call["dim"], len(x.shape))]
    return _parts(call, x, call["dim"], _pieces(total, -(-total // call["chunks"])))


@from_aten("aten.split", "aten.split_with_sizes")
def _split(call: Call) -> list[Value]:
    x = call.activation("self")
    total = x.shape[call.axis(call["dim"], len(x.shape))]
    sizes = call.ints("split_size" if "split_size" in call.arguments else "split_sizes")
    return _parts(
        call, x, call["dim"], sizes if isinstance(call.arguments.get("split_sizes"), list) else _pieces(total, sizes[0])
    )


@from_aten("aten.cat", "aten.concat", "aten.concatenate")
def _concatenate(call: Call) -> Value:
    return _join(call, call["tensors"], call["dim"])


@from_aten("aten.stack")
def _stack(call: Call) -> Value:
    values = call["tensors"]
    if len(call.activations) != len(values):
        raise call.refuse("it stacks constants beside activations")
    dim = call.axis(call["dim"], len(values[0].shape) + 1)
    widened = [call.emit(Reshape((*v.shape[:dim], 1, *v.shape[dim:])), v) for v in values]
    return call.emit(Concatenate(dim), *widened)


def _join(call: Call, values: Sequence[Value | Tensor], axis: int) -> Value:
    """Values one after the other; where some are constants, padded activations are added to what is constant."""
    rank = len(call.activations[0].shape)
    dim = call.axis(axis, rank)
    if len(call.activations) == len(values):
        return call.emit(Concatenate(dim), *call.activations)
    shape = call.activations[0].shape
    parts = [_constant_part(call, v, dim, shape) if isinstance(v, Tensor) else v for v in values]
    lengths = [part.shape[dim] for part in parts]
    total, begin = sum(lengths), 0
    fixed, moving = [], []
    for part, length in zip(parts, lengths):
        if isinstance(part, Tensor):
            fixed.append(part)
        else:
            fixed.append(torch.zeros(part.shape, dtype=torch.float64))
            around = (0, 0) * (rank - 1 - dim) + (begin, total - begin - length)
            moving.append(call.emit(Pad(around), part))
        begin += length
    joined = moving[0]
    for part in moving[1:]:
        joined = call.emit(Add(), joined, part)
    return call.emit(Scale(None, torch.cat([part.double().cpu() for part in fixed], dim)), joined)


def _constant_part(call: Call, constant: Tensor, dim: int, shape: Shape) -> Tensor:
    """A constant among joined activations of the given shape, for one sample."""
    part = per_sample(call, constant, len(shape))
    expected = tuple(n for i, n in enumerate(shape) if i != dim)
    if part.dim() != len(shape) or tuple(n for i, n in enumerate(part.shape) if i != dim) != expected:
        raise call.refuse(f"a constant of shape {tuple(constant.shape)} does not fit beside samples of shape {shape}")
    return part


@from_aten("aten.pad", "aten.constant_pad_nd")
def _pad(call: Call) -> Pad:
    x, pads = call.activation("self"), call.ints("pad")
    if len(pads) > 2 * len(x.shape):
        raise call.refuse("it pads the batch")
    mode = call.get("mode", "constant")
    return Pad(tuple(pads), mode, float(call.number("value", 0.0)) if mode == "constant" else 0.0)


# --- ONNX ----------------------------------------------------------------------------------------------------------


@from_onnx("Slice")
def _onnx_slice(call: Call) -> Value:
    x = call.activation("data")
    starts, ends = call.ints("starts"), call.ints("ends")
    axes = call.ints("axes", list(range(len(starts))))
    for axis, start, end, step in zip(axes, starts, ends, call.ints("steps", [1] * len(starts))):
        x = _slice(call, x, axis, start, end, step)
    return x


@from_onnx("Gather")
def _gather(call: Call) -> Value | None:
    x, indices = call.activation("data"), call["indices"]
    if not isinstance(indices, Tensor) or indices.dim() > 1:
        return None
    if indices.dim() == 0:
        return _select(call, x, call.get("axis", 0), int(indices))
    dim = call.axis(call.get("axis", 0), len(x.shape))
    return call.emit(Take(dim, indices % x.shape[dim]), x)


@from_onnx("Concat")
def _onnx_concatenate(call: Call) -> Value:
    return _join(call, call["inputs"], call["axis"])


@from_onnx("Split")
def _onnx_split(call: Call) -> list[Value]:
    x, axis = call.activation("input"), call.get("axis", 0)
    total = x.shape[call.axis(axis, len(x.shape))]
    if call.get("split") is not None:
        return _parts(call, x, axis, call.ints("split"))
    return _parts(call, x, axis, _pieces(total, -(-total // call.get("num_outputs", call["outputs"]))))


@from_onnx("Pad")
def _onnx_pad(call: Call) -> Pad:
    x = call.activation("data")
    rank = len(x.shape) + 1
    pads = call.ints("pads")
    axes = [a % rank for a in call.ints("axes", list(range(rank)))]
    around = [(0, 0)] * rank
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :]):
        around[axis] = (begin, end)
    if around[0] != (0, 0):
        raise call.refuse("it pads the batch")
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    mode = modes[call.get("mode", "constant")]
    value = call.number("constant_value" if "constant_value" in call.arguments else "value", 0.0)
    around = around[1:]
    if mode != "constant":
        while around and around[0] == (0, 0) and len(around) > 1:
            around = around[1:]
    return Pad(tuple(n for pair in reversed(around) for n in pair), mode, float(value))
