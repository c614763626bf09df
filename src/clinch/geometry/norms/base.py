"""What a norm has to say about itself: attacks, bounds, encodings and certificates ask it and never look at p.

A norm is one class in one file of this folder, and one entry of ``FAMILIES`` in ``__init__.py``. Its methods work on
the last axis ``n``, in coordinates relative to the centre of a ball.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.geometry.roots import saturating_root

Constant = TypeVar("Constant")


class Encoded(Enum):
    """What a mathematical program needs to state a norm exactly."""

    LINEAR = "linear rows"
    QUADRATIC = "a convex quadratic"
    COUNTING = "a binary variable for each element"
    CONIC = "power cones, which no backend takes"


@dataclass(frozen=True)
class HalfspaceMove:
    """The useful move of each element from ``base``, the box's point next to the centre, towards its best corner.

    Coordinates are relative to the centre: ``base`` and ``full`` are the move's ends, ``gain`` is how far the whole
    move lowers ``<row, x>``, ``need`` how far it has to be lowered and ``threshold`` the rounding of that number.
    Elements of weight zero have been moved before; all shapes are ``(b, r, n)`` or broadcast to it.
    """

    rows: Tensor
    base: Tensor
    full: Tensor
    gain: Tensor
    need: Tensor
    threshold: Tensor
    weights: Tensor | None

    @property
    def movable(self) -> Tensor:
        """Elements that have somewhere to go."""
        return self.full != self.base

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smaller and the larger end of each element's move."""
        return torch.minimum(self.base, self.full), torch.maximum(self.base, self.full)

    @property
    def positive_weights(self) -> Tensor:
        """Weights with ones in place of zeros: elements that are free have been moved and no longer matter."""
        if self.weights is None:
            return torch.ones_like(self.base[..., :1])
        return torch.where(self.weights == 0, 1.0, self.weights)

    def after(self, amount: Tensor) -> Tensor:
        """The position after lowering ``<row, x>`` by the given amount per element."""
        step = amount / torch.where(self.rows == 0, 1.0, self.rows)
        return torch.where(self.movable & (amount >= self.gain), self.full, self.base - step)

    def without_free(self, counts: bool) -> tuple[HalfspaceMove, Tensor | None]:
        """The move that is left after what costs nothing: elements of weight zero, and where elements are counted those
        that leave the centre anyway; and which elements these are."""
        forced = (self.base != 0) if counts else None
        if self.weights is None:
            free = None if forced is None or not bool(forced.any()) else forced.expand_as(self.rows)
        else:
            zero = self.weights == 0 if forced is None else (self.weights == 0) | forced
            free = zero.expand_as(self.rows) if bool(zero.any()) else None
        if free is None:
            return self, None
        given = torch.where(free, self.gain, 0.0)
        rate = torch.where(free, self.rows.square(), 0.0)
        share, _ = saturating_root(rate, None, given, self.need.clamp(min=0))
        base = torch.where(free, self.after(torch.minimum(share.unsqueeze(-1) * rate, given)), self.base)
        rest = torch.where(torch.isinf(given.sum(-1)), 0.0, self.need - given.sum(-1))
        full, gain = torch.where(free, base, self.full), torch.where(free, 0.0, self.gain)
        return HalfspaceMove(self.rows, base, full, gain, rest, self.threshold, self.weights), free


@dataclass(frozen=True)
class InBox:
    """A half-space step without weights, from a centre inside the box: the everyday case.

    Attributes:
        rows: ``(b, r, n)``.
        lower: ``(b, 1, n)``, at most 0.
        upper: ``(b, 1, n)``, at least 0.
        need: ``(b, r)`` how far ``<row, x>`` has to be lowered.
        rounding: ``(b, r)`` of that number.
        finite: whether all limits are.
    """

    rows: Tensor
    lower: Tensor
    upper: Tensor
    need: Tensor
    rounding: Tensor
    finite: bool


class Norm(ABC):
    """A norm ``‖·‖``, or a number like it that says how far an input has been changed.

    Attributes:
        p: what users write for it.
        like: 0, 1, 2 or infinity: the one whose tuned constants suit it.
        counts: whether changes are counted, so that their size and the unit of the inputs do not matter.
        is_box: whether its balls are boxes.
        sparse: whether its steepest step changes a single element.
        smooth: whether it has one steepest step, which changes with the gradient all the way.
        encoded: what a program needs to state ``‖x‖ <= r``.
        certified: whether the independent checker of certificates knows it.
        short_cut: whether it has :meth:`halfspace_in_box`.
    """

    p: float
    like: float
    counts: bool = False
    is_box: bool = False
    sparse: bool = False
    smooth: bool = False
    encoded: Encoded = Encoded.CONIC
    certified: bool = False
    short_cut: bool = False

    def __repr__(self) -> str:
        return self.name

    @classmethod
    def make(cls, p: float) -> Norm | None:
        """The norm that users mean by p, None where p is none of this class."""
        raise NotImplementedError

    # --- names --------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The short name: ``l2``, ``linf``."""
        return f"l{self.p:g}"

    @property
    def written(self) -> str:
        """What users write in Python: ``2``, ``cl.inf``."""
        return f"{self.p:g}"

    @property
    def text(self) -> str:
        """How a norm is printed: ``ℓ2``, ``ℓ∞``."""
        return f"ℓ{self.p:g}"

    @property
    def in_rows(self) -> bool:
        """Whether rows of a mixed-integer linear program state ``‖x‖ <= r``."""
        return self.encoded in (Encoded.LINEAR, Encoded.COUNTING)

    @property
    def in_convex_programs(self) -> bool:
        """Whether the least ``‖x‖`` over a polyhedron is a linear or quadratic program."""
        return self.encoded in (Encoded.LINEAR, Encoded.QUADRATIC)

    def tuned(self, constants: Mapping[float, Constant]) -> Constant:
        """The constant, of those tuned for p = 0, 1, 2 and infinity, that suits this norm."""
        return constants[self.like]

    # --- lengths ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def of(self, values: Tensor) -> Tensor:
        """``‖v‖`` over the last axis; gradients flow."""

    @property
    @abstractmethod
    def dual(self) -> Norm:
        """The norm ``‖g‖* = max <g, v> over ‖v‖ <= 1``."""

    def value(self, delta: Tensor, weights: Tensor | None = None) -> Tensor:
        """``‖w ⊙ δ‖`` over all but the first axis, ``(B,)``; weights broadcast to delta ``(B, *shape)``."""
        return self.of((delta if weights is None else delta * weights).flatten(1))

    def length(self, delta: Tensor, weights: Tensor | None = None) -> Tensor:
        """``‖w ⊙ δ‖`` over the last axis; elements of weight zero do not count, even where they are infinite."""
        return self.of(delta if weights is None else torch.where(weights == 0, 0.0, delta * weights))

    def dual_value(self, rows: Tensor, weights: Tensor | None = None) -> Tensor:
        """``‖g/w‖*`` over the last axis: the most that ``<g, δ>`` changes for ``‖w ⊙ δ‖ <= 1``; infinite where a weight
        is zero and g is not."""
        return self.dual.of(rows if weights is None else torch.where(rows == 0, 0.0, rows / weights))

    def counted(self, changed: Tensor) -> Tensor:
        """``(L, m)`` what has changed of what counts as one, for changed elements ``(L, n)``."""
        return changed

    def elements(self, ones: Tensor, size: int) -> Tensor:
        """``(L, c)`` the elements, of n = ``size``, of what counts as one, by its place ``(L,)``."""
        return ones.unsqueeze(1)

    def summed(self, values: Tensor) -> Tensor:
        """``(L, n)`` for each element the sum of what counts as one with it."""
        return values

    # --- directions, projections, minima, steps -----------------------------------------------------------------------

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """``argmax <g, v> over ‖v‖ <= 1`` for gradients ``(B, n)``; zero where the gradient is zero."""

    @abstractmethod
    def project(
        self, z: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> Tensor:
        """The point of box ∩ ball nearest to z in the Euclidean norm, for points that are outside of it.

        Args:
            z: ``(B, n)``; lower, upper: ``(B, n)``, may be infinite; base: ``(B, n)`` the box's point next to 0.
            radius: ``(B,)``; weights: ``(B, n)``, non-negative, or None.
        """

    def proximal(self, delta: Tensor, weight: Tensor) -> Tensor:
        """``argmin_u ½‖u − δ‖₂² + weight·‖u‖`` for δ ``(L, n)`` and weights ``(L,)``: what a projection onto the dual
        ball takes away (Moreau 1965)."""
        endless, origin = torch.full_like(delta, torch.inf), torch.zeros_like(delta)
        inside = self.dual.length(delta) <= weight
        found = delta - self.dual.project(delta, -endless, endless, origin, weight, None)
        return torch.where(inside.unsqueeze(1), 0.0, found)

    def euclidean(self, radius: Tensor, size: int) -> Tensor:
        """The largest Euclidean length of n elements within radii of this norm."""
        return radius * size ** max(0.0, 0.5 - 1 / self.p)

    @abstractmethod
    def linear_minimum(
        self, rows: Tensor, lower: Tensor, upper: Tensor, base: Tensor, radius: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``min <row, δ>`` over box ∩ ball.

        Args:
            rows: ``(b, r, n)``; lower, upper, base: ``(b, 1, n)`` as in :meth:`project`.
            radius: ``(b, 1)``; weights: ``(b, 1, n)`` or None.

        Returns:
            The minimiser ``(b, r, n)``; what to add to its value to get a proven lower bound ``(b, r)`` or ``(b, 1)``;
            whether box and ball do not meet ``(b, 1)``.
        """

    @abstractmethod
    def halfspace(self, move: HalfspaceMove, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The shortest position that lowers ``<row, x>`` by ``target (b, r)``, from ``move.base`` on.

        Returns:
            A proven lower bound of its length ``(b, r)``, the position ``(b, r, n)``, and the multiplier ``(b, r)`` of
            the half-space in the Lagrangian of :func:`clinch.geometry.halfspace.halfspace_distance`.
        """

    def dual_slope(self, multiplier: Tensor, distance: Tensor) -> Tensor:
        """``d distance / d need`` from the multiplier of :meth:`halfspace`."""
        return multiplier

    def halfspace_in_box(self, step: InBox) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`halfspace` without weights, from the centre itself, in few passes over the data: the distance,
        infinity where no point of the box is that low; the position, there the best corner; the multiplier, there 0."""
        raise NotImplementedError

    @abstractmethod
    def min_norm_step(self, gradient: Tensor, need: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """A quick :meth:`halfspace`: see :func:`clinch.geometry.steps.min_norm_step`."""

    @abstractmethod
    def max_descent_step(self, gradient: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """A quick :meth:`linear_minimum`: see :func:`clinch.geometry.steps.max_descent_step`."""

    @abstractmethod
    def reach(self, away: Tensor, radius: Tensor, weights: Tensor) -> Tensor:
        """How far each element can be from the centre inside a ball, given how far all must be: outwards rounded.

        Args:
            away: ``(D, n)`` distances of the elements' limits from the centre; radius: ``(D, 1)``; weights: ``(D, n)``.

        Returns:
            ``(D, n)``; −infinity proves that box and ball do not meet.
        """


# --- small helpers of the norms ---------------------------------------------------------------------------------------

#: relative excess of the distance to the box over the radius from which on "no point" counts as proven
EMPTY = 1e-9


def missed(nearest: Tensor, radius: Tensor) -> Tensor:
    """Whether the distance from the centre to the box exceeds the radius by more than rounding explains."""
    return nearest > radius * (1 + EMPTY) + torch.finfo(radius.dtype).tiny


def corner(rows: Tensor, lower: Tensor, upper: Tensor, rest: Tensor) -> Tensor:
    """The corner of the box with the least ``<row, x>``; ``rest`` where the coefficient is zero."""
    return torch.where(rows > 0, lower, torch.where(rows < 0, upper, rest))


def clip(delta: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Into the box; NaN stays."""
    return torch.maximum(torch.minimum(delta, upper), lower)


def above_zero(values: Tensor) -> Tensor:
    """Ones in place of what is not positive: something to divide by."""
    return torch.where(values > 0, values, torch.ones_like(values))


def ends_of(gradient: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """``(L, n)`` how far each element can go against its gradient; arithmetic takes the place of ``torch.where``, which
    is ten times slower than a product."""
    return torch.maximum(gradient.sign() * -lower, gradient.sign() * -upper)


def most_of(gradient: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """``(L, n)`` how far each element can lower ``<g, δ>`` inside the box."""
    return torch.minimum(gradient * lower, gradient * upper).neg_()


def reach_of_sum(away: Tensor, radius: Tensor, weights: Tensor, p: float) -> Tensor:
    """:meth:`Norm.reach` where p-th powers add up: what the other elements spend of ``radius^p``, this one cannot."""
    unit = above_zero(torch.where(radius.isinf(), 0.0, radius))
    spent = (weights * away / unit) ** p
    total = spent.sum(1, keepdim=True)
    left = (radius / unit) ** p * (1 + 1e-9) - (total - spent) * (1 - 1e-9)
    paid = left.clamp(min=0) ** (1 / p) * unit
    reach = torch.where(weights > 0, paid / above_zero(weights), torch.inf)
    return torch.where(left < 0, -torch.inf, reach)


# --- the norms that there are -----------------------------------------------------------------------------------------

Family = TypeVar("Family", bound=type[Norm])
#: every class of norms; of two that take the same p the later one has it
FAMILIES: list[type[Norm]] = []
#: what a norm has to bring, in words
PIECES = {
    "make": "what users write for it",
    "of": "its value",
    "dual": "its dual norm",
    "steepest": "its steepest direction",
    "project": "the projection onto its ball",
    "linear_minimum": "the linear minimum over box and ball",
    "halfspace": "the shortest step to a half-space",
    "min_norm_step": "the quick shortest step to a half-space",
    "max_descent_step": "the quick linear minimum over box and ball",
    "reach": "how far one element can go inside a ball",
}


def register(family: Family) -> Family:
    """Make a class of norms known, to users and to everything that asks for norms.

    Raises:
        TypeError: a piece is missing; names it.
    """
    for name, words in PIECES.items():
        if next(c for c in family.__mro__ if name in vars(c)) is Norm:
            raise TypeError(
                f"{family.__name__} lacks {words}. Write its {name!r}, see clinch.geometry.norms.base.Norm."
            )
    FAMILIES.append(family)
    return family


def norm_of(p: float | str | Norm) -> Norm:
    """The norm that a user means: one object for each.

    Args:
        p: 0, any number from 1 on, infinity, or a name of them: ``"l2"``, ``"Linf"``, ``"inf"``.

    Raises:
        ProblemError: there is no such norm; says what to write instead.

    Example:
        >>> norm_of("Linf"), norm_of(2), norm_of(2).dual, norm_of(3).dual
        (linf, l2, l2, l1.5)
    """
    if isinstance(p, Norm):
        return p
    own = getattr(p, "norm", None)  # a number that another norm has too brings its own
    if isinstance(own, Norm):
        return own
    try:
        number = float(p.lower().removeprefix("l").removeprefix("_") if isinstance(p, str) else p)
    except (TypeError, ValueError):
        raise ProblemError(_unknown(p)) from None
    return _known(number)


@lru_cache(maxsize=256)
def _known(p: float) -> Norm:
    for family in reversed(FAMILIES):
        found = family.make(p)
        if found is not None:
            return found
    raise ProblemError(_unknown(p))


def _unknown(p: object) -> str:
    return f"norm={p} is not among the norms. Write 0, any number from 1 on, or cl.inf."
