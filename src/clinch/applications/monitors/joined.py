"""Monitors joined from box monitors: several boxes per class, several layers, and both."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clinch.applications.monitors.balls import BallMonitor
from clinch.applications.monitors.boxes import BoxMonitor
from clinch.modeling.constraints import Constraint, Junction
from clinch.network.activations import activations

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork


@dataclass(frozen=True)
class JoinedMonitor:
    """Several monitors that speak with one voice.

    Attributes:
        parts: monitors of boxes or balls, or joined ones.
        every: True: it objects where every part objects, as outside of all boxes of a class; False: where any part
            does, as on any of several layers.
    """

    parts: tuple[BoxMonitor | BallMonitor | JoinedMonitor, ...]
    every: bool

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.parts[0].classes

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the watched layers."""
        return tuple(dict.fromkeys(layer for part in self.parts for layer in part.layers))

    @property
    def apart(self) -> bool:
        """Whether its conditions are stated for one class at a time."""
        return any(part.apart for part in self.parts)

    def outside(self, network: SymbolicNetwork, classes: int | Tensor) -> Constraint:
        """The monitor objects; classes as in :meth:`BoxMonitor.outside`.

        Raises:
            ProblemError: at solving, where many boxes on many layers have too many combinations: then state one problem
                for each of :meth:`objecting`.
        """
        return _one(self.every, [part.outside(network, classes) for part in self.parts])

    def inside(self, network: SymbolicNetwork, classes: int | Tensor) -> Constraint:
        """The monitor accepts; classes as in :meth:`BoxMonitor.inside`.

        Raises:
            ProblemError: at solving, for large layers with several boxes, which have no small conjunctive form: then
                state one problem for each of :meth:`accepting`.
        """
        return _one(not self.every, [part.inside(network, classes) for part in self.parts])

    def objecting(self, network: SymbolicNetwork, classes: int | Tensor) -> list[Constraint]:
        """Alternatives of which one must hold for the monitor to object, each small enough for one problem."""
        # outside any of plain boxes is a single disjunction
        if all(isinstance(part, BoxMonitor) for part in self.parts):
            return [self.outside(network, classes)]
        return self._alternatives(self.every, [part.objecting(network, classes) for part in self.parts])

    def accepting(self, network: SymbolicNetwork, classes: int | Tensor) -> list[Constraint]:
        """Alternatives of which one must hold for the monitor to accept, each small enough for one problem."""
        return self._alternatives(not self.every, [part.accepting(network, classes) for part in self.parts])

    def score(self, network: SymbolicNetwork, x: Tensor, classes: int | Tensor) -> Tensor:
        """``(B,)``: the monitor accepts up to 0 and objects from 1 on; arguments as in :meth:`BoxMonitor.score`."""
        return self.score_at(dict(zip(self.layers, activations(network, x, *self.layers))), classes)

    def score_at(self, h: Mapping[str, Tensor], classes: int | Tensor) -> Tensor:
        """:meth:`score` of activations ``(B, *layer_shape)`` by the names of their layers."""
        scores = torch.stack([part.score_at(h, classes) for part in self.parts])
        return scores.amin(0) if self.every else scores.amax(0)

    @staticmethod
    def _alternatives(every: bool, parts: list[list[Constraint]]) -> list[Constraint]:
        if not every:
            return [choice for part in parts for choice in part]
        return [_one(True, list(choices)) for choices in itertools.product(*parts)]


#: what can watch a network
Monitor = BoxMonitor | BallMonitor | JoinedMonitor


def _one(every: bool, parts: list[Constraint]) -> Constraint:
    if len(parts) == 1:
        return parts[0]
    return Junction.of(True, parts) if every else reduce(lambda a, b: a | b, parts)
