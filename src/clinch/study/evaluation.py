"""What a study says about a data set: an interval of robust accuracy, distances with bounds, per class and radius."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from clinch.errors import ProblemError
from clinch.solution import installed_versions
from clinch.study.store import COLUMNS, Row
from clinch.study.template import ATTACKED, CLOSED, MISCLASSIFIED, OPEN, ROBUST, STATUSES, Template


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
    """

    template: Template
    model: str
    data: str
    tally: Tally
    rows: tuple[Row, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=installed_versions, repr=False)

    @property
    def interval(self) -> tuple[float, float]:
        """Robust accuracy at the template's radius: ``(proven robust, not attacked)``.

        Raises:
            ProblemError: minimum distances were asked for; see :meth:`certified`.
        """
        if self.template.eps is None:
            raise ProblemError("A study of distances has no radius. Name one: evaluation.certified(0.1).")
        return self.tally.interval

    def certified(self, eps: float) -> tuple[float, float]:
        """Robust accuracy at any radius as ``(proven, not refuted)``, from the distances and bounds of all images.

        Example:
            >>> [evaluation.certified(eps) for eps in (0.01, 0.02, 0.05)]
        """
        proven = sum(row.bound is not None and row.bound >= eps and self._beyond(row, eps) for row in self.rows)
        refuted = sum(row.value is not None and row.value <= eps for row in self.rows)
        return proven / self.tally.images, 1 - refuted / self.tally.images

    def _beyond(self, row: Row, eps: float) -> bool:
        """Whether a bound that is at least eps says that nothing is misclassified at eps itself."""
        assert row.bound is not None
        return row.status == ROBUST or row.bound > eps

    def per_class(self) -> dict[int, Tally]:
        """The tally of each label."""
        labels = sorted({row.label for row in self.rows if row.label is not None})
        groups = {label: [row.status for row in self.rows if row.label == label] for label in labels}
        return {y: Tally(len(found), {s: found.count(s) for s in sorted(set(found))}) for y, found in groups.items()}

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

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        headline: dict[str, Any] = {"distances": self.distances()}
        if self.template.eps is not None:
            low, high = self.interval
            headline = {"interval": [low, high], "width": high - low}
        return {
            "problem": self.template.text, "norm": self.template.norm, "eps": self.template.eps,
            "model": self.model, "data": self.data, "images": self.tally.images, "counts": dict(self.tally.counts),
            **headline,
            "per_class": {y: dict(tally.counts) for y, tally in self.per_class().items()},
            "seconds": self.tally.seconds, "notes": list(self.notes), "versions": dict(self.versions),
            "rows": [{name: getattr(row, name) for name in COLUMNS} for row in self.rows],
        }  # fmt: skip

    def __str__(self) -> str:
        counts = ", ".join(f"{self.tally.counts[s]} {s}" for s in STATUSES if self.tally.counts.get(s))
        missing = self.tally.images - self.tally.seen
        lines = [
            f"problem  {self.template.text}",
            f"model    {self.model} on {self.data}, {self.tally.images} images",
            f"images   {counts or 'none'}" + (f", {missing} not looked at" if missing else ""),
        ]
        if self.template.eps is None:
            lines += _distance_lines(self.distances())
        else:
            low, high = self.interval
            lines.append(
                f"robust   {100 * low:.2f} % proven, {100 * high:.2f} % not attacked: width {100 * (high - low):.2f}"
            )
        lines.append(f"time     {self.tally.seconds:.1f} s")
        return "\n".join([*lines, *(f"note     {note}" for note in self.notes)])


def _distance_lines(found: Mapping[str, float]) -> list[str]:
    if not found["count"]:
        return ["distance none with a bound yet"]
    return [
        f"distance mean {found['mean_value']:.5g}, proven at least {found['mean_bound']:.5g}; median "
        f"{found['median_value']:.5g}, proven {found['median_bound']:.5g} ({found['count']} images)"
    ]
