"""Kinds of modules: sequences, attention, cells, and what modules take and return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks.kinds import body, kind

# --- sequences -------------------------------------------------------------------------------------------------------

SEQUENCE = (4, 6)


def _sequence(name: str, forward: Callable[..., Any], **parts: Callable[[], Any]) -> None:
    body(f"sequence {name}", SEQUENCE, forward, **parts)


for _first in (True, False):
    _word = "batch first" if _first else "batch second"
    for _cell in (nn.LSTM, nn.GRU, nn.RNN):
        _sequence(
            f"{_cell.__name__} {_word}",
            (lambda s, x: s.r(x)[0]) if _first else (lambda s, x: s.r(x.transpose(0, 1))[0].transpose(0, 1)),
            r=lambda _cell=_cell, _first=_first: _cell(6, 5, batch_first=_first),
        )
    _sequence(
        f"MultiheadAttention {_word}",
        (lambda s, x: s.a(x, x, x, need_weights=False)[0])
        if _first
        else (lambda s, x: (lambda y: s.a(y, y, y)[0].transpose(0, 1))(x.transpose(0, 1))),
        a=lambda _first=_first: nn.MultiheadAttention(6, 2, batch_first=_first),
    )
    _sequence(
        f"TransformerEncoderLayer {_word}",
        (lambda s, x: s.t(x)) if _first else (lambda s, x: s.t(x.transpose(0, 1)).transpose(0, 1)),
        t=lambda _first=_first: nn.TransformerEncoderLayer(6, 2, 8, batch_first=_first),
    )
_sequence("LSTM bidirectional", lambda s, x: s.r(x)[0], r=lambda: nn.LSTM(6, 3, bidirectional=True, batch_first=True))
_sequence("LSTM two layers, last state", lambda s, x: s.r(x)[1][0][-1], r=lambda: nn.LSTM(6, 3, 2, batch_first=True))
_sequence("GRU last output", lambda s, x: s.r(x)[0][:, -1], r=lambda: nn.GRU(6, 4, batch_first=True))
_sequence(
    "attention with weights", lambda s, x: s.a(x, x, x)[0], a=lambda: nn.MultiheadAttention(6, 3, batch_first=True)
)
_sequence(
    "TransformerEncoder",
    lambda s, x: s.t(x),
    t=lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2, enable_nested_tensor=False
    ),
)
_sequence(
    "encoder norm first",
    lambda s, x: s.t(x),
    t=lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=True, activation="gelu"),
)
_sequence(
    "TransformerDecoderLayer", lambda s, x: s.t(x, x), t=lambda: nn.TransformerDecoderLayer(6, 2, 8, batch_first=True)
)
_sequence("scaled dot product", lambda s, x: functional.scaled_dot_product_attention(x, x, x))
_sequence("causal attention", lambda s, x: functional.scaled_dot_product_attention(x, x, x, is_causal=True))
_sequence(
    "masked attention",
    lambda s, x: functional.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(4, 4).tril().bool()),
)
_sequence(
    "attention by hand",
    lambda s, x: (s.q(x) @ s.k(x).transpose(1, 2) / 2).softmax(-1) @ s.v(x),
    q=lambda: nn.Linear(6, 4),
    k=lambda: nn.Linear(6, 4),
    v=lambda: nn.Linear(6, 6),
)
_sequence("linear attention", lambda s, x: functional.elu(x) @ ((functional.elu(x) + 1).transpose(1, 2) @ x))
_sequence(
    "class token",
    lambda s, x: s.a(torch.cat([s.c.expand(x.shape[0], -1, -1), x], 1)).relu()[:, 0],
    a=lambda: nn.Linear(6, 6),
    c=lambda: torch.rand(1, 1, 6),
)
_sequence(
    "position embedding",
    lambda s, x: s.a(x + s.p[:, : x.shape[1]]).relu(),
    a=lambda: nn.Linear(6, 6),
    p=lambda: torch.rand(1, 9, 6),
)
_sequence(
    "ViT block",
    lambda s, x: (lambda y: y + s.m(s.n2(y)))(x + s.a(s.n(x), s.n(x), s.n(x))[0]),
    n=lambda: nn.LayerNorm(6),
    n2=lambda: nn.LayerNorm(6),
    a=lambda: nn.MultiheadAttention(6, 2, batch_first=True),
    m=lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)),
)
_sequence("MLP mixer", lambda s, x: x + s.a(x.transpose(1, 2)).relu().transpose(1, 2), a=lambda: nn.Linear(4, 4))
_sequence(
    "SwiGLU",
    lambda s, x: s.c(functional.silu(s.a(x)) * s.b(x)),
    a=lambda: nn.Linear(6, 5),
    b=lambda: nn.Linear(6, 5),
    c=lambda: nn.Linear(5, 3),
)
_sequence(
    "rotary",
    lambda s, x: torch.cat([x[..., :3] * s.c - x[..., 3:] * s.i, x[..., :3] * s.i + x[..., 3:] * s.c], -1).relu(),
    c=lambda: torch.rand(4, 3),
    i=lambda: torch.rand(4, 3),
)
_sequence(
    "windows folded into the batch",
    lambda s, x: s.a(x.reshape(-1, 2, 6)).relu().reshape(x.shape[0], 4, 6),
    a=lambda: nn.Linear(6, 6),
)
_sequence(
    "time distributed", lambda s, x: s.a(x.reshape(-1, 6)).relu().view(x.shape[0], 4, 5), a=lambda: nn.Linear(6, 5)
)
_sequence("Bilinear", lambda s, x: s.a(x[:, 0], x[:, 1]), a=lambda: nn.Bilinear(6, 6, 3))
_sequence("temporal convolution", lambda s, x: s.a(x.transpose(1, 2)).relu(), a=lambda: nn.Conv1d(6, 3, 2))


def _loop(s: Any, x: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], 5)
    for t in range(x.shape[1]):
        h = torch.tanh(s.a(x[:, t]) + s.b(h))
    return h


def _cells(s: Any, x: Tensor) -> Tensor:
    state = None
    for t in range(x.shape[1]):
        state = s.r(x[:, t], state)
    return state[0] if isinstance(state, tuple) else state


_sequence("cell by hand", _loop, a=lambda: nn.Linear(6, 5), b=lambda: nn.Linear(5, 5))
for _cell in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
    _sequence(f"{_cell.__name__} loop", _cells, r=lambda _cell=_cell: _cell(6, 5))

_sequence("projected LSTM", lambda s, x: s.r(x)[0], r=lambda: nn.LSTM(6, 4, proj_size=3, batch_first=True))
_sequence(
    "GRU from a state", lambda s, x: s.r(x[:, 1:], s.a(x[:, 0])[None])[0], r=lambda: nn.GRU(6, 4, batch_first=True),
    a=lambda: nn.Linear(6, 4),
)  # fmt: skip
_sequence(
    "scores filled with -inf",
    lambda s, x: (x @ x.transpose(1, 2)).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf).softmax(-1) @ x,
)
_sequence(
    "-inf added to scores",
    lambda s, x: (x @ x.transpose(1, 2) + torch.full((4, 4), -torch.inf).triu(1)).softmax(-1) @ x,
)
_sequence(
    "attention over windows",
    lambda s, x: (lambda y: functional.scaled_dot_product_attention(y, y, y).reshape(x.shape))(x.reshape(-1, 2, 6)),
)
_sequence(
    "graph convolution", lambda s, x: (s.g @ s.a(x)).relu(), g=lambda: torch.rand(4, 4), a=lambda: nn.Linear(6, 3)
)

# --- what they take and return ---------------------------------------------------------------------------------------


def _plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


class Anything(nn.Module):
    """A forward of any arguments, as wrappers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _plain()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the inner network gives."""
        return self.inner(*args, **kwargs)


class Returns(nn.Module):
    """A network that returns more than a tensor."""

    def __init__(self, how: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.inner = _plain()
        self.how = how

    def forward(self, x: Tensor) -> Any:
        """As said."""
        y = self.inner(x)
        return self.how(y, y.argmax(1))


class Two(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Both beside each other."""
        return self.inner(torch.cat([x, context], 1)).relu()


class Last(nn.Module):
    """A network with a function at its end."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = _plain()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """The function of the network."""
        return self.function(self.inner(x))


kind("any arguments", (4,))(Anything)
kind("DataParallel", (4,))(lambda: nn.DataParallel(_plain()))
kind("torch.compile", (4,))(lambda: torch.compile(_plain()))  # type: ignore[arg-type]
kind("weight norm", (4,))(
    lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3))
)
kind("spectral norm", (4,))(
    lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3))
)
kind("tuple with labels", (4,))(lambda: Returns(lambda y, label: (label, y)))
kind("dictionary", (4,), output="logits")(lambda: Returns(lambda y, label: {"logits": y, "p": y.softmax(1)}))
kind("tuple of two", (4,), output=1)(lambda: Returns(lambda y, label: (y, y.sigmoid())))
kind("two inputs", (4,), fixed={"context": torch.tensor([[0.5, -0.5]])})(Two)
kind("one number per input", (4,))(lambda: Last(lambda y: y[:, 0]))
for _name, _function in {
    "softmax at the end": lambda y: y.softmax(1),
    "log-softmax at the end": lambda y: y.log_softmax(1),
    "sigmoid at the end": torch.sigmoid,
    "temperature at the end": lambda y: (y / 2.5).softmax(1),
    "tanh at the end": torch.tanh,
}.items():
    kind(_name, (4,))(lambda _function=_function: Last(_function))
