"""Tighter limits of activations inside a branch, where the branch's own conditions hold as well.

The smallest and largest value of an open element's input, subject to what the branch asks for, are bounded by the dual
function with that input as the objective: conditions on the output and on hidden layers cut the limits of the layers
below them (Kotha et al. 2023, arXiv 2302.01404, for preimages; here inside the incumbent's ball, and layer by layer, so
that later layers profit from earlier ones).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from clinch.bounds.ascent import ascend
from clinch.bounds.crown import never
from clinch.bounds.domains import Kink, Relaxed, fresh_domains, relax_query
from clinch.network.ops.base import Interval
from clinch.query import Forms, Linear, Query

#: dual evaluations of each limit
STEPS = 20
#: limits worked on at once
ROWS = 1024


def refine_by_dual(
    relaxed: Relaxed,
    bounds: Mapping[int, Interval],
    choice: Tensor,
    branches: Tensor,
    target: Tensor,
    *,
    steps: int = STEPS,
    stop: Callable[[], bool] = never,
) -> dict[int, Interval]:
    """Limits of what kinks read, in the given branches; other limits stay.

    Args:
        relaxed: a query with one problem per branch.
        bounds: present limits.
        choice: ``(B, C)`` the atom that holds of each clause in each branch, −1 where none is decided.
        branches: ``(S,)`` positions of the branches to work on.
        target: ``(B,)`` only inputs with a smaller objective are of interest (used for linear objectives).
        steps: dual evaluations of each limit.
        stop: asked now and then; once true, what is left keeps its limits.
    """
    limits, layout = dict(bounds), {k.node: k.which for k in relaxed.kinks}
    query, choice = with_target(relaxed.query, choice, target)
    for number in range(len(relaxed.kinks)):
        if stop():
            break
        current = relax_query(query, limits, layout)
        _refine_kink(current, limits, current.kinks[number], choice, branches, steps, stop)
    return limits


def with_target(query: Query, choice: Tensor, target: Tensor) -> tuple[Query, Tensor]:
    """The query with "better than the target" as one more clause of a single atom, where the objective is linear."""
    if not isinstance(query.objective, Linear) or not query.objective.nodes:
        return query, choice
    form, atoms = query.objective.form, query.atoms
    extra = Forms(form.coefficients, form.constant - target.to(form.constant).unsqueeze(1))
    known = torch.isfinite(target).to(choice.device)
    number = torch.where(known, atoms.count, -1).unsqueeze(1)
    clause = torch.cat([query.clause, query.clause.new_full((1,), query.clauses)])
    return replace(query, atoms=_joined(atoms, extra), clause=clause), torch.cat([choice, number], 1)


def _joined(first: Forms, second: Forms) -> Forms:
    """All forms of both."""
    rows = {}
    for node in {*first.nodes, *second.nodes}:
        parts = [forms.coefficients.get(node) for forms in (first, second)]
        known = next(p for p in parts if p is not None)
        size = max(p.shape[0] for p in parts if p is not None)
        filled = [
            known.new_zeros(size, forms.count, *known.shape[2:]) if part is None else part.expand(size, *part.shape[1:])
            for part, forms in zip(parts, (first, second))
        ]
        rows[node] = torch.cat(filled, 1)
    constants = first.constant, second.constant.nan_to_num(posinf=0.0, neginf=0.0)
    return Forms(rows, torch.cat(constants, 1))


def _refine_kink(
    relaxed: Relaxed,
    limits: dict[int, Interval],
    kink: Kink,
    choice: Tensor,
    branches: Tensor,
    steps: int,
    stop: Callable[[], bool],
) -> None:
    j = relaxed.query.graph.nodes[kink.node].inputs[0]
    lower, upper = (t.flatten(1).clone() for t in limits[j])
    open_ = ((kink.bounds.lower < 0) & (kink.bounds.upper > 0))[branches]
    row, place = open_.nonzero(as_tuple=True)
    if not len(row):
        return
    branch, element = branches[row], kink.which[place]
    for part in torch.arange(len(branch), device=branch.device).split(ROWS // 2):
        if stop():
            break
        at = branch[part], element[part]
        least, most = _limits(relaxed, j, *at, choice, steps, stop)
        lower[at], upper[at] = torch.maximum(lower[at], least), torch.minimum(upper[at], most)
    shape = limits[j].lower.shape
    limits[j] = limits[j].intersect(Interval(lower.reshape(shape), upper.reshape(shape)))


def _limits(
    relaxed: Relaxed, j: int, branch: Tensor, element: Tensor, choice: Tensor, steps: int, stop: Callable[[], bool]
) -> tuple[Tensor, Tensor]:
    """Proven smallest and largest value ``(N,)`` of elements of node j, each in its branch."""
    both, count = branch.repeat(2), 2 * len(branch)
    node = relaxed.query.graph.nodes[j]
    rows = relaxed.query.region.lower.new_zeros(count, node.size)
    each = torch.arange(count, device=branch.device)
    rows[each, element.repeat(2)] = torch.where(each < len(branch), 1.0, -1.0).to(rows.dtype)
    form = Forms({j: rows.reshape(count, 1, *node.shape)}, rows.new_zeros(count, 1))
    part = relaxed.take(both)
    part = replace(part, query=replace(part.query, objective=Linear(form)))
    domains = fresh_domains(part, each, choice[both])
    domains = replace(domains, mu=torch.zeros_like(domains.mu))
    least, negated = ascend(part, domains, steps, stop=stop).domains.bound.reshape(2, -1)
    return least, -negated
