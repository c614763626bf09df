"""What a study says about a data set: an interval of robust accuracy, distances with bounds, per class and radius."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.io.files import printable
from clinch.runtime import html
from clinch.runtime.optional import required
from clinch.solver.solution import installed_versions
from clinch.study.measures import DistanceIntervals, rho2
from clinch.study.store import COLUMNS, Row
from clinch.study.template import ATTACKED, CLOSED, FAILED, MISCLASSIFIED, OPEN, ROBUST, STATUSES, Template

#: most points of a curve whose radii were not named
POINTS = 256


class Tally(NamedTuple):
    """Where a study stands.

    Attributes:
        images: number of images that were asked for.
        counts: rows of each status.
        seconds: since this process began with it.
        done: rows that this process added or improved.
        remaining: seconds left; infinity without a limit.
        phase: what is being done.
    """

    images: int
    counts: Mapping[str, int]
    seconds: float = 0.0
    done: int = 0
    remaining: float = math.inf
    phase: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """``[proven robust, not attacked]`` as shares of all images; an image without an answer is in the upper end."""
        lost = self.counts.get(MISCLASSIFIED, 0) + self.counts.get(ATTACKED, 0)
        return self.counts.get(ROBUST, 0) / self.images, (self.images - lost) / self.images

    @property
    def answered(self) -> int:
        """Images that have a final answer."""
        return sum(self.counts.get(status, 0) for status in (MISCLASSIFIED, ATTACKED, ROBUST, CLOSED))

    @property
    def seen(self) -> int:
        """Images that have a row."""
        return sum(self.counts.values())


class Curve(NamedTuple):
    """Shares at radii, each between two ends that are proven.

    Attributes:
        radii: ``(R,)`` float64, in the units of the data.
        low: ``(R,)`` lower ends; high: upper ends.
    """

    radii: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Evaluation:
    """What is known about every image of a data set.

    Attributes:
        template: what was asked.
        model: name of the network; data: name of the data.
        tally: how many images ended how.
        rows: one :class:`Row` per image that was looked at, in the order of the data, without the inputs.
        notes: what happened on the way that the user should know, one sentence each.
        versions: of Python and the packages that the numbers depend on.
        settings: of the search, as they were last, by name; see :class:`clinch.solver.settings.Portfolio`.
    """

    template: Template
    model: str
    data: str
    tally: Tally
    rows: tuple[Row, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=installed_versions, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def interval(self) -> tuple[float, float]:
        """Robust accuracy at the template's radius: ``(proven robust, not attacked)``.

        Raises:
            ProblemError: minimum distances were asked for; see :meth:`certified`.
        """
        if self.template.eps is None:
            raise ProblemError("A study of distances has no radius. Name one: evaluation.certified(0.1).")
        return self.tally.interval

    @cached_property
    def known(self) -> DistanceIntervals:
        """Of every image an interval that holds its distance; an image without a row, or that failed, has [0, ∞)."""
        value, bound, beyond = [], [], []
        for row in self.rows:
            robust = row.status == ROBUST
            nearest = math.inf if row.value is None or row.status == FAILED else row.value
            # the check of an attack allows for the rounding of its distance
            nearest = min(nearest, self.template.eps or 0.0) if row.status == ATTACKED else nearest
            value.append(0.0 if row.status == MISCLASSIFIED else nearest)
            bound.append(row.bound or 0.0)
            beyond.append(robust)
        return DistanceIntervals(
            torch.tensor(value, dtype=torch.float64),
            torch.tensor(bound, dtype=torch.float64),
            torch.tensor(beyond, dtype=torch.bool),
            self.tally.images - len(self.rows),
        )

    def certified(self, eps: float) -> tuple[float, float]:
        """Robust accuracy at any radius as ``(proven, not refuted)``, from the distances and bounds of all images.

        Example:
            >>> [evaluation.certified(eps) for eps in (0.1, 1.0)]
            [(1.0, 1.0), (0.0, 0.0)]
        """
        low, high = self.known.robust(_radii(eps))
        return float(low), float(high)

    def curve(self, radii: Sequence[float] | Tensor | None = None) -> Curve:
        """The certified accuracy curve: robust accuracy ``#{d > r}/#images`` at radii, ``[proven, not refuted]``.

        Args:
            radii: None: every distance and bound at which the shares change, thinned out evenly to :data:`POINTS`.

        Raises:
            ProblemError: a radius below zero.

        Example:
            >>> radii, proven, not_refuted = evaluation.curve()
        """
        at = self.jumps() if radii is None else _radii(radii)
        return Curve(at, *self.known.robust(at))

    def fooling_ratio(self, eps: float | None = None) -> tuple[float, float]:
        """The share of the correctly classified images with another class within a radius, ``(attacked, not proven)``.

        Args:
            eps: None: the template's.

        Raises:
            ProblemError: no radius is named, or no image is classified correctly.
        """
        if eps is None and (eps := self.template.eps) is None:
            raise ProblemError("A study of distances has no radius. Name one: evaluation.fooling_ratio(0.1).")
        low, high = self.known.fooled(_radii(eps))
        return float(low), float(high)

    def fooling_curve(self, radii: Sequence[float] | Tensor | None = None) -> Curve:
        """:meth:`fooling_ratio` at every radius, ``[attacked share, not proven share]``; radii as in :meth:`curve`."""
        at = self.jumps() if radii is None else _radii(radii)
        return Curve(at, *self.known.fooled(at))

    def jumps(self) -> Tensor:
        """The radii of the curves: at most :data:`POINTS` of those at which shares change, first and last included."""
        at = self.known.jumps()
        return at[torch.linspace(0, len(at) - 1, POINTS).round().long()] if len(at) > POINTS else at

    def rho1(self) -> tuple[float, float]:
        """``ρ̂₁ = mean d/‖x‖_p`` over the correctly classified images, ``(proven, found)`` (Balda et al. 2018, arXiv
        1803.03607, section II).

        The paper has the distances that DeepFool finds, and leaves out where it finds none; here both ends are over all
        images, so that the true mean lies between them: the upper one is infinite where an image has no input found.
        """
        size = [1.0 if row.size is None else row.size for row in self.rows]
        return self.known.rho1(torch.tensor(size, dtype=torch.float64))

    def rho2(self) -> float | None:
        """``ρ̂₂``, the mean first-order radius of the correctly classified images that were looked at; an estimate, None
        where there is none (:func:`clinch.study.rho2`)."""
        radii = torch.tensor([row.first_order or 0.0 for row in self.rows], dtype=torch.float64)
        return rho2(radii) if bool((radii > 0).any()) else None

    def eps_99(self, share: float = 0.99) -> tuple[float, float]:
        """The smallest radius at which more than 99% of the correctly classified images are fooled, ``(proven,
        found)``; infinite where no inputs are known that fool so many (Balda et al. 2018, arXiv 1803.03607,
        table I)."""
        return self.known.eps(share)

    def accuracy(self) -> tuple[float, float]:
        """The share of images that are classified correctly as they are; images without an answer widen it."""
        wrong = self.tally.counts.get(MISCLASSIFIED, 0)
        unknown = self.tally.images - self.tally.seen + self.tally.counts.get(FAILED, 0)
        return (self.tally.images - wrong - unknown) / self.tally.images, (
            self.tally.images - wrong
        ) / self.tally.images

    def measures(self) -> dict[str, Any]:
        """Every measure by name, intervals as pairs; those about correctly classified images are None without any."""
        some = self.known.any_correct
        radius: dict[str, Any] = {}
        if self.template.eps is not None:
            radius = {"robust": self.interval, "fooling_ratio": self.fooling_ratio() if some else None}
        return {
            "accuracy": self.accuracy(), **radius, "rho1": self.rho1() if some else None, "rho2": self.rho2(),
            "eps_99": self.eps_99() if some else None,
        }  # fmt: skip

    def classes(self, most: int | None = None) -> dict[int, Evaluation]:
        """The same study of the images of each label, with all its measures; of the lowest labels, at most so many.

        An image whose label is not known, because it was not looked at or could not be read, may be of any class: it
        counts in each as an image without an answer.
        """
        by_label: dict[int, list[Row]] = {}
        for row in self.rows:
            if row.label is not None:
                by_label.setdefault(row.label, []).append(row)
        unknown = self.tally.images - sum(map(len, by_label.values()))
        found = {}
        for label in sorted(by_label)[:most]:
            rows = tuple(by_label[label])
            tally = Tally(len(rows) + unknown, dict(sorted(Counter(row.status for row in rows).items())))
            found[label] = replace(self, tally=tally, rows=rows, notes=())
        return found

    def per_class(self) -> dict[int, Tally]:
        """The tally of each label; see :meth:`classes`."""
        return {label: found.tally for label, found in self.classes().items()}

    def distances(self) -> dict[str, float]:
        """Means and medians over the images that are classified correctly, of distances found and of bounds.

        Both are over the images that have a distance and a bound; ``count`` says how many those are.
        """
        pairs = [
            (row.value, row.bound) for row in self.rows
            if row.status in (OPEN, CLOSED) and row.value is not None and row.bound is not None
        ]  # fmt: skip
        if not pairs:
            return {"count": 0}
        numbers = torch.tensor(pairs, dtype=torch.float64)
        mean, median = numbers.mean(0).tolist(), numbers.quantile(0.5, dim=0).tolist()
        gap = ((numbers[:, 0] - numbers[:, 1]) / numbers[:, 0].clamp(min=1e-12)).mean()
        return {
            "count": len(pairs), "mean_value": mean[0], "mean_bound": mean[1], "median_value": median[0],
            "median_bound": median[1], "mean_gap": float(gap),
        }  # fmt: skip

    def to_frame(self) -> Any:
        """A pandas data frame with a line per image and the columns of :class:`Row` (extra ``frames``).

        Raises:
            MissingPackage: pandas is not installed.
        """
        rows = [row[: len(COLUMNS)] for row in self.rows]
        return required("pandas", "frames").DataFrame(rows, columns=list(COLUMNS)).set_index("image")

    def plot(self) -> Any:
        """The curve of robust accuracy over the radius as a matplotlib figure (extra ``report``)."""
        # by name: figures read this module
        return import_module("clinch.study.figures").certified_figure(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        headline: dict[str, Any] = {"distances": self.distances()}
        if self.template.eps is not None:
            low, high = self.interval
            headline = {"interval": [low, high], "width": high - low}
        return {
            "problem": self.template.text, "norm": self.template.norm, "eps": self.template.eps,
            "model": self.model, "data": self.data, "images": self.tally.images, "counts": dict(self.tally.counts),
            **headline, "measures": self.measures(),
            "curve": {name: end.tolist() for name, end in self.curve()._asdict().items()},
            "per_class": {
                y: {"images": part.tally.images, "counts": dict(part.tally.counts), **part.measures()}
                for y, part in self.classes().items()
            },
            "seconds": self.tally.seconds, "notes": list(self.notes), "versions": dict(self.versions),
            "settings": dict(self.settings),
            "rows": [{name: getattr(row, name) for name in COLUMNS} for row in self.rows],
        }  # fmt: skip

    def _repr_html_(self) -> str:
        """What a notebook shows: the lines, and how many images ended how."""
        return html.lines(str(self)) + html.table(sorted(self.tally.counts.items()), ("status", "images"))

    def __str__(self) -> str:
        # names of files and errors of engines are their author's choice
        one = partial(printable, lines=False)
        counts = ", ".join(f"{self.tally.counts[s]} {s}" for s in STATUSES if self.tally.counts.get(s))
        missing = self.tally.images - self.tally.seen
        lines = [
            f"problem  {self.template.text}",
            f"model    {one(self.model)} on {one(self.data)}, {self.tally.images} images",
            f"images   {counts or 'none'}" + (f", {missing} not looked at" if missing else ""),
        ]
        if self.template.eps is None:
            lines += _distance_lines(self.distances())
        else:
            low, high = self.interval
            lines.append(
                f"robust   {100 * low:.2f} % proven, {100 * high:.2f} % not attacked: width {100 * (high - low):.2f}"
            )
        lines += _measure_lines(self.measures())
        lines.append(f"time     {self.tally.seconds:.1f} s")
        return "\n".join([*lines, *(f"note     {one(note)}" for note in self.notes)])


def _radii(radii: Sequence[float] | Tensor | float) -> Tensor:
    return torch.as_tensor(radii, dtype=torch.float64)


def _measure_lines(found: Mapping[str, Any]) -> list[str]:
    """One line for the measures about the images that are classified correctly."""
    lines = []
    if found.get("fooling_ratio") is not None:
        low, high = found["fooling_ratio"]
        lines.append(f"fooled   {100 * low:.2f} % to {100 * high:.2f} % of the images that are classified correctly")
    parts = [
        f"{name} {span(found[key])}" for name, key in (("rho1", "rho1"), ("eps 99 %", "eps_99"))
        if found[key] is not None
    ]  # fmt: skip
    if found["rho2"] is not None:
        parts.insert(1, f"rho2 {found['rho2']:.4g} (first order)")
    return [*lines, f"measures {', '.join(parts)}"] if parts else lines


def span(ends: tuple[float, float]) -> str:
    """An interval as text: ``0.031 to 0.034``, ``at least 0.02`` where it has no upper end."""
    low, high = ends
    if math.isinf(low):
        return "infinite"
    return f"at least {low:.4g}" if math.isinf(high) else f"{low:.4g} to {high:.4g}"


def _distance_lines(found: Mapping[str, float]) -> list[str]:
    if not found["count"]:
        return ["distance none with a bound yet"]
    return [
        f"distance mean {found['mean_value']:.5g}, proven at least {found['mean_bound']:.5g}; median "
        f"{found['median_value']:.5g}, proven {found['median_bound']:.5g} ({found['count']} images)"
    ]
