"""The moving averages of Adam, on which several attacks build steps of their own."""

from __future__ import annotations

import torch
from torch import Tensor

#: decay of the two averages, and what keeps the denominator away from zero
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8


class Moments:
    """Bias-corrected averages of gradients and of their squares (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1)."""

    def __init__(self, like: Tensor) -> None:
        self._mean, self._square, self._steps = torch.zeros_like(like), torch.zeros_like(like), 0

    def add(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Take a gradient in; returns the average m̂ and the scale ``√v̂ + 1e-8``, Adam's step being their ratio."""
        self._steps += 1
        self._mean = FIRST * self._mean + (1 - FIRST) * gradient
        self._square = SECOND * self._square + (1 - SECOND) * gradient.square()
        scale = (self._square / (1 - SECOND**self._steps)).sqrt() + TINY
        return self._mean / (1 - FIRST**self._steps), scale
