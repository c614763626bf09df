"""Exact optima of tiny problems by enumeration: a reference that shares no search and no bound with the engines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from clinch.backends.convex import BallLimit, DistanceCost, LinearCost, minimise_in_ball, minimise_over_polyhedron
from clinch.backends.program import Vector
from clinch.errors import ProblemError, UnsupportedByEngine
from clinch.geometry.norms import Encoded
from clinch.geometry.region import Ball
from clinch.query import Distance, Forms, FormsNorm, Linear, Query

#: more open pieces than this are too many to enumerate
MOST_KINKS = 12
#: more input elements than this have too many subsets (p = 0)
MOST_INPUTS = 6
#: more input elements than this give an ℓ1 ball too many faces
MOST_IN_BALL = 9
#: by how much a point may lie outside an ℓ2 ball, and the tangents after which that must be reached
OUTSIDE, TANGENTS = 3e-7, 3000


@dataclass(frozen=True)
class _Affine:
    """``matrix @ x + offset`` for every activation of a node, on one linear piece of the network."""

    matrix: Vector
    offset: Vector


@dataclass(frozen=True)
class _Piece:
    """Rows ``rows @ x <= limits`` of a linear piece and the affine maps of the nodes known so far."""

    rows: Vector
    limits: Vector
    maps: dict[int, _Affine]


@dataclass(frozen=True)
class _Alternative:
    """An element is ``row @ x + offset`` where ``rows @ x <= limits``."""

    rows: Vector
    limits: Vector
    row: Vector
    offset: float


def brute_force(query: Query, problem: int = 0) -> float:
    """The exact optimum of one problem, infinity if it is infeasible, accurate to about 1e-7.

    Enumerates the linear pieces of ReLUs, leaky ReLUs and max pools and one atom per clause, skipping what is empty,
    and solves a linear or quadratic program for each combination left (p = 0: for each set of changed elements).

    Args:
        query: float64 normal form with at most 12 piecewise-linear elements and finite input limits; the region may
            have balls of p = 1 and 2.
        problem: which of its problems.

    Raises:
        ProblemError: too many such elements or (p = 0) input elements, or an unbounded input.
        UnsupportedByEngine: a ball of p = 0, a norm of activations with p = 0 or (made large, or in an ℓ2 ball)
            p = 2, or another operator that is not affine.
    """
    query = query.take(torch.tensor([problem]))
    _check(query)
    lower, upper = (t[0].flatten().numpy() for t in (query.region.lower, query.region.upper))
    best = np.inf
    for piece in _pieces(query, lower, upper):
        for rows, limits in _choices(query, piece, lower, upper):
            best = min(best, _optimum(query, piece, rows, limits, lower, upper))
    return best


def _check(query: Query) -> None:
    graph = query.graph
    bent = [i for i in graph.ancestors(query.nodes) if i and not graph.nodes[i].op.affine]
    if any(graph.nodes[i].op.as_maximum(graph.shapes(i)) is None for i in bent):
        raise UnsupportedByEngine("Brute force takes ReLUs, leaky ReLUs and max pools only. Use solver='milp'.")
    if sum(graph.nodes[i].size for i in bent) > MOST_KINKS:
        raise ProblemError(f"Brute force takes at most {MOST_KINKS} piecewise elements. Use solver='milp'.")
    balls, objective = query.region.balls, query.objective
    if any(ball.norm.counts for ball in balls):
        raise UnsupportedByEngine("Brute force takes balls of p = 1 and 2, not p = 0. Use solver='count'.")
    if isinstance(objective, FormsNorm):
        curved = objective.norm.encoded is not Encoded.LINEAR and objective.scale < 0
        programs = objective.norm.in_convex_programs
        if not programs or curved or any(ball.norm.encoded is not Encoded.LINEAR for ball in balls):
            raise UnsupportedByEngine("Brute force takes no such norm of activations. Use p = 1 or inf.")
    if balls and query.graph.nodes[0].size > MOST_IN_BALL:
        raise ProblemError(f"Brute force in a ball takes at most {MOST_IN_BALL} input elements. Use another solver.")
    if not torch.isfinite(query.region.lower).all() or not torch.isfinite(query.region.upper).all():
        raise ProblemError("Brute force needs finite limits of every input element. Add constraints on x.")
    counted = isinstance(query.objective, Distance) and query.objective.norm.counts
    norms = [ball.norm for ball in balls] + ([objective.norm] if isinstance(objective, Distance) else [])
    if any(norm.encoded is Encoded.CONIC for norm in norms):
        raise UnsupportedByEngine("Brute force takes distances and balls of p = 0, 1, 2 and inf. Use another p.")
    if counted and query.graph.nodes[0].size > MOST_INPUTS:
        raise ProblemError(f"Brute force with p = 0 takes at most {MOST_INPUTS} input elements. Use solver='milp'.")


def _pieces(query: Query, lower: Vector, upper: Vector) -> Iterator[_Piece]:
    """All linear pieces of the network that the box meets."""
    n = len(lower)
    faces = [_faces(ball) for ball in query.region.balls if ball.norm.encoded is Encoded.LINEAR]
    rows = np.vstack([np.zeros((0, n)), *(r for r, _ in faces)])
    limits = np.concatenate([np.zeros(0), *(e for _, e in faces)])
    start = _Piece(rows, limits, {0: _Affine(np.eye(n), np.zeros(n))})
    order = [i for i in query.graph.ancestors(query.nodes) if i]
    yield from _descend(query, order, start, lower, upper)


def _faces(ball: Ball) -> tuple[Vector, Vector]:
    """An ℓ1 ball as linear rows, one for each choice of signs."""
    center, weights = _flat(ball)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(center))))
    rows = signs * weights
    return rows, rows @ center + float(ball.radius)


def _flat(ball: Ball | Distance) -> tuple[Vector, Vector]:
    """Centre and weights, ``(n,)``."""
    center = ball.center[0].flatten().numpy()
    return center, np.ones_like(center) if ball.weights is None else ball.weights[0].flatten().numpy()


def _descend(query: Query, order: list[int], piece: _Piece, lower: Vector, upper: Vector) -> Iterator[_Piece]:
    if not order:
        yield piece
        return
    i, rest = order[0], order[1:]
    if query.graph.nodes[i].op.affine:
        maps = {**piece.maps, i: _through(query, i, piece)}
        yield from _descend(query, rest, _Piece(piece.rows, piece.limits, maps), lower, upper)
        return
    for rows, limits, after in _combinations(_alternatives(query, i, piece), piece, lower, upper):
        yield from _descend(query, rest, _Piece(rows, limits, {**piece.maps, i: after}), lower, upper)


def _alternatives(query: Query, i: int, piece: _Piece) -> list[list[_Alternative]]:
    """For each element of a piecewise-linear node, its linear pieces: where they hold and what they are."""
    node = query.graph.nodes[i]
    maximum, before = node.op.as_maximum(query.graph.shapes(i)), piece.maps[node.inputs[0]]
    assert maximum is not None
    factor, elements = maximum.factor.numpy(), []
    for window in maximum.index.numpy().T:
        read = window >= 0
        rows = factor[read, None] * before.matrix[window[read]]
        offsets = factor[read] * before.offset[window[read]]
        elements.append([_Alternative(rows - row, d - offsets, row, float(d)) for row, d in zip(rows, offsets)])
    return elements


def _combinations(
    elements: list[list[_Alternative]], piece: _Piece, lower: Vector, upper: Vector
) -> Iterator[tuple[Vector, Vector, _Affine]]:
    """All ways to choose one alternative per element that leave a point of the piece."""
    partial: list[tuple[Vector, Vector, list[_Alternative]]] = [(piece.rows, piece.limits, [])]
    for alternatives in elements:
        grown = []
        for (rows, limits, chosen), new in itertools.product(partial, alternatives):
            more, ends = np.vstack([rows, new.rows]), np.concatenate([limits, new.limits])
            if not _empty(more, ends, lower, upper):
                grown.append((more, ends, [*chosen, new]))
        partial = grown
    for rows, limits, chosen in partial:
        yield rows, limits, _Affine(np.stack([c.row for c in chosen]), np.array([c.offset for c in chosen]))


def _through(query: Query, i: int, piece: _Piece) -> _Affine:
    """An affine node on a piece: its inputs' columns through ``forward``."""
    node, shapes = query.graph.nodes[i], query.graph.shapes(i)
    inputs = [piece.maps[j] for j in node.inputs]
    stacked = [np.vstack([a.matrix.T, np.zeros_like(a.offset), a.offset]) for a in inputs]
    out = node.op.forward(*(torch.from_numpy(s).reshape(-1, *shape) for s, shape in zip(stacked, shapes)))
    values = out.reshape(out.shape[0], -1).numpy()
    return _Affine((values[:-2] - values[-2]).T, values[-1])


def _form(forms: Forms, k: int, piece: _Piece) -> tuple[Vector, float]:
    """Form k as ``row @ x + offset`` on a piece."""
    row, offset = np.zeros(piece.rows.shape[1]), float(forms.constant[0, k])
    for node, coefficients in forms.coefficients.items():
        c = coefficients[0, k].flatten().numpy()
        row, offset = row + c @ piece.maps[node].matrix, offset + float(c @ piece.maps[node].offset)
    return row, offset


def _choices(query: Query, piece: _Piece, lower: Vector, upper: Vector) -> Iterator[tuple[Vector, Vector]]:
    """The piece cut by one atom of each clause, in every way that leaves a point."""
    partial = [(piece.rows, piece.limits)]
    for clause in range(query.clauses):
        which = (query.clause == clause).nonzero().flatten().tolist()
        grown = []
        for (rows, limits), k in itertools.product(partial, which):
            row, offset = _form(query.atoms, k, piece)
            more, ends = np.vstack([rows, row]), np.append(limits, -offset)
            if not _empty(more, ends, lower, upper):
                grown.append((more, ends))
        partial = grown
    yield from partial


def _empty(rows: Vector, limits: Vector, lower: Vector, upper: Vector) -> bool:
    return minimise_over_polyhedron(LinearCost(np.zeros_like(lower)), lower, upper, rows, limits).point is None


def _optimum(query: Query, piece: _Piece, rows: Vector, limits: Vector, lower: Vector, upper: Vector) -> float:
    """The best objective on one piece for one choice of atoms."""
    objective, balls = query.objective, [ball for ball in query.region.balls if ball.norm.encoded is Encoded.QUADRATIC]
    if isinstance(objective, Linear):
        cost, constant = _form(objective.form, 0, piece)
        if len(balls) == 1 and (_flat(balls[0])[1] > 0).all():
            center, weights = _flat(balls[0])
            limit = BallLimit(center, float(balls[0].radius), 2, weights)
            point = minimise_in_ball(cost, limit, lower, upper, rows, limits).point
        else:
            point = _least(LinearCost(cost), balls, rows, limits, lower, upper)
        return np.inf if point is None else float(cost @ point) + constant
    if isinstance(objective, FormsNorm):
        return _norm_of_forms(objective, piece, rows, limits, lower, upper)
    center, weights = _flat(objective)
    if objective.norm.counts:
        return _fewest(center, weights, balls, rows, limits, lower, upper)
    point = _least(DistanceCost(center, objective.p, weights), balls, rows, limits, lower, upper)
    if point is None:
        return np.inf
    return float(objective.value(torch.from_numpy(point).reshape(1, *query.graph.input_shape), {}))


def _least(
    cost: LinearCost | DistanceCost,
    balls: list[Ball],
    rows: Vector,
    limits: Vector,
    lower: Vector,
    upper: Vector,
) -> Vector | None:
    """The minimiser in ℓ2 balls too, which are cut out by their tangents; None where there is no point."""
    for _ in range(TANGENTS):
        point = minimise_over_polyhedron(cost, lower, upper, rows, limits).point
        if point is None:
            return None
        met = True
        for ball in balls:
            center, weights = _flat(ball)
            reach = float(np.linalg.norm(weights * (point - center)))
            if reach > float(ball.radius) + OUTSIDE:
                met = False
                tangent = weights**2 * (point - center) / reach
                rows = np.vstack([rows, tangent])
                limits = np.append(limits, tangent @ center + float(ball.radius))
        if met:
            return point
    raise ProblemError("Brute force needs too many tangents of an ℓ2 ball. Use another solver.")


def _norm_of_forms(
    objective: FormsNorm, piece: _Piece, rows: Vector, limits: Vector, lower: Vector, upper: Vector
) -> float:
    """``scale · ‖w ⊙ (F x + f)‖_p`` on a piece: convex where it is made small, a maximum of linear forms otherwise."""
    forms = [_form(objective.forms, k, piece) for k in range(objective.forms.count)]
    matrix, offset = np.stack([row for row, _ in forms]), np.array([constant for _, constant in forms])
    weights = np.ones(len(offset)) if objective.weights is None else objective.weights[0].flatten().numpy()
    if objective.scale < 0:
        eye = np.eye(len(offset))
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(offset))))
        faces = weights * (np.vstack([eye, -eye]) if objective.norm.is_box else signs)
        values = []
        for face in faces:
            point = minimise_over_polyhedron(LinearCost(-face @ matrix), lower, upper, rows, limits).point
            values.append(np.inf if point is None else -float(face @ (matrix @ point + offset)))
        return -objective.scale * min(values)
    # variables (x, y) with y = F x + f
    count, reach = len(offset), np.abs(matrix) @ np.maximum(np.abs(lower), np.abs(upper)) + np.abs(offset) + 1.0
    tie = np.hstack([matrix, -np.eye(count)])
    both = np.vstack([np.hstack([rows, np.zeros((len(rows), count))]), tie, -tie])
    ends = np.concatenate([limits, -offset, offset])
    cost = DistanceCost(np.zeros(len(lower) + count), objective.p, np.append(np.zeros_like(lower), weights))
    low, high = np.append(lower, -reach), np.append(upper, reach)
    point = minimise_over_polyhedron(cost, low, high, both, ends).point
    if point is None:
        return np.inf
    values = weights * (matrix @ point[: len(lower)] + offset)
    return objective.scale * float(np.linalg.norm(values, objective.p))


def _fewest(
    center: Vector, weights: Vector, balls: list[Ball], rows: Vector, limits: Vector, lower: Vector, upper: Vector
) -> float:
    """p = 0: the lightest set of elements that suffices when all others keep their value."""
    n = len(center)
    sets = [np.array(s, dtype=bool) for s in itertools.product((False, True), repeat=n)]
    for changed in sorted(sets, key=lambda s: float(weights[s].sum())):
        low, high = np.where(changed, lower, center), np.where(changed, upper, center)
        if not ((low >= lower).all() and (high <= upper).all()):
            continue
        if _least(LinearCost(np.zeros(n)), balls, rows, limits, low, high) is not None:
            return float(weights[changed].sum())
    return np.inf
