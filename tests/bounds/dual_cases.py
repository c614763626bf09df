"""Random relaxed queries with domains of random splits and multipliers, and points that lie in a domain."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from problems import uniform
from torch import Tensor

from clinch.bounds.crown import activation_bounds
from clinch.bounds.domains import Domains, Relaxed, fresh_domains, relax_query
from clinch.geometry.region import Ball, Region
from clinch.network.network import Network
from clinch.query import Distance, Forms, Linear, Query

#: objective, and p of the region's ball
OBJECTIVES = (
    ("distance", 0.0), ("distance", 1.0), ("distance", 2.0), ("distance", math.inf),
    ("linear", None), ("linear", 0.0), ("linear", 1.0), ("linear", 2.0),
)  # fmt: skip


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def query_of(net: Network, rng: torch.Generator, kind: str, p: float | None, size: int = 1) -> Query:
    """Three atoms in two clauses, the first a disjunction, that some input within reach satisfies."""
    shape = net.input_shape
    lower, upper = -torch.ones(size, *shape, dtype=torch.float64), torch.ones(size, *shape, dtype=torch.float64)
    output = net.graph.output
    relu = max(i for i, node in enumerate(net.graph.nodes) if node.op.splits_at_zero)
    rows = {i: normal(rng, 1, 3, *net.graph.nodes[i].shape) for i in (relu, output)}
    held = Forms(rows, torch.zeros(1, 3, dtype=torch.float64)).values(
        net.graph.forward(uniform(rng, (1, *shape)), [relu, output])
    )
    atoms = Forms(rows, (-held + 0.2 * normal(rng, 1, 3)).expand(size, -1).contiguous())
    center = uniform(rng, (size, *shape))
    if kind == "distance":
        return Query(net, net.graph, Region(lower, upper), Distance(center, float(p)), atoms, torch.tensor([0, 0, 1]))  # type: ignore[arg-type]
    form = Forms({output: normal(rng, 1, 1, *net.graph.nodes[output].shape)}, normal(rng, size, 1))
    balls = () if p is None else (Ball(center, torch.full((size,), 2.0 if p == 0 else 0.8).double(), p),)
    return Query(net, net.graph, Region(lower, upper, balls), Linear(form), atoms, torch.tensor([0, 0, 1]))


def relaxed_of(query: Query) -> Relaxed:
    bounds = activation_bounds(query.graph, query.region, query.nodes)
    return relax_query(query, bounds)


def domains_of(relaxed: Relaxed, rng: torch.Generator, count: int) -> Domains:
    """Random choices of atoms, random splits of a third of the open elements, random multipliers."""
    query = relaxed.query
    problem = torch.randint(query.size, (count,), generator=rng)
    first = torch.randint(-1, 2, (count,), generator=rng)
    choice = torch.stack([first, torch.full_like(first, 2)], 1)
    split = torch.randint(-1, 2, (count, relaxed.width), generator=rng).to(torch.int8)
    split[torch.rand(split.shape, generator=rng) < 0.67] = 0
    d = fresh_domains(relaxed, problem, choice, split)
    weight = torch.rand(d.mu.shape, generator=rng, dtype=torch.float64) * d.allowed(query.atoms.count)
    return replace(
        d,
        alpha=torch.rand(d.alpha.shape, generator=rng, dtype=torch.float64),
        beta=0.5 * torch.rand(d.beta.shape, generator=rng, dtype=torch.float64) * (split != 0),
        mu=weight,
    )


def members(relaxed: Relaxed, d: Domains, x: Tensor) -> Tensor:
    """``(D, N)`` which points ``(N, *input_shape)`` lie in each domain: region, splits and chosen atoms hold."""
    query, rows = relaxed.query, []
    inputs = [query.graph.nodes[k.node].inputs[0] for k in relaxed.kinks]
    before = query.graph.forward(x, inputs) if inputs else {}
    for k in range(len(d)):
        one = query.take(d.problem[k : k + 1].expand(len(x)))
        _, atoms = one.evaluate(x)
        good = one.region.contains(x) & ((atoms <= 0) | ~d.allowed(query.atoms.count)[k]).all(1)
        for kink, j in zip(relaxed.kinks, inputs):
            z = before[j].flatten(1)[:, kink.which]
            good &= (z * d.split[k, kink.columns] >= 0).all(1)
        rows.append(good)
    return torch.stack(rows)
