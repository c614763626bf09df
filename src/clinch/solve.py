"""The conductor: who works next, and for how long.

Attacks first, because a near input shrinks the region everyone else has to look at; then bounds; then the exact search,
which shares incumbents and radii with both through the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from clinch.errors import ClinchError, ProblemError, UnboundedInputError, UnsupportedByEngine, UnsupportedOperator
from clinch.ledger import Ledger
from clinch.query import Distance, FormsNorm, Query
from clinch.solution import Event, Proof, Solution

if TYPE_CHECKING:
    from clinch.problem import Problem

#: share of the time that the attack may take when other engines wait behind it
ATTACK_SHARE = 0.35

Engine = Callable[[Query, Ledger, int], None]


def solve(
    problem: Problem,
    *,
    time_limit: float = 60.0,
    gap: float = 1e-3,
    seed: int = 0,
    solver: str | None = None,
    progress: Callable[[Event], None] | None = None,
) -> Solution:
    """Solve a problem; what :meth:`clinch.Problem.solve` calls.

    Args:
        problem: one problem or a batch; a batch shares the time limit.
        time_limit: seconds. Reaching it is a normal ending: the best input and bound so far are returned.
        gap: relative gap between value and bound at which to stop.
        seed: of the attacks' random starts.
        solver: one of :data:`ENGINES`, to run that engine alone; None: Clinch chooses and combines.
        progress: called with an :class:`clinch.solution.Event` at every improvement.

    Raises:
        ProblemError: a setting that has no meaning.
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
    ledger = Ledger(problem.query, time_limit=time_limit, gap=gap, listener=progress)
    try:
        if solver is None:
            _combine(ledger.query, ledger, seed)
        else:
            ENGINES[solver](ledger.query, ledger, seed)
    except KeyboardInterrupt:
        ledger.note("Interrupted: these are the best input and bound so far.")
    return Solution.from_ledger(problem, ledger)


def _attack(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.attacks.attack import attack
    from clinch.attacks.polish import polish

    attack(query, ledger, seed=seed)
    if not ledger.exhausted:
        polish(query, ledger)


def _bounds(query: Query, ledger: Ledger, seed: int) -> None:
    """Interval and CROWN bounds over the incumbent's ball."""
    from clinch.bounds.objective import objective_bound

    value = ledger.value
    bound = objective_bound(query.narrowed(value), stop=lambda: ledger.remaining <= 0)
    if isinstance(query.objective, Distance):
        # Only the incumbent's ball was searched: outside of it nothing is better than its radius.
        bound = torch.where(torch.isfinite(value), torch.minimum(bound, value), bound)
    ledger.prove(bound, Proof.LINEAR_RELAXATION, "CROWN")


def _milp(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.exact.milp import milp

    milp(query, ledger)


def _branch_and_bound(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.exact.branch_and_bound import branch_and_bound

    branch_and_bound(query, ledger)


def _count(query: Query, ledger: Ledger, seed: int) -> None:
    from clinch.exact.counting import fewest_changes

    fewest_changes(query, ledger)


#: what ``solver=`` can name; each also runs by itself
ENGINES: dict[str, Engine] = {
    "attack": _attack,
    "bounds": _bounds,
    "milp": _milp,
    "branch_and_bound": _branch_and_bound,
    "count": _count,
}


def _combine(query: Query, ledger: Ledger, seed: int) -> None:
    """Attack, bound, then the exact search that suits the problem."""
    if isinstance(query.objective, Distance):
        nearest = query.objective.center.clamp(query.region.lower, query.region.upper)
        ledger.prove(query.objective.value(nearest, {}), Proof.GEOMETRY, "geometry")
    with ledger.share(ATTACK_SHARE):
        _attack(query, ledger, seed)
    for engine in (_bounds, *_exact_engines(query)):
        if ledger.exhausted:
            return
        try:
            engine(query, ledger, seed)
        except (UnsupportedOperator, UnsupportedByEngine, UnboundedInputError) as reason:
            ledger.note(_said(engine, reason))


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


def _said(engine: Engine, reason: ClinchError) -> str:
    name = next(name for name, known in ENGINES.items() if known is engine)
    return f"Engine '{name}' was skipped. {reason}"
