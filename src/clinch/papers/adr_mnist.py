"""Attacks on the MNIST classifiers of Yu and Gao 2024: its section 6.1, with the authors' own weights.

Yu and Gao 2024 (arXiv 2406.00494). The rates are published as a picture, so that claims alone can be compared. Here
the points stay in the pixel range, which the authors' program leaves; PGD-1000 is torchattacks' default that they used:
1000 steps of 2/255 from a random point of the ball.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clinch.attacks import AttackResult, activation_descent, apgd, fgsm, pgd, worst
from clinch.attacks.activation_steps import CLASSIFIER, ROBUST_CLASSIFIER
from clinch.attacks.core.result import ALREADY
from clinch.io.data import mnist
from clinch.modeling.model import SymbolicNetwork
from clinch.papers.parts.figure_comparison import Group, comparison_figure
from clinch.papers.parts.networks import reference_network
from clinch.papers.parts.reproduction import CANNOT, Claim, Entry, Reproduction, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FGSM, PGD, APGD_T, ADR, PUBLISHED, DEFAULT = (
    "FGSM", "PGD-1000", "APGD-T", "ADR-GD", "ADR-GD, published steps", "Clinch's default",
)  # fmt: skip
#: how far success rates of two attacks may lie apart to be called comparable
COMPARABLE = 0.02
IMAGES, STEPS, PGD_STEPS = 50, 500, 1000


@dataclass(frozen=True)
class Case:
    """A network, a radius, and whether a class is aimed at."""

    network: str
    eps: float
    targeted: bool

    @property
    def title(self) -> str:
        """For tables and claims."""
        return f"{self.network}, ε = {self.eps:g}, {'targeted' if self.targeted else 'untargeted'}"


CASES = tuple(
    Case(network, eps, targeted)
    for targeted in (False, True)
    for network, radii in (("clean", (0.1, 0.25)), ("robust", (0.1, 0.25, 0.3)))
    for eps in radii
)
QUICK = (Case("robust", 0.25, False), Case("clean", 0.1, True))
FILES = {"clean": "mnist_adrgd_clean", "robust": "mnist_adrgd_pgd"}


@dataclass(frozen=True)
class Run:
    """An attack on the images that are classified correctly: which fell ``(C,)``, their mean loss, CPU seconds in all
    and CPU milliseconds for an iteration of one image."""

    success: Tensor
    loss: float
    seconds: float
    iteration: float

    @property
    def rate(self) -> float:
        """Share of the images that fell."""
        return float(self.success.double().mean())


def run(*, seed: int, quick: bool, note: Callable[[str], None]) -> Reproduction:
    """Everything; see :func:`clinch.study.reproduce`."""
    count, share = (8, 0.02) if quick else (IMAGES, 1.0)
    images = mnist("test", few=quick)
    x, y = images.x[:count], images.y[:count]
    nets = {name: reference_network(file) for name, file in FILES.items()}
    target = (y + torch.randint(1, 10, y.shape, generator=torch.Generator().manual_seed(seed))) % 10
    outcomes: dict[Case, dict[str, Run]] = {}
    for case in QUICK if quick else CASES:
        outcomes[case] = {}
        for name, attack in _attacks(case, seed, share).items():
            note(f"{case.title}: {name}")
            aim = {"target": target} if case.targeted else {}
            outcomes[case][name] = _measured(
                attack, nets[case.network], x, y, target, case, aim, 2 if ADR in name else 1
            )
    return Reproduction(
        "adr-mnist", "Yu and Gao 2024 (arXiv 2406.00494), section 6.1, the authors' networks",
        f"The first {count} MNIST test images, p = ∞, pixels in [0, 1]; {max(1, int(share * STEPS))} iterations of "
        "ADR-GD. Success rates are shares of the images classified correctly. Attacks stop at success: the loss "
        "(cross-entropy, towards the target its negative) is that of the points they return. An iteration is timed per "
        "image.",
        _tables(outcomes), tuple(_claims(outcomes)), _figure(outcomes),
    )  # fmt: skip


def _attacks(case: Case, seed: int, share: float) -> dict[str, Callable[..., AttackResult]]:
    steps = max(1, int(share * STEPS))
    settings, size = (CLASSIFIER, 0.5) if case.network == "clean" else (ROBUST_CLASSIFIER, 1.0)
    descent = partial(activation_descent, steps=steps, settings=settings, seed=seed)
    lanes = {} if case.targeted else {"targets": 9}
    chosen: dict[str, Callable[..., AttackResult]] = {
        FGSM: fgsm,
        PGD: partial(pgd, steps=max(1, int(share * PGD_STEPS)), step_size=2 / 255, random_start=True, seed=seed),
        APGD_T: partial(apgd, loss="dlr", steps=max(1, int(share * 100)), seed=seed, **lanes),
        ADR: descent,
        PUBLISHED: partial(descent, step_size=size, last=1.0, steepest=False),
        DEFAULT: partial(worst, passes=max(500, int(share * 4000)), seed=seed),
    }
    if case != Case("robust", 0.25, False):
        del chosen[PUBLISHED]
    return chosen


def _measured(
    attack: Callable[..., AttackResult], net: SymbolicNetwork, x: Tensor, y: Tensor, target: Tensor, case: Case,
    aim: dict[str, Tensor], backward: int,
) -> Run:  # fmt: skip
    begun = time.process_time()
    found = attack(net, x, y, eps=case.eps, **aim)
    seconds = time.process_time() - begun
    with torch.no_grad():
        correct = net.graph.forward(x)[net.graph.output].argmax(1) == y
        z = net.graph.forward(found.x)[net.graph.output]
    rows = correct & torch.tensor([reason != ALREADY for reason in found.reason])
    entropy = torch.nn.functional.cross_entropy(z, target if case.targeted else y, reduction="none")[rows]
    loss = -float(entropy.mean()) if case.targeted else float(entropy.mean())
    return Run(found.success[rows], loss, seconds, 1e3 * seconds * backward / max(1, int(found.backward.sum())))


def _tables(outcomes: dict[Case, dict[str, Run]]) -> tuple[Table, ...]:
    tables = []
    for targeted in sorted({case.targeted for case in outcomes}):
        rows: list[tuple[Entry, ...]] = []
        for case, runs in outcomes.items():
            if case.targeted == targeted:
                rows += [
                    (f"{case.network}, ε = {case.eps:g}", name, round(100 * r.rate, 1), r.loss, r.seconds, r.iteration)
                    for name, r in runs.items()
                ]
        columns = ("network", "attack", "success %", "loss", "CPU s", "ms per iteration")
        tables.append(Table("Targeted" if targeted else "Untargeted", columns, tuple(rows), digits=4))
    return tuple(tables)


def _claims(outcomes: dict[Case, dict[str, Run]]) -> list[Claim]:
    claims = []
    for case, runs in outcomes.items():
        ours, theirs = runs[ADR], runs[PGD]
        reason = f"{ours.rate:.1%} against {theirs.rate:.1%}"
        if case.network == "clean":
            near = abs(ours.rate - theirs.rate) <= COMPARABLE
            claims.append(Claim.that(f"{case.title}: ADR-GD and PGD-1000 are comparable", near, reason))
        else:
            more = ours.rate >= theirs.rate if case.eps <= 0.1 else ours.rate > theirs.rate
            text = "at least as often as" if case.eps <= 0.1 else "more often than"
            claims.append(Claim.that(f"{case.title}: ADR-GD succeeds {text} PGD-1000", more, reason))
        for rival in (APGD_T, DEFAULT):
            reason = f"{ours.rate:.1%} against {runs[rival].rate:.1%}"
            claims.append(
                Claim.that(
                    f"{case.title}: ADR-GD succeeds at least as often as {rival}", ours.rate >= runs[rival].rate, reason
                )
            )
    robust = outcomes.get(Case("robust", 0.25, False))
    if robust is not None:
        alone = int((robust[ADR].success & ~robust[PGD].success).sum())
        claims.append(
            Claim.that(
                "robust, ε = 0.25: there are images on which PGD-1000 fails and ADR-GD succeeds", alone > 0, str(alone)
            )
        )
        ratio = robust[ADR].iteration / robust[PGD].iteration
        claims.append(
            Claim.that(
                "An iteration of ADR-GD costs nearly ten times that of PGD", 5 <= ratio <= 15, f"{ratio:.1f} times"
            )
        )
    return [
        *claims,
        Claim("The rates of the paper's figure", CANNOT, "they are published as a picture"),
        Claim("CIFAR-10 with VGG19, ImageNet with Wide ResNet-50-2", CANNOT, "the authors' weights are not published"),
    ]


def _figure(outcomes: dict[Case, dict[str, Run]]) -> Figure:
    groups = []
    for targeted in sorted({case.targeted for case in outcomes}):
        for case, runs in outcomes.items():
            if case.targeted != targeted or case.network != "robust":
                continue
            rates = tuple((100 * runs[name].rate,) for name in (FGSM, PGD, APGD_T, ADR, DEFAULT))
            title = f"{'targeted' if case.targeted else 'untargeted'}, ε {case.eps:g}"
            groups.append(Group(title, "success, %", (FGSM, PGD, APGD_T, ADR, DEFAULT), rates, span=(-4, 104)))
    return comparison_figure(groups, "Attacks on the adversarially trained MNIST network")
