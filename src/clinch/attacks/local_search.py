"""Polish: the exact optimum on the incumbent's linear piece, walking to neighbouring pieces while that improves.

On one piece of a piecewise linear network the problem is a small convex program: minimise the objective subject to one
atom of each clause, the box, and those sign conditions that turn out to matter. They are added when a solution is seen
to break them. Where a solution presses against sign conditions the piece on the other side is tried next. Networks
that bend elsewhere too are linearised again at each solution instead (sequential quadratic programming for a distance).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from clinch.attacks.core.problem_query import planes_of, reference_point
from clinch.errors import BackendError
from clinch.geometry.linear_minimum import flatten_ball, linear_minimum
from clinch.network.graph import Graph
from clinch.query import Activations, Distance, Query
from clinch.runtime.gradients import with_gradients
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Polish

#: the name under which points are offered
WHO = "polish"
#: fractions of the way to a solution at which the true network is looked at
FRACTIONS = (1.0, 0.999, 0.99, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02, 0.01)

Sign = tuple[int, int]


@with_gradients
def polish(query: Query, ledger: Ledger, problems: Tensor | None = None, settings: Polish | None = None) -> None:
    """Improve the ledger's incumbents; what is found goes through ``ledger.offer`` and counts only if accepted there.

    Args:
        query: the float64 normal form.
        ledger: holds the incumbents, and says when to stop.
        problems: ``(P,)`` which problems; None: all that have an incumbent and are not closed.
        settings: of the walk; None: the usual ones.
    """
    problems = torch.arange(query.size) if problems is None else problems.cpu()
    # an incumbent that polishing brought is the end of a walk already
    again = torch.tensor([ledger.finders[b] == WHO for b in problems.tolist()], dtype=torch.bool)
    problems = problems[torch.isfinite(ledger.value[problems]) & ~again]
    polish_from(query, ledger, ledger.x[problems], problems, settings)


def polish_from(query: Query, ledger: Ledger, points: Tensor, problems: Tensor, settings: Polish | None = None) -> None:
    """The same from any points: an attack's second best may lie on a better piece.

    Args:
        query: the float64 normal form.
        ledger: receives what is found, and says when to stop.
        points: ``(N, *input_shape)``, feasible or nearly so.
        problems: ``(N,)`` problem of each point; closed ones are left alone.
        settings: of the walk; None: the usual ones.
    """
    s = settings or Polish()
    if isinstance(query.objective, Distance) and query.objective.norm.counts:
        return  # counting is not convex; the attack prunes instead
    for start, b in zip(points.to(query.device, query.dtype).split(1), problems.tolist()):
        if ledger.remaining <= 0:
            return
        if bool(ledger.closed[b]):
            continue
        tightness = s.inside
        for _ in range(3):
            walk = _Walk(query.take(torch.tensor([b])), ledger, tightness, s)
            found = walk.run(start)
            if found is None or bool(ledger.offer(walk.rounded(found), WHO, torch.tensor([b])).all()):
                break
            tightness *= 8


@dataclass
class _Solution:
    """A solved program: its point, and the sign conditions it presses against."""

    point: Tensor
    pressed: list[Sign]


class _Walk:
    """The walk of one problem (a query of size one) over the pieces."""

    def __init__(self, query: Query, ledger: Ledger, tightness: float, settings: Polish) -> None:
        self.settings = settings
        self.query, self.planes = planes_of(query)
        self.ledger = ledger
        self.exact = query.graph.bends_only_at_kinks(query.nodes)
        self.eps = tightness * torch.finfo(query.network.dtype).eps
        self.lower, self.upper = query.region.lower.flatten(), query.region.upper.flatten()
        self.programs = 0
        self.best = torch.empty(0)
        self.value = float("inf")

    def run(self, start: Tensor) -> Tensor | None:
        """The best point found, or None where nothing improves on the start."""
        start = self._onto_planes(start)
        self.best = start
        began = self.value = float(self._evaluate(start)[0])
        self._relinearise(start)
        if self.exact:
            self._over_regions()
        return self.best if self._improves_on(began) else None

    def rounded(self, x: Tensor) -> Tensor:
        """A point in the model's dtype, still on the planes."""
        if self.planes is None:
            return x
        dtype, region = self.query.network.dtype, self.query.region
        limits = region.lower.to(dtype), region.upper.to(dtype)
        return self.planes.settled(x.to(dtype), *limits, reference_point(self.query).to(dtype), counts=False)

    def _onto_planes(self, x: Tensor) -> Tensor:
        region = self.query.region
        if self.planes is None:
            return x
        problems = torch.zeros(len(x), dtype=torch.long)
        return self.planes.take(problems).project(x, region.lower, region.upper)

    @property
    def over(self) -> bool:
        """Time or programs are used up."""
        return self.ledger.remaining <= 0 or self.programs >= self.settings.programs

    def _improves_on(self, value: float) -> bool:
        """Whether the best value is smaller by more than rounding; the start need not be feasible."""
        allowance = self.settings.improvement * max(1e-6, abs(value)) if value < float("inf") else 0.0
        return self.value < value - allowance

    # --- the two ways to walk ----------------------------------------------------------------------------------------

    def _relinearise(self, x: Tensor) -> None:
        """Solve, linearise again at the solution, and so on: enough where the pieces agree or the network is smooth."""
        atoms = self._chosen(x)
        for _ in range(6 if self.exact else 20):
            if self.over:
                return
            solution = self._solve(x, pattern_at(self.query.graph, x, self.query.nodes), atoms, [])
            if solution is None:
                return
            self._take_from(x, solution.point)
            if float((solution.point - x).abs().max()) <= 1e-9:
                return
            x = solution.point

    def _over_regions(self) -> None:
        """The optimum of the incumbent's piece, then of the pieces it presses against, while that improves."""
        while not self.over:
            before = self.value
            pattern = pattern_at(self.query.graph, self.best, self.query.nodes)
            pressed = self._on_region(pattern)
            trials = [pressed] + [[sign] for sign in pressed] if len(pressed) > 1 else [pressed]
            for flipped in trials[:6]:
                if self.over or self._improves_on(before) or not flipped:
                    break
                self._on_region(_flip(pattern, flipped))
            if not self._improves_on(before):
                return

    def _on_region(self, pattern: Pattern) -> list[Sign]:
        """Solve on one piece, adding the sign conditions that solutions break; returns those pressed against."""
        atoms = self._chosen(self.best)
        signs: list[Sign] = []
        for _ in range(self.settings.rounds):
            if self.over:
                return []
            solution = self._solve(self.best, pattern, atoms, signs)
            if solution is None:
                return []
            self._take_from(self.best, solution.point)
            broken = [sign for sign in self._broken(solution.point, pattern) if sign not in set(signs)]
            if not broken or len(signs) >= self.settings.conditions:
                return solution.pressed
            signs += broken
        return []

    # --- parts -------------------------------------------------------------------------------------------------------

    def _evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Objective ``(N,)``, infinity where a point is not feasible, and atoms ``(N, K)`` of points ``(N, …)``."""
        query = self.query.take(torch.zeros(len(x), dtype=torch.long))
        with torch.no_grad():
            value, atoms = query.evaluate(x)
            good = (query.violation(atoms) <= 0) & query.region.contains(x)
        return torch.where(good & torch.isfinite(value), value, torch.inf), atoms

    def _chosen(self, x: Tensor) -> Tensor:
        """One atom for each clause, the one that holds best, ``(C,)``."""
        if not self.query.clauses:
            return torch.zeros(0, dtype=torch.long)
        atoms = self._evaluate(x)[1][0]
        own = torch.arange(self.query.clauses).unsqueeze(1) == self.query.clause
        return torch.where(own, atoms, torch.inf).argmin(1)

    def _take_from(self, x: Tensor, target: Tensor) -> None:
        """Keep the best feasible point on the way from x to a solution."""
        share = torch.tensor(FRACTIONS, dtype=x.dtype).view(-1, *[1] * (x.dim() - 1))
        trial = x + share * (target - x)
        trial[0] = target[0]
        trial = self._onto_planes(torch.maximum(torch.minimum(trial, self.query.region.upper), self.query.region.lower))
        value = self._evaluate(trial)[0]
        least = int(value.argmin())
        if float(value[least]) < self.value:
            self.best, self.value = trial[least : least + 1], float(value[least])

    def _broken(self, x: Tensor, pattern: Pattern) -> list[Sign]:
        """Elements whose sign at x is not the pattern's, the worst first."""
        graph = self.query.graph
        before = graph.forward(x, [graph.nodes[i].inputs[0] for i in pattern]) if pattern else {}
        found: list[tuple[float, Sign]] = []
        for i, side in pattern.items():
            h = before[graph.nodes[i].inputs[0]].flatten()
            wrong = torch.where(side.flatten(), -h, h)
            for j in (wrong > 1e-7 * (1 + h.abs())).nonzero().flatten().tolist():
                found.append((float(wrong[j]), (i, j)))
        return [sign for _, sign in sorted(found, reverse=True)[: self.settings.added]]

    def _solve(self, x: Tensor, pattern: Pattern, atoms: Tensor, signs: list[Sign]) -> _Solution | None:
        """The convex program of one piece, linearised at x."""
        # SciPy, which it brings along, is not needed where nothing is polished
        from clinch.backends.convex import DistanceCost, LinearCost, minimise_over_polyhedron

        self.programs += 1
        rows, limits = self._conditions(x, pattern, atoms, signs)
        lower, upper = self.lower.numpy(), self.upper.numpy()
        objective = self.query.objective
        if isinstance(objective, Distance):
            weights = None if objective.weights is None else objective.weights.flatten().numpy()
            cost: DistanceCost | LinearCost = DistanceCost(objective.center.flatten().numpy(), objective.p, weights)
        else:
            slope = self._objective_slope(x, pattern)
            if self.query.region.balls:
                return self._towards_extreme_point(slope, x)
            cost = LinearCost(slope.numpy())
        if not (np.isfinite(rows).all() and np.isfinite(limits).all()):
            return None
        try:
            left = max(0.0, self.ledger.remaining)
            solved = minimise_over_polyhedron(cost, lower, upper, rows, limits, time_limit=left)
        except BackendError:
            return None
        if solved.point is None or not np.isfinite(solved.point).all():
            return None
        heavy = solved.multipliers[len(atoms) : len(atoms) + len(signs)] > 1e-9 * max(
            1e-9, float(solved.multipliers.max(initial=0.0))
        )
        pressed = [sign for sign, active in zip(signs, heavy.tolist()) if active]
        return _Solution(torch.from_numpy(np.asarray(solved.point)).reshape(x.shape).to(x), pressed)

    def _conditions(
        self, x: Tensor, pattern: Pattern, atoms: Tensor, signs: list[Sign]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and limits of the chosen atoms, tightened by rounding, and of the sign conditions."""
        graph, forms = self.query.graph, self.query.atoms

        def chosen(points: Tensor) -> Tensor:
            values = forms.values(forward_on(graph, points, pattern, forms.nodes))
            return values.gather(1, atoms.unsqueeze(1)).squeeze(1)

        def preactivations(points: Tensor) -> Tensor:
            wanted = sorted({graph.nodes[i].inputs[0] for i, _ in signs})
            h = forward_on(graph, points, pattern, wanted)
            picked = [h[graph.nodes[i].inputs[0]].flatten(1)[k, j] for k, (i, j) in enumerate(signs)]
            side = torch.tensor([1.0 if bool(pattern[i].flatten()[j]) else -1.0 for i, j in signs], dtype=points.dtype)
            return -side * torch.stack(picked)

        point = x.flatten()
        n = len(point)
        rows, limits = [torch.zeros(0, n, dtype=x.dtype)], [torch.zeros(0, dtype=x.dtype)]
        if len(atoms):
            value, slope = linearise(chosen, x, len(atoms))
            room = self.eps * (1 + (slope * point).norm(dim=1) + forms.constant[0, atoms].abs())
            rows.append(slope)
            limits.append(slope @ point - value - room)
        if signs:
            value, slope = linearise(preactivations, x, len(signs))
            rows.append(slope)
            limits.append(slope @ point - value)
        if self.planes is not None:
            for sign, limit in ((1.0, self.planes.upper[0]), (-1.0, self.planes.lower[0])):
                rows.append(sign * self.planes.rows[0, limit.isfinite()])
                limits.append(sign * limit[limit.isfinite()])
        return torch.cat(rows).numpy(), torch.cat(limits).numpy()

    def _objective_slope(self, x: Tensor, pattern: Pattern) -> Tensor:
        objective, graph = self.query.objective, self.query.graph

        def value(points: Tensor) -> Tensor:
            return objective.value(points, forward_on(graph, points, pattern, objective.nodes))

        return linearise(value, x, 1)[1][0]

    def _towards_extreme_point(self, slope: Tensor, x: Tensor) -> _Solution:
        """With balls in the region: the best point of box ∩ first ball for the linearised objective."""
        region = self.query.region
        ball = flatten_ball(region.balls[0])
        rows = slope[None, None]
        point = linear_minimum(rows, region.lower.flatten(1), region.upper.flatten(1), ball)[1]
        return _Solution(point.reshape(x.shape), [])


def _flip(pattern: Pattern, signs: list[Sign]) -> Pattern:
    """The pattern on the other side of the given sign conditions."""
    # a clone keeps the order of channels that stand last, which has no flat view
    flipped = {i: side.clone(memory_format=torch.contiguous_format) for i, side in pattern.items()}
    for i, j in signs:
        side = flipped[i].view(-1)
        side[j] = ~side[j]
    return flipped


#: node -> whether each element is on its positive side, ``(1, *node_shape)``
Pattern = dict[int, Tensor]


def split_nodes(graph: Graph, wanted: list[int]) -> list[int]:
    """Nodes with two pieces among the ancestors of the wanted ones."""
    return [i for i in graph.ancestors(wanted) if i and graph.nodes[i].op.splits_at_zero]


def pattern_at(graph: Graph, x: Tensor, wanted: list[int]) -> Pattern:
    """Signs at one point ``(1, *input_shape)``."""
    nodes = split_nodes(graph, wanted)
    before = graph.forward(x, [graph.nodes[i].inputs[0] for i in nodes]) if nodes else {}
    return {i: before[graph.nodes[i].inputs[0]] > 0 for i in nodes}


def forward_on(graph: Graph, x: Tensor, pattern: Pattern, wanted: list[int]) -> Activations:
    """Activations ``(N, …)`` of the wanted nodes on one piece, for points ``(N, *input_shape)``."""
    one = torch.ones(1, dtype=x.dtype, device=x.device)

    def fixed(i: int, h: Tensor) -> Tensor:
        op = graph.nodes[i].op
        return torch.where(pattern[i], op.forward(one), -op.forward(-one)) * h

    return graph.forward(x, wanted, {i: partial(fixed, i) for i in pattern})


def linearise(function: Callable[[Tensor], Tensor], x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values ``(count,)`` and gradients ``(count, n)`` at a point ``(1, *input_shape)``.

    ``function`` maps ``(count, *input_shape)`` to ``(count,)``: its i-th result looks at the i-th row only.
    """
    rows = x.expand(count, *x.shape[1:]).clone().requires_grad_()
    with torch.enable_grad():
        values = function(rows)
    if not values.requires_grad:
        return values.detach(), torch.zeros(count, x[0].numel(), dtype=x.dtype, device=x.device)
    (slopes,) = torch.autograd.grad(values.sum(), rows, allow_unused=True)
    slopes = torch.zeros_like(rows) if slopes is None else slopes
    return values.detach(), slopes.flatten(1)
