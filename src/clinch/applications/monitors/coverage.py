"""How far is each class from tripping a monitor, and how far from slipping past it: a table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.applications.arguments import Loadable, labels_of, norm_among
from clinch.applications.monitors.arguments import opened
from clinch.applications.monitors.joined import Monitor
from clinch.applications.monitors.nearest import Nearest, nearest_missed, nearest_objection
from clinch.errors import ProblemError
from clinch.geometry.norms import NORMS
from clinch.network.activations import predicted
from clinch.runtime.arguments import as_gap, as_seconds


@dataclass(frozen=True)
class Interval:
    """A number known to lie within ``[bound, value]``; both infinite where there is nothing."""

    bound: float
    value: float

    def __str__(self) -> str:
        if math.isinf(self.bound):
            return "none"
        return f"{self.bound:.3f} … " + (f"{self.value:.3f}" if math.isfinite(self.value) else "?")


@dataclass(frozen=True)
class Row:
    """One class, or all of them.

    Attributes:
        name: the class, or "all".
        images: how many inputs of it were looked at.
        accepted: how many of them the monitor accepts as they are.
        alarm: median and smallest distance to an input of the same class to which the monitor objects, over the
            accepted inputs; None where there are none, or nobody asked.
        missed: median and smallest distance to an input of another class that the monitor accepts, over all inputs.
        closed: share of the distances whose value and bound have met.
    """

    name: str
    images: int
    accepted: int
    alarm: tuple[Interval, Interval] | None
    missed: tuple[Interval, Interval] | None
    closed: float


@dataclass(frozen=True, eq=False, repr=False)
class Coverage:
    """What :func:`coverage` found; printed as a table.

    Attributes:
        rows: one per class that occurs, and one for all.
        alarm, missed: the distances of every input, or None where nobody asked.
        labels: ``(B,)`` classes of the inputs; accepted: ``(B,)`` whether the monitor accepts them as they are.
        norm: of the distances.
    """

    rows: tuple[Row, ...]
    alarm: Nearest | None
    missed: Nearest | None
    labels: Tensor
    accepted: Tensor
    norm: float

    @property
    def header(self) -> list[str]:
        """Titles of the columns."""
        alarm = ["false alarm: median", "nearest"] if self.alarm is not None else []
        missed = ["missed: median", "nearest"] if self.missed is not None else []
        return ["class", "images", "accepted", *alarm, *missed, "closed"]

    def cells(self, row: Row) -> list[str]:
        """One row as texts."""
        cells = [row.name, str(row.images), f"{row.accepted / row.images:.0%}"]
        for asked, pair in ((self.alarm, row.alarm), (self.missed, row.missed)):
            if asked is not None:
                cells += ["–", "–"] if pair is None else [str(part) for part in pair]
        return [*cells, f"{row.closed:.0%}"]

    def markdown(self) -> str:
        """The table in Markdown; an entry ``a … b`` says that the number lies between a, proven, and b, found."""
        rows = [self.header, ["---"] * len(self.header), *(self.cells(row) for row in self.rows)]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    def __str__(self) -> str:
        rows = [self.header, *(self.cells(row) for row in self.rows)]
        width = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        return "\n".join("  ".join(f"{cell:>{w}}" for cell, w in zip(row, width)) for row in rows)

    __repr__ = __str__


def coverage(
    network: Loadable,
    monitor: Monitor,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    alarms: bool = True,
    misses: bool = True,
    norm: float = 2,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    time_limit: float | None = 60.0,
    gap: float = 1e-2,
    seed: int = 0,
) -> Coverage:
    """Measure, for each class, how many inputs a monitor accepts and how far they are from either kind of error.

    Medians and minima are intervals: the median of the bounds is not above that of the true distances, and that not
    above the median of the values.

    Args:
        network: what ``clinch.load`` returned, or takes.
        monitor: what watches it.
        x: ``(B, *input_shape)``.
        labels: ``(B,)`` true classes, by which rows are sorted and misses counted; None: those the network gives.
        alarms: whether to look for :func:`nearest_objection`, for the inputs that are accepted as they are,
        misses: and for :func:`nearest_missed`.
        norm, bounds, gap, seed: see :func:`nearest_objection`.
        time_limit: seconds for everything, half of it for either kind of error, spread evenly over the inputs.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any work.

    Example:
        >>> from clinch.applications.monitors import fit_monitor
        >>> found = coverage(net, fit_monitor(net, "relu2", x_train), x_test[:1], misses=False)
        >>> bool((found.alarm.bound <= found.alarm.value).all())
        True
    """
    if not alarms and not misses:
        raise ProblemError("Neither alarms nor misses are asked for. Leave one of them True.")
    network, x = opened(network, monitor, x, bounds)
    classes = predicted(network, x)
    group = classes if labels is None else labels_of(network, labels, len(x), "labels")
    settings = {"norm": norm_among(norm, NORMS), "bounds": bounds, "gap": as_gap(gap), "seed": seed}
    seconds, missed = as_seconds(time_limit), None
    if misses:
        missed = nearest_missed(network, monitor, x, group, time_limit=seconds * (0.5 if alarms else 1.0), **settings)
    accepted = monitor.score(network, x, classes) <= 0
    rows, alarm = accepted.nonzero().flatten(), None
    if alarms and len(rows):
        left = seconds * (0.5 if misses else 1.0)
        alarm = _spread(nearest_objection(network, monitor, x[rows], time_limit=left, **settings), rows, x)
    names = [(str(c), group == c) for c in group.unique().tolist()] + [("all", torch.ones_like(accepted))]
    table = tuple(_row(name, which, accepted, alarm, missed, gap) for name, which in names)
    return Coverage(table, alarm, missed, group, accepted, settings["norm"])


def _spread(found: Nearest, rows: Tensor, x: Tensor) -> Nearest:
    """The same for all inputs: NaN, infinity, minus infinity and −1 where nobody asked."""
    blank = torch.full_like(x, torch.nan, device="cpu").to(found.x)
    numbers = torch.full((len(x),), torch.inf, dtype=torch.float64)
    classes = torch.full((len(x),), -1)
    return Nearest(
        blank.index_copy(0, rows, found.x),
        numbers.index_copy(0, rows, found.value),
        (-numbers).index_copy(0, rows, found.bound),
        classes.index_copy(0, rows, found.start),
        classes.index_copy(0, rows, found.end),
        found.seconds,
        found.notes,
    )


def _row(name: str, which: Tensor, accepted: Tensor, alarm: Nearest | None, missed: Nearest | None, gap: float) -> Row:
    asked = [(found, rows) for found, rows in ((alarm, which & accepted), (missed, which)) if found is not None]
    closed = (
        torch.cat([(found.bound >= (1 - gap) * found.value)[rows] for found, rows in asked]) if asked else which[:0]
    )
    return Row(
        name,
        int(which.sum()),
        int((which & accepted).sum()),
        _summary(alarm, which & accepted),
        _summary(missed, which),
        float(closed.double().mean()) if len(closed) else 1.0,
    )


def _summary(found: Nearest | None, which: Tensor) -> tuple[Interval, Interval] | None:
    """Median and minimum over the chosen inputs."""
    if found is None or not bool(which.any()):
        return None
    bound, value = found.bound[which], found.value[which]
    # the lower of two middle ones for both ends: order statistics keep the order of bound, distance and value
    median = Interval(float(bound.median()), float(value.median()))
    return median, Interval(float(bound.min()), float(value.min()))
