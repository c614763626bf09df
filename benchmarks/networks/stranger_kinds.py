"""Kinds of modules as strangers write them: blocks of transformers, images, graphs, sequences and flows."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks.kinds import body

body(
    "stranger ALiBi causal",
    (4, 6),
    lambda s, x: (
        lambda n: (
            (
                s.q(x) @ s.k(x).mT / 2
                - 0.5 * (torch.arange(n)[:, None] - torch.arange(n)[None]).abs()
                + torch.full((n, n), float("-inf")).triu(1)
            ).softmax(-1)
            @ x
        )
    )(x.shape[1]),
    q=lambda: nn.Linear(6, 4),
    k=lambda: nn.Linear(6, 4),
)
body(
    "stranger cross attention learned queries",
    (4, 6),
    lambda s, x: s.a(s.q.expand(x.shape[0], -1, -1), x, x)[0],
    a=lambda: nn.MultiheadAttention(6, 2, batch_first=True),
    q=lambda: torch.rand(1, 2, 6),
)
body(
    "stranger MHA key_padding_mask",
    (4, 6),
    lambda s, x: s.a(x, x, x, key_padding_mask=torch.tensor([[False, False, True, False]]).expand(x.shape[0], -1))[0],
    a=lambda: nn.MultiheadAttention(6, 2, batch_first=True),
)
body(
    "stranger MHA attn_mask bool",
    (4, 6),
    lambda s, x: s.a(x, x, x, attn_mask=torch.ones(4, 4).triu(1).bool(), is_causal=True)[0],
    a=lambda: nn.MultiheadAttention(6, 2, batch_first=True),
)
body(
    "stranger MHA kdim add_bias_kv",
    (4, 6),
    lambda s, x: s.a(x, x[..., :4], x[..., :4])[0],
    a=lambda: nn.MultiheadAttention(6, 2, batch_first=True, kdim=4, vdim=4, add_bias_kv=True),
)
body(
    "stranger nn.Transformer full",
    (3, 4),
    lambda s, x: s.t(x, x),
    t=lambda: nn.Transformer(4, 2, 1, 1, 6, batch_first=True),
)
body(
    "stranger encoder with mask",
    (4, 6),
    lambda s, x: s.t(x, mask=nn.Transformer.generate_square_subsequent_mask(4)),
    t=lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=True), 1, enable_nested_tensor=False
    ),
)
body(
    "stranger sdpa enable_gqa",
    (3, 8),
    lambda s, x: functional.scaled_dot_product_attention(
        x.view(-1, 3, 4, 2).transpose(1, 2),
        x[..., :4].view(-1, 3, 2, 2).transpose(1, 2),
        x[..., 4:].view(-1, 3, 2, 2).transpose(1, 2),
        enable_gqa=True,
    ),
)
body(
    "stranger sdpa scale float mask",
    (3, 4),
    lambda s, x: functional.scaled_dot_product_attention(x, x, x, attn_mask=s.m, scale=0.3),
    m=lambda: torch.randn(3, 3),
)
body(
    "stranger performer-like",
    (4, 6),
    lambda s, x: (lambda q, k: (q @ (k.mT @ x)) / (q @ k.sum(1).unsqueeze(-1) + 1e-3))(
        functional.relu(s.q(x)) + 1e-3, functional.relu(s.k(x)) + 1e-3
    ),
    q=lambda: nn.Linear(6, 4),
    k=lambda: nn.Linear(6, 4),
)
body(
    "stranger additive attention",
    (4, 6),
    lambda s, x: (s.v(torch.tanh(s.q(x)[:, :, None] + s.k(x)[:, None])).squeeze(-1)).softmax(-1) @ x,
    q=lambda: nn.Linear(6, 4),
    k=lambda: nn.Linear(6, 4),
    v=lambda: nn.Linear(4, 1),
)
body("stranger attention pooling", (4, 6), lambda s, x: (s.w(x).softmax(1) * x).sum(1), w=lambda: nn.Linear(6, 1))
body(
    "stranger qk-norm attention",
    (3, 6),
    lambda s, x: (functional.normalize(s.q(x), dim=-1) @ functional.normalize(s.k(x), dim=-1).mT * 4).softmax(-1) @ x,
    q=lambda: nn.Linear(6, 4),
    k=lambda: nn.Linear(6, 4),
)
body("stranger sigmoid attention", (3, 6), lambda s, x: torch.sigmoid(x @ x.mT) @ x)
body(
    "stranger retention decay",
    (4, 6),
    lambda s, x: ((s.q(x) @ s.k(x).mT) * (0.9 ** (torch.arange(4)[:, None] - torch.arange(4)[None])).tril()) @ x,
    q=lambda: nn.Linear(6, 4),
    k=lambda: nn.Linear(6, 4),
)
body(
    "stranger ConvMixer",
    (2, 8, 8),
    lambda s, x: s.c(functional.gelu(x + s.b2(functional.gelu(s.a(x))))),
    a=lambda: nn.Conv2d(2, 2, 5, groups=2, padding="same"),
    b2=lambda: nn.BatchNorm2d(2),
    c=lambda: nn.Conv2d(2, 3, 1),
)
body(
    "stranger gMLP spatial gate",
    (4, 6),
    lambda s, x: (lambda u, v: u * (s.w(s.n(v).mT).mT))(*x.chunk(2, -1)),
    n=lambda: nn.LayerNorm(3),
    w=lambda: nn.Linear(4, 4),
)
body(
    "stranger MBConv SE",
    (2, 6, 6),
    lambda s, x: (lambda y: y * torch.sigmoid(s.e(functional.silu(s.r(functional.adaptive_avg_pool2d(y, 1))))))(
        functional.silu(s.b(s.d(x)))
    ),
    d=lambda: nn.Conv2d(2, 4, 3, padding=1),
    b=lambda: nn.BatchNorm2d(4),
    r=lambda: nn.Conv2d(4, 1, 1),
    e=lambda: nn.Conv2d(1, 4, 1),
)
body(
    "stranger non-local block",
    (2, 3, 3),
    lambda s, x: x + ((s.t(x).flatten(2).mT @ s.p(x).flatten(2)).softmax(-1) @ x.flatten(2).mT).mT.view_as(x),
    t=lambda: nn.Conv2d(2, 2, 1),
    p=lambda: nn.Conv2d(2, 2, 1),
)
body(
    "stranger coordinate attention",
    (2, 4, 4),
    lambda s, x: x * s.a(x.mean(3, keepdim=True)).sigmoid() * s.a(x.mean(2, keepdim=True)).sigmoid(),
    a=lambda: nn.Conv2d(2, 2, 1),
)
body(
    "stranger involution-lite unfold",
    (2, 4, 4),
    lambda s, x: (functional.unfold(x, 3, padding=1).view(-1, 2, 9, 16) * s.k(x).flatten(2).unsqueeze(1)).sum(2),
    k=lambda: nn.Conv2d(2, 9, 1),
)
body("stranger fractional max pool fixed", (1, 8, 8), lambda s, x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True))
body(
    "stranger lp_pool + mixed pool",
    (1, 8, 8),
    lambda s, x: 0.5 * functional.max_pool2d(x, 2) + 0.5 * functional.avg_pool2d(x, 2),
)
body(
    "stranger pad replicate 1d 3d",
    (2, 3, 4, 4),
    lambda s, x: functional.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate").relu(),
)
body("stranger conv_transpose3d", (1, 2, 3, 3), lambda s, x: s.c(x).relu(), c=lambda: nn.ConvTranspose3d(1, 2, 2, 2))
body(
    "stranger conv_transpose output padding groups",
    (2, 4, 4),
    lambda s, x: s.c(x).relu(),
    c=lambda: nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2, dilation=2),
)
body("stranger interpolate area", (1, 6, 6), lambda s, x: functional.interpolate(x, size=(3, 4), mode="area").relu())
body(
    "stranger interpolate bilinear antialias",
    (1, 8, 8),
    lambda s, x: functional.interpolate(x, size=(4, 4), mode="bilinear", antialias=True).relu(),
)
body(
    "stranger interpolate trilinear",
    (1, 2, 3, 3),
    lambda s, x: functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True).relu(),
)
body(
    "stranger EmbeddingBag-free positional sin",
    (4, 6),
    lambda s, x: x + torch.stack([torch.sin(torch.arange(4.0)), torch.cos(torch.arange(4.0))], 1).repeat(1, 3),
)
body(
    "stranger Fold overlap",
    (1, 6, 6),
    lambda s, x: functional.fold(functional.unfold(x, 3, stride=1), (6, 6), 3).relu(),
)
body(
    "stranger ResNeXt block",
    (4, 6, 6),
    lambda s, x: functional.relu(x + s.c(functional.relu(s.b(functional.relu(s.a(x)))))),
    a=lambda: nn.Conv2d(4, 4, 1),
    b=lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2),
    c=lambda: nn.Conv2d(4, 4, 1),
)
body(
    "stranger shake/drop path eval",
    (4, 6, 6),
    lambda s, x: s.d(x) + functional.relu(s.a(x)),
    a=lambda: nn.Conv2d(4, 4, 1),
    d=lambda: nn.FeatureAlphaDropout(0.2),
)
body(
    "stranger VAE decoder",
    (2,),
    lambda s, z: torch.sigmoid(s.d(functional.elu(s.l(z)).view(-1, 2, 3, 3))),
    l=lambda: nn.Linear(2, 18),
    d=lambda: nn.ConvTranspose2d(2, 1, 4, 2, 1),
)
body(
    "stranger autoencoder error",
    (4,),
    lambda s, x: (x - s.n(x)).pow(2).mean(1, keepdim=True),
    n=lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4)),
)
body(
    "stranger planar flow",
    (4,),
    lambda s, x: x + s.u * torch.tanh(x @ s.w + 0.1)[:, None],
    u=lambda: torch.rand(4),
    w=lambda: torch.rand(4),
)
body(
    "stranger FNO layer",
    (1, 8),
    lambda s, x: functional.gelu(
        torch.fft.irfft(
            functional.pad(
                torch.einsum("bim,iom->bom", torch.fft.rfft(x)[..., :3], torch.view_as_complex(s.w)), (0, 2)
            ),
            n=8,
        )
        + s.c(x)
    ),
    w=lambda: torch.randn(1, 2, 3, 2),
    c=lambda: nn.Conv1d(1, 2, 1),
)
body(
    "stranger decision tree hard",
    (4,),
    lambda s, x: (
        torch.where(x[:, :1] > 0.3, torch.where(x[:, 1:2] > 0.6, 1.0, 2.0), torch.where(x[:, 2:3] > 0.5, 3.0, -1.0))
        + 0 * x
    ),
)
body(
    "stranger TabNet-ish sparsemax step",
    (4,),
    lambda s, x: s.b(x * s.a(x).softmax(1)).relu(),
    a=lambda: nn.Linear(4, 4),
    b=lambda: nn.Linear(4, 6),
)
body(
    "stranger deep sets",
    (5, 3),
    lambda s, x: s.r(s.p(x).relu().sum(1)).relu(),
    p=lambda: nn.Linear(3, 6),
    r=lambda: nn.Linear(6, 4),
)
body(
    "stranger deep sets masked mean",
    (5, 3),
    lambda s, x: (s.p(x).relu() * s.m[:, None]).sum(1) / s.m.sum(),
    p=lambda: nn.Linear(3, 6),
    m=lambda: torch.tensor([1.0, 1, 0, 1, 0]),
)
body("stranger PointNet", (5, 3), lambda s, x: s.p(x.mT).relu().max(2)[0], p=lambda: nn.Conv1d(3, 6, 1))
body(
    "stranger PointNet T-net",
    (5, 3),
    lambda s, x: torch.bmm(x, s.t(x.mean(1)).view(-1, 3, 3) + torch.eye(3)),
    t=lambda: nn.Linear(3, 9),
)
body(
    "stranger GAT layer",
    (4, 3),
    lambda s, x: (
        lambda h: functional.elu(
            (functional.leaky_relu(s.a1(h) + s.a2(h).mT, 0.2).masked_fill(s.adj == 0, -1e9)).softmax(-1) @ h
        )
    )(s.w(x)),
    w=lambda: nn.Linear(3, 4),
    a1=lambda: nn.Linear(4, 1),
    a2=lambda: nn.Linear(4, 1),
    adj=lambda: torch.eye(4) + torch.roll(torch.eye(4), 1, 0),
)
body(
    "stranger GIN sum & edge index",
    (4, 3),
    lambda s, x: s.m((1 + 0.1) * x + torch.zeros_like(x).index_add(1, s.e[1], x[:, s.e[0]])),
    m=lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU()),
    e=lambda: torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]),
)
body(
    "stranger SAGE max aggregation",
    (4, 3),
    lambda s, x: s.m(torch.cat([x, x[:, s.n].amax(2)], -1)).relu(),
    m=lambda: nn.Linear(6, 5),
    n=lambda: torch.tensor([[1, 2], [0, 3], [3, 1], [0, 0]]),
)
body(
    "stranger EdgeConv",
    (4, 3),
    lambda s, x: s.m(torch.cat([x[:, :, None].expand(-1, -1, 4, -1), x[:, None] - x[:, :, None]], -1)).relu().amax(2),
    m=lambda: nn.Linear(6, 5),
)
body(
    "stranger Laplacian Chebyshev",
    (4, 3),
    lambda s, x: (x @ s.w + (s.l @ x) @ s.w + (2 * s.l @ (s.l @ x) - x) @ s.w).relu(),
    w=lambda: torch.rand(3, 4),
    l=lambda: torch.rand(4, 4) / 4,
)
body(
    "stranger hypernetwork low rank",
    (4,),
    lambda s, x: (x[:, None] @ (s.u(x).view(-1, 4, 2) @ s.v(x).view(-1, 2, 3))).squeeze(1),
    u=lambda: nn.Linear(4, 8),
    v=lambda: nn.Linear(4, 6),
)
body(
    "stranger FiLM",
    (4,),
    lambda s, x: (lambda g, be: functional.relu((1 + g) * s.a(x) + be))(*s.c(x).chunk(2, 1)),
    a=lambda: nn.Linear(4, 6),
    c=lambda: nn.Linear(4, 12),
)
body(
    "stranger NTK-param linear",
    (4,),
    lambda s, x: functional.relu(functional.linear(x, s.w / math.sqrt(4))),
    w=lambda: nn.Parameter(torch.randn(6, 4)),
)
body(
    "stranger LoRA",
    (4,),
    lambda s, x: s.b(x) + (x @ s.a.T @ s.c.T) * 2,
    b=lambda: nn.Linear(4, 6),
    a=lambda: torch.randn(2, 4),
    c=lambda: torch.randn(6, 2),
)
body(
    "stranger butterfly/Hadamard",
    (8,),
    lambda s, x: (lambda y: torch.cat([y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]], 1))(x.view(-1, 4, 2)).relu(),
)
body(
    "stranger Householder",
    (4,),
    lambda s, x: (x - 2 * (x @ s.v)[:, None] * s.v / (s.v @ s.v)).relu(),
    v=lambda: torch.rand(4),
)
body(
    "stranger orthogonal param",
    (4,),
    lambda s, x: s.l(x).relu(),
    l=lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
)
body("stranger old weight_norm hook", (4,), lambda s, x: s.l(x).relu(), l=lambda: nn.utils.weight_norm(nn.Linear(4, 4)))
body(
    "stranger old spectral_norm hook",
    (4,),
    lambda s, x: s.l(x).relu(),
    l=lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
)
body(
    "stranger GroupSort2/MaxMin",
    (4,),
    lambda s, x: (lambda h: torch.cat([torch.max(h[:, :3], h[:, 3:]), torch.min(h[:, :3], h[:, 3:])], 1))(s.l(x)),
    l=lambda: nn.Linear(4, 6),
)
body(
    "stranger Lipschitz bjorck conv",
    (2, 4, 4),
    lambda s, x: functional.conv2d(x, s.w / s.w.norm(), padding=1).abs(),
    w=lambda: torch.randn(2, 2, 3, 3),
)
body(
    "stranger Conv no bias complex pad",
    (1, 5, 7),
    lambda s, x: s.c(functional.pad(x, (1, 2, 0, 3), value=0.5)).relu(),
    c=lambda: nn.Conv2d(1, 2, (3, 2), (2, 1), bias=False),
)
body(
    "stranger Conv1d WaveNet gate",
    (2, 8),
    lambda s, x: torch.tanh(s.f(x)) * torch.sigmoid(s.g(x)) + x[:, :1, 2:],
    f=lambda: nn.Conv1d(2, 2, 2, dilation=2),
    g=lambda: nn.Conv1d(2, 2, 2, dilation=2),
)
body(
    "stranger causal conv TCN",
    (2, 8),
    lambda s, x: functional.relu(s.c(functional.pad(x, (4, 0))) + x),
    c=lambda: nn.Conv1d(2, 2, 3, dilation=2),
)
body(
    "stranger SincNet-like",
    (1, 8),
    lambda s, x: functional.conv1d(x, (torch.sinc(s.f[:, None] * torch.linspace(-1, 1, 3)))[:, None]).abs(),
    f=lambda: torch.rand(2),
)
body(
    "stranger mel log power",
    (8,),
    lambda s, x: torch.log(torch.fft.rfft(x).abs().pow(2) @ s.m + 1e-3),
    m=lambda: torch.rand(5, 3),
)
body(
    "stranger S4 diagonal conv",
    (4, 3),
    lambda s, x: torch.einsum(
        "tsd,bsd->btd",
        (s.a[None, None] ** (torch.arange(4)[:, None] - torch.arange(4)).clamp(min=0)[..., None])
        * torch.ones(4, 4).tril()[..., None],
        x,
    ),
    a=lambda: torch.rand(3),
)
body(
    "stranger LSTM bidir 2 layer dropout",
    (4, 3),
    lambda s, x: s.l(x)[0][:, -1],
    l=lambda: nn.LSTM(3, 2, 2, dropout=0.3, bidirectional=True, batch_first=True),
)
body(
    "stranger RNN relu nonlinearity",
    (4, 3),
    lambda s, x: s.l(x)[1].squeeze(0),
    l=lambda: nn.RNN(3, 4, nonlinearity="relu", batch_first=True),
)
body(
    "stranger LSTM h0 c0 params",
    (4, 3),
    lambda s, x: s.l(x, (s.h.expand(1, x.shape[0], 4).contiguous(), s.h.expand(1, x.shape[0], 4).contiguous()))[0],
    l=lambda: nn.LSTM(3, 4, batch_first=True),
    h=lambda: torch.rand(1, 1, 4),
)
body(
    "stranger fake quant per channel fn",
    (4,),
    lambda s, x: torch.fake_quantize_per_channel_affine(
        s.l(x), torch.full((6,), 0.05), torch.zeros(6, dtype=torch.int32), 1, -128, 127
    ),
    l=lambda: nn.Linear(4, 6),
)
body(
    "stranger binarised sign STE",
    (4,),
    lambda s, x: functional.linear((lambda h: (torch.sign(h) - h).detach() + h)(s.l(x)), s.w.sign()),
    l=lambda: nn.Linear(4, 6),
    w=lambda: torch.randn(3, 6),
)
body(
    "stranger log2 quant",
    (4,),
    lambda s, x: torch.sign(s.l(x)) * torch.exp2(torch.round(torch.log2(s.l(x).abs() + 1e-2))),
    l=lambda: nn.Linear(4, 6),
)
body("stranger DoReFa", (4,), lambda s, x: torch.round(s.l(x).clamp(0, 1) * 15) / 15, l=lambda: nn.Linear(4, 6))
body(
    "stranger einops rearrange by hand",
    (2, 4, 4),
    lambda s, x: s.l(x.reshape(x.shape[0], 2, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(x.shape[0], 4, 8)).relu(),
    l=lambda: nn.Linear(8, 3),
)
body(
    "stranger einsum three operands",
    (4, 3),
    lambda s, x: torch.einsum("bnd,de,bme->bnm", x, s.w, x),
    w=lambda: torch.rand(3, 3),
)
body("stranger einsum ellipsis", (2, 3, 4), lambda s, x: torch.einsum("...ij,...kj->...ik", x, x).relu())
body("stranger broadcast outer diff", (5,), lambda s, x: (x[:, :, None] - x[:, None, :]).abs().amax(2))
body(
    "stranger meshgrid constants",
    (4, 4),
    lambda s, x: x * torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")).sum(0),
)
body(
    "stranger boolean index constant",
    (6,),
    lambda s, x: x[:, s.m].relu(),
    m=lambda: torch.tensor([1, 0, 1, 1, 0, 0]).bool(),
)
body(
    "stranger advanced two indices",
    (3, 3),
    lambda s, x: x[:, torch.triu_indices(3, 3)[0], torch.triu_indices(3, 3)[1]].relu(),
)
body("stranger negative step by flip & None", (6,), lambda s, x: x.flip(-1)[:, None, ::2].relu())
body(
    "stranger in-place chain",
    (4,),
    lambda s, x: s.l(x).clone().mul_(2).add_(1).clamp_(min=0).sub_(0.5),
    l=lambda: nn.Linear(4, 6),
)
body("stranger accumulate list of losses", (6,), lambda s, x: sum(functional.relu(x - t) for t in (0.1, 0.2, 0.7)))
body(
    "stranger dropout eval & identity chain",
    (6,),
    lambda s, x: functional.dropout(functional.dropout1d(x[:, None], 0.3, False), 0.5, s.training).squeeze(1).relu(),
)
body("stranger float64 inside", (6,), lambda s, x: (x.double() * 1.5).exp().float())
body("stranger half-precision detour", (6,), lambda s, x: s.l(x).relu().to(torch.float32), l=lambda: nn.Linear(6, 4))
body(
    "stranger checkpointed",
    (6,),
    lambda s, x: torch.utils.checkpoint.checkpoint(s.l, x, use_reentrant=False).relu(),
    l=lambda: nn.Linear(6, 4),
)
body(
    "stranger FastKAN RBF",
    (3,),
    lambda s, x: s.l(torch.exp(-(((s.n(x)[..., None] - torch.linspace(-2, 2, 4)) / 1.3) ** 2)).flatten(1)),
    l=lambda: nn.Linear(12, 4),
    n=lambda: nn.LayerNorm(3),
)
body(
    "stranger ChebyKAN",
    (3,),
    lambda s, x: torch.einsum(
        "bid,iod->bo", torch.cos(torch.acos(torch.tanh(x)[..., None].expand(-1, -1, 4)) * torch.arange(4)), s.w
    ),
    w=lambda: torch.randn(3, 4, 4),
)
body(
    "stranger FourierKAN",
    (3,),
    lambda s, x: torch.einsum("big,oig->bo", torch.sin(x[..., None] * torch.arange(1, 4)), s.w),
    w=lambda: torch.randn(4, 3, 3),
)
body(
    "stranger WavKAN mexican hat",
    (3,),
    lambda s, x: (lambda z: ((z**2 - 1) * torch.exp(-0.5 * z**2) * 0.87).sum(-1))((x[:, None] - s.t) / s.sc),
    t=lambda: torch.randn(4, 3),
    sc=lambda: torch.rand(4, 3) + 0.5,
)
