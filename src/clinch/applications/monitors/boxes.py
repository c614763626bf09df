"""Box monitors: per-class limits on a hidden layer's activations, and the constraint that a monitor objects.

A monitor watches one layer. It accepts an input of class c while every activation lies within the limits seen on
training inputs of that class, ``lower[c] <= h(x) <= upper[c]`` (the "outside the box" monitors of Henzinger, Lukina and
Schilling 2020, arXiv 1911.09032, with one box per class). Monitors of several boxes and layers are joined from these in
:mod:`clinch.applications.monitors.joined`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from clinch.applications.arguments import inputs_of
from clinch.errors import ProblemError, ShapeError
from clinch.network.activations import activations
from clinch.runtime.short import short_repr

if TYPE_CHECKING:
    from clinch.modeling.constraints import Constraint
    from clinch.modeling.model import SymbolicNetwork


@dataclass(frozen=True, repr=False)
class BoxMonitor:
    """One box per class on the activations of a layer.

    Attributes:
        layer: name of the watched layer.
        lower: ``(classes, *layer_shape)`` smallest activation seen, float64.
        upper: ``(classes, *layer_shape)`` largest activation seen, float64.
        margin: ``(classes, *layer_shape)`` how far outside an activation must be for the monitor to object, float64.

    Example:
        >>> monitor = BoxMonitor.fit(net, "relu2", x_train)
        >>> same_class = net.output.argmax() == 4
        >>> cl.Problem(cl.Minimize(cl.norm(net.input - x0, 2)), [same_class, monitor.outside(net, 4)])
        <Problem over Sequential: one problem, 2 constraints>
    """

    layer: str
    lower: Tensor
    upper: Tensor
    margin: Tensor

    __repr__ = short_repr

    @classmethod
    def fit(
        cls,
        network: SymbolicNetwork,
        layer: str,
        x: Tensor,
        *,
        relative: float = 0.01,
        absolute: float = 1e-3,
        quantile: float = 0.0,
    ) -> Self:
        """Take the limits over the inputs that the network itself assigns to each class.

        ``margin = max(relative · (upper − lower), absolute)`` for each activation.

        Args:
            network: what ``clinch.load`` returned; its output must be a vector with one entry per class.
            layer: name of the layer to watch.
            x: training inputs, shape ``(N, *input_shape)``.
            relative: share of the range seen.
            absolute: in the activations' own units.
            quantile: share of the inputs of a class that may lie below its limits, and above, for each activation by
                itself; 0: the smallest and the largest.

        Raises:
            UnknownLayer: the network has no such layer.
            ShapeError: the inputs do not fit the network, or its output is not a vector.
            ProblemError: no input falls into some class, or a setting that has no meaning.
        """
        check_settings(relative, absolute, quantile)
        h, z = watched(network, x, layer)
        return cls.around(layer, h, z.argmax(1), z.shape[1], relative, absolute, quantile)

    @classmethod
    def around(
        cls, layer: str, h: Tensor, group: Tensor, groups: int, relative: float, absolute: float, quantile: float
    ) -> Self:
        """The boxes around activations ``(N, *layer_shape)`` of groups ``(N,)``; settings as in :meth:`fit`.

        Raises:
            ProblemError: a group without activations.
        """
        empty = torch.bincount(group, minlength=groups) == 0
        if empty.any():
            c = int(empty.nonzero()[0])
            raise ProblemError(f"No training input is assigned to class {c}: give inputs of every class.")
        shape = h.shape[1:]
        if quantile:
            ends = [np.quantile(h[group == c].numpy(), [quantile, 1 - quantile], axis=0) for c in range(groups)]
            lower, upper = torch.from_numpy(np.stack(ends, 1)).unbind(0)
        else:
            lower = torch.full((groups, *shape), torch.inf, dtype=torch.float64)
            upper = torch.full((groups, *shape), -torch.inf, dtype=torch.float64)
            index = group.view(-1, *[1] * len(shape)).expand_as(h)
            lower.scatter_reduce_(0, index, h, "amin")
            upper.scatter_reduce_(0, index, h, "amax")
        margin = (relative * (upper - lower)).clamp(min=absolute)
        return cls(layer, lower, upper, margin)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.lower)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the watched layers."""
        return (self.layer,)

    @property
    def apart(self) -> bool:
        """Whether its conditions are stated for one class at a time: these are stated for many at once."""
        return False

    def widened(self, share: float) -> Self:
        """Boxes that reach so much farther on either side, as a share of their width (at least the margin)."""
        more = share * torch.maximum(self.upper - self.lower, self.margin)
        return replace(self, lower=self.lower - more, upper=self.upper + more)

    def outside(self, network: SymbolicNetwork, classes: int | Tensor) -> Constraint:
        """The monitor objects: some activation leaves its class's box by at least its margin.

        Args:
            network: what ``clinch.load`` returned.
            classes: class of the input, or ``(B,)`` classes of a batch of problems.
        """
        lower, upper, margin = self._of(classes)
        return ~network[self.layer].between(lower, upper, margin=margin)

    def inside(self, network: SymbolicNetwork, classes: int | Tensor) -> Constraint:
        """The monitor accepts: every activation lies in its class's box.

        Args:
            network: what ``clinch.load`` returned.
            classes: class of the input, or ``(B,)`` classes of a batch of problems.
        """
        lower, upper, _ = self._of(classes)
        return network[self.layer].between(lower, upper)

    def objecting(self, network: SymbolicNetwork, classes: int | Tensor) -> list[Constraint]:
        """Alternatives of which one must hold for the monitor to object: here a single one."""
        return [self.outside(network, classes)]

    def accepting(self, network: SymbolicNetwork, classes: int | Tensor) -> list[Constraint]:
        """Alternatives of which one must hold for the monitor to accept: here a single one."""
        return [self.inside(network, classes)]

    def score(self, network: SymbolicNetwork, x: Tensor, classes: int | Tensor) -> Tensor:
        """``(B,)`` the largest :meth:`excess` of inputs: the monitor accepts up to 0 and objects from 1 on.

        Args:
            network: what ``clinch.load`` returned.
            x: inputs, ``(B, *input_shape)``.
            classes: class of the inputs, or ``(B,)`` classes.
        """
        return self.score_at({self.layer: activations(network, x, self.layer)[0]}, classes)

    def score_at(self, h: Mapping[str, Tensor], classes: int | Tensor) -> Tensor:
        """:meth:`score` of activations ``(B, *layer_shape)`` by the name of their layer."""
        return self.excess(h[self.layer], classes).flatten(1).amax(1)

    def excess(self, h: Tensor, classes: int | Tensor) -> Tensor:
        """How far each activation is outside its box in units of its margin: the monitor objects where one reaches 1.

        ``max(h − upper, lower − h) / margin``, signed: positive above or below the box, 0 or less inside.

        Args:
            h: activations ``(B, *layer_shape)`` of the watched layer.
            classes: class of the inputs, or ``(B,)`` classes.
        """
        lower, upper, margin = (t.to(h.device) for t in self._of(classes))
        return torch.maximum(h.double() - upper, lower - h.double()) / margin

    def _of(self, classes: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        index = torch.as_tensor(classes).cpu()
        if bool((index < 0).any()) or bool((index >= len(self.lower)).any()):
            raise ProblemError(f"Class {classes} is not among the monitor's {len(self.lower)} classes.")
        return self.lower[index], self.upper[index], self.margin[index]


def check_settings(relative: float, absolute: float, quantile: float) -> None:
    """Refuse settings of a fit that have no meaning.

    Raises:
        ProblemError: a negative margin, no margin at all, or a quantile outside [0, 0.5).
    """
    if not (relative >= 0 and absolute > 0):
        raise ProblemError(f"relative={relative} must be 0 or more, and absolute={absolute} above 0.")
    if not 0 <= quantile < 0.5:
        raise ProblemError(f"quantile={quantile} leaves nothing inside. Write a share of 0 or more, below 0.5.")


def watched(network: SymbolicNetwork, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Activations ``(N, *layer_shape)`` of a layer at training inputs, and outputs ``(N, classes)``.

    Raises:
        UnknownLayer, ShapeError: as :meth:`BoxMonitor.fit`.
    """
    x = inputs_of(network, x)
    if len(network.graph.nodes[-1].shape) != 1:
        raise ShapeError(f"The output has shape {network.graph.nodes[-1].shape}; a monitor per class needs (classes,).")
    h, z = activations(network, x, layer, network.layers[-1])
    return h, z
