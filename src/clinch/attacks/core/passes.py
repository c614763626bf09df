"""What attacks note about each input at every step, for as little time as a step of a tiny network takes."""

from __future__ import annotations

import torch
from torch import Tensor


class Passes:
    """Rows sent forward and backward for each of B inputs.

    Steps that ask about the same runs again give the same tensor of indices, which is counted out once, when somebody
    reads. Views of an objective that count in the same place share this object.

    Args:
        spent: ``(B,)`` rows sent forward so far.
    """

    def __init__(self, spent: Tensor) -> None:
        self._forward, self._backward = spent, torch.zeros_like(spent)
        self._last: Tensor | None = None
        self._noted = 0, 0

    def add(self, indices: Tensor, forward: int, backward: int) -> None:
        """So many passes of each of the given indices ``(L,)``, which may repeat and must not change afterwards."""
        if indices is not self._last:
            self._settle()
            self._last = indices
        self._noted = self._noted[0] + forward, self._noted[1] + backward

    def _settle(self) -> None:
        if self._last is not None and any(self._noted):
            each = torch.bincount(self._last, minlength=len(self._forward))
            forward, backward = self._noted
            self._forward += forward * each
            self._backward += backward * each
        self._last, self._noted = None, (0, 0)

    @property
    def forward(self) -> Tensor:
        """``(B,)``; what is added to it in place counts."""
        self._settle()
        return self._forward

    @property
    def backward(self) -> Tensor:
        """``(B,)`` likewise."""
        self._settle()
        return self._backward


class Surrogates:
    """Which of B inputs are asked for surrogate gradients at once, and how often there was none.

    Attributes:
        closed: ``(B,)`` those whose true gradient was zero, and whose surrogate was not.
        hopeless: ``(B,)`` how often both were zero.
        some: whether any is closed, known without asking the device.
    """

    def __init__(self, closed: Tensor) -> None:
        self.closed, self.hopeless = closed, torch.zeros_like(closed, dtype=torch.int64)
        self.some = bool(closed.any())

    def take(self, indices: Tensor) -> Surrogates:
        """Of chosen inputs, with what is hopeless tried anew."""
        return Surrogates(self.closed[indices])

    def close(self, indices: Tensor) -> None:
        """From now on their surrogates are asked for at once."""
        self.closed[indices] = True
        self.some = self.some or bool(len(indices))
