"""Bounds of the activations over the whole region: computed once for all engines of a solve, and never cut off by a
slice of its time.

They are what every search starts from, and a search that starts from a part of them never recovers: on a residual
network of CIFAR-10 the bound of a margin is −1136 from half of them and −20.6 from all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clinch.bounds.crown import activation_bounds
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval
from clinch.query import Distance, Query
from clinch.solver.ledger import Ledger

#: share of the time left that they may take: the pass from them to the bound needs time too
SHARE = 0.9
#: an incumbent this much better (relative) is worth new bounds of the activations
RENARROW = 1e-3


@dataclass(frozen=True)
class RootBounds:
    """Bounds of what non-affine nodes read, for some of a ledger's problems.

    Attributes:
        graph: the network that the nodes are of.
        bounds: node -> ``(P, *node_shape)``.
        value: ``(P,)`` they hold for inputs with a smaller objective; infinity: for all of the region.
        problems: ``(P,)`` the ledger's problems, in their order.
        complete: whether there was time for all of them.
        seconds: that they took.
    """

    graph: Graph
    bounds: dict[int, Interval]
    value: Tensor
    problems: Tensor
    complete: bool
    seconds: float

    def of(self, problems: Tensor) -> RootBounds:
        """Those of some of these problems ``(S,)``, where these live."""
        device = problems.device
        if torch.equal(problems, self.problems.to(device)):
            rows = torch.arange(len(problems), device=device)
        else:
            rows = torch.searchsorted(self.problems.to(device), problems)
        held = {i: Interval(*(side.to(device)[rows] for side in both)) for i, both in self.bounds.items()}
        return replace(self, bounds=held, value=self.value.to(device)[rows], problems=problems)

    def over(self, query: Query, problems: Tensor) -> RootBounds | None:
        """Those of some of a query's problems, where these live; None where they are of others, or of another graph.

        Graphs on other devices have the same nodes.
        """
        known = torch.isin(problems, self.problems.to(problems.device))
        return self.of(problems) if len(query.graph.nodes) == len(self.graph.nodes) and bool(known.all()) else None


def nearer(value: Tensor, than: Tensor) -> bool:
    """Whether some incumbent is so much better that bounds of the activations in its ball are worth their time."""
    return not bool((value >= than * (1 - RENARROW)).all())


def root_bounds(query: Query, ledger: Ledger, share: float = SHARE, *, problems: Tensor | None = None) -> RootBounds:
    """CROWN's bounds for the problems that a ledger has not closed, in the balls of their incumbents.

    Whoever asks first has them computed, whatever slice of time it has; whoever asks later gets the same, completed
    where the time was over, and narrowed where incumbents have become much better.

    Args:
        query: of all of the ledger's problems.
        ledger: keeps them, and says when the time is over.
        share: of the time left that they may take.
        problems: ``(P,)`` whose they are, in their order, should some be closed by now; None: those that are not.

    Raises:
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.
    """
    there = ledger.on(query.device)
    problems = (~there.closed).nonzero().flatten() if problems is None else problems
    value = there.value[problems]
    if not isinstance(query.objective, Distance):
        value = torch.full_like(value, torch.inf)
    held: RootBounds | None = ledger.root
    held = None if held is None or held.graph is not query.graph else held.over(query, problems)
    if held is not None and held.complete and not nearer(value, held.value):
        return held
    with ledger.for_all():
        began = ledger.seconds
        end = began + share * ledger.remaining
        region, known = query.take(problems).narrowed(value).region, None if held is None else held.bounds
        bounds = activation_bounds(query.graph, region, query.nodes, known, stop=lambda: ledger.seconds >= end)
        seconds = ledger.seconds - began
        ledger.root = RootBounds(query.graph, bounds, value, problems, ledger.seconds < end, seconds)
    return ledger.root
