"""Every public bound of linear forms, and small networks, regions and points to hold them against."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import clinch as cl
from clinch.geometry.region import Region
from clinch.network.network import Network
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.s_shaped import Sigmoid
from clinch.testing.networks import ENCODABLE, dense, network_of

NORMS = (1.0, 2.0, math.inf)

#: name in ``clinch.bounds`` -> the bound; ``test_orderings`` fails where a public bound is missing here
BOUNDS: dict[str, Callable[..., Tensor]] = {
    "interval": cl.bounds.interval,
    "fast_dual": cl.bounds.fast_dual,
    "crown": cl.bounds.crown,
    "alpha_crown": cl.bounds.alpha_crown,
    "lp": cl.bounds.lp,
}
#: those that take given limits
WITH_LIMITS = ("fast_dual", "alpha_crown")
#: those that gradients flow through
DIFFERENTIABLE = ("interval", "fast_dual", "crown")


def squashed(rng: torch.Generator) -> Network:
    """A sigmoid between two ReLU layers: its relaxation has no slope to move."""
    layers = [
        ("fc1", dense(rng, 3, 4), (0,)), ("relu1", LeakyReLU(), (1,)), ("fc2", dense(rng, 4, 4), (2,)),
        ("sigmoid", Sigmoid(), (3,)), ("fc3", dense(rng, 4, 4), (4,)), ("relu2", LeakyReLU(0.1), (5,)),
        ("fc4", dense(rng, 4, 3), (6,)),
    ]  # fmt: skip
    return network_of(layers, (3,), "squashed")


NETWORKS = (*ENCODABLE, squashed)


def around(rng: torch.Generator, net: Network, p: float, size: int = 4, radius: float = 0.5) -> Region:
    """Balls around random points, within [−1, 1]."""
    center = 2 * torch.rand(size, *net.input_shape, generator=rng, dtype=torch.float64) - 1
    return cl.bounds.ball(center, radius, p, lower=-1, upper=1)


def inside(rng: torch.Generator, region: Region, count: int) -> Tensor:
    """Points ``(count, B, *shape)`` of each region: of its box, half of them corners, drawn to the centre by balls."""
    share = torch.rand(count, *region.lower.shape, generator=rng, dtype=torch.float64)
    share[::2] = share[::2].round()
    x = region.lower + share * (region.upper - region.lower)
    for ball in region.balls:
        distance = torch.stack([ball.distance(one) for one in x])
        shrink = (ball.radius / distance.clamp(min=1e-12)).clamp(max=1).reshape(*distance.shape, *[1] * (x.dim() - 2))
        x = ball.center + shrink * (x - ball.center)
    return x


def values(net: Network, points: Tensor, c: Tensor, layer: str | None = None) -> Tensor:
    """``(count, B, R)`` values of ``c_r · layer`` at points ``(count, B, *shape)``."""
    node = net.graph.output if layer is None else net.position(layer)
    flat = torch.stack([net.graph.forward(x, [node])[node].flatten(1) for x in points])
    return torch.einsum("brn,kbn->kbr", c.expand(points.shape[1], -1, -1), flat)
