"""Digits on a canvas, a class for every pixel, and a small fully convolutional network that tells them apart.

Classes: 0 is the background, ``1 + d`` the ink of digit d, for the first few digits of those that come with
scikit-learn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinch.demo import digits
from clinch.runtime.short import short_repr

#: extents of the canvas in cells of one digit (8 × 8 pixels), and how far a digit may move inside its cell
CELLS, CELL, PLAY = (2, 3), 10, 2
#: a pixel of a digit is ink from here on
INK = 0.25
#: digits 0 to 4, and the background
DIGITS, CLASSES = 5, 6


class Canvases(NamedTuple):
    """Images ``(N, 1, 20, 30)`` with pixels in [0, 1], and the class of every pixel ``(N, 20, 30)``."""

    x: Tensor
    y: Tensor

    __repr__ = short_repr


def canvases(count: int, split: str = "train", seed: int = 0) -> Canvases:
    """Canvases with random digits: each cell holds one at a random place, or with probability 1/4 none.

    Args:
        count: N.
        split: which of the digits, ``"train"`` or ``"test"``.
        seed: of digits and places.
    """
    generator = torch.Generator().manual_seed(seed)
    images, labels = digits(split)
    images, labels = images[labels < DIGITS], labels[labels < DIGITS]
    rows, columns = CELLS
    which = torch.randint(len(images), (count, rows, columns), generator=generator)
    empty = torch.rand(which.shape, generator=generator) < 0.25
    shown = images[which].masked_fill(empty.view(*which.shape, 1, 1), 0.0)
    shift = torch.randint(PLAY + 1, (2, *which.shape, 1, 1), generator=generator)
    # pixel (i, j) of a cell shows pixel (i, j) − shift of its digit
    i, j = torch.meshgrid(torch.arange(CELL), torch.arange(CELL), indexing="ij")
    padded = nn.functional.pad(shown, (PLAY, PLAY, PLAY, PLAY)).flatten(3)
    source = (i - shift[0] + PLAY) * (8 + 2 * PLAY) + (j - shift[1] + PLAY)
    cells = padded.gather(3, source.flatten(3)).unflatten(3, (CELL, CELL))
    classes = torch.where(cells >= INK, (labels[which] + 1).view(*which.shape, 1, 1), 0)

    def joined(t: Tensor) -> Tensor:
        return t.permute(0, 1, 3, 2, 4).reshape(count, rows * CELL, columns * CELL)

    return Canvases(joined(cells).unsqueeze(1), joined(classes))


def architecture(width: int = 16) -> nn.Sequential:
    """Four convolutions with ReLU; every pixel's scores see 13 × 13 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, padding=2), nn.ReLU(),
        nn.Conv2d(width, width, 5, padding=2), nn.ReLU(),
        nn.Conv2d(width, width, 5, padding=2), nn.ReLU(),
        nn.Conv2d(width, CLASSES, 1),
    )  # fmt: skip


def train_segmenter(
    count: int = 2000, *, epochs: int = 10, batch: int = 20, width: int = 16, learning_rate: float = 8e-3, seed: int = 0
) -> nn.Sequential:
    """Mean cross-entropy of the pixels, Adam, a step size that rises and falls once. Under a minute on one core.

    Args:
        count: canvases to learn from.
        epochs: passes over them.
        batch: canvases of one step.
        width: channels of each hidden layer.
        learning_rate: the largest step size.
        seed: of weights, canvases and order.
    """
    x, y = canvases(count, "train", seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture(width)
        optimiser = torch.optim.Adam(model.parameters())
        steps = epochs * -(-count // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(count).split(batch):
                loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    return model.eval().requires_grad_(False)


def pixel_accuracy(model: nn.Module, shown: Canvases) -> tuple[float, float]:
    """Share of all pixels, and of those with ink, whose class is right."""
    with torch.no_grad():
        right = model(shown.x).argmax(1) == shown.y
    return float(right.double().mean()), float(right[shown.y > 0].double().mean())
