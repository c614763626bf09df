"""Softmaxes of masked scores: terms that a constant mask drops have a weight of exactly zero.

A mask is minus infinity, filled in or added, or a number so low that nothing else can be meant (−1e4, −1e9, the
smallest number of a type). It is looked for behind the layers that only move, scale and add scores; the softmax is then
one of the scores that stay, and what filled the others in is read by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clinch.errors import NetworkError
from clinch.network.graph import Node
from clinch.network.ops.add import Add
from clinch.network.ops.base import Operator
from clinch.network.ops.masks import Inside, Masked
from clinch.network.ops.reading import Value
from clinch.network.ops.scale import Scale
from clinch.network.ops.select import Pad
from clinch.network.ops.softmax import LogSumExp, MaskedSoftmax, Softmax

#: constants from which on downward a number can only be a mask
LOW = -1e4
#: how far below all others a masked score is: its exponential is zero in any type
BELOW = 1000.0

#: layers that are looked at behind a softmax
DEPTH = 32

#: appends an operator to some activations
Append = Callable[[Operator, Sequence[Value]], Value]


def unmasked(nodes: Sequence[Node], append: Append, op: Operator, x: Value) -> tuple[Operator, Value] | None:
    """The softmax of scores without their mask, and these; None: it is another operator, or nothing is masked.

    Args:
        nodes: of the graph in the making.
        append: adds a node to it.
        op: to be applied to the scores.
        x: the scores.

    Raises:
        NetworkError: a row of scores is minus infinity throughout.
    """
    if not isinstance(op, Softmax | LogSumExp):
        return None
    masks = _Masks(nodes, append)
    shift = masks.shift(x.position)
    if shift is None:
        return None
    dims = op.dims if isinstance(op, LogSumExp) else (op.dim,)
    shift = shift - shift.amax(dims, keepdim=True)
    if bool(shift.isnan().any()):
        raise NetworkError(
            "A row of scores is minus infinity throughout, and its softmax no number. Leave one element unmasked in "
            "each row."
        )
    keep = shift > LOW
    if bool(keep.all()):
        return None
    scores, low = masks.raw(x), shift[~keep].amax()
    if bool(low.isfinite()):
        scores = append(Inside((-float(low) - BELOW) / 2), [scores])
    rest = torch.where(keep, shift, 0.0)
    scores = append(Scale(None, rest), [scores]) if bool(rest.any()) else scores
    return (replace(op, kept=keep) if isinstance(op, LogSumExp) else MaskedSoftmax(op.dim, keep)), scores


def _factor(op: Operator) -> Tensor | None:
    """A positive factor, the same everywhere; None: it is none, or something else than one."""
    if not isinstance(op, Scale):
        return None
    scale = torch.ones(()) if op.scale is None else op.scale
    return scale.flatten()[0] if bool((scale == scale.flatten()[0]).all()) and bool(scale.flatten()[0] > 0) else None


def _lowered(op: Operator) -> bool:
    """Whether it adds, or puts beside its input, constants that can only be masks."""
    if isinstance(op, Pad):
        return op.mode == "constant" and op.value <= LOW
    return isinstance(op, Scale) and op.shift is not None and bool((op.shift <= LOW).any())


def _without_masks(op: Operator) -> Operator:
    """The same with zeros for such constants."""
    if not _lowered(op):
        return op
    if isinstance(op, Pad):
        return replace(op, value=0.0)
    assert isinstance(op, Scale) and op.shift is not None
    return replace(op, shift=torch.where(op.shift <= LOW, 0.0, op.shift))


def _passes(node: Node) -> bool:
    """Whether a mask of what the node reads is one of what it gives."""
    return not node.whole and (_moves(node.op) or isinstance(node.op, Add | Masked) or _factor(node.op) is not None)


def _moves(op: Operator) -> bool:
    """Whether each element is one of an input, or a constant beside these."""
    return op.affine and (op.selects or isinstance(op, Pad)) and not isinstance(op, Inside)


class _Masks:
    """What masks add to activations, found from a softmax backwards."""

    def __init__(self, nodes: Sequence[Node], append: Append) -> None:
        self.nodes, self.append = nodes, append
        self.found: dict[int, Tensor | None] = {}

    def shift(self, i: int, depth: int = DEPTH) -> Tensor | None:
        """What they add at a node, of its shape; None: nothing."""
        if i not in self.found:
            self.found[i] = self._shift(self.nodes[i], depth)
        return self.found[i]

    def _shift(self, node: Node, depth: int) -> Tensor | None:
        parts: list[Tensor] = []
        if isinstance(node.op, Masked):
            parts.append(torch.where(node.op.keep, 0.0, -torch.inf).to(torch.float64))
        elif isinstance(node.op, Pad) and _lowered(node.op):
            parts.append(node.op.forward(torch.zeros(1, *self.nodes[node.inputs[0]].shape, dtype=torch.float64))[0])
        elif isinstance(node.op, Scale) and _lowered(node.op):
            assert node.op.shift is not None
            parts.append(torch.where(node.op.shift <= LOW, node.op.shift.double(), 0.0))
        added = [self.shift(i, depth - 1) for i in node.inputs] if depth and _passes(node) else []
        masked = [before for before in added if before is not None]
        if masked and _moves(node.op):
            none = [torch.zeros(1, *self.nodes[i].shape, dtype=torch.float64) for i in node.inputs]
            full = [zero if shift is None else shift.unsqueeze(0) for zero, shift in zip(none, added)]
            op = _without_masks(node.op)
            parts.append((op.forward(*full) - op.forward(*none))[0])
        elif masked and (factor := _factor(node.op)) is not None:
            parts.append(torch.where(masked[0] == 0, masked[0], factor * masked[0]))
        else:
            parts += masked
        return torch.stack([part.expand(node.shape) for part in parts]).sum(0) if parts else None

    def raw(self, x: Value) -> Value:
        """The activation without what masks add."""
        node = self.nodes[x.position]
        if self.shift(x.position) is None:
            return x
        inputs = [self.raw(Value(i, self.nodes[i].shape)) for i in node.inputs]
        if isinstance(node.op, Masked):
            return inputs[0]
        return self.append(_without_masks(node.op), inputs)
