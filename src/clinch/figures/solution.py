"""The picture of a solve: the two inputs, their difference, the neurons that left their boxes, the gap closing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clinch.errors import ShapeError
from clinch.figures.inputs import draw_inputs
from clinch.figures.style import BOUND, GAP, MUTED, VALUE, new_figure, number, style
from clinch.figures.watched import Watched, draw_watched

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clinch.solver.solution import Solution

#: the time axis is logarithmic where the first input was found this many times faster than the end was reached
LOGARITHMIC = 50


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
    x = solution.x[problem] if solution.batched else solution.x
    if x0.shape != x.shape:
        raise ShapeError(f"x0 has shape {tuple(x0.shape)} but x has shape {tuple(x.shape)}; give x0 as one input.")
    with style():
        figure = new_figure(figsize=(10, 6.2), dpi=160)
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
    parts = [f"{quantity} = {number(value, 5)}" if math.isfinite(value) else "no input found"]
    if math.isfinite(bound):
        parts.append(f"proven: no input does better than {number(bound, 5)}")
    if math.isfinite(gap):
        parts.append(f"gap {100 * gap:.2g} %")
    return "     ".join([*parts, f"{solution.seconds:.1f} s"])


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
            axes.annotate(f"{word} {number(last, 5)}", (seconds[-1], last), xytext=(8, 1 if above else -1), ha="left",
                          textcoords="offset points", va="bottom" if above else "top", color=colour,
                          fontweight="bold", annotation_clip=False)  # fmt: skip


def _entry(numbers: Tensor | float, problem: int) -> float:
    return float(numbers[problem]) if isinstance(numbers, Tensor) and numbers.dim() else float(numbers)
