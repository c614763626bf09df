"""Curves of several methods, ours as lines and the published ones as circles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clinch.figures.style import BOUND, INK, MUTED, VALUE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, distinguishable with any colour vision, in the order in which curves get them
COLOURS = (INK, VALUE, BOUND, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", MUTED)


@dataclass(frozen=True)
class Curve:
    """Numbers of one method: name, one number for each place of the panel's axis, the published ones, if any."""

    name: str
    values: tuple[float, ...]
    published: tuple[float, ...] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves over the places of one axis."""

    title: str
    label: str
    places: tuple[float, ...]
    curves: tuple[Curve, ...]


def curves_figure(panels: Sequence[Panel], quantity: str, heading: str = "") -> Figure:
    """Panels beside each other; a method has one colour in all of them.

    Args:
        panels: from left to right.
        quantity: label of the axis of values.
        heading: above everything.
    """
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}
    with style():
        figure = new_figure(figsize=(1.0 + 4.2 * len(panels), 4.2), dpi=150, layout="constrained")
        all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, panel in zip(all_axes, panels):
            for curve in panel.curves:
                line = {"color": colours[curve.name], "linewidth": 1.6, "linestyle": "--" if curve.dashed else "-"}
                axes.plot(panel.places, curve.values, label=curve.name, **line)
                if curve.published:
                    marks = {"color": colours[curve.name], "markersize": 4.5, "fillstyle": "none"}
                    axes.plot(panel.places, curve.published, "o", **marks)
            axes.set_title(panel.title)
            axes.set_xlabel(panel.label)
            axes.grid(color="#EEEEEE", linewidth=0.8)
            axes.set_axisbelow(True)
        all_axes[0].set_ylabel(quantity)
        if any(curve.published for panel in panels for curve in panel.curves):
            all_axes[0].plot([], [], "o", color=INK, markersize=4.5, fillstyle="none", label="published")
        entries = {label: handle for axes in all_axes for handle, label in zip(*axes.get_legend_handles_labels())}
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
        if heading:
            figure.suptitle(heading, fontsize=11, fontweight="bold")
    return figure
