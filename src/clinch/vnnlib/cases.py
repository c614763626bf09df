"""A formula as few feasibility problems: each a box of inputs, and clauses of which every one must hold.

Alternatives that limit single inputs become boxes of their own, conjunctions inside an alternative become clauses of
one atom, and alternatives over the same box that are one atom each become one clause. So "some other class" is one
problem with one clause (mnist_fc), two boxes are two problems (acasxu property 6), and "3 is minimal or 4 is minimal"
is two problems with clauses of one atom (property 7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clinch.errors import SpecificationError
from clinch.vnnlib.specification import Atom, Formula, Junction, Specification

#: alternatives beyond this many are refused with a sentence instead of running out of memory
ALTERNATIVES = 100_000

#: position of an input -> its lower and upper limit
Limits = dict[int, tuple[float, float]]
Clause = tuple[Atom, ...]


class Alternative(NamedTuple):
    """One way to meet a formula: limits of single inputs, and clauses."""

    limits: Limits
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, eq=False)
class Case:
    """One feasibility problem.

    Attributes:
        lower: limits of the inputs, ``(n,)`` float64, row-major.
        upper: likewise, ``lower <= upper``, all finite.
        clauses: of each at least one atom must hold; they look at outputs, hidden tensors, or several inputs at once.
    """

    lower: np.ndarray
    upper: np.ndarray
    clauses: tuple[Clause, ...]


def cases_of(specification: Specification) -> tuple[list[Case], str]:
    """The problems that together are the specification: a counterexample of it is an input feasible for any of them.

    Args:
        specification: what was read.

    Returns:
        The problems, and why one of them was dropped (empty where none was): limits that contradict each other.
        Without any problem left there is no counterexample.

    Raises:
        SpecificationError: an input without lower or upper limit, or too many alternatives.
    """
    reading = _Reading(specification)
    possible = [a for a in reading.alternatives(specification.formula) if not reading.contradicts(a.limits)]
    cases = [reading.case(alternative) for alternative in possible]
    return cases, reading.reason or ("" if cases else "its conditions contradict each other")


class _Reading:
    def __init__(self, specification: Specification) -> None:
        self.specification = specification
        self.input = specification.input.name
        self.size = specification.input.size
        #: the first contradiction met
        self.reason = ""

    def alternatives(self, formula: Formula) -> list[Alternative]:
        """Disjunctive normal form, except that clauses stay together; none where nothing can meet the formula."""
        if isinstance(formula, Atom):
            return self._atom(formula)
        if formula.every:
            return self._all_of(formula)
        found = [alternative for part in formula.parts for alternative in self.alternatives(part)]
        return _merged(self._counted(found))

    def _all_of(self, formula: Junction) -> list[Alternative]:
        """One choice of each part; parts without a choice are gathered first, because there are thousands of them."""
        limits: Limits = {}
        clauses: list[Clause] = []
        choices: list[list[Alternative]] = []
        for part in formula.parts:
            found = self.alternatives(part)
            if not found:
                return []
            if len(found) == 1:
                _cut(limits, found[0].limits)
                clauses.extend(found[0].clauses)
            else:
                choices.append(found)
        result = [Alternative(limits, tuple(clauses))]
        for found in choices:
            self._counted(result, len(found))
            joined = [_joined(left, right) for left in result for right in found]
            result = [both for both in joined if not self.contradicts(both.limits)]
        return result

    def _counted(self, alternatives: list[Alternative], times: int = 1) -> list[Alternative]:
        if len(alternatives) * times > ALTERNATIVES:
            raise SpecificationError(
                f"{self.specification.name} has more than {ALTERNATIVES:,} alternatives. Split it into several files."
            )
        return alternatives

    def _atom(self, atom: Atom) -> list[Alternative]:
        if not atom.terms:
            holds = atom.constant < 0 or (atom.constant == 0 and not atom.strict)
            return [Alternative({}, ())] if holds else []
        (name, position), coefficient = next(iter(atom.terms.items()))
        if len(atom.terms) > 1 or name != self.input:
            return [Alternative({}, ((atom,),))]
        limit = -atom.constant / coefficient + 0.0
        if coefficient > 0:
            limits = -math.inf, math.nextafter(limit, -math.inf) if atom.strict else limit
        else:
            limits = math.nextafter(limit, math.inf) if atom.strict else limit, math.inf
        return [Alternative({position: limits}, ())]

    def contradicts(self, limits: Limits) -> bool:
        """Whether some input would have to be on both sides of a limit."""
        for position, (low, high) in limits.items():
            if low > high:
                element = self.specification.element((self.input, position))
                self.reason = self.reason or f"{element} would have to be >= {low:.9g} and <= {high:.9g}"
                return True
        return False

    def case(self, alternative: Alternative) -> Case:
        """The problem of one alternative without contradiction."""
        lower, upper = np.full(self.size, -np.inf), np.full(self.size, np.inf)
        if alternative.limits:
            at = np.fromiter(alternative.limits, dtype=np.int64)
            lower[at], upper[at] = np.array(list(alternative.limits.values())).T
        for limit, side in ((lower, "lower"), (upper, "upper")):
            free = np.flatnonzero(~np.isfinite(limit))
            if len(free):
                element = self.specification.element((self.input, int(free[0])))
                more = f", nor have {len(free) - 1} other inputs" if len(free) > 1 else ""
                raise SpecificationError(
                    f"{self.specification.name}: {element} has no {side} limit{more}. Assert one for every input."
                )
        return Case(lower, upper, alternative.clauses)


def _cut(limits: Limits, others: Limits) -> None:
    """Impose further limits, in place."""
    for position, (low, high) in others.items():
        old = limits.get(position)
        limits[position] = (low, high) if old is None else (max(old[0], low), min(old[1], high))


def _joined(left: Alternative, right: Alternative) -> Alternative:
    """Both at once."""
    limits = dict(left.limits)
    _cut(limits, right.limits)
    return Alternative(limits, left.clauses + right.clauses)


def _merged(alternatives: list[Alternative]) -> list[Alternative]:
    """Alternatives over one box with one clause each become one clause; one without clauses makes them superfluous."""
    boxes: dict[tuple[tuple[int, tuple[float, float]], ...], list[Alternative]] = {}
    for alternative in alternatives:
        boxes.setdefault(tuple(sorted(alternative.limits.items())), []).append(alternative)
    merged = []
    for group in boxes.values():
        free = [a for a in group if not a.clauses]
        if free:
            merged.append(free[0])
            continue
        single = [a for a in group if len(a.clauses) == 1]
        if single:
            clause = tuple(atom for a in single for atom in a.clauses[0])
            merged.append(Alternative(single[0].limits, (clause,)))
        merged.extend(a for a in group if len(a.clauses) > 1)
    return merged
