"""Loops, scans and sequences of ONNX files, written out: as many nodes as they make in a run.

How often a loop runs and what is in a sequence has to be told without the network's input; else the node is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, NodeProto, helper

from clinch.errors import UnsupportedOperator
from clinch.network.onnx_choice import needed_nodes
from clinch.network.onnx_constants import array_of

#: passes of a loop, and tensors in a sequence; passes of all loops of a file together, those inside of others too
MOST_PASSES, MOST_TOGETHER = 512, 4096


class Several(NamedTuple):
    """A sequence: the names of its tensors."""

    names: tuple[str, ...]


class Control:
    """Reads nodes whose bodies run several times, and nodes of sequences.

    Args:
        values: what every tensor is, by name; bodies write to it.
        run: reads a node.
        refuse: what to raise for a node, given a reason.
        opset: of the file.
        where: its name.
    """

    def __init__(
        self,
        values: dict[str, Any],
        run: Callable[[NodeProto], None],
        refuse: Callable[[NodeProto, str], UnsupportedOperator],
        opset: int,
        where: str,
    ) -> None:
        self.values, self.run, self.refuse, self.opset, self.where = values, run, refuse, opset, where
        self._count = self._passes = 0

    def covers(self, node: NodeProto) -> bool:
        """Whether it reads nodes of that type."""
        return node.domain in ("", "ai.onnx") and node.op_type in _READERS

    def read(self, node: NodeProto) -> list[Any]:
        """The values of the node's results."""
        return _READERS[node.op_type](self, node, {a.name: helper.get_attribute_value(a) for a in node.attribute})

    # --- parts -------------------------------------------------------------------------------------------------------

    def named(self, value: Any) -> str:
        """A tensor of that value under a name of its own."""
        self._count += 1
        name = f"part {self._count} of a loop"
        self.values[name] = value
        return name

    def made(self, kind: str, inputs: Sequence[str], count: int = 1, **attributes: Any) -> list[str]:
        """The results of one more node."""
        outputs = [self.named(None) for _ in range(count)]
        self.run(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def constant(self, node: NodeProto, i: int, what: str) -> np.ndarray | None:
        """The value of an input that must be known beforehand; None where it is left out."""
        if i >= len(node.input) or not node.input[i]:
            return None
        value = self.values[node.input[i]]
        if not isinstance(value, np.ndarray):
            raise self.refuse(node, f"{what} depends on the network's input")
        return value

    def sequence(self, node: NodeProto, i: int = 0) -> tuple[str, ...]:
        """The names of a sequence's tensors."""
        value = self.values[node.input[i]]
        if not isinstance(value, Several):
            raise self.refuse(node, "its sequence is not known beforehand")
        return value.names

    def stacked(self, names: Sequence[str], axis: int) -> str:
        """Tensors joined along a new axis."""
        if self.opset < 13:
            longer = [self.made("Unsqueeze", [name], axes=[axis])[0] for name in names]
        else:
            longer = [self.made("Unsqueeze", [name, self.named(np.array([axis]))])[0] for name in names]
        return self.made("Concat", longer, axis=axis)[0]

    def body(self, node: NodeProto, graph: GraphProto, given: Sequence[Any]) -> list[str]:
        """One pass through a node's body: the names of its results, under names of their own."""
        self._passes += 1
        if self._passes > MOST_TOGETHER:
            raise self.refuse(node, f"the loops of the file run more than {MOST_TOGETHER} times together")
        outside = dict(self.values)
        self.values.update({t.name: array_of(t, self.where) for t in graph.initializer})
        self.values.update({entry.name: value for entry, value in zip(graph.input, given)})
        for inner in needed_nodes(graph, [o.name for o in graph.output]):
            self.run(inner)
        found = [self.values[o.name] for o in graph.output]
        made = {name: value for name, value in self.values.items() if name.startswith("part ") and name not in outside}
        self.values.clear()
        self.values.update(outside | made)
        return [self.named(value) for value in found]


Attributes = dict[str, Any]


def _loop(control: Control, node: NodeProto, given: Attributes) -> list[Any]:
    graph = given["body"]
    most, go_on = control.constant(node, 0, "how often it runs"), control.constant(node, 1, "whether it runs")
    states = list(node.input[2:])
    every: list[list[str]] = [[] for _ in graph.output[1 + len(states) :]]
    passes, running = 0, go_on is None or bool(go_on.reshape(-1)[0])
    while running and (most is None or passes < int(most.reshape(-1)[0])):
        if passes >= MOST_PASSES:
            raise control.refuse(node, f"it runs more than {MOST_PASSES} times")
        held = [control.values[name] for name in states]
        again, *results = control.body(node, graph, [np.array(passes), np.array(True), *held])
        states, rows = results[: len(states)], results[len(states) :]
        for column, row in zip(every, rows):
            column.append(row)
        if go_on is not None or most is None:
            value = control.values[again]
            if not isinstance(value, np.ndarray):
                raise control.refuse(node, "whether it goes on depends on the network's input")
            running = bool(value.reshape(-1)[0])
        passes += 1
    if any(every) and passes == 0:
        raise control.refuse(node, "it never runs")
    return [control.values[name] for name in (*states, *(control.stacked(column, 0) for column in every))]


def _scan(control: Control, node: NodeProto, given: Attributes) -> list[Any]:
    graph, count = given["body"], given["num_scan_inputs"]
    if control.opset < 9:
        raise control.refuse(node, "its form before opset 9 is not known")
    states, rows = list(node.input[: len(node.input) - count]), node.input[len(node.input) - count :]
    outputs = len(graph.output) - len(states)
    axes, turned = given.get("scan_input_axes") or [0] * count, given.get("scan_input_directions") or [0] * count
    length = control.values[rows[0]].shape[axes[0]]
    if length > MOST_PASSES:
        raise control.refuse(node, f"it runs more than {MOST_PASSES} times")
    every: list[list[str]] = [[] for _ in range(outputs)]
    for t in range(length):
        at = [control.named(np.array(length - 1 - t if back else t)) for back in turned]
        parts = [control.made("Gather", [name, i], axis=a)[0] for name, i, a in zip(rows, at, axes)]
        results = control.body(node, graph, [control.values[name] for name in (*states, *parts)])
        states = results[: len(states)]
        for column, row in zip(every, results[len(states) :]):
            column.append(row)
    out_axes = given.get("scan_output_axes") or [0] * outputs
    back = given.get("scan_output_directions") or [0] * outputs
    joined = [control.stacked(c[::-1] if turn else c, a) for c, a, turn in zip(every, out_axes, back)]
    return [control.values[name] for name in (*states, *joined)]


# --- sequences -------------------------------------------------------------------------------------------------------


def _split(control: Control, node: NodeProto, given: Attributes) -> list[Any]:
    axis, sizes = given.get("axis", 0), control.constant(node, 1, "how it is split")
    whole, one_by_one = control.values[node.input[0]].shape[axis], sizes is None
    if sizes is None or sizes.ndim == 0:
        size = 1 if sizes is None else max(int(sizes), 1)
        places: Sequence[int] = range(0, whole, size)
        sizes = [min(size, whole - i) for i in places[: MOST_PASSES + 1]]
    if len(sizes) > MOST_PASSES:
        raise control.refuse(node, f"it has more than {MOST_PASSES} parts")
    parts = [int(n) for n in sizes]
    names = control.made("Split", [node.input[0], control.named(np.array(parts))], len(parts), axis=axis)
    if one_by_one and not given.get("keepdims", 1):
        names = [control.made("Squeeze", [name, control.named(np.array([axis]))])[0] for name in names]
    return [Several(tuple(names))]


def _place(control: Control, node: NodeProto, i: int, count: int, default: int) -> int:
    at = control.constant(node, i, "a place in a sequence")
    place = default if at is None else int(at)
    return place + count if place < 0 else place


def _at(control: Control, node: NodeProto, given: Attributes) -> list[Any]:
    names = control.sequence(node)
    return [control.values[names[_place(control, node, 1, len(names), 0)]]]


def _construct(control: Control, node: NodeProto, given: Attributes) -> list[Any]:
    return [Several(tuple(control.named(control.values[name]) for name in node.input))]


def _insert(control: Control, node: NodeProto, given: Attributes) -> list[Any]:
    names = list(control.sequence(node))
    at = _place(control, node, 2, len(names), len(names))
    names.insert(at, control.named(control.values[node.input[1]]))
    return [Several(tuple(names))]


def _erase(control: Control, node: NodeProto, given: Attributes) -> list[Any]:
    names = list(control.sequence(node))
    del names[_place(control, node, 1, len(names), len(names) - 1)]
    return [Several(tuple(names))]


def _length(control: Control, node: NodeProto, given: Attributes) -> list[Any]:
    return [np.array(len(control.sequence(node)))]


def _concat(control: Control, node: NodeProto, given: Attributes) -> list[Any]:
    names, axis = control.sequence(node), given["axis"]
    joined = control.stacked(names, axis) if given.get("new_axis", 0) else control.made("Concat", names, axis=axis)[0]
    return [control.values[joined]]


_READERS: dict[str, Callable[[Control, NodeProto, Attributes], list[Any]]] = {
    "Loop": _loop, "Scan": _scan, "SplitToSequence": _split, "SequenceAt": _at, "SequenceConstruct": _construct,
    "SequenceEmpty": _construct, "SequenceInsert": _insert, "SequenceErase": _erase, "SequenceLength": _length,
    "ConcatFromSequence": _concat,
}  # fmt: skip
