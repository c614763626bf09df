"""α-CROWN: CROWN with optimised slopes (Xu et al. 2020, arXiv 2011.13824).

Where the paper differentiates the final bound through all intermediate bounds at once, this tightens layer by layer:
every intermediate bound is maximised by itself, over slopes of its own, and the next layer is relaxed with the result.
Tighter limits never make the best later bound looser, so that the two have the same optimum; one step is cheaper here,
and the intermediate bounds are as tight as they get, for whatever question comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from clinch.bounds.choices import best_bounds, choices
from clinch.bounds.crown import activation_bounds, form_bounds, given_limits, never, relaxations_from
from clinch.bounds.layerwise import BLOCK, layerwise_bounds, width
from clinch.bounds.rows import layer_forms
from clinch.bounds.slopes import SEARCH, ascend
from clinch.errors import ProblemError
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.network.ops.base import Interval
from clinch.query import Forms


def alpha_activation_bounds(
    graph: Graph,
    region: Region,
    wanted: Iterable[int] | None = None,
    known: Mapping[int, Interval] | None = None,
    *,
    steps: int = 20,
    include_wanted: bool = False,
    crown: bool = True,
    stop: Callable[[], bool] = never,
) -> dict[int, Interval]:
    """Proven limits of every activation that a non-affine node reads: :func:`activation_bounds`, then slopes optimised.

    Slopes are spent only on elements whose relaxation they can change: for ReLUs those whose sign CROWN leaves open.

    Args:
        graph: the network, in the region's dtype (float64).
        region: B regions.
        wanted: only what these nodes depend on is looked at (default: the output).
        known: limits that hold already, to be intersected with.
        steps: evaluations of each element's bounds.
        include_wanted: bound the wanted nodes themselves too.
        crown: whether :func:`activation_bounds` comes first; False: the known limits are its already.
        stop: asked after every step; once true, what is left keeps CROWN's or interval limits, which are valid too.

    Returns:
        Node position -> limits ``(B, *node_shape)``, nowhere wider than those of :func:`activation_bounds`.

    Raises:
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.
    """
    wanted = {graph.output} if wanted is None else set(wanted)
    with torch.no_grad():
        held = dict(known or {})
        if crown:
            held |= activation_bounds(graph, region, wanted, known, include_wanted=include_wanted, stop=stop)
        light = graph.to(SEARCH, region.lower.device)

        def bound(forms: Forms, where: Region, limits: Mapping[int, Interval]) -> Tensor:
            return ascend(graph, light, forms, where, limits, steps, stop)

        return layerwise_bounds(
            graph, region, bound, wanted, held, deep_only=True, include_wanted=include_wanted, stop=stop
        )


@torch.no_grad()
def alpha_form_bounds(
    graph: Graph,
    forms: Forms,
    region: Region,
    limits: Mapping[int, Interval],
    *,
    steps: int = 20,
    stop: Callable[[], bool] = never,
) -> Tensor:
    """Proven lower limits ``(B, R)`` of linear forms over the region, slopes optimised for every form by itself.

    Args:
        graph: the network in float64.
        forms: R forms for B problems.
        region: B regions.
        limits: of the inputs of non-affine nodes, as :func:`alpha_activation_bounds` returns them; not tightened here.
        steps: evaluations of each bound.
        stop: asked after every step.

    Returns:
        Nowhere below :func:`clinch.bounds.crown.form_bounds` with the same limits.
    """
    best = form_bounds(graph, forms, region, relaxations_from(graph, limits, forms.nodes))
    if not forms.count:
        return best
    light, device = graph.to(SEARCH, region.lower.device), region.lower.device
    below = set(graph.ancestors(forms.nodes or [0]))
    cost = width(graph, forms)
    columns = torch.arange(forms.count, device=device).split(max(1, BLOCK // cost))
    for problems in torch.arange(region.size, device=device).split(max(1, BLOCK // (cost * forms.count))):
        local = {i: held.take(problems) for i, held in limits.items() if i in below}
        for which in columns:
            if stop():
                return best
            part = forms.take(problems).select(which)
            found = ascend(graph, light, part, region.take(problems), local, steps, stop)
            at = problems.unsqueeze(1), which
            best[at] = torch.maximum(best[at], found)
    return best


def alpha_crown(
    network: Network,
    region: Region,
    c: Tensor | None = None,
    *,
    layer: str | None = None,
    steps: int = 20,
    limits: Mapping[str, Interval] | None = None,
) -> Tensor:
    """Certified lower limits of ``c_r · layer(x)`` over a region by α-CROWN.

    ``max over slopes α in [a, 1] of min over x of A(α) x + b(α)``, where ``A(α) x + b(α) <= c_r · layer(x)`` is CROWN's
    backward propagation with lower slope α_j at open ReLU j. At other functions of one number (sigmoid, GELU, exp, …)
    α_j in [−1, 1] mixes CROWN's line with those that are tightest further left and right, below and above.

    Args:
        network: from :func:`clinch.load`.
        region: from :func:`clinch.bounds.box` or :func:`clinch.bounds.ball`, B inputs.
        c: ``(R, size)`` or ``(B, R, size)`` rows on the layer's activations; None: the activations themselves.
        layer: name of a layer; None: the output.
        steps: evaluations of every bound, intermediate and final; 1 gives CROWN.
        limits: of the layers that non-affine layers read, from :func:`clinch.bounds.layer_limits`; they are taken as
            they are. None: by α-CROWN itself.

    Returns:
        ``(B, R)`` float64, nowhere below CROWN's. No gradients flow.

    Raises:
        UnknownLayer, ShapeError, UnsupportedOperator: there is no such layer, rows or limits do not fit, or a layer
            below has no linear relaxation. ProblemError: steps is not a positive whole number.

    Example:
        >>> region = clinch.bounds.ball(x[:3], 0.1, clinch.inf, lower=0, upper=1)
        >>> clinch.bounds.alpha_crown(net, region, c[:3]).amin(1)
        tensor([-1.5788, -5.5877,  0.2277], dtype=torch.float64)
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ProblemError(f"steps is {steps}; give a whole number of 1 or more, such as 20.")
    graph, node, blocks = layer_forms(network, region, c, layer)
    if limits is not None:
        held = given_limits(graph, region, [node], limits)
        return torch.cat([alpha_form_bounds(graph, forms, region, held, steps=steps) for forms in blocks], 1)
    with torch.no_grad():
        known = activation_bounds(graph, region, [node], choose=True)
    held = alpha_activation_bounds(graph, region, [node], known, steps=steps, crown=False)
    return torch.cat([_not_below(graph, forms, region, held, known, steps) for forms in blocks], 1)


@torch.no_grad()
def _not_below(
    graph: Graph,
    forms: Forms,
    region: Region,
    limits: Mapping[int, Interval],
    known: Mapping[int, Interval],
    steps: int,
) -> Tensor:
    """Optimised bounds from the limits, and where CROWN chooses between relaxations its own from those known before."""
    found = alpha_form_bounds(graph, forms, region, limits, steps=steps)
    if not choices(graph, graph.ancestors(forms.nodes)):
        return found
    relaxations = relaxations_from(graph, known, forms.nodes)
    return torch.maximum(found, best_bounds(graph, forms, region, known, relaxations))
