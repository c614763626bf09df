"""The pictures of a solve: the two inputs, their difference, the neurons that left their boxes, the gap closing.

Figures are drawn on ``matplotlib.figure.Figure`` objects: no window, no global state, the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clinch.errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clinch.domains.monitors import BoxMonitor
    from clinch.network.network import Network
    from clinch.solution import Solution

#: Okabe and Ito's colours, distinguishable with any colour vision
VALUE, BOUND, GAP, INK, MUTED = "#D55E00", "#0072B2", "#CFE3F1", "#222222", "#8A8A8A"

#: the time axis is logarithmic where the first input was found this many times faster than the end was reached
LOGARITHMIC = 50

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlepad": 7,
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
}


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
    def of(monitor: BoxMonitor, network: Network, label: int, x0: Tensor, x: Tensor) -> Watched:
        """What a monitor sees of two inputs of one class, each of shape ``input_shape``."""
        from clinch.domains.monitors import activations

        (h,) = activations(network, torch.stack([x0.to(x), x]), monitor.layer)
        return Watched(monitor.lower[label], monitor.upper[label], monitor.margin[label], h[0], h[1], monitor.layer)

    @property
    def left(self) -> np.ndarray:
        """Which neurons are outside by their margin at x, up to rounding: shape ``(neurons,)``."""
        lower, upper, margin, after = (_flat(t) for t in (self.lower, self.upper, self.margin, self.after))
        rounding = 1e-5 * np.maximum(1.0, np.abs(after))
        return (after >= upper + margin - rounding) | (after <= lower - margin + rounding)


def solution_figure(
    x0: Tensor,
    solution: Solution,
    *,
    heading: str = "",
    before: str = "x₀",
    after: str = "x",
    quantity: str = "objective",
    watched: Watched | None = None,
    problem: int = 0,
) -> Figure:
    """Draw one solved problem: x0, x, their difference, the watched neurons, and the gap closing over time.

    Args:
        x0: the starting input, shape ``input_shape``: ``(H, W)``, ``(1, H, W)``, ``(3, H, W)``; others are drawn flat.
        solution: what was found.
        heading: one line above everything; value, bound, gap and time stand below it.
        before: title of x0.
        after: title of x.
        quantity: what value and bound measure, the label of the lower axis.
        watched: the monitor's neurons; None leaves the panel out.
        problem: which problem of a batch.

    Raises:
        ShapeError: x0 and x differ in shape.
    """
    from matplotlib.figure import Figure

    x = solution.x[problem] if solution.batched else solution.x
    if x0.shape != x.shape:
        raise ShapeError(f"x0 has shape {tuple(x0.shape)} but x has shape {tuple(x.shape)}; give x0 as one input.")
    with style():
        figure = Figure(figsize=(10, 6.2), dpi=160)
        left, right = 0.07, 0.975
        images = figure.add_gridspec(
            1, 3, left=left, right=0.615 if watched else right, bottom=0.54, top=0.84, wspace=0.2
        )
        draw_inputs([figure.add_subplot(images[i]) for i in range(3)], x0, x, before=before, after=after)
        if watched:
            neurons = figure.add_gridspec(1, 1, left=0.675, right=0.965, bottom=0.54, top=0.84)
            draw_watched(figure.add_subplot(neurons[0]), watched)
        lower = figure.add_gridspec(1, 1, left=left, right=0.87, bottom=0.085, top=0.37)
        draw_history(figure.add_subplot(lower[0]), solution, quantity=quantity, problem=problem)
        figure.text(0.018, 0.972, heading, fontsize=13, fontweight="bold", va="top")
        figure.text(0.018, 0.925, summary(solution, quantity, problem), fontsize=9.5, color=MUTED, va="top")
    return figure


def summary(solution: Solution, quantity: str, problem: int = 0) -> str:
    """One line: value, bound, gap and time of one problem."""
    value, bound, gap = (_entry(numbers, problem) for numbers in (solution.value, solution.bound, solution.gap))
    parts = [f"{quantity} = {_number(value, 5)}" if math.isfinite(value) else "no input found"]
    if math.isfinite(bound):
        parts.append(f"proven: no input does better than {_number(bound, 5)}")
    if math.isfinite(gap):
        parts.append(f"gap {100 * gap:.2g} %")
    return "     ".join([*parts, f"{solution.seconds:.1f} s"])


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the ending of the name chooses the format (png, svg, pdf). Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(path)
    return path


def style() -> AbstractContextManager[None]:
    """Clinch's matplotlib settings, for the length of a ``with`` block."""
    import matplotlib as mpl

    return mpl.rc_context({**STYLE})  # type: ignore[return-value]


# --- inputs -------------------------------------------------------------------------------------------------------


def draw_inputs(panels: Sequence[Axes], x0: Tensor, x: Tensor, *, before: str = "x₀", after: str = "x") -> None:
    """Draw x0, x and ``x − x0`` on three axes: as images where the shape is one, as curves otherwise."""
    a, b = (t.detach().cpu().double().numpy() for t in (x0, x))
    limit = max(float(np.abs(b - a).max()), 1e-12)
    if _is_image(a.shape):
        low, high = min(0.0, float(a.min()), float(b.min())), max(1.0, float(a.max()), float(b.max()))
        for axes, image, title in zip(panels, (a, b), (before, after)):
            axes.imshow(_pixels(image, low, high), cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
            _frame(axes, title)
        delta = _pixels(b - a, -limit, limit, signed=True)
        shown = panels[2].imshow(delta, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        _frame(panels[2], "difference x − x₀")
        strip = panels[2].inset_axes((0.0, -0.1, 1.0, 0.045))
        bar = panels[2].figure.colorbar(shown, cax=strip, orientation="horizontal")
        bar.set_ticks([-limit, 0, limit], labels=[_number(-limit), "0", "+" + _number(limit)])
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.tick_params(length=0, pad=3)
    else:
        for axes, values, title, colour in zip(
            panels, (a, b, b - a), (before, after, "difference x − x₀"), (INK, INK, VALUE)
        ):
            axes.vlines(
                np.arange(values.size), 0, values.ravel(), color=colour, linewidth=max(0.4, min(3, 120 / values.size))
            )
            axes.axhline(0, color=MUTED, linewidth=0.6)
            axes.set_title(title)
            axes.set_xlabel("element")


def _is_image(shape: tuple[int, ...]) -> bool:
    grey = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)
    return (grey or (len(shape) == 3 and shape[0] == 3)) and min(shape[-2:]) > 1


def _pixels(image: np.ndarray, low: float, high: float, *, signed: bool = False) -> np.ndarray:
    """Height × width for the colour map, or height × width × 3; differences of colour images are averaged."""
    if image.ndim == 2:
        return image
    if image.shape[0] == 1:
        return image[0]
    return image.mean(0) if signed else np.moveaxis((image - low) / (high - low), 0, -1)


def _frame(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_anchor("N")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color("#D0D0D0")


# --- the monitor --------------------------------------------------------------------------------------------------


def draw_watched(axes: Axes, watched: Watched) -> None:
    """Draw each neuron against its own box, scaled to [0, 1]: grey at x0, coloured at x, labelled where it left."""
    lower, upper, before, after = (_flat(t) for t in (watched.lower, watched.upper, watched.before, watched.after))
    width = np.where(upper > lower, upper - lower, np.maximum(_flat(watched.margin), 1e-12))
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


# --- the gap ------------------------------------------------------------------------------------------------------


def draw_history(axes: Axes, solution: Solution, *, quantity: str = "objective", problem: int = 0) -> None:
    """Draw the value of the best input and the proven bound against time: the two lines meet at the optimum.

    Args:
        axes: where.
        solution: its history and its time.
        quantity: label of the value axis.
        problem: which problem of a batch.
    """
    events = list(solution.history)
    seconds = np.array([*(event.seconds for event in events), solution.seconds])
    value, bound = (
        np.array(
            [*(_entry(getattr(event, name), problem) for event in events), _entry(getattr(solution, name), problem)]
        )
        for name in ("value", "bound")
    )
    value[~np.isfinite(value)], bound[~np.isfinite(bound)] = np.nan, np.nan
    found = seconds[np.isfinite(value)]
    log = len(found) > 0 and seconds[-1] > LOGARITHMIC * max(found[0], 1e-3)
    if log:
        axes.set_xscale("log", subs=[2, 5])
        axes.set_xlim(0.5 * max(found[0], 1e-3), 1.2 * seconds[-1])
    both = np.isfinite(value) & np.isfinite(bound)
    axes.fill_between(seconds, bound, value, where=both, step="post", color=GAP, linewidth=0, label="gap between them")
    axes.step(seconds, value, where="post", color=VALUE, linewidth=2, label="value: best input found")
    axes.step(seconds, bound, where="post", color=BOUND, linewidth=2, label="bound: proven, no input does better")
    for line, colour in ((value, VALUE), (bound, BOUND)):
        moved = np.isfinite(line) & (np.diff(line, prepend=np.nan) != 0)
        axes.scatter(seconds[moved], line[moved], s=12, color=colour, zorder=3)
    _meeting(axes, seconds, value, bound)
    axes.set_xlabel("seconds" + (" (logarithmic)" if log else ""))
    axes.set_ylabel(quantity)
    axes.tick_params(which="both", length=3, pad=4)
    axes.grid(axis="y", color="#EAEAEA", linewidth=0.7)
    axes.set_axisbelow(True)
    if not log and len(seconds):
        axes.set_xlim(0, 1.02 * max(seconds[-1], 1e-3))
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter) if log else ():
        formatter(lambda t, _: f"{t:g}")
    handles, labels = axes.get_legend_handles_labels()
    order = [1, 2, 0]
    entries = [handles[i] for i in order], [labels[i] for i in order]
    above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
    axes.legend(*entries, **above, ncols=3, frameon=False, handlelength=1.6)


def _meeting(axes: Axes, seconds: np.ndarray, value: np.ndarray, bound: np.ndarray) -> None:
    """Write the last value and bound beyond the right end, kept apart where they nearly coincide."""
    if not len(seconds):
        return
    both = math.isfinite(value[-1]) and math.isfinite(bound[-1])
    for last, other, colour, word in ((value[-1], bound[-1], VALUE, "value"), (bound[-1], value[-1], BOUND, "bound")):
        if math.isfinite(last):
            above = not both or last > other or (last == other and colour == VALUE)
            axes.annotate(f"{word} {_number(last, 5)}", (seconds[-1], last), xytext=(8, 1 if above else -1), ha="left",
                          textcoords="offset points", va="bottom" if above else "top", color=colour,
                          fontweight="bold", annotation_clip=False)  # fmt: skip


def _entry(numbers: Tensor | float, problem: int) -> float:
    return float(numbers[problem]) if isinstance(numbers, Tensor) and numbers.dim() else float(numbers)


def _flat(t: Tensor) -> np.ndarray:
    return t.detach().cpu().double().flatten().numpy()


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}g}".replace("-", "−")
