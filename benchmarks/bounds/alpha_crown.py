"""α-CROWN with 20 iterations beside auto_LiRPA's figures: milliseconds per image, mean bound, share verified.

The first MNIST test images, ℓ∞ balls of radius eps within [0, 1], nine margins ``z_y − z_t`` per image, all
intermediate limits by α-CROWN too; float64 bounds, one thread, CPU time of the process. CROWN runs in the same process
for scale.

    python -m benchmarks alpha_crown [--repeat 3] [--steps 20]

Writes benchmarks/results/alpha_crown.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import clinch as cl
from benchmarks.common.page import RESULTS, write_page
from clinch.io.data import mnist, model_file

TAKES = "2 minutes"


class Case(NamedTuple):
    """A row of the table; the last two are auto_LiRPA's ms per image and mean bound (None: not published here)."""

    network: str
    eps: float
    batch: int
    theirs: float
    their_mean: float | None


#: auto_LiRPA 0.7.1, α-CROWN with 20 iterations, one thread on this kind of machine
CASES = [
    Case("small", 0.02, 100, 17, 10.10),
    Case("dnn2", 0.02, 100, 58, 8.54),
    Case("dnn4", 0.02, 10, 170, None),
    Case("fcnn", 0.02, 100, 88, 15.98),
    Case("rsl18a_linf0.1", 0.1, 100, 115, 0.098),
    Case("wk17a_linf0.1", 0.1, 10, 3597, None),
]


def measured(run: Callable[[], Tensor], repeat: int) -> tuple[Tensor, float]:
    """What it returns, and the median of its CPU seconds."""
    seconds, result = [], run()
    for _ in range(repeat):
        began = time.process_time()
        result = run()
        seconds.append(time.process_time() - began)
    return result, statistics.median(seconds)


def row(case: Case, repeat: int, steps: int) -> str:
    """One line of the table."""
    net = cl.load(str(model_file(f"mnist_{case.network}.onnx")))
    x, y = mnist("test")
    x, y = x[: case.batch].double(), y[: case.batch]
    eye = torch.eye(10, dtype=torch.float64)
    targets = torch.stack([torch.tensor([t for t in range(10) if t != label]) for label in y.tolist()])
    c = eye[y].unsqueeze(1) - eye[targets]
    region = cl.bounds.ball(x, case.eps, cl.inf, lower=0, upper=1)
    crown, crown_seconds = measured(lambda: cl.bounds.crown(net, region, c), repeat)
    alpha, seconds = measured(lambda: cl.bounds.alpha_crown(net, region, c, steps=steps), repeat)
    ours, verified = 1e3 * seconds / case.batch, float((alpha > 0).all(1).double().mean())
    theirs = "–" if case.their_mean is None else f"{case.their_mean:g}"
    return (
        f"| {case.network} {case.eps:g} | {case.batch} | {1e3 * crown_seconds / case.batch:.2f} | {ours:.2f} | "
        f"{case.theirs:g} | {case.theirs / ours:.1f} | {float(crown.mean()):.4f} | {float(alpha.mean()):.4f} | "
        f"{theirs} | {verified:.0%} |"
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "First MNIST test images, nine margins each, ℓ∞ ball ∩ [0, 1]. CPU milliseconds per image, one thread, median",
        f"of {options.repeat}; the bounds are float64. auto_LiRPA's columns are version 0.7.1's with 20 iterations,",
        "measured earlier on this kind of machine, also one thread: the ratio is between two runs, not within one.",
        "",
        "| network, eps | batch | CROWN ms | α-CROWN ms | auto_LiRPA ms | times faster | CROWN mean | α-CROWN mean "
        "| auto_LiRPA mean | verified |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    print("\n".join(lines[-2:]))
    for case in CASES:
        lines.append(row(case, options.repeat, options.steps))
        print(lines[-1], flush=True)
    write_page(RESULTS / "alpha_crown.md", f"α-CROWN, {options.steps} steps, beside auto_LiRPA", lines)


if __name__ == "__main__":
    main()
