"""A graph as the neutral layer list that the checker reads, see docs/certificates.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clinch.checker.layers import VERSION, digest
from clinch.errors import CertificateError
from clinch.network.graph import Graph, Node
from clinch.network.ops.add import Add
from clinch.network.ops.convolution import Convolution
from clinch.network.ops.dense import Dense
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.scale import Scale
from clinch.network.ops.shape import Reshape


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
    op = node.op
    if isinstance(op, LeakyReLU):
        return {"kind": "relu", "slope": op.negative_slope}
    if isinstance(op, Reshape):
        return {"kind": "reshape", "shape": list(node.shape)}
    if isinstance(op, Add) and len({graph.nodes[j].shape for j in node.inputs}) == 1:
        return {"kind": "add"}
    if isinstance(op, Scale) and op.shift is not None and (op.scale is None or bool((op.scale == 1).all())):
        tensors[f"{i}.bias"] = _stored(op.shift.broadcast_to(node.shape).flatten())
        if node.shape == graph.nodes[node.inputs[0]].shape:
            return {"kind": "shift", "bias": f"{i}.bias"}
    if isinstance(op, (Dense, Convolution)):
        names = {}
        for name in ("weight", "bias"):
            value = getattr(op, name)
            if value is not None:
                names[name] = f"{i}.{name}"
                tensors[names[name]] = _stored(value)
        if isinstance(op, Dense):
            return {"kind": "dense", **names}
        settings = {name: list(getattr(op, name)) for name in ("stride", "padding", "dilation")}
        return {"kind": "convolution", **names, **settings, "groups": op.groups}
    raise CertificateError(
        f"Layer '{node.name}' ({op.label}) has no place in a certificate, which knows dense layers, convolutions, "
        "ReLUs, sums, shifts and reshapes. Ask for the bound without a certificate."
    )


def _stored(value: torch.Tensor) -> np.ndarray:
    """As float32 where that loses nothing."""
    exact = value.detach().cpu().to(torch.float64).numpy()
    single = exact.astype(np.float32)
    return single if (single == exact).all() else exact


def places(graph: Graph) -> dict[int, str]:
    """By node, the one name by which a certificate addresses it: the first of input, output, ReLUs, what they read.

    The same rule as :func:`clinch.checker.layers.places`, since layer i is node i.
    """
    relus = [i for i, node in enumerate(graph.nodes) if isinstance(node.op, LeakyReLU)]
    before = {graph.nodes[i].inputs[0]: f"before:{k}" for k, i in reversed([*enumerate(relus)])}
    return before | {i: f"relu:{k}" for k, i in enumerate(relus)} | {graph.output: "output"} | {0: "input"}
