"""Numbers of several methods side by side, with the published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clinch.figures.style import INK, MUTED, VALUE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: from so many panels on they are narrow
FEW = 4


@dataclass(frozen=True)
class Group:
    """A panel: one line for each method.

    Attributes:
        title: above the panel.
        label: of the axis.
        methods: names, from top to bottom.
        values: numbers of each method; the largest or the mean is drawn filled, the others hollow.
        published: the published number of a method, or None.
        emphasis: ``"largest"`` or ``"mean"``.
        single: what a hollow point stands for.
        floor: the axis is logarithmic, and smaller numbers are drawn here; None: an ordinary axis.
        span: the ends of the axis; None: as the numbers are.
    """

    title: str
    label: str
    methods: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    published: tuple[float | None, ...] = ()
    emphasis: str = "largest"
    single: str = "single runs"
    floor: float | None = None
    span: tuple[float, float] | None = None


def comparison_figure(groups: Sequence[Group], heading: str = "") -> Figure:
    """Panels beside each other, one for each group.

    Args:
        groups: from left to right; where methods agree with those of the panel before their names are left out.
        heading: above everything.
    """
    with style():
        height = 1.3 + 0.26 * max(len(group.methods) for group in groups)
        width = 2.2 + (2.9 if len(groups) < FEW else 1.5) * len(groups)
        figure = new_figure(figsize=(width, height), dpi=150, layout="constrained")
        panels = figure.subplots(1, len(groups), squeeze=False)[0]
        before: tuple[str, ...] = ()
        for axes, group in zip(panels, groups):
            draw_comparison(axes, group, names=group.methods != before)
            before = group.methods
        if heading:
            figure.suptitle(heading, fontsize=11, fontweight="bold")
        entries = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels())}
        if any(label.startswith("ours, ") for label in entries):
            # the same point, in a panel where every method has a single number
            entries.pop("ours", None)
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def draw_comparison(axes: Axes, group: Group, *, names: bool = True) -> None:
    """Draw one panel: hollow points for single numbers, a filled one for the largest or the mean."""
    several = any(len(values) > 1 for values in group.values)
    for place, values in enumerate(group.values):
        shown = [v if group.floor is None else max(v, group.floor) for v in values if math.isfinite(v)]
        if not shown:
            continue
        if len(values) > 1:
            hollow = {"markersize": 4, "markerfacecolor": "none", "color": MUTED, "alpha": 0.7}
            axes.plot(shown, [place] * len(shown), "o", label=group.single, **hollow)
        chosen = max(shown) if group.emphasis == "largest" else sum(shown) / len(shown)
        axes.plot(chosen, place, "o", markersize=6, color=VALUE, label=f"ours, {group.emphasis}" if several else "ours")
    for place, value in enumerate(group.published):
        if value is not None:
            mark = value if group.floor is None else max(value, group.floor)
            axes.plot(mark, place, "D", markersize=7, markerfacecolor="none", color=INK, label="published")
    axes.set_yticks(range(len(group.methods)), labels=list(group.methods) if names else [""] * len(group.methods))
    axes.set_ylim(len(group.methods) - 0.5, -0.5)
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    if group.floor is not None:
        axes.set_xscale("log")
    if group.span is not None:
        axes.set_xlim(*group.span)
    else:
        axes.margins(x=0.08)  # room for whole marks
    axes.set_title(group.title)
    axes.set_xlabel(group.label)
