"""What a decoder made of damaged images: one row per image, one column per stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clinch.errors import ShapeError
from clinch.figures.inputs import is_image, pixels
from clinch.figures.style import new_figure, number, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: inches of one image, and of the space for the titles
SIZE, HEAD = 0.95, 0.62


def restored_figure(
    columns: Mapping[str, Tensor], *, truth: str | None = None, groups: Sequence[int] | None = None, heading: str = ""
) -> Figure:
    """Draw images in columns: the originals, the damaged ones, what each method restores.

    Args:
        columns: title -> images ``(N, *image_shape)``, the same N and shape for all.
        truth: title of the column that the others are compared with: their mean squared difference is written below.
        groups: positions of columns before which a wider gap is left.
        heading: above everything.

    Raises:
        ShapeError: the columns differ in shape, or hold no images.

    Example:
        >>> from clinch.figures import save
        >>> figure = restored_figure({"original": images, "damaged": noisy, "restored": images}, truth="original")
        >>> save(figure, "restored.png").name
        'restored.png'
    """
    shapes = {title: tuple(images.shape) for title, images in columns.items()}
    count, *shape = next(iter(shapes.values()))
    if len(set(shapes.values())) != 1 or not is_image(tuple(shape)):
        raise ShapeError(f"The columns have shapes {shapes}; give images (N, *image_shape) of one shape.")
    gaps = [0.28 if i in (groups or ()) else 0.0 for i in range(len(columns))]
    width = len(columns) + sum(gaps)
    with style():
        figure = new_figure(figsize=(SIZE * width + 0.2, SIZE * count + HEAD + (0.3 if heading else 0.0)), dpi=150)
        total = figure.get_size_inches()
        for i, (title, images) in enumerate(columns.items()):
            left = (0.1 + SIZE * (i + sum(gaps[: i + 1]))) / total[0]
            for k in range(count):
                bottom = (0.3 + SIZE * (count - 1 - k)) / total[1]
                axes = figure.add_axes((left, bottom, 0.94 * SIZE / total[0], 0.94 * SIZE / total[1]))
                image = images[k].detach().cpu().double().numpy()
                axes.imshow(pixels(image, 0.0, 1.0), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                for spine in axes.spines.values():
                    spine.set_visible(True)
                    spine.set_color("#D0D0D0")
                if k == 0:
                    axes.set_title(title, fontsize=8.5, pad=4)
                if k == count - 1 and truth is not None and title != truth:
                    off = np.square((images - columns[truth]).detach().cpu().double().numpy()).mean()
                    axes.set_xlabel(number(float(off), 3), fontsize=8, labelpad=3)
        if truth is not None:
            figure.text(0.1 / total[0], 0.08 / total[1], "mean squared error:", fontsize=7.5, va="baseline")
        if heading:
            figure.suptitle(heading, fontsize=10.5, x=0.1 / total[0], ha="left", y=1 - 0.12 / total[1], va="top")
    return figure
