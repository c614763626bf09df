"""Problem files: a TOML file becomes a :class:`clinch.Problem` (the format: ``docs/problem-files.md``)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clinch.applications.monitors import BoxMonitor, predicted
from clinch.cli.models import load_model, names_function
from clinch.cli.tables import Table, check_keys, get, read_array, read_toml
from clinch.errors import NonFiniteError, ProblemError, ShapeError
from clinch.geometry.norms import norm_of
from clinch.io.data import DataError
from clinch.io.files import ARRAY_LIMIT
from clinch.modeling.linear_forms import parse_constraint, parse_form

if TYPE_CHECKING:
    from clinch.modeling.constraints import Constraint
    from clinch.modeling.model import SymbolicNetwork
    from clinch.modeling.problem import Objective, Problem

#: tables of constraints that a file may have, those inside others among them
MOST_CONSTRAINTS = 10_000
_TOP = ("model", "input_shape", "range", "x0", "objective", "constraints", "solve")
_X0 = ("dataset", "split", "index", "file", "values")
_SOLVE = ("time_limit", "gap", "seed", "solver", "device")
#: what a constraint can be, and the keys that go with it
_CONSTRAINTS: dict[str, tuple[str, ...]] = {
    "class": ("margin",),
    "not_class": ("margin",),
    "monitor": ("lower", "upper", "fit", "class", "outside", "margin"),
    "ball": ("radius", "weights", "mask"),
    "linear": (),
    "any": (),
    "all": (),
    "not": (),
}


@dataclass(frozen=True)
class ProblemFile:
    """What a problem file states.

    Attributes:
        problem: the problem, or batch of problems.
        network: its network.
        x0: the starting inputs, shape ``input_shape`` or ``(B, *input_shape)``; None where the file has none.
        options: the ``[solve]`` table.
    """

    problem: Problem
    network: SymbolicNetwork
    x0: Tensor | None
    options: Table


def read_problem(path: str | Path, *, run_code: bool = False) -> ProblemFile:
    """Read a problem file.

    Args:
        path: of the file.
        run_code: whether its model may be a Python function, which is then run; functions of Clinch itself always may.

    Raises:
        ProblemError: it cannot be read, or does not make sense; names the place.
        ClinchError: whatever the model or the statement raises.
    """
    import clinch

    path = Path(path)
    table = read_toml(path)
    where = path.name
    check_keys(table, _TOP, where)
    shape = get(table, "input_shape", (list,), where, None)
    model = get(table, "model", (str,), where)
    if names_function(model) and not run_code and not model.startswith("clinch."):
        raise ProblemError(
            f"{where}: the model '{model:.100}' is Python code, which reading the file would run. Where you trust it, "
            "add --run-code (read_problem(..., run_code=True)); or export the model to ONNX."
        )
    network = load_model(model, input_shape=_shape(shape, where), folder=path.parent)
    reader = _Reader(network, path.parent, where, None)
    if "x0" in table:
        reader = _Reader(network, path.parent, where, reader.starting_inputs(table["x0"]))
    objective = reader.objective(get(table, "objective", (dict,), where))
    constraints = reader.range(get(table, "range", (list,), where, None))
    stated = get(table, "constraints", (list,), where, [])
    if _tables(stated) > MOST_CONSTRAINTS:
        raise ProblemError(
            f"{where}: it states {_tables(stated):,} constraints, and a file may have {MOST_CONSTRAINTS:,}. Use the "
            "Python interface, where one constraint holds for whole arrays."
        )
    for number, entry in enumerate(stated):
        constraints.append(reader.constraint(entry, f"{where}, constraint {number + 1}"))
    options = get(table, "solve", (dict,), where, {})
    check_keys(options, _SOLVE, f"{where}, [solve]")
    return ProblemFile(
        clinch.Problem(objective, constraints), network, reader.x0, _options(options, f"{where}, [solve]")
    )


def _tables(entries: Any) -> int:
    """How many tables there are, in whatever they stand."""
    count, waiting = 0, [entries]
    while waiting:
        one = waiting.pop()
        count += isinstance(one, dict)
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return count


def _shape(entries: list[Any] | None, where: str) -> tuple[int, ...] | None:
    if entries is None:
        return None
    if not entries or not all(type(n) is int and n > 0 for n in entries):
        raise ProblemError(f"{where}: input_shape is {entries}; give positive whole numbers such as [1, 28, 28].")
    return tuple(entries)


def _options(table: Table, where: str) -> Table:
    kinds = {"time_limit": (float,), "gap": (float,), "seed": (int,), "solver": (str,), "device": (str,)}
    return {key: get(table, key, kinds[key], where) for key in table}


@dataclass(frozen=True)
class _Reader:
    """Turns the tables of one file into expressions over one network."""

    network: SymbolicNetwork
    folder: Path
    where: str
    x0: Tensor | None

    # --- inputs ---------------------------------------------------------------------------------------------------

    def starting_inputs(self, entry: Any) -> Tensor:
        """x0, shape ``input_shape`` or ``(B, *input_shape)``."""
        where = f"{self.where}, x0"
        if not isinstance(entry, dict):
            entry = {"file" if isinstance(entry, str) else "values": entry}
        check_keys(entry, _X0, where)
        sources = [key for key in ("dataset", "file", "values") if key in entry]
        if len(sources) != 1:
            raise ProblemError(f"{where}: give exactly one of dataset, file, values.")
        if sources[0] == "dataset":
            x = _dataset(entry["dataset"], get(entry, "split", (str,), where, "test"), where).x.double().numpy()
            index = get(entry, "index", (int, list), where)
        else:
            x = read_array(entry[sources[0]], self.folder, where)
            index = get(entry, "index", (int, list), where, None)
        if index is not None:
            x = _pick(x, index, where)
        return self._shaped(x, where)

    def _shaped(self, x: np.ndarray, where: str) -> Tensor:
        shape = tuple(self.network.input_shape)
        size = math.prod(shape)
        if not np.isfinite(x).all():
            raise NonFiniteError(f"{where}: it contains NaN or an infinity.")
        if x.shape == shape or (x.size == size and x.shape[1:] != shape):
            return torch.from_numpy(x.reshape(shape))
        if x.ndim > 1 and len(x) and x[0].size == size:
            return torch.from_numpy(x.reshape(-1, *shape))
        raise ShapeError(
            f"{where}: shape {x.shape}; the model takes {shape}, or (B, {', '.join(map(str, shape))}) for B problems."
        )

    def range(self, entries: list[Any] | None) -> list[Constraint]:
        """The limits of every input element."""
        if entries is None:
            return []
        if len(entries) != 2:
            raise ProblemError(f"{self.where}: range is {entries!r:.60}; give two entries, such as [0, 1].")
        low, high = (self._limits(entry, self.network.input_shape, f"{self.where}, range") for entry in entries)
        x = self.network.input
        return [x >= low, x <= high]

    def _limits(self, entry: Any, shape: tuple[int, ...], where: str) -> Tensor:
        array = read_array(entry, self.folder, where)
        if array.ndim == 0 or array.size == math.prod(shape):
            return torch.from_numpy(np.broadcast_to(array, shape).copy() if array.ndim == 0 else array.reshape(shape))
        return torch.from_numpy(array)

    # --- the objective --------------------------------------------------------------------------------------------

    def objective(self, table: Table) -> Objective:
        """The ``[objective]`` table."""
        import clinch

        where = f"{self.where}, [objective]"
        check_keys(table, ("minimize", "maximize", "p", "weights", "mask"), where)
        senses = [key for key in ("minimize", "maximize") if key in table]
        if len(senses) != 1:
            raise ProblemError(f"{where}: give exactly one of minimize, maximize.")
        text = get(table, senses[0], (str,), where)
        if text == "norm":
            scalar = self._norm(table, where)
        else:
            check_keys({k: v for k, v in table.items() if k not in senses}, (), f"{where}, with a linear form")
            scalar = parse_form(text, self.network)
        return clinch.Minimize(scalar) if senses[0] == "minimize" else clinch.Maximize(scalar)

    def _norm(self, table: Table, where: str, key: str = "p") -> Any:
        import clinch

        if self.x0 is None:
            raise ProblemError(f"{where}: a norm measures the distance to x0, and the file has no x0. Add it.")
        p = get(table, key, (float, str), where)
        try:
            kind = norm_of(p)
        except ProblemError as reason:
            raise ProblemError(f"{where}, {key}: {reason}") from None
        shape = self.network.input_shape
        extra = {
            name: self._limits(table[name], shape, f"{where}, {name}") for name in ("weights", "mask") if name in table
        }
        if "mask" in extra:
            extra["mask"] = extra["mask"] != 0
        return clinch.norm(self.network.input - self.x0, kind.p, **extra)

    # --- constraints ----------------------------------------------------------------------------------------------

    def constraint(self, entry: Any, where: str) -> Constraint:
        """One entry of ``constraints``."""
        if not isinstance(entry, dict):
            raise ProblemError(f"{where}: it is {entry!r:.60}; give a table such as {{class = 7}}.")
        kinds = [kind for kind in ("monitor", *_CONSTRAINTS) if kind in entry][:1]
        if not kinds:
            check_keys(entry, tuple(_CONSTRAINTS), where)
            raise ProblemError(f"{where}: it is empty; give one of: {', '.join(_CONSTRAINTS)}.")
        kind = kinds[0]
        check_keys(entry, (kind, *_CONSTRAINTS[kind]), f"{where} ({kind})")
        build = {
            "class": self._class,
            "not_class": self._class,
            "monitor": self._monitor,
            "ball": self._ball,
            "linear": self._linear,
            "any": self._joined,
            "all": self._joined,
            "not": self._negated,
        }[kind]
        return build(entry, kind, where)

    def _class(self, entry: Table, kind: str, where: str) -> Constraint:
        labels = self._labels(entry[kind], where)
        margin = {"margin": float(get(entry, "margin", (float,), where))} if "margin" in entry else {}
        winner = self.network.output.argmax(**margin)
        return winner == labels if kind == "class" else winner != labels

    def _labels(self, value: Any, where: str) -> int | Tensor:
        """A class, a list of classes, or the class that the model gives to x0."""
        if value == "predicted":
            if self.x0 is None:
                raise ProblemError(f"{where}: 'predicted' is the class of x0, and the file has no x0. Add it.")
            shape = self.network.input_shape
            classes = predicted(self.network, self.x0.reshape(-1, *shape))
            return int(classes[0]) if self.x0.dim() == len(shape) else classes
        if type(value) is int:
            return value
        if isinstance(value, list) and value and all(type(c) is int for c in value):
            return torch.tensor(value)
        raise ProblemError(f"{where}: the class is {value!r:.60}; give a whole number, a list of them, or 'predicted'.")

    def _monitor(self, entry: Table, kind: str, where: str) -> Constraint:
        layer = self.network[get(entry, kind, (str,), where)]
        outside = get(entry, "outside", (bool,), where, True)
        if "fit" in entry:
            check_keys(entry, (kind, "fit", "class", "outside"), f"{where} (monitor with fit)")
            return self._fitted(entry, outside, where)
        limits = [
            self._limits(get(entry, key, (float, str, list), where), layer.shape, f"{where}, {key}")
            for key in ("lower", "upper")
        ]
        margin = {"margin": self._limits(entry["margin"], layer.shape, f"{where}, margin")} if "margin" in entry else {}
        inside = layer.between(*limits, **margin)
        return ~inside if outside else inside

    def _fitted(self, entry: Table, outside: bool, where: str) -> Constraint:
        x = _dataset(entry["fit"], "train", where).x
        if x[0].numel() != math.prod(self.network.input_shape):
            raise ShapeError(
                f"{where}: '{entry['fit']}' has images of shape {tuple(x.shape[1:])}; "
                f"the model takes {self.network.input_shape}."
            )
        monitor = BoxMonitor.fit(self.network, entry["monitor"], x.reshape(-1, *self.network.input_shape))
        labels = self._labels(entry.get("class", "predicted"), where)
        return monitor.outside(self.network, labels) if outside else monitor.inside(self.network, labels)

    def _ball(self, entry: Table, kind: str, where: str) -> Constraint:
        radius = read_array(get(entry, "radius", (float, list), where), self.folder, where)
        return self._norm(entry, where, kind) <= (float(radius) if radius.ndim == 0 else torch.from_numpy(radius))

    def _linear(self, entry: Table, kind: str, where: str) -> Constraint:
        return parse_constraint(get(entry, kind, (str,), where), self.network)

    def _joined(self, entry: Table, kind: str, where: str) -> Constraint:
        parts = [self.constraint(part, f"{where} ({kind})") for part in get(entry, kind, (list,), where)]
        if not parts:
            raise ProblemError(f"{where}: '{kind}' is empty; give at least one constraint.")
        joined = parts[0]
        for part in parts[1:]:
            joined = joined | part if kind == "any" else joined & part
        return joined

    def _negated(self, entry: Table, kind: str, where: str) -> Constraint:
        return ~self.constraint(entry[kind], f"{where} (not)")


def _dataset(name: Any, split: str, where: str) -> Any:
    """Images and labels of a data set that needs no path."""
    from clinch.study.sources import images

    try:
        return images(str(name), split)
    except DataError as error:
        raise ProblemError(f"{where}: {error}") from None


def _pick(x: np.ndarray, index: int | list[Any], where: str) -> np.ndarray:
    wanted = index if isinstance(index, list) else [index]
    if not wanted:
        raise ProblemError(f"{where}: index is an empty list. Name one row at least.")
    for i in wanted:
        if type(i) is not int or x.ndim == 0 or not 0 <= i < len(x):
            raise ProblemError(
                f"{where}: index {i!r:.60} is out of range; there are {len(x) if x.ndim else 0} rows, from 0."
            )
    if len(wanted) * x.nbytes > ARRAY_LIMIT * len(x):
        raise ProblemError(f"{where}: index chooses {len(wanted):,} rows, which are too many at once. Choose fewer.")
    return x[index]
