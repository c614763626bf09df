"""Which images of a study are the hardest and the easiest."""

from __future__ import annotations

import math

from clinch.study.evaluation import Evaluation
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
