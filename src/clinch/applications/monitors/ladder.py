"""Nearest points where several problems ask for the same input, and proofs that climb from small balls to large ones.

What is looked for may lie in any of several alternatives: nine other classes, three boxes. The nearest over all of them
is known to within ``[r, v]`` once a point at distance v is found and every alternative is proven to hold nowhere in the
ball of radius r. Relaxations are tight in small balls, so r climbs: first by bisection with CROWN alone, for all
problems at once; then by branch and bound in balls that grow by a tenth, up to v.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from clinch.attacks.portfolio import attack
from clinch.bounds.objective import objective_bound
from clinch.errors import UnsupportedByEngine, UnsupportedOperator
from clinch.modeling.constraints import Constraint
from clinch.modeling.model import SymbolicNetwork
from clinch.modeling.norms import norm as norm_of
from clinch.modeling.problem import Minimize, Problem
from clinch.query import Query
from clinch.solve import search
from clinch.solver.ledger import Ledger

#: share of the time for points, and for the plain search where each input has one problem with one choice
LOOK, PLAIN = 0.35, 0.9
#: passes of the attack on each of several problems
PASSES = 1000
#: halvings of the bisection with CROWN
HALVINGS = 7
#: by how much balls grow, and the share of the time left that one ball may take
GROWTH, RUNG = 1.1, 0.4


@dataclass(frozen=True)
class Alternative:
    """Problems of one kind.

    Attributes:
        owner: ``(L,)`` the input of each problem.
        classes: ``(L,)`` the class that it asks for.
        conditions: classes -> what must hold besides the range.
    """

    owner: Tensor
    classes: Tensor
    conditions: Callable[[Tensor], list[Constraint]]

    def take(self, which: Tensor) -> Alternative:
        """The chosen problems."""
        return Alternative(self.owner[which], self.classes[which], self.conditions)


class Group:
    """Inputs that are searched together.

    Attributes:
        point: ``(B, *input_shape)`` the nearest found, NaN where nothing was; ``value`` ``(B,)`` its distance,
        end: ``(B,)`` and its class, −1 where nothing was found.
        bound: ``(B,)`` proven.
        notes: what the user should know.
    """

    def __init__(
        self, network: SymbolicNetwork, x: Tensor, norm: float, bounds: tuple[float, float] | None,
        alternatives: list[Alternative], gap: float, seed: int,
    ) -> None:  # fmt: skip
        self.network, self.x, self.norm, self.range = network, x, norm, bounds
        self.alternatives, self.gap, self.seed = alternatives, gap, seed
        self.point, self.end = torch.full_like(x, torch.nan), torch.full((len(x),), -1)
        self.value = torch.full((len(x),), torch.inf, dtype=torch.float64)
        self.bound = torch.zeros_like(self.value)
        self.notes: list[str] = []

    @property
    def open(self) -> Tensor:
        """``(B,)`` which inputs are not closed."""
        return self.bound < (1 - self.gap) * self.value

    def solve(self, seconds: float) -> None:
        """Points first, then the climb, within so many seconds."""
        self._deadline = monotonic() + seconds
        self._look()
        try:
            self._bisect()
            while bool(self.open.any()) and self._left > 0 and self._rung():
                pass
            self._finish()
        except (UnsupportedOperator, UnsupportedByEngine) as reason:
            self.notes.append(f"The bound stays as it is. {reason}")

    @property
    def _left(self) -> float:
        return max(0.0, self._deadline - monotonic())

    def _look(self) -> None:
        """Points of every alternative; a single problem per input gets the whole solver, bounds included."""
        plain = len(self.alternatives) == 1 and len(self.alternatives[0].owner) == len(self.x)
        for k, one in enumerate(self.alternatives):
            query = self._query(one)
            choices = int((query.clause_sizes > 1).sum())
            share = (PLAIN if choices <= 1 else LOOK) if plain else LOOK / (len(self.alternatives) - k)
            ledger = Ledger(query, time_limit=share * self._left, gap=self.gap)
            if plain:
                search(query, ledger, self.seed)
            elif k == 0 or self._left > 0:
                attack(query, ledger, seed=self.seed, passes=PASSES)
            self._keep(ledger, one)
            if plain:
                self.bound = torch.maximum(self.bound, ledger.bound)
                self.notes += ledger.notes

    def _bisect(self) -> None:
        """Raise the bound with CROWN alone."""
        low, high = self.bound.clone(), torch.where(self.value.isfinite(), self.value, self._farthest())
        for _ in range(HALVINGS):
            todo = self.open & (low < high)
            if not bool(todo.any()) or self._left <= 0:
                break
            middle = (low + high) / 2
            proven = todo.clone()
            for one in self._of(todo):
                reached = objective_bound(self._query(one, middle), stop=lambda: self._left <= 0)
                failed = one.owner[~(reached >= middle[one.owner])]
                proven[failed] = False
            low, high = torch.where(proven, middle, low), torch.where(todo & ~proven, middle, high)
            self.bound = torch.maximum(self.bound, low)

    def _rung(self) -> bool:
        """Branch and bound in a somewhat larger ball for every open input; whether any bound rose."""
        before = self.bound.clone()
        todo = self.open & self.value.isfinite()
        if not bool(todo.any()):
            return False
        radius = torch.minimum(GROWTH * self.bound.clamp(min=1e-3 * self.value), self.value)
        lowest = radius.clone()
        kinks = self.network.graph.bends_only_at_kinks([self.network.graph.output])
        parts = self._of(todo)
        deadline = monotonic() + RUNG * self._left
        for k, one in enumerate(parts):
            seconds = max(0.0, deadline - monotonic()) / (len(parts) - k)
            # most problems are closed by CROWN; the others get the time
            reached = objective_bound(self._query(one, radius), stop=lambda: self._left <= 0)
            one = one.take(~(reached >= radius[one.owner]))
            if not len(one.owner):
                continue
            ledger = Ledger(self._query(one, radius), time_limit=seconds, gap=self.gap, enough=radius[one.owner])
            search(ledger.query, ledger, self.seed, "branch_and_bound" if kinks else None)
            self._keep(ledger, one)
            lowest = lowest.scatter_reduce(0, one.owner, ledger.bound, "amin")
        self.bound = torch.where(todo, torch.maximum(before, lowest), before)
        return bool((self.bound > before * (1 + 1e-6))[todo].any())

    def _finish(self) -> None:
        """Where the climb has stalled the whole solver, its attacks included, gets the time that is left."""
        parts = self._of(self.open)
        lowest = torch.full_like(self.bound, torch.inf)
        for k, one in enumerate(parts):
            if self._left <= 0:
                return
            reach = self.value if bool(self.value.isfinite().all()) else None
            enough = (1 - self.gap) * self.value[one.owner]
            ledger = Ledger(self._query(one, reach), self._left / (len(parts) - k), self.gap, enough=enough)
            search(ledger.query, ledger, self.seed)
            self._keep(ledger, one)
            lowest = lowest.scatter_reduce(0, one.owner, ledger.bound, "amin")
        todo = torch.zeros_like(self.open)
        for one in parts:
            todo[one.owner] = True
        self.bound = torch.where(todo, torch.maximum(self.bound, lowest), self.bound)

    def _of(self, todo: Tensor) -> list[Alternative]:
        """The alternatives of the chosen inputs."""
        return [one.take(todo[one.owner]) for one in self.alternatives if bool(todo[one.owner].any())]

    def _query(self, one: Alternative, radius: Tensor | None = None) -> Query:
        """``min ‖x − x0‖`` for the problems of an alternative, within balls ``(B,)`` of the inputs."""
        x = self.network.input
        distance = norm_of(x - self.x[one.owner], self.norm)
        limits = [] if self.range is None else [x >= self.range[0], x <= self.range[1]]
        # a little more than the radius, so that what lies at it exactly is not lost to rounding
        ball = [] if radius is None else [distance <= radius[one.owner] * (1 + 1e-6) + 1e-9]
        return Problem(Minimize(distance), [*limits, *one.conditions(one.classes), *ball]).query

    def _farthest(self) -> Tensor:
        """``(B,)`` how far the range reaches, where nothing was found."""
        if self.range is None:
            return self.bound.clone()
        low, high = self.range
        far = torch.maximum(self.x - low, high - self.x).double().flatten(1)
        return (far > 0).sum(1).double() if self.norm == 0 else torch.linalg.vector_norm(far, ord=self.norm, dim=1)

    def _keep(self, ledger: Ledger, one: Alternative) -> None:
        """Take over what is nearer than before."""
        order = ledger.value.argsort(descending=True, stable=True)
        order = order[ledger.value[order] < self.value[one.owner[order]]]
        # of several points of one input the nearest is written last
        for row in order.tolist():
            i = int(one.owner[row])
            self.point[i], self.value[i], self.end[i] = ledger.x[row], ledger.value[row], one.classes[row]
