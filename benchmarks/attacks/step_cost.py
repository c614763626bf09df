"""What a step of an attack costs beside a bare pair of passes: ``model(x)`` and ``torch.autograd.grad`` of one score.

A perceptron of 20 and 20 ReLUs, a small convolutional network, and one for images of 224 × 224 with a thousand classes,
all with random weights, on batches of 1, 16 and 128 inputs (of the large images 1 and 4). Radii are so small that no
input reaches its goal and leaves. The cost of a step is the difference of two runs of different lengths, so that what
an attack does once does not count, over the passes they differ by. Seconds are of the CPU clock, the least of several
repeats of both sides in turn; the numbers of torch's operations (dispatched ones, the backward pass included) do not
depend on the machine or on what else it does.

    python -m benchmarks step_cost [--repeats 10] [--networks perceptron]

Writes benchmarks/results/step_cost.md.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import clinch as cl
from benchmarks.common.page import RESULTS, table, write_page
from clinch.attacks import AttackResult

TAKES = "ten minutes"
#: a radius within which nothing is found
TINY = 1e-9
Attack = Callable[[nn.Module, Tensor, Tensor, int], AttackResult]


def perceptron() -> nn.Module:
    """784-20-20-10."""
    layers = [nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def convolutional() -> nn.Module:
    """Two convolutions and two layers, for 28 × 28."""
    first = [nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10))


def large() -> nn.Module:
    """Three convolutions for 224 × 224, a thousand classes."""
    first = [nn.Conv2d(3, 16, 7, 4, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    last = [nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1000)]
    return nn.Sequential(*first, *last)


NETWORKS = {
    "perceptron": (perceptron, (1, 28, 28), (1, 16, 128)),
    "convolutional": (convolutional, (1, 28, 28), (1, 16, 128)),
    "large": (large, (3, 224, 224), (1, 4)),
}
ATTACKS: dict[str, Attack] = {
    "pgd ℓ∞": lambda net, x, y, n: cl.attacks.pgd(net, x, y, eps=TINY, steps=n),
    "apgd ℓ∞": lambda net, x, y, n: cl.attacks.apgd(net, x, y, eps=TINY, steps=n),
    "fmn ℓ2": lambda net, x, y, n: cl.attacks.fmn(net, x, y, norm=2, steps=n),
    "ddn": lambda net, x, y, n: cl.attacks.ddn(net, x, y, steps=n),
    "nearest ℓ2": lambda net, x, y, n: cl.attacks.nearest(net, x, y, norm=2, passes=2 * n),
    "nearest ℓ∞": lambda net, x, y, n: cl.attacks.nearest(net, x, y, norm=math.inf, passes=2 * n),
}
#: steps of the two runs
SHORT, LONG = 40, 160


class Operations(TorchDispatchMode):
    """Counts what is dispatched while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def bare(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """One pass each way."""
    z = x.detach().requires_grad_()
    torch.autograd.grad(net(z).gather(1, y.unsqueeze(1)).sum(), z)


def seconds(run: Callable[[], Any]) -> float:
    """Of the CPU clock."""
    began = time.process_time()
    run()
    return time.process_time() - began


def operations(run: Callable[[], Any]) -> int:
    """How many are dispatched."""
    with Operations() as counted:
        run()
    return counted.count


def measured(net: nn.Module, x: Tensor, y: Tensor, repeats: int) -> list[list[str]]:
    """A row for each attack: ratio of seconds, and operations of a step."""

    def pairs() -> None:
        for _ in range(LONG - SHORT):
            bare(net, x, y)

    rows, pair = [], operations(lambda: bare(net, x, y))
    for name, attack in ATTACKS.items():
        short, long = (partial(attack, net, x, y, n) for n in (SHORT, LONG))
        steps = float((long().passes - short().passes).double().mean()) / 2
        least = [
            min(column) for column in zip(*([seconds(run) for run in (pairs, short, long)] for _ in range(repeats)))
        ]
        ratio = (least[2] - least[1]) / steps / (least[0] / (LONG - SHORT))
        count = (operations(long) - operations(short)) / steps
        rows.append([name, f"{ratio:.2f}", f"{count:.0f}", str(pair), f"{1e6 * least[0] / (LONG - SHORT):.0f}"])
    return rows


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.networks:
        make, shape, batches = NETWORKS[name]
        torch.manual_seed(0)
        net = make().eval()
        for batch in batches:
            x = 0.1 + 0.8 * torch.rand(batch, *shape, generator=torch.Generator().manual_seed(1))
            for row in measured(net, x, net(x).argmax(1), options.repeats):
                rows.append([name, str(batch), *row])
                print(*rows[-1], flush=True)
    head = ["network", "batch", "attack", "ratio of CPU seconds", "operations of a step", "of a bare pair", "bare µs"]
    page = [
        "A step (one pass each way) beside `model(x)` and `torch.autograd.grad`. Batches that are no multiple of four",
        "are filled up to one on a CPU unless inputs are large, so that what is found for an input does not depend on",
        "the others.", "", *table(head, rows), "",
    ]  # fmt: skip
    write_page(RESULTS / "step_cost.md", "What a step of an attack costs", page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
