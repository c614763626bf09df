"""Certificates of problems so small that their optimum is known by enumeration, and the query that a file states."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.certificates.layer_list import places
from clinch.checker.certificate import Certificate
from clinch.geometry.region import Ball, Region
from clinch.network.graph import Graph
from clinch.query import Distance, Forms, Linear, Query
from clinch.testing.brute_force import brute_force

#: stand in for an infinite limit of the input where a query is enumerated
FAR = 50.0


class Known(NamedTuple):
    """A certificate, the graph and layer list that it is about, and the exact optimum of its query."""

    name: str
    proof: SavedProof
    graph: Graph
    optimum: float


def _dense(seed: int, *sizes: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()


def _convolution(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, stride=2, padding=1), torch.nn.LeakyReLU(0.25), torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    ).eval()  # fmt: skip


def _linear(net, x):
    z = net.output
    return cl.Problem(cl.Minimize(z[0] - z[1]), [net.input.between(0, 1), cl.norm(net.input - x, p=2) <= 0.7])


def _maximum(net, x):
    return cl.Problem(cl.Maximize(net.output[0]), [net.input.between(-2, 2)])


def _clauses(net, x):
    z = net.output
    either = (z[0] >= z[1] + 0.1) | (z[2] >= z[1] + 0.05)
    return cl.Problem(cl.Minimize(z[1] + z[0]), [net.input.between(-1, 1), either, z[2] <= 0.5])


def _gaps(net, x):
    """Each input lies below a gap or above it."""
    gaps = [(net.input[k] <= low) | (net.input[k] >= high) for k, (low, high) in enumerate(((-0.2, 0.3), (-0.3, 0.4)))]
    return cl.Problem(cl.Minimize(net.output[0]), [net.input.between(-1, 1), *gaps])


def _distance(p: float | None) -> Callable:
    """The distance to another class; None: whether there is one at all."""

    def problem(net, x):
        z = net.graph.forward(x[None].to(torch.float32))[net.graph.output]
        other = net.output.argmax() != int(z.argmax())
        objective = 0 if p is None else cl.norm(net.input - x, p=p)
        return cl.Problem(cl.Minimize(objective), [net.input.between(-2, 3), other])

    return problem


#: name -> model, shape of its input, problem, whether boxes are split even where kinks are few
CASES: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...], Callable, bool]] = {
    "linear objective, box and ball": (lambda: _dense(21, 3, 5, 4, 3), (3,), _linear, False),
    "maximum, boxes halved": (lambda: _dense(2, 2, 6, 4, 2), (2,), _maximum, True),
    "clauses, boxes halved": (lambda: _dense(3, 2, 5, 4, 3), (2,), _clauses, True),
    "conditions on inputs": (lambda: _dense(3, 2, 5, 4, 2), (2,), _gaps, True),
    "infeasible": (lambda: _dense(23, 2, 5, 4, 2), (2,), _distance(None), False),
    "distance, p = 1": (lambda: _dense(18, 2, 5, 4, 2), (2,), _distance(1), False),
    "distance, p = 2": (lambda: _dense(13, 2, 5, 4, 2), (2,), _distance(2), False),
    "distance, p = inf": (lambda: _dense(18, 2, 5, 4, 2), (2,), _distance(cl.inf), False),
    "convolution, linear objective": (lambda: _convolution(3), (1, 4, 4), _maximum, False),
    "convolution, distance p = 2": (lambda: _convolution(5), (1, 4, 4), _distance(2), False),
}


@cache
def known(name: str) -> Known:
    """The certificate of a case, proven at its exact optimum."""
    make, shape, state, halved = CASES[name]
    net = cl.load(make(), input_shape=shape)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    query = state(net, x).query.to(torch.float64, "cpu")
    optimum = brute_force(query)
    with mock.patch("clinch.certificates.proof_search.FEW_KINKS", 1 if halved else 40):
        solution = state(net, x).solve(10.0, gap=1e-3)
        limit = torch.tensor([min(query.sense * float(solution.bound), optimum)], dtype=torch.float64)
        (proof,) = certify(query, limit, None if solution.x is None else solution.x[None].double())
    if not isinstance(proof, SavedProof):
        raise proof
    return Known(name, proof, query.graph, optimum)


def query_of(certificate: Certificate, graph: Graph) -> Query:
    """The query that a certificate states, which the checker has accepted; infinite limits are cut at :data:`FAR`."""
    stated, tensors = certificate.header["query"], certificate.tensors
    nodes = {name: node for node, name in places(graph).items()} | {"input": 0, "output": graph.output}
    shape = (1, *graph.input_shape)

    def real(name: str, *extents: int) -> torch.Tensor:
        return torch.from_numpy(tensors[name].astype(np.float64).reshape(extents))

    def forms(kind: str, count: int) -> Forms:
        rows: dict[int, torch.Tensor] = {}
        for name in [n for n in tensors if n.startswith(f"{kind}.rows.")]:
            node = nodes[name.removeprefix(f"{kind}.rows.")]
            rows[node] = rows.get(node, 0) + real(name, 1, count, *graph.nodes[node].shape)
        return Forms(rows, real(f"{kind}.constant", 1, count))

    lower, upper = (real(f"region.{side}", *shape).clamp(-FAR, FAR) for side in ("lower", "upper"))
    balls = tuple(
        Ball(real(f"ball.{i}.center", *shape), real(f"ball.{i}.radius", 1), float(p), real(f"ball.{i}.weights", *shape))
        for i, p in enumerate(stated["balls"])
    )
    objective: Linear | Distance = Linear(Forms({}, torch.zeros(1, 1, dtype=torch.float64)))
    if stated["objective"] == "linear":
        objective = Linear(forms("objective", 1))
    elif stated["objective"] == "distance":
        weights = real("objective.weights", *shape)
        objective = Distance(real("objective.center", *shape), float(stated["p"]), weights)
    atoms = forms("atoms", len(tensors["atoms.constant"]))
    clause = torch.from_numpy(tensors["atoms.clause"].astype(np.int64))
    return Query(None, graph, Region(lower, upper, balls), objective, atoms, clause)  # type: ignore[arg-type]
