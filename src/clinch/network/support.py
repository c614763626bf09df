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
    """

    name: str
    operator: str
    shape: Shape
    source: str
    forward: bool
    interval: bool
    relaxation: bool
    exact: bool


def supports(network: Network) -> list[LayerSupport]:
    """One row per layer, the input left out; each answer comes from the operator itself."""
    rows = []
    for node in network.graph.nodes[1:]:
        facts = (node.op.supports(fact) for fact in ("interval", "relax", "encode"))
        rows.append(LayerSupport(node.name, node.op.label, node.shape, node.source, True, *facts))
    return rows
