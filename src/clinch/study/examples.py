"""Single images of a run with their originals, for galleries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clinch.io.data import DataError
from clinch.study.evaluation import Evaluation
from clinch.study.runs import Run
from clinch.study.store import Row
from clinch.study.template import ATTACKED, CLOSED, OPEN, ROBUST


def hardest(evaluation: Evaluation, count: int) -> list[Row]:
    """The images whose answers are easiest to change.

    Distances: those with the nearest inputs found. At a radius: attacked before open images, each with the lowest
    margins first; an attack within a radius does not look for the nearest input. Images that are misclassified as they
    are or that failed are left out.

    Args:
        evaluation: of either kind.
        count: at most so many.
    """
    rows = [row for row in evaluation.rows if row.status in (ATTACKED, CLOSED, OPEN)]
    if evaluation.template.eps is None:
        rows.sort(key=lambda row: (math.inf if row.value is None else row.value, row.image))
    else:
        rows.sort(key=lambda row: (row.status != ATTACKED, math.inf if row.margin is None else row.margin, row.image))
    return rows[:count]


def easiest(evaluation: Evaluation, count: int) -> list[Row]:
    """The images about which most is proven: the largest margins at the radius, or the largest proven distances.

    Args:
        evaluation: of either kind.
        count: at most so many.
    """
    if evaluation.template.eps is not None:
        rows = [row for row in evaluation.rows if row.status == ROBUST]
        rows.sort(key=lambda row: (-math.inf if row.margin is None else row.margin, -row.image), reverse=True)
    else:
        rows = [row for row in evaluation.rows if row.status in (OPEN, CLOSED) and row.bound]
        rows.sort(key=lambda row: (row.bound, -row.image), reverse=True)
    return rows[:count]


@dataclass(frozen=True)
class Example:
    """One image of a run.

    Attributes:
        row: what is known about it.
        original: float64, the model's input shape; None where the data is not there.
        found: the input found, the same shape; None where none was found.
    """

    row: Row
    original: np.ndarray | None
    found: np.ndarray | None


@dataclass(frozen=True)
class Examples:
    """The ends of a run.

    Attributes:
        hardest: see :func:`clinch.study.examples.hardest`.
        easiest: see :func:`clinch.study.examples.easiest`.
        complaint: why there are no originals, one sentence; empty where they are there.
        available: number of images that the data has; None where it is not there.
    """

    hardest: tuple[Example, ...]
    easiest: tuple[Example, ...]
    complaint: str = ""
    available: int | None = None


def examples_of(run: Run, hard: int, easy: int = 0, data: Any = None) -> Examples:
    """The hardest and easiest images of a run, with their originals read again from the data.

    Args:
        run: of :func:`clinch.study.open_run`.
        hard: how many of the hardest at most; easy: of the easiest.
        data: see :meth:`clinch.study.Run.source`, whose hash guards it.
    """
    rows = [hardest(run, hard), easiest(run, easy)]
    places = [row.image for group in rows for row in group]
    inputs = [None if x is None else x.double().numpy() for x in run.inputs(places)]
    originals, complaint, available = _originals(run, places, data)
    examples = [Example(*one) for one in zip(rows[0] + rows[1], originals, inputs)]
    return Examples(tuple(examples[: len(rows[0])]), tuple(examples[len(rows[0]) :]), complaint, available)


def _originals(run: Run, places: Sequence[int], data: Any) -> tuple[Sequence[np.ndarray | None], str, int | None]:
    """The images at these places as the network takes them; without the data the reason."""
    nothing = [None] * len(places)
    try:
        source = run.source(data)
    except DataError as error:
        if data is not None:  # asked for by name
            raise
        return nothing, f"The original images are not shown: {error}", None
    if places and max(places) >= source.size:
        return nothing, f"The original images are not shown: {source.name} has only {source.size} images.", source.size
    batch = source.read(places, run.input_shape, run.dtype)
    images = [x.double().numpy() if error is None else None for x, error in zip(batch.x, batch.errors)]
    return images, "", source.size
