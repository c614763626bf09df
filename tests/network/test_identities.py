"""Calls that are written out by an identity have the original's values and rules in every layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl

CENTRES = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
LOWER = torch.ones(3, 3).tril().bool()
INFINITE = torch.full((3, 3), -torch.inf).triu(1)


def _scores(x: Tensor) -> Tensor:
    return x @ x.transpose(1, 2)


#: name -> the function and the shape of one input
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "exp2": (lambda x: torch.exp2(x), (3,)),
    "log2 and log10": (lambda x: torch.log2(x.abs() + 1) - torch.log10(x.abs() + 1), (3,)),
    "erfc": (lambda x: torch.erfc(x), (3,)),
    "logit": (lambda x: torch.logit(0.8 * torch.sigmoid(x) + 0.1), (3,)),
    "logaddexp": (lambda x: torch.logaddexp(x, x.flip(1)), (3,)),
    "Huber": (lambda x: functional.huber_loss(x, torch.zeros_like(x), reduction="none", delta=0.7), (3,)),
    "smooth ℓ1": (lambda x: functional.smooth_l1_loss(x, x.flip(1), reduction="none"), (3,)),
    "squares": (lambda x: functional.mse_loss(x, torch.ones_like(x), reduction="none"), (3,)),
    "baddbmm": (lambda x: torch.baddbmm(x @ x.transpose(1, 2), x, x.transpose(1, 2), beta=2), (3, 2)),
    "distances from constants": (lambda x: torch.cdist(x, CENTRES), (4,)),
    "mask of -inf": (lambda x: _scores(x).masked_fill(~LOWER, -torch.inf).softmax(-1) @ x, (3, 2)),
    "smallest number": (lambda x: torch.where(LOWER, _scores(x), torch.finfo(x.dtype).min).softmax(-1) @ x, (3, 2)),
    "mask that is added": (lambda x: (_scores(x) + INFINITE).softmax(-1) @ x, (3, 2)),
    "shared heads": (
        lambda x: functional.scaled_dot_product_attention(x, x[:, :1], x[:, :1], enable_gqa=True), (2, 3, 2)
    ),
    "quantile": (lambda x: torch.quantile(x, 0.3, dim=1, keepdim=True), (6, 2)),
    "cummax": (lambda x: x.cummax(1)[0], (5,)),
    "pool with indices": (lambda x: functional.max_pool2d(x, 2, return_indices=True)[0], (1, 4, 4)),
    "reshape_as": (lambda x: x.relu().reshape_as(x[:, 0]).relu(), (1, 4)),
    "remainder": (lambda x: torch.remainder(3 * x, 0.7) + torch.remainder(x, -0.4), (3,)),
    "fmod and frac": (lambda x: torch.fmod(3 * x, 0.7) + torch.frac(3 * x), (3,)),
    "truncation": (lambda x: torch.trunc(3 * x) + torch.round(x, decimals=1), (3,)),
    "rounded quotients": (
        lambda x: torch.floor_divide(x, 0.3) + torch.div(x, 0.4, rounding_mode="trunc")
        + torch.div(x, x.abs() + 0.5, rounding_mode="floor"), (3,)
    ),
    "signs of others": (lambda x: torch.copysign(x, x.flip(1)) + torch.copysign(x, CENTRES[0, :3]), (3,)),
    "xlogy": (lambda x: torch.xlogy(x, x.abs() + 0.5), (3,)),
    "angle": (lambda x: torch.atan2(x, x.flip(1).abs() + 0.3), (3,)),
    "any angle": (lambda x: torch.atan2(x, x.flip(1)), (2,)),
    "power of zero": (lambda x: x**0 + x, (3,)),
    "cross product": (lambda x: torch.linalg.cross(x[:, :3], x[:, 3:]), (6,)),
    "running logarithm of sums": (lambda x: torch.logcumsumexp(x, 1), (4, 2)),
    "mean and variance": (lambda x: torch.var_mean(x, 1)[1] + torch.std_mean(x, 1)[0], (4, 2)),
    "both extremes": (lambda x: torch.aminmax(x, dim=1)[1] - torch.aminmax(x, dim=1)[0], (4, 2)),
    "size of complex numbers": (lambda x: torch.fft.rfft(x + 2).abs(), (4,)),
    "gathered at the largest": (lambda x: x.gather(1, x.flip(1).topk(2, 1)[1]), (4,)),
    "scattered to the largest": (lambda x: torch.zeros_like(x).scatter(1, x.topk(2, 1)[1], x[:, :2]), (4,)),
    "comparison of two": (lambda x: torch.where(x > x.flip(1), x, 0.5 * x.flip(1)), (4,)),
    "not below the third": (lambda x: x * (x >= x.topk(3, 1)[0][:, -1:]), (4,)),
    "one or the other": (lambda x: ((x > CENTRES[0]) | (x.flip(1) <= 0.2)).float() + x, (4,)),
    "both, or not equal": (
        lambda x: ((x < CENTRES[0]) & ~(x.flip(1) <= x)).float() - (x.relu() != 0).float(), (4,)
    ),
    "counts of steps": (lambda x: (x.unsqueeze(2) > CENTRES[:, 0]).sum(2).float(), (3,)),
    "taken along": (lambda x: torch.take_along_dim(x, torch.tensor([[2, 0]]), 1).relu(), (3,)),
    "rounded to steps": (lambda x: torch.fake_quantize_per_tensor_affine(x, 0.06, 3, -8, 12), (3,)),
    "mapped": (lambda x: torch.vmap(lambda row: row.relu() * row.sum())(x), (3,)),
    "look up by numbers": (lambda x: x.gather(1, (x.relu() > -1).sum(1, keepdim=True) - 1), (4,)),
}  # fmt: skip


class Applied(nn.Module):
    """A function of the input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_identities_keep_every_rule(name: str):
    function, shape = FUNCTIONS[name]
    net = cl.load(Applied(function).eval(), shape)
    graph = net.graph_as(torch.float64, "cpu")
    x = torch.randn(40, *shape, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    values = function(x).double().flatten(1)
    torch.testing.assert_close(graph.forward(x.double())[graph.output].flatten(1), values, rtol=1e-5, atol=1e-5)
    if name == "look up by numbers":
        return
    assert graph.lacking([graph.output], ("interval", "relax")) is None
    region = cl.bounds.box(x.amin(0, keepdim=True), x.amax(0, keepdim=True))
    for bound in (cl.bounds.interval(net, region), cl.bounds.crown(net, region)):
        assert bool((bound.flatten() <= values.amin(0) + 1e-5).all())


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("options", [{"proj_size": 2}, {"num_layers": 2, "proj_size": 2}, {"bias": False}])
def test_recurrent_layers_with_projections_and_given_states(options: dict[str, int]):
    torch.manual_seed(0)
    layer = nn.LSTM(3, 4, batch_first=True, **options)
    net = cl.load(Applied(lambda x: layer(x)[0][:, -1]).eval(), (3, 3))
    assert net.graph.lacking([net.graph.output], ("interval", "relax")) is None
    started = nn.GRU(3, 4, batch_first=True)
    first = nn.Linear(3, 4)
    net = cl.load(Applied(lambda x: started(x[:, 1:], first(x[:, 0])[None])[0][:, -1]).eval(), (3, 3))
    assert net.graph.lacking([net.graph.output], ("interval", "relax")) is None
