"""What is proven of every image: margins at a radius, or distances from bound to value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from clinch.errors import ProblemError
from clinch.figures.style import BOUND, GAP, INK, VALUE, new_figure, style
from clinch.study.figures.certified import named, norm_name
from clinch.study.figures.classes import STATUS_COLOURS
from clinch.study.template import radius_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clinch.study.evaluation import Evaluation

#: bars of the histogram
BINS = 48


def margins_figure(evaluation: Evaluation, heading: str = "") -> Figure:
    """Draw the proven margins at the radius as a histogram, or every image's distance and the bound below it.

    The margin is the proven lower limit of ``min_k z_y(x) − z_k(x)`` over the ball: above zero the image is robust.
    Where distances were asked for, images stand from left to right in the order of the distance found.

    Args:
        evaluation: of :func:`clinch.study.evaluate` or :func:`clinch.study.open_run`.
        heading: above everything; default: the model and its data.

    Raises:
        ProblemError: no image has a margin, or a distance.
    """
    with style():
        figure = new_figure(figsize=(6.4, 3.7), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        if evaluation.template.eps is None:
            _draw_distances(axes, evaluation)
        else:
            _draw_margins(axes, evaluation)
        axes.grid(axis="y", color="#EAEAEA", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_title(heading or named(evaluation), loc="left", fontweight="bold", pad=24)
        above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        axes.legend(**above, ncols=4, frameon=False, handlelength=1.2, markerscale=2.5)
    return figure


def _draw_margins(axes: Axes, evaluation: Evaluation) -> None:
    rows = [row for row in evaluation.rows if row.margin is not None and math.isfinite(row.margin)]
    statuses = [status for status in STATUS_COLOURS if any(row.status == status for row in rows)]
    if not rows:
        raise ProblemError("No image of this run has a proven margin. Ask for --kind curve or classes.")
    groups = [np.array([row.margin for row in rows if row.status == status]) for status in statuses]
    everything = np.concatenate(groups)
    # one image with loose bounds must not squeeze all others
    low, high = min(0.0, float(np.quantile(everything, 0.005))), max(0.0, float(np.quantile(everything, 0.995)))
    width = (high - low or 1.0) / BINS
    # zero is an edge: bars of margins above it are robust images
    edges = width * np.arange(math.floor(low / width), math.ceil(high / width) + 1)
    edges = edges if len(edges) > 1 else np.array([0.0, width])
    clipped = [group.clip(edges[0], edges[-1]) for group in groups]
    axes.hist(clipped, bins=list(edges), stacked=True, color=[STATUS_COLOURS[s] for s in statuses], label=statuses)
    axes.axvline(0, color=INK, linewidth=1)
    outside = int(((everything < edges[0]) | (everything > edges[-1])).sum())
    radius = radius_text(evaluation.template.eps or 0.0)
    axes.set_xlabel(
        f"proven lower limit of the margin, {norm_name(evaluation)} radius {radius}"
        + (f" ({outside} beyond the ends)" if outside else "")
    )
    axes.set_ylabel("images")


def _draw_distances(axes: Axes, evaluation: Evaluation) -> None:
    pairs = [(row.value, row.bound or 0.0) for row in evaluation.rows if row.value is not None and row.value > 0]
    if not pairs:
        raise ProblemError("No image of this run has a distance. Let the run go on, or ask for --kind classes.")
    value, bound = np.array(sorted(pairs)).T
    places = np.arange(1, len(value) + 1)
    axes.fill_between(places, bound, value, step="mid", color=GAP, linewidth=0, label="gap")
    axes.scatter(places, bound, s=5, color=BOUND, linewidth=0, label="bound: proven, none is nearer", zorder=3)
    axes.plot(places, value, color=VALUE, linewidth=1.6, label="nearest input found", zorder=4)
    axes.set_xlim(0, len(value) + 1)
    axes.set_ylim(0, None)
    axes.set_xlabel("images, by the distance found")
    axes.set_ylabel(f"{norm_name(evaluation)} distance")
