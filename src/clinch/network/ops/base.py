"""What an operator is: a function of activations, with every fact that the engines need stated beside it.

To add an operator is to add one file to this folder. Its class states the facts; the two decorators
:func:`clinch.network.ops.reading.from_aten` and :func:`clinch.network.ops.reading.from_onnx` say how it is read from a
module or a file. Everything else, the engines, the table of ``clinch supports`` and the conformance tests, finds it
here. A function of one number states less, see :mod:`clinch.network.ops.elementwise`.

============== =========================================== =====================================
fact           method                                      used by
============== =========================================== =====================================
forward        ``forward(*inputs)``                        attacks, the re-check of points
interval rule  ``interval(*inputs)``                       interval bounds
relaxation     ``relax(inputs, shapes)``                   CROWN, branch and bound
exact encoding ``encode(encoder, inputs, bounds, shapes)`` MILP
============== =========================================== =====================================

Some engines have a quicker or exact way where an operator can be seen as something simpler. Each of these hooks says
how, or None: it does not apply.

============== =========================================== ======================================================
hook           method                                      used by
============== =========================================== ======================================================
two pieces     ``two_pieces()``                            splits, α-CROWN's slopes, certificates, gated attacks
undecided      ``undecided(bounds)``                       limits of layers: which elements are worth bounding
other lines    ``lines_at(bounds, places)``                 α-CROWN mixes them
other planes   ``planes_at(inputs, shapes, places)``       α-CROWN mixes them
matrix         ``as_matrix(shapes)``                       CROWN's last and first layers, input splits
convolution    ``as_convolution(shapes)``                  CROWN's windows
factors        ``as_factors(shapes)``                      CROWN's windows, folding
sum            ``as_sum(shapes)``                          CROWN's windows
reach          ``as_reach(shapes)``                        CROWN's windows
transposed     ``as_transposed(shapes)``                   CROWN's windows
alike          ``treats_places_alike(shapes)``             CROWN's windows
maximum        ``as_maximum(shapes)``                      enumeration of linear pieces
pruning        ``prune(shapes, outputs, inputs)``          α-CROWN leaves out dead neurons
statement      ``statement(shapes, shape)``                certificates
parts          ``in_parts(emit, *inputs)``                 reading: bounds see the parts, attacks the whole
pullback       ``pullback(shapes)``                        attacks: gradients without autograd
============== =========================================== ======================================================
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from clinch.errors import UnsupportedOperator
from clinch.network.ops.encoder import Expression, OperatorEncoder
from clinch.network.ops.interval import Interval as Interval
from clinch.network.ops.interval import Shape as Shape
from clinch.network.ops.planes import Planes
from clinch.network.ops.relaxation import Lines as Lines
from clinch.network.ops.relaxation import Relaxation as Relaxation
from clinch.network.ops.statements import Statement as Statement
from clinch.network.ops.statements import of_affine
from clinch.network.ops.symbols import ROUNDINGS, SymbolicLimits, alike, plus_constant
from clinch.network.ops.views import Factors, Kernel, Matrix, Maximum, Reach, TwoPieces

#: appends an operator to a graph in the making: ``emit(op, *values)`` is its value
Emit = Callable[..., Any]

#: from ``(gradient, inputs, output)`` to ``Jᵀ gradient``, one tensor for each input
Pullback = Callable[[Tensor, Sequence[Tensor], Tensor], list[Tensor]]

#: facts that an operator may state, as messages call them
FACTS = {"interval": "interval rule", "relax": "linear relaxation", "encode": "exact encoding"}


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """A function of activations. Tensors among its fields are its parameters; they move with :meth:`to`."""

    #: the function is affine, so that its relaxation and its exact encoding follow from ``forward``
    affine: ClassVar[bool] = False
    #: it is affine, and no coefficient is negative
    nonnegative: ClassVar[bool] = False
    #: it is affine, and zero at zero
    linear: ClassVar[bool] = False
    #: each output element is a function of the input element at its place
    elementwise: ClassVar[bool] = False
    #: of a sample of one dimension, the output's elements are ordered as the input's: what is largest stays largest
    keeps_argmax: ClassVar[bool] = False
    #: of a sample of one dimension, the same number is taken from all elements
    shifts: ClassVar[bool] = False
    #: the output has the elements of its one input, in their order
    keeps_order: ClassVar[bool] = False
    #: each output element is an element of an input or the largest of some, so that no number is rounded
    selects: ClassVar[bool] = False
    #: its relaxation is constant: nothing but its own limits is known of the output
    enclosed: ClassVar[bool] = False
    #: the output has the elements of its one input, in some order
    rearranges: ClassVar[bool] = False

    @property
    def strictly_increasing(self) -> bool:
        """It works element by element, and gives more for more."""
        return False

    def of_difference(self) -> Operator | None:
        """Of a sample of two elements, what each is as a function of its excess over the other."""
        return None

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

    # --- what it also is: None where it is not ------------------------------------------------------------------------

    def two_pieces(self) -> TwoPieces | None:
        """The operator as ``max(x, a·x)`` with ``a < 1``, element by element: a search may split it at zero."""
        return None

    @property
    def splits_at_zero(self) -> bool:
        """Whether it is two linear pieces that meet at zero."""
        return self.two_pieces() is not None

    def lines_at(self, bounds: Interval, places: Sequence[float], *, quick: bool = False) -> list[Lines]:
        """Valid lines for each place in [l, u], 0 for l to 1 for u: the tightest ones there; α-CROWN mixes them.

        Empty: the operator has one pair of lines. Quick: about the tightest, for searches that make them all the time.
        """
        return []

    def planes_at(self, inputs: Sequence[Interval], shapes: Sequence[Shape], places: Sequence[float]) -> list[Planes]:
        """Of a sum of products: valid planes, McCormick's two for −1 and 1 and mixtures between; α-CROWN mixes them.

        Empty: the operator is no sum of products.
        """
        return []

    @property
    def turns_at_zero(self) -> bool:
        """Whether limits of its input on one side of zero are as good as any."""
        return self.splits_at_zero

    def undecided(self, bounds: Interval) -> Tensor:
        """Of one input, where narrower limits ``(B, *shape)`` may change the relaxation."""
        lower, upper = bounds
        return (lower < 0) & (upper > 0) if self.splits_at_zero else lower < upper

    @property
    def has_jumps(self) -> bool:
        """Whether it jumps somewhere: a constant may then say more than any line."""
        return False

    @property
    def settles(self) -> bool:
        """Whether nothing is left to bound of its output where its input is not :meth:`undecided`."""
        return not self.splits_at_zero

    def as_matrix(self, shapes: Sequence[Shape]) -> Matrix | None:
        """The operator as ``W x + b`` on samples of one dimension."""
        return None

    def as_convolution(self, shapes: Sequence[Shape]) -> Kernel | None:
        """The operator as a convolution."""
        return None

    def as_factors(self, shapes: Sequence[Shape]) -> Factors | None:
        """The operator as ``scale ⊙ x + shift`` of its input's shape."""
        return None

    def as_sum(self, shapes: Sequence[Shape]) -> tuple[float, ...] | None:
        """The operator as ``Σ_k sign_k x_k`` of inputs of its own shape: the signs, 1 or −1."""
        return None

    def as_reach(self, shapes: Sequence[Shape]) -> Reach | None:
        """The places of an image that each place of the output reads, channel by channel: copies of elements with
        constants around them, or an operator whose relaxation picks elements."""
        return None

    def as_transposed(self, shapes: Sequence[Shape]) -> Kernel | None:
        """The convolution whose transpose the operator is, up to a constant."""
        return None

    def treats_places_alike(self, shapes: Sequence[Shape]) -> bool:
        """Whether it copies elements at each place of an image by itself, and at every place alike: it and its
        transpose then take images of any extents."""
        return False

    def as_maximum(self, shapes: Sequence[Shape]) -> Maximum | None:
        """The operator as maxima of multiples of input elements."""
        return None

    def pullback(self, shapes: Sequence[Shape]) -> Pullback | None:
        """How gradients go back through it, as autograd has it up to rounding."""
        return None

    def prune(
        self, shapes: Sequence[Shape], outputs: Tensor | None = None, inputs: Tensor | None = None
    ) -> Operator | None:
        """The operator that gives the chosen elements of its output only, or reads the chosen ones of its input only.

        Args:
            shapes: of the inputs.
            outputs: flat positions ``(k,)`` of the elements to give; None: all.
            inputs: of the elements to read, all others being zero; None: all. An elementwise operator keeps both.
        """
        return None

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement | None:
        """The operator as a layer of a certificate, see docs/certificates.md.

        Args:
            shapes: of the inputs; shape: of the output.
        """
        return None

    def in_parts(self, emit: Emit, *inputs: Any) -> Any:
        """The same function written out in simpler operators, whose facts are its own; None: it states facts itself.

        Bounds and proofs read the parts; values are computed by ``forward``, which is the original's.

        Args:
            emit: appends an operator; inputs: :class:`clinch.network.ops.reading.Value`, of which the last value that
                was emitted is made.
        """
        return None

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

    def symbolic(self, inputs: Sequence[SymbolicLimits], shape: Shape) -> SymbolicLimits | None:
        """``A m + b`` and ``|A| h``; exact but for rounding."""
        op, batch = self.op, len(inputs[0].middle)
        if not op.has_absolute:
            return super().symbolic(inputs, shape)

        def columns(parts: Sequence[Tensor], function: Callable[..., Tensor]) -> Tensor:
            return function(*(t.flatten(0, 1) for t in parts)).unflatten(0, (batch, -1))

        middle = columns([x.middle for x in inputs], op.times)
        half = columns(alike([x.half for x in inputs]), op.absolute)
        if op.selects:
            return SymbolicLimits(middle, half)
        size = op.absolute(*(x.size for x in inputs))
        if not op.linear:
            constant = op.forward(*(middle.new_zeros(1, *s) for s in self.shapes))
            middle, size = plus_constant(middle, constant), size + constant.abs()
        terms = sum(math.prod(s) for s in self.shapes) + ROUNDINGS
        return SymbolicLimits(middle, half).widened(terms * torch.finfo(middle.dtype).eps * size)

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

    def times(self, *inputs: Tensor) -> Tensor:
        """``A x``, without b."""
        if self.linear:
            return self.forward(*inputs)
        return self.forward(*inputs) - self.forward(*(t.new_zeros(1, *t.shape[1:]) for t in inputs))

    def absolute(self, *inputs: Tensor) -> Tensor:
        """``|A| x``: the operator with the absolute values of its coefficients, without b."""
        if not self.nonnegative:
            raise self.unsupported("interval rule")
        return self.times(*inputs)

    @property
    def has_absolute(self) -> bool:
        """Whether :meth:`absolute` is known."""
        return self.nonnegative or type(self).absolute is not Affine.absolute

    def interval(self, *inputs: Interval) -> Interval:
        """The limits go through ``forward`` where no coefficient is negative, else ``A m + b ± |A| r`` for midpoints m
        and radii r."""
        if self.nonnegative:
            return Interval(self.forward(*(i.lower for i in inputs)), self.forward(*(i.upper for i in inputs)))
        centre = self.forward(*((lower + upper) / 2 for lower, upper in inputs))
        radius = self.absolute(*((upper - lower) / 2 for lower, upper in inputs))
        return Interval(centre - radius, centre + radius)

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """``Aᵀ rows`` for rows of shape ``(N, *output_shape)``, one tensor ``(N, *shape)`` per input."""
        with torch.enable_grad():
            zeros = [rows.new_zeros(rows.shape[0], *shape, requires_grad=True) for shape in shapes]
            out = self.forward(*zeros)
            return list(torch.autograd.grad(out, zeros, rows, create_graph=rows.requires_grad))

    def pullback(self, shapes: Sequence[Shape]) -> Pullback | None:
        """The transpose, where it is stated."""
        if type(self).transpose is Affine.transpose:
            return None
        return lambda gradient, inputs, output: self.transpose(gradient, shapes)

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

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement | None:
        """The entries of its matrix, where it is not too large to look for them."""
        return of_affine(self, shapes, shape)

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
        """As :meth:`Operator.supports`; the interval rule stated here needs :meth:`absolute`."""
        if fact == "interval" and cls.interval is Affine.interval:
            return cls.nonnegative or cls.absolute is not Affine.absolute
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
class Elementwise(Operator):
    """A scalar function applied to each element. A subclass that is increasing gets its interval rule from it."""

    elementwise: ClassVar[bool] = True
    increasing: ClassVar[bool] = False
    #: the function's name in certificates; its parameters there are the fields that tell functions apart
    named: ClassVar[str | None] = None

    def statement(self, shapes: Sequence[Shape], shape: Shape) -> Statement | None:
        """The function by its name."""
        if self.named is None:
            return None
        parameters = [float(getattr(self, field.name)) for field in dataclasses.fields(self) if field.compare]
        return {"kind": "function", "name": self.named, "parameters": parameters}, {}

    def prune(
        self, shapes: Sequence[Shape], outputs: Tensor | None = None, inputs: Tensor | None = None
    ) -> Operator | None:
        """The same, where output and input keep the same elements and no parameter has a place."""
        alike = outputs is not None and inputs is not None
        placed = any(isinstance(getattr(self, f.name), Tensor) for f in dataclasses.fields(self))
        return self if alike and not placed else None

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
