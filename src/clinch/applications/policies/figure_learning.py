"""Learning curves: one panel for each environment, mean and spread over seeds, every seed as a thin line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clinch.errors import ShapeError
from clinch.figures.style import BOUND, INK, MUTED, VALUE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: of the kinds of run in their order
COLOURS = (MUTED, VALUE, BOUND, INK)


def learning_figure(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    steps: Sequence[float],
    *,
    heading: str = "",
    quantity: str = "return",
) -> Figure:
    """Learning curves side by side.

    Args:
        panels: title → kind of run → one curve ``(len(steps),)`` for each seed; at most four kinds.
        steps: where the curves were measured.
        heading: of the figure.
        quantity: what is measured.

    Raises:
        ShapeError: a curve of another length, or too many kinds.
    """
    with style():
        figure = new_figure(figsize=(1.0 + 3.6 * len(panels), 3.0), dpi=200, layout="constrained")
        for place, (axes, (title, kinds)) in enumerate(
            zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items())
        ):
            _draw(axes, kinds, np.asarray(steps, float))
            axes.set_title(title)
            axes.set_xlabel("environment steps")
            if not place:
                axes.set_ylabel(quantity)
        figure.suptitle(heading, fontsize=11)
        return figure


def _draw(axes: Axes, kinds: Mapping[str, Sequence[Sequence[float]]], steps: np.ndarray) -> None:
    if len(kinds) > len(COLOURS):
        raise ShapeError(f"{len(kinds)} kinds of run in one panel; at most {len(COLOURS)} can be told apart.")
    for colour, (kind, curves) in zip(COLOURS, kinds.items()):
        lines = np.asarray(curves, float)
        if lines.ndim != 2 or lines.shape[1] != len(steps):
            raise ShapeError(f"'{kind}' has curves of shape {lines.shape}; expected (seeds, {len(steps)}).")
        mean, spread = lines.mean(0), lines.std(0, ddof=1) if len(lines) > 1 else np.zeros(len(steps))
        axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
        axes.plot(steps, lines.T, color=colour, linewidth=0.6, alpha=0.55)
        axes.plot(steps, mean, color=colour, linewidth=2, label=f"{kind} ({len(lines)} seed{'s' * (len(lines) > 1)})")
    axes.grid(axis="y", color=MUTED, alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="best")
