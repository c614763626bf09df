"""What all figures share: colours, settings, numbers, and how they are written to disk."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from clinch.io.files import printable, replacing
from clinch.runtime.optional import required

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Okabe and Ito's colours, distinguishable with any colour vision
VALUE, BOUND, GAP, INK, MUTED = "#D55E00", "#0072B2", "#CFE3F1", "#222222", "#8A8A8A"

#: characters of a heading; a longer one would leave no room for the axes
LONGEST = 90

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


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the ending of the name chooses the format (png, svg, pdf). Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with style(), replacing(path) as beside:
        figure.savefig(beside, format=path.suffix[1:] or None)
    return path


def new_figure(**options: Any) -> Figure:
    """An empty figure that belongs to no window; options as of ``matplotlib.figure.Figure``.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    return required("matplotlib.figure", "report").Figure(**options)


def style() -> AbstractContextManager[None]:
    """Clinch's matplotlib settings, for the length of a ``with`` block."""
    return required("matplotlib", "report").rc_context({**STYLE})  # type: ignore[return-value]


def plain(text: str) -> str:
    """A text of a stranger: one line of a length that fits, and no formula to matplotlib."""
    shown = printable(text, lines=False)
    return (shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…").replace("$", r"\$")


def flat(t: Tensor) -> np.ndarray:
    """A tensor as one row of float64 numbers."""
    return t.detach().cpu().double().flatten().numpy()


def number(value: float, digits: int = 2) -> str:
    """A number with so many significant digits and a proper minus sign."""
    return f"{value:.{digits}g}".replace("-", "−")
