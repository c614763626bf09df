"""The portfolio: it orders the engines by what they can take, and shares the time among them.

Attacks first, because a near input shrinks the region everyone else has to look at; then bounds; then the exact search,
which shares incumbents and radii with both through the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import torch

from clinch.bounds.crown import read_nodes
from clinch.errors import CertificateError, ProblemError
from clinch.query import Distance, Query, Statement
from clinch.runtime import memory
from clinch.runtime.arguments import as_gap, as_seconds, as_whole
from clinch.runtime.devices import usable_device
from clinch.runtime.gradients import with_gradients
from clinch.runtime.threads import suited_threads
from clinch.search.engines import BOUNDS, ENGINES, NEVER
from clinch.search.first_points import first_points
from clinch.search.race import AnyInput, Job, Race, Turn, skip
from clinch.search.radius_search import balls_first
from clinch.solver.checkpoint import Keeper
from clinch.solver.conclusion import conclude
from clinch.solver.engine import MEMORY_NOTE, Capability, Resumable, outlook, surviving
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Attack, Milp, Portfolio, Settings
from clinch.solver.solution import Event, Proof, Solution

#: names of ``solver=`` that mean the engine ``"milp"`` with this backend
LIBRARIES = ("highs", "scip", "gurobi")


@with_gradients
def solve(
    problem: Statement,
    *,
    time_limit: float | None = 60.0,
    gap: float | None = 1e-3,
    seed: int = 0,
    solver: str | None = None,
    progress: Callable[[Event], None] | None = None,
    bounds: Sequence[str] = (),
    device: torch.device | str | None = None,
    memory_limit: int | None = None,
    keep: str | PathLike[str] | None = None,
    certificate: bool = False,
    settings: Settings | Mapping[str, Any] | None = None,
) -> Solution:
    """Solve a problem; what :meth:`clinch.Problem.solve` calls.

    Args:
        problem: one problem or a batch; a batch shares the time limit.
        time_limit: seconds. Reaching it is a normal ending: the best input and bound so far are returned. None: no
            limit.
        gap: relative gap between value and bound at which to stop; None: 0.
        seed: of the attacks' random starts.
        solver: one of :data:`clinch.search.engines.ENGINES`, to run that engine alone, or one of :data:`LIBRARIES`;
            None: Clinch chooses and combines.
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
        settings: of the engine that ``solver`` names, or of the portfolio, see :mod:`clinch.solver.settings`; also its
            fields by name. None: the usual ones.

    Raises:
        ProblemError: a setting that has no meaning, or a device that is not there.
        UnknownLayer: bounds names a layer that does not exist.
        UnsupportedByEngine, UnsupportedOperator, UnboundedInputError: the named solver cannot take this problem.
    """
    time_limit, gap, seed = as_seconds(time_limit), as_gap(gap), as_whole(0 if seed is None else seed, "seed")
    memory.check_limit(memory_limit)
    solver, settings = _of_library(solver, settings)
    settings = settings_of(solver, settings)
    if isinstance(bounds, str):
        raise ProblemError(f"bounds is the text '{bounds}'; give a list of layers, such as ['{bounds}'].")
    reported = {layer: problem.network.position(layer) for layer in bounds}
    query = problem.query.moved(usable_device(problem.network.device if device is None else device))
    ledger = Ledger(problem.query, time_limit=time_limit, gap=gap, listener=progress)
    keeper = None if keep is None else Keeper(keep, problem, ledger, progress)
    ledger.listener = keeper or progress
    ledger.trees = [] if certificate else None
    with suited_threads(query.graph.activations):
        try:
            search(query, ledger, seed, solver, memory_limit, settings)
        finally:
            if keeper is not None:
                keeper.close()
        solution = conclude(problem, ledger, BOUNDS.limits(query, ledger, reported, memory_limit))
        return _with_certificate(solution, problem, ledger) if certificate else solution


def _of_library(
    solver: str | None, given: Settings | Mapping[str, Any] | None
) -> tuple[str | None, Settings | Mapping[str, Any] | None]:
    """The engine that a solver library stands for: ``"gurobi"`` is ``"milp"`` with that backend."""
    if solver not in LIBRARIES:
        return solver, given
    if given is None or isinstance(given, Mapping):
        return "milp", {**(given or {}), "backend": solver}
    return "milp", replace(given, backend=solver) if isinstance(given, Milp) else given


def settings_of(solver: str | None, given: Settings | Mapping[str, Any] | None) -> Settings:
    """The settings of an engine, or of the portfolio: an object of the right kind, with every field checked.

    Raises:
        ProblemError: there is no such solver, or the settings are not its.
    """
    if solver is not None and solver not in ENGINES:
        raise ProblemError(
            f"There is no solver '{solver}'. Choose one of: {', '.join(ENGINES)}; {', '.join(LIBRARIES)} for a "
            "mixed-integer program in that library; or None for all together."
        )
    return (Portfolio if solver is None else ENGINES[solver].settings).of(given)


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
    query: Query,
    ledger: Ledger,
    seed: int = 0,
    solver: str | None = None,
    memory_limit: int | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
) -> None:
    """Work on a query until its ledger is exhausted: what :func:`solve` does, for a ledger of one's own.

    Args:
        query: the float64 normal form; engines compute where it lives.
        ledger: of the same query on the CPU; receives points and bounds, and says when to stop.
        seed: of the attacks' random starts.
        solver: one of :data:`clinch.search.engines.ENGINES`; None: Clinch chooses and combines.
        memory_limit: bytes that the search may take; None: no limit.
        settings: see :func:`solve`; recorded in the ledger.
    """
    settings = settings_of(solver, settings)
    ledger.solver, ledger.settings = solver, settings
    try:
        with suited_threads(query.graph.activations), memory.guarded(memory_limit), surviving(ledger):
            if isinstance(settings, Portfolio):
                _combine(Job(query, ledger, seed, settings))
            else:
                ENGINES[str(solver)].run(query, ledger, seed, settings)
        if MEMORY_NOTE in ledger.notes or (ledger.remaining <= 0 and (solver is None or ENGINES[solver].proves)):
            # what failed has given its memory back by now: a bound that needs little is better than none
            with memory.guarded(memory_limit), surviving(ledger), ledger.ending(late=True):
                BOUNDS.at_least(query, ledger)
    except KeyboardInterrupt:
        ledger.note("Interrupted: these are the best input and bound so far.")


def capabilities(query: Query) -> dict[str, Capability]:
    """What each engine that the portfolio chooses among says about a query."""
    return {name: outlook(engine, query) for name, engine in ENGINES.items() if engine.suits != NEVER}


# --- the portfolio ------------------------------------------------------------------------------------------------

#: searches that close what they can take, the one that suits a problem best first, and what follows each
EXACT: dict[str, tuple[str, ...]] = {"count": ("milp",), "branch_and_bound": (), "milp": ("branch_and_bound",)}
#: searches that race on small problems, whichever suits best
RACING = ("branch_and_bound", "general_split", "milp", "input_split")
#: searches that begin with bounds of the whole region, or whose first boxes are better than these
BOUNDING = ("branch_and_bound", "input_split")

#: inputs up to which all searches race, splitting them among these, in ``few_inputs``: with more what suits best is
#: known, and the moments of the others are lost
MORE_INPUTS = 3
#: time of a quick attack beside a thorough one
QUICK = 0.6


def _combine(job: Job) -> None:
    """A first look for points, all searches that suit in turns, a thorough attack, and the searches again.

    What suits best works alone for a while before the others begin: a moment where all of them can be tried within
    moments, a glance at large problems.
    """
    query, ledger, settings = job.query, job.ledger, job.settings
    _prove_trivially(query, ledger)
    names = _ranked(job)
    _look(job)
    if ledger.exhausted:
        return
    if not names or names[0] not in BOUNDING:
        Turn("bounds", job).take(job)
    small = _small(job)
    turns = _entrants(job, names, small=small)
    race = Race(job, [turn for turn in turns if isinstance(turn.engine, Resumable)], known_best=_known_best(job))
    with ledger.slice(settings.race_share if small else settings.slice_share):
        race.run(alone=settings.moment if small else settings.glance_share * ledger.left)
    if race.soon(settings.attack_share * ledger.left):
        # it will have ended before an attack has
        with ledger.slice(settings.attack_share):
            race.run()
    if ledger.exhausted or race.settled:
        return
    _attack(job, settings.attack)
    for turn in turns:
        if not isinstance(turn.engine, Resumable) and not ledger.exhausted:
            turn.take(job, settings.lent_share)
    race.run()


def _prove_trivially(query: Query, ledger: Ledger) -> None:
    """Bounds that take no time: a constant is its own, so that the first input found closes the problem."""
    if isinstance(query.objective, Distance):
        nearest = query.objective.center.clamp(query.region.lower, query.region.upper)
        ledger.prove(query.objective.value(nearest, {}), Proof.GEOMETRY, "geometry")
    elif query.feasibility:
        ledger.prove(query.objective.value(query.region.lower, {}), Proof.GEOMETRY, "geometry")


def _look(job: Job) -> None:
    """A quick attack; of questions without objective a handful of points, unless somebody has looked."""
    if not job.query.feasibility:
        _attack(job, replace(job.settings.attack, thorough=False))
    elif not job.ledger.looked:
        with job.ledger.share(job.settings.glance_share), surviving(job.ledger, crashes_only=False):
            first_points(job.query, job.ledger, job.seed)


def _attack(job: Job, settings: Attack) -> None:
    share = job.settings.attack_share
    with job.ledger.share(share if settings.thorough else QUICK * share):
        ENGINES["attack"].run(job.query, job.ledger, job.seed, settings)


def _ranked(job: Job) -> list[str]:
    """The exact searches that can take the problem, the best first.

    Branch and bound where splitting ReLUs ends in an affine network, MILP where other pieces need an encoding, input
    splitting where few input elements have room, and splits of inputs and nodes alike where neither of the others ends.
    """
    able = {name: outlook(ENGINES[name], job.query) for name in (*EXACT, "input_split", "general_split")}
    best = next((name for name in EXACT if able[name].closes), None)
    order = ("general_split", "branch_and_bound") if best is None else (best, *EXACT[best])
    # counts are whole numbers: boxes that shrink do not tell them apart, and are what is left where nothing else ends
    boxes = best is None or not able["count"]
    if boxes and job.query.region.free_elements <= job.settings.few_inputs:
        order = ("input_split", "general_split") if best is None else ("input_split", *order)
    if best is None:
        for name in order:
            if not able[name]:
                skip(job, name, able[name].refusal)
    return [name for name in order if able[name]]


def _known_best(job: Job) -> bool:
    """Whether the first search is known to suit best: boxes where inputs are very few, others where they are many."""
    free, settings = job.query.region.free_elements, job.settings
    return free <= settings.very_few_inputs or free > settings.few_inputs


def _small(job: Job) -> bool:
    """Whether all searches can be tried on the problems within moments, and one does not know which to begin with."""
    graph, query = job.query.graph, job.query
    free, settings = query.region.free_elements, job.settings
    if free > MORE_INPUTS * settings.few_inputs or (query.feasibility and free <= settings.very_few_inputs):
        return False
    read = sum(graph.nodes[j].size for j in read_nodes(graph, query.nodes) if j)
    return query.size * read <= settings.race_size


def _entrants(job: Job, names: list[str], *, small: bool) -> list[Turn]:
    """Who takes part, the best first: what can close the problems, balls for distances, and, where no input is known,
    a search for any."""
    query, ledger = job.query, job.ledger
    # certificates begin with the tree of a search of all of the region, and of one that suits
    recorded = ledger.trees is not None
    others = [name for name in RACING if outlook(ENGINES[name], query).closes] if small and not recorded else []
    first = ["radius"] if _balls_first(job) else []
    if small and names[:2] == [*reversed(BOUNDING)] and query.region.free_elements > job.settings.very_few_inputs:
        first.append("branch_and_bound")
    order = [*first, *names, *others]
    balls = isinstance(query.objective, Distance) and not query.objective.norm.counts
    if balls and not (recorded and "branch_and_bound" in names):
        # where nodes are no kinks, relaxations over the incumbent's ball may be too loose to begin with
        order.insert(next((i for i, name in enumerate(order) if name not in BOUNDING), len(order)), "radius")
    turns = [Turn(name, job) for name in dict.fromkeys(order)]
    unknown = query.clauses and not query.feasibility and not bool(torch.isfinite(ledger.value).any())
    closing = next((name for name in RACING if any(turn.name == name for turn in turns)), None)
    return [*turns, AnyInput(closing, job)] if unknown and closing is not None else turns


def _balls_first(job: Job) -> bool:
    """Prove balls free by linear bounds, for a share of the time; whether larger ones should be searched first."""
    with job.ledger.share(job.settings.lent_share), surviving(job.ledger, crashes_only=False):
        return balls_first(job.query, job.ledger, job.settings.radius)
    return False
