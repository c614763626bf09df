"""What bounds know of nodes that a function of torch computes: choices by comparisons, functions affine in their data.

The function stays what computes the node's value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx import NodeProto
from torch import Tensor

from clinch.errors import UnsupportedOperator
from clinch.network.build import Builder
from clinch.network.choices import as_number, masked, written_out
from clinch.network.onnx_functions import FUNCTIONS, Settings
from clinch.network.onnx_tensors import Held, Pending, operator_of, tensor_of
from clinch.network.ops.base import Shape
from clinch.network.ops.lazy import Lazy, RowFunction, is_sequence
from clinch.network.ops.linear_function import MOST_DENSE, LinearFunction, emit_linear
from clinch.network.ops.reading import Call, Value

_ATEN = torch.ops.aten
#: functions of nodes -> the calls that conditions are read from
_CALLS: dict[int, Callable[..., Any]] = {
    id(FUNCTIONS[name]): call
    for name, call in {
        "Greater": _ATEN.gt.Tensor, "GreaterOrEqual": _ATEN.ge.Tensor, "Less": _ATEN.lt.Tensor,
        "LessOrEqual": _ATEN.le.Tensor, "Equal": _ATEN.eq.Tensor, "And": _ATEN.logical_and.default,
        "Or": _ATEN.logical_or.default, "Xor": _ATEN.logical_xor.default, "Not": _ATEN.logical_not.default,
        "Cast": _ATEN.to.dtype, "Identity": _ATEN.clone.default, "IsNaN": _ATEN.isnan.default,
        "IsInf": _ATEN.isinf.default,
    }.items()
}  # fmt: skip
#: types that are affine in these of their inputs, the others being constants
_AFFINE = {
    "Tile": (0,), "CumSum": (0,), "ScatterND": (0, 2), "ScatterElements": (0, 2), "GatherND": (0,),
    "GatherElements": (0,), "Trilu": (0,), "ReverseSequence": (0,), "GridSample": (0,), "Col2Im": (0,),
    "CenterCropPad": (0,), "DepthToSpace": (0,), "SpaceToDepth": (0,), "Resize": (0,), "Upsample": (0,), "DFT": (0,),
}  # fmt: skip


def written(
    node: NodeProto, inputs: Sequence[Any], settings: Settings, call: Call, function: RowFunction, values: list[Value]
) -> Value | None:
    """Layers whose value is the node's, for bounds; None: it is another node, or they do not fit.

    Args:
        node: of the file.
        inputs: constants, activations, what waits, or None.
        settings: of the node.
        call: takes the layers.
        function: what the node computes from its activations.
        values: these.
    """
    assert isinstance(call.builder, Builder)
    before = len(call.builder.nodes)
    try:
        if node.op_type in _AFFINE or node.op_type == "Einsum":
            found = _affine(node, inputs, settings, call, function, values)
        else:
            found = _chosen(node, inputs, call, function.shape)
    except (UnsupportedOperator, RuntimeError):
        return None
    # a layer that was there before has a value of its own
    return found if found is not None and (found.position >= before or found in values) else None


def _affine(
    node: NodeProto, inputs: Sequence[Any], settings: Settings, call: Call, function: RowFunction, values: list[Value]
) -> Value | None:
    places = _AFFINE.get(node.op_type)
    moving = [i for i, value in enumerate(inputs) if isinstance(value, (Held, Pending))]
    if any(isinstance(inputs[i], Pending) or inputs[i].kind is not None for i in moving):
        return None
    if not set(moving) <= set(places) if places is not None else len(moving) > 1:
        return None
    if settings.get("reduction", "none") not in ("none", "add"):
        return None
    sizes = sum(torch.Size(value.shape).numel() for value in values)
    if sizes * torch.Size(function.shape).numel() > MOST_DENSE:
        return None
    return emit_linear(call, LinearFunction(function, False), values, function.shape)


def _chosen(node: NodeProto, inputs: Sequence[Any], call: Call, shape: Shape) -> Value | None:
    """A choice between two, or a condition as zeros and ones."""
    held = [leaf for value in inputs for leaf in _held(value)]
    if operator_of(node) not in ("Where", "Cast") or not held:
        return None
    ranks = {batched: [len(leaf.value.shape) for leaf in held if leaf.batched == batched] for batched in (True, False)}
    # what has no batch in the file fits behind one where it has no more dimensions
    if all(ranks.values()) and max(ranks[False]) > min(ranks[True]):
        return None
    batched, builder = bool(ranks[True]), call.builder
    assert isinstance(builder, Builder)
    parts = [_spelled(value, batched) for value in inputs]
    if any(part is None for part in parts) or not isinstance(parts[0], Lazy):
        return None
    if node.op_type == "Where":
        bound: dict[str, Any] = dict(zip(("condition", "self", "other"), parts))
        found = written_out(builder, "aten.where", bound, call.name, call.source)
        found = found if found is not None else masked(builder, "aten.where", bound, call.name, call.source)
    else:
        found = written_out(builder, "aten.to", {"self": parts[0]}, call.name, call.source)
        found = found if found is not None else as_number(builder, parts[0], call.name, call.source)
    return found if found is not None and found.shape == shape else None


def _held(value: Any) -> list[Held]:
    """The activations of a tree."""
    if isinstance(value, Pending):
        value = value.value
    if isinstance(value, Held):
        return [value]
    if isinstance(value, Lazy):
        value = value.arguments
    return [leaf for part in value for leaf in _held(part)] if is_sequence(value) else []


def _spelled(value: Any, batched: bool) -> Any:
    """A tree of nodes as one of torch's calls on samples; None: some node is no comparison."""
    if isinstance(value, Pending):
        value = value.value
    if isinstance(value, Held):
        return value.value if value.kind is None else None
    if isinstance(value, Lazy):
        call = _CALLS.get(id(value.function))
        arguments = [_spelled(part, batched) for part in value.arguments[1:]]
        if call is None or value.keywords or any(part is None for part in arguments):
            return None
        return Lazy(call, tuple(arguments), {})
    array = torch.as_tensor(tensor_of(value)) if value is not None else None
    if array is None or not batched or array.dim() == 0:
        return array
    # behind a batch a constant without a dimension for it is one of the last dimensions
    return array[0] if array.shape[0] == 1 and array.dim() > 1 else array if isinstance(array, Tensor) else None
