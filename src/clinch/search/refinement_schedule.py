"""When to refine bounds of activations while a tree grows: as often as it pays beside the tree itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: the longest pause, relative to the time of the refinement before it
LONGEST = 30.0
#: the same in deep networks without convolutions: what one layer gains is seen in the layers above it only
LONGEST_DEEP = 1.0


class Progress:
    """How quickly a tree's bounds rise, on average over its open problems.

    Args:
        least: ``(B,)`` its bounds. seconds: of the search so far.

    Attributes:
        root: ``(B,)`` the roots' own bounds, with the present bounds of activations.
    """

    def __init__(self, least: Tensor, seconds: float) -> None:
        self.root = self._before = self._mark = least
        self._before_at = self._mark_at = seconds

    def look(self, least: Tensor, seconds: float) -> None:
        """Take note of the present: what is older than half of the time does not count."""
        if seconds > 2 * self._mark_at:
            self._before, self._before_at = self._mark, self._mark_at
            self._mark, self._mark_at = least, seconds

    def restart(self, least: Tensor, seconds: float, root: Tensor) -> None:
        """The bounds have been refined."""
        self._before = self._mark = least
        self._before_at = self._mark_at = seconds
        self.root = root

    def rate(self, least: Tensor, seconds: float) -> float:
        """By how much the bounds rise in a second at present."""
        return risen(self._before, least) / max(seconds - self._before_at, 1e-6)

    def forecast(self, least: Tensor, target: Tensor, seconds: float) -> float:
        """Seconds until they reach their targets ``(B,)``, should they go on as they do; infinity without targets."""
        open_ = torch.isfinite(least)
        left = float((target - least)[open_].clamp(min=0).mean()) if bool(open_.any()) else 0.0
        rate = self.rate(least, seconds)
        return left / rate if rate > 0 else math.inf


def risen(before: Tensor, after: Tensor) -> float:
    """By how much bounds ``(B,)`` have risen, on average over problems that have finite ones."""
    both = torch.isfinite(before) & torch.isfinite(after)
    rise = (after - before)[both].clamp(min=0)
    return float(rise.mean()) if len(rise) else 0.0


@dataclass
class Effort:
    """One kind of refinement, and when it is due again.

    Attributes:
        nodes: number of nodes bounded before it is due.
        least_pause, longest_pause: relative to its own time, however much or little it brings.
        seconds: of the search before it is due.
    """

    nodes: float
    least_pause: float = 0.0
    longest_pause: float = LONGEST
    seconds: float = 0.0

    def due(self, nodes: int, seconds: float) -> bool:
        """Whether it is."""
        return nodes >= self.nodes and seconds >= self.seconds

    def account(self, brought: float, tree_rate: float, began: float, ended: float) -> None:
        """Note what it brought: roots that rise as quickly as the tree does are worth as much time as the tree has.

        Args:
            brought: rise of the roots' bounds.
            tree_rate: rise of the tree's bounds in a second.
            began, ended: seconds of the search.
        """
        took = ended - began
        beside = tree_rate * took / brought if brought > 0 else math.inf
        self.seconds = ended + took * min(max(beside, self.least_pause), self.longest_pause)
