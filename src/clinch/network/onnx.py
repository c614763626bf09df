"""From ONNX file to graph: a reader of our own on the ``onnx`` package (default operators, opsets 7 and later).

The file's first dimension is the batch, of size 1 or free. Whatever depends on no activation (constants, shape
arithmetic) is computed once, for a batch of one, by the package's reference implementation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, defs, helper
from torch import Tensor

from clinch.errors import ClinchError, NetworkError, UnsupportedOperator
from clinch.network.build import MOST_ELEMENTS, Builder, Unique
from clinch.network.graph import Graph
from clinch.network.onnx_constants import Unfoldable, array_of, folded
from clinch.network.ops.base import Shape
from clinch.network.ops.reading import ONNX, Call, Value

#: before this one, arithmetic broadcast differently
_OLDEST = 7
_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
}


@dataclass
class Read:
    """What :func:`read` found.

    Attributes:
        graph: float64, on the CPU.
        dtype: of the file's input.
        tensors: position of a layer -> name of the file's tensor.
    """

    graph: Graph
    dtype: torch.dtype
    tensors: dict[int, str]


def read(model: ModelProto, input_shape: Shape | None, where: str) -> Read:
    """The graph of a model.

    Args:
        model: the file's content.
        input_shape: shape of one input; needed where the file leaves it open, checked where it states it.
        where: name of the file, for messages.

    Raises:
        NetworkError: no or several inputs or outputs, no batch dimension, open shapes.
        UnsupportedOperator: a node cannot be read; gives its name and operator.
    """
    return _Reading(model, input_shape, where).read()


class _OnnxCall(Call):
    """One node of the file."""

    @property
    def advice(self) -> str:
        """What would work instead."""
        return f"Save the model with these operators instead: {', '.join(sorted(ONNX))}."

    @property
    def output_shape(self) -> Shape:
        """Not known beforehand: readers of ONNX nodes compute it."""
        raise self.refuse("its output shape is not stated")


class _Reading:
    """Walks through the file's nodes in order and builds the graph."""

    def __init__(self, model: ModelProto, input_shape: Shape | None, where: str) -> None:
        self.model, self.where = model, where
        versions = {entry.domain: entry.version for entry in model.opset_import}
        self.opset = versions.get("", versions.get("ai.onnx", 0))
        if self.opset < _OLDEST:
            raise NetworkError(
                f"{where} uses opset {self.opset}. Convert it to opset {_OLDEST} or later (onnx.version_converter)."
            )
        self.values: dict[str, Any] = {t.name: array_of(t, where) for t in model.graph.initializer}
        inputs = [i for i in model.graph.input if i.name not in self.values]
        for kind, entries in (("input", inputs), ("output", model.graph.output)):
            if len(entries) != 1:
                raise NetworkError(
                    f"{where} has {len(entries)} {kind}s ({', '.join(e.name for e in entries)}); one is needed. "
                    f"Save a model with a single {kind}."
                )
        self.input, self.output = inputs[0], model.graph.output[0]
        kind = self.input.type.tensor_type.elem_type
        if kind not in _DTYPES:
            raise NetworkError(
                f"The input '{self.input.name}' of {where} does not hold real numbers. Save a model of floats."
            )
        self.dtype = _DTYPES[kind]
        self.builder = Builder(self.input.name, self._shape(input_shape), torch.device("cpu"))
        self.values[self.input.name] = self.builder.input
        #: names given to each position: by the node that made it first, then its tensor, then those that change nothing
        self.names: dict[int, list[str]] = {0: [self.input.name]}
        self.tensors: dict[int, str] = {}

    def _shape(self, given: Shape | None) -> Shape:
        """Shape of one input, from the file and the user."""
        stated = [d.dim_value if d.HasField("dim_value") else None for d in self.input.type.tensor_type.shape.dim]
        name = f"The input '{self.input.name}' of {self.where}"
        if not stated or stated[0] not in (None, 0, 1):
            raise NetworkError(
                f"{name} has shape {stated} without a batch dimension. "
                "Save the model with a first dimension that is free or 1."
            )
        rest = stated[1:]
        if any(n is not None and n <= 0 for n in rest) or math.prod(n or 1 for n in rest) > MOST_ELEMENTS:
            raise NetworkError(
                f"{name} has shape {stated}; each extent is at least 1, and at most {MOST_ELEMENTS:,} elements "
                "are read. Save a smaller model."
            )
        if given is None:
            if None in rest:
                raise NetworkError(
                    f"{name} leaves its shape open: {stated}. Give the shape of one input as input_shape=."
                )
            return tuple(n for n in rest if n is not None)
        if len(given) != len(rest) or any(s is not None and s != n for s, n in zip(rest, given)):
            raise NetworkError(
                f"{name} has shape {tuple(rest)} without the batch, not {tuple(given)}. Correct input_shape."
            )
        return tuple(given)

    def read(self) -> Read:
        """Build the nodes and name them."""
        for node in self.model.graph.node:
            self._node(node)
        output = self.values.get(self.output.name)
        if not isinstance(output, Value):
            raise NetworkError(f"The output '{self.output.name}' of {self.where} does not depend on its input.")
        unique = Unique()
        count = len(self.builder.nodes)
        first = [unique(self.names[i][0]) for i in sorted(self.names)]
        by_position = dict(zip(sorted(self.names), first))
        names = [by_position[i] if i in by_position else unique(self.builder.nodes[i].name) for i in range(count)]
        aliases = [[a for a in self.names.get(i, [])[1:] if a != names[i]] for i in range(count)]
        graph, moved = self.builder.graph(output, names, aliases)
        return Read(graph, self.dtype, {moved[i]: tensor for i, tensor in self.tensors.items() if i in moved})

    def _node(self, node: NodeProto) -> None:
        name = node.name or next((o for o in node.output if o), node.op_type)
        unknown = [tensor for tensor in node.input if tensor and tensor not in self.values]
        if unknown:
            raise NetworkError(
                f"Layer '{name}' of {self.where} reads the tensor '{unknown[0]}', which no node before it makes. Save "
                "the model with all its tensors, the nodes in the order of evaluation."
            )
        inputs = [self.values[tensor] if tensor else None for tensor in node.input]
        if node.op_type == "Shape" and inputs and isinstance(inputs[0], Value):
            sizes = np.array([1, *inputs[0].shape], dtype=np.int64)
            limits = {a.name: a.i for a in node.attribute}
            self.values.update((o, sizes[limits.get("start", 0) : limits.get("end")]) for o in node.output[:1])
        elif not any(isinstance(value, Value) for value in inputs):
            self._fold(node, inputs, name)
        else:
            self._read(node, inputs, name)

    def _fold(self, node: NodeProto, inputs: Sequence[np.ndarray | None], name: str) -> None:
        """Compute a node that depends on no activation."""
        named = {n: v for n, v in zip(node.input, inputs) if n and v is not None}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = folded(node, named, self.opset)
        except Unfoldable as error:
            raise UnsupportedOperator(f"Layer '{name}' of {self.where}: {error}") from error
        except Exception as error:
            raise UnsupportedOperator(
                f"Layer '{name}' of {self.where}: {node.op_type} of constants fails: {error}."
            ) from error
        self.values.update(zip((o for o in node.output if o), values))

    def _read(self, node: NodeProto, inputs: Sequence[Any], name: str) -> None:
        operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        call = _OnnxCall(self.builder, operator, {}, name, f"ONNX node {node.op_type}")
        reader = ONNX.get(operator)
        if reader is None:
            raise call.refuse("there is no reader for it")
        try:
            call.arguments = self._bind(node, inputs)
            result = call.read(reader)
        except ClinchError:
            raise
        except Exception as error:
            # whatever is wrong with a node, shapes that do not fit or a missing attribute, is wrong with the file
            shapes = ", ".join(str(tuple(value.shape)) for value in inputs if value is not None)
            raise NetworkError(
                f"Layer '{name}' (ONNX node {node.op_type}) of {self.where} does not fit its inputs of shapes {shapes} "
                f"({type(error).__name__}: {error}). Correct the model."
            ) from error
        if result is None:
            raise call.refuse("this form of it is not known")
        results = result if isinstance(result, list) else [result]
        for tensor, value in zip(node.output, results):
            if not tensor:
                continue
            self.values[tensor] = value
            # a node with several outputs lends its name to none of them
            label = name if node.name and len(results) == 1 else tensor
            given = self.names.setdefault(value.position, [])
            given.extend(n for n in dict.fromkeys((label, tensor)) if n not in given)
            self.tensors[value.position] = tensor

    def _bind(self, node: NodeProto, inputs: Sequence[Any]) -> dict[str, Any]:
        """Inputs and attributes by the names of the operator's schema, attributes with its defaults."""
        schema = defs.get_schema(node.op_type, self.opset)
        values = [_tensor(value) for value in inputs]
        bound: dict[str, Any] = {"opset": self.opset, "outputs": len(node.output)}
        for i, parameter in enumerate(schema.inputs):
            if parameter.option == defs.OpSchema.FormalParameterOption.Variadic:
                bound[parameter.name] = values[i:]
            elif i < len(values) and values[i] is not None:
                bound[parameter.name] = values[i]
        for name, attribute in schema.attributes.items():
            if attribute.default_value.type:
                bound[name] = _plain(attribute.default_value)
        bound |= {attribute.name: _plain(attribute) for attribute in node.attribute}
        return bound


def _plain(attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return _tensor(array_of(value, "an attribute"))
    return value.decode() if isinstance(value, bytes) else value


def _tensor(value: Any) -> Value | Tensor | None:
    if not isinstance(value, np.ndarray):
        return value
    return torch.from_numpy(np.array(value))
