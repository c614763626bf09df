"""Searches side by side: each works for a moment, and the one that gets on best goes on.

Which search suits a small problem is seldom known before, and soon seen: what one closes in a tenth of a second takes
another minutes. Searches that can go on where they stopped lose nothing but the moments of the others. They are
compared by what each has proven by itself, whatever the others have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.errors import UnsupportedByEngine
from clinch.query import Query
from clinch.runtime import deadline
from clinch.search.engines import ENGINES
from clinch.solver.engine import Engine, Resumable, Search, surviving
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Portfolio, Settings
from clinch.solver.solution import Proof

#: by how much longer each goes on than it has worked so far
LONGER = 0.5
#: moments in which each is tried; time of the search that suits best beside each other's meanwhile; afterwards shares
#: of the time that it, each other whose bound has not risen yet, and each other have at least: some start slowly
TRIED, LEADER, FIRST_SHARE, UNKNOWN, SHARE = 3, 2.0, 0.4, 0.08, 0.04
#: the same of questions without objective whose best search is known
ALONE = 9.0
#: a search that takes this many times its moment to begin or to end a step, this many seconds, and up to so many this
#: share of the time that is left, is too slow for it
OVERDUE, AT_LEAST, AT_MOST, LATE = 4.0, 0.25, 2.0, 0.05


@dataclass(frozen=True)
class Job:
    """What all engines of a portfolio work on."""

    query: Query
    ledger: Ledger
    seed: int
    settings: Portfolio


class Turn:
    """An engine of the portfolio; a search that can go on does so, when its turn comes again, where its time was up.

    Attributes:
        proven: ``(B,)`` what it has proven by itself.
        seconds: that it has had.
    """

    def __init__(self, name: str, job: Job) -> None:
        self.engine: Engine = ENGINES[name]
        self.proven = torch.full_like(job.ledger.bound, -torch.inf)
        self.seconds = 0.0
        #: whether it could not take the problem as it stood last
        self.refused = False
        #: seconds and what was proven by then, after each of its moments
        self.history: list[tuple[float, Tensor]] = []
        self._search: Search | None = None

    @property
    def name(self) -> str:
        """The engine's."""
        return self.engine.name

    @property
    def done(self) -> bool:
        """Whether it has nothing left to look at."""
        return self._search is not None and self._search.done

    @property
    def begun(self) -> bool:
        """Whether it is at work and can go on."""
        return self._search is not None

    def take(self, job: Job, share: float = 1.0) -> None:
        """Work for a share of the time that is left; where the engine cannot take the problem, or fails, the solution
        says so and the others go on."""
        ledger, began = job.ledger, job.ledger.seconds
        self.refused = False
        try:
            with ledger.slice(share), ledger.credited(self.proven), surviving(ledger, crashes_only=False):
                self._work(job)
        except UnsupportedByEngine as reason:
            self.refused = True
            skip(job, self.name, reason)
        finally:
            self.seconds += ledger.seconds - began
            self.history.append((self.seconds, self.proven.clone()))

    def forecast(self, problems: Tensor, target: Tensor) -> tuple[float, float]:
        """Seconds after which problems (a mask) will be closed, at what a doubling of its time has brought last; and
        what is proven of them, negative, where that is the same."""
        now, before = self.proven[problems], _risen(self.history, self.seconds / 2)[problems]
        known = torch.isfinite(now) & torch.isfinite(before) & torch.isfinite(target)
        gap, rise = float((target - now)[known].sum()), float((now - before)[known].sum())
        worst = -float(now.nan_to_num(neginf=-1e300).mean())
        if not bool(known.all()) or rise <= 0:
            return math.inf, worst
        return self.seconds * math.expm1(min(700.0, math.log(2) * gap / rise)), worst

    def take_moment(self, job: Job, seconds: float, *, patient: bool = False) -> bool:
        """Work for so many seconds; whether it may go on: it kept to them, and has something left to do.

        Args:
            patient: a step that takes longer is not ended.
        """
        late = math.inf if patient else max(OVERDUE * seconds, AT_LEAST, min(AT_MOST, LATE * job.ledger.left))
        with deadline.until(deadline.clock() + late), job.ledger.moment(seconds):
            self.take(job)
        return self.begun and not self.done

    def _work(self, job: Job) -> None:
        if not isinstance(self.engine, Resumable):
            self.engine.run(job.query, job.ledger, job.seed, self._settings(job))
            return
        if self._search is None:
            self._search = self._begin(job, self.engine)
        try:
            self._search.run()
        except BaseException:
            # it may have lost what it was at work on: only a new search may claim to have looked at everything
            self._search = None
            raise

    def _begin(self, job: Job, engine: Resumable) -> Search:
        return engine.begin(job.query, job.ledger, self._settings(job))

    def _settings(self, job: Job) -> Settings:
        return getattr(job.settings, self.name)


class AnyInput(Turn):
    """An engine at the question whether there is any feasible input at all.

    Where no input is known nothing cuts an objective off, and a bound has to rise without end before it says that there
    is none; without the objective that is what is asked.
    """

    def _begin(self, job: Job, engine: Resumable) -> Search:
        return _Feasibility(job, engine, self._settings(job))


class _Feasibility:
    """The search for any feasible input, as a search of the problems themselves."""

    def __init__(self, job: Job, engine: Resumable, settings: Settings) -> None:
        self.outer = job.ledger
        self.inner = Ledger(job.ledger.query.without_objective(), time_limit=max(job.ledger.left, 0.0))
        # a constant is its own bound, so that the first input found closes the problem
        self.inner.prove(torch.zeros_like(self.inner.bound), Proof.GEOMETRY, "geometry")
        self.search = engine.begin(job.query.without_objective(), self.inner, settings)

    @property
    def done(self) -> bool:
        """Whether an input is known, or that there is none, of every problem."""
        return self.search.done or self.inner.exhausted

    def run(self) -> None:
        """Search as long as the other ledger has time."""
        with self.inner.moment(max(self.outer.remaining, 0.0)):
            self.search.run()
        empty = self.inner.bound == torch.inf
        if bool(empty.any()):
            bound = torch.where(empty, self.inner.bound, -torch.inf)
            self.outer.prove(bound, Proof.TREE, "branch and bound")
        found = (torch.isfinite(self.inner.value) & ~torch.isfinite(self.outer.value)).nonzero().flatten()
        if len(found):
            self.outer.offer(self.inner.x[found], "branch and bound", found)


def skip(job: Job, name: str, reason: Exception | None) -> None:
    """Say why an engine was left out."""
    job.ledger.note(f"Engine '{name}' was skipped. {reason}")


class Race:
    """Searches side by side; :meth:`run` may be called again after the ledger's time was up.

    Each is tried for a few moments; then that one works on which will have closed the problems first if it goes on as
    it does: a tree's bound rises by about as much each time its own time has doubled. Questions without objective have
    no such bound: they stay with turns, and where it is known which search suits best, that one has most of the time.

    Args:
        job: what they work on.
        turns: the one that suits best first: a tie is its.
        known_best: whether that is known.
    """

    def __init__(self, job: Job, turns: Sequence[Turn], *, known_best: bool = True) -> None:
        self.job, self.turns, self.going, self.known_best = job, turns, list(turns), known_best
        #: what was proven before
        self.known = job.ledger.bound.clone()

    @property
    def settled(self) -> bool:
        """Whether some search has looked at everything, and only rounding keeps value and bound apart."""
        return any(turn.done for turn in self.turns) and bool(self.job.ledger.met_up_to_rounding.all())

    def run(self, *, alone: float = 0.0) -> None:
        """Work until the problems are closed, the time is over or no search can go on.

        Args:
            alone: seconds that the first has before the others begin.
        """
        self.going += [turn for turn in self.turns if turn.refused and turn not in self.going]
        if self.going and alone > self.going[0].seconds:
            self._work(self.going[0], alone)
        while self.going and not self.job.ledger.exhausted and not self.settled:
            turn = self._next()
            # each time a little longer, so that changes of the one at work cost little
            self._work(turn, max(self.job.settings.moment, LONGER * turn.seconds))

    def _work(self, turn: Turn, seconds: float) -> None:
        if len(self.going) == 1:
            turn.take(self.job)
            going = turn.begun and not turn.done
        else:
            going = turn.take_moment(self.job, seconds, patient=turn is self.going[0])
        if not going:
            self.going.remove(turn)

    def _next(self) -> Turn:
        if self.job.query.feasibility:
            return self._least(ALONE if self.known_best else 1.0)
        if any(len(turn.history) < TRIED for turn in self.going):
            return self._least(LEADER)
        total = sum(turn.seconds for turn in self.going)
        shares = [FIRST_SHARE, *(SHARE if self._rises(turn) else UNKNOWN for turn in self.going[1:])]
        short = next((turn for turn, share in zip(self.going, shares) if turn.seconds < share * total), None)
        if short is not None:
            return short
        return self._fastest()

    def _fastest(self) -> Turn:
        """The one of the best forecast: none that another, which still rises, has left behind in no more time."""
        problems = ~self.job.ledger.closed
        target = self.job.ledger.target[problems]
        forecasts = [turn.forecast(problems, target) for turn in self.going]
        rising = [turn for turn, (seconds, _) in zip(self.going, forecasts) if seconds < math.inf]

        def behind(turn: Turn) -> bool:
            # after so many seconds of their own
            return any(
                other.history[0][0] <= turn.seconds
                and bool((_risen(other.history, turn.seconds) > turn.proven)[problems].all())
                for other in rising
            )

        ahead = [(forecast, k) for k, forecast in enumerate(forecasts) if not behind(self.going[k])]
        return self.going[min(ahead)[1]]

    def soon(self, seconds: float) -> bool:
        """Whether some search that goes on as it does will have closed the problems within so many seconds."""
        problems = ~self.job.ledger.closed
        target = self.job.ledger.target[problems]
        begun = [turn for turn in self.going if turn.history]
        return any(turn.forecast(problems, target)[0] - turn.seconds < seconds for turn in begun)

    def _rises(self, turn: Turn) -> bool:
        """Whether it has proven anything that was not known before, nor in its first moment."""
        return bool((turn.proven > torch.fmax(self.known, turn.history[0][1])).any())

    def _least(self, leader: float) -> Turn:
        """The one that has had the least time, the first one counting as so many."""
        weights = [leader, *[1.0] * (len(self.going) - 1)]
        return min(zip(self.going, weights), key=lambda both: both[0].seconds / both[1])[0]


def _risen(history: Sequence[tuple[float, Tensor]], seconds: float) -> Tensor:
    """``(B,)`` what had been proven after so many seconds."""
    return [proven for at, proven in history if at <= seconds or at == history[0][0]][-1]
