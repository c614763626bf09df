"""Balda et al.'s measures of robustness, as numbers or as intervals: fooling ratio, ρ̂₁, ρ̂₂ and ε₉₉ (Balda et al. 2018,
arXiv 1803.03607), and robust accuracy at any radius.

An attack knows one end of every distance, a study both: :class:`DistanceIntervals` has the formulas for the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.result import ALREADY, AttackResult
from clinch.errors import ProblemError, ShapeError
from clinch.geometry.norms import norm as norm_of
from clinch.runtime.short import short_repr

#: what norms and means of 100,000 float64 terms, summed one after the other, can round by, relatively
ROUNDING = 1e-10


@dataclass(frozen=True, repr=False)
class DistanceIntervals:
    """Of each of N inputs an interval that holds its distance d to the nearest input of another class.

    Every measure of it is an interval as well, and holds what exact distances would give: each grows or shrinks with
    every single distance, so that its ends are reached at the ends of the intervals. An input of which nothing is known
    counts as classified correctly with d in [0, ∞), which makes each interval hold its value whatever the input is.

    Attributes:
        value: ``(N,)`` float64: distances of inputs that were found, ``d <= value``; 0 for an input that is
            misclassified as it is, infinity where none was found.
        bound: ``(N,)`` proven, ``d >= bound``; 0 where nothing is.
        beyond: ``(N,)`` whether even ``d > bound`` is proven, as it is for a ball without another class.
        unknown: how many more inputs there are, of which nothing is known.
    """

    value: Tensor
    bound: Tensor
    beyond: Tensor
    unknown: int = 0

    __repr__ = short_repr

    @classmethod
    def of(cls, found: AttackResult) -> DistanceIntervals:
        """What an attack says: distances found, nothing proven."""
        already = torch.tensor([r == ALREADY for r in found.reason], device=found.distance.device)
        value = found.distance.double().masked_fill(already, 0.0)
        return cls(value, torch.zeros_like(value), torch.zeros_like(already))

    @property
    def correct(self) -> Tensor:
        """``(N,)`` the inputs that are classified correctly, as far as is known."""
        return self.value > 0

    @property
    def any_correct(self) -> bool:
        """Whether an input may be classified correctly, as far as is known."""
        return self.unknown > 0 or bool(self.correct.any())

    def robust(self, radii: Tensor) -> tuple[Tensor, Tensor]:
        """Robust accuracy ``#{d > r}/N`` as ``(proven, not refuted)``.

        Args:
            radii: of any shape.

        Returns:
            Two tensors of that shape.

        Raises:
            ProblemError: a radius below zero or NaN.
        """
        total = len(self.value) + self.unknown
        return self._proven(radii) / total, (total - _at_most(self.value, radii)) / total

    def fooled(self, radii: Tensor) -> tuple[Tensor, Tensor]:
        """Fooling ratio ``#{correct, d <= r}/#{correct}`` as ``(attacked, not proven)``; see :func:`fooling_ratio`.

        Raises:
            ProblemError: no input is classified correctly, or a radius below zero or NaN.
        """
        value = self.value[self.some_correct()]
        total = len(value) + self.unknown
        # what is misclassified has a bound of 0 and is proven at no radius
        return _at_most(value, radii) / total, (total - self._proven(radii)) / total

    def rho1(self, size: Tensor) -> tuple[float, float]:
        """``ρ̂₁ = mean d/‖x‖_p`` of the correctly classified inputs as ``(proven, found)``.

        Args:
            size: ``(N,)`` of ‖x‖_p.

        Raises:
            ProblemError: no input is classified correctly.
        """
        correct = self.some_correct()
        low, high = (float(_relative(end[correct], size[correct]).sum()) for end in (self.bound, self.value))
        total = int(correct.sum()) + self.unknown
        return low / total * (1 - ROUNDING), math.inf if self.unknown else high / total * (1 + ROUNDING)

    def eps(self, share: float = 0.99) -> tuple[float, float]:
        """The smallest ε at which more than a share of the correctly classified inputs is fooled, as
        ``(proven, found)``: the distance at place ``⌊share·C⌋ + 1`` of the C in rising order.

        Raises:
            ProblemError: no input is classified correctly, or a share that is none.
        """
        if not 0 <= share < 1:
            raise ProblemError(f"share={share} must be at least 0 and below 1.")
        correct = self.some_correct()
        # more than the share: one input beyond the whole number below it
        place = math.floor(share * (int(correct.sum()) + self.unknown) * (1 + 1e-12))
        low, high = (end[correct].sort().values for end in (self.bound, self.value))
        # the unknown ones come first among the bounds, and last among the distances found
        return (
            float(low[place - self.unknown]) if place >= self.unknown else 0.0,
            float(high[place]) if place < len(high) else math.inf,
        )

    def jumps(self) -> Tensor:
        """``(J,)`` rising: the finite distances and bounds, at which the shares change; 0 is the first."""
        ends = torch.cat([self.value.new_zeros(1), self.value, self.bound])
        return ends[ends.isfinite()].unique()

    def _proven(self, radii: Tensor) -> Tensor:
        """How many are proven to have ``d > r``."""
        at = self.bound[self.beyond]
        own = _at_most(at, radii) - torch.searchsorted(at.sort().values, radii.contiguous())
        return len(self.bound) - _at_most(self.bound, radii) + own

    def some_correct(self) -> Tensor:
        """:attr:`correct`.

        Raises:
            ProblemError: no input is classified correctly.
        """
        if not self.any_correct:
            raise ProblemError("No input is classified correctly, so there is nothing to measure. Check the labels.")
        return self.correct


def _at_most(ends: Tensor, radii: Tensor) -> Tensor:
    """How many of the ends are at most each radius."""
    if not bool((radii >= 0).all()):
        raise ProblemError("A radius is below zero or NaN; give radii of zero or more.")
    return torch.searchsorted(ends.sort().values, radii.contiguous(), right=True).double()


def _relative(distance: Tensor, size: Tensor) -> Tensor:
    """``distance/size``; zero stays zero where the size is zero too."""
    return torch.where(distance > 0, distance / size, 0.0)


def fooling_ratio(found: AttackResult, eps: Tensor | float | None = None) -> Tensor:
    """The share of correctly classified inputs that become misclassified, at distances up to eps.

    Moosavi-Dezfooli et al. 2016 (arXiv 1511.04599), as Balda et al. 2018 (arXiv 1803.03607, section IV) use it.

    Args:
        found: what an attack found.
        eps: radii of any shape: the curve of a method that looks for the nearest point; None: all points that were
            found, for a method that was given its radius.

    Returns:
        eps's shape, a scalar without; float64.

    Raises:
        ProblemError: no input is classified correctly.

    Example:
        >>> fooling_ratio(cl.attacks.fgsm(net, x, y, eps=0.1))
        tensor(0.5000, dtype=torch.float64)
        >>> fooling_ratio(cl.attacks.deepfool(net, x, y, norm=cl.inf), torch.linspace(0, 0.2, 3))
        tensor([0.0000, 0.6250, 1.0000], dtype=torch.float64)
    """
    limits = torch.as_tensor(torch.finfo(torch.float64).max if eps is None else eps, dtype=torch.float64)
    return DistanceIntervals.of(found).fooled(limits.to(found.distance.device))[0]


def rho1(found: AttackResult, x: Tensor, norm: float = torch.inf) -> float:
    """``ρ̂₁ = mean ‖r̂(x)‖_p/‖x‖_p`` with the smallest perturbations that DeepFool finds.

    Moosavi-Dezfooli et al. 2016 (arXiv 1511.04599, equation 3), as in Balda et al. 2018 (arXiv 1803.03607, section II).

    Args:
        found: of an attack that looks for the nearest point, in this norm.
        x: ``(B, *input_shape)`` its inputs.
        norm: any p >= 1 or ``cl.inf``.

    Returns:
        The mean over the inputs that were fooled, as in the authors' program: read it together with
        :func:`fooling_ratio`. Infinity where none was.

    Raises:
        ProblemError: no input is classified correctly.
        ShapeError: another number of inputs.
    """
    if len(x) != len(found.distance):
        raise ShapeError(f"x has {len(x)} inputs; the attack had {len(found.distance)}.")
    size = norm_of(x.to(found.distance.device).double(), norm)
    known = DistanceIntervals.of(found)
    fooled = known.value.isfinite() & known.some_correct()
    return float(_relative(known.value[fooled], size[fooled]).mean()) if bool(fooled.any()) else math.inf


def rho2(radius: Tensor) -> float:
    """``ρ̂₂ = mean L(x)/‖∇L(x)‖_q``, the mean first-order radius (Balda et al. 2018, arXiv 1803.03607, section II).

    Args:
        radius: ``(B,)`` of :func:`clinch.attacks.first_order_radius`; zeros, the inputs that are misclassified as they
            are, are left out.

    Raises:
        ProblemError: no input is classified correctly.
    """
    positive = radius.double()[radius > 0]
    if not len(positive):
        raise ProblemError("No input is classified correctly, so there is nothing to measure. Check the labels.")
    return float(positive.mean())


def eps_99(found: AttackResult, share: float = 0.99) -> float:
    """The smallest ε at which more than 99% of the correctly classified inputs are fooled, with DeepFool's distances.

    Table I of Balda et al. 2018 (arXiv 1803.03607).

    Args:
        found: of an attack that looks for the nearest point.
        share: another share than 0.99, at least 0 and below 1.

    Returns:
        Infinity where the attack fools no more than that share.

    Raises:
        ProblemError: no input is classified correctly, or a share that is none.
    """
    return DistanceIntervals.of(found).eps(share)[1]
