"""The demo's problem: the nearest image of the same class to which a box monitor objects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.applications.monitors import BoxMonitor
from clinch.demo import SHAPE, digits, network
from clinch.errors import ProblemError
from clinch.modeling.model import SymbolicNetwork, load
from clinch.modeling.norms import norm
from clinch.modeling.problem import Minimize, Problem

#: the layer that the monitor watches: the second hidden one
LAYER = "relu2"
#: by how much the class must win, in logits
CLASS_MARGIN = 1e-3


@dataclass(frozen=True)
class Demo:
    """The demo's problem and its parts.

    Attributes:
        problem: what is solved.
        network: the loaded network.
        monitor: fitted on the training digits.
        x0: the starting image, shape ``(8, 8)``.
        label: the class that the network gives it.
    """

    problem: Problem
    network: SymbolicNetwork
    monitor: BoxMonitor
    x0: Tensor
    label: int


def build(index: int = 60, p: float = 2) -> Demo:
    """State the problem for one of the held-out digits.

    Args:
        index: which digit.
        p: the norm, 0, 1, 2 or infinity.

    Raises:
        ProblemError: there is no such digit.
    """
    images = digits("test").x
    if not 0 <= index < len(images):
        raise ProblemError(f"There is no digit {index}; give 0 to {len(images) - 1}.")
    x0 = images[index]
    model = network()
    with torch.no_grad():
        label = int(model(x0[None]).argmax())
    net = load(model, input_shape=SHAPE)
    monitor = BoxMonitor.fit(net, LAYER, digits("train").x)
    x, z = net.input, net.output
    constraints = [x >= 0, x <= 1, z.argmax(margin=CLASS_MARGIN) == label, monitor.outside(net, label)]
    return Demo(Problem(Minimize(norm(x - x0, p)), constraints), net, monitor, x0, label)
