"""ReLU networks for other optimisers: weights layer by layer, with proven limits as big-M.

Textbook encodings take big-M from interval arithmetic, or ask for it. These are CROWN's over the region, intersected
with those of the interval rule: they cut off nothing, and leave the relaxation of the mixed-integer model far tighter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clinch.bounds.limits import node_limits
from clinch.bounds.rows import loaded
from clinch.errors import ProblemError, ShapeError, UnsupportedOperator
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.network import Network

#: numbers of one layer's matrix, at most (1 GiB)
COEFFICIENTS = 2**27


@dataclass(frozen=True)
class BigMLayer:
    """``z = W h + b`` of the layer before, ``lower <= z <= upper``, and ``h = max(z, 0)`` but for the last one.

    Attributes:
        name: of the layer that computes z.
        weight: ``(m, n)``, the affine layers since the ReLU before in one.
        bias: ``(m,)``.
        lower: ``(m,)`` proven over the region.
        upper: ``(m,)``.
        relu: whether a ReLU follows.
    """

    name: str
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    relu: bool

    @property
    def unstable(self) -> int:
        """Neurons whose sign is open: each needs a binary."""
        return int(((self.lower < 0) & (self.upper > 0)).sum()) if self.relu else 0

    def tighten(self, variables: Any) -> None:
        """Give another optimiser's variables of z these limits: of Pyomo (``setlb``, ``setub``) or Gurobi (``LB``,
        ``UB``), in an array, a list or whatever yields them in order.

        Raises:
            ShapeError: they are not as many as neurons.
        """
        listed = list(np.asarray(variables, dtype=object).ravel()) if not hasattr(variables, "values") else list(
            variables.values()
        )  # fmt: skip
        if len(listed) != len(self.lower):
            raise ShapeError(f"Layer '{self.name}' has {len(self.lower)} neurons; these are {len(listed)} variables.")
        for variable, low, high in zip(listed, self.lower.tolist(), self.upper.tolist()):
            if hasattr(variable, "setlb"):
                variable.setlb(low)
                variable.setub(high)
            else:
                variable.LB, variable.UB = low, high


def export(
    network: Network, region: Region, file: str | Path | None = None, *, method: str = "crown"
) -> list[BigMLayer]:
    """A ReLU network as matrices with proven big-M, for Gurobi ML, OMLT, CVXPY, or a model written by hand.

    ``z_1 = W_1 x + b_1``, ``h_k = max(z_k, 0)``, ``z_{k+1} = W_{k+1} h_k + b_{k+1}``; the last z is the output. With
    binaries ``a``: ``h >= z``, ``h <= upper·a``, ``h <= z − lower·(1 − a)``.

    Args:
        network: a chain of affine layers and ReLUs, from :func:`clinch.load`; flat or not.
        region: one input region, from :func:`clinch.bounds.box` or :func:`clinch.bounds.ball`, or a problem's,
            ``problem.query.region``.
        file: an ``.npz`` file to write: ``weight0``, ``bias0``, ``lower0``, ``upper0``, ``weight1``, …
        method: as of :func:`clinch.bounds.layer_limits`.

    Raises:
        UnsupportedOperator: a layer is neither affine nor a ReLU, or layers branch; names it.
        ShapeError: several regions. ProblemError: a layer's matrix would not fit in memory.

    Example:
        >>> layers = clinch.bounds.export(net, clinch.bounds.box(torch.zeros(1, *x0.shape), torch.ones(1, *x0.shape)))
        >>> [layer.unstable for layer in layers]
        [32, 16, 0]
    """
    network = loaded(network, region)
    if region.size != 1:
        raise ShapeError(f"Big-M belongs to one region; these are {region.size}. Take one: region.take(slice(0, 1)).")
    graph = network.graph_as(torch.float64, "cpu")
    ends = [*(node.inputs[0] for node in graph.nodes[1:] if _is_relu(node.op)), graph.output]
    limits = node_limits(graph, region.to(torch.float64, "cpu"), ends, method=method)
    layers, start = [], 0
    for end in ends:
        weight, bias = _affine(graph, start, end)
        low, high = (side.flatten().numpy() for side in limits[end])
        last = end == graph.output and end == ends[-1]
        layers.append(BigMLayer(graph.nodes[end].name, weight, bias, low, high, not last))
        start = end + 1
    if file is not None:
        _save(Path(file), layers)
    return layers


def _is_relu(op: Any) -> bool:
    pieces = op.two_pieces()
    return pieces is not None and pieces.negative_slope == 0


def _affine(graph: Graph, start: int, end: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the layers from one node to another compute, as a matrix and a shift."""
    first = graph.nodes[start]
    for i in range(start + 1, end + 1):
        node = graph.nodes[i]
        if not node.op.affine or any(not start <= j < i for j in node.inputs):
            raise UnsupportedOperator(
                f"Layer '{node.name}' ({node.op.label}) is not part of a chain of affine layers and ReLUs, which is "
                "what big-M models are written for. cl.bounds.layer_limits gives its limits too."
            )
    if (first.size + 1) * graph.nodes[end].size > COEFFICIENTS:
        raise ProblemError(f"The matrix of layer '{graph.nodes[end].name}' would take more than a gigabyte.")
    rows = torch.cat([torch.zeros(1, first.size, dtype=torch.float64), torch.eye(first.size, dtype=torch.float64)])
    values = {start: rows.reshape(-1, *first.shape)}
    for i in range(start + 1, end + 1):
        values[i] = graph.nodes[i].op.forward(*(values[j] for j in graph.nodes[i].inputs))
    found = values[end].flatten(1)
    return (found[1:] - found[0]).T.contiguous().numpy(), found[0].numpy()


def _save(file: Path, layers: Iterable[BigMLayer]) -> None:
    arrays = {
        f"{name}{k}": getattr(layer, name)
        for k, layer in enumerate(layers)
        for name in ("weight", "bias", "lower", "upper")
    }
    with file.open("wb") as stream:
        np.savez(stream, **arrays)
