"""Conjunctive normal form: a tree of *and* and *or* over stacks of atoms becomes a conjunction of disjunctions.

Only indices are copied; the coefficients of an atom that occurs in many clauses stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.modeling.constraints import Constraint, Junction
from clinch.modeling.expressions import Atoms, LinearExpression
from clinch.modeling.limits import equal
from clinch.modeling.norms import NormBall
from clinch.modeling.sparse_maps import entries_of_rows

#: atom of each literal, clause of each literal, number of clauses
Literals = tuple[Tensor, Tensor, int]

#: a distribution of | over & that would give more literals than this is refused
LITERALS = 10_000


@dataclass
class Clauses:
    """A conjunction of disjunctions over a growing stack of atoms.

    A literal is a pair of an atom's position in the stack and its clause; clauses are numbered 0 … count − 1.
    """

    stack: list[LinearExpression] = field(default_factory=list)
    size: int = 0

    def of(self, constraint: Constraint) -> Literals:
        """Atom of each literal, clause of each literal, number of clauses."""
        if isinstance(constraint, NormBall):
            constraint = constraint.as_atoms()
        if isinstance(constraint, Atoms):
            return self._leaf(constraint)
        assert isinstance(constraint, Junction)
        parts = [self.of(part) for part in constraint.parts]
        return all_of(parts) if constraint.every else any_of(parts)

    def _leaf(self, constraint: Atoms) -> Literals:
        atoms, count = _atoms(constraint), constraint.atoms.size
        atom = torch.arange(self.size, self.size + count)
        self.stack.append(atoms)
        self.size += count
        if constraint.every:
            return atom, torch.arange(count), count
        return atom, torch.zeros(count, dtype=torch.long), 1


def _atoms(constraint: Atoms) -> LinearExpression:
    """An equality fixes single inputs exactly, as it does at the top level."""
    if constraint.equality is None or not constraint.every:
        return constraint.atoms
    return equal(constraint.equality, constraint.atoms)


def all_of(parts: list[Literals]) -> Literals:
    """The clauses of all parts, one after the other."""
    offset, clauses = 0, []
    for _, clause, count in parts:
        clauses.append(clause + offset)
        offset += count
    return torch.cat([atom for atom, _, _ in parts]), torch.cat(clauses), offset


def any_of(parts: list[Literals]) -> Literals:
    """Distribution: every choice of one clause from each part gives a clause with the literals of all of them.

    Raises:
        ProblemError: there would be too many literals.
    """
    atom, clause, count = parts[0]
    for other_atom, other_clause, other_count in parts[1:]:
        literals = len(atom) * other_count + len(other_atom) * count
        if literals > LITERALS and min(count, other_count) > 1:
            raise ProblemError(
                f"Writing this | of & as a conjunction would take {literals:,} atoms (at most {LITERALS:,}). State one "
                "problem per alternative and keep the best answer."
            )
        left, left_new = entries_of_rows(clause, torch.arange(count).repeat_interleave(other_count), count)
        right, right_new = entries_of_rows(other_clause, torch.arange(other_count).repeat(count), other_count)
        atom = torch.cat([atom[left], other_atom[right]])
        clause = torch.cat([left_new, right_new])
        count = count * other_count
    return atom, clause, count


def literals(constraint: Constraint) -> tuple[int, int]:
    """How many literals and clauses a constraint would be written with."""
    if isinstance(constraint, NormBall):
        constraint = constraint.as_atoms()
    if isinstance(constraint, Atoms):
        return constraint.atoms.size, constraint.atoms.size if constraint.every else 1
    if not isinstance(constraint, Junction):
        return 1, 1
    parts = [literals(part) for part in constraint.parts]
    if constraint.every:
        return sum(one for one, _ in parts), sum(count for _, count in parts)
    total, clauses = parts[0]
    for other, count in parts[1:]:
        total, clauses = total * count + other * clauses, clauses * count
    return total, clauses
