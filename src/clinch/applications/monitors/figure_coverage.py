"""How far each class is from a monitor's two kinds of error: an interval for every input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clinch.figures.style import BOUND, INK, MUTED, VALUE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clinch.applications.monitors.coverage import Coverage
    from clinch.applications.monitors.nearest import Nearest


def coverage_figure(found: Coverage, *, heading: str = "") -> Figure:
    """Draw one panel for each kind of error: for every input a line from what is proven to what was found, by class.

    Args:
        found: what :func:`clinch.applications.monitors.coverage` returned.
        heading: one line above everything.
    """
    titles = {
        "alarm": "false alarm: same class, the monitor objects",
        "missed": "missed: another class, the monitor accepts",
    }
    kinds = [kind for kind in titles if getattr(found, kind) is not None]
    norm = {1.0: "₁", 2.0: "₂", 0.0: "₀"}.get(float(found.norm), "∞")
    with style():
        figure = new_figure(figsize=(9.5, 1.6 + 2.6 * len(kinds)), dpi=150)
        grid = figure.add_gridspec(
            len(kinds), 1, left=0.075, right=0.985, bottom=0.16 / len(kinds) + 0.03, top=0.86, hspace=0.42
        )
        for k, kind in enumerate(kinds):
            axes = figure.add_subplot(grid[k])
            _panel(axes, getattr(found, kind), found.labels, found.accepted if kind == "alarm" else None)
            axes.set_title(titles[kind], loc="left")
            axes.set_ylabel(f"distance ‖x − x₀‖{norm}")
            if k == len(kinds) - 1:
                axes.set_xlabel("class, inputs in order of the distance found")
            if k == 0:
                handles, labels = axes.get_legend_handles_labels()
                figure.legend(handles, labels, loc="upper right", ncols=3, frameon=False, bbox_to_anchor=(0.99, 0.935))
        figure.text(0.018, 0.985, heading, fontsize=13, fontweight="bold", va="top")
    return figure


def _panel(axes: Axes, nearest: Nearest, labels: Tensor, counted: Tensor | None) -> None:
    value, bound, names = nearest.value.numpy(), nearest.bound.numpy(), labels.numpy()
    keep = np.isfinite(bound) & (np.ones_like(names, dtype=bool) if counted is None else counted.numpy())
    place, middles, classes = 0.0, [], np.unique(names)
    columns: list[np.ndarray] = []
    medians: list[tuple[float, float, float]] = []
    for c in classes:
        rows = np.flatnonzero((names == c) & keep)
        rows = rows[np.argsort(value[rows], kind="stable")]
        at = place + np.arange(len(rows))
        columns.append(np.stack([at, rows]))
        middles.append(place + max(len(rows) - 1, 0) / 2)
        if len(rows):
            medians.append((at[0] - 0.4, at[-1] + 0.4, float(np.sort(value[rows])[(len(rows) - 1) // 2])))
        place += len(rows) + 1.5
    at, rows = np.concatenate(columns, 1)
    rows = rows.astype(int)
    top = np.where(np.isfinite(value[rows]), value[rows], np.nan)
    axes.vlines(at, bound[rows], np.where(np.isnan(top), bound[rows], top), color=MUTED, linewidth=1.1, zorder=1)
    axes.scatter(at, bound[rows], s=9, color=BOUND, zorder=2, label="proven: nothing is nearer")
    axes.scatter(at, top, s=9, color=VALUE, zorder=3, label="found")
    for k, (left, right, height) in enumerate(medians):
        axes.hlines(height, left, right, color=INK, linewidth=0.9, zorder=0, label="median found" if k == 0 else "_")
    axes.set_xticks(middles, labels=[str(c) for c in classes])
    axes.set_xlim(-1, max(place - 1, 1))
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#EAEAEA", linewidth=0.7)
    axes.set_axisbelow(True)
