"""Inputs of ImageNet's size: normalisation inside the model, a thousand classes, bounded memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import clinch as cl
from clinch.attacks.core.batches import AT_ONCE

SHAPE, CLASSES = (3, 224, 224), 1000


class Block(nn.Module):
    """Two convolutions with batch normalisation and a short cut, as in wide residual networks."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.short = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.short(x))


class WideResNet(nn.Module):
    """Pixels in [0, 1]; mean and scale are the model's own. ``largest`` is the largest batch it has seen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(*(Block(a, b, 1 + (i > 0)) for i, (a, b) in enumerate(pairwise(widths))))
        self.head = nn.Linear(widths[-1], CLASSES)
        self.largest = 0

    def forward(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, len(x))
        h = self.blocks(self.pool(self.stem((x - self.mean) / self.scale)))
        return self.head(h.mean((2, 3)))


def case(width: int, count: int) -> tuple[WideResNet, Tensor, Tensor]:
    torch.manual_seed(0)
    model = WideResNet(width).eval().requires_grad_(False)
    x = torch.rand(count, *SHAPE)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("p", [2.0, torch.inf])
def test_the_default_attack_on_224_by_224(p):
    model, x, y = case(8, 2)
    found = cl.attacks.nearest(model, x, y, norm=p, passes=120)
    assert bool(found.success.all()) and int(found.passes.max()) <= 120
    assert bool((model(found.x).argmax(1) != y).all())
    assert model.largest <= AT_ONCE // x[0].numel()


@pytest.mark.slow
def test_a_wide_network_and_many_lanes_stay_small():
    model, x, y = case(32, 4)
    found = cl.attacks.worst(model, x, y, eps=4 / 255, passes=500)
    assert model.largest <= AT_ONCE // x[0].numel()
    assert bool(found.success.any()) and bool((model(found.x[found.success]).argmax(1) != y[found.success]).all())
