"""Branch and bound of our own: batches of domains, bounded by the dual function of :mod:`clinch.bounds.dual`.

A problem with a disjunction becomes one *branch* per alternative, each with limits of the activations of its own.
Inside a branch a domain is split at a kink, or at a clause that is still a disjunction. The search region is the
incumbent's ball, so that better points make the relaxations tighter; the bound reported is the smallest over all
domains that are or were open, and rises all the time. Nothing a solver says is trusted: a leaf's bound is evaluated
again from its multipliers. In networks of few neurons the bounds of open ones are refined in every subdomain
(:mod:`clinch.search.refine_under_cutoff`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from clinch.attacks.local_search import polish_from
from clinch.query import Query
from clinch.search.affine_leaf import AffineLeaves
from clinch.search.bound_refinement import BoundRefinement
from clinch.search.branch_and_bound import BestFirst
from clinch.search.dual_bounding import DualBounder, DualEvaluation, Subdomains, fresh_nodes
from clinch.search.ledger_goal import LedgerGoal
from clinch.search.node_store import Nodes, NodeStore
from clinch.search.refinement_schedule import LONGEST, LONGEST_DEEP, Effort, Progress, risen
from clinch.search.relu_branching import ReluBrancher, decided
from clinch.search.root_bounds import root_bounds
from clinch.search.tree import AT_CLAUSE, TreeRecorder
from clinch.solver.ledger import Ledger
from clinch.solver.settings import BranchAndBound
from clinch.solver.solution import Proof

#: share of the time left that slopes of limits may take
SLOPES_SHARE = 0.5


def branch_and_bound(query: Query, ledger: Ledger, settings: BranchAndBound | None = None) -> None:
    """Search until every problem is closed or the ledger's budget is spent.

    Args:
        query: the float64 normal form with a distance or a linear objective.
        ledger: receives points and bounds; problems it has closed already are left out.
        settings: of the search; None: the usual ones.

    Raises:
        UnsupportedOperator: a layer has no linear relaxation; names it.
    """
    ReluSplit(query, ledger, settings).run()


class ReluSplit:
    """One search over the problems that a ledger has not closed. :meth:`run` may be called again after the ledger's
    time was up: the tree is kept.

    Arguments and errors: see :func:`branch_and_bound`.
    """

    def __init__(self, query: Query, ledger: Ledger, settings: BranchAndBound | None = None) -> None:
        self.settings = BranchAndBound() if settings is None else settings
        self.ledger, self.device = ledger.on(query.device), query.device
        self.problems = (~self.ledger.closed).nonzero().flatten()
        self.query = query.take(self.problems)
        self.whole = query
        self.working, self.began = 0.0, self.ledger.seconds
        self.limits: BoundRefinement | None = None
        self.tree: BestFirst[Subdomains, DualEvaluation] | None = None
        #: what certificates start from; None: nobody has asked for it
        self.recorder: TreeRecorder | None = None
        # a proof is about the network as it is
        if self.ledger.trees is not None and len(query.graph.nodes) == len(self.ledger.query.graph.nodes):
            self.recorder = TreeRecorder(self.problems)
            # certificates have no place for bounds that hold in one subdomain
            self.settings = replace(self.settings, under_cutoff=False)
            self.ledger.trees.append(self.recorder)

    @property
    def done(self) -> bool:
        """Whether nothing is left to look at: what separates value and bound now is rounding."""
        return not len(self.problems) or (self.tree is not None and not len(self.tree.store))

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Bound the branches, then work on the subdomains of smallest bound until none is left."""
        if not len(self.problems) or self.ledger.exhausted:
            return
        self.began = self.ledger.seconds
        try:
            if self.tree is None:
                self.tree = self._planted()
            while len(self.tree.store) and not self.ledger.exhausted:
                self._refine_bounds(self.tree)
                self.tree.round()
        finally:
            self.working, self.began = self.seconds, self.ledger.seconds
            self._leave_open()

    @property
    def seconds(self) -> float:
        """Time that the search has worked so far."""
        return self.working + self.ledger.seconds - self.began

    def _leave_open(self) -> None:
        waiting = None if self.tree is None else self.tree.store.nodes()
        if self.recorder is not None and waiting is not None:
            self.recorder.leave_open(waiting.problem, waiting.place, waiting.domains)

    # --- the roots ---------------------------------------------------------------------------------------------------

    def _planted(self) -> BestFirst[Subdomains, DualEvaluation]:
        """One branch per problem and possible alternative of its largest disjunction, bounded."""
        query = self.query
        goal = ReluGoal(self)
        root = root_bounds(self.whole, self.ledger, problems=self.problems)
        limits = BoundRefinement(query, root.of(self.problems), goal.over)
        self._schedule(limits, root.seconds)
        impossible = limits.impossible_atoms()
        choice = decided(query)
        main = self._largest_clause()
        if main is None:
            owner = place = torch.arange(query.size, device=self.device)
        else:
            possible = (query.clause == main) & ~impossible
            owner, atom = possible.nonzero(as_tuple=True)
            choice = choice[owner]
            choice[:, main] = atom
            place = self._places(owner, atom, main)
        self.limits = limits
        self._prove_rest(owner)
        limits.branch(owner, choice)
        self.owner, self.place = owner, place
        self.bounder = DualBounder(limits.relaxed, goal.targets, goal.over, self.settings)
        tree = None
        if self.recorder is not None:
            self.recorder.elements = {kink.node: kink.which.cpu() for kink in limits.relaxed.kinks}
            tree = self.recorder.tree
        brancher = ReluBrancher(self.bounder, self.settings.batch, self.settings.levels, impossible[owner], tree)
        search = BestFirst(
            query.size, goal, self.bounder, brancher, leaf_solver=AffineLeaves(self.bounder, goal),
            batch=self.settings.batch, in_turns=query.size > 1, device=self.device,
        )  # fmt: skip
        roots = self._roots(torch.arange(len(owner), device=self.device))
        search.plant(roots)
        #: the roots, with the best multipliers found for them
        self.roots = roots
        self.progress = Progress(search.least, self.seconds)
        return search

    def _places(self, owner: Tensor, atom: Tensor, main: int) -> Tensor:
        """``(R,)`` places of the branches in the tree: children of the problems' roots."""
        if self.recorder is None:
            return torch.full_like(owner, -1)
        members = (self.query.clause == main).nonzero().flatten()
        every = torch.arange(self.query.size, device=self.device)
        places = self.recorder.tree.split(every, AT_CLAUSE, torch.full_like(every, main), len(members))
        return places[owner, torch.searchsorted(members, atom)]

    def _prove_rest(self, owner: Tensor) -> None:
        """Problems without any possible alternative have nothing inside the region searched."""
        assert self.limits is not None
        none = torch.ones_like(self.problems, dtype=torch.bool)
        none[owner] = False
        if bool(none.any()):
            bound = torch.where(none, self.limits.value, -torch.inf)
            self.ledger.prove(bound, Proof.TREE, "branch and bound", self.problems)

    def _largest_clause(self) -> int | None:
        sizes = self.query.clause_sizes
        return int(sizes.argmax()) if len(sizes) and int(sizes.max()) > 1 else None

    def _roots(self, branches: Tensor) -> Subdomains:
        """Whole branches."""
        assert self.limits is not None
        return fresh_nodes(
            self.limits.relaxed, branches, self.limits.choice[branches], self.owner, self.place[branches],
            self.settings.levels,
        )  # fmt: skip

    # --- better limits -----------------------------------------------------------------------------------------------

    def _schedule(self, limits: BoundRefinement, seconds: float) -> None:
        """When each kind of refinement is tried first; then it depends on what it brings."""
        settings, problems = self.settings, len(self.problems)
        late = not limits.deep or limits.convolves
        longest = LONGEST if late else LONGEST_DEEP
        #: slopes: once the tree has had as long as CROWN's bounds took, for that closes many problems
        self.by_slopes = Effort(0 if limits.deep else math.inf, seconds=self.seconds + seconds)
        self.by_dual = Effort(settings.by_dual_at * problems, longest_pause=longest)
        self.by_search = Effort(
            (settings.by_search_late if late else settings.by_search_at) * limits.regions,
            settings.pause if late else settings.pause_deep, longest,
        )  # fmt: skip

    def _refine_bounds(self, tree: BestFirst[Subdomains, DualEvaluation]) -> None:
        assert self.limits is not None
        self.limits.renarrow(self.ledger.value[self.problems])
        self.bounder.relaxed = self.limits.relaxed
        nodes = int(tree.bounded.sum())
        self.progress.look(tree.store.least(self.query.size), self.seconds)
        if self.by_slopes.due(nodes, self.seconds):
            self._refine(tree, self.by_slopes, self._slopes)
            self.by_slopes.nodes = math.inf
        due = (
            self.by_dual.due(nodes, self.seconds),
            self.by_search.due(nodes, self.seconds) and not self.limits.searched,
        )
        if not any(due) or self._soon(tree):
            return
        if due[0]:
            self._refine(tree, self.by_dual, self._duals)
            self.by_dual.nodes = self.settings.by_dual_again * nodes
        if due[1]:
            self._refine(tree, self.by_search, self._searches)

    def _soon(self, tree: BestFirst[Subdomains, DualEvaluation]) -> bool:
        """Whether the tree alone will have closed what it works on before as much time has passed as it has had."""
        least, target = tree.store.least(self.query.size), self.ledger.target[self.problems]
        return self.progress.forecast(least, target, self.seconds) < self.seconds

    def _refine(
        self, tree: BestFirst[Subdomains, DualEvaluation], effort: Effort, work: Callable[[NodeStore[Subdomains]], None]
    ) -> None:
        """Refine bounds of activations; where the roots are then better than the tree has become, it is planted
        again."""
        if not len(tree.store):
            return
        assert self.limits is not None
        began, before = self.seconds, tree.store.least(self.query.size)
        rate = self.progress.rate(before, began)
        work(tree.store)
        self.bounder.relaxed = self.limits.relaxed
        roots = self._rooted(tree.store.column("branch").unique())
        root = torch.full_like(tree.finished, torch.inf)
        root.scatter_reduce_(0, roots.nodes.problem, roots.nodes.bound, "amin")
        again = root >= before
        if self.recorder is not None:
            self.recorder.sharpened = True
            self.recorder.tree.restart(roots.nodes.place[again[roots.nodes.problem]])
        tree.replace(again[tree.store.column("problem")], roots.take(again[roots.nodes.problem].nonzero().flatten()))
        if not bool(again.any()) and len(tree.store) <= self.settings.batch:
            tree.rebound()
        effort.account(risen(self.progress.root, root), rate, began, self.seconds)
        self.progress.restart(tree.store.least(self.query.size), self.seconds, root)

    def _rooted(self, branches: Tensor) -> DualEvaluation:
        """Roots of branches, bounded anew: from the multipliers they have, or from none where that is better."""
        fresh, held = self._roots(branches), self.roots.take(branches)
        held = replace(held, bound=torch.full_like(held.bound, -torch.inf))
        found = self.bounder.bound(type(fresh).cat([fresh, held]), fresh=True)
        count = len(branches)
        bound = found.nodes.bound
        best = torch.arange(count, device=self.device) + count * (bound[count:] > bound[:count])
        found = found.take(best)
        self.roots = self.roots.take(torch.arange(len(self.roots), device=self.device))
        for name, column in self.roots.columns():
            column[branches] = getattr(found.nodes, name)
        return found

    def _slopes(self, store: NodeStore[Subdomains]) -> None:
        """Slopes of their own for the limits of each problem: for all, whatever slice of time is at work."""
        assert self.limits is not None
        with self.ledger.for_all():
            end = self.ledger.seconds + SLOPES_SHARE * self.ledger.remaining
            self.limits.by_slopes(store.column("problem").unique(), lambda: self.ledger.seconds >= end)

    def _duals(self, store: NodeStore[Subdomains]) -> None:
        """Limits of the activations within each branch that is still open, with the branch's own conditions."""
        assert self.limits is not None
        stop = self._after(self.settings.by_dual_share * self.seconds)
        self.limits.by_dual(store.column("branch").unique(), self.ledger.value[self.problems], stop)

    def _searches(self, store: NodeStore[Subdomains]) -> None:
        """Search for the limits of one layer."""
        assert self.limits is not None
        self.limits.by_search(store.column("problem").unique(), self._after(self.seconds))

    def _after(self, seconds: float) -> Callable[[], bool]:
        """Whether so many seconds, and a little, have passed."""
        end = self.ledger.seconds + seconds + 0.1
        return lambda: self.ledger.left <= 0 or self.ledger.seconds > end

    # --- reports -----------------------------------------------------------------------------------------------------

    def _prove(self, bound: Tensor) -> None:
        assert self.limits is not None
        # only inputs better than an incumbent, or than what is enough, were searched: of others nothing is known
        known = torch.minimum(self.limits.value, self.bounder.ceiling)
        self.ledger.prove(torch.minimum(bound, known), Proof.TREE, "branch and bound", self.problems)


class ReluGoal(LedgerGoal):
    """The ledger, as a search by ReLU splits reports to it: points near the minimisers, and leaves for certificates."""

    def __init__(self, search: ReluSplit) -> None:
        super().__init__(search.ledger, search.problems, "branch and bound")
        self.search, self.walking = search, 0.0

    def finish(self, nodes: Nodes) -> None:
        """Leaves are written down where certificates will ask for them."""
        if self.search.recorder is not None:
            assert isinstance(nodes, Subdomains)
            self.search.recorder.close(nodes.problem, nodes.place, nodes.domains)

    def offer(self, found: DualEvaluation) -> None:
        """The minimisers."""
        self.offer_points(found.ascent.point, found.nodes.problem)

    def offer_points(self, point: Tensor, problem: Tensor) -> None:
        """Offer points that are feasible in float64 and better than the incumbent; walk on from the nearest to it."""
        query = self.search.query.take(problem)
        with torch.no_grad():
            value, atoms = query.evaluate(point)
        violation, incumbent = query.violation(atoms), self.value[problem]
        better = value < incumbent
        index = (better & (violation <= 0)).nonzero().flatten()
        if len(index):
            best = index[value[index].argsort()[:16]]
            self.ledger.offer(point[best], self.who, self.problems[problem[best]])
        if bool(better.any()) and self.walking <= self.search.settings.walk_share * (self.search.seconds + 0.1):
            began = self.ledger.seconds
            nearest = torch.where(better, violation, torch.inf).argmin().unsqueeze(0)
            polish_from(self.ledger.query, self.ledger, point[nearest], self.problems[problem[nearest]])
            self.walking += self.ledger.seconds - began

    def prove(self, bound: Tensor) -> None:
        """Report bounds."""
        self.search._prove(bound)
