"""Where to split a domain: the open kink whose relaxation loses most at the bound's own minimiser."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from clinch.bounds.ascent import Ascent
from clinch.bounds.domains import Domains, Relaxed, fresh_domains
from clinch.bounds.dual import evaluate
from clinch.network.ops.base import Interval
from clinch.query import Activations, Distance


def open_elements(relaxed: Relaxed, d: Domains) -> Tensor:
    """``(D, U)`` elements that are neither split nor stable in their problem."""
    return relaxed.unstable[d.problem] & (d.split == 0)


def relaxation_loss(relaxed: Relaxed, ascent: Ascent) -> Tensor:
    """``|A|·|line(ẑ) − f(ẑ)|`` of every open element at the minimiser, ``(D, U)``; −1 where nothing is open.

    ``ẑ`` is the element's true input there, ``A`` the coefficient of its output in the bound, where every chosen atom
    that the minimiser breaks counts with an additional weight of one: the relaxation holds it satisfied, so that its
    own multiplier may be zero, and only a tighter relaxation of it can move the bound. Where every loss vanishes (the
    minimiser sits on kinks) the area of the relaxation, ``|A|·chord offset``, breaks the tie.

    Under a distance a stalled domain is looked at in the centre instead: its minimiser is that of its parent, and what
    loses most there was split already without help. (On the monitor problem of the benchmarks two of ten images are not
    closed without this.)
    """
    d, graph = ascent.domains, relaxed.query.graph
    inputs = {k.node: graph.nodes[k.node].inputs[0] for k in relaxed.kinks}
    activations = graph.forward(_looked_at(relaxed, ascent), [*inputs.values(), *relaxed.query.atoms.nodes])
    all_rows = _rows_with_broken_atoms(relaxed, ascent, activations)
    parts = []
    for kink in relaxed.kinks:
        op = kink.op
        z = activations[inputs[kink.node]].flatten(1)[:, kink.which]
        bounds: Interval = kink.bounds.take(d.problem)
        low_slope, low_offset, high_slope, high_offset = op.relax_with(bounds, d.alpha[:, kink.columns])
        rows, exact = all_rows[:, kink.columns], op.forward(z)
        used = torch.where(rows >= 0, low_slope * z + low_offset, high_slope * z + high_offset)
        parts.append(rows.abs() * ((used - exact).abs() + 1e-4 * high_offset))
    loss = torch.cat(parts, 1) if parts else ascent.rows
    return torch.where(open_elements(relaxed, d), loss + 1e-30, -1.0)


def next_elements(relaxed: Relaxed, ascent: Ascent, levels: int) -> Tensor:
    """``(D, levels)`` the open elements to split next, the best first, −1 where there is none."""
    nothing = ascent.domains.problem.new_full((len(ascent.domains), levels), -1)
    if not relaxed.width or not bool(open_elements(relaxed, ascent.domains).any()):
        return nothing
    loss, element = relaxation_loss(relaxed, ascent).topk(min(levels, relaxed.width), 1)
    nothing[:, : element.shape[1]] = element.masked_fill(loss < 0, -1)
    return nothing


def _looked_at(relaxed: Relaxed, ascent: Ascent) -> Tensor:
    """``(D, *input_shape)`` the points at which losses are compared."""
    objective = relaxed.query.objective
    if not isinstance(objective, Distance) or not bool(ascent.stalled.any()):
        return ascent.point
    stalled = ascent.stalled.view(-1, *[1] * (ascent.point.dim() - 1))
    return torch.where(stalled, objective.center[ascent.domains.problem], ascent.point)


def _rows_with_broken_atoms(relaxed: Relaxed, ascent: Ascent, activations: Activations) -> Tensor:
    """``(D, U)`` coefficients of the open elements' outputs with weight added to the chosen atoms that are broken."""
    d, atoms = ascent.domains, relaxed.query.atoms
    if not atoms.count:
        return ascent.rows
    broken = d.allowed(atoms.count) & (atoms.take(d.problem).values(activations) > 0)
    if not bool(broken.any()):
        return ascent.rows
    with torch.no_grad():
        return evaluate(relaxed, replace(d, mu=d.mu + broken)).rows


def split_kinks(d: Domains, at: Tensor) -> Domains:
    """Both halves of every domain at the given open element ``(D,)``: all ``>= 0`` halves, then all ``<= 0`` halves."""
    at = at.unsqueeze(1)
    halves = []
    for side in (1, -1):
        half = d.take(torch.arange(len(d), device=at.device))
        half.split.scatter_(1, at, torch.full_like(at, side, dtype=torch.int8))
        halves.append(half)
    return Domains.cat(halves)


def split_deep(d: Domains, elements: Tensor, room: int) -> Domains:
    """Split every domain at its first element, and at the next ones as long as the children fit into ``room``.

    One pass over many children costs little more than one over few, so that a search with few domains wins by going
    down several levels at once.

    Args:
        elements: ``(D, L)`` open elements of each domain, the best first, −1 where there is no further one; the first
            is never −1.
        room: number of children that is not exceeded, except by the first split.
    """
    done = []
    while len(d):
        going = elements[:, 0] >= 0
        if not bool(going.all()):
            done.append(d.take((~going).nonzero().flatten()))
            d, elements = d.take(going.nonzero().flatten()), elements[going]
        d, elements = split_kinks(d, elements[:, 0]), elements[:, 1:].repeat(2, 1)
        if not elements.shape[1] or 2 * len(d) > room:
            break
    return Domains.cat([*done, d]) if done else d


def split_clauses(relaxed: Relaxed, d: Domains, clause: Tensor, impossible: Tensor) -> Domains:
    """One domain per atom of the given undecided clause ``(D,)`` of each domain, with multipliers of their own.

    Atoms that are ``impossible`` in a problem, ``(B, K)``, give none.
    """
    member = (relaxed.query.clause.unsqueeze(0) == clause.unsqueeze(1)) & ~impossible[d.problem]
    domain, atom = member.nonzero(as_tuple=True)
    choice = d.choice[domain]
    choice[torch.arange(len(domain), device=domain.device), clause[domain]] = atom
    children = fresh_domains(relaxed, d.problem[domain], choice, d.split[domain])
    return replace(children, bound=d.bound[domain])
