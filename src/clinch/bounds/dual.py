"""The dual function of a query over domains: one number per choice of multipliers, every one of them a proven bound.

On a domain every choice of

* ``alpha`` in [a, 1]: slopes of the lower lines of the open kinks (α-CROWN, Xu et al. 2020, arXiv 2011.13824),
* ``beta`` >= 0: multipliers of the split kinks' sign conditions (β-CROWN, Wang et al. 2021, arXiv 2103.06624),
* ``mu`` >= 0: multipliers of the chosen atoms,

gives by one backward pass a linear lower limit of ``[objective +] Σ μ_k atom_k(x) + Σ ∓β_j ẑ_j(x)``, and a bound:

* distance objectives: where the limit ``<λ, x> + κ`` of the weighted constraints must be <= 0, a half-space; its
  distance from the centre within the box is the bound. The half-space does not change with the scale of the
  multipliers, so that no scale has to be found and ‖·‖_p needs no treatment of its own;
* linear objectives: the exact minimum of ``<λ, x> + κ`` over box ∩ ball.

Its gradient needs no second backward pass. The limit is linear in each multiplier given the others, so that the
derivative is what the multiplier multiplies, at the minimiser: a forward pass in which every kink is replaced by the
line that the backward pass chose gives ``[A_j]₊·ẑ_j`` for alpha, ``∓ẑ_j`` for beta and ``atom_k`` for mu.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.concretise import Concretised
from clinch.bounds.domains import Domains, Kink, Relaxed
from clinch.network.ops.base import Interval
from clinch.query import Linear
from clinch.runtime import deadline


class Multipliers(NamedTuple):
    """``alpha (D, U)``, ``beta (D, U)`` and ``mu (D, K)``, or a gradient by them."""

    alpha: Tensor
    beta: Tensor
    mu: Tensor

    @staticmethod
    def unpack(packed: Tensor, width: int) -> Multipliers:
        """Views of one tensor ``(D, 2U + K)``."""
        return Multipliers(packed[:, :width], packed[:, width : 2 * width], packed[:, 2 * width :])


class Plane(NamedTuple):
    """A linear lower limit ``<rows, x> + offset`` on D domains: ``(D, n)``, ``(D,)``."""

    rows: Tensor
    offset: Tensor

    def take(self, index: Tensor | slice) -> Plane:
        """Of the chosen domains."""
        return Plane(self.rows[index], self.offset[index])


class Dual(NamedTuple):
    """The dual function at some multipliers.

    Attributes:
        bound: ``(D,)``; point: ``(D, n)`` the minimisers; rows: ``(D, U)`` coefficients on open elements' outputs.
        start: where the concretisation of nearby multipliers may start.
        gradient: ``(D, 2U + K)`` direction of ascent by alpha, beta and mu, where it was asked for.
        plane: the linear limit that the bound follows from, of the dual function of domains.
    """

    bound: Tensor
    point: Tensor
    rows: Tensor
    start: Tensor | None
    gradient: Tensor | None
    plane: Plane | None = None


class _KinkFrame(NamedTuple):
    """One kink on domains, all that the multipliers do not change.

    An open element's lower line has the slope alpha within ``[least, most]``; where it is split both are its slope on
    that side and the upper line is the same line. A domain is ``empty`` where a split contradicts the limits, which may
    be younger than the split.
    """

    slope: Tensor
    up_slope: Tensor
    up_offset: Tensor
    least: Tensor
    most: Tensor
    empty: Tensor
    split: Tensor | None

    def take(self, index: Tensor) -> _KinkFrame:
        """The frame of the chosen domains; what all share stays shared."""
        slope = self.slope if self.slope.shape[0] == 1 else self.slope[index]
        lines = self.up_slope[index], self.up_offset[index], self.least[index], self.most[index]
        return _KinkFrame(slope, *lines, self.empty[index], None if self.split is None else self.split[index])


class DualFunction:
    """The dual function of some domains, prepared for many evaluations.

    Args:
        relaxed: the query.
        d: the domains; only their problems, splits and choices matter, multipliers are given in each call.
        exact: whether the last step, from the linear limit to a number, must lose nothing.
    """

    def __init__(self, relaxed: Relaxed, d: Domains, *, exact: bool = False) -> None:
        self.relaxed, self.problem = relaxed, d.problem
        query = relaxed.query
        self.frames = {k.node: _kink_frame(relaxed, k, d) for k in relaxed.kinks}
        self.kinks = {k.node: k for k in relaxed.kinks}
        alone = query.size == 1
        which = d.problem[:1] if alone and len(d) else d.problem
        self.fixed = {i: r.take(which) for i, r in relaxed.fixed.items()}
        self.atoms = query.atoms.take(which)
        self.form = query.objective.form.take(which) if isinstance(query.objective, Linear) else None
        self.concretise = relaxed.concretise.on(d.problem, exact=exact)
        self.empty = self._empty()

    def _empty(self) -> Tensor | None:
        """``(D,)`` domains without any input, None where there is none of them."""
        parts = [frame.empty for frame in self.frames.values()]
        empty = torch.stack(parts).any(0) if parts else torch.zeros_like(self.problem, dtype=torch.bool)
        return empty if bool(empty.any()) else None

    def take(self, index: Tensor) -> DualFunction:
        """The same for some of the domains."""
        part = object.__new__(DualFunction)
        part.relaxed, part.kinks, part.problem = self.relaxed, self.kinks, self.problem[index]
        part.frames = {i: frame.take(index) for i, frame in self.frames.items()}
        shared = self.relaxed.query.size == 1
        part.fixed = self.fixed if shared else {i: r.take(index) for i, r in self.fixed.items()}
        part.atoms = self.atoms if shared else self.atoms.take(index)
        part.form = self.form if shared or self.form is None else self.form.take(index)
        part.concretise = self.concretise.take(index)
        part.empty = None if self.empty is None else self.empty[index]
        return part

    @property
    def limits(self) -> tuple[Tensor, Tensor]:
        """``(D, U)`` smallest and largest admissible alpha."""
        if not self.frames:
            empty = self.relaxed.floor.expand(len(self.problem), -1)
            return empty, empty
        return (
            torch.cat([f.least for f in self.frames.values()], 1),
            torch.cat([f.most for f in self.frames.values()], 1),
        )

    def __call__(self, m: Multipliers, start: Tensor | None = None, *, gradient: bool = False) -> Dual:
        """Bounds, minimisers and, if asked for, the direction of ascent.

        Args:
            m: multipliers within their limits.
            start: what an earlier call for the same domains returned, or None.
            gradient: whether to make the forward pass as well.
        """
        chosen: dict[int, Tensor] = {}
        rows, offset = self._backward(m, chosen)
        found = self.concretise(rows, offset, start)
        step = self._forward(m, found, chosen) if gradient else None
        # a kink that nothing asked for depends on has no row
        parts = [chosen[i] if i in chosen else torch.zeros_like(frame.least) for i, frame in self.frames.items()]
        at_kinks = torch.cat(parts, 1) if parts else m.alpha
        bound = found.bound if self.empty is None else found.bound.masked_fill(self.empty, torch.inf)
        return Dual(bound, found.point, at_kinks, found.start, step, Plane(rows, offset))

    # --- backward: coefficients ---------------------------------------------------------------------------------------

    def _backward(self, m: Multipliers, chosen: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """The linear limit ``rows (D, n)``, ``offset (D,)``; ``chosen`` receives the rows at the open elements."""
        graph, count = self.relaxed.query.graph, len(self.problem)
        pending, offset = self._forms(m)
        for i in reversed(self.relaxed.order):
            deadline.look()
            rows = pending.pop(i)
            if i in self.frames:
                carried, constant = [self._through_kink(i, rows, m, chosen)], None
                offset = offset + torch.linalg.vecdot(chosen[i].clamp(max=0), self.frames[i].up_offset)
            else:
                chosen[i] = rows.reshape(count, 1, *graph.nodes[i].shape)
                shaped, constant = self.fixed[i].backward(chosen[i])
                carried = [t.reshape(count, -1) for t in shaped]
                offset = offset + constant[:, 0]
            for j, part in zip(graph.nodes[i].inputs, carried):
                pending[j] = pending[j] + part if j in pending else part
        rows = pending.get(0)
        return (m.mu.new_zeros(count, graph.nodes[0].size) if rows is None else rows), offset

    def _forms(self, m: Multipliers) -> tuple[dict[int, Tensor], Tensor]:
        """``[objective +] Σ μ_k atom_k`` as rows per node and an offset; split kinks' inputs join in on the way."""
        count = len(self.problem)
        pending: dict[int, Tensor] = {}
        offset = torch.linalg.vecdot(m.mu, self.atoms.constant)
        for node, c in self.atoms.coefficients.items():
            flat = c.flatten(2)
            pending[node] = m.mu @ flat[0] if c.shape[0] == 1 else torch.einsum("dk,dkn->dn", m.mu, flat)
        if self.form is not None:
            offset = offset + self.form.constant[:, 0]
            for node, c in self.form.coefficients.items():
                row = c.flatten(2)[:, 0].expand(count, -1)
                pending[node] = pending[node] + row if node in pending else row
        return pending, offset

    def _through_kink(self, i: int, rows: Tensor, m: Multipliers, chosen: dict[int, Tensor]) -> Tensor:
        kink, frame = self.kinks[i], self.frames[i]
        whole = len(kink.which) == rows.shape[1]
        open_rows = rows if whole else rows.index_select(1, kink.which)
        chosen[i] = open_rows
        part = open_rows.clamp(min=0).mul_(m.alpha[:, kink.columns])
        part.addcmul_(open_rows.clamp(max=0), frame.up_slope)
        if frame.split is not None:
            part.addcmul_(m.beta[:, kink.columns], frame.split, value=-1)
        return part if whole else (rows * frame.slope).index_copy_(1, kink.which, part)

    # --- forward: what each multiplier multiplies ---------------------------------------------------------------------

    def _forward(self, m: Multipliers, found: Concretised, chosen: dict[int, Tensor]) -> Tensor:
        """The gradient, from a forward pass along the lines that the backward pass chose."""
        query, count = self.relaxed.query, len(self.problem)
        graph = query.graph
        width = m.alpha.shape[1]
        gradient = m.mu.new_zeros(count, 2 * width + m.mu.shape[1])
        alpha, beta, mu = Multipliers.unpack(gradient, width)

        def through_operator(i: int, *inputs: Tensor) -> Tensor:
            return self.fixed[i].forward(chosen[i], *inputs)

        def through_kink(i: int, h: Tensor) -> Tensor:
            kink, frame = self.kinks[i], self.frames[i]
            z = h.reshape(count, -1)
            at_open = z.index_select(1, kink.which)
            rows = chosen[i]
            torch.mul(rows.clamp(min=0), at_open, out=alpha[:, kink.columns])
            if frame.split is not None:
                torch.mul(frame.split, -at_open, out=beta[:, kink.columns])
            low = at_open * m.alpha[:, kink.columns]
            high = torch.addcmul(frame.up_offset, at_open, frame.up_slope)
            # not torch.where: signs that cannot be predicted make it several times slower
            after = torch.lerp(high, low, (rows >= 0).to(low))
            return (z * frame.slope).index_copy_(1, kink.which, after).reshape(count, *graph.nodes[i].shape)

        override = {i: partial(through_kink if i in self.frames else through_operator, i) for i in self.relaxed.order}
        start = found.point.reshape(count, *graph.input_shape)
        values = graph.forward(start, [0, *self.relaxed.order], override, in_parts=True)
        if self.atoms.count:
            mu.copy_(self.atoms.values(values))
        return gradient.mul_(found.weight.unsqueeze(1))


def _kink_frame(relaxed: Relaxed, kink: Kink, d: Domains) -> _KinkFrame:
    bounds, split = d.inside(kink), d.split[:, kink.columns]
    empty = ((split > 0) & (bounds.upper < 0)) | ((split < 0) & (bounds.lower > 0))
    inside = Interval(
        torch.where(split > 0, bounds.lower.clamp(min=0), bounds.lower),
        torch.where(split < 0, bounds.upper.clamp(max=0), bounds.upper),
    )
    floor = relaxed.floor[kink.columns].expand_as(bounds.lower)
    least, _, up_slope, up_offset = kink.op.relax_with(inside, floor)
    most = kink.op.relax_with(inside, torch.ones_like(floor)).lower_slope
    slope = kink.slope if relaxed.query.size == 1 else kink.slope[d.problem]
    sides = split.to(least.dtype) if bool(split.any()) else None
    return _KinkFrame(slope, up_slope, up_offset, least, most, empty.any(1), sides)


def evaluate(relaxed: Relaxed, d: Domains, *, exact: bool = False) -> Dual:
    """The proven bound of each domain for the multipliers it carries (``d.bound`` is not looked at)."""
    function = DualFunction(relaxed, d, exact=exact)
    least, most = function.limits
    m = Multipliers(torch.minimum(torch.maximum(d.alpha, least), most), d.beta * (d.split != 0), d.mu)
    return function(m)
