"""Distances from balls that hold nothing feasible, of growing radius.

Over the incumbent's ball relaxations may be so loose that a search which starts there starts from nothing. Smaller
balls are proven free one after the other, first by linear bounds alone (:mod:`clinch.bounds.certified_radius`), then by
an exact search inside the ball, which only has to show that nothing is nearer than the radius.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clinch.bounds.certified_radius import InBall, certified_radius, crown_ball, loose
from clinch.query import Distance, Query
from clinch.solver.engine import Search
from clinch.solver.ledger import Ledger, Recorder
from clinch.solver.settings import Radius
from clinch.solver.solution import Proof

WHO = "certified radius"
#: share of the gap that is asked for by which the last ball is larger than that gap needs
BEYOND = 0.05

#: a search of the problems of a ledger
Begin = Callable[[Query, Ledger], Search]


def balls_first(query: Query, ledger: Ledger, settings: Radius) -> bool:
    """Prove balls free by linear bounds where relaxations over the incumbents' balls are no use.

    Returns:
        Whether that is so for most open problems, so that the search of larger balls should go on.
    """
    search = _searching(query, ledger, settings)
    return search is not None and bool(search.by_bounds(only_loose=True).double().mean() > 0.5)


def _searching(query: Query, ledger: Ledger, settings: Radius) -> RadiusSearch | None:
    """A search by linear bounds; None where the objective is no distance, or all is done."""
    if not isinstance(query.objective, Distance) or ledger.exhausted:
        return None
    return RadiusSearch(query, ledger, settings)


class RadiusSearch:
    """Raises the bounds of the problems that a ledger has not closed; :meth:`run` may be called again.

    Args:
        query: the float64 normal form with a distance.
        ledger: receives bounds and points.
        settings: of the search.
        begin: an exact search for what linear bounds leave open; None: there is none.

    Raises:
        UnsupportedOperator: a layer has no linear relaxation; names it.
    """

    def __init__(self, query: Query, ledger: Ledger, settings: Radius, begin: Begin | None = None) -> None:
        self.ledger, self.settings, self.begin = ledger.on(query.device), settings, begin
        self.problems = (~self.ledger.closed).nonzero().flatten()
        self.query = query.take(self.problems)
        self.looked = False
        #: ``(B,)`` the share of what is between bound and value by which the next ball is larger
        self.pace = torch.full_like(self.bound, settings.pace)
        self.share = settings.ball_share

    @property
    def bound(self) -> Tensor:
        """``(B,)`` what is proven so far."""
        return self.ledger.bound[self.problems].clamp(min=0)

    @property
    def value(self) -> Tensor:
        """``(B,)`` distances of the incumbents."""
        return self.ledger.value[self.problems]

    @property
    def done(self) -> bool:
        """Whether nothing is left to try."""
        return self.looked and (self.begin is None or not len(self._searchable()))

    def run(self) -> None:
        """Balls by linear bounds, then by search, until the ledger's time is up."""
        if not self.looked:
            self.by_bounds()
        while not self.ledger.exhausted and not self.done:
            self._next_ball()

    # --- by linear bounds ---------------------------------------------------------------------------------------------

    def by_bounds(self, only_loose: bool = False) -> Tensor:
        """Search the radius by linear bounds alone.

        Args:
            only_loose: leave it at the incumbents' balls where relaxations are some use there.

        Returns:
            ``(O,)`` whether they are of no use in the ball of each open problem's incumbent.
        """
        index = self._open()
        query, value = self.query.take(index), self.value[index]
        known = crown_ball(query, value, self._over)
        self._prove(index, known.bound)
        bad = loose(query, known)
        if only_loose:
            known, index, query = InBall(*(t[bad] for t in known)), index[bad], query.take(bad.nonzero().flatten())
        if len(index):
            found = certified_radius(query, self.bound[index], self.value[index], known=known, stop=self._over)
            self._prove(index, found)
        self.looked = self.looked or not only_loose or bool(bad.all())
        return bad

    # --- by search ----------------------------------------------------------------------------------------------------

    def _next_ball(self) -> None:
        """A search inside a somewhat larger ball for every open problem."""
        index, ledger = self._searchable(), self.ledger
        low, value = self.bound[index], self.value[index]
        # a little beyond what closes the problem, so that rounding does not leave it open
        target = ledger.target[self.problems[index]]
        target = torch.where(torch.isfinite(value), target + BEYOND * (value - target), target)
        # without an incumbent balls double
        larger = torch.where(torch.isfinite(value), low + self.pace[index] * (value - low), 2 * low)
        radius = torch.where((self.pace[index] >= 1) | (low <= 0), target, torch.minimum(larger, target))
        inner = Ledger(
            self.query.take(index).narrowed(radius).to(torch.float64, "cpu"), gap=ledger.gap, enough=radius.cpu(),
            time_limit=self.share * max(ledger.remaining, 0.0),
            trees=None if ledger.trees is None else [],
        )  # fmt: skip
        assert self.begin is not None
        self.begin(inner.query.moved(self.query.device), inner).run()
        self._keep(index, inner)
        free = inner.bound.to(radius) >= radius
        grown = torch.where(free, self.settings.faster * self.pace[index], self.settings.slower * self.pace[index])
        self.pace[index] = grown.clamp(max=1.0)
        # what was too much for its time is tried with less and given more: a few failures take all of the time
        self.share = self.settings.ball_share if bool(free.any()) else min(1.0, 2 * self.share)
        self._prove(index, torch.minimum(inner.bound.to(radius), radius), Proof.TREE)
        if ledger.trees is not None and bool(free.all()):
            ledger.trees += [_Renumbered(tree, self.problems[index].tolist()) for tree in inner.trees or []]

    def _keep(self, index: Tensor, inner: Ledger) -> None:
        """Points of smaller balls are points of the problems."""
        found = torch.isfinite(inner.value)
        if bool(found.any()):
            self.ledger.offer(inner.x[found], WHO, self.problems[index].cpu()[found])

    # --- all of them --------------------------------------------------------------------------------------------------

    def _open(self) -> Tensor:
        """The problems that are not closed."""
        return (~self.ledger.closed[self.problems]).nonzero().flatten()

    def _searchable(self) -> Tensor:
        """Those of them whose next ball has a radius: an input is known, or some ball was proven free."""
        index = self._open()
        return index[torch.isfinite(self.value[index]) | (self.bound[index] > 0)]

    def _over(self) -> bool:
        return self.ledger.left <= 0

    def _prove(self, index: Tensor, bound: Tensor, proof: Proof = Proof.LINEAR_RELAXATION) -> None:
        self.ledger.prove(torch.minimum(bound, self.value[index]), proof, WHO, self.problems[index])


class _Renumbered:
    """The trees of some problems of a ledger, which another one numbers otherwise."""

    def __init__(self, recorder: Recorder, problems: list[int]) -> None:
        self.recorder, self.place = recorder, {b: i for i, b in enumerate(problems)}

    def of(self, problem: int) -> object:
        """See :class:`clinch.solver.ledger.Recorder`."""
        return self.recorder.of(self.place[problem]) if problem in self.place else None
