"""ONNX nodes as operators, whatever their tensors have in front: a batch, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from onnx import NodeProto

from clinch.errors import UnsupportedOperator
from clinch.network.build import Builder
from clinch.network.onnx_functions import FUNCTIONS
from clinch.network.onnx_kinds import read_kinds
from clinch.network.onnx_lift import lifted, widened
from clinch.network.onnx_schemas import Schemas
from clinch.network.onnx_tensors import Held, Pending, matrix_value, operator_of, plain_value, whole_of
from clinch.network.ops.base import Operator, Shape
from clinch.network.ops.elementwise import ScalarFunction
from clinch.network.ops.reading import Call, Value
from clinch.network.ops.rests import truncated
from clinch.network.ops.scale import Scale
from clinch.network.ops.shape import Reshape, Transpose


class _OnnxCall(Call):
    """One node of the file."""

    builder: Builder

    def emit(self, op: Operator, *inputs: Value) -> Value:
        """Append a node. Steps behind a transposition go in front of it, so that one that turns it back cancels it."""
        if len(inputs) != 1:
            return super().emit(op, *inputs)
        nodes = self.builder.nodes
        node = nodes[inputs[0].position]
        if isinstance(node.op, Transpose) and node.shape == inputs[0].shape:
            source = Value(node.inputs[0], nodes[node.inputs[0]].shape)
            if isinstance(op, Transpose) and _turned(op, node.op).is_identity([source.shape]):
                return source
            if _is_step(op) or (_is_step(nodes[source.position].op) and _by_number(op)):
                return super().emit(node.op, super().emit(op, source))
        return super().emit(op, *inputs)

    @property
    def advice(self) -> str:
        """What would work instead."""
        return "Save the model with other operators, without control flow, text or random numbers."

    @property
    def output_shape(self) -> Shape:
        """Not known beforehand: readers of ONNX nodes compute it."""
        raise self.refuse("its output shape is not stated")


def _turned(second: Transpose, first: Transpose) -> Transpose:
    return Transpose(tuple(first.permutation[d] for d in second.permutation))


def _is_step(op: Operator) -> bool:
    """Whether a function of one number has jumps; what is recognised as one function with its neighbours has none."""
    return isinstance(op, ScalarFunction) and bool(op.jumps())


def _by_number(op: Operator) -> bool:
    return isinstance(op, Scale) and all(t is None or t.numel() == 1 for t in (op.scale, op.shift))


class Operators:
    """Reads nodes by the readers of operators.

    Args:
        builder: takes the layers.
        schemas: of the file's operator sets.
        dtype: of the file's real numbers.
        one_at_a_time: the file states that it takes one input.
    """

    def __init__(self, builder: Builder, schemas: Schemas, dtype: torch.dtype, one_at_a_time: bool) -> None:
        self.builder, self.schemas, self.dtype, self.one_at_a_time = builder, schemas, dtype, one_at_a_time
        #: of nodes that are read for a single input
        self.refusals: list[UnsupportedOperator] = []

    def call(self, node: NodeProto, arguments: dict[str, Any], name: str) -> Call:
        """A node as readers see it."""
        return _OnnxCall(self.builder, operator_of(node), arguments, name, f"ONNX node {node.op_type}")

    def read(self, node: NodeProto, inputs: Sequence[Any], name: str) -> list[Held] | None:
        """What the operator's reader makes of the node; None where there is none or it does not cover this form.

        Of a single input the first dimension is one as any other. That a file treats several alike is known when it is
        compared: if it does not, the reader's refusal said why.
        """
        if any(isinstance(value, Held) and value.kind is not None for value in inputs):
            inputs = [whole_of(value) for value in inputs]
        if any(isinstance(value, Pending) for value in inputs):
            return None
        layouts = {held.batched for held in inputs if isinstance(held, Held)}
        refusal: UnsupportedOperator | None = None
        if len(layouts) == 1:
            try:
                found = self._in_layout(node, inputs, name, *layouts)
            except UnsupportedOperator as error:
                found, refusal = None, error
            if found is not None:
                return found
            if layouts == {False}:
                if refusal is not None:
                    raise refusal
                return None
        whole = [self._shaped(v, v.shape, node, name) if isinstance(v, Held) and v.batched else v for v in inputs]
        try:
            found = self._in_layout(node, whole, name, False)
        except UnsupportedOperator as error:
            raise refusal or error from None
        if refusal is not None:
            if found is None:
                raise refusal
            if not self.one_at_a_time:
                self.refusals.append(refusal)
        return found

    def as_whole(
        self, node: NodeProto, inputs: Sequence[Any], results: Sequence[Held | Pending | None], name: str
    ) -> list[Held | Pending | None]:
        """Results that wait, with layers of the same whole numbers beside them, for nodes that compare these."""
        first, wholes = inputs[0], None
        if node.op_type == "Cast" and isinstance(first, Held) and first.kind is None:
            kind = results[0].example.dtype if isinstance(results[0], Pending) else torch.bool
            if kind != torch.bool:
                wholes = [Held(truncated(self.call(node, {}, name), first.value), first.batched, kind)]
        elif any(isinstance(value, Pending) and value.whole is not None for value in inputs):
            with suppress(UnsupportedOperator):
                wholes = self.read(node, [whole_of(value) for value in inputs], name)
        if wholes is None:
            return list(results)
        return [r._replace(whole=w) if isinstance(r, Pending) else r for r, w in zip(results, wholes)]

    def _in_layout(self, node: NodeProto, inputs: Sequence[Any], name: str, batched: bool) -> list[Held] | None:
        """As :meth:`read`, for activations that all have the batch in front, or none of them."""
        if not batched:
            shapes = widened(node.op_type, [v.shape for v in inputs if v is not None])
            inputs = [None if v is None else self._shaped(v, shapes.pop(0), node, name) for v in inputs]
        plain = matrix_value if node.op_type in ("MatMul", "Gemm") else plain_value
        arguments = self.schemas.bound(node, [plain(value) for value in inputs])
        if not batched:
            found = lifted(node.op_type, arguments)
            if found is None:
                return self._reshaped(node, inputs, name)
            arguments = found
        kinds = [held.kind for held in inputs if isinstance(held, Held)]
        result = read_kinds(self.call(node, arguments, name), kinds, self.dtype)
        if result is None:
            return None
        values, kind = result
        return [self._held(value, batched, name, node, kind) for value in values]

    def _held(self, value: Value, batched: bool, name: str, node: NodeProto, kind: torch.dtype | None) -> Held:
        """A sample with a dimension of 1 in front is one of a batch."""
        if batched or len(value.shape) < 2 or value.shape[0] != 1:
            return Held(value, batched, kind)
        call = self.call(node, {}, name)
        return Held(call.emit(Reshape(value.shape[1:]), value), True, kind)

    def _shaped(self, value: np.ndarray | Held, shape: Shape, node: NodeProto, name: str) -> np.ndarray | Held:
        """An activation without a batch, in a shape."""
        if not isinstance(value, Held):
            return value
        return Held(self.call(node, {}, name).emit(Reshape(shape), value.value), False, value.kind)

    def _reshaped(self, node: NodeProto, inputs: Sequence[Any], name: str) -> list[Held] | None:
        """A node that gives the same elements in another shape, for tensors without a batch."""
        if node.op_type not in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            return None
        arguments = [torch.zeros(inputs[0].shape), *(plain_value(value) for value in inputs[1:])]
        shape = tuple(FUNCTIONS[node.op_type](self.schemas.settings(node), *arguments).shape)  # type: ignore[union-attr]
        batched = len(shape) > 1 and shape[0] == 1
        value = self.call(node, {}, name).emit(Reshape(shape[1:] if batched else shape), inputs[0].value)
        return [Held(value, batched, inputs[0].kind)]
