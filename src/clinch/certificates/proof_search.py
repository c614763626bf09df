"""A proof of one bound by a search of its own, which keeps the tree and the multipliers of every leaf.

The limits of the activations are those that the checker finds again: CROWN's with its own slopes, over the region or
over the boxes it is split into. Better limits that a solve may have used are not part of the proof.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clinch.bounds.ascent import Ascent, ascend
from clinch.bounds.crown import activation_bounds
from clinch.bounds.domains import Domains, Relaxed, fresh_domains, relax_query
from clinch.certificates.checked_lines import CheckedNetwork
from clinch.certificates.proof_goal import ProofGoal
from clinch.certificates.regrow import layout_of, regrow, with_hints
from clinch.errors import CertificateError
from clinch.geometry.region import Region
from clinch.query import Query
from clinch.runtime import deadline
from clinch.search.affine_leaf import is_convex, solve_leaf
from clinch.search.branch_and_bound import BestFirst, Branched
from clinch.search.dual_bounding import Subdomains
from clinch.search.node_store import Nodes
from clinch.search.relu_branching import next_elements, open_elements, violated_clause
from clinch.search.tree import AT_CLAUSE, AT_INPUT, AT_RELU, Recorded, SearchTree

#: dual evaluations of a subdomain, and of a leaf of a stranger's tree; subdomains taken up at once
STEPS, LONG, BATCH = 20, 100, 128
#: input elements that have room up to which boxes are halved, and open ReLUs up to which a box is split at them instead
FEW_INPUTS, FEW_KINKS = 16, 40
#: seconds for one convex program
LEAF_SECONDS = 10.0
#: share of known leaves that are to be closed by their multipliers
ENOUGH = 0.4


@dataclass(frozen=True)
class ProofNodes(Subdomains):
    """Subdomains within boxes.

    Attributes:
        lower, upper: ``(D, n)`` the boxes, no columns where none are halved. Multipliers keep their precision.
        axis: ``(D,)`` the input element to halve next, −1 for none.
    """

    lower: Tensor
    upper: Tensor
    axis: Tensor

    LIGHT: ClassVar[frozenset[str]] = frozenset()


class ProofEvaluation(NamedTuple):
    """Parts after an ascent in a relaxation, of which the ascent's domains name the rows."""

    nodes: ProofNodes
    ascent: Ascent
    relaxed: Relaxed

    def take(self, index: Tensor) -> ProofEvaluation:
        """The same for some of them."""
        return ProofEvaluation(self.nodes.take(index), self.ascent.take(index), self.relaxed)


class ProofSearch(ProofGoal):
    """The search for one proof: its own goal, bounder, brancher and leaf solver.

    Args:
        query: one problem in float64 on the CPU, its region narrowed to the ball of the claimed bound for distances;
            its objective a constant 0 where nothing feasible is claimed.
        target: what every leaf's bound is to reach.
        seconds: after which leaves stay as they are.
        own: boxes are halved, too.
        known: the tree of another search, to start from; None: start from the root. Not used with boxes.
        most: number of nodes beyond which leaves stay as they are.
        checked: the network as the checker reads it, whose limits and lines are taken; None: those of CROWN.
        stranger: nothing but its splits is known of the known tree, all of which are taken.
    """

    def __init__(
        self, query: Query, target: float, seconds: float, own: bool, known: Recorded | None = None,
        most: float = float("inf"), checked: CheckedNetwork | None = None, stranger: bool = False,
    ) -> None:  # fmt: skip
        self.query, self.target, self.own = query, target, own
        self.checked, self.bends = checked, checked is not None and checked.bends
        self.known, self.most, self.stranger = None if own else known, most, stranger
        self.end = deadline.clock() + seconds
        graph = query.graph
        relus = [i for i, node in enumerate(graph.nodes) if node.op.splits_at_zero]
        sizes = [graph.nodes[i].size for i in relus]
        self.starts = dict(zip(relus, np.cumsum([0, *sizes]).tolist()))
        self.tree = SearchTree()
        self.closed: list[tuple[Tensor, Domains]] = []
        self.root = self._relax(query.region)
        self.search: BestFirst[ProofNodes, ProofEvaluation] = BestFirst(
            1, self, self, self, leaf_solver=self, batch=BATCH
        )

    def _relax(self, region: Region) -> Relaxed:
        query = self.query
        if self.own:
            query = replace(query.take(torch.zeros(region.size, dtype=torch.long)), region=region)
        every = {i: torch.arange(query.graph.nodes[i].size) for i in self.starts if i in self._read}
        if self.checked is not None:
            return self.checked.relax(query, every if self.own else None)
        limits = activation_bounds(query.graph, region, query.nodes, stop=self._over)
        return relax_query(query, limits, every if self.own else None)

    @property
    def _read(self) -> list[int]:
        return self.query.graph.ancestors(self.query.nodes)

    @property
    def columns(self) -> Tensor:
        """``(U,)`` the multipliers' places among all ReLUs of the network."""
        parts = [self.starts[k.node] + k.which for k in self.root.kinks]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)

    def run(self) -> None:
        """Search until every leaf is closed, or the time is over: then what is left is closed as it is."""
        first = self._first()
        if self.known is None:
            self.search.plant(first)
        else:
            self._regrow(self.known, first)
        self.search.run()
        rest = self.search.store.nodes()
        if rest is not None and len(rest):
            self.finish(rest)

    @property
    def least(self) -> float:
        """Smallest bound of the leaves that were not closed, infinity without any."""
        least = float(self.search.least)
        return float("inf") if least >= self.target else least

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors of the tree and of its leaves, which lie in the order of their nodes."""
        nodes = torch.cat([nodes for nodes, _ in self.closed])
        leaves = Domains.cat([d for _, d in self.closed]).take(nodes.argsort())
        found = {
            "tree.kind": self.tree.kind.numpy(),
            "tree.index": self.tree.index.numpy(),
            "tree.threshold": self.tree.threshold.numpy(),
            "tree.first": self.tree.first.numpy(),
            "leaf.columns": self.columns.numpy(),
        }
        for name in ("alpha", "beta", "mu"):
            exact = getattr(leaves, name).numpy()
            single = exact.astype(np.float32)
            found[f"leaf.{name}"] = single if (single == exact).all() else exact
        return found

    def _first(self) -> ProofNodes:
        """The root."""
        query = self.query
        numbers = torch.arange(query.atoms.count)
        first = numbers.new_full((query.clauses,), query.atoms.count)
        first = first.scatter_reduce(0, query.clause, numbers, "amin")
        choice = torch.where(query.clause_sizes == 1, first, -1)[None]
        zero = torch.zeros(1, dtype=torch.long)
        return self._parts(fresh_domains(self.root, zero, choice), zero)

    def _parts(self, d: Domains, place: Tensor) -> ProofNodes:
        """Domains of the whole region as nodes."""
        nodes = Subdomains.of(d, torch.zeros(1, dtype=torch.long), place, 1)
        box = self.query.region.lower.flatten(1), self.query.region.upper.flatten(1)
        lower, upper = ((t if self.own else t[:, :0]).expand(len(d), -1) for t in box)
        return ProofNodes(**dict(nodes.columns()), lower=lower, upper=upper, axis=torch.full_like(place, -1))

    def _regrow(self, known: Recorded, first: ProofNodes) -> None:
        """Start from what is still open once the known leaves, with their multipliers, are closed."""
        start, layout = first.choice[0], layout_of(known, self.root)
        grown = regrow(known, layout, start, self.query.clause, self.tree, self.columns)
        for rows in torch.arange(len(grown.place)).split(2 * BATCH):
            domains = fresh_domains(self.root, torch.zeros_like(rows), grown.choice[rows], grown.split[rows])
            domains = with_hints(domains, grown.leaf[rows], known, layout)
            target = self.targets().expand(len(domains))
            steps = LONG if self.stranger else 0
            ascent = ascend(self.root, domains, steps, target=target, stop=self._over)
            nodes = self._parts(ascent.domains, grown.place[rows])
            self.search.settle(ProofEvaluation(nodes, ascent, self.root))
        #: leaves of the known tree that were not closed as they are
        self.left = len(self.search.store)
        if not self.stranger and self.left > (1 - ENOUGH) * len(grown.place):
            raise CertificateError("The known leaves close too little to go on from them.")

    # --- the goal -----------------------------------------------------------------------------------------------------

    def targets(self) -> Tensor:
        """What every leaf's bound is to reach."""
        return torch.tensor([self.target], dtype=torch.float64)

    def finish(self, nodes: Nodes) -> None:
        """Leaves go into the certificate."""
        assert isinstance(nodes, ProofNodes)
        self.closed.append((nodes.place, nodes.domains))

    # --- bounds and splits --------------------------------------------------------------------------------------------

    def bound(self, nodes: ProofNodes, fresh: bool) -> ProofEvaluation:
        """Bounds of the dual function; in boxes by their own limits of activations."""
        relaxed, domains = self.root, nodes.domains
        if self.own:
            relaxed = self._relax(self._boxes(nodes))
            domains = fresh_domains(relaxed, torch.arange(len(nodes)), nodes.choice, nodes.split)
        target = self.targets().expand(len(nodes))
        ascent = ascend(relaxed, domains, STEPS, target=target, stop=self._over)
        return ProofEvaluation(nodes.holding(ascent.domains), ascent, relaxed)

    def refine(self, found: ProofEvaluation) -> ProofEvaluation:
        """As they are."""
        return found

    def priority(self, nodes: ProofNodes) -> Tensor:
        """The newest first: few wait."""
        return torch.zeros_like(nodes.bound)

    def choose(self, found: ProofEvaluation) -> ProofNodes:
        """A clause, an input element where many ReLUs are open, a ReLU."""
        nodes, ascent, relaxed = found
        clause = violated_clause(relaxed, ascent.domains, ascent.point)
        elements, axis = next_elements(relaxed, ascent, 1), torch.full_like(clause, -1)
        open_ = open_elements(relaxed, ascent.domains).sum(1)
        if self.query.clauses:
            undecided = nodes.choice < 0
            exhausted = (clause < 0) & (open_ == 0) & undecided.any(1)
            clause = torch.where(exhausted, undecided.long().argmax(1), clause)
        if self.own:
            rows = (clause < 0) & (nodes.upper > nodes.lower).any(1)
            rows = (rows if self.bends else rows & (open_ > FEW_KINKS)).nonzero().flatten()
            axis[rows] = self._axis(nodes.take(rows))
        return replace(nodes, clause=clause, elements=elements, axis=axis)

    def _axis(self, nodes: ProofNodes) -> Tensor:
        """``(D,)`` the input element of largest width times slope of what is bounded, looked at in the centre."""
        if not len(nodes):
            return nodes.place
        centre = ((nodes.lower + nodes.upper) / 2).reshape(len(nodes), *self.query.graph.input_shape).requires_grad_()
        with torch.enable_grad():
            value, atoms = self.query.take(torch.zeros_like(nodes.place)).evaluate(centre)
            total = (value + (nodes.mu * atoms).sum(1)).sum()
            (slope,) = torch.autograd.grad(total, centre, allow_unused=True) if total.requires_grad else (None,)
        slope = torch.zeros_like(nodes.lower) if slope is None else slope.flatten(1).abs().nan_to_num(1.0, 1.0, 1.0)
        return ((nodes.upper - nodes.lower) * (slope + 0.05 * slope.amax(1, keepdim=True) + 1e-12)).argmax(1)

    def split(self, nodes: ProofNodes) -> Branched[ProofNodes]:
        """Children at clauses, input elements and ReLUs, and leaves."""
        at_clause, at_input = nodes.clause >= 0, nodes.axis >= 0
        at_relu = ~at_clause & ~at_input & (nodes.elements[:, 0] >= 0)
        children = [*self._at_relus(nodes.take(at_relu)), *self._at_inputs(nodes.take(at_input))]
        for c in nodes.clause[at_clause].unique().tolist():
            children += self._at_clause(nodes.take(nodes.clause == c), c)
        leaves = nodes.take(~at_clause & ~at_input & ~at_relu)
        return Branched(ProofNodes.cat(children), leaves=leaves)

    def _at_relus(self, nodes: ProofNodes) -> list[ProofNodes]:
        at = nodes.elements[:, :1]
        places = self.tree.split(nodes.place, AT_RELU, self.columns[at[:, 0]])
        return [
            replace(nodes, place=places[:, k], split=nodes.split.scatter(1, at, sign)) for k, sign in enumerate((1, -1))
        ]

    def _at_inputs(self, nodes: ProofNodes) -> list[ProofNodes]:
        if not len(nodes):
            return []
        at = nodes.axis.unsqueeze(1)
        middle = (nodes.lower.gather(1, at) + nodes.upper.gather(1, at)) / 2
        places = self.tree.split(nodes.place, AT_INPUT, nodes.axis, threshold=middle.flatten())
        below = replace(nodes, place=places[:, 0], upper=nodes.upper.scatter(1, at, middle))
        return [below, replace(nodes, place=places[:, 1], lower=nodes.lower.scatter(1, at, middle))]

    def _at_clause(self, nodes: ProofNodes, clause: int) -> list[ProofNodes]:
        members = (self.query.clause == clause).nonzero().flatten()
        places = self.tree.split(nodes.place, AT_CLAUSE, nodes.clause, len(members))
        found = []
        for k, atom in enumerate(members.tolist()):
            choice, mu = nodes.choice.clone(), nodes.mu.clone()
            choice[:, clause], mu[:, atom] = atom, 1.0
            child = replace(nodes, place=places[:, k], choice=choice, mu=mu, pace=torch.ones_like(nodes.pace))
            found.append(child)
        return found

    def _boxes(self, nodes: ProofNodes) -> Region:
        region = self.query.region
        shape = (len(nodes), *region.lower.shape[1:])
        balls = tuple(ball.take(torch.zeros(len(nodes), dtype=torch.long)) for ball in region.balls)
        return Region(nodes.lower.reshape(shape), nodes.upper.reshape(shape), balls)

    def solve(self, leaves: ProofNodes) -> tuple[ProofNodes, ProofNodes]:
        """One convex program each, whose multipliers are hints."""
        solved = [leaves.take(slice(0))]
        for row in range(len(leaves)):
            leaf = leaves.take(slice(row, row + 1))
            relaxed = self._relax(self._boxes(leaf)) if self.own else self.root
            if is_convex(relaxed.query) and not self._over():
                left = max(0.0, min(LEAF_SECONDS, self.remaining))
                leaf = leaf.holding(solve_leaf(relaxed, leaf.domains, self.target, left)[0])
            solved.append(leaf)
        return ProofNodes.cat(solved), leaves.take(slice(0))


def halves_boxes(query: Query) -> bool:
    """Whether boxes of the input are worth halving: few elements have room."""
    return query.region.free_elements <= FEW_INPUTS
