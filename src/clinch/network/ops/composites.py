"""Calls that are several operators: attention, recurrent layers and cells.

They are written out with the readers of their parts, so that every fact of the parts holds for them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clinch.network.ops.layout import FRONT, Layout, Moved
from clinch.network.ops.lazy import is_sequence
from clinch.network.ops.reading import ATEN, Call, Reader, Value, from_aten, from_onnx
from clinch.network.ops.select import Slice, Take
from clinch.network.ops.shape import Reshape

#: steps of a recurrent layer, over all its layers and directions, that are written out; longer ones are one function
MOST_STEPS = 256
Operand = Value | Tensor


class Parts:
    """Applies other calls in place of one.

    Args:
        call: the one.
    """

    def __init__(self, call: Call) -> None:
        self.call = call

    def apply(self, name: str, /, **arguments: Any) -> Value:
        """What the reader of another exported call gives.

        Raises:
            UnsupportedOperator: it cannot be read.
        """
        other = copy.copy(self.call)
        other.operator, other.arguments = name, arguments
        result = other.read(ATEN[name])
        if not isinstance(result, Value):
            raise self.call.refuse(f"its part {name} cannot be read")
        return result

    def add(self, a: Operand, b: Operand) -> Operand:
        """``a + b``; of constants too."""
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return a + b
        return self.apply("aten.add", self=a, other=b)

    def subtract(self, a: Operand, b: Operand) -> Value:
        """``a − b``."""
        return self.apply("aten.sub", self=a, other=b)

    def multiply(self, a: Operand, b: Operand) -> Operand:
        """``a ⊙ b``; of constants too."""
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return a * b
        return self.apply("aten.mul", self=a, other=b)

    def product(self, a: Operand, b: Operand) -> Value:
        """``a @ b``."""
        return self.apply("aten.matmul", self=a, other=b)

    def linear(self, x: Operand, weight: Tensor, bias: Tensor | None) -> Operand:
        """``x weightᵀ + bias``."""
        if isinstance(x, Tensor):
            return torch.nn.functional.linear(x, weight, bias)
        return self.apply("aten.linear", input=x, weight=weight, bias=bias)

    def function(self, name: str, x: Operand) -> Operand:
        """A function of one number."""
        if isinstance(x, Tensor):
            return getattr(torch, name.removeprefix("aten."))(x)
        return self.apply(name, self=x)

    def part(self, x: Value, dim: int, start: int, size: int) -> Value:
        """Consecutive elements along a dimension of a sample."""
        return self.call.emit(Slice(dim, start, start + size), x)

    def stacked(self, values: Sequence[Value], dim: int) -> Value:
        """Samples beside each other in a new dimension."""
        return self.apply("aten.stack", tensors=list(values), dim=dim + 1)


# --- attention -------------------------------------------------------------------------------------------------------


@from_aten("aten.scaled_dot_product_attention")
def _attention(call: Call) -> Value | None:
    """``softmax(q kᵀ·scale + mask) v``."""
    if call.get("dropout_p", 0.0):
        return None
    query, key, value, mask = (call.get(name) for name in ("query", "key", "value", "attn_mask"))
    if not all(isinstance(x, Value) for x in (query, key, value)) or isinstance(mask, Value):
        return None
    parts = Parts(call)
    if call.get("enable_gqa", False):
        key, value = (_repeated(call, x, query.shape[-3]) for x in (key, value))
    scale = call.get("scale")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    rank = len(key.shape)
    scores = parts.product(query, parts.apply("aten.transpose", self=key, dim0=rank - 1, dim1=rank))
    scores = parts.multiply(scores, call.constant(scale))
    if call.get("is_causal", False):
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    some: Tensor | None = None
    if mask is not None:
        added = torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask
        # a row that keeps nothing has no weight at all
        some = ~torch.isneginf(added).all(-1, keepdim=True)
        scores = parts.add(scores, torch.where(some, added, 0.0).double())
    weights = parts.apply("aten.softmax", self=scores, dim=-1)
    if some is not None and not bool(some.all()):
        weights = parts.multiply(weights, some.double())
    return parts.product(weights, value)


def _repeated(call: Call, x: Value, heads: int) -> Value:
    """Heads of keys or values that several of the queries share, once for each of these."""
    dim = len(x.shape) - 3
    return call.emit(Take(dim, torch.arange(x.shape[dim]).repeat_interleave(heads // x.shape[dim])), x)


# --- recurrent layers ------------------------------------------------------------------------------------------------

State = tuple[Operand, ...]
#: pieces of the size of the state that a cell's weights have
_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _lstm_step(parts: Parts, gates: Operand, state: State, size: int) -> State:
    """Gates ``i, f, g, o`` before their functions, and the state ``h, c``."""
    i, f, g, o = (parts.part(gates, 0, k * size, size) for k in range(4))  # type: ignore[arg-type]
    kept = parts.multiply(parts.function("aten.sigmoid", f), state[1])
    new = parts.multiply(parts.function("aten.sigmoid", i), parts.function("aten.tanh", g))
    cell = parts.add(kept, new)
    return parts.multiply(parts.function("aten.sigmoid", o), parts.function("aten.tanh", cell)), cell


def step(parts: Parts, kind: str, x: Operand, state: State, weights: Sequence[Tensor | None]) -> State:
    """One step of a cell with the weights of the input and of the state, and their biases or None."""
    w, r, b, c, *smaller = weights
    assert w is not None and r is not None
    given, held = parts.linear(x, w, b), parts.linear(state[0], r, c)
    size = w.shape[0] // _GATES[kind]
    if kind == "gru":
        return (gru_step(parts, given, held, state[0], size),)
    total = parts.add(given, held)
    if kind == "lstm":
        h, cell = _lstm_step(parts, total, state, size)
        return parts.linear(h, smaller[0], None) if smaller and smaller[0] is not None else h, cell
    return (parts.function("aten.tanh" if kind == "rnn_tanh" else "aten.relu", total),)


def piece(parts: Parts, x: Operand, start: int, size: int) -> Operand:
    """Consecutive elements of a vector."""
    return x[..., start : start + size] if isinstance(x, Tensor) else parts.part(x, 0, start, size)


def gru_step(
    parts: Parts, given: Operand, held: Operand, h: Operand, size: int,
    inner: Callable[[Operand], Operand] | None = None,
) -> Operand:  # fmt: skip
    """``n + z ⊙ (h − n)`` with the new state ``n = tanh(W x + r ⊙ U h)``; ``inner`` gives another second term for r."""
    reset, update = (
        parts.function(
            "aten.sigmoid", parts.add(piece(parts, given, k * size, size), piece(parts, held, k * size, size))
        )
        for k in range(2)
    )
    term = parts.multiply(reset, piece(parts, held, 2 * size, size)) if inner is None else inner(reset)
    new = parts.function("aten.tanh", parts.add(piece(parts, given, 2 * size, size), term))
    return parts.add(new, parts.multiply(update, parts.subtract(h, new)))


def _cell(kind: str) -> Reader:
    def read(call: Call) -> Value | list[Value] | None:
        x = call.arguments["input"]
        held = call.arguments["hx"]
        state = tuple(_row(call, s) for s in (held if is_sequence(held) else [held]))
        weights = [call.tensor(name) for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
        if not isinstance(x, Value):
            return None
        found = step(Parts(call), kind, x, state, weights)
        return list(found) if kind == "lstm" else found[0]  # type: ignore[return-value]

    return read


for _kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    from_aten(f"aten.{_kind}_cell")(_cell(_kind))


def _row(call: Call, state: Any) -> Operand:
    """A state: an activation, or a constant that is the same for each input."""
    if isinstance(state, Value):
        return state
    constant = call.constant(state)
    if constant.dim() == 2 and constant.shape[0] != 1:
        raise call.refuse("its state differs from input to input")
    return constant.reshape(-1)


def _layer(kind: str) -> Reader:
    def read(call: Call) -> list[Value] | None:
        x = call.arguments["input"]
        if "batch_sizes" in call.arguments or not isinstance(x, Value) or len(x.shape) != 2:
            return None
        if getattr(call, "layout", FRONT) != (FRONT if call["batch_first"] else Layout(1)):
            raise call.refuse("it takes the batch for the time")
        layers, both = int(call["num_layers"]), bool(call["bidirectional"])
        directions = 2 if both else 1
        if layers * directions * x.shape[0] > MOST_STEPS:
            return None
        return _unrolled(call, kind, x, layers, directions)

    return read


def _unrolled(call: Call, kind: str, x: Value, layers: int, directions: int) -> list[Value]:
    """All steps of all layers: the outputs over time, then the last state of each layer and direction."""
    parts, given = Parts(call), call.arguments["hx"]
    starts = given if is_sequence(given) else [given]
    weights = [call.constant(w) for w in call.arguments["params"]]
    each = len(weights) // (layers * directions)
    biases = bool(call["has_biases"])
    inputs: list[Value] = [call.emit(Reshape(x.shape[1:]), parts.part(x, 0, t, 1)) for t in range(x.shape[0])]
    last: list[State] = []
    for layer in range(layers):
        every: list[list[Value]] = []
        for d in range(directions):
            k = layer * directions + d
            own = weights[k * each : (k + 1) * each]
            own = own if biases else [*own[:2], None, None, *own[2:]]
            state = tuple(_start(call, parts, s, k) for s in starts)
            found: dict[int, Value] = {}
            for t in range(len(inputs))[:: -1 if d else 1]:
                state = step(parts, kind, inputs[t], state, own)
                found[t] = state[0]  # type: ignore[assignment]
            every.append([found[t] for t in range(len(inputs))])
            last.append(state)
        inputs = [
            step[0] if directions == 1 else parts.apply("aten.cat", tensors=list(step), dim=1) for step in zip(*every)
        ]
    ends = [parts.stacked([state[i] for state in last], 0) for i in range(len(starts))]  # type: ignore[misc]
    return [parts.stacked(inputs, 0), *ends]


def _start(call: Call, parts: Parts, state: Any, k: int) -> Operand:
    """The first state of a layer and direction: rows of it, or a constant with a batch of one."""
    if isinstance(state, Moved) and state.layout == Layout(1):
        state = state.value
    if isinstance(state, Value):
        return call.emit(Reshape(state.shape[1:]), parts.part(state, 0, k, 1))
    constant = call.constant(state)
    if constant.dim() != 3 or constant.shape[1] != 1:
        raise call.refuse("its first state differs from input to input")
    return constant[k, 0]


for _kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    from_aten(f"aten.{_kind}")(_layer(_kind))


@from_onnx("Swish")
def _swish(call: Call) -> Value:
    """``x·σ(a·x)``, which is ``silu(a·x)/a``."""
    parts, x, a = Parts(call), call.activation("X"), call.number("alpha", 1.0)
    if a == 1:
        return parts.apply("aten.silu", self=x)
    if a == 0:
        return parts.multiply(x, call.constant(0.5))  # type: ignore[return-value]
    inner = parts.apply("aten.silu", self=parts.multiply(x, call.constant(a)))
    return parts.multiply(inner, call.constant(1 / a))  # type: ignore[return-value]
