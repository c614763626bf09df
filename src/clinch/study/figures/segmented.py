"""A segmentation network under a perturbation: input, perturbation, output before and after, what is proven."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clinch.errors import ShapeError
from clinch.study.figures.inputs import frame, is_image, pixels
from clinch.study.figures.style import INK, number, style

if TYPE_CHECKING:
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
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if x.shape != z.shape or not is_image(tuple(x.shape[1:])) or len(before) != len(x) or before.shape != after.shape:
        raise ShapeError(f"Images {tuple(x.shape)} and {tuple(z.shape)}, maps {tuple(before.shape)}: give N of each.")
    maps = {"output before": before, "output after": after} | ({} if target is None else {"target": target})
    columns, count = 2 + len(maps) + (changed is not None), len(x)
    most = int(max(int(m.max()) for m in maps.values())) + 1
    colours = ListedColormap([CLASS_COLOURS[c % len(CLASS_COLOURS)] for c in range(most)])
    shades = BoundaryNorm(np.arange(most + 1) - 0.5, most)
    height = 1.55 * x.shape[-2] / x.shape[-1]
    with style():
        figure = Figure(figsize=(1.68 * columns + 0.2, count * (height + 0.12) + 1.0), dpi=150, layout="constrained")
        axes = figure.subplots(count, columns, squeeze=False)
        for row, (clean, moved) in enumerate(zip(x.detach().cpu().double(), z.detach().cpu().double())):
            titles = iter([""] * columns)
            if not row:
                titles = iter(["input", "perturbation", *maps, "what is proven"])
            panel = iter(axes[row])
            shown = next(panel)
            shown.imshow(pixels(clean.numpy(), 0.0, 1.0), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            frame(shown, next(titles))
            if row < len(notes):
                shown.set_ylabel(notes[row], fontsize=8)
            delta = (moved - clean).numpy()
            limit = max(float(np.abs(delta).max()), 1e-12)
            shown = next(panel)
            shown.imshow(pixels(delta, -limit, limit, signed=True), cmap="RdBu_r", vmin=-limit, vmax=limit)
            frame(shown, next(titles))
            shown.set_xlabel(f"±{number(limit)}, × {number(1 / limit)}", fontsize=7.5, labelpad=2)
            for each in maps.values():
                shown = next(panel)
                if int(each[row].max()) < 0:
                    shown.set_title(next(titles))
                    shown.axis("off")
                    continue
                shown.imshow(each[row].cpu().numpy(), cmap=colours, norm=shades, interpolation="nearest")
                frame(shown, next(titles))
            if changed is not None:
                kind = torch.where(changed[row].cpu(), 1, 0)
                kind = kind if fixed is None else torch.where(fixed[row].cpu(), 2, kind)
                shown = next(panel)
                shown.imshow(
                    kind, cmap=ListedColormap([OPEN, CHANGED, PROVEN]), vmin=0, vmax=2, interpolation="nearest"
                )
                frame(shown, next(titles))
                counts = [int((kind == k).sum()) for k in (1, 0, 2)]
                shown.set_xlabel(" / ".join(map(str, counts)), fontsize=7.5, labelpad=2)
        patches = [Patch(facecolor=colours(c), edgecolor="#B0B0B0", label=name) for c, name in enumerate(classes)]
        if changed is not None:
            states = zip((CHANGED, OPEN, PROVEN), ("changed", "open", "proven"))
            patches += [Patch(facecolor=colour, edgecolor="#B0B0B0", label=name) for colour, name in states]
        if patches:
            columns = min(9, len(patches))
            figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
        if heading:
            figure.suptitle(heading, fontsize=10.5, color=INK, x=0.01, ha="left")
    return figure
