"""From a ledger to the solution that a user sees: in the user's sense, with the conditions that hold the value."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clinch.network.ops.base import Interval
from clinch.query import Distance, Query, Statement, inequalities
from clinch.solver.ledger import Ledger
from clinch.solver.solution import Event, Solution, relative_gap, status_of

#: an atom this close to zero counts as tight, relative to the size of its constant
TIGHT = 1e-3


def conclude(problem: Statement, ledger: Ledger, bounds: Mapping[str, Interval] | None = None) -> Solution:
    """The solution that a ledger holds, in the user's sense.

    Args:
        problem: what was asked.
        ledger: values and bounds of its query.
        bounds: limits of layers' activations ``(B, *layer_shape)``, by layer name.
    """
    query = problem.query
    status = [status_of(v, b, ledger.gap) for v, b in zip(ledger.value.tolist(), ledger.bound.tolist())]
    tight = _tight(query, ledger.x)
    many = problem.batched
    history = [
        Event(e.seconds, e.queries, _shown(e.value, query.sense, many), _shown(e.bound, query.sense, many), e.who)
        for e in ledger.history
    ]
    return Solution(
        status=status if many else status[0],
        x=ledger.x.clone() if many else ledger.x[0].clone(),
        value=_shown(ledger.value, query.sense, many),
        bound=_shown(ledger.bound, query.sense, many),
        gap=_shown(relative_gap(ledger.value, ledger.bound), 1, many),
        proof=list(ledger.proofs) if many else ledger.proofs[0],
        tight=tight if many else tight[0],
        history=history,
        seconds=ledger.seconds,
        queries=ledger.queries,
        bounds={name: i if many else Interval(i.lower[0], i.upper[0]) for name, i in (bounds or {}).items()},
        notes=tuple(ledger.notes),
        batched=many,
        solver=ledger.solver,
        settings=ledger.settings,
        start=_start(query, ledger.x, many),
    )


def _start(query: Query, x: Tensor, many: bool) -> Tensor | None:
    """The centre of a distance, in the model's dtype."""
    if not isinstance(query.objective, Distance):
        return None
    centre = query.objective.center.to(x).expand_as(x)
    return centre.clone() if many else centre[0].clone()


def _shown(values: Tensor | float, sense: int, many: bool) -> Tensor | float:
    """In the user's sense; one float for a problem without batch axis."""
    numbers = torch.as_tensor(values, dtype=torch.float64) * sense + 0.0
    return numbers if many else float(numbers[0])


@torch.no_grad()
def _tight(query: Query, x: Tensor) -> list[tuple[str, ...]]:
    """For each problem: the alternative that satisfies each disjunction, then single conditions without slack."""
    texts: list[tuple[str, ...]] = [()] * query.size
    found = (~x.isnan()).flatten(1).all(1).nonzero().flatten()
    if not query.clauses or not len(found):
        return texts
    _, atoms = query.take(found).evaluate(x[found].to(torch.float64))
    single = torch.bincount(query.clause, minlength=query.clauses)[query.clause] == 1
    for row, b in enumerate(found.tolist()):
        held = torch.full((query.clauses,), torch.inf, dtype=torch.float64)
        held = held.scatter_reduce(0, query.clause, atoms[row], "amin")[query.clause]
        scale = query.atoms.constant[b].abs().clamp(min=1.0)
        chosen = (~single & (atoms[row] == held)) | (single & (atoms[row].abs() <= TIGHT * scale))
        which = chosen.nonzero().flatten()
        which = which[single[which].long().argsort(stable=True)][:5].tolist()
        names = inequalities(query.atoms, query.graph, b, which)
        texts[b] = tuple(name if single[k] else f"through {name}" for k, name in zip(which, names))
    return texts
