"""Mixed-integer linear programming: exact optima of piecewise-linear networks.

The encoding of :mod:`clinch.encoding.query_program` is handed to a solver library for points, and to the tree of
:mod:`clinch.search.milp.lp_tree` for the proof. What the library claims is never reported as a bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinch.backends import find_backend
from clinch.backends.program import Outcome, Program, Vector
from clinch.bounds.crown import activation_bounds, limits_of_forms
from clinch.encoding.query_program import Encoding, encode
from clinch.network.ops.base import Interval
from clinch.query import Distance, Query
from clinch.search.milp.lp_tree import ColdModel, Tree
from clinch.search.milp.obbt import obbt
from clinch.search.root_bounds import nearer
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Milp
from clinch.solver.solution import Proof

#: how far inside its rows a point is moved, relative to their right-hand sides, when rounding pushes it out
SHIFTS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)


def milp(
    query: Query,
    ledger: Ledger | None = None,
    settings: Milp | None = None,
    *,
    problems: Iterable[int] | None = None,
    time_limit: float = 60.0,
    gap: float = 1e-6,
) -> Ledger:
    """Solve the problems of a query to optimality, or as far as the time allows.

    Args:
        query: the float64 normal form.
        ledger: receives points and bounds and holds the budget; None: a new one with ``time_limit`` and ``gap``.
        settings: the backend, and how the tree, the library and bounds share the time; None: the usual ones.
        problems: which problems to work on; None: all that the ledger has not closed.
        time_limit: seconds, where no ledger is given.
        gap: relative gap, where no ledger is given.

    Returns:
        The ledger.

    Raises:
        UnboundedInputError: an input element has no finite limits.
        UnsupportedByEngine: an ℓ2 ball, or a norm of activations with p = 0 or 2.
        UnsupportedOperator: a layer has no exact encoding; names it.
        BackendError: no such backend, its library is missing, or its licence refuses the program's size.
    """
    ledger = Ledger(query, time_limit=time_limit, gap=gap) if ledger is None else ledger
    MilpSearches(query, ledger, settings, problems).run()
    return ledger


class MilpSearches:
    """The problems of a ledger one after the other, each with an equal share of the time that is left. :meth:`run` may
    be called again after the ledger's time was up: the trees are kept.

    Arguments and errors: see :func:`milp`.
    """

    def __init__(
        self, query: Query, ledger: Ledger, settings: Milp | None = None, problems: Iterable[int] | None = None
    ) -> None:
        settings = Milp() if settings is None else settings
        library = find_backend(settings.backend)
        wanted = range(query.size) if problems is None else problems
        self.ledger = ledger
        self.searches = [MilpSearch(query, b, ledger, library, settings) for b in wanted if not ledger.closed[b]]

    @property
    def done(self) -> bool:
        """Whether no problem has anything left to look at."""
        return all(search.done for search in self.searches)

    def run(self) -> None:
        """Search until all are closed or the time is over."""
        waiting = [search for search in self.searches if not search.done]
        for number, search in enumerate(waiting):
            if self.ledger.exhausted:
                return
            search.run(self.ledger.remaining / (len(waiting) - number))


class MilpSearch:
    """One problem: encode, bound, search; again with a tighter encoding whenever the incumbent came much nearer."""

    def __init__(self, query: Query, problem: int, ledger: Ledger, library: Any, settings: Milp) -> None:
        self.whole, self.query = query, query.take(torch.tensor([problem]))
        self.problem, self.ledger, self.library, self.settings = torch.tensor([problem]), ledger, library, settings
        self.ask_at, self.worked = settings.head_start, 0.0
        self.tree: Tree | None = None
        self.ended = False

    @property
    def done(self) -> bool:
        """Whether the problem is closed, or nothing is left that tells value and bound apart but rounding."""
        return self.closed or self.ended

    def run(self, seconds: float) -> None:
        """Search until the problem is closed or so much time has passed."""
        self.began, self.deadline = self.ledger.seconds, self.ledger.seconds + seconds
        try:
            while self.remaining() > 0 and not self.done:
                if self.tree is None:
                    self.tree = self._planted()
                if self.tree is not None:
                    self._grow(self.tree)
        finally:
            self.worked += self.ledger.seconds - self.began

    def remaining(self) -> float:
        """Seconds left for this problem."""
        return min(self.deadline - self.ledger.seconds, self.ledger.remaining)

    @property
    def value(self) -> float:
        """The incumbent's objective, infinity without one."""
        return float(self.ledger.value[self.problem])

    @property
    def closed(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.ledger.closed[self.problem])

    def _planted(self) -> Tree | None:
        """The tree of the region of the present incumbent; None where that is empty."""
        self.radius = self.value
        narrowed = self.query.narrowed(self.ledger.value[self.problem])
        if bool((narrowed.region.lower > narrowed.region.upper).any()):
            self._prove(np.inf, Proof.GEOMETRY)
            self.ended = True
            return None
        self.encoding = self._encode(narrowed, self._limits(narrowed))
        program = self.encoding.program
        self.model = self._load(program)
        self.pieces = self._load(program)
        self.visited, self.reported = 0, -np.inf
        return Tree(
            program, self.model, cutoff=self._cutoff, remaining=self.remaining, visit=self._visit,
            step=self.encoding.step, settings=self.settings,
        )  # fmt: skip

    def _limits(self, narrowed: Query) -> dict[int, Interval]:
        """Bounds of the activations: those that all engines share, where they are of no larger region."""
        held = None if self.ledger.root is None else self.ledger.root.over(self.whole, self.problem)
        if held is not None and held.complete and not nearer(self.ledger.value[self.problem], held.value):
            return held.bounds
        # the encoding of limits that are left wide is larger, and the tree needs time too
        end = self.ledger.seconds + self.settings.limits_share * self.remaining()
        return activation_bounds(
            narrowed.graph, narrowed.region, narrowed.nodes, None if held is None else held.bounds,
            stop=lambda: self.ledger.seconds >= end,
        )  # fmt: skip

    def _grow(self, tree: Tree) -> None:
        """Go on where the tree stands, until a new encoding pays."""
        try:
            tree.run(lambda: self._pause(tree))
        finally:
            self._report(tree)
        if self._nearer():
            self.tree = None
        elif not len(tree.search.store):
            self.ended = True

    def _encode(self, narrowed: Query, bounds: dict[int, Interval]) -> Encoding:
        """The encoding; for ℓ∞ distances from limits refined by its own linear relaxation.

        Measured on MNIST networks, tightening there removes up to half of the binaries and saves more than it costs;
        on margins it removes none, on ℓ1 distances it saves what it costs.
        """
        encoding = encode(narrowed, 0, bounds, form_limits=limits_of_forms)
        objective = narrowed.objective
        loads = hasattr(self.library, "load")
        if not (loads and isinstance(objective, Distance) and objective.norm.is_box and encoding.kinks):
            return encoding
        end = self.ledger.seconds + self.settings.obbt_share * self.remaining()
        sharper = obbt(narrowed.graph, encoding, bounds, self._load, lambda: end - self.ledger.seconds)
        return encode(narrowed, 0, bounds, sharper, form_limits=limits_of_forms)

    def _cutoff(self) -> float:
        """Nodes whose bound in the program's own objective reaches this hold nothing of interest."""
        return self.encoding.program_value(float(self.ledger.target[self.problem]))

    def _load(self, program: Program) -> Any:
        load = getattr(self.library, "load", None)
        return ColdModel(self.library, program) if load is None else load(program)

    # --- proofs -------------------------------------------------------------------------------------------------------

    def _report(self, tree: Tree) -> None:
        self._prove(self.encoding.value(tree.least), Proof.TREE if tree.nodes > 1 else Proof.LINEAR_RELAXATION)

    def _prove(self, bound: float, proof: Proof) -> None:
        # Only the incumbent's ball was searched: nothing outside is better than its radius.
        if isinstance(self.query.objective, Distance):
            bound = min(bound, self.radius)
        self.reported = bound
        self.ledger.prove(torch.tensor([bound], dtype=torch.float64), proof, "milp", self.problem)

    def _pause(self, tree: Tree) -> bool:
        """After every node: report what rose, ask the library at times, stop when closed or a new encoding pays."""
        target = float(self.ledger.target[self.problem])
        enough = 0.02 * (target - self.reported) if np.isfinite([target, self.reported]).all() else 0.0
        if self.encoding.value(tree.least) > self.reported + enough:
            self._report(tree)
        if self.closed:
            return True
        if tree.nodes >= self.ask_at:
            self.ask_at *= self.settings.patience
            self._ask_library()
        return self.closed or self._nearer()

    def _nearer(self) -> bool:
        return isinstance(self.query.objective, Distance) and self.value < self.settings.renarrow * self.radius

    # --- points -------------------------------------------------------------------------------------------------------

    def _visit(self, vector: Vector, whole: bool) -> None:
        """A node's point: offer it if the network likes it; now and then look for the best point of its piece."""
        self.visited += 1
        x = self.encoding.point(vector)
        self._offer_if_better(x)
        if whole:
            self._best_of_piece(np.round(vector[self.encoding.program.integer]))
        elif self.visited & (self.visited - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...
            self._best_of_piece(self.encoding.complete(x.flatten().numpy())[self.encoding.program.integer])

    def _offer_if_better(self, x: Tensor) -> bool:
        x = self.query.region.on_values(x)
        with torch.no_grad():
            value, atoms = self.query.evaluate(x)
        if not (bool(self.query.violation(atoms) <= 0) and float(value) < self.value):
            return False
        return bool(self.ledger.offer(x, "milp", self.problem).all())

    def _best_of_piece(self, binaries: Vector) -> None:
        """Fix all binaries and solve what is left; move the rows inwards until the rounded point passes the check."""
        columns, program = self.encoding.program.integer.nonzero()[0], self.encoding.program
        binaries = binaries.clip(0.0, 1.0)
        self.pieces.change_limits(columns, binaries, binaries)
        upper = program.row_upper.copy()
        strict = self.encoding.strict
        for shift in SHIFTS:
            upper[strict] = program.row_upper[strict] - shift * np.maximum(1.0, np.abs(program.row_upper[strict]))
            self.pieces.change_rows(program.row_lower, upper)
            outcome = self.pieces.solve(time_limit=self.remaining())
            if outcome.point is None or outcome.status != "optimal" or self._no_better(outcome):
                return
            if self._offer(outcome) or not len(strict):
                return

    def _offer(self, outcome: Outcome) -> bool:
        if outcome.point is None or not np.isfinite(outcome.point).all():
            return False
        return bool(self.ledger.offer(self.encoding.point(outcome.point), "milp", self.problem).all())

    def _no_better(self, outcome: Outcome) -> bool:
        return not self.encoding.value(outcome.value) < self.value

    def _ask_library(self) -> None:
        """Let the library search for points with its own heuristics; its bound and its status are ignored."""
        program = self.encoding.program
        start = None
        if np.isfinite(self.value):
            start = self.encoding.complete(self.ledger.x[self.problem].double().flatten().numpy())
        worked = self.worked + self.ledger.seconds - self.began
        limit = min(self.settings.library_share * worked, self.remaining() / 2)
        outcome = self.library.solve(program, time_limit=limit, gap=max(self.ledger.gap, 1e-9), start=start)
        if outcome.point is None or not np.isfinite(outcome.point).all():
            return
        if not self._no_better(outcome):
            self._offer_if_better(self.encoding.point(outcome.point))
            self._best_of_piece(np.round(outcome.point[program.integer]))
