"""First-order attacks of Kolter and Madry's tutorial: three MNIST networks under FGSM, PGD, restarts, targets.

Kolter and Madry, "Adversarial Robustness: Theory and Practice", chapter 4 (https://adversarial-ml-tutorial.org). Its
ℓ∞ attacks leave the range of the pixels and its ℓ2 attacks do not, and so it is here. Its figures belong to its own
weights, which are not available, and to all 10000 test images: the networks here have the same layers and the same
training. Attacks here stop at success and keep the best point they saw, where the tutorial's keep the last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clinch.attacks import AttackResult, pgd, worst
from clinch.io.data import Images, mnist
from clinch.modeling.model import SymbolicNetwork
from clinch.papers.parts.figure_comparison import Group, comparison_figure
from clinch.papers.parts.networks import reference_network
from clinch.papers.parts.reproduction import CANNOT, Claim, Entry, Reproduction, Table
from clinch.papers.parts.tutorial import SOURCE, WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: networks, and how many test images each is attacked on
NETWORKS = {"mnist_dnn2": 1000, "mnist_dnn4": 1000, "mnist_cnn": 100}
DENSE, CNN = ("mnist_dnn2", "mnist_dnn4"), "mnist_cnn"
FGSM, SMALL, LARGE, PGD, RESTARTS, L2, L1, OURS = (
    "FGSM, ε 0.1", "PGD, plain gradient, ε 0.1, α 0.01", "PGD, plain gradient, ε 0.1, α 10⁴", "PGD, ε 0.1, α 0.01",
    "PGD, 10 restarts", "PGD ℓ2, ε 2, α 0.1", "PGD ℓ1, ε 7 (ours)", "Clinch's default, ε 0.1 (ours)",
)  # fmt: skip
DIFFERENCE, ALL = "z_t − z_y", "z_t − Σ z_c"
LOSSES = {DIFFERENCE: "difference", ALL: "against all"}
#: the target on which the tutorial shows that fooling is not yet reaching the target
TARGET = 0
#: mean |gradient| of the convolutional network's loss over the first 100 test images
PUBLISHED_GRADIENT, BATCH = 1.8276920172866085e-06, 100
#: restarts gain something, and at most this
MINOR = 0.1


@dataclass(frozen=True)
class Attack:
    """An attack, and the published error rates for the three networks where there are any."""

    method: Callable[..., AttackResult]
    settings: dict[str, Any]
    published: tuple[float | None, ...] = field(default=(None, None, None))


STEPS = {"eps": 0.1, "steps": 40, "step_size": 0.01, "bounds": None}
ATTACKS = {
    FGSM: Attack(pgd, {**STEPS, "steps": 1, "step_size": 0.1}, (0.9259, 0.8827, 0.4173)),
    SMALL: Attack(pgd, {**STEPS, "normalise": False}),
    LARGE: Attack(pgd, {**STEPS, "normalise": False, "step_size": 1e4}),
    PGD: Attack(pgd, STEPS, (0.9637, 0.9838, 0.7432)),
    RESTARTS: Attack(pgd, {**STEPS, "restarts": 10}, (None, None, 0.7648)),
    L2: Attack(pgd, {"eps": 2.0, "norm": 2.0, "steps": 40, "step_size": 0.1}, (0.9232, 0.9435, 0.7854)),
    L1: Attack(pgd, {"eps": 7.0, "norm": 1.0, "steps": 40}),
    OURS: Attack(partial(worst, passes=500), {"eps": 0.1, "bounds": None}),
}


@dataclass(frozen=True)
class Run:
    """Share of the images that end misclassified, the target's share among them and CPU seconds."""

    error: float
    hit: float
    seconds: float


def run(*, seed: int, quick: bool, note: Callable[[str], None]) -> Reproduction:
    """Everything; see :func:`clinch.study.reproduce`."""
    test, runs, targeted, gradient = mnist("test", few=quick), {}, {}, 0.0
    for name, count in NETWORKS.items():
        net = reference_network(name)
        count = (3 if name == CNN else 30) if quick else count
        images = Images(test.x[:count], test.y[:count])
        for title, attack in ATTACKS.items():
            note(f"{name}: {title}")
            seeded = {"seed": seed} if title in (RESTARTS, OURS) else {}
            runs[title, name] = _measured(attack, net, images, **seeded)
        for title, loss in LOSSES.items():
            note(f"{name}: targeted, {title}")
            other = images.y != TARGET
            chosen = Attack(pgd, {**STEPS, "eps": 0.2, "loss": loss, "target": TARGET})
            targeted[title, name] = _measured(chosen, net, Images(images.x[other], images.y[other]))
        if name == CNN:
            gradient = _gradient(net, test.x[:BATCH], test.y[:BATCH])
    counts = ", ".join(f"{n} for {name[6:]}" for name, n in NETWORKS.items())
    return Reproduction(
        "tutorial-attacks", SOURCE,
        f"The first MNIST test images ({'3 to 30' if quick else counts}), misclassified ones included; networks "
        "trained here by the tutorial's recipe.",
        _tables(runs, targeted), tuple(_claims(runs, targeted, gradient)), _figure(runs),
    )  # fmt: skip


def _measured(attack: Attack, net: SymbolicNetwork, images: Images, **more: Any) -> Run:
    begun = time.process_time()
    found = attack.method(net, images.x, images.y, **attack.settings, **more)
    seconds = time.process_time() - begun
    with torch.no_grad():
        predicted = net.graph.forward(found.x)[net.graph.output].argmax(1)
    fooled = predicted != images.y
    hit = predicted[fooled] == TARGET
    return Run(float(fooled.double().mean()), float(hit.double().mean()) if len(hit) else 0.0, seconds)


def _gradient(net: SymbolicNetwork, x: Tensor, y: Tensor) -> float:
    """Mean |∂/∂x| of the mean cross-entropy."""
    z = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(net.graph.forward(z)[net.graph.output], y)
    return float(torch.autograd.grad(loss, z)[0].abs().mean())


def _tables(runs: dict[tuple[str, str], Run], targeted: dict[tuple[str, str], Run]) -> tuple[Table, ...]:
    rows: list[tuple[Entry, ...]] = []
    for title, attack in ATTACKS.items():
        for name, theirs in zip(NETWORKS, attack.published):
            found = runs[title, name]
            rows.append((title, name[6:], theirs, found.error, found.seconds))
    aimed: list[tuple[Entry, ...]] = [
        (title, name[6:], found.error, found.hit, found.seconds) for (title, name), found in targeted.items()
    ]
    return (
        Table("Error rates", ("attack", "network", "published", "ours", "CPU s"), tuple(rows), digits=4),
        Table(
            f"Aimed at class {TARGET}, PGD, ε 0.2",
            ("loss", "network", "misclassified", "of these as the target", "CPU s"), tuple(aimed), digits=4,
        ),
    )  # fmt: skip


def _claims(runs: dict[tuple[str, str], Run], targeted: dict[tuple[str, str], Run], gradient: float) -> list[Claim]:
    def more(text: str, one: float, two: float) -> Claim:
        return Claim.that(text, one > two, f"{one:.3f} against {two:.3f}")

    def error(title: str, name: str) -> float:
        return runs[title, name].error

    claims = [
        Claim(
            f"{name[6:]}: {title} leaves an error of {theirs:g}", CANNOT,
            f"{WEIGHTS}; networks trained by its recipe: {error(title, name):.4g}",
        )
        for title, attack in ATTACKS.items() for name, theirs in zip(NETWORKS, attack.published) if theirs is not None
    ]  # fmt: skip
    for name in NETWORKS:
        claims.append(more(f"{name[6:]}: PGD fools more than FGSM", error(PGD, name), error(FGSM, name)))
    for title in (FGSM, PGD, L2):
        hardest = min(error(title, name) for name in DENSE)
        claims.append(more(f"Dense networks are fooled more than cnn, {title}", hardest, error(title, CNN)))
    gain = error(RESTARTS, CNN) - error(PGD, CNN)
    claims += [
        Claim.that("cnn: restarts give a minor improvement, but not none", 0 < gain <= MINOR, f"{gain:+.3f}"),
        Claim.that(
            f"cnn: the mean |gradient| at the images is tiny, within ten times {PUBLISHED_GRADIENT:.1e}",
            PUBLISHED_GRADIENT / 10 <= gradient <= 10 * PUBLISHED_GRADIENT, f"{gradient:.2e}",
        ),
        more("cnn: the plain gradient gets nowhere with α 0.01, and needs α 10⁴", error(LARGE, CNN), error(SMALL, CNN)),
        more("cnn: normalised steps fool more than the plain gradient with α 10⁴", error(PGD, CNN), error(LARGE, CNN)),
    ]  # fmt: skip
    plain, strict = targeted[DIFFERENCE, CNN], targeted[ALL, CNN]
    claims += [
        Claim.that(
            f"cnn: {DIFFERENCE} fools without always reaching class {TARGET}", plain.hit < 1, f"{plain.hit:.1%}"
        ),
        more(f"cnn: {ALL} fools less often than {DIFFERENCE}", plain.error, strict.error),
        more(f"cnn: {ALL}, where it fools, reaches class {TARGET} more often", strict.hit, plain.hit),
    ]
    behind = max(error(title, name) - error(OURS, name) for title in (FGSM, PGD, RESTARTS) for name in NETWORKS)
    text = "None of the tutorial's ℓ∞ attacks fools more than Clinch's default (ours)"
    return [*claims, Claim.that(text, behind <= 0, f"{behind:+.3f} at most")]


def _figure(runs: dict[tuple[str, str], Run]) -> Figure:
    groups = [
        Group(
            name[6:], "error rate", tuple(ATTACKS), tuple((runs[title, name].error,) for title in ATTACKS),
            tuple(attack.published[k] for attack in ATTACKS.values()), span=(-0.04, 1.04),
        )
        for k, name in enumerate(NETWORKS)
    ]  # fmt: skip
    return comparison_figure(groups, "Error rates of MNIST networks under first-order attacks")
