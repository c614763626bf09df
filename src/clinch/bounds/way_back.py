"""Rows on windows, carried back layer by layer: what each kind of layer does to them.

See :mod:`clinch.bounds.patches` for what rows are, :mod:`clinch.bounds.windows` for where they lie, and
:mod:`clinch.bounds.centred` for what they mean and what rounding may have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from clinch.bounds.centred import INFLATED, UNIT, gamma, terms, terms_of_transpose, weigh
from clinch.bounds.vectors import At, Vectors
from clinch.bounds.windows import Window, size_of
from clinch.geometry.inner_products import products
from clinch.geometry.linear_minimum import minimum_over
from clinch.geometry.region import Ball, Region
from clinch.network.ops.base import Relaxation
from clinch.network.ops.relaxation import ByPlace, Picks
from clinch.network.ops.views import Kernel, Reach
from clinch.runtime import deadline


@dataclass
class _Rows:
    """Rows ``(G, R, channels, *extent)`` by node, with whether they are zero outside the layer; what their forms are
    above already and, where asked for, below; and the allowance for rounding, ``(G, R)`` each."""

    pending: dict[int, tuple[Tensor, bool]]
    value: Tensor
    other: Tensor
    allowance: Tensor


class Layers(Vectors):
    """What each layer does to rows on the way back."""

    def __call__(self, at: At, local: Tensor, place: Tensor, sign: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Limits ``(G, R)`` of elements around their values, given their places in window and layer: lower ones, upper
        ones by the same rows, and about the most that lower ones would be without rounding.
        """
        state = self._start(at, local, place, sign.to(self.dtype))
        for i in sorted(self.plan, reverse=True):
            if i > self.way.end and i in state.pending:
                deadline.look()
                self._through(i, state, at)
        if self.way.end in state.pending:
            rows = state.pending[self.way.end][0].to(self.region.lower.dtype)
            state.value = state.value + (least := self._least(rows, at))
            if self.way.sided:
                state.other = state.other - (self._least(-rows, at) if self.region.balls else least)
        allowance = state.allowance
        if self.single:
            allowance = INFLATED * (allowance + self.lost[at.problem].unsqueeze(1))
        lower, upper, most = state.value - allowance, state.other + allowance, state.value + allowance
        inf = torch.inf
        return lower.nan_to_num(-inf, inf, -inf), upper.nan_to_num(inf, inf, -inf), most.nan_to_num(inf, inf, -inf)

    def _start(self, at: At, local: Tensor, place: Tensor, sign: Tensor) -> _Rows:
        """The elements themselves; of a dense layer or a convolution its rows, of which each number is rounded once."""
        j, window, node = self.way.j, self.plan[self.way.j], self.graph.nodes[self.way.j]
        zero = self.region.lower.new_zeros(local.shape)
        state, first = _Rows({}, zero, zero, zero), self._rows_of_start
        size = size_of(self.graph, j, window)
        if first is None:
            extent = node.shape[1:] if window is None else window.extent
            rows = sign.new_zeros(*local.shape, size).scatter(2, local.unsqueeze(2), sign.unsqueeze(2))
            state.pending[j] = rows.reshape(*local.shape, node.shape[0], *extent), True
            return state
        rows = first[local] * sign.reshape(*sign.shape, *[1] * (first.dim() - 1))
        (k,) = node.inputs
        kernel = self._kernel(j)
        behind = None if window is None or kernel is None else window.behind(kernel.reach)
        self._arrive(state, k, rows, behind, False, at)
        if self.single:
            spread = self.way.centred.spread(j)[self.problems].flatten(1)
            state.allowance = state.allowance + gamma(2) * spread[at.problem.unsqueeze(1), place]
        return state

    @cached_property
    def _rows_of_start(self) -> Tensor | None:
        """Rows of the elements of one window on what the first layer reads, or None where unit vectors are as good."""
        j, window = self.way.j, self.plan[self.way.j]
        if (matrix := self.graph.matrix(j)) is not None:
            return matrix.weight.to(self.dtype)
        kernel = self._kernel(j)
        size = size_of(self.graph, j, window)
        if kernel is None or window is None or self.count < size:
            return None
        unit = torch.eye(size, dtype=self.dtype, device=kernel.weight.device)
        unit = unit.reshape(size, kernel.weight.shape[0], *window.extent)
        return kernel.unpadded.transposed(unit, window.behind(kernel.reach).extent)

    # --- one layer ----------------------------------------------------------------------------------------------------

    def _through(self, i: int, state: _Rows, at: At) -> None:
        """Replace the rows on node i by rows on its inputs."""
        (rows, clean), window, relaxation = state.pending.pop(i), self.plan[i], self._relaxation(i)
        op, shapes, inputs = self.graph.nodes[i].op, self.graph.shapes(i), self.graph.nodes[i].inputs
        if (lines := relaxation.by_place()) is not None:
            for k, part in zip(inputs, self._through_lines(i, rows, state, at, lines)):
                self._arrive(state, k, part, window, True, at)
        elif (signs := op.as_sum(shapes)) is not None:
            for k, sign in zip(inputs, signs):
                self._arrive(state, k, rows if sign == 1 else rows * sign, window, clean, at)
        elif (factors := op.as_factors(shapes)) is not None:
            if factors.scale is not None:
                self._weigh(i, rows, state, at, lambda: gamma(3) * self.spread(i))
                scale = factors.scale.expand(self.graph.nodes[i].shape).unsqueeze(0)
                (scale,) = self._fetch(("scale", i), window, at, lambda: [scale])
                rows, clean = rows * scale.unsqueeze(1), True
            self._arrive(state, inputs[0], rows, window, clean, at)
        elif (kernel := self._kernel(i)) is not None:
            self._through_kernel(i, kernel, rows, clean, state, at)
        elif window is not None and (transposed := self._transposed(i)) is not None:
            self._through_transposed(i, transposed, window, self._inside(i, rows, clean, at), state, at)
        elif window is not None and op.treats_places_alike(shapes):
            images = [(shape[0], *window.extent) for shape in shapes]
            for k, part in zip(inputs, op.transpose(rows.flatten(0, 1), images)):  # type: ignore[attr-defined]
                self._arrive(state, k, part.unflatten(0, rows.shape[:2]), window, clean, at)
        elif window is not None and (reach := op.as_reach(shapes)) is not None:
            picks = relaxation.picks()
            if picks is None:
                carried = self._inside(i, rows, clean, at)
            else:
                carried = self._through_picks(i, picks, reach, rows, clean, state, at)
            self._arrive(state, inputs[0], carried, window.behind(reach), False, at)
        else:
            whole = rows if window is None else window.place(rows, at.tile, self.graph.nodes[i].shape[1:])
            self._through_whole(i, whole, state, at, relaxation)

    def _through_lines(self, i: int, rows: Tensor, state: _Rows, at: At, lines: ByPlace) -> list[Tensor]:
        """A positive coefficient takes the lower line, a negative one the upper line, both around the middle."""
        inputs = self.graph.nodes[i].inputs[: len(lines.slopes)]

        def vectors() -> list[Tensor]:
            after = self.value(i)
            low, top, sizes = lines.lower - after, lines.upper - after, torch.zeros_like(after)
            slopes = []
            for k, (below, above) in zip(inputs, lines.slopes):
                before, rise = self.value(k), below - above
                low, top = torch.addcmul(low, below, before), torch.addcmul(top, above, before)
                sizes = sizes + gamma(5) * (above.abs() + rise.abs()) * self.radius(k) if self.single else sizes
                slopes += [above, rise]
            far = self._far(i, lines) if self.way.sided else []
            return [*slopes, *self._constants(i, [top, low - top, *far], sizes)]

        fetched = self._fetch(i, self.plan[i], at, vectors)
        slopes, constants = fetched[: 2 * len(inputs)], list(fetched[2 * len(inputs) :])
        positive = rows.clamp(min=0)
        self._add(state, rows, positive, constants)
        return [
            torch.addcmul(rows * above.unsqueeze(1), positive, rise.unsqueeze(1))
            for above, rise in zip(slopes[::2], slopes[1::2])
        ]

    def _far(self, i: int, lines: ByPlace) -> list[Tensor]:
        """How far a function comes above its lower line at most, and how far below the upper one, around the middle: of
        two pieces at an end or at zero.

        As ``[below, gap]``, for :meth:`_add`: with the same rows these give the other side of a form.
        """
        inputs, two = self.graph.nodes[i].inputs[: len(lines.slopes)], self.graph.nodes[i].op.two_pieces()
        below, above = self.way.centred.known(i, self.problems)
        if two is not None:
            ((low, high),), (start, stop) = lines.slopes, self.way.centred.known(inputs[0], self.problems)
            ends = start, stop, torch.zeros_like(start).clamp(start, stop)
            above = torch.stack([two.forward(z) - low * z for z in ends]).amax(0)
            below = torch.stack([two.forward(z) - high * z for z in ends]).amin(0)
        after = self.value(i)
        below, above = below - after, above - after
        for k, (low, high) in zip(inputs, lines.slopes):
            start, stop = self.way.centred.known(k, self.problems)
            if two is None:
                above = above - torch.minimum(low * start, low * stop)
                below = below - torch.maximum(high * start, high * stop)
            before = self.value(k)
            above, below = above + low * before, below + high * before
        return [below, above - below]

    def _constants(self, i: int, constants: list[Tensor], sizes: Tensor) -> list[Tensor]:
        """Constants, and in float32 what rounding of them and of coefficients may come to, by coefficient."""
        if not self.single:
            return constants
        total = torch.stack([t.abs() for t in constants]).sum(0)
        return [*constants, sizes + gamma(self.graph.nodes[i].shape[0] + 6) * total + 2.0**-100]

    def _add(self, state: _Rows, rows: Tensor, positive: Tensor, constants: list[Tensor]) -> None:
        """Add constants of upper lines, and what lower ones differ by; then those of the other side, where they are
        asked for; in float32 the allowance comes last."""
        if self.single:
            *constants, sizes = constants
            state.allowance = state.allowance + weigh(rows, sizes)
        totals = []
        for top, gap in zip(constants[::2], constants[1::2]):
            if self.single:
                total = (rows * top.unsqueeze(1)).addcmul_(positive, gap.unsqueeze(1)).sum(2).to(torch.float64)
                totals.append(total.flatten(2).sum(2) if total.dim() > 2 else total)
            else:
                totals.append(products(rows, top) + products(positive, gap))
        state.value = state.value + totals[0]
        state.other = state.other + totals[-1]

    def _through_picks(
        self, i: int, picks: Picks, reach: Reach, rows: Tensor, clean: bool, state: _Rows, at: At
    ) -> Tensor:
        """Each coefficient goes to the one element that the lower or the upper line of its element reads."""
        (k,), shape = self.graph.nodes[i].inputs, self.graph.nodes[i].shape
        window, extents = self.plan[i], self.graph.shapes(i)[0][1:]
        assert window is not None
        behind = window.behind(reach)

        def vectors() -> list[Tensor]:
            below, above, slope, offset = (t.reshape(-1, *shape) for t in picks)

            def picked(t: Tensor, which: Tensor) -> Tensor:
                return t.flatten(2).gather(2, which.flatten(2)).reshape(which.shape)

            before, after = self.value(k), self.value(i)
            top = slope * picked(before, above) + offset - after
            gap = picked(before, below) - after - top
            constants, sizes = [top, gap], slope
            if self.way.sided:
                (start, stop), (least, most) = (self.way.centred.known(n, self.problems) for n in (k, i))
                under = least - slope * picked(stop - before, above) - after
                constants += [under, most - picked(start - before, below) - after - under]
            if self.single:
                radius = self.radius(k)
                sizes = gamma(2 * reach.readers + 5) * (picked(radius, below) + slope * picked(radius, above))
            return [torch.ones_like(slope), below, above, slope, *self._constants(i, constants, sizes)]

        inside, below, above, slope, *constants = self._fetch(i, window, at, vectors)
        rows = rows if clean else rows * inside.unsqueeze(1)
        positive = rows.clamp(min=0)
        self._add(state, rows, positive, constants)
        carried = rows.new_zeros(*rows.shape[:3], behind.area)
        for part, place in ((positive, below), ((rows - positive) * slope.unsqueeze(1), above)):
            index = behind.relative(place.long(), at.tile, extents).flatten(2).unsqueeze(1)
            carried = carried.scatter_add(3, index.expand(*rows.shape[:3], -1), part.flatten(3))
        return carried.reshape(*rows.shape[:3], *behind.extent)

    def _through_kernel(self, i: int, kernel: Kernel, rows: Tensor, clean: bool, state: _Rows, at: At) -> None:
        """On windows the transpose goes without padding: what falls outside the layer meets zeros later."""
        (k,), window = self.graph.nodes[i].inputs, self.plan[i]
        rows = self._inside(i, rows, clean, at)
        self._weigh(i, rows, state, at, lambda: gamma(terms(kernel) + 3) * self.spread(i))
        flat, matrix = rows.flatten(0, 1), self._matrix(i, kernel, window)
        behind = None if window is None else window.behind(kernel.reach)
        extent = self.graph.nodes[k].shape[1:] if behind is None else behind.extent
        if matrix is None:
            carried = (kernel if window is None else kernel.unpadded).transposed(flat, extent)
        elif len(matrix) == 1:
            carried = flat.flatten(1) @ matrix[0]
        else:
            carried = torch.bmm(flat.reshape(len(flat), len(matrix), -1).transpose(0, 1), matrix).transpose(0, 1)
        carried = carried.reshape(*rows.shape[:2], self.graph.nodes[k].shape[0], *extent)
        self._arrive(state, k, carried, behind, behind is None, at)

    def _through_transposed(self, i: int, kernel: Kernel, window: Window, rows: Tensor, state: _Rows, at: At) -> None:
        """The transpose of a transposed convolution is the convolution, of the window with zeros around it."""
        (k,), reach = self.graph.nodes[i].inputs, kernel.reach
        self._weigh(i, rows, state, at, lambda: gamma(terms_of_transpose(kernel) + 3) * self.spread(i))
        before, pads = window.before(reach), []
        if before is None:
            whole = window.place(rows, at.tile, self.graph.nodes[i].shape[1:])
            carried = kernel.applied(whole.flatten(0, 1))
            carried = carried[(..., *(slice(n) for n in self.graph.nodes[k].shape[1:]))]
        else:
            axes = window.start, window.extent, before.start, before.extent, reach.kernel, reach.stride, reach.padding
            for a, n, b, m, size, s, p, d in zip(*axes, reach.dilation):
                pads = [a - b * s + p, (b + m - 1) * s - p + d * (size - 1) - (a + n - 1), *pads]
            carried = kernel.unpadded.applied(functional.pad(rows.flatten(0, 1), pads))
        self._arrive(state, k, carried.unflatten(0, rows.shape[:2]), before, before is None, at)

    def _inside(self, i: int, rows: Tensor, clean: bool, at: At) -> Tensor:
        """Rows that are zero outside layer i: there may be something else of what it reads, where it cuts off."""
        if clean or (window := self.plan[i]) is None:
            return rows
        shape = self.graph.nodes[i].shape
        (inside,) = self._fetch(("mask", i), window, at, lambda: [rows.new_ones(1, *shape)])
        return rows * inside.unsqueeze(1)

    def _through_whole(self, i: int, rows: Tensor, state: _Rows, at: At, relaxation: Relaxation) -> None:
        """Rows on whole layers: a matrix, a reshape, or anything else, in float64, of which each number is rounded."""
        node = self.graph.nodes[i]
        if (matrix := self.graph.matrix(i)) is not None:
            self._weigh(i, rows, state, at, lambda: gamma(node.size + 3) * self.spread(i))
            self._arrive(state, node.inputs[0], rows @ matrix.weight.to(self.dtype), None, True, at)
            return
        if node.op.keeps_order:
            self._arrive(state, node.inputs[0], rows.reshape(*rows.shape[:2], *self._shape(i)), None, True, at)
            return
        exact = rows.to(self.region.lower.dtype)
        carried, constant = (relaxation if node.op.affine else relaxation.take(at.problem)).backward(exact)
        if not node.op.affine:
            constant = constant - products(exact, self.value(i)[at.problem])
            for k, part in zip(node.inputs, carried):
                constant = constant + products(part, self.value(k)[at.problem])
            state.value = state.value + constant
            if self.way.sided:
                far = [weigh(exact, self.radius(i)[at.problem])]
                far += [weigh(part, self.radius(k)[at.problem]) for k, part in zip(node.inputs, carried)]
                state.other = state.other + torch.stack(far).sum(0)
        for k, part in zip(node.inputs, carried):
            rounded = part.to(self.dtype)
            self._weigh(k, rounded, state, at, lambda k=k: gamma(2) * self.radius(k), "rounded")
            self._arrive(state, k, rounded, None, True, at)

    def _arrive(self, state: _Rows, k: int, rows: Tensor, window: Window | None, clean: bool, at: At) -> None:
        """Rows on a window of node k; those of several branches add up."""
        target = self.plan[k]
        if window is not None:
            extents = self.graph.nodes[k].shape[1:]
            rows = window.place(rows, at.tile, extents) if target is None else target.widen(rows, window)
            clean = clean or target is None
        if k in state.pending:
            earlier, was = state.pending[k]
            rows, clean = earlier + rows, clean and was
            self._weigh(k, rows, state, at, lambda: UNIT * self.radius(k), "sum")
        state.pending[k] = rows, clean

    def _least(self, rows: Tensor, at: At) -> Tensor:
        """The minimum of rows on the input, around its middle."""
        region, shape, window = self.region, self.graph.nodes[self.way.end].shape, self.plan[self.way.end]

        def fetch(name: str, t: Tensor) -> Tensor:
            return self._fetch((name, 0), window, at, lambda: [t.reshape(-1, *shape)], t.dtype)[0]

        if not region.balls:
            return -products(rows.abs(), fetch("half", region.upper / 2 - region.lower / 2))
        balls = tuple(
            Ball(fetch(f"centre {n}", b.center), b.radius[at.problem], b.p,
                 None if b.weights is None else fetch(f"weights {n}", b.weights))
            for n, b in enumerate(region.balls)
        )  # fmt: skip
        lower, upper = fetch("lower", region.lower), fetch("upper", region.upper)
        count = len(at.problem)
        lower, upper = lower.expand(count, *lower.shape[1:]), upper.expand(count, *upper.shape[1:])
        return minimum_over(Region(lower, upper, balls), rows) - products(rows, lower / 2 + upper / 2)

    def _weigh(
        self, i: int, rows: Tensor, state: _Rows, at: At, sizes: Callable[[], Tensor], name: str = "rounding"
    ) -> None:
        """Add what rounding of one step may change, ``<|rows|, sizes>``, to the allowance."""
        if self.single:
            (found,) = self._fetch((name, i), self.plan[i], at, lambda: [sizes() + 2.0**-100])
            state.allowance = state.allowance + weigh(rows, found)
