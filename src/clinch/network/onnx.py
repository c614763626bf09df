"""From ONNX file to graph: a reader of our own on the ``onnx`` package (default operators, opsets 7 and later).

The file is read for one input. A first dimension of size 1 or free is the batch; a tensor without one is a sample as it
stands. Whatever depends on no activation (constants, shape arithmetic) is computed once by the package's reference
implementation. A node without an operator of its own, or in a form that its operator does not cover, is computed by a
function of torch (:mod:`clinch.network.onnx_functions`): attacks follow it, bounds do not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, defs
from torch import Tensor

from clinch.errors import ClinchError, NetworkError, UnsupportedOperator
from clinch.network.build import MOST_ELEMENTS, Builder, Unique
from clinch.network.graph import Graph
from clinch.network.missing import Missing
from clinch.network.onnx_choice import DTYPES, choose_input, choose_output, input_shape, needed_nodes, own_copy
from clinch.network.onnx_constants import ROOM, array_of, foldable, folded
from clinch.network.onnx_fallback import computed
from clinch.network.onnx_functions import FUNCTIONS, Settings
from clinch.network.onnx_lift import lifted
from clinch.network.onnx_sizes import TooLarge, Unfoldable, check_attributes, check_size, check_work
from clinch.network.onnx_tensors import Held, Pending, Unread, operator_of, outline, plain, plain_value, tensor_of
from clinch.network.ops.base import Shape
from clinch.network.ops.reading import ONNX, Call, Value
from clinch.network.ops.shape import Reshape
from clinch.runtime import memory

#: before this one, arithmetic broadcast differently
_OLDEST = 7


@dataclass
class Read:
    """What :func:`read` found.

    Attributes:
        graph: float64, on the CPU.
        model: the file's content, without branches that are never taken.
        dtype: of the file's input.
        tensors: position of a layer -> name of the file's tensor.
        output: name of the file's tensor that the last layer is.
        row: shape in which the file takes one input; None where it takes any number of them.
        fixed: the file's other inputs.
        refusals: nodes that a function of torch computes, because their operator could not.
    """

    graph: Graph
    model: ModelProto
    dtype: torch.dtype
    tensors: dict[int, str]
    output: str
    row: Shape | None
    fixed: dict[str, np.ndarray]
    refusals: list[UnsupportedOperator] = field(default_factory=list)


def read(
    model: ModelProto,
    input_shape: Shape | None,
    where: str,
    output: str | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Read:
    """The graph of a model.

    Args:
        model: the file's content.
        input_shape: shape of one input; needed where the file leaves it open, checked where it states it.
        where: name of the file, for messages.
        output: name of the tensor that is the output; None: the only one of real numbers.
        fixed: values of all inputs but one.

    Raises:
        NetworkError: inputs or outputs that are not chosen, open shapes.
        UnsupportedOperator: nodes cannot be read; gives the name and operator of each.
    """
    return _Reading(model, input_shape, where, output, fixed or {}).read()


class _OnnxCall(Call):
    """One node of the file."""

    @property
    def advice(self) -> str:
        """What would work instead."""
        return "Save the model with other operators, without control flow, text or random numbers."

    @property
    def output_shape(self) -> Shape:
        """Not known beforehand: readers of ONNX nodes compute it."""
        raise self.refuse("its output shape is not stated")


class _Reading:
    """Walks through the file's nodes in order and builds the graph."""

    def __init__(
        self, model: ModelProto, shape: Shape | None, where: str, output: str | None, fixed: Mapping[str, Any]
    ) -> None:
        self.model, self.where = own_copy(model), where
        versions = {entry.domain: entry.version for entry in model.opset_import}
        self.versions = versions
        self.opset = versions.get("", versions.get("ai.onnx", defs.onnx_opset_version() if versions else 0))
        if self.opset < _OLDEST:
            raise NetworkError(
                f"{where} uses opset {self.opset}. Convert it to opset {_OLDEST} or later (onnx.version_converter)."
            )
        wrong = next((f"{d or 'ai.onnx'} {v}" for d, v in versions.items() if not 0 < v < 2**31), None)
        if wrong is not None:
            raise NetworkError(f"{where} states the operator set {wrong}, which is none. Save the model anew.")
        self.values: dict[str, Any] = {t.name: array_of(t, where) for t in model.graph.initializer}
        #: elements of constants that nodes may still make
        self.room = ROOM + 4 * sum(value.size for value in self.values.values())
        self.input, self.fixed = choose_input(model, fixed, where)
        self.output = choose_output(model, output, where)
        self.values |= self.fixed
        kind = self.input.type.tensor_type.elem_type
        if kind not in DTYPES:
            raise NetworkError(
                f"The input '{self.input.name}' of {where} does not hold real numbers. Save a model of floats."
            )
        self.dtype = DTYPES[kind]
        sample, batched = input_shape(self.input, shape, where, MOST_ELEMENTS)
        self.builder = Builder(self.input.name, sample, torch.device("cpu"))
        self.held = Held(self.builder.input, batched)
        self.values[self.input.name] = self.held
        #: names given to each position: by the node that made it first, then its tensor, then those that change nothing
        self.names: dict[int, list[str]] = {0: [self.input.name]}
        self.tensors: dict[int, str] = {}
        self.missing = Missing()
        self.refusals: list[UnsupportedOperator] = []

    def read(self) -> Read:
        """Build the nodes and name them."""
        for node in needed_nodes(self.model.graph, {self.output}):
            check_attributes(node, self.where)
            self._node(node)
        self.missing.raise_all(self.where)
        output = self.values.get(self.output)
        if isinstance(output, Pending):
            raise NetworkError(
                f"The output '{self.output}' of {self.where} does not hold real numbers. Choose what is before it: "
                "cl.load(..., output='its tensor')."
            )
        if not isinstance(output, Held):
            raise NetworkError(f"The output '{self.output}' of {self.where} does not depend on its input.")
        unique = Unique()
        count = len(self.builder.nodes)
        first = [unique(self.names[i][0]) for i in sorted(self.names)]
        by_position = dict(zip(sorted(self.names), first))
        names = [by_position[i] if i in by_position else unique(self.builder.nodes[i].name) for i in range(count)]
        aliases = [[a for a in self.names.get(i, [])[1:] if a != names[i]] for i in range(count)]
        graph, moved = self.builder.graph(output.value, names, aliases)
        tensors = {moved[i]: tensor for i, tensor in self.tensors.items() if i in moved}
        tensors[graph.output] = self.output
        first_extent = self.input.type.tensor_type.shape.dim
        free = self.held.batched and bool(first_extent) and first_extent[0].dim_value != 1 and not self.fixed
        row = None if free else self.held.shape
        return Read(graph, self.model, self.dtype, tensors, self.output, row, self.fixed, self.refusals)

    def _node(self, node: NodeProto) -> None:
        name = node.name or next((o for o in node.output if o), node.op_type)
        unknown = [tensor for tensor in node.input if tensor and tensor not in self.values]
        if unknown:
            raise NetworkError(
                f"Layer '{name}' of {self.where} reads the tensor '{unknown[0]}', which no node before it makes. Save "
                "the model with all its tensors, the nodes in the order of evaluation."
            )
        inputs = [self.values[tensor] if tensor else None for tensor in node.input]
        try:
            if any(isinstance(value, Unread) for value in inputs):
                # behind a node that cannot be read only what has no function at all is worth a word
                self._known(node, name)
                self._give(node, [Unread()] * len(node.output))
            elif node.op_type == "If" and isinstance(inputs[0], np.ndarray):
                self._branch(node, bool(inputs[0].reshape(-1)[0]), name)
            elif node.op_type in ("Shape", "Size") and inputs and inputs[0] is not None:
                self._sizes(node, inputs[0])
            elif not any(isinstance(value, (Held, Pending)) for value in inputs):
                self._fold(node, inputs, name)
            else:
                self._read(node, inputs, name)
        except UnsupportedOperator as error:
            self.missing.add(error)
            self._give(node, [Unread()] * len(node.output))
        except ClinchError:
            raise
        except Exception as error:
            if memory.ran_out(error):
                raise
            reason = (str(error).splitlines() or [""])[0]
            # a missing branch, an attribute of another type: the schema's checks do not reach all of them
            raise NetworkError(
                f"Layer '{name}' (ONNX node {node.op_type}) of {self.where} is malformed "
                f"({type(error).__name__}: {reason}). Correct the model."
            ) from error

    def _give(self, node: NodeProto, values: Sequence[Any]) -> None:
        self.values.update((tensor, value) for tensor, value in zip(node.output, values) if tensor)

    def _known(self, node: NodeProto, name: str) -> None:
        operator = operator_of(node)
        if operator not in ONNX and operator not in FUNCTIONS and node.op_type != "Constant":
            raise self._call(node, {}, name).refuse("there is no function for it")

    def _call(self, node: NodeProto, arguments: dict[str, Any], name: str) -> _OnnxCall:
        return _OnnxCall(self.builder, operator_of(node), arguments, name, f"ONNX node {node.op_type}")

    def _branch(self, node: NodeProto, condition: bool, name: str) -> None:
        """The branch that a constant condition takes, in place of the node, and of the other branch."""
        branches = {a.name: a.g for a in node.attribute}
        branch = branches.pop("then_branch" if condition else "else_branch")
        self.values |= {t.name: array_of(t, self.where) for t in branch.initializer}
        for inner in branch.node:
            self._node(inner)
        for other in branches.values():
            # onnxruntime computes constants in both
            other.CopyFrom(branch)
        self._give(node, [self.values[o.name] for o in branch.output])

    def _sizes(self, node: NodeProto, value: np.ndarray | Held | Pending) -> None:
        shape = value.example.shape if isinstance(value, Pending) else value.shape
        limits = {a.name: a.i for a in node.attribute}
        sizes = np.array(shape, dtype=np.int64)
        whole = np.array(math.prod(shape), dtype=np.int64)
        self._give(node, [whole if node.op_type == "Size" else sizes[limits.get("start", 0) : limits.get("end")]])

    def _fold(self, node: NodeProto, inputs: Sequence[np.ndarray | None], name: str) -> None:
        """Compute a node that depends on no activation."""
        named = {n: v for n, v in zip(node.input, inputs) if n and v is not None}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = self._folded(node, named, inputs)
        except Unfoldable as error:
            raise UnsupportedOperator(f"Layer '{name}' of {self.where}: {error}") from error
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UnsupportedOperator(
                f"Layer '{name}' of {self.where}: {node.op_type} of constants fails: {reason:.300}."
            ) from error
        self.values.update(zip((o for o in node.output if o), values))

    def _folded(
        self, node: NodeProto, named: Mapping[str, np.ndarray], inputs: Sequence[np.ndarray | None]
    ) -> Sequence[np.ndarray]:
        function = FUNCTIONS.get(operator_of(node))
        if function is None and not foldable(node):
            raise Unfoldable(f"{node.op_type} of constants is not computed. Fold constants when you save the model.")
        check_size(node, named, self.opset, self.room, set(named))
        check_work(node, inputs)
        if foldable(node) or function is None:
            values = folded(node, named, self.opset)
        else:
            found = function(self._settings(node), *(tensor_of(value) for value in inputs))
            values = [t.numpy() for t in ((found,) if isinstance(found, Tensor) else found)]
        made = sum(value.size for value in values)
        # what a node states as its value lies in the file, as initialisers do
        self.room += 4 * made if any(a.name == "value" for a in node.attribute) and not inputs else -made
        return values

    def _read(self, node: NodeProto, inputs: Sequence[Any], name: str) -> None:
        """An operator of its own where one covers the node, else a function of torch."""
        untold = self._sized(node, inputs, name)
        refusal: UnsupportedOperator | None = None
        try:
            results = self._as_operator(node, inputs, name)
        except UnsupportedOperator as error:
            refusal, results = error, None
        except ClinchError:
            raise
        except Exception as error:
            refusal, results = self._call(node, {}, name).refuse(f"{type(error).__name__}: {error}"), None
        if results is None:
            self._known(node, name)
            if operator_of(node) not in FUNCTIONS:
                raise refusal or self._call(node, {}, name).refuse("this form of it is not known")
            if untold is not None:
                raise untold
            results = computed(node, inputs, self._settings(node), self._call(node, {}, name), self.where)
            self.refusals += [refusal] if refusal is not None else []
        self._give(node, results)
        for tensor, held in zip(node.output, results):
            if not tensor or not isinstance(held, Held):
                continue
            position = held.value.position
            # a node with several outputs lends its name to none of them
            label = name if node.name and len(results) == 1 else tensor
            given = self.names.setdefault(position, [])
            given.extend(n for n in dict.fromkeys((label, tensor)) if n not in given)
            # a tensor without the batch in front holds one input, whatever the file is run on
            if held.batched or not self.held.batched:
                self.tensors[position] = tensor

    def _sized(self, node: NodeProto, inputs: Sequence[Any], name: str) -> UnsupportedOperator | None:
        """Refuse a result beyond what is taken; returns what to say where the size cannot be told beforehand."""
        call = self._call(node, {}, name)
        shapes = {n: outline(value, self.dtype) for n, value in zip(node.input, inputs) if n and value is not None}
        constants = {n for n, value in zip(node.input, inputs) if isinstance(value, np.ndarray)}
        try:
            check_size(node, shapes, self.opset, MOST_ELEMENTS, constants)
        except TooLarge as error:
            raise NetworkError(
                f"Layer '{name}' (ONNX node {node.op_type}) of {self.where} is too large: it has shape "
                f"{error.extents!s:.60}, {math.prod(error.extents):,} elements for one input; at most "
                f"{MOST_ELEMENTS:,} are taken. Load a smaller network."
            ) from error
        except Unfoldable:
            return call.refuse("its size cannot be told before it is computed")
        return None

    # --- operators of their own --------------------------------------------------------------------------------------

    def _as_operator(self, node: NodeProto, inputs: Sequence[Any], name: str) -> list[Held] | None:
        """What the operator's reader makes of the node; None where there is none or it does not cover this form."""
        reader = ONNX.get(operator_of(node))
        layouts = {held.batched for held in inputs if isinstance(held, Held)}
        if reader is None or any(isinstance(value, Pending) for value in inputs) or len(layouts) != 1:
            return None
        (batched,) = layouts
        arguments = self._bind(node, [plain_value(value) for value in inputs])
        target = DTYPES.get(arguments.get("to", TensorProto.FLOAT)) if node.op_type == "Cast" else self.dtype
        like = arguments.get("target_type") if node.op_type == "CastLike" else None
        if target is None or (isinstance(like, Tensor) and not like.is_floating_point()):
            return None
        if not batched:
            found = lifted(node.op_type, arguments)
            if found is None:
                return self._reshaped(node, inputs, name)
            arguments = found
        result = self._call(node, arguments, name).read(reader)
        if result is None:
            return None
        values = result if isinstance(result, list) else [result]
        return [self._held(value, batched, name, node) for value in values]

    def _held(self, value: Value, batched: bool, name: str, node: NodeProto) -> Held:
        """A sample with a dimension of 1 in front is one of a batch."""
        if batched or len(value.shape) < 2 or value.shape[0] != 1:
            return Held(value, batched)
        call = self._call(node, {}, name)
        return Held(call.emit(Reshape(value.shape[1:]), value), True)

    def _reshaped(self, node: NodeProto, inputs: Sequence[Any], name: str) -> list[Held] | None:
        """A node that gives the same elements in another shape, for tensors without a batch."""
        if node.op_type not in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            return None
        arguments = [torch.zeros(inputs[0].shape), *(plain_value(value) for value in inputs[1:])]
        shape = tuple(FUNCTIONS[node.op_type](self._settings(node), *arguments).shape)  # type: ignore[union-attr]
        batched = len(shape) > 1 and shape[0] == 1
        sample = shape[1:] if batched else shape
        return [Held(self._call(node, {}, name).emit(Reshape(sample), inputs[0].value), batched)]

    def _bind(self, node: NodeProto, values: Sequence[Any]) -> dict[str, Any]:
        """Inputs and attributes by the names of the operator's schema, attributes with its defaults."""
        schema = self._schema(node)
        bound: dict[str, Any] = {"opset": self.opset, "outputs": len(node.output)}
        for i, parameter in enumerate(schema.inputs):
            if parameter.option == defs.OpSchema.FormalParameterOption.Variadic:
                bound[parameter.name] = list(values[i:])
            elif i < len(values) and values[i] is not None:
                bound[parameter.name] = values[i]
        return bound | self._attributes(node)

    def _schema(self, node: NodeProto) -> Any:
        domain = "" if node.domain == "ai.onnx" else node.domain
        return defs.get_schema(node.op_type, self.versions.get(node.domain, self.opset), domain)

    def _attributes(self, node: NodeProto) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if defs.has(node.op_type, "" if node.domain == "ai.onnx" else node.domain):
            for name, attribute in self._schema(node).attributes.items():
                if attribute.default_value.type:
                    found[name] = plain(attribute.default_value)
        return found | {attribute.name: plain(attribute) for attribute in node.attribute}

    def _settings(self, node: NodeProto) -> Settings:
        return Settings(self._attributes(node), self.opset, len(node.output), self.dtype)
