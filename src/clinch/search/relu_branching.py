"""Where to split a domain: the open kink whose relaxation loses most at the bound's own minimiser."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from clinch.bounds.ascent import Ascent
from clinch.bounds.domains import Domains, Relaxed, fresh_domains
from clinch.bounds.dual import evaluate
from clinch.network.ops.base import Interval
from clinch.query import Activations, Distance, Query
from clinch.search.branch_and_bound import Branched
from clinch.search.dual_bounding import DualBounder, DualEvaluation, Subdomains
from clinch.search.tree import AT_CLAUSE, AT_RELU, SearchTree

#: coefficients below this share of the largest are rounding
NOTHING = 1e-9
#: weight of elements whose lower line is in use
LOWER_LINE = 1e-2


def open_elements(relaxed: Relaxed, d: Domains) -> Tensor:
    """``(D, U)`` elements that are neither split nor stable in their problem."""
    open_ = relaxed.unstable[d.problem] & (d.split == 0)
    return open_ & (d.held[:, 0] < 0) & (d.held[:, 1] > 0) if d.held.shape[2] else open_


def relaxation_loss(relaxed: Relaxed, ascent: Ascent) -> Tensor:
    """``|A|·|line(ẑ) − f(ẑ)|`` of every open element at the minimiser, ``(D, U)``; −1 where nothing is open.

    ``ẑ`` is the element's true input there, ``A`` the coefficient of its output in the bound, where every chosen atom
    that the minimiser breaks counts with an additional weight of one: the relaxation holds it satisfied, so that its
    own multiplier may be zero, and only a tighter relaxation of it can move the bound. So it is with signs of split
    elements where a domain is stuck: what they depend on is split next. Where every loss vanishes (the
    minimiser sits on kinks) the area of the relaxation, ``|A|·chord offset``, breaks the tie.

    Under a distance a stalled domain is looked at in the centre instead: its minimiser is that of its parent, and what
    loses most there was split already without help. (On the monitor problem of the benchmarks two of ten images are not
    closed without this.)
    """
    d, graph = ascent.domains, relaxed.query.graph
    inputs = {k.node: graph.nodes[k.node].inputs[0] for k in relaxed.kinks}
    activations = graph.forward(_looked_at(relaxed, ascent), [*inputs.values(), *relaxed.query.atoms.nodes])
    at_kinks = [activations[inputs[kink.node]].flatten(1)[:, kink.which] for kink in relaxed.kinks]
    all_rows = _rows_with_broken_conditions(relaxed, ascent, activations, at_kinks)
    parts = []
    for kink, z in zip(relaxed.kinks, at_kinks):
        op = kink.op
        bounds: Interval = d.inside(kink)
        low_slope, low_offset, high_slope, high_offset = op.relax_with(bounds, d.alpha[:, kink.columns])
        rows, exact = all_rows[:, kink.columns], op.forward(z)
        used = torch.where(rows >= 0, low_slope * z + low_offset, high_slope * z + high_offset)
        parts.append(rows.abs() * ((used - exact).abs() + 1e-4 * high_offset))
    loss = torch.cat(parts, 1) if parts else ascent.rows
    return torch.where(open_elements(relaxed, d), loss + 1e-30, -1.0)


def intercepts(relaxed: Relaxed, ascent: Ascent) -> Tensor:
    """``[−A]₊·u·(−l)/(u − l)`` of every open element, ``(D, U)``: what the offset of its upper line costs the bound; −1
    where nothing is open.

    The main term of BaBSR (Bunel et al. 2020, arXiv 1909.06588), with coefficients ``A`` of the element's output at the
    best multipliers, so that no pass over the network is needed. Elements whose lower line is in use, which slopes can
    turn, count for little.
    """
    d, parts = ascent.domains, []
    for kink in relaxed.kinks:
        rows, bounds = ascent.rows[:, kink.columns], d.inside(kink)
        offset = kink.op.relax_with(bounds, torch.ones_like(rows)).upper_offset
        parts.append(torch.where(rows < 0, -rows, LOWER_LINE * rows) * offset)
    loss = torch.cat(parts, 1) if parts else ascent.rows
    return torch.where(open_elements(relaxed, d), loss + 1e-30, -1.0)


def split_scores(relaxed: Relaxed, ascent: Ascent) -> Tensor:
    """What splitting each open element is worth, ``(D, U)``, −1 where nothing is open: its intercept, for which a
    search of convolutional networks needs a third to a sixth of the subdomains that losses need; its loss where no open
    element has a coefficient.
    """
    scores = intercepts(relaxed, ascent)
    at = stuck(relaxed, ascent).nonzero().flatten()
    return scores.index_copy(0, at, relaxation_loss(relaxed, ascent.take(at))) if len(at) else scores


def stuck(relaxed: Relaxed, ascent: Ascent) -> Tensor:
    """``(D,)`` domains whose bound depends on no open element."""
    if not relaxed.width:
        return torch.zeros_like(ascent.stalled)
    rows = ascent.rows.abs()
    at_open = torch.where(open_elements(relaxed, ascent.domains), rows, 0.0).amax(1)
    return at_open <= NOTHING * rows.amax(1)


def next_elements(relaxed: Relaxed, ascent: Ascent, levels: int) -> Tensor:
    """``(D, levels)`` the open elements to split next, the best first, −1 where there is none."""
    nothing = ascent.domains.problem.new_full((len(ascent.domains), levels), -1)
    if not relaxed.width or not bool(open_elements(relaxed, ascent.domains).any()):
        return nothing
    loss, element = split_scores(relaxed, ascent).topk(min(levels, relaxed.width), 1)
    nothing[:, : element.shape[1]] = element.masked_fill(loss < 0, -1)
    return nothing


def _looked_at(relaxed: Relaxed, ascent: Ascent) -> Tensor:
    """``(D, *input_shape)`` the points at which losses are compared."""
    objective = relaxed.query.objective
    if not isinstance(objective, Distance) or not bool(ascent.stalled.any()):
        return ascent.point
    stalled = ascent.stalled.view(-1, *[1] * (ascent.point.dim() - 1))
    return torch.where(stalled, objective.center[ascent.domains.problem], ascent.point)


def _rows_with_broken_conditions(
    relaxed: Relaxed, ascent: Ascent, activations: Activations, inputs: list[Tensor]
) -> Tensor:
    """``(D, U)`` coefficients of the open elements' outputs with weight added to the conditions that are broken: chosen
    atoms, and in domains that are stuck the signs of split elements.

    Args:
        inputs: ``(D, u)`` what each kink's open elements truly read.
    """
    d, atoms = ascent.domains, relaxed.query.atoms
    mu, beta = torch.zeros_like(d.mu), torch.zeros_like(d.beta)
    if atoms.count:
        mu = mu + (d.allowed(atoms.count) & (atoms.take(d.problem).values(activations) > 0))
    if bool((still := stuck(relaxed, ascent)).any()):
        beta = beta + (still.unsqueeze(1) & (d.split * torch.cat(inputs, 1) < 0))
    index = ((mu > 0).any(1) | (beta > 0).any(1)).nonzero().flatten()
    if not len(index):
        return ascent.rows
    with torch.no_grad():
        some = evaluate(relaxed, replace(d, mu=d.mu + mu, beta=d.beta + beta).take(index)).rows
    return ascent.rows.index_copy(0, index, some)


class ReluBrancher:
    """Splits subdomains at ReLUs, and at clauses that are still a disjunction.

    Args:
        bounder: whose relaxation to look at.
        batch: number of children that one round should have: few subdomains are split at several elements in one go.
        levels: elements that a subdomain is split at in one go, at most.
        impossible: ``(R, K)`` atoms that hold for no input of a branch; None: no clause is split.
        tree: writes the splits down; None: nobody does.
    """

    def __init__(
        self, bounder: DualBounder, batch: int, levels: int, impossible: Tensor | None = None,
        tree: SearchTree | None = None,
    ) -> None:  # fmt: skip
        self.bounder, self.batch, self.levels, self.impossible, self.tree = bounder, batch, levels, impossible, tree

    def choose(self, found: DualEvaluation) -> Subdomains:
        """The clause that the minimiser violates most, else the open elements that lose most."""
        relaxed, ascent = self.bounder.relaxed, found.ascent
        elements = next_elements(relaxed, ascent, self.levels)
        return replace(found.nodes, elements=elements, clause=violated_clause(relaxed, ascent.domains, ascent.point))

    def priority(self, nodes: Subdomains) -> None:
        """By bounds."""

    def split(self, nodes: Subdomains) -> Branched[Subdomains]:
        """Children at elements; children at clauses, whose multipliers have no parent to start from; leaves."""
        at_clause, at_element = nodes.clause >= 0, nodes.elements[:, 0] >= 0
        children = split_deep(nodes.take(~at_clause & at_element), self.batch, self.tree)
        fresh = leaves = None
        if bool(at_clause.any()):
            assert self.impossible is not None
            fresh = split_clauses(self.bounder.relaxed, nodes.take(at_clause), self.impossible, self.tree)
        leaf = ~at_clause & ~at_element
        if bool(leaf.any()):
            leaves = nodes.take(leaf)
        return Branched(children, fresh, leaves)


def decided(query: Query) -> Tensor:
    """``(B, C)`` the atom of every clause that has no other, −1 elsewhere."""
    count = query.atoms.count
    numbers = torch.arange(count, device=query.device)
    first = numbers.new_full((query.clauses,), count).scatter_reduce(0, query.clause, numbers, "amin")
    return torch.where(query.clause_sizes == 1, first, -1).expand(query.size, -1).clone()


def violated_clause(relaxed: Relaxed, d: Domains, point: Tensor) -> Tensor:
    """``(D,)`` the undecided clause that a point of each domain violates most, −1 where it violates none."""
    return worst_clause(relaxed.query, d.problem, d.choice, point)


def worst_clause(query: Query, problem: Tensor, choice: Tensor, point: Tensor) -> Tensor:
    """:func:`violated_clause` of points ``(D, *input_shape)`` of problems ``(D,)`` with chosen atoms ``(D, C)``."""
    none = torch.full_like(problem, -1)
    undecided = choice < 0
    if not query.clauses or not bool(undecided.any()):
        return none
    with torch.no_grad():
        _, atoms = query.take(problem).evaluate(point)
    worst, clause = torch.where(undecided, query.clause_values(atoms), -torch.inf).max(1)
    return torch.where(worst > 0, clause, none)


def split_elements(nodes: Subdomains, tree: SearchTree | None) -> Subdomains:
    """Both halves of every node at its first element, which is used up: all ``>= 0`` halves, then all ``<= 0`` ones."""
    at = nodes.elements[:, :1]
    places = _places(nodes, tree, AT_RELU, at[:, 0], 2)
    used = replace(nodes, elements=torch.cat([nodes.elements[:, 1:], torch.full_like(at, -1)], 1))
    sides = [nodes.split.scatter(1, at, torch.full_like(at, side, dtype=torch.int8)) for side in (1, -1)]
    return type(nodes).cat([replace(used, split=split, place=places[:, k]) for k, split in enumerate(sides)])


def split_deep(nodes: Subdomains, room: int, tree: SearchTree | None = None) -> Subdomains:
    """Split every node at its first element, and at the next ones as long as the children fit into ``room``.

    One pass over many children costs little more than one over few, so that a search with few nodes wins by going down
    several levels at once.

    Args:
        nodes: the first element of each is one.
        room: number of children that is not exceeded, except by the first split.
    """
    done: list[Subdomains] = []
    for _ in range(nodes.elements.shape[1]):
        going = nodes.elements[:, 0] >= 0
        if not bool(going.all()):
            done.append(nodes.take(~going))
            nodes = nodes.take(going)
        if not len(nodes):
            break
        nodes = split_elements(nodes, tree)
        if 2 * len(nodes) > room:
            break
    return type(nodes).cat([*done, nodes]) if done else nodes


def split_clauses(relaxed: Relaxed, nodes: Subdomains, impossible: Tensor, tree: SearchTree | None) -> Subdomains:
    """One node per atom of each node's clause, with multipliers of their own; impossible atoms give none."""
    clause = relaxed.query.clause
    member = clause.unsqueeze(0) == nodes.clause.unsqueeze(1)
    node, atom = (member & ~impossible[nodes.branch]).nonzero(as_tuple=True)
    children = nodes.take(node)
    choice = children.choice.scatter(1, children.clause.unsqueeze(1), atom.unsqueeze(1))
    d = fresh_domains(relaxed, children.branch, choice, children.split)
    made = children.holding(replace(d, bound=children.bound)).undecided()
    if tree is None:
        return made
    side = (clause.unsqueeze(0) == clause.unsqueeze(1)).tril(-1).sum(1)[atom]
    place = torch.full_like(made.place, -1)
    for c in nodes.clause.unique().tolist():
        rows = (nodes.clause == c).nonzero().flatten()
        places = tree.split(nodes.place[rows], AT_CLAUSE, nodes.clause[rows], int((clause == c).sum()))
        row = torch.zeros_like(nodes.place).index_copy(0, rows, torch.arange(len(rows), device=rows.device))
        mine = children.clause == c
        place[mine] = places[row[node[mine]], side[mine]]
    return replace(made, place=place)


def _places(nodes: Subdomains, tree: SearchTree | None, kind: int, index: Tensor, children: int) -> Tensor:
    """``(D, children)`` places of children, −1 where nobody writes them down."""
    if tree is None:
        return nodes.place.unsqueeze(1).expand(-1, children)
    return tree.split(nodes.place, kind, index, children)
