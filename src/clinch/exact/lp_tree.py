"""A search tree over the binaries of an encoding, with a linear program at every node and a proof for every bound.

A node's bound is evaluated again from the multipliers of its linear program (:meth:`Program.bound`), a node is dropped
as infeasible only when a Farkas ray proves it (:meth:`Program.refutation`). The solver can therefore waste time, but
never make a bound wrong.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clinch.backends.program import Outcome, Program, Vector

#: a binary is whole to within this
WHOLE = 1e-6
#: observations of a pseudo-cost in each direction before it replaces trial solves
RELIABLE = 4
#: trial solves per node, and simplex iterations of each (reliability branching, Achterberg, Koch & Martin 2005)
TRIALS, TRIAL_ITERATIONS = 8, 60


class Model(Protocol):
    """A loaded linear program whose limits change from solve to solve."""

    def change_limits(self, columns: NDArray[np.integer], lower: Vector, upper: Vector) -> None:
        """New limits of the chosen variables."""

    def change_rows(self, lower: Vector, upper: Vector) -> None:
        """New limits of all rows."""

    def solve(self, *, time_limit: float = np.inf, iterations: int | None = None) -> Outcome:
        """Solve it as it stands now."""
        ...

    def basis(self) -> Any:
        """Where the last solve ended."""
        ...

    def set_basis(self, basis: Any) -> None:
        """Where the next solve starts."""


class ColdModel:
    """The same for a backend that knows only ``solve(program, time_limit=...)``: every solve starts anew."""

    def __init__(self, backend: Any, program: Program) -> None:
        self._backend = backend
        self._program = replace(program, integer=np.zeros_like(program.integer))

    def change_limits(self, columns: NDArray[np.integer], lower: Vector, upper: Vector) -> None:
        """New limits of the chosen variables."""
        low, high = self._program.lower.copy(), self._program.upper.copy()
        low[columns], high[columns] = lower, upper
        self._program = replace(self._program, lower=low, upper=high)

    def change_rows(self, lower: Vector, upper: Vector) -> None:
        """New limits of all rows."""
        self._program = replace(self._program, row_lower=lower, row_upper=upper)

    def solve(self, *, time_limit: float = np.inf, iterations: int | None = None) -> Outcome:
        """Solve it as it stands now; the number of iterations is the backend's affair."""
        return self._backend.solve(self._program, time_limit=time_limit)

    def basis(self) -> None:
        """There is none."""

    def set_basis(self, basis: None) -> None:
        """There is none."""


@dataclass(order=True)
class _Node:
    bound: float
    number: int
    fixed: NDArray[np.int8] = field(compare=False)  # per binary: −1 open, otherwise its value
    basis: Any = field(compare=False)
    depth: int = field(compare=False, default=0)


class Tree:
    """Best-first search with dives.

    Args:
        program: the encoding's program; its integer variables must be binaries.
        model: the program without integrality, loaded.
        cutoff: nodes whose bound reaches this number hold nothing of interest; asked again at every node.
        remaining: seconds left.
        visit: called with every node's point and whether its binaries are whole, to look for better inputs.
        step: objective values are whole multiples of it; 0 where nothing is known.
    """

    def __init__(
        self,
        program: Program,
        model: Model,
        *,
        cutoff: Callable[[], float],
        remaining: Callable[[], float],
        visit: Callable[[Vector, bool], None],
        step: float = 0.0,
    ) -> None:
        self.program, self.model = program, model
        self.cutoff, self.remaining, self.visit, self.step = cutoff, remaining, visit, step
        self.columns = program.integer.nonzero()[0]
        count = len(self.columns)
        self._loaded = np.full(count, -1, dtype=np.int8)
        self._numbers = itertools.count()
        #: smallest bound over the nodes that are finished
        self.finished = np.inf
        self.nodes = 0
        self._current: _Node | None = None
        self._heap = [_Node(-np.inf, next(self._numbers), self._loaded.copy(), None)]
        self._gain, self._seen = np.zeros((2, count)), np.zeros((2, count))

    @property
    def bound(self) -> float:
        """Proven: the program's optimum is no smaller. Infinity where all parts are proven infeasible."""
        waiting = self._heap[:1] if self._current is None else [self._current, *self._heap[:1]]
        return min([self.finished, *(node.bound for node in waiting)])

    def run(self, pause: Callable[[], bool]) -> None:
        """Search until no node is left, the time is over, or ``pause()``, which is asked after every node, says so."""
        while (self._current is not None or self._heap) and self.remaining() > 0:
            # the node at work stays in sight until its children are: whatever interrupts, the bound counts it
            if self._current is None:
                self._current = self._heap[0]
                heapq.heappop(self._heap)
            node = self._current
            children = self._finish(node.bound) if node.bound >= self.cutoff() else self._expand(node)
            dive = children.pop(0) if children and children[0].depth > node.depth else None
            for child in children:
                heapq.heappush(self._heap, child)
            self._current = dive
            if pause():
                break

    # --- one node -----------------------------------------------------------------------------------------------------

    def _expand(self, node: _Node) -> list[_Node]:
        """Bound a node and split it: no node where it is finished, itself where the time ran out, else its children."""
        self.nodes += 1
        self.model.set_basis(node.basis)
        outcome = self._solve(node.fixed)
        node.bound = max(node.bound, self._proven(outcome, node.fixed))
        if node.bound >= self.cutoff():
            return self._finish(node.bound)
        if outcome.status == "time" and self.remaining() <= 0:
            return [node]
        if outcome.point is None or not np.isfinite(outcome.point).all():
            return self._blind(node)
        value = outcome.point[self.columns]
        distance = np.where(node.fixed < 0, np.minimum(value, 1 - value), 0.0).clip(min=0.0)
        self.visit(outcome.point, bool((distance <= WHOLE).all()))
        if node.bound >= self.cutoff() or not (node.fixed < 0).any() or distance.max() <= 1e-12:
            return self._finish(node.bound)
        node.basis = self.model.basis()
        return self._split(node, value, distance)

    def _blind(self, node: _Node) -> list[_Node]:
        """Nothing was proven and no point came back: split anywhere."""
        open_ = (node.fixed < 0).nonzero()[0]
        if not len(open_):
            return self._finish(node.bound)
        return [self._child(node, int(open_[0]), side, node.bound, None) for side in (0, 1)]

    def _split(self, node: _Node, value: Vector, distance: Vector) -> list[_Node]:
        """Choose a binary by pseudo-costs, backed by trial solves while they are unreliable."""
        score = self._score(value, distance)
        order = [int(k) for k in np.argsort(-score, kind="stable")[:TRIALS] if distance[k] > 1e-12]
        best, best_score, bounds = order[0], -1.0, (node.bound, node.bound)
        for k in order:
            if self._seen[:, k].min() >= RELIABLE:
                trial, gain = (node.bound, node.bound), float(score[k])
            else:
                trial = (self._trial(node, k, 0, value), self._trial(node, k, 1, value))
                gain = _product(trial[0] - node.bound, trial[1] - node.bound)
            if gain > best_score:
                best, best_score, bounds = k, gain, trial
            if max(trial) >= self.cutoff() or self.remaining() <= 0:
                best, bounds = k, trial
                break
        children = [self._child(node, best, side, bounds[side], node.basis) for side in (0, 1)]
        # the side that the relaxation prefers is dived into
        children.sort(key=lambda child: (child.bound, abs(child.fixed[best] - value[best])))
        alive = [child for child in children if child.bound < self.cutoff()]
        for child in children:
            if child not in alive:
                self._finish(child.bound)
        return alive

    def _child(self, node: _Node, k: int, side: int, bound: float, basis: Any) -> _Node:
        fixed = node.fixed.copy()
        fixed[k] = side
        return _Node(max(bound, node.bound), next(self._numbers), fixed, basis, node.depth + 1)

    def _trial(self, node: _Node, k: int, side: int, value: Vector) -> float:
        """The bound of a child after a few simplex iterations; teaches the pseudo-costs."""
        fixed = node.fixed.copy()
        fixed[k] = side
        self.model.set_basis(node.basis)
        bound = max(node.bound, self._proven(self._solve(fixed, TRIAL_ITERATIONS), fixed))
        gain = min(bound, max(self.cutoff(), node.bound)) - node.bound
        if np.isfinite(gain):
            self._gain[side, k] += gain / max(abs(side - value[k]), WHOLE)
            self._seen[side, k] += 1
        return bound

    def _score(self, value: Vector, distance: Vector) -> Vector:
        """Product of the expected gains of the two children; the average stands for what was never observed."""
        total = self._seen.sum(1, keepdims=True)
        average = np.where(total > 0, self._gain.sum(1, keepdims=True) / np.maximum(total, 1), 1.0)
        each = np.where(self._seen > 0, self._gain / np.maximum(self._seen, 1), average)
        score = np.maximum(each[0] * value, 1e-9) * np.maximum(each[1] * (1 - value), 1e-9)
        return np.where(distance > 1e-12, score, -1.0)

    # --- the linear program -------------------------------------------------------------------------------------------

    def _solve(self, fixed: NDArray[np.int8], iterations: int | None = None) -> Outcome:
        changed = fixed != self._loaded
        lower, upper = _limits(fixed[changed])
        self.model.change_limits(self.columns[changed], lower, upper)
        self._loaded = fixed.copy()
        return self.model.solve(time_limit=self.remaining(), iterations=iterations)

    def _proven(self, outcome: Outcome, fixed: NDArray[np.int8]) -> float:
        """What follows from an outcome's multipliers alone."""
        lower, upper = self.program.lower.copy(), self.program.upper.copy()
        lower[self.columns], upper[self.columns] = _limits(fixed)
        if outcome.ray is not None and self.program.refutation(outcome.ray, lower, upper):
            return np.inf
        bound = -np.inf if outcome.duals is None else self.program.bound(outcome.duals, lower, upper)
        # values between two multiples do not occur; the allowance keeps rounding from lifting a bound by a whole step
        return bound if not self.step or not np.isfinite(bound) else self.step * np.ceil(bound / self.step - 1e-6)

    def _finish(self, bound: float) -> list[_Node]:
        self.finished = min(self.finished, bound)
        return []


def _limits(fixed: NDArray[np.int8]) -> tuple[Vector, Vector]:
    return (fixed == 1).astype(np.float64), (fixed != 0).astype(np.float64)


def _product(down: float, up: float) -> float:
    return max(down, 1e-9) * max(up, 1e-9)
