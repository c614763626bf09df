"""What may change in a row of a table, in which steps, and what it costs: a schema, from a file or read off a frame."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from clinch.errors import ProblemError
from clinch.io.files import is_there, missing, read_limited
from clinch.modeling.linear_forms import parse_constraint
from clinch.network.tabular import Column, Table, columns_of

#: what a feature may do
WAYS = ("change", "rise", "fall", "stay")
#: bytes of a schema's file, at most
FILE_LIMIT = 2**20
#: decimals that numbers of a column may all have for the column to be counted in steps
DECIMALS = 3
#: steps that are read off for one column, at most
STEPS = 100


@dataclass(frozen=True)
class Feature:
    """One column.

    Attributes:
        name: of the column.
        categories: its values where it is not a number.
        lower: smallest number that it may take.
        upper: largest one.
        step: it takes multiples of this; None: any number. What a row has already may stay.
        may: ``"change"``, ``"rise"``, ``"fall"`` or ``"stay"``.
        cost: of one unit; of another category, of the next code where the model reads codes.
    """

    name: str
    categories: tuple[Any, ...] | None = None
    lower: float = -math.inf
    upper: float = math.inf
    step: float | None = None
    may: str = "change"
    cost: float = 1.0

    def __post_init__(self) -> None:
        where = f"Feature '{self.name}'"
        if self.may not in WAYS:
            raise ProblemError(f"{where}: may = {self.may!r:.40}. Write one of: {', '.join(WAYS)}.")
        if self.categories is not None and self.may in ("rise", "fall"):
            raise ProblemError(f"{where} has categories, which neither rise nor fall. Write change or stay.")
        if not (math.isfinite(self.cost) and self.cost >= 0):
            raise ProblemError(f"{where}: cost = {self.cost}. Write a number >= 0.")
        if self.step is not None and not (math.isfinite(self.step) and self.step > 0):
            raise ProblemError(f"{where}: step = {self.step}. Write a number greater than 0, or leave it out.")
        if self.categories is None and not (math.isfinite(self.lower) and math.isfinite(self.upper)):
            raise ProblemError(f"{where} has no limits. Write range = [lowest, highest], or categories = [...].")
        if self.lower > self.upper:
            raise ProblemError(f"{where}: range = [{self.lower:g}, {self.upper:g}]. Write the lower limit first.")

    def limits(self, before: float) -> tuple[float, float]:
        """What a number may be, coming from what it is."""
        low, high = self.lower, self.upper
        if self.may == "stay":
            return before, before
        low, high = (max(low, before), high) if self.may == "rise" else (low, high)
        low, high = (low, min(high, before)) if self.may == "fall" else (low, high)
        return (low, high) if low <= high else (before, before)

    def values(self, before: float) -> list[float] | None:
        """The numbers that it may take; None: all between its limits."""
        if self.step is None:
            return None
        low, high = self.limits(before)
        slack = 1e-9
        first, last = math.ceil(low / self.step - slack), math.floor(high / self.step + slack)
        steps = [k * self.step for k in range(first, last + 1)]
        # 7 · 0.1 is not 0.7: the number that is written with as few digits
        found = {float(f"{value:.12g}") for value in steps}
        return sorted({value for value in found if low <= value <= high} | {before})

    def allows(self, before: Any, after: Any) -> bool:
        """Whether it may go from one value to another, to the last bit."""
        if after == before:
            return True
        if self.may == "stay":
            return False
        if self.categories is not None:
            return after in self.categories
        low, high = self.limits(before)
        values = self.values(before)
        return low <= after <= high and (values is None or after in values)


@dataclass(frozen=True)
class Schema:
    """What may change in a row, and what it costs.

    Attributes:
        features: of the columns that a model reads.
        relations: linear conditions between them that have to hold, such as ``"2 * duration <= age"``; a category is
            the name ``'job=student'``, in quotes, 1 where the row has it and 0 elsewhere.
        changes: how many features may change at most; None: all.

    Example:
        >>> age = Feature("age", lower=18, upper=75, step=1, may="rise")
        >>> schema = Schema((age, Feature("income", lower=0, upper=9)))
        >>> schema.violations({"age": 30, "income": 2.0}, {"age": 29, "income": 2.5})
        ['age may rise and went from 30 to 29']
    """

    features: tuple[Feature, ...]
    relations: tuple[str, ...] = ()
    changes: int | None = None

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ProblemError(f"The schema has two features '{twice}'.")
        if self.changes is not None and not (isinstance(self.changes, int) and self.changes > 0):
            raise ProblemError(f"changes = {self.changes!r}. Write a whole number from 1 on, or leave it out.")
        zeros = dict.fromkeys(self.terms(dict.fromkeys(names, 0.0)), np.zeros(1))
        for relation in self.relations:
            parse_constraint(relation, zeros)

    @classmethod
    def from_frame(
        cls,
        rows: Any,
        *,
        stay: Sequence[str] = (),
        rise: Sequence[str] = (),
        fall: Sequence[str] = (),
        cost: Mapping[str, float] | None = None,
        step: Mapping[str, float | None] | None = None,
        relations: Sequence[str] = (),
        changes: int | None = None,
    ) -> Schema:
        """The ranges, steps and categories of a table's rows.

        A column of numbers gets their range, and as cost of one unit one over the median distance from the median
        (Wachter et al. 2018), or over the standard deviation where that is 0. Whole numbers move in steps of 1, 10,
        100, …, at most a hundred over the range; numbers of at most three decimals in steps of those where that is at
        most a hundred too. Any other column has categories, of which another one costs 1.

        Args:
            rows: a data frame, a dictionary of columns, or a list of dictionaries.
            stay: columns that do not change.
            rise: columns that may only rise.
            fall: columns that may only fall.
            cost: of one unit or another category, by column, in place of the usual ones.
            step: likewise; None: any number.
            relations: see :class:`Schema`.
            changes: likewise.

        Raises:
            ProblemError: a name that is no column.
        """
        columns = columns_of(rows)
        ways = [*((name, "stay") for name in stay), *((n, "rise") for n in rise), *((n, "fall") for n in fall)]
        unknown = next((n for n in [*dict(ways), *(cost or {}), *(step or {})] if n not in columns), None)
        if unknown is not None:
            raise ProblemError(f"There is no column '{unknown}'. The rows have: {', '.join(columns)}.")
        made = []
        for name, values in columns.items():
            feature = replace(_read_off(name, values), may=dict(ways).get(name, "change"))
            feature = replace(feature, cost=(cost or {}).get(name, feature.cost))
            made.append(replace(feature, step=(step or {}).get(name, feature.step)))
        return cls(tuple(made), tuple(relations), changes)

    def __getitem__(self, name: str) -> Feature:
        """The feature of a column.

        Raises:
            ProblemError: there is none of that name.
        """
        found = next((feature for feature in self.features if feature.name == name), None)
        if found is None:
            raise ProblemError(f"The schema has no feature '{name}', which the model reads. Add it.")
        return found

    def table(self, known: Table | None) -> Table:
        """What the elements of a model's input are: what it knows itself, or the features one after the other."""
        if known is None:
            return Table(tuple(Column(f.name, f.categories, f.categories is not None) for f in self.features))
        for column in known.columns:
            own = self[column.name].categories
            if (own is None) != (column.categories is None):
                said = "numbers" if own is None else "categories"
                raise ProblemError(f"Feature '{column.name}' has {said} in the schema, and not so in the model.")
            missing = set(own or ()) - set(column.categories or ())
            if missing:
                raise ProblemError(f"Feature '{column.name}': the model knows no category {sorted(map(str, missing))}.")
        return known

    def terms(self, row: Mapping[str, Any]) -> dict[str, float]:
        """What names in relations stand for in a row."""
        found: dict[str, float] = {}
        for feature in self.features:
            if feature.categories is None:
                found[feature.name] = float(row[feature.name])
            for category in feature.categories or ():
                found[f"{feature.name}={category}"] = float(row[feature.name] == category)
        return found

    def violations(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
        """What the change of a row does not keep, in words; empty: it keeps everything, to the last bit."""
        found = []
        changed = [f for f in self.features if after[f.name] != before[f.name]]
        for feature in changed:
            if not feature.allows(before[feature.name], after[feature.name]):
                ways = f"may {feature.may}"
                found.append(f"{feature.name} {ways} and went from {before[feature.name]} to {after[feature.name]}")
        if self.changes is not None and len(changed) > self.changes:
            found.append(f"{len(changed)} features changed, at most {self.changes} may")
        numbers = {name: np.array([value]) for name, value in self.terms(after).items()}
        return found + [relation for relation in self.relations if not bool(parse_constraint(relation, numbers))]


def _read_off(name: str, values: Sequence[Any]) -> Feature:
    """A column's range, step and cost, or its categories."""
    whole = all(isinstance(v, int | float | np.integer | np.floating) and not isinstance(v, bool) for v in values)
    if not whole:
        # in the order of text, as encoders have them
        return Feature(name, categories=tuple(sorted(set(values), key=str)))
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ProblemError(f"Column '{name}' holds a missing or infinite number. Fill it in first.")
    width = float(numbers.max() - numbers.min())
    finest = next((-k for k in range(DECIMALS + 1) if (numbers.round(k) == numbers).all()), None)
    step = None
    if finest is not None:
        coarse = max(finest, math.ceil(math.log10(max(width, 1e-9) / STEPS)))
        # a coarser step than what the column shows is a choice for whole numbers alone
        step = 10.0**coarse if finest == 0 or coarse == finest else None
    spread = float(np.median(np.abs(numbers - np.median(numbers)))) or float(numbers.std()) or 1.0
    return Feature(name, lower=float(numbers.min()), upper=float(numbers.max()), step=step, cost=1 / spread)


def read_schema(file: str | Path) -> Schema:
    """The schema of a TOML file.

    Example of a file::

        changes = 3
        relations = ["2 * duration <= age", "'job=student' + 'housing=own' <= 1"]

        [features.age]
        range = [18, 75]
        step = 1
        may = "rise"
        cost = 0.5

        [features.job]
        categories = ["student", "clerk", "none"]

    Raises:
        ProblemError: there is no such file, or it says something else; names the key.
    """
    path = Path(file)
    if not is_there(path):
        raise ProblemError(missing(path))
    try:
        table = tomllib.loads(read_limited(path, FILE_LIMIT, ProblemError).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProblemError(f"{path}: {error}.") from None
    _known(table, ("features", "relations", "changes"), str(path))
    features = table.get("features")
    if not isinstance(features, dict) or not features:
        raise ProblemError(f"{path} has no features. Write a table [features.NAME] for each column.")
    relations = table.get("relations", [])
    if not isinstance(relations, list) or not all(isinstance(one, str) for one in relations):
        raise ProblemError(f'{path}: relations is no list of texts, such as ["2 * duration <= age"].')
    made = tuple(_feature(name, said, f"{path}, features.{name}") for name, said in features.items())
    return Schema(made, tuple(relations), table.get("changes"))


def _feature(name: str, said: Any, where: str) -> Feature:
    if not isinstance(said, dict):
        raise ProblemError(f"{where} is no table. Write [features.{name}] with range or categories.")
    _known(said, ("range", "step", "may", "cost", "categories"), where)
    given = {field.name: said[field.name] for field in fields(Feature) if field.name in said}
    for key in ("step", "cost"):
        if key in given and (isinstance(given[key], bool) or not isinstance(given[key], int | float)):
            raise ProblemError(f"{where}: {key} = {given[key]!r:.40}. Write a number.")
    if "categories" in said:
        categories = said["categories"]
        if not isinstance(categories, list) or len(categories) < 2 or len(set(map(str, categories))) < len(categories):
            raise ProblemError(f"{where}: categories is no list of two or more different values.")
        given["categories"] = tuple(categories)
    if "range" in said:
        limits = said["range"]
        if not isinstance(limits, list) or len(limits) != 2 or not all(isinstance(n, int | float) for n in limits):
            raise ProblemError(f"{where}: range is no pair of numbers, such as [18, 75].")
        given |= {"lower": float(limits[0]), "upper": float(limits[1])}
    return Feature(name, **given)


def _known(table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    unknown = next((key for key in table if key not in keys), None)
    if unknown is not None:
        raise ProblemError(f"{where}: unknown key '{unknown:.40}'. Known are: {', '.join(keys)}.")
