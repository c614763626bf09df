"""Transfer, universal, patch, spatial and minimal APGD attacks beside adv-lib's, foolbox's, ART's and torchattacks'.

Error rates over the first correctly classified MNIST test images, of points that are clipped to [0, 1] and looked at
again in float32 and in float64; for minimal APGD mean distances. CPU seconds of one thread. The others are called as
their documentation says; those that are absent are left out with a line (`minimum_norm` says how to install them;
`adversarial-robustness-toolbox` and `six` besides).

    python -m benchmarks named_attacks [--images 100]

Writes benchmarks/results/named_attacks.md.
"""

from __future__ import annotations

import argparse
import importlib
import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import clinch as cl
from benchmarks.attacks.rivals import Counted, libraries
from benchmarks.common.page import RESULTS, table, write_page
from benchmarks.common.second_look import SecondLook
from clinch.geometry.norms import norm
from clinch.io.data import model_file

TAKES = "ten minutes"
#: networks that are attacked, and the one on which points are made that are to transfer
NETWORKS, SURROGATE = ("mnist_lenet5", "mnist_wk17a_linf0.1"), "mnist_fcnn"
TRANSFERS = {
    "MI": {}, "NI": {"nesterov": True}, "SI-NI": {"nesterov": True, "scales": 5},
    "DI": {"diversity": 0.5}, "TI": {"kernel": 15}, "VMI": {"neighbours": 5},
}  # fmt: skip
#: radii of transferred and universal perturbations, and the patch
TRANSFERRED, UNIVERSAL, PLACE, SIDE = 0.2, 0.2, (11, 11), 6
ROTATION, SHIFT = 30, 3


class Task(NamedTuple):
    """A network with images that it classifies correctly."""

    name: str
    model: nn.Module
    exact: Callable[[Tensor], Tensor]
    x: Tensor
    y: Tensor

    def wrong(self, points: Tensor) -> Tensor:
        """``(B,)`` what is misclassified in both dtypes."""
        z = points.detach().reshape(self.x.shape).float().clamp(0, 1)
        with torch.no_grad():
            return (self.model(z).argmax(1) != self.y) & (self.exact(z.double()).argmax(1) != self.y)


class Line(NamedTuple):
    """One attack on one network: what was measured, ours and theirs with CPU seconds; None where there is no other."""

    network: str
    attack: str
    measure: str
    ours: float
    seconds: float
    library: str
    theirs: float | None
    their_seconds: float | None


def opened(name: str, count: int) -> Task:
    """A network of the reference models."""
    data, right = SecondLook(name).correct(count)
    net = cl.load(str(model_file(f"{name}.onnx")))
    graph, exact = net.graph, net.graph_as(torch.float64, "cpu")
    model = Counted(lambda z: graph.forward(z)[graph.output]).eval()
    return Task(name, model, lambda z: exact.forward(z)[exact.output], data.x[right], data.y[right])


def timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What it returns, and its CPU seconds."""
    torch.manual_seed(0)
    np.random.seed(0)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(), time.process_time() - began


def compared(
    task: Task, attack: str, ours: Callable[[], Tensor], library: str, theirs: Callable[[], Tensor] | bool | None,
    measure: Callable[[Tensor], float] | None = None, what: str = "error rate",
) -> Line:  # fmt: skip
    """Both, measured alike."""
    value = measure or (lambda points: float(task.wrong(points).double().mean()))
    mine, seconds = timed(ours)
    found = timed(theirs) if callable(theirs) else None
    line = Line(
        task.name, attack, what, value(mine), seconds, library,
        None if found is None else value(found[0]), None if found is None else found[1],
    )  # fmt: skip
    print(line, flush=True)
    return line


def distances(task: Task) -> Callable[[Tensor], float]:
    """The mean maximum distance; one for what is not misclassified."""

    def measure(points: Tensor) -> float:
        length = norm(points.double().reshape(task.x.shape) - task.x.double(), math.inf)
        return float(torch.where(task.wrong(points), length, 1.0).mean())

    return measure


def lines(task: Task, surrogate: Task, found: Mapping[str, Any]) -> list[Line]:
    """All comparisons on a network."""
    a, x, y, model = cl.attacks, task.x, task.y, task.model
    advlib, box, torchattacks, art = (found.get(n) for n in ("adv-lib", "foolbox", "torchattacks", "art"))
    known = [
        compared(
            task, "minimal APGD, ℓ∞", lambda: a.minimal_apgd(model, x, y).x, "adv-lib's APGD, bisected",
            advlib and (lambda: _bisected(advlib, model, x, y)),
            distances(task), "mean distance",
        )
    ]  # fmt: skip
    for name, pieces in TRANSFERS.items():
        known.append(
            compared(
                task, f"transfer from {SURROGATE}, {name}",
                lambda pieces=pieces: a.transfer(
                    model, x, y, eps=TRANSFERRED, surrogates=surrogate.model, **pieces).x,
                # torchattacks' TI takes three channels only
                "torchattacks", torchattacks and name != "TI" and (
                    lambda name=name: _torchattack(torchattacks, name, surrogate, x, y)),
            )
        )  # fmt: skip
    known.append(
        compared(
            task, "universal, gradient", lambda: a.universal(model, x, y, eps=UNIVERSAL).x, "ART (DeepFool)",
            art and (lambda: _art_universal(task)),
        )
    )  # fmt: skip
    known.append(
        compared(
            task, "rotation and translation, grid", lambda: a.rotation_translation(
                model, x, y, rotation=ROTATION, translation=SHIFT / 28, grid=5, random=0, steps=0).x,
            "foolbox (grid)", box and (lambda: box.attacks.SpatialAttack(
                max_translation=SHIFT, max_rotation=ROTATION, num_translations=5, num_rotations=5)(
                    box.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y)[1]),
        )
    )  # fmt: skip
    known.append(
        compared(
            task, "rotation and translation, all", lambda: a.rotation_translation(
                model, x, y, rotation=ROTATION, translation=SHIFT / 28).x, "", None,
        )
    )  # fmt: skip
    known.append(
        compared(task, f"shared patch {SIDE} × {SIDE} at {PLACE}",
                 lambda: a.patch(model, x, y, size=SIDE, place=PLACE, shared=True).x, "", None)
    )  # fmt: skip
    known.append(
        compared(task, f"patch {SIDE} × {SIDE} of each image at any place", lambda: a.patch(model, x, y, size=SIDE).x,
                 "", None)
    )  # fmt: skip
    return known


def _bisected(lib, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Ten radii for each image, as AttackBench searches, twenty steps for each."""
    best, low, high = x.clone(), torch.zeros(len(x)), torch.ones(len(x))
    for _ in range(10):
        middle = (low + high) / 2
        points = lib.apgd(model, x, y, eps=middle, norm=math.inf, n_iter=20)
        with torch.no_grad():
            fell = model(points).argmax(1) != y
        best[fell] = points[fell]
        low, high = torch.where(fell, low, middle), torch.where(fell, middle, high)
    return best


def _torchattack(lib, name: str, surrogate: Task, x: Tensor, y: Tensor) -> Tensor:
    model, eps = surrogate.model, TRANSFERRED
    step = {"eps": eps, "alpha": eps / 10, "steps": 10}
    made = {
        "MI": lambda: lib.MIFGSM(model, **step), "NI": lambda: lib.NIFGSM(model, **step),
        "SI-NI": lambda: lib.SINIFGSM(model, **step), "DI": lambda: lib.DIFGSM(model, decay=1.0, **step),
        "VMI": lambda: lib.VMIFGSM(model, **step),
    }  # fmt: skip
    return made[name]()(x, y)


def _art_classifier(task: Task):
    classifiers = importlib.import_module("art.estimators.classification")
    return classifiers.PyTorchClassifier(
        task.model, loss=nn.CrossEntropyLoss(), input_shape=(1, 28, 28), nb_classes=10, clip_values=(0.0, 1.0)
    )


def _art_universal(task: Task) -> Tensor:
    evasion = importlib.import_module("art.attacks.evasion")
    attack = evasion.UniversalPerturbation(  # two rounds over the images, at a second for each
        _art_classifier(task),
        attacker="deepfool",
        attacker_params={"max_iter": 10, "verbose": False},
        eps=UNIVERSAL,
        norm=np.inf,
        max_iter=2,
        delta=0.0,
        verbose=False,
    )
    return torch.from_numpy(attack.generate(task.x.numpy(), task.y.numpy()))


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = libraries()
    try:
        found["art"] = importlib.import_module("art")
    except ImportError as error:
        print(f"ART is left out: {error}.")
    surrogate = opened(SURROGATE, options.images)
    measured = [line for name in NETWORKS for line in lines(opened(name, options.images), surrogate, found)]
    columns = ("network", "attack", "measure", "Clinch", "CPU s", "other", "its value", "its CPU s")
    page = [
        f"The first {options.images} MNIST test images that the attacked network classifies correctly. Error rates: "
        "the higher the better; distances: the lower. Every point is looked at again in float32 and float64. ART's "
        "universal attack is DeepFool image after image, ours follows gradients of all; foolbox's grid has as many "
        "combinations.",
        "",
        *table(columns, measured),
    ]
    packages = ("adv-lib", "foolbox", "torchattacks", "adversarial-robustness-toolbox")
    write_page(RESULTS / "named_attacks.md", "Attacks by name, beside other libraries", page, packages)


if __name__ == "__main__":
    main()
