"""The only mutable thing of a solve: the best checked point, the best proven bound, and the history of both.

Engines report to the ledger and read from it, nothing else: :meth:`Ledger.offer` for points, :meth:`Ledger.prove` for
bounds, :attr:`Ledger.value` for the incumbent, :attr:`Ledger.exhausted` for "stop now". A point counts only after
:func:`clinch.solver.check_points.check_points`, a bound only with a kind of proof, the gap is computed here and nowhere
else, and a bound that passes a value raises :class:`UnsoundResult`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from clinch.errors import UnsoundResult
from clinch.query import Query
from clinch.runtime import deadline
from clinch.solver.check_points import check_points
from clinch.solver.settings import Settings
from clinch.solver.solution import ABSOLUTE_GAP, Event, Proof

#: rounding allowance of float64 bounds, relative to the value: a bound this little above a value is a tie
ROUNDING = 1e-7
#: roundings of the model's dtype by which the value at the nearest input to an optimum may be off
UNITS = 32
#: share of the time that engines leave for ending the step they are at (past the end of all the time they are ended),
#: and share beyond the end in which what they have found by then may be checked
WIND_DOWN, LATE = 0.01, 0.02


class Recorder(Protocol):
    """What a search writes down about its tree while it grows."""

    def of(self, problem: int) -> Any:
        """The tree of one of the ledger's problems, for whoever proves its bound once more; None: there is none."""


@dataclass
class Ledger:
    """Best points and bounds of the B problems of a query, in the query's own (minimising) sense.

    Attributes:
        query: the float64 normal form.
        time_limit: seconds; infinity for none.
        gap: relative gap at which a problem counts as closed.
        listener: called after every improvement, for progress displays.
        enough: ``(B,)`` a bound this large is all that is asked of a problem; None: nothing less than its value's.
        trees: receives the tree of every search by ReLU splits, the latest last; None: they are not recorded.
        solver, settings: what worked on it last, as ``solve()`` was asked; None: the portfolio, and nothing.
        value: ``(B,)`` objective of the best point so far, infinity where there is none.
        x: ``(B, *input_shape)`` best points in the model's dtype, NaN where there is none.
        bound: ``(B,)`` proven: no input does better; infinity where infeasibility is proven.
    """

    query: Query
    time_limit: float = float("inf")
    gap: float = 1e-3
    listener: Callable[[Event], None] | None = None
    enough: Tensor | None = None
    trees: list[Recorder] | None = None
    solver: str | None = field(init=False, default=None)
    settings: Settings | None = field(init=False, default=None)
    value: Tensor = field(init=False)
    x: Tensor = field(init=False)
    bound: Tensor = field(init=False)
    history: list[Event] = field(init=False, default_factory=list)
    queries: int = field(init=False, default=0)
    rejected: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        size = self.query.size
        self.value = torch.full((size,), torch.inf, dtype=torch.float64)
        self.bound = torch.full((size,), -torch.inf, dtype=torch.float64)
        self.x = torch.full((size, *self.query.graph.input_shape), torch.nan, dtype=self.query.network.dtype)
        self.proofs: list[Proof | None] = [None] * size
        self.finders: list[str] = [""] * size
        self.notes: list[str] = []
        objective = self.query.objective
        #: ``(B,)`` the objective where it is a constant, so that a larger bound proves infeasibility
        self._constant = objective.value(self.query.region.lower, {}) if self.query.feasibility else None
        self._start = deadline.clock()
        #: end of the present slice, and of the time that nothing may pass
        self._deadline = self._firm = (1 - WIND_DOWN) * self.time_limit
        #: bounds of the activations that engines hand on to each other
        self.root: Any = None
        #: whether a few points have been tried
        self.looked = False
        #: ``(B,)`` what the engine at work has proven by itself; None: nobody asks
        self._account: Tensor | None = None

    # --- budget ---------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return deadline.clock() - self._start

    @property
    def remaining(self) -> float:
        """Seconds left to the engine at work, which ends a little before the time does; infinity without a limit."""
        return self._deadline - self.seconds

    @property
    def left(self) -> float:
        """:attr:`remaining` of the time that no slice of it ends."""
        return self._firm - self.seconds

    @contextmanager
    def ending(self, *, late: bool = False) -> Iterator[None]:
        """What is done inside ends with :class:`clinch.runtime.deadline.OutOfTime` when the time is over.

        Args:
            late: a little later, and whatever deadline holds outside.
        """
        if late:
            with deadline.exactly_until(self._start + (1 + LATE) * self.time_limit):
                yield
        else:
            with deadline.until(self._start + self.time_limit):
                yield

    @contextmanager
    def share(self, fraction: float) -> Iterator[None]:
        """Lend an engine a fraction of the time that is left: inside, :attr:`remaining` counts down to that."""
        outer = self._deadline, self._firm
        self._deadline = self._firm = self._within(fraction)
        try:
            yield
        finally:
            self._deadline, self._firm = outer

    @contextmanager
    def slice(self, fraction: float) -> Iterator[None]:
        """:meth:`share` for a first look: what is done :meth:`for_all` engines makes it longer."""
        outer = self._deadline
        self._deadline = self._within(fraction)
        try:
            yield
        finally:
            self._deadline = outer

    @contextmanager
    def for_all(self) -> Iterator[None]:
        """What is done inside serves whatever comes next as well: the slice at work waits meanwhile."""
        began, end = self.seconds, self._deadline
        self._deadline = self._firm
        try:
            yield
        finally:
            self._deadline = min(self._firm, end + self.seconds - began)

    @contextmanager
    def moment(self, seconds: float) -> Iterator[None]:
        """:meth:`slice` of so many seconds."""
        outer = self._deadline
        self._deadline = min(outer, self.seconds + seconds)
        try:
            yield
        finally:
            self._deadline = outer

    @contextmanager
    def credited(self, account: Tensor) -> Iterator[None]:
        """What is proven inside is written down as one engine's own, whatever others have proven.

        Args:
            account: ``(B,)`` float64, raised in place.
        """
        outer, self._account = self._account, account
        try:
            yield
        finally:
            self._account = outer

    def _within(self, fraction: float) -> float:
        return min(self._deadline, self.seconds + fraction * max(self.remaining, 0.0))

    def note(self, text: str) -> None:
        """Something the user should know about this solve, said once: a skipped engine and why."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def exhausted(self) -> bool:
        """Nothing left to do: the time is over, or every problem is closed. Engines return when they see it."""
        return self.remaining <= 0 or bool(self.closed.all())

    def on(self, device: torch.device) -> Ledger:
        """This ledger as an engine on another device sees it: its tensors are read there, all else is this ledger's."""
        return self if device.type == "cpu" else cast(Ledger, _Elsewhere(self, device))

    # --- the two numbers ------------------------------------------------------------------------------------------

    @property
    def slack(self) -> Tensor:
        """``(B,)`` how far a bound may stay below the value for the problem to count as closed."""
        return torch.clamp(self.gap * self.value.abs(), min=ABSOLUTE_GAP).nan_to_num(posinf=torch.inf)

    @property
    def closed(self) -> Tensor:
        """``(B,)`` whether value and bound have met, the bound is enough, or infeasibility is proven."""
        met = torch.isfinite(self.value) & (self.value - self.bound <= self.slack)
        met = met if self.enough is None else met | (self.bound >= self.enough)
        return met | (self.bound == torch.inf)

    @property
    def met_up_to_rounding(self) -> Tensor:
        """``(B,)`` closed, or short of it by no more than a tenth of the gap, and than inputs in the model's dtype may
        be from the best there is."""
        rounding = UNITS * torch.finfo(self.query.network.dtype).eps * self.value.abs().clamp(min=1.0)
        rounding = torch.minimum(rounding, 1.1 * self.slack)
        return self.closed | (torch.isfinite(self.value) & (self.value - self.bound <= rounding))

    @property
    def target(self) -> Tensor:
        """``(B,)`` a bound of this size closes the problem: a search may drop every part proven to lie above it.

        A constant objective has that value wherever there is a feasible input: a part whose bound is above it has none.
        """
        target = torch.where(torch.isfinite(self.value), self.value - self.slack, torch.inf)
        target = target if self.enough is None else torch.minimum(target, self.enough)
        return target if self._constant is None else torch.minimum(target, self._constant + ABSOLUTE_GAP)

    def offer(self, x: Tensor, who: str, problems: Tensor | None = None) -> Tensor:
        """Offer points; each is checked by the user's own model in its dtype and in float64 before it counts.

        Args:
            x: ``(N, *input_shape)``, any floating dtype; rounded to the model's dtype into the box first.
            who: name of the engine.
            problems: ``(N,)`` problem of each point; None where N = B, one point per problem.

        Returns:
            ``(N,)`` whether each point is feasible.
        """
        problems = torch.arange(self.query.size) if problems is None else problems.cpu()
        try:
            with self.ending(late=True):
                check = check_points(self.query, x, problems)
        except deadline.OutOfTime:
            # what nobody has had the time to check does not count
            return torch.zeros(x.shape[0], dtype=torch.bool)
        self.queries += x.shape[0]
        self.rejected += int((~check.feasible).sum())
        value = torch.where(check.feasible, check.value, torch.inf)
        order = value.argsort(stable=True)
        first = torch.full((self.query.size,), torch.inf, dtype=torch.float64).scatter_reduce(
            0, problems, value, "amin"
        )
        improved = first < self.value
        if bool(improved.any()):
            for row in order.tolist():
                b = int(problems[row])
                if value[row] < self.value[b]:
                    self.value[b], self.x[b], self.finders[b] = value[row], check.x[row], who
            self._assert_sound(who)
            self._record(who)
        return check.feasible

    def prove(self, bound: Tensor, proof: Proof, who: str, problems: Tensor | None = None) -> None:
        """Report proven lower bounds (infinity: proven infeasible). NaN proves nothing and is dropped.

        Args:
            bound: ``(N,)`` float64.
            proof: what the bounds rest on.
            who: name of the engine.
            problems: ``(N,)`` problem of each bound; None where N = B.
        """
        if not isinstance(proof, Proof):
            raise UnsoundResult(f"'{who}' reported a bound without a proof. Pass one of clinch.solver.solution.Proof.")
        if bound.dtype != torch.float64:
            # what was rounded to a narrower type may have been rounded upwards
            raise UnsoundResult(f"'{who}' reported bounds as {bound.dtype}. Pass float64, in which they were proven.")
        bound = bound.detach().cpu()
        problems = torch.arange(self.query.size) if problems is None else problems.cpu()
        if self._constant is not None:
            bound = torch.where(bound >= self._constant[problems] + ABSOLUTE_GAP, torch.inf, bound)
        if self._account is not None:
            self._account[problems] = torch.fmax(self._account[problems], bound)
        improved = False
        for b, number in zip(problems.tolist(), bound.tolist()):
            if number > self.bound[b]:  # false for NaN
                self._assert_below(number, b, who)
                self.bound[b] = number if number == torch.inf else min(number, float(self.value[b]))
                self.proofs[b] = proof
                improved = True
        if improved:
            self._record(who)

    def _assert_below(self, bound: float, b: int, who: str) -> None:
        value = float(self.value[b])
        if bound > value + ROUNDING * max(1.0, abs(value)):
            raise UnsoundResult(
                f"Problem {b}: '{who}' claims that no input is better than {bound:.9g}, but '{self.finders[b]}' found "
                f"a checked input of value {value:.9g}. One of them is wrong; please report this problem."
            )

    def _assert_sound(self, who: str) -> None:
        for b in (self.bound > self.value + ROUNDING * self.value.abs().clamp(min=1.0)).nonzero().flatten().tolist():
            claim = self.proofs[b]
            raise UnsoundResult(
                f"Problem {b}: '{who}' found a checked input of value {float(self.value[b]):.9g}, but a proof of kind "
                f"'{claim.value if claim else 'none'}' claims that no input is better than {float(self.bound[b]):.9g}. "
                f"One of them is wrong; please report this problem."
            )
        self.bound = torch.where(self.bound == torch.inf, self.bound, torch.minimum(self.bound, self.value))

    def _record(self, who: str) -> None:
        event = Event(self.seconds, self.queries, self.value.clone(), self.bound.clone(), who)
        self.history.append(event)
        if self.listener is not None:
            self.listener(event)


class _Elsewhere:
    """Reads a ledger; the ledger itself stays on the CPU, where points are checked and numbers compared."""

    def __init__(self, ledger: Ledger, device: torch.device) -> None:
        self._ledger, self._device = ledger, device

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ledger, name)
        return found.to(self._device) if isinstance(found, Tensor) else found
