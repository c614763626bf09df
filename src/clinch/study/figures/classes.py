"""How the images of each class ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clinch.errors import ProblemError, ShapeError
from clinch.figures.style import BOUND, GAP, MUTED, VALUE, new_figure, plain, style
from clinch.study.figures.certified import named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clinch.study.evaluation import Evaluation

#: colour of each status, in the order in which bars are stacked
STATUS_COLOURS = {
    "robust": BOUND, "closed": BOUND, "open": GAP, "attacked": VALUE, "misclassified": "#B8B8B8", "failed": "#7A1F1F",
}  # fmt: skip
#: classes that are drawn at most
MOST_CLASSES = 500
#: shares below it are not written into their bar
READABLE = 0.05


def classes_figure(evaluation: Evaluation, names: Sequence[str] = (), heading: str = "") -> Figure:
    """Draw one stacked bar for each class: the shares of its images by status.

    Args:
        evaluation: of :func:`clinch.study.evaluate` or :func:`clinch.study.open_run`.
        names: of the classes, by label; none: the labels.
        heading: above everything; default: the model and its data.

    Raises:
        ShapeError: fewer names than labels. ProblemError: more classes than can be drawn.
    """
    tallies = evaluation.per_class()
    if len(tallies) > MOST_CLASSES:
        raise ProblemError(
            f"The study has {len(tallies):,} classes; at most {MOST_CLASSES} are drawn. Draw the curve or the margins."
        )
    if names and tallies and max(tallies) >= len(names):
        raise ShapeError(f"There are {len(names)} names of classes, but a label {max(tallies)}. Name every class.")
    shown = [s for s in STATUS_COLOURS if any(tally.counts.get(s) for tally in tallies.values())]
    with style():
        figure = new_figure(figsize=(6.4, 1.3 + 0.27 * max(1, len(tallies))), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        for place, tally in enumerate(tallies.values()):
            left = 0.0
            for status in shown:
                share = tally.counts.get(status, 0) / tally.images
                axes.barh(place, 100 * share, left=100 * left, height=0.72, color=STATUS_COLOURS[status],
                          label=status if not place else None)  # fmt: skip
                if share >= READABLE:
                    ink = "#222222" if status in ("open", "misclassified") else "white"
                    axes.text(100 * (left + share / 2), place, str(tally.counts[status]), color=ink, fontsize=7,
                              ha="center", va="center_baseline")  # fmt: skip
                left += share
            axes.text(101, place, str(tally.images), fontsize=7, color=MUTED, va="center_baseline")
        labels = [names[y] if names else str(y) for y in tallies]
        axes.set_yticks(range(len(labels)), labels=[plain(label) for label in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("% of the images of each class")
        axes.set_title(heading or named(evaluation), loc="left", fontweight="bold", pad=24)
        above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        axes.legend(**above, ncols=len(STATUS_COLOURS), frameon=False, handlelength=1.0, columnspacing=1.2)
    return figure
