"""Kinds of modules as strangers write them: functions of eight numbers."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from benchmarks.networks.kinds import between

for _name, _function in {
    "special erfcx": lambda h: torch.special.erfcx(h),
    "special ndtr": lambda h: torch.special.ndtr(h),
    "special log_ndtr": lambda h: torch.special.log_ndtr(h),
    "special i0": lambda h: torch.special.i0(h),
    "special entr": lambda h: torch.special.entr(h.sigmoid()),
    "special expit": lambda h: torch.special.expit(h),
    "lgamma": lambda h: torch.lgamma(h.abs() + 1),
    "digamma": lambda h: torch.digamma(h.abs() + 1),
    "deg2rad rad2deg": lambda h: torch.deg2rad(h) + torch.rad2deg(h),
    "threshold functional": lambda h: functional.threshold(h, 0.2, -0.5),
    "hardtanh asym": lambda h: functional.hardtanh(h, -0.3, 0.9),
    "relu6 mul div": lambda h: h * functional.relu6(h + 3) / 6,
    "softshrink functional": lambda h: functional.softshrink(h, 0.3),
    "clip alias": lambda h: h.clip(-0.4, 0.7),
    "float_power": lambda h: torch.float_power(h.abs() + 0.1, 1.5).float(),
    "pow tensor exponent": lambda h: (h.abs() + 0.2) ** torch.linspace(0.5, 2, 8),
    "base power": lambda h: 2.0**h,
    "rsub": lambda h: torch.rsub(h, 1.0).relu(),
    "true_divide by activation": lambda h: 1.0 / (1.0 + h**2),
    "addcdiv": lambda h: torch.addcdiv(h, torch.ones(8), h.exp() + 1),
    "absolute & positive & neg": lambda h: torch.absolute(torch.neg(torch.positive(h))),
    "fmax fmin": lambda h: torch.fmax(h, torch.zeros(8)) + torch.fmin(h, h.flip(1)),
    "sgn": lambda h: torch.sgn(h) * 0.1 + h,
    "signbit mask": lambda h: torch.where(torch.signbit(h), 0.1 * h, h),
    "bucketize step table": lambda h: (
        torch.tensor([0.0, 1.0, 4.0, 2.0])[torch.bucketize(h, torch.tensor([-0.5, 0.0, 0.5]))] + h
    ),
    "piecewise poly where3": lambda h: torch.where(
        h < -1, torch.zeros_like(h), torch.where(h > 1, h, (h + 1) ** 2 / 4)
    ),
    "scatter_reduce amax": lambda h: torch.full((h.shape[0], 3), -9.0).scatter_reduce(
        1, (torch.arange(8) % 3).expand(h.shape[0], 8), h, "amax"
    ),
    "scatter_reduce mean": lambda h: torch.zeros((h.shape[0], 3)).scatter_reduce(
        1, (torch.arange(8) % 3).expand(h.shape[0], 8), h, "mean", include_self=False
    ),
    "scatter_reduce prod": lambda h: torch.ones((h.shape[0], 3)).scatter_reduce(
        1, (torch.arange(8) % 3).expand(h.shape[0], 8), h, "prod"
    ),
    "index_reduce": lambda h: torch.zeros((h.shape[0], 3)).index_reduce(1, torch.arange(8) % 3, h, "amax"),
    "index_put": lambda h: torch.zeros(h.shape[0], 9).index_put(
        (torch.arange(h.shape[0])[:, None], torch.arange(8)[None]), h.relu()
    ),
    "masked_scatter const": lambda h: h.masked_fill(torch.tensor([1, 0, 0, 1, 0, 0, 0, 1]).bool(), 0.3).relu(),
    "select_scatter": lambda h: torch.select_scatter(h, h[:, 0] * 2, 1, 3).relu(),
    "slice_scatter": lambda h: torch.slice_scatter(h, h[:, :3].relu(), 1, 2, 5),
    "unflatten": lambda h: h.unflatten(1, (2, 4)).amax(1),
    "hsplit/dstack": lambda h: torch.dstack(torch.hsplit(h, 2)).relu(),
    "column_stack hstack vstack": lambda h: torch.hstack([h.relu(), torch.column_stack([h[:, 0], h[:, 1]])]),
    "narrow & unsafe": lambda h: h.narrow(1, 2, 4).relu(),
    "unfold method overlap": lambda h: h.unfold(1, 3, 1).mean(-1).relu(),
    "block_diag weight": lambda h: h @ torch.block_diag(torch.eye(4), torch.ones(4, 4)),
    "baddbmm": lambda h: torch.baddbmm(torch.ones(1, 2, 2), h.view(-1, 2, 4), h.view(-1, 4, 2)),
    "matrix trace": lambda h: torch.einsum("bii->b", h[:, :4].view(-1, 2, 2))[:, None] + h.relu(),
    "matrix power of constant": lambda h: h @ torch.linalg.matrix_power(torch.eye(8) * 0.5 + 0.1, 3),
    "linalg.solve": lambda h: torch.linalg.solve(torch.eye(4) + 0.1 * torch.ones(4, 4), h[:, :4, None]).squeeze(-1),
    "log_softmax temp": lambda h: functional.log_softmax(h * 3, -1),
    "softmin": lambda h: functional.softmin(h, 1),
    "sparsemax": lambda h: (
        lambda z: (lambda cs, k: torch.relu(h - ((cs * 0 + ((cs - 1) / k).amax(1, keepdim=True))[:, :1])))(
            z.cumsum(1), torch.arange(1, 9.0)
        )
    )(h.sort(1, descending=True).values),
    "nanmean": lambda h: torch.nanmean(h, 1, keepdim=True) + h.relu(),
    "std unbiased false": lambda h: h / torch.sqrt(h.var(1, keepdim=True, unbiased=False) + 0.1),
    "aminmax": lambda h: torch.cat([*torch.aminmax(h, dim=1, keepdim=True)], 1),
    "msort & argsort gather": lambda h: torch.gather(h, 1, h.argsort(1)),
    "mode of counts": lambda h: torch.count_nonzero(h > 0, dim=1)[:, None].float() * h,
    "any all": lambda h: torch.where((h > 0.5).any(1, keepdim=True), h, 2 * h),
    "dist cos sim pair": lambda h: functional.cosine_similarity(h[:, None, :4], torch.eye(4)[None], dim=-1),
    "soft DTW min": lambda h: -torch.logsumexp(torch.stack([-h[:, :4], -h[:, 4:]], 0), 0),
    "huber loss as layer": lambda h: functional.huber_loss(h, torch.zeros_like(h), reduction="none"),
    "mse per row": lambda h: functional.mse_loss(h, torch.ones_like(h), reduction="none").mean(1, keepdim=True),
    "bce with logits per row": lambda h: functional.binary_cross_entropy_with_logits(
        h, torch.ones_like(h), reduction="none"
    ),
    "cross_entropy per row": lambda h: (
        functional.cross_entropy(h, torch.zeros(h.shape[0], dtype=torch.long), reduction="none")[:, None] + h
    ),
    "kl_div": lambda h: functional.kl_div(h.log_softmax(1), torch.full_like(h, 1 / 8), reduction="none"),
    "rrelu/alpha dropout eval": lambda h: functional.rrelu(functional.alpha_dropout(h, 0.5, False)),
    "glu dim": lambda h: functional.glu(h.view(-1, 2, 4), 1),
    "local_response_norm 1d": lambda h: functional.local_response_norm(h.view(-1, 4, 2), 3),
    "F.normalize p1": lambda h: functional.normalize(h, p=1, dim=1),
    "instance_norm 1d": lambda h: functional.instance_norm(h.view(-1, 2, 4)),
    "complex mult": lambda h: torch.view_as_real(
        torch.view_as_complex(h.view(-1, 4, 2)) * torch.polar(torch.ones(4), torch.arange(4.0))
    ).flatten(1),
    "stft-like fft2": lambda h: torch.fft.fft2(h.view(-1, 2, 4)).real,
    "fft conv": lambda h: torch.fft.irfft(torch.fft.rfft(h) * torch.fft.rfft(torch.linspace(0, 1, 8)), n=8),
    "trapz": lambda h: torch.trapezoid(h.relu(), dx=0.5, dim=1)[:, None],
    "cummin": lambda h: torch.cummin(h, 1).values,
    "conv1d functional weights": lambda h: functional.conv1d(
        h[:, None], torch.linspace(-1, 1, 3).view(1, 1, 3), padding="same"
    ).relu(),
    "max_pool1d return_indices": lambda h: functional.max_pool1d(h[:, None], 2, return_indices=True)[0],
    "chained compare": lambda h: ((h > -0.5) & (h < 0.5)).float() * h + (~(h > 0)).float(),
    "triangle wave": lambda h: (h - torch.floor(h + 0.5)).abs(),
    "sawtooth mod": lambda h: (h % 1.0 - 0.5).abs(),
    "soft sign threshold": lambda h: torch.sign(h) * functional.relu(h.abs() - 0.2),
    "smoothstep": lambda h: (lambda t: t * t * (3 - 2 * t))(h.clamp(0, 1)),
    "gaussian cdf by hand": lambda h: 0.5 * (1 + torch.erf(h / math.sqrt(2))),
    "gelu by hand tanh": lambda h: 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))),
    "mish by hand": lambda h: h * torch.tanh(torch.log(1 + torch.exp(h))),
    "logit link": lambda h: torch.log(h.sigmoid() / (1 - h.sigmoid() + 1e-6) + 1e-6),
    "star relu": lambda h: 0.8 * functional.relu(h) ** 2 - 0.4,
    "aconC": lambda h: (1.2 - 0.3) * h * torch.sigmoid(1.5 * (1.2 - 0.3) * h) + 0.3 * h,
    "crelu": lambda h: torch.cat([functional.relu(h), functional.relu(-h)], 1),
    "phish": lambda h: h * torch.tanh(functional.gelu(h)),
    "sine exp": lambda h: torch.sin(h) * torch.exp(-h.abs()),
    "laplace act": lambda h: 0.5 * (1 + torch.erf((h - 0.707) / (0.28 * math.sqrt(2)))),
}.items():
    between(f"stranger {_name}", lambda _function=_function: _function)
