"""Kinds of modules: functions of one number, parts and wholes, several results, images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks.kinds import between, body, head

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
    between(f"nn.{_name}", _module)

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
    between(f"torch {_name}", lambda _function=_function: _function)

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
    between(f"torch {_name}", lambda _function=_function: _function)


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
    between(f"people {_name}", lambda _function=_function: _function)

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
    head(f"image {_name}", IMAGE, lambda _layers=_layers: _conv(*_layers()))

head("Conv1d", (2, 9), lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.MaxPool1d(2)))
head("Conv3d", (2, 4, 4, 4), lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.ReLU(), nn.AvgPool3d(2)))
body(
    "residual",
    IMAGE,
    lambda s, x: (s.b(s.a(x).relu()) + x).relu(),
    a=lambda: nn.Conv2d(2, 2, 3, padding=1),
    b=lambda: nn.Conv2d(2, 2, 3, padding=1),
)
body("dense connections", IMAGE, lambda s, x: torch.cat([x, s.a(x).relu()], 1), a=lambda: nn.Conv2d(2, 2, 3, padding=1))
body(
    "squeeze and excitation",
    IMAGE,
    lambda s, x: x * torch.sigmoid(s.b(s.a(x.mean((2, 3))).relu()))[:, :, None, None],
    a=lambda: nn.Linear(2, 2),
    b=lambda: nn.Linear(2, 2),
)
body(
    "inverted residual",
    IMAGE,
    lambda s, x: x + s.c(functional.hardswish(s.b(s.a(x).relu()))),
    a=lambda: nn.Conv2d(2, 4, 1),
    b=lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    c=lambda: nn.Conv2d(4, 2, 1),
)
body(
    "ConvNeXt block",
    IMAGE,
    lambda s, x: x + s.c(functional.gelu(s.b(s.n(s.a(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2),
    a=lambda: nn.Conv2d(2, 2, 3, padding=1, groups=2),
    n=lambda: nn.LayerNorm(2),
    b=lambda: nn.Linear(2, 4),
    c=lambda: nn.Linear(4, 2),
)
body(
    "inception",
    IMAGE,
    lambda s, x: torch.cat([s.a(x).relu(), s.b(x).relu(), functional.max_pool2d(x, 3, 1, 1)], 1),
    a=lambda: nn.Conv2d(2, 2, 1),
    b=lambda: nn.Conv2d(2, 2, 3, padding=1),
)
body(
    "U-Net",
    IMAGE,
    lambda s, x: torch.cat([x, functional.interpolate(s.a(functional.max_pool2d(x, 2)).relu(), scale_factor=2)], 1),
    a=lambda: nn.Conv2d(2, 2, 3, padding=1),
)
body("stochastic depth off", IMAGE, lambda s, x: x + s.a(x) * 0.9, a=lambda: nn.Conv2d(2, 2, 3, padding=1))
body(
    "channel attention",
    IMAGE,
    lambda s, x: x * torch.sigmoid(s.a(functional.adaptive_max_pool2d(x, 1))),
    a=lambda: nn.Conv2d(2, 2, 1),
)
body(
    "spatial attention",
    IMAGE,
    lambda s, x: x * torch.sigmoid(s.a(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))),
    a=lambda: nn.Conv2d(2, 1, 3, padding=1),
)
body(
    "grid sample",
    IMAGE,
    lambda s, x: functional.grid_sample(x, s.grid.expand(x.shape[0], -1, -1, -1), align_corners=False).relu(),
    grid=lambda: torch.rand(1, 4, 4, 2) * 2 - 1,
)
body("normalised input", IMAGE, lambda s, x: s.a((x - 0.5) / 0.25).relu(), a=lambda: nn.Conv2d(2, 2, 3))
