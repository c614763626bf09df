"""What is proven about boxes of the input: linear lower limits of atoms and objective, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clinch.bounds.crown import activation_bounds
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import minimum_over
from clinch.geometry.region import Region
from clinch.geometry.tied_minimum import tied_minimum
from clinch.network.fold import fold
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Relaxation
from clinch.query import Distance, Forms, FormsNorm, Linear, Objective, Query
from clinch.runtime import deadline
from clinch.search.boxes import Boxes


def folded(query: Query) -> Query:
    """The same query over the folded graph: chains of affine layers are one layer."""
    graph, place = fold(query.graph, query.nodes)

    def moved(forms: Forms) -> Forms:
        return Forms({place[node]: rows for node, rows in forms.coefficients.items()}, forms.constant)

    objective: Objective = query.objective
    match objective:
        case Linear(form=form):
            objective = Linear(moved(form))
        case FormsNorm(forms=forms):
            objective = replace(objective, forms=moved(forms))
    return replace(query, graph=graph, objective=objective, atoms=moved(query.atoms))


#: number of non-affine layers up to which limits are not handed on: that takes more time and memory than it saves
SHALLOW = 2
#: conditions up to which what follows from all of them together is looked at, and by how much, relatively, they must
#: contradict each other: far beyond what rounding can do
MOST_TOGETHER, CONTRADICTED = 32, 1e-9


@dataclass(frozen=True)
class BoxBounds:
    """What :class:`Bounder` proves about D boxes.

    Attributes:
        boxes: the boxes, with their bounds raised and the limits of their activations.
        rows: ``(D, R, n)`` and
        offset: ``(D, R)``: ``form_r(x) >= <rows_r, x> + offset_r`` in the box, for all atoms and then the objective's
            forms.
        lower: ``(D, R)`` lower limits of the forms; infinity where the box misses one of the region's balls.
        coefficients: node -> ``(D, R, *node_shape)`` coefficients of non-affine nodes' outputs on the way back.
        relaxations: of every node.
        inputs: node -> limits of its first input, for the same nodes.
    """

    boxes: Boxes
    rows: Tensor
    offset: Tensor
    lower: Tensor
    coefficients: dict[int, Tensor]
    relaxations: dict[int, Relaxation]
    inputs: dict[int, Interval]

    def take(self, index: Tensor) -> BoxBounds:
        """What is proven about the chosen boxes, in that order."""
        return BoxBounds(
            self.boxes.take(index), self.rows[index], self.offset[index], self.lower[index],
            {i: c[index] if len(c) > 1 else c for i, c in self.coefficients.items()},
            {i: r.take(index) for i, r in self.relaxations.items()},
            {i: limits.take(index) for i, limits in self.inputs.items()},
        )  # fmt: skip


class Bounder:
    """CROWN on boxes of a folded query's problems; in deep networks the limits that hold in a parent are handed on."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.graph: Graph = query.graph
        self.forms = _stacked(query)
        #: atoms that have to hold, as their clauses have no others
        self.together = (query.clause_sizes == 1)[query.clause].nonzero().flatten()
        #: nodes that matter, non-affine ones among them, and what these read
        self.below = self.graph.ancestors(query.nodes)
        self.bent = [i for i in self.below if i and not self.graph.nodes[i].op.affine]
        self.limited = sorted({j for i in self.bent for j in self.graph.nodes[i].inputs if j})
        #: with so few layers a child's own limits are hardly ever worse than its parent's
        shallow = len(self.bent) <= SHALLOW
        #: numbers that a box hands on
        self.width = 0 if shallow else 2 * sum(self.graph.nodes[j].size for j in self.limited)

    def __call__(self, boxes: Boxes, stop: Callable[[], bool]) -> BoxBounds:
        """Bound the boxes; once ``stop()`` is true, with interval arithmetic where CROWN would still be open."""
        query = self.query.take(boxes.problem)
        region = Region(boxes.lower, boxes.upper)
        relaxations: dict[int, Relaxation] = {}
        known = self._unpacked(boxes)
        limits = activation_bounds(self.graph, region, query.nodes, known, stop=stop, made=relaxations)
        limits[0] = Interval(region.lower, region.upper)
        rows, offset, coefficients = _backward(self.graph, self.forms.take(boxes.problem), relaxations)
        lower = minimum_over(replace(region, balls=query.region.balls), rows) + offset
        rows, offset, lower, nothing = self._tied(region, rows, offset, lower)
        least = self._bound(query, boxes, rows, offset, lower).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        bound = torch.maximum(boxes.bound, least.masked_fill(nothing, torch.inf))
        found = replace(boxes, bound=bound, limits=self._packed(limits, boxes))
        inputs = {i: limits[self.graph.nodes[i].inputs[0]] for i in self.bent}
        return BoxBounds(found, rows.flatten(2), offset, lower, coefficients, relaxations, inputs)

    def _tied(
        self, region: Region, rows: Tensor, offset: Tensor, lower: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows, offset and lower limits with the objective's raised by the conditions that hold together; and ``(D,)``
        boxes in which they contradict each other.

        Without an objective the condition that is farthest from being met takes its place.
        """
        which, count = self.together, self.query.atoms.count
        nothing = torch.zeros(len(lower), dtype=torch.bool, device=lower.device)
        aims = isinstance(self.query.objective, Linear) and not self.query.feasibility
        if len(which) < 2 - aims or len(which) > MOST_TOGETHER:
            return rows, offset, lower, nothing
        flat, low, high = rows.flatten(2), region.lower.flatten(1), region.upper.flatten(1)
        conditions, limits = flat[:, which], offset[:, which]
        every = torch.arange(len(lower), device=lower.device)
        first = torch.full_like(every, count) if aims else which[lower[:, which].argmax(1)]
        tied = tied_minimum(flat[every, first], offset[every, first], conditions, limits, low, high)
        if not aims:
            return rows, offset, lower, tied.least > CONTRADICTED * (1 + tied.offset.abs())
        better = (tied.least > lower[:, count]).unsqueeze(1)
        raised = torch.where(better, tied.rows, flat[:, count]).reshape_as(rows[:, count])
        moved = torch.where(better[:, 0], tied.offset, offset[:, count])
        rows = torch.cat([rows[:, :count], raised.unsqueeze(1), rows[:, count + 1 :]], 1)
        offset = torch.cat([offset[:, :count], moved.unsqueeze(1), offset[:, count + 1 :]], 1)
        least = torch.fmax(lower[:, count], tied.least)
        lower = torch.cat([lower[:, :count], least.unsqueeze(1), lower[:, count + 1 :]], 1)
        return rows, offset, lower, nothing

    def _bound(self, query: Query, boxes: Boxes, rows: Tensor, offset: Tensor, lower: Tensor) -> Tensor:
        """``(D,)`` lower limits of the objective over feasible inputs, infinity where there is none."""
        count = query.atoms.count
        infeasible = _impossible(query, lower[:, :count])
        match query.objective:
            case Distance() as objective:
                value = _distance(objective, boxes, rows[:, :count], offset[:, :count], query)
            case Linear():
                value = lower[:, count]
            case FormsNorm(forms=forms) as objective:
                low, high = lower[:, count : count + forms.count], -lower[:, count + forms.count :]
                if objective.scale > 0:
                    least = objective.norm.value(torch.maximum(low, -high).clamp(min=0), objective.weights)
                else:
                    least = objective.norm.value(torch.maximum(low.abs(), high.abs()), objective.weights)
                value = objective.scale * least
        return torch.where(infeasible, torch.inf, value)

    def _packed(self, limits: Mapping[int, Interval], boxes: Boxes) -> Tensor:
        if not self.width:
            return boxes.limits
        return torch.cat([side.flatten(1) for j in self.limited for side in limits[j]], 1)

    def _unpacked(self, boxes: Boxes) -> dict[int, Interval]:
        if not boxes.limits.shape[1] or bool(boxes.limits[:, 0].isnan().all()):
            return {}
        nodes = [self.graph.nodes[j] for j in self.limited]
        parts = boxes.limits.split([size for node in nodes for size in (node.size, node.size)], 1)
        sides = [part.reshape(len(boxes), *node.shape) for node, part in zip(_twice(nodes), parts)]
        return {j: Interval(sides[2 * k], sides[2 * k + 1]) for k, j in enumerate(self.limited)}


def _twice(items: list) -> list:
    return [item for item in items for _ in range(2)]


def _stacked(query: Query) -> Forms:
    """All atoms, then the objective's form; for a norm its forms and their negatives."""
    parts = [query.atoms]
    match query.objective:
        case Linear(form=form):
            parts.append(form)
        case FormsNorm(forms=forms):
            negative = Forms({i: -rows for i, rows in forms.coefficients.items()}, -forms.constant)
            parts += [forms, negative]
    batch = {i: max(len(part.coefficients[i]) for part in parts if i in part.coefficients) for i in query.nodes}
    rows: dict[int, Tensor] = {}
    for i in query.nodes:
        shape = query.graph.nodes[i].shape
        blocks = [
            part.coefficients[i].expand(batch[i], part.count, *shape)
            if i in part.coefficients
            else part.constant.new_zeros(batch[i], part.count, *shape)
            for part in parts
        ]
        rows[i] = torch.cat(blocks, 1)
    return Forms(rows, torch.cat([part.constant.expand(query.size, -1) for part in parts], 1))


def _backward(
    graph: Graph, forms: Forms, relaxations: Mapping[int, Relaxation]
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """:func:`clinch.bounds.crown.linear_lower` that also returns the coefficients of non-affine nodes' outputs."""
    offset, pending, seen = forms.constant, dict(forms.coefficients), {}
    for i in sorted(graph.ancestors(pending), reverse=True):
        if i and i in pending:
            deadline.look()
            rows = pending.pop(i)
            if not graph.nodes[i].op.affine:
                seen[i] = rows
            carried, constant = relaxations[i].backward(rows)
            offset = offset + constant
            for j, part in zip(graph.nodes[i].inputs, carried):
                pending[j] = pending[j] + part if j in pending else part
    rows = pending.get(0)
    if rows is None:
        rows = offset.new_zeros(1, forms.count, *graph.input_shape)
    return rows.expand(offset.shape[0], *rows.shape[1:]), offset, seen


def _impossible(query: Query, lower: Tensor) -> Tensor:
    """``(D,)`` boxes in which some clause has no atom that may hold; NaN may."""
    if not query.clauses:
        return torch.zeros(len(lower), dtype=torch.bool, device=lower.device)
    return (query.clause_values(lower) > 0).any(1)


def _distance(objective: Distance, boxes: Boxes, rows: Tensor, offset: Tensor, query: Query) -> Tensor:
    """The distance to the box, and to the nearest point of it that no clause's linear limits exclude."""
    nearest = objective.center.clamp(boxes.lower, boxes.upper)
    value = objective.value(nearest, {})
    if not query.clauses:
        return value
    count = query.atoms.count
    repeated = [
        None if t is None else t.flatten(1).repeat_interleave(count, 0)
        for t in (boxes.lower, boxes.upper, objective.center, objective.weights)
    ]
    lower, upper, center, weights = repeated
    assert lower is not None and upper is not None and center is not None
    flat = rows.reshape(len(boxes) * count, -1)
    reach = halfspace_distance(flat, offset.reshape(-1), lower, upper, center, objective.norm, weights).distance
    return torch.maximum(value, query.clause_values(reach.reshape(len(boxes), count)).amax(1))
