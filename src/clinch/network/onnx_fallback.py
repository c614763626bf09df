"""A node as a function of torch, where no operator covers it: attacks follow it, bounds do not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from onnx import NodeProto
from torch import Tensor

from clinch.errors import NetworkError
from clinch.network.onnx_functions import FUNCTIONS, Excessive, Settings
from clinch.network.onnx_tensors import Held, Pending, example_of, operator_of, tree_of
from clinch.network.ops.lazy import Lazy, RowFunction, Slot, map_leaves
from clinch.network.ops.reading import Call, Value


def computed(
    node: NodeProto, inputs: Sequence[Any], settings: Settings, call: Call, where: str
) -> list[Held | Pending | None]:
    """The node's results: a real one is a layer, any other waits for the layer that uses it.

    Args:
        node: of a type that has a function, of a size that was checked.
        inputs: constants, activations, what waits, or None.
        settings: of the node.
        call: gives the node's name, for layers and messages.
        where: the file's name.

    Raises:
        NetworkError: the inputs do not fit the node.
        UnsupportedOperator: the result is too large, or its shape depends on values.
    """
    function = FUNCTIONS[operator_of(node)]
    examples = [example_of(value, settings.dtype) for value in inputs]
    try:
        found = function(settings, *examples)
    except Excessive as error:
        raise call.refuse(str(error)) from error
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in examples if t is not None)
        reason = (str(error).splitlines() or [""])[0]
        # whatever is wrong with a node, shapes that do not fit or a missing attribute, is wrong with the file
        raise NetworkError(
            f"Layer '{call.name}' (ONNX node {node.op_type}) of {where} does not fit its inputs of shapes {shapes} "
            f"({type(error).__name__}: {reason}). Correct the model."
        ) from error
    whole = Lazy(function, (settings, *(tree_of(value) for value in inputs)), {})
    if isinstance(found, Tensor):
        return [_result(whole, found, call)]
    parts = [Lazy(_part, (whole, i), {}) for i in range(len(found))]
    return [
        _result(part, example, call) if tensor else None for part, example, tensor in zip(parts, found, node.output)
    ]


def _part(results: Sequence[Tensor], i: int) -> Tensor:
    return results[i]


def _result(value: Lazy, example: Tensor, call: Call) -> Held | Pending:
    if not example.is_floating_point():
        return Pending(value, example)
    inputs: list[Held] = []

    def slot(leaf: Any) -> Any:
        if not isinstance(leaf, Held):
            return leaf
        if leaf not in inputs:
            inputs.append(leaf)
        return Slot(inputs.index(leaf))

    tree = map_leaves(value, slot)
    if not inputs:
        # what depends on the shapes of activations alone
        return Pending(value, example)
    batched = example.dim() > 0 and example.shape[0] == 1
    shape = tuple(example.shape[1:] if batched else example.shape)
    op = RowFunction(call.operator, tree, tuple(held.shape for held in inputs), shape)
    values = [held.value for held in inputs]
    return Held(call.emit(_at_once(op, values, call), *values), batched)


def _at_once(op: RowFunction, values: Sequence[Value], call: Call) -> RowFunction:
    """The function for a batch at once where that gives what it gives row by row."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(2, *v.shape, generator=generator, dtype=torch.float64) for v in values]
    exact = op.to(torch.float64, "cpu")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = replace(exact, at_once=False).forward(*rows)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise call.refuse(f"the shape of its result depends on values ({reason})") from error
        try:
            same = torch.allclose(exact.forward(*rows), expected, rtol=1e-9, atol=1e-9, equal_nan=True)
        except Exception:  # whatever torch's batching rules do not cover
            same = False
    return op if same else replace(op, at_once=False)
