"""How a graph is built: what the readings of modules and of ONNX files share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from clinch.errors import NetworkError, UnsupportedOperator
from clinch.network.composites import recognised
from clinch.network.graph import Graph, Input, Node, Whole
from clinch.network.masks import unmasked
from clinch.network.ops.base import Operator, Shape
from clinch.network.ops.reading import Value
from clinch.network.ops.scale import Scale
from clinch.network.ops.within import Within
from clinch.network.ratios import ratio_ends

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

    def at_zero(self, value: Value) -> Tensor:
        """An activation ``(1, *shape)`` where the network's input is zero."""
        x = torch.zeros(1, *self.input.shape, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            return Graph(tuple(self.nodes)).forward(x, [value.position])[value.position]

    def computed(self, i: int) -> tuple[Operator, tuple[int, ...], Shape]:
        """What computes the value at a position, positions of its inputs, and its shape."""
        node = self.nodes[i]
        return node.computed.op, node.computed.inputs, node.shape

    def emit(self, op: Operator, inputs: Sequence[Value], name: str, source: str) -> Value:
        """Append a node, or return the input itself where the operator changes nothing.

        Raises:
            NetworkError: a parameter is NaN or infinite.
            UnsupportedOperator: the operator does not act on each row of the batch alone.
        """
        shapes = [value.shape for value in inputs]
        if len(inputs) == 1 and op.is_identity(shapes):
            return inputs[0]
        if (whole := recognised(self.nodes, op, inputs)) is not None:
            known, factor, x = whole
            value = self.emit(known, [x], name, source)
            scale = Scale(torch.tensor(factor, dtype=torch.float64)) if factor != 1 else None
            return value if scale is None else self.emit(scale, [value], name, source)
        if len(inputs) == 1:
            free = unmasked(self.nodes, lambda part, values: self.emit(part, values, name, source), op, inputs[0])
            op, inputs = (op, inputs) if free is None else (free[0], [free[1]])
        op = op.to(torch.float64, self.device)
        last = op.in_parts(lambda part, *values: self.emit(part, values, name, source), *inputs)
        if last is not None:
            self.stands_for(last, op, inputs)
            return last
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
            try:
                out = op.forward(*rows)
            except (RuntimeError, IndexError):
                # zeros may be no values that its inputs have together, as places to look up are not
                out = op.forward(*self._values(inputs))
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
        value, ends = Value(len(self.nodes) - 1, shape), ratio_ends(self.nodes, op, inputs)
        return value if ends is None else self.emit(Within(*ends), [value], name, source)

    def _values(self, of: Sequence[Value]) -> list[Tensor]:
        """Activations of two random inputs."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, *self.nodes[0].shape, generator=generator, dtype=torch.float64).to(self.device)
        found = Graph(tuple(self.nodes)).forward(x, [value.position for value in of])
        return [found[value.position].reshape(2, *value.shape) for value in of]

    def stands_for(self, last: Value, op: Operator, inputs: Sequence[Value]) -> None:
        """The node there is the last part of the operator, which computes its value."""
        shapes = [value.shape for value in inputs]
        op = op.to(torch.float64, self.device)
        op = op.with_an_axis(shapes) if () in (last.shape, *shapes) else op
        whole = Whole(op, tuple(value.position for value in inputs))
        self.nodes[last.position] = replace(self.nodes[last.position], whole=whole)

    def graph(
        self, output: Value, names: Sequence[str], aliases: Sequence[Sequence[str]]
    ) -> tuple[Graph, dict[int, int]]:
        """The nodes that the output depends on, the output last, and their new positions by old ones.

        Args:
            output: the network's output.
            names: final name of each node.
            aliases: further names of each node.
        """
        kept = Graph(tuple(self.nodes)).needed({0, output.position})
        moved = {old: new for new, old in enumerate(kept)}
        nodes = [replace(self.nodes[old], name=names[old], aliases=tuple(aliases[old])).moved(moved) for old in kept]
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
