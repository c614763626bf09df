"""Bounds of open neurons' inputs in a subdomain, where only inputs better than the cutoff matter.

The dual function proves a linear lower limit ``<g, x> + κ`` of the objective in a subdomain, weighted conditions that
hold there included. Where it is above the cutoff t nothing is of interest, so that the input ``z_j`` of an open neuron,
with linear limits ``<w, x> + b`` of its own, needs bounds on box ∩ {<g, x> + κ <= t} only: for every ``γ >= 0``

    z_j >= <w, m> + b + γ(<g, m> + κ − t) − <|w + γ g|, h>,

m the box's centre and h its half widths, and the mirror image above. This is INVPROP (Kotha et al. 2023, arXiv
2302.01404) with the objective as the output constraint and one multiplier per bound, tried at a few sizes instead of
ascended: any is valid. What is found holds for all descendants of the subdomain and is handed on to them.

A neuron whose output has a positive coefficient in the bound is *convex*: its relaxation from below, ``max(z, a·z)``,
is exact whatever its bounds are, and it has nothing to gain. Bounds are therefore refined for the others alone, whose
chord costs up to ``−A u l/(u − l)``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from clinch.bounds.ascent import Ascent
from clinch.bounds.backward import linear_lower
from clinch.bounds.domains import Domains, Kink, Relaxed, unlimited
from clinch.bounds.dual import Plane
from clinch.network.ops.base import Lines, Relaxation
from clinch.query import Forms

#: multipliers that are tried, relative to ``<|w|, h> / <|g|, h>``
MULTIPLIERS = (0.3, 1.0, 3.0)
#: coefficients of linear limits of all open neurons up to which they are kept, and looked at at once
KEPT, PIECE = 2**18, 2**17
#: by how much, relatively, bounds must cross to prove that there is nothing: far beyond what rounding can do
CROSSED = 1e-6


#: share of what the relaxations may cost that must go for a round to have paid, and calls without one at most
WORTH, LONGEST = 0.02, 32
#: rows and values at the centres of lower limits, and of upper ones
Sides = tuple[Tensor, Tensor, Tensor, Tensor]


class UnderCutoff:
    """Refines bounds of open neurons' inputs in subdomains, as long as that brings something.

    Args:
        relaxed: the relaxation of the search; tighter ones of the same layout may follow.

    Attributes:
        suits: whether the input is bounded and the linear limits are few enough to be looked at in every subdomain.
        resting: calls that will pass without work, as the last ones have brought little.
    """

    def __init__(self, relaxed: Relaxed) -> None:
        region = relaxed.query.region
        bounded = bool((torch.isfinite(region.lower) & torch.isfinite(region.upper)).all())
        problems = len(region.lower) if len(relaxed.kinks) > 1 else 1
        size = relaxed.query.graph.nodes[0].size
        self.suits = bounded and 0 < relaxed.width * size * problems <= KEPT
        self.resting, self._rest = 0, 1
        self._limits: _LinearLimits | None = None

    def __call__(self, relaxed: Relaxed, ascent: Ascent, cutoff: Tensor) -> Domains:
        """The domains with bounds that hold where the bound's own plane is not above the cutoff.

        Args:
            relaxed: the relaxation.
            ascent: domains with a plane and coefficients of the open elements' outputs.
            cutoff: ``(D,)`` inputs at which the plane is above it are of no interest; infinity: all are.

        Returns:
            The domains, of infinite bound where nothing of interest is left.
        """
        d = ascent.domains
        held = d.held if d.held.shape[2] else unlimited(d)
        if self.resting:
            self.resting -= 1
            return replace(d, held=held)
        if self._limits is None or self._limits.relaxed is not relaxed:
            self._limits = _LinearLimits(relaxed)
        d = replace(d, held=held)
        before = chords(relaxed, d, ascent.rows)
        d, nothing = self._limits.refine(d, ascent.plane, cutoff, (before > 0).any(0).nonzero().flatten())
        after = chords(relaxed, d, ascent.rows).sum(1).masked_fill(nothing, 0.0).sum()
        self._watch(bool(after <= (1 - WORTH) * before.sum()))
        return replace(d, bound=torch.where(nothing, torch.inf, d.bound))

    def _watch(self, paid: bool) -> None:
        """Rest the longer the more often it has not paid."""
        self._rest = 1 if paid else min(2 * self._rest, LONGEST)
        self.resting = 0 if paid else self._rest


def chords(relaxed: Relaxed, d: Domains, rows: Tensor) -> Tensor:
    """``[−A]₊·u·(−l)/(u − l)`` of every open element, ``(D, U)``: what the relaxation of each may cost, at most."""
    parts = []
    for kink in relaxed.kinks:
        inside = d.inside(kink)
        open_ = (inside.lower < 0) & (inside.upper > 0) & (d.split[:, kink.columns] == 0)
        offset = kink.op.relax_with(inside, torch.ones_like(inside.lower)).upper_offset
        parts.append(torch.where(open_, -rows[:, kink.columns].clamp(max=0) * offset, 0.0))
    return torch.cat(parts, 1)


class _LinearLimits:
    """Linear limits of the open elements' inputs for R problems, or for all alike where nothing bends below them:
    rows ``(R, U, n)`` and their values ``(R, U)`` at the boxes' centres, lower and upper ones.
    """

    def __init__(self, relaxed: Relaxed) -> None:
        self.relaxed = relaxed
        region = relaxed.query.region
        low, high = region.lower.flatten(1), region.upper.flatten(1)
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        self.sides = _linear_limits(relaxed, self.middle)

    def refine(self, d: Domains, plane: Plane, cutoff: Tensor, which: Tensor) -> tuple[Domains, Tensor]:
        """Domains with narrower bounds of the chosen elements, and ``(D,)`` whether nothing of interest is left."""
        held, nothing = d.held.clone(), torch.zeros_like(cutoff, dtype=torch.bool)
        size = max(1, PIECE // max(1, len(which) * plane.rows.shape[1]))
        for start in range(0, len(d), size):
            part = slice(start, start + size)
            low, high = self._refined(d.problem[part], which, plane.take(part), cutoff[part])
            low = torch.fmax(held[part, 0][:, which], _outwards(low, -torch.inf))
            high = torch.fmin(held[part, 1][:, which], _outwards(high, torch.inf))
            held[part, 0, which], held[part, 1, which] = low, high
            side, room = d.split[part][:, which], CROSSED * (low.abs() + high.abs())
            nothing[part] = ((low - high > room) | ((side > 0) & (high < -room)) | ((side < 0) & (low > room))).any(1)
        return replace(d, held=held), nothing

    def _refined(self, problem: Tensor, which: Tensor, plane: Plane, cutoff: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds ``(D, J)`` of the chosen elements' inputs under the plane."""
        middle, half = self.middle[problem], self.half[problem]
        height = torch.linalg.vecdot(plane.rows, middle) + plane.offset - cutoff
        reach = torch.linalg.vecdot(plane.rows.abs(), half)
        below, below_at, above, above_at = (
            t[:, which] if len(t) == 1 else t[problem[:, None], which] for t in self.sides
        )  # fmt: skip
        low = _least(below, below_at, half, plane.rows, height, reach)
        high = _least(-above, -above_at, half, plane.rows, height, reach)
        return low, -high


def _least(rows: Tensor, at: Tensor, half: Tensor, plane: Tensor, height: Tensor, reach: Tensor) -> Tensor:
    """Lower limits ``(D, J)`` of ``<rows, x − m> + at`` in box ∩ half-space, the best of some multipliers."""
    spread = (rows.abs() * half.unsqueeze(1)).sum(2)
    best = at - spread
    unit = spread / torch.where(reach > 0, reach, torch.inf).unsqueeze(1)
    for size in MULTIPLIERS:
        gamma = size * unit
        moved = torch.addcmul(rows, gamma.unsqueeze(2), plane.unsqueeze(1)).abs_().mul_(half.unsqueeze(1)).sum(2)
        best = torch.fmax(best, torch.addcmul(at, gamma, height.unsqueeze(1)) - moved)
    return best


def _outwards(bounds: Tensor, way: float) -> Tensor:
    """In single precision, rounded that way."""
    light = bounds.float()
    return torch.nextafter(light, torch.full_like(light, way))


def _linear_limits(relaxed: Relaxed, middle: Tensor) -> Sides:
    """CROWN's linear limits of what the kinks read, with the bounds that each problem starts with."""
    graph, relaxations = relaxed.query.graph, dict(relaxed.fixed)
    parts: list[Sides] = []
    for number, kink in enumerate(relaxed.kinks):
        j = graph.nodes[kink.node].inputs[0]
        problems = len(middle) if number else 1
        unit = middle.new_zeros(problems, len(kink.which), graph.nodes[j].size)
        unit[:, torch.arange(len(kink.which)), kink.which] = 1.0
        sides = []
        for sign in (1.0, -1.0):
            forms = Forms({j: (sign * unit).unflatten(2, graph.nodes[j].shape)}, unit.new_zeros(unit.shape[:2]))
            found, offset = linear_lower(graph, forms, relaxations)
            found = sign * found.flatten(2)
            sides += [found, sign * offset + torch.einsum("run,rn->ru", found.expand(len(middle), -1, -1), middle)]
        parts.append((sides[0], sides[1], sides[2], sides[3]))
        relaxations[kink.node] = _lines(relaxed, kink)
    width = len(middle) if len(parts) > 1 else 1
    below, below_at, above, above_at = (
        torch.cat([t.expand(width, *t.shape[1:]) if t.dim() == 3 else t for t in side], 1) for side in zip(*parts)
    )
    return below, below_at, above, above_at


def _lines(relaxed: Relaxed, kink: Kink) -> Relaxation:
    """The lines of one kink, CROWN's where it is open."""
    steep = (kink.bounds.upper > -kink.bounds.lower).to(kink.slope.dtype)
    low = kink.op.relax_with(kink.bounds, steep.clamp(min=kink.op.negative_slope))
    shape = (len(kink.slope), *relaxed.query.graph.nodes[kink.node].shape)
    flat = [kink.slope.clone(), torch.zeros_like(kink.slope), kink.slope.clone(), torch.zeros_like(kink.slope)]
    for side, part in zip(flat, low):
        side[:, kink.which] = part
    slope, offset, up_slope, up_offset = (side.reshape(shape) for side in flat)
    return Lines(slope, offset, up_slope, up_offset)
