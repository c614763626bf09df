"""CROWN's limits of the second dense layer where the input is narrow: the lines go into the matrix, not into the rows.

On a batch of boxes every box has the same rows ``W₂``, and lines ``a·y <= σ(y) <= s·y + t`` of its own for the first
layer's elements ``y = W₁x + b₁``. Then

    z₂(x) <= W₂⁺ (s ⊙ W₁) x + W₂⁻ (a ⊙ W₁) x + W₂⁺ (s ⊙ b₁ + t) + W₂⁻ (a ⊙ b₁) + b₂,

and the mirror image below. ``s ⊙ W₁`` has n columns per box, n the number of inputs, so that two products of fixed
matrices with D·n columns replace ``(D, 2·outputs, hidden)`` rows; with ten inputs that is several times faster. The
numbers are those of the rows (CROWN, Zhang et al. 2018, arXiv 1811.00866): with one layer of kinks, forwards and
backwards are the same substitution. Boxes are the last dimension, so that sums over the few inputs run along them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Lines, Relaxation
from clinch.network.ops.views import Matrix
from clinch.runtime import deadline

#: inputs per hidden element, and share of open elements, from which on carrying rows costs no more
NARROW, MOSTLY_CLOSED = 0.5, 0.25
#: coefficients looked at at once: they should fit a core's cache
PIECE = 2**16


def narrow_bounds(
    graph: Graph,
    j: int,
    open_: Tensor,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    limits: tuple[Tensor, Tensor],
    stop: Callable[[], bool],
) -> bool:
    """Write CROWN's limits of the open elements of node j into ``limits``, where this is the way to get them.

    Args:
        graph: the network.
        j: position of the node.
        open_: ``(B, size)`` elements that matter.
        region: B boxes.
        relaxations: of every node that j depends on.
        limits: lower and upper ones, each ``(B, size)``.
        stop: asked between blocks; once true, the other elements keep their limits.

    Returns:
        Whether it was done: j is a dense layer on elementwise lines on a dense layer on a bounded box without balls
        that has few elements, and most elements of j are open somewhere.
    """
    layers = _layers(graph, j)
    if layers is None or region.balls or float(open_.double().mean()) < MOSTLY_CLOSED:
        return False
    lines, (bottom, top) = relaxations[graph.nodes[j].inputs[0]], layers
    low, high = region.lower.flatten(1), region.upper.flatten(1)
    bounded = bool(torch.isfinite(low).all() & torch.isfinite(high).all())
    if not bounded or not isinstance(lines, Lines) or lines.upper_slope.dim() != 2:
        return False
    if any(t.requires_grad for t in (low, high, lines.upper_slope, lines.lower_slope, top.weight, bottom.weight)):
        return False  # what is done in place below would stand in the gradients' way
    signs = signed(top.weight)
    size = max(1, PIECE // (top.weight.shape[0] * bottom.weight.shape[1]))
    for start in range(0, len(low), size):
        deadline.look()
        if stop():
            break
        block = slice(start, start + size)
        middle, half = (low[block] / 2 + high[block] / 2).T, (high[block] / 2 - low[block] / 2).T
        sided = second_layer(bottom, Lines(*(t.T for t in lines.take(block))), signs, middle)
        lower = sided.lower_at - sided.lower.abs_().mul_(half).sum(1)
        upper = sided.upper_at + sided.upper.abs_().mul_(half).sum(1)
        bias = 0.0 if top.bias is None else top.bias
        here = open_[block]
        limits[0][block] = torch.where(here, lower.T + bias, limits[0][block])
        limits[1][block] = torch.where(here, upper.T + bias, limits[1][block])
    return True


def is_narrow(graph: Graph, j: int) -> bool:
    """Whether node j is a dense layer on elementwise lines on a dense layer on few inputs."""
    return _layers(graph, j) is not None


def _layers(graph: Graph, j: int) -> tuple[Matrix, Matrix] | None:
    """The matrices of ``input -> matrix -> elementwise -> matrix (j)``, where the first is narrow, or None."""
    top = graph.matrix(j)
    if top is None:
        return None
    bend = graph.nodes[graph.nodes[j].inputs[0]]
    if not bend.op.elementwise or len(bend.inputs) != 1:
        return None
    bottom = graph.matrix(bend.inputs[0])
    if bottom is None or bottom.weight.shape[1] > NARROW * len(bottom.weight):
        return None
    return None if graph.unshaped(graph.nodes[bend.inputs[0]].inputs[0]) else (bottom, top)


class Sided(NamedTuple):
    """Linear limits of a layer on D boxes: ``rows (size, n, D)`` on the input and values ``at (size, D)`` at the
    boxes' centres, of the lower limits and of the upper ones.
    """

    lower: Tensor
    lower_at: Tensor
    upper: Tensor
    upper_at: Tensor


def signed(weight: Tensor) -> Tensor:
    """``W⁺`` above ``W⁻``: what :func:`second_layer` multiplies with, prepared."""
    return torch.cat([weight.clamp(min=0), weight.clamp(max=0)])


def second_layer(first: Matrix, lines: Lines, signs: Tensor, middle: Tensor) -> Sided:
    """Linear limits of ``W₂ σ(W₁x + b₁)`` by lines ``(hidden, D)`` on boxes of centres ``(n, D)``."""
    weight, count, size = first.weight, middle.shape[1], len(signs) // 2
    centre = weight @ middle
    centre = centre if first.bias is None else centre + first.bias.unsqueeze(1)
    below, below_at, above, above_at = lines
    at_below = signs @ torch.addcmul(below_at, below, centre)
    at_above = signs @ torch.addcmul(above_at, above, centre)
    shape = (2, size, weight.shape[1], count)
    by_below = (signs @ (weight.unsqueeze(2) * below.unsqueeze(1)).flatten(1)).view(shape)
    by_above = (signs @ (weight.unsqueeze(2) * above.unsqueeze(1)).flatten(1)).view(shape)
    return Sided(
        by_below[0].add_(by_above[1]), at_below[:size] + at_above[size:],
        by_above[0].add_(by_below[1]), at_above[:size] + at_below[size:],
    )  # fmt: skip
