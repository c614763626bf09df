"""Monitors by distance: an input is accepted while its activations are near those of its class.

With the inverse covariance of the training data as metric this is the Mahalanobis detector of Lee, Lee, Lee and Shin
2018 (arXiv 1807.03888, one shared covariance, without their input preprocessing); with the plain metric and several
centres it is the distance to the nearest prototype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from clinch.applications.monitors.clusters import k_means
from clinch.errors import ProblemError
from clinch.modeling.constraints import Constraint, Junction
from clinch.modeling.norms import NormExpression, norm
from clinch.network.activations import activations
from clinch.runtime.short import short_repr

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork

#: added to a covariance, relative to its mean variance, so that it can be inverted
SHRINKAGE = 1e-3


@dataclass(frozen=True, repr=False)
class BallMonitor:
    """Balls around centres of each class on the activations of a layer: it objects outside of all of them.

    Attributes:
        layer: name of the watched layer, n elements.
        centres: ``(classes, k, n)`` float64.
        metric: ``(n, n)``: distances are ``‖(h − centre) @ metric‖₂``.
        radius: ``(classes,)``.
        margin: by how much farther, relative to the radius, activations must be for the monitor to object.
    """

    layer: str
    centres: Tensor
    metric: Tensor
    radius: Tensor
    margin: float = 0.01

    __repr__ = short_repr

    @classmethod
    def around(
        cls, layer: str, h: Tensor, group: Tensor, groups: int, centres: int, whitened: bool, quantile: float, seed: int
    ) -> Self:
        """Balls around activations ``(N, *layer_shape)`` of groups ``(N,)``.

        Raises:
            ProblemError: a group without activations.
        """
        flat = h.flatten(1).double()
        counts = torch.bincount(group, minlength=groups)
        if bool((counts == 0).any()):
            raise ProblemError(
                f"No training input is assigned to class {int((counts == 0).nonzero()[0])}: give inputs of every class."
            )
        means = []
        for c in range(groups):
            mine = flat[group == c]
            cluster = k_means(mine, centres, seed)
            found = torch.stack([mine[cluster == k].mean(0) for k in range(int(cluster.max()) + 1)])
            # fewer different activations than centres: the last one is repeated
            means.append(torch.cat([found, found[-1:].expand(centres - len(found), -1)]))
        made = cls(layer, torch.stack(means), _metric(flat, torch.stack(means), group, whitened), torch.ones(groups))
        distance = made.distance(h, group)
        radius = torch.stack([torch.quantile(distance[group == c], 1 - quantile) for c in range(groups)])
        return replace(made, radius=radius.double().clamp(min=1e-9))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.centres)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the watched layers."""
        return (self.layer,)

    @property
    def apart(self) -> bool:
        """Its conditions are stated for one class at a time."""
        return True

    def scaled(self, factor: float) -> Self:
        """The same centres with other radii."""
        return replace(self, radius=self.radius * factor)

    def distance(self, h: Tensor, classes: int | Tensor) -> Tensor:
        """``(B,)`` distances of activations ``(B, *layer_shape)`` to the nearest centre of their classes."""
        flat = h.flatten(1).double()
        centres = self.centres[torch.as_tensor(classes).cpu()].to(flat.device)
        return ((flat.unsqueeze(1) - centres) @ self.metric.to(flat.device)).norm(dim=2).amin(1)

    def score(self, network: SymbolicNetwork, x: Tensor, classes: int | Tensor) -> Tensor:
        """``(B,)``: the monitor accepts up to 0 and objects from 1 on; see :meth:`BoxMonitor.score`."""
        return self.score_at({self.layer: activations(network, x, self.layer)[0]}, classes)

    def score_at(self, h: Mapping[str, Tensor], classes: int | Tensor) -> Tensor:
        """:meth:`score` of activations ``(B, *layer_shape)`` by the name of their layer."""
        away = self.distance(h[self.layer], classes)
        return (away / self.radius[torch.as_tensor(classes).cpu()].to(away.device) - 1) / self.margin

    def outside(self, network: SymbolicNetwork, classes: int | Tensor) -> Constraint:
        """The monitor objects: the activations are farther than the radius from every centre of the class.

        Args:
            network: what ``clinch.load`` returned.
            classes: one class.
        """
        c = self._one(classes)
        limit = float(self.radius[c]) * (1 + self.margin)
        parts = [self._distance(network, centre) >= limit for centre in self.centres[c].unique(dim=0)]
        return parts[0] if len(parts) == 1 else Junction.of(True, parts)

    def inside(self, network: SymbolicNetwork, classes: int | Tensor) -> Constraint:
        """The monitor accepts, which with several centres is a choice: see :meth:`accepting`.

        Raises:
            ProblemError: there are several centres.
        """
        choices = self.accepting(network, classes)
        if len(choices) > 1:
            raise ProblemError("Near any of several centres is no single condition: state a problem for each choice.")
        return choices[0]

    def objecting(self, network: SymbolicNetwork, classes: int | Tensor) -> list[Constraint]:
        """Alternatives of which one must hold for the monitor to object: here a single one."""
        return [self.outside(network, classes)]

    def accepting(self, network: SymbolicNetwork, classes: int | Tensor) -> list[Constraint]:
        """Alternatives of which one must hold for the monitor to accept: one for each centre."""
        c = self._one(classes)
        return [self._distance(network, centre) <= float(self.radius[c]) for centre in self.centres[c]]

    def _distance(self, network: SymbolicNetwork, centre: Tensor) -> NormExpression:
        h = network[self.layer].flatten()
        return norm((h - centre) @ self.metric, 2)

    def _one(self, classes: int | Tensor) -> int:
        index = torch.as_tensor(classes).flatten().unique()
        if len(index) != 1 or not 0 <= int(index[0]) < self.classes:
            raise ProblemError(f"A monitor of balls is stated for one of its {self.classes} classes at a time.")
        return int(index[0])


def _metric(flat: Tensor, centres: Tensor, group: Tensor, whitened: bool) -> Tensor:
    size = flat.shape[1]
    if not whitened:
        return torch.eye(size, dtype=torch.float64)
    away = flat.unsqueeze(1) - centres[group]
    nearest = away.norm(dim=2).argmin(1)
    spread = torch.cov(away[torch.arange(len(flat)), nearest].T).reshape(size, size)
    spread = spread + SHRINKAGE * spread.diagonal().mean().clamp(min=1e-12) * torch.eye(size, dtype=torch.float64)
    return torch.linalg.inv(torch.linalg.cholesky(spread)).T
