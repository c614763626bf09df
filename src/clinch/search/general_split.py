"""Branch and bound over splits of the input and of what any non-affine node reads, for any operator with a relaxation.

General branching (Shi et al. 2024, arXiv 2405.21063) with input splits beside it: a part of the region is a box and
limits of activations (:mod:`clinch.search.parts`); it is bounded by ascent of a dual function
(:mod:`clinch.search.part_bounding`) and split where the relaxation loses most (:mod:`clinch.search.part_branching`).
Where that paper keeps the limits of a split's layer alone, all layers are bounded anew in each part, boxes are cut down
to what splits and incumbent leave, and inputs are split too, so that the search ends where inputs are few.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clinch.query import Query
from clinch.search.branch_and_bound import BestFirst
from clinch.search.input_bounding import folded
from clinch.search.input_split import BoxGoal
from clinch.search.node_store import Nodes
from clinch.search.part_bounding import PartBounder, PartEvaluation
from clinch.search.part_branching import PartBrancher
from clinch.search.part_record import PartRecorder
from clinch.search.parts import Parts
from clinch.search.relu_branching import decided
from clinch.solver.ledger import Ledger
from clinch.solver.settings import GeneralSplit

#: the name under which points and bounds are reported
WHO = "general split"


def general_split(query: Query, ledger: Ledger, settings: GeneralSplit | None = None) -> None:
    """Search until every problem is closed or the ledger's budget is spent.

    Args:
        query: the float64 normal form with a distance or a linear objective, and finite limits of every input element.
        ledger: receives points and bounds; problems it has closed already are left out.
        settings: of the search; None: the usual ones.

    Raises:
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.
    """
    PartSearch(query, ledger, settings).run()


class PartSearch:
    """One search over the problems that a ledger has not closed. :meth:`run` may be called again after the ledger's
    time was up: the open parts are kept.

    Arguments and errors: see :func:`general_split`.
    """

    def __init__(self, query: Query, ledger: Ledger, settings: GeneralSplit | None = None) -> None:
        settings = GeneralSplit() if settings is None else settings
        self.ledger = ledger.on(query.device)
        #: this query's problems in the ledger
        self.problems = (~self.ledger.closed).nonzero().flatten()
        query = query.take(self.problems)
        # what is written down is said of the network as it was loaded
        self.query = folded(query) if self.ledger.trees is None else query
        self.goal = PartGoal(self.ledger, self.problems, self.query, settings)
        self.settings = settings
        self.tree: BestFirst[Parts, PartEvaluation] | None = None

    @property
    def done(self) -> bool:
        """Whether no part is left."""
        return not len(self.problems) or (self.tree is not None and not len(self.tree.store))

    def run(self) -> None:
        """Work on the parts of smallest bound until none is left."""
        if not len(self.problems) or self.ledger.exhausted:
            return
        with self.goal.at_work():
            if self.tree is None:
                self.tree = self._planted()
            try:
                self.tree.run()
            finally:
                if self.goal.recorder is not None:
                    self.goal.recorder.leave_open(self.tree.store.nodes())

    def _planted(self) -> BestFirst[Parts, PartEvaluation]:
        """One part per problem: of a distance problem that has an incumbent, the box around the incumbent's ball."""
        goal, settings, query = self.goal, self.settings, self.query
        region = query.narrowed(goal.value).region
        if region is not query.region:
            goal.cap(goal.value)  # nothing outside of the incumbent's ball is better
        bounder = PartBounder(goal, settings)
        width = (region.upper - region.lower).flatten(1)
        if self.ledger.trees is not None:
            goal.recorder = PartRecorder(self.problems, bounder.layout)
            bounder.recorder = goal.recorder
            self.ledger.trees.append(goal.recorder)
        brancher = PartBrancher(bounder, settings, width, None if goal.recorder is None else goal.recorder.tree)
        tree: BestFirst[Parts, PartEvaluation] = BestFirst(
            query.size, goal, bounder, brancher, batch=max(1, settings.batch // 2),
            first_batch=max(1, min(settings.first_batch, settings.batch) // 2), seconds=settings.round_seconds,
            device=query.device,
        )  # fmt: skip
        layout = bounder.layout
        roots = Parts.whole(
            region.lower, region.upper, decided(query), layout.width, layout.freedom, query.atoms.count
        )  # fmt: skip
        tree.plant(roots)
        return tree


class PartGoal(BoxGoal):
    """The ledger, as a search over parts reports to it."""

    def __init__(self, ledger: Ledger, problems: Tensor, query: Query, settings: GeneralSplit) -> None:
        super().__init__(ledger, problems, query, settings)
        self.who = WHO
        #: what certificates start from; None: nobody has asked for it
        self.recorder: PartRecorder | None = None

    def finish(self, nodes: Nodes) -> None:
        """Leaves are written down where certificates will ask for them."""
        if self.recorder is not None:
            assert isinstance(nodes, Parts)
            self.recorder.close(nodes)

    def offer(self, found: Any) -> None:
        """The minimisers, and centres of boxes."""
        nodes = found.nodes
        points, problem = torch.cat([found.point, (nodes.lower + nodes.upper) / 2]), nodes.problem.repeat(2)
        with torch.no_grad():
            value, atoms = self.query.take(problem).evaluate(points)
        violation = self.query.violation(atoms.expand(len(points), self.query.atoms.count))
        self._offer_points(points, value, violation, problem)
