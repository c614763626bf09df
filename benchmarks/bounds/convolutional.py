"""CROWN on convolutional and residual networks: CPU seconds, memory and worst margins, before a change and beside it.

Networks with random weights (seed 0) and batch norm of random statistics, one image, ℓ∞ balls within [0, 1], all nine
margins (ResNet-18: one); and the first instance of sets of VNN-COMP. One thread, CPU seconds of the bounds alone, peak
memory of the whole process. Each measurement is a process of its own, columns take turns, and the fastest counts.

    python -m benchmarks convolutional [--base CHECKOUT] [--lirpa PYTHON] [--repeat 2] [--alone resnet18]

With ``--base`` another checkout is measured as well; with ``--lirpa``, a Python that has auto_LiRPA, its CROWN (in
float32, with patches where these hold). Writes benchmarks/results/convolutional.md; ends with exit code 1 where batch
norm costs more than 1.2 times the hand-folded network, ResNet-18 needs 60 s or 4 GB, or a margin is looser than
auto_LiRPA's or the base's by 1e-4 of its size.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.bounds.architectures import ARCHITECTURES

TAKES = "10 minutes"
HERE = Path(__file__).resolve()


class Block(nn.Module):
    """A basic block of a ResNet (He et al. 2015, arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions, and a shortcut around them."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet(stem: list[nn.Module], widths: tuple[int, ...], blocks: int, classes: int) -> nn.Module:
    """Stages of blocks on a stem that gives ``widths[0]`` channels; each stage but the first halves the image."""
    layers, width = list(stem), widths[0]
    for stage, outputs in enumerate(widths):
        for block in range(blocks):
            layers.append(Block(width, outputs, 2 if stage and not block else 1))
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def small_stem(width: int) -> list[nn.Module]:
    return [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def vgg() -> nn.Sequential:
    """Five convolutions, each with batch norm, three pools and two dense layers."""
    layers: list[nn.Module] = []
    width = 3
    for outputs in (16, 16, 0, 32, 32, 0, 64, 0):
        if outputs:
            layers += [nn.Conv2d(width, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
            width = outputs
        else:
            layers.append(nn.MaxPool2d(2) if len(layers) > 10 else nn.AvgPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * width, 64), nn.ReLU(), nn.Linear(64, 10))


def folded(model: nn.Sequential) -> nn.Sequential:
    """The same network without batch norm, by torch's own fusion."""
    layers: list[nn.Module] = []
    for part in model:
        before = layers[-1] if layers else None
        if isinstance(part, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            layers[-1] = fuse_conv_bn_eval(before, part)
        else:
            layers.append(part)
    return nn.Sequential(*layers).eval()


def resnet18() -> nn.Module:
    """As timm's, for 1000 classes."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return resnet(stem, (64, 128, 256, 512), 2, 1000)


#: name -> how it is made, and the radius in 255ths
NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "vgg": (vgg, 2.0),
    "vgg, folded by hand": (vgg, 2.0),
    "resnet 8": (lambda: resnet(small_stem(16), (16, 32, 64), 1, 10), 2.0),
    "resnet 14": (lambda: resnet(small_stem(16), (16, 32, 64), 2, 10), 1.0),
    "resnet18": (resnet18, 1.0),
    **ARCHITECTURES,
}
#: sets of VNN-COMP whose first instance is bounded
SETS = ("oval21", "cifar10_resnet", "sri_resnet_a", "sri_resnet_b")
FAMILIES = {"clinch": "Clinch", "base": "base", "lirpa": "auto_LiRPA"}


def made(name: str) -> nn.Module:
    """A network of the table, in evaluation mode, with statistics of its own."""
    torch.manual_seed(0)
    model, generator = NETWORKS[name][0](), torch.Generator().manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            count = part.num_features
            part.running_mean = 0.1 * torch.randn(count, generator=generator)
            part.running_var = 0.5 + torch.rand(count, generator=generator)
            part.weight.data = 0.5 + torch.rand(count, generator=generator)
            part.bias.data = 0.1 * torch.randn(count, generator=generator)
    model.eval()
    return folded(model) if name.endswith("by hand") and isinstance(model, nn.Sequential) else model


def question(name: str, model: nn.Module) -> tuple[Tensor, float, Tensor]:
    """An image, a radius, and the rows of the margins of the class at the image."""
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = model(x)[0]
    label, classes = int(scores.argmax()), len(scores)
    others = [k for k in range(classes) if k != label][: 9 if classes == 10 else 1]
    rows = torch.zeros(len(others), classes)
    rows[:, label] = 1.0
    rows[range(len(others)), others] = -1.0
    return x, NETWORKS[name][1] / 255, rows


# --- one measurement, in a process of its own -------------------------------------------------------------------------


def by_clinch(name: str) -> tuple[float, Tensor]:
    """CPU seconds and margins by Clinch, whichever is on the path."""
    import clinch as cl

    if name in NETWORKS:
        model = made(name)
        x, eps, rows = question(name, model)
        net, region = cl.load(model, (3, 32, 32)), cl.bounds.ball(x.double(), eps, math.inf, lower=0, upper=1)
        start = time.process_time()
        return -start, cl.bounds.crown(net, region, rows.double())
    from clinch.bounds.crown import activation_bounds, form_bounds, relaxations_from
    from clinch.io.data import data_folder
    from clinch.vnnlib.problems import state
    from clinch.vnnlib.reader import read_specification

    instances = data_folder() / "vnncomp" / name
    network, specification, *_ = next(csv.reader((instances / "instances.csv").open()))
    files = [next(iter(instances.glob(f"{part.removeprefix('./')}*"))) for part in (network, specification)]
    net = cl.load(files[0])
    query = state(read_specification(files[1]), net).queries[0]
    region, forms, graph = query.region.take(slice(0, 1)), query.atoms.take(slice(0, 1)), query.graph
    start = time.process_time()
    limits = activation_bounds(graph, region, forms.nodes)
    return -start, form_bounds(graph, forms, region, relaxations_from(graph, limits, forms.nodes))


def by_lirpa(name: str) -> tuple[float, Tensor]:
    """CPU seconds and margins by auto_LiRPA's CROWN."""
    from auto_LiRPA import BoundedModule, BoundedTensor  # type: ignore[import-not-found]
    from auto_LiRPA.perturbations import PerturbationLpNorm  # type: ignore[import-not-found]

    model = made(name)
    x, eps, rows = question(name, model)
    # its patches leave out groups and dilation: limits that do not hold
    special = any(isinstance(m, nn.Conv2d) and (m.groups > 1 or max(m.dilation) > 1) for m in model.modules())
    mode = "matrix" if special else "patches"
    bounded = BoundedModule(model, torch.empty_like(x), bound_opts={"conv_mode": mode})
    limits = {"x_L": (x - eps).clamp(min=0), "x_U": (x + eps).clamp(max=1)}
    point = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=eps, **limits))
    start = time.process_time()
    with torch.no_grad():
        return -start, bounded.compute_bounds(x=(point,), C=rows.unsqueeze(0), method="backward", bound_upper=False)[0]


def measure(family: str, name: str) -> None:
    """Print one measurement."""
    torch.set_num_threads(1)
    start, margins = (by_lirpa if family == "lirpa" else by_clinch)(name)
    seconds = time.process_time() + start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "memory": memory, "margins": margins.flatten().tolist()}))


# --- the page ---------------------------------------------------------------------------------------------------------

Found = dict[str, dict[str, dict]]


def measured(
    families: dict[str, tuple[str, str]], names: list[str], alone: list[str], repeat: int, limit: int
) -> Found:
    """By name and column; rounds take turns, the fastest counts; of networks in ``alone`` Clinch's column only."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))

    found: Found = {name: {} for name in names}
    for name in names:
        for _ in range(repeat):
            for family, (python, path) in families.items():
                if (family == "lirpa" and name not in NETWORKS) or (family != "clinch" and name in alone):
                    continue
                environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
                try:
                    run = subprocess.run(
                        [python, "-m", "benchmarks.bounds.convolutional", "--one", family, name], cwd=HERE.parents[2],
                        env=environment, capture_output=True, text=True, check=True, preexec_fn=limited,
                    )  # fmt: skip
                except subprocess.CalledProcessError as error:
                    over = error.returncode < 0
                    found[name].setdefault(family, {"failed": f"not in {limit} s" if over else "failed"})
                    print(f"{name}, {family}: {found[name][family]['failed']} {error.stderr[-300:]}")
                    continue
                one = json.loads(run.stdout.splitlines()[-1])
                best = found[name].get(family)
                if best is None or one["seconds"] < best.get("seconds", math.inf):
                    found[name][family] = one
                print(f"{name}, {family}: {one['seconds']:.2f} s, {one['memory']:.0f} MB, {min(one['margins']):.5f}")
    return found


def complaints(found: Found) -> list[str]:
    """What must hold and does not."""
    wrong = []
    vgg_names = ("vgg", "vgg, folded by hand")
    if all("seconds" in found.get(name, {}).get("clinch", {}) for name in vgg_names):
        ours, folded_by_hand = (found[name]["clinch"]["seconds"] for name in vgg_names)
        if ours > 1.2 * folded_by_hand:
            wrong.append(f"batch norm costs {ours / folded_by_hand:.2f} times the folded network")
    large = found.get("resnet18", {}).get("clinch")
    if large is not None and (large.get("seconds", math.inf) > 60 or large.get("memory", math.inf) > 4096):
        wrong.append("ResNet-18 needs 60 s or 4 GB")
    for name, row in found.items():
        ours = row.get("clinch", {}).get("margins")
        for family in ("base", "lirpa"):
            theirs = row.get(family, {}).get("margins")
            if ours and theirs and any(a < b - 1e-4 * max(1e-2, abs(b)) for a, b in zip(ours, theirs)):
                wrong.append(f"{name}: a margin is looser than that of {FAMILIES[family]}")
    return wrong


def cell(one: dict | None) -> str:
    if one is None:
        return "– | – | –"
    if "failed" in one:
        return f"{one['failed']} | – | –"
    return f"{one['seconds']:.2f} | {one['memory']:.0f} | {min(one['margins']):.4f}"


def main() -> int:
    """Measure all, write the page."""
    from benchmarks.common.page import RESULTS, ROOT, write_page

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, help="another checkout, measured as well")
    parser.add_argument("--lirpa", help="a Python that has auto_LiRPA")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--limit", type=int, default=120, help="CPU seconds of one measurement, start included")
    parser.add_argument("--only", nargs="+", choices=[*NETWORKS, *SETS])
    parser.add_argument("--alone", nargs="+", default=[], choices=[*NETWORKS, *SETS], help="measured for Clinch only")
    options = parser.parse_args()
    families = {"clinch": (sys.executable, str(ROOT / "src"))}
    if options.base:
        families["base"] = (sys.executable, str(options.base.resolve() / "src"))
    if options.lirpa:
        families["lirpa"] = (options.lirpa, "")
    names = [name for name in (*NETWORKS, *SETS) if not options.only or name in options.only]
    found = measured(families, names, options.alone, options.repeat, options.limit)
    titles = " | ".join(f"{FAMILIES[f]} CPU s | MB | worst margin" for f in families)
    lines = [
        "One image, one thread; CPU seconds of the bound alone, peak memory of the process with torch and the network.",
        "Bounds are float64, after signs that float32 with an allowance decides; auto_LiRPA's are float32 without one.",
        "",
        f"| network | {titles} |",
        "|---" * (1 + 3 * len(families)) + "|",
        *(f"| {name} | {' | '.join(cell(found[name].get(f)) for f in families)} |" for name in names),
    ]
    wrong = complaints(found)
    write_page(RESULTS / "convolutional.md", "CROWN on convolutional and residual networks", [*lines, "", *wrong])
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(*sys.argv[2:])
    else:
        sys.exit(main())
