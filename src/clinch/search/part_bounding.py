"""What is proven about parts of the region: limits of activations, and a bound by ascent of the dual function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from clinch.bounds.ascent import Climb
from clinch.bounds.backward import linear_lower
from clinch.bounds.crown import activation_bounds, relaxations_from
from clinch.bounds.domains import SEARCH
from clinch.bounds.free_lines import FreeLines, quick_relax
from clinch.bounds.objective import bound_from
from clinch.bounds.part_dual import Layout, PartDual
from clinch.geometry.clip import clip_to_ball, clip_to_clauses
from clinch.geometry.linear_minimum import flatten_ball
from clinch.geometry.region import Region
from clinch.network.ops.base import Interval, Relaxation
from clinch.query import Distance, Forms, FormsNorm, Linear, Query
from clinch.search.input_split import BoxGoal
from clinch.search.part_record import PartRecorder
from clinch.search.parts import Parts
from clinch.solver.settings import GeneralSplit

#: by how much, relatively, limits must cross to prove that a part is empty: far beyond what rounding can do
CROSSED = 1e-9
#: products of numbers that limits of all layers of one part may take, where they are made anew after a split of a layer
AFFORDABLE = 2e7
#: what a tangent of a norm is shortened by, so that rounding leaves it below the norm
SHORTER = 1e-12


@dataclass(frozen=True)
class PartEvaluation:
    """Parts after an ascent.

    Attributes:
        nodes: the parts. point: ``(D, *input_shape)`` the bound's minimisers.
        limits: of the sites and the input.
        dual: their dual function, last evaluated at packed: the best multipliers.
    """

    nodes: Parts
    point: Tensor
    limits: dict[int, Interval]
    dual: PartDual
    packed: Tensor

    def take(self, index: Tensor) -> PartEvaluation:
        """The same for some of them."""
        limits = {j: part.take(index) for j, part in self.limits.items()}
        return PartEvaluation(
            self.nodes.take(index), self.point[index], limits, self.dual.take(index), self.packed[index]
        )


class PartBounder:
    """Bounds parts: limits of all activations anew, the box cut down to what the split leaves, then an ascent.

    Args:
        goal: whose query and targets.
        settings: how many steps.
    """

    def __init__(self, goal: BoxGoal, settings: GeneralSplit) -> None:
        self.goal, self.query, self.settings = goal, goal.query, settings
        #: writes down what is cut off from boxes; None: nobody does
        self.recorder: PartRecorder | None = None
        self.graph, self.layout = goal.query.graph, Layout.of(goal.query)
        self.inputs = self.graph.nodes[0].size
        #: the network in the dtype that multipliers are looked for in
        self.light = self.graph.to(SEARCH, self.query.device)
        objective = self.query.objective
        #: whether limits of all layers are too dear to be made anew where a layer is split
        self.wide = _cost(self.query, self.layout) > AFFORDABLE
        #: whether what the dual function bounds is nowhere above the objective; else it says where to split alone
        self.dual_proves = not isinstance(objective, FormsNorm) or (objective.scale > 0 and not objective.norm.counts)

    def bound(self, nodes: Parts, fresh: bool) -> PartEvaluation:
        """Bounds after a few steps; more where there is no parent to start from."""
        lines: dict[int, FreeLines] = {}
        limits, relaxations, empty = self._limits(nodes, lines)
        nodes, gone = self._cut_to_split(nodes, relaxations)
        nodes = replace(nodes, limits=self.layout.pack(limits, nodes.lower.flatten(1)))
        local = self._local(nodes)
        limits[0] = Interval(nodes.lower, nodes.upper)
        aim = _tangent(local)
        dual = PartDual(aim, self.layout, limits, nodes.cut, nodes.allowed(), relaxations, lines)
        packed = self._start(nodes, dual)
        target = self.goal.targets()[nodes.problem]
        climb = Climb(dual.light(self.light), packed.to(SEARCH), nodes.pace, target, self._simplex())
        climb.run(self.settings.root_steps if fresh else self.settings.node_steps, 0.2, self.goal.over)
        # single precision may round a choice out of its range
        best = torch.minimum(torch.maximum(climb.best.to(packed), dual.least), dual.most)
        found = dual(best)
        bound = torch.fmax(found.bound, nodes.bound) if self.dual_proves else nodes.bound
        if aim is not local:
            bound = torch.fmax(bound, bound_from(local, relaxations))
        bound = bound.masked_fill(empty | gone, torch.inf)
        _, beta, mu = dual.split(best)
        free = self.layout.freedom
        pace = (2.0 * climb.paces).clamp(0.15, 1.0)
        nodes = replace(nodes, bound=bound, alpha=best[:, :free], beta=beta, mu=mu, pace=pace)
        return PartEvaluation(nodes, found.point.reshape(nodes.lower.shape), limits, dual, best)

    def refine(self, found: PartEvaluation) -> PartEvaluation:
        """Boxes cut down to what may be better than the incumbent; infinite bounds where nothing is left."""
        nodes, dual = found.nodes, found.dual
        low, high = nodes.lower.flatten(1), nodes.upper.flatten(1)
        offset = dual.offset
        if not isinstance(self.query.objective, Distance):
            cutoffs = self.goal.cutoffs()
            self.goal.cap(cutoffs)
            offset = offset - cutoffs[nodes.problem]
        if self.dual_proves:
            one = nodes.problem.new_zeros(1)
            low, high = clip_to_clauses(low, high, dual.rows.unsqueeze(1), offset.unsqueeze(1), one)
        nodes = self.in_balls(self._cut_down(nodes, low, high))
        gone = (nodes.lower > nodes.upper).flatten(1).any(1)
        return replace(found, nodes=replace(nodes, bound=nodes.bound.masked_fill(gone, torch.inf)))

    def in_balls(self, nodes: Parts) -> Parts:
        """Boxes cut down to the region's balls, to the incumbent's, and to the values of discrete elements; where
        ``lower > upper`` nothing is left."""
        low, high, query = nodes.lower.flatten(1), nodes.upper.flatten(1), self.query
        balls = [ball.take(nodes.problem) for ball in query.region.balls]
        if isinstance(query.objective, Distance):
            cutoffs = self.goal.cutoffs()
            self.goal.cap(cutoffs)
            balls.append(query.objective.take(nodes.problem).ball(cutoffs[nodes.problem]))
        for ball in balls:
            low, high = clip_to_ball(low, high, flatten_ball(ball))
        if query.region.discrete is not None:
            low, high = query.region.discrete.inwards(low, high)
        return replace(nodes, lower=low.reshape(nodes.lower.shape), upper=high.reshape(nodes.upper.shape))

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _local(self, nodes: Parts) -> Query:
        """The parts as problems."""
        local = self.query.take(nodes.problem)
        return replace(local, region=replace(local.region, lower=nodes.lower, upper=nodes.upper))

    def _limits(
        self, nodes: Parts, lines: dict[int, FreeLines]
    ) -> tuple[dict[int, Interval], dict[int, Relaxation], Tensor]:
        """Limits of the sites in each part, relaxations made from them, and ``(D,)`` parts that they prove empty;
        ``lines`` receives what is free to choose."""
        known = self.layout.unpack(nodes.limits, self.graph)
        region, relax = Region(nodes.lower, nodes.upper), quick_relax(lines)
        if not bool(nodes.side.any()) and bool(nodes.limits.isfinite().all()):
            # children at a clause: their limits are their parents'
            known[0] = Interval(region.lower, region.upper)
            made = relaxations_from(self.graph, known, self.query.nodes, relax)
            return known, made, torch.zeros_like(nodes.bound, dtype=torch.bool)
        made = {}
        stop = _at_once if self.wide and not bool((nodes.element < self.inputs).any()) else self.goal.over
        limits = activation_bounds(
            self.graph, region, self.query.nodes, known, stop=stop, relax=relax, made=made
        )  # fmt: skip
        packed = self.layout.pack(limits, nodes.lower.flatten(1))
        # where known limits and those of the part cross, what comes out lies outside of the known ones
        margin = CROSSED * (1 + packed.abs())
        low, high = nodes.limits.unbind(1)
        empty = (packed[:, 0] < low - margin[:, 0]) | (packed[:, 1] > high + margin[:, 1])
        return limits, made, empty.any(1)

    def _cut_to_split(self, nodes: Parts, relaxations: Mapping[int, Relaxation]) -> tuple[Parts, Tensor]:
        """Boxes without what the last split excludes, and ``(D,)`` those in which nothing is left."""
        element = nodes.element - self.inputs
        at_site = (element >= 0) & (nodes.side != 0)
        none = torch.zeros_like(at_site)
        if not bool(at_site.any()):
            return nodes, none
        like, rows = nodes.lower.flatten(1), {}
        # "at most p" is z − p <= 0, "at least p" its negative
        sign = torch.where(at_site, -nodes.side, 0).to(like)
        for j, columns in self.layout.sites.items():
            here = at_site & (element >= columns.start) & (element < columns.stop)
            if bool(here.any()):
                row = like.new_zeros(len(like), columns.stop - columns.start)
                at = (element - columns.start).clamp(0, row.shape[1] - 1).unsqueeze(1)
                row.scatter_(1, at, (sign * here).unsqueeze(1))
                rows[j] = row.reshape(len(like), 1, *self.graph.nodes[j].shape)
        forms = Forms(rows, (-sign * nodes.point).unsqueeze(1))
        carried, offset = linear_lower(self.graph, forms, relaxations)
        one = nodes.problem.new_zeros(1)
        low, high = clip_to_clauses(like, nodes.upper.flatten(1), carried.flatten(2), offset, one)
        gone = (low > high).any(1)
        low, high = (
            torch.where(gone.unsqueeze(1), old, new) for old, new in ((like, low), (nodes.upper.flatten(1), high))
        )
        return self._cut_down(nodes, low, high), gone

    def _cut_down(self, nodes: Parts, low: Tensor, high: Tensor) -> Parts:
        """Parts with boxes ``(D, n)``; where ``low > high`` nothing is left. Where that is written down, only as far as
        it is."""
        if self.recorder is None:
            return replace(nodes, lower=low.reshape(nodes.lower.shape), upper=high.reshape(nodes.upper.shape))
        cut, gone = self.recorder.cut(nodes, low, high), (low > high).any(1)
        shape = (-1, *[1] * (nodes.lower.dim() - 1))
        lower, upper = (
            torch.where(gone.reshape(shape), box.reshape(own.shape), own)
            for box, own in ((low, cut.lower), (high, cut.upper))
        )
        return replace(cut, lower=lower, upper=upper)

    def _start(self, nodes: Parts, dual: PartDual) -> Tensor:
        """The parents' multipliers; CROWN's choices, and weight one on the decisive atoms, where there are none."""
        alpha = torch.where(nodes.alpha.isnan(), dual.start, nodes.alpha)
        allowed = nodes.allowed()
        decisive = allowed & (self.query.clause_sizes > 1)[self.query.clause]
        weight = torch.where(decisive.any(1, keepdim=True), decisive, allowed).to(alpha)
        mu = torch.where(nodes.mu.isnan(), weight, nodes.mu)
        packed = torch.cat([alpha, nodes.beta, mu], 1)
        return torch.minimum(torch.maximum(packed, dual.least), dual.most)

    def _simplex(self) -> tuple[slice, slice] | None:
        free, width = self.layout.freedom, self.layout.width
        return (slice(free + width, None), slice(free, free + width)) if self.query.feasibility else None


def _tangent(local: Query) -> Query:
    """The parts with a linear objective in place of a norm: its tangent in the centre of each box, which is nowhere
    above a norm that is to be small; of a count its signs, which only say where to split."""
    objective = local.objective
    if not isinstance(objective, FormsNorm):
        return local
    centre = (local.region.lower + local.region.upper) / 2
    values = objective.forms.values(local.graph.forward(centre, objective.forms.nodes))
    if objective.norm.counts:
        slope = values.sign()
    else:
        with torch.enable_grad():
            free = values.detach().requires_grad_()
            (slope,) = torch.autograd.grad(objective.norm.value(free, objective.weights).sum(), free)
    slope = (1 - SHORTER) * objective.scale * slope.nan_to_num(0.0, 0.0, 0.0)
    rows = {
        j: torch.einsum("dk,dk...->d...", slope, c.expand(len(slope), *c.shape[1:])).unsqueeze(1)
        for j, c in objective.forms.coefficients.items()
    }
    constant = torch.linalg.vecdot(slope, objective.forms.constant.expand_as(slope)).unsqueeze(1)
    return replace(local, objective=Linear(Forms(rows, constant)))


def _at_once() -> bool:
    """Intervals have to do."""
    return True


def _cost(query: Query, layout: Layout) -> float:
    """Products of numbers that CROWN takes for the limits of all sites of one part, as if all layers were dense."""
    graph, total = query.graph, 0.0
    for j in layout.sites:
        sizes = [graph.nodes[i].size for i in graph.ancestors([j]) if not i or i in layout.sites]
        total += 2.0 * graph.nodes[j].size * sum(a * b for a, b in pairwise(sizes))
    return total
