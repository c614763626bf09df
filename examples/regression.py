"""How far can a regression network's output move? A two-link arm whose hand a small network has learned to place.

    python examples/regression.py [--inputs 4] [--eps 0.1] [--time-limit 10] [--figure change.png]

For each norm: the largest change of the linear model with its bound, then that of the network, found and proven.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import clinch as cl
from clinch.applications.regression import change_figure, largest_change
from clinch.figures import save


def arm(x: torch.Tensor) -> torch.Tensor:
    """Position ``(N, 2)`` of the hand for angles and lengths ``(N, 4)``."""
    first, both = x[:, 0], x[:, 0] + x[:, 1]
    return torch.stack([x[:, 2] * first.cos() + x[:, 3] * both.cos(), x[:, 2] * first.sin() + x[:, 3] * both.sin()], 1)


def draw(count: int, generator: torch.Generator) -> torch.Tensor:
    """Angles in [-1.5, 1.5], lengths in [0.5, 1.5]."""
    x = torch.rand(count, 4, generator=generator)
    return torch.cat([3 * x[:, :2] - 1.5, x[:, 2:] + 0.5], 1)


def train(steps: int = 1500) -> nn.Module:
    """A network of 32 and 32 ReLUs, trained in seconds."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        x = draw(256, generator)
        loss = (model(x) - arm(x)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    return model.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind, value in (("inputs", int, 4), ("eps", float, 0.1), ("time-limit", float, 10.0)):
        parser.add_argument(f"--{name}", type=kind, default=value)
    parser.add_argument("--figure", default="change.png")
    options = parser.parse_args()
    net, x = cl.load(train(), input_shape=(4,)), draw(options.inputs, torch.Generator().manual_seed(1))
    changes = {p: largest_change(net, x, options.eps, norm=p, time_limit=options.time_limit) for p in (1, 2, cl.inf)}
    for p, change in changes.items():
        print(f"\nnorm {p:g}\n{change}")
    heading = "How far the hand moves when angles and lengths change a little"
    save(change_figure(net, x, options.eps, changes, heading=heading, names=("x", "y")), options.figure)
