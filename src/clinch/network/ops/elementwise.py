"""Functions of one number: an operator that states f, its derivative and where that turns gets every other fact here.

A *turn* is a point where f′ stops being monotone: an inflection, a kink, a jump. Between two turns f is convex or
concave, so that for any slope k the extremes of ``f(x) − k·x`` on [l, u] lie at an end, at a turn, or at the one root
of ``f′ = k`` inside each piece. The root is bracketed by bisection, for all elements at once; the tangents at the
bracket's ends, which enclose a convex or concave function, make the extreme sound however far the bisection has come.
So every slope gives a valid line, and

* the interval rule is that of k = 0 (exactly: the roots of f′ = 0 do not depend on the limits);
* the relaxation is the pair of lines that is tightest at the middle of [l, u], found by cutting planes: the slope of a
  chord, the point where f is farthest from that line, the chord to there, and so on. For convex, concave and S-shaped
  functions these are the chord and the tangents that CROWN takes (Zhang et al. 2018, arXiv 1811.00866, section 3);
* α-CROWN may mix the lines that are tightest at other points: any mixture is valid.

A whole operator is :mod:`clinch.network.ops.erf`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from clinch.network.ops.base import Elementwise, Interval, Lines, Operator, Pullback, Shape
from clinch.network.ops.reading import Call, from_aten, from_onnx

#: bisection steps for the root of f′ = k: what is left costs its square in tightness, and never soundness
STEPS = 16
#: cutting planes for the slope
PLANES = 6
#: the same where lines are wanted quickly: a search closed as much with as many parts, in less than half of the time
QUICK_STEPS, QUICK_PLANES = 8, 2
#: roundings of f, its derivative and what is made of them, by which lines are moved outwards
ROUNDINGS = 16
#: how near to a jump limits count as at it: what rounding has made of a number that is there, as of max(a, b) − a
AT_JUMP = 2.0**-36
#: how far from the ends of [l, u], relative to its width, lines are made tight at most
INSIDE = 1e-2
#: how far from the turns a root of f′ = 0 is looked for, and bisection steps to get there
FAR, EXACT_STEPS = 1e6, 200


class Jump(NamedTuple):
    """The limits of f from below and from above at a turn; f itself lies between them there."""

    at: float
    below: float
    above: float


def moved_to(at: float | Tensor, limits: Interval) -> Interval:
    """Limits within :data:`AT_JUMP` of a jump moved outwards to it."""
    lower, upper = limits
    near = AT_JUMP * (1 + abs(at))
    return Interval(
        torch.where((lower > at) & (lower - at <= near), at, lower),
        torch.where((upper < at) & (at - upper <= near), at, upper),
    )


class Pieces(NamedTuple):
    """[l, u] cut at the turns, P pieces for each element; those outside of [l, u] are single points of it.

    Attributes:
        start, stop: ``(P, *shape)``.
        convex: f is convex on the piece, else concave; broadcasts to ``(P, *shape)``.
        complete: ``(*shape)`` where the pieces cover [l, u]; None: everywhere.
    """

    start: Tensor
    stop: Tensor
    convex: Tensor
    complete: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ScalarFunction(Elementwise):
    """A function of one number that states :meth:`forward`, :meth:`derivative` and :meth:`turns`."""

    has_absolute_error: ClassVar[bool] = True

    def derivative(self, x: Tensor) -> Tensor:
        """``f′(x)``; at a kink that of either side."""
        raise NotImplementedError(f"{type(self).__name__} states no derivative.")

    def turns(self) -> tuple[float, ...]:
        """Where f′ stops being monotone, in ascending order: inflections, kinks and jumps."""
        return ()

    def jumps(self) -> tuple[Jump, ...]:
        """Where f jumps: at some of its turns."""
        return ()

    def domain(self) -> tuple[float, float]:
        """Where f is a number; nothing is known of limits that reach beyond."""
        return -torch.inf, torch.inf

    @property
    def strictly_increasing(self) -> bool:
        """It is increasing and does not jump; none of these is flat anywhere."""
        return self.increasing and not self.jumps()

    @property
    def has_jumps(self) -> bool:
        """Where it has jumps."""
        return bool(self.jumps())

    def pullback(self, shapes: Sequence[Shape]) -> Pullback | None:
        """``f′(x) ⊙ gradient``; across jumps there is no gradient to follow."""
        if self.has_jumps:
            return None
        return lambda gradient, inputs, output: [gradient * self.derivative(inputs[0])]

    # --- what follows -------------------------------------------------------------------------------------------------

    @classmethod
    def supports(cls, fact: str) -> bool:
        """The interval rule and the relaxation follow from the derivative."""
        return True if fact in ("interval", "relax") else super().supports(fact)

    @cached_property
    def _convex(self) -> tuple[bool, ...]:
        """Whether f is convex between the turns, by two of its slopes there."""
        low, high = self.domain()
        ends = [max(low, -FAR), *self.turns(), min(high, FAR)]
        found = []
        for a, b in pairwise(ends):
            if (a, b) == (-FAR, FAR):
                a, b = -1.0, 2.0
            a, b = max(a, b - 3.0) if a == -FAR else a, min(b, a + 3.0) if b == FAR else b
            left, right = self.derivative(torch.tensor([a + (b - a) / 3, b - (b - a) / 3], dtype=torch.float64))
            found.append(bool(left <= right))
        return tuple(found)

    @cached_property
    def _stationary(self) -> tuple[float, ...]:
        """Turns without a jump, and roots of f′ = 0 between turns: besides the ends what the interval rule looks at."""
        low, high = self.domain()
        ends = torch.tensor([max(low, -FAR), *self.turns(), min(high, FAR)], dtype=torch.float64)
        start, stop = ends[:-1], ends[1:]
        convex = torch.tensor(self._convex)
        for _ in range(EXACT_STEPS):
            middle = (start + stop) / 2
            right = (self.derivative(middle) < 0) == convex
            start, stop = torch.where(right, middle, start), torch.where(right, stop, middle)
        jumps = {jump.at for jump in self.jumps()}
        return *(turn for turn in self.turns() if turn not in jumps), *((start + stop) / 2).tolist()

    def pieces(self, lower: Tensor, upper: Tensor) -> Pieces:
        """[l, u] cut at the turns, for finite limits."""
        shape = (-1, *[1] * lower.dim())
        turns = lower.new_tensor(self.turns()).reshape(shape)
        edges = torch.cat([lower.unsqueeze(0), torch.clamp(turns, lower, upper), upper.unsqueeze(0)])
        return Pieces(edges[:-1], edges[1:], torch.tensor(self._convex, device=lower.device).reshape(shape))

    def interval(self, *inputs: Interval) -> Interval:
        """The least and the largest of f at the ends and, inside [l, u], at turns and where f′ = 0."""
        jumps = self.jumps()
        lower, upper = self._with_jumps(inputs[0])
        first, last = self._at_ends(lower), self._at_ends(upper)
        if self.increasing and not jumps:
            return self._known(Interval(first, last), inputs[0])
        least, most = torch.minimum(first, last), torch.maximum(first, last)
        passed = [(value, value, (lower < at) & (at <= upper)) for at, value, _ in jumps]
        passed += [(value, value, (lower <= at) & (at < upper)) for at, _, value in jumps]
        for at in self._stationary:
            value = float(self.forward(lower.new_tensor(at)))
            margin = ROUNDINGS * torch.finfo(lower.dtype).eps * (1 + abs(value))
            passed.append((value - margin, value + margin, (lower < at) & (at < upper)))
        for low, high, here in passed:
            least = torch.where(here, least.clamp(max=low), least)
            most = torch.where(here, most.clamp(min=high), most)
        return self._known(Interval(least, most), inputs[0])

    def _with_jumps(self, limits: Interval) -> Interval:
        """Limits that reach jumps which rounding may have taken them away from."""
        for jump in self.jumps():
            limits = moved_to(jump.at, limits)
        return limits

    def _at_ends(self, x: Tensor) -> Tensor:
        """f, at infinity its limit."""
        value = self.forward(x)
        if not bool(torch.isinf(x).any()):
            return value
        large = torch.finfo(x.dtype).max
        return torch.where(value.isnan(), self.forward(x.clamp(-large, large)), value)

    def _known(self, limits: Interval, inputs: Interval) -> Interval:
        """Limits that hold: infinite where the inputs leave the domain."""
        low, high = self.domain()
        if (low, high) == (-torch.inf, torch.inf):
            return limits
        outside = (inputs.lower < low) | (inputs.upper > high)
        return Interval(limits.lower.masked_fill(outside, -torch.inf), limits.upper.masked_fill(outside, torch.inf))

    def relax(self, inputs: Sequence[Interval], shapes: Sequence[Shape]) -> Lines:
        """The lines that are tightest at the middle of [l, u]."""
        return self.lines_at(inputs[0], (0.5,))[0]

    def lines_at(self, bounds: Interval, places: Sequence[float], *, quick: bool = False) -> list[Lines]:
        """For each place, 0 for l to 1 for u, the lines that are tightest there.

        Where limits are infinite or leave the domain the lines are the constants of the interval rule.
        """
        bounds = self._with_jumps(bounds)
        limits = self.interval(bounds).without_nan()
        usable = torch.isfinite(bounds.upper - bounds.lower) & torch.isfinite(limits.lower + limits.upper)
        # elsewhere the pieces are those of a point where f is a number
        low, high = self.domain()
        inside = 0.0 if low < 0 < high and 0.0 not in self.turns() else (max(low, -1.0) + min(high, 3.0)) / 2
        lower, upper = (torch.where(usable, t, inside) for t in bounds)
        pieces = self.pieces(lower, upper)
        usable = usable if pieces.complete is None else usable & pieces.complete
        bent = self._bent(pieces, lower, upper)
        some = bool(bent.any())
        steps, planes = (QUICK_STEPS, QUICK_PLANES) if quick else (STEPS, PLANES)
        gap = _Gap(self, self.pieces(lower[bent], upper[bent]), steps) if some else None
        found = []
        for place in places:
            # not at an end, which may be a kink: the derivative there is that of either side
            target = torch.lerp(lower, upper, min(max(place, INSIDE), 1 - INSIDE))
            below, above = _of_one_piece(self, pieces, lower, upper, target)
            if gap is not None:
                parts = _tightest(gap, lower[bent], upper[bent], target[bent], planes)
                below, above = (
                    tuple(whole.index_put((bent,), part) for whole, part in zip(side, better))
                    for side, better in zip((below, above), parts)
                )
            found.append(
                Lines(*_or_constant(below, limits.lower, usable), *_or_constant(above, limits.upper, usable))
            )  # fmt: skip
        return found

    def _bent(self, pieces: Pieces, lower: Tensor, upper: Tensor) -> Tensor:
        """``(*shape)`` where f is neither convex nor concave throughout [l, u]."""
        bent = (pieces.stop > pieces.start).sum(0) > 1
        for jump in self.jumps():
            bent = bent | ((lower <= jump.at) & (jump.at <= upper))
        return bent


def _of_one_piece(
    op: ScalarFunction, pieces: Pieces, lower: Tensor, upper: Tensor, target: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Where f is convex throughout: the tangent at the target below, the chord above; mirrored where it is concave."""
    convex = (pieces.convex & (pieces.stop > pieces.start)).any(0)
    first, last, value = op.forward(lower), op.forward(upper), op.forward(target)
    tangent = op.derivative(target)
    chord = _chord(lower, upper, first, last, tangent)
    rounding = ROUNDINGS * torch.finfo(lower.dtype).eps
    # the tangent's slope may be large at the end of a domain, where it is not used
    reach = lower.abs() + upper.abs()
    height = 1 + first.abs() + last.abs() + value.abs()
    sides = []
    for sign, tangents in ((-1.0, convex), (1.0, ~convex)):
        ends = torch.maximum(sign * (first - chord * lower), sign * (last - chord * upper))
        touch = sign * (value - tangent * target)
        slope = torch.where(tangents, tangent, chord)
        margin = rounding * (height + slope.abs() * reach)
        sides.append((slope, sign * (torch.where(tangents, touch, ends) + margin)))
    return sides[0], sides[1]


class _Extreme(NamedTuple):
    """The least or the largest value of ``f(x) − k·x``, and about where it is."""

    value: Tensor
    at: Tensor


class _Gap:
    """``f(x) − k·x`` on [l, u] for any slopes k."""

    def __init__(self, op: ScalarFunction, pieces: Pieces, steps: int = STEPS) -> None:
        self.op, self.steps = op, steps
        self.start, self.stop, self.convex = pieces[:3]
        first, last = op.forward(self.start), op.forward(self.stop)
        jumps = {jump.at: jump for jump in op.jumps()}
        for i, turn in enumerate(op.turns() if jumps else ()):
            if turn in jumps:
                here = (self.start[i + 1] == turn) & (self.stop[i + 1] > turn)
                first[i + 1] = torch.where(here, jumps[turn].above, first[i + 1])
                here = (self.stop[i] == turn) & (self.start[i] < turn)
                last[i] = torch.where(here, jumps[turn].below, last[i])
        self.first, self.last = first, last
        ends = self.start.abs() + self.stop.abs(), first.abs() + last.abs()
        self.reach, self.height = (t.amax(0) for t in ends)

    def extremes(self, slope: Tensor) -> tuple[_Extreme, _Extreme]:
        """The proven least value for slopes ``slope[0]`` and the largest for ``slope[1]``, each ``(*shape)``, moved
        outwards by what rounding may do.
        """
        # inside a convex piece there is a least value only, inside a concave one a largest
        inside, between = self._inside(torch.where(self.convex, slope[0], slope[1]))
        places, found = torch.cat([self.start, self.stop, between]), []
        for sign, turned, k in ((1.0, self.convex, slope[0]), (-1.0, ~self.convex, slope[1])):
            ends = self.first - k * self.start, self.last - k * self.stop
            candidates = torch.cat([sign * ends[0], sign * ends[1], torch.where(turned, sign * inside, torch.inf)])
            value, which = candidates.min(0)
            rounding = ROUNDINGS * torch.finfo(k.dtype).eps * (1 + self.height + k.abs() * self.reach)
            found.append(_Extreme(sign * (value - rounding), places.gather(0, which.unsqueeze(0))[0]))
        return found[0], found[1]

    def _inside(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """What f − k·x does not pass inside each piece, k a slope for each, and about where it comes nearest to that.

        On a convex piece the least value lies in the bracket of the root of f′ = k, above the tangents at both of its
        ends; tangents count at points that bisection has been at, and so not at turns. Concave pieces are mirrored.
        """
        op, left, right = self.op, self.start, self.stop
        was_left = was_right = torch.zeros_like(slope, dtype=torch.bool)
        for _ in range(self.steps):
            middle = (left + right) / 2
            beyond = (op.derivative(middle) < slope) == self.convex
            left, right = torch.where(beyond, middle, left), torch.where(beyond, right, middle)
            was_left, was_right = was_left | beyond, was_right | ~beyond
        width, sign = right - left, torch.where(self.convex, 1.0, -1.0).to(slope)
        tangents = []
        for at, direction, counts in ((left, 1.0, was_left), (right, -1.0, was_right)):
            run = direction * (op.derivative(at) - slope) * width
            value = op.forward(at) - slope * at + torch.where(width > 0, run, 0.0)
            tangents.append(torch.where(counts, sign * value, -torch.inf))
        return sign * torch.maximum(*tangents), (left + right) / 2


def _tightest(
    gap: _Gap, lower: Tensor, upper: Tensor, target: Tensor, planes: int
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Slope and offset of the lower and of the upper line that come nearest to f at the target.

    ``k·t + min (f − k·x)`` is concave in k, and its slope is the target minus the minimiser: where that lies left of
    the target the line must be steeper, else flatter. The chord between the last points on either side is next.
    """
    op = gap.op
    left, right = lower.expand(2, *lower.shape), upper.expand(2, *upper.shape)
    at_left, at_right = op.forward(left), op.forward(right)
    slope = _chord(left, right, at_left, at_right, op.derivative(target))
    best_slope, best_offset = torch.zeros_like(slope), torch.full_like(slope, -torch.inf)
    reached = best_offset
    sides = slope.new_tensor([1.0, -1.0]).reshape(2, *[1] * lower.dim())
    for step in range(planes + 1):
        # the last try is the tangent at the target: the best one where f is convex or concave throughout
        slope = op.derivative(target).expand_as(slope).nan_to_num(0.0, 0.0, 0.0) if step == planes else slope
        least, most = gap.extremes(slope)
        offset = torch.stack([least.value, most.value])
        value = sides * (slope * target + offset)
        better = value > reached
        reached = torch.where(better, value, reached)
        best_slope, best_offset = torch.where(better, slope, best_slope), torch.where(better, offset, best_offset)
        if step >= planes - 1:
            continue
        at = torch.stack([least.at, most.at])
        value, before = op.forward(at), at < target
        left, at_left = torch.where(before, at, left), torch.where(before, value, at_left)
        right, at_right = torch.where(before, right, at), torch.where(before, at_right, value)
        slope = _chord(left, right, at_left, at_right, slope)
    best_offset = torch.where(reached == -torch.inf, -sides * torch.inf, best_offset)
    return (best_slope[0], best_offset[0]), (best_slope[1], best_offset[1])


def _or_constant(line: tuple[Tensor, ...], limit: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """A line's slope and offset, or the constant of the interval rule where there is no line."""
    slope, offset = line
    usable = usable & torch.isfinite(slope) & torch.isfinite(offset)
    return torch.where(usable, slope, 0.0), torch.where(usable, offset, limit)


def _chord(left: Tensor, right: Tensor, at_left: Tensor, at_right: Tensor, otherwise: Tensor) -> Tensor:
    """Slope of the line through two points; another one where they are the same."""
    width = right - left
    slope = (at_right - at_left) / torch.where(width > 0, width, 1.0)
    return torch.where((width > 0) & torch.isfinite(slope), slope, otherwise.nan_to_num(0.0, 0.0, 0.0))


# --- how they are read -----------------------------------------------------------------------------------------------

Kind = TypeVar("Kind", bound=Operator)


def spelled(*names: str) -> Callable[[type[Kind]], type[Kind]]:
    """Read an elementwise operator from these calls ("aten.elu") and ONNX nodes ("Elu"): its fields are the parameters.

    A field is the call's argument or the node's attribute of the same name, its own default where there is none.
    """

    def register(kind: type[Kind]) -> type[Kind]:
        def read(call: Call) -> Operator:
            given = {f.name: call.get(f.name) for f in fields(kind) if call.get(f.name) is not None}
            for name, value in given.items():
                given[name] = value if isinstance(value, str) else call.number(name, 0.0)
            return kind(**given)

        read.__module__ = kind.__module__
        from_aten(*(name for name in names if name.startswith("aten.")))(read)
        from_onnx(*(name for name in names if not name.startswith("aten.")))(read)
        return kind

    return register
