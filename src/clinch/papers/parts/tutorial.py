"""What the exact solves and the bounds of Kolter and Madry's tutorial share: its network, its image, all margins.

Kolter and Madry, "Adversarial Robustness: Theory and Practice", chapter 4 (https://adversarial-ml-tutorial.org). Its
weights are not available; the network here has the same layers (784-50-20-10) and the same training. The image is the
same: the first of the test set, a 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

import clinch as cl
from clinch.io.data import mnist
from clinch.modeling.model import SymbolicNetwork
from clinch.papers.parts.networks import reference_network

SOURCE = "Kolter and Madry, Adversarial Robustness: Theory and Practice, chapter 4"
WEIGHTS = "the tutorial's weights are not available"
LABEL, CLASSES = 7, 10
TARGETS = tuple(t for t in range(CLASSES) if t != LABEL)


def small_network() -> SymbolicNetwork:
    """784-50-20-10."""
    return reference_network("mnist_small")


def image() -> Tensor:
    """``(1, 1, 28, 28)``, the first test image, in float64."""
    return mnist("test", few=True).x[:1].double()


def margins() -> Tensor:
    """``(9, 10)`` rows ``e_7 − e_t`` on the outputs, one for each target."""
    eye = torch.eye(CLASSES, dtype=torch.float64)
    return eye[LABEL] - eye[list(TARGETS)]


def worst_margin(net: SymbolicNetwork, x0: Tensor, row: Tensor, eps: float) -> cl.Problem:
    """``min z_y − z_t`` over ``‖x − x0‖_∞ <= eps`` and the range of pixels."""
    x, z = net.input, net.output
    return cl.Problem(cl.Minimize((row * z).sum()), [x >= 0, x <= 1, cl.norm(x - x0, cl.inf) <= eps])
