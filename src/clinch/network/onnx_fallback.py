"""A node as a function of torch, where no operator covers it: attacks follow it, bounds do not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from onnx import NodeProto
from torch import Tensor

from clinch.errors import NetworkError
from clinch.network.build import Builder
from clinch.network.onnx_functions import FUNCTIONS, Excessive, Settings
from clinch.network.onnx_functions.table import DTYPES
from clinch.network.onnx_tensors import Held, Pending, converted, example_of, operator_of, tree_of
from clinch.network.onnx_written import written
from clinch.network.ops.base import Operator
from clinch.network.ops.lazy import Lazy, RowFunction, Slot, map_leaves
from clinch.network.ops.reading import Call, Value
from clinch.network.ops.whole import WholeFunction, looks_at_whole_parts

WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
#: of random inputs on which functions are tried: as indices they reach further than standard normal ones
SIZES = (1.0, 1.0, 30.0)


def computed(
    node: NodeProto,
    inputs: Sequence[Any],
    settings: Settings,
    call: Call,
    where: str,
    at_zero: Callable[[Value], Tensor],
) -> list[Held | Pending | None]:
    """The node's results: a real one is a layer, any other waits for the layer that uses it.

    Args:
        node: of a type that has a function, of a size that was checked.
        inputs: constants, activations, what waits, or None.
        settings: of the node.
        call: gives the node's name, for layers and messages.
        where: the file's name.
        at_zero: an activation where the network's input is zero: whole numbers may say what shape a result has.

    Raises:
        NetworkError: the inputs do not fit the node.
        UnsupportedOperator: the result is too large, or its shape depends on values.
    """
    function = FUNCTIONS[operator_of(node)]
    examples = [example_of(value, settings.dtype, at_zero) for value in inputs]
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
        return [_result(whole, found, call, partial(written, node, inputs, settings))]
    parts = [Lazy(_part, (whole, i), {}) for i in range(len(found))]
    return [
        _result(part, example, call) if tensor else None for part, example, tensor in zip(parts, found, node.output)
    ]


def as_real(value: Pending, call: Call, dtype: torch.dtype) -> Held:
    """Whole numbers as real ones, computed with everything that they wait for."""
    tree, inputs = _slots(Lazy(converted, (value.value, dtype), {}))
    op, batched = _row_function(tree, inputs, value.example, call)
    values = [held.value for held in inputs]
    return Held(call.emit(_at_once(op, values) or replace(op, at_once=False), *values), batched)


def _part(results: Sequence[Tensor], i: int) -> Tensor:
    return results[i]


def _result(
    value: Lazy, example: Tensor, call: Call, known: Callable[..., Value | None] = lambda *_: None
) -> Held | Pending:
    """A layer; what is not real waits, and so does what has another shape for other values of what it depends on.

    ``known`` gives layers for bounds, given the call, the function and its activations, or None.
    """
    tree, inputs = _slots(value)
    if not inputs:
        # what depends on the shapes of activations alone
        return Pending(value, example)
    op, batched = _row_function(tree, inputs, example, call)
    values = [held.value for held in inputs]
    steady = _at_once(op, values)
    if steady is None or not example.is_floating_point():
        return Pending(value, example, steady is None)
    parts = known(call, steady, values)
    if parts is None and not looks_at_whole_parts(steady.value, _cuts):
        parts = _in_simpler_calls(steady, values, call)
    if parts is None:
        return Held(call.emit(_with_limits(steady), *values), batched)
    if parts not in values:
        call.builder.stands_for(parts, steady, values)
    return Held(parts, batched)


def _in_simpler_calls(op: RowFunction, values: list[Value], call: Call) -> Value | None:
    """The function as a module of torch would be read: its layers for bounds, None where not all have rules."""
    # torch's exporter takes as long to import as torch itself
    from clinch.network.trace import in_simpler_calls

    assert isinstance(call.builder, Builder)
    return in_simpler_calls(call.builder, op, values, op.shape, call.name, call.source)


def _with_limits(op: RowFunction) -> Operator:
    """The function with what is known of it: where it looks at whole numbers alone its values have limits."""
    return WholeFunction(op) if looks_at_whole_parts(op.value, _cuts) else op


def _cuts(call: Lazy) -> bool:
    """Whether a call is a cast to whole numbers."""
    return call.function is FUNCTIONS["Cast"] and DTYPES.get(call.arguments[0].get("to")) in WHOLE


def _slots(value: Lazy) -> tuple[Lazy, list[Held]]:
    """A tree of calls with a :class:`Slot` for each activation, and these."""
    inputs: list[Held] = []

    def slot(leaf: Any) -> Any:
        if not isinstance(leaf, Held):
            return leaf
        if leaf not in inputs:
            inputs.append(leaf)
        return Slot(inputs.index(leaf))

    return map_leaves(value, slot), inputs


def _row_function(tree: Lazy, inputs: Sequence[Held], example: Tensor, call: Call) -> tuple[RowFunction, bool]:
    batched = example.dim() > 0 and example.shape[0] == 1
    shape = tuple(example.shape[1:] if batched else example.shape)
    return RowFunction(call.operator, tree, tuple(held.shape for held in inputs), shape), batched


def _at_once(op: RowFunction, values: Sequence[Value]) -> RowFunction | None:
    """The function for a batch at once where that gives what it gives row by row; None: its shape varies."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(len(SIZES), *v.shape, generator=generator, dtype=torch.float64) for v in values]
    sizes = torch.tensor(SIZES, dtype=torch.float64)
    rows = [x * sizes.reshape(-1, *[1] * (x.dim() - 1)) for x in rows]
    exact = op.to(torch.float64, "cpu")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = replace(exact, at_once=False).forward(*rows)
        except Exception:
            return None
        try:
            same = torch.allclose(exact.forward(*rows), expected, rtol=1e-9, atol=1e-9, equal_nan=True)
        except Exception:  # whatever torch's batching rules do not cover
            same = False
    return op if same else replace(op, at_once=False)
