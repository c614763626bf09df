"""The fast dual bound (Wong & Kolter 2018, arXiv 1711.00851).

One feasible point of the dual of the triangle relaxation, read off by one backward pass through the *dual network*:
``ν_L = −c``, ``ν̂_i = W_iᵀ ν_{i+1}``, and at a ReLU with limits ``[l, u]``

    ν = 0 where u <= 0,   ν̂ where l >= 0,   d·ν̂ with d = u/(u − l) where l < 0 < u,

which bounds ``c · z`` from below by ``−Σ_i ν_{i+1}ᵀ b_i − max over the region of ν̂_1ᵀ x + Σ_open l_j [ν_j]₊``
(theorem 1 with the fixed choice α = d). Seen from the primal this is a linear relaxation whose lower line is parallel
to the upper one, so that the code is that of CROWN with another slope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clinch.bounds.crown import activation_bounds, form_bounds, given_limits, never, relaxations_from
from clinch.bounds.rows import layer_forms
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.network.ops.base import Interval, Lines, Relaxation


def dual_relax(graph: Graph, i: int, inputs: Sequence[Interval]) -> Relaxation:
    """The relaxation of node i within limits of its inputs, a ReLU's two lines parallel."""
    relaxation = graph.relax(i, inputs)
    if graph.nodes[i].op.splits_at_zero and isinstance(relaxation, Lines):
        return replace(relaxation, lower_slope=relaxation.upper_slope)
    return relaxation


def dual_relaxations(graph: Graph, limits: Mapping[int, Interval], wanted: Iterable[int]) -> dict[int, Relaxation]:
    """The relaxation of every node the wanted nodes depend on, a ReLU's two lines parallel.

    Args:
        graph: the network.
        limits: of the inputs of non-affine nodes.
        wanted: positions of nodes.
    """
    return relaxations_from(graph, limits, wanted, dual_relax)


def dual_activation_bounds(
    graph: Graph,
    region: Region,
    wanted: Iterable[int] | None = None,
    known: Mapping[int, Interval] | None = None,
    *,
    stop: Callable[[], bool] = never,
) -> dict[int, Interval]:
    """Proven limits of every activation that a non-affine node reads, by the fast dual and the interval rule.

    Args:
        graph: the network, in the region's dtype.
        region: B regions.
        wanted: only what these nodes depend on is looked at (default: the output).
        known: limits that hold already, to be intersected with.
        stop: asked now and then; once true, what is left keeps its interval limits, which are valid too.
    """
    return activation_bounds(graph, region, wanted, known, stop=stop, relax=dual_relax)


def fast_dual(
    network: Network,
    region: Region,
    c: Tensor | None = None,
    *,
    layer: str | None = None,
    limits: Mapping[str, Interval] | None = None,
) -> Tensor:
    """Certified lower limits of ``c_r · layer(x)`` over a region by the dual network of Wong & Kolter.

    Where the paper concretises over a ball (``−x0ᵀν̂_1 − ε‖ν̂_1‖_q``), this takes the exact minimum over box ∩ ball for
    p = 1, 2 and infinity; and an intermediate limit is the better of the dual's and the interval rule's. Layers that
    are no ReLUs take CROWN's lines.

    Args:
        network: from :func:`clinch.load`.
        region: from :func:`clinch.bounds.box` or :func:`clinch.bounds.ball`, B inputs.
        c: ``(R, size)`` or ``(B, R, size)`` rows on the layer's activations; None: the activations themselves.
        layer: name of a layer; None: the output.
        limits: of the layers that non-affine layers read, from :func:`clinch.bounds.layer_limits`; None: by the same
            method.

    Returns:
        ``(B, R)`` float64. Gradients flow to the weights of a network loaded with ``live=True``.

    Raises:
        UnknownLayer, ShapeError, UnsupportedOperator: there is no such layer, rows or limits do not fit, or a layer
            below has no linear relaxation.

    Example:
        >>> region = clinch.bounds.ball(x[:3], 0.1, clinch.inf, lower=0, upper=1)
        >>> clinch.bounds.fast_dual(net, region, c[:3]).amin(1)
        tensor([-2.1461, -6.3053, -0.2845], dtype=torch.float64)
    """
    graph, node, blocks = layer_forms(network, region, c, layer)
    if limits is None:
        held = dual_activation_bounds(graph, region, [node])
    else:
        held = given_limits(graph, region, [node], limits)
    relaxations = dual_relaxations(graph, held, [node])
    return torch.cat([form_bounds(graph, forms, region, relaxations) for forms in blocks], 1)
