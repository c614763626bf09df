"""What a search knows about the activations: limits of each problem, tighter ones of each branch, and the relaxation
that is made of them. All of it gets better while the search goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from clinch.bounds.alpha import alpha_activation_bounds
from clinch.bounds.crown import activation_bounds, never
from clinch.bounds.domains import Relaxed, relax_query
from clinch.bounds.objective import impossible_atoms
from clinch.bounds.windows import convolves
from clinch.geometry.region import Region
from clinch.network.ops.base import Interval
from clinch.query import Distance, Linear, Query
from clinch.search.refine_by_dual import refine_by_dual
from clinch.search.refine_by_search import SearchRefinement
from clinch.search.root_bounds import RootBounds, nearer

#: number of layers of kinks that CROWN's limits are good enough for
SHALLOW = 2
#: steps of slopes behind those, and on convolutional networks
STEPS, FEW_STEPS = 20, 5


class BoundRefinement:
    """Limits of the activations of B problems, in the ball of each incumbent.

    Args:
        query: B problems.
        root: CROWN's limits for them.
        stop: asked now and then; once true, what is left keeps limits that are wider, and valid.

    Attributes:
        value: ``(B,)`` the limits hold for inputs with a smaller objective; infinity: for all of the region.
        regions: number of regions, copies not counted: what a search for limits costs.
        deep: whether the network has so many layers of open kinks that looseness builds up from layer to layer.
        convolves: whether it has convolutions.
        relaxed: the relaxation of the branches; there after :meth:`branch`.
    """

    relaxed: Relaxed

    def __init__(self, query: Query, root: RootBounds, stop: Callable[[], bool] = never) -> None:
        self.query, self.stop, self.value = query, stop, root.value
        self._narrowed = query.narrowed(root.value)
        self._by_search = SearchRefinement()
        self.regions = len(_distinct(self._narrowed.region)[0])
        self._of_problems = dict(root.bounds)
        graph = query.graph
        read = [graph.nodes[i].inputs[0] for i in graph.ancestors(query.nodes) if graph.nodes[i].op.splits_at_zero]
        open_ = [bool(((root.bounds[j].lower < 0) & (root.bounds[j].upper > 0)).any()) for j in read]
        self.deep = any(open_[SHALLOW:])
        self.convolves = convolves(graph, query.nodes)

    def impossible_atoms(self) -> Tensor:
        """``(B, K)`` atoms that hold for no input of the region."""
        return impossible_atoms(self._narrowed, self._of_problems)

    def branch(self, owner: Tensor, choice: Tensor) -> None:
        """One branch per entry: its problem, and the atom ``(C,)`` that holds of each clause, −1 where undecided."""
        self.owner, self.choice = owner, choice
        self._of_branches = {i: limits.take(owner) for i, limits in self._of_problems.items()}
        self.relaxed = relax_query(self._narrowed.take(owner), self._of_branches)

    # --- better limits ------------------------------------------------------------------------------------------------

    def renarrow(self, value: Tensor) -> None:
        """Limits in the smaller balls of better incumbents; the layout of the domains stays."""
        if not isinstance(self.query.objective, Distance) or not nearer(value, self.value):
            return
        self.value, self._narrowed = value, self.query.narrowed(value)
        region = self._narrowed.region.take(self.owner)
        self._relax(activation_bounds(self.query.graph, region, self.query.nodes, self._of_branches, stop=self.stop))

    def by_slopes(self, problems: Tensor, stop: Callable[[], bool] = never) -> None:
        """Limits of the given problems ``(S,)`` with slopes of their own.

        On MNIST networks of six layers that leaves a tenth of the later elements open; on two layers it gains nothing.
        On convolutional networks a quarter of the steps gives 98 % of that.
        """
        first, group = _distinct(self._narrowed.region.take(problems))
        some = problems[first]
        known = {i: limits.take(some) for i, limits in self._of_problems.items()}
        steps = FEW_STEPS if self.convolves else STEPS
        region = self._narrowed.region.take(some)
        found = alpha_activation_bounds(
            self.query.graph, region, self.query.nodes, known, steps=steps, crown=False, stop=stop
        )  # fmt: skip
        self._found(found, problems, group)

    def by_dual(self, branches: Tensor, value: Tensor, stop: Callable[[], bool]) -> None:
        """Limits within the given branches ``(S,)`` under the branch's own conditions, for inputs better than ``(B,)``
        values where the objective is linear."""
        if isinstance(self.query.objective, Linear) and not self.query.feasibility:
            self.value = torch.minimum(self.value, value)
        target = value[self.owner]
        self._relax(refine_by_dual(self.relaxed, self._of_branches, self.choice, branches, target, stop=stop))

    @property
    def searched(self) -> bool:
        """Whether :meth:`by_search` has done all it can."""
        return self._by_search.done

    def by_search(self, problems: Tensor, stop: Callable[[], bool] = never) -> None:
        """Limits of the next layer by search, for the given problems ``(S,)``; stopped, it goes on there later."""
        first, group = _distinct(self._narrowed.region.take(problems))
        some = problems[first]
        known = {i: limits.take(some) for i, limits in self._of_problems.items()}
        found = self._by_search.step(self._narrowed.take(some), known, stop=stop)
        self._found(found, problems, group)

    def _found(self, found: Mapping[int, Interval], problems: Tensor, group: Tensor) -> None:
        """Take in limits found for some problems: those of region ``group (S,)`` for each."""
        for i, limits in found.items():
            lower, upper = (t.clone() for t in self._of_problems[i])
            lower[problems], upper[problems] = limits.lower[group], limits.upper[group]
            self._of_problems[i] = self._of_problems[i].intersect(Interval(lower, upper))
        both = {i: limits.intersect(self._of_problems[i].take(self.owner)) for i, limits in self._of_branches.items()}
        self._relax(both)

    def _relax(self, limits: Mapping[int, Interval]) -> None:
        self._of_branches = dict(limits)
        layout = {k.node: k.which for k in self.relaxed.kinks}
        self.relaxed = relax_query(self._narrowed.take(self.owner), self._of_branches, layout)


def _distinct(region: Region) -> tuple[Tensor, Tensor]:
    """Rows of a region without repetitions ``(S,)``, and which of these every row is ``(B,)``."""
    parts = [region.lower, region.upper]
    for ball in region.balls:
        parts += [ball.center, ball.radius.unsqueeze(1), *([] if ball.weights is None else [ball.weights])]
    rows = torch.cat([t.flatten(1) for t in parts], 1)
    _, group = torch.unique(rows, dim=0, return_inverse=True)
    position = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(position, len(rows))[: int(group.max()) + 1]
    return first.scatter_reduce(0, group, position, "amin"), group
