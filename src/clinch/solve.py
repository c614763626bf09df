"""The conductor: who works next, and for how long.

Attacks first, because a near input shrinks the region everyone else has to look at; then bounds; then the exact search,
which shares incumbents and radii with both through the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from clinch.devices import usable_device
from clinch.errors import ProblemError, UnboundedInputError, UnsupportedByEngine, UnsupportedOperator
from clinch.ledger import Ledger
from clinch.query import Distance, FormsNorm, Query
from clinch.solution import Event, Proof, Solution

if TYPE_CHECKING:
    from clinch.network.ops.base import Interval
    from clinch.problem import Problem

#: share of the time that the attack may take when other engines wait behind it
ATTACK_SHARE = 0.35
#: share of the time for branch and bound before the thorough attack
SLICE_SHARE = 0.1

Engine = Callable[[Query, Ledger, int], None]


def solve(
    problem: Problem,
    *,
    time_limit: float = 60.0,
    gap: float = 1e-3,
    seed: int = 0,
    solver: str | None = None,
    progress: Callable[[Event], None] | None = None,
    bounds: Sequence[str] = (),
    device: torch.device | str | None = None,
) -> Solution:
    """Solve a problem; what :meth:`clinch.Problem.solve` calls.

    Args:
        problem: one problem or a batch; a batch shares the time limit.
        time_limit: seconds. Reaching it is a normal ending: the best input and bound so far are returned.
        gap: relative gap between value and bound at which to stop.
        seed: of the attacks' random starts.
        solver: one of :data:`ENGINES`, to run that engine alone; None: Clinch chooses and combines.
        progress: called with an :class:`clinch.solution.Event` at every improvement.
        bounds: layers whose limits the solution is to report, see :attr:`clinch.Solution.bounds`.
        device: where attacks, bounds and branch and bound compute; None: on the model's. Linear programs and all checks
            stay on the CPU, and the solution's tensors are there.

    Raises:
        ProblemError: a setting that has no meaning, or a device that is not there.
        UnknownLayer: bounds names a layer that does not exist.
        UnsupportedByEngine, UnsupportedOperator, UnboundedInputError: the named solver cannot take this problem.
    """
    if not time_limit >= 0:
        raise ProblemError(f"time_limit is {time_limit}; give seconds, zero or more.")
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
    search(query, ledger, seed, solver)
    return Solution.from_ledger(problem, ledger, _layer_limits(query, ledger, reported))


def search(query: Query, ledger: Ledger, seed: int = 0, solver: str | None = None) -> None:
    """Work on a query until its ledger is exhausted: what :func:`solve` does, for a ledger of one's own.

    Args:
        query: the float64 normal form; engines compute where it lives.
        ledger: of the same query on the CPU; receives points and bounds, and says when to stop.
        seed: of the attacks' random starts.
        solver: one of :data:`ENGINES`; None: Clinch chooses and combines.
    """
    try:
        if solver is None:
            _combine(query, ledger, seed)
        else:
            ENGINES[solver](query, ledger, seed)
    except KeyboardInterrupt:
        ledger.note("Interrupted: these are the best input and bound so far.")


def _layer_limits(query: Query, ledger: Ledger, layers: dict[str, int]) -> dict[str, Interval]:
    """Limits of layers over what is left to search: by CROWN, or by intervals where the time is over."""
    from clinch.bounds.limits import node_limits

    if not layers:
        return {}
    query = query.narrowed(ledger.on(query.device).value)
    try:
        found = node_limits(query.graph, query.region, list(layers.values()), stop=lambda: ledger.remaining <= 0)
    except UnsupportedOperator as reason:
        ledger.note(f"There are no limits of layers. {reason}")
        return {}
    return {layer: type(found[i])(*(side.cpu() for side in found[i])) for layer, i in layers.items()}


def _attack(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.attacks.attack import attack
    from clinch.attacks.polish import polish

    attack(query, ledger, seed=seed)
    if not ledger.exhausted:
        polish(ledger.query, ledger)


def _bounds(query: Query, ledger: Ledger, seed: int) -> None:
    """Interval and CROWN bounds over the incumbent's ball."""
    from clinch.bounds.objective import objective_bound

    value = ledger.on(query.device).value
    bound = objective_bound(query.narrowed(value), stop=lambda: ledger.remaining <= 0)
    if isinstance(query.objective, Distance):
        # Only the incumbent's ball was searched: outside of it nothing is better than its radius.
        bound = torch.where(torch.isfinite(value), torch.minimum(bound, value), bound)
    ledger.prove(bound, Proof.LINEAR_RELAXATION, "CROWN")


def _milp(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.exact.milp import milp

    milp(ledger.query, ledger)


def _branch_and_bound(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.exact.branch_and_bound import branch_and_bound

    branch_and_bound(query, ledger)


def _count(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.exact.counting import fewest_changes

    fewest_changes(ledger.query, ledger)


#: what ``solver=`` can name; each also runs by itself
ENGINES: dict[str, Engine] = {
    "attack": _attack,
    "bounds": _bounds,
    "milp": _milp,
    "branch_and_bound": _branch_and_bound,
    "count": _count,
}


def _combine(query: Query, ledger: Ledger, seed: int) -> None:
    """A quick attack and a slice of the exact search; where that closes not everything, all that there is."""
    if isinstance(query.objective, Distance):
        nearest = query.objective.center.clamp(query.region.lower, query.region.upper)
        ledger.prove(query.objective.value(nearest, {}), Proof.GEOMETRY, "geometry")
    elif query.feasibility:
        # a constant is its own bound, so that the first input found closes the problem
        ledger.prove(query.objective.value(query.region.lower, {}), Proof.GEOMETRY, "geometry")
    engines = [*_exact_engines(query)]
    if engines[0] is _branch_and_bound:
        engines[0] = _first_slice(query, ledger, seed)
    else:
        engines.insert(0, _bounds)
    if ledger.exhausted:
        return
    with ledger.share(ATTACK_SHARE):
        _attack(query, ledger, seed)
    for engine in engines:
        if ledger.exhausted:
            return
        _attempt(engine, query, ledger, seed)


def _first_slice(query: Query, ledger: Ledger, seed: int) -> Engine:
    """Try what closes small problems: a quick attack and the start of branch and bound; returns the rest of it."""
    from clinch.attacks.attack import attack
    from clinch.attacks.polish import polish
    from clinch.exact.branch_and_bound import Search

    with ledger.share(ATTACK_SHARE):
        attack(query, ledger, seed=seed, thorough=False)
        polish(ledger.query, ledger)
    searches: list[Search] = []

    def continued(query: Query, ledger: Ledger, seed: int) -> None:
        if not searches:
            searches.append(Search(query, ledger))
        searches[0].run()

    with ledger.share(SLICE_SHARE):
        _attempt(continued, query, ledger, seed)
    return continued


def _attempt(engine: Engine, query: Query, ledger: Ledger, seed: int) -> None:
    """Run an engine; where it cannot take the problem the solution says so."""
    try:
        engine(query, ledger, seed)
    except (UnsupportedOperator, UnsupportedByEngine, UnboundedInputError) as reason:
        ledger.note(f"Engine '{_name(engine)}' was skipped. {reason}")


def _exact_engines(query: Query) -> list[Engine]:
    """Branch and bound where splitting ReLUs ends in an affine network, MILP where other pieces need an encoding."""
    if isinstance(query.objective, FormsNorm):
        return [_milp]
    if isinstance(query.objective, Distance) and query.objective.p == 0:
        return [_count, _milp] if query.graph.bends_only_at_kinks(query.nodes) else [_milp]
    if query.graph.bends_only_at_kinks(query.nodes):
        return [_branch_and_bound]
    encodable = all(query.graph.nodes[i].op.supports("encode") for i in query.graph.ancestors(query.nodes) if i)
    return [_milp, _branch_and_bound] if encodable else [_branch_and_bound]


def _name(engine: Engine) -> str:
    return next((name for name, known in ENGINES.items() if known is engine), "branch_and_bound")
