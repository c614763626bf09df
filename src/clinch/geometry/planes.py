"""Linear conditions of the inputs themselves: ``lower <= A x <= upper``, with equalities where both limits are one.

``argmin ‖x − z‖₂  subject to  box,  lower <= A x <= upper`` has M multipliers: ``x(λ) = clip(z − Aᵀλ, box)``, with the
λ that maximise a concave, piecewise quadratic dual function. Newton steps over the elements that the box leaves free
find them in a few rounds (semismooth Newton, Qi and Sun 1993, doi 10.1007/BF01581275; for one row this is the
projection onto a simplex of Duchi et al. 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

#: Newton steps of a projection, and halvings of each
STEPS, HALVINGS = 40, 14
#: what is added to the diagonal of Newton's matrix, in mean squares of a row: no element may be free
RIDGE = 1e-3
#: violation, relative to the size of what a row sums, at which a projection ends
SETTLED = 1e-13
#: rounds of reweighting for the gradient of least dual norm, and the smallest size that is told from zero
ROUNDS, SMALL = 8, 1e-3
#: elements that are moved by a few roundings so that a rounded point meets its rows again
MOVES = 24
#: how much farther than it takes at least an element may be moved for that
NUDGE = 16


@dataclass(frozen=True)
class Planes:
    """``lower <= rows · x <= upper`` for each problem of a batch; all in float64.

    Attributes:
        rows: ``(B, M, n)``; ``(1, M, n)`` where all problems share them.
        lower: ``(B, M)``, −infinity where there is no such limit.
        upper: ``(B, M)``.
    """

    rows: Tensor
    lower: Tensor
    upper: Tensor

    def take(self, problems: Tensor | slice) -> Planes:
        """Those of the chosen problems, in that order; shared rows stay shared."""
        rows = self.rows if len(self.rows) == 1 else self.rows[problems]
        return Planes(rows, self.lower[problems], self.upper[problems])

    def on(self, device: torch.device | str) -> Planes:
        """A copy on a device."""
        return Planes(self.rows.to(device), self.lower.to(device), self.upper.to(device))

    def scaled(self, unit: Tensor) -> Planes:
        """The same conditions on ``x / unit``, units ``(B,)``."""
        return Planes(self.rows * unit.double().reshape(-1, 1, 1), self.lower, self.upper)

    def tightened(self, slack: float) -> Planes:
        """Limits moved inwards by a share of what rows sum at most in a box of size one, at most to their middle."""
        room = torch.minimum(slack * (1 + self.rows.abs().sum(2)), (self.upper - self.lower) / 2)
        return Planes(self.rows, self.lower + room, self.upper - room)

    @cached_property
    def equal(self) -> Tensor:
        """``(M,)`` which rows are equalities, for every problem."""
        return (self.lower == self.upper).all(0)

    def sums(self, x: Tensor) -> Tensor:
        """``(B, M)`` the rows' sums at points ``(B, *shape)``."""
        return (self.rows @ x.double().flatten(1).unsqueeze(2)).squeeze(2)

    def excess(self, x: Tensor) -> Tensor:
        """``(B, M)`` by how much the sums lie above their limits, negative below them, zero between."""
        return _beyond(self.sums(x), self.lower, self.upper)

    def rounding(self, x: Tensor) -> Tensor:
        """``(B,)`` what the rounding of points to their dtype may cost the worst row."""
        size = (self.rows.abs() @ x.double().abs().flatten(1).unsqueeze(2)).squeeze(2)
        return max(8 * torch.finfo(x.dtype).eps, 200 * SETTLED) * (1 + size).amax(1)

    def project(self, z: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """The nearest points of box and planes, in the dtype of ``z (B, *shape)``; where they do not meet, points of
        the box that miss as little as was found.

        Example:
            >>> simplex = Planes(torch.ones(1, 1, 3).double(), torch.ones(1, 1).double(), torch.ones(1, 1).double())
            >>> simplex.project(torch.tensor([[0.9, 0.5, 0.0]]), torch.zeros(1, 3), torch.ones(1, 3))
            tensor([[0.7000, 0.3000, 0.0000]])
        """
        low, high = (side.double().flatten(1).expand(len(z), -1) for side in (lower, upper))
        point = z.double().flatten(1)
        found = torch.maximum(torch.minimum(point, high), low)
        size = 1 + (self.rows.abs() @ found.abs().unsqueeze(2)).squeeze(2)
        known = max(torch.finfo(z.dtype).eps, 100 * SETTLED)  # what the dtype cannot say better is inside
        out, size = (self.excess(found).abs() > known * size).any(1).nonzero().flatten(), SETTLED * size
        if len(out):
            found = found.index_copy(0, out, self.take(out)._newton(point[out], low[out], high[out], size[out]))
        return found.to(z.dtype).reshape(z.shape).clamp(lower, upper)

    def _newton(self, z: Tensor, low: Tensor, high: Tensor, size: Tensor) -> Tensor:
        """The projection of points that are not inside."""
        rows, count = self.rows, self.rows.shape[1]
        ridge = (RIDGE * rows.square().mean(2).clamp(min=1e-12)).expand(len(z), -1)
        multiplier = torch.zeros_like(self.lower)
        x = self._dual(multiplier, z, low, high)[1]
        going = torch.arange(len(z), device=z.device)
        for _ in range(STEPS):
            part = self.take(going)
            sums = (part.rows @ x[going].unsqueeze(2)).squeeze(2)
            at = multiplier[going]
            slope = torch.where(
                at > 0, sums - part.upper, torch.where(at < 0, sums - part.lower, part.excess(x[going]))
            )
            slope = slope.nan_to_num(0.0, 0.0, 0.0)
            open_ = slope.abs() > size[going]
            left = open_.any(1).nonzero().flatten()
            if not len(left):
                break
            going, part, at, slope = going[left], part.take(left), at[left], slope[left]
            inner = (x[going] > low[going]) & (x[going] < high[going])
            used = (at != 0) | open_[left]
            matrix = (part.rows * inner.unsqueeze(1)) @ part.rows.mT * (used.unsqueeze(1) & used.unsqueeze(2))
            eye = torch.eye(count, dtype=matrix.dtype, device=matrix.device)
            matrix = matrix + eye * torch.where(used, ridge[going], 1.0).unsqueeze(2)
            newton = torch.linalg.solve(matrix, torch.where(used, slope, 0.0).unsqueeze(2)).squeeze(2)
            plain = slope / (count * part.rows.square().sum(2)).clamp(min=1e-12)
            new, point = self._searched(going, at, (newton, plain), z, low, high)
            moved = (new != at).any(1)
            multiplier[going], x[going] = new, point
            going = going[moved]
        return x

    def _searched(
        self, going: Tensor, at: Tensor, steps: tuple[Tensor, ...], z: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The first of ever shorter steps that raises the dual function, of the first direction that has one; a
        multiplier stops at zero where it would change its sign, unless its row is an equality."""
        part, z, low, high = self.take(going), z[going], low[going], high[going]
        free, new = part.lower == part.upper, at.clone()
        value, x = part._dual(at, z, low, high)
        todo = torch.arange(len(going), device=z.device)
        for step, k in ((step, k) for step in steps for k in range(HALVINGS)):
            trial = at[todo] + 0.5**k * step[todo]
            trial = torch.where((trial * at[todo] < 0) & ~free[todo], 0.0, trial)
            found, point = part.take(todo)._dual(trial, z[todo], low[todo], high[todo])
            # near the optimum the values no longer tell two steps apart, and Newton's is the better one
            allowance = SETTLED * (1 + value[todo].abs()) * (k == 0)
            up = found > value[todo] - allowance
            new[todo[up]], x[todo[up]], todo = trial[up], point[up], todo[~up]
            if not len(todo):
                break
        return new, x

    def _dual(self, multiplier: Tensor, z: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The dual function ``(B,)`` and the points ``(B, n)`` where it is taken."""
        x = z - (self.rows.mT @ multiplier.unsqueeze(2)).squeeze(2)
        x = torch.maximum(torch.minimum(x, high), low)
        sums = (self.rows @ x.unsqueeze(2)).squeeze(2)
        limit = torch.where(multiplier > 0, self.upper, self.lower)
        cost = torch.where(multiplier == 0, 0.0, multiplier * (sums - torch.where(multiplier == 0, 0.0, limit)))
        return 0.5 * (x - z).square().sum(1) + cost.sum(1), x

    def tangent(self, gradient: Tensor, q: float) -> Tensor:
        """Of all ``g + Aᵀλ`` over the rows of equalities, the one of least q-norm, ``(B, *shape)``.

        On the planes they are gradients of the same function; the steepest step of this one keeps to them, without
        limits of the elements. By reweighted least squares, with weights ``|g|^(q−2)``: q = 1 takes off the median of
        what an equal sum leaves, q = 2 the mean.
        """
        rows = self.rows[:, self.equal]
        if not rows.shape[1]:
            return gradient
        g = gradient.double().flatten(1)
        size = g.abs().amax(1, keepdim=True)
        g = g / torch.where(size > 0, size, 1.0)
        found, exponent = g, min(q, 6.0) - 2
        for k in range(ROUNDS if exponent else 1):
            weight = torch.ones_like(g)
            if k:
                each = found.abs() / found.abs().amax(1, keepdim=True).clamp(min=1e-12)
                weight = each.clamp(min=SMALL) ** exponent
            weighted = rows * weight.unsqueeze(1)
            matrix = weighted @ rows.mT
            scale = matrix.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-12)
            eye = torch.eye(rows.shape[1], dtype=g.dtype, device=g.device)
            matrix = matrix + 1e-10 * scale.reshape(-1, 1, 1) * eye
            share = torch.linalg.solve(matrix.expand(len(g), -1, -1), weighted @ g.unsqueeze(2))
            best = g - (rows.mT @ share).squeeze(2)
            # beyond q = 3 whole steps overshoot
            found = torch.lerp(found, best, 1 / max(1.0, exponent + 1)) if k else best
        return (found * size).to(gradient.dtype).reshape(gradient.shape)

    def settled(self, x: Tensor, lower: Tensor, upper: Tensor, center: Tensor, counts: bool) -> Tensor:
        """Points of a narrower dtype so that their sums, exact, lie within the limits: of those that do not, one
        element after the other is moved by what its row misses, each time the one that leaves the least.

        Args:
            x: ``(B, *shape)`` in the dtype of the points.
            lower: the box, of the same dtype; ``upper`` likewise.
            upper: see there.
            center: ``(B, *shape)`` no element may get farther from it than the farthest is.
            counts: whether an element that is not changed must stay so.
        """
        flat, low, high = x.flatten(1).clone(), lower.flatten(1).expand(len(x), -1), upper.flatten(1).expand(len(x), -1)
        middle = center.flatten(1)
        todo = torch.arange(len(x), device=x.device)
        for _ in range(MOVES):
            excess = self.take(todo).excess(flat[todo])
            worst = excess.abs().amax(1)
            todo = todo[worst > 0]
            if not len(todo):
                break
            excess = excess[worst > 0]
            flat[todo] = self.take(todo)._nearer(flat[todo], excess, low[todo], high[todo], middle[todo], counts)
        return flat.reshape(x.shape)

    def _nearer(self, x: Tensor, excess: Tensor, low: Tensor, high: Tensor, center: Tensor, counts: bool) -> Tensor:
        """One element moved."""
        each, rows, sums = torch.arange(len(x), device=x.device), self.rows.expand(len(x), -1, -1), self.sums(x)
        worst = excess.abs().argmax(1)
        row, inside = rows[each, worst], torch.minimum((self.upper - self.lower) / 2, self.rounding(x).unsqueeze(1))
        goal = torch.maximum(torch.minimum(sums, self.upper - inside), self.lower + inside)
        miss = (sums - goal)[each, worst].unsqueeze(1)
        moved = x.double() - miss / torch.where(row == 0, torch.inf, row)
        moved = torch.maximum(torch.minimum(moved.to(x.dtype), high), low)
        sums = sums.unsqueeze(2) + rows * (moved.double() - x.double()).unsqueeze(1)
        left = _beyond(sums, self.lower.unsqueeze(2), self.upper.unsqueeze(2)).abs().amax(1)
        away = (x - center).abs()
        change = (moved - x).abs()
        least = torch.finfo(x.dtype).eps * (1 + x.abs()) + miss.abs().to(x) / row.abs().amax(1, keepdim=True).to(x)
        allowed = ((moved - center).abs() <= away.amax(1, keepdim=True)) & (change <= NUDGE * least)
        if counts:
            allowed &= x != center
        best = torch.where(allowed, left, torch.inf).argmin(1)
        return x.index_put((each, best), moved[each, best])


def _beyond(sums: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return (sums - upper).clamp(min=0) - (lower - sums).clamp(min=0)
