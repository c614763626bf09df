"""What Table I and Figure 2 of Balda et al. 2018 share: the networks, the images, DeepFool in the paper's own form.

Balda, Behboodi and Mathar 2018 (arXiv 1803.03607), section IV: p = ∞, random test images that are classified
correctly, no limits of the pixels. LeNet-5 has the authors' own weights and, as in their program, an image of 32 × 32
whose black border may be changed too. The weights of the other three networks are not available.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import clinch as cl
from clinch.attacks import AttackResult, deepfool
from clinch.io.data import DataError, Images, mnist, model_file
from clinch.io.published import load_weights
from clinch.modeling.model import SymbolicNetwork
from clinch.papers.parts.networks import reference_network

SOURCE = "Balda, Behboodi and Mathar 2018 (arXiv 1803.03607)"
#: images at once
BATCH = 256
#: images that come with the package
FEW = 500
#: weights that nobody outside has, and why nothing stands in for them
MISSING = {
    "NIN (CIFAR-10)": "the authors' weights are not available, and no network of this kind comes with the project",
    "DenseNet (CIFAR-10)": "the authors' weights are not available, and no network of this kind comes with the project",
}


@dataclass(frozen=True)
class Classifier:
    """A network of the paper: its file here, black pixels added around the image, the paper's row of Table I as
    (test error, ρ̂₁, ρ̂₂, ε₉₉), the file of its curves, and whether the weights are the authors' own."""

    title: str
    model: str
    border: int = 0
    published: tuple[float, float, float, float] | None = None
    curves: str = ""
    authors: bool = False


LENET = Classifier(
    "LeNet-5, the authors' weights", "mnist_lenet5_published", 2, (0.009, 0.077, 0.061, 0.164),
    "balda_fooling_ratio_lenet.csv", True,
)  # fmt: skip
#: the same layers, trained here, where nobody has the authors' weights
STAND_IN = Classifier(
    "LeNet-5, our weights", "mnist_lenet5_max", LENET.border, LENET.published, LENET.curves
)  # fmt: skip
FCNN = Classifier(
    "FCNN 784-150-100-10, our weights", "mnist_fcnn", 0, (0.017, 0.036, 0.034, 0.076), "balda_fooling_ratio_fcnn.csv"
)


@dataclass(frozen=True)
class Sample:
    """Images ``(N, 1, H, W)`` that are classified correctly, their labels, and the share of all images that are not."""

    x: Tensor
    y: Tensor
    error: float

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """Batches."""
        return list(zip(self.x.split(BATCH), self.y.split(BATCH)))


def lenet() -> Classifier:
    """LeNet-5 with the authors' weights where the data folder has them, else with ours."""
    try:
        model_file(f"{LENET.model}.safetensors")
    except DataError:
        return STAND_IN
    return LENET


def network(chosen: Classifier) -> SymbolicNetwork:
    """The reference model; with a border LeNet-5 takes the padded image, instead of padding it inside."""
    if not chosen.border:
        return reference_network(chosen.model)
    half = [nn.ReLU(), nn.MaxPool2d(2)]
    dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    module = nn.Sequential(nn.Conv2d(1, 6, 5), *half, nn.Conv2d(6, 16, 5), *half, nn.Flatten(), *dense)
    load_weights(module, model_file(f"{chosen.model}.safetensors"))
    side = 28 + 2 * chosen.border
    return cl.load(module.eval().requires_grad_(False), input_shape=(1, side, side))


def sample(chosen: Classifier, net: SymbolicNetwork, count: int, seed: int, among: int = 10_000) -> Sample:
    """Random images, of the first so many of the test set, that the network classifies correctly, with its border."""
    data = Images(*(part[:among] for part in mnist("test", few=among <= FEW)))
    x = nn.functional.pad(data.x, [chosen.border] * 4)
    with torch.no_grad():
        predicted = torch.cat([net.graph.forward(part)[net.graph.output].argmax(1) for part in x.split(1000)])
    right = predicted == data.y
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    kept = order[right[order]][:count]
    return Sample(x[kept], data.y[kept], 1 - float(right.double().mean()))


def nearest(net: SymbolicNetwork, images: Sample) -> AttackResult:
    """DeepFool in the paper's form: p = ∞, overshoot 0.02, at most 50 steps, not drawn back, pixels unlimited."""
    found = [deepfool(net, x, y, norm=cl.inf, halvings=0, bounds=None) for x, y in images.parts()]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in found])

    return AttackResult(
        joined("x"), joined("success"), joined("value"), joined("distance"), joined("loss"), joined("forward"),
        joined("backward"), tuple(reason for part in found for reason in part.reason),
    )  # fmt: skip
