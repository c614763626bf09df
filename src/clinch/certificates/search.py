"""A proof of one bound by a search of its own, which keeps the tree and the multipliers of every leaf.

The limits of the activations are those that the checker finds again: CROWN's with its own slopes, over the region or
over the boxes it is split into. Better limits that a solve may have used are not part of the proof.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from clinch import deadline
from clinch.bounds.ascent import Ascent, ascend
from clinch.bounds.crown import activation_bounds
from clinch.bounds.domains import Domains, Relaxed, fresh_domains, relax_query
from clinch.certificates.known_tree import aligned, plant
from clinch.certify.tree import AT_CLAUSE, AT_INPUT, AT_RELU, LEAF
from clinch.errors import CertificateError
from clinch.exact.branching import next_elements, open_elements
from clinch.exact.closed_leaves import Leaves
from clinch.exact.leaf import is_convex, solve_leaf
from clinch.geometry.region import Region
from clinch.network.ops.relu import LeakyReLU
from clinch.query import Query

#: dual evaluations of a domain, and domains bounded at once
STEPS, BATCH = 20, 256
#: input elements that have room up to which boxes are halved, and open ReLUs up to which a box is split at them instead
FEW_INPUTS, FEW_KINKS = 16, 40
#: seconds for one convex program
LEAF_SECONDS = 10.0
#: share of known leaves that are to be closed by their multipliers
ENOUGH = 0.4


@dataclass
class Tree:
    """A growing tree, see :func:`clinch.certify.tree.leaves_of`, and the multipliers of closed leaves."""

    kind: list[int] = field(default_factory=lambda: [LEAF])
    index: list[int] = field(default_factory=lambda: [-1])
    threshold: list[float] = field(default_factory=lambda: [0.0])
    first: list[int] = field(default_factory=lambda: [-1])
    closed: list[tuple[Tensor, Domains]] = field(default_factory=list)

    def split(self, nodes: Tensor, kind: int, index: Tensor, threshold: Tensor, children: int) -> Tensor:
        """Split leaves, each into so many; returns the new nodes ``(D, children)``."""
        new = len(self.kind) + torch.arange(len(nodes) * children).reshape(-1, children)
        for node, at, t, first in zip(nodes.tolist(), index.tolist(), threshold.tolist(), new[:, 0].tolist()):
            self.kind[node], self.index[node], self.threshold[node], self.first[node] = kind, at, t, first
        count = new.numel()
        for column, empty in ((self.kind, LEAF), (self.index, -1), (self.threshold, 0.0), (self.first, -1)):
            column.extend([empty] * count)  # type: ignore[list-item]
        return new

    def tensors(self, columns: Tensor) -> dict[str, np.ndarray]:
        """The tensors of the tree and of its leaves, which lie in the order of their nodes."""
        nodes = torch.cat([nodes for nodes, _ in self.closed])
        leaves = Domains.cat([d for _, d in self.closed]).take(nodes.argsort())
        found = {
            "tree.kind": np.array(self.kind, np.uint8),
            "tree.index": np.array(self.index, np.int64),
            "tree.threshold": np.array(self.threshold),
            "tree.first": np.array(self.first, np.int64),
            "leaf.columns": columns.numpy(),
        }
        for name in ("alpha", "beta", "mu"):
            exact = getattr(leaves, name).numpy()
            single = exact.astype(np.float32)
            found[f"leaf.{name}"] = single if (single == exact).all() else exact
        return found


@dataclass
class Open:
    """Domains that wait: their nodes in the tree, and the boxes they lie in, ``(D, n)``; no columns without boxes."""

    node: Tensor
    domains: Domains
    lower: Tensor
    upper: Tensor

    def take(self, index: Tensor | slice) -> Open:
        """The chosen ones."""
        at = torch.arange(len(self.node))[index]
        return Open(self.node[at], self.domains.take(at), self.lower[at], self.upper[at])

    @staticmethod
    def cat(parts: list[Open]) -> Open:
        """All of them."""
        columns = ([getattr(p, name) for p in parts] for name in ("node", "lower", "upper"))
        node, lower, upper = (torch.cat(list(c)) for c in columns)
        return Open(node, Domains.cat([p.domains for p in parts]), lower, upper)


class Search:
    """The search for one proof.

    Args:
        query: one problem in float64 on the CPU, its region narrowed to the ball of the claimed bound for distances;
            its objective a constant 0 where nothing feasible is claimed.
        target: what every leaf's bound is to reach.
        seconds: after which leaves stay as they are.
        own: boxes are halved, too.
        known: leaves that another search has closed, to start from; None: start from the root. Not used with boxes.
        most: number of nodes beyond which leaves stay as they are.
    """

    def __init__(
        self, query: Query, target: float, seconds: float, own: bool, known: Leaves | None = None,
        most: float = float("inf"),
    ) -> None:  # fmt: skip
        self.query, self.target, self.own = query, target, own
        self.known, self.most = None if own else known, most
        self.end = deadline.clock() + seconds
        graph = query.graph
        relus = [i for i, node in enumerate(graph.nodes) if isinstance(node.op, LeakyReLU)]
        sizes = [graph.nodes[i].size for i in relus]
        self.starts = dict(zip(relus, np.cumsum([0, *sizes]).tolist()))
        self.tree = Tree()
        #: smallest bound of leaves that were not closed
        self.least = float("inf")
        self.root = self._relax(query.region)

    def _relax(self, region: Region) -> Relaxed:
        query = self.query
        if self.own:
            query = replace(query.take(torch.zeros(region.size, dtype=torch.long)), region=region)
        limits = activation_bounds(query.graph, region, query.nodes, stop=self._over)
        every = {i: torch.arange(query.graph.nodes[i].size) for i in self.starts if i in self._read}
        return relax_query(query, limits, every if self.own else None)

    @property
    def _read(self) -> list[int]:
        return self.query.graph.ancestors(self.query.nodes)

    @property
    def columns(self) -> Tensor:
        """``(U,)`` the multipliers' places among all ReLUs of the network."""
        parts = [self.starts[k.node] + k.which for k in self.root.kinks]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)

    def _over(self) -> bool:
        return deadline.clock() > self.end or len(self.tree.kind) > self.most

    def run(self) -> None:
        """Search until every leaf is closed, or the time is over."""
        waiting = self._first() if self.known is None else self._replanted(self.known)
        while len(waiting.node):
            part, waiting = waiting.take(slice(-BATCH, None)), waiting.take(slice(None, -BATCH))
            relaxed = self._relax(self._boxes(part)) if self.own else self.root
            domains = part.domains
            if self.own:
                domains = fresh_domains(relaxed, torch.arange(len(part.node)), domains.choice, domains.split)
            ascent = ascend(
                relaxed,
                domains,
                STEPS,
                target=torch.full((len(domains),), self.target, dtype=torch.float64),
                stop=self._over,
            )
            done = ascent.domains.bound >= self.target
            if self._over():
                self.least = min(self.least, float(ascent.domains.bound.min()))
                done = torch.ones_like(done)
            self._close(part.node[done], ascent.domains.take(done.nonzero().flatten()))
            rest = (~done).nonzero().flatten()
            if len(rest):
                waiting = Open.cat([waiting, *self._split(relaxed, ascent.take(rest), part.take(rest))])

    def _first(self) -> Open:
        query = self.query
        count = query.atoms.count
        numbers = torch.arange(count)
        first = numbers.new_full((query.clauses,), count).scatter_reduce(0, query.clause, numbers, "amin")
        choice = torch.where(query.clause_sizes == 1, first, -1)[None]
        domains = fresh_domains(self.root, torch.zeros(1, dtype=torch.long), choice)
        box = query.region.lower.flatten(1), query.region.upper.flatten(1)
        lower, upper = box if self.own else (t[:, :0] for t in box)
        return Open(torch.zeros(1, dtype=torch.long), domains, lower, upper)

    def _replanted(self, known: Leaves) -> Open:
        """What is still open once the known leaves, with their multipliers, are closed."""
        start = self._first().domains.choice[0]
        hints = aligned(known, self.root)
        d = hints.domains

        def divide(nodes: Tensor, index: Tensor, at_clause: bool, children: int) -> Tensor:
            index = index if at_clause else self.columns[index]
            return self.tree.split(nodes, AT_CLAUSE if at_clause else AT_RELU, index, torch.zeros(len(nodes)), children)

        planted = plant(d.split, d.choice, start, self.query.clause, divide)
        rest = []
        for rows in torch.arange(len(planted.node)).split(BATCH):
            domains = fresh_domains(self.root, torch.zeros_like(rows), planted.choice[rows], planted.split[rows])
            domains = hints.given(domains, planted.leaf[rows])
            ascent = ascend(self.root, domains, 0)
            done = ascent.domains.bound >= self.target
            self._close(planted.node[rows[done]], ascent.domains.take(done.nonzero().flatten()))
            part = Open(planted.node[rows], ascent.domains, *(torch.zeros(len(rows), 0),) * 2)
            rest.append(part.take((~done).nonzero().flatten()))
        waiting = Open.cat(rest)
        if len(waiting.node) > (1 - ENOUGH) * len(planted.node):
            raise CertificateError("The known leaves close too little to go on from them.")
        return waiting

    def _boxes(self, part: Open) -> Region:
        region = self.query.region
        shape = (len(part.node), *region.lower.shape[1:])
        balls = tuple(ball.take(torch.zeros(len(part.node), dtype=torch.long)) for ball in region.balls)
        return Region(part.lower.reshape(shape), part.upper.reshape(shape), balls)

    def _close(self, nodes: Tensor, domains: Domains) -> None:
        self.tree.closed.append((nodes, domains))

    def _split(self, relaxed: Relaxed, ascent: Ascent, part: Open) -> list[Open]:
        """Children of domains that are not closed, at a clause, at a ReLU or at an input element."""
        clause = self._clause(relaxed, ascent)
        element = next_elements(relaxed, ascent, 1)[:, 0]
        at_clause, at_input = clause >= 0, torch.zeros_like(clause, dtype=torch.bool)
        if self.own:
            many = open_elements(relaxed, ascent.domains).sum(1) > FEW_KINKS
            at_input = ~at_clause & many & (part.upper > part.lower).any(1)
        at_kink = ~at_clause & ~at_input & (element >= 0)
        part = Open(part.node, ascent.domains, part.lower, part.upper)
        children = self._at_inputs(part, at_input.nonzero().flatten(), relaxed)
        children += self._at_kinks(part, at_kink.nonzero().flatten(), element)
        for c in clause[at_clause].unique().tolist():
            children += self._at_clause(part, (clause == c).nonzero().flatten(), c)
        for row in (~at_clause & ~at_input & ~at_kink).nonzero().flatten().tolist():
            self._program(relaxed, part.take(slice(row, row + 1)))
        return children

    def _clause(self, relaxed: Relaxed, ascent: Ascent) -> Tensor:
        """``(D,)`` the undecided clause that the minimiser violates most, the first one where the rest is exhausted."""
        d, query = ascent.domains, relaxed.query
        none = torch.full_like(d.problem, -1)
        undecided = d.choice < 0
        if not query.clauses or not bool(undecided.any()):
            return none
        with torch.no_grad():
            _, atoms = query.take(d.problem).evaluate(ascent.point)
        worst, clause = torch.where(undecided, query.clause_values(atoms), -torch.inf).max(1)
        nothing_else = ~open_elements(relaxed, d).any(1)
        return torch.where(undecided.any(1) & ((worst > 0) | nothing_else), clause, none)

    def _at_clause(self, part: Open, rows: Tensor, clause: int) -> list[Open]:
        members = (self.query.clause == clause).nonzero().flatten()
        nodes = self.tree.split(
            part.node[rows], AT_CLAUSE, torch.full_like(rows, clause), torch.zeros(len(rows)), len(members)
        )
        found = []
        for k, atom in enumerate(members.tolist()):
            child = part.take(rows)
            d = child.domains
            d.choice[:, clause] = atom
            mu = d.mu.clone()
            mu[:, atom] = 1.0
            found.append(replace(child, node=nodes[:, k], domains=replace(d, mu=mu, pace=torch.ones_like(d.pace))))
        return found

    def _at_kinks(self, part: Open, rows: Tensor, element: Tensor) -> list[Open]:
        if not len(rows):
            return []
        at = element[rows]
        nodes = self.tree.split(part.node[rows], AT_RELU, self.columns[at], torch.zeros(len(rows)), 2)
        found = []
        for k, side in enumerate((1, -1)):
            child = part.take(rows)
            child.domains.split[torch.arange(len(rows)), at] = side
            found.append(replace(child, node=nodes[:, k]))
        return found

    def _at_inputs(self, part: Open, rows: Tensor, relaxed: Relaxed) -> list[Open]:
        """Halves along the element of largest width times slope of what is bounded, looked at in the centre."""
        if not len(rows):
            return []
        part = part.take(rows)
        centre = ((part.lower + part.upper) / 2).reshape(len(rows), *self.query.graph.input_shape).requires_grad_()
        with torch.enable_grad():
            value, atoms = relaxed.query.take(rows).evaluate(centre)
            total = (value + (part.domains.mu * atoms).sum(1)).sum()
            (slope,) = torch.autograd.grad(total, centre, allow_unused=True) if total.requires_grad else (None,)
        slope = torch.zeros_like(part.lower) if slope is None else slope.flatten(1).abs().nan_to_num(1.0, 1.0, 1.0)
        score = (part.upper - part.lower) * (slope + 0.05 * slope.amax(1, keepdim=True) + 1e-12)
        at = score.argmax(1, keepdim=True)
        middle = (part.lower.gather(1, at) + part.upper.gather(1, at)) / 2
        nodes = self.tree.split(part.node, AT_INPUT, at.flatten(), middle.flatten(), 2)
        below = replace(part, node=nodes[:, 0], upper=part.upper.scatter(1, at, middle))
        return [below, replace(part, node=nodes[:, 1], lower=part.lower.scatter(1, at, middle))]

    def _program(self, relaxed: Relaxed, part: Open) -> None:
        """A domain without anything to split: one convex program, whose multipliers are hints."""
        leaf = part.domains
        if is_convex(relaxed.query) and not self._over():
            left = max(0.0, min(LEAF_SECONDS, self.end - deadline.clock()))
            leaf, _ = solve_leaf(relaxed, leaf, self.target, left)
        if not bool(leaf.bound >= self.target):
            self.least = min(self.least, float(leaf.bound))
        self._close(part.node, leaf)


def halves_boxes(query: Query) -> bool:
    """Whether boxes of the input are worth halving: few elements have room."""
    return query.region.free_elements <= FEW_INPUTS
