"""A vision transformer on the 8 × 8 digits: trained in a minute, attacked, bounded, and evaluated at several radii.

    python examples/vision_transformer.py [--eps 0.01 0.02 0.03] [--images 10] [--epochs 120] [--time-limit 60]

Patches of 2 × 4 pixels become tokens, beside a class token; one block of attention and a multilayer perceptron, each
behind a layer normalisation, then a linear layer that reads the class token. Trained on images with random changes of
up to 0.06 and with weight decay, so that bounds have something to hold on to. For each radius: the share of test images
that CROWN proves and the interval ``[proven robust, not attacked]`` of ``cl.study.evaluate``.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl

#: width of a token, heads, units of the perceptron
WIDTH, HEADS, UNITS = 16, 2, 32
CHANGE = 0.06


class Block(nn.Module):
    """Attention and a multilayer perceptron, each added to what it reads normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, UNITS), nn.GELU(), nn.Linear(UNITS, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, tokens, WIDTH)`` to tokens."""
        x = self.first(tokens)
        tokens = tokens + self.attention(x, x, x, need_weights=False)[0]
        return tokens + self.perceptron(self.second(tokens))


class Transformer(nn.Module):
    """Images ``(B, 1, 8, 8)`` to ten scores."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, (2, 4), stride=(2, 4))
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.places = nn.Parameter(0.02 * torch.randn(1, 9, WIDTH))
        self.block = Block()
        self.last = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Ten scores."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], 1) + self.places
        return self.last(self.block(tokens)[:, 0])


def digits(train: int = 1200) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images ``(N, 1, 8, 8)`` and labels, the first ``train`` for training and the rest for the test."""
    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(found.target)
    return (x[:train], y[:train]), (x[train:], y[train:])


def trained(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """AdamW on images with random changes."""
    torch.manual_seed(0)
    model = Transformer()
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=epochs * -(-len(x) // 60))
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(60):
            change = CHANGE * (2 * torch.rand_like(x[batch]) - 1)
            loss = functional.cross_entropy(model((x[batch] + change).clamp(0, 1)), y[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
    return model.eval()


def proven(bound: Tensor, y: Tensor) -> float:
    """Share of images whose nine margins are above zero; row y bounds ``z_y − z_y`` and says nothing."""
    return float((bound.scatter(1, y.unsqueeze(1), torch.inf) > 0).all(1).double().mean())


def main(options: argparse.Namespace) -> None:
    """Train, and print a line for each radius."""
    (x, y), (test_x, test_y) = digits()
    model = trained(x, y, options.epochs)
    with torch.no_grad():
        right = (model(test_x).argmax(1) == test_y).double().mean()
    net = cl.load(model, (1, 8, 8))
    print(f"{sum(p.numel() for p in model.parameters()):,} weights, {float(right):.1%} of {len(test_x)} images right")
    x, y = test_x[: options.images], test_y[: options.images]
    eye = torch.eye(10, dtype=torch.float64)
    margins = eye[y].unsqueeze(1) - eye
    print(f"{'eps':>7} {'CROWN':>8}  evaluate")
    for eps in options.eps:
        region = cl.bounds.ball(x, eps, cl.inf, lower=0, upper=1)
        crown = proven(cl.bounds.crown(net, region, margins), y)
        study = cl.study.evaluate(net, (x, y), eps=eps, methods="cheap", time_limit=options.time_limit)
        low, high = study.interval
        print(f"{eps:7g} {crown:8.0%}  [{low:.0%}, {high:.0%}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.01, 0.02, 0.03])
    for name, value in (("images", 10), ("epochs", 120), ("time-limit", 60.0)):
        parser.add_argument(f"--{name}", type=type(value), default=value)
    main(parser.parse_args())
