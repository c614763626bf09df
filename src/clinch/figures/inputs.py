"""Two inputs and their difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clinch.figures.style import INK, MUTED, VALUE, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_inputs(panels: Sequence[Axes], x0: Tensor, x: Tensor, *, before: str = "x₀", after: str = "x") -> None:
    """Draw x0, x and ``x − x0`` on three axes: as images where the shape is one, as curves otherwise."""
    a, b = (t.detach().cpu().double().numpy() for t in (x0, x))
    limit = max(float(np.abs(b - a).max()), 1e-12)
    if is_image(a.shape):
        low, high = min(0.0, float(a.min()), float(b.min())), max(1.0, float(a.max()), float(b.max()))
        for axes, image, title in zip(panels, (a, b), (before, after)):
            axes.imshow(pixels(image, low, high), cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
            frame(axes, title)
        delta = pixels(b - a, -limit, limit, signed=True)
        shown = panels[2].imshow(delta, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        frame(panels[2], "difference x − x₀")
        strip = panels[2].inset_axes((0.0, -0.1, 1.0, 0.045))
        bar = panels[2].figure.colorbar(shown, cax=strip, orientation="horizontal")
        bar.set_ticks([-limit, 0, limit], labels=[number(-limit), "0", "+" + number(limit)])
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


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of a grey or colour image."""
    grey = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)
    return (grey or (len(shape) == 3 and shape[0] == 3)) and min(shape[-2:]) > 1


def pixels(image: np.ndarray, low: float, high: float, *, signed: bool = False) -> np.ndarray:
    """Height × width for the colour map, or height × width × 3; differences of colour images are averaged."""
    if image.ndim == 2:
        return image
    if image.shape[0] == 1:
        return image[0]
    return image.mean(0) if signed else np.moveaxis((image - low) / (high - low), 0, -1)


def frame(axes: Axes, title: str) -> None:
    """A title, no ticks and a faint frame around an image."""
    axes.set_title(title)
    axes.set_anchor("N")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color("#D0D0D0")
