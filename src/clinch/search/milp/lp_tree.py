"""A search tree over the binaries of an encoding, with a linear program at every node and a proof for every bound.

A node's bound is evaluated again from the multipliers of its linear program (:meth:`Program.bound`), a node is dropped
as infeasible only when a Farkas ray proves it (:meth:`Program.refutation`). The solver can therefore waste time, but
never make a bound wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinch.backends.program import Outcome, Program, Vector
from clinch.search.branch_and_bound import BestFirst, Branched
from clinch.search.node_store import Nodes
from clinch.solver.settings import Milp

#: a binary is whole to within this
WHOLE = 1e-6


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


@dataclass(frozen=True)
class Fixings(Nodes):
    """Nodes of the tree, whose linear programs are solved when their turn comes.

    Attributes:
        fixed: ``(D, n)`` int8, per binary: −1 where it is open, otherwise its value.
        basis: ``(D,)`` where the linear program starts, −1: anywhere.
        dive: ``(D,)`` whether it comes next, whatever its bound.
        leaf: ``(D,)`` whether nothing is left to do.
    """

    fixed: Tensor
    basis: Tensor
    dive: Tensor
    leaf: Tensor

    @staticmethod
    def one(bound: float, fixed: NDArray[np.int8], basis: int = -1, dive: bool = False, leaf: bool = False) -> Fixings:
        """A single node."""
        number = torch.tensor([0, -1, basis])
        return Fixings(
            number[:1], torch.tensor([bound], dtype=torch.float64), number[1:2], torch.from_numpy(fixed)[None],
            number[2:], torch.tensor([dive]), torch.tensor([leaf]),
        )  # fmt: skip


class Solved(NamedTuple):
    """One node with the point of its linear program, None without one; late: the time ran out over it."""

    nodes: Fixings
    point: Vector | None
    late: bool

    def take(self, index: Tensor) -> Solved:
        """Itself, or nothing."""
        return self._replace(nodes=self.nodes.take(index))


class Bases:
    """Where linear programs may start, each for so many nodes."""

    def __init__(self) -> None:
        self._held: dict[int, Any] = {}
        self._left: dict[int, int] = {}
        self._keys = itertools.count()

    def put(self, basis: Any, uses: int) -> int:
        """The key of a basis."""
        key = next(self._keys)
        self._held[key], self._left[key] = basis, uses
        return key

    def get(self, key: int) -> Any:
        """The basis, None for any."""
        return self._held.get(key)

    def release(self, key: int) -> None:
        """One node needs it no longer."""
        if key >= 0:
            self._left[key] -= 1
            if not self._left[key]:
                del self._held[key], self._left[key]


class Tree:
    """Best-first search with dives: goal, bounder and brancher of a search over the binaries.

    Args:
        program: the encoding's program; its integer variables must be binaries.
        model: the program without integrality, loaded.
        cutoff: nodes whose bound reaches this number hold nothing of interest; asked again at every node.
        remaining: seconds left.
        visit: called with every node's point and whether its binaries are whole, to look for better inputs.
        step: objective values are whole multiples of it; 0 where nothing is known.
        settings: of the choice of binaries (reliability branching, Achterberg, Koch & Martin 2005).
    """

    seconds = 0.0

    def __init__(
        self,
        program: Program,
        model: Model,
        *,
        cutoff: Callable[[], float],
        remaining: Callable[[], float],
        visit: Callable[[Vector, bool], None],
        step: float = 0.0,
        settings: Milp | None = None,
    ) -> None:
        self.program, self.model = program, model
        self.cutoff, self._remaining, self.visit, self.step = cutoff, remaining, visit, step
        self.settings = Milp() if settings is None else settings
        self.columns = program.integer.nonzero()[0]
        count = len(self.columns)
        self._loaded = np.full(count, -1, dtype=np.int8)
        self._bases = Bases()
        self.nodes = 0
        self._gain, self._seen = np.zeros((2, count)), np.zeros((2, count))
        self._pause: Callable[[], bool] = lambda: False
        self._paused = False
        self.search: BestFirst[Fixings, Solved] = BestFirst(1, self, self, self, batch=1)
        self.search.store.push(Fixings.one(-np.inf, self._loaded.copy()))

    @property
    def least(self) -> float:
        """Proven: the program's optimum is no smaller. Infinity where all parts are proven infeasible."""
        return float(self.search.least)

    def run(self, pause: Callable[[], bool]) -> None:
        """Search until no node is left, the time is over, or ``pause()``, which is asked after every node, says so."""
        self._pause, self._paused = pause, False
        self.search.run()

    # --- the goal -----------------------------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        """Whether to stop."""
        return self._paused or self.remaining <= 0

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return self._remaining()

    def targets(self) -> Tensor:
        """The cutoff."""
        return torch.tensor([self.cutoff()], dtype=torch.float64)

    def offer(self, found: Solved) -> None:
        """The point of a node's linear program."""
        if found.point is not None and not found.late:
            distance = self._distance(_fixed(found.nodes), found.point)
            self.visit(found.point, bool((distance <= WHOLE).all()))

    def finish(self, nodes: Nodes) -> None:
        """Their bases are needed no longer."""
        assert isinstance(nodes, Fixings)
        for key in nodes.basis.tolist():
            self._bases.release(key)

    def prove(self, bound: Tensor) -> None:
        """After every node."""
        self._paused = self._pause()

    # --- one node -----------------------------------------------------------------------------------------------------

    def split(self, nodes: Fixings) -> Branched[Fixings]:
        """Nodes wait unsolved: every one that is no leaf is to be solved."""
        nothing = nodes.take(slice(0))
        return Branched(nothing, leaves=nodes) if bool(nodes.leaf) else Branched(nothing, fresh=nodes)

    def bound(self, nodes: Fixings, fresh: bool) -> Solved:
        """Solve a node's linear program."""
        self.nodes += 1
        fixed = _fixed(nodes)
        self.model.set_basis(self._bases.get(int(nodes.basis)))
        outcome = self._solve(fixed)
        bound = max(float(nodes.bound), self._proven(outcome, fixed))
        usable = outcome.point is not None and bool(np.isfinite(outcome.point).all())
        nodes.bound.fill_(bound)  # in place: where its children are never made, the node waits with this bound
        return Solved(nodes, outcome.point if usable else None, outcome.status == "time" and self.remaining <= 0)

    def refine(self, found: Solved) -> Solved:
        """As it is."""
        return found

    def choose(self, found: Solved) -> Fixings:
        """A solved node's children; the node itself where the time ran out over it, or where it has none."""
        nodes, point = found.nodes, found.point
        if found.late:
            return replace(nodes, dive=torch.zeros_like(nodes.dive))
        bound, fixed = float(nodes.bound), _fixed(nodes)
        self._bases.release(int(nodes.basis))
        leaf = Fixings.one(bound, fixed, leaf=True)
        if not (fixed < 0).any() or bound >= self.cutoff():
            return leaf
        if point is None:  # nothing was proven and no point came back: split anywhere
            at = int((fixed < 0).nonzero()[0][0])
            return Fixings.cat([Fixings.one(bound, _with(fixed, at, side), dive=not side) for side in (0, 1)])
        distance = self._distance(fixed, point)
        return leaf if distance.max() <= 1e-12 else self._children(bound, fixed, point[self.columns], distance)

    def priority(self, nodes: Fixings) -> Tensor:
        """Bounds, but dives first."""
        return torch.where(nodes.dive, -torch.inf, nodes.bound)

    def _distance(self, fixed: NDArray[np.int8], point: Vector) -> Vector:
        """How far each binary is from being whole; 0 for those that are fixed."""
        value = point[self.columns]
        return np.where(fixed < 0, np.minimum(value, 1 - value), 0.0).clip(min=0.0)

    def _children(self, bound: float, fixed: NDArray[np.int8], value: Vector, distance: Vector) -> Fixings:
        """Choose a binary by pseudo-costs, backed by trial solves while they are unreliable."""
        basis = self.model.basis()
        score = self._score(value, distance)
        order = [int(k) for k in np.argsort(-score, kind="stable")[: self.settings.trials] if distance[k] > 1e-12]
        best, best_score, bounds = order[0], -1.0, (bound, bound)
        for k in order:
            if self._seen[:, k].min() >= self.settings.reliable:
                trial, gain = (bound, bound), float(score[k])
            else:
                trial = tuple(self._trial(bound, _with(fixed, k, side), basis, k, side, value[k]) for side in (0, 1))
                gain = _product(trial[0] - bound, trial[1] - bound)
            if gain > best_score:
                best, best_score, bounds = k, gain, trial
            if max(trial) >= self.cutoff() or self.remaining <= 0:
                best, bounds = k, trial
                break
        # the side that the relaxation prefers is dived into
        sides = sorted((0, 1), key=lambda side: (bounds[side], abs(side - value[best])))
        key = self._bases.put(basis, 2)
        return Fixings.cat([
            Fixings.one(max(bound, bounds[side]), _with(fixed, best, side), key, dive=side == sides[0])
            for side in sides
        ])  # fmt: skip

    def _trial(self, bound: float, fixed: NDArray[np.int8], basis: Any, k: int, side: int, value: float) -> float:
        """The bound of a child after a few simplex iterations; teaches the pseudo-costs."""
        self.model.set_basis(basis)
        found = max(bound, self._proven(self._solve(fixed, self.settings.trial_iterations), fixed))
        gain = min(found, max(self.cutoff(), bound)) - bound
        if np.isfinite(gain):
            self._gain[side, k] += gain / max(abs(side - value), WHOLE)
            self._seen[side, k] += 1
        return found

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
        return self.model.solve(time_limit=self.remaining, iterations=iterations)

    def _proven(self, outcome: Outcome, fixed: NDArray[np.int8]) -> float:
        """What follows from an outcome's multipliers alone."""
        lower, upper = self.program.lower.copy(), self.program.upper.copy()
        lower[self.columns], upper[self.columns] = _limits(fixed)
        if outcome.ray is not None and self.program.refutation(outcome.ray, lower, upper):
            return np.inf
        bound = -np.inf if outcome.duals is None else self.program.bound(outcome.duals, lower, upper)
        # values between two multiples do not occur; the allowance keeps rounding from lifting a bound by a whole step
        return bound if not self.step or not np.isfinite(bound) else self.step * np.ceil(bound / self.step - 1e-6)


def _fixed(nodes: Fixings) -> NDArray[np.int8]:
    return nodes.fixed[0].numpy()


def _with(fixed: NDArray[np.int8], k: int, side: int) -> NDArray[np.int8]:
    changed = fixed.copy()
    changed[k] = side
    return changed


def _limits(fixed: NDArray[np.int8]) -> tuple[Vector, Vector]:
    return (fixed == 1).astype(np.float64), (fixed != 0).astype(np.float64)


def _product(down: float, up: float) -> float:
    return max(down, 1e-9) * max(up, 1e-9)
