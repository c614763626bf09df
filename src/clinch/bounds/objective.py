"""From linear bounds to a certified lower bound of a query's objective, for any clause set and without bisection.

Every atom ``a_k(x) <= 0`` has a linear lower limit ``<λ_k, x> + κ_k <= a_k(x)`` over the region, so a feasible input
lies in the half-space ``<λ_k, x> + κ_k <= 0`` of at least one atom of each clause. For a distance objective

    distance >= max over clauses  min over the clause's atoms  dist(center, half-space_k ∩ box),

each of which is closed form or one-dimensional. For other objectives the clauses can only prove infeasibility.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clinch.bounds.crown import activation_bounds, form_bounds, linear_lower, never, relaxations_from
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import minimum_over
from clinch.network.ops.base import Interval, Relaxation
from clinch.query import Distance, Forms, FormsNorm, Linear, Query


def objective_bound(
    query: Query, bounds: dict[int, Interval] | None = None, *, stop: Callable[[], bool] = never
) -> Tensor:
    """Proven: no feasible input of the query's region has a smaller objective. Shape ``(B,)``; infinity: infeasible.

    Args:
        query: the float64 normal form; pass ``query.narrowed(value)`` to search the incumbent's ball only, and take the
            smaller of the result and ``value`` as the bound of the whole query.
        bounds: limits of activations over ``query.region`` (default: computed with CROWN).
        stop: asked now and then; once true, activations not yet bounded by CROWN keep their interval limits.

    Raises:
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.
    """
    if bounds is None:
        bounds = activation_bounds(query.graph, query.region, query.nodes, stop=stop)
    return bound_from(query, relaxations_from(query.graph, bounds, query.nodes))


def bound_from(query: Query, relaxations: dict[int, Relaxation]) -> Tensor:
    """:func:`objective_bound` from the relaxation of every node that the query depends on."""
    bound, infeasible = _clause_bound(query, relaxations)
    match query.objective:
        case Distance():
            value = torch.maximum(bound, _distance_to_region(query))
        case Linear(form=form):
            value = form_bounds(query.graph, form, query.region, relaxations)[:, 0]
        case FormsNorm() as objective:
            value = _norm_bound(query, objective, relaxations)
    return torch.where(infeasible, torch.inf, value)


def impossible_atoms(query: Query, bounds: dict[int, Interval]) -> Tensor:
    """``(B, K)`` atoms proven to hold nowhere in the region, by linear relaxations or by the activations' own limits.

    The second proof is not weaker: that a ReLU's output is not negative is lost to a lower line of slope one.
    """
    atoms, graph = query.atoms, query.graph
    relaxations = relaxations_from(graph, bounds, atoms.nodes)
    lower = form_bounds(graph, atoms, query.region, relaxations)
    limits = {0: Interval(query.region.lower, query.region.upper)}
    for i in graph.ancestors(atoms.nodes):
        if i:
            node = graph.nodes[i]
            limits[i] = graph.interval(i, [bounds.get(j, limits[j]) for j in node.inputs])
    least = atoms.constant
    for node, rows in atoms.coefficients.items():
        low, high = (t.flatten(1).unsqueeze(1) for t in bounds.get(node, limits[node]))
        flat = rows.flatten(2)
        terms = torch.where(flat > 0, flat * low, torch.where(flat < 0, flat * high, torch.zeros_like(flat)))
        least = least + terms.sum(2)
    return torch.maximum(lower, least) > 0


def _clause_bound(query: Query, relaxations: dict) -> tuple[Tensor, Tensor]:
    """Distance bound from the clauses (other objectives: zero) and whether some clause cannot hold; each ``(B,)``."""
    size, atoms = query.size, query.atoms
    none = query.region.lower.new_zeros(size)
    if not query.clauses:
        return none, none.bool()
    rows, offset = linear_lower(query.graph, atoms, relaxations)
    impossible = minimum_over(query.region, rows) + offset > 0
    distance = torch.where(impossible, torch.inf, none[:, None])
    if isinstance(query.objective, Distance):
        d = query.objective
        k = atoms.count
        center, weights = (None if t is None else _repeat(t, k) for t in (d.center, d.weights))
        assert center is not None
        reach, _, _ = halfspace_distance(
            rows.reshape(size * k, -1), offset.reshape(-1),
            _repeat(query.region.lower, k), _repeat(query.region.upper, k), center, d.norm, weights,
        )  # fmt: skip
        distance = torch.maximum(distance, reach.reshape(size, k))
    per_clause = query.clause_values(distance)
    return per_clause.amax(1), query.clause_values(impossible.to(distance.dtype)).amax(1) > 0


def _repeat(t: Tensor, count: int) -> Tensor:
    """``(B, *shape)`` to ``(B·count, n)``: each problem once per row."""
    return t.flatten(1).repeat_interleave(count, 0)


def _distance_to_region(query: Query) -> Tensor:
    """The distance from the centre to the region's box: the objective's bound without any clause."""
    assert isinstance(query.objective, Distance)
    nearest = query.objective.center.clamp(query.region.lower, query.region.upper)
    return query.objective.value(nearest, {})


def _norm_bound(query: Query, objective: FormsNorm, relaxations: dict) -> Tensor:
    """From limits of each form: the smallest (or, for a norm made large, minus the largest) norm within them."""
    forms = objective.forms
    both = Forms(
        {node: torch.cat([c, -c], 1) for node, c in forms.coefficients.items()},
        torch.cat([forms.constant, -forms.constant], 1),
    )
    limits = form_bounds(query.graph, both, query.region, relaxations)
    lower, upper = limits[:, : forms.count], -limits[:, forms.count :]
    if objective.scale > 0:
        nearest_zero = torch.maximum(lower, -upper).clamp(min=0)
        return objective.norm.value(nearest_zero, objective.weights)
    return -objective.norm.value(torch.maximum(lower.abs(), upper.abs()), objective.weights)
