"""How monitors read the network that they watch, and inputs of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clinch.applications.arguments import ABSENT, Loadable, inputs_of, network_of
from clinch.applications.monitors.joined import Monitor
from clinch.errors import ProblemError
from clinch.modeling.model import SymbolicNetwork


def belonging(network: Loadable, monitor: Monitor, x: Any = ABSENT) -> SymbolicNetwork:
    """The network that a monitor watches; inputs ``(B, *input_shape)`` tell the shape that a module takes.

    Raises:
        NetworkError: it cannot be loaded. UnknownLayer, ProblemError: the monitor is one of another network.
    """
    net = network_of(network, x)
    outputs = net.graph.nodes[net.graph.output].shape
    if outputs != (monitor.classes,):
        raise ProblemError(f"The monitor has {monitor.classes} classes, the network outputs of shape {outputs}.")
    for layer in monitor.layers:
        net.position(layer)
    return net


def opened(network: Loadable, monitor: Monitor, x: Any, bounds: Any = None) -> tuple[SymbolicNetwork, Tensor]:
    """:func:`belonging`, and inputs ``(B, *input_shape)`` in the network's dtype on the CPU.

    Raises:
        ShapeError, NonFiniteError, ProblemError: inputs that do not fit.
    """
    net = belonging(network, monitor, x)
    return net, inputs_of(net, x, bounds)
