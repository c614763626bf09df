"""Kinds of modules that were tried last: attention without softmax, routing, filters, heads, splines, physics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks.kinds import body

Parts = dict[str, Callable[[], Any]]


def lin(fan_in: int, fan_out: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(fan_in, fan_out)


def rand(*shape: int, scale: float = 1.0) -> Callable[[], Tensor]:
    return lambda: scale * torch.randn(shape)


def heads(s: Any, x: Tensor, *, count: int = 3) -> list[Tensor]:
    return list(s.a(x).chunk(count, -1))


def causal(s: Any, x: Tensor) -> Tensor:
    q, k, v = heads(s, x)
    later = s.b[: x.size(1), : x.size(1)] == 0
    return (q @ k.mT / 2).masked_fill(later, float("-inf")).softmax(-1) @ v


def sink(s: Any, x: Tensor) -> Tensor:
    """Scores of a window, and one that takes what nobody should have."""
    i = torch.arange(x.shape[1])
    window = (i[:, None] >= i) & (i[:, None] - i < 3)
    scores = (s.q(x) @ s.k(x).mT).masked_fill(~window, -torch.inf)
    return torch.cat([scores, s.t.expand(len(x), x.shape[1], 1)], -1).softmax(-1)[..., :-1] @ x


def differential(s: Any, x: Tensor) -> Tensor:
    q, k, v = heads(s, x)
    first, second = ((a @ b.mT / 2).softmax(-1) for a, b in zip(q.chunk(2, -1), k.chunk(2, -1)))
    return functional.rms_norm((first - 0.3 * second) @ v, v.shape[-1:])


def linear_attention(s: Any, x: Tensor) -> Tensor:
    q, k = (functional.elu(part(x)) + 1 for part in (s.q, s.k))
    return torch.einsum("bnd,bde->bne", q, torch.einsum("bnd,bne->bde", k, x)) / (q @ k.sum(1, keepdim=True).mT)


def delta_rule(s: Any, x: Tensor) -> Tensor:
    state = x.new_zeros(len(x), 3, 3)
    for u in x.unbind(1):
        k, b = functional.normalize(s.k(u), dim=-1), s.b(u).sigmoid()[..., None]
        state = state - b * (torch.einsum("bij,bj->bi", state, k) - s.v(u))[..., None] * k[:, None]
    return torch.einsum("bij,bj->bi", state, s.q(x[:, -1]))


def scan(s: Any, x: Tensor) -> Tensor:
    """A gated recurrence in log steps."""
    a, b, n = s.a(x).sigmoid(), s.b(x), 1
    while n < x.shape[1]:
        b = torch.cat([b[:, :n], b[:, n:] + a[:, n:] * b[:, :-n]], 1)
        a = torch.cat([a[:, :n], a[:, n:] * a[:, :-n]], 1)
        n *= 2
    return b[:, -1]


def kalman(s: Any, x: Tensor) -> Tensor:
    state, spread = x.new_zeros(len(x), 2), torch.eye(2)
    for z in x.unbind(1):
        spread = s.A @ spread @ s.A.T + torch.eye(2)
        gain = spread @ s.H.T @ torch.linalg.inv(s.H @ spread @ s.H.T + torch.eye(2))
        state = torch.tanh(state @ s.A.T)
        state = state + (z - state @ s.H.T) @ gain.T
    return state


def slots(s: Any, x: Tensor) -> Tensor:
    found = s.m.expand(len(x), -1, -1)
    for _ in range(2):
        share = (s.q(found) @ s.k(x).mT).softmax(1) + 1e-8
        found = torch.tanh((share / share.sum(-1, keepdim=True)) @ s.v(x) + found)
    return found


def capsules(s: Any, x: Tensor) -> Tensor:
    def squash(v: Tensor) -> Tensor:
        n = v.square().sum(-1, keepdim=True)
        return n / (1 + n) * v / (n + 1e-8).sqrt()

    votes, b = torch.einsum("bni,noi->bno", squash(x), s.W), torch.zeros(len(x), 4, 1)
    for _ in range(2):
        b = b + (votes * squash((b.softmax(1) * votes).sum(1, keepdim=True))).sum(-1, keepdim=True)
    return squash((b.softmax(1) * votes).sum(1, keepdim=True))


def knots(s: Any, x: Tensor) -> Tensor:
    """Linear between entries of a table for each element."""
    at = (s.l(x).clamp(-1.99, 1.99) + 2) * 2
    i, each = at.floor().long(), torch.arange(6)
    return (1 - (at - i)) * s.c[each, i] + (at - i) * s.c[each, i + 1]


def cubic_knots(s: Any, x: Tensor) -> Tensor:
    at = s.l(x).sigmoid() * 6
    whole = at.floor().clamp(0, 5)
    t = (at - whole)[..., None]
    basis = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    places = whole.long()[..., None] + torch.arange(4)
    return (torch.cat(basis, -1) / 6 * s.c.expand(len(x), 6, 10).gather(-1, places)).sum(-1)


def memory(s: Any, x: Tensor) -> Tensor:
    a = torch.einsum("bpd,pkd->bpk", x.view(-1, 2, 3), s.k)
    w, i = (a[:, 0, :, None] + a[:, 1, None]).flatten(1).topk(2)
    return (w.softmax(-1)[..., None] * s.v(i)).sum(1)


def projected(s: Any, x: Tensor) -> Tensor:
    """The nearest point of a half-space, in closed form."""
    u, a, b = s.u(x), 2 * x[:, :2], x[:, :2].square().sum(1, keepdim=True) - 1
    return u + (b - (a * u).sum(1, keepdim=True)).relu() / a.square().sum(1, keepdim=True).clamp_min(0.01) * a


def pendulum(s: Any, x: Tensor) -> Tensor:
    gap = x[:, 1] - x[:, 0]
    pulls = [-9.8 * x[:, 0].sin() + s.l(x)[:, 0], -9.8 * gap.sin() / (1 + gap.sin() ** 2)]
    return x + 0.05 * torch.stack([x[:, 2], x[:, 3], *pulls], 1)


def bicycle(s: Any, x: Tensor) -> Tensor:
    turn, push = s.l(x).unbind(1)
    ways = [x[:, 3] * x[:, 2].cos(), x[:, 3] * x[:, 2].sin(), x[:, 3] / 2.5 * (0.4 * turn.tanh()).tan(), push]
    return x + 0.1 * torch.stack(ways, 1)


def policy(s: Any, x: Tensor) -> Tensor:
    chosen = torch.distributions.Categorical(logits=s.l(x))
    moved = torch.distributions.Normal(s.m(x), s.d.exp())
    return torch.cat([chosen.probs, chosen.entropy()[:, None], moved.mean.tanh()], 1)


def transformed(s: Any, x: Tensor) -> Tensor:
    """A picture moved by what a layer says."""
    shift = 0.2 * s.l(x.flatten(1)).tanh()
    grid = functional.affine_grid(torch.cat([torch.eye(2).expand(len(x), 2, 2), shift[..., None]], 2), list(x.shape))
    return functional.grid_sample(x, grid)


def voxels(s: Any, x: Tensor) -> Tensor:
    places = (2 * x - 1).view(-1, 1, 1, 1, 3)
    return functional.grid_sample(s.g.expand(len(x), -1, -1, -1, -1), places, align_corners=True)


def spectrum(s: Any, x: Tensor) -> Tensor:
    found = torch.stft(x, 8, 4, window=torch.hann_window(8), return_complex=True)
    return (found.abs().square() + 1e-3).log10()


def time_warped(s: Any, x: Tensor) -> Tensor:
    """Soft dynamic time warping to a fixed series."""
    cost = (x[:, :, None] - torch.tensor([0.2, 0.8, 0.4])).square()
    best = {(0, 0): x.new_zeros(len(x))}
    for i in range(1, 4):
        for j in range(1, 4):
            before = [best[k] for k in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if k in best]
            best[i, j] = cost[:, i - 1, j - 1] - torch.logsumexp(-torch.stack(before), 0)
    return best[3, 3][:, None]


def heatmap(s: Any, x: Tensor) -> Tensor:
    p = s.c(x).flatten(2).softmax(-1).view(-1, 2, 5, 5)
    return torch.stack([(p.sum(d) * torch.arange(5.0)).sum(-1) for d in (2, 3)], -1)


def symmetric(s: Any, x: Tensor) -> Tensor:
    """Distances of atoms, cut off smoothly."""
    d = torch.cdist(x, x) + 10 * torch.eye(4)
    cut = torch.where(d < 3, 0.5 * (torch.cos(math.pi * d / 3) + 1), torch.zeros_like(d))
    return (torch.exp(-d.square()) * cut).sum(2)


CONV = {"c": lambda: nn.Conv2d(1, 2, 3, padding=1)}
for _name, (_shape, _body, _parts) in dict[str, tuple[tuple[int, ...], Callable[..., Tensor], Parts]]({
    "causal buffer": ((4, 6), causal, {"a": lin(6, 18), "b": lambda: torch.ones(6, 6).tril()}),
    "attention sink": ((5, 4), sink, {"q": lin(4, 4), "k": lin(4, 4), "t": rand(1)}),
    "differential attention": ((3, 6), differential, {"a": lin(6, 24)}),
    "linear attention, elu": ((4, 6), linear_attention, {"q": lin(6, 4), "k": lin(6, 4)}),
    "delta rule": ((3, 4), delta_rule, {"q": lin(4, 3), "k": lin(4, 3), "v": lin(4, 3), "b": lin(4, 1)}),
    "scan in log steps": ((4, 3), scan, {"a": lin(3, 4), "b": lin(3, 4)}),
    "Kalman filter": ((3, 2), kalman, {"A": rand(2, 2, scale=0.5), "H": rand(2, 2)}),
    "slot attention": ((4, 5), slots, {"m": rand(1, 2, 5), "q": lin(5, 5), "k": lin(5, 5), "v": lin(5, 5)}),
    "capsules": ((4, 2), capsules, {"W": rand(4, 3, 2, scale=0.5)}),
    "knots by index": ((4,), knots, {"l": lin(4, 6), "c": rand(6, 9, scale=0.5)}),
    "knots by gather": ((4,), cubic_knots, {"l": lin(4, 6), "c": rand(6, 10, scale=0.5)}),
    "product keys": ((6,), memory, {"k": rand(2, 3, 3), "v": lambda: nn.Embedding(9, 4)}),
    "projected on a half-space": ((3,), projected, {"u": lin(3, 2)}),
    "double pendulum": ((4,), pendulum, {"l": lin(4, 1)}),
    "bicycle": ((4,), bicycle, {"l": lin(4, 2)}),
    "distributions": ((5,), policy, {"l": lin(5, 3), "m": lin(5, 2), "d": rand(2)}),
    "moved picture": ((1, 4, 4), transformed, {"l": lin(16, 2)}),
    "voxels at a place": ((3,), voxels, {"g": rand(1, 4, 3, 3, 3)}),
    "spectrogram": ((32,), spectrum, {}),
    "time warping": ((3,), time_warped, {}),
    "heatmap": ((1, 5, 5), heatmap, CONV),
    "atoms": ((4, 3), symmetric, {}),
    "tropical": ((5,), lambda s, x: (x[:, None] + s.w).amax(-1) - (x[:, None] + s.v).amax(-1),
                 {"w": rand(4, 5), "v": rand(4, 5)}),
    "normalised steps": ((8,), lambda s, x: functional.normalize(x + 0.1 * (functional.normalize(s.d(x)) - x)),
                         {"d": lin(8, 8)}),
    "dynamic tanh": ((3, 6), lambda s, x: x + s.m(torch.tanh(0.5 * x) * s.g), {"m": lin(6, 6), "g": rand(6)}),
    "score of a mixture": (
        (4,),
        lambda s, x: torch.logsumexp(s.p(x).log_softmax(1) - 0.5 * (x[:, :1] - s.m(x)).square(), 1, keepdim=True),
        {"p": lin(4, 3), "m": lin(4, 3)},
    ),
    "Mahalanobis distances": (
        (5,),
        lambda s, x: (lambda d: -torch.einsum("bkd,de,bke->bk", d, s.P, d))(s.l(x)[:, None] - s.c),
        {"l": lin(5, 3), "c": rand(4, 3), "P": lambda: 2 * torch.eye(3)},
    ),
    "relations": (
        (4, 5),
        lambda s, x: torch.einsum("rnm,bmd,rde->bne", s.A, x, s.W).relu(),
        {"A": lambda: (torch.rand(3, 4, 4) > 0.5).float(), "W": rand(3, 5, 4, scale=0.3)},
    ),
}).items():  # fmt: skip
    body(f"unseen {_name}", _shape, _body, **_parts)
