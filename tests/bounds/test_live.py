"""Networks that are trained on: bounds follow the weights, and gradients reach them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import clinch as cl
from clinch.errors import NetworkError

pytestmark = pytest.mark.table


class Functional(nn.Module):
    """Weights used outside of layers, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(x @ (2 * self.w).T)
        return self.out(torch.relu(h @ self.w))


class Scaled(nn.Module):
    """A factor that is no factor once it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.scale * x))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LeakyReLU(0.1), nn.Linear(5, 3))


def convolutional() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.7, -1.2]))
        model[1].running_mean.copy_(torch.tensor([0.1, -0.2]))
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (dense, (4,)),
    "convolutional": (convolutional, (1, 2, 3)),
    "functional": (Functional, (4,)),
}
METHODS = [cl.bounds.interval, cl.bounds.fast_dual, cl.bounds.crown]


def made(kind: str, seed: int = 0) -> tuple[nn.Module, cl.Network]:
    torch.manual_seed(seed)
    make, shape = MODELS[kind]
    model = make().double().eval()
    return model, cl.load(model, input_shape=shape, live=True)


def around(net: cl.Network, p: float = math.inf) -> cl.bounds.Region:
    center = torch.randn(3, *net.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return cl.bounds.ball(center.clamp(-1, 1), 0.4, p, lower=-1.2, upper=1.2)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("bound", METHODS)
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_those_of_finite_differences(kind: str, bound, p: float) -> None:
    model, net = made(kind)
    region = around(net, p)
    weights = [w for w in model.parameters() if w.requires_grad]
    gradients = torch.autograd.grad(bound(net, region).sum(), weights)
    rng = torch.Generator().manual_seed(2)
    directions = [torch.randn(w.shape, generator=rng, dtype=torch.float64) for w in weights]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, directions))
    step = 1e-6
    ends = []
    for sign in (step, -2 * step):
        with torch.no_grad():
            for w, d in zip(weights, directions):
                w.add_(d, alpha=sign)
            ends.append(float(bound(net, region).sum()))
    assert expected == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_bounds_and_solutions_follow_the_weights(kind: str) -> None:
    model, net = made(kind)
    region = around(net)
    before = cl.bounds.crown(net, region)
    with torch.no_grad():
        for w in model.parameters():
            w.mul_(1.3).add_(0.05)
    fresh = cl.load(model, input_shape=net.input_shape)
    torch.testing.assert_close(cl.bounds.crown(net, region).detach(), cl.bounds.crown(fresh, region))
    assert not torch.allclose(cl.bounds.crown(net, region), before)
    x, z = net.input, net.output
    problem = cl.Problem(cl.Minimize(z[0] - z[1]), [x >= -1, x <= 1])
    again = cl.Problem(cl.Minimize(fresh.output[0] - fresh.output[1]), [fresh.input >= -1, fresh.input <= 1])
    s, t = problem.solve(time_limit=5), again.solve(time_limit=5)
    assert s.status is cl.Status.OPTIMAL and s.value == pytest.approx(t.value, abs=2e-3)


def test_the_module_keeps_its_weights_and_other_networks_theirs() -> None:
    model, net = made("dense")
    before = [w.detach().clone() for w in model.parameters()]
    fixed = cl.load(model, input_shape=(4,))
    region = around(net)
    held = cl.bounds.crown(fixed, region)
    assert not held.requires_grad
    cl.bounds.crown(net, region).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert torch.equal(cl.bounds.crown(fixed, region), held)


def test_bounds_without_gradients_need_no_graph() -> None:
    _, net = made("dense")
    region = around(net)
    assert not cl.bounds.alpha_crown(net, region).requires_grad
    assert not cl.bounds.lp(net, region).requires_grad


def test_a_layer_that_comes_to_change_nothing() -> None:
    model = Scaled().double().eval()
    net = cl.load(model, input_shape=(4,), live=True)
    with torch.no_grad():
        model.scale.fill_(1.0)
    with pytest.raises(NetworkError, match="Load the model again"):
        cl.bounds.crown(net, around(net))


def test_only_modules_are_live() -> None:
    _, net = made("dense")
    with pytest.raises(NetworkError, match="live=True is for"):
        cl.load(net, live=True)


def test_the_page_about_bounds_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its blocks, one after the other, as a reader would type them."""
    text = (Path(__file__).parents[2] / "docs" / "bounds.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "docs/bounds.md", "exec"), names)
    assert len(blocks) == 4 and isinstance(names["model"], nn.Module)
    assert all(w.grad is not None for w in names["model"].parameters())
