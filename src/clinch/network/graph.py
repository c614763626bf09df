"""The network as every engine sees it: a list of nodes in the order of evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clinch.errors import UnsupportedOperator
from clinch.io.files import printable
from clinch.network.ops.base import FACTS, Interval, Operator, Relaxation, Shape
from clinch.network.ops.encoder import Expression, OperatorEncoder
from clinch.network.ops.views import Matrix
from clinch.runtime import deadline

#: position of a node -> what to compute there instead, from the values of the node's inputs
Override = Mapping[int, Callable[..., Tensor]]


@dataclass(frozen=True, eq=False)
class Input(Operator):
    """The network's input: node 0 of every graph.

    Attributes:
        parts: names and shapes of what a flat input consists of, one after the other; empty: it is one array.
    """

    parts: tuple[tuple[str, Shape], ...] = ()

    def forward(self, *inputs: Tensor) -> Tensor:
        """The input itself."""
        return inputs[0]


class Whole(NamedTuple):
    """A function that is written out in parts, and positions of its inputs: how the value of its last part is computed.

    It is what the original computes; bounds and proofs see the parts.
    """

    op: Operator
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operator applied to the outputs of earlier nodes.

    Attributes:
        name: unique name by which the layer is addressed: module path, or ONNX name.
        op: what it computes.
        inputs: positions of its inputs in the graph, each smaller than its own.
        shape: of its output, without the batch.
        source: where it comes from, for messages: file and line of the module, or the ONNX node.
        aliases: further names that mean the same layer: of a container it ends, or of the ONNX tensor.
        whole: of the last part of a function that is written out, the function; its value is computed by that.
    """

    name: str
    op: Operator
    inputs: tuple[int, ...]
    shape: Shape
    source: str = ""
    aliases: tuple[str, ...] = ()
    whole: Whole | None = None

    @property
    def computed(self) -> Whole:
        """What its value is computed by."""
        return self.whole or Whole(self.op, self.inputs)

    @property
    def reads(self) -> tuple[int, ...]:
        """Positions of what bounds and values read: its inputs, and what its value is computed from."""
        return self.inputs if self.whole is None else (*self.inputs, *self.whole.inputs)

    def moved(self, place: Mapping[int, int] | Callable[[int], int]) -> Node:
        """The node with its inputs elsewhere."""
        to = place if callable(place) else place.__getitem__
        whole = None if self.whole is None else Whole(self.whole.op, tuple(map(to, self.whole.inputs)))
        return replace(self, inputs=tuple(map(to, self.inputs)), whole=whole)

    @property
    def size(self) -> int:
        """Number of activations."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of evaluation; node 0 is the input, the last one is the output."""

    nodes: tuple[Node, ...]

    @property
    def output(self) -> int:
        """Position of the output node."""
        return len(self.nodes) - 1

    @property
    def input_shape(self) -> Shape:
        """Shape of one input."""
        return self.nodes[0].shape

    @cached_property
    def activations(self) -> int:
        """Number of activations of one input, all nodes together."""
        return sum(node.size for node in self.nodes)

    @cached_property
    def names(self) -> dict[str, int]:
        """Position of each node by name or alias; a name goes before an alias."""
        aliases = {alias: i for i, node in enumerate(self.nodes) for alias in node.aliases}
        return aliases | {node.name: i for i, node in enumerate(self.nodes)}

    def layer_name(self, node: int) -> str:
        """``"input"``, ``"output"``, or the layer's own name, in one line whatever its author wrote."""
        if node == 0:
            return "input"
        return "output" if node == self.output else printable(self.nodes[node].name, lines=False)

    def element_name(self, node: int, element: int) -> str:
        """One activation: ``"relu2[3]"``, ``"input[0, 14, 14]"``."""
        name, shape = self.layer_name(node), self.nodes[node].shape
        op = self.nodes[node].op
        for part, own in op.parts if isinstance(op, Input) else ():
            if element < math.prod(own):
                name, shape = part, own
                break
            element -= math.prod(own)
        index = ", ".join(str(int(i)) for i in np.unravel_index(element, shape or (1,)))
        return f"{name}[{index}]"

    def forward(
        self,
        x: Tensor,
        wanted: Iterable[int] | None = None,
        override: Override | None = None,
        *,
        in_parts: bool = False,
    ) -> dict[int, Tensor]:
        """Activations of the wanted nodes (default: the output) for inputs ``(B, *input_shape)``.

        Only ancestors of the wanted nodes are evaluated. This is the one interpreter of graphs: whoever wants another
        value at some nodes (a surrogate gradient, a gate, a line of a relaxation, a rounding error) overrides them.

        Args:
            x: inputs.
            wanted: positions of nodes.
            override: what stands for the operator at some nodes; the input itself is what is passed.
            in_parts: functions that are written out are computed in their parts, as bounds see them.
        """
        wanted = {self.output} if wanted is None else set(wanted)
        override = override or {}
        values: dict[int, Tensor] = {0: x}
        for i in self.ancestors(wanted) if in_parts else self.evaluated(wanted):
            if i:
                deadline.look()
                node = self.nodes[i]
                op, inputs = (node.op, node.inputs) if in_parts else node.computed
                function = override.get(i, op.forward)
                values[i] = function(*(values[j] for j in inputs))
        return {i: values[i] for i in wanted}

    def deciding(self, i: int) -> int:
        """The node whose largest element is where that of node i is, as far back as operators say so."""
        while len(self.nodes[i].shape) == 1 and self.nodes[i].computed.op.keeps_argmax:
            (i,) = self.nodes[i].computed.inputs
        return i

    def ancestors(self, wanted: Iterable[int]) -> list[int]:
        """The given nodes and everything they depend on, in the order of evaluation."""
        needed = set(wanted)
        for i in range(len(self.nodes) - 1, 0, -1):
            if i in needed:
                needed.update(self.nodes[i].inputs)
        return sorted(needed)

    def needed(self, wanted: Iterable[int]) -> list[int]:
        """The given nodes and everything that their bounds or values depend on."""
        needed = set(wanted)
        for i in range(len(self.nodes) - 1, 0, -1):
            if i in needed:
                needed.update(self.nodes[i].reads)
        return sorted(needed)

    def evaluated(self, wanted: Iterable[int]) -> list[int]:
        """The given nodes and everything their values are computed from: not the parts of what is computed at once."""
        needed = set(wanted)
        for i in range(len(self.nodes) - 1, 0, -1):
            if i in needed:
                needed.update(self.nodes[i].computed.inputs)
        return sorted(needed)

    def bends_only_at_kinks(self, wanted: Iterable[int]) -> bool:
        """Whether every non-affine node below the wanted ones splits at zero: splits then end in an affine network."""
        ops = [self.nodes[i].op for i in self.ancestors(wanted) if i]
        return all(op.affine or op.splits_at_zero for op in ops)

    def lacking(self, wanted: Iterable[int], facts: Sequence[str]) -> UnsupportedOperator | None:
        """What is missing for engines that read some facts (:meth:`Operator.supports`) of everything below the wanted
        nodes: of the first operator that does not state one of them. None: nothing is."""
        for i in self.ancestors(wanted):
            op = self.nodes[i].op
            missing = next((fact for fact in facts if i and not op.supports(fact)), None)
            if missing is not None:
                return self._located(op.unsupported(FACTS[missing]), i)
        return None

    def shapes(self, i: int) -> tuple[Shape, ...]:
        """Shapes of the inputs of node i."""
        return tuple(self.nodes[j].shape for j in self.nodes[i].inputs)

    def matrix(self, i: int) -> Matrix | None:
        """Node i as ``W x + b`` on samples of one dimension, or None."""
        return self.nodes[i].op.as_matrix(self.shapes(i))

    def unshaped(self, i: int) -> int:
        """The node whose elements node i has, in their order: what it is a reshape of, or itself."""
        while self.nodes[i].op.keeps_order:
            (i,) = self.nodes[i].inputs
        return i

    def interval(self, i: int, inputs: Sequence[Interval]) -> Interval:
        """The interval rule of node i; a missing fact is reported with the layer's name and source.

        Where infinite limits meet and the rule says NaN, nothing is known: minus infinity to infinity. NaN that comes
        from elsewhere stays.
        """
        deadline.look()
        try:
            limits = self.nodes[i].op.interval(*inputs)
        except UnsupportedOperator as error:
            raise self._located(error, i) from None
        bounded = all(bool(torch.isfinite(t.sum())) for pair in inputs for t in pair)
        return limits if bounded else limits.without_nan()

    def relax(self, i: int, inputs: Sequence[Interval]) -> Relaxation:
        """The linear relaxation of node i; a missing fact is reported with the layer's name and source."""
        deadline.look()
        try:
            return self.nodes[i].op.relax(inputs, self.shapes(i))
        except UnsupportedOperator as error:
            raise self._located(error, i) from None

    def encode(
        self, i: int, encoder: OperatorEncoder, inputs: Sequence[Expression], bounds: Sequence[Interval]
    ) -> Expression:
        """The exact encoding of node i; a missing fact is reported with the layer's name and source."""
        deadline.look()
        try:
            return self.nodes[i].op.encode(encoder, inputs, bounds, self.shapes(i))
        except UnsupportedOperator as error:
            raise self._located(error, i) from None

    def _located(self, error: UnsupportedOperator, i: int) -> UnsupportedOperator:
        node = self.nodes[i]
        where = f" ({node.source})" if node.source else ""
        return UnsupportedOperator(f"Layer '{node.name}'{where}: {error}")

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Graph:
        """A copy with parameters of the given dtype on the given device."""
        wholes = (
            None if node.whole is None else node.whole._replace(op=node.whole.op.to(dtype, device))
            for node in self.nodes
        )
        return Graph(
            tuple(replace(node, op=node.op.to(dtype, device), whole=whole) for node, whole in zip(self.nodes, wholes))
        )
