"""The dual function of a query over parts of its region that are cut at any element any non-affine node reads.

A *part* is a box of inputs, and limits ``l <= z <= u`` of what non-affine nodes read, as tight as is known; those that
were cut by a split need not follow from the box. Relaxations are made from the part's own limits. For any choice of
valid lines (:mod:`clinch.bounds.free_lines`), ``mu >= 0`` for the chosen atoms and ``beta`` of either sign,

    [objective +] Σ μ_k atom_k(x) + Σ β_j z_j(x) − Σ max(β_j u_j, β_j l_j)

is nowhere above the objective where the part's conditions hold, and one backward pass gives a linear lower limit of it.
Its gradient comes from a forward pass, as in :mod:`clinch.bounds.dual`, which this extends from kinks that are split at
zero to any node and point (general branching, Shi et al. 2024, arXiv 2405.21063; there each side of a split has a
multiplier of its own, of which one is zero at the optimum).

A norm that is to be small is ``max { <y, forms> : ‖y‖_* <= 1 }``: y are multipliers too.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clinch.bounds.concretise import Concretiser
from clinch.bounds.crown import read_nodes
from clinch.bounds.domains import SEARCH
from clinch.bounds.dual import Dual
from clinch.bounds.free_lines import FreeLines, lines_of
from clinch.bounds.slopes import Passes, Slopes
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Relaxation
from clinch.query import Forms, Linear, Query

#: step sizes of choices, and of beta relative to the coefficients that it is added to
CHOICE, BETA = 1.0, 0.5


@dataclass(frozen=True)
class Layout:
    """Where the limits and multipliers of a query's parts stand.

    Attributes:
        sites: node that some non-affine node reads, other than the input -> columns of its elements.
        choices: non-affine node with a choice of lines -> columns of its choices.
    """

    sites: Mapping[int, slice]
    choices: Mapping[int, slice]

    @staticmethod
    def of(query: Query) -> Layout:
        """Of a query."""
        graph, like = query.graph, query.region.lower
        sites, choices, at = {}, {}, 0
        for j in read_nodes(graph, query.nodes):
            if j:
                sites[j] = slice(at, at := at + graph.nodes[j].size)
        at = 0
        for i in graph.ancestors(query.nodes):
            node = graph.nodes[i]
            if i and not node.op.affine:
                shapes = graph.shapes(i)
                unit = [Interval(like.new_zeros(1, *shape), like.new_ones(1, *shape)) for shape in shapes]
                free = lines_of(node.op, unit, shapes)
                if free is not None:
                    choices[i] = slice(at, at := at + free.start.shape[2])
        return Layout(sites, choices)

    @property
    def width(self) -> int:
        """Number of site elements S."""
        return max((columns.stop for columns in self.sites.values()), default=0)

    @property
    def freedom(self) -> int:
        """Number of choices A."""
        return max((columns.stop for columns in self.choices.values()), default=0)

    def pack(self, limits: Mapping[int, Interval], like: Tensor) -> Tensor:
        """``(D, 2, S)`` limits of the sites, −infinity to infinity where there are none."""
        packed = like.new_full((len(like), 2, self.width), torch.inf)
        packed[:, 0] = -torch.inf
        for j, columns in self.sites.items():
            if j in limits:
                packed[:, 0, columns], packed[:, 1, columns] = (side.flatten(1) for side in limits[j])
        return packed

    def unpack(self, packed: Tensor, graph: Graph) -> dict[int, Interval]:
        """Limits of the sites by node."""
        found = {}
        for j, columns in self.sites.items():
            shape = (len(packed), *graph.nodes[j].shape)
            found[j] = Interval(packed[:, 0, columns].reshape(shape), packed[:, 1, columns].reshape(shape))
        return found


class PartDual:
    """The dual function of D parts, prepared for many evaluations at packed multipliers ``(D, A + S + K)``.

    Args:
        query: D problems whose boxes are those of the parts; the objective is linear or a distance.
        layout: of the query's parts.
        limits: of the sites and the input, ``(D, *shape)``.
        cut: ``(D, S)`` site elements that may have a beta.
        allowed: ``(D, K)`` atoms that are chosen.
        relaxations: of every node, for the D parts.
        made: what is free to choose at nodes, where that is known already.

    Attributes:
        start: ``(D, A)`` CROWN's own choice of lines.
        least, most, rate: see :class:`clinch.bounds.ascent.Function`.
    """

    def __init__(
        self, query: Query, layout: Layout, limits: Mapping[int, Interval], cut: Tensor, allowed: Tensor,
        relaxations: Mapping[int, Relaxation], made: Mapping[int, FreeLines],
    ) -> None:  # fmt: skip
        self.query, self.layout, graph = query, layout, query.graph
        lines: dict[int, FreeLines] = {}
        for i in layout.choices:
            node = graph.nodes[i]
            free = made.get(i) or lines_of(node.op, [limits[j] for j in node.inputs], graph.shapes(i))
            assert free is not None
            lines[i] = free
        fixed = {i: r for i, r in relaxations.items() if i not in lines and not graph.nodes[i].op.affine}
        self._pack = layout.pack(limits, query.region.lower)
        blank = self._forms(query.region.lower.new_zeros(query.size, layout.width), allowed.to(query.dtype))
        self.passes = Passes(graph, blank, replace(query.region, balls=()), lines, fixed)
        self.concretise = Concretiser(query).on(torch.arange(query.size, device=query.device), exact=True)
        least, most, self.start = (
            torch.cat([getattr(lines[i], name)[:, 0] for i in layout.choices], 1)
            if layout.choices
            else query.region.lower.new_zeros(query.size, 0)
            for name in ("least", "most", "start")
        )
        free_beta = torch.where(cut, torch.inf, 0.0).to(least)
        free_mu = torch.where(allowed, torch.inf, 0.0).to(least)
        self.least = torch.cat([least, -free_beta, torch.zeros_like(free_mu)], 1)
        self.most = torch.cat([most, free_beta, free_mu], 1)
        #: node -> coefficients ``(D, 1, *shape)`` on it in the last evaluation
        self.arrived: dict[int, Tensor] = {}
        self.rate = torch.cat([torch.full_like(least, CHOICE), self._sizes(), torch.ones_like(free_mu)], 1)
        #: rows ``(D, n)`` and offset ``(D,)`` of the last evaluation's linear limit
        self.rows, self.offset = query.region.lower.flatten(1), least.new_zeros(query.size)

    def limit(self, cuts: Tensor) -> None:
        """Let betas multiply these limits ``(D, 2, S)`` of the sites, where they are finite, in place of all known."""
        self._pack = cuts
        sites = slice(self.layout.freedom, self.layout.freedom + self.layout.width)
        self.least[:, sites], self.most[:, sites] = (
            torch.where(side.isfinite(), sign * torch.inf, 0.0).to(self.least)
            for side, sign in ((cuts[:, 0], -1), (cuts[:, 1], 1))
        )

    def take(self, index: Tensor) -> PartDual:
        """The same for some parts."""
        part = copy(self)
        part.query, part._pack = self.query.take(index), self._pack[index]
        part.least, part.most, part.rate = self.least[index], self.most[index], self.rate[index]
        part.start, part.rows, part.offset = self.start[index], self.rows[index], self.offset[index]
        part.arrived = {i: rows[index] for i, rows in self.arrived.items()}
        part.passes = self.passes.take(index)
        part.concretise = self.concretise.take(index)
        return part

    def light(self, graph: Graph) -> PartDual:
        """The same in the dtype that multipliers are looked for in, which proves nothing; graph: the query's in it."""
        part, query, device = copy(self), self.query, self.query.device
        part.query = replace(
            query, graph=graph, region=query.region.to(SEARCH, device), objective=query.objective.to(SEARCH, device),
            atoms=query.atoms.to(SEARCH, device),
        )  # fmt: skip
        for name in ("_pack", "least", "most", "rate", "start", "rows", "offset"):
            setattr(part, name, getattr(self, name).to(SEARCH))
        passes = self.passes
        lines = {i: line.to(SEARCH) for i, line in passes.lines.items()}
        relaxations = {i: r.to(SEARCH, device) for i, r in passes.relaxations.items()}
        part.passes = Passes(
            graph, passes.forms.to(SEARCH, device), passes.region.to(SEARCH, device), lines, relaxations
        )  # fmt: skip
        part.concretise = Concretiser(part.query).on(torch.arange(query.size, device=device))
        return part

    def split(self, packed: Tensor) -> tuple[Slopes, Tensor, Tensor]:
        """Choices by node ``(D, 1, m)``, beta and mu."""
        free, width = self.layout.freedom, self.layout.width
        slopes = {i: packed[:, columns].unsqueeze(1) for i, columns in self.layout.choices.items()}
        return slopes, packed[:, free : free + width], packed[:, free + width :]

    def __call__(self, packed: Tensor, start: Tensor | None = None, *, gradient: bool = False) -> Dual:
        """Bounds, minimisers and, if asked for, the direction of ascent."""
        slopes, beta, mu = self.split(packed)
        self.passes.forms = self._forms(beta, mu)
        self.arrived = {}
        rows, offset = self.passes.linear(slopes, self.arrived)
        self.offset = offset[:, 0]
        self.rows = torch.zeros_like(self.rows) if rows is None else rows[:, 0]
        found = self.concretise(self.rows, self.offset, start)
        step = None
        if gradient:
            step = self._rise(slopes, beta, found.point).mul_(found.weight.unsqueeze(1))
        bound = found.bound.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        return Dual(bound, found.point, self.rows, found.start, step)

    # --- what is made linear ------------------------------------------------------------------------------------------

    def _forms(self, beta: Tensor, mu: Tensor) -> Forms:
        """``[objective +] Σ μ_k atom_k + Σ β_j z_j − Σ max(β_j u_j, β_j l_j)`` as one form per part."""
        query, graph = self.query, self.query.graph
        low, high = self._pack.unbind(1)
        # where beta is zero a limit may be infinite
        support = torch.where(beta > 0, beta * high, torch.where(beta < 0, beta * low, torch.zeros_like(beta)))
        constant = torch.linalg.vecdot(mu, query.atoms.constant) - support.sum(1)
        rows = {
            j: beta[:, columns].reshape(len(beta), 1, *graph.nodes[j].shape) for j, columns in self.layout.sites.items()
        }
        parts = [
            (j, torch.einsum("dk,dk...->d...", mu, c.expand(len(mu), *c.shape[1:])).unsqueeze(1))
            for j, c in query.atoms.coefficients.items()
        ]
        if isinstance(query.objective, Linear):
            constant = constant + query.objective.form.constant[:, 0]
            parts += query.objective.form.coefficients.items()
        for j, part in parts:
            rows[j] = rows[j] + part if j in rows else part
        return Forms(rows, constant.unsqueeze(1))

    def _rise(self, slopes: Slopes, beta: Tensor, point: Tensor) -> Tensor:
        """What each multiplier multiplies at the minimiser."""
        sites, atoms = self.layout.sites, self.query.atoms
        at = self.passes.activations(slopes, point.unsqueeze(1), {*self.passes.read, *sites, *atoms.nodes})
        by_choice = self.passes.rises(slopes, at)
        low, high = self._pack.unbind(1)
        z = torch.cat([at[j].flatten(1) for j in sites], 1) if sites else beta
        over, under = z - high, z - low
        outside = torch.where(over > 0, over, torch.where(under < 0, under, torch.zeros_like(z)))
        by_beta = torch.where(beta > 0, over, torch.where(beta < 0, under, outside))
        return torch.cat([*(by_choice[i][:, 0] for i in self.layout.choices), by_beta, atoms.values(at)], 1)

    def _sizes(self) -> Tensor:
        """``(D, S)`` step sizes of beta: the coefficients on the sites where nothing has been chosen yet."""
        self.passes.linear({i: line.start for i, line in self.passes.lines.items()}, self.arrived)
        parts = [self.arrived[j].abs().flatten(1) for j in self.layout.sites]
        sizes = [p.amax(1, keepdim=True).expand_as(p) for p in parts]
        return BETA * torch.cat(sizes, 1) if sizes else self._pack[:, 0]
