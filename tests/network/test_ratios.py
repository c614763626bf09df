"""Ratios that cannot exceed one: recognised however they are written, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl


class Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def overlap(x: Tensor, *, wrong: int = 0) -> Tensor:
    """Intersection over union of two boxes ``(left, top, right, bottom)``; wrong: an end that is not the box's."""
    a, b = x[:, :4], x[:, 4:]
    sides = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    common = sides[:, 0].clamp(min=0) * sides[:, 1].clamp(min=0)
    areas = [(v[:, 2] - v[:, wrong]) * (v[:, 3] - v[:, 1]) for v in (a, b)]
    return (common / (areas[0] + areas[1] + 1e-3 - common))[:, None]


KNOWN: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "unit vector": (functional.normalize, -1.0),
    "length and a constant": (lambda x: x / (x.norm(dim=1, keepdim=True) + 1e-6), -1.0),
    "sum of sizes": (lambda x: x / x.abs().sum(1, keepdim=True).clamp(min=1e-6), -1.0),
    "share": (lambda x: (lambda p: p / (p.sum(1, keepdim=True) + 1e-6))(x.relu() * x.sigmoid()), 0.0),
}


def limits(function: Callable[[Tensor], Tensor], low: float = -1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Interval and CROWN bounds over [low, 1]^8 of all outputs, and the least and the largest value of samples."""
    net = cl.load(Of(function).eval(), (8,))
    region = cl.bounds.box(torch.full((1, 8), low, dtype=torch.float64), torch.ones(1, 8, dtype=torch.float64))
    x = low + (1 - low) * torch.rand(2000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = function(torch.cat([x, torch.where(x < (1 + low) / 2, low, 1.0), 1e-3 * x.clamp(min=low)]))
    y = y[y.isfinite().all(1)]
    return cl.bounds.interval(net, region)[0], cl.bounds.crown(net, region)[0], y.amin(0), y.amax(0)


@pytest.mark.parametrize("name", KNOWN)
def test_ratios_are_known_where_the_denominator_may_be_zero(name: str):
    function, least = KNOWN[name]
    interval, crown, lowest, _ = limits(function)
    for bound in (interval, crown):
        assert bool((bound >= least).all()) and bool((bound <= lowest + 1e-12).all())


def test_the_overlap_of_two_boxes_is_a_share_of_their_union():
    """Any ends at all: a box may be inside out, its area negative, and the union near zero."""
    interval, crown, lowest, highest = limits(overlap)
    assert float(interval.min()) >= 0.0 and float(crown.min()) >= 0.0
    assert float(lowest) >= 0.0 and float(highest) <= 1.0


def union_and_more(x: Tensor) -> Tensor:
    """Two overlaps, of unions from which a number is taken that both share."""
    sides = torch.stack([x, 0.5 * x], 1)
    a, b = sides[..., :4], sides[..., 4:]
    common = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    common = common[..., 0].clamp(min=0) * common[..., 1].clamp(min=0)
    areas = [(v[..., 2] - v[..., 0]) * (v[..., 3] - v[..., 1]) for v in (a, b)]
    shared = (x[:, :1] - 1).expand(-1, 2) + 0.1
    return common / (areas[0] + areas[1] + shared - common)


@pytest.mark.parametrize(
    "function",
    [
        union_and_more,
        lambda x: overlap(x, wrong=1),
        lambda x: x / (x.norm(dim=1, keepdim=True) - 1e-3),
        lambda x: x / x.sum(1, keepdim=True),
        lambda x: x / x[:, :4].norm(dim=1, keepdim=True).clamp(min=1e-3),
        lambda x: 2 * x / x.norm(dim=1, keepdim=True),
    ],
    ids=["more than areas", "another area", "shorter", "negative terms", "other elements", "twice"],
)  # fmt: skip
def test_what_looks_alike_is_not_cut_off(function: Callable[[Tensor], Tensor]):
    interval, _, lowest, _ = limits(function)
    assert bool((interval <= lowest + 1e-9).all())
    assert float(lowest.min()) < 0.0 and float(interval.min()) < -1.0
