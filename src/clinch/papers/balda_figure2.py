"""Figure 2 of Balda et al. 2018, its MNIST half: the fooling ratio of every method against ε.

Beside the published methods stand Algorithm 1-5, which the paper names without its curve being at hand, and two of
ours: the distances of :func:`clinch.attacks.nearest` with a small budget, and for FCNN what CROWN's bounds leave to any
method whatever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import clinch as cl
from clinch.attacks import AttackResult, fast_grad, linear_model_descent, linear_model_score, random_signs
from clinch.io.data import reference_file
from clinch.io.published import read_columns
from clinch.modeling.model import SymbolicNetwork
from clinch.papers.parts.balda import FCNN, MISSING, SOURCE, Classifier, Sample, lenet, nearest, network, sample
from clinch.papers.parts.figure_curves import Curve, Panel, curves_figure
from clinch.papers.parts.reproduction import CANNOT, Claim, Entry, Reproduction, Table
from clinch.study.measures import fooling_ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEEPFOOL, ALGORITHM1, ITERATED, FASTGRAD, ALGORITHM2, RANDOM, OURS, PROVEN = (
    "DeepFool", "Algorithm 1", "Algorithm 1-5", "FastGrad", "Algorithm 2", "Random", "Clinch's nearest",
    "proven: at most",
)  # fmt: skip
COLUMNS = {
    DEEPFOOL: "deepfool", ALGORITHM1: "algorithm1", FASTGRAD: "fastgrad", ALGORITHM2: "algorithm2", RANDOM: "random",
}  # fmt: skip
STEPS: dict[str, Callable[..., AttackResult]] = {
    ALGORITHM1: linear_model_descent, ITERATED: partial(linear_model_descent, steps=5), FASTGRAD: fast_grad,
    ALGORITHM2: linear_model_score,
    RANDOM: random_signs,
}  # fmt: skip
IMAGES, PASSES = 512, 480
#: images of a published point, and by how many standard errors points of the same network may differ
THEIR_IMAGES, ERRORS = 1024, 3.0
#: what a method that hardly fools stays below
HARDLY = 0.04
#: how much worse a method may be on average over the radii and still be called competitive
COMPETITIVE = 0.1
#: rounding of a mean of shares
ROUNDING = 1e-9


@dataclass(frozen=True)
class Outcome:
    """A network's curves over ε by method, ours and the published ones."""

    network: Classifier
    eps: tuple[float, ...]
    curves: dict[str, tuple[float, ...]]
    published: dict[str, tuple[float, ...]]
    images: int

    @property
    def title(self) -> str:
        """For claims."""
        return self.network.title.split()[0].rstrip(",")

    def ahead(self, one: str, two: str) -> float:
        """By how much the first method fools more than the second, on average over the radii."""
        a, b = (torch.tensor(self.curves[name], dtype=torch.float64) for name in (one, two))
        return float((a - b).mean())

    def apart(self, name: str) -> tuple[float, float]:
        """Largest difference to the published curve, and the largest in standard errors of two independent samples."""
        ours, theirs = (torch.tensor(c[name], dtype=torch.float64) for c in (self.curves, self.published))
        n, m = self.images, THEIR_IMAGES
        # one success and one failure more, so that shares of 0 have an error too (Agresti and Caffo 2000)
        share = (n * ours + m * theirs + 1) / (n + m + 2)
        error = (share * (1 - share) * (1 / n + 1 / m)).sqrt()
        difference = (ours - theirs).abs()
        return float(difference.max()), float((difference / error).max())


def run(*, seed: int, quick: bool, note: Callable[[str], None]) -> Reproduction:
    """Everything; see :func:`clinch.study.reproduce`."""
    count, among = (12, 200) if quick else (IMAGES, 10_000)
    found = []
    for chosen in (FCNN, lenet()):
        net = network(chosen)
        found.append(_curves(chosen, net, sample(chosen, net, count, seed, among), seed, note))
    return Reproduction(
        "balda-figure2", f"{SOURCE}, Figure 2",
        f"{count} random correctly classified MNIST test images for each network, p = ∞, no limits of the pixels; "
        f"{OURS} has {PASSES} passes for all radii together.",
        tuple(table for o in found for table in _tables(o)), tuple(_claims(found)), _figure(found),
    )  # fmt: skip


def _curves(
    chosen: Classifier, net: SymbolicNetwork, images: Sample, seed: int, note: Callable[[str], None]
) -> Outcome:
    eps, published = _published(chosen)
    radii = torch.tensor(eps, dtype=torch.float64)
    note(f"{chosen.title}: {DEEPFOOL}")
    curves = {DEEPFOOL: fooling_ratio(nearest(net, images), radii)}
    parts = images.parts()
    weight = torch.tensor([len(x) for x, _ in parts], dtype=torch.float64) / len(images.x)
    for name, method in STEPS.items():
        note(f"{chosen.title}: {name}")
        if name == RANDOM:
            method = partial(method, seed=seed)
        ratios = [[fooling_ratio(method(net, x, y, eps=e, bounds=None)) for x, y in parts] for e in eps]
        curves[name] = torch.tensor(ratios, dtype=torch.float64) @ weight
    note(f"{chosen.title}: {OURS}")
    ours = [cl.attacks.nearest(net, x, y, norm=cl.inf, bounds=None, passes=PASSES, seed=seed) for x, y in parts]
    curves[OURS] = torch.stack([fooling_ratio(o, radii) for o in ours], 1) @ weight
    if chosen is FCNN:
        note(f"{chosen.title}: {PROVEN}")
        curves[PROVEN] = torch.stack([1 - _proven(net, images, e) for e in eps])
    return Outcome(
        chosen, eps, {name: tuple(curve.tolist()) for name, curve in curves.items()}, published, len(images.x)
    )


def _published(chosen: Classifier) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]]]:
    found = read_columns(reference_file(chosen.curves), ["epsilon", *COLUMNS.values()])
    return found["epsilon"], {name: found[column] for name, column in COLUMNS.items()}


def _proven(net: SymbolicNetwork, images: Sample, eps: float) -> Tensor:
    """The share of the images whose label CROWN proves in the whole ball."""
    eye, shares = torch.eye(10, dtype=torch.float64), []
    for x, y in images.parts():
        forms = eye[y].unsqueeze(1) - eye
        # the label against itself is 0 and says nothing
        limits = cl.bounds.crown(net, cl.bounds.ball(x.double(), eps, cl.inf), forms)
        shares.append((limits > 0).scatter(1, y.unsqueeze(1), True).all(1))
    return torch.cat(shares).double().mean()


def _tables(outcome: Outcome) -> list[Table]:
    tables = []
    for whose, curves in (("ours", outcome.curves), ("published", outcome.published)):
        rows: tuple[tuple[Entry, ...], ...] = tuple(zip(outcome.eps, *curves.values()))
        tables.append(Table(f"{outcome.network.title}: fooling ratio, {whose}", ("ε", *curves), rows, digits=3))
    return tables


def _claims(found: list[Outcome]) -> list[Claim]:
    claims = []
    for outcome in found:
        for name in outcome.published:
            apart, errors = outcome.apart(name)
            text = f"{outcome.title}: the curve of {name}"
            if outcome.network.authors:
                reason = f"{apart:.3f} apart at most; {errors:.1f} standard errors, {ERRORS:g} allowed"
                claims.append(Claim.that(text, errors <= ERRORS, reason))
            else:
                why = f"the authors' weights are not available; the same layers trained here are {apart:.3f} apart"
                claims.append(Claim(text, CANNOT, why))
        for one, two in ((ITERATED, DEEPFOOL), (ALGORITHM1, FASTGRAD), (DEEPFOOL, FASTGRAD), (ITERATED, ALGORITHM1)):
            gap = outcome.ahead(one, two)
            text = f"{outcome.title}: {one} fools more than {two}, averaged over ε"
            claims.append(Claim.that(text, gap > ROUNDING, f"{gap:+.3f}"))
        gap = outcome.ahead(ALGORITHM2, FASTGRAD)
        text = f"{outcome.title}: {ALGORITHM2} is competitive with {FASTGRAD}"
        claims.append(Claim.that(text, gap >= -COMPETITIVE, f"{gap:+.3f} averaged over ε, −{COMPETITIVE:g} allowed"))
        most = max(outcome.curves[RANDOM])
        claims.append(Claim.that(f"{outcome.title}: random noise hardly fools", most <= HARDLY, f"{most:.3f} at most"))
        claims.append(_beside(outcome))
    claims += [Claim(f"{name}: the curves", CANNOT, why) for name, why in MISSING.items()]
    return claims


def _beside(outcome: Outcome) -> Claim:
    """Whether one of the paper's methods is ever ahead of our default."""
    rivals = (DEEPFOOL, ALGORITHM1, ITERATED, FASTGRAD, ALGORITHM2)
    behind = {name: max(a - b for a, b in zip(outcome.curves[name], outcome.curves[OURS])) for name in rivals}
    worst = max(behind, key=lambda name: behind[name])
    text = f"{outcome.title}: none of the paper's methods fools more than {OURS} at any ε (ours)"
    return Claim.that(text, behind[worst] <= ROUNDING, f"{worst} {behind[worst]:+.3f} at most")


def _figure(found: list[Outcome]) -> Figure:
    panels = [
        Panel(
            o.network.title, "ε (ℓ∞)", o.eps,
            tuple(Curve(name, c, o.published.get(name, ()), name == PROVEN) for name, c in o.curves.items()),
        )
        for o in found
    ]  # fmt: skip
    return curves_figure(panels, "fooling ratio", "How often each method changes the label")
