"""Nearest points where several problems ask for the same input, and proofs over balls of growing radius.

What is looked for may lie in any of several alternatives: nine other classes, three boxes. The nearest over all of them
is known to within ``[r, v]`` once a point at distance v is found and every alternative is proven to hold nowhere in the
ball of radius r. Relaxations are tight in small balls, so r grows: first by bisection with CROWN alone, for all
problems at once; then by branch and bound in balls that grow by a tenth, up to v.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.portfolio import attack
from clinch.bounds.objective import objective_bound
from clinch.errors import UnsupportedByEngine
from clinch.geometry.norms import norm as length_of
from clinch.modeling.constraints import Constraint
from clinch.modeling.model import SymbolicNetwork
from clinch.modeling.norms import norm as norm_of
from clinch.modeling.problem import Minimize, Problem
from clinch.query import Query
from clinch.solve import search
from clinch.solver.ledger import Ledger
from clinch.solver.solution import Proof

#: share of the time for points, and for the plain search where each input has one problem with one choice
LOOK, PLAIN = 0.35, 0.9
#: passes of the attack on each of several problems
PASSES = 1000
#: halvings of the bisection with CROWN
HALVINGS = 7
#: by how much balls grow, and the share of the time left that one ball may take
GROWTH, BALL_SHARE = 1.1, 0.4
#: the name under which what the alternatives' searches have found and proven is reported
WHO = "radius schedule"


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


class RadiusSchedule:
    """The search for inputs that are looked at together.

    Attributes:
        ledger: the nearest inputs found, their distances, and what is proven. Its question is the distance alone: what
            an input must meet besides is said by the alternatives, whose ledgers have checked every point.
        end: ``(B,)`` the class of the nearest input, −1 where nothing was found.
    """

    def __init__(
        self, network: SymbolicNetwork, x: Tensor, norm: float, bounds: tuple[float, float] | None,
        alternatives: list[Alternative], *, seconds: float, gap: float, seed: int,
    ) -> None:  # fmt: skip
        self.network, self.x, self.norm, self.range = network, x, norm, bounds
        self.alternatives, self.seed = alternatives, seed
        everyone = Alternative(torch.arange(len(x)), torch.full((len(x),), -1), lambda _: [])
        self.ledger = Ledger(self._query(everyone), time_limit=seconds, gap=gap)
        self.end = torch.full((len(x),), -1)

    def solve(self) -> None:
        """Points first, then balls of growing radius, within the ledger's time."""
        ledger = self.ledger
        ledger.prove(torch.zeros_like(ledger.bound), Proof.GEOMETRY, "geometry")
        self._look()
        try:
            self._bisect()
            while not ledger.exhausted and self._next_ball():
                pass
            self._finish()
        except UnsupportedByEngine as reason:
            ledger.note(f"The bound stays as it is. {reason}")

    def _look(self) -> None:
        """Points of every alternative; a single problem per input gets the whole solver, bounds included."""
        plain = len(self.alternatives) == 1 and len(self.alternatives[0].owner) == len(self.x)
        for k, one in enumerate(self.alternatives):
            query = self._query(one)
            choices = int((query.clause_sizes > 1).sum())
            share = (PLAIN if choices <= 1 else LOOK) if plain else LOOK / (len(self.alternatives) - k)
            inner = self._inner(query, share * self.ledger.remaining)
            if plain:
                search(query, inner, self.seed)
            elif k == 0 or self.ledger.remaining > 0:
                attack(query, inner, seed=self.seed, passes=PASSES)
            self._keep(inner, one)
            if plain:
                self._prove(inner.bound, Proof.TREE)
                for note in inner.notes:
                    self.ledger.note(note)

    def _bisect(self) -> None:
        """Raise the bound with CROWN alone."""
        ledger = self.ledger
        low, high = ledger.bound.clone(), torch.where(ledger.value.isfinite(), ledger.value, self._farthest())
        for _ in range(HALVINGS):
            todo = ~ledger.closed & (low < high)
            if not bool(todo.any()) or ledger.remaining <= 0:
                break
            middle = (low + high) / 2
            proven = todo.clone()
            for one in self._of(todo):
                reached = objective_bound(self._query(one, middle), stop=lambda: ledger.remaining <= 0)
                failed = one.owner[~(reached >= middle[one.owner])]
                proven[failed] = False
            low, high = torch.where(proven, middle, low), torch.where(todo & ~proven, middle, high)
            self._prove(low, Proof.LINEAR_RELAXATION)

    def _next_ball(self) -> bool:
        """Branch and bound in a somewhat larger ball for every open input; whether any bound rose."""
        ledger, before = self.ledger, self.ledger.bound.clone()
        todo = ~ledger.closed & ledger.value.isfinite()
        if not bool(todo.any()):
            return False
        radius = torch.minimum(GROWTH * before.clamp(min=1e-3 * ledger.value), ledger.value)
        lowest = radius.clone()
        kinks = self.network.graph.bends_only_at_kinks([self.network.graph.output])
        parts = self._of(todo)
        with ledger.share(BALL_SHARE):
            for k, one in enumerate(parts):
                seconds = max(0.0, ledger.remaining) / (len(parts) - k)
                # most problems are closed by CROWN; the others get the time
                reached = objective_bound(self._query(one, radius), stop=lambda: ledger.remaining <= 0)
                one = one.take(~(reached >= radius[one.owner]))
                if not len(one.owner):
                    continue
                inner = self._inner(self._query(one, radius), seconds, radius[one.owner])
                search(inner.query, inner, self.seed, "branch_and_bound" if kinks else None)
                self._keep(inner, one)
                lowest = lowest.scatter_reduce(0, one.owner, inner.bound, "amin")
        self._prove(torch.where(todo, lowest, -torch.inf), Proof.TREE)
        return bool((ledger.bound > before * (1 + 1e-6))[todo].any())

    def _finish(self) -> None:
        """Where larger balls prove no more the whole solver, its attacks included, gets the time that is left."""
        ledger = self.ledger
        todo = ~ledger.closed
        parts = self._of(todo)
        lowest = torch.where(todo, torch.inf, -torch.inf).double()
        for k, one in enumerate(parts):
            if ledger.remaining <= 0:
                return
            reach = ledger.value if bool(ledger.value.isfinite().all()) else None
            inner = self._inner(self._query(one, reach), ledger.remaining / (len(parts) - k), ledger.target[one.owner])
            search(inner.query, inner, self.seed)
            self._keep(inner, one)
            lowest = lowest.scatter_reduce(0, one.owner, inner.bound, "amin")
        self._prove(lowest, Proof.TREE)

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

    def _inner(self, query: Query, seconds: float, enough: Tensor | None = None) -> Ledger:
        """A ledger for the problems of an alternative."""
        return Ledger(query, time_limit=max(0.0, seconds), gap=self.ledger.gap, enough=enough)

    def _farthest(self) -> Tensor:
        """``(B,)`` how far the range reaches, where nothing was found."""
        if self.range is None:
            return self.ledger.bound.clone()
        low, high = self.range
        far = torch.maximum(self.x - low, high - self.x).double().flatten(1)
        return length_of(far, self.norm)

    def _prove(self, bound: Tensor, proof: Proof) -> None:
        """Nothing nearer than the nearest input known was looked for."""
        self.ledger.prove(torch.minimum(bound, self.ledger.value), proof, WHO)

    def _keep(self, inner: Ledger, one: Alternative) -> None:
        """Take over what is nearer than before."""
        ledger, before = self.ledger, self.ledger.value.clone()
        better = (inner.value < before[one.owner]).nonzero().flatten()
        if not len(better):
            return
        owner = one.owner[better]
        ledger.offer(inner.x[better], WHO, owner)
        same = (ledger.x[owner] == inner.x[better]).flatten(1).all(1) & (ledger.value < before)[owner]
        self.end[owner[same]] = one.classes[better][same]
