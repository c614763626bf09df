"""Segmentation: which loss changes the most pixels, which attack, and how many pixels CROWN proves.

    python -m benchmarks segmentation [--images 8]

The network of `examples/segmentation.py`. Writes benchmarks/results/segmentation.md. CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import time

import torch

import clinch as cl
from benchmarks.common.page import RESULTS, write_page
from clinch.applications.segmentation import Pixels, changeable
from clinch.demo.segmenter import canvases, pixel_accuracy, train_segmenter

TAKES = "5 minutes"
LOSSES = ("margin", "sum of margins", "cross-entropy", "masked cross-entropy", "soft count")
RADII, SMALL_RADII = (0.02, 0.1, 0.2), (0.002, 0.005, 0.01, 0.02, 0.03, 0.05)


def losses_table(net: torch.nn.Module, x: torch.Tensor, target: torch.Tensor | None) -> list[str]:
    title = "take the class of a drawn frame" if target is not None else "change"
    lines = [f"\n## Share of pixels that {title}, APGD with 100 steps\n"]
    lines += ["| loss | " + " | ".join(f"eps {eps:g}" for eps in RADII) + " |", "|---" * (len(RADII) + 1) + "|"]
    for loss in LOSSES:
        shares = []
        for eps in RADII:
            goal = Pixels(net, x, target=target)
            shares.append(float(goal.changed(cl.attacks.apgd(goal, eps=eps, loss=loss).x).double().mean()))
        lines.append(f"| {loss} | " + " | ".join(f"{share:.2%}" for share in shares) + " |")
        print(lines[-1], flush=True)
    return lines


def methods_table(net: torch.nn.Module, x: torch.Tensor, eps: float) -> list[str]:
    methods = {
        "GNII": lambda goal: cl.attacks.linear_model_step(goal, eps=eps, loss="soft count"),
        "PGD, 100 steps": lambda goal: cl.attacks.pgd(goal, eps=eps, steps=100),
        "APGD, 100 steps": lambda goal: cl.attacks.apgd(goal, eps=eps),
        "APGD, 100 steps, 3 restarts": lambda goal: cl.attacks.apgd(goal, eps=eps, restarts=3),
        "Frank-Wolfe, 100 steps": lambda goal: cl.attacks.frank_wolfe(goal, eps=eps, steps=100, loss="soft count"),
        "worst, 2000 passes": lambda goal: cl.attacks.worst(goal, eps=eps, passes=2000),
    }
    lines = [f"\n## Attacks on the soft count, eps {eps:g}\n", "| | changed | CPU seconds |", "|---|---|---|"]
    for title, attack in methods.items():
        goal, begin = Pixels(net, x), time.process_time()
        share = float(goal.changed(attack(goal).x).double().mean())
        lines.append(f"| {title} | {share:.2%} | {time.process_time() - begin:.1f} |")
        print(lines[-1], flush=True)
    return lines


def proof_table(net: torch.nn.Module, x: torch.Tensor) -> list[str]:
    lines = ["\n## How many pixels one perturbation can change: the interval\n"]
    lines += ["| eps | changed by APGD | at most, by CROWN | CPU seconds |", "|---|---|---|---|"]
    network = cl.load(net, input_shape=tuple(x.shape[1:]))
    for eps in SMALL_RADII:
        begin = time.process_time()
        found = changeable(network, x, eps=eps)
        pixels = found.changed[0].numel()
        low, high = (float(t.double().mean()) / pixels for t in (found.value, found.bound))
        lines.append(f"| {eps:g} | {low:.2%} | {high:.2%} | {time.process_time() - begin:.1f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.process_time()
    net = train_segmenter()
    seconds = time.process_time() - begin
    x = canvases(options.images, "test", seed=2).x
    accuracy, ink = pixel_accuracy(net, canvases(200, "test", seed=1))
    frame = torch.zeros(20, 30, dtype=torch.long)
    frame[4:16, 6:24] = 2
    frame[7:13, 9:21] = 0
    lines = [
        f"{options.images} canvases of 20 × 30 pixels, 6 classes; the network, trained in {seconds:.0f} s, is right on "
        f"{accuracy:.1%} of the pixels and {ink:.1%} of those with ink. p = ∞, pixels in [0, 1]; "
        "one thread.",
    ]
    lines += losses_table(net, x, None) + losses_table(net, x, frame) + methods_table(net, x, 0.1) + proof_table(net, x)
    write_page(RESULTS / "segmentation.md", "Segmentation: losses, attacks and proofs", lines)


if __name__ == "__main__":
    main()
