"""Ten convolutional architectures of 32 × 32 images, small, with random weights: what bounds were not written for.

Strided, grouped, dilated and transposed convolutions, residual blocks with batch norm, joins of a DenseNet, a U-Net,
squeeze and excitation, depthwise separable convolutions, a ResNeXt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **more: int) -> nn.Sequential:
    """A convolution of odd kernel that keeps the image's size but for its stride, batch norm, ReLU."""
    padding = more.get("dilation", 1) * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False, **more)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _head(width: int, places: int = 1, classes: int = 10) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(places), nn.Flatten(), nn.Linear(width * places**2, classes)]


class Residual(nn.Module):
    """``ReLU(body(x) + shortcut(x))``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Joined(nn.Module):
    """Each layer reads all before it, joined along the channels (Huang et al. 2017, arXiv 1608.06993)."""

    def __init__(self, inputs: int, growth: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv(inputs + k * growth, growth) for k in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class UNet(nn.Module):
    """Down twice, up twice, with what was on the way down joined (Ronneberger et al. 2015, arXiv 1505.04597)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = _conv(3, 8), _conv(8, 16), _conv(16, 16)
        self.up_second, self.up_first = nn.ConvTranspose2d(16, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.join_second, self.join_first = _conv(32, 16), _conv(16, 8)
        self.out = nn.Sequential(nn.Conv2d(8, 2, 1), *_head(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(nn.functional.max_pool2d(first, 2))
        third = self.third(nn.functional.avg_pool2d(second, 2))
        second = self.join_second(torch.cat([self.up_second(third), second], 1))
        return self.out(self.join_first(torch.cat([self.up_first(second), first], 1)))


class Excited(nn.Module):
    """Channels weighed by what the whole image gives (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, width: int, small: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, small, 1), nn.ReLU(), nn.Conv2d(small, width, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weights(x)


def _strided() -> nn.Module:
    return nn.Sequential(
        _conv(3, 16, 5, 2), _conv(16, 32, 3, 2), _conv(32, 32, 3), nn.Flatten(), nn.Linear(2048, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def _grouped() -> nn.Module:
    return nn.Sequential(
        _conv(3, 16), nn.AvgPool2d(2), _conv(16, 32, groups=4), nn.ChannelShuffle(4), _conv(32, 32, 3, 2, groups=4),
        *_head(32, 2),
    )  # fmt: skip


def _dilated() -> nn.Module:
    return nn.Sequential(
        _conv(3, 8, 3, 2), _conv(8, 16, dilation=2), _conv(16, 16, dilation=4), _conv(16, 16), *_head(16, 4)
    )


def _transposed() -> nn.Module:
    return nn.Sequential(
        _conv(3, 16, 3, 2), _conv(16, 16, 3, 2), nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 3, 2, 1, 1), nn.ReLU(), _conv(8, 8, 3, 4), *_head(8, 4),
    )  # fmt: skip


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    body = nn.Sequential(
        _conv(inputs, outputs, 3, stride), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
    )
    return Residual(body, nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)))


def _residual() -> nn.Module:
    return nn.Sequential(_conv(3, 16), _block(16, 16, 2), _block(16, 32, 2), _block(32, 32, 2), *_head(32))


def _dense_net() -> nn.Module:
    return nn.Sequential(
        _conv(3, 12, 3, 2), Joined(12, 6, 3), _conv(30, 16, 1), nn.AvgPool2d(2), Joined(16, 6, 3), *_head(34, 2)
    )


def _squeeze() -> nn.Module:
    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(_conv(inputs, outputs, 3, 2), Excited(outputs, 4))

    return nn.Sequential(block(3, 12), block(12, 24), _conv(24, 24), *_head(24, 2))


def _separable() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        return nn.Sequential(_conv(inputs, inputs, 3, stride, groups=inputs), _conv(inputs, outputs, 1))

    return nn.Sequential(_conv(3, 16, 3, 2), block(16, 24, 1), block(24, 32, 2), block(32, 32, 1), *_head(32, 2))


def _resnext() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        body = nn.Sequential(
            _conv(inputs, outputs, 1), _conv(outputs, outputs, 3, stride, groups=4),
            nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        return Residual(body, nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)))

    return nn.Sequential(_conv(3, 16, 3, 2), block(16, 16, 1), block(16, 32, 2), *_head(32, 2))


#: name -> how it is made, and the radius in 255ths
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "strided": (_strided, 2.0),
    "grouped": (_grouped, 2.0),
    "dilated": (_dilated, 2.0),
    "transposed": (_transposed, 2.0),
    "residual": (_residual, 1.0),
    "dense net": (_dense_net, 1.0),
    "u-net": (UNet, 1.0),
    "squeeze": (_squeeze, 1.0),
    "separable": (_separable, 1.0),
    "resnext": (_resnext, 1.0),
}
