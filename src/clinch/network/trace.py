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
from clinch.network.call_reader import CallReader, Simpler
from clinch.network.export import export, source_line
from clinch.network.graph import Graph
from clinch.network.missing import Missing
from clinch.network.module_call import base_name, bind, draws, in_place
from clinch.network.module_interface import WHOLE
from clinch.network.ops.base import Shape
from clinch.network.ops.layout import Moved, batch_extent, value_of
from clinch.network.ops.lazy import BatchSize, Lazy, RowFunction, leaves
from clinch.network.ops.reading import Value
from clinch.network.ops.torch_function import TorchFunction
from clinch.network.original import Invocation, run
from clinch.network.simpler import grafted, programs_of, quiet_reading

#: calls that may return their input itself, so that working in place on the result changes the input
_ALIASES = (
    "aten.dropout", "aten.feature_dropout", "aten.contiguous", "aten.detach", "aten.alias", "aten.to", "aten.positive",
    "aten.view", "aten.reshape", "aten.flatten", "aten.expand", "aten.view_as",
)  # fmt: skip
#: how far a layer of the graph may be from the output of the part it is named after, relative to its size
_SAME = 1e-3


@dataclass
class Traced:
    """What :func:`trace` found.

    Attributes:
        graph: float64.
        invocations: position of a layer -> the call of a part of the module whose output it is.
        read_again: the same graph with the weights that the module has now; gradients flow to them.
        refusals: calls that a function of torch computes, because their operator could not.
    """

    graph: Graph
    invocations: dict[int, Invocation]
    read_again: Callable[[], Graph]
    refusals: list[UnsupportedOperator]


def trace(model: nn.Module, x: Tensor, *, live: bool = False) -> Traced:
    """The graph of a module.

    Args:
        model: in evaluation mode; not changed.
        x: two inputs, ``(2, *input_shape)``, in the model's dtype on its device.
        live: it is trained on, so that every layer must follow its weights.

    Raises:
        NetworkError: the module cannot be exported; gives the user's line.
        UnsupportedOperator: a call cannot be read; gives layer, line and operator.
    """
    program = export(model, x)
    simpler = None if live else in_simpler_calls
    reading = _Reading(model, program, x, simpler=simpler)
    output = reading.read()
    graph, invocations, kept = reading.named(output, x)

    def read_again() -> Graph:
        again = _Reading(model, program, x, live=True)
        again.read()
        found = [again.builder.nodes[i] for i in kept if i < len(again.builder.nodes)]
        if [type(node.op) for node in found] != [type(node.op) for node in graph.nodes]:
            raise NetworkError(
                f"A layer of {type(model).__name__} came to change nothing, or ceased to, while it was trained on. "
                "Load the model again."
            )
        return Graph(
            tuple(
                replace(old, op=new.op, whole=old.whole and old.whole._replace(op=new.computed.op))
                for old, new in zip(graph.nodes, found)
            )
        )

    return Traced(graph, invocations, read_again, reading.refusals)


def in_simpler_calls(
    builder: Builder, op: TorchFunction | RowFunction, values: list[Value], shape: Shape, layer: str, source: str
) -> Value | None:
    """Layers whose value is a function's, for bounds; None: torch does not write it in calls that all have rules.

    Args:
        builder: takes the layers.
        op: the function.
        values: its activations.
        shape: of its result.
        layer, source: for the nodes.
    """

    def read(module: nn.Module, program: Any, x: Tensor) -> Graph:
        reading = _Reading(module, program, x)
        output = reading.read()
        count = len(reading.builder.nodes)
        return reading.builder.graph(output, [str(i) for i in range(count)], [[] for _ in range(count)])[0]

    for found in programs_of(op):
        graph, before = quiet_reading(lambda found=found: read(*found)), len(builder.nodes)
        last = None if graph is None else grafted(builder, graph, values, shape, layer, source)
        # a layer that was there before has a value of its own
        if last is not None and last.position >= before:
            return last
    return None


# --- reading the exported calls --------------------------------------------------------------------------------------


class _Reading:
    """Walks through the exported calls in order and builds the graph."""

    def __init__(
        self, model: nn.Module, program: Any, x: Tensor, *, live: bool = False, simpler: Simpler | None = None
    ) -> None:
        self.model = model
        self.live = live
        self.simpler = simpler
        self.program = program
        self.dtype = x.dtype
        self.builder = Builder("input", tuple(x.shape[1:]), x.device)
        self.values: dict[Exported, Any] = {}
        self._tensors = dict(
            (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        )
        self._canonical = {id(module): path for path, module in model.named_modules()}
        self.missing = Missing()
        #: calls that a function of torch computes, because their operator could not
        self.refusals: list[UnsupportedOperator] = []
        self._calls: dict[str, Invocation] = {}
        self._counts: Counter[str] = Counter()
        #: calls of parts that enclose each exported call, from the outside in, and the positions it gave
        self.enclosing: list[tuple[list[Invocation], list[int]]] = []
        #: innermost call and operator of each position
        self.origin: dict[int, tuple[Invocation, str]] = {}

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
        self.missing.raise_all(type(self.model).__name__)
        # The last output is the user's; those before it are buffers that the forward pass changes.
        if isinstance(output[-1], Moved):
            raise NetworkError(f"The output of {type(self.model).__name__} does not have the batch in front.")
        if not isinstance(output[-1], Value):
            self._refuse_masks()
            raise NetworkError(f"The output of {type(self.model).__name__} does not depend on its input.")
        return output[-1]

    def _refuse_masks(self) -> None:
        """A boolean mask as an index picks as many elements as its values say."""
        for node in self.program.graph.nodes:
            shape = getattr(node.meta.get("val"), "shape", ())
            if node.op == "call_function" and any(str(extent).startswith("u") for extent in shape):
                raise UnsupportedOperator(
                    f"{base_name(node)} ({source_line(node, 'no line known')}) picks as many elements as a mask has "
                    "true ones. Index with their numbers, made once in __init__: mask.nonzero().flatten()."
                )

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
        name = base_name(node)
        if name.startswith(("aten._assert", "aten.sym_constrain")):
            return
        found = leaves((arguments, keywords))
        if any(isinstance(leaf, Unread) for leaf in found):
            self.values[node] = Unread()
            return
        if name == "aten.sym_size" or isinstance(node.meta.get("val"), (int, torch.SymInt)):
            self.values[node] = _size(node.meta["val"])
            return
        if not any(isinstance(leaf, (Value, Moved, BatchSize)) for leaf in found):
            self.values[node] = self._constant(node, arguments, keywords, source)
            return
        layer = f"{_label(stack[-1])}.{name.removeprefix('aten.')}".lstrip(".")
        first = len(self.builder.nodes)
        reader = CallReader(self.builder, node, layer, source, self.dtype, self.simpler)
        try:
            result = reader.read(arguments, keywords)
            self.refusals += reader.refusals
        except UnsupportedOperator as error:
            self.missing.add(error)
            result = Unread()
        if isinstance(result, (Value, Moved)) and name not in _ALIASES:
            result = result._replace()  # a tensor of its own, even where its value is its input's
        self.values[node] = result
        self._mutate(node, result)
        positions = [value_of(a).position for a in leaves(result) if isinstance(a, (Value, Moved))]
        positions = [] if isinstance(result, Lazy) else positions
        self.enclosing.append((stack, [i for i in positions if i >= first] or positions))
        for i in range(first, len(self.builder.nodes)):
            what = name.removeprefix("aten.") if i in positions else self.builder.nodes[i].op.label.lower()
            self.origin[i] = (stack[-1], what)

    def _constant(self, node: Exported, arguments: list[Any], keywords: dict[str, Any], source: str) -> Any:
        if not callable(node.target):
            raise UnsupportedOperator(
                f"{node.target} ({source}) cannot be read. Rewrite that line with functions of torch only."
            )
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and draws(target, bind(target, arguments, keywords)):
            raise UnsupportedOperator(f"{base_name(node)} ({source}) draws random numbers. Leave it out of the model.")
        value = node.target(*arguments, **keywords)
        self._mutate(node, value)
        return value

    def _mutate(self, node: Exported, result: Any) -> None:
        """A call that works in place changes what its first argument stands for from here on."""
        if in_place(node.target) and node.args:
            changed = node.args[0]
            if isinstance(changed, Exported):
                before = self.values[changed]
                for other, value in self.values.items():
                    if value is before:
                        self.values[other] = result

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
                canonical = self._place(path)
                self._calls[key] = (canonical, self._counts[canonical] if canonical else 0)
                self._counts[canonical] += 1
            stack.append(self._calls[key])
        kind = entries[-1][2] if entries else ""
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        return stack or [("", 0)], kind.rpartition(".")[2]

    def _place(self, path: str) -> str:
        """The first path of a part; of one that an exported program only remembers, the whole model's."""
        try:
            return self._canonical[id(self.model.get_submodule(path))]
        except AttributeError:
            return ""

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
            labels = [label for label in map(_label, ordered) if label]
            if not names[i] and labels:
                names[i] = unique(labels.pop(0))
            aliases[i] = labels
        for i in range(count):
            if not names[i]:
                inside, what = self.origin[i]
                names[i] = unique(f"{_label(inside)}.{what}".lstrip("."))
        return names, aliases


def _label(invocation: Invocation) -> str:
    path, count = invocation
    path = "" if path == WHOLE else path.removeprefix(f"{WHOLE}.")
    return f"{path}:{count}" if count else path


def _close(ours: Tensor, theirs: Tensor) -> bool:
    theirs = theirs.unsqueeze(1) if theirs.dim() == 1 else theirs
    if ours.shape != theirs.shape:
        return False
    difference = (ours - theirs.to(ours.dtype)).abs().max() if ours.numel() else 0.0
    return bool(difference <= _SAME * max(float(theirs.abs().max()) if theirs.numel() else 0.0, 1e-30))


class Unread:
    """What a call would have given that cannot be read."""


def _size(size: Any) -> Any:
    """A number that may depend on the number of inputs, of an exported program."""
    try:
        share = batch_extent(size)
    except ValueError as error:
        raise UnsupportedOperator(
            f"A size of {error} cannot be read. Write the model for a batch of any size."
        ) from error
    if share is None:
        return int(size)
    return BatchSize() if share == 1 else Lazy(operator.mul, (BatchSize(), share), {})
