"""Limits of activations by search: layer by layer, elements that one relaxation leaves open get trees of their own.

The smallest value of ``±z_k`` over the region is a problem with a linear objective over a part of the network. It needs
no optimum: its sign is what a relaxation above asks for, so that a tree ends where zero is reached, or where a point
shows that it cannot be. Tjeng et al. (2019, section 4.3) tighten such limits by linear and mixed-integer programs, one
after the other; here all elements of a layer are searched at once by the dual function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from clinch.bounds.crown import activation_bounds, never
from clinch.bounds.domains import relax_query
from clinch.bounds.limits import read_nodes
from clinch.network.ops.base import Interval
from clinch.query import Forms, Linear, Query
from clinch.search.branch_and_bound import BestFirst
from clinch.search.dual_bounding import DualBounder, DualEvaluation, Subdomains, fresh_nodes
from clinch.search.node_store import Nodes
from clinch.search.relu_branching import ReluBrancher
from clinch.solver.settings import BranchAndBound

#: elements that a subdomain is split at in one go
LEVELS = 2
#: number of subdomains that each limit may take, in each pass
DOMAINS = (20, 100, 500)
#: limits searched for, and subdomains taken up, at once: at most, and as many as keep to so many numbers per layer
TREES, NUMBERS = 512, 2**23
#: share of a limit's size by which it may stay too large
SLACK = 0.05


class SearchRefinement:
    """Sharper and sharper limits: passes over the layers, with larger trees from pass to pass."""

    def __init__(self) -> None:
        self.passes, self.layer = 0, 0

    @property
    def done(self) -> bool:
        """Whether the last pass is over."""
        return self.passes >= len(DOMAINS)

    def step(
        self, query: Query, limits: Mapping[int, Interval], *, stop: Callable[[], bool] = never
    ) -> dict[int, Interval]:
        """Limits of what nodes that split at zero read, over the query's region: one layer by search, those above it
        by CROWN. A later call goes on with the next layer; after the last one a pass with larger trees begins.

        Args:
            query: B problems; their region and what they look at matter, objective and clauses do not.
            limits: present limits ``(B, *node_shape)`` of all that non-affine nodes read.
            stop: asked now and then; once true, what is left keeps its limits.
        """
        graph, limits = query.graph, dict(limits)
        layers = [j for j in read_nodes(graph, query.nodes) if _worth_searching(query, j)]
        if layers:
            j = layers[self.layer]
            limits[j] = _refine_node(query, j, limits, DOMAINS[self.passes], stop)
        self.layer += not stop()
        if self.layer >= len(layers):
            self.passes, self.layer = self.passes + 1, 0
        return activation_bounds(graph, query.region, query.nodes, limits, stop=stop)


def _worth_searching(query: Query, j: int) -> bool:
    """Whether a node reads j that splits at zero, and j has anything but affine layers below."""
    graph = query.graph
    readers = [node.op for node in graph.nodes if j in node.inputs]
    below = [i for i in graph.ancestors([j]) if i]
    return any(op.splits_at_zero for op in readers) and not all(graph.nodes[i].op.affine for i in below)


def _refine_node(
    query: Query, j: int, limits: Mapping[int, Interval], domains: int, stop: Callable[[], bool]
) -> Interval:
    lower, upper = (t.flatten(1).clone() for t in limits[j])
    problem, element = ((lower < 0) & (upper > 0)).nonzero(as_tuple=True)
    widest = max(query.graph.nodes[i].size for i in query.graph.ancestors([j]))
    trees = max(2, min(TREES, NUMBERS // widest))
    for part in torch.arange(len(problem), device=problem.device).split(trees // 2):
        if stop() or not len(part):
            break
        at = problem[part], element[part]
        forest = _Forest(_one_per_limit(query, j, *at), limits, problem[part].repeat(2), trees, stop)
        least, negated = forest.grow(domains).reshape(2, -1)
        lower[at], upper[at] = torch.maximum(lower[at], least), torch.minimum(upper[at], -negated)
    shape = limits[j].lower.shape
    return limits[j].intersect(Interval(lower.reshape(shape), upper.reshape(shape)))


def _one_per_limit(query: Query, j: int, problem: Tensor, element: Tensor) -> Query:
    """One problem "minimise ``z_k``" and one "minimise ``−z_k``" for each of N elements of node j, without clauses."""
    node, count = query.graph.nodes[j], 2 * len(problem)
    rows = query.region.lower.new_zeros(count, node.size)
    each = torch.arange(count, device=problem.device)
    rows[each, element.repeat(2)] = torch.where(each < len(problem), 1.0, -1.0).to(rows.dtype)
    form = Forms({j: rows.reshape(count, 1, *node.shape)}, rows.new_zeros(count, 1))
    return replace(
        query, region=query.region.take(problem.repeat(2)), objective=Linear(form), labels=(),
        atoms=Forms({}, rows.new_zeros(count, 0)), clause=query.clause[:0],
    )  # fmt: skip


class _Forest:
    """One tree per limit, all grown together; what a search is for, too (:class:`clinch.search.branch_and_bound.Goal`).

    Args:
        query: N problems with linear objectives and without clauses.
        limits: of what lies below, per region.
        region: ``(N,)`` the row of the limits that each problem reads.
        batch: number of subdomains taken up at once.
        stop: asked now and then; once true, the best so far has to do.
    """

    seconds, remaining = 0.0, math.inf

    def __init__(
        self, query: Query, limits: Mapping[int, Interval], region: Tensor, batch: int, stop: Callable[[], bool]
    ) -> None:
        self.query, self.stop = query, stop
        below = read_nodes(query.graph, query.nodes)
        relaxed = relax_query(query, {i: limits[i].take(region) for i in below})
        #: smallest value seen of each limit, and how many subdomains it may take
        self.value, self.most = query.region.lower.new_full((query.size,), torch.inf), 0
        bounder = DualBounder(relaxed, self.enough, stop, BranchAndBound(under_cutoff=False))
        self.search: BestFirst[Subdomains, DualEvaluation] = BestFirst(
            query.size, self, bounder, ReluBrancher(bounder, batch, LEVELS), batch=batch, in_turns=True,
            device=query.device,
        )  # fmt: skip
        each = torch.arange(query.size, device=query.device)
        none = each.new_zeros(len(each), 0)
        self.roots = fresh_nodes(relaxed, each, none, each, torch.full_like(each, -1), LEVELS)

    def grow(self, domains: int) -> Tensor:
        """``(N,)`` proven smallest values, after so many subdomains each."""
        self.most = domains
        self.search.plant(self.roots)
        self.search.run()
        return self.search.least

    def enough(self) -> Tensor:
        """``(N,)`` bounds that are good enough: zero decides the sign, and no bound can pass a value."""
        return torch.where(self.value < 0, (1 + SLACK) * self.value, 0.0)

    # --- the goal -----------------------------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        """Whether to stop."""
        return self.stop()

    def targets(self) -> Tensor:
        """Bounds that are good enough, and any where a tree has had its share."""
        return torch.where(self.search.bounded > self.most, -torch.inf, self.enough())

    def offer(self, found: DualEvaluation) -> None:
        """Values at the minimisers."""
        problem = found.nodes.problem
        with torch.no_grad():
            value, _ = self.query.take(problem).evaluate(found.ascent.point)
        self.value.scatter_reduce_(0, problem, torch.where(value.isnan(), torch.inf, value), "amin")

    def finish(self, nodes: Nodes) -> None:
        """Nobody asks."""

    def prove(self, bound: Tensor) -> None:
        """At the end only."""
