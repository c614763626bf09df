"""Rows go only where they matter: limits are those of all rows wherever somebody can make use of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import clinch as cl
from clinch.bounds import demand, forward, refine
from clinch.bounds.crown import activation_bounds, form_bounds, relaxations_from
from clinch.query import Forms

pytestmark = pytest.mark.table


class Signs(nn.Module):
    """A small network of signs, as binarised ones are, with channels last in front and behind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 2)
        self.norm, self.pool, self.last = nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Linear(4, 3)
        self.norm.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        y = (self.norm(self.pool(self.first(x.permute(0, 3, 1, 2)))).sign() + 0.1).sign()
        return self.last(self.pool(self.second(y)).permute(0, 2, 3, 1).flatten(1).sign())


class Counted(nn.Module):
    """How many pixels are of the class that is given, as segmentation is measured."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.scores = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.scores(x[:, :1])
        second = (scores[:, 1] - scores[:, 0]).sign().relu()
        return (1 - (second - x[:, 1].floor()).abs()).relu().flatten(1).sum(1, keepdim=True)


def pools() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.MaxPool2d(2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    )


CASES = [(Signs, (9, 9, 2)), (Counted, (2, 5, 5)), (pools, (2, 7, 7))]


@pytest.mark.parametrize("p", [2.0, cl.inf])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_bounds_are_those_of_rows_for_every_element(case, p, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = case
    net = cl.load(make().double().eval(), input_shape=shape)
    graph = net.graph
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    region = cl.bounds.ball(x, 0.02 if p == cl.inf else 0.1, p)
    asked: dict[str, int] = {}

    def counted(g, j, limits, r, made, wanted, *others):
        asked[g.nodes[j].name] = int(wanted.open(limits).sum())
        return refine.refined(g, j, limits, r, made, wanted, *others)

    monkeypatch.setattr(forward, "refined", counted)
    found = activation_bounds(graph, region)
    few = sum(asked.values())
    wanted_of = demand.demand
    monkeypatch.setattr(demand, "demand", lambda *_: demand.EVERYTHING)
    nowhere = lambda self, i: torch.zeros_like(self.limits[i].lower, dtype=torch.bool)  # noqa: E731
    monkeypatch.setattr(demand.Walk, "_as_good", nowhere)
    asked.clear()
    every = activation_bounds(graph, region)
    assert few < sum(asked.values())
    size = graph.nodes[graph.output].size
    units, zero = torch.eye(size, dtype=torch.float64)[None], torch.zeros(3, size, dtype=torch.float64)
    forms = Forms({graph.output: units}, zero)
    lower, best = (
        form_bounds(graph, forms, region, relaxations_from(graph, held, [graph.output])) for held in (found, every)
    )
    torch.testing.assert_close(lower, best, rtol=0, atol=1e-9)
    for j, limits in found.items():
        moved = every[j]
        open_ = wanted_of(graph, j).open(moved)
        for mine, theirs, side in zip(limits, moved, (1, -1)):
            assert bool((side * (mine - theirs) >= -1e-9)[open_].all())
    share = torch.rand(200, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for t in share:
        inside = region.lower + t * (region.upper - region.lower)
        for b in region.balls:
            scale = (b.radius / b.distance(inside)).clamp(max=1).reshape(-1, 1, 1, 1)
            inside = b.center + (inside - b.center) * scale
        for j, value in graph.forward(inside, list(found)).items():
            assert bool((found[j].lower <= value + 1e-9).all() and (value <= found[j].upper + 1e-9).all())
