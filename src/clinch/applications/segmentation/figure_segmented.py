"""A segmentation network under a perturbation: input, perturbation, output before and after, what is proven."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clinch.errors import ShapeError
from clinch.figures.inputs import frame, is_image, pixels
from clinch.figures.style import INK, new_figure, number, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: class colours, distinguishable with any colour vision (Okabe and Ito); class 0 is the background
CLASS_COLOURS = ("#F3F3F3", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#222222")
#: what is proven, what is changed and what is open
PROVEN, CHANGED, OPEN = "#CFE3F1", INK, "#F6E3B4"


def segmentation_figure(
    x: Tensor, z: Tensor, before: Tensor, after: Tensor, *, target: Tensor | None = None, changed: Tensor | None = None,
    fixed: Tensor | None = None, classes: Sequence[str] = (), notes: Sequence[str] = (), heading: str = "",
) -> Figure:  # fmt: skip
    """Draw one row for each of N images: the input, the perturbation amplified, the network's output before and after,
    and where given the target map and the map of pixels that are proven, changed and open.

    Args:
        x: ``(N, *image_shape)`` inputs; ``z`` the perturbed ones.
        z: see there.
        before: ``(N, H, W)`` classes of x; ``after`` those of z.
        after: see there.
        target: ``(N, H, W)`` wanted classes; −1 all over a map where none was wanted.
        changed: booleans ``(N, H, W)`` pixels that the attack changes; with ``fixed``, those proven unchangeable.
        fixed: see there.
        classes: names of the classes for the legend.
        notes: a line for each row, written at its left.
        heading: above everything.

    Raises:
        ShapeError: maps and images do not fit each other.
    """
    from matplotlib.patches import Patch

    if x.shape != z.shape or not is_image(tuple(x.shape[1:])) or len(before) != len(x) or before.shape != after.shape:
        raise ShapeError(f"Images {tuple(x.shape)} and {tuple(z.shape)}, maps {tuple(before.shape)}: give N of each.")
    maps = {"output before": before, "output after": after} | ({} if target is None else {"target": target})
    columns, count = 2 + len(maps) + (changed is not None), len(x)
    size = (1.68 * columns + 0.2, count * (1.55 * x.shape[-2] / x.shape[-1] + 0.12) + 1.0)
    with style():
        figure = new_figure(figsize=size, dpi=150, layout="constrained")
        axes = figure.subplots(count, columns, squeeze=False)
        for row in range(count):
            titles = ["input", "perturbation", *maps, "what is proven"] if not row else [""] * columns
            _draw_inputs(axes[row], x[row], z[row], titles, notes[row] if row < len(notes) else "")
            for panel, each, title in zip(axes[row][2:], maps.values(), titles[2:]):
                _draw_classes(panel, each[row], title)
            if changed is not None:
                _draw_states(axes[row][-1], changed[row], None if fixed is None else fixed[row], titles[columns - 1])
        names = [(CLASS_COLOURS[c % len(CLASS_COLOURS)], name) for c, name in enumerate(classes)]
        names += [] if changed is None else [(CHANGED, "changed"), (OPEN, "open"), (PROVEN, "proven unchangeable")]
        if names:
            patches = [Patch(facecolor=colour, edgecolor="#B0B0B0", label=name) for colour, name in names]
            figure.legend(
                handles=patches, loc="outside lower center", ncols=min(9, len(patches)), frameon=False, fontsize=8
            )
        if heading:
            figure.suptitle(heading, fontsize=10.5, color=INK, x=0.01, ha="left")
    return figure


def _draw_inputs(panels: Sequence[Axes], clean: Tensor, moved: Tensor, titles: Sequence[str], note: str) -> None:
    """The input and the perturbation, which fills the range of colours."""
    clean, moved = (t.detach().cpu().double() for t in (clean, moved))
    panels[0].imshow(pixels(clean.numpy(), 0.0, 1.0), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    frame(panels[0], titles[0])
    panels[0].set_ylabel(note, fontsize=8)
    delta = (moved - clean).numpy()
    limit = max(float(np.abs(delta).max()), 1e-12)
    shown = pixels(delta, -limit, limit, signed=True)
    panels[1].imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    frame(panels[1], titles[1])
    panels[1].set_xlabel(f"±{number(limit)}, × {number(1 / limit)}", fontsize=7.5, labelpad=2)


def _draw_classes(panel: Axes, classes: Tensor, title: str) -> None:
    """A map of classes; nothing where it says −1."""
    from matplotlib.colors import ListedColormap

    if int(classes.max()) < 0:
        panel.set_title(title)
        panel.axis("off")
        return
    most = len(CLASS_COLOURS)
    shown = (classes % most).cpu().numpy()
    panel.imshow(shown, cmap=ListedColormap(list(CLASS_COLOURS)), vmin=-0.5, vmax=most - 0.5, interpolation="nearest")
    frame(panel, title)


def _draw_states(panel: Axes, changed: Tensor, fixed: Tensor | None, title: str) -> None:
    """Which pixels are changed, open and proven, and how many of the first and the last."""
    from matplotlib.colors import ListedColormap

    state = changed.cpu().long()
    state = state if fixed is None else state.masked_fill(fixed.cpu(), 2)
    panel.imshow(state.numpy(), cmap=ListedColormap([OPEN, CHANGED, PROVEN]), vmin=0, vmax=2, interpolation="nearest")
    frame(panel, title)
    counts = {"changed": int((state == 1).sum()), "proven": int((state == 2).sum())}
    shown = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    panel.set_xlabel(shown, fontsize=7.5, labelpad=2)
