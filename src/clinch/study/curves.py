"""Robust accuracy at every radius as an interval, and which images are the hardest and the easiest."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.study.evaluation import Evaluation
from clinch.study.store import Row
from clinch.study.template import ATTACKED, CLOSED, OPEN, ROBUST

#: radii of a curve, unless others are asked for
POINTS = 241


class Curve(NamedTuple):
    """Robust accuracy against the radius: the truth lies between the two.

    Attributes:
        radii: ``(R,)`` in the units of the data, rising.
        proven: ``(R,)`` share of all images that are proven robust at each radius.
        not_attacked: ``(R,)`` share of all images that are not refuted at each radius.
    """

    radii: Tensor
    proven: Tensor
    not_attacked: Tensor


def certified_curve(evaluation: Evaluation, radii: Tensor | None = None) -> Curve:
    """:meth:`Evaluation.certified` at many radii: ``[#{b_i > r}, N − #{v_i <= r}]/N``, bounds b, distances v.

    Args:
        evaluation: of either kind. Where a radius eps was asked about, nothing is proven of an attacked image, so that
            below eps the interval is as wide as the attack's distances leave it.
        radii: ``(R,)``, zero or more; None: :data:`POINTS` from 0 to eps, or to the largest distance found.

    Raises:
        ProblemError: a radius below zero or not finite.

    Example:
        >>> certified_curve(cl.study.open_run("run"))
    """
    rows = evaluation.rows
    if radii is None:
        radii = torch.linspace(0.0, _reach(evaluation), POINTS, dtype=torch.float64)
        if evaluation.template.eps is not None:
            radii[-1] = evaluation.template.eps
    radii = torch.as_tensor(radii, dtype=torch.float64)
    if not bool(((radii >= 0) & radii.isfinite()).all()):
        raise ProblemError("A radius of the curve is negative or not finite. Give radii of zero or more.")
    value = _sorted([row.value for row in rows if row.value is not None])
    closed_ball = _sorted([row.bound for row in rows if row.bound is not None and row.status == ROBUST])
    open_ball = _sorted([row.bound for row in rows if row.bound is not None and row.status != ROBUST])
    refuted = torch.searchsorted(value, radii, right=True)
    proven = len(closed_ball) - torch.searchsorted(closed_ball, radii)
    proven = proven + len(open_ball) - torch.searchsorted(open_ball, radii, right=True)
    images = evaluation.tally.images
    return Curve(radii, proven.double() / images, (images - refuted).double() / images)


def _sorted(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).sort().values


def _reach(evaluation: Evaluation) -> float:
    """The largest radius of a curve: the one asked about, or a little more than the largest distance."""
    if evaluation.template.eps is not None:
        return evaluation.template.eps
    values = [row.value for row in evaluation.rows if row.value is not None]
    bounds = [row.bound for row in evaluation.rows if row.bound is not None and math.isfinite(row.bound)]
    return 1.02 * max([*values, *bounds], default=1.0) or 1.0


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
