"""Leaves of the search: domains on which the network is affine, closed by one convex program each."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

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
from clinch.bounds.domains import Domains, Relaxed
from clinch.bounds.dual import evaluate
from clinch.network.graph import Graph
from clinch.network.ops.base import Lines, Relaxation
from clinch.query import Distance, Forms, Linear, Query
from clinch.runtime import deadline
from clinch.search.dual_bounding import DualBounder, Subdomains
from clinch.search.relu_branching import violated_clause

#: multiples of a Farkas ray to try as multipliers
RAY_LENGTHS = (1.0, 1e2, 1e4, 1e6)
#: to which a solver meets its rows
SOLVER_TOLERANCE = 1e-9
#: rounding errors by which a leaf's atoms are tightened, so that the model's own dtype accepts the point
INSIDE = (4.0, 64.0)

#: dual evaluations for leaves that no convex program can close
LEAF_STEPS = 300
#: convex programs solved in one round, and number of leaves from which on they climb first
LEAVES_PER_ROUND, FEW_LEAVES = 16, 4


def is_convex(query: Query) -> bool:
    """Whether a leaf is a convex program that a backend takes: counting elements is none.

    Under a distance no ball is part of a leaf's program: leaving it out can only lower the bound.
    """
    if isinstance(query.objective, Distance):
        return query.objective.norm.in_convex_programs
    balls = query.region.balls
    return all(
        ball.norm.in_convex_programs and (ball.weights is None or bool((ball.weights > 0).all())) for ball in balls
    )


def solve_leaf(relaxed: Relaxed, leaf: Domains, target: float, time_limit: float) -> tuple[Domains, list[Tensor]]:
    """Solve one leaf as a linear or quadratic program.

    The program's multipliers are hints: they are put in place of the leaf's own and the dual function is evaluated
    again, so that the bound returned is proven whatever the solver did.

    Args:
        leaf: one domain without open elements.
        target: no point is needed where the bound reaches this.

    Returns:
        The leaf with the better of the two bounds, and points ``(1, *input_shape)``: the program's optimum, which lies
        on its constraints, and optima of programs whose atoms are tightened by a few rounding errors of the model.
    """
    end = deadline.clock() + time_limit
    program = _Program(relaxed, leaf)
    if not program.finite:
        return leaf, []  # of an input without limits relaxations may say nothing
    result = program.solve(0.0, time_limit)
    best = _best_of(relaxed, leaf, _hints(relaxed, result))
    points = [result.point]
    if result.point is not None and float(best.bound) < target:
        points += [program.solve(rounding, max(0.0, end - deadline.clock())).point for rounding in INSIDE]
    shape = (1, *relaxed.query.graph.input_shape)
    solved = [torch.from_numpy(np.asarray(p)) for p in points if p is not None and np.isfinite(p).all()]
    found = [p.reshape(shape).to(leaf.mu) for p in solved]
    return best, found


def _hints(relaxed: Relaxed, result: ConvexResult) -> Tensor:
    """Multipliers to try, ``(H, m)``. A ray proves the more the longer it is, but for a distance its direction says it
    all.
    """
    lengths = RAY_LENGTHS[:1] if isinstance(relaxed.query.objective, Distance) else RAY_LENGTHS
    rays = [] if result.ray is None else [scale * result.ray for scale in lengths]
    hints = np.stack([result.multipliers, *rays])
    return torch.from_numpy(np.maximum(hints[np.isfinite(hints).all(1)], 0.0))


def _best_of(relaxed: Relaxed, leaf: Domains, hints: Tensor) -> Domains:
    """The leaf with the multipliers that prove most, its own included."""
    if not len(hints):
        return leaf
    hints = hints.to(relaxed.query.device)
    trial = _with_multipliers(relaxed, leaf.take(leaf.problem.new_zeros(len(hints))), hints)
    with torch.no_grad():
        bound = evaluate(relaxed, trial, exact=True).bound
    first = torch.where(bound.isnan(), -torch.inf, bound).argmax().unsqueeze(0)
    return replace(trial.take(first), bound=bound[first]) if bool(bound[first] > leaf.bound) else leaf


class Offers(Protocol):
    """A goal that takes points, see :class:`clinch.search.branch_and_bound.Goal`."""

    @property
    def exhausted(self) -> bool:
        """Whether to stop."""
        ...

    @property
    def remaining(self) -> float:
        """Seconds left."""
        ...

    def targets(self) -> Tensor:
        """``(B,)`` bounds that are large enough."""
        ...

    def offer_points(self, point: Tensor, problem: Tensor) -> None:
        """Points ``(N, *input_shape)`` of problems ``(N,)``."""


class AffineLeaves:
    """Solves the leaves of smallest bound, one convex program each; the others wait.

    Before that all climb together: what this closes needs no program. Where a program's point breaks an undecided
    clause its node is no leaf yet and goes on with that split.
    """

    def __init__(self, bounder: DualBounder, goal: Offers) -> None:
        self.bounder, self.goal = bounder, goal

    def solve(self, leaves: Subdomains) -> tuple[Subdomains, Subdomains]:
        """Leaves that are finished, and those that go on waiting."""
        if len(leaves) > FEW_LEAVES:
            leaves = self.bounder.ascend(leaves, self.bounder.settings.root_steps).nodes
        open_ = leaves.bound < self._target(leaves)
        finished, waiting = [leaves.take(~open_)], [leaves.take(leaves.problem[:0])]
        leaves = leaves.take(open_)
        for row in range(len(leaves)):
            if row >= LEAVES_PER_ROUND or self.goal.exhausted:
                waiting.append(leaves.take(slice(row, None)))
                break
            leaf = leaves.take(slice(row, row + 1))
            if bool(leaf.bound < self._target(leaf)):
                leaf = self._solved(leaf)
            (finished if int(leaf.clause) < 0 else waiting).append(leaf)
        return Subdomains.cat(finished), Subdomains.cat(waiting)

    def _solved(self, leaf: Subdomains) -> Subdomains:
        """A leaf with its own bound; with a clause to split where it is none."""
        points: list[Tensor] = []
        relaxed, target = self.bounder.relaxed, self._target(leaf)
        if is_convex(relaxed.query):
            limit = max(0.05, min(self.goal.remaining, 60.0))
            d, points = solve_leaf(relaxed, leaf.domains, float(target), limit)
            leaf = leaf.holding(d)
        if not points and bool(leaf.bound < target):
            found = self.bounder.ascend(leaf, LEAF_STEPS)
            leaf, points = found.nodes, [found.ascent.point] if bool(found.ascent.point.isfinite().all()) else []
        if not points:
            return leaf
        self.goal.offer_points(torch.cat(points), leaf.problem.expand(len(points)))
        clause = violated_clause(relaxed, leaf.domains, points[0])
        return replace(leaf, clause=clause) if bool(leaf.bound < self._target(leaf)) else leaf

    def _target(self, leaves: Subdomains) -> Tensor:
        return self.goal.targets()[leaves.problem]


class _Program:
    """A leaf as a convex program over the box, and over the ball where a linear objective has one."""

    def __init__(self, relaxed: Relaxed, leaf: Domains) -> None:
        region, b = relaxed.query.region, leaf.problem
        self.rows, self.limits = _leaf_rows(relaxed, leaf)
        self.atoms = int((leaf.choice[0] >= 0).sum())
        self.objective = _leaf_objective(relaxed, leaf)
        self.lower, self.upper = (_array(t[b][0]) for t in (region.lower, region.upper))
        self.eps = max(torch.finfo(relaxed.query.network.dtype).eps, SOLVER_TOLERANCE)
        self.ball: BallLimit | None = None
        if isinstance(self.objective, LinearCost) and region.balls:
            ball = region.balls[0].take(b)
            weights = None if ball.weights is None else _array(ball.weights[0])
            self.ball = BallLimit(_array(ball.center[0]), float(ball.radius), ball.p, weights)

    @property
    def finite(self) -> bool:
        """Whether every coefficient is a number."""
        cost = self.objective.cost if isinstance(self.objective, LinearCost) else self.objective.center
        return all(bool(np.isfinite(a).all()) for a in (self.rows, self.limits, cost))

    def solve(self, rounding: float, time_limit: float) -> ConvexResult:
        """Solve with the atoms' limits lowered by so many rounding errors of the size of what is summed."""
        limits = self.limits.copy()
        farthest = np.maximum(np.abs(self.lower), np.abs(self.upper))
        size = 1 + np.abs(limits) + np.linalg.norm(self.rows * np.where(np.isfinite(farthest), farthest, 1.0), axis=1)
        limits[: self.atoms] -= rounding * self.eps * size[: self.atoms]
        if self.ball is not None and isinstance(self.objective, LinearCost):
            cost = self.objective.cost
            return minimise_in_ball(cost, self.ball, self.lower, self.upper, self.rows, limits, time_limit=time_limit)
        return minimise_over_polyhedron(
            self.objective, self.lower, self.upper, self.rows, limits, time_limit=time_limit
        )


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
        coefficients[torch.arange(len(at), device=at.device), kink.which[at]] = -split[at].to(leaf.mu.dtype)
        shape = (1, len(at), *query.graph.nodes[j].shape)
        forms.append(Forms({j: coefficients.reshape(shape)}, leaf.mu.new_zeros(1, len(at))))
    pieces = _affine_piece(relaxed, leaf)
    parts = [linear_lower(query.graph, f, pieces) for f in forms if f.count]
    if not parts:
        return np.zeros((0, query.graph.nodes[0].size)), np.zeros(0)
    rows = torch.cat([r[0].flatten(1) for r, _ in parts])
    limits = -torch.cat([o[0] for _, o in parts])
    return rows.cpu().numpy(), limits.cpu().numpy()


def _leaf_objective(relaxed: Relaxed, leaf: Domains) -> DistanceCost | LinearCost:
    objective = relaxed.query.objective
    if isinstance(objective, Distance):
        weights = None if objective.weights is None else _array(objective.weights[leaf.problem][0])
        return DistanceCost(_array(objective.center[leaf.problem][0]), objective.p, weights)
    assert isinstance(objective, Linear)
    rows, _ = linear_lower(relaxed.query.graph, objective.form.take(leaf.problem), _affine_piece(relaxed, leaf))
    return LinearCost(_array(rows[0, 0]))


def _array(t: Tensor) -> np.ndarray:
    """What a solver library reads: one dimension, on the CPU."""
    return t.flatten().cpu().numpy()


def _affine_piece(relaxed: Relaxed, leaf: Domains) -> dict[int, Relaxation]:
    """The network's affine operators, with each splittable node replaced by its slopes on this leaf."""
    graph: Graph = relaxed.query.graph
    made = {i: relaxation.take(leaf.problem) for i, relaxation in relaxed.fixed.items()}
    for kink in relaxed.kinks:
        op = kink.op
        slope = kink.slope[leaf.problem].clone()
        split = leaf.split[:, kink.columns].to(slope.dtype)
        bounds = leaf.inside(kink)
        # An element that is stable in this problem keeps its side; a limit on that side alone gives its slope.
        side = torch.where(split != 0, split, torch.where(bounds.lower >= 0, 1.0, -1.0))
        slope[:, kink.which] = op.forward(side) * side
        slope = slope.reshape(1, *graph.nodes[kink.node].shape)
        zero = torch.zeros_like(slope)
        made[kink.node] = Lines(slope, zero, slope, zero)
    return made


def _with_multipliers(relaxed: Relaxed, leaf: Domains, multipliers: Tensor) -> Domains:
    """Put H programs' multipliers ``(H, m)`` in the places of mu and beta (same order as :func:`_leaf_rows`)."""
    chosen = leaf.choice[0][leaf.choice[0] >= 0]
    mu, beta = torch.zeros_like(leaf.mu), torch.zeros_like(leaf.beta)
    mu[:, chosen] = multipliers[:, : len(chosen)].to(mu.dtype)
    at = leaf.split[0].nonzero().flatten()
    beta[:, at] = multipliers[:, len(chosen) :].to(beta.dtype)
    return replace(leaf, mu=mu, beta=beta)
