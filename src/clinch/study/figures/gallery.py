"""The nearest inputs of a run: original, found, difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clinch.errors import ProblemError
from clinch.figures.inputs import frame, is_image, pixels
from clinch.figures.style import BOUND, INK, MUTED, VALUE, new_figure, number, plain, style
from clinch.study.figures.certified import named, norm_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from clinch.study.runs import Run

#: examples in a row of the figure
COLUMNS = 2


def gallery_figure(run: Run, count: int = 8, names: Sequence[str] = (), data: Any = None) -> Figure:
    """Draw the nearest inputs that were found: the original, the input found, and their difference.

    Args:
        run: of :func:`clinch.study.open_run`.
        count: examples at most.
        names: of the classes, by label; none: the labels.
        data: where the originals are read again, see :meth:`clinch.study.Run.source`. Where
            it is not there, the inputs found are drawn alone.

    Raises:
        ProblemError: no input was found in this run.
    """
    from clinch.study.examples import examples_of

    examples = [example for example in examples_of(run, count, data=data).hardest if example.found is not None]
    if not examples:
        raise ProblemError("No input was found in this run, so there is none to draw. Ask for --kind curve or classes.")
    rows, columns = -(-len(examples) // COLUMNS), min(COLUMNS, len(examples))
    with style():
        figure = new_figure(figsize=(3.9 * columns + 0.2, 1.55 * rows + 0.6), dpi=160)
        outer = figure.add_gridspec(rows, columns, left=0.02, right=0.98, top=1 - 0.55 / (1.55 * rows + 0.6),
                                    bottom=0.02, wspace=0.12, hspace=0.28)  # fmt: skip
        for place, example in enumerate(examples):
            inner = outer[place // columns, place % columns].subgridspec(1, 3, wspace=0.08)
            panels = [figure.add_subplot(inner[k]) for k in range(3)]
            row = example.row
            name = names[row.label] if names and row.label is not None and row.label < len(names) else row.label
            assert example.found is not None
            _draw(panels, example.original, example.found, run.template.lower, run.template.upper)
            distance = f"{norm_name(run)} {number(row.value or 0.0, 4)}"
            panels[0].set_title(f"image {row.image}, {plain(str(name))}", fontsize=7.5, loc="left")
            panels[1].set_title(distance, fontsize=7.5, loc="left", color=VALUE)
        heading = f"{named(run)}: the nearest inputs"
        figure.text(0.02, 0.985, heading, fontsize=10, fontweight="bold", color=INK, va="top")
    return figure


def _draw(panels: Sequence[Axes], original: np.ndarray | None, found: np.ndarray, low: float, high: float) -> None:
    """Three panels; the outer two are empty without the original."""
    for axes, values in zip(panels[:2], (original, found)):
        if values is None:
            axes.axis("off")
        elif is_image(values.shape):
            axes.imshow(pixels(values, low, high), cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
            frame(axes, "")
        else:
            _bars(axes, values)
    if original is None:
        panels[2].axis("off")
        return
    delta = found - original
    limit = max(float(np.abs(delta).max()), 1e-12)
    if is_image(delta.shape):
        shown = pixels(delta, -limit, limit, signed=True)
        panels[2].imshow(shown, cmap=_signed(), vmin=-limit, vmax=limit, interpolation="nearest")
        frame(panels[2], "")
    else:
        _bars(panels[2], delta)
    panels[2].set_title(f"difference × {magnification(delta, low, high)}", fontsize=7.5, loc="left", color=MUTED)


def magnification(delta: np.ndarray, low: float, high: float) -> str:
    """How many times a difference is enlarged where its largest element is drawn as the whole range of the inputs."""
    factor = (high - low) / max(float(np.abs(delta).max()), 1e-12)
    return f"{factor:,.0f}" if factor >= 10 else number(factor)


def _signed() -> Colormap:
    """Lowered elements in the colour of bounds, raised ones in that of values."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", [BOUND, "white", VALUE])


def _bars(axes: Axes, values: np.ndarray) -> None:
    axes.vlines(np.arange(values.size), 0, values.ravel(), color=INK, linewidth=max(0.4, min(3, 60 / values.size)))
    axes.axhline(0, color=MUTED, linewidth=0.6)
    frame(axes, "")
