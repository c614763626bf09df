"""Boxes of the input: what a search over the input holds, and the order in which it takes them up."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

#: numbers that the limits of waiting boxes may take together; beyond that boxes wait without them
MEMORY = 1 << 27


@dataclass(frozen=True)
class Boxes:
    """D boxes of the input.

    Attributes:
        problem: ``(D,)`` problem that each belongs to.
        lower: ``(D, *input_shape)``.
        upper: ``(D, *input_shape)``.
        bound: ``(D,)`` proven: no feasible input of the box has a smaller objective.
        limits: ``(D, M)`` limits of activations that hold in the box, in the bounder's own layout; None: not known.
    """

    problem: Tensor
    lower: Tensor
    upper: Tensor
    bound: Tensor
    limits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.problem)

    def take(self, index: Tensor) -> Boxes:
        """The chosen boxes, in that order; an index may repeat."""
        limits = None if self.limits is None else self.limits[index]
        return Boxes(self.problem[index], self.lower[index], self.upper[index], self.bound[index], limits)

    @staticmethod
    def cat(parts: Sequence[Boxes]) -> Boxes:
        """All boxes of all parts; limits are dropped where some part has none."""
        if len(parts) == 1:
            return parts[0]
        limits = [part.limits for part in parts if part.limits is not None]
        return Boxes(
            torch.cat([part.problem for part in parts]),
            torch.cat([part.lower for part in parts]),
            torch.cat([part.upper for part in parts]),
            torch.cat([part.bound for part in parts]),
            torch.cat(limits) if len(limits) == len(parts) else None,
        )

    def halves(self, element: Tensor) -> Boxes:
        """Both halves of every box along the given input element ``(D,)``: all lower halves, then all upper halves."""
        at = element.unsqueeze(1)
        low, high = self.lower.flatten(1), self.upper.flatten(1)
        middle = (low.gather(1, at) + high.gather(1, at)) / 2
        below = high.scatter(1, at, middle).reshape(self.upper.shape)
        above = low.scatter(1, at, middle).reshape(self.lower.shape)
        return Boxes.cat([replace(self, upper=below), replace(self, lower=above)])


class Frontier:
    """The open boxes of a search, taken up in groups: smallest bound first, of equal ones the newest.

    Where all bounds are equal (a question without objective) this is depth first, and few boxes wait.
    """

    def __init__(self, problems: int, device: torch.device | str = "cpu") -> None:
        self.problems, self.device = problems, device
        self._groups: list[tuple[float, int, Boxes, Tensor]] = []
        self._counter = itertools.count()
        self._stored = 0

    def __bool__(self) -> bool:
        return bool(self._groups)

    def push(self, boxes: Boxes, size: int) -> None:
        """Add boxes in groups of at most ``size``, those of smallest bound together."""
        order = boxes.bound.argsort(stable=True)
        # the group of smallest bound is added last, so that it is the newest among equals
        for index in reversed(order.split(size)):
            group = boxes.take(index)
            if group.limits is not None and self._stored + group.limits.numel() > MEMORY:
                group = replace(group, limits=None)
            if group.limits is not None:
                self._stored += group.limits.numel()
            least = torch.full((self.problems,), torch.inf, dtype=group.bound.dtype, device=group.bound.device)
            least = least.scatter_reduce(0, group.problem, group.bound, "amin")
            heapq.heappush(self._groups, (float(group.bound.min()), -next(self._counter), group, least))

    def pop(self, size: int) -> Boxes:
        """At least one group, and further ones as long as they fit into ``size`` boxes."""
        parts, count = [], 0
        while self._groups and (not parts or count + len(self._groups[0][2]) <= size):
            group = heapq.heappop(self._groups)[2]
            if group.limits is not None:
                self._stored -= group.limits.numel()
            parts.append(group)
            count += len(group)
        return Boxes.cat(parts)

    def least(self) -> Tensor:
        """``(B,)`` the smallest bound among each problem's open boxes, infinity where none is open."""
        if not self._groups:
            return torch.full((self.problems,), torch.inf, dtype=torch.float64, device=self.device)
        return torch.stack([least for _, _, _, least in self._groups]).amin(0)
