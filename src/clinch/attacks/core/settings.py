"""What can be set about a method besides its arguments: the numbers that it was tuned with.

One frozen dataclass for each method that has such numbers, given as ``settings=`` and recorded with the result. A
method reads them from its objective where it needs them, ``numbers = objective.numbers(NearestSettings)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar

from clinch.solver.settings import Settings


@dataclass(frozen=True)
class AttackSettings(Settings):
    """Base of the settings of attacks; fields are checked when the object is made.

    Raises:
        ProblemError: a field has no meaning.
    """

    _place: ClassVar[str] = "cl.attacks"


S = TypeVar("S", bound=AttackSettings)
#: fields by name, in the place of a settings object
Fields: TypeAlias = Mapping[str, Any]


def part_of(given: AttackSettings | None, kind: type[S]) -> S:
    """The settings of a kind: what is given, the part of it that is of that kind, or what is usual."""
    if isinstance(given, kind):
        return given
    for part in vars(given).values() if given is not None else ():
        if isinstance(part, AttackSettings) and (isinstance(part, kind) or _holds(part, kind)):
            return part_of(part, kind)
    return kind()


def _holds(given: AttackSettings, kind: type[AttackSettings]) -> bool:
    return any(isinstance(part, kind) for part in vars(given).values())
