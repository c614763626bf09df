"""The symbols of a region: one for each input that may move, and what affine layers are in them."""

from __future__ import annotations

import torch

from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.symbols import SymbolicLimits

#: free inputs beyond which symbols are not tried
MOST_SYMBOLS = 256
#: numbers that the limits of all layers may take
MOST_NUMBERS = 2**25


def symbols_of(region: Region, size: int) -> SymbolicLimits | None:
    """The inputs themselves, with a symbol for each that may move; None where these are many, or a limit is infinite.

    Args:
        region: B regions.
        size: activations for which limits may be asked.
    """
    lower, upper = region.lower.flatten(1), region.upper.flatten(1)
    free = lower < upper
    count = int(free.sum(1).max()) if len(free) else 0
    numbers = 2 * len(free) * (1 + count) * size
    if not 0 < count <= MOST_SYMBOLS or numbers > MOST_NUMBERS or not bool(torch.isfinite(upper - lower).all()):
        return None
    half, centre = (upper - lower) / 2, (upper + lower) / 2
    # where they stand in each problem; problems with fewer of them have some that do not move
    places = free.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
    moving = torch.zeros(len(free), count, free.shape[1], dtype=lower.dtype, device=lower.device)
    moving = moving.scatter(2, places.unsqueeze(2), half.gather(1, places).unsqueeze(2))
    middle = torch.cat([centre.unsqueeze(1), moving], 1)
    rounding = 4 * torch.finfo(lower.dtype).eps * (centre.abs() + half)
    shape = region.lower.shape[1:]
    return SymbolicLimits(middle.unflatten(2, shape), rounding.unsqueeze(1).unflatten(2, shape))


def affine_symbols(graph: Graph, node: int, region: Region) -> SymbolicLimits | None:
    """Node ``node`` of affine layers alone in symbols of the free inputs, or None as :func:`symbols_of`."""
    below = graph.ancestors([node])
    first = symbols_of(region, max(graph.nodes[i].size for i in below))
    if first is None:
        return None
    held = {0: first}
    for i in below[1:]:
        found = graph.relax(i, []).symbolic([held[k] for k in graph.nodes[i].inputs], graph.nodes[i].shape)
        if found is None:
            return None
        held[i] = found
    return held[node]


def mixes(graph: Graph, i: int) -> bool:
    """Whether an affine node may add up elements."""
    op = graph.nodes[i].op
    return not (op.selects or op.as_factors(graph.shapes(i)) is not None)
