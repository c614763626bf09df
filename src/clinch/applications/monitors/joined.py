"""Monitors joined from box monitors: several boxes per class, several layers, and both."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clinch.applications.monitors.boxes import BoxMonitor, check_settings, watched
from clinch.errors import ProblemError
from clinch.modeling.constraints import Constraint, Junction

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork


@dataclass(frozen=True)
class JoinedMonitor:
    """Several monitors that speak with one voice.

    Attributes:
        parts: box monitors, or joined ones.
        every: True: it objects where every part objects, as outside of all boxes of a class; False: where any part
            does, as on any of several layers.
    """

    parts: tuple[BoxMonitor | JoinedMonitor, ...]
    every: bool

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.parts[0].classes

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the watched layers."""
        return tuple(dict.fromkeys(layer for part in self.parts for layer in part.layers))

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
        scores = torch.stack([part.score(network, x, classes) for part in self.parts])
        return scores.amin(0) if self.every else scores.amax(0)

    @staticmethod
    def _alternatives(every: bool, parts: list[list[Constraint]]) -> list[Constraint]:
        if not every:
            return [choice for part in parts for choice in part]
        return [_one(True, list(choices)) for choices in itertools.product(*parts)]


#: what can watch a network
Monitor = BoxMonitor | JoinedMonitor


def fit_monitor(
    network: SymbolicNetwork,
    layers: str | Sequence[str],
    x: Tensor,
    *,
    boxes: int = 1,
    quantile: float = 0.0,
    relative: float = 0.01,
    absolute: float = 1e-3,
    seed: int = 0,
) -> Monitor:
    """Fit boxes around the activations of each class, on one layer or several.

    With ``boxes=k`` the activations of a class are split by k-means and each part gets a box of its own: the monitor
    objects to what is outside all boxes of the class, as in Henzinger, Lukina and Schilling 2020 (arXiv 1911.09032,
    section 3; they choose k by the data, here it is given). On several layers it objects where any of them does.

    Args:
        network: what ``clinch.load`` returned; its output must be a vector with one entry per class.
        layers: name of a layer, or several.
        x: training inputs, ``(N, *input_shape)``; each counts for the class that the network itself gives it.
        boxes: boxes per class and layer. A class with fewer different activations has fewer.
        quantile: see :meth:`BoxMonitor.fit`; of the inputs of one box.
        relative: share of a box's width by which an activation must be outside for the monitor to object,
        absolute: and at least this much.
        seed: of k-means.

    Raises:
        UnknownLayer, ShapeError, ProblemError: as :meth:`BoxMonitor.fit`; no layer, or no box.

    Example:
        >>> monitor = fit_monitor(net, ["relu1", "relu2"], x_train, boxes=3, quantile=0.001)
        >>> monitor.layers
        ('relu1', 'relu2')
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names:
        raise ProblemError("There is no layer to watch. Name one, as in layers='relu2'.")
    if not isinstance(boxes, int) or boxes < 1:
        raise ProblemError(f"boxes={boxes} is no number of boxes. Write 1 or more.")
    check_settings(relative, absolute, quantile)
    parts: list[Monitor] = []
    for layer in names:
        h, z = watched(network, x, layer)
        group = z.argmax(1)
        if boxes == 1:
            parts.append(BoxMonitor.around(layer, h, group, z.shape[1], relative, absolute, quantile))
        else:
            parts.append(_clustered(layer, h, group, z.shape[1], boxes, relative, absolute, quantile, seed))
    return parts[0] if len(parts) == 1 else JoinedMonitor(tuple(parts), every=False)


def _clustered(
    layer: str, h: Tensor, group: Tensor, groups: int, boxes: int, relative: float, absolute: float, quantile: float,
    seed: int,
) -> JoinedMonitor:  # fmt: skip
    """One box monitor for the first cluster of every class, one for the second, and so on."""
    from sklearn.cluster import KMeans

    cluster = torch.zeros(len(h), dtype=torch.long)
    counts = torch.ones(groups, dtype=torch.long)
    for c in range(groups):
        rows = (group == c).nonzero().flatten()
        flat = h[rows].flatten(1).numpy()
        counts[c] = min(boxes, len(np.unique(flat, axis=0)))
        if counts[c] > 1:
            means = KMeans(int(counts[c]), n_init="auto", random_state=seed)
            cluster[rows] = torch.from_numpy(np.asarray(means.fit_predict(flat), dtype=np.int64))
    # an empty class is named by the box monitor itself
    parts = []
    for k in range(int(counts.max())):
        # classes with fewer clusters repeat their last one: being outside it twice asks for nothing more
        mine = cluster == torch.minimum(torch.full_like(counts, k), counts - 1)[group]
        parts.append(BoxMonitor.around(layer, h[mine], group[mine], groups, relative, absolute, quantile))
    return JoinedMonitor(tuple(parts), every=True)


def _one(every: bool, parts: list[Constraint]) -> Constraint:
    if len(parts) == 1:
        return parts[0]
    return Junction.of(True, parts) if every else reduce(lambda a, b: a | b, parts)
