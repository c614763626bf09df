"""Numbers of charts, ready for the page's SVG: the template draws, nothing here writes markup."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor

from clinch.study.evaluation import Evaluation
from clinch.study.template import STATUSES

#: size of the curve's drawing area, in units of the SVG
WIDTH, HEIGHT = 640, 230
#: units of the SVG that two radii have to be apart to be drawn as two
PIXEL = 0.1
#: gridlines of the radius at most
TICKS = 6
#: order in which parts of a bar stand: good news first
ORDER = ("robust", "closed", "open", "attacked", "misclassified", "failed")
assert set(ORDER) == set(STATUSES)


def curve_chart(evaluation: Evaluation) -> dict[str, Any]:
    """Two step functions, the area between them, and the ticks of the radius.

    Every radius at which a share changes is drawn, as far as :data:`PIXEL` tells two apart.
    """
    radii, low, high = evaluation.curve(evaluation.known.jumps())
    reach = float(radii[-1]) or evaluation.template.eps or 1.0
    x = radii / reach * WIDTH
    upper, lower = _steps(x, high), _steps(x, low)
    return {
        "width": WIDTH, "height": HEIGHT, "upper": _line(upper), "lower": _line(lower),
        "band": _line(upper) + "L" + "L".join(f"{a:g} {b:g}" for a, b in _corners(lower)[::-1]) + "Z",
        "ticks": [{"x": round(t / reach * WIDTH, 1), "text": f"{t:g}"} for t in ticks(reach)],
    }  # fmt: skip


def ticks(reach: float) -> list[float]:
    """Round numbers from 0 to at most reach: steps of 1, 2 or 5 times a power of ten.

    Example:
        >>> ticks(0.05)
        [0.0, 0.01, 0.02, 0.03, 0.04, 0.05]
    """
    power = 10.0 ** math.floor(math.log10(reach / TICKS))
    step = next(m * power for m in (1, 2, 5, 10) if reach / (m * power) <= TICKS * (1 + 1e-9))
    return [float(f"{k * step:.6g}") for k in range(int(reach / step * (1 + 1e-9)) + 1)]


def stacked(counts: Mapping[str, int], images: int) -> list[dict[str, Any]]:
    """Parts of a bar of width 100, in the order of :data:`ORDER`; what was not looked at stays empty."""
    parts: list[dict[str, Any]] = []
    left = 0.0
    for status in ORDER:
        if count := counts.get(status, 0):
            width = 100 * count / images
            parts.append({"status": status, "count": count, "x": round(left, 3), "width": round(width, 3)})
            left += width
    return parts


def distance_bar(value: float | None, bound: float | None, most: float) -> dict[str, float | None]:
    """Where the bound ends and the value stands, on a bar of width 100 that stands for ``most``."""
    places = [
        None if number is None or most <= 0 else round(100 * min(max(number, 0.0) / most, 1.0), 2)
        for number in (value, bound)
    ]
    return {"value": places[0], "bound": places[1]}


def _steps(x: Tensor, shares: Tensor) -> list[tuple[float, float]]:
    """Places and heights from which a step function goes on to the right; of those drawn at one place the last."""
    found: dict[float, float] = {}
    for a, share in zip(x.tolist(), shares.tolist()):
        found[round(a / PIXEL) * PIXEL] = HEIGHT * (1 - share)
    points = [(round(a, 1), round(b, 2)) for a, b in found.items()]
    # a height that stays as it was needs no corner
    return [p for i, p in enumerate(points) if i in (0, len(points) - 1) or p[1] != points[i - 1][1]]


def _line(points: list[tuple[float, float]]) -> str:
    """A path of steps."""
    (a, b), *rest = points
    path = f"M{a:g} {b:g}" + "".join(f"H{x:g}V{y:g}" for x, y in rest)
    return path if rest else path + f"H{WIDTH}"


def _corners(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every corner of the steps."""
    found = points[:1]
    for (_, before), (x, y) in pairwise(points):
        found += [(x, before), (x, y)]
    return found if len(points) > 1 else [*found, (WIDTH, points[0][1])]
