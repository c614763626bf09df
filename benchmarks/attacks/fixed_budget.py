"""Attacks inside a ball of the maximum norm, beside figures of other libraries that were measured earlier.

Error rates over the first test images of MNIST, misclassified ones included. CPU seconds of one thread, the last check
of every point included. The figures of others were recorded on this kind of machine (one core): AutoAttack's own
APGD and AutoAttack (2024), for FGSM and PGD the best of foolbox and torchattacks; seconds of another day compare
roughly only.

Ends with exit code 1 if onnxruntime does not confirm a point, or if `worst` finds less than AutoAttack (on the
adversarially trained network APGD-T) or takes longer than a fifth of AutoAttack's time (there: than APGD-T's).

    python -m benchmarks fixed_budget [--images 1000] [--slow-images 200]

Writes benchmarks/results/fixed_budget.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

import clinch as cl
from benchmarks.attacks.runs import Run, measure
from benchmarks.common.page import RESULTS, judged_page
from benchmarks.common.second_look import SecondLook
from clinch.attacks import AttackResult
from clinch.io.data import Images, mnist, model_file

TAKES = "an hour"

ATTACKS: dict[str, Callable[..., AttackResult]] = {
    "FGSM": cl.attacks.fgsm,
    "PGD-40": partial(cl.attacks.pgd, random_start=True),
    "PGD-40 ×10": partial(cl.attacks.pgd, restarts=10),
    "APGD-CE": partial(cl.attacks.apgd, random_start=True),
    "APGD-DLR": partial(cl.attacks.apgd, loss="dlr", random_start=True),
    "APGD-T": partial(cl.attacks.apgd, loss="dlr", targets=9, random_start=True),
    "worst": cl.attacks.worst,
}
#: left out where fewer images are taken and there is nothing to compare with
SLOW = ("PGD-40 ×10", "APGD-T")


@dataclass(frozen=True)
class Case:
    """A network and a radius.

    Attributes:
        network: its name.
        eps: radius.
        peers: recorded error rate and CPU seconds of each attack.
        target: the error rate `worst` has to reach, and the seconds it may take, on as many images as recorded.
        slow: whether fewer images are taken.
    """

    network: str
    eps: float
    peers: dict[str, tuple[float, float]]
    target: tuple[float, float]
    slow: bool = True


CASES = [
    Case("mnist_dnn2", 0.1, {
        "FGSM": (0.760, 0.02), "PGD-40": (0.844, 0.33), "PGD-40 ×10": (0.846, 0.8), "APGD-CE": (0.845, 1.8),
        "APGD-DLR": (0.824, 1.6), "APGD-T": (0.851, 5.4), "AutoAttack": (0.851, 33)}, (0.851, 33 / 5), slow=False),
    Case("mnist_dnn4", 0.1, {
        "FGSM": (0.807, 0.02), "PGD-40": (0.927, 0.35), "PGD-40 ×10": (0.930, 0.7), "APGD-CE": (0.929, 1.5),
        "APGD-DLR": (0.911, 1.6), "APGD-T": (0.932, 4.7), "AutoAttack": (0.933, 23)}, (0.933, 23 / 5), slow=False),
    Case("mnist_cnn", 0.1, {"APGD-CE": (0.430, 9.4), "AutoAttack": (0.445, 224)}, (0.445, 224 / 5)),
    Case("mnist_adrgd_pgd", 0.25, {
        "PGD-40": (0.305, 2.6), "APGD-CE": (0.615, 6.2), "APGD-T": (0.705, 23)}, (0.71, 23)),
    Case("mnist_adrgd_pgd", 0.3, {"PGD-40": (0.71, 0.0), "APGD-CE": (0.975, 0.0), "APGD-T": (0.99, 8.7)}, (0.99, 8.7)),
]  # fmt: skip


def recorded(peer: tuple[float, float] | None) -> str:
    """Two cells of the table."""
    if peer is None:
        return "– | –"
    return f"{peer[0]:.3f} | {f'{peer[1]:g}' if peer[1] else '–'}"


def judged(case: Case, run: Run, full: bool) -> list[str]:
    """What `worst` does not reach; only on as many images as the figures of others are about."""
    error, seconds = case.target
    name = f"{case.network}, eps {case.eps:g}"
    found = [] if not full or run.error >= error - 1e-9 else [f"{name}: error rate {run.error:.3f}, not {error:g}"]
    return found + ([f"{name}: {run.seconds:.1f} s, not {seconds:.1f}"] if full and run.seconds > seconds else [])


def section(case: Case, count: int, full: bool) -> tuple[list[str], list[str]]:
    """The table of one network and radius, and everything that is wrong."""
    net, look, data = cl.load(str(model_file(f"{case.network}.onnx"))), SecondLook(case.network), mnist("test")
    images = Images(data.x[:count], data.y[:count])
    lines, wrong = [], []
    for name, attack in ATTACKS.items():
        if case.slow and name in SLOW and name not in case.peers:
            continue
        run = measure(lambda x, y, attack=attack: attack(net, x, y, eps=case.eps), look, images, case.eps, cl.inf)
        lines.append(f"| {name} | {run.error:.3f} | {run.seconds:.2f} | {run.passes:.0f} "
                     f"| {recorded(case.peers.get(name))} |")  # fmt: skip
        print(case.network, case.eps, lines[-1], flush=True)
        wrong += [f"{case.network}, {name}: {text}" for text in run.wrong]
        wrong += judged(case, run, full) if name == "worst" else []
    if "AutoAttack" in case.peers:
        lines.append(f"| AutoAttack | – | – | – | {recorded(case.peers['AutoAttack'])} |")
    head = ["| attack | error rate | CPU s | passes | recorded | its CPU s |", "|---|---|---|---|---|---|"]
    return [f"## {case.network}, eps {case.eps:g}, {count} images", "", *head, *lines, ""], wrong


def main() -> int:
    """Measure, write the page, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--slow-images", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sections, wrong = [], []
    for case in CASES:
        count, whole = (options.slow_images, 200) if case.slow else (options.images, 1000)
        lines, found = section(case, count, count == whole)
        sections += lines
        wrong += found
    page = [
        "Error rate over the first MNIST test images, misclassified ones included; pixels stay in [0, 1]. PGD and APGD",
        "(100 steps) start at random points; PGD's steps are 2.5·eps/40. Attacks that are slow on the last networks",
        "and have no recorded figure there are left out. CPU seconds of one thread. Passes: mean rows forward and",
        "backward per image. Recorded: figures of other libraries (foolbox, torchattacks, AutoAttack) measured",
        "earlier on this kind of machine; the seconds of",
        "another day compare roughly.", "",
        *sections,
    ]  # fmt: skip
    held = "onnxruntime confirms every point, and `worst` reaches every mark."
    return judged_page(RESULTS / "fixed_budget.md", "Attacks inside a ball of the maximum norm", page, wrong, held)


if __name__ == "__main__":
    raise SystemExit(main())
