"""Affine functions of torch are read as such: values, limits and transposes are theirs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl
from clinch.network.ops import linear_function
from clinch.network.ops.linear_function import LinearFunction

WEIGHT = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
GRID = torch.rand(1, 4, 4, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
WAVES = torch.polar(torch.ones(2, 3), torch.rand(2, 3, generator=torch.Generator().manual_seed(2)))

#: name -> the function and the shape of one input
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "gather": (lambda x: x.gather(1, torch.tensor([[3, 1, 1]]).expand(x.shape[0], -1)), (4,)),
    "scatter": (lambda x: torch.zeros_like(x).scatter(1, torch.tensor([[1, 0, 2]]).expand(x.shape[0], -1), x), (3,)),
    "scatter_add": (
        lambda x: x.new_zeros(x.shape[0], 2).scatter_add(1, torch.tensor([[1, 0, 1]]).expand(x.shape[0], -1), x), (3,)
    ),
    "index_add": (lambda x: torch.zeros_like(x).index_add(1, torch.tensor([0, 0, 2]), x), (3, 2)),
    "written in place": (lambda x: _written(x), (4,)),
    "einsum": (lambda x: torch.einsum("btf,fo->bot", x, WEIGHT.T), (2, 4)),
    "tensordot": (lambda x: torch.tensordot(x, WEIGHT, dims=([2], [1])), (2, 4)),
    "baddbmm": (lambda x: torch.baddbmm(torch.ones(1, 2, 3), x, WEIGHT.T.expand(x.shape[0], -1, -1)), (2, 4)),
    "from the left": (lambda x: (WEIGHT @ x.t()).t(), (4,)),
    "stacked in front": (lambda x: torch.stack([x, -x, x.flip(1)], 0).mean(0), (4,)),
    "diff": (lambda x: torch.diff(x, dim=1), (2, 4)),
    "lerp": (lambda x: torch.lerp(x, x.flip(1), 0.3), (4,)),
    "bicubic": (lambda x: functional.interpolate(x, scale_factor=2, mode="bicubic"), (1, 4, 4)),
    "grid sample": (
        lambda x: functional.grid_sample(x, GRID.expand(len(x), -1, -1, -1), align_corners=False), (1, 5, 5)
    ),
    "Fourier transform": (lambda x: torch.view_as_real(torch.fft.rfft(x)), (5,)),
    "real part of two": (lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real, (3, 4)),
    "filter": (lambda x: torch.fft.irfft(torch.fft.rfft(x) * WAVES[:1, :3], n=4), (4,)),
    "rotary": (lambda x: torch.view_as_real(torch.view_as_complex(x.reshape(-1, 2, 3, 2)) * WAVES).flatten(2), (2, 6)),
}  # fmt: skip


def _written(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0] = 1.0
    y[:, 2:] *= 3.0
    return y


class Applied(nn.Module):
    """A function of the input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


#: written out by a reader of their own, which takes products of activations too
WITH_READERS = ("einsum", "baddbmm", "lerp")


@pytest.mark.parametrize("small", [True, False], ids=["as a matrix", "as it is"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_affine_function_is_followed_both_ways(name: str, small: bool, monkeypatch: pytest.MonkeyPatch):
    function, shape = FUNCTIONS[name]
    monkeypatch.setattr(linear_function, "MOST_DENSE", 2**16 if small else 0)
    net = cl.load(Applied(function).eval(), shape)
    graph = net.graph_as(torch.float64, "cpu")
    assert all(node.op.affine for node in graph.nodes[1:])
    assert (not small and name not in WITH_READERS) == any(isinstance(node.op, LinearFunction) for node in graph.nodes)
    x, y = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    zero, fx, fy, both = (graph.forward(t)[graph.output] for t in (torch.zeros_like(x), x, y, 2 * x - 3 * y))
    torch.testing.assert_close(both - zero, 2 * (fx - zero) - 3 * (fy - zero))
    # rows go back through the transpose: CROWN is exact
    region = cl.bounds.box(torch.minimum(x, y), torch.maximum(x, y))
    exact = cl.bounds.crown(net, region)
    units = torch.eye(x[0].numel(), dtype=torch.float64).reshape(-1, *shape)
    sizes = (graph.forward(units)[graph.output] - zero[:1]).flatten(1).abs()
    middle, spread = graph.forward((x + y) / 2)[graph.output].flatten(1), ((x - y).abs() / 2).flatten(1) @ sizes
    torch.testing.assert_close(exact.flatten(1), middle - spread, rtol=1e-6, atol=1e-6)
    assert bool((cl.bounds.interval(net, region).flatten(1) <= exact.flatten(1) + 1e-6).all())


def test_what_only_looks_affine_is_not():
    net = cl.load(Applied(lambda x: torch.lerp(x, x.flip(1), x)).eval(), (4,))
    assert not all(node.op.affine for node in net.graph.nodes[1:])
