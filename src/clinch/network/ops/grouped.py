"""Calls that reduce elements in groups that a constant index says: the sum, mean, product or largest of each."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.network.ops.composites import Operand, Parts
from clinch.network.ops.order import larger
from clinch.network.ops.reading import Call, Value, from_aten
from clinch.network.ops.scale import per_sample
from clinch.network.ops.select import Take

#: groups of one call at most
MOST_GROUPS = 256
_CALLS = {"sum": "aten.sum", "mean": "aten.sum", "amax": "aten.amax", "amin": "aten.amin", "prod": "aten.prod"}


@from_aten("aten.index_reduce", "aten.scatter_reduce")
def _reduced(call: Call) -> Value | None:
    """``y_j = reduce {x_i: index_i = j}``, with what was there before, or without it."""
    rank = len(call.output_shape)
    dim, reduce = call.axis(call["dim"], rank), call.get("reduce")
    onto = call.operand("self")
    onto = per_sample(call, onto, rank) if isinstance(onto, Tensor) else onto
    onto = onto.expand(call.output_shape) if isinstance(onto, Tensor) else onto
    source = call.activation("src" if "src" in call.arguments else "source")
    index = _line(call["index"], source.shape, dim)
    if index is None or reduce not in _CALLS or onto.shape[dim] > MOST_GROUPS:
        return None
    parts = Parts(call)
    groups = [
        _group(call, parts, source, _slice(parts, onto, dim, j), (index == j).nonzero().flatten(), dim)
        for j in range(onto.shape[dim])
    ]
    return parts.apply(
        "aten.cat", tensors=[g.unsqueeze(0) if isinstance(g, Tensor) else g for g in groups], dim=dim + 1
    )


def _line(index: object, shape: tuple[int, ...], dim: int) -> Tensor | None:
    """The index along one dimension, where it is the same along all others; None: it is not, or no constant."""
    if not isinstance(index, Tensor):
        return None
    if index.dim() == 1:
        return index if len(index) == shape[dim] else None
    if index.dim() != len(shape) + 1 or index.shape[0] != 1 or index.shape[1:] != shape:
        return None
    lines = index[0].movedim(dim, -1).reshape(-1, shape[dim])
    return lines[0] if bool((lines == lines[0]).all()) else None


def _slice(parts: Parts, x: Operand, dim: int, j: int) -> Operand:
    return x.narrow(dim, j, 1) if isinstance(x, Tensor) else parts.part(x, dim, j, 1)


def _group(call: Call, parts: Parts, source: Value, before: Operand, places: Tensor, dim: int) -> Operand:
    """One group, as a slice of extent one."""
    reduce, count = call["reduce"], len(places)
    if not count:
        return before
    taken = call.emit(Take(dim, places), source)
    found: Operand = parts.apply(_CALLS[reduce], self=taken, dim=_dims(reduce, dim), keepdim=True)
    if call.get("include_self", True):
        count += 1
        if reduce in ("amax", "amin"):
            found = larger(call, found, before, 1.0 if reduce == "amax" else -1.0)
        else:
            found = parts.multiply(found, before) if reduce == "prod" else parts.add(found, before)
    return parts.multiply(found, torch.tensor(1.0 / count, dtype=torch.float64)) if reduce == "mean" else found


def _dims(reduce: str, dim: int) -> int | list[int]:
    return dim + 1 if reduce == "prod" else [dim + 1]
