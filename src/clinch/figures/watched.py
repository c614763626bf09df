"""What a box monitor saw: each neuron against its own box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from clinch.figures.style import MUTED, VALUE, flat
from clinch.network.activations import activations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from clinch.network.network import Network


class _Boxes(Protocol):
    """Boxes per class on a layer, such as a monitor has."""

    @property
    def layer(self) -> str: ...
    @property
    def lower(self) -> Tensor: ...
    @property
    def upper(self) -> Tensor: ...
    @property
    def margin(self) -> Tensor: ...


@dataclass(frozen=True)
class Watched:
    """What a box monitor saw: one entry per neuron, all of one shape ``(neurons,)``.

    Attributes:
        lower: lower limits of the boxes.
        upper: upper limits of the boxes.
        margin: how far outside an activation must be for the monitor to object.
        before: activations at x0.
        after: activations at x.
        layer: name of the layer, for the title.
    """

    lower: Tensor
    upper: Tensor
    margin: Tensor
    before: Tensor
    after: Tensor
    layer: str = ""

    @staticmethod
    def of(monitor: _Boxes, network: Network, label: int, x0: Tensor, x: Tensor) -> Watched:
        """What a monitor sees of two inputs of one class, each of shape ``input_shape``."""
        (h,) = activations(network, torch.stack([x0.to(x), x]), monitor.layer)
        return Watched(monitor.lower[label], monitor.upper[label], monitor.margin[label], h[0], h[1], monitor.layer)

    @property
    def left(self) -> np.ndarray:
        """Which neurons are outside by their margin at x, up to rounding: shape ``(neurons,)``."""
        lower, upper, margin, after = (flat(t) for t in (self.lower, self.upper, self.margin, self.after))
        rounding = 1e-5 * np.maximum(1.0, np.abs(after))
        return (after >= upper + margin - rounding) | (after <= lower - margin + rounding)


def draw_watched(axes: Axes, watched: Watched) -> None:
    """Draw each neuron against its own box, scaled to [0, 1]: grey at x0, coloured at x, labelled where it left."""
    lower, upper, before, after = (flat(t) for t in (watched.lower, watched.upper, watched.before, watched.after))
    width = np.where(upper > lower, upper - lower, np.maximum(flat(watched.margin), 1e-12))
    before, after = (before - lower) / width, (after - lower) / width
    left, rows = watched.left, np.arange(len(lower))
    axes.axvspan(0, 1, color="#F0F0F0", linewidth=0)
    axes.hlines(rows, before, after, color=np.where(left, VALUE, "#BBBBBB"), linewidth=1.2)
    axes.scatter(before, rows, s=16, facecolor="white", edgecolor=MUTED, linewidth=0.9, zorder=3, label="at x₀")
    axes.scatter(after[~left], rows[~left], s=16, color=MUTED, zorder=4, label="at x")
    axes.scatter(after[left], rows[left], s=34, color=VALUE, zorder=5, label="at x, outside its box")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    few = len(rows) <= 24
    ticks = rows if few else rows[left]
    axes.set_yticks(ticks, labels=[str(i) for i in ticks], fontsize=7 if few else 8)
    for i, label in zip(ticks, axes.get_yticklabels()):
        if left[i]:
            label.set_color(VALUE)
            label.set_fontweight("bold")
    reach = 0.08 * max(1.0, float(np.max([before, after])), 1 - float(np.min([before, after])))
    axes.set_xlim(
        min(-reach, float(np.min([before, after])) - reach), max(1 + reach, float(np.max([before, after])) + reach)
    )
    axes.set_xticks([0, 1], labels=["lower limit", "upper limit"])
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    count = int(left.sum())
    where = f" of {watched.layer}" if watched.layer else ""
    axes.set_title(f"neurons{where}: {count} outside {'its box' if count == 1 else 'their boxes'}")
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.11),
        ncols=3,
        frameon=False,
        fontsize=7.5,
        handletextpad=0.1,
        columnspacing=1.0,
    )
