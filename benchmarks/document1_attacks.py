"""First-order attacks on three MNIST classifiers, beside the error rates published for networks of the same recipe.

Kolter and Madry, "Adversarial Robustness: Theory and Practice", chapter 4: a fully connected network with one hidden
layer, one with three, and a convolutional one. The published figures belong to other weights and to all 10,000 test
images; what has to agree is the pattern: the convolutional network is clearly harder, PGD finds more than FGSM, and
restarts a little more than that.

Ends with exit code 1 if the pattern does not hold or onnxruntime does not confirm a point.

    python benchmarks/document1_attacks.py [--images 1000] [--slow-images 200]

Writes benchmarks/results/document1_attacks.md.
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from attack_runs import Run, measure
from second_look import SecondLook

import clinch as cl
from clinch.data import Images, mnist, model_file

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("mnist_dnn2", "mnist_dnn4", "mnist_cnn")
#: the class that targeted attacks aim at; images of that class are left out
TARGET = 2
#: by how much the convolutional network has to be harder than the others
CLEARLY = 0.1


@dataclass(frozen=True)
class Row:
    """An attack of the table.

    Attributes:
        name: what it is called there.
        settings: arguments of :func:`clinch.attacks.pgd`.
        published: error rates for the three networks, where there are any.
    """

    name: str
    settings: dict[str, Any]
    published: tuple[float | None, ...] = (None, None, None)
    targeted: bool = field(default=False)


STEPS = {"step_size": 0.01, "steps": 40}
ROWS = [
    Row("FGSM, ε .1", {"eps": 0.1, "steps": 1, "step_size": 0.1}, (0.9259, 0.8827, 0.4173)),
    Row("PGD, plain gradient, ε .1, α .01", {"eps": 0.1, "normalise": False, **STEPS}),
    Row("PGD, plain gradient, ε .1, α 10⁴", {"eps": 0.1, "normalise": False, "step_size": 1e4, "steps": 40}),
    Row("PGD ℓ∞, ε .1, α .01", {"eps": 0.1, **STEPS}, (0.9637, 0.9838, 0.7432)),
    Row("the same, 10 restarts", {"eps": 0.1, "restarts": 10, **STEPS}, (None, None, 0.7648)),
    Row("PGD ℓ2, ε 2, α .1", {"eps": 2.0, "norm": 2.0, "step_size": 0.1, "steps": 40}, (0.9232, 0.9435, 0.7854)),
    Row("PGD ℓ1, ε 7 (ours)", {"eps": 7.0, "norm": 1.0, "steps": 40}),
    Row("targeted, z_t − z_y, ε .2", {"eps": 0.2, "loss": "difference", **STEPS}, targeted=True),
    Row("targeted, z_t − Σ z_c, ε .2", {"eps": 0.2, "loss": "against all", **STEPS}, targeted=True),
]


def run_row(row: Row, network: str, count: int) -> Run:
    """One attack on one network."""
    net, data = cl.load(str(model_file(f"{network}.onnx"))), mnist("test")
    images, target = Images(data.x[:count], data.y[:count]), None
    if row.targeted:
        other = images.y != TARGET
        images = Images(images.x[other], images.y[other])
        target = torch.full_like(images.y, TARGET)
    settings = {**row.settings, "target": target}
    return measure(
        lambda x, y: cl.attacks.pgd(net, x, y, **settings), SecondLook(network), images,
        settings["eps"], settings.get("norm", cl.inf), target,
    )  # fmt: skip


def pattern(rates: dict[str, list[float]]) -> list[str]:
    """What of the published pattern does not hold."""
    wrong = []
    for row in ROWS:
        narrow = rates[row.name]
        if row.settings.get("normalise", True) and narrow[2] > min(narrow[:2]) - CLEARLY:
            wrong.append(f"{row.name}: the convolutional network is not clearly harder")
    single, pgd, restarts = rates[ROWS[0].name], rates[ROWS[3].name], rates[ROWS[4].name]
    for i, network in enumerate(NETWORKS):
        if not single[i] < pgd[i] <= restarts[i]:
            wrong.append(f"{network}: FGSM {single[i]:.3f}, PGD {pgd[i]:.3f}, restarts {restarts[i]:.3f}")
    return wrong


def main() -> int:
    """Measure, write the page, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--slow-images", type=int, default=200, help="for the convolutional network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines, rates, wrong = [], {}, []
    for row in ROWS:
        cells, rates[row.name] = [], []
        for network, published in zip(NETWORKS, row.published):
            run = run_row(row, network, options.slow_images if network == "mnist_cnn" else options.images)
            rates[row.name].append(run.error)
            wrong += [f"{row.name}, {network}: {text}" for text in run.wrong]
            beside = "–" if published is None else f"{published:.4f}"
            cells.append(f"{run.error:.3f} | {beside} | {run.seconds:.1f}")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    wrong += pattern(rates)
    head = "| attack | " + " | ".join(f"{network[6:]} | published | CPU s" for network in NETWORKS) + " |"
    page = [
        "# First-order attacks and their published error rates", "",
        f"    python benchmarks/{' '.join([Path(__file__).name, *sys.argv[1:]])}", "",
        f"Error rates over the first {options.images} MNIST test images ({options.slow_images} for cnn), misclassified",
        "ones included. Pixels stay in [0, 1]; 40 steps except for FGSM. The published figures (Kolter and Madry,",
        "Adversarial Robustness, chapter 4) belong to other weights and to all test images. For targeted attacks the",
        f"figure is the share of the images of other classes that are taken to class {TARGET}. The plain gradient",
        "shows why steps are normalised: one step size does not fit gradients that differ by orders of magnitude.",
        f"CPU seconds of one thread. Python {platform.python_version()}, torch {torch.__version__}, "
        f"{platform.machine()}.", "",
        head, "|" + "---|" * (head.count("|") - 1), *lines, "",
        "Judged: " + ("; ".join(wrong) or "the published pattern holds, and onnxruntime confirms every point."), "",
    ]  # fmt: skip
    path = RESULTS / "document1_attacks.md"
    path.write_text("\n".join(page))
    print(f"Written to {path.relative_to(RESULTS.parents[1])}", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
