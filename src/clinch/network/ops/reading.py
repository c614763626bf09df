"""How operators are read from modules and files: what a reader sees, and the tables that readers are found in.

A reader sees one :class:`Call` at a time. Its arguments are bound by name; each is a :class:`Value` (an activation), a
tensor or a Python value. Everything that depends on no activation was computed before, so that it is a constant here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from clinch.errors import UnsupportedOperator
from clinch.network.ops.base import Operator, Shape


class Value(NamedTuple):
    """An activation: the output of the node at ``position``, of the given shape without the batch.

    One number per input, of shape ``()`` here, is a node of shape ``(1,)``: engines meet no activation without an axis.
    """

    position: int
    shape: Shape


class Emitter(Protocol):
    """The graph in the making, as far as a reader sees it: :class:`clinch.network.build.Builder`."""

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        ...

    def computed(self, i: int) -> tuple[Operator, tuple[int, ...], Shape]:
        """What computes the value at a position, positions of its inputs, and its shape."""
        ...

    def emit(self, op: Operator, inputs: Sequence[Value], name: str, source: str) -> Value:
        """Append a node."""
        ...

    def stands_for(self, last: Value, op: Operator, inputs: Sequence[Value]) -> None:
        """The node there is the last part of the operator, which computes its value."""
        ...


class Call(ABC):
    """One call of an exported module or one node of an ONNX file, as an operator's reader sees it."""

    def __init__(self, builder: Emitter, operator: str, arguments: dict[str, Any], name: str, source: str) -> None:
        self.builder = builder
        self.operator = operator
        self.arguments = arguments
        self.name = name
        self.source = source
        #: the model's dtype, where one is fixed
        self.dtype: torch.dtype | None = None

    @property
    @abstractmethod
    def advice(self) -> str:
        """What would work instead of an operator that cannot be read, as a sentence."""

    @property
    @abstractmethod
    def output_shape(self) -> Shape:
        """Shape of the output, without the batch.

        Raises:
            UnsupportedOperator: the first dimension of the output is not the batch.
        """

    def __getitem__(self, name: str) -> Any:
        """The argument of that name: an activation, a tensor (float64 if it is real), or a Python value."""
        value = self.arguments[name]
        return value.to(torch.float64) if isinstance(value, Tensor) and value.is_floating_point() else value

    def get(self, name: str, default: Any = None) -> Any:
        """The argument of that name; the default where it is absent or None."""
        value = self[name] if name in self.arguments else None
        return default if value is None else value

    def ints(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """The argument of that name as a list of integers; a single number counts as a list of one."""
        value = self.get(name, default)
        if isinstance(value, Tensor):
            value = value.flatten().tolist()
        if value is None or isinstance(value, Value):
            raise self.refuse(f"its argument '{name}' is not a constant")
        values = list(value) if isinstance(value, Sequence) else [value]
        if not all(isinstance(v, int) for v in values):
            raise self.refuse(f"its argument '{name}' depends on the size of the batch")
        return values

    def number(self, name: str, default: float) -> float:
        """The argument of that name as a number."""
        value = self.get(name, default)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if not isinstance(value, (int, float)):
            raise self.refuse(f"its argument '{name}' is not a single number")
        return value

    def tensor(self, name: str) -> Tensor | None:
        """The argument of that name as a float64 constant, None where it is absent."""
        value = self.get(name)
        if value is None:
            return None
        return self.constant(value)

    def constant(self, value: Any) -> Tensor:
        """A tensor or number as a float64 constant."""
        if not isinstance(value, (Tensor, int, float)):
            raise self.refuse(
                "one of its arguments must be a constant, and depends on the input or the size of the batch"
            )
        return torch.as_tensor(value, dtype=torch.float64, device=self.builder.device)

    def activation(self, name: str) -> Value:
        """The argument of that name, which must depend on the network's input."""
        value = self.arguments.get(name)
        if not isinstance(value, Value):
            raise self.refuse(f"its argument '{name}' must be computed from the input and is a constant")
        return value

    def operand(self, name: str) -> Value | Tensor:
        """The argument of that name: an activation, or a tensor or number as a float64 constant."""
        value = self[name]
        return value if isinstance(value, Value) else self.constant(value)

    @property
    def activations(self) -> list[Value]:
        """All activations among the arguments, in order."""
        return list(_values(list(self.arguments.values())))

    def axis(self, value: int, rank: int) -> int:
        """An axis of a sample of ``rank`` dimensions, counted from 0, from one of a batch (where 0 is the batch)."""
        axis = value + rank + 1 if value < 0 else value
        if axis == 0:
            raise self.refuse("it works along the batch; each input must be treated alone")
        return axis - 1

    def channels_first(self, value: Value, spatial: int) -> None:
        """Insist on a sample of shape ``(channels, *spatial)``."""
        if len(value.shape) != spatial + 1:
            raise self.refuse(f"its input {value.shape} has no channel dimension in front of {spatial} spatial ones")

    def emit(self, op: Operator, *inputs: Value) -> Value:
        """Append a node."""
        return self.builder.emit(op, inputs, self.name, self.source)

    def refuse(self, why: str) -> UnsupportedOperator:
        """The error to raise for a variant that cannot be read."""
        where = f" ({self.source})" if self.source else ""
        return UnsupportedOperator(f"Layer '{self.name}'{where}: {self.operator} cannot be read: {why}. {self.advice}")

    def read(self, reader: Reader) -> Value | list[Value] | None:
        """What the reader makes of this call."""
        result = reader(self)
        return self.emit(result, *self.activations) if isinstance(result, Operator) else result


def _values(tree: Any) -> Iterator[Value]:
    if isinstance(tree, Value):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _values(item)


# --- the tables ------------------------------------------------------------------------------------------------------

#: reads one exported call or ONNX node: returns the operator to apply to all its activations, or what it built with
#: ``call.emit``, or None where no operator stands for this variant
Reader = Callable[[Call], "Operator | Value | list[Value] | None"]
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
