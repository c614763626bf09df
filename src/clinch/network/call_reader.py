"""From one exported call to a node: by its operator's reader, on rows where the batch is elsewhere, or as it stands."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node as Exported

from clinch.errors import UnsupportedOperator
from clinch.network.build import Builder
from clinch.network.choices import as_number, masked, written_out
from clinch.network.comparisons import NUMBERS
from clinch.network.module_call import AtenCall, base_name, bind, draws, out_of_place
from clinch.network.module_layouts import PERMUTATIONS, RESHAPES, as_rows, result
from clinch.network.ops.composites import Parts
from clinch.network.ops.hull import looked_up
from clinch.network.ops.layout import FRONT, Activation, Layout, Moved, arranged, batch_axis, layout_of, value_of
from clinch.network.ops.lazy import BatchSize, Lazy, Slot, evaluate, is_sequence, leaves, map_leaves
from clinch.network.ops.linear_function import emit_linear, linear_function
from clinch.network.ops.own_kernels import KERNELS
from clinch.network.ops.reading import ATEN, Value
from clinch.network.ops.torch_function import TorchFunction
from clinch.network.whole_numbers import (
    LOOKS_UP,
    TABLES,
    WholeNumbers,
    elements_of_tables,
    rows_of_table,
    table_lookup,
    whole_value,
)

#: calls whose result depends on their input's shape alone
_BY_SHAPE = frozenset(
    f"aten.{name}"
    for name in ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty")
)
#: calls that take a condition for zeros and ones
_ARITHMETIC = frozenset(
    f"aten.{name}" for name in ("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide")
)
#: of a call with the largest or smallest elements and their places, the call that gives the elements alone
_ELEMENTS = {"aten.max": "aten.amax", "aten.min": "aten.amin"}
#: of other calls with several results, what the first alone is read as
_VALUES = "values of {}"
#: of calls whose results are calls of their own, these by the result's place
_RESULTS = {
    ("aten.var_mean", 1): "aten.mean", ("aten.std_mean", 1): "aten.mean",
    ("aten.aminmax", 0): "aten.amin", ("aten.aminmax", 1): "aten.amax",
}  # fmt: skip


#: calls that pick elements, compared by calls that their result may reach through others
_PICKS = frozenset(
    (*(f"aten.{n}" for n in ("maximum", "minimum", "fmax", "fmin", "amax", "amin")),
     *(f"values of aten.{n}" for n in ("sort", "topk", "kthvalue", "median", "max", "min", "cummax", "cummin")))
)  # fmt: skip
_COMPARING = frozenset(f"aten.{n}" for n in ("eq", "ne", "lt", "le", "gt", "ge"))
_THROUGH = frozenset(
    f"aten.{n}" for n in ("view", "reshape", "unsqueeze", "squeeze", "expand", "slice", "select", "expand_as", "clone")
)

#: a function's layers in simpler calls, given where they go, its activations, its shape, the layer's name and source
Simpler = Callable[[Builder, TorchFunction, list[Value], tuple[int, ...], str, str], Value | None]


class CallReader:
    """Reads one exported call.

    Args:
        builder: takes the nodes.
        node: the call.
        layer: its name.
        source: file and line.
        dtype: the model's.
        simpler: gives a function's layers in simpler calls, see :func:`clinch.network.trace.in_simpler_calls`.
    """

    def __init__(
        self, builder: Builder, node: Exported, layer: str, source: str, dtype: torch.dtype, simpler: Simpler | None
    ) -> None:
        self.builder, self.node, self.layer, self.source, self.dtype = builder, node, layer, source, dtype
        self.simpler = simpler
        self.name = base_name(node)
        #: why an operator could not, where a function of torch did
        self.refusals: list[UnsupportedOperator] = []

    def read(self, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """The call's value: an activation, several, or a tree of calls that waits for one that gives real numbers.

        Raises:
            UnsupportedOperator: it cannot be read.
        """
        target = self.node.target
        if target is operator.getitem:
            return self._item(arguments[0], arguments[1])
        if not isinstance(target, torch._ops.OpOverload):
            if not leaves_of(arguments, (Value, Moved)) and callable(target):
                return Lazy(target, tuple(arguments), keywords)  # arithmetic of sizes
            raise UnsupportedOperator(
                f"Layer '{self.layer}' ({self.source}): {target} cannot be read. "
                "Leave autocast, gradient modes and control-flow functions out of forward."
            )
        bound = bind(target, arguments, keywords)
        if draws(target, bound):
            raise self._call(bound).refuse("it draws random numbers")
        if self.name in _BY_SHAPE:
            arguments = [_shape_only(arguments[0], self.dtype), *arguments[1:]]
        expected = self.node.meta.get("val")
        if isinstance(expected, Tensor) and not expected.is_floating_point():
            return self._whole(self._as_function(out_of_place(target), arguments, keywords), bound, expected)
        if self.name == "aten.abs" and (size := self._magnitude(bound["self"])) is not None:
            return size
        if self.name == "aten.gather" and (extreme := _of_extreme(bound)) is not None:
            self.name, bound = extreme
            return self._as_operator(bound)
        picked = self._looked_up(bound, arguments, keywords)
        picked = self._own_kernels(bound) if picked is None and self.name in KERNELS else picked
        if picked is not None:
            return picked
        if (rows := self._from_table(bound)) is not None:
            op, values, _ = self._function(out_of_place(target), arguments, keywords)  # type: ignore[misc]
            self.builder.stands_for(rows, op, values)
            return rows
        found = self._of_conditions(target, bound, arguments, keywords)
        if found is None and self.name in _ARITHMETIC:
            arguments = [self._as_number(a) for a in arguments]
        elif found is None and self.name not in LOOKS_UP and leaves_of((arguments, keywords), (WholeNumbers,)):
            found = self._of_whole_numbers(bound, arguments, keywords)
        if found is None and leaves_of((arguments, keywords), (Value, Moved)):
            found = self._exact(
                lambda: self._as_operator(bind(target, arguments, keywords)), target, arguments, keywords
            )
        return found if found is not None else self._as_function(out_of_place(target), arguments, keywords)

    def _exact(
        self, read: Callable[[], Any], function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]
    ) -> Any:
        """What is read; where it picks an element that is compared later on torch computes the value.

        Written out, as b + relu(a − b), rounding makes another number of it than the one that it is compared with.
        """
        before = len(self.builder.nodes)
        found = read()
        if isinstance(found, Value) and found.position >= before and self.name in _PICKS and _is_compared(self.node):
            op = self._function(out_of_place(function), arguments, keywords)
            if not isinstance(op, Lazy) and op[2] == FRONT:
                self.builder.stands_for(found, op[0], op[1])
        return found

    def _own_kernels(self, bound: dict[str, Any]) -> Any:
        """A convolution of a batch in one picture, each with the kernels that it has made; None: it is another one."""
        x, w = bound["input"], bound["weight"]
        if not isinstance(x, Moved) and not leaves_of(x, (Value, Moved)) and isinstance(x, Lazy):
            # a constant picture, repeated for each input
            x, both = (evaluate(x, [], size=n) for n in (1, 2))
            x = x if torch.equal(both, torch.cat([x, x], 1)) else None
        moved = isinstance(w, Moved) and w.layout.axis == 0 and w.layout.outer == 1
        if not moved or (not isinstance(x, Tensor) and not _in_one_picture(x)):
            return None
        one, two = (evaluate(bound["groups"], [], size=n) for n in (1, 2))
        shapes = [node.meta["val"].shape for node in self.node.all_input_nodes[:2]]
        if two != 2 * one:
            return None
        extents, (fan_in, *sizes) = ([int(n) for n in shape[k:]] for shape, k in zip(shapes, (2, 1)))
        given = {
            **bound, "input": value_of(x) if isinstance(x, Moved) else x, "weight": value_of(w), "groups": int(one),
            "call": self.name, "extents": extents, "fan_in": fan_in, "sizes": sizes,
        }  # fmt: skip
        return self._attempt(KERNELS[self.name], given, Layout(1, 1, w.layout.inner))

    def _of_conditions(
        self, target: Any, bound: dict[str, Any], arguments: list[Any], keywords: dict[str, Any]
    ) -> Value | None:
        """A choice by a condition, or a condition as a number."""
        found = written_out(self.builder, self.name, bound, self.layer, self.source)
        if found is None and (parts := masked(self.builder, self.name, bound, self.layer, self.source)) is not None:
            # what is not chosen may be infinite: the value is torch's
            op, values, _ = self._function(out_of_place(target), arguments, keywords)  # type: ignore[misc]
            self.builder.stands_for(parts, op, values)
            return parts
        if found is None and self.name.removeprefix("aten.") in NUMBERS:
            found = as_number(self.builder, bound.get("self"), self.layer, self.source)
        return found

    def _looked_up(self, bound: dict[str, Any], arguments: list[Any], keywords: dict[str, Any]) -> Value | None:
        """Elements at places that depend on the input: bounds know between what they lie, torch their values."""
        if self.name not in ("aten.gather", "aten.scatter") or not isinstance(bound["index"], Lazy):
            return None
        bound = {key: _of_batch_one(value) for key, value in bound.items()}
        found = self._function(out_of_place(self.node.target), arguments, keywords)
        if isinstance(found, Lazy) or found[2] != FRONT or any(layout != FRONT for layout in found[0].layouts):
            return None
        try:
            parts = looked_up(self._call(bound), self.name, bound)
        except UnsupportedOperator:
            return None
        if parts is not None:
            self.builder.stands_for(parts, found[0], found[1])
        return parts

    def _magnitude(self, z: Any) -> Value | None:
        """``√(Re² + Im²)`` of complex numbers that are affine in activations; None: it is another call."""
        if not isinstance(z, Lazy) or not self.node.args[0].meta["val"].is_complex():  # type: ignore[union-attr]
            return None
        found = self._function(torch.view_as_real, [z], {})
        if isinstance(found, Lazy) or found[2] != FRONT or (linear := linear_function(found[0])) is None:
            return None
        call = self._call({})
        pairs = emit_linear(call, linear, found[1], (*call.output_shape, 2))
        parts = Parts(call)
        return parts.apply("aten.linalg_vector_norm", self=pairs, ord=2.0, dim=[-1], keepdim=False)

    def _as_number(self, value: Any) -> Any:
        """A condition as an activation of zeros and ones, where it can be one."""
        if not isinstance(value, Lazy) or not leaves_of_all(value):
            return value
        found = as_number(self.builder, value, self.layer, self.source)
        return value if found is None else found

    def _whole(self, waiting: Any, bound: dict[str, Any], expected: Tensor) -> Any:
        """A call that gives whole numbers, with how they are read as a real activation."""
        if not isinstance(waiting, Lazy) or expected.is_complex():
            return waiting

        @cache
        def real() -> Value | None:
            before = len(self.builder.nodes)
            given = {key: self._numbers(_of_batch_one(value)) for key, value in bound.items()}
            if leaves_of(given, (Lazy, Moved)):
                return None
            try:
                found = whole_value(self._call(given), self.name, given)
                cut = self.name.removeprefix("aten.") in NUMBERS
                found = self._as_operator(given) if found is None and self.name not in LOOKS_UP and not cut else found
            except UnsupportedOperator:
                return None
            return found if isinstance(found, Value) and found.position >= before else None

        of = (waiting.function, waiting.arguments, waiting.keywords)
        return WholeNumbers(*of, expected.dtype == torch.bool, real)

    def _numbers(self, value: Any) -> Any:
        """Whole numbers among an argument as real activations."""
        return [self._numbers(v) for v in value] if is_sequence(value) else self._as_number(value)

    def _of_whole_numbers(self, bound: dict[str, Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """A call that makes real numbers of whole ones, by its operator on these as real activations."""
        given = {key: self._numbers(value) for key, value in bound.items()}
        found = None if leaves_of(given, (Lazy, Moved)) else self._as_operator(given)
        op = self._function(out_of_place(self.node.target), arguments, keywords) if isinstance(found, Value) else None
        if op is None or isinstance(op, Lazy) or op[2] != FRONT:
            return None
        self.builder.stands_for(found, op[0], op[1])  # type: ignore[arg-type]
        return found

    def _from_table(self, bound: dict[str, Any]) -> Value | None:
        """Rows of a constant table at whole numbers that depend on activations."""
        if self.name not in TABLES:
            return None
        found = table_lookup(self.name, bound)
        place = self._as_number(found[1]) if found is not None and isinstance(found[1], WholeNumbers) else None
        call = self._call(bound)
        if (
            found is not None
            and isinstance(place, Value)
            and (rows := rows_of_table(call, place, found[0])) is not None
        ):
            return rows
        given = {key: _of_batch_one(value) for key, value in bound.items()}
        return elements_of_tables(call, self.name, given, self._as_number, self._read_by)

    def _read_by(self, waiting: Lazy) -> Value:
        """An activation that a call waits for."""
        return next(value_of(leaf) for leaf in leaves(waiting) if isinstance(leaf, (Value, Moved)))

    def _item(self, values: Any, index: int) -> Any:
        if not isinstance(values, Lazy):
            return values[index]
        of = base_name(self.node.args[0]) if isinstance(self.node.args[0], Exported) else ""
        name = _RESULTS.get((of, index), _ELEMENTS.get(of, _VALUES.format(of)))
        if (index == 0 or (of, index) in _RESULTS) and name in ATEN:
            bound = bind(self.node.args[0].target, list(values.arguments), values.keywords)  # type: ignore[union-attr]
            if of not in _ELEMENTS or "dim" in bound:
                self.name = name
                one = of in _ELEMENTS or (of, index) in _RESULTS
                one = one and isinstance(bound["dim"], int)
                given = bound | {"dim": [bound["dim"]]} if one else bound
                found = self._exact(lambda: self._as_operator(given), operator.getitem, [values, index], {})
                if found is not None:
                    return found
        self.name = of or self.name
        return self._as_function(operator.getitem, [values, index], {})

    def _call(self, arguments: dict[str, Any], layout: Layout = FRONT) -> AtenCall:
        call = AtenCall(self.builder, self.node, arguments, self.layer, self.source, self.dtype, layout)
        call.operator = self.name
        return call

    # --- operators ---------------------------------------------------------------------------------------------------

    def _as_operator(self, bound: dict[str, Any]) -> Any:
        """What the operator's reader makes of the call, or of the same call on rows; None: neither does."""
        folded = any(moved.layout.folded for moved in leaves_of(bound, (Moved,)))
        bound = {key: _of_batch_one(value, folded=folded) for key, value in bound.items()}
        if leaves_of(bound, (Lazy,)) and self.name not in RESHAPES:
            return None
        found: Any = None
        if not leaves_of(bound, (Moved,)):
            found = self._attempt(self.name, bound, FRONT)
        if found is None and (leaves_of(bound, (Moved,)) or self.name in RESHAPES | PERMUTATIONS):
            first = next((n for n in self.node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)), None)
            old = first.meta["val"].shape if first is not None else ()
            rows = as_rows(self.name, bound, old, self.node.meta["val"])
            if rows is not None:
                found = self._attempt(*rows)
        return found

    def _attempt(self, name: str, arguments: dict[str, Any], layout: Layout) -> Any:
        reader = ATEN.get(name)
        if reader is None and name not in RESHAPES:
            return None
        before, self.name = self.name, name
        call = self._call(arguments, layout)
        self.name = before
        try:
            found = None if reader is None else call.read(reader)
            if found is None:
                return None
            expected = self.node.meta["val"]
            if isinstance(found, Value) and isinstance(expected, Tensor) and found.shape != call.output_shape:
                raise call.refuse(f"its result has shape {call.output_shape}, read as {found.shape}")
        except UnsupportedOperator as error:
            self.refusals.append(error)
            return None
        except (RuntimeError, IndexError, ValueError) as error:
            self.refusals.append(call.refuse(" ".join(str(error).split())))
            return None
        return result(found, layout, expected)

    # --- functions of torch ------------------------------------------------------------------------------------------

    def _as_function(self, function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
        found = self._function(function, arguments, keywords)
        if isinstance(found, Lazy):
            return found
        op, values, layout = found
        call, linear = self._call({}, layout), linear_function(op)
        shape = tuple(int(n) for n in layout.sample(self.node.meta["val"].shape))
        if linear is not None:
            return arranged(emit_linear(call, linear, values, shape), layout)
        if self.simpler is not None:
            parts = self.simpler(self.builder, op, values, shape, self.layer, self.source)
            if parts is not None:
                self.builder.stands_for(parts, op, values)
                return arranged(parts, layout)
        return arranged(call.emit(op, *values), layout)

    def _function(
        self, function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]
    ) -> Lazy | tuple[TorchFunction, list[Value], Layout]:
        """The call as an operator, its activations, and the result's layout; a call that waits where it has none."""
        expected = self.node.meta.get("val")
        real = expected if isinstance(expected, Tensor) and expected.is_floating_point() else None
        if real is not None and _makes(self.node.target):
            # the graph's type, where the module takes torch's default
            keywords = {**keywords, "dtype": real.dtype}
        value = Lazy(function, tuple(arguments), keywords)
        inputs: list[Activation] = []
        seen = [leaf for leaf in leaves(value) if isinstance(leaf, (Value, Moved))]
        layout = self._result_layout(real, seen) if real is not None and seen else None
        if layout is None:
            return value

        def slot(leaf: Any) -> Any:
            if not isinstance(leaf, (Value, Moved)):
                return leaf
            if leaf not in inputs:
                inputs.append(leaf)
            return Slot(inputs.index(leaf))

        tree = map_leaves(value, slot)
        values, layouts = [value_of(a) for a in inputs], tuple(layout_of(a) for a in inputs)
        op = TorchFunction(self.name, tree, tuple(v.shape for v in values), layouts, layout)
        return op.checked(), values, layout

    def _result_layout(self, expected: Tensor, inputs: list[Activation]) -> Layout | None:
        """Where the batch of the result is; None: it has none, or elements of the sample in an unknown order."""
        found = batch_axis(expected.shape)
        if found is None:
            return None
        axis, share = found
        if share == 1:
            return Layout(axis)
        for other in map(layout_of, inputs):
            if other.axis == axis and other.outer * other.inner == share:
                return other
        return None


def _of_extreme(bound: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """``x.gather(d, x.argmax(d, keepdim=True))`` as the call for the largest elements; None: it is another gather."""
    x, index = bound["self"], bound["index"]
    word = str(getattr(getattr(index, "function", None), "overloadpacket", "")) if isinstance(index, Lazy) else ""
    if word not in ("aten.argmax", "aten.argmin") or not isinstance(x, Value):
        return None
    of = bind(index.function, list(index.arguments), index.keywords)
    along = of["dim"] if isinstance(of.get("dim"), int) else None
    rank = len(x.shape) + 1
    if of["self"] != x or not of.get("keepdim") or along is None or along % rank != bound["dim"] % rank:
        return None
    return ("aten.amax" if word == "aten.argmax" else "aten.amin"), {"self": x, "dim": [along], "keepdim": True}


def _is_compared(node: Exported) -> bool:
    """Whether a call's result is compared, as it is or looked at in another way."""
    for user in node.users:
        name = base_name(user)
        if name in _COMPARING or ((name in _THROUGH or user.target is operator.getitem) and _is_compared(user)):
            return True
    return False


def _in_one_picture(x: Any) -> bool:
    """Whether the channels of all inputs are beside each other."""
    return isinstance(x, Moved) and x.layout.axis == 1 and x.layout.outer == 1


def _makes(target: Any) -> bool:
    """Whether a call makes a tensor from numbers alone."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    names = [a.name for a in target._schema.arguments]
    return "dtype" in names and not any("Tensor" in str(a.type) for a in target._schema.arguments)


def leaves_of(tree: Any, kinds: tuple[type, ...]) -> list[Any]:
    """The leaves of a kind; a tree of calls is one itself."""
    found = []
    for item in tree.values() if isinstance(tree, dict) else tree if is_sequence(tree) else [tree]:
        if isinstance(item, kinds):
            found.append(item)
        elif is_sequence(item) or isinstance(item, dict):
            found += leaves_of(item, kinds)
    return found


def _of_batch_one(value: Any, *, folded: bool = False) -> Any:
    """What depends on the number of inputs alone, for a batch of one, where that is the same for each of them; with
    dimensions of a sample folded into the batch, too, where activations are so."""
    if is_sequence(value):
        return [_of_batch_one(v, folded=folded) for v in value]
    if not isinstance(value, Lazy) or leaves_of_all(value):
        return value
    one, two = (evaluate(value, [], size=n) for n in (1, 2))
    if not isinstance(one, Tensor) or one.dim() != two.dim():
        return value
    longer = [d for d, (a, b) in enumerate(zip(one.shape, two.shape)) if a != b]
    if folded and len(longer) == 1 and two.shape[longer[0]] == 2 * one.shape[longer[0]]:
        again = torch.cat([one, one], longer[0]), one.repeat_interleave(2, longer[0])
        return one if any(bool((other == two).all()) for other in again) else value
    repeated = one.expand_as(two) if all(a in (1, b) for a, b in zip(one.shape, two.shape)) else None
    return one if repeated is not None and bool((repeated == two).all()) else value


def leaves_of_all(value: Lazy) -> bool:
    """Whether a tree of calls holds an activation."""
    return any(isinstance(leaf, (Value, Moved)) for leaf in leaves(value))


def _zeros(dtype: torch.dtype, extents: list[Any]) -> Tensor:
    return torch.zeros(extents, dtype=dtype)


def _shape_only(value: Any, dtype: torch.dtype) -> Any:
    """Zeros in the shape of an activation."""
    if not isinstance(value, (Value, Moved)):
        return value
    layout, shape = layout_of(value), value_of(value).shape
    count = BatchSize()
    if layout.folded:
        return value
    return Lazy(_zeros, (dtype, [*shape[: layout.axis], count, *shape[layout.axis :]]), {})
