"""Random problems in the problem language, over the small networks of clinch.testing."""

from __future__ import annotations

import math

import torch

import clinch as cl
from clinch.network.network import Network

NORMS = (1.0, 2.0, math.inf)


def uniform(rng: torch.Generator, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng, dtype=torch.float64)


def in_box(net: Network) -> list:
    return [net.input >= -1, net.input <= 1]


def hidden(net: Network) -> str:
    return next(name for name in reversed(net.layers[:-1]) if name.startswith(("relu", "pool")))


def class_at(net: Network, x0: torch.Tensor) -> int:
    return int(net.graph.forward(x0.unsqueeze(0))[net.graph.output].argmax())


def other_class(net: Network, rng: torch.Generator, p: float) -> cl.Problem:
    x0 = uniform(rng, net.input_shape)
    return cl.Problem(cl.Minimize(cl.norm(net.input - x0, p)), [*in_box(net), net.output.argmax() != class_at(net, x0)])


def monitor_objects(net: Network, rng: torch.Generator, p: float) -> cl.Problem:
    x0, h = uniform(rng, net.input_shape), net[hidden(net)]
    samples = net.graph.forward(uniform(rng, (30, *net.input_shape)), [net.position(hidden(net))])
    (values,) = samples.values()
    low, high = values.amin(0) - 0.05, values.amax(0) + 0.05
    return cl.Problem(
        cl.Minimize(cl.norm(net.input - x0, p)),
        [*in_box(net), net.output.argmax(margin=1e-3) == class_at(net, x0), ~h.between(low, high, margin=1e-3)],
    )


def worst_margin(net: Network, rng: torch.Generator, p: float) -> cl.Problem:
    x0, z = uniform(rng, net.input_shape), net.output
    return cl.Problem(cl.Minimize(z[0] - z[1]), [*in_box(net), cl.norm(net.input - x0, p) <= 0.6])


def largest_output(net: Network, rng: torch.Generator, p: float) -> cl.Problem:
    return cl.Problem(cl.Maximize(net.output[2]), in_box(net))


def either_or(net: Network, rng: torch.Generator, p: float) -> cl.Problem:
    x0, z, h = uniform(rng, net.input_shape), net.output.flatten(), net[hidden(net)].flatten()
    x = net.input.flatten()
    left = (z[0] >= z[1] + 0.2) & (h[0] <= 0.3)
    return cl.Problem(
        cl.Minimize(cl.norm(net.input - x0, p)),
        [*in_box(net), left | (z[2] >= 0.5), x[0] + x[1] <= 0.8, ~(x[2] <= -0.9)],
    )


KINDS = {f.__name__: f for f in (other_class, monitor_objects, worst_margin, largest_output, either_or)}
