"""The conductor: who works next, and for how long.

Attacks first, because a near input shrinks the region everyone else has to look at; then bounds; then the exact search,
which shares incumbents and radii with both through the ledger.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING

import torch

from clinch.errors import (
    BackendCrash,
    BackendError,
    CertificateError,
    ProblemError,
    UnboundedInputError,
    UnsupportedByEngine,
    UnsupportedOperator,
)
from clinch.query import Distance, FormsNorm, Linear, Query, Statement
from clinch.runtime import memory
from clinch.runtime.deadline import OutOfTime, exactly_until
from clinch.runtime.devices import usable_device
from clinch.runtime.gradients import with_gradients
from clinch.solver.checkpoint import Keeper
from clinch.solver.conclusion import conclude
from clinch.solver.ledger import Ledger
from clinch.solver.solution import Event, Proof, Solution

if TYPE_CHECKING:
    from clinch.network.ops.base import Interval
    from clinch.search.input_split import InputSplit
    from clinch.search.relu_split import ReluSplit

#: share of the time that the attack may take when other engines wait behind it
ATTACK_SHARE = 0.35
#: share of the time for branch and bound before the thorough attack
SLICE_SHARE = 0.1
#: share of the time for a first look of input splitting at a problem that another engine may suit better
GLANCE_SHARE = 0.02
#: share of the time of bounds alone that the limits of the activations may take
LIMITS_SHARE = 0.9
#: input elements that have room, up to which splitting them is tried, and up to which nothing else is as good
FEW_INPUTS, VERY_FEW_INPUTS = 16, 8

#: what a solution says where memory ran out
MEMORY_NOTE = (
    "Memory ran out: these are the best input and bound so far. Free memory, raise memory_limit, or state fewer "
    "problems at once."
)

Engine = Callable[[Query, Ledger, int], None]


@with_gradients
def solve(
    problem: Statement,
    *,
    time_limit: float = 60.0,
    gap: float = 1e-3,
    seed: int = 0,
    solver: str | None = None,
    progress: Callable[[Event], None] | None = None,
    bounds: Sequence[str] = (),
    device: torch.device | str | None = None,
    memory_limit: int | None = None,
    keep: str | PathLike[str] | None = None,
    certificate: bool = False,
) -> Solution:
    """Solve a problem; what :meth:`clinch.Problem.solve` calls.

    Args:
        problem: one problem or a batch; a batch shares the time limit.
        time_limit: seconds. Reaching it is a normal ending: the best input and bound so far are returned.
        gap: relative gap between value and bound at which to stop.
        seed: of the attacks' random starts.
        solver: one of :data:`ENGINES`, to run that engine alone; None: Clinch chooses and combines.
        progress: called with an :class:`clinch.solver.solution.Event` at every improvement.
        bounds: layers whose limits the solution is to report, see :attr:`clinch.Solution.bounds`.
        device: where attacks, bounds and branch and bound compute; None: on the model's. Linear programs and all checks
            stay on the CPU, and the solution's tensors are there.
        memory_limit: bytes that the solve may take, by a limit of the whole process while it runs (Linux); None: no
            limit. Running out is a normal ending too.
        keep: a JSON file that holds the best inputs and bounds while the solve runs, see
            :class:`clinch.solver.checkpoint.Keeper`.
        certificate: whether to prove the bounds once more in a form that ``clinch check`` reads; the time limit counts
            again for each problem.

    Raises:
        ProblemError: a setting that has no meaning, or a device that is not there.
        UnknownLayer: bounds names a layer that does not exist.
        UnsupportedByEngine, UnsupportedOperator, UnboundedInputError: the named solver cannot take this problem.
    """
    if not time_limit >= 0:
        raise ProblemError(f"time_limit is {time_limit}; give seconds, zero or more.")
    memory.check_limit(memory_limit)
    if not gap >= 0:
        raise ProblemError(f"gap is {gap}; give a relative gap of zero or more, such as 1e-3.")
    if solver is not None and solver not in ENGINES:
        raise ProblemError(
            f"There is no solver '{solver}'. Choose one of: {', '.join(ENGINES)}; or None for all together."
        )
    if isinstance(bounds, str):
        raise ProblemError(f"bounds is the text '{bounds}'; give a list of layers, such as ['{bounds}'].")
    reported = {layer: problem.network.position(layer) for layer in bounds}
    query = problem.query.moved(usable_device(problem.network.device if device is None else device))
    ledger = Ledger(problem.query, time_limit=time_limit, gap=gap, listener=progress)
    keeper = None if keep is None else Keeper(keep, problem, ledger, progress)
    ledger.listener = keeper or progress
    ledger.trees = [] if certificate else None
    try:
        search(query, ledger, seed, solver, memory_limit)
    finally:
        if keeper is not None:
            keeper.close()
    solution = conclude(problem, ledger, _layer_limits(query, ledger, reported, memory_limit))
    return _with_certificate(solution, problem, ledger) if certificate else solution


def _with_certificate(solution: Solution, problem: Statement, ledger: Ledger) -> Solution:
    """The solution with its certificates; the notes say why one is missing."""
    from clinch.certificates import SavedProof, certify

    try:
        made = certify(
            ledger.query, ledger.bound, ledger.x, time_limit=ledger.time_limit, onnx=problem.network.file,
            trees=ledger.trees or (),
        )  # fmt: skip
    except CertificateError as reason:
        return replace(solution, notes=(*solution.notes, f"There is no certificate. {reason}"))
    reasons = [f"Problem {b} has no certificate. {r}" for b, r in enumerate(made) if isinstance(r, CertificateError)]
    proofs = [proof if isinstance(proof, SavedProof) else None for proof in made]
    notes = (*solution.notes, *reasons)
    return replace(solution, certificate=proofs if problem.batched else proofs[0], notes=notes)


@with_gradients
def search(
    query: Query, ledger: Ledger, seed: int = 0, solver: str | None = None, memory_limit: int | None = None
) -> None:
    """Work on a query until its ledger is exhausted: what :func:`solve` does, for a ledger of one's own.

    Args:
        query: the float64 normal form; engines compute where it lives.
        ledger: of the same query on the CPU; receives points and bounds, and says when to stop.
        seed: of the attacks' random starts.
        solver: one of :data:`ENGINES`; None: Clinch chooses and combines.
        memory_limit: bytes that the search may take; None: no limit.
    """
    try:
        with memory.guarded(memory_limit), surviving(ledger):
            if solver is None:
                _combine(query, ledger, seed)
            else:
                ENGINES[solver](query, ledger, seed)
        if MEMORY_NOTE in ledger.notes or (ledger.remaining <= 0 and solver in BOUNDING):
            # what failed has given its memory back by now: a bound that needs little is better than none
            with memory.guarded(memory_limit), surviving(ledger), ledger.ending(late=True):
                _cheap_bound(query, ledger)
    except KeyboardInterrupt:
        ledger.note("Interrupted: these are the best input and bound so far.")


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


def _cheap_bound(query: Query, ledger: Ledger) -> None:
    """Interval bounds of a linear objective, where no bound is known: they need no more than a forward pass."""
    if not isinstance(query.objective, Linear) or bool(torch.isfinite(ledger.bound).any()):
        return
    from clinch.bounds.interval import form_interval

    ledger.prove(form_interval(query.graph, query.objective.form, query.region)[:, 0], Proof.INTERVAL, "intervals")


def _layer_limits(
    query: Query, ledger: Ledger, layers: dict[str, int], memory_limit: int | None
) -> dict[str, Interval]:
    """Limits of layers over what is left to search: by CROWN, or by intervals where the time is over."""
    from clinch.bounds.limits import node_limits

    if not layers:
        return {}
    query = query.narrowed(ledger.on(query.device).value)
    found: dict[int, Interval] = {}
    try:
        # whoever asks for them gets intervals at least, which take a pass over the network
        with memory.guarded(memory_limit), surviving(ledger), exactly_until(math.inf):
            found = node_limits(query.graph, query.region, list(layers.values()), stop=lambda: ledger.remaining <= 0)
    except UnsupportedOperator as reason:
        ledger.note(f"There are no limits of layers. {reason}")
    if not found:
        return {}
    return {layer: type(found[i])(*(side.cpu() for side in found[i])) for layer, i in layers.items()}


def _attack(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.attacks.local_search import polish
    from clinch.attacks.portfolio import attack

    attack(query, ledger, seed=seed)
    if not ledger.exhausted:
        polish(ledger.query, ledger)


def _bounds(query: Query, ledger: Ledger, seed: int) -> None:
    """Interval and CROWN bounds over the incumbent's ball."""
    from clinch.bounds.objective import objective_bound

    value = ledger.on(query.device).value
    # the last pass, from the activations' limits to the bound, needs time too
    end = ledger.seconds + LIMITS_SHARE * ledger.remaining
    bound = objective_bound(query.narrowed(value), stop=lambda: ledger.seconds >= end)
    if isinstance(query.objective, Distance):
        # Only the incumbent's ball was searched: outside of it nothing is better than its radius.
        bound = torch.where(torch.isfinite(value), torch.minimum(bound, value), bound)
    ledger.prove(bound, Proof.LINEAR_RELAXATION, "CROWN")


def _milp(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.search.milp.milp import milp

    milp(ledger.query, ledger)


def _branch_and_bound(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.search.relu_split import branch_and_bound

    branch_and_bound(query, ledger)


def _input_split(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.search.input_split import input_split

    input_split(query, ledger)


def _count(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.search.l0_search import fewest_changes

    fewest_changes(ledger.query, ledger)


def _scipy(solver: str, sides: bool = True) -> Engine:
    """One of SciPy's solvers as a reference. It lives with the papers, above this file, so it is named as text, and
    imported when it runs, as SciPy's part for it is."""

    def engine(query: Query, ledger: Ledger, seed: int) -> None:
        engine = importlib.import_module("clinch.papers.methods.scipy_solvers").scipy_engine
        engine(solver, sides)(query, ledger, seed)

    return engine


#: what ``solver=`` can name; each also runs by itself
ENGINES: dict[str, Engine] = {
    "attack": _attack,
    "bounds": _bounds,
    "milp": _milp,
    "branch_and_bound": _branch_and_bound,
    "input_split": _input_split,
    "count": _count,
    "cobyla": _scipy("cobyla"),
    "cobyla_whole": _scipy("cobyla", sides=False),
    "slsqp": _scipy("slsqp"),
    "slsqp_whole": _scipy("slsqp", sides=False),
    "shgo": _scipy("shgo"),
    "differential_evolution": _scipy("differential_evolution"),
}


#: values of ``solver=`` that prove bounds
BOUNDING = (None, "bounds", "milp", "branch_and_bound", "input_split")


def _combine(query: Query, ledger: Ledger, seed: int) -> None:
    """A quick attack and a slice of the exact search; where that closes not everything, all that there is."""
    if isinstance(query.objective, Distance):
        nearest = query.objective.center.clamp(query.region.lower, query.region.upper)
        ledger.prove(query.objective.value(nearest, {}), Proof.GEOMETRY, "geometry")
    elif query.feasibility:
        # a constant is its own bound, so that the first input found closes the problem
        ledger.prove(query.objective.value(query.region.lower, {}), Proof.GEOMETRY, "geometry")
    engines = _exact_engines(query)
    if engines[0] is _input_split:
        engines = _first_boxes(query, ledger, seed, engines[1:])
    elif engines[0] is _branch_and_bound:
        engines = [*_first_slice(query, ledger, seed), *engines[1:]]
    else:
        engines.insert(0, _bounds)
    if ledger.exhausted or not engines:
        return
    with ledger.share(ATTACK_SHARE):
        _attack(query, ledger, seed)
    for engine in engines:
        if ledger.exhausted:
            return
        _attempt(engine, query, ledger, seed)


def _first_slice(query: Query, ledger: Ledger, seed: int) -> list[Engine]:
    """Try what closes small problems: a quick attack and a slice of branch and bound; returns the rest, if any."""
    from clinch.attacks.local_search import polish
    from clinch.attacks.portfolio import attack

    with ledger.share(ATTACK_SHARE):
        attack(query, ledger, seed=seed, thorough=False)
        if isinstance(query.objective, Distance):  # a nearer point shrinks the region, others only prune
            polish(ledger.query, ledger)
    search = _Continued("branch_and_bound")
    with ledger.share(SLICE_SHARE):
        _attempt(search, query, ledger, seed)
    return [] if search.done else [search]


def _first_boxes(query: Query, ledger: Ledger, seed: int, others: list[Engine]) -> list[Engine]:
    """Try what closes problems of few inputs; returns the engines that should go on, the best one first.

    A first slice of input splitting closes most of them. Where branch and bound takes the problem too both get an equal
    slice, and the one that raised the bound last is the better one. A question without objective has no such bound:
    there each gets half of the time, unless the inputs are very few.
    """
    split = _Continued("input_split")
    alone = query.feasibility and query.region.free_elements <= VERY_FEW_INPUTS
    with ledger.share(SLICE_SHARE if alone else GLANCE_SHARE):
        _attempt(split, query, ledger, seed)
    if ledger.exhausted or split.done:
        return []
    if alone or not others:
        return [split]
    if others[0] is not _branch_and_bound:
        return [_lent(others[0], 0.5), split]
    search = _first_slice(query, ledger, seed)
    before = ledger.bound.clone()
    with ledger.share(SLICE_SHARE):
        _attempt(split, query, ledger, seed)
    if query.feasibility:
        return [_lent(split, 0.5), *search, split]
    raised = (ledger.bound > before)[~ledger.closed]
    return [split, *search] if bool(raised.double().mean() > 0.5) else [*search, split]


class _Continued:
    """A search of :data:`ENGINES` that goes on, when called again, where its time was up."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self._search: ReluSplit | InputSplit | None = None

    def __call__(self, query: Query, ledger: Ledger, seed: int) -> None:
        from clinch.search.input_split import InputSplit
        from clinch.search.relu_split import ReluSplit

        if self._search is None:
            self._search = (InputSplit if self.__name__ == "input_split" else ReluSplit)(query, ledger)
        try:
            self._search.run()
        except BaseException:
            # it may have lost what it was at work on: only a new search may claim to have looked at everything
            self._search = None
            raise

    @property
    def done(self) -> bool:
        """Whether it has nothing left to look at."""
        return self._search is not None and self._search.done


def _lent(engine: Engine, share: float) -> Engine:
    """The engine with a share of the time that is left."""

    def lent(query: Query, ledger: Ledger, seed: int) -> None:
        with ledger.share(share):
            engine(query, ledger, seed)

    lent.__name__ = engine.__name__
    return lent


def _attempt(engine: Engine, query: Query, ledger: Ledger, seed: int) -> None:
    """Run an engine; where it cannot take the problem, or fails, the solution says so and the others go on."""
    try:
        with surviving(ledger, crashes_only=False):
            engine(query, ledger, seed)
    except (UnsupportedOperator, UnsupportedByEngine, UnboundedInputError) as reason:
        ledger.note(f"Engine '{_name(engine)}' was skipped. {reason}")


def _exact_engines(query: Query) -> list[Engine]:
    """Those that suit the problem, the best first.

    Branch and bound where splitting ReLUs ends in an affine network, MILP where other pieces need an encoding, input
    splitting where few input elements have room, and where neither of the others ends.
    """
    kinks = query.graph.bends_only_at_kinks(query.nodes)
    encodable = all(query.graph.nodes[i].op.supports("encode") for i in query.graph.ancestors(query.nodes) if i)
    if isinstance(query.objective, Distance) and query.objective.p == 0 and encodable:
        return [_count, _milp] if kinks else [_milp]
    if isinstance(query.objective, FormsNorm):
        engines = [_milp]
    elif kinks:
        engines = [_branch_and_bound]
    else:
        engines = [_milp, _branch_and_bound] if encodable else [_branch_and_bound]
    if query.region.free_elements <= FEW_INPUTS:
        return [_input_split, *engines] if encodable else [_input_split]
    return engines if encodable else [*engines, _input_split]


def _name(engine: Engine) -> str:
    return next((name for name, known in ENGINES.items() if known is engine), engine.__name__)
