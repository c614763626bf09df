"""What a study asks about every image: the same problem with the image and its label put in."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.geometry.norms import NORMS, norm_of
from clinch.runtime.arguments import RANGE_ROUNDING, size_of_range
from clinch.study.fingerprint import fingerprint

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork
    from clinch.modeling.problem import Problem

MISCLASSIFIED, ATTACKED, ROBUST, CLOSED, OPEN, FAILED = (
    "misclassified", "attacked", "robust", "closed", "open", "failed"
)  # fmt: skip
#: how an image can end: misclassified as it is; an input found, or proven not to exist, within the radius; for
#: distances, value and bound met; none of these yet; not read, or an engine's error
STATUSES = (MISCLASSIFIED, ATTACKED, ROBUST, CLOSED, OPEN, FAILED)
#: stands for the method of an image that nothing could be asked about
UNREAD = "read"
#: what a study may spend: everything; no search of single images; attacks or bounds alone
METHODS = ("all", "cheap", "attacks", "bounds")


@dataclass(frozen=True)
class Template:
    """Robustness of a classifier around an image x₀ with label y, inputs within the box [lower, upper].

    With a radius: is ``z_y(x) > z_k(x)`` for every other class k and every x with ``‖x − x₀‖_p <= eps``? Without one:
    the smallest ``‖x − x₀‖_p`` at which ``z_k(x) >= z_y(x)`` for some k. A tie counts against the network.

    Attributes:
        norm: p: 0, 1, 2 or infinity.
        eps: radius; None: minimum distances.
        lower: smallest value of an input's elements.
        upper: largest value.
        gap: relative gap at which a distance counts as closed.
        methods: ``"all"``; ``"cheap"``, what every image gets and no search of single images; ``"attacks"`` or
            ``"bounds"``, of these only one kind, so that the interval has one end that is not trivial.

    Raises:
        ProblemError: a number that has no meaning.
    """

    norm: float = torch.inf
    eps: float | None = None
    lower: float = 0.0
    upper: float = 1.0
    gap: float = 1e-3
    methods: str = "all"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ProblemError(f"norm is {self.norm}; choose 0, 1, 2 or infinity (l0, l1, l2, linf).")
        if self.eps is not None and not 0 <= self.eps < math.inf:
            raise ProblemError(f"eps is {self.eps}; give a radius of zero or more, or none for minimum distances.")
        if self.eps is not None and self.norm == math.inf and self.eps > (width := self.upper - self.lower):
            byte = f" For pixels that were bytes write {self.eps:g}/255." if 1 < self.eps <= 255 and width == 1 else ""
            raise ProblemError(
                f"eps is {self.eps:g}, larger than the whole range of the inputs, {self.lower:g} to {self.upper:g}: it "
                f"is in their units.{byte} Inputs of another range need lower and upper (--lower, --upper)."
            )
        if not -math.inf < self.lower < self.upper < math.inf:
            raise ProblemError(f"The inputs' range is {self.lower} to {self.upper}; give two finite numbers, rising.")
        if not self.gap >= 0:
            raise ProblemError(f"gap is {self.gap}; give a relative gap of zero or more, such as 1e-3.")
        if self.methods not in METHODS:
            raise ProblemError(f"methods is '{self.methods}'; choose one of {', '.join(METHODS)}.")
        if self.methods == "bounds" and self.eps is None:
            raise ProblemError("Distances are bounded within the input found. Give eps, or methods 'cheap'.")

    @property
    def text(self) -> str:
        """The question in one line."""
        name = norm_name(self.norm)
        box = f"inputs in [{self.lower:g}, {self.upper:g}]"
        if self.methods in ("attacks", "bounds"):
            box += f", {self.methods} alone"
        if self.eps is None:
            return f"minimum {name} distance to another class, {box}, gap {self.gap:g}"
        return f"robust accuracy, {name} eps {radius_text(self.eps)}, {box}"

    @property
    def hash(self) -> str:
        """Of everything that changes what is asked; a study without its search may go on with it."""
        return fingerprint("template", self if self.methods != "cheap" else replace(self, methods="all"))

    def to_json(self) -> str:
        """All fields by name, numbers to the last digit."""
        return json.dumps({**asdict(self), "norm": norm_name(self.norm)})

    @staticmethod
    def from_json(text: str) -> Template:
        """What :meth:`to_json` wrote.

        Raises:
            ProblemError: anything else.
        """
        try:
            fields = json.loads(text)
            return Template(**{**fields, "norm": norm_of_name(fields["norm"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ProblemError(f"'{text:.80}' is no question of a study.") from None

    def problem(self, network: SymbolicNetwork, x: Tensor, y: Tensor) -> Problem:
        """The problems of images ``(B, *input_shape)`` with labels ``(B,)``; elements outside the range by rounding
        count as its ends."""
        from clinch.modeling.norms import norm
        from clinch.modeling.problem import Minimize, Problem

        distance = norm(network.input - x.clamp(self.lower, self.upper), self.norm)
        fooled = network.output.argmax(margin=0.0) != y
        box = [network.input >= self.lower, network.input <= self.upper]
        if self.eps is None:
            return Problem(Minimize(distance), [*box, fooled])
        return Problem(Minimize(0), [*box, distance <= self.eps, fooled])

    def complaint(self, low: float, high: float, y: int, classes: int) -> str | None:
        """Why an image with pixels from low to high and label y cannot be asked about; None where it can."""
        if not 0 <= y < classes:
            return f"the label {y} is none of the network's {classes} classes, 0 to {classes - 1}"
        if self.outside(low, high):
            return f"the image has pixels from {low:g} to {high:g}, outside of [{self.lower:g}, {self.upper:g}]"
        return None

    def outside(self, low: float, high: float) -> bool:
        """Whether pixels from low to high leave the range of the inputs by more than rounding."""
        rounding = RANGE_ROUNDING * torch.finfo(torch.float32).eps * size_of_range(self.lower, self.upper)
        return max(self.lower - low, high - self.upper) > rounding


def radius_text(eps: float) -> str:
    """A radius; one that bytes have as their share of 255, where that is shorter.

    Example:
        >>> radius_text(8 / 255), radius_text(0.2)
        ('8/255', '0.2')
    """
    steps, plain = round(255 * eps), f"{eps:.6g}"
    share = f"{steps}/255" if steps and abs(255 * eps - steps) < 1e-6 else plain
    return min(plain, share, key=len)


def norm_name(p: float) -> str:
    """How a norm is written: ``linf``, ``l2``."""
    return norm_of(p).name


def norm_of_name(text: str) -> float:
    """The p of ``linf``, ``l2``, ``l1``, ``l0``, also written as ``inf``, ``2``, ``1``, ``0``.

    Raises:
        ProblemError: another name.
    """
    try:
        p = norm_of(text).p
    except ProblemError:
        p = -1.0
    if p not in NORMS:
        raise ProblemError(f"There is no norm '{text}'. Write linf, l2, l1 or l0.")
    return p
