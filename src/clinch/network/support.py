"""Which layers are supported by which engine."""

from __future__ import annotations

from dataclasses import dataclass

from clinch.network.network import Network
from clinch.network.ops.base import Shape


@dataclass(frozen=True)
class LayerSupport:
    """What is known about one layer.

    Attributes:
        name: of the layer.
        operator: what it computes.
        shape: of its output, without the batch.
        source: file and line, or ONNX node.
        forward: attacks can follow it.
        interval: it has an interval rule.
        relaxation: it has a linear relaxation (CROWN, branch and bound).
        exact: it has an exact encoding (MILP).
        certificate: certificates can state it.
    """

    name: str
    operator: str
    shape: Shape
    source: str
    forward: bool
    interval: bool
    relaxation: bool
    exact: bool
    certificate: bool


def supports(network: Network) -> list[LayerSupport]:
    """One row per layer, the input left out; each answer comes from the operator itself."""
    rows = []
    graph = network.graph
    for i, node in enumerate(graph.nodes[1:], 1):
        interval, relaxation, exact = (node.op.supports(fact) for fact in ("interval", "relax", "encode"))
        stated = node.op.statement(graph.shapes(i), node.shape) is not None
        rows.append(
            LayerSupport(
                node.name, node.op.label, node.shape, node.source, True, interval, relaxation, exact, certificate=stated
            )
        )
    return rows
