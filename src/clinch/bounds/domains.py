"""Domains: the parts of a region that a search bounds one by one, and what they share about the network.

A *domain* is a part of one problem's region: some kinks (ReLUs, leaky ReLUs) are fixed to one side, and for some
clauses one atom is chosen to hold. It carries the multipliers found for it so far (:mod:`clinch.bounds.dual`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.concretise import Concretiser
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Relaxation
from clinch.network.ops.views import TwoPieces
from clinch.query import Query

#: dtype of the search for multipliers; whatever is found, the bound is evaluated in the query's own
SEARCH = torch.float32


class Kink(NamedTuple):
    """The elements of one splittable node that some problem leaves open.

    Attributes:
        node: position of the node; its only input is what gets split.
        op: its operator.
        which: flat positions of the open elements.
        columns: their place among all open elements of the network.
        slope: ``(B, size)`` slope of each element where it is stable.
        bounds: ``(B, len(which))`` limits of the open elements' inputs.
    """

    node: int
    op: TwoPieces
    which: Tensor
    columns: slice
    slope: Tensor
    bounds: Interval


@dataclass(frozen=True)
class Relaxed:
    """A query with everything about its relaxation that does not depend on the domain."""

    query: Query
    kinks: tuple[Kink, ...]
    fixed: Mapping[int, Relaxation]

    @cached_property
    def concretise(self) -> Concretiser:
        """The last step of the dual function, prepared."""
        return Concretiser(self.query)

    @cached_property
    def light(self) -> Relaxed:
        """The same in :data:`SEARCH`: what multipliers are looked for with. No bound is proven there."""
        device = self.query.device
        kinks = tuple(
            k._replace(slope=k.slope.to(SEARCH), bounds=Interval(*(t.to(SEARCH) for t in k.bounds))) for k in self.kinks
        )
        fixed = {i: r.to(SEARCH, device) for i, r in self.fixed.items()}
        return Relaxed(self.query.to(SEARCH, device), kinks, fixed)

    @cached_property
    def order(self) -> list[int]:
        """Nodes that objective and atoms depend on, the input left out, in the order of evaluation."""
        return [i for i in self.query.graph.ancestors(self.query.nodes) if i]

    @property
    def width(self) -> int:
        """Number of open elements U: domains hold tensors ``(D, U)``."""
        return self.kinks[-1].columns.stop if self.kinks else 0

    @cached_property
    def unstable(self) -> Tensor:
        """``(B, U)`` elements whose sign the limits leave open in each problem."""
        if not self.kinks:
            return torch.zeros(self.query.size, 0, dtype=torch.bool, device=self.query.device)
        return torch.cat([(k.bounds.lower < 0) & (k.bounds.upper > 0) for k in self.kinks], 1)

    def take(self, problems: Tensor) -> Relaxed:
        """The chosen problems; an index may repeat. The layout of domains stays."""
        kinks = tuple(k._replace(slope=k.slope[problems], bounds=k.bounds.take(problems)) for k in self.kinks)
        return Relaxed(self.query.take(problems), kinks, {i: r.take(problems) for i, r in self.fixed.items()})

    @cached_property
    def floor(self) -> Tensor:
        """``(U,)`` smallest admissible slope of each open element."""
        like = self.query.region.lower
        parts = [like.new_full((len(kink.which),), kink.op.negative_slope) for kink in self.kinks]
        return torch.cat(parts) if parts else like.new_zeros(0)


def relax_query(
    query: Query, bounds: Mapping[int, Interval], which: Mapping[int, Tensor] | None = None,
    relax: Callable[[Graph, int, Sequence[Interval]], Relaxation] = Graph.relax,
) -> Relaxed:  # fmt: skip
    """Collect the open elements of a query.

    Args:
        query: B problems.
        bounds: limits of the inputs of non-affine nodes over ``query.region``.
        which: node -> flat positions to treat as open (default: all that are open for some problem). Pass an earlier
            result's positions to keep the layout of domains when the limits have been tightened.
        relax: the linear relaxation of each other node; CROWN's unless said otherwise.
    """
    graph, kinks, fixed, start = query.graph, [], {}, 0
    for i in graph.ancestors(query.nodes):
        node = graph.nodes[i]
        if not i:
            continue
        if (pieces := node.op.two_pieces()) is None:
            fixed[i] = relax(graph, i, [] if node.op.affine else [bounds[j] for j in node.inputs])
            continue
        lower, upper = (t.flatten(1) for t in bounds[node.inputs[0]])
        open_ = ((lower < 0) & (upper > 0)).any(0).nonzero().flatten() if which is None else which[i]
        columns = slice(start, start + len(open_))
        slope = pieces.relax([Interval(lower, upper)], graph.shapes(i)).upper_slope
        kinks.append(Kink(i, pieces, open_, columns, slope, Interval(lower[:, open_], upper[:, open_])))
        start = columns.stop
    return Relaxed(query, tuple(kinks), fixed)


@dataclass(frozen=True)
class Domains:
    """D domains: which problem, what is split, what is chosen, and the multipliers found so far.

    Attributes:
        problem: ``(D,)``.
        split: ``(D, U)`` int8: +1 where the element's input is >= 0, −1 where it is <= 0, 0 where it is open.
        choice: ``(D, C)`` chosen atom of each clause, −1 where none is chosen.
        alpha: ``(D, U)``; beta: ``(D, U)``; mu: ``(D, K)``, zero for atoms that are not chosen.
        bound: ``(D,)`` best proven bound, its parent's included.
        pace: ``(D,)`` by how much steps towards better multipliers have proved too long: at most 1.
        held: ``(D, 2, U)`` lower and upper limits of the open elements' inputs that hold in the domain for all inputs
            of interest, beside those of its problem; single precision, rounded outwards. ``(D, 2, 0)``: there are none.
    """

    problem: Tensor
    split: Tensor
    choice: Tensor
    alpha: Tensor
    beta: Tensor
    mu: Tensor
    bound: Tensor
    pace: Tensor
    held: Tensor

    def __len__(self) -> int:
        return self.problem.shape[0]

    def take(self, index: Tensor) -> Domains:
        """The chosen domains; an index may repeat."""
        return Domains(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @staticmethod
    def cat(parts: list[Domains]) -> Domains:
        """All domains of the parts, in that order."""
        return Domains(*(torch.cat([getattr(p, name) for p in parts]) for name in Domains.__dataclass_fields__))

    def inside(self, kink: Kink) -> Interval:
        """Limits of a kink's open elements ``(D, len(which))``: their problem's, and those held here."""
        limits = kink.bounds.take(self.problem)
        if not self.held.shape[2]:
            return limits
        low, high = self.held[:, :, kink.columns].to(limits.lower).unbind(1)
        return Interval(torch.maximum(limits.lower, low), torch.minimum(limits.upper, high))

    def allowed(self, atoms: int) -> Tensor:
        """``(D, K)`` which atoms are chosen."""
        mask = self.choice.new_zeros(len(self), atoms + 1, dtype=torch.bool)
        mask.scatter_(1, torch.where(self.choice < 0, atoms, self.choice), True)
        return mask[:, :atoms]


def fresh_domains(relaxed: Relaxed, problem: Tensor, choice: Tensor, split: Tensor | None = None) -> Domains:
    """Domains without a parent's multipliers: CROWN's slopes, and weight one on the atoms that make the difference.

    Those are the atoms chosen among several; where a domain has none, all its atoms. Starting from every condition at
    once takes the ascent several times longer.

    Args:
        problem: ``(D,)``; choice: ``(D, C)``; split: ``(D, U)``, None: no splits.
    """
    query, count = relaxed.query, len(problem)
    like = query.region.lower
    slopes = [_default_slope(kink, problem) for kink in relaxed.kinks]
    alpha = torch.cat(slopes, 1) if slopes else like.new_zeros(count, 0)
    alpha = torch.maximum(alpha, relaxed.floor)
    split = problem.new_zeros(count, relaxed.width, dtype=torch.int8) if split is None else split
    domains = Domains(
        problem, split, choice, alpha, torch.zeros_like(alpha),
        like.new_zeros(count, query.atoms.count), like.new_full((count,), -torch.inf),
        like.new_ones(count), like.new_zeros(count, 2, 0, dtype=SEARCH),
    )  # fmt: skip
    allowed = domains.allowed(query.atoms.count)
    decisive = allowed & (query.clause_sizes > 1)[query.clause]
    weight = torch.where(decisive.any(1, keepdim=True), decisive, allowed)
    return replace(domains, mu=weight.to(query.dtype))


def _default_slope(kink: Kink, problem: Tensor) -> Tensor:
    lower, upper = kink.bounds.take(problem)
    return (upper > -lower).to(lower.dtype)


def unlimited(d: Domains) -> Tensor:
    """``(D, 2, U)`` bounds to hold in domains that say nothing."""
    held = d.held.new_full((len(d), 2, d.split.shape[1]), torch.inf)
    held[:, 0] = -torch.inf
    return held
