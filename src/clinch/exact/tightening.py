"""Sharper limits of open elements from linear programs over the whole relaxation (Tjeng et al. 2019, section 5.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinch.backends.program import Program, Vector
from clinch.exact.encoding import Kink
from clinch.exact.formulation import Encoding
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval

#: the deepest layer's elements are tried first; after this many in a row without a change of sign the rest is left
PATIENCE = 8


def tightened(
    graph: Graph, encoding: Encoding, bounds: Mapping[int, Interval], load: Callable[[Program], Any],
    remaining: Callable[[], float],
) -> dict[int, Interval]:  # fmt: skip
    """Limits of the inputs of open ReLUs by minimising and maximising each over the encoding's linear relaxation.

    Every limit is evaluated again from the program's multipliers: whatever the solver does, it holds wherever a point
    of the encoding exists. Clauses and balls of the encoding count, so that limits may be sharper than over the region.

    Args:
        graph: the network.
        encoding: made with ``bounds``.
        bounds: limits of the inputs of non-affine nodes, with a batch of one.
        load: makes a model of a program without integrality.
        remaining: seconds left; asked before every solve.

    Returns:
        The limits, with what was found; both limits of an element cross where no point exists.
    """
    program = replace(encoding.program, integer=np.zeros_like(encoding.program.integer), quadratic=None, constant=0.0)
    sharper = dict(bounds)
    model = load(replace(program, cost=np.zeros(program.variables)))
    for kink in sorted((k for k in encoding.kinks if k.parts is not None), key=lambda k: -k.node):
        if remaining() <= 0:
            break
        j = graph.nodes[kink.node].inputs[0]
        sharper[j] = _one_node(kink, program, model, sharper[j], remaining)
    return sharper


def _one_node(kink: Kink, program: Program, model: Any, known: Interval, remaining: Callable[[], float]) -> Interval:
    lower, upper = (t.clone().flatten() for t in known)
    assert kink.parts is not None
    for i, position in enumerate(kink.positions.tolist()):
        if remaining() <= 0:
            break
        for sign, limits in ((1.0, lower), (-1.0, upper)):
            cost = np.zeros(program.variables)
            cost[kink.parts[0] + i], cost[kink.parts[1] + i] = sign, -sign
            least = _least(program, model, cost)
            limits[position] = (
                torch.maximum(limits[position], _t(least)) if sign > 0 else torch.minimum(limits[position], _t(-least))
            )
    return Interval(lower.reshape(known.lower.shape), upper.reshape(known.upper.shape))


def _t(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


def _least(program: Program, model: Any, cost: Vector) -> float:
    model.change_cost(cost)
    outcome = model.solve()
    return -np.inf if outcome.duals is None else replace(program, cost=cost).bound(outcome.duals)
