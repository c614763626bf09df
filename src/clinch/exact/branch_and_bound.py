"""Branch and bound of our own: batches of domains, bounded by the dual function of :mod:`clinch.bounds.dual`.

A problem with a disjunction becomes one *branch* per alternative, each with limits of the activations of its own.
Inside a branch a domain is split at a kink, or at a clause that is still a disjunction. The search region is the
incumbent's ball, so that better points make the relaxations tighter; the bound reported is the smallest over all
domains that are or were open, and rises all the time. Nothing a solver says is trusted: a leaf's bound is evaluated
again from its multipliers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized

import torch
from torch import Tensor

from clinch.attacks.polish import polish_from
from clinch.bounds.alpha import alpha_activation_bounds
from clinch.bounds.ascent import Ascent, ascend
from clinch.bounds.crown import activation_bounds
from clinch.bounds.domains import Domains, Relaxed, fresh_domains, relax_query
from clinch.bounds.objective import impossible_atoms
from clinch.errors import UnsupportedByEngine
from clinch.exact.branching import open_elements, relaxation_loss, split_clauses, split_deep
from clinch.exact.leaf import is_convex, solve_leaf
from clinch.exact.pool import Pool, Waiting
from clinch.exact.tighten import tightened
from clinch.ledger import Ledger
from clinch.network.ops.base import Interval
from clinch.query import Distance, FormsNorm, Query
from clinch.solution import Proof

#: dual evaluations for domains without a parent, for children, and for leaves that no convex program can close
ROOT_STEPS, NODE_STEPS, LEAF_STEPS = 20, 8, 300
#: elements that a domain is split at in one go, at most
LEVELS = 4
#: convex programs solved between two reports, and number of leaves from which on they climb first
LEAVES_PER_ROUND, FEW_LEAVES = 16, 4
#: share of the search's time spent on walks from its minimisers to feasible points
WALK_SHARE = 0.07
#: an incumbent this much better (relative) is worth new bounds of the activations
RENARROW = 1e-3
#: nodes of a search after which the activations' limits in each branch are tightened, and the factor to the next time
TIGHTEN_AT, TIGHTEN_AGAIN = 1000, 8
#: share of the search's time so far that one tightening may take
TIGHTEN_SHARE = 0.3
#: number of layers of kinks that CROWN's limits are good enough for
SHALLOW = 2
#: entries of open domains beyond which those of largest bound go first, so that few wait
MEMORY = 2**29


def branch_and_bound(query: Query, ledger: Ledger, *, batch: int = 256) -> None:
    """Search until every problem is closed or the ledger's budget is spent.

    Args:
        query: the float64 normal form with a distance or a linear objective.
        ledger: receives points and bounds; problems it has closed already are left out.
        batch: number of domains bounded at once.

    Raises:
        UnsupportedByEngine: the objective is a norm of activations.
        UnsupportedOperator: a layer has no linear relaxation; names it.
    """
    Search(query, ledger, batch).run()


class Search:
    """One search over the problems that a ledger has not closed. :meth:`run` may be called again after the ledger's
    time was up: the tree is kept.

    Arguments and errors: see :func:`branch_and_bound`.
    """

    def __init__(self, query: Query, ledger: Ledger, batch: int = 256) -> None:
        if isinstance(query.objective, FormsNorm):
            raise UnsupportedByEngine(
                "Branch and bound takes distances and linear objectives, not a norm of activations. Use "
                "solver='bounds', or state one linear objective per component."
            )
        self.ledger, self.batch, self.device = ledger.on(query.device), batch, query.device
        self.problems = (~self.ledger.closed).nonzero().flatten()
        self.query = query.take(self.problems)
        self.pool = Pool(self.device)
        self.nodes = 0
        self.walking, self.working, self.began = 0.0, 0.0, self.ledger.seconds
        self.tighten_at = TIGHTEN_AT
        #: smallest bound over finished domains of each problem
        self.finished = torch.full((len(self.problems),), torch.inf, dtype=torch.float64, device=self.device)
        #: problem of each branch
        self.owner = torch.arange(len(self.problems), device=self.device)
        self.relaxed: Relaxed | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to look at: what separates value and bound now is rounding."""
        return not len(self.problems) or (self.relaxed is not None and not len(self.pool))

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Bound the branches, then work on the domains of smallest bound until none is left."""
        if not len(self.problems) or self.ledger.exhausted:
            return
        self.began = self.ledger.seconds
        try:
            if self.relaxed is None:
                self._plant()
            while len(self.pool) and not self.ledger.exhausted:
                self._round()
        finally:
            self.working, self.began = self.seconds, self.ledger.seconds

    @property
    def seconds(self) -> float:
        """Time that the search has worked so far."""
        return self.working + self.ledger.seconds - self.began

    def _round(self) -> None:
        self._renarrow()
        if self.nodes >= self.tighten_at:
            self._tighten()
        assert self.relaxed is not None
        waiting = self._pop()
        children, parents_of_clauses, leaves = self._split(waiting)
        self.nodes += len(children) + len(parents_of_clauses)
        for domains, steps in ((parents_of_clauses, ROOT_STEPS), (children, NODE_STEPS)):
            if len(domains):
                self._settle(self._ascend(domains, steps))
        self._close_leaves(leaves)
        self._report()

    def _ascend(self, domains: Domains, steps: int) -> Ascent:
        assert self.relaxed is not None
        return ascend(self.relaxed, domains, steps, target=self._target(domains), stop=self._over)

    def _over(self) -> bool:
        return self.ledger.remaining <= 0

    # --- the roots ---------------------------------------------------------------------------------------------------

    def _plant(self) -> None:
        """One branch per problem and possible alternative of its largest disjunction, bounded."""
        query = self.query
        self.radius = self.ledger.value[self.problems]
        narrowed = query.narrowed(self.radius)
        bounds = self._limits(narrowed)
        impossible = impossible_atoms(narrowed, bounds)
        choice = self._decided()
        main = self._largest_clause()
        if main is None:
            owner = torch.arange(query.size, device=self.device)
        else:
            possible = (query.clause == main) & ~impossible
            owner, atom = possible.nonzero(as_tuple=True)
            choice = choice[owner]
            choice[:, main] = atom
        self._prove_rest(owner)
        if not len(owner):
            return
        self.owner, self.impossible, self.choice = owner, impossible[owner], choice
        self.bounds = {i: limits.take(owner) for i, limits in bounds.items()}
        self.relaxed = relax_query(narrowed.take(owner), self.bounds)
        self._settle(self._ascend(fresh_domains(self.relaxed, self._all(owner), choice), ROOT_STEPS))
        self._report()

    def _limits(self, narrowed: Query) -> dict[int, Interval]:
        """Limits of the activations; those of deep networks, whose looseness builds up, with slopes of their own.

        On MNIST networks of six layers that leaves a tenth of the later elements open; on two layers it gains nothing.
        """
        graph, region, nodes = narrowed.graph, narrowed.region, narrowed.nodes
        limits = activation_bounds(graph, region, nodes, stop=self._over)
        read = [graph.nodes[i].inputs[0] for i in graph.ancestors(nodes) if graph.nodes[i].op.splits_at_zero]
        open_ = [bool(((limits[j].lower < 0) & (limits[j].upper > 0)).any()) for j in read]
        if not any(open_[SHALLOW:]):
            return limits
        return alpha_activation_bounds(graph, region, nodes, limits, stop=self._over)

    def _prove_rest(self, owner: Tensor) -> None:
        """Problems without any possible alternative have nothing inside the region searched."""
        none = torch.ones_like(self.problems, dtype=torch.bool)
        none[owner] = False
        if bool(none.any()):
            self._prove(torch.where(none, torch.inf, -torch.inf))

    def _decided(self) -> Tensor:
        """``(B, C)`` the atom of every clause that has no other, −1 elsewhere."""
        query = self.query
        count = query.atoms.count
        numbers = self._all(query.clause)
        first = numbers.new_full((query.clauses,), count).scatter_reduce(0, query.clause, numbers, "amin")
        return torch.where(query.clause_sizes == 1, first, -1).expand(query.size, -1).clone()

    def _all(self, rows: Sized) -> Tensor:
        """Positions of all rows."""
        return torch.arange(len(rows), device=self.device)

    def _largest_clause(self) -> int | None:
        sizes = self.query.clause_sizes
        return int(sizes.argmax()) if len(sizes) and int(sizes.max()) > 1 else None

    # --- what happens to domains -------------------------------------------------------------------------------------

    def _target(self, d: Domains) -> Tensor:
        return self.ledger.target[self.problems][self.owner[d.problem]]

    def _closed(self, branch: Tensor) -> Tensor:
        return self.ledger.closed[self.problems][self.owner[branch]]

    def _settle(self, ascent: Ascent) -> None:
        """Drop domains that can hold nothing better, offer the others' minimisers, keep them with their next split."""
        alive = (ascent.domains.bound < self._target(ascent.domains)) & ~self._closed(ascent.domains.problem)
        self._finish(ascent.domains.take((~alive).nonzero().flatten()))
        index = alive.nonzero().flatten()
        if not len(index):
            return
        ascent = ascent.take(index)
        self._offer(ascent.point, ascent.domains.problem)
        self.pool.push(
            Waiting(
                ascent.domains, self._elements_to_split(ascent), self._clause_to_split(ascent.domains, ascent.point)
            )
        )

    def _elements_to_split(self, ascent: Ascent) -> Tensor:
        """``(D, LEVELS)`` the open elements to split next, −1 where there is none: nothing but −1 on leaves."""
        assert self.relaxed is not None
        nothing = _no_elements(ascent.domains)
        if not self.relaxed.width or not bool(open_elements(self.relaxed, ascent.domains).any()):
            return nothing
        loss, element = relaxation_loss(self.relaxed, ascent).topk(min(LEVELS, self.relaxed.width), 1)
        nothing[:, : element.shape[1]] = element.masked_fill(loss < 0, -1)
        return nothing

    def _clause_to_split(self, d: Domains, point: Tensor) -> Tensor:
        """``(D,)`` the undecided clause that the minimiser violates most, −1 where it violates none."""
        assert self.relaxed is not None
        query = self.relaxed.query
        none = torch.full_like(d.problem, -1)
        undecided = d.choice < 0
        if not query.clauses or not bool(undecided.any()):
            return none
        _, atoms = query.take(d.problem).evaluate(point)
        violation = torch.where(undecided, query.clause_values(atoms), -torch.inf)
        worst, clause = violation.max(1)
        return torch.where(worst > 0, clause, none)

    def _close_leaves(self, leaves: Domains) -> None:
        """Solve the leaves of smallest bound, one convex program each; the others wait.

        Before that all climb together: what this closes needs no program.
        """
        if len(leaves) > FEW_LEAVES:
            leaves = self._ascend(leaves, ROOT_STEPS).domains
        open_ = leaves.bound < self._target(leaves)
        self._finish(leaves.take((~open_).nonzero().flatten()))
        leaves = leaves.take(open_.nonzero().flatten())
        for row in range(len(leaves)):
            leaf = leaves.take(self._all(leaves)[row : row + 1])
            if row >= LEAVES_PER_ROUND or self.ledger.exhausted:
                rest = leaves.take(self._all(leaves)[row:])
                self.pool.push(Waiting(rest, _no_elements(rest), torch.full_like(rest.problem, -1)))
                return
            if bool(leaf.bound < self._target(leaf)):
                self._close_leaf(leaf)
            else:
                self._finish(leaf)

    def _close_leaf(self, leaf: Domains) -> None:
        """Solve one leaf. Where its point breaks an undecided clause it is no leaf yet and goes on with that split."""
        assert self.relaxed is not None
        points: list[Tensor] = []
        if is_convex(self.relaxed.query):
            limit = max(0.05, min(self.ledger.remaining, 60.0))
            leaf, points = solve_leaf(self.relaxed, leaf, float(self._target(leaf)), limit)
        if not points and bool(leaf.bound < self._target(leaf)):
            ascent = self._ascend(leaf, LEAF_STEPS)
            leaf, points = ascent.domains, [ascent.point] if bool(ascent.point.isfinite().all()) else []
        if points:
            self._offer(torch.cat(points), leaf.problem.expand(len(points)))
            clause = self._clause_to_split(leaf, points[0])
            if int(clause) >= 0 and bool(leaf.bound < self._target(leaf)):
                self.pool.push(Waiting(leaf, _no_elements(leaf), clause))
                return
        self._finish(leaf)

    def _finish(self, d: Domains) -> None:
        self.finished.scatter_reduce_(0, self.owner[d.problem], d.bound, "amin")

    def _offer(self, point: Tensor, branch: Tensor) -> None:
        """Offer points that are feasible in float64 and better than the incumbent; walk on from the nearest to it."""
        problem = self.owner[branch]
        query = self.query.take(problem)
        with torch.no_grad():
            value, atoms = query.evaluate(point)
        violation, incumbent = query.violation(atoms), self.ledger.value[self.problems][problem]
        better = value < incumbent
        index = (better & (violation <= 0)).nonzero().flatten()
        if len(index):
            best = index[value[index].argsort()[:16]]
            self.ledger.offer(point[best], "branch and bound", self.problems[problem[best]])
        if bool(better.any()) and self.walking <= WALK_SHARE * (self.seconds + 0.1):
            began = self.ledger.seconds
            nearest = torch.where(better, violation, torch.inf).argmin().unsqueeze(0)
            polish_from(self.ledger.query, self.ledger, point[nearest], self.problems[problem[nearest]])
            self.walking += self.ledger.seconds - began

    def _pop(self) -> Waiting:
        """The domains to work on next, at most a batch; those that a better incumbent closes are finished.

        The smallest bounds of every problem take turns, so that one hard problem does not hold up the others.
        """
        branch, bound = self.pool.bounds()
        target = self.ledger.target[self.problems][self.owner[branch]]
        done = (bound >= target) | self._closed(branch)
        if bool(done.any()):
            self.finished.scatter_reduce_(0, self.owner[branch[done]], bound[done], "amin")
            self.pool.drop(done)
            branch, bound = branch[~done], bound[~done]
        assert self.relaxed is not None
        crowded = len(branch) * (2 * self.relaxed.width + 1) > MEMORY
        order = (-bound if crowded else bound).argsort(stable=True)
        if len(self.problems) > 1:
            order = order[_taking_turns(self.owner[branch[order]])]
        return self.pool.pop(order[: self.batch])

    def _split(self, waiting: Waiting) -> tuple[Domains, Domains, Domains]:
        """Children at kinks, children at clauses (whose multipliers have no parent to start from), and leaves."""
        assert self.relaxed is not None
        domains, elements, clause = waiting
        element = elements[:, 0]
        at_clause = (clause >= 0).nonzero().flatten()
        at_kink = ((clause < 0) & (element >= 0)).nonzero().flatten()
        leaves = ((clause < 0) & (element < 0)).nonzero().flatten()
        children = split_deep(domains.take(at_kink), elements[at_kink], self.batch)
        roots = split_clauses(self.relaxed, domains.take(at_clause), clause[at_clause], self.impossible)
        return children, roots, domains.take(leaves)

    # --- better limits -----------------------------------------------------------------------------------------------

    def _renarrow(self) -> None:
        """Search the smaller ball of a better incumbent; the layout of the domains stays."""
        value = self.ledger.value[self.problems]
        if not isinstance(self.query.objective, Distance) or bool((value >= self.radius * (1 - RENARROW)).all()):
            return
        self.radius = value
        region = self.query.narrowed(value).region.take(self.owner)
        self._relax(activation_bounds(self.query.graph, region, self.query.nodes, self.bounds, stop=self._over))

    def _tighten(self) -> None:
        """Limits of the activations within each branch that is still open, with the branch's own conditions."""
        self.tighten_at = TIGHTEN_AGAIN * self.nodes
        assert self.relaxed is not None
        branches = self.pool.bounds()[0].unique()
        target = self.ledger.target[self.problems][self.owner]
        end = self.ledger.seconds + TIGHTEN_SHARE * self.seconds + 0.1
        self._relax(
            tightened(
                self.relaxed, self.bounds, self.choice, branches, target,
                stop=lambda: self._over() or self.ledger.seconds > end,
            )
        )  # fmt: skip
        if len(self.pool) <= self.batch:
            waiting = self.pool.pop(self._all(self.pool))
            self._settle(self._ascend(waiting.domains, NODE_STEPS))

    def _relax(self, bounds: Mapping[int, Interval]) -> None:
        assert self.relaxed is not None
        self.bounds = dict(bounds)
        narrowed = self.query.narrowed(self.radius).take(self.owner)
        self.relaxed = relax_query(narrowed, self.bounds, {k.node: k.which for k in self.relaxed.kinks})

    # --- reports -----------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """The proven bound of each problem: the smallest over finished and open domains."""
        branch, bound = self.pool.bounds()
        self._prove(self.finished.scatter_reduce(0, self.owner[branch], bound, "amin"))

    def _prove(self, bound: Tensor) -> None:
        # Only inputs inside the incumbent's ball were searched: nothing outside is better than its radius.
        if isinstance(self.query.objective, Distance):
            bound = torch.where(torch.isfinite(self.radius), torch.minimum(bound, self.radius), bound)
        self.ledger.prove(bound, Proof.TREE, "branch and bound", self.problems)


def _no_elements(d: Domains) -> Tensor:
    return d.problem.new_full((len(d), LEVELS), -1)


def _taking_turns(group: Tensor) -> Tensor:
    """An order of positions in which the first of every group come first, then the second of every group, …"""
    by_group = group.argsort(stable=True)
    grouped = group[by_group]
    rank = torch.arange(len(group), device=group.device) - torch.searchsorted(grouped, grouped)
    return by_group[rank.argsort(stable=True)]
