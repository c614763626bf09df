"""Where to split a part: at an input element or at what a non-affine node reads, whichever takes more loss away.

The relaxation of node i loses ``A·(f(z) − line(z))`` at the bound's own minimiser, A the coefficient of its output and
z what it truly reads there (moved into its limits). Splitting z at that point takes the loss of this element away on
both sides. Splitting an input element narrows what every node reads: by the share of its range that the element moves,
as the network says at the centres of the box's faces. Points are those of the minimiser, pulled away from the ends; at
functions of two linear pieces their kink (Shi et al. 2024, arXiv 2405.21063, section 3.3, compares bounds of children
instead, and looks points up in tables).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from clinch.network.ops.base import Interval, Operator
from clinch.query import Activations
from clinch.search.branch_and_bound import Branched
from clinch.search.part_bounding import PartBounder, PartEvaluation
from clinch.search.parts import Parts
from clinch.search.relu_branching import worst_clause
from clinch.search.tree import AT_CLAUSE, AT_INPUT, AT_NODE, SearchTree
from clinch.solver.settings import GeneralSplit

#: how near to an end of its limits an element is split, relative to their width
PULL = 0.2
#: share of its loss that a split at a node takes away, as far as it is compared with splits of the input
AT_ONCE = 0.5
#: score of an input element of the region's full width beside the best one's: every element is split in the end
WIDTH = 0.01


class PartBrancher:
    """Splits parts at clauses, input elements and sites.

    Args:
        bounder: whose layout to look at. settings: how many inputs are split.
        width: ``(B, n)`` of the problems' whole boxes.
        tree: writes the splits down; None: nobody does.
    """

    def __init__(
        self, bounder: PartBounder, settings: GeneralSplit, width: Tensor, tree: SearchTree | None = None
    ) -> None:
        self.bounder, self.settings, self.width, self.tree = bounder, settings, width, tree

    def choose(self, found: PartEvaluation) -> Parts:
        """The clause that the minimiser violates most, else the element whose split gains most."""
        nodes, query = found.nodes, self.bounder.query
        clause = worst_clause(query, nodes.problem, nodes.choice, found.point)
        graph, sites = query.graph, self.bounder.layout.sites
        at = graph.forward(found.point, sites)
        read = {j: torch.clamp(z, *found.limits[j]) for j, z in at.items()} | {0: found.point}
        losses = site_losses(found, read)
        low, high = nodes.limits.unbind(1)
        z = torch.cat([read[j].flatten(1) for j in sites], 1) if sites else low
        span = high - low
        point = torch.minimum(torch.maximum(z, low + PULL * span), high - PULL * span)
        point = torch.where((low < 0) & (high > 0) & self._kinked(z), 0.0, point)
        usable = (point > low) & (point < high)
        at_sites = (
            torch.where(usable, losses, -torch.inf)
            if self.settings.nodes
            else losses.new_full(losses.shape, -torch.inf)
        )
        box_low, box_high = nodes.lower.flatten(1), nodes.upper.flatten(1)
        middle = (box_low + box_high) / 2
        at_inputs = self._input_scores(found, losses)
        at_inputs = torch.where((middle > box_low) & (middle < box_high), at_inputs, -torch.inf)
        score, element = torch.cat([at_inputs, AT_ONCE * at_sites], 1).max(1)
        # where nothing is lost any more boxes still tell: relaxations are exact in the end
        points = torch.cat([middle, point], 1).gather(1, element.unsqueeze(1))[:, 0]
        return replace(
            nodes, clause=clause, element=torch.where(score > -torch.inf, element, -1), point=points,
            side=torch.zeros_like(nodes.side),
        )  # fmt: skip

    def priority(self, nodes: Parts) -> None:
        """By bounds."""

    def split(self, nodes: Parts) -> Branched[Parts]:
        """Two sides of elements, a child per atom of clauses; leaves."""
        at_clause, at_element = nodes.clause >= 0, nodes.element >= 0
        children, leaf = nodes.take(~at_clause & at_element), ~at_clause & ~at_element
        inputs = self.bounder.inputs
        halves = children.halves(inputs)
        if self.tree is not None and len(children):
            halves = replace(halves, place=self._places(children))
        fresh = self.atoms(nodes.take(at_clause)) if bool(at_clause.any()) else None
        return Branched(self._inside(halves), fresh, nodes.take(leaf) if bool(leaf.any()) else None)

    # --- scores -------------------------------------------------------------------------------------------------------

    def _kinked(self, z: Tensor) -> Tensor:
        """``(S,)`` elements that are read by two linear pieces that meet at zero."""
        kinked = torch.zeros(z.shape[1], dtype=torch.bool, device=z.device)
        for node in self.bounder.graph.nodes:
            if node.op.splits_at_zero and node.inputs[0] in self.bounder.layout.sites:
                kinked[self.bounder.layout.sites[node.inputs[0]]] = True
        return kinked

    def _input_scores(self, found: PartEvaluation, losses: Tensor) -> Tensor:
        """``(D, n)`` what halving each input element takes away."""
        nodes = found.nodes
        low, high = nodes.lower.flatten(1), nodes.upper.flatten(1)
        whole = self.width[nodes.problem]
        relative = (high - low) / torch.where(whole > 0, whole, 1.0)
        rows = found.dual.rows.abs() * (high - low)
        rough = 1e-9 * rows + 1e-12 * relative
        free = (self.width > 0).any(0).nonzero().flatten()
        if len(free) > self.settings.inputs:
            return rough
        change = self._changes(found, free)
        span = (nodes.limits[:, 1] - nodes.limits[:, 0]).unsqueeze(1)
        share = (change / torch.where(span > 0, span, 1.0)).clamp(max=1.0)
        gain = (losses.clamp(min=0).unsqueeze(1) * share * (1 - share / 4)).sum(2)
        best = gain.amax(1, keepdim=True)
        return rough.index_add(1, free, gain) + WIDTH * best * relative

    def _changes(self, found: PartEvaluation, free: Tensor) -> Tensor:
        """``(D, F, S)`` how far the sites move between the centres of the opposite faces of free input elements."""
        nodes, graph, sites = found.nodes, self.bounder.graph, self.bounder.layout.sites
        low, high = nodes.lower.flatten(1), nodes.upper.flatten(1)
        size, count = len(nodes), len(free)
        step = torch.zeros(size, count, low.shape[1], dtype=low.dtype, device=low.device)
        step[:, torch.arange(count, device=low.device), free] = ((high - low) / 2)[:, free]
        centre = ((low + high) / 2).unsqueeze(1)
        points = torch.cat([centre + step, centre - step], 1).reshape(-1, *graph.input_shape)
        with torch.no_grad():
            at = graph.forward(points, sites)
        z = [at[j].reshape(size, 2 * count, -1) for j in sites]
        both = torch.cat(z, 2) if z else low.new_zeros(size, 2 * count, 0)
        return (both[:, :count] - both[:, count:]).abs()

    # --- children -----------------------------------------------------------------------------------------------------

    def _inside(self, parts: Parts) -> Parts:
        """Parts cut down to the balls; those that are left."""
        parts = self.bounder.in_balls(parts)
        return parts.take(~(parts.lower > parts.upper).flatten(1).any(1))

    def atoms(self, nodes: Parts) -> Parts:
        """One part per atom of each part's clause, with multipliers of their own."""
        clause = self.bounder.query.clause
        node, atom = (clause.unsqueeze(0) == nodes.clause.unsqueeze(1)).nonzero(as_tuple=True)
        children = nodes.take(node)
        choice = children.choice.scatter(1, children.clause.unsqueeze(1), atom.unsqueeze(1))
        none = torch.full_like(children.clause, -1)
        made = replace(children, choice=choice, mu=torch.full_like(children.mu, torch.nan), clause=none, element=none)
        if self.bounder.query.feasibility:
            # the bound says how far a part is from being proven empty, of which nothing is known without the atom
            made = replace(made, bound=torch.full_like(made.bound, -torch.inf))
        if self.tree is None:
            return made
        place = torch.full_like(made.place, -1)
        for c in nodes.clause.unique().tolist():
            rows, mine = (nodes.clause == c).nonzero().flatten(), children.clause == c
            count = int((clause == c).sum())
            place[mine] = self.tree.split(nodes.place[rows], AT_CLAUSE, nodes.clause[rows], count).flatten()
        return replace(made, place=place)

    def _places(self, nodes: Parts) -> Tensor:
        """Places of the halves."""
        assert self.tree is not None
        inputs, sites = self.bounder.inputs, self.bounder.layout.sites
        index, at = nodes.element.clone(), torch.zeros_like(nodes.element)
        for j, columns in sites.items():
            here = (index >= 0) & (nodes.element >= inputs + columns.start) & (nodes.element < inputs + columns.stop)
            at[here], index[here] = j, nodes.element[here] - inputs - columns.start
        places = torch.zeros(len(nodes), 2, dtype=torch.long, device=index.device)
        for kind, here in ((AT_INPUT, at == 0), (AT_NODE, at > 0)):
            rows = here.nonzero().flatten()
            places[rows] = self.tree.split(
                nodes.place[rows], kind, index[rows], threshold=nodes.point[rows], node=at[rows]
            )
        return places.T.flatten()


def site_losses(found: PartEvaluation, read: Activations) -> Tensor:
    """``(D, S)`` what the relaxations of the nodes that read each site element lose.

    Args:
        read: values of the sites and the input, within their limits.
    """
    dual, passes = found.dual, found.dual.passes
    graph, sites = passes.graph, dual.layout.sites
    slopes, _, _ = dual.split(found.packed)
    total = {j: torch.zeros_like(found.limits[j].lower).flatten(1) for j in sites}
    for i in (*passes.lines, *passes.relaxations):
        node, rows = graph.nodes[i], dual.arrived[i][:, 0]
        values = [read[j] for j in node.inputs]
        exact, lined = node.op.forward(*values), passes.through(i, slopes, *values)
        loss = (rows * (exact - lined)).flatten(1).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
        for j, share in zip(node.inputs, _spread(node.op, loss, [found.limits[j] for j in node.inputs])):
            if j in sites:
                total[j] = total[j] + share
    return torch.cat(list(total.values()), 1) if total else read[0].new_zeros(len(read[0]), 0)


def _spread(op: Operator, loss: Tensor, limits: list[Interval]) -> list[Tensor]:
    """Losses ``(D, outputs)`` of an operator's output elements as losses of what it reads, one for each input.

    A product loses about as much as its factors' radii multiply to: halving either halves that. So each input element
    gets its share of the operator's value at the radii, which of a maximum is that of the widest element.
    """
    if op.elementwise:
        return [loss]
    radii = [((i.upper - i.lower) / 2).requires_grad_() for i in limits]
    with torch.enable_grad():
        at_radii = op.forward(*radii).flatten(1)
        weight = loss / torch.where(at_radii > 0, at_radii.detach(), torch.inf)
        slopes = torch.autograd.grad((weight * at_radii).sum(), radii)
    return [(r.detach() * slope).flatten(1).clamp(min=0) for r, slope in zip(radii, slopes)]
