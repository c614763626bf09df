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
from onnx import ModelProto, NodeProto, defs
from torch import Tensor

from clinch.errors import ClinchError, NetworkError, UnsupportedOperator
from clinch.network.build import MOST_ELEMENTS, Builder, Unique
from clinch.network.graph import Graph
from clinch.network.missing import Missing
from clinch.network.onnx_choice import (
    DTYPES,
    choose_input,
    choose_output,
    input_shape,
    needed_nodes,
    own_copy,
    without_data,
)
from clinch.network.onnx_constants import ROOM, array_of, foldable, folded
from clinch.network.onnx_control import Control
from clinch.network.onnx_fallback import as_real, computed
from clinch.network.onnx_functions import FUNCTIONS
from clinch.network.onnx_operators import Operators
from clinch.network.onnx_schemas import Schemas
from clinch.network.onnx_sizes import LIMITED, TooLarge, Unfoldable, check_attributes, check_size, check_work
from clinch.network.onnx_tensors import (
    Held,
    Pending,
    Unread,
    has_one_shape,
    operator_of,
    outline,
    tensor_of,
)
from clinch.network.ops.base import Shape
from clinch.network.ops.reading import ONNX
from clinch.runtime import memory

#: before this one, arithmetic broadcast differently
OLDEST_OPSET = 7


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
        data: large tensors of the file, which the model only names.
        refusals: nodes that a function of torch computes, because their operator could not.
    """

    graph: Graph
    model: ModelProto
    dtype: torch.dtype
    tensors: dict[int, str]
    output: str
    row: Shape | None
    fixed: dict[str, np.ndarray]
    data: dict[str, np.ndarray]
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


class _Reading:
    """Walks through the file's nodes in order and builds the graph."""

    def __init__(
        self, model: ModelProto, shape: Shape | None, where: str, output: str | None, fixed: Mapping[str, Any]
    ) -> None:
        self.model, self.where = own_copy(model), where
        versions = {entry.domain: entry.version for entry in model.opset_import}
        self.opset = versions.get("", versions.get("ai.onnx", defs.onnx_opset_version() if versions else 0))
        if self.opset < OLDEST_OPSET:
            raise NetworkError(
                f"{where} uses opset {self.opset}. Convert it to opset {OLDEST_OPSET} or later "
                "(onnx.version_converter)."
            )
        wrong = next((f"{d or 'ai.onnx'} {v}" for d, v in versions.items() if not 0 < v < 2**31), None)
        if wrong is not None:
            raise NetworkError(f"{where} states the operator set {wrong}, which is none. Save the model anew.")
        self.values: dict[str, Any] = {t.name: array_of(t, where) for t in self.model.graph.initializer}
        self.model, self.data = without_data(self.model, self.values)
        #: elements of constants that nodes may still make
        self.room = ROOM + 4 * sum(value.size for value in self.values.values())
        self.input, self.fixed = choose_input(self.model, fixed, where)
        self.output = choose_output(self.model, output, where)
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
        first_extent = self.input.type.tensor_type.shape.dim
        #: the file states that it takes one input
        one_at_a_time = not batched or (bool(first_extent) and first_extent[0].dim_value == 1)
        self.schemas = Schemas(versions, self.opset, self.dtype)
        self.operators = Operators(self.builder, self.schemas, self.dtype, one_at_a_time)
        self.values[self.input.name] = self.held
        #: names given to each position: by the node that made it first, then its tensor, then those that change nothing
        self.names: dict[int, list[str]] = {0: [self.input.name]}
        self.tensors: dict[int, str] = {}
        self.missing = Missing()
        #: tensors that nodes read
        self.used: set[str] = set()
        self.refusals: list[UnsupportedOperator] = []
        #: bodies of loops that are being read: their tensors are none of the file's
        self.inside = 0
        self.control = Control(self.values, self._inner, self._refused, self.opset, where)

    def read(self) -> Read:
        """Build the nodes and name them."""
        nodes = needed_nodes(self.model.graph, {self.output})
        self.used.update(tensor for node in nodes for tensor in node.input)
        for node in nodes:
            check_attributes(node, self.where)
            self._node(node)
        self.missing.raise_all(self.where)
        output = self.values.get(self.output)
        if isinstance(output, Pending):
            # whole numbers are real ones too
            output = as_real(output, self.operators.call(self.model.graph.node[-1], {}, self.output), self.dtype)
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
        free = not self.operators.one_at_a_time and bool(self.input.type.tensor_type.shape.dim) and not self.fixed
        row = None if free else self.held.shape
        return Read(
            graph,
            self.model,
            self.dtype,
            tensors,
            self.output,
            row,
            self.fixed,
            self.data,
            [*self.operators.refusals, *self.refusals],
        )

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
            elif self.control.covers(node):
                self._give(node, self.control.read(node))
            elif node.op_type in ("Shape", "Size") and has_one_shape(*inputs[:1]):
                self._sizes(node, inputs[0])  # type: ignore[arg-type]
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

    def _inner(self, node: NodeProto) -> None:
        """A node that a loop or a sequence is made of."""
        self.used.update(node.input)
        self.inside += 1
        self._node(node)
        self.inside -= 1

    def _refused(self, node: NodeProto, reason: str) -> UnsupportedOperator:
        return self.operators.call(node, {}, node.name or node.output[0]).refuse(reason)

    def _known(self, node: NodeProto, name: str) -> None:
        operator = operator_of(node)
        known = operator in ONNX or operator in FUNCTIONS or node.op_type == "Constant" or self.control.covers(node)
        if not known:
            raise self.operators.call(node, {}, name).refuse("there is no function for it")

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
        try:
            values = folded(node, named, self.opset) if foldable(node) else None
        except Exception:
            # the reference knows other versions of the node
            if function is None:
                raise
            values = None
        if values is None:
            assert function is not None
            found = function(self.schemas.settings(node), *(tensor_of(value) for value in inputs))
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
            results = self.operators.read(node, inputs, name)
        except UnsupportedOperator as error:
            refusal, results = error, None
        except ClinchError:
            raise
        except Exception as error:
            refusal, results = self.operators.call(node, {}, name).refuse(f"{type(error).__name__}: {error}"), None
        if results is not None and self.used.intersection(node.output[len(results) :]):
            # a further result, such as the places that a pool has taken, which operators do not give
            results = None
        if results is None:
            self._known(node, name)
            if operator_of(node) not in FUNCTIONS:
                raise refusal or self.operators.call(node, {}, name).refuse("this form of it is not known")
            if untold is not None:
                raise untold
            call = self.operators.call(node, {}, name)
            results = computed(node, inputs, self.schemas.settings(node), call, self.where, self.builder.at_zero)
            results = self.operators.as_whole(node, inputs, results, name)
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
            if not self.inside and (held.batched or not self.held.batched):
                self.tensors[position] = tensor

    def _sized(self, node: NodeProto, inputs: Sequence[Any], name: str) -> UnsupportedOperator | None:
        """Refuse a result beyond what is taken; returns what to say where the size cannot be told beforehand."""
        call = self.operators.call(node, {}, name)
        shapes = {n: outline(value, self.dtype) for n, value in zip(node.input, inputs) if n and value is not None}
        constants = {n for n, value in zip(node.input, inputs) if isinstance(value, np.ndarray)}
        if node.op_type in LIMITED:
            # what they make of other values is looked at when it is made
            told = {n: v.example.numpy() for n, v in zip(node.input, inputs) if isinstance(v, Pending)}
            shapes, constants = shapes | told, constants | told.keys()
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
