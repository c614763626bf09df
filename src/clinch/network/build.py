"""How a graph is built: the readers of modules and of ONNX files share this part.

A reader sees one :class:`Call` at a time. Its arguments are bound by name; each is a :class:`Value` (an activation), a
tensor or a Python value. Everything that depends on no activation was computed before, so that it is a constant here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clinch.errors import NetworkError, UnsupportedOperator
from clinch.network.graph import Graph, Input, Node
from clinch.network.ops.base import Operator, Reader, Shape


class Value(NamedTuple):
    """An activation: the output of the node at ``position``, of the given shape without the batch.

    One number per input, of shape ``()`` here, is a node of shape ``(1,)``: engines meet no activation without an axis.
    """

    position: int
    shape: Shape


#: elements of a layer beyond which a network is refused: a file of some hundred bytes can ask for any number by padding
MOST_ELEMENTS = 2**26


class Builder:
    """The nodes of a graph in the making. Parameters are float64 there, so that folding rounds nothing away."""

    def __init__(self, input_name: str, shape: Shape, device: torch.device) -> None:
        self.nodes = [Node(input_name, Input(), (), tuple(shape))]
        self.device = device

    @property
    def input(self) -> Value:
        """The network's input."""
        return Value(0, self.nodes[0].shape)

    def emit(self, op: Operator, inputs: Sequence[Value], name: str, source: str) -> Value:
        """Append a node, or return the input itself where the operator changes nothing.

        Raises:
            NetworkError: a parameter is NaN or infinite.
            UnsupportedOperator: the operator does not act on each row of the batch alone.
        """
        shapes = [value.shape for value in inputs]
        if len(inputs) == 1 and op.is_identity(shapes):
            return inputs[0]
        op = op.to(torch.float64, self.device)
        where = f"Layer '{name}'" + (f" ({source})" if source else "")
        for field in fields(op):
            parameter = getattr(op, field.name)
            if isinstance(parameter, Tensor) and not bool(torch.isfinite(parameter).all()):
                raise NetworkError(
                    f"{where}: its {field.name} holds NaN or infinite numbers. Load a model with finite weights."
                )
        # Shapes come from a run on zeros: two rows in must be two rows out. The meta device would compute nothing, but
        # makes torch import its compiler, which takes as long as torch itself.
        rows = [torch.zeros(2, *shape, dtype=torch.float64, device=self.device) for shape in shapes]
        with torch.no_grad():
            out = op.forward(*rows)
        if not isinstance(out, Tensor) or out.dim() == 0 or out.shape[0] != 2 or not out.is_floating_point():
            raise UnsupportedOperator(
                f"{where}: {op.label} does not return one row of real numbers per input of the batch. "
                "Write the model so that each input of a batch is treated alone."
            )
        shape = tuple(out.shape[1:])
        if math.prod(shape) > MOST_ELEMENTS:
            raise NetworkError(
                f"{where} has {math.prod(shape):,} elements for one input; at most {MOST_ELEMENTS:,} are taken. "
                "Load a smaller network."
            )
        node = Node(name, op, tuple(value.position for value in inputs), shape or (1,), source)
        self.nodes.append(node if () not in (shape, *shapes) else replace(node, op=op.with_an_axis(shapes)))
        return Value(len(self.nodes) - 1, shape)

    def graph(
        self, output: Value, names: Sequence[str], aliases: Sequence[Sequence[str]]
    ) -> tuple[Graph, dict[int, int]]:
        """The nodes that the output depends on, the output last, and their new positions by old ones.

        Args:
            output: the network's output.
            names: final name of each node.
            aliases: further names of each node.
        """
        kept = Graph(tuple(self.nodes)).ancestors({0, output.position})
        moved = {old: new for new, old in enumerate(kept)}
        nodes = [
            replace(
                self.nodes[old],
                name=names[old],
                aliases=tuple(aliases[old]),
                inputs=tuple(moved[j] for j in self.nodes[old].inputs),
            )
            for old in kept
        ]
        return Graph(tuple(nodes)), moved


class Unique:
    """Gives out each name once: ``relu``, ``relu_1``, ``relu_2``."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def __call__(self, name: str) -> str:
        """The name itself if it is free, or with the first free number."""
        free, count = name, 0
        while free in self.taken:
            count += 1
            free = f"{name}_{count}"
        self.taken.add(free)
        return free


class Call(ABC):
    """One call of an exported module or one node of an ONNX file, as an operator's reader sees it."""

    def __init__(self, builder: Builder, operator: str, arguments: dict[str, Any], name: str, source: str) -> None:
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
