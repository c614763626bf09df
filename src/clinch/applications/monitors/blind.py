"""What a monitor cannot be made to reject: certified radii within which no input is rejected.

An input within r of x may get any class whose output can be the largest there. If, for each of these classes, the
proven limits of the watched activations lie within what the monitor accepts, no input of the ball is rejected.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clinch.applications.arguments import Loadable
from clinch.applications.monitors.arguments import opened
from clinch.applications.monitors.balls import BallMonitor
from clinch.applications.monitors.boxes import BoxMonitor
from clinch.applications.monitors.joined import JoinedMonitor, Monitor
from clinch.bounds.crown import crown
from clinch.bounds.regions import ball
from clinch.geometry.region import Region
from clinch.network.activations import predicted
from clinch.runtime.arguments import checked_radii

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork

#: inputs whose balls are bounded at once
BATCH = 64


def certified_blind(
    network: Loadable,
    monitor: Monitor,
    x: Tensor,
    radius: float,
    *,
    norm: float | str = 2,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """``(B,)``: whether it is proven that no input within the radius is rejected; False: not proven.

    Args:
        network: what ``clinch.load`` returned.
        monitor: what watches it.
        x: ``(B, *input_shape)``.
        radius: of the balls.
        norm: of the balls.
        bounds: the range of inputs; None: no limits.

    Example:
        >>> from clinch.applications.monitors import fit_monitor
        >>> monitor = fit_monitor(net, "relu2", x_train, accept=0.99)
        >>> certified_blind(net, monitor, x_train[:4], 1e-4)
        tensor([True, True, True, True])
    """
    network, x = opened(network, monitor, x, bounds)
    radius = float(checked_radii(radius, 1, "radius"))
    return torch.cat([_part(network, monitor, part, radius, norm, bounds) for part in x.split(BATCH)])


def widened(
    network: Loadable,
    monitor: Monitor,
    x: Tensor,
    radius: float,
    *,
    norm: float | str = 2,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Monitor:
    """The smallest monitor of this shape that accepts what it did, and for which :func:`certified_blind` proves the
    radius of every input of x that it accepts. Arguments as there."""
    network, x = opened(network, monitor, x, bounds)
    radius = float(checked_radii(radius, 1, "radius"))
    accepted = x[monitor.score(network, x, predicted(network, x)) <= 0]
    for part in accepted.split(BATCH):
        possible, region = _possible(network, part, radius, norm, bounds)
        monitor = _wide(network, monitor, part, possible, region)
    return monitor


def _region(x: Tensor, radius: float, norm: float | str, bounds: tuple[float, float] | None) -> Region:
    low, high = bounds if bounds is not None else (None, None)
    return ball(x, radius, norm, lower=low, upper=high)


def _possible(
    network: SymbolicNetwork, x: Tensor, radius: float, norm: float | str, bounds: tuple[float, float] | None
) -> tuple[Tensor, Region]:
    """Which classes ``(B, classes)`` an input of the ball may get, and the balls."""
    region, label = _region(x, radius, norm, bounds), predicted(network, x)
    eye = torch.eye(network.graph.nodes[-1].size, dtype=torch.float64)
    margin = crown(network, region, eye[label].unsqueeze(1) - eye)
    return margin <= 0, region


def _limits(network: SymbolicNetwork, region: Region, layer: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Proven limits ``(B, R)`` of rows of a layer's activations."""
    return crown(network, region, rows, layer=layer), -crown(network, region, -rows, layer=layer)


def _reach(network: SymbolicNetwork, region: Region, part: BallMonitor) -> Tensor:
    """``(B, classes, k)`` the largest distance that activations of the balls may have to each centre."""
    low, high = _limits(network, region, part.layer, part.metric.T)
    centres = part.centres @ part.metric
    away = torch.maximum((high[:, None, None] - centres).abs(), (low[:, None, None] - centres).abs())
    return away.norm(dim=3)


def _held(network: SymbolicNetwork, monitor: Monitor, region: Region) -> Tensor:
    """``(B, classes)``: whether the monitor is proven to accept all activations of the balls as a class."""
    if isinstance(monitor, JoinedMonitor):
        parts = torch.stack([_held(network, part, region) for part in monitor.parts])
        return parts.any(0) if monitor.every else parts.all(0)
    if isinstance(monitor, BallMonitor):
        return (_reach(network, region, monitor) <= monitor.radius[:, None]).any(2)
    size = monitor.lower[0].numel()
    low, high = _limits(network, region, monitor.layer, torch.eye(size, dtype=torch.float64))
    within = (low[:, None] >= monitor.lower.flatten(1)) & (high[:, None] <= monitor.upper.flatten(1))
    return within.all(2)


def _part(
    network: SymbolicNetwork, monitor: Monitor, x: Tensor, radius: float, norm: float | str,
    bounds: tuple[float, float] | None,
) -> Tensor:  # fmt: skip
    possible, region = _possible(network, x, radius, norm, bounds)
    return (~possible | _held(network, monitor, region)).all(1)


def _wide(network: SymbolicNetwork, monitor: Monitor, x: Tensor, possible: Tensor, region: Region) -> Monitor:
    """The monitor that accepts everything that the balls may have, as every class that is possible there."""
    if isinstance(monitor, BallMonitor):
        reach = _reach(network, region, monitor).amin(2).masked_fill(~possible, 0.0)
        return replace(monitor, radius=torch.maximum(monitor.radius, reach.amax(0)))
    if isinstance(monitor, BoxMonitor):
        return _wide_box(network, monitor, possible, region)
    if not monitor.every:
        return replace(monitor, parts=tuple(_wide(network, part, x, possible, region) for part in monitor.parts))
    # the cluster that each input is nearest to takes its ball
    label = predicted(network, x)
    nearest = torch.stack([part.score(network, x, label) for part in monitor.parts]).argmin(0)
    parts = tuple(
        _wide(network, part, x, possible & (nearest == k).unsqueeze(1), region) for k, part in enumerate(monitor.parts)
    )
    return replace(monitor, parts=parts)


def _wide_box(network: SymbolicNetwork, monitor: BoxMonitor, possible: Tensor, region: Region) -> BoxMonitor:
    shape = monitor.lower.shape
    low, high = _limits(network, region, monitor.layer, torch.eye(shape[1:].numel(), dtype=torch.float64))
    lowest = torch.where(possible.unsqueeze(2), low.unsqueeze(1), torch.inf).amin(0)
    highest = torch.where(possible.unsqueeze(2), high.unsqueeze(1), -torch.inf).amax(0)
    lower, upper = (
        torch.minimum(monitor.lower, lowest.reshape(shape)),
        torch.maximum(monitor.upper, highest.reshape(shape)),
    )
    return replace(monitor, lower=lower, upper=upper)
