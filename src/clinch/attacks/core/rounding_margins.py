"""A problem as attacks see it: in the model's dtype, tightened by what rounding may cost there, and about what goes
into ReLUs rather than what comes out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from clinch.attacks.core.draws import Draws, fingerprint
from clinch.attacks.core.units import FARTHEST, Units, working_dtype
from clinch.query import Distance, Forms, Query


def tightened(query: Query, anchor: Tensor) -> Query:
    """The query in the dtype that attacks work in, every atom and ball tightened by what rounding may cost there.

    The rounding of an atom is measured: the largest difference between the model's dtype and float64 at the anchor and
    at two points around it. Six rows forward for each problem.

    Args:
        query: the float64 normal form.
        anchor: ``(B, *input_shape)`` points of the region, in the model's dtype.
    """
    query = replace(query, atoms=before_relus(query))
    dtype = query.network.dtype
    model, narrow = (query.to(d, query.device) for d in (working_dtype(dtype), dtype))
    draws = Draws.of(fingerprint(anchor), 0)
    spread, slack = torch.zeros_like(anchor), torch.zeros_like(model.atoms.constant)
    with torch.no_grad():
        for step in range(3):
            point = torch.maximum(torch.minimum(anchor + spread, model.region.upper), model.region.lower)
            point = point.to(dtype)
            rough, exact = narrow.evaluate(point)[1].to(slack), query.evaluate(point.to(query.dtype))[1]
            slack = torch.maximum(slack, (rough - exact.to(rough)).abs().nan_to_num())
            spread = 0.1 * draws.at(step).normal(spread)
    eps = torch.finfo(dtype).eps
    slack = 2 * slack + 4 * eps * (1 + model.atoms.constant.abs())
    atoms = Forms(model.atoms.coefficients, model.atoms.constant + slack)
    balls = tuple(replace(b, radius=b.radius * (1 - 16 * eps)) if b.p else b for b in model.region.balls)
    return replace(model, atoms=atoms, region=replace(model.region, balls=balls))


def before_relus(query: Query) -> Forms:
    """The atoms, those about a single ReLU as the same condition on what goes into it.

    ``max(z, 0) <= l`` with ``l >= 0`` is ``z <= l``, ``max(z, 0) >= l`` with ``l > 0`` is ``z >= l``, to the last bit.
    There is a gradient where the ReLU is off; and "off", ``z <= 0``, can be tightened, while no ReLU is below zero.
    """
    coefficients, constant = dict(query.atoms.coefficients), query.atoms.constant
    size = {node: (rows != 0).flatten(2).sum(2) for node, rows in coefficients.items()}
    single = (sum(size.values(), torch.zeros_like(constant, dtype=torch.long)) <= 1).all(0)
    for node in list(coefficients):
        layer, rows = query.graph.nodes[node], coefficients[node]
        pieces = layer.op.two_pieces()
        if pieces is None or pieces.negative_slope != 0:
            continue
        c = rows.flatten(2).sum(2)
        same = (c == 0) | ((c > 0) & (constant <= 0)) | ((c < 0) & (constant > 0))
        moved = (single & same.all(0) & (size[node] > 0).any(0)).reshape(1, -1, *[1] * len(layer.shape))
        before = coefficients.get(layer.inputs[0], torch.zeros_like(rows))
        coefficients[layer.inputs[0]] = before + torch.where(moved, rows, 0)
        coefficients[node] = torch.where(moved, 0, rows)
    return Forms({node: rows for node, rows in coefficients.items() if bool((rows != 0).any())}, constant)


def within_reach(query: Query, units: Units) -> Query:
    """For p = 0 an element may move as far as it likes: without limits of its own it gets some, to move to."""
    objective, region = query.objective, query.region
    if not isinstance(objective, Distance) or objective.p != 0:
        return query
    reach = FARTHEST * units.unit.reshape(-1, *[1] * (objective.center.dim() - 1))
    lower = torch.maximum(region.lower, objective.center - reach)
    upper = torch.minimum(region.upper, objective.center + reach)
    return replace(query, region=replace(region, lower=lower, upper=upper))


def disjunctive_clause(query: Query) -> int | None:
    """The clause with the most atoms; None where no clause has a choice."""
    if not query.clauses:
        return None
    count = torch.bincount(query.clause)
    return int(count.argmax()) if int(count.max()) > 1 else None


def reference_point(query: Query) -> Tensor:
    """The centre of a distance, else that of the first ball, else the middle of the box: ``(B, *input_shape)``."""
    if isinstance(query.objective, Distance):
        return query.objective.center
    if query.region.balls:
        return query.region.balls[0].center
    middle = (query.region.lower + query.region.upper) / 2
    zero = torch.zeros_like(middle).clamp(query.region.lower, query.region.upper)
    return torch.where(torch.isfinite(middle), middle, zero)
