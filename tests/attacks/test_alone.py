"""An input's result depends on that input alone: bit by bit the same by itself and in any batch."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from methods import METHODS, Method
from test_conformance import run
from torch import nn

from clinch.attacks import AttackResult

pytestmark = pytest.mark.table

EACH = [
    pytest.param(
        m, p, id=f"{m.name}-{p}",
        marks=pytest.mark.skipif(bool(m.needs) and importlib.util.find_spec(m.needs) is None, reason=m.needs),
    )
    for m in METHODS for p in m.norms if not m.shared
]  # fmt: skip
QUICK = {"steps": 12, "rounds": 3, "searches": 2}
RADIUS = {0.0: 4.0, 1.0: 2.0, 2.0: 0.5}
SHAPE = (7, 11)


class Products(nn.Linear):
    """A dense layer whose rows have nothing to do with each other, whatever BLAS does: products, and sums of each."""

    def forward(self, x):
        return (x.unsqueeze(1) * self.weight).sum(2) + self.bias


def network(dense: type[nn.Linear] = Products) -> nn.Module:
    """Blind where the input is zero: every hidden element is switched off there."""
    torch.manual_seed(0)
    layers = nn.Flatten(), dense(77, 30), nn.ReLU(), dense(30, 5)
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    model[1].bias.copy_(-model[1].bias.abs() - 0.01)
    return model


def batch(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Four inputs, one of them twice, one that is misclassified, one without a gradient; ties in all of them."""
    x = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    x[1, :3] = 0.0  # at the edge of the range
    x[2] = (4 * x[2]).round() / 4
    x[5] = 0.0
    y = model(x).argmax(1)
    y[4] = (y[4] + 1) % 5
    return x[[0, 1, 2, 3, 0, 4, 5]], y[[0, 1, 2, 3, 0, 4, 5]]


def quick(method: Method) -> dict[str, int]:
    """Fewer steps than the table has."""
    return {name: min(method.settings[name], most) for name, most in QUICK.items() if name in method.settings}


def assert_same(one: AttackResult, other: AttackResult, here: list[int], there: list[int]) -> None:
    for name in ("x", "success", "value", "distance", "loss", "forward", "backward"):
        a, b = getattr(one, name)[here], getattr(other, name)[there]
        assert torch.equal(a, b), f"{name} of inputs {here}: {a.flatten()[:9]}, {b.flatten()[:9]}"
    assert [one.reason[i] for i in here] == [other.reason[i] for i in there]


def assert_alone(attack, x, y) -> None:
    """The whole batch, another order, and each input by itself."""
    together = attack(x, y)
    order = [3, 6, 0, 5, 2, 4, 1]
    assert_same(attack(x[order], y[order]), together, list(range(7)), order)
    assert_same(together, together, [0], [4])
    for i in (0, 1, 2, 6):
        assert_same(attack(x[[i]], y[[i]]), together, [0], [i])


@pytest.mark.parametrize(("method", "p"), EACH)
def test_a_batch_changes_nothing(method: Method, p: float):
    model = network()
    x, y = batch(model)
    assert_alone(lambda x, y: run(method, model, x, y, p, eps=RADIUS.get(p, 0.05), **quick(method)), x, y)


def ordinary(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Networks of torch's own layers, whose products a CPU takes several rows at a time."""
    if kind == "convolutions":
        layers = nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
        return nn.Sequential(*layers), (1, 8, 8)
    return nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4)), (30,)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("dense", torch.float64),
        ("convolutions", torch.float32),
        pytest.param("dense", torch.float32, marks=pytest.mark.slow),
        pytest.param("convolutions", torch.float64, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "p"), [each for each in EACH if each.values[1] in (each.values[0].norms[-1],)])
def test_a_batch_changes_nothing_of_an_ordinary_network(method: Method, p: float, kind: str, dtype: torch.dtype):
    torch.manual_seed(0)
    model, shape = ordinary(kind)
    model = model.to(dtype).eval().requires_grad_(False)
    x = torch.rand(33, *shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    y = model(x).argmax(1)
    settings = {name: min(value, 4) for name, value in quick(method).items()}

    def attack(*rows: int) -> AttackResult:
        return run(method, model, x[list(rows)], y[list(rows)], p, eps=RADIUS.get(p, 0.05), **settings)

    together = attack(*range(33))
    for rows in ([7], [28, 29, 30, 31, 32]):
        assert_same(attack(*rows), together, list(range(len(rows))), rows)
