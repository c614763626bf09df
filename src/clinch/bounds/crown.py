"""CROWN: linear bounds carried backward through linear relaxations (Zhang et al. 2018, arXiv 1811.00866).

Three steps, each a function of its own. :func:`linear_lower` carries linear forms of activations back to the input,
:func:`clinch.geometry.linear_minimum.minimum_over` takes their exact minimum over box ∩ ball, and
:func:`activation_bounds` uses both, layer by layer, to bound what the relaxations need. How the rows of single
activations are kept small is the matter of ``refine.py`` and, for convolutions, ``patches.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from clinch.bounds.backward import form_bounds as form_bounds
from clinch.bounds.backward import linear_lower as linear_lower
from clinch.bounds.choices import best_bounds, best_limits
from clinch.bounds.demand import Demand, Walk
from clinch.bounds.forward import Symbols
from clinch.bounds.refine import element_bounds
from clinch.bounds.rows import layer_forms
from clinch.bounds.windows import convolves
from clinch.errors import NonFiniteError, ProblemError, ShapeError
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.network.ops.base import Interval, Relaxation
from clinch.query import Forms, Query

#: graph, position and limits of its inputs -> the relaxation of that node
Relax = Callable[[Graph, int, Sequence[Interval]], Relaxation]


def never() -> bool:
    """Nobody asks to stop."""
    return False


def activation_bounds(
    graph: Graph,
    region: Region,
    wanted: Iterable[int] | None = None,
    known: Mapping[int, Interval] | None = None,
    *,
    include_wanted: bool = False,
    stop: Callable[[], bool] = never,
    relax: Relax = Graph.relax,
    made: dict[int, Relaxation] | None = None,
    choose: bool = False,
) -> dict[int, Interval]:
    """Proven limits of every activation that a non-affine node reads.

    Each limit is the better of the interval rule's and CROWN's; CROWN is spent only on elements whose relaxation it can
    change (for ReLUs: those whose sign is still open), see :mod:`clinch.bounds.demand`.

    Args:
        graph: the network, in the region's dtype.
        region: B regions.
        wanted: only what these nodes depend on is looked at (default: the output).
        known: limits that hold already, to be intersected with.
        include_wanted: bound the wanted nodes themselves too.
        stop: asked now and then; once true, what is left keeps its interval limits, which are valid too.
        relax: the linear relaxation of each node; CROWN's unless said otherwise.
        made: receives the relaxation of every node, from these limits.
        choose: take the best limits by several relaxations where that is cheap, see :mod:`clinch.bounds.choices`.

    Returns:
        Node position -> limits ``(B, *node_shape)``.

    Raises:
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.
    """
    wanted = {graph.output} if wanted is None else set(wanted)
    limits: dict[int, Interval] = {}
    relaxations: dict[int, Relaxation] = {} if made is None else made
    symbols = Symbols(graph, region, limits, relaxations)

    def relaxed(i: int) -> None:
        relaxations[i] = relax(graph, i, [limits[j] for j in graph.nodes[i].inputs])

    def better(j: int, _: Interval, demand: Demand) -> Interval:
        found = symbols.refined(j, demand, stop)
        return best_limits(graph, j, found, region, limits, relaxations, demand, stop) if choose else found

    walk = Walk(graph, region, better, limits, known or {})
    return walk.run(wanted, include_wanted=include_wanted, passed=relaxed)


def relaxations_from(
    graph: Graph, bounds: Mapping[int, Interval], wanted: Iterable[int], relax: Relax = Graph.relax
) -> dict[int, Relaxation]:
    """The relaxation of every node the wanted nodes depend on, from :func:`activation_bounds`' limits."""
    made = {}
    for i in graph.ancestors(wanted):
        node = graph.nodes[i]
        if i:
            made[i] = relax(graph, i, [] if node.op.affine else [bounds[j] for j in node.inputs])
    return made


def crown(network: Network, region: Region, c: Tensor | None = None, *, layer: str | None = None) -> Tensor:
    """Certified lower limits of ``c_r · layer(x)`` over a region by CROWN, with CROWN's own bounds of all layers below.

    Where the paper concretises over a ball, this takes the exact minimum over box ∩ ball; where a layer has several
    relaxations (products, smooth functions) and it is cheap, the best bound by some of them.

    Args:
        network: from :func:`clinch.load`.
        region: from :func:`clinch.bounds.box` or :func:`clinch.bounds.ball`, B inputs.
        c: ``(R, size)`` or ``(B, R, size)`` rows on the layer's activations; None: the activations themselves.
        layer: name of a layer; None: the output.

    Returns:
        ``(B, R)`` float64.

    Raises:
        UnknownLayer, ShapeError, UnsupportedOperator: there is no such layer, rows do not fit it, or a layer below has
            no linear relaxation.
    """
    graph, node, blocks = layer_forms(network, region, c, layer)
    limits = activation_bounds(graph, region, [node], choose=True)
    relaxations = relaxations_from(graph, limits, [node])
    if c is None and len(graph.nodes[node].shape) > 1 and convolves(graph, [node]):
        # rows of an image's elements are small, and no matrix of its size squared is looked at
        return element_bounds(graph, node, region, relaxations).lower.flatten(1)
    return torch.cat([best_bounds(graph, forms, region, limits, relaxations) for forms in blocks], 1)


def limits_of_forms(query: Query, forms: Forms, bounds: Mapping[int, Interval]) -> Interval:
    """CROWN's limits ``(B, K)`` of linear forms over a query's region, from limits of the nodes that others read."""
    relaxations = relaxations_from(query.graph, bounds, forms.nodes)
    negated = Forms({node: -c for node, c in forms.coefficients.items()}, -forms.constant)
    lower = form_bounds(query.graph, forms, query.region, relaxations)
    return Interval(lower, -form_bounds(query.graph, negated, query.region, relaxations))


def read_nodes(graph: Graph, wanted: Iterable[int]) -> list[int]:
    """What the non-affine nodes among the wanted ones and those below them read."""
    below = graph.ancestors(wanted)
    return sorted({j for i in below if i and not graph.nodes[i].op.affine for j in graph.nodes[i].inputs})


def given_limits(
    graph: Graph, region: Region, wanted: Iterable[int], limits: Mapping[str, Interval]
) -> dict[int, Interval]:
    """Limits by name as limits by position, checked.

    Args:
        graph: the network.
        region: B regions.
        wanted: everything that a non-affine node among these or below them reads must have limits.
        limits: name or alias of a layer -> limits ``(B, *layer_shape)``.

    Raises:
        ProblemError: limits are missing. ShapeError: they do not fit. NonFiniteError: NaN.
    """
    by_position = {graph.names[name]: limit for name, limit in limits.items() if name in graph.names}
    held = {}
    for j in read_nodes(graph, wanted):
        node = graph.nodes[j]
        if j not in by_position:
            raise ProblemError(
                f"limits has none for layer '{node.name}', which a non-affine layer reads. Take them from "
                "clinch.bounds.layer_limits(net, region)."
            )
        lower, upper = (torch.as_tensor(t, dtype=torch.float64).to(region.lower) for t in by_position[j])
        shape = (region.size, *node.shape)
        if lower.shape != shape or upper.shape != shape:
            raise ShapeError(
                f"The limits of layer '{node.name}' have shapes {tuple(lower.shape)} and {tuple(upper.shape)}; "
                f"give {shape}."
            )
        if bool((lower.isnan() | upper.isnan()).any()):
            raise NonFiniteError(f"The limits of layer '{node.name}' contain NaN; remove it.")
        held[j] = Interval(lower, upper)
    return held
