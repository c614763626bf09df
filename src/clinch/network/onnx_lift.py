"""Nodes of tensors without a batch, as the same nodes with a batch of one in front."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clinch.network.ops.base import Shape

Arguments = dict[str, Any]

#: element by element, or along the last dimensions: a dimension in front changes nothing
_UNCHANGED = frozenset(
    re.findall(
        r"\w+",
        """
    Relu LeakyRelu Sigmoid Tanh Clip Elu Selu Celu Softplus Softsign HardSigmoid HardSwish Gelu Mish Swish Exp Log Sqrt
    Abs Neg Sin Cos Tan Atan Erf Reciprocal Sign Floor Ceil Round ThresholdedRelu Shrink Identity Dropout Cast CastLike
    Not Gemm
    """,
    )
)


#: element by element, with samples of fewer dimensions widened in front
_BROADCAST = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "Where", "PRelu", "Mod", "Equal", "And", "Or"}
)


def widened(kind: str, shapes: Sequence[Shape]) -> list[Shape]:
    """The shapes that the inputs of a node of that type must have, of tensors without a batch."""
    rank = max(map(len, shapes), default=0)
    return [(1,) * (rank - len(s)) + tuple(s) if kind in _BROADCAST else tuple(s) for s in shapes]


def _axis(name: str, default: int) -> Callable[[Arguments], Arguments]:
    def lift(arguments: Arguments) -> Arguments:
        axis = arguments.get(name, default)
        return {name: axis + 1 if axis >= 0 else axis}

    return lift


def _axes(arguments: Arguments) -> Arguments:
    given = arguments.get("axes")
    if given is None:
        return {}
    values = given.flatten().tolist() if isinstance(given, Tensor) else list(given)
    shifted = [a + 1 if a >= 0 else a for a in values]
    return {"axes": torch.tensor(shifted) if isinstance(given, Tensor) else shifted}


def _slice(arguments: Arguments) -> Arguments:
    starts = arguments["starts"]
    count = starts.numel() if isinstance(starts, Tensor) else len(starts)
    given = arguments.get("axes")
    return _axes({"axes": torch.arange(count) if given is None else given})


def _permutation(arguments: Arguments) -> Arguments:
    rank = len(arguments["data"].shape)
    order = arguments.get("perm") or list(range(rank))[::-1]
    return {"perm": [0, *(d + 1 for d in order)]}


_LIFTS: dict[str, Callable[[Arguments], Arguments]] = {
    "Transpose": _permutation,
    "Slice": _slice,
    "Concat": _axis("axis", 0),
    "Split": _axis("axis", 0),
    "Gather": _axis("axis", 0),
    "Softmax": _axis("axis", -1),
    "LogSoftmax": _axis("axis", -1),
    "LayerNormalization": _axis("axis", -1),
    "ArgMax": _axis("axis", 0),
    "OneHot": _axis("axis", -1),
} | {f"Reduce{kind}": _axes for kind in ("Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare", "Prod")}


def lifted(kind: str, arguments: Arguments) -> Arguments | None:
    """The arguments of a node of that type, for tensors with one more dimension in front; None: not known how.

    Args:
        kind: the node's type.
        arguments: inputs and attributes by name.
    """
    if kind in _UNCHANGED or kind in _BROADCAST:
        return arguments
    if kind in ("MatMul", "LSTM", "GRU", "RNN"):
        return arguments | {"alone": True}
    if kind.startswith("Reduce") and arguments.get("axes") is None:
        if arguments.get("noop_with_empty_axes", 0):
            return None
        arguments = arguments | {"axes": list(range(len(arguments["data"].shape)))}
    if kind in ("Softmax", "LogSoftmax") and arguments["opset"] < 13:
        return None
    return arguments | _LIFTS[kind](arguments) if kind in _LIFTS else None
