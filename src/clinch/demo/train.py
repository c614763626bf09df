"""Train the demo's network: ``python -m clinch.demo.train [FILE]``. Ten seconds on one core."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from clinch.demo import WEIGHTS, architecture, digits


def train(*, seed: int = 0, epochs: int = 200, batch: int = 32, learning_rate: float = 0.02) -> nn.Sequential:
    """Cross-entropy, stochastic gradient descent with momentum 0.9, weight decay 1e-3 and a cosine step size.

    Pixels are moved by Gaussian noise of scale 0.1 (clipped to [0, 1]), so that 1,438 images are enough.
    """
    generator = torch.Generator().manual_seed(seed)
    model = architecture()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.0 if parameter.dim() == 1 else (2 / parameter.shape[1]) ** 0.5
            parameter.normal_(0.0, 1.0, generator=generator).mul_(scale)
    x, y = digits("train")
    optimiser = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            noise = 0.1 * torch.randn(x[rows].shape, generator=generator)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model((x[rows] + noise).clamp(0, 1)), y[rows]).backward()
            optimiser.step()
        schedule.step()
    return model.eval()


def accuracy(model: nn.Module, split: str) -> float:
    """Share of images whose class is right."""
    x, y = digits(split)
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def main() -> None:
    """Train, report the accuracy on both splits, write the weights."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS
    torch.set_num_threads(1)
    model = train()
    save_file(model.state_dict(), target)
    print(f"train {accuracy(model, 'train'):.2%}, held out {accuracy(model, 'test'):.2%}: wrote {target}")


if __name__ == "__main__":
    main()
