"""Leaves of the search: domains on which the network is affine, closed by one convex program each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from clinch.backends.convex import (
    BallLimit,
    ConvexResult,
    DistanceCost,
    LinearCost,
    minimise_in_ball,
    minimise_over_polyhedron,
)
from clinch.bounds.crown import linear_lower
from clinch.bounds.lagrangian import Domains, Relaxed, evaluate
from clinch.network.graph import Graph
from clinch.network.ops.base import Lines, Relaxation
from clinch.query import Distance, Forms, Linear, Query


def is_convex(query: Query) -> bool:
    """Whether a leaf is a convex program that a backend takes: counting elements is not convex."""
    if isinstance(query.objective, Distance) and query.objective.p == 0:
        return False
    return all(ball.p != 0 and (ball.weights is None or bool((ball.weights > 0).all())) for ball in query.region.balls)


def solve_leaf(relaxed: Relaxed, leaf: Domains, time_limit: float) -> tuple[Domains, Tensor | None]:
    """Solve one leaf as a linear or quadratic program.

    The program's multipliers are hints: they are put in place of the leaf's own and the dual function is evaluated
    again, so that the bound returned is proven whatever the solver did.

    Args:
        leaf: one domain without open elements.

    Returns:
        The leaf with the better of the two bounds, and the program's point ``(1, *input_shape)`` if it has one.
    """
    query = relaxed.query
    result = _solved(relaxed, leaf, time_limit)
    hints = [h for h in (result.multipliers, result.ray) if h is not None and np.isfinite(h).all()]
    best = leaf
    for hint in hints:
        candidate = _with_multipliers(relaxed, leaf, torch.from_numpy(np.maximum(hint, 0.0)))
        with torch.no_grad():
            dual = evaluate(relaxed, candidate)
        if bool(dual.bound > best.bound):
            best = replace(candidate, bound=dual.bound)
    point = None
    if result.point is not None and np.isfinite(result.point).all():
        point = torch.from_numpy(np.asarray(result.point)).reshape(1, *query.graph.input_shape)
    return best, point


def _solved(relaxed: Relaxed, leaf: Domains, time_limit: float) -> ConvexResult:
    """The leaf as a convex program over the box, and over the ball where a linear objective has one."""
    region, b = relaxed.query.region, leaf.problem
    rows, limits = _leaf_rows(relaxed, leaf)
    objective = _leaf_objective(relaxed, leaf)
    lower, upper = (t[b][0].flatten().numpy() for t in (region.lower, region.upper))
    if isinstance(objective, LinearCost) and region.balls:
        ball = region.balls[0].take(b)
        weights = None if ball.weights is None else ball.weights[0].flatten().numpy()
        limit = BallLimit(ball.center[0].flatten().numpy(), float(ball.radius), ball.p, weights)
        return minimise_in_ball(objective.cost, limit, lower, upper, rows, limits, time_limit=time_limit)
    return minimise_over_polyhedron(objective, lower, upper, rows, limits, time_limit=time_limit)


def _leaf_rows(relaxed: Relaxed, leaf: Domains) -> tuple[np.ndarray, np.ndarray]:
    """The chosen atoms and the sign conditions of the split elements as rows: ``rows @ x <= limits``."""
    query = relaxed.query
    chosen = leaf.choice[0][leaf.choice[0] >= 0]
    forms = [query.atoms.take(leaf.problem).select(chosen)]
    for kink in relaxed.kinks:
        j = query.graph.nodes[kink.node].inputs[0]
        split = leaf.split[0, kink.columns]
        at = split.nonzero().flatten()
        coefficients = leaf.mu.new_zeros(len(at), query.graph.nodes[j].size)
        coefficients[torch.arange(len(at)), kink.which[at]] = -split[at].to(leaf.mu.dtype)
        shape = (1, len(at), *query.graph.nodes[j].shape)
        forms.append(Forms({j: coefficients.reshape(shape)}, leaf.mu.new_zeros(1, len(at))))
    pieces = _affine_piece(relaxed, leaf)
    parts = [linear_lower(query.graph, f, pieces) for f in forms if f.count]
    if not parts:
        return np.zeros((0, query.graph.nodes[0].size)), np.zeros(0)
    rows = torch.cat([r[0].flatten(1) for r, _ in parts])
    limits = -torch.cat([o[0] for _, o in parts])
    return rows.numpy(), limits.numpy()


def _leaf_objective(relaxed: Relaxed, leaf: Domains) -> DistanceCost | LinearCost:
    objective = relaxed.query.objective
    if isinstance(objective, Distance):
        weights = None if objective.weights is None else objective.weights[leaf.problem][0].flatten().numpy()
        return DistanceCost(objective.center[leaf.problem][0].flatten().numpy(), objective.p, weights)
    assert isinstance(objective, Linear)
    rows, _ = linear_lower(relaxed.query.graph, objective.form.take(leaf.problem), _affine_piece(relaxed, leaf))
    return LinearCost(rows[0, 0].flatten().numpy())


def _affine_piece(relaxed: Relaxed, leaf: Domains) -> dict[int, Relaxation]:
    """The network's affine operators, with each splittable node replaced by its slopes on this leaf."""
    graph: Graph = relaxed.query.graph
    made = dict(relaxed.fixed)
    for kink in relaxed.kinks:
        op = graph.nodes[kink.node].op
        slope = kink.slope[leaf.problem].clone()
        split = leaf.split[:, kink.columns].to(slope.dtype)
        bounds = kink.bounds.take(leaf.problem)
        # An element that is stable in this problem keeps its side; a limit on that side alone gives its slope.
        side = torch.where(split != 0, split, torch.where(bounds.lower >= 0, 1.0, -1.0))
        slope[:, kink.which] = op.forward(side) * side
        slope = slope.reshape(1, *graph.nodes[kink.node].shape)
        zero = torch.zeros_like(slope)
        made[kink.node] = Lines(slope, zero, slope, zero)
    return made


def _with_multipliers(relaxed: Relaxed, leaf: Domains, multipliers: Tensor) -> Domains:
    """Put a program's multipliers in the places of mu and beta (same order as :func:`_leaf_rows`)."""
    chosen = leaf.choice[0][leaf.choice[0] >= 0]
    mu, beta = torch.zeros_like(leaf.mu), torch.zeros_like(leaf.beta)
    mu[0, chosen] = multipliers[: len(chosen)].to(mu.dtype)
    at = leaf.split[0].nonzero().flatten()
    beta[0, at] = multipliers[len(chosen) :].to(beta.dtype)
    return replace(leaf, mu=mu, beta=beta)
