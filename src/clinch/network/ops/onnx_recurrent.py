"""ONNX's recurrent layers and attention, written out step by step with the readers of their parts.

Forms that are rare (peepholes, clipping, lengths that differ, other functions, caches of keys) are left to a function
of torch: attacks follow it, bounds do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clinch.network.ops.composites import MOST_STEPS, Operand, Parts, State, gru_step, step
from clinch.network.ops.reading import Call, Reader, Value, from_onnx
from clinch.network.ops.shape import Reshape, Transpose

#: functions that are written out, and where torch's gates stand among the standard's
_FUNCTIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
_GATES = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}


def _recurrent(kind: str) -> Reader:
    def read(call: Call) -> list[Value] | None:
        if not call.get("alone", False):
            raise call.refuse("it has the time in front of the batch")
        name = _named(call, kind)
        if name is None:
            return None
        return _unrolled(call, kind, name)

    return read


for _kind in _FUNCTIONS:
    from_onnx(_kind)(_recurrent(_kind))


def _named(call: Call, kind: str) -> str | None:
    """torch's name of the cell; None: not one of those."""
    directions = 2 if call.get("direction", "forward") == "bidirectional" else 1
    given = [f.decode() if isinstance(f, bytes) else f for f in call.get("activations") or []]
    expected = _FUNCTIONS[kind] * directions
    # the standard's default is as long as for two directions
    functions = [f.lower() for f in given][: len(expected)] or expected
    relus = kind == "RNN" and functions == ["relu"] * directions
    plain = relus or functions == expected
    rare = [call.get(name) for name in ("clip", "P", "input_forget")]
    if not plain or any(value is not None and value != 0 for value in rare[::2]) or rare[1] is not None:
        return None
    lengths, x = call.get("sequence_lens"), call.activation("X")
    time = x.shape[1 if call.get("layout", 0) else 0]
    if lengths is not None and not (isinstance(lengths, Tensor) and bool((lengths == time).all())):
        return None
    if directions * time > MOST_STEPS or x.shape[0 if call.get("layout", 0) else 1] != 1:
        return None
    return {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_relu" if relus else "rnn_tanh"}[kind]


def _unrolled(call: Call, kind: str, name: str) -> list[Value]:
    """All hidden states over time, and the last of each state, with a batch of one among their dimensions."""
    parts, x, last = Parts(call), call.activation("X"), bool(call.get("layout", 0))
    time, size = x.shape[1 if last else 0], x.shape[2]
    flat = call.emit(Reshape((time, size)), x)
    inputs = [call.emit(Reshape((size,)), parts.part(flat, 0, t, 1)) for t in range(time)]
    weights, direction = _weights(call, kind), call.get("direction", "forward")
    every: list[list[Value]] = []
    ends: list[State] = []
    for d, own in enumerate(weights):
        state = tuple(_start(call, parts, name, d, own[1].shape[1]) for name in _STATES[: 2 if kind == "LSTM" else 1])
        found: dict[int, Value] = {}
        for t in range(time)[:: -1 if direction == "reverse" or d else 1]:
            state = _step(call, parts, name, inputs[t], state, own)
            found[t] = state[0]  # type: ignore[assignment]
        every.append([found[t] for t in range(time)])
        ends.append(state)
    hidden = weights[0][1].shape[1]
    y = parts.stacked([parts.stacked(list(over), 0) for over in zip(*every)], 0)
    shape = (1, time, len(weights), hidden) if last else (time, len(weights), 1, hidden)
    finals = [parts.stacked([state[i] for state in ends], 0) for i in range(len(ends[0]))]  # type: ignore[misc]
    shapes = [(1, len(weights), hidden) if last else (len(weights), 1, hidden)] * len(finals)
    results = zip([y, *finals], [shape, *shapes])
    return [call.emit(Reshape(s), value) for value, s in results][: call.get("outputs", 1)]


_STATES = ("initial_h", "initial_c")


def _weights(call: Call, kind: str) -> list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
    """Of each direction what torch takes: weights of the input and of the state, and their biases."""
    w, r, b = (call.tensor(name) for name in ("W", "R", "B"))
    if w is None or r is None:
        raise call.refuse("its weights are no constants")
    size, order = r.shape[2], _GATES[kind]

    def gates(t: Tensor) -> Tensor:
        return torch.cat([t[k * size : (k + 1) * size] for k in order])

    found = []
    for d in range(len(w)):
        first, second = (None, None) if b is None else (gates(half) for half in b[d].chunk(2))
        found.append((gates(w[d]), gates(r[d]), first, second))
    return found


def _start(call: Call, parts: Parts, name: str, d: int, size: int) -> Operand:
    """A first state: zeros unless given, of a batch of one."""
    state, last = call.get(name), bool(call.get("layout", 0))
    if state is None:
        return torch.zeros(size, dtype=torch.float64, device=call.builder.device)
    if isinstance(state, Value):
        flat = call.emit(Reshape((state.shape[1 if last else 0], size)), state)
        return call.emit(Reshape((size,)), parts.part(flat, 0, d, 1))
    return call.constant(state).reshape(-1, size)[d]


def _step(
    call: Call, parts: Parts, name: str, x: Value, state: State, weights: Sequence[Tensor | None]
) -> tuple[Operand, ...]:
    """One step; a GRU may reset its state before it is multiplied, and not after, as torch's does."""
    if name != "gru" or call.get("linear_before_reset", 0):
        return step(parts, name, x, state, weights)
    w, r, b, c = weights
    assert w is not None and r is not None
    size, (h,) = r.shape[1], state
    given, held = parts.linear(x, w, b), parts.linear(h, r[: 2 * size], None if c is None else c[: 2 * size])

    def inner(reset: Operand) -> Operand:
        return parts.linear(parts.multiply(reset, h), r[2 * size :], None if c is None else c[2 * size :])

    return (gru_step(parts, given, held, h, size, inner),)


# --- attention -------------------------------------------------------------------------------------------------------


@from_onnx("Attention")
def _attention(call: Call) -> Value | None:
    """``softmax(q kᵀ·scale + mask) v`` with a batch in front."""
    rare = [call.get(name) for name in ("past_key", "past_value", "nonpad_kv_seqlen", "softcap")]
    if call.get("outputs", 1) != 1 or any(value is not None and value != 0 for value in rare):
        return None
    if (
        call.get("qk_matmul_output_mode", 0)
        or call.get("left_window_size", -1) >= 0
        or call.get("right_window_size", -1) >= 0
    ):
        return None
    query, key, value, mask = (call.get(name) for name in ("Q", "K", "V", "attn_mask"))
    if not all(isinstance(t, Value) for t in (query, key, value)) or isinstance(mask, Value):
        return None
    flat = len(query.shape) == 2
    counts = [call.get(name, 1) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    query, key, value = (_heads(call, t, n) if flat else t for t, n in zip((query, key, value), counts))
    if query.shape[0] != key.shape[0] or len(query.shape) != 3:
        return None
    if mask is not None:
        mask = mask.reshape(mask.shape[max(0, mask.dim() - 3) :]) if mask.dim() < 4 or len(mask) == 1 else None
        if mask is None or mask.shape[-1] != key.shape[1]:
            return None
    found = Parts(call).apply(
        "aten.scaled_dot_product_attention", query=query, key=key, value=value, attn_mask=mask,
        is_causal=bool(call.get("is_causal", 0)), scale=call.get("scale"),
    )  # fmt: skip
    if not flat:
        return found
    heads, length, size = found.shape
    return call.emit(Reshape((length, heads * size)), call.emit(Transpose((1, 0, 2)), found))


def _heads(call: Call, x: Value, count: int) -> Value:
    length, size = x.shape
    return call.emit(Transpose((1, 0, 2)), call.emit(Reshape((length, count, size // count)), x))
