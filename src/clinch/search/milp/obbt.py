"""Sharper limits of open elements from linear programs over the whole relaxation (Tjeng et al. 2019, section 5.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinch.backends.program import Program, Vector
from clinch.encoding.mixed_integer import Kink
from clinch.encoding.query_program import Encoding
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval
from clinch.runtime import deadline


def obbt(
    graph: Graph,
    encoding: Encoding,
    bounds: Mapping[int, Interval],
    load: Callable[[Program], Any],
    remaining: Callable[[], float],
) -> dict[int, Interval]:
    """Limits of the inputs of open ReLUs, each minimised and maximised over the encoding's linear relaxation.

    Every limit is evaluated again from the program's multipliers (:meth:`Program.bound`), so that it holds for every
    point of the encoding whatever the solver did. Clauses and balls of the encoding count: limits may be sharper than
    over the region alone. Where the paper tightens layer by layer while it encodes, this starts from a whole encoding.

    Args:
        graph: the network.
        encoding: made with ``bounds``.
        bounds: limits of the inputs of non-affine nodes, with a batch of one.
        load: makes a model of a program without integrality.
        remaining: seconds left, asked before every element; what is not reached keeps its limits.

    Returns:
        The limits with what was found. Both limits of an element cross where no point of the encoding exists.
    """
    count = encoding.program.variables
    program = replace(
        encoding.program, cost=np.zeros(count), integer=np.zeros(count, dtype=bool), quadratic=None, constant=0.0
    )
    model, sharper = load(program), dict(bounds)
    # the last layer's limits are the loosest, and the objective and clauses stand next to it
    for kink in sorted((kink for kink in encoding.kinks if kink.parts is not None), key=lambda kink: -kink.node):
        known = sharper[graph.nodes[kink.node].inputs[0]]
        lower, upper = (side.clone(memory_format=torch.contiguous_format) for side in (known.lower, known.upper))
        _refine_kink(kink, program, model, lower.view(-1), upper.view(-1), remaining)
        sharper[graph.nodes[kink.node].inputs[0]] = Interval(lower, upper)
    return sharper


def _refine_kink(
    kink: Kink, program: Program, model: Any, lower: Tensor, upper: Tensor, remaining: Callable[[], float]
) -> None:
    """Replace the limits ``(size,)`` of one node's input where the programs give better ones."""
    assert kink.parts is not None
    positive, negative = kink.parts
    for i, position in enumerate(kink.positions.tolist()):
        if remaining() <= 0:
            return
        deadline.look()
        cost = np.zeros(program.variables)
        cost[positive + i], cost[negative + i] = 1.0, -1.0
        lower[position] = max(float(lower[position]), _least(program, model, cost, remaining()))
        upper[position] = min(float(upper[position]), -_least(program, model, -cost, remaining()))


def _least(program: Program, model: Any, cost: Vector, seconds: float) -> float:
    """Proven: no point of the program has a smaller cost."""
    model.change_cost(cost)
    outcome = model.solve(time_limit=seconds)
    return -np.inf if outcome.duals is None else replace(program, cost=cost).bound(outcome.duals)
