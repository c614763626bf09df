"""Where to split a domain: the open kink whose relaxation loses most at the bound's own minimiser."""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.bounds.lagrangian import Ascent, Domains, Relaxed
from clinch.network.ops.base import Interval


def open_elements(relaxed: Relaxed, d: Domains) -> Tensor:
    """``(D, U)`` elements that are neither split nor stable in their problem."""
    if not relaxed.kinks:
        return torch.zeros(len(d), 0, dtype=torch.bool)
    unstable = [(k.bounds.lower < 0) & (k.bounds.upper > 0) for k in relaxed.kinks]
    return torch.cat(unstable, 1)[d.problem] & (d.split == 0)


def relaxation_loss(relaxed: Relaxed, ascent: Ascent) -> Tensor:
    """``|A|·|line(ẑ) − f(ẑ)|`` of every open element at the minimiser, ``(D, U)``; −1 where nothing is open.

    ``A`` is the coefficient the element's output has in the bound and ``ẑ`` its true input there. Where every loss
    vanishes (the minimiser sits on kinks) the area of the relaxation, ``|A|·chord offset``, breaks the tie.
    """
    d, graph = ascent.domains, relaxed.query.graph
    inputs = {k.node: graph.nodes[k.node].inputs[0] for k in relaxed.kinks}
    activations = graph.forward(ascent.point, inputs.values())
    parts = []
    for kink in relaxed.kinks:
        op = graph.nodes[kink.node].op
        z = activations[inputs[kink.node]].flatten(1)[:, kink.which]
        bounds: Interval = kink.bounds.take(d.problem)
        low_slope, low_offset, high_slope, high_offset = op.relax_with(bounds, d.alpha[:, kink.columns])
        rows, exact = ascent.rows[:, kink.columns], op.forward(z)
        used = torch.where(rows >= 0, low_slope * z + low_offset, high_slope * z + high_offset)
        parts.append(rows.abs() * ((used - exact).abs() + 1e-4 * high_offset))
    loss = torch.cat(parts, 1) if parts else ascent.rows
    return torch.where(open_elements(relaxed, d), loss + 1e-30, -1.0)


def split_kinks(d: Domains, at: Tensor) -> Domains:
    """Both halves of every domain at the given open element ``(D,)``: all ``>= 0`` halves, then all ``<= 0`` halves."""
    at = at.unsqueeze(1)
    halves = []
    for side in (1, -1):
        half = d.take(torch.arange(len(d)))
        half.split.scatter_(1, at, torch.full_like(at, side, dtype=torch.int8))
        halves.append(half)
    return Domains.cat(halves)


def split_clauses(relaxed: Relaxed, d: Domains, clause: Tensor) -> Domains:
    """One domain per atom of the given undecided clause ``(D,)`` of each domain."""
    atom_clause = relaxed.query.clause
    member = atom_clause.unsqueeze(0) == clause.unsqueeze(1)
    domain, atom = member.nonzero(as_tuple=True)
    children = d.take(domain)
    children.choice[torch.arange(len(domain)), clause[domain]] = atom
    children.mu[torch.arange(len(domain)), atom] = 1.0
    return children
