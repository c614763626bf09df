"""Branch and bound of our own: batches of domains, bounded by the dual function of :mod:`clinch.bounds.dual`.

A problem with a disjunction becomes one *branch* per alternative, each with limits of the activations of its own.
Inside a branch a domain is split at a kink, or at a clause that is still a disjunction. The search region is the
incumbent's ball, so that better points make the relaxations tighter; the bound reported is the smallest over all
domains that are or were open, and rises all the time. Nothing a solver says is trusted: a leaf's bound is evaluated
again from its multipliers.
"""

from __future__ import annotations

from collections.abc import Callable, Sized

import torch
from torch import Tensor

from clinch.attacks.polish import polish_from
from clinch.bounds.ascent import Ascent, ascend
from clinch.bounds.domains import Domains, Relaxed, fresh_domains
from clinch.errors import UnsupportedByEngine
from clinch.exact.branching import next_elements, split_clauses, split_deep
from clinch.exact.closed_leaves import ClosedLeaves
from clinch.exact.leaf import is_convex, solve_leaf
from clinch.exact.pool import Pool, Waiting, smallest_in_turns
from clinch.exact.search_limits import SearchLimits
from clinch.ledger import Ledger
from clinch.query import FormsNorm, Query
from clinch.solution import Proof

#: dual evaluations for domains without a parent, for children, and for leaves that no convex program can close
ROOT_STEPS, NODE_STEPS, LEAF_STEPS = 20, 8, 300
#: elements that a domain is split at in one go, at most
LEVELS = 4
#: convex programs solved between two reports, and number of leaves from which on they climb first
LEAVES_PER_ROUND, FEW_LEAVES = 16, 4
#: share of the search's time spent on walks from its minimisers to feasible points
WALK_SHARE = 0.07
#: nodes per problem after which the activations' limits in each branch are tightened, and the factor to the next time
TIGHTEN_AT, TIGHTEN_AGAIN = 1000, 8
#: share of the search's time so far that one tightening may take
TIGHTEN_SHARE = 0.3
#: nodes per region after which the limits are searched for as well, in deep networks and in others: on MNIST
#: networks of four and six layers it decides in a minute what the tree alone does not in five, on two layers it pays
#: for long searches only
SHARPEN_AT, SHARPEN_LATE = 1000, 12000
#: the tree's time between two layers of that search, relative to the last layer's, in deep networks and in others
PAUSE_DEEP, PAUSE = 0.25, 1.0
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
        self.tighten_at, self.sharpen_after = TIGHTEN_AT * len(self.problems), 0.0
        #: smallest bound over finished domains of each problem
        self.finished = torch.full((len(self.problems),), torch.inf, dtype=torch.float64, device=self.device)
        #: problem of each branch
        self.owner = torch.arange(len(self.problems), device=self.device)
        self.limits: SearchLimits | None = None
        #: what certificates start from; None: nobody has asked for them
        self.leaves: ClosedLeaves | None = None
        if self.ledger.trees is not None:
            self.leaves = ClosedLeaves()
            self.ledger.trees.append(self.leaves)

    @property
    def done(self) -> bool:
        """Whether nothing is left to look at: what separates value and bound now is rounding."""
        return not len(self.problems) or (self.limits is not None and not len(self.pool))

    @property
    def relaxed(self) -> Relaxed:
        """The relaxation of the branches."""
        assert self.limits is not None
        return self.limits.relaxed

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Bound the branches, then work on the domains of smallest bound until none is left."""
        if not len(self.problems) or self.ledger.exhausted:
            return
        self.began = self.ledger.seconds
        try:
            if self.limits is None:
                self._plant()
            while len(self.pool) and not self.ledger.exhausted:
                self._round()
        finally:
            self.working, self.began = self.seconds, self.ledger.seconds
            if self.leaves is not None:
                self.leaves.leave_open(self.pool.domains())

    @property
    def seconds(self) -> float:
        """Time that the search has worked so far."""
        return self.working + self.ledger.seconds - self.began

    def _round(self) -> None:
        self._improve_limits()
        waiting = self._pop()
        children, parents_of_clauses, leaves = self._split(waiting)
        self.nodes += len(children) + len(parents_of_clauses)
        for domains, steps in ((parents_of_clauses, ROOT_STEPS), (children, NODE_STEPS)):
            if len(domains):
                self._settle(self._ascend(domains, steps))
        self._close_leaves(leaves)
        self._report()

    def _ascend(self, domains: Domains, steps: int) -> Ascent:
        return ascend(self.relaxed, domains, steps, target=self._target(domains), stop=self._over)

    def _over(self) -> bool:
        return self.ledger.remaining <= 0

    # --- the roots ---------------------------------------------------------------------------------------------------

    def _plant(self) -> None:
        """One branch per problem and possible alternative of its largest disjunction, bounded."""
        query = self.query
        limits = SearchLimits(query, self.ledger.value[self.problems], self._over)
        impossible = limits.impossible_atoms()
        choice = self._decided()
        main = self._largest_clause()
        if main is None:
            owner = torch.arange(query.size, device=self.device)
        else:
            possible = (query.clause == main) & ~impossible
            owner, atom = possible.nonzero(as_tuple=True)
            choice = choice[owner]
            choice[:, main] = atom
        self.limits = limits
        self._prove_rest(owner)
        if not len(owner):
            return
        limits.branch(owner, choice)
        self.owner, self.impossible = owner, impossible[owner]
        if self.leaves is not None:
            self.leaves.lay_out(self.problems[owner.to(self.problems.device)], self.relaxed.kinks)
        self._settle(self._roots(self._all(owner)))
        self._report()

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
        elements = next_elements(self.relaxed, ascent, LEVELS)
        self.pool.push(Waiting(ascent.domains, elements, self._clause_to_split(ascent.domains, ascent.point)))

    def _clause_to_split(self, d: Domains, point: Tensor) -> Tensor:
        """``(D,)`` the undecided clause that the minimiser violates most, −1 where it violates none."""
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
        if self.leaves is not None:
            self.leaves.add(d)
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
            if self.leaves is not None:
                self._finish(self.pool.pop(done.nonzero().flatten()).domains)
            else:
                self.finished.scatter_reduce_(0, self.owner[branch[done]], bound[done], "amin")
                self.pool.drop(done)
            branch, bound = branch[~done], bound[~done]
        crowded = len(branch) * (2 * self.relaxed.width + 1) > MEMORY
        order = smallest_in_turns(self.owner[branch], -bound if crowded else bound)
        return self.pool.pop(order[: self.batch])

    def _split(self, waiting: Waiting) -> tuple[Domains, Domains, Domains]:
        """Children at kinks, children at clauses (whose multipliers have no parent to start from), and leaves."""
        domains, elements, clause = waiting
        element = elements[:, 0]
        at_clause = (clause >= 0).nonzero().flatten()
        at_kink = ((clause < 0) & (element >= 0)).nonzero().flatten()
        leaves = ((clause < 0) & (element < 0)).nonzero().flatten()
        children = split_deep(domains.take(at_kink), elements[at_kink], self.batch)
        roots = split_clauses(self.relaxed, domains.take(at_clause), clause[at_clause], self.impossible)
        return children, roots, domains.take(leaves)

    # --- better limits -----------------------------------------------------------------------------------------------

    def _improve_limits(self) -> None:
        assert self.limits is not None
        self.limits.renarrow(self.ledger.value[self.problems])
        if self.nodes >= self.tighten_at:
            self._tighten()
        late = SHARPEN_AT if self.limits.deep else SHARPEN_LATE
        due = self.nodes >= late * self.limits.regions and self.seconds > self.sharpen_after
        if due and not self.limits.sharp:
            self._sharpen()

    def _tighten(self) -> None:
        """Limits of the activations within each branch that is still open, with the branch's own conditions."""
        self.tighten_at = TIGHTEN_AGAIN * self.nodes
        assert self.limits is not None
        value = self.ledger.value[self.problems]
        self.limits.tighten(self.pool.bounds()[0].unique(), value, self._after(TIGHTEN_SHARE * self.seconds))
        if len(self.pool) <= self.batch:
            waiting = self.pool.pop(self._all(self.pool))
            self._settle(self._ascend(waiting.domains, NODE_STEPS))

    def _sharpen(self) -> None:
        """Search for the limits of one layer; where the roots are then better than the tree has become, it is planted
        again."""
        assert self.limits is not None
        began = self.seconds
        branch, bound = self.pool.bounds()
        if not len(branch):
            return
        self.limits.sharpen(self.owner[branch].unique())
        roots = self._roots(branch.unique())
        before, after = self._smallest(branch, bound), self._smallest(roots.domains.problem, roots.domains.bound)
        again = after >= before
        self.pool.drop(again[self.owner[branch]])
        if self.leaves is not None:
            self.leaves.forget(branch[again[self.owner[branch]]].unique())
        self._settle(roots.take(again[self.owner[roots.domains.problem]].nonzero().flatten()))
        pause = PAUSE_DEEP if self.limits.deep else PAUSE
        self.sharpen_after = self.seconds + pause * (self.seconds - began)

    def _roots(self, branches: Tensor) -> Ascent:
        """Whole branches, bounded."""
        assert self.limits is not None
        return self._ascend(fresh_domains(self.relaxed, branches, self.limits.choice[branches]), ROOT_STEPS)

    def _after(self, seconds: float) -> Callable[[], bool]:
        """Whether so many seconds, and a little, have passed."""
        end = self.ledger.seconds + seconds + 0.1
        return lambda: self._over() or self.ledger.seconds > end

    def _smallest(self, branch: Tensor, bound: Tensor) -> Tensor:
        """``(B,)`` the smallest of some domains' bounds for each problem, infinity where there is none."""
        return torch.full_like(self.finished, torch.inf).scatter_reduce(0, self.owner[branch], bound, "amin")

    # --- reports -----------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """The proven bound of each problem: the smallest over finished and open domains."""
        branch, bound = self.pool.bounds()
        self._prove(self.finished.scatter_reduce(0, self.owner[branch], bound, "amin"))

    def _prove(self, bound: Tensor) -> None:
        assert self.limits is not None
        # only inputs better than an incumbent were searched, and say nothing about the others but that
        self.ledger.prove(torch.minimum(bound, self.limits.value), Proof.TREE, "branch and bound", self.problems)


def _no_elements(d: Domains) -> Tensor:
    return d.problem.new_full((len(d), LEVELS), -1)
