"""How far an output of two numbers moves: what was found, and the circle that nothing can leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clinch.errors import ShapeError
from clinch.figures.style import BOUND, GAP, INK, MUTED, VALUE, flat, new_figure, number, style
from clinch.geometry.norms import norm_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clinch.applications.regression.change import Change
    from clinch.modeling.model import SymbolicNetwork

#: random inputs of each ball whose outputs are drawn
CLOUD = 3000


def change_figure(
    network: SymbolicNetwork,
    x: Tensor,
    eps: float,
    changes: Mapping[float, Change],
    *,
    heading: str = "",
    names: tuple[str, str] = ("output 0", "output 1"),
    row: int = 0,
) -> Figure:
    """Draw a panel for each norm: outputs of random inputs of the ball, the output reached, value and bound as circles.

    Args:
        network: with two outputs.
        x: ``(B, *input_shape)`` what was given to :func:`clinch.applications.regression.largest_change`.
        eps: the radius.
        changes: norm -> what it returned.
        heading: one line above everything.
        names: of the two outputs.
        row: which input.

    Raises:
        ShapeError: the network has another number of outputs.
    """
    if network.graph.nodes[network.graph.output].size != 2:
        raise ShapeError("The picture of a change needs two outputs. Index them in the model, or draw another figure.")
    with style():
        figure = new_figure(figsize=(3.5 * len(changes) + 0.3, 4.7), dpi=150)
        grid = figure.add_gridspec(1, len(changes), left=0.075, right=0.985, bottom=0.2, top=0.76, wspace=0.3)
        for k, (p, change) in enumerate(changes.items()):
            axes = figure.add_subplot(grid[k])
            _panel(axes, network, x[row], eps, p, change, row)
            axes.set_xlabel(names[0])
            axes.set_ylabel(names[1] if k == 0 else "")
            if k == 0:
                handles, labels = axes.get_legend_handles_labels()
                figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, handlelength=1.6)
        figure.text(0.018, 0.965, heading, fontsize=13, fontweight="bold", va="top")
    return figure


def random_in_ball(x: Tensor, eps: float, p: float, count: int) -> Tensor:
    """``(count, *input_shape)`` random inputs around one input, half of them on the ball's surface."""
    generator = torch.Generator().manual_seed(0)
    offset = torch.randn(count, x.numel(), generator=generator, dtype=torch.float64)
    norm = norm_of(p)
    if norm.sparse:  # few elements, as the extreme points have
        offset = offset.sign() * offset.abs().pow(4)
    elif norm.is_box:
        offset = (2 * offset).clamp(-1, 1)  # many elements at their limits
    length = norm.of(offset).unsqueeze(1)
    share = torch.rand(count, 1, generator=generator, dtype=torch.float64).mul(2).clamp(max=1)
    return x + (eps * share * offset / length).reshape(count, *x.shape).to(x)


def _panel(axes: Axes, network: SymbolicNetwork, x: Tensor, eps: float, p: float, change: Change, row: int) -> None:
    from matplotlib.patches import Circle

    graph = network.graph_as(torch.float64, "cpu")
    points = torch.cat([x[None].double(), change.x[row : row + 1].double(), random_in_ball(x, eps, p, CLOUD).double()])
    with torch.no_grad():
        outputs = graph.forward(points)[graph.output].flatten(1).numpy()
    start, reached = outputs[:2]
    value, bound = float(change.value[row]), float(change.bound[row])
    for radius, colour, fill, width in ((bound, BOUND, GAP, 3.2), (value, VALUE, "white", 1.2)):
        axes.add_patch(Circle(tuple(start), radius, facecolor=fill, edgecolor="none", zorder=0))
        axes.add_patch(Circle(tuple(start), radius, facecolor="none", edgecolor=colour, linewidth=width, zorder=2))
    axes.scatter(outputs[2:, 0], outputs[2:, 1], s=1.5, color=MUTED, linewidth=0, zorder=1)
    axes.plot(*np.stack([start, reached]).T, color=VALUE, linewidth=1.2, zorder=3)
    axes.scatter(*start, s=28, color=INK, zorder=4, label="f(x₀)")
    axes.scatter(*reached, s=34, color=VALUE, zorder=4, label="f(x) found")
    for colour, text in ((VALUE, "change found"), (BOUND, "proven: nothing leaves this circle")):
        axes.plot([], [], color=colour, linewidth=1.6, label=text)
    axes.scatter([], [], s=8, color=MUTED, label="random inputs of the ball")
    reach = 1.12 * max(bound, value)
    axes.set_xlim(start[0] - reach, start[0] + reach)
    axes.set_ylim(start[1] - reach, start[1] + reach)
    axes.set_aspect("equal")
    linear = float(flat(change.linear.value)[row])
    symbol = {1.0: "₁", 2.0: "₂"}.get(float(p), "∞")
    axes.set_title(f"‖η‖{symbol} ≤ {eps:g}", fontweight="bold", pad=30)
    numbers = f"found {number(value, 4)}, proven {number(bound, 4)}\nlinear model {number(linear, 4)}"
    axes.text(0.5, 1.02, numbers, transform=axes.transAxes, ha="center", va="bottom", fontsize=8.5)
