"""Branch and bound of our own: batches of domains, bounded by the dual function of :mod:`clinch.bounds.lagrangian`.

A domain is split at a kink or at a clause that is still a disjunction. The search region is the incumbent's ball, so
that better points make the relaxations tighter; the bound reported is the smallest over all domains that are or were
open, and rises all the time. Nothing a solver says is trusted: a leaf's bound is evaluated again from its multipliers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.polish import polish_from
from clinch.bounds.crown import activation_bounds
from clinch.bounds.lagrangian import Ascent, Domains, ascend, fresh_domains, relax_query
from clinch.bounds.objective import impossible_atoms
from clinch.errors import UnsupportedByEngine
from clinch.exact.branching import open_elements, relaxation_loss, split_clauses, split_kinks
from clinch.exact.leaf import is_convex, solve_leaf
from clinch.ledger import Ledger
from clinch.query import Distance, FormsNorm, Query
from clinch.solution import Proof

#: dual evaluations for domains without a parent, for children, and for leaves that no convex program can close
ROOT_STEPS, NODE_STEPS, LEAF_STEPS = 60, 20, 300
#: convex programs solved between two reports
LEAVES_PER_ROUND = 16
#: share of the search's time spent on walks from its minimisers to feasible points
WALK_SHARE = 0.15
#: an incumbent this much better (relative) is worth new bounds of the activations
RENARROW = 1e-3


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
    if isinstance(query.objective, FormsNorm):
        raise UnsupportedByEngine(
            "Branch and bound takes distances and linear objectives, not a norm of activations. Use solver='bounds', "
            "or state one linear objective per component."
        )
    problems = (~ledger.closed).nonzero().flatten()
    if len(problems) and not ledger.exhausted:
        _Search(query.take(problems), problems, ledger, batch).run()


class _Search:
    """One run over the problems a ledger has not closed. ``problems`` maps this query's problems to the ledger's."""

    def __init__(self, query: Query, problems: Tensor, ledger: Ledger, batch: int) -> None:
        self.query, self.problems, self.ledger, self.batch = query, problems, ledger, batch
        self.radius = ledger.value[problems]
        narrowed = query.narrowed(self.radius)
        self.bounds = activation_bounds(query.graph, narrowed.region, query.nodes, stop=self._over)
        self.relaxed = relax_query(narrowed, self.bounds)
        self.impossible = impossible_atoms(narrowed, self.bounds)
        self.began, self.walking = ledger.seconds, 0.0
        self.finished = torch.full((query.size,), torch.inf, dtype=torch.float64)
        self.open: list[tuple[Domains, Tensor, Tensor]] = []

    def _over(self) -> bool:
        return self.ledger.remaining <= 0

    def run(self) -> None:
        """Bound the roots, then work on the domains of smallest bound until none is left."""
        roots = self._roots()
        # A disjunction is split before anything is spent on what holds without it.
        self._settle(ascend(self.relaxed, roots, 1 if bool((roots.choice < 0).any()) else ROOT_STEPS, stop=self._over))
        self._report()
        while self.open and not self.ledger.exhausted:
            self._renarrow()
            children, new_roots, leaves = self._split(*self._pop())
            if len(new_roots):
                self._settle(
                    ascend(self.relaxed, new_roots, ROOT_STEPS, target=self._target(new_roots), stop=self._over)
                )
            if len(children):
                self._settle(ascend(self.relaxed, children, NODE_STEPS, target=self._target(children), stop=self._over))
            self._close_leaves(leaves)
            self._report()

    def _roots(self) -> Domains:
        """One domain per problem, in which only the clauses of a single atom are decided."""
        query = self.query
        first = torch.full((query.clauses,), query.atoms.count).scatter_reduce(
            0, query.clause, torch.arange(query.atoms.count), "amin"
        )
        choice = torch.where(query.clause_sizes == 1, first, -1).expand(query.size, -1).clone()
        return fresh_domains(self.relaxed, torch.arange(query.size), choice)

    def _target(self, d: Domains) -> Tensor:
        return self.ledger.target[self.problems][d.problem]

    def _settle(self, ascent: Ascent) -> None:
        """Offer the minimisers, drop domains that can hold nothing better, keep the others with their next split."""
        self._offer(ascent.point, ascent.domains.problem)
        alive = (ascent.domains.bound < self._target(ascent.domains)) & ~self.ledger.closed[self.problems][
            ascent.domains.problem
        ]
        self._finish(ascent.domains.take((~alive).nonzero().flatten()))
        index = alive.nonzero().flatten()
        if not len(index):
            return
        ascent = Ascent(ascent.domains.take(index), ascent.point[index], ascent.rows[index])
        self._push(ascent.domains, self._element_to_split(ascent), self._clause_to_split(ascent))

    def _push(self, domains: Domains, element: Tensor, clause: Tensor) -> None:
        if len(domains):
            self.open.append((domains, element, clause))

    def _element_to_split(self, ascent: Ascent) -> Tensor:
        """``(D,)`` the open element to split next, −1 on leaves."""
        anything = open_elements(self.relaxed, ascent.domains).any(1)
        if not bool(anything.any()):
            return torch.full((len(anything),), -1)
        return torch.where(anything, relaxation_loss(self.relaxed, ascent).argmax(1), -1)

    def _clause_to_split(self, ascent: Ascent) -> Tensor:
        """``(D,)`` the undecided clause that the minimiser violates most, −1 where it violates none."""
        query = self.relaxed.query
        none = torch.full((len(ascent.domains),), -1)
        undecided = ascent.domains.choice < 0
        if not query.clauses or not bool(undecided.any()):
            return none
        _, atoms = query.take(ascent.domains.problem).evaluate(ascent.point)
        violation = torch.where(undecided, query.clause_values(atoms), -torch.inf)
        worst, clause = violation.max(1)
        return torch.where(worst > 0, clause, none)

    def _close_leaves(self, leaves: Domains) -> None:
        """Solve the leaves of smallest bound, one convex program each; the others wait."""
        for row in range(len(leaves)):
            leaf = leaves.take(torch.tensor([row]))
            if row >= LEAVES_PER_ROUND or self.ledger.exhausted:
                rest = leaves.take(torch.arange(row, len(leaves)))
                self._push(rest, *(torch.full((len(rest),), -1) for _ in range(2)))
                return
            if bool(leaf.bound < self._target(leaf)):
                self._close_leaf(leaf)
            else:
                self._finish(leaf)

    def _close_leaf(self, leaf: Domains) -> None:
        """Solve one leaf. Where its point breaks an undecided clause it is no leaf yet and goes on with that split."""
        query, b = self.relaxed.query, leaf.problem
        if is_convex(query):
            limit = max(0.05, min(self.ledger.remaining, 60.0))
            leaf, points = solve_leaf(self.relaxed, leaf, float(self._target(leaf)), limit)
        else:
            ascent = ascend(self.relaxed, leaf, LEAF_STEPS, target=self._target(leaf), stop=self._over)
            leaf, points = ascent.domains, [ascent.point]
        if points:
            self._offer(torch.cat(points), b.expand(len(points)))
            clause = self._clause_to_split(Ascent(leaf, points[0], leaf.mu))
            if int(clause) >= 0 and bool(leaf.bound < self._target(leaf)):
                self._push(leaf, torch.full((1,), -1), clause)
                return
        self._finish(leaf)

    def _finish(self, d: Domains) -> None:
        self.finished.scatter_reduce_(0, d.problem, d.bound, "amin")

    def _offer(self, point: Tensor, problem: Tensor) -> None:
        """Offer points that are feasible in float64 and better than the incumbent; walk on from the nearest to it."""
        query = self.query.take(problem)
        with torch.no_grad():
            value, atoms = query.evaluate(point)
        violation, incumbent = query.violation(atoms), self.ledger.value[self.problems][problem]
        better = value < incumbent
        index = (better & (violation <= 0)).nonzero().flatten()
        if len(index):
            best = index[value[index].argsort()[:16]]
            self.ledger.offer(point[best], "branch and bound", self.problems[problem[best]])
        if bool(better.any()) and self.walking <= WALK_SHARE * (self.ledger.seconds - self.began):
            began = self.ledger.seconds
            nearest = torch.where(better, violation, torch.inf).argmin().unsqueeze(0)
            polish_from(self.ledger.query, self.ledger, point[nearest], self.problems[problem[nearest]])
            self.walking += self.ledger.seconds - began

    def _pop(self) -> tuple[Domains, Tensor, Tensor]:
        """The domains of smallest bound, at most a batch of them; those that a better incumbent closes are finished."""
        domains = Domains.cat([entry[0] for entry in self.open])
        element, clause = torch.cat([e for _, e, _ in self.open]), torch.cat([c for _, _, c in self.open])
        done = (domains.bound >= self._target(domains)) | self.ledger.closed[self.problems][domains.problem]
        self._finish(domains.take(done.nonzero().flatten()))
        order = torch.where(done, torch.inf, domains.bound).argsort()[: int((~done).sum())]
        now, later = order[: self.batch], order[self.batch :]
        self.open = [(domains.take(later), element[later], clause[later])] if len(later) else []
        return domains.take(now), element[now], clause[now]

    def _split(self, domains: Domains, element: Tensor, clause: Tensor) -> tuple[Domains, Domains, Domains]:
        """Children at kinks, children at clauses (whose multipliers have no parent to start from), and leaves."""
        at_clause = (clause >= 0).nonzero().flatten()
        at_kink = ((clause < 0) & (element >= 0)).nonzero().flatten()
        leaves = ((clause < 0) & (element < 0)).nonzero().flatten()
        children = split_kinks(domains.take(at_kink), element[at_kink])
        roots = split_clauses(self.relaxed, domains.take(at_clause), clause[at_clause], self.impossible)
        return children, roots, domains.take(leaves)

    def _renarrow(self) -> None:
        """Search the smaller ball of a better incumbent; the layout of the domains stays."""
        value = self.ledger.value[self.problems]
        if not isinstance(self.query.objective, Distance) or bool((value >= self.radius * (1 - RENARROW)).all()):
            return
        self.radius = value
        narrowed = self.query.narrowed(value)
        self.bounds = activation_bounds(
            self.query.graph, narrowed.region, self.query.nodes, self.bounds, stop=self._over
        )
        self.relaxed = relax_query(narrowed, self.bounds, {k.node: k.which for k in self.relaxed.kinks})

    def _report(self) -> None:
        """The proven bound of each problem: the smallest over finished and open domains."""
        bound = self.finished.clone()
        for domains, _, _ in self.open:
            bound.scatter_reduce_(0, domains.problem, domains.bound, "amin")
        # Only inputs inside the incumbent's ball were searched: nothing outside is better than its radius.
        if isinstance(self.query.objective, Distance):
            bound = torch.where(torch.isfinite(self.radius), torch.minimum(bound, self.radius), bound)
        self.ledger.prove(bound, Proof.TREE, "branch and bound", self.problems)
