"""A proof over splits of the input and of what any layer that is not affine reads, from the tree of a search or anew.

The recorded splits of :mod:`clinch.search.general_split` are made again, and every leaf is given to the checker with
the multipliers that closed it. Leaves that it does not accept, as its limits are wider or its rounding costs more, are
split on. What a search has cut off from boxes is part of the leaves here; what no record has begins at the root.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clinch.certificates.checked_lines import CheckedNetwork
from clinch.certificates.checked_parts import CheckedBounder, ProofParts
from clinch.certificates.proof_goal import ProofGoal
from clinch.checker.question import CertifiedQuery, input_ends
from clinch.errors import CertificateError
from clinch.query import Query
from clinch.runtime import deadline
from clinch.search.branch_and_bound import BestFirst, Branched
from clinch.search.node_store import Nodes
from clinch.search.part_bounding import PartEvaluation
from clinch.search.part_branching import PartBrancher
from clinch.search.part_record import RecordedParts, cuts_to
from clinch.search.parts import Parts
from clinch.search.relu_branching import decided
from clinch.search.tree import AT_CLAUSE, AT_INPUT, AT_NODE, LEAF, SearchTree

#: parts bounded at once
BATCH = 128


class Claimed(NamedTuple):
    """What a proof is to show.

    Attributes:
        query: one problem in float64 on the CPU; of a distance its region is narrowed to the ball of the bound.
        certified: the same in the checker's numbers.
        bound: of a linear objective; None: nothing is to be feasible.
        target: of the dual function, a little more than the bound.
    """

    query: Query
    certified: CertifiedQuery
    bound: float | None
    target: float


class PartProof(ProofGoal):
    """The search for one proof: its own goal; bounded by :class:`clinch.certificates.checked_parts.CheckedBounder`.

    Args:
        claimed: what is to be shown.
        seconds: after which leaves stay as they are.
        known: the tree to start from; None: the root.
        most: number of nodes beyond which leaves stay as they are.
        checked: the network as the checker reads it.
    """

    def __init__(
        self, claimed: Claimed, seconds: float, known: RecordedParts | None, most: float, checked: CheckedNetwork
    ) -> None:
        self.claimed, self.known, self.most = claimed, known, most
        self.end = deadline.clock() + seconds
        query = claimed.query
        bounder = CheckedBounder(query, claimed.certified, checked, claimed.bound, claimed.target, self._over)
        if known is not None and known.layout is None:
            # what splits of the input alone have closed they close once more
            bounder.settings = replace(bounder.settings, nodes=False)
        self.bounder, self.tree = bounder, SearchTree()
        self.closed: list[ProofParts] = []
        width = (query.region.upper - query.region.lower).flatten(1)
        self.brancher = ProofBrancher(bounder, bounder.settings, width, self.tree)
        self.search: BestFirst[Parts, PartEvaluation] = BestFirst(1, self, bounder, self.brancher, batch=BATCH // 2)

    def run(self) -> None:
        """Search until every leaf is closed, or the time is over: then what is left is closed as it is."""
        root = self._root()
        if self.known is None:
            self.search.plant(root)
        else:
            leaves = regrown(self.known, root, self.brancher)
            for rows in torch.arange(len(leaves)).split(BATCH):
                if self._over():
                    raise CertificateError("The known leaves were not closed once more within the time.")
                self.search.settle(self._first(leaves.take(rows)))
        self.search.run()
        rest = self.search.store.nodes()
        if rest is not None and len(rest):
            self.finish(rest)

    def _first(self, leaves: ProofParts) -> PartEvaluation:
        """Leaves as the checker sees them, split at a clause none of whose atoms can hold where there is one."""
        bounder, query = self.bounder, self.claimed.query
        seen, every = bounder.seen(leaves), torch.arange(len(leaves))
        open_ = leaves.choice < 0
        if bounder.claim is None and bool(open_.any()):
            least = bounder.conditions(seen.network)
            worst = torch.full_like(open_, torch.inf, dtype=least.dtype)
            worst = worst.scatter_reduce(1, query.clause.expand_as(least), least, "amin")
            worst = worst.masked_fill(~open_, -torch.inf)
            found = (leaves.mu.isnan().all(1) & (worst.amax(1) > 0)).nonzero().flatten()
            if len(found):
                chosen = replace(leaves.take(found), clause=worst[found].argmax(1))
                owner = (query.clause.unsqueeze(0) == chosen.clause.unsqueeze(1)).nonzero()[:, 0]
                others = every[~torch.isin(every, found)]
                leaves = ProofParts.cat([leaves.take(others), self.brancher.atoms(chosen)])
                seen = seen.take(torch.cat([others, found[owner]]))
                seen = seen._replace(leaves=seen.leaves._replace(choice=leaves.choice.numpy()))
        return bounder.bound(leaves, fresh=False, seen=seen)

    def _root(self) -> ProofParts:
        query, bounder = self.claimed.query, self.bounder
        layout, region = bounder.layout, query.region
        whole = Parts.whole(
            region.lower, region.upper, decided(query), layout.width, layout.freedom, query.atoms.count
        )  # fmt: skip
        slopes = torch.zeros(1, bounder.numbers.width)
        kept = torch.stack([region.lower.flatten(1), region.upper.flatten(1)], 1)
        plain = torch.zeros(1, dtype=torch.bool)
        return ProofParts(**dict(whole.columns()), cuts=whole.limits.clone(), slopes=slopes, kept=kept, plain=plain)

    @property
    def least(self) -> float:
        """Smallest bound of the leaves that were not closed, infinity without any."""
        return float(self.search.least)

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors of the tree and of its leaves, which lie in the order of their nodes."""
        leaves, tree = ProofParts.cat(self.closed), self.tree
        leaves = leaves.take(leaves.place.argsort())
        which = torch.unique(tree.index[tree.kind == AT_NODE])
        found = {
            "tree.kind": tree.kind.numpy(), "tree.index": tree.index.numpy(),
            "tree.threshold": tree.threshold.numpy(), "tree.first": tree.first.numpy(),
            "leaf.columns": self.bounder.columns_of(leaves),
        }  # fmt: skip
        for name, exact in self.bounder.numbers_of(leaves, which).items():
            single = exact.astype(np.float32)
            # without slopes the checker looks for some of its own
            if exact.size or name != "leaf.slopes":
                found[name] = single if (single == exact).all() else exact
        return found

    # --- the goal -----------------------------------------------------------------------------------------------------

    def targets(self) -> Tensor:
        """What every leaf's bound is to reach: those that the checker accepts are infinite."""
        return torch.tensor([torch.inf], dtype=torch.float64)

    def finish(self, nodes: Nodes) -> None:
        """Leaves go into the certificate."""
        assert isinstance(nodes, ProofParts)
        self.closed.append(nodes)


class ProofBrancher(PartBrancher):
    """Splits parts in two at what the checker can split, and writes that down with its numbers."""

    bounder: CheckedBounder
    tree: SearchTree

    def split(self, nodes: Parts) -> Branched[Parts]:
        """Two sides of elements, a child per atom of clauses; leaves."""
        assert isinstance(nodes, ProofParts)
        gap = torch.where(nodes.clause >= 0, -1, self.gap(nodes, nodes.element, nodes.point))
        at_gap, at_clause, at_element = gap >= 0, nodes.clause >= 0, nodes.element >= 0
        fresh = self.atoms(nodes.take(at_clause)) if bool(at_clause.any()) else None
        leaves = nodes.take(~at_clause & ~at_element)
        rest, outside = self._cut_down(nodes.take(~at_clause & ~at_gap & at_element))
        sides = [self.atoms(replace(nodes, clause=gap).take(at_gap))] if bool(at_gap.any()) else []
        return Branched(ProofParts.cat([self.halved(rest), *sides, *outside]), fresh, leaves if len(leaves) else None)

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """What atoms say of one input element: which, its least and its largest value."""
        with np.errstate(all="ignore"):
            element, least, most = map(torch.from_numpy, input_ends(self.bounder.certified))
        return element, least, most

    @cached_property
    def gaps(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clauses that leave a gap between an element's values: which, the element, where the gap begins and ends."""
        element, least, most = self.ends
        pairs = [(c, *atoms.tolist()) for c, atoms in enumerate(self.bounder.certified.clauses) if len(atoms) == 2]
        clause, low, high = torch.tensor(pairs, dtype=torch.long).reshape(-1, 3).unbind(1)
        some = (element[low] == element[high]) & most[low].isfinite() & least[high].isfinite()
        clause, low, high = clause[some], low[some], high[some]
        return clause, element[low], most[low], least[high]

    def gap(self, nodes: ProofParts, element: Tensor, point: Tensor) -> Tensor:
        """``(D,)`` the clause of an undecided gap in which parts are to be split at a point; −1: there is none."""
        clause, of, begins, ends = self.gaps
        if not len(clause):
            return torch.full_like(element, -1)
        point = point.unsqueeze(1)
        there = (element.unsqueeze(1) == of) & (begins <= point) & (point <= ends) & (nodes.choice[:, clause] < 0)
        return torch.where(there.any(1), clause[there.long().argmax(1)], -1)

    def atoms(self, nodes: Parts) -> ProofParts:
        """One part per atom, in the box that the atom leaves."""
        made = super().atoms(nodes)
        assert isinstance(made, ProofParts)
        # the children of a part are those at its clause
        asked = (self.bounder.query.clause.unsqueeze(0) == nodes.clause.unsqueeze(1)).nonzero()[:, 1]
        element, (low, high) = self.ends[0][asked].unsqueeze(1), (made.lower.flatten(1), made.upper.flatten(1))
        sides = []
        for box, end in zip((low, high), self.ends[1:]):
            least, most = (t.gather(1, element) for t in (low, high))
            sides.append(box.scatter(1, element, torch.clamp(end[asked].unsqueeze(1), least, most)))
            low = sides[0]
        lower, upper = (side.reshape(made.lower.shape) for side in sides)
        return replace(made, lower=lower, upper=upper)

    def _cut_down(self, nodes: ProofParts) -> tuple[ProofParts, list[ProofParts]]:
        """Parts cut down to what is kept of their boxes, and what is cut off: the same multipliers close that."""
        outside = []
        element, point = nodes.element, nodes.point
        low, high = nodes.lower.flatten(1), nodes.upper.flatten(1)
        for cut in cuts_to(low, high, *nodes.kept.unbind(1)):
            both = self.halved(replace(nodes.take(cut.rows), element=cut.element, point=cut.point))
            inner = torch.arange(len(cut.rows)) + len(cut.rows) * (~cut.above).long()
            outer = torch.arange(len(cut.rows)) + len(cut.rows) * cut.above.long()
            outside.append(both.take(outer))
            rest = torch.ones(len(nodes), dtype=torch.bool).index_fill(0, cut.rows, False).nonzero().flatten()
            order = torch.cat([rest, cut.rows]).argsort()
            nodes = ProofParts.cat([nodes.take(rest), both.take(inner)]).take(order)
        low, high = (
            t.flatten(1).gather(1, element.clamp(max=low.shape[1] - 1).unsqueeze(1))[:, 0]
            for t in (nodes.lower, nodes.upper)
        )
        moved = (element < self.bounder.inputs) & ((point <= low) | (point >= high))
        return replace(nodes, element=element, point=torch.where(moved, (low + high) / 2, point)), outside

    def number(self, element: Tensor) -> Tensor:
        """What the checker calls an element: an activation, or −1 − k for input element k."""
        inputs, sites = self.bounder.inputs, self.bounder.numbers.sites
        if not len(sites):
            return -1 - element
        return torch.where(element >= inputs, sites[(element - inputs).clamp(min=0)], -1 - element)

    def halved(self, nodes: ProofParts) -> ProofParts:
        """Both sides of every part's split, all lower sides first."""
        number = self.number(nodes.element)
        at_input, places = number < 0, torch.zeros(len(nodes), 2, dtype=torch.long)
        index = torch.where(at_input, -1 - number, number)
        for kind, rows in ((AT_INPUT, at_input.nonzero().flatten()), (AT_NODE, (~at_input).nonzero().flatten())):
            if len(rows):
                places[rows] = self.tree.split(nodes.place[rows], kind, index[rows], threshold=nodes.point[rows])
        return ProofParts.cat([self.side(nodes, side, places[:, k]) for k, side in enumerate((-1, 1))])

    def side(self, nodes: ProofParts, side: int, place: Tensor) -> ProofParts:
        """One side of every part's split: −1 "at most", 1 "at least"."""
        number, point = self.number(nodes.element), nodes.point.unsqueeze(1)
        at, k = (-1 - number).clamp(min=0).unsqueeze(1), int(side < 0)
        box = (nodes.upper if side < 0 else nodes.lower).flatten(1)
        moved = torch.where((number < 0).unsqueeze(1), point, box.gather(1, at))
        box = box.scatter(1, at, moved).reshape(nodes.lower.shape)
        # wherever else the same activation is read
        same = (self.bounder.numbers.sites == number.unsqueeze(1)) & (number >= 0).unsqueeze(1)
        cuts = nodes.cuts.clone()
        cuts[:, k] = torch.where(same, point, cuts[:, k])
        changed = {"upper": box} if side < 0 else {"lower": box}
        return replace(
            nodes, cuts=cuts, cut=nodes.cut | same, side=torch.full_like(nodes.side, side), place=place, **changed
        )


def regrown(known: RecordedParts, root: ProofParts, brancher: ProofBrancher) -> ProofParts:
    """The leaves of a recorded tree, which is grown once more from its root, with the multipliers known of them.

    Whatever is recorded, what is grown covers everything. A split outside of what splits have left leaves one child.
    """
    tree, hints = known.tree, known.parts
    row_of = torch.full((len(tree),), -1)
    if hints is not None:
        there = (hints.place >= 0) & (hints.place < len(tree))
        row_of[hints.place[there]] = there.nonzero().flatten()
    at, nodes, done = torch.tensor([known.root]), root, []
    while len(at):
        kind, first = tree.kind[at], tree.first[at]
        after = (first > at) & (first + 1 < len(tree))
        element = _elements(known, at, brancher)
        # splits between the values of discrete elements are conditions here
        clause_at = torch.where(kind == AT_CLAUSE, tree.index[at], brancher.gap(nodes, element, tree.threshold[at]))
        at_clause = after & _undecided(nodes, clause_at)
        halved = after & (element >= 0) & ~at_clause
        ended = ~halved & ~at_clause
        done.append(_with_hints(nodes.take(ended), hints, row_of[at[ended]]))
        halves = nodes.take(halved), element[halved], tree.threshold[at[halved]], first[halved]
        parts = [_halves(*halves, tree.kind[first[halved]] == LEAF, brancher)]
        if bool(at_clause.any()):
            rows = at_clause.nonzero().flatten()
            chosen = replace(nodes.take(rows), clause=clause_at[rows])
            clause = brancher.bounder.query.clause
            owner, atom = (clause.unsqueeze(0) == chosen.clause.unsqueeze(1)).nonzero(as_tuple=True)
            side = (clause.unsqueeze(0) == clause.unsqueeze(1)).tril(-1).sum(1)
            parts.append((brancher.atoms(chosen), first[rows][owner] + side[atom]))
        nodes, at = ProofParts.cat([part for part, _ in parts]), torch.cat([where for _, where in parts])
        inside = at < len(tree)
        done.append(nodes.take(~inside))
        nodes, at = nodes.take(inside), at[inside]
    return ProofParts.cat(done)


def _elements(known: RecordedParts, at: Tensor, brancher: ProofBrancher) -> Tensor:
    """``(D,)`` what recorded nodes split, as parts number it; −1 where that is nothing that the checker can split."""
    tree, layout, bounder = known.tree, known.layout, brancher.bounder
    kind, node, index = tree.kind[at], tree.node[at], tree.index[at]
    found = torch.where((kind == AT_INPUT) & (index < bounder.inputs), index, -1)
    for j, columns in ({} if layout is None else layout.sites).items():
        here = (kind == AT_NODE) & (node == j) & (index >= 0) & (index < columns.stop - columns.start)
        found = torch.where(here, bounder.inputs + columns.start + index, found)
    unsplittable = torch.cat([torch.zeros(bounder.inputs, dtype=torch.bool), bounder.unsplittable])
    return torch.where((found >= 0) & unsplittable[found.clamp(min=0)], -1, found)


def _undecided(nodes: ProofParts, clause: Tensor) -> Tensor:
    """``(D,)`` whether a clause has several atoms, none of which is chosen."""
    count = nodes.choice.shape[1]
    if not count:
        return torch.zeros_like(clause, dtype=torch.bool)
    there = (clause >= 0) & (clause < count)
    return there & (nodes.choice.gather(1, torch.where(there, clause, 0).unsqueeze(1))[:, 0] < 0)


def _halves(
    nodes: ProofParts, element: Tensor, point: Tensor, first: Tensor, ended: Tensor, brancher: ProofBrancher
) -> tuple[ProofParts, Tensor]:
    """Children, or the one child that there is, and where they are in the record; of a point of a box both are there,
    of which the first is not taken where it has ``ended`` in the record."""
    nodes = replace(nodes, element=element, point=point)
    number, inputs = brancher.number(element), brancher.bounder.inputs
    low, high = nodes.lower.flatten(1), nodes.upper.flatten(1)
    box = (-1 - number).clamp(min=0).unsqueeze(1)
    low, high = low.gather(1, box)[:, 0], high.gather(1, box)[:, 0]
    if nodes.cuts.shape[2]:
        own = nodes.cuts.gather(2, (element - inputs).clamp(min=0)[:, None, None].expand(-1, 2, 1))[:, :, 0]
        low, high = torch.where(number < 0, low, own[:, 0]), torch.where(number < 0, high, own[:, 1])
    inside = (low <= point) & (point <= high) & ((number >= 0) | ((low < point) & (point < high)))
    second = torch.where((low == point) & (point == high), ended, point <= low)
    rest, where = nodes.take(~inside), first[~inside] + second[~inside].long()
    return ProofParts.cat([brancher.halved(nodes.take(inside)), rest]), torch.cat(
        [first[inside], first[inside] + 1, where]
    )


def _with_hints(nodes: ProofParts, hints: Parts | None, row: Tensor) -> ProofParts:
    """Parts with the multipliers of recorded leaves ``(D,)``; −1: none is known."""
    if hints is None or not len(hints):
        return nodes
    # gaps between values are conditions here, which come last
    more = nodes.mu.shape[1] - hints.mu.shape[1]
    hints = replace(hints, mu=torch.nn.functional.pad(hints.mu, (0, max(more, 0))))
    if any(getattr(hints, name).shape[1] != getattr(nodes, name).shape[1] for name in ("alpha", "beta", "mu")):
        return nodes
    hint, has = hints.take(row.clamp(min=0)), (row >= 0).unsqueeze(1)
    alpha, beta, mu = (
        torch.where(has & theirs.isfinite(), theirs.to(own), own)
        for theirs, own in ((hint.alpha, nodes.alpha), (hint.beta, nodes.beta), (hint.mu, nodes.mu))
    )
    return replace(nodes, alpha=alpha, beta=beta, mu=mu)
