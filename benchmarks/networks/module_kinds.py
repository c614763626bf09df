"""Kinds of modules that people write, each a small network with random weights: the list that coverage is counted on."""

# ruff: noqa: E501 (one network a line)
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Kind(NamedTuple):
    """A network, the shape of one input, and what :func:`clinch.load` is told beside it."""

    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    options: dict[str, Any]


KINDS: dict[str, Kind] = {}


def kind(name: str, shape: tuple[int, ...], **options: Any) -> Callable[[Callable[[], nn.Module]], Callable]:
    """Register what makes a network."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert name not in KINDS, name
        KINDS[name] = Kind(make, shape, options)
        return make

    return register


class Between(nn.Module):
    """Linear, a function, flatten, linear: the function is what the network is named after."""

    def __init__(self, function: Callable[[Tensor], Tensor], size: int = 4, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(size, width)
        if isinstance(function, nn.Module):
            self.part = function
        self.function = function
        self.last = nn.LazyLinear(3)
        self.eval()
        with torch.no_grad():
            self(torch.rand(2, size))

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers per input."""
        return self.last(self.function(self.first(x)).flatten(1))


class Function(nn.Module):
    """Any function of the module and its input; what it needs is made by ``parts``."""

    def __init__(self, body: Callable[..., Any], shape: tuple[int, ...], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.body = body
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        """What the body says."""
        return self.body(self, x)


class Head(nn.Module):
    """A module, flattened, and a linear layer of three outputs."""

    def __init__(self, inner: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inner = inner
        self.last = nn.LazyLinear(3)
        self.eval()
        with torch.no_grad():
            self(torch.rand(2, *shape))

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers per input."""
        return self.last(self.inner(x).flatten(1))


def _between(name: str, function: Callable[[], Callable[[Tensor], Tensor]]) -> None:
    kind(name, (4,))(lambda: Between(function()))


def _head(name: str, shape: tuple[int, ...], inner: Callable[[], nn.Module]) -> None:
    kind(name, shape)(lambda: Head(inner(), shape))


def _body(name: str, shape: tuple[int, ...], body: Callable[..., Any], **parts: Callable[[], Any]) -> None:
    kind(name, shape)(lambda: Head(Function(body, shape, **{key: make() for key, make in parts.items()}), shape))


# --- element by element ----------------------------------------------------------------------------------------------

for _name, _module in {
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "ELU": nn.ELU,
    "SELU": nn.SELU,
    "CELU": nn.CELU,
    "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU("tanh"),
    "SiLU": nn.SiLU,
    "Mish": nn.Mish,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "LogSigmoid": nn.LogSigmoid,
    "Hardtanh": nn.Hardtanh,
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "Hardshrink": nn.Hardshrink,
    "Softshrink": nn.Softshrink,
    "Tanhshrink": nn.Tanhshrink,
    "Threshold": lambda: nn.Threshold(0.1, 0.2),
    "PReLU per channel": lambda: nn.PReLU(8),
    "RReLU": nn.RReLU,
    "GLU": nn.GLU,
    "Softmax": lambda: nn.Softmax(1),
    "LogSoftmax": lambda: nn.LogSoftmax(1),
    "Softmin": lambda: nn.Softmin(1),
    "LayerNorm": lambda: nn.LayerNorm(8),
    "LayerNorm plain": lambda: nn.LayerNorm(8, elementwise_affine=False),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "BatchNorm1d": lambda: nn.BatchNorm1d(8),
    "GroupNorm": lambda: nn.GroupNorm(2, 8),
    "Dropout": nn.Dropout,
    "AlphaDropout": nn.AlphaDropout,
    "Identity": nn.Identity,
}.items():
    _between(f"nn.{_name}", _module)

for _name, _function in {
    "abs": torch.abs,
    "exp": lambda h: torch.exp(0.3 * h),
    "log": lambda h: torch.log(h.abs() + 1),
    "sqrt": lambda h: torch.sqrt(h.abs() + 1),
    "rsqrt": lambda h: torch.rsqrt(h.abs() + 1),
    "square": torch.square,
    "pow 3": lambda h: h.pow(3),
    "pow half": lambda h: (h.abs() + 0.5) ** 0.5,
    "reciprocal": lambda h: 1 / (h.abs() + 1),
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "erf": torch.erf,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asinh": torch.asinh,
    "log1p": lambda h: torch.log1p(h.abs()),
    "expm1": torch.expm1,
    "sign times": lambda h: torch.sign(h) * h,
    "floor": lambda h: h + torch.floor(h),
    "round": lambda h: h + torch.round(h),
    "clamp": lambda h: h.clamp(-0.5, 0.5),
    "clamp min": lambda h: h.clamp(min=0.1),
    "maximum": lambda h: torch.maximum(h, -2 * h),
    "minimum": lambda h: torch.minimum(h, h.flip(1)),
    "maximum constant": lambda h: torch.maximum(h, torch.tensor(0.1)),
    "where": lambda h: torch.where(h > 0, h, 0.1 * h),
    "mask": lambda h: h * (h > 0).float(),
    "masked fill": lambda h: h.masked_fill(h < 0, 0.0),
    "heaviside": lambda h: h + torch.heaviside(h, torch.tensor(0.5)),
    "logical": lambda h: h * ((h > 0) & (h < 1)),
    "hypot": lambda h: torch.hypot(h, h + 1),
    "lerp": lambda h: torch.lerp(h, h.relu(), 0.3),
    "addcmul": lambda h: torch.addcmul(h, h, h),
    "x times x": lambda h: h * h,
    "x times sigmoid": lambda h: h * torch.sigmoid(h),
    "softmax by hand": lambda h: torch.exp(h) / torch.exp(h).sum(1, keepdim=True),
    "normalize": lambda h: functional.normalize(h, dim=1),
    "logsumexp": lambda h: torch.cat([h, h.logsumexp(1, keepdim=True)], 1),
    "relu_": lambda h: functional.relu_(h + 0),
    "leaky by where": lambda h: torch.where(h < 0, 0.2 * h, h),
    "sinc": torch.sinc,
}.items():
    _between(f"torch {_name}", lambda _function=_function: _function)

# --- parts and wholes, reductions, several results -------------------------------------------------------------------

for _name, _function in {
    "sum": lambda h: torch.cat([h, h.sum(1, keepdim=True)], 1),
    "mean var": lambda h: (h - h.mean(1, keepdim=True)) / (h.var(1, keepdim=True) + 1),
    "amax": lambda h: h.view(-1, 2, 4).amax(2),
    "amin": lambda h: h.view(-1, 2, 4).amin(2),
    "max dim": lambda h: h.view(-1, 4, 2).max(2).values,
    "min dim": lambda h: h.view(-1, 4, 2).min(2)[0],
    "sort": lambda h: h.sort(1).values,
    "topk": lambda h: h.topk(3, 1).values,
    "median": lambda h: h.view(-1, 2, 4).median(2).values,
    "argmax gather": lambda h: h.gather(1, h.argmax(1, keepdim=True)),
    "chunk": lambda h: h.chunk(2, 1)[0] + h.chunk(2, 1)[1].relu(),
    "split": lambda h: torch.cat([h.split([3, 5], 1)[1], h.split([3, 5], 1)[0].relu()], 1),
    "unbind": lambda h: torch.stack(h.unbind(1), 1).relu(),
    "stack": lambda h: torch.stack([h, h.relu()], 2),
    "cat": lambda h: torch.cat([h, h.relu()], 1),
    "roll": lambda h: torch.roll(h, 2, 1).relu(),
    "flip": lambda h: h.flip(1).relu(),
    "repeat": lambda h: h.repeat(1, 2).relu(),
    "repeat_interleave": lambda h: h.repeat_interleave(2, 1).relu(),
    "tile": lambda h: h.tile((1, 2)).relu(),
    "index list": lambda h: h[:, [3, 1, 1]].relu(),
    "index_select": lambda h: h.index_select(1, torch.tensor([2, 0])).relu(),
    "cumsum": lambda h: h.cumsum(1).relu(),
    "cumprod": lambda h: h.cumprod(1),
    "prod": lambda h: h.view(-1, 4, 2).prod(2),
    "norm": lambda h: torch.cat([h, h.norm(dim=1, keepdim=True)], 1),
    "outer": lambda h: h.unsqueeze(2) * h.unsqueeze(1),
    "einsum": lambda h: torch.einsum("bi,bj->bij", h, h),
    "bmm": lambda h: torch.bmm(h.view(-1, 2, 4), h.view(-1, 4, 2)),
    "triu": lambda h: torch.triu(h.view(-1, 2, 4)),
    "diagonal": lambda h: h.view(-1, 2, 2, 2).diagonal(dim1=1, dim2=2),
    "expand": lambda h: h.unsqueeze(1).expand(-1, 3, -1).relu(),
    "swapaxes": lambda h: h.view(-1, 2, 4).swapaxes(1, 2).relu(),
    "movedim": lambda h: h.view(-1, 2, 4).movedim(1, 2).relu(),
    "unfold": lambda h: h.unfold(1, 3, 1).relu(),
    "pad": lambda h: functional.pad(h, (1, 2)).relu(),
    "zeros_like": lambda h: torch.cat([torch.zeros_like(h[:, :1]), h, torch.ones_like(h[:, :1])], 1).relu(),
    "new_zeros": lambda h: torch.cat([h.new_zeros(h.shape[0], 2), h], 1).relu(),
    "full of batch": lambda h: torch.cat([torch.full((h.shape[0], 1), 0.5), h], 1).relu(),
    "transposed batch": lambda h: h.t().relu().t(),
    "batch second": lambda h: (h.view(-1, 2, 4).transpose(0, 1) * 2).relu().transpose(0, 1),
    "batch folded": lambda h: h.view(-1, 4).relu().view(-1, 8),
    "written in place": lambda h: _written(h),
    "fft": lambda h: torch.view_as_real(torch.fft.rfft(h, dim=1)),
    "cosine similarity": lambda h: functional.cosine_similarity(h[:, :4], h[:, 4:], dim=1).unsqueeze(1),
    "cdist": lambda h: torch.cdist(h.view(-1, 2, 4), h.view(-1, 2, 4) + 1),
    "pairwise distance": lambda h: functional.pairwise_distance(h[:, :4], h[:, 4:]).unsqueeze(1),
    "scatter": lambda h: torch.zeros_like(h).scatter(1, torch.arange(8).flip(0).expand(h.shape[0], 8), h).relu(),
}.items():
    _between(f"torch {_name}", lambda _function=_function: _function)


def _written(h: Tensor) -> Tensor:
    out = torch.zeros(h.shape[0], 10)
    out[:, 1:9] = h
    return out.relu()


for _name, _function in {
    "maxout": lambda h: h.view(-1, 4, 2).max(1)[0],
    "concatenated ReLU": lambda h: torch.cat([h.relu(), (-h).relu()], -1),
    "squared ReLU": lambda h: h.relu() ** 2,
    "nested where": lambda h: torch.where(h > 1, torch.ones_like(h), torch.where(h < -1, -torch.ones_like(h), h)),
    "mask of booleans": lambda h: h * (h > 0),
    "ternary": lambda h: (h > 0.3).float() - (h < -0.3).float(),
    "smooth l1 by where": lambda h: torch.where(h.abs() < 1, 0.5 * h**2, h.abs() - 0.5),
    "straight through": lambda h: (h.sign() - h).detach() + h,
    "erfc": torch.erfc,
    "logit": lambda h: torch.logit(0.8 * torch.sigmoid(h) + 0.1),
    "logaddexp": lambda h: torch.logaddexp(h, h.flip(1)),
    "exp2 and log2": lambda h: torch.exp2(h) + torch.log2(h.abs() + 1),
    "Huber": lambda h: functional.huber_loss(h, torch.zeros_like(h), reduction="none"),
    "GroupSort": lambda h: h.view(-1, 4, 2).sort(2)[0].flatten(1),
    "quantile": lambda h: torch.quantile(h, 0.3, dim=1, keepdim=True),
    "cummax": lambda h: h.cummax(1)[0],
    "kthvalue": lambda h: h.kthvalue(2, 1)[0].unsqueeze(1),
    "gather constant": lambda h: h.gather(1, torch.tensor([[3, 1, 1]]).expand(h.shape[0], -1)).relu(),
    "index_add": lambda h: torch.zeros_like(h).index_add(1, torch.arange(8) // 2, h).relu(),
    "diff": lambda h: torch.diff(h, dim=1).abs(),
    "tensordot": lambda h: torch.tensordot(h.view(-1, 2, 4), torch.eye(4) * 2, dims=([2], [0])).relu(),
    "weight from the left": lambda h: (torch.eye(8)[:3] @ h.t()).t().relu(),
    "stacked in front": lambda h: torch.stack([h, h.relu()], 0).mean(0),
    "Fourier filter": lambda h: torch.fft.irfft(torch.fft.rfft(h) * 0.5, n=8).relu(),
    "rotation of complex numbers": lambda h: torch.view_as_real(torch.view_as_complex(h.view(-1, 4, 2)) * 1j).flatten(
        1
    ),
    "length of the batch": lambda h: h.view(len(h), 2, 4).relu(),
    "distances from constants": lambda h: torch.exp(-(torch.cdist(h, torch.eye(8)) ** 2)),
    "soft tree": lambda h: torch.sigmoid(h[:, :1]) * h[:, 1:4] + (1 - torch.sigmoid(h[:, :1])) * h[:, 4:7],
    "capsule": lambda h: (lambda n: n**2 / (1 + n**2) * h / (n + 1e-8))(h.norm(dim=1, keepdim=True)),
}.items():
    _between(f"people {_name}", lambda _function=_function: _function)

# --- images ----------------------------------------------------------------------------------------------------------

IMAGE = (2, 8, 8)


def _conv(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *layers)


for _name, _layers in {
    "Conv2d": lambda: [nn.ReLU()],
    "Conv2d strided": lambda: [nn.ReLU(), nn.Conv2d(4, 4, 3, 2)],
    "depthwise": lambda: [nn.Conv2d(4, 4, 3, groups=4), nn.ReLU()],
    "dilated": lambda: [nn.Conv2d(4, 4, 3, dilation=2), nn.ReLU()],
    "Conv2d circular": lambda: [nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()],
    "Conv2d reflect": lambda: [nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()],
    "ConvTranspose2d": lambda: [nn.ConvTranspose2d(4, 2, 2, 2), nn.ReLU()],
    "BatchNorm2d": lambda: [nn.BatchNorm2d(4), nn.ReLU()],
    "InstanceNorm2d": lambda: [nn.InstanceNorm2d(4, affine=True), nn.ReLU()],
    "GroupNorm": lambda: [nn.GroupNorm(2, 4), nn.ReLU()],
    "MaxPool2d": lambda: [nn.MaxPool2d(2)],
    "AvgPool2d": lambda: [nn.ReLU(), nn.AvgPool2d(2)],
    "LPPool2d": lambda: [nn.LPPool2d(2, 2)],
    "AdaptiveAvgPool2d": lambda: [nn.ReLU(), nn.AdaptiveAvgPool2d(2)],
    "AdaptiveMaxPool2d": lambda: [nn.AdaptiveMaxPool2d(2)],
    "FractionalMaxPool by size": lambda: [nn.AdaptiveMaxPool2d((3, 2))],
    "Upsample nearest": lambda: [nn.Upsample(scale_factor=2), nn.ReLU()],
    "Upsample bilinear": lambda: [nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU()],
    "Upsample bicubic": lambda: [nn.Upsample(scale_factor=2, mode="bicubic"), nn.ReLU()],
    "PixelShuffle": lambda: [nn.PixelShuffle(2), nn.ReLU()],
    "PixelUnshuffle": lambda: [nn.PixelUnshuffle(2), nn.ReLU()],
    "ChannelShuffle": lambda: [nn.ChannelShuffle(2), nn.ReLU()],
    "ZeroPad2d": lambda: [nn.ZeroPad2d(1), nn.ReLU()],
    "ReflectionPad2d": lambda: [nn.ReflectionPad2d(1), nn.ReLU()],
    "ReplicationPad2d": lambda: [nn.ReplicationPad2d(1), nn.ReLU()],
    "Unfold": lambda: [nn.Unfold(2, stride=2), nn.ReLU()],
    "Fold": lambda: [nn.Unfold(2, stride=2), nn.ReLU(), nn.Fold((8, 8), 2, stride=2)],
    "LocalResponseNorm": lambda: [nn.LocalResponseNorm(2)],
    "Dropout2d": lambda: [nn.Dropout2d(), nn.ReLU()],
    "Softmax2d": lambda: [nn.Softmax2d()],
    "global pool": lambda: [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
}.items():
    _head(f"image {_name}", IMAGE, lambda _layers=_layers: _conv(*_layers()))

_head("Conv1d", (2, 9), lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.MaxPool1d(2)))
_head("Conv3d", (2, 4, 4, 4), lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.ReLU(), nn.AvgPool3d(2)))
_body(
    "residual",
    IMAGE,
    lambda s, x: (s.b(s.a(x).relu()) + x).relu(),
    a=lambda: nn.Conv2d(2, 2, 3, padding=1),
    b=lambda: nn.Conv2d(2, 2, 3, padding=1),
)
_body(
    "dense connections", IMAGE, lambda s, x: torch.cat([x, s.a(x).relu()], 1), a=lambda: nn.Conv2d(2, 2, 3, padding=1)
)
_body(
    "squeeze and excitation",
    IMAGE,
    lambda s, x: x * torch.sigmoid(s.b(s.a(x.mean((2, 3))).relu()))[:, :, None, None],
    a=lambda: nn.Linear(2, 2),
    b=lambda: nn.Linear(2, 2),
)
_body(
    "inverted residual",
    IMAGE,
    lambda s, x: x + s.c(functional.hardswish(s.b(s.a(x).relu()))),
    a=lambda: nn.Conv2d(2, 4, 1),
    b=lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    c=lambda: nn.Conv2d(4, 2, 1),
)
_body(
    "ConvNeXt block",
    IMAGE,
    lambda s, x: x + s.c(functional.gelu(s.b(s.n(s.a(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2),
    a=lambda: nn.Conv2d(2, 2, 3, padding=1, groups=2),
    n=lambda: nn.LayerNorm(2),
    b=lambda: nn.Linear(2, 4),
    c=lambda: nn.Linear(4, 2),
)
_body(
    "inception",
    IMAGE,
    lambda s, x: torch.cat([s.a(x).relu(), s.b(x).relu(), functional.max_pool2d(x, 3, 1, 1)], 1),
    a=lambda: nn.Conv2d(2, 2, 1),
    b=lambda: nn.Conv2d(2, 2, 3, padding=1),
)
_body(
    "U-Net",
    IMAGE,
    lambda s, x: torch.cat([x, functional.interpolate(s.a(functional.max_pool2d(x, 2)).relu(), scale_factor=2)], 1),
    a=lambda: nn.Conv2d(2, 2, 3, padding=1),
)
_body("stochastic depth off", IMAGE, lambda s, x: x + s.a(x) * 0.9, a=lambda: nn.Conv2d(2, 2, 3, padding=1))
_body(
    "channel attention",
    IMAGE,
    lambda s, x: x * torch.sigmoid(s.a(functional.adaptive_max_pool2d(x, 1))),
    a=lambda: nn.Conv2d(2, 2, 1),
)
_body(
    "spatial attention",
    IMAGE,
    lambda s, x: x * torch.sigmoid(s.a(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))),
    a=lambda: nn.Conv2d(2, 1, 3, padding=1),
)
_body(
    "grid sample",
    IMAGE,
    lambda s, x: functional.grid_sample(x, s.grid.expand(x.shape[0], -1, -1, -1), align_corners=False).relu(),
    grid=lambda: torch.rand(1, 4, 4, 2) * 2 - 1,
)
_body("normalised input", IMAGE, lambda s, x: s.a((x - 0.5) / 0.25).relu(), a=lambda: nn.Conv2d(2, 2, 3))

# --- sequences -------------------------------------------------------------------------------------------------------

SEQUENCE = (4, 6)


def _sequence(name: str, body: Callable[..., Any], **parts: Callable[[], Any]) -> None:
    _body(f"sequence {name}", SEQUENCE, body, **parts)


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


def made(name: str) -> nn.Module:
    """The network of that name, in evaluation mode, always with the same weights."""
    torch.manual_seed(sum(map(ord, name)))
    return KINDS[name].make().eval()
