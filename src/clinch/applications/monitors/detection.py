"""How a monitor does on data that it was not made for: false-alarm and detection rates, as Monitizer reports them.

Azeem, Grobelna, Kanav, Křetínský, Mohr and Rieder 2024 (Monitizer, arXiv 2405.10350) sort what a monitor should notice
into kinds: noise, wrong transformations, other data, a class that was not there in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clinch.applications.arguments import Loadable, inputs_of
from clinch.applications.monitors.arguments import opened
from clinch.applications.monitors.joined import Monitor
from clinch.errors import ShapeError
from clinch.network.activations import predicted
from clinch.runtime.arguments import as_number, as_tensor, checked_range


def noisy(x: Tensor, sigma: float = 0.2, *, seed: int = 0, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Inputs with Gaussian noise, clipped to their range."""
    x, (low, high) = _real(x), checked_range(bounds)
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return (x + as_number(sigma, "sigma") * drawn.to(x.device)).clamp(low, high)


def blurred(x: Tensor, sigma: float = 2.0) -> Tensor:
    """Images ``(B, ..., H, W)`` after a Gaussian blur of so many pixels."""
    x = _real(x)
    if x.dim() < 3:
        raise ShapeError(f"x has shape {tuple(x.shape)}; expected images (B, …, height, width).")
    reach = math.ceil(3 * as_number(sigma, "sigma"))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=x.dtype) / sigma) ** 2)
    weights = weights / weights.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        pad = (0, 0, reach, reach) if shape[2] == -1 else (reach, reach, 0, 0)
        flat = nn.functional.conv2d(nn.functional.pad(flat, pad), weights.reshape(shape))
    return flat.reshape(x.shape)


def inverted(x: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Inputs with dark and bright exchanged."""
    low, high = checked_range(bounds)
    return low + high - _real(x)


def _real(x: Tensor) -> Tensor:
    """Inputs as numbers with a point."""
    x = as_tensor(x, "x", "a tensor (B, *input_shape)")
    return x if x.is_floating_point() else x.float()


def fitted_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images ``(B, C, H, W)`` or ``(B, H, W)`` of other data in a network's input shape: grey where it has one channel,
    scaled by bilinear interpolation."""
    x = _real(x).float()
    if x.dim() not in (3, 4):
        raise ShapeError(f"x has shape {tuple(x.shape)}; expected images (B, C, H, W) or (B, H, W).")
    images = x if x.dim() == 4 else x.unsqueeze(1)
    channels, height, width = shape if len(shape) == 3 else (1, *shape)
    images = images.mean(1, keepdim=True) if channels == 1 else images.expand(-1, channels, -1, -1)
    return nn.functional.interpolate(images, (height, width), mode="bilinear").reshape(-1, *shape)


@dataclass(frozen=True)
class Rate:
    """A share of inputs, with Wilson's 95 % interval.

    Attributes:
        count: inputs that the monitor rejects; of: all inputs.
    """

    count: int
    of: int

    @property
    def share(self) -> float:
        """Rejected inputs of all."""
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 1927, for 95 %."""
        z, n, p = 1.959964, self.of, self.share
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.1f} % ({100 * low:.1f} .. {100 * high:.1f})"


@dataclass(frozen=True, repr=False)
class Detection:
    """What :func:`detection` found; printed as a table.

    Attributes:
        alarms: rejected inputs of the data that the network was made for.
        detected: rejected inputs of each other data set.
        auroc: of each, the share of pairs of inputs, one of either data, in which the other one has the larger score.
    """

    alarms: Rate
    detected: Mapping[str, Rate]
    auroc: Mapping[str, float]

    def __str__(self) -> str:
        width = max([len("false alarms"), *map(len, self.detected)])
        lines = [f"{'false alarms':<{width}}  {self.alarms}"]
        return "\n".join(
            [
                *lines,
                *(f"{name:<{width}}  {rate}   AUROC {self.auroc[name]:.3f}" for name, rate in self.detected.items()),
            ]
        )

    __repr__ = __str__

    def markdown(self) -> str:
        """The table in Markdown."""
        rows = [("data", "rejected (95 %)", "AUROC"), ("---", "---", "---:"), ("false alarms", str(self.alarms), "")]
        rows += [(name, str(rate), f"{self.auroc[name]:.3f}") for name, rate in self.detected.items()]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def detection(network: Loadable, monitor: Monitor, x: Tensor, others: Mapping[str, Tensor] | None = None) -> Detection:
    """False alarms on inputs of the network's own data, and the share of other data that the monitor rejects.

    Args:
        network: what ``clinch.load`` returned.
        monitor: what watches it.
        x: ``(B, *input_shape)`` inputs that it should accept.
        others: name -> inputs that it should reject; None: :func:`noisy`, :func:`blurred` and :func:`inverted` ones.

    Raises:
        ShapeError, NonFiniteError: data without inputs, or inputs that do not fit.

    Example:
        >>> from clinch.applications.monitors import fit_monitor
        >>> found = detection(net, fit_monitor(net, "relu2", x_train, accept=0.99), x_test[:50])
        >>> sorted(found.detected)
        ['blur', 'inverted', 'noise']
    """
    network, x = opened(network, monitor, x)
    others = {"noise": noisy(x), "blur": blurred(x), "inverted": inverted(x)} if others is None else others
    others = {name: inputs_of(network, other, name=f"others[{name!r}]") for name, other in others.items()}
    own = monitor.score(network, x, predicted(network, x))
    rates, auroc = {}, {}
    for name, other in others.items():
        score = monitor.score(network, other, predicted(network, other))
        rates[name] = Rate(int((score > 0).sum()), len(score))
        above = (score.unsqueeze(1) > own).double() + 0.5 * (score.unsqueeze(1) == own).double()
        auroc[name] = float(above.mean())
    return Detection(Rate(int((own > 0).sum()), len(own)), rates, auroc)
