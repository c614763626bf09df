"""Upper bounds of ``‖f(x) − f(x0)‖₂`` over a ball: branch and bound over the directions of the output.

For a unit vector u the largest ``h(u) = max_x <u, f(x) − f(x0)>`` is a linear objective, which CROWN bounds and branch
and bound closes. The sphere of directions is covered by cones, each spanned by m unit vectors, the rows of U. A change
w in such a cone is ``w = ‖w‖·Uᵀμ`` with ``μ >= 0`` and ``‖Uᵀμ‖ = 1``, so that ``‖w‖ = <Uᵀμ, w> <= μᵀh`` with
``h = (h(u_1) … h(u_m))``. With ``G = U Uᵀ``

    ‖w‖ <= min( √(hᵀ G⁻¹ h),  max_i h_i · √(1ᵀ G⁻¹ 1) )

the first by dropping ``μ >= 0``, the second because ``1/Σμ`` is not less than the distance from the origin to the plane
through the u_i. The first cones are the orthants of an orthonormal basis: the left singular vectors of J. A cone whose
bound is too large is halved at its longest edge, whose middle has ``h((u + v)/‖u + v‖) <= (h(u) + h(v))/‖u + v‖`` to
begin with; narrow ones get their vectors searched, many at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.applications.regression.jacobian import Jacobian
from clinch.applications.regression.statement import Statement
from clinch.bounds.crown import activation_bounds, form_bounds, relaxations_from
from clinch.query import Forms, Query
from clinch.solve import search
from clinch.solver.ledger import Ledger
from clinch.solver.solution import Proof

#: outputs up to which cones are split, up to which axes are searched, and up to which they are turned
CONES, AXES, TURNED = 6, 16, 512
#: directions of each input that are searched together at first; cones halved at once; the share of the time left that
#: the searches of one round may take
FIRST, WIDTH, ROUND = 24, 256, 0.6
#: rounding of a cone's bound, relative
ROUNDING = 1e-9


def axes_of(jacobian: Jacobian) -> Tensor | None:
    """``(B, m, m)`` whose rows are left singular vectors of J, the strongest first; None for one or many outputs."""
    if not 2 <= jacobian.outputs <= TURNED:
        return None
    columns = [jacobian.times(jacobian.transposed(unit)) for unit in jacobian.blocks(jacobian.outputs)]
    gram = torch.cat(columns, 1)
    return torch.linalg.eigh((gram + gram.mT) / 2).eigenvectors.flip(2).mT.cpu().contiguous()


def prove_by_directions(statement: Statement, query: Query, ledger: Ledger, seed: int) -> None:
    """Bound the change; what is proven, and points found on the way, go to the ledger.

    Args:
        statement: B inputs.
        query: of ``statement.problem()``.
        ledger: of the same query; its best points say which directions matter.
        seed: of the searches.

    Raises:
        UnsupportedOperator: a layer has no linear relaxation.
    """
    count = statement.start.shape[1]
    if count > AXES or ledger.exhausted:
        return
    directions = Directions(statement, query)
    if count > CONES:
        _axes_alone(directions, ledger, seed)
        return
    cones, quota = _orthants(len(statement.x), count), FIRST
    while True:
        bound, wide = directions.cone_bounds(cones)
        owner = directions.owner[cones[:, 0]]
        worst = torch.zeros(len(statement.x), dtype=torch.float64).scatter_reduce(0, owner, bound, "amax")
        ledger.prove(-worst, Proof.TREE, "linear objectives along directions")
        # a little less than allowed, so that rounding does not leave a problem just open
        allowed = 0.9 * ledger.slack - ledger.value
        above = (bound > allowed[owner]) & ~ledger.closed[owner]
        if not bool(above.any()) or ledger.exhausted:
            return
        open_ = cones[above].unique()
        open_ = open_[~directions.searched[open_]]
        cut = above & (wide > 1 + 0.2 * ledger.gap)
        if not len(open_) and not bool(cut.any()):
            return  # what is left to gain is on the side of the points
        if bool(cut.any()) and len(open_) < quota * len(owner.unique()):
            cut[cut.nonzero().flatten()[bound[cut].argsort(descending=True)[WIDTH:]]] = False
            cones = torch.cat([cones[~cut], directions.halved(cones[cut])])
        else:
            quota *= 2
            with ledger.share(ROUND):
                directions.search(open_, ledger, seed)


class Directions:
    """Unit vectors of the outputs of B inputs, and what is proven along each.

    Attributes:
        owner: ``(L,)`` whose each is; ``units`` ``(L, m)``.
        highest: ``(L,)`` proven upper limits of h(u), not negative: x0 itself gives 0.
        searched: ``(L,)`` whether branch and bound has done with it.
    """

    def __init__(self, statement: Statement, query: Query) -> None:
        self.statement, self.query = statement, query
        output = query.graph.output
        limits = activation_bounds(query.graph, query.region, [output])
        self._relaxations = relaxations_from(query.graph, limits, [output])
        size, count = statement.start.shape
        axes = torch.eye(count, dtype=torch.float64).expand(size, -1, -1) if statement.axes is None else statement.axes
        self.owner = torch.arange(size).repeat_interleave(2 * count)
        self.units = torch.cat([axes, -axes], 1).flatten(0, 1)
        self.highest = self._crown(self.owner, self.units)
        self.searched = torch.zeros(len(self.owner), dtype=torch.bool)
        self._middles: dict[tuple[int, int], int] = {}

    def cone_bounds(self, cones: Tensor) -> tuple[Tensor, Tensor]:
        """``(N,)`` bounds of the change within cones ``(N, m)``, positions of unit vectors; see the module's text.

        And ``√(1ᵀ G⁻¹ 1)``, how much of that is due to their width.
        """
        u, h = self.units[cones], self.highest[cones].unsqueeze(2)
        both = torch.linalg.solve(u @ u.mT, torch.cat([h, torch.ones_like(h)], 2))
        dropped = (h * both[:, :, :1]).sum((1, 2)).clamp(min=0).sqrt()
        wide = both[:, :, 1].sum(1).clamp(min=1).sqrt()
        return torch.minimum(dropped, h.amax((1, 2)) * wide) * (1 + ROUNDING), wide

    def search(self, which: Tensor, ledger: Ledger, seed: int) -> None:
        """Branch and bound along the chosen directions; points found on the way are offered.

        Of no direction more is asked than that it reaches hardly more than what is known.
        """
        owner = self.owner[which]
        enough = (0.5 * ledger.slack - ledger.value)[owner]
        self.searched[which[self.highest[which] <= enough]] = True
        left = self.highest[which] > enough
        which, owner, enough = which[left], owner[left], enough[left]
        if not len(which):
            return
        query = self.statement.along(owner, self.units[which]).query
        inner = Ledger(query, time_limit=ledger.remaining, gap=ledger.gap / 2, enough=-enough)
        known = ledger.value[owner].isfinite().nonzero().flatten()
        inner.offer(ledger.x[owner[known]], "the norm's best point", known)
        inner.prove(-self.highest[which], Proof.LINEAR_RELAXATION, "CROWN")
        search(query, inner, seed, "branch_and_bound" if query.graph.bends_only_at_kinks(query.nodes) else None)
        found = inner.value.isfinite().nonzero().flatten()
        if len(found):
            ledger.offer(inner.x[found], "directions", owner[found])
        self.highest[which] = torch.minimum(self.highest[which], -inner.bound)
        self.searched[which] = inner.closed if inner.remaining <= 0 else torch.ones_like(inner.closed)

    def halved(self, cones: Tensor) -> Tensor:
        """The halves ``(2N, m)`` of cones, cut at the middles of their longest edges."""
        u = self.units[cones]
        apart = (u @ u.mT).triu(1) + 2 * torch.ones_like(u @ u.mT).tril()
        edge = apart.flatten(1).argmin(1)
        ends = torch.stack([edge // cones.shape[1], edge % cones.shape[1]], 1)
        middle = self._middle(cones.gather(1, ends))
        halves = [cones.scatter(1, ends[:, k : k + 1], middle.unsqueeze(1)) for k in (0, 1)]
        return torch.cat(halves)

    def _middle(self, edges: Tensor) -> Tensor:
        """``(N,)`` positions of the middles of edges ``(N, 2)``; an edge that several cones share has one."""
        pairs = [(min(a, b), max(a, b)) for a, b in edges.tolist()]
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._middles]
        if new:
            ends = torch.tensor(new)
            total = self.units[ends].sum(1)
            length = torch.linalg.vector_norm(total, dim=1)
            owner, units = self.owner[ends[:, 0]], total / length.unsqueeze(1)
            convex = self.highest[ends].sum(1) / length * (1 + ROUNDING)
            self._middles.update({pair: len(self.owner) + k for k, pair in enumerate(new)})
            self.owner, self.units = torch.cat([self.owner, owner]), torch.cat([self.units, units])
            self.highest = torch.cat([self.highest, torch.minimum(self._crown(owner, units), convex)])
            self.searched = torch.cat([self.searched, torch.zeros(len(new), dtype=torch.bool)])
        return torch.tensor([self._middles[pair] for pair in pairs])

    def _crown(self, owner: Tensor, units: Tensor) -> Tensor:
        """``(L,)`` upper limits of ``<u, f(x) − f(x0)>`` over the regions of the owners."""
        node, here = self.query.graph.output, self.query.device
        rows = -units.reshape(len(units), 1, *self.query.graph.nodes[node].shape).to(here)
        start = self.statement.start[owner]
        opposite = Forms({node: rows}, (units * start).sum(1, keepdim=True).to(here))
        index = owner.to(here)
        relaxations = {i: relaxation.take(index) for i, relaxation in self._relaxations.items()}
        lowest = form_bounds(self.query.graph, opposite, self.query.region.take(index), relaxations)
        return -lowest[:, 0].cpu().clamp(max=0)


def _orthants(size: int, count: int) -> Tensor:
    """``(B·2ᵐ, m)`` positions of the unit vectors of every orthant; ``−q_k`` stands m places after ``q_k``."""
    signs = torch.cartesian_prod(*[torch.arange(2)] * count).reshape(-1, count)
    one = torch.arange(count) + count * signs
    return (one + 2 * count * torch.arange(size).view(-1, 1, 1)).reshape(-1, count)


def _axes_alone(directions: Directions, ledger: Ledger, seed: int) -> None:
    """``‖w‖₂² <= Σ_k max(h(q_k), h(−q_k))²``: the worst of all orthants, without listing them."""

    def report() -> None:
        sides = directions.highest.reshape(ledger.query.size, 2, -1).amax(1)
        worst = torch.linalg.vector_norm(sides, dim=1) * (1 + ROUNDING)
        ledger.prove(-worst, Proof.TREE, "linear objectives along directions")

    report()
    if not ledger.exhausted:
        which = (~ledger.closed)[directions.owner].nonzero().flatten()
        directions.search(which, ledger, seed)
        report()
