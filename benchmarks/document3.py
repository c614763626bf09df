"""Document 3's experiment on MNIST: fooling ratios over ε, ρ̂₁, ρ̂₂ and ε₉₉, beside the published ones.

Balda, Behboodi and Mathar 2018 (arXiv 1803.03607), Table I and Figure 2: p = ∞, no limits of the pixels, random test
images that are classified correctly. LeNet-5 has the authors' own weights and, as in their program, an image of 32 × 32
whose black border may be changed too, so its numbers must agree. The same network attacked through its 28 × 28 pixels
alone stands beside it (fewer pixels: a little more robust); FCNN has the published layers with weights trained here, so
that only the pattern can agree. DeepFool runs in the paper's form (overshoot 0.02, at most 50 steps, not drawn back).

Ends with exit code 1 if a number of LeNet-5 lies outside its tolerance.

    python benchmarks/document3.py [--images 1024] [--seed 0] [--networks lenet lenet28 fcnn]

Writes benchmarks/results/document3.md and benchmarks/results/document3.png.
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from second_look import SecondLook
from torch import Tensor, nn

import clinch as cl
from clinch.attacks import AttackResult, algorithm1, algorithm2, deepfool, fast_grad, first_order_radius, random_signs
from clinch.data import mnist, model_file, reference_file
from clinch.study import eps_99, fooling_ratio, rho1, rho2

RESULTS = Path(__file__).parent / "results"
#: images at once
BATCH = 256
#: what a fooling ratio may differ from the published one by: two samples of about 1024 images
CURVE_TOLERANCE = 0.04
#: our name, the published column, the method
METHODS: dict[str, tuple[str, Callable[..., AttackResult]]] = {
    "DeepFool": ("deepfool", deepfool),
    "Algorithm 1": ("algorithm1", algorithm1),
    "Algorithm 1-5": ("", lambda *a, **k: algorithm1(*a, steps=5, **k)),
    "FastGrad": ("fastgrad", fast_grad),
    "Algorithm 2": ("algorithm2", algorithm2),
    "Random": ("random", random_signs),
}
#: Okabe and Ito's colours
COLOURS = dict(zip(METHODS, ("#222222", "#D55E00", "#CC79A7", "#0072B2", "#009E73", "#8A8A8A")))


@dataclass(frozen=True)
class Row:
    """A row of Table I: what was published, and by how much ours may differ (None: it is not the same network)."""

    title: str
    model: str
    border: int
    reference: str
    error: float
    measures: dict[str, float]
    tolerance: dict[str, float] | None


ROWS = {
    "lenet": Row(
        "LeNet-5, the authors' weights", "mnist_lenet5_published", 2, "balda_fooling_ratio_lenet.csv", 0.009,
        {"ρ̂₁": 0.077, "ρ̂₂": 0.061, "ε₉₉": 0.164}, {"ρ̂₁": 0.002, "ρ̂₂": 0.002, "ε₉₉": 0.008},
    ),
    "lenet28": Row(
        "LeNet-5, the border left alone", "mnist_lenet5_published", 0, "balda_fooling_ratio_lenet.csv", 0.009,
        {"ρ̂₁": 0.077, "ρ̂₂": 0.061, "ε₉₉": 0.164}, None,
    ),
    "fcnn": Row(
        "FCNN 784-150-100-10, our weights", "mnist_fcnn", 0, "balda_fooling_ratio_fcnn.csv", 0.017,
        {"ρ̂₁": 0.036, "ρ̂₂": 0.034, "ε₉₉": 0.076}, None,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One network's numbers: test error, measures, curves by method over ε, CPU seconds by method for one ε."""

    row: Row
    error: float
    measures: dict[str, float]
    eps: list[float]
    curves: dict[str, list[float]]
    published: dict[str, list[float]]
    seconds: dict[str, float]

    @property
    def misses(self) -> list[str]:
        """What lies outside its tolerance."""
        if self.row.tolerance is None:
            return []
        found = [
            f"{name} {self.measures[name]:.4f}, published {value}"
            for name, value in self.row.measures.items()
            if not abs(self.measures[name] - value) <= self.row.tolerance[name]
        ]
        for name, curve in self.published.items():
            for eps, ours, theirs in zip(self.eps, self.curves[name], curve):
                if not abs(ours - theirs) <= CURVE_TOLERANCE:
                    found.append(f"{name} at ε {eps:.4f}: {ours:.3f}, published {theirs:.3f}")
        return found


def network(row: Row) -> nn.Module | cl.Network:
    """The reference model; with a border LeNet-5 takes the padded image, instead of padding it inside."""
    if not row.border:
        return cl.load(str(model_file(f"{row.model}.onnx")))
    half = [nn.ReLU(), nn.MaxPool2d(2)]
    dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    net = nn.Sequential(nn.Conv2d(1, 6, 5), *half, nn.Conv2d(6, 16, 5), *half, nn.Flatten(), *dense)
    net.load_state_dict(load_file(model_file(f"{row.model}.safetensors")))
    return net.eval().requires_grad_(False)


def sample(model: str, count: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """Random test images that onnxruntime classifies correctly, and the error on all of the test set."""
    data = mnist("test")
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed))
    look = SecondLook(model)
    predicted = torch.cat([look.logits(part).argmax(1) for part in data.x.split(1000)])
    right = predicted == data.y
    chosen = order[right[order]][:count]
    return data.x[chosen], data.y[chosen], 1 - float(right.double().mean())


def published(name: str) -> tuple[list[float], dict[str, list[float]]]:
    """ε and the curves of Figure 2."""
    with reference_file(name).open(newline="") as file:
        lines = list(csv.DictReader(file))
    curves = {ours: [float(line[column]) for line in lines] for ours, (column, _) in METHODS.items() if column}
    return [float(line["epsilon"]) for line in lines], curves


def batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(BATCH), y.split(BATCH)))


def measure(row: Row, images: int, seed: int) -> Outcome:
    net = network(row)
    x, y, error = sample(row.model, images, seed)
    x = nn.functional.pad(x, [row.border] * 4)
    eps, theirs = published(row.reference)
    parts = batches(x, y)
    weight = torch.tensor([len(part) for part, _ in parts], dtype=torch.float64) / len(x)
    start = time.process_time()
    nearest = [deepfool(net, *part, norm=cl.inf, halvings=0, bounds=None) for part in parts]
    seconds = {"DeepFool": time.process_time() - start}
    found = _joined(nearest)
    print(f"  DeepFool {seconds['DeepFool']:.2f} s: not fooled in 50 steps: {1 - float(fooling_ratio(found)):.4f}")
    curves = {"DeepFool": fooling_ratio(found, torch.tensor(eps, dtype=torch.float64)).tolist()}
    for name, (_, method) in METHODS.items():
        if name == "DeepFool":
            continue
        start = time.process_time()
        ratios = [torch.stack([fooling_ratio(method(net, *part, eps=e, bounds=None)) for part in parts]) for e in eps]
        seconds[name] = (time.process_time() - start) / len(eps)
        curves[name] = [float(weight @ ratio) for ratio in ratios]
        print(f"  {name} {seconds[name]:.2f} s: {' '.join(f'{r:.3f}' for r in curves[name])}", flush=True)
    radius = torch.cat([first_order_radius(net, *part) for part in parts])
    measures = {"ρ̂₁": rho1(found, x), "ρ̂₂": rho2(radius), "ε₉₉": eps_99(found)}
    return Outcome(row, error, measures, eps, curves, theirs, seconds)


def _joined(found: list[AttackResult]) -> AttackResult:
    columns = (
        torch.cat([getattr(f, name) for f in found])
        for name in ("x", "success", "value", "distance", "loss", "forward", "backward")
    )
    return AttackResult(*columns, tuple(reason for f in found for reason in f.reason))


# --- writing ------------------------------------------------------------------------------------------------------


def table(outcome: Outcome) -> list[str]:
    row = outcome.row
    lines = [f"## {row.title}", "", "| | ours | published |", "|---|---|---|"]
    lines.append(f"| test error | {outcome.error:.2%} | {row.error:.1%} |")
    for name, value in row.measures.items():
        within = f" ± {row.tolerance[name]} asked" if row.tolerance else ""
        lines.append(f"| {name} | {outcome.measures[name]:.4f} | {value}{within} |")
    lines += ["", "Fooling ratio, ours / published:", ""]
    lines.append("| ε | " + " | ".join(METHODS) + " |")
    lines.append("|---" * (len(METHODS) + 1) + "|")
    for i, eps in enumerate(outcome.eps):
        cells = [
            f"{outcome.curves[name][i]:.3f}"
            + (f" / {outcome.published[name][i]:.3f}" if name in outcome.published else "")
            for name in METHODS
        ]
        lines.append(f"| {eps:.4f} | " + " | ".join(cells) + " |")
    apart = {
        name: max(abs(a - b) for a, b in zip(outcome.curves[name], curve)) for name, curve in outcome.published.items()
    }
    lines += ["", "Largest difference: " + ", ".join(f"{name} {gap:.3f}" for name, gap in apart.items()) + "."]
    lines += ["CPU seconds for all images and one ε: "
              + ", ".join(f"{name} {s:.2f}" for name, s in outcome.seconds.items()) + "."]  # fmt: skip
    return [*lines, ""]


def figure(outcomes: list[Outcome]) -> Figure:
    canvas = Figure(figsize=(4.6 * len(outcomes), 3.7), dpi=110, layout="constrained")
    axes = canvas.subplots(1, len(outcomes), squeeze=False)[0]
    for axis, outcome in zip(axes, outcomes):
        for name, colour in COLOURS.items():
            axis.plot(outcome.eps, outcome.curves[name], color=colour, linewidth=1.6, label=name)
            if name in outcome.published:
                axis.plot(outcome.eps, outcome.published[name], "o", color=colour, markersize=4, fillstyle="none")
        axis.plot([], [], "o", color="#222222", markersize=4, fillstyle="none", label="published")
        axis.set_title(outcome.row.title, fontsize=10)
        axis.set_xlabel("ε (ℓ∞)")
        axis.grid(color="#EAEAEA", linewidth=0.7)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel("fooling ratio")
    axes[-1].legend(frameon=False, fontsize=8, loc="upper left")
    return canvas


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", nargs="+", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    outcomes = []
    for name in options.networks:
        print(name, flush=True)
        outcomes.append(measure(ROWS[name], options.images, options.seed))
        print("  " + ", ".join(f"{k} {v:.4f}" for k, v in outcomes[-1].measures.items()))
    misses = [miss for outcome in outcomes for miss in outcome.misses]
    head = [
        "# Document 3 on MNIST",
        "",
        f"{options.images} random correctly classified test images (seed {options.seed}), p = ∞, no limits of the "
        f"pixels. torch {torch.__version__}, {platform.machine()}, one thread. Repeat with "
        "`python benchmarks/document3.py`.",
        "",
        "Outside its tolerance: " + ("; ".join(misses) if misses else "nothing") + ".",
        "",
        "![Fooling ratios beside the published ones](document3.png)",
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    body = [line for outcome in outcomes for line in table(outcome)]
    (RESULTS / "document3.md").write_text("\n".join([*head, *body]).rstrip() + "\n")
    figure(outcomes).savefig(RESULTS / "document3.png")
    print("\n".join(misses) or "all within tolerance")
    return 1 if misses else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
