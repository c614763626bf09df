"""What attacks on observations do to a policy: returns over eps, and the interval of actions that can be changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from clinch.figures.style import BOUND, GAP, INK, MUTED, VALUE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: of the attacks in their order
COLOURS = (MUTED, "#56B4E9", "#009E73", VALUE, BOUND, "#CC79A7", INK)
#: ending of the names of attacks that aim at the action of least value: dashed, in the colour of the name before it
WORST = ", worst action"


def policy_attack_figure(
    eps: Sequence[float],
    returns: Mapping[str, Sequence[Sequence[float]]],
    shares: Sequence[tuple[float, float, float]],
    *,
    heading: str = "",
) -> Figure:
    """Returns under attack on the left, the share of actions that can be changed on the right.

    Args:
        eps: E radii.
        returns: attack → E rows that begin with the mean return and its standard error.
        shares: rows of eps, the share that was changed, and the share that is not proven fixed.
        heading: of the figure.
    """
    with style():
        figure = new_figure(figsize=(8.2, 3.8), dpi=200, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        _draw_returns(left, np.asarray(eps, float), returns)
        _draw_shares(right, np.asarray(shares, float))
        figure.suptitle(heading, fontsize=11)
        # below the axes: inside of them no corner is free of lines; columns are filled from above
        handles, labels = left.get_legend_handles_labels()
        # and long enough to tell dashes
        look = {"frameon": False, "fontsize": 7.5, "handlelength": 3.6, "markerscale": 0.8}
        figure.legend(handles, labels, loc="outside lower center", ncols=4, **look)
        return figure


def _draw_returns(axes: Axes, eps: np.ndarray, returns: Mapping[str, Sequence[Sequence[float]]]) -> None:
    colours = dict(zip(dict.fromkeys(name.removesuffix(WORST) for name in returns), cycle(COLOURS)))
    for name, rows in returns.items():
        mean, error = np.asarray([row[:2] for row in rows], float).T
        colour, dashed = colours[name.removesuffix(WORST)], name.endswith(WORST)
        axes.plot(eps, mean, "--" if dashed else "-", color=colour, marker="o", markersize=3, linewidth=1.6, label=name)
        axes.fill_between(eps, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(eps, labels=[f"{e:g}" for e in eps])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("eps (ℓ∞)")
    axes.set_ylabel("return, mean and its standard error")
    axes.set_title("return under attack")


def _draw_shares(axes: Axes, shares: np.ndarray) -> None:
    eps, low, high = shares.T
    axes.fill_between(eps, low, high, color=GAP, linewidth=0, label="undecided")
    axes.plot(eps, high, color=BOUND, marker="o", markersize=3, linewidth=1.6, label="at most (proven)")
    axes.plot(eps, low, color=VALUE, marker="o", markersize=3, linewidth=1.6, label="at least (attacked)")
    axes.set_xscale("log")
    axes.set_xticks(eps, labels=[f"{e:g}" for e in eps], rotation=45)
    axes.minorticks_off()
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("eps (ℓ∞)")
    axes.set_title("share of actions that can be changed")
    axes.legend(frameon=False, fontsize=7.5, loc="lower right")
