"""What a solve returns: two numbers, the best point, and where they came from."""

from __future__ import annotations

import enum
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.io.files import printable
from clinch.network.ops.base import Interval
from clinch.runtime import html
from clinch.runtime.version import VERSION
from clinch.solver.settings import Settings

#: a value and a bound this close in the objective's own units have met, whatever the relative gap
ABSOLUTE_GAP = 1e-6
#: a batch prints this many problems and sums up the others
PRINTED = 20


class Status(enum.Enum):
    """How a solve ended; the value is a sentence that says what to do next."""

    OPTIMAL = "Value and bound have met: no other input does better by more than the gap."
    FEASIBLE = "A checked input was found, but no bound meets it yet: give more time or a larger gap."
    INFEASIBLE = "Proven: no input satisfies the constraints. Drop or loosen one of them."
    BOUND_ONLY = "A bound is proven but no input was found: give more time, or loosen the constraints."
    UNKNOWN = "Neither an input nor a bound was found: give more time, and bound the input if it is unbounded."


class Proof(enum.Enum):
    """What a proven bound rests on. A solver's own claim is not among them."""

    INTERVAL = "interval arithmetic through the network"
    LINEAR_RELAXATION = "a linear relaxation of the network, evaluated from its multipliers"
    TREE = "a search tree whose leaves are closed by linear relaxations or by multipliers of convex programs"
    GEOMETRY = "the input region and the objective alone"


class Certificate(Protocol):
    """A proof that ``clinch check`` reads and has accepted: :class:`clinch.certificates.SavedProof`."""

    def save(self, path: str | Path) -> Path:
        """Write ``path`` and, beside it, the network's layer list, whose path is returned."""
        ...


class Event(NamedTuple):
    """One improvement: after so many seconds and queries, the values and bounds, and who brought it.

    The ledger's events hold tensors ``(B,)`` in the query's minimising sense, a solution's history the user's sense;
    there a problem without batch axis has floats.
    """

    seconds: float
    queries: int
    value: Tensor | float
    bound: Tensor | float
    who: str


def relative_gap(value: Tensor, bound: Tensor) -> Tensor:
    """``|value − bound| / max(|value|, 1e-12)``: the one definition of the gap.

    It is 0 where ``|value − bound| <= ABSOLUTE_GAP`` and infinity where either is not finite. A problem is closed where
    the gap is at most the one asked for, or where infeasibility is proven.

    Args:
        value: shape ``(B,)``.
        bound: shape ``(B,)``.
    """
    apart = (value - bound).abs()
    gap = torch.where(apart <= ABSOLUTE_GAP, torch.zeros_like(apart), apart / value.abs().clamp(min=1e-12))
    return torch.where(value.isfinite() & bound.isfinite(), gap, torch.inf)


def status_of(value: float, bound: float, gap: float) -> Status:
    """The status of one problem in the minimising sense, for the relative gap that was asked for."""
    if math.isfinite(value):
        apart = float(relative_gap(*torch.tensor([[value], [bound]], dtype=torch.float64)))
        return Status.OPTIMAL if apart <= gap else Status.FEASIBLE
    if bound == math.inf:
        return Status.INFEASIBLE
    return Status.BOUND_ONLY if math.isfinite(bound) else Status.UNKNOWN


def installed_versions() -> dict[str, str]:
    """Versions of what the numbers depend on; packages that are not installed are left out."""
    return dict(_installed_versions())


@cache
def _installed_versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "clinch": VERSION}
    for package in ("torch", "numpy", "highspy", "pyscipopt", "gurobipy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """The best input, a proof of how much better any other could be, and how both were found.

    For a batch every field below marked * has a leading B; for a problem without batch axis it has none. Numbers are in
    the user's sense: for ``Maximize`` the bound lies above the value.

    Attributes:
        status: * how it ended.
        x: * best input, shape ``input_shape``, in the model's dtype, checked by the user's own model; NaN where none.
        value: * its objective; infinity (minus infinity for ``Maximize``) where there is no input.
        bound: * proven: no input does better.
        gap: * see :func:`relative_gap`.
        proof: * what the bound rests on; None where no bound is proven.
        tight: * texts of the conditions that hold the value where it is: the alternative through which the input
            satisfies a disjunction, and other conditions without slack.
        history: every improvement of value or bound.
        seconds: time spent.
        queries: inputs that engines offered and the user's own model evaluated.
        bounds: * limits of layers' activations, by layer name, for the layers that ``solve(bounds=[...])`` named:
            proven for every input of the region whose objective is no worse than the value (for distances the
            value's ball; for other objectives the whole region), before any other constraint.
        notes: what happened on the way that the user should know, one sentence each.
        versions: of Python and the packages that the numbers depend on.
        certificate: * the bound's proof as ``clinch check`` reads it, which the checker has accepted, for
            ``solve(certificate=True)``; save it with its ``save(path)``. None where there is none: the notes say why.
        batched: whether the fields marked * have a leading B.
        solver: the engine that was named; None: all together.
        settings: of that engine, or of the portfolio, see :mod:`clinch.solver.settings`; None where an application
            worked on its own plan.
        start: * the input that distances are measured from; None for other objectives.
        variables: * best values of the variables of a problem that states some; ``solution[d]`` is that of one.
    """

    status: Status | list[Status]
    x: Tensor
    value: Tensor | float
    bound: Tensor | float
    gap: Tensor | float
    proof: Proof | list[Proof | None] | None
    tight: tuple[str, ...] | list[tuple[str, ...]]
    history: list[Event]
    seconds: float
    queries: int
    bounds: Mapping[str, Interval] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=installed_versions)
    batched: bool = False
    certificate: Certificate | list[Certificate | None] | None = None
    solver: str | None = None
    settings: Settings | None = None
    variables: Mapping[Any, Tensor] = field(default_factory=dict)
    start: Tensor | None = None

    def __getitem__(self, variable: Any) -> Tensor:
        """The best value of a variable, in the model's dtype; NaN where there is none.

        Raises:
            ProblemError: the problem has no such variable.
        """
        root = getattr(variable, "root", None)
        if root not in self.variables:
            names = ", ".join(root.name for root in self.variables) or "none; its input is solution.x"
            raise ProblemError(f"The problem has no such variable. It has: {names}.")
        return self.variables[root]

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON; infinities and NaN become null, of a certificate it says whether there is
        one."""
        statuses = self.status if isinstance(self.status, list) else [self.status]
        proofs = self.proof if isinstance(self.proof, list) else [self.proof]
        names = [status.name for status in statuses]
        kinds = [None if proof is None else proof.name for proof in proofs]
        certified = self.certificate if isinstance(self.certificate, list) else [self.certificate] * len(names)
        has = [proof is not None for proof in certified]
        return {
            "certificate": has if self.batched else has[0],
            "status": names if self.batched else names[0],
            "x": _json(self.x),
            "start": None if self.start is None else _json(self.start),
            "value": _json(self.value),
            "bound": _json(self.bound),
            "gap": _json(self.gap),
            "proof": kinds if self.batched else kinds[0],
            "tight": [list(row) for row in self.tight] if self.batched else list(self.tight),
            "history": [
                {name: _json(getattr(event, name)) for name in ("seconds", "queries", "value", "bound", "who")}
                for event in self.history
            ],
            "seconds": self.seconds,
            "queries": self.queries,
            "bounds": {name: {"lower": _json(i.lower), "upper": _json(i.upper)} for name, i in self.bounds.items()},
            "notes": list(self.notes),
            "versions": dict(self.versions),
            "batched": self.batched,
            "solver": self.solver,
            "settings": None if self.settings is None else self.settings.to_dict(),
            "variables": {root.name: _json(value) for root, value in self.variables.items()},
        }

    def __str__(self) -> str:
        return self._table() if self.batched else self._lines()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the lines, and of one problem the input and the gap over time."""
        if self.batched:
            return html.lines(str(self))
        pictures = []
        if self.start is not None:
            changed = self.x.double() - self.start.double()
            pictures = [html.picture(self.start, "x₀"), html.picture(changed, "x − x₀", signed=True)]
        pictures.insert(1, html.picture(self.x, "x"))
        course = [(event.seconds, float(event.value), float(event.bound)) for event in self.history]
        return html.lines(str(self)) + "".join(pictures) + html.gap_chart(course)

    def plot(self, x0: Tensor | None = None, **options: Any) -> Any:
        """The input, its difference to another one and the gap over time, as a matplotlib figure.

        Args:
            x0: the other input; None: that from which distances are measured.
            options: of :func:`clinch.figures.solution_figure`.

        Raises:
            ProblemError: there is no other input. MissingPackage: matplotlib is not installed.
        """
        x0 = self.start if x0 is None else x0
        if x0 is None:
            raise ProblemError("The objective is no distance. Name the input to compare with: solution.plot(x0).")
        # by name: figures read this module
        return import_module("clinch.figures").solution_figure(x0, self, **options)

    def _lines(self) -> str:
        """Six lines for one problem."""
        assert isinstance(self.status, Status) and isinstance(self.proof, Proof | None)
        rests = f"   ({self.proof.value})" if self.proof is not None else ""
        rows = [
            ("status", f"{self.status.name}. {self.status.value}"),
            ("value", f"{_number(self.value)}"),
            ("bound", f"{_number(self.bound)}{rests}"),
            ("gap", _percent(float(self.gap))),
            ("time", f"{self.seconds:.2f} s, {self.queries} points checked"),
            ("tight", "; ".join(str(text) for text in self.tight) or "no condition besides the region"),
        ]
        return "\n".join(f"{name:<8}{text}" for name, text in [*rows, *(("note", note) for note in self._notes())])

    def _table(self) -> str:
        """A header and one line per problem."""
        assert isinstance(self.status, list)
        value, bound, gap = (
            torch.as_tensor(t, dtype=torch.float64).tolist() for t in (self.value, self.bound, self.gap)
        )
        counts = ", ".join(f"{self.status.count(s)} {s.name}" for s in Status if s in self.status)
        lines = [f"{len(self.status)} problems: {counts}; {self.seconds:.2f} s, {self.queries} points checked"]
        lines.append(f"{'':>4}  {'status':<10}  {'value':>12}  {'bound':>12}  {'gap':>9}  tight")
        for b, status in enumerate(self.status[:PRINTED]):
            tight = "; ".join(self.tight[b][:1])
            numbers = f"{_number(value[b]):>12}  {_number(bound[b]):>12}  {_percent(gap[b]):>9}"
            lines.append(f"{b:>4}  {status.name:<10}  {numbers}  {tight}".rstrip())
        if len(self.status) > PRINTED:
            lines.append(f"      and {len(self.status) - PRINTED} more")
        return "\n".join([*lines, *(f"note  {note}" for note in self._notes())])

    def _notes(self) -> list[str]:
        """Each in one line: they may quote names of a file's author."""
        return [printable(note, lines=False) for note in self.notes]


def _number(value: Tensor | float) -> str:
    number = float(value)
    return f"{number:.8g}" if math.isfinite(number) else "none"


def _percent(gap: float) -> str:
    return f"{100 * gap:.3g} %" if math.isfinite(gap) else "open"


def _json(value: Any) -> Any:
    """Plain lists and numbers; what JSON has no word for becomes None."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
