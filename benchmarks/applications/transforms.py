"""Images under rotation, brightness, translation and stickers: certified shares beside grid attacks.

The first images of the test sets, right or wrong; mnist-small is of ``cl.zoo``, the network of CIFAR-10 is of VNN-COMP
(oval21, robustly trained). The grid attack is of this page: every combination of 41 values of one
parameter, 15 of two, changed by PyTorch's ``affine_grid`` and ``grid_sample`` in single precision and answered by the
network itself. Where no data of CIFAR-10 are, those rows are left out.

Ends with exit code 1 where a certified image has another label somewhere on the grid.

    python -m benchmarks transforms [--count 50] [--seconds 120] [--out FILE]
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import clinch as cl
from benchmarks.attacks.networks import cifar_network
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, table, write_page
from clinch.applications.transforms import under_transforms
from clinch.io.data import data_folder
from clinch.network.activations import predicted
from clinch.study.sources import open_source

TAKES = "ten minutes"
VALUES = {1: 41, 2: 15}
CASES = {
    "mnist-small": (
        "rotation=5", "brightness=0.1", "rotation=5,brightness=0.1", "translation=0.05", "contrast=0.2,brightness=0.1",
        "blur=1", "sticker=3",
    ),
    "cifar_base_kw": ("rotation=5", "brightness=0.1", "rotation=2,brightness=0.02", "sticker=3"),
}  # fmt: skip


def turned(x: Tensor, given: dict[str, float]) -> Tensor:
    """Images changed in single precision, written here anew."""
    angle = given.get("rotation", 0.0) * math.pi / 180
    shift = 2 * given.get("down", 0.0), 2 * given.get("right", 0.0)
    cos, sin = math.cos(angle), math.sin(angle)
    rows = [[cos, -sin, -cos * shift[1] + sin * shift[0]], [sin, cos, -sin * shift[1] - cos * shift[0]]]
    grid = F.affine_grid(torch.tensor([rows]).expand(len(x), -1, -1), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    x = 0.5 + (1 + given.get("contrast", 0.0)) * (x - 0.5) + given.get("brightness", 0.0)
    return x.clamp(0, 1)


def grid_attacked(network: Any, x: Tensor, y: Tensor, text: str) -> Tensor | None:
    """Which images ``(B,)`` have another label somewhere on the grid; None for what it does not know."""
    most = {name: float(value) for name, value in (part.split("=") for part in text.split(","))}
    if "translation" in most:
        most["down"] = most["right"] = most.pop("translation")
    if not set(most) <= {"rotation", "down", "right", "contrast", "brightness"}:
        return None
    wrong = torch.zeros(len(x), dtype=torch.bool)
    axes = [torch.linspace(-reach, reach, VALUES[len(most)]).tolist() for reach in most.values()]
    with torch.no_grad():
        for values in itertools.product(*axes):
            wrong |= predicted(network, turned(x, dict(zip(most, values)))) != y
    return wrong


def network_of(name: str) -> Any | None:
    """The network, loaded; None where its file is not there."""
    if name in cl.zoo():
        return cl.load(cl.zoo(name), input_shape=(1, 28, 28))
    try:
        return cifar_network(name)
    except FileNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "transforms.md")
    options = parser.parse_args()
    count_cpu_seconds()
    rows, contradictions = [], 0
    for name, cases in CASES.items():
        network = network_of(name)
        if network is None:
            continue
        source = open_source("mnist" if network.input_shape[0] == 1 else str(data_folder() / "cifar10" / "test.npz"))
        batch = source.read(range(options.count), network.input_shape, torch.float32)
        for text in cases:
            began = time.process_time()
            found = under_transforms(network, batch.x, batch.y, text, time_limit=options.seconds)
            seconds = (time.process_time() - began) / len(batch.y)
            grid = grid_attacked(network, batch.x, batch.y, text)
            contradictions += 0 if grid is None else int((grid & found.certified).sum())
            count = len(batch.y)
            rows.append((
                name, text.replace(",", ", "), f"{found.certified.sum() / count:.0%}",
                f"{1 - found.attacked.double().mean():.0%}", "" if grid is None else f"{1 - grid.double().mean():.0%}",
                f"{found.boxes.double().mean():.0f}", f"{seconds:.2f}",
            ))  # fmt: skip
            print(*rows[-1], sep="  ", flush=True)
    lines = [
        f"{options.count} images, at most {options.seconds:g} CPU seconds for all of them; shares that keep their "
        "label: certified, at most by Clinch's attack, at most by the grid.",
        "",
        *table(
            ("network", "changes", "certified", "Clinch's attack", "grid", "boxes an image", "CPU s an image"), rows
        ),
        "",
        f"Certified images with another label somewhere on the grid: {contradictions}.",
    ]
    write_page(options.out, "Changes with few parameters", lines)
    sys.exit(1 if contradictions else 0)


if __name__ == "__main__":
    main()
