"""What an operator is: a function of activations, with every fact that the engines need stated beside it.

To add an operator is to add one file to this folder. Its class states the facts; the two decorators
:func:`from_aten` and :func:`from_onnx` say how it is read from a module or a file. Everything else, the engines,
the table of ``clinch supports`` and the conformance tests, finds it here.

============== =========================================== =====================================
fact           method                                      used by
============== =========================================== =====================================
forward        ``forward(*inputs)``                        attacks, the re-check of points
interval rule  ``interval(*inputs)``                       interval bounds
relaxation     ``relax(inputs, shapes)``                   CROWN, branch and bound
exact encoding ``encode(encoder, inputs, bounds, shapes)`` MILP
============== =========================================== =====================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from clinch.errors import UnsupportedOperator
from clinch.geometry.inner_products import products

if TYPE_CHECKING:
    from clinch.network.build import Call, Value
    from clinch.network.ops.encoder import Expression, OperatorEncoder

Shape = tuple[int, ...]


class Interval(NamedTuple):
    """Element-wise limits of a batch of activations: two tensors of shape ``(B, *shape)``, ``lower <= upper``."""

    lower: Tensor
    upper: Tensor

    def take(self, problems: Tensor | slice) -> Interval:
        """The limits of the chosen rows of the batch, in that order; those of a slice are views."""
        return Interval(self.lower[problems], self.upper[problems])

    def without_nan(self) -> Interval:
        """The same limits, infinite where they are NaN: nothing is known there. Gradients flow to the others."""
        inf = torch.inf
        return Interval(self.lower.nan_to_num(-inf, inf, -inf), self.upper.nan_to_num(inf, inf, -inf))

    def intersect(self, other: Interval) -> Interval:
        """The limits that hold when both do; a limit that is NaN does not count.

        Rounding may cross them by an ulp: the midpoint then stands for both.
        """
        lower = torch.fmax(self.lower, other.lower)
        upper = torch.fmin(self.upper, other.upper)
        crossed = lower > upper
        middle = (lower + upper) / 2
        return Interval(torch.where(crossed, middle, lower), torch.where(crossed, middle, upper))


class Relaxation:
    """Linear lower limits of ``<rows, op(inputs)>`` in terms of the operator's inputs, for any rows."""

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Carry linear forms of the output back to the inputs.

        Args:
            rows: coefficients on the output, shape ``(B, R, *output_shape)``.

        Returns:
            One tensor ``(B, R, *input_shape)`` per input and an offset ``(B, R)`` such that
            ``<rows, op(x)> >= sum_i <returned_i, x_i> + offset`` for all inputs within the bounds
            the relaxation was made for.
        """
        raise NotImplementedError

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """The limits that rows choose, as functions of the inputs: for each output element the lower one where its
        coefficient is not negative, the upper one otherwise.

        Args:
            rows: one row per sample, ``(B, 1, *output_shape)``.
            inputs: ``(B, *input_shape)`` each.
        """
        raise NotImplementedError

    def take(self, problems: Tensor | slice) -> Self:
        """The relaxation of the chosen problems (views for a slice): every tensor field has the batch in front."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return dataclasses.replace(self, **{k: v[problems] for k, v in fields.items() if isinstance(v, Tensor)})  # type: ignore[type-var]

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy with the given dtype and device."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        moved = {
            k: v.to(device, dtype) if v.is_floating_point() else v.to(device)
            for k, v in fields.items()
            if isinstance(v, Tensor)
        }
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """A function of activations. Tensors among its fields are its parameters; they move with :meth:`to`."""

    #: the function is affine, so that its relaxation and its exact encoding follow from ``forward``
    affine: ClassVar[bool] = False
    #: two linear pieces that meet at zero, element by element: a search may split it there
    splits_at_zero: ClassVar[bool] = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The value for inputs of shape ``(B, *shape)``; acts on each row of the batch alone."""
        raise NotImplementedError

    def interval(self, *inputs: Interval) -> Interval:
        """Limits of the output, given limits of the inputs."""
        raise self.unsupported("interval rule")

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Relaxation:
        """A linear relaxation that holds for all inputs within the given limits."""
        raise self.unsupported("linear relaxation")

    def encode(
        self,
        encoder: OperatorEncoder,
        inputs: Sequence[Expression],
        bounds: Sequence[Interval],
        shapes: Sequence[Shape],
    ) -> Expression:
        """The exact mixed-integer encoding of the output (``bounds`` have a batch of one)."""
        raise self.unsupported("exact encoding")

    #: libraries compute it up to :meth:`absolute_error`, not relative to its value
    has_absolute_error: ClassVar[bool] = False

    def absolute_error(self, *inputs: Tensor) -> Tensor:
        """By how much values of common implementations are off, in units of rounding; 1 for functions of that size."""
        return torch.ones_like(self.forward(*inputs))

    @classmethod
    def supports(cls, fact: str) -> bool:
        """Whether this operator states the fact ``"interval"``, ``"relax"`` or ``"encode"``."""
        return getattr(cls, fact) is not getattr(Operator, fact)

    def unsupported(self, fact: str) -> UnsupportedOperator:
        """The error to raise where a fact is missing; the graph adds the layer and the source line."""
        return UnsupportedOperator(f"{self.label} has no {fact}; attacks still run on this network.")

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy whose floating-point parameters have the given dtype and device."""
        moved = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, dtype) if value.is_floating_point() else value.to(device)
        return dataclasses.replace(self, **moved) if moved else self

    def with_an_axis(self, shapes: Sequence[Shape]) -> Operator:
        """The operator as a graph has it, where one number per input is a row of one element: the same for what works
        element by element.

        Args:
            shapes: of the inputs as the model has them; ``()`` for one number, which will have shape ``(1,)``.
        """
        return self

    @property
    def label(self) -> str:
        """What tables and messages call it."""
        return type(self).__name__

    def is_identity(self, shapes: Sequence[Shape]) -> bool:
        """Whether it returns its input unchanged, given the shapes of its inputs: such a node is dropped."""
        return False


@dataclasses.dataclass(frozen=True, eq=False)
class AffineRelaxation(Relaxation):
    """An affine operator is its own relaxation: rows go back through its transpose."""

    op: Affine
    shapes: tuple[Shape, ...]

    def take(self, problems: Tensor | slice) -> Self:
        """The same for all problems."""
        return self

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """The operator itself, moved."""
        return dataclasses.replace(self, op=self.op.to(dtype, device))

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """Both limits are the operator itself."""
        return self.op.forward(*inputs)

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Exact: the inequality of :meth:`Relaxation.backward` is an equality here."""
        batch, count = rows.shape[:2]
        flat = rows.reshape(batch * count, *rows.shape[2:])
        carried = [
            part.reshape(batch, count, *shape) for part, shape in zip(self.op.transpose(flat, self.shapes), self.shapes)
        ]
        return carried, self.op.offset(flat, self.shapes).reshape(batch, count)


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Operator):
    """``forward(x) = A x + b``. A subclass states ``forward``; speed may ask it to state ``transpose`` as well."""

    affine: ClassVar[bool] = True
    #: no coefficient of A is negative, so that the interval rule follows from ``forward``
    nonnegative: ClassVar[bool] = False
    #: b = 0
    linear: ClassVar[bool] = False

    def interval(self, *inputs: Interval) -> Interval:
        """For non-negative coefficients the limits go through ``forward``; other operators state their own rule."""
        if not self.nonnegative:
            raise self.unsupported("interval rule")
        return Interval(self.forward(*(i.lower for i in inputs)), self.forward(*(i.upper for i in inputs)))

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """``Aᵀ rows`` for rows of shape ``(N, *output_shape)``, one tensor ``(N, *shape)`` per input."""
        with torch.enable_grad():
            zeros = [rows.new_zeros(rows.shape[0], *shape, requires_grad=True) for shape in shapes]
            out = self.forward(*zeros)
            return list(torch.autograd.grad(out, zeros, rows, create_graph=rows.requires_grad))

    def offset(self, rows: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """``<rows, b>``, shape ``(N,)``."""
        if self.linear:
            return rows.new_zeros(rows.shape[0])
        at_zero = self.forward(*(rows.new_zeros(1, *shape) for shape in shapes))
        return (rows * at_zero).flatten(1).sum(1)

    def after(self, earlier: Affine, shape: Shape, between: Shape) -> Affine | None:
        """``self ∘ earlier`` as one operator, or None where that is impossible or larger than the two.

        Args:
            earlier: the operator before this one, of a single input.
            shape: of the input of ``earlier``.
            between: of its output, the input of this operator.
        """
        return None

    def scaled(self, scale: Tensor | None, shift: Tensor | None, shape: Shape) -> Affine | None:
        """This operator followed by ``scale ⊙ y + shift`` as one operator, or None where that is impossible.

        Args:
            scale: broadcasts to the output; None for ones.
            shift: likewise; None for zeros.
            shape: of the output.
        """
        return None

    @classmethod
    def supports(cls, fact: str) -> bool:
        """As :meth:`Operator.supports`; the interval rule stated here holds for non-negative coefficients only."""
        if fact == "interval" and cls.interval is Affine.interval:
            return cls.nonnegative
        return super().supports(fact)

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Relaxation:
        """The operator itself."""
        return AffineRelaxation(self, tuple(shapes))

    def encode(
        self,
        encoder: OperatorEncoder,
        inputs: Sequence[Expression],
        bounds: Sequence[Interval],
        shapes: Sequence[Shape],
    ) -> Expression:
        """No variable and no row: an affine function of expressions is an expression."""
        return encoder.affine(self, inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Lines(Relaxation):
    """A lower and an upper line per element: ``lower_slope·x + lower_offset <= f(x) <= upper_slope·x + upper_offset``.

    Each tensor has shape ``(B, *shape)``, or ``(B, R, *shape)`` where the lines differ from row to row.

    Attributes:
        below_at_zero: every lower line passes through the origin: ``lower_offset`` is zero and need not be looked at.
    """

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor
    below_at_zero: bool = False

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """A positive coefficient takes the lower line, a negative one the upper line.

        Written as ``rows ⊙ upper + max(rows, 0) ⊙ (lower − upper)``: rows are read and written once less that way.
        """
        rise = self.lower_slope - self.upper_slope
        gap = None if self.below_at_zero else self.lower_offset - self.upper_offset
        carried, offset = through_lines(rows, self.upper_slope, rise, self.upper_offset, gap)
        return [carried], offset

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """The lower line, the upper one where the coefficient is negative."""
        below = self.lower_slope * inputs[0] + self.lower_offset
        return torch.where(rows[:, 0] >= 0, below, self.upper_slope * inputs[0] + self.upper_offset)

    def __iter__(self) -> Any:
        return iter((self.lower_slope, self.lower_offset, self.upper_slope, self.upper_offset))


def through_lines(
    rows: Tensor, slope: Tensor, rise: Tensor, offset: Tensor, gap: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows carried back through lines that are written as the upper ones and what the lower ones differ by.

    Args:
        rows: ``(B, R, *shape)``.
        slope: of the upper lines, ``(B, *shape)``, or ``(B, R, *shape)`` where they differ from row to row.
        rise: slope of the lower lines minus that of the upper ones; offset: of the upper lines.
        gap: offset of the lower lines minus that of the upper ones; None: minus the offset.

    Returns:
        Rows ``(B, R, *shape)`` and offsets ``(B, R)``.
    """
    positive = rows.clamp(min=0)
    if slope.dim() != rows.dim():
        carried = (rows * slope.unsqueeze(1)).addcmul_(positive, rise.unsqueeze(1))
    else:
        carried = (rows * slope).addcmul_(positive, rise)
    upper = products(rows, offset)
    return carried, upper - products(positive, offset) if gap is None else upper + products(positive, gap)


@dataclasses.dataclass(frozen=True, eq=False)
class Elementwise(Operator):
    """A scalar function applied to each element. A subclass that is increasing gets its interval rule from it."""

    increasing: ClassVar[bool] = False

    def interval(self, *inputs: Interval) -> Interval:
        """For an increasing function the limits go through ``forward``."""
        if not self.increasing:
            raise self.unsupported("interval rule")
        return Interval(self.forward(inputs[0].lower), self.forward(inputs[0].upper))

    @classmethod
    def supports(cls, fact: str) -> bool:
        """As :meth:`Operator.supports`; the interval rule stated here holds for increasing functions only."""
        if fact == "interval" and cls.interval is Elementwise.interval:
            return cls.increasing
        return super().supports(fact)


# --- how operators are read from modules and files ---------------------------------------------------------------

#: reads one exported call or ONNX node (``network/build.py``): returns the operator to apply to all its activations, or
#: what it built with ``call.emit``, or None where no operator stands for this variant
Reader = Callable[["Call"], "Operator | Value | list[Value] | None"]
ATEN: dict[str, Reader] = {}
ONNX: dict[str, Reader] = {}


def from_aten(*targets: str) -> Callable[[Reader], Reader]:
    """Register the reader of exported calls, by name without overload: ``@from_aten("aten.linear")``."""
    return _registration(ATEN, targets)


def from_onnx(*types: str) -> Callable[[Reader], Reader]:
    """Register the reader of ONNX nodes, by operator type: ``@from_onnx("Gemm")``."""
    return _registration(ONNX, types)


def _registration(table: dict[str, Reader], names: Sequence[str]) -> Callable[[Reader], Reader]:
    def register(reader: Reader) -> Reader:
        for name in names:
            if name in table:
                raise AssertionError(f"{name} is read twice")
            table[name] = reader
        return reader

    return register
