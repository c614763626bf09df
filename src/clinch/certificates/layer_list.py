"""A graph as the neutral layer list that the checker reads, see docs/certificates.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clinch.checker.layers import VERSION, digest
from clinch.errors import CertificateError
from clinch.network.graph import Graph, Node


def layer_list(graph: Graph) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header, with its digest, and tensors of the neutral list; layer i is node i.

    Raises:
        CertificateError: a layer has no place in the format.
    """
    tensors: dict[str, np.ndarray] = {}
    layers: list[dict[str, Any]] = [{"kind": "input", "shape": list(graph.input_shape)}]
    for i, node in enumerate(graph.nodes[1:], 1):
        layers.append({**_stated(i, node, graph, tensors), "inputs": list(node.inputs)})
    header = {"version": VERSION, "layers": layers, "sha256": ""}
    return {**header, "sha256": digest(header, tensors)}, tensors


def _stated(i: int, node: Node, graph: Graph, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    found = node.op.statement(graph.shapes(i), node.shape)
    if found is None:
        raise CertificateError(
            f"Layer '{node.name}' ({node.op.label}) has no place in a certificate; docs/certificates.md has the kinds "
            "of layers that have one. Ask for the bound without a certificate."
        )
    settings, constants = found
    tensors |= {f"{i}.{name}": _stored(value) for name, value in constants.items()}
    return {**settings, **{name: f"{i}.{name}" for name in constants}}


def _stored(value: torch.Tensor) -> np.ndarray:
    """As float32 where that loses nothing; whole numbers as they are."""
    if not value.is_floating_point():
        return value.cpu().numpy()
    exact = value.detach().cpu().to(torch.float64).numpy()
    single = exact.astype(np.float32)
    return single if (single == exact).all() else exact


def places(graph: Graph) -> dict[int, str]:
    """By node, the one name by which a certificate addresses it.

    The same rule as :func:`clinch.checker.layers.places`: a node stands for the last of its layers.
    """
    kinds: dict[str, list[int]] = {"relu": [], "function": [], "maximum": []}
    for i, node in enumerate(graph.nodes[1:], 1):
        stated = None if node.op.affine else node.op.statement(graph.shapes(i), node.shape)
        kind = "" if stated is None else {"maxpool": "maximum"}.get(stated[0]["kind"], stated[0]["kind"])
        if kind in kinds:
            kinds[kind].append(i)
    names = {0: "input"} | ({graph.output: "output"} if graph.output else {})
    for kind, nodes in kinds.items():
        for k, i in enumerate(nodes):
            names.setdefault(i, f"{kind}:{k}")
    for k, i in enumerate(kinds["relu"]):
        names.setdefault(graph.nodes[i].inputs[0], f"before:{k}")
    return names
