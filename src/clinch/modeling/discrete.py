"""What a user says about the values of single inputs: lists, groups, and alternatives that concern one input alone.

``x[3].integer()``, ``x[5:9].one_hot()``, ``(x[0] <= 0.2) | (x[0] >= 0.8)`` and ``(x[1] == 2) | (x[1] == 4)`` all
become lists of intervals (:class:`clinch.geometry.discrete.DiscreteSet`), which engines search without a case for each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clinch.errors import EmptyRegionError, ProblemError
from clinch.geometry.discrete import DiscreteSet
from clinch.modeling.constraints import Constraint, Junction
from clinch.modeling.expressions import Atoms, Discrete
from clinch.modeling.limits import in_dtype, single_inputs

if TYPE_CHECKING:
    from clinch.network.network import Network

#: values that one list may have
LONGEST = 2**16
#: relative distance to a limit at which a multiple still counts as inside, before it is rounded to the model's dtype
INSIDE = 1e-9


class Pieces(NamedTuple):
    """Disjoint closed intervals ``[lower_j, upper_j]``, increasing, ``(V,)`` each; single values where equal."""

    lower: Tensor
    upper: Tensor

    @staticmethod
    def of(lower: Tensor, upper: Tensor) -> Pieces:
        """The union of intervals in any order; those that are empty are left out."""
        lower, upper = lower[lower <= upper], upper[lower <= upper]
        order = lower.argsort()
        lower, reach = lower[order], upper[order].cummax(0).values
        first = torch.ones_like(lower, dtype=torch.bool)
        first[1:] = lower[1:] > reach[:-1]
        return Pieces(lower[first], reach[torch.cat([first[1:], first.new_ones(min(1, len(first)))])])

    def joined(self, other: Pieces) -> Pieces:
        """The union."""
        return Pieces.of(torch.cat([self.lower, other.lower]), torch.cat([self.upper, other.upper]))

    def met(self, other: Pieces) -> Pieces:
        """The intersection."""
        low = torch.maximum(self.lower.unsqueeze(1), other.lower).flatten()
        high = torch.minimum(self.upper.unsqueeze(1), other.upper).flatten()
        return Pieces.of(low, high)


class Values:
    """The values of single inputs, collected while a problem is lowered."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._discrete: list[Discrete] = []
        self._pieces: dict[int, Pieces] = {}

    def take(self, constraint: Constraint) -> bool:
        """Whether a constraint of the top level says what values single inputs take, and no more than that."""
        if isinstance(constraint, Discrete):
            self._discrete.append(constraint)
            return True
        if not isinstance(constraint, Junction | Atoms) or constraint.every:
            return False
        found = _said_of_one(constraint, self.network)
        if found is None:
            return False
        self._meet(*found)
        return True

    def within(self, lower: Tensor, upper: Tensor) -> DiscreteSet | None:
        """The lists of all discrete elements within a box ``(B, n)``; None: there are none.

        Raises:
            ProblemError: something else than single inputs is said to be discrete, a list has no end, or is too long.
            EmptyRegionError: no value is left for an element.
        """
        group = torch.full((lower.shape[1],), -1, dtype=torch.long)
        low, high = lower.amin(0), upper.amax(0)
        for number, part in enumerate(self._discrete):
            columns = self._lists(part, low, high)
            if part.one_hot:
                taken = [column for column in columns if group[column] >= 0]
                if taken:
                    raise ProblemError(
                        f"{self._name(taken[0])} belongs to two one_hot() groups. State each element in one of them."
                    )
                group[torch.tensor(columns)] = number
        for column, pieces in self._pieces.items():
            self._pieces[column] = pieces.met(Pieces(low[[column]], high[[column]]))
            if not len(self._pieces[column].lower):
                raise EmptyRegionError(
                    f"{self._name(column)} has no value that its limits {float(low[column]):.9g} and "
                    f"{float(high[column]):.9g} and all that is said of it allow. Loosen one of them."
                )
        return _packed(self._pieces, group) if self._pieces else None

    def _meet(self, column: int, pieces: Pieces) -> None:
        known = self._pieces.get(column)
        self._pieces[column] = pieces if known is None else known.met(pieces)

    def _lists(self, part: Discrete, low: Tensor, high: Tensor) -> list[int]:
        """Take the lists of a part's inputs; which they are."""
        e = part.expression
        rows = single_inputs(e)
        if len(rows.row) != e.size or len(rows.coefficient) > 1 or len(e.constant) > 1:
            raise ProblemError(
                "Only single inputs can be discrete, with the same values in all problems: write x[3].integer(), "
                "(255 * x).integer() or x[5:9].one_hot() of net.input or of a variable."
            )
        columns, coefficient = rows.column.tolist(), rows.coefficient[0].tolist()
        constant = e.constant[0, rows.row].tolist()
        if part.one_hot and (set(coefficient) != {1.0} or set(constant) != {0.0} or len(set(columns)) < len(columns)):
            raise ProblemError("one_hot() is said of inputs themselves, each once, as in x[5:9].one_hot().")
        made: dict[tuple[float, ...], Pieces] = {}
        for column, a, b in zip(columns, coefficient, constant):
            key = (a, b, float(low[column]), float(high[column]))
            if key not in made:
                x = in_dtype((self._numbers(part, column, *key) - b) / a, self.network).unique()
                made[key] = Pieces(x, x)
            self._meet(column, made[key])
        return columns

    def _numbers(self, part: Discrete, column: int, a: float, b: float, low: float, high: float) -> Tensor:
        """The values of ``a·x + b``, those of a step as far as the limits of x reach."""
        if part.values is not None:
            return part.values
        name = self._name(column)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ProblemError(
                f"{name} is to be a multiple of {part.step:g} and has no limits. Add constraints such as {name} >= 0 "
                f"and {name} <= 10."
            )
        ends = sorted(((a * low + b) / part.step, (a * high + b) / part.step))
        slack = INSIDE * (1 + max(map(abs, ends)))
        first, last = math.ceil(ends[0] - slack), math.floor(ends[1] + slack)
        if last - first >= LONGEST:
            raise ProblemError(
                f"{name} would have {last - first + 1:,} values; a list has at most {LONGEST:,}. Narrow its limits, "
                "take a larger step, or leave it continuous."
            )
        return torch.arange(first, last + 1, dtype=torch.float64) * part.step

    def _name(self, column: int) -> str:
        return self.network.graph.element_name(0, column)


def _said_of_one(constraint: Constraint, network: Network) -> tuple[int, Pieces] | None:
    """The one input that a constraint is about, and the values it allows; None: it is about something else."""
    if isinstance(constraint, Junction):
        column, pieces = -1, None
        for part in constraint.parts:
            found = _said_of_one(part, network)
            if found is None or column not in (-1, found[0]):
                return None
            column, own = found
            pieces = own if pieces is None else pieces.met(own) if constraint.every else pieces.joined(own)
        return None if pieces is None else (column, pieces)
    if not isinstance(constraint, Atoms) or constraint.atoms.terms.keys() != {0} or len(constraint.atoms.constant) > 1:
        return None
    exact = constraint.every and constraint.equality is not None
    e = constraint.equality if exact and constraint.equality is not None else constraint.atoms
    rows = single_inputs(e)
    if len(rows.row) != e.size or len(rows.coefficient) > 1 or len(rows.column.unique()) != 1:
        return None
    limit = in_dtype(-e.constant[0, rows.row] / rows.coefficient[0], network)
    above = (rows.coefficient[0] > 0) & ~torch.tensor(exact)
    low = torch.where(above, -torch.inf, limit)
    high = torch.where(above | torch.tensor(exact), limit, torch.inf)
    pieces = Pieces(low.amax().reshape(1), high.amin().reshape(1)) if constraint.every else Pieces(low, high)
    return int(rows.column[0]), Pieces.of(*pieces)


def _packed(lists: dict[int, Pieces], group: Tensor) -> DiscreteSet:
    """Equal lists are kept once."""
    which, rows, known = torch.full_like(group, -1), [], {}
    for column, pieces in lists.items():
        key = (*pieces.lower.tolist(), *pieces.upper.tolist())
        if key not in known:
            known[key] = len(rows)
            rows.append(pieces)
        which[column] = known[key]
    lower, upper = (
        torch.nn.utils.rnn.pad_sequence([one[side] for one in rows], batch_first=True, padding_value=torch.inf)
        for side in (0, 1)
    )
    return DiscreteSet(lower, upper, which, group)
