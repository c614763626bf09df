"""Train a small network on its interval bounds, and certify it with CROWN before and after.

    python examples/certified_training.py [--eps 0.06] [--epochs 40] [--train 1200]

Data: the 8 × 8 digits of scikit-learn, pixels in [0, 1]. The loss is the cross-entropy of the *worst* margins that the
interval bounds leave possible within ``‖δ‖_∞ <= eps`` (Gowal et al. 2018, arXiv 1810.12715): minus the certified lower
limits of ``z_y − z_t`` stand for the logits of the classes t. The radius grows from zero over the first half of the
training, as in the paper. Certified: CROWN proves all nine margins positive.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import clinch as cl


class Accuracy(NamedTuple):
    """Shares of the test images: classified rightly, and proven to stay so within the radius."""

    clean: float
    certified: float


def digits(train: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images ``(N, 1, 8, 8)`` and labels, the first ``train`` for training and the rest for the test."""
    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(found.target)
    return (x[:train], y[:train]), (x[train:], y[train:])


def margins(y: Tensor, classes: int = 10) -> Tensor:
    """Rows ``(B, classes, classes)`` of ``z_y − z_t``, t = 0 … classes − 1; row y is zero."""
    eye = torch.eye(classes, dtype=torch.float64)
    return eye[y].unsqueeze(1) - eye


def accuracy(net: cl.Network, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Accuracy:
    """Clean and certified accuracy."""
    region = cl.bounds.ball(x, eps, cl.inf, lower=0, upper=1)
    with torch.no_grad():
        right = model(x).argmax(1) == y
        worst = cl.bounds.crown(net, region, margins(y))
    # row y bounds z_y − z_y and says nothing
    proven = (worst.scatter(1, y.unsqueeze(1), torch.inf) > 0).all(1)
    return Accuracy(float(right.double().mean()), float((right & proven).double().mean()))


def train(net: cl.Network, model: nn.Module, x: Tensor, y: Tensor, eps: float, epochs: int, share: float) -> None:
    """Adam on ``(1 − share)·clean + share·worst-case`` cross-entropy; ``net`` reads the weights of ``model``."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        radius = eps * min(1.0, 2 * epoch / epochs)
        for batch in torch.randperm(len(x)).split(100):
            region = cl.bounds.ball(x[batch], radius, cl.inf, lower=0, upper=1)
            worst = cl.bounds.interval(net, region, margins(y[batch]))
            loss = share * nn.functional.cross_entropy(-worst, y[batch])
            loss = loss + (1 - share) * nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def run(eps: float, epochs: int, count: int, seed: int = 0) -> tuple[Accuracy, Accuracy]:
    """Accuracies after plain training, and after as many epochs on the bounds."""
    torch.manual_seed(seed)
    (x, y), (x_test, y_test) = digits(count)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    model.eval()  # no layer of it behaves differently in training
    net = cl.load(model, input_shape=(1, 8, 8), live=True)
    train(net, model, x, y, eps, epochs, share=0.0)
    plain = accuracy(net, model, x_test, y_test, eps)
    train(net, model, x, y, eps, epochs, share=0.7)
    return plain, accuracy(net, model, x_test, y_test, eps)


def main() -> None:
    """Train, certify, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eps", type=float, default=0.06)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--train", type=int, default=1200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain, robust = run(options.eps, options.epochs, options.train)
    print(f"{'training':<22} {'clean':>7} {'certified at eps = ' + format(options.eps, 'g'):>27}")
    for name, found in (("plain", plain), ("on interval bounds", robust)):
        print(f"{name:<22} {found.clean:7.1%} {found.certified:27.1%}")


if __name__ == "__main__":
    main()
