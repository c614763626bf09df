"""Table I of Balda et al. 2018: test error, ρ̂₁, ρ̂₂ and ε₉₉ of its networks.

The measures are those of :mod:`clinch.study`. Networks of the project stand below those of the paper, because two
networks alone would say little about the claim that the three measures agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from clinch.attacks import first_order_radius
from clinch.papers.parts.balda import FCNN, MISSING, SOURCE, Classifier, lenet, nearest, network, sample
from clinch.papers.parts.figure_comparison import Group, comparison_figure
from clinch.papers.parts.reproduction import CANNOT, Claim, Entry, Reproduction, Table
from clinch.study.measures import eps_99, fooling_ratio, rho1, rho2

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 1024
MEASURES = ("ρ̂₁", "ρ̂₂", "ε₉₉")
#: how far the same network's numbers may lie from the published ones: two samples of 1024 images
TOLERANCE = {"ρ̂₁": 0.002, "ρ̂₂": 0.002, "ε₉₉": 0.008}
ERROR = 0.0005
OURS = (
    Classifier("LeNet-5 with mean pooling, our weights", "mnist_lenet5"),
    Classifier("784-50-20-10, our weights", "mnist_small"),
    Classifier("784-200-10, our weights", "mnist_dnn2"),
    Classifier("784-200-100-100-10, our weights", "mnist_dnn4"),
)
CIFAR = {"NIN (CIFAR-10)": (0.138, 0.012, 0.004, 0.018), "DenseNet (CIFAR-10)": (0.052, 0.006, 0.002, 0.010)}


@dataclass(frozen=True)
class Outcome:
    """A network's row: test error, the three measures, the share that DeepFool fooled within its 50 steps."""

    network: Classifier
    error: float
    measures: tuple[float, float, float]
    fooled: float


def run(*, seed: int, quick: bool, note: Callable[[str], None]) -> Reproduction:
    """Everything; see :func:`clinch.study.reproduce`."""
    count, among = (32, 300) if quick else (IMAGES, 10_000)
    found = []
    for chosen in (lenet(), FCNN) if quick else (lenet(), FCNN, *OURS):
        note(chosen.title)
        net = network(chosen)
        images = sample(chosen, net, count, seed, among)
        attacked = nearest(net, images)
        radius = torch.cat([first_order_radius(net, *part) for part in images.parts()])
        measures = (rho1(attacked, images.x), rho2(radius), eps_99(attacked))
        found.append(Outcome(chosen, images.error, measures, float(fooling_ratio(attacked))))
    return Reproduction(
        "balda-table1", f"{SOURCE}, Table I",
        f"{count} random correctly classified MNIST test images for each network, p = ∞, no limits of the pixels; "
        f"test errors are of the first {among} test images.",
        (_table(found),), tuple(_claims(found)), _figure(found),
    )  # fmt: skip


def _table(found: list[Outcome]) -> Table:
    names = ("test error", *MEASURES)
    rows: list[tuple[Entry, ...]] = []
    for outcome in found:
        theirs = outcome.network.published or (None,) * 4
        ours = (outcome.error, *outcome.measures)
        rows += [(outcome.network.title, *row) for row in zip(names, theirs, ours)]
        rows.append((outcome.network.title, "fooled by DeepFool", None, outcome.fooled))
    for title, theirs in CIFAR.items():
        rows += [(title, name, value, None) for name, value in zip(names, theirs)]
    return Table("Measures of robustness", ("network", "measure", "published", "ours"), tuple(rows), digits=4)


def _claims(found: list[Outcome]) -> list[Claim]:
    claims = []
    for outcome in found:
        theirs = outcome.network.published
        if theirs is None:
            continue
        title = outcome.network.title.split()[0].rstrip(",")
        for name, asked, value in zip(("test error", *MEASURES), theirs, (outcome.error, *outcome.measures)):
            text = f"{title}: {name} is {asked:g}"
            if outcome.network.authors:
                near = abs(value - asked) <= TOLERANCE.get(name, ERROR)
                claims.append(Claim.that(text, near, f"{value:.4g}, {TOLERANCE.get(name, ERROR):g} apart at most"))
            else:
                because = f"the authors' weights are not available; the same layers trained here have {value:.4g}"
                claims.append(Claim(text, CANNOT, because))
    convolutional, dense = found[0], found[1]
    for name, ours, other in zip(MEASURES, convolutional.measures, dense.measures):
        claims.append(
            Claim.that(f"LeNet-5 is more robust than FCNN by {name}", ours > other, f"{ours:.4g} against {other:.4g}")
        )
    pairs = list(combinations(found, 2))
    same = sum(len({a > b for a, b in zip(one.measures, two.measures)}) == 1 for one, two in pairs)
    text = f"The three measures put any two of the {len(found)} MNIST networks here in the same order"
    claims.append(Claim.that(text, same == len(pairs), f"{same} of {len(pairs)} pairs"))
    claims += [
        Claim(f"{name}: test error, ρ̂₁, ρ̂₂ and ε₉₉ are {', '.join(f'{v:g}' for v in CIFAR[name])}", CANNOT, why)
        for name, why in MISSING.items()
    ]
    return claims


def _figure(found: list[Outcome]) -> Figure:
    titles = tuple(outcome.network.title for outcome in found)
    groups = []
    for k, name in enumerate(MEASURES):
        marks = tuple(o.network.published[k + 1] if o.network.published else None for o in found)
        values = tuple((o.measures[k],) for o in found)
        most = max(v for v in (*(v for (v,) in values), *(m for m in marks if m is not None)))
        groups.append(Group(name, "ℓ∞, relative to the image" if k == 0 else "ℓ∞", titles, values, marks,
                            span=(0, 1.15 * most)))  # fmt: skip
    return comparison_figure(groups, "Robustness of MNIST networks by three measures")
