"""LSTM, GRU, RNN and attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.onnx_functions.table import Settings, node_type, within

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softsign": functional.softsign,
    "softplus": functional.softplus,
    "affine": lambda x, alpha=1.0, beta=0.0: alpha * x + beta,
    "leakyrelu": lambda x, alpha=0.01, beta=0.0: functional.leaky_relu(x, alpha),
    "thresholdedrelu": lambda x, alpha=1.0, beta=0.0: torch.where(x > alpha, x, torch.zeros_like(x)),
    "scaledtanh": lambda x, alpha=1.0, beta=1.0: alpha * torch.tanh(beta * x),
    "hardsigmoid": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "elu": lambda x, alpha=1.0, beta=0.0: functional.elu(x, alpha),
}  # fmt: skip
_WITH_NUMBERS = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


#: what a cell makes of an input, its states, its weights and bias: its new states, the hidden one first
Cell = Callable[..., tuple[Tensor, ...]]
Functions = list[Callable[[Tensor], Tensor]]


def _activations(node: Settings, kind: str, directions: int) -> list[Functions]:
    """The functions of each direction; an optional number goes to those that take one."""
    names = node.get("activations") or _DEFAULTS[kind] * directions
    alphas, betas = iter(node.get("activation_alpha") or []), iter(node.get("activation_beta") or [])
    clip = node.get("clip")
    found: Functions = []
    for raw in names:
        name = raw.decode().lower() if isinstance(raw, bytes) else raw.lower()
        given = {}
        if name in _WITH_NUMBERS:
            given = {k: v for k, v in (("alpha", next(alphas, None)), ("beta", next(betas, None))) if v is not None}
        found.append(partial(_activated, function=partial(_ACTIVATIONS[name], **given), clip=clip))
    count = len(found) // directions
    return [found[i * count : (i + 1) * count] for i in range(directions)]


def _activated(x: Tensor, *, function: Callable[[Tensor], Tensor], clip: float | None) -> Tensor:
    return function(x if clip is None else x.clamp(-clip, clip))


def _steps(length: int, backwards: bool) -> Iterator[int]:
    return iter(range(length - 1, -1, -1) if backwards else range(length))


def _recurrent(
    node: Settings,
    kind: str,
    inputs: Sequence[Tensor | None],
    cell: Cell,
    states: int,
) -> tuple[Tensor, ...]:
    """Runs a cell over time, in each direction: all hidden states, and the last of each state."""
    x, w, r, b, lengths = (list(inputs) + [None] * 5)[:5]
    assert x is not None and w is not None and r is not None
    layout, hidden = node.get("layout", 0), r.shape[-1]
    x = x.transpose(0, 1) if layout else x
    time, batch, directions = x.shape[0], x.shape[1], w.shape[0]
    starts = [inputs[5 + i] if len(inputs) > 5 + i else None for i in range(states)]
    starts = [s if s is None or not layout else s.transpose(0, 1) for s in starts]
    functions = _activations(node, kind, directions)
    every, last = [], []
    for d in range(directions):
        zero = x.new_zeros(batch, hidden)
        state = tuple(zero if s is None else s[d] for s in starts)
        backwards = node.get("direction", "forward") == "reverse" or d == 1
        found: dict[int, Tensor] = {}
        for t in _steps(time, backwards):
            new = cell(x[t], state, w[d], r[d], None if b is None else b[d], functions[d])
            if lengths is not None:
                inside = (t < lengths).unsqueeze(1)
                state = tuple(torch.where(inside, n, s) for n, s in zip(new, state))
                found[t] = torch.where(inside, new[0], torch.zeros_like(new[0]))
            else:
                state, found[t] = new, new[0]
        every.append(torch.stack([found[t] for t in range(time)]))
        last.append(state)
    y = torch.stack(every, 1)
    ends = [torch.stack([state[i] for state in last]) for i in range(states)]
    if layout:
        y, ends = y.permute(2, 0, 1, 3), [e.transpose(0, 1) for e in ends]
    return (y, *ends)[: max(node.outputs, 1)]


def _gates(x: Tensor, h: Tensor, w: Tensor, r: Tensor, b: Tensor | None) -> Tensor:
    total = x @ w.mT + h @ r.mT
    return total if b is None else total + b.reshape(2, -1).sum(0)


@node_type("RNN")
def _rnn(node: Settings, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    def cell(
        x: Tensor, state: tuple[Tensor], w: Tensor, r: Tensor, b: Tensor | None, f: Functions
    ) -> tuple[Tensor, ...]:
        return (f[0](_gates(x, state[0], w, r, b)),)

    return _recurrent(node, "RNN", inputs, cell, 1)


@node_type("GRU")
def _gru(node: Settings, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    after = bool(node.get("linear_before_reset", 0))

    def cell(
        x: Tensor, state: tuple[Tensor], w: Tensor, r: Tensor, b: Tensor | None, f: Functions
    ) -> tuple[Tensor, ...]:
        (h,) = state
        given = (x @ w.mT + (0 if b is None else b[: len(w)])).chunk(3, -1)
        bias = (0, 0, 0) if b is None else b[len(w) :].chunk(3)
        weights = r.chunk(3)
        update = f[0](given[0] + h @ weights[0].mT + bias[0])
        reset = f[0](given[1] + h @ weights[1].mT + bias[1])
        inner = reset * (h @ weights[2].mT + bias[2]) if after else (reset * h) @ weights[2].mT + bias[2]
        return ((1 - update) * f[1](given[2] + inner) + update * h,)

    return _recurrent(node, "GRU", inputs, cell, 1)


def _with_peepholes(inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The inputs of an LSTM with the peepholes of each direction behind its bias."""
    found, peepholes, r = list(inputs), inputs[7] if len(inputs) > 7 else None, inputs[2]
    if peepholes is not None and r is not None:
        bias = found[3] if found[3] is not None else peepholes.new_zeros(len(peepholes), 8 * r.shape[-1])
        found[3] = torch.cat([bias, peepholes], 1)
    return found


@node_type("LSTM")
def _lstm(node: Settings, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    inputs, size = _with_peepholes(inputs), inputs[2].shape[-1]  # type: ignore[union-attr]
    together = bool(node.get("input_forget", 0))

    def cell(
        x: Tensor, state: tuple[Tensor, Tensor], w: Tensor, r: Tensor, b: Tensor | None, f: Functions
    ) -> tuple[Tensor, ...]:
        h, c = state
        i, o, forget, new = _gates(x, h, w, r, None if b is None else b[: 8 * size]).chunk(4, -1)
        p = (0, 0, 0) if b is None or len(b) == 8 * size else b[8 * size :].chunk(3)
        i = f[0](i + p[0] * c)
        forget = 1 - i if together else f[0](forget + p[2] * c)
        c = forget * c + i * f[1](new)
        return f[0](o + p[1] * c) * f[2](c), c

    return _recurrent(node, "LSTM", inputs[:7], cell, 2)


def _heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2) if x.dim() == 3 else x


@node_type("Attention")
def _attention(
    node: Settings,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, ...]:
    if max(node.get("left_window_size", -1), node.get("right_window_size", -1)) >= 0:
        raise ValueError("a window of attention is not computed")
    flat = q.dim() == 3
    query = _heads(q, node.get("q_num_heads", 1))
    key, value = (_heads(t, node.get("kv_num_heads", 1)) for t in (k, v))
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    present = key, value
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    scale = node.get("scale") or 1 / math.sqrt(query.shape[-1])
    within(math.prod(query.shape[:-1]) * key.shape[2])
    raw = (query * math.sqrt(scale)) @ (key * math.sqrt(scale)).mT
    bias = torch.zeros_like(raw)
    if mask is not None:
        filled = mask.to(raw.dtype) if mask.dtype != torch.bool else torch.where(mask, 0.0, -math.inf).to(raw.dtype)
        missing = raw.shape[-1] - filled.shape[-1]
        filled = functional.pad(filled, [0, missing], value=-math.inf) if missing else filled
        bias = bias + filled
    places = torch.arange(raw.shape[-1])
    if node.get("is_causal", 0):
        begin = torch.tensor(0 if past_key is None else past_key.shape[2])
        # with keys filled up to a length, the last query sees all of them
        begin = begin if lengths is None else (lengths - raw.shape[-2]).reshape(-1, 1, 1, 1)
        later = places > torch.arange(raw.shape[-2]).unsqueeze(1) + begin
        bias = bias.masked_fill(later, -math.inf)
    if lengths is not None:
        bias = bias.masked_fill(places >= lengths.reshape(-1, 1, 1, 1), -math.inf)
    cap = node.get("softcap", 0.0)
    mode = node.get("qk_matmul_output_mode", 0)
    capped = cap * torch.tanh(raw / cap) if cap else raw
    biased = capped + bias
    weights = torch.softmax(biased, -1)
    weights = torch.where(torch.isneginf(biased).all(-1, keepdim=True), torch.zeros_like(weights), weights)
    y = weights @ value
    y = y.transpose(1, 2).flatten(2) if flat else y
    shown = [raw, raw + bias if not cap else capped, biased, weights][mode]
    return (y, *present, shown)[: max(node.outputs, 1)]


@node_type("RotaryEmbedding")
def _rotary(node: Settings, x: Tensor, cosine: Tensor, sine: Tensor, places: Tensor | None = None) -> Tensor:
    flat = x.dim() == 3
    y = x.unflatten(-1, (node.get("num_heads"), -1)) if flat else x.transpose(1, 2)
    size = node.get("rotary_embedding_dim", 0) or y.shape[-1]
    turned, kept = y[..., :size], y[..., size:]
    cos, sin = (t if places is None else t[places] for t in (cosine, sine))
    cos, sin = (t[..., : size // 2].unsqueeze(2) for t in (cos, sin))
    if node.get("interleaved", 0):
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([cos * a - sin * b, sin * a + cos * b], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        turned = torch.cat([cos * a - sin * b, sin * a + cos * b], -1)
    y = torch.cat([turned, kept], -1)
    return y.flatten(2) if flat else y.transpose(1, 2)
