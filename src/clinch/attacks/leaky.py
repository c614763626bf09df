"""Gradients that pass switched-off elements: where the true gradient of a condition is zero they show a way."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from clinch.network.graph import Graph
from clinch.network.ops.base import Operator

#: slope with which gradients pass a switched-off element
LEAK = 0.5


class _Leaky(torch.autograd.Function):
    """An operator with two pieces: forward as it is, backward with LEAK on the switched-off side.

    Only where a descent asks for more output: a switched-off element has no less to give.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, op: Operator) -> Tensor:
        ctx.save_for_backward(x)
        return op.forward(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.where(x > 0, grads[0], LEAK * grads[0].clamp(max=0)), None


def leaky_forward(graph: Graph, x: Tensor, wanted: list[int]) -> dict[int, Tensor]:
    """:meth:`Graph.forward` whose gradients pass switched-off elements with slope LEAK."""

    def leaky(op: Operator, h: Tensor) -> Tensor:
        return _Leaky.apply(h, op)  # type: ignore[return-value]

    pieces = {i: partial(leaky, node.op) for i, node in enumerate(graph.nodes) if node.op.splits_at_zero}
    return graph.forward(x, wanted, pieces)
