"""The surrogate of activation descent: a network whose ReLUs are switched by variables instead of by their own sign.

    h_i = s_i ⊙ ẑ_i(h_{i−1}),   s_i = a_i + r·(1 − a_i)

with a switch ``a_i`` in [0, 1] for each neuron and ``r`` the slope of a leaky ReLU below zero. With ``a_i = [ẑ_i > 0]``
it is the network itself (Yu and Gao 2024, arXiv 2406.00494, equation 3 and proposition 5.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from clinch.attacks.core.draws import Draws
from clinch.errors import ProblemError
from clinch.network.graph import Graph
from clinch.network.ops.base import Operator

#: switches of L runs: position of a ReLU in the graph -> ``(L, *shape)``
Switches = Mapping[int, Tensor]


class GatedNetwork:
    """A graph with some of its ReLUs under control. Every other operator stays what it is, convolutions too.

    Args:
        graph: the network.
        wanted: positions of the nodes that somebody looks at.
        layers: positions of the ReLUs to switch; None: all that the wanted nodes depend on.

    Attributes:
        gates: positions of the switched ReLUs, in the order of evaluation.
    """

    def __init__(self, graph: Graph, wanted: Iterable[int], layers: Sequence[int] | None = None) -> None:
        self.graph, self.wanted = graph, sorted(set(wanted))
        self._needed = [i for i in graph.ancestors(self.wanted) if i]
        every = [i for i in self._needed if graph.nodes[i].op.splits_at_zero]
        self.gates = every if layers is None else [i for i in every if i in set(layers)]
        #: the constant part of affine operators, which tangents do not pass through
        self._offset: dict[int, Tensor] = {}

    def before(self, gate: int) -> int:
        """Position of the pre-activation of a ReLU."""
        return self.graph.nodes[gate].inputs[0]

    def evaluate(self, x: Tensor) -> dict[int, Tensor]:
        """The network itself: its wanted activations, and the pre-activations of its gates."""
        return self.graph.forward(x, {*self.wanted, *map(self.before, self.gates)}, in_parts=True)

    def forward(self, x: Tensor, switches: Switches) -> dict[int, Tensor]:
        """All activations of the surrogate at ``(L, *input_shape)``; gradients flow to x and to the switches."""

        def gated(i: int, h: Tensor) -> Tensor:
            return h * self._slope(i, switches[i])

        return self.graph.forward(x, [0, *self._needed], {i: partial(gated, i) for i in switches}, in_parts=True)

    def _slope(self, gate: int, switch: Tensor) -> Tensor:
        pieces = self.graph.nodes[gate].op.two_pieces()
        leak = 0.0 if pieces is None else pieces.negative_slope
        return switch + leak * (1 - switch) if leak else switch

    @torch.no_grad()
    def squared_normals(self, values: Mapping[int, Tensor], switches: Switches, probes: Tensor) -> dict[int, Tensor]:
        """Squared lengths of the gradients of the pre-activations on the input, estimated or exact.

        For probes ``V`` whose rows have identity covariance ``Σ_k <n, V_k>²/K`` is an unbiased estimate of ``‖n‖²``
        (Hutchinson 1990); for the rows of ``√n·I`` it is exact.

        Args:
            values: what :meth:`forward` returned for the same switches.
            switches: of L runs.
            probes: ``(K, L, *input_shape)``, or ``(K, 1, *input_shape)`` where all runs share them.

        Returns:
            ``(L, *shape)`` for the pre-activation of each gate.
        """
        count, runs = len(probes), len(values[0])
        start = probes.expand(count, runs, *probes.shape[2:]).flatten(0, 1)
        wanted = {self.before(gate) for gate in self.gates}
        steps = {i: partial(self._tangent, i, values, switches, count) for i in self._needed}
        tangents = self.graph.forward(start, wanted, steps, in_parts=True)
        return {i: t.unflatten(0, (count, runs)).square().mean(0) for i, t in tangents.items()}

    def _tangent(self, i: int, values: Mapping[int, Tensor], switches: Switches, count: int, *along: Tensor) -> Tensor:
        """What K·L tangents at the inputs of node i become in it."""
        node = self.graph.nodes[i]
        if i in switches:
            return along[0] * _repeated(self._slope(i, switches[i]), count)
        if node.op.affine:
            moved = node.op.forward(*along)
            return moved if node.op.linear else moved - self._offset_of(i, node.op, along)
        pieces = node.op.two_pieces()
        if pieces is not None:
            on = values[node.inputs[0]] > 0
            return along[0] * _repeated(torch.where(on, 1.0, pieces.negative_slope).to(along[0]), count)
        points = tuple(_repeated(values[j], count) for j in node.inputs)
        return torch.func.jvp(node.op.forward, points, along)[1]

    def _offset_of(self, i: int, op: Operator, like: Sequence[Tensor]) -> Tensor:
        if i not in self._offset:
            self._offset[i] = op.forward(*(t.new_zeros(1, *t.shape[1:]) for t in like))
        return self._offset[i]


def _repeated(values: Tensor, count: int) -> Tensor:
    return values.repeat(count, *[1] * (values.dim() - 1))


def relu_layers(graph: Graph, names: Sequence[str] | None) -> list[int] | None:
    """Positions of the named ReLUs; None for all.

    Raises:
        ProblemError: a name that is no ReLU of this network; lists those that are.
    """
    if names is None:
        return None
    known = {name: i for name, i in graph.names.items() if graph.nodes[i].op.splits_at_zero}
    if isinstance(names, str):
        raise ProblemError(f"layers is the text '{names}'. Write a list of layers, such as ['{names}'].")
    for name in names:
        if name not in known:
            listed = ", ".join(n.name for n in graph.nodes if n.op.splits_at_zero) or "none"
            raise ProblemError(f"layers names '{name}', which is no ReLU of this network. It has: {listed}.")
    return [known[name] for name in names]


def probes_for(shape: tuple[int, ...], count: int, draws: Draws, like: Tensor) -> Tensor:
    """Random signs ``(count, runs, *shape)``, or where the input has no more elements than that an exact basis."""
    size = 1
    for extent in shape:
        size *= extent
    if size <= count:
        basis = torch.eye(size, dtype=like.dtype, device=like.device) * size**0.5
        return basis.reshape(size, 1, *shape)
    return draws.signs(like.new_empty(len(like), count, *shape)).transpose(0, 1)
