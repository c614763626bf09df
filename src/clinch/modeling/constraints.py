"""Constraints: what comparisons give, and how ``&``, ``|`` and ``~`` join them.

Negation is pushed inwards when it is written, so that a constraint is always a tree of *and* and *or* over leaves
that need no negation. A leaf is a whole stack of linear atoms: ``h <= hi`` for a thousand neurons is one object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from clinch.errors import ProblemError
from clinch.modeling.symbols import common_network, merge_batches

if TYPE_CHECKING:
    from clinch.network.network import Network

#: from one linear expression to another; their class stands above this file
Change = Callable[[Any], Any]

#: by how much a negated comparison must hold when nothing else is said, in the units of what is compared
MARGIN = 1e-5
#: ``a == b`` between activations means ``|a − b| <= EQUALITY_TOLERANCE``; single inputs are fixed exactly
EQUALITY_TOLERANCE = 1e-6


class Constraint:
    """A condition on input and activations. Join with ``&``, ``|`` and ``~``."""

    #: NumPy then leaves ``array & constraint`` to the constraint, which refuses it
    __array_ufunc__: ClassVar[None] = None

    @property
    def network(self) -> Network:
        """The network whose activations are constrained."""
        raise NotImplementedError

    @property
    def batch(self) -> int | None:
        """Number of problems that its constants state; None without a batch axis."""
        raise NotImplementedError

    def mapped(self, change: Change) -> Constraint:
        """The same with every expression changed."""
        raise NotImplementedError

    def over(self, network: Network) -> Constraint:
        """The same about a joint network that has all its variables and layers."""
        return self if network is self.network else self.mapped(lambda e: e.over(network))

    def __and__(self, other: object) -> Constraint:
        return Junction.of(True, [self, _constraint(other, "&")])

    def __or__(self, other: object) -> Constraint:
        return Junction.of(False, [self, _constraint(other, "|")])

    def __rand__(self, other: object) -> Constraint:
        return Junction.of(True, [_constraint(other, "&"), self])

    def __ror__(self, other: object) -> Constraint:
        return Junction.of(False, [_constraint(other, "|"), self])

    def __invert__(self) -> Constraint:
        raise NotImplementedError

    def as_alternative(self) -> Constraint:
        """What it is where it is joined by ``|``: linear atoms, or joins of them.

        Raises:
            ProblemError: it can only hold as a whole; says what to write instead.
        """
        return self

    def __bool__(self) -> bool:
        raise ProblemError(
            "A constraint has no truth value: join constraints with &, | and ~ instead of and, or, not, all(), any(); "
            "write a chained comparison such as 0 <= x <= 1 as two: x >= 0, x <= 1."
        )


def _constraint(value: object, operator: str) -> Constraint:
    if not isinstance(value, Constraint):
        raise ProblemError(
            f"{operator} joins two constraints, but one side is a {type(value).__name__}. "
            "Put each comparison in parentheses: (a <= b) & (c >= d)."
        )
    return value


@dataclass(frozen=True, eq=False)
class Junction(Constraint):
    """Several constraints of which every one must hold, or at least one."""

    every: bool
    parts: tuple[Constraint, ...]

    @staticmethod
    def of(every: bool, parts: list[Constraint]) -> Junction:
        """Join, with nested joins of the same kind made flat.

        Raises:
            ProblemError: the parts belong to different networks, or a ball stands inside ``|``.
        """
        flat: list[Constraint] = []
        for part in parts:
            flat.extend(part.parts if isinstance(part, Junction) and part.every == every else [part])
        flat = flat if every else [part.as_alternative() for part in flat]
        network = common_network(part.network for part in flat)
        flat = [part.over(network) for part in flat]
        merge_batches(part.batch for part in flat)
        return Junction(every, tuple(flat))

    @property
    def network(self) -> Network:
        """The network whose activations are constrained."""
        return self.parts[0].network

    @property
    def batch(self) -> int | None:
        """Number of problems that its constants state; None without a batch axis."""
        return merge_batches(part.batch for part in self.parts)

    def mapped(self, change: Change) -> Junction:
        """Each part is."""
        return Junction(self.every, tuple(part.mapped(change) for part in self.parts))

    def __invert__(self) -> Constraint:
        return Junction.of(not self.every, [~part for part in self.parts])

    def as_alternative(self) -> Constraint:
        """Each part is."""
        return Junction.of(self.every, [part.as_alternative() for part in self.parts])
