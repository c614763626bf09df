"""What networks compute from their inputs: kernels of convolutions, limits of clamps, largest elements compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl
from clinch.network.ops.base import Interval
from clinch.network.ops.piecewise import Floor, Round, Sign


class Own(nn.Module):
    """Any function of the module and its input."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def generated(s: Any, x: Tensor) -> Tensor:
    """A kernel for each channel."""
    b, c, h, w = x.shape
    kernels = s.made(x.mean((2, 3))).view(b * c, 1, 3, 3)
    return functional.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b * c).view(b, c, h, w).flatten(1)


def mixed(s: Any, x: Tensor) -> Tensor:
    """Kernels of several experts, strided."""
    b, c, h, w = x.shape
    kernels = (torch.sigmoid(s.made(x.mean((2, 3)))) @ s.experts).view(b * 3, c, 2, 2)
    return functional.conv2d(x.view(1, b * c, h, w), kernels, stride=2, groups=b).view(b, 3, h // 2, w // 2).flatten(1)


def modulated(s: Any, x: Tensor) -> Tensor:
    """Kernels whose inputs are scaled, on one constant picture."""
    b = x.shape[0]
    kernels = s.kernels * s.made(x).view(b, 1, 2, 1, 1)
    kernels = (kernels * torch.rsqrt(kernels.pow(2).sum([2, 3, 4], keepdim=True) + 1e-2)).view(b * 3, 2, 3, 3)
    picture = s.picture.repeat(b, 1, 1, 1).view(1, b * 2, 4, 4)
    return functional.conv2d(picture, kernels, padding=1, groups=b).view(b, 3, 4, 4).flatten(1)


def along_a_line(s: Any, x: Tensor) -> Tensor:
    """One kernel for each of two channels of a sequence."""
    b, c, n = x.shape
    kernels = s.made(x.flatten(1)).view(b * c, 1, 3)
    return functional.conv1d(x.reshape(1, b * c, n), kernels, groups=b * c).view(b, c, n - 2).flatten(1)


def small(shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "generated": (lambda: Own(generated, made=nn.Linear(2, 18)), (2, 4, 4)),
    "mixed": (lambda: Own(mixed, made=nn.Linear(2, 3), experts=small((3, 24))), (2, 4, 4)),
    "modulated": (
        lambda: Own(modulated, made=nn.Linear(3, 2), kernels=small((1, 3, 2, 3, 3)), picture=small((1, 2, 4, 4))), (3,),
    ),
    "along a line": (lambda: Own(along_a_line, made=nn.Linear(10, 6)), (2, 5)),
    "clamp by activations": (
        lambda: Own(lambda s, x: s.l(x).clamp(x[:, :1].neg(), x[:, 1:2].abs()), l=nn.Linear(3, 4)), (3,),
    ),
    "clamp from below": (lambda: Own(lambda s, x: s.l(x).clamp(min=x[:, :1]), l=nn.Linear(3, 4)), (3,)),
    "turned": (lambda: Own(lambda s, x: (s.l.weight @ x.T).T.relu(), l=nn.Linear(3, 4)), (3,)),
    "solved": (
        lambda: Own(lambda s, x: torch.cholesky_solve(x[:, :, None], torch.eye(3) + s.a.tril(-1))[..., 0].relu(),
                    a=small((3, 3))),
        (3,),
    ),
    "largest": (lambda: Own(lambda s, x: x * (s.l(x).amax(1, keepdim=True) == s.l(x)), l=nn.Linear(3, 3)), (3,)),
    "three largest": (lambda: Own(lambda s, x: x * (x >= x.topk(3, dim=1)[0][:, -1:]).float()), (5,)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_values_are_the_modules_and_bounds_hold(name: str) -> None:
    """The graph has the module's values to the last digits, and nothing passes the bounds."""
    make, shape = MODULES[name]
    torch.manual_seed(3)
    module = make().eval()
    network = cl.load(module, shape)
    assert not cl.supports(network).without("CROWN")
    exact = network.graph_as(torch.float64, "cpu")
    centre = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.rand(100, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
    for radius in (0.3, 0.01):
        x = centre + radius * noise
        values = exact.forward(x)[exact.output].flatten(1)
        if name != "solved":
            with torch.no_grad():
                torch.testing.assert_close(values, module.double()(x).double(), rtol=1e-9, atol=1e-9)
        region = cl.bounds.box(centre[None] - radius, centre[None] + radius)
        for bound in (cl.bounds.interval, cl.bounds.crown):
            lower = bound(network, region)
            assert bool(lower.isfinite().all()) and bool((values >= lower - 1e-9).all())


@pytest.mark.parametrize("op", [Sign(), Floor(), Round()])
def test_limits_that_rounding_took_from_a_jump_reach_it(op: Any) -> None:
    """A number at a jump may be computed as one beside it, as max(a, b) − a; exact limits and farther ones stay."""
    at = 0.0 if isinstance(op, Sign) else 2.0 if isinstance(op, Floor) else 2.5
    here = float(op.forward(torch.tensor(at, dtype=torch.float64)))
    for off in (1e-16, -1e-16, 1e-13, -1e-13):
        beside = torch.tensor([[at + off]], dtype=torch.float64)
        if float(beside) != at:
            lower, upper = op.interval(Interval(beside, beside))
            assert float(lower) <= here <= float(upper)
            assert float(lower) <= float(op.forward(beside)) <= float(upper)
            lines = op.relax([Interval(beside, beside)], [(1,)])
            assert float(lines.lower_slope * at + lines.lower_offset) <= here + 1e-9
            assert float(lines.upper_slope * at + lines.upper_offset) >= here - 1e-9
    exact = torch.tensor([[at]], dtype=torch.float64)
    assert [float(side) for side in op.interval(Interval(exact, exact))] == [here, here]
    far = torch.tensor([[at + 0.01]], dtype=torch.float64)
    assert [float(side) for side in op.interval(Interval(far, far))] == [float(op.forward(far))] * 2
