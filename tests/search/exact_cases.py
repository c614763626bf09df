"""Random queries in normal form over the small networks of clinch.testing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clinch.geometry.region import Region
from clinch.network.network import Network
from clinch.query import Distance, Forms, FormsNorm, Linear, Objective, Query

OBJECTIVES = ("linear", "distance 0", "distance 1", "distance 2", "distance inf")
ALL_OBJECTIVES = (*OBJECTIVES, "norm 1", "norm inf")
CLAUSES = ("none", "each", "any", "mixed", "impossible")


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def forms(net: Network, rng: torch.Generator, nodes: list[int], count: int) -> Forms:
    rows = {node: normal(rng, 1, count, *net.graph.nodes[node].shape) for node in nodes}
    return Forms(rows, 0.3 * normal(rng, 1, count))


def inner_node(net: Network) -> int:
    return max(i for i, node in enumerate(net.graph.nodes) if node.op.splits_at_zero)


def objective(net: Network, rng: torch.Generator, kind: str, lower: Tensor, upper: Tensor) -> Objective:
    watched = [0, inner_node(net), net.graph.output]
    if kind == "linear":
        return Linear(forms(net, rng, watched, 1))
    name, p = kind.split()
    if name == "norm":
        scale = 1.0 if torch.rand(1, generator=rng) < 0.5 else -1.0
        return FormsNorm(forms(net, rng, [net.graph.output], 2), float(p), scale)
    center = lower + (upper - lower) * torch.rand(lower.shape, generator=rng, dtype=torch.float64)
    # some elements start at a limit and some are free
    center = torch.where(torch.rand(lower.shape, generator=rng) < 0.3, lower, center)
    weights = None
    if torch.rand(1, generator=rng) < 0.5:
        weights = torch.rand(lower.shape, generator=rng, dtype=torch.float64).round(decimals=2) + 0.25
        weights = torch.where(torch.rand(lower.shape, generator=rng) < 0.1, 0.0, weights)
    return Distance(center, float(p), weights)


def atoms(net: Network, rng: torch.Generator, kind: str) -> tuple[Forms, Tensor]:
    count, clause = {
        "none": (0, []), "each": (2, [0, 1]), "any": (3, [0, 0, 0]), "mixed": (4, [0, 1, 1, 1]),
        "impossible": (2, [0, 1]),
    }[kind]  # fmt: skip
    if not count:
        return Forms({}, torch.zeros(1, 0, dtype=torch.float64)), torch.zeros(0, dtype=torch.long)
    made = forms(net, rng, [net.graph.output, inner_node(net)], count)
    if kind == "impossible":  # an atom and nearly its opposite
        made = Forms({i: torch.cat([c[:, :1], -c[:, :1]], 1) for i, c in made.coefficients.items()}, made.constant)
        made.constant[0, 1] = 0.01 - made.constant[0, 0]
    return made, torch.tensor(clause)


def query(net: Network, rng: torch.Generator, kind: str, clauses: str) -> Query:
    lower = -torch.rand((1, *net.input_shape), generator=rng, dtype=torch.float64)
    upper = torch.rand((1, *net.input_shape), generator=rng, dtype=torch.float64)
    made, clause = atoms(net, rng, clauses)
    return Query(
        net, net.graph, Region(lower, upper), objective(net, rng, kind, lower, upper), made, clause
    )  # fmt: skip


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(a: float, b: float, tolerance: float = 1e-5) -> bool:
    return a == b or (math.isfinite(a) and math.isfinite(b) and abs(a - b) <= tolerance * max(1.0, abs(a)))
