"""Tables 1 and 2 of Szegedy et al. 2014 on MNIST: how near L-BFGS finds other classes, transfer, and noise.

Szegedy et al. 2014 (arXiv 1312.6199), section 4: distortion ``sqrt(Σ (x' − x)² / n)``, examples of one network fed to
the others, Gaussian noise for comparison. Its networks (softmax and sigmoid layers with weight decay, and a softmax on
an autoencoder) are not available; dense ReLU networks stand in for them, and test images that all of them classify
correctly for its training images. The proven minimum distances beside it are ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import clinch as cl
from clinch.attacks import lbfgs
from clinch.io.data import Images, mnist
from clinch.modeling.model import SymbolicNetwork
from clinch.papers.parts.figure_comparison import Group, comparison_figure
from clinch.papers.parts.networks import reference_network
from clinch.papers.parts.reproduction import CANNOT, Claim, Entry, Reproduction, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORKS = ("mnist_small", "mnist_dnn2", "mnist_dnn4")
#: the network whose minimum distances are proven as well
PROVEN = "mnist_small"
IMAGES, AMONG, SEARCHES, LIMIT, GAP = 25, 200, 7, 20.0, 1e-3
#: Table 1: test error and average minimum distortion
PUBLISHED = {
    "FC10(1e-4)": (0.074, 0.062), "FC10(1e-2)": (0.094, 0.1), "FC10(1)": (0.2, 0.14), "FC100-100-10": (0.0164, 0.058),
    "FC200-200-10": (0.0154, 0.065), "AE400-10": (0.019, 0.086),
}  # fmt: skip
#: Table 2: error of FC10(1e-4), FC100-100-10 and AE400-10 under noise of this standard deviation
NOISE = {0.1: "5.0%, 0%, 0.8%", 0.3: "15.6%, 5%, 3.1%"}
#: Table 4 scales the examples to this distortion
MAGNIFIED = 0.1
#: noise drawn for each image
DRAWS = 200
#: up to which error noise counts as harmless
HARMLESS = 0.02
#: of distances in float32, relative
ROUNDING = 1e-6


@dataclass(frozen=True)
class Examples:
    """Examples for one network, whether they are of another class, their distortion ``(N,)``, CPU seconds."""

    x: Tensor
    success: Tensor
    distortion: Tensor
    seconds: float

    @property
    def mean(self) -> float:
        """Average distortion of those that are of another class."""
        return float(self.distortion[self.success].mean()) if bool(self.success.any()) else math.inf


@dataclass(frozen=True)
class Optimum:
    """Distances of L-BFGS, and the best distance and the lower limit that are known, each ``(N,)``."""

    found: Tensor
    value: Tensor
    bound: Tensor

    @property
    def excess(self) -> Tensor:
        """How far the examples lie over what is proven, relative to it."""
        return self.found / self.bound - 1


def run(*, seed: int, quick: bool, note: Callable[[str], None]) -> Reproduction:
    """Everything; see :func:`clinch.study.reproduce`."""
    nets = {name: reference_network(name) for name in NETWORKS}
    images = _sample(nets, 2 if quick else IMAGES)
    made = {}
    for name, net in nets.items():
        note(f"{name}: L-BFGS")
        made[name] = _examples(net, images, 3 if quick else SEARCHES)
    note(f"{PROVEN}: minimum distances")
    optimum = _optimum(nets[PROVEN], images, made[PROVEN], seed, 5.0 if quick else LIMIT)
    error = {(source, net): _error(nets[net], made[source].x, images.y) for source in nets for net in nets}
    for source in nets:
        scaled = _magnified(images.x, made[source])
        error |= {(f"{source}, magnified to {MAGNIFIED:g}", net): _error(nets[net], scaled, images.y) for net in nets}
    noise = _noise(nets, images, made, seed)
    return Reproduction(
        "lbfgs", "Szegedy et al. 2014 (arXiv 1312.6199), Tables 1 and 2",
        f"The first {len(images.y)} MNIST test images that {', '.join(n[6:] for n in NETWORKS)} all classify "
        f"correctly, the nearest of all nine classes; noise is not cut off at 0 and 1, {DRAWS} draws for each image.",
        (_distortions(made), _transfer(error, noise), _optima(optimum)),
        tuple(_claims(made, error, noise, optimum)), _figure(made, error),
    )  # fmt: skip


def _sample(nets: dict[str, SymbolicNetwork], count: int) -> Images:
    """The first test images that every network classifies correctly."""
    x, y = (part[:AMONG] for part in mnist("test", few=True))
    right = torch.stack([_predicted(net, x) == y for net in nets.values()]).all(0)
    return Images(x[right][:count], y[right][:count])


def _predicted(net: SymbolicNetwork, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.graph.forward(x)[net.graph.output].argmax(1)


def _error(net: SymbolicNetwork, x: Tensor, y: Tensor) -> float:
    return float((_predicted(net, x) != y).double().mean())


def _examples(net: SymbolicNetwork, images: Images, searches: int) -> Examples:
    begun = time.process_time()
    found = lbfgs(net, images.x, images.y, searches=searches)
    seconds = time.process_time() - begun
    other = _predicted(net, found.x) != images.y
    return Examples(found.x, found.success & other, _distortion(found.x, images.x), seconds)


def _distortion(x: Tensor, x0: Tensor) -> Tensor:
    """``sqrt(Σ (x − x0)² / n)`` of each image."""
    return (x.double() - x0.double()).square().flatten(1).mean(1).sqrt()


def _magnified(x0: Tensor, made: Examples) -> Tensor:
    """The same directions at one distortion; pixels may leave their range."""
    factor = (MAGNIFIED / made.distortion.clamp(min=1e-12)).to(x0).reshape(-1, *[1] * (x0.dim() - 1))
    return x0 + factor * (made.x - x0)


def _noise(
    nets: dict[str, SymbolicNetwork], images: Images, made: dict[str, Examples], seed: int
) -> dict[str, dict[str, float]]:
    """Error of each network under Gaussian noise, by standard deviation; first that of its own examples."""
    shape = (DRAWS, *images.x.shape)
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=images.x.dtype)
    y = images.y.repeat(DRAWS)

    def error(name: str, deviation: float) -> float:
        return _error(nets[name], (images.x + deviation * draws).flatten(0, 1), y)

    rows = {"as the network's own examples": {name: error(name, made[name].mean) for name in nets}}
    return rows | {f"{deviation:g}": {name: error(name, deviation) for name in nets} for deviation in NOISE}


def _optimum(net: SymbolicNetwork, images: Images, made: Examples, seed: int, limit: float) -> Optimum:
    """Minimum distances to another class; one problem for each label, since the condition names it."""
    values, bounds = [], []
    for x0, label in zip(images.x, images.y.tolist()):
        x, z = net.input, net.output
        problem = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [z.argmax() != label, x >= 0, x <= 1])
        s = problem.solve(time_limit=limit, gap=GAP, seed=seed)
        values.append(float(s.value))
        bounds.append(float(s.bound))
    found = (made.x.double() - images.x.double()).flatten(1).norm(dim=1)
    return Optimum(
        found.masked_fill(~made.success, math.inf),
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(bounds, dtype=torch.float64),
    )


def _distortions(made: dict[str, Examples]) -> Table:
    rows: list[tuple[Entry, ...]] = [
        (f"{name}, published", distortion, None, None) for name, (_, distortion) in PUBLISHED.items()
    ]
    for name, found in made.items():
        rows.append((name[6:], found.mean, float(found.success.double().mean()), found.seconds))
    return Table("Average minimum distortion", ("network", "distortion", "success", "CPU s"), tuple(rows), digits=4)


def _transfer(error: dict[tuple[str, str], float], noise: dict[str, dict[str, float]]) -> Table:
    sources = list(dict.fromkeys(source for source, _ in error))
    rows: list[tuple[Entry, ...]] = [(source, *(error[source, net] for net in NETWORKS), None) for source in sources]
    published = {f"{deviation:g}": text for deviation, text in NOISE.items()}
    for deviation, row in noise.items():
        rows.append((f"Gaussian noise, {deviation}", *(row[net] for net in NETWORKS), published.get(deviation)))
    heads = ("examples for", *(f"error of {name[6:]}" for name in NETWORKS), "FC10(1e-4), FC100-100-10, AE400-10")
    return Table("Examples of one network on the others", heads, tuple(rows), digits=3)


def _optima(o: Optimum) -> Table:
    rows = tuple(zip(range(len(o.found)), *(c.tolist() for c in (o.found, o.value, o.bound, 100 * o.excess))))
    heads = ("image", "L-BFGS", "Clinch", "proven", "L-BFGS over proven, %")
    return Table(f"ℓ2 distances, {PROVEN[6:]}", heads, rows, digits=5)


def _claims(
    made: dict[str, Examples], error: dict[tuple[str, str], float], noise: dict[str, dict[str, float]], o: Optimum
) -> list[Claim]:
    own = noise["as the network's own examples"]
    cross = {(s, n): error[s, n] for s in made for n in made if s != n}
    scaled = {(s, n): error[f"{s}, magnified to {MAGNIFIED:g}", n] for s, n in cross}
    same = noise[f"{MAGNIFIED:g}"]
    below = float((o.found - o.bound * (1 - ROUNDING)).min())
    closed = int((o.value - o.bound <= 2 * GAP * o.value).sum())
    claims = [
        Claim(f"{name}: the average minimum distortion is {distortion:g}", CANNOT, "its weights are not available")
        for name, (_, distortion) in PUBLISHED.items()
    ]
    spread = f"{min(cross.values()):.0%} to {max(cross.values()):.0%}"
    magnified = f"{min(scaled.values()):.0%} to {max(scaled.values()):.0%}"
    excess = f"{float(o.excess.mean()):.2%} over the proven limit on average, {float(o.excess.max()):.2%} at most"
    return [
        *claims,
        Claim.that("An example of another class is found for every image and network",
                   all(bool(e.success.all()) for e in made.values()),
                   ", ".join(f"{name[6:]} {int(e.success.sum())} of {len(e.success)}" for name, e in made.items())),
        Claim.that("The average distortion is small: at most the largest published one, 0.14",
                   all(e.mean <= PUBLISHED["FC10(1)"][1] for e in made.values()),
                   ", ".join(f"{name[6:]} {e.mean:.4f}" for name, e in made.items())),
        Claim.that(f"Noise of the examples' own distortion is harmless: an error of at most {HARMLESS:.0%}",
                   max(own.values()) <= HARMLESS, ", ".join(f"{name[6:]} {v:.2%}" for name, v in own.items())),
        Claim.that("Examples also fool networks that they were not made for, more than such noise does",
                   all(cross[s, n] > own[n] for s, n in cross), spread),
        Claim.that(f"Magnified to {MAGNIFIED:g} they fool every other network more than noise of {MAGNIFIED:g}",
                   all(scaled[s, n] > same[n] for s, n in scaled),
                   f"{magnified} against {max(same.values()):.1%} at most"),
        Claim.that(f"{PROVEN[6:]}: no example lies nearer than what is proven (ours)", below >= 0,
                   f"{below:.1e} at least"),
        Claim.that(f"{PROVEN[6:]}: L-BFGS comes within 1% of the optimum on average (ours)",
                   float(o.excess.mean()) <= 0.01,
                   f"{excess}; {closed} of {len(o.found)} limits within {GAP:g} of the best distance"),
    ]  # fmt: skip


def _figure(made: dict[str, Examples], error: dict[tuple[str, str], float]) -> Figure:
    names = (*PUBLISHED, *(name[6:] for name in made))
    ours = (*(() for _ in PUBLISHED), *(tuple(e.distortion[e.success].tolist()) for e in made.values()))
    published = (*(distortion for _, distortion in PUBLISHED.values()), *(None for _ in made))
    groups = [Group("Distortion", "sqrt(Σ (x' − x)² / n)", names, ours, published, emphasis="mean", single="images")]
    sources = tuple(dict.fromkeys(source.replace("mnist_", "") for source, _ in error))
    for net in made:
        values = tuple((v,) for (_, fed), v in error.items() if fed == net)
        groups.append(Group(f"Error of {net[6:]}", "error", sources, values, span=(-0.05, 1.05)))
    return comparison_figure(groups, "Examples by L-BFGS: how near, and whom they fool")
