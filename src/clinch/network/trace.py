"""From ``nn.Module`` to graph, through ``torch.export`` without decompositions."""

from __future__ import annotations

import operator
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node as Exported
from torch.utils import _pytree as tree

from clinch.errors import NetworkError, UnsupportedOperator
from clinch.network.build import Builder, Unique
from clinch.network.export import export, source_line
from clinch.network.graph import Graph
from clinch.network.ops.base import Shape
from clinch.network.ops.reading import ATEN, Call, Value
from clinch.network.ops.torch_function import Slot, TorchFunction
from clinch.network.original import Invocation, run

#: calls that may return their input itself, so that working in place on the result changes the input
_ALIASES = (
    "aten.dropout", "aten.feature_dropout", "aten.contiguous", "aten.detach", "aten.alias", "aten.to", "aten.positive",
    "aten.view", "aten.reshape", "aten.flatten", "aten.expand", "aten.view_as",
)  # fmt: skip
#: how far a layer of the graph may be from the output of the part it is named after, relative to its size
_SAME = 1e-3


class _BatchSize:
    """Stands for the number of inputs, and for whatever is computed from it."""

    def __repr__(self) -> str:
        return "the batch size"


_BATCH = _BatchSize()


@dataclass
class Traced:
    """What :func:`trace` found.

    Attributes:
        graph: float64.
        invocations: position of a layer -> the call of a part of the module whose output it is.
        read_again: the same graph with the weights that the module has now; gradients flow to them.
    """

    graph: Graph
    invocations: dict[int, Invocation]
    read_again: Callable[[], Graph]


def trace(model: nn.Module, x: Tensor) -> Traced:
    """The graph of a module.

    Args:
        model: in evaluation mode; not changed.
        x: two inputs, ``(2, *input_shape)``, in the model's dtype on its device.

    Raises:
        NetworkError: the module cannot be exported; gives the user's line.
        UnsupportedOperator: a call cannot be read; gives layer, line and operator.
    """
    program = export(model, x)
    reading = _Reading(model, program, x)
    output = reading.read()
    graph, invocations, kept = reading.named(output, x)

    def read_again() -> Graph:
        again = _Reading(model, program, x, live=True)
        again.read()
        ops = [again.builder.nodes[i].op for i in kept if i < len(again.builder.nodes)]
        if [type(op) for op in ops] != [type(node.op) for node in graph.nodes]:
            raise NetworkError(
                f"A layer of {type(model).__name__} came to change nothing, or ceased to, while it was trained on. "
                "Load the model again."
            )
        return Graph(tuple(replace(node, op=op) for node, op in zip(graph.nodes, ops)))

    return Traced(graph, invocations, read_again)


# --- reading the exported calls --------------------------------------------------------------------------------------


class _AtenCall(Call):
    """One call in the exported module."""

    def __init__(self, reading: _Reading, node: Exported, arguments: dict[str, Any], name: str, source: str) -> None:
        super().__init__(reading.builder, base_name(node), arguments, name, source)
        self.dtype = reading.dtype
        self._reading = reading
        self._node = node

    @property
    def advice(self) -> str:
        """What would work instead."""
        return "Rewrite that line with functions that treat each input alone and that `clinch supports` lists."

    @property
    def output_shape(self) -> Shape:
        """From the export itself."""
        value = self._node.meta["val"]
        if not isinstance(value, Tensor) or value.dim() == 0 or not self._reading.is_batch(value.shape[0]):
            raise self.refuse("its result does not have the batch as first dimension")
        return tuple(int(n) for n in value.shape[1:])


def base_name(node: Exported) -> str:
    """``aten.add`` of ``aten.add_.Tensor``: without the overload and the mark of working in place."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return str(getattr(target, "__name__", target))
    name = str(target.overloadpacket)
    return name[:-1] if _in_place(target) else name


def _in_place(target: Any) -> bool:
    return (
        isinstance(target, torch._ops.OpOverload)
        and target._schema.is_mutable
        and str(target.overloadpacket).endswith("_")
    )


class _Reading:
    """Walks through the exported calls in order and builds the graph."""

    def __init__(self, model: nn.Module, program: Any, x: Tensor, *, live: bool = False) -> None:
        self.model = model
        self.live = live
        self.program = program
        self.dtype = x.dtype
        self.builder = Builder("input", tuple(x.shape[1:]), x.device)
        self.values: dict[Exported, Any] = {}
        self._batch: Any = None
        self._tensors = dict(
            (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        )
        self._canonical = {id(module): path for path, module in model.named_modules()}
        self._calls: dict[str, Invocation] = {}
        self._counts: Counter[str] = Counter()
        #: calls of parts that enclose each exported call, from the outside in, and the positions it gave
        self.enclosing: list[tuple[list[Invocation], list[int]]] = []
        #: innermost call and operator of each position
        self.origin: dict[int, tuple[Invocation, str]] = {}

    def is_batch(self, size: Any) -> bool:
        """Whether a size is that of the batch."""
        return not isinstance(size, int) and str(size) == str(self._batch)

    def read(self) -> Value:
        """Build the nodes; the value of the output."""
        output: Any = None
        with torch.set_grad_enabled(self.live and torch.is_grad_enabled()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for node in self.program.graph.nodes:
                if node.op == "placeholder":
                    self.values[node] = self._placeholder(node)
                elif node.op == "output":
                    output = tree.tree_map_only(Exported, self._value_of, node.args[0])
                elif node.op == "call_function":
                    self._call(node)
        # The last output is the user's; those before it are buffers that the forward pass changes.
        if not isinstance(output[-1], Value):
            raise NetworkError(f"The output of {type(self.model).__name__} does not depend on its input.")
        return output[-1]

    def _placeholder(self, node: Exported) -> Any:
        signature = self.program.graph_signature
        for table, source in (
            (signature.inputs_to_parameters, self.program.state_dict),
            (signature.inputs_to_buffers, {**self.program.constants, **self.program.state_dict}),
            (signature.inputs_to_lifted_tensor_constants, self.program.constants),
        ):
            if node.name in table:
                name = table[node.name]
                if self.live and name in self._tensors:
                    # a copy that gradients flow through: a call that works in place must not change the module
                    return self._tensors[name].clone()
                # a copy: the graph keeps its weights when the module is trained on
                return source[name].detach().clone()
        self._batch = node.meta["val"].shape[0]
        return self.builder.input

    def _value_of(self, node: Exported) -> Any:
        if node not in self.values:
            raise UnsupportedOperator(
                f"{type(self.model).__name__} uses {node.name}, which cannot be read "
                f"({source_line(node, 'no line known')}). "
                "Leave autocast, gradient modes and control-flow functions out of forward."
            )
        return self.values[node]

    def _call(self, node: Exported) -> None:
        stack, kind = self._stack(node)
        source = source_line(node, kind)
        arguments, keywords = tree.tree_map_only(Exported, self._value_of, (list(node.args), dict(node.kwargs)))
        leaves = tree.tree_leaves((arguments, keywords), is_leaf=lambda v: isinstance(v, Value))
        target = node.target
        if target is operator.getitem:
            self.values[node] = arguments[0][arguments[1]]
            return
        name = base_name(node)
        depends = any(isinstance(leaf, Value) for leaf in leaves)
        if name == "aten.sym_size":
            axis = arguments[1] % (len(arguments[0].shape) + 1) if depends else arguments[1]
            self.values[node] = _BATCH if depends and axis == 0 else arguments[0].shape[axis - 1 if depends else axis]
            return
        if name.startswith(("aten._assert", "aten.sym_constrain")):
            return
        if not depends:
            unknown = any(leaf is _BATCH for leaf in leaves)
            self.values[node] = _BATCH if unknown else self._constant(node, arguments, keywords, source)
            return
        layer = f"{_label(stack[-1])}.{name.removeprefix('aten.')}".lstrip(".")
        first = len(self.builder.nodes)
        result = self._read(node, arguments, keywords, layer, source)
        if isinstance(result, Value) and name not in _ALIASES:
            result = result._replace()  # a tensor of its own, even where its value is its input's
        self.values[node] = result
        self._mutate(node, result)
        positions = [value.position for value in (result if isinstance(result, list) else [result])]
        self.enclosing.append((stack, positions))
        for i in range(first, len(self.builder.nodes)):
            what = name.removeprefix("aten.") if i in positions else self.builder.nodes[i].op.label.lower()
            self.origin[i] = (stack[-1], what)

    def _constant(self, node: Exported, arguments: list[Any], keywords: dict[str, Any], source: str) -> Any:
        if not callable(node.target):
            raise UnsupportedOperator(
                f"{node.target} ({source}) cannot be read. Rewrite that line with functions of torch only."
            )
        random = (
            isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags
        )
        if random:
            raise UnsupportedOperator(f"{base_name(node)} ({source}) draws random numbers. Leave it out of the model.")
        value = node.target(*arguments, **keywords)
        self._mutate(node, value)
        return value

    def _mutate(self, node: Exported, result: Any) -> None:
        """A call that works in place changes what its first argument stands for from here on."""
        if _in_place(node.target) and node.args:
            changed = node.args[0]
            if isinstance(changed, Exported):
                before = self.values[changed]
                for other, value in self.values.items():
                    if value is before:
                        self.values[other] = result

    def _read(
        self, node: Exported, arguments: list[Any], keywords: dict[str, Any], layer: str, source: str
    ) -> Value | list[Value]:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            raise UnsupportedOperator(
                f"Layer '{layer}' ({source}): {target} cannot be read. "
                "Leave autocast, gradient modes and control-flow functions out of forward."
            )
        bound = _bind(target, arguments, keywords)
        call = _AtenCall(self, node, bound, layer, source)
        reader = ATEN.get(call.operator)
        result = None if reader is None else call.read(reader)
        if result is None:
            result = self._other(call, node, arguments, keywords)
        if isinstance(result, Value) and isinstance(node.meta.get("val"), Tensor) and result.shape != call.output_shape:
            raise call.refuse(f"its result has shape {call.output_shape}, read as {result.shape}")
        return result

    def _other(self, call: _AtenCall, node: Exported, arguments: list[Any], keywords: dict[str, Any]) -> Value:
        """A function without an operator of its own: attacks can follow it."""
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        returns = target._schema.returns
        if len(returns) != 1 or str(returns[0].type) != "Tensor":
            raise call.refuse("it does not return a single tensor")
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise call.refuse("it draws random numbers")
        leaves = tree.tree_leaves((arguments, keywords), is_leaf=lambda v: isinstance(v, Value))
        if any(leaf is _BATCH for leaf in leaves):
            raise call.refuse("one of its arguments depends on the size of the batch")
        if any(isinstance(leaf, (torch.dtype, torch.device)) for leaf in leaves):
            raise call.refuse("it fixes a dtype or a device")
        inputs: list[Value] = []

        def slot(value: Value) -> Slot:
            inputs.append(value)
            return Slot(len(inputs) - 1)

        filled = tree.tree_map(
            lambda v: slot(v) if isinstance(v, Value) else v,
            (arguments, keywords),
            is_leaf=lambda v: isinstance(v, Value),
        )
        functional = _out_of_place(target)
        return call.emit(TorchFunction(call.operator, functional, tuple(filled[0]), filled[1]), *inputs)

    # --- names -------------------------------------------------------------------------------------------------------

    def _stack(self, node: Exported) -> tuple[list[Invocation], str]:
        """The calls of parts around an exported call, from the outside in, and the kind of the innermost."""
        entries = [
            (key, path, kind)
            for key, (path, kind) in (node.meta.get("nn_module_stack") or {}).items()
            if not key.startswith("_")
        ]
        stack = []
        for key, path, _ in entries:
            if key not in self._calls:
                canonical = self._canonical[id(self.model.get_submodule(path))]
                self._calls[key] = (canonical, self._counts[canonical])
                self._counts[canonical] += 1
            stack.append(self._calls[key])
        kind = entries[-1][2] if entries else ""
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        return stack or [("", 0)], kind.rpartition(".")[2]

    def named(self, output: Value, x: Tensor) -> tuple[Graph, dict[int, Invocation], list[int]]:
        """Name each node after the part of the module whose output it is; found by comparing values.

        Returns:
            The graph, the calls behind its layers, and the position of each of its nodes among all that were read.
        """
        recorded = run(self.model, x, None)[1]
        values = Graph(tuple(self.builder.nodes)).forward(x.to(torch.float64), range(len(self.builder.nodes)))
        candidates: dict[Invocation, list[int]] = {}
        for stack, positions in self.enclosing:
            for invocation in stack:
                candidates.setdefault(invocation, []).extend(positions)
        owners: dict[int, list[Invocation]] = {}
        for invocation, positions in candidates.items():
            if invocation[0] and invocation in recorded:
                same = [i for i in positions if _close(values[i], recorded[invocation])]
                if same:
                    owners.setdefault(same[-1], []).append(invocation)
        names, aliases = self._names(owners)
        graph, moved = self.builder.graph(output, names, aliases)
        # Where several parts end in one node, all of them return the same: any will do.
        return graph, {moved[i]: owned[-1] for i, owned in owners.items() if i in moved}, sorted(moved)

    def _names(self, owners: dict[int, list[Invocation]]) -> tuple[list[str], list[list[str]]]:
        unique, count = Unique(), len(self.builder.nodes)
        names, aliases = [""] * count, [[] for _ in range(count)]
        names[0] = unique("input")
        for i, owned in owners.items():
            # the part that makes the call itself goes before parts around it and before parts that change nothing
            made_by = self.origin[i][0] if i in self.origin else None
            ordered = sorted(owned, key=lambda invocation: (invocation != made_by, -len(invocation[0])))
            labels = [_label(invocation) for invocation in ordered]
            if not names[i]:
                names[i] = unique(labels.pop(0))
            aliases[i] = labels
        for i in range(count):
            if not names[i]:
                inside, what = self.origin[i]
                names[i] = unique(f"{_label(inside)}.{what}".lstrip("."))
        return names, aliases


def _label(invocation: Invocation) -> str:
    path, count = invocation
    return f"{path}:{count}" if count else path


def _close(ours: Tensor, theirs: Tensor) -> bool:
    theirs = theirs.unsqueeze(1) if theirs.dim() == 1 else theirs
    if ours.shape != theirs.shape:
        return False
    difference = (ours - theirs.to(ours.dtype)).abs().max() if ours.numel() else 0.0
    return bool(difference <= _SAME * max(float(theirs.abs().max()) if theirs.numel() else 0.0, 1e-30))


def _bind(target: Any, arguments: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, with its defaults."""
    bound = {}
    for i, argument in enumerate(target._schema.arguments):
        if i < len(arguments):
            bound[argument.name] = arguments[i]
        elif argument.name in keywords:
            bound[argument.name] = keywords[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def _out_of_place(target: Any) -> Callable[..., Tensor]:
    """The overload that returns a new tensor, for one that works in place."""
    if not _in_place(target):
        return target
    namespace, name = str(target.overloadpacket).split(".")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"))
    return getattr(packet, target._overloadname)
