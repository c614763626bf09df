"""What an engine is: it says which problems it can take, or why not, and works on one until its ledger is exhausted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from clinch.errors import BackendCrash, BackendError, UnsupportedByEngine
from clinch.query import Distance, Query
from clinch.runtime import memory
from clinch.runtime.deadline import OutOfTime
from clinch.solver.ledger import Ledger

#: what a solution says where memory ran out
MEMORY_NOTE = (
    "Memory ran out: these are the best input and bound so far. Free memory, raise memory_limit, or state fewer "
    "problems at once."
)


@dataclass(frozen=True)
class Capability:
    """Whether an engine can take a problem.

    Attributes:
        refusal: why not, as the error that ``run`` raises: what was seen, and what to write instead; None: it can.
        closes: it can, and given the time it ends with value and bound met. What only attacks or only bounds does not.
        later: it can once an input is known, whose distance limits the others.
    """

    refusal: UnsupportedByEngine | None = None
    closes: bool = False
    later: bool = False

    @classmethod
    def of(cls, refusal: UnsupportedByEngine | None, *, closes: bool = False) -> Capability:
        """Yes where nothing is said against it."""
        return cls(refusal, closes and refusal is None)

    @classmethod
    def no(cls, reason: str) -> Capability:
        """It cannot: what was seen, and what to write instead."""
        return cls(UnsupportedByEngine(reason))

    def __bool__(self) -> bool:
        return self.refusal is None

    def __str__(self) -> str:
        if self.refusal is not None:
            return f"no: {self.refusal}"
        return "yes, once an input is known" if self.later else "yes"


class Engine(Protocol):
    """What ``solver=`` can name.

    Attributes:
        name: as users write it.
        summary: what it does, in half a line.
        suits: when the portfolio chooses it, in half a line.
        facts: what every operator that a problem looks at must state, see
            :meth:`clinch.network.ops.base.Operator.supports`.
        proves: whether it reports bounds.
        settings: the class of its settings.
    """

    name: str
    summary: str
    suits: str
    facts: tuple[str, ...]
    proves: bool
    settings: type[Any]

    def capability(self, query: Query) -> Capability:
        """Whether it can take the problems of a query as they stand, by what the query says alone."""
        ...

    def run(self, query: Query, ledger: Ledger, seed: int, settings: Any) -> None:
        """Work on the problems that a ledger has not closed, until its budget is spent.

        Args:
            query: the float64 normal form, on the device to compute on.
            ledger: of the same query on the CPU; receives points and bounds, and says when to stop.
            seed: of every random choice.
            settings: of the engine's own class.

        Raises:
            UnsupportedByEngine: :meth:`capability` says no.
        """
        ...


class Search(Protocol):
    """Work that may stop where its time is up, and goes on when it is run again."""

    @property
    def done(self) -> bool:
        """Whether it has nothing left to look at."""
        ...

    def run(self) -> None:
        """Work until the ledger's time is up."""


@runtime_checkable
class Resumable(Engine, Protocol):
    """An engine whose search can go on later."""

    def begin(self, query: Query, ledger: Ledger, settings: Any) -> Search:
        """A search that has not looked at anything yet. Arguments and errors: see :meth:`Engine.run`."""
        ...


# --- whether they take a problem ----------------------------------------------------------------------------------


def outlook(engine: Engine, query: Query) -> Capability:
    """What an engine can do about a query now, or once an input is known."""
    now = engine.capability(query)
    if now:
        return now
    known = engine.capability(query.narrowed(torch.ones(query.size, dtype=query.dtype, device=query.device)))
    return Capability(closes=known.closes, later=True) if known else now


def admit(engine: Engine, query: Query, ledger: Ledger) -> None:
    """Refuse what an engine cannot take, given what the ledger knows.

    Raises:
        UnsupportedByEngine: as :meth:`Engine.capability` says.
    """
    there = ledger.on(query.device)
    left = (~there.closed).nonzero().flatten()
    if len(left):
        refusal = engine.capability(query.take(left).narrowed(there.value[left])).refusal
        if refusal is not None:
            raise refusal


def lacking(engine: Engine, query: Query) -> UnsupportedByEngine | None:
    """What a layer that the query looks at does not state of what the engine reads; None: nothing is missing."""
    return query.graph.lacking(query.nodes, engine.facts)


def without_slope(query: Query) -> UnsupportedByEngine | None:
    """Why methods that follow slopes alone cannot take a query; None: they can."""
    if isinstance(query.objective, Distance) and query.objective.norm.counts:
        return UnsupportedByEngine(
            "SciPy's solvers need slopes, and a count of changed elements has none. Use solver='attack'."
        )
    return None


# --- how they are run ---------------------------------------------------------------------------------------------


@contextmanager
def surviving(ledger: Ledger, *, crashes_only: bool = True) -> Iterator[None]:
    """Where memory runs out or a solver library's process dies inside, what is known by then stays: a note says so.
    What is still at work when the ledger's time is over ends there.

    Args:
        ledger: receives the note, and says when the time is over.
        crashes_only: whether other failures of a solver library are raised.
    """
    try:
        with ledger.ending():
            yield
    except OutOfTime:
        return
    except BackendError as error:
        if crashes_only and not isinstance(error, BackendCrash):
            raise
        ledger.note(f"A solver library failed; these are the best input and bound without it. {error}")
    except (MemoryError, RuntimeError) as error:
        if not memory.ran_out(error):
            raise
        ledger.note(MEMORY_NOTE)
