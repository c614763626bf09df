"""CROWN written out with dense matrices, one problem at a time: what the batched implementation is held against.

Every affine layer is a matrix, every row has the length of a whole layer, and nothing is left out or put together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.relu import LeakyReLU

Limits = dict[int, tuple[Tensor, Tensor]]


def matrices(graph: Graph, i: int) -> tuple[list[Tensor], Tensor]:
    """One matrix ``(size, input size)`` per input of an affine node, and its constant."""
    zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in graph.shapes(i)]
    op = graph.nodes[i].op
    constant = op.forward(*zeros).flatten()
    found = []
    for k, zero in enumerate(zeros):
        unit = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *zero.shape[1:])
        inputs = [unit if n == k else z.expand(len(unit), *z.shape[1:]) for n, z in enumerate(zeros)]
        found.append((op.forward(*inputs).flatten(1) - constant).T)
    return found, constant


def least(region: Region, rows: Tensor) -> Tensor:
    """The minimum of ``<row, x>`` over a box, or over a ball that its box does not cut."""
    if not region.balls:
        return rows.clamp(min=0) @ region.lower.flatten() + rows.clamp(max=0) @ region.upper.flatten()
    (ball,) = region.balls
    dual = {1.0: math.inf, 2.0: 2.0}[ball.p]
    return rows @ ball.center.flatten() - ball.radius * torch.linalg.vector_norm(rows, dual, dim=1)


def lower_limits(graph: Graph, region: Region, limits: Limits, node: int, rows: Tensor) -> Tensor:
    """Lower limits of ``rows @ node``, rows ``(R, size)``, by CROWN's lines within the given limits."""
    pending, total = {node: rows}, torch.zeros(len(rows), dtype=torch.float64)
    for i in range(node, 0, -1):
        if i not in pending:
            continue
        rows, op, inputs = pending.pop(i), graph.nodes[i].op, graph.nodes[i].inputs
        if isinstance(op, LeakyReLU):
            a, (low, high) = op.negative_slope, limits[inputs[0]]
            upper_slope = torch.where(low >= 0, torch.ones_like(low), a)
            lower_slope, rise = upper_slope.clone(), torch.zeros_like(low)
            for e in ((low < 0) & (high > 0)).nonzero().flatten().tolist():
                upper_slope[e] = (high[e] - a * low[e]) / (high[e] - low[e])
                rise[e] = (a - upper_slope[e]) * low[e]
                lower_slope[e] = 1.0 if high[e] > -low[e] else a
            total = total + rows.clamp(max=0) @ rise
            carried = [rows.clamp(min=0) * lower_slope + rows.clamp(max=0) * upper_slope]
        else:
            parts, constant = matrices(graph, i)
            total = total + rows @ constant
            carried = [rows @ part for part in parts]
        for j, part in zip(inputs, carried):
            pending[j] = pending[j] + part if j in pending else part
    return total + (least(region, pending[0]) if 0 in pending else 0.0)


def plain_limits(graph: Graph, region: Region, *, only_open: bool = True) -> Limits:
    """Limits of every node; CROWN's for what a ReLU reads.

    Args:
        graph: affine layers and (leaky) ReLUs.
        region: one problem.
        only_open: as :func:`clinch.bounds.crown.activation_bounds`: an element that interval arithmetic decides keeps
            its limits, the others get the better ones. Otherwise CROWN's alone, for all elements.
    """
    limits: Limits = {0: (region.lower.flatten(), region.upper.flatten())}
    for i, node in enumerate(graph.nodes):
        if isinstance(node.op, LeakyReLU):
            (j,) = node.inputs
            eye = torch.eye(node.size, dtype=torch.float64)
            low, high = lower_limits(graph, region, limits, j, eye), -lower_limits(graph, region, limits, j, -eye)
            if only_open:
                before = limits[j]
                is_open = (before[0] < 0) & (before[1] > 0)
                low = torch.where(is_open, torch.maximum(low, before[0]), before[0])
                high = torch.where(is_open, torch.minimum(high, before[1]), before[1])
            limits[j] = low, high
            limits[i] = tuple(torch.maximum(t, node.op.negative_slope * t) for t in (low, high))  # type: ignore[assignment]
        elif i:
            parts, constant = matrices(graph, i)
            low, high = constant, constant
            for matrix, j in zip(parts, node.inputs):
                positive, negative = matrix.clamp(min=0), matrix.clamp(max=0)
                low = low + positive @ limits[j][0] + negative @ limits[j][1]
                high = high + positive @ limits[j][1] + negative @ limits[j][0]
            limits[i] = low, high
    return limits
