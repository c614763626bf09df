"""Kinds of modules: parts of published architectures, written as people write them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks.kinds import between, body, kind

# --- functions of one number and of few ------------------------------------------------------------------------------

for _name, _function in {
    "tan": lambda h: torch.tan(0.5 * torch.tanh(h)),
    "asin and acos": lambda h: torch.asin(0.9 * torch.tanh(h)) + torch.acos(0.9 * torch.tanh(h)),
    "acosh and atanh": lambda h: torch.acosh(h.abs() + 1.5) + torch.atanh(0.9 * torch.tanh(h)),
    "atan2": lambda h: torch.atan2(h, h.flip(1).abs() + 1),
    "remainder": lambda h: torch.remainder(h, 1.0),
    "fmod": lambda h: torch.fmod(h, 0.7),
    "frac and trunc": lambda h: torch.frac(h) + torch.trunc(3 * h),
    "floor divide": lambda h: torch.floor_divide(h, 0.5),
    "ceil": lambda h: torch.ceil(4 * h) / 4,
    "round to decimals": lambda h: torch.round(h, decimals=1),
    "copysign": lambda h: torch.copysign(h.abs() + 0.1, h),
    "signed square root": lambda h: h.sign() * (h.abs() + 1e-2).sqrt(),
    "signed log": lambda h: h.sign() * torch.log1p(h.abs()),
    "xlogy": lambda h: torch.xlogy(h.abs() + 0.5, h.abs() + 1),
    "entropy": lambda h: -(h.softmax(1) * h.log_softmax(1)).sum(1, keepdim=True),
    "gaussian": lambda h: torch.exp(-(h**2)),
    "snake": lambda h: h + torch.sin(h) ** 2,
    "sin times cos": lambda h: torch.sin(h) * torch.cos(h),
    "Morlet": lambda h: torch.cos(5 * h) * torch.exp(-(h**2) / 2),
    "hard mish": lambda h: h * (h + 2).clamp(0, 2) / 2,
    "TeLU": lambda h: h * torch.tanh(torch.exp(h)),
    "ELiSH": lambda h: torch.where(h > 0, h * torch.sigmoid(h), torch.expm1(h) * torch.sigmoid(h)),
    "Serf": lambda h: h * torch.erf(functional.softplus(h)),
    "ISRU": lambda h: h / torch.sqrt(1 + h * h),
    "squareplus": lambda h: (h + torch.sqrt(h * h + 4)) / 2,
    "SmeLU": lambda h: torch.where(h.abs() <= 1, (h + 1) ** 2 / 4, h.relu()),
    "logcosh": lambda h: h + functional.softplus(-2 * h) - math.log(2.0),
    "polynomial": lambda h: 0.1 * h**3 - 0.5 * h**2 + h,
    "Chebyshev": lambda h: torch.cos(3 * torch.acos(0.95 * torch.tanh(h))),
    "Legendre terms": lambda h: torch.stack([torch.tanh(h), (3 * torch.tanh(h) ** 2 - 1) / 2], 2),
    "Swish with a factor": lambda h: h * torch.sigmoid(1.702 * h),
    "nan_to_num": lambda h: torch.nan_to_num(h).relu(),
    "clamp by tensors": lambda h: torch.clamp(h, torch.linspace(-1, 0, 8), torch.linspace(0.1, 1, 8)),
    "isclose mask": lambda h: h * (h.abs() > 0.2),
    "bucketize": lambda h: torch.linspace(0, 1, 4)[torch.bucketize(h.detach(), torch.tensor([-0.5, 0.0, 0.5]))] + h,
    "rational": lambda h: (h**2 + h + 1) / (h.abs() + 1),
    "dot with the next": lambda h: (h[:, :-1] * h[:, 1:]).sum(1, keepdim=True),
    "polar": lambda h: torch.stack([h[:, :4].abs() * torch.cos(h[:, 4:]), h[:, :4].abs() * torch.sin(h[:, 4:])], 1),
    "complex abs": lambda h: torch.complex(h[:, :4], h[:, 4:] + 2).abs(),
    "FFT magnitude": lambda h: torch.fft.rfft(h).abs(),
    "std": lambda h: (h - h.mean(1, keepdim=True)) / (h.std(1, keepdim=True) + 1e-2),
    "var_mean": lambda h: (lambda v, m: (h - m) * torch.rsqrt(v + 1e-2))(*torch.var_mean(h, 1, keepdim=True)),
    "logcumsumexp": lambda h: torch.logcumsumexp(h, 1),
    "renorm by max": lambda h: h / h.abs().amax(1, keepdim=True).clamp(min=0.1),
    "min-max scaling": lambda h: (
        (h - h.amin(1, keepdim=True)) / (h.amax(1, keepdim=True) - h.amin(1, keepdim=True) + 0.1)
    ),
    "vector norm of groups": lambda h: torch.linalg.vector_norm(h.view(-1, 2, 4), dim=2),
    "infinity norm": lambda h: torch.linalg.vector_norm(h, ord=math.inf, dim=1, keepdim=True),
    "rot90": lambda h: torch.rot90(h.view(-1, 2, 4), 1, (1, 2)).relu(),
    "tril": lambda h: torch.tril(h.view(-1, 2, 4)).relu(),
    "take_along_dim": lambda h: torch.take_along_dim(h, torch.tensor([[1, 0, 3]]), 1).relu(),
    "index_copy": lambda h: torch.zeros_like(h).index_copy(1, torch.tensor([2, 5]), h[:, :2]) + h.relu(),
    "scatter_add": lambda h: (
        torch.zeros(h.shape[0], 3)
        .scatter_add(1, torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1]]).expand(h.shape[0], 8), h)
        .relu()
    ),
    "scatter_reduce max": lambda h: torch.zeros(h.shape[0], 3).scatter_reduce(
        1, torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1]]).expand(h.shape[0], 8), h, "amax", include_self=False
    ),
    "segment sum": lambda h: torch.zeros(h.shape[0], 3).index_add(1, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]), h).relu(),
    "addmm": lambda h: torch.addmm(torch.ones(3), h, torch.linspace(-1, 1, 24).view(8, 3)).relu(),
    "addbmm by outer": lambda h: torch.bmm(h.unsqueeze(2), h.unsqueeze(1)).sum(2).relu(),
    "vander": lambda h: torch.stack([h**k for k in range(4)], 2).sum(2),
    "cross product": lambda h: torch.linalg.cross(h[:, :3], h[:, 3:6]),
    "quaternion product": lambda h: _quaternion(h[:, :4], h[:, 4:]),
    "determinant of 2 by 2": lambda h: (h[:, 0] * h[:, 3] - h[:, 1] * h[:, 2]).unsqueeze(1),
    "stacked sums": lambda h: torch.stack([h.sum(1), h.amax(1), h.mean(1)], 1),
    "argsort of a constant": lambda h: h[:, torch.argsort(torch.tensor([3.0, 1.0, 2.0]))].relu(),
    "top-k mask": lambda h: h * (h >= h.topk(3, 1).values[:, -1:]),
    "sparsemax of two": lambda h: ((h[:, :1] - h[:, 1:2] + 1) / 2).clamp(0, 1),
    "hard attention": lambda h: functional.one_hot(h.argmax(1), 8).float() * h,
    "gumbel off": lambda h: (h / 0.5).softmax(1) * h,
}.items():
    between(f"function {_name}", lambda _function=_function: _function)


def _quaternion(p: Tensor, q: Tensor) -> Tensor:
    a, b, c, d = p.unbind(1)
    e, f, g, h = q.unbind(1)
    parts = [
        a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g,
        a * g - b * h + c * e + d * f, a * h + b * g - c * f + d * e,
    ]  # fmt: skip
    return torch.stack(parts, 1)


# --- layers ----------------------------------------------------------------------------------------------------------


class GatedUnit(nn.Module):
    """``f(W x) ⊙ V x``."""

    def __init__(self, function: Any, size: int = 4, width: int = 6) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(size, width), nn.Linear(size, width), nn.Linear(width, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Through the gate."""
        return self.down(self.function(self.gate(x)) * self.up(x))


for _name, _function in {"GEGLU": functional.gelu, "ReGLU": functional.relu, "bilinear gate": lambda h: h}.items():
    kind(f"layer {_name}", (4,))(lambda _function=_function: GatedUnit(_function))


class RadialBasis(nn.Module):
    """``exp(−β_i ‖x − c_i‖²)``."""

    def __init__(self) -> None:
        super().__init__()
        self.centres, self.widths = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.rand(6))
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Weighted sums of the functions."""
        gaps = (x.unsqueeze(1) - self.centres).pow(2).sum(-1)
        return self.last(torch.exp(-self.widths * gaps))


kind("layer radial basis", (4,))(RadialBasis)


class Splines(nn.Module):
    """A Kolmogorov–Arnold layer: sums of functions of single inputs, each a sum of B-splines and a SiLU."""

    def __init__(self, order: int = 1) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-2, 2, 7 + order))
        self.order = order
        self.weight = nn.Parameter(torch.randn(3, 4, 6) / 4)
        self.base = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """By Cox and de Boor's recursion."""
        knots, x_ = self.knots, x.unsqueeze(-1)
        basis = ((x_ >= knots[:-1]) & (x_ < knots[1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x_ - knots[: -(k + 1)]) / (knots[k:-1] - knots[: -(k + 1)])
            right = (knots[k + 1 :] - x_) / (knots[k + 1 :] - knots[1:-k])
            basis = left * basis[..., :-1] + right * basis[..., 1:]
        return torch.einsum("bik,oik->bo", basis, self.weight) + self.base(functional.silu(x))


kind("layer Kolmogorov-Arnold", (4,))(Splines)


class Hats(nn.Module):
    """A Kolmogorov–Arnold layer of hat functions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-1, 1, 5))
        self.last = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Weighted sums of the hats."""
        return self.last((1 - (x.unsqueeze(-1) - self.centres).abs() * 2).relu().flatten(1))


kind("layer hats", (4,))(Hats)


class FourierFeatures(nn.Module):
    """``[cos Bx, sin Bx]``, then a network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("b", torch.randn(5, 4))
        self.net = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Through the network."""
        angles = 2 * math.pi * x @ self.b.T
        return self.net(torch.cat([angles.cos(), angles.sin()], -1))


kind("layer Fourier features", (4,))(FourierFeatures)


class Siren(nn.Module):
    """Sines of affine maps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``W sin(ω (V x + b))``."""
        return self.b(torch.sin(3.0 * self.a(x)))


kind("layer SIREN", (4,))(Siren)


class Coupling(nn.Module):
    """A step of a normalising flow."""

    def __init__(self) -> None:
        super().__init__()
        self.s, self.t = (nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Half of the input scales and shifts the other half."""
        a, b = x.chunk(2, 1)
        return torch.cat([a, b * torch.exp(self.s(a)) + self.t(a)], 1)


kind("layer coupling", (4,))(lambda: nn.Sequential(Coupling(), nn.Linear(4, 3)))


class Experts(nn.Module):
    """A mixture of experts, all of them or the best ones."""

    def __init__(self, best: int | None) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)) for _ in range(3))
        self.best = best

    def forward(self, x: Tensor) -> Tensor:
        """The experts' sum by the gate's shares."""
        scores = self.gate(x)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        if self.best is None:
            return (scores.softmax(1).unsqueeze(2) * outputs).sum(1)
        top, which = scores.topk(self.best, 1)
        chosen = outputs.gather(1, which.unsqueeze(2).expand(-1, -1, 3))
        return (top.softmax(1).unsqueeze(2) * chosen).sum(1)


kind("layer experts, all", (4,))(lambda: Experts(None))
kind("layer experts, best two", (4,))(lambda: Experts(2))


class Steps(nn.Module):
    """Euler or Runge–Kutta steps of a differential equation, or of a fixed point."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
        self.last, self.how = nn.Linear(4, 3), how

    def forward(self, x: Tensor) -> Tensor:
        """Three steps."""
        z = x
        for _ in range(3):
            if self.how == "Euler":
                z = z + 0.1 * self.f(z)
            elif self.how == "Runge-Kutta":
                k = self.f(z)
                z = z + 0.1 * self.f(z + 0.05 * k)
            else:
                z = torch.tanh(0.3 * self.f(z) + x)
        return self.last(z)


for _how in ("Euler", "Runge-Kutta", "equilibrium"):
    kind(f"layer steps {_how}", (4,))(lambda _how=_how: Steps(_how))


class Highway(nn.Module):
    """``T ⊙ H + (1 − T) ⊙ x``."""

    def __init__(self) -> None:
        super().__init__()
        self.h, self.t, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Through the gate."""
        gate = torch.sigmoid(self.t(x))
        return self.last(gate * self.h(x).relu() + (1 - gate) * x)


kind("layer highway", (4,))(Highway)


class Cross(nn.Module):
    """Deep and cross network."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.last = nn.ModuleList(nn.Linear(4, 4) for _ in range(2)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``x₀ ⊙ (W x + b) + x`` twice."""
        z = x
        for w in self.w:
            z = x * w(z) + z
        return self.last(z)


kind("layer cross network", (4,))(Cross)


class Factorisation(nn.Module):
    """Factorisation machine: ``Σ_(i<j) <v_i, v_j> x_i x_j``."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.linear = nn.Parameter(torch.randn(4, 3) / 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Half of the square of sums less the sums of squares."""
        pairs = (x @ self.v) ** 2 - (x**2) @ (self.v**2)
        return self.linear(x) + 0.5 * pairs


kind("layer factorisation machine", (4,))(Factorisation)


class HyperNetwork(nn.Module):
    """Weights that depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        """``W(x) x``."""
        return torch.bmm(self.make(x).view(-1, 3, 4), x.unsqueeze(2)).squeeze(2)


kind("layer hypernetwork", (4,))(HyperNetwork)


class Cosine(nn.Module):
    """Classification by angles: ArcFace's logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(4, 6), nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        """Cosines, scaled."""
        return 16 * functional.linear(functional.normalize(self.first(x)), functional.normalize(self.weight))


kind("layer cosine classifier", (4,))(Cosine)


class Prototypes(nn.Module):
    """Distances from prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.prototypes = nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        """Minus squared distances."""
        return -((self.first(x).unsqueeze(1) - self.prototypes) ** 2).sum(-1)


kind("layer prototypes", (4,))(Prototypes)


class Quantised(nn.Module):
    """Weights and activations rounded to steps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """As on a device of whole numbers."""
        q = torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127)
        h = functional.linear(q, torch.fake_quantize_per_tensor_affine(self.a.weight, 0.02, 0, -128, 127), self.a.bias)
        return self.b(torch.fake_quantize_per_tensor_affine(h.relu(), 0.05, 0, 0, 255))


kind("layer fake quantised", (4,))(Quantised)


class Binary(nn.Module):
    """Signs of weights and activations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """A binary layer."""
        return functional.linear(torch.sign(self.a(x)), torch.sign(self.b.weight))


kind("layer binary", (4,))(Binary)


class Dictionary(nn.Module):
    """Branches by name, a buffer, a function kept as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.ModuleDict({"c": nn.Linear(4, 3)})})
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 0.5]))
        self.act = lambda h: functional.leaky_relu(h, 0.2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sums by name."""
        inner = self.branches["b"]["c"](x)  # type: ignore[index]
        return {"logits": self.act(self.branches["a"](x)) * self.scale + inner, "other": inner}


kind("layer dictionary of branches", (4,), output="logits")(Dictionary)


class PerSample(nn.Module):
    """A function of one sample, mapped over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        """By vmap."""
        return torch.vmap(self.net)(x)


kind("layer vmap", (4,))(PerSample)

# --- images ----------------------------------------------------------------------------------------------------------

IMAGE = (2, 8, 8)

body(
    "picture CBAM", IMAGE,
    lambda s, x: (lambda y: y * torch.sigmoid(s.c(torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1))))(
        x * torch.sigmoid(s.m(functional.adaptive_avg_pool2d(x, 1)) + s.m(functional.adaptive_max_pool2d(x, 1)))
    ),
    m=lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)), c=lambda: nn.Conv2d(2, 1, 3, padding=1),
)  # fmt: skip
body(
    "picture ECA", IMAGE,
    lambda s, x: x * torch.sigmoid(s.c(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(3)),
    c=lambda: nn.Conv1d(1, 1, 3, padding=1, bias=False),
)  # fmt: skip
body(
    "picture ghost", IMAGE,
    lambda s, x: (lambda y: torch.cat([y, s.b(y)], 1).relu())(s.a(x).relu()),
    a=lambda: nn.Conv2d(2, 2, 1), b=lambda: nn.Conv2d(2, 2, 3, padding=1, groups=2),
)  # fmt: skip
body(
    "picture conditional convolution", IMAGE,
    lambda s, x: (lambda r: sum(r[:, k, None, None, None] * c(x) for k, c in enumerate(s.c)).relu())(
        s.r(x.mean((2, 3))).softmax(1)
    ),
    r=lambda: nn.Linear(2, 2), c=lambda: nn.ModuleList(nn.Conv2d(2, 2, 3) for _ in range(2)),
)  # fmt: skip
body(
    "picture dynamic convolution", IMAGE,
    lambda s, x: functional.conv2d(
        x.reshape(1, -1, 8, 8), s.k(x.mean((2, 3))).view(-1, 1, 3, 3), groups=2 * x.shape[0]
    ).view(-1, 2, 6, 6).relu(),
    k=lambda: nn.Linear(2, 18),
)  # fmt: skip
body(
    "picture involution", (2, 4, 4),
    lambda s, x: (
        functional.unfold(x, 3, padding=1).view(-1, 2, 9, 4, 4) * s.k(x).view(-1, 1, 9, 4, 4)
    ).sum(2),
    k=lambda: nn.Conv2d(2, 9, 1),
)  # fmt: skip
body(
    "picture spatial transformer", IMAGE,
    lambda s, x: functional.grid_sample(
        x, functional.affine_grid(s.theta.expand(x.shape[0], 2, 3), [x.shape[0], 2, 8, 8], align_corners=False),
        align_corners=False,
    ).relu(),
    theta=lambda: torch.tensor([[[0.9, 0.1, 0.0], [-0.1, 0.9, 0.1]]]),
)  # fmt: skip
body(
    "picture pixel unshuffle and shuffle", IMAGE,
    lambda s, x: functional.pixel_shuffle(s.a(functional.pixel_unshuffle(x, 2)).relu(), 2),
    a=lambda: nn.Conv2d(8, 8, 1),
)  # fmt: skip
body(
    "picture channel shuffle by hand", IMAGE,
    lambda s, x: s.b(s.a(x).view(-1, 2, 2, 8, 8).transpose(1, 2).reshape(-1, 4, 8, 8)).relu(),
    a=lambda: nn.Conv2d(2, 4, 1), b=lambda: nn.Conv2d(4, 4, 3, groups=2),
)  # fmt: skip
body(
    "picture global response norm", IMAGE,
    lambda s, x: (lambda g: x * g / (g.mean(1, keepdim=True) + 1e-2) + x)(x.norm(dim=(2, 3), keepdim=True)),
)  # fmt: skip
body("picture blur pool", IMAGE, lambda s, x: functional.conv2d(
    functional.pad(x, (1, 1, 1, 1), mode="reflect"), s.k.expand(2, 1, 3, 3), stride=2, groups=2).relu(),
    k=lambda: torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None] / 16)  # fmt: skip
body("picture feature pyramid", IMAGE, lambda s, x: (
    s.a(x).relu() + functional.interpolate(s.b(x).relu(), size=(8, 8), mode="nearest")),
    a=lambda: nn.Conv2d(2, 3, 1), b=lambda: nn.Conv2d(2, 3, 2, 2))  # fmt: skip
body("picture atrous pyramid", IMAGE, lambda s, x: torch.cat(
    [c(x).relu() for c in s.c] + [x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8)], 1),
    c=lambda: nn.ModuleList(nn.Conv2d(2, 2, 3, padding=d, dilation=d) for d in (1, 2)))  # fmt: skip
body("picture spatial pyramid pooling", IMAGE, lambda s, x: torch.cat(
    [functional.adaptive_max_pool2d(s.a(x), n).flatten(1) for n in (1, 2, 4)], 1),
    a=lambda: nn.Conv2d(2, 2, 3, padding=1))  # fmt: skip
body("picture CoordConv", IMAGE, lambda s, x: s.a(torch.cat([x, s.c.expand(x.shape[0], -1, -1, -1)], 1)).relu(),
     a=lambda: nn.Conv2d(3, 2, 3), c=lambda: torch.linspace(-1, 1, 64).view(1, 1, 8, 8))  # fmt: skip
body("picture max pool and unpool", IMAGE, lambda s, x: functional.max_unpool2d(
    *functional.max_pool2d(x, 2, return_indices=True), 2))  # fmt: skip
body("picture soft argmax", IMAGE, lambda s, x: (lambda p: torch.cat(
    [(p.sum(2) * s.t).sum(2), (p.sum(3) * s.t).sum(2)], 1))(x.flatten(2).softmax(2).view(-1, 2, 8, 8)),
    t=lambda: torch.linspace(-1, 1, 8))  # fmt: skip
body("picture patches to tokens", IMAGE, lambda s, x: s.p(x).flatten(2).transpose(1, 2).relu().mean(1),
     p=lambda: nn.Conv2d(2, 6, 4, 4))  # fmt: skip
body("picture batch norm by hand", IMAGE, lambda s, x: ((x - s.m) / (s.v + 1e-5).sqrt() * s.g).relu(),
     m=lambda: torch.rand(2, 1, 1), v=lambda: torch.rand(2, 1, 1) + 0.5, g=lambda: torch.rand(2, 1, 1))  # fmt: skip
body("picture weight standardised", IMAGE, lambda s, x: functional.conv2d(
    x, (s.c.weight - s.c.weight.mean((1, 2, 3), keepdim=True)) / s.c.weight.std((1, 2, 3), keepdim=True)).relu(),
    c=lambda: nn.Conv2d(2, 3, 3))  # fmt: skip
body("picture separable", IMAGE, lambda s, x: functional.relu6(s.n(s.b(s.a(x)))),
     a=lambda: nn.Conv2d(2, 2, (3, 1)), b=lambda: nn.Conv2d(2, 3, (1, 3)), n=lambda: nn.BatchNorm2d(3))  # fmt: skip
body("picture Gram matrix", IMAGE, lambda s, x: (lambda y: y @ y.transpose(1, 2) / 64)(x.flatten(2)))
