"""How applications read what is given to them: networks, inputs, labels and radii, checked before any work."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from clinch.errors import ProblemError, ShapeError
from clinch.geometry.norms import norm_of
from clinch.modeling.model import SymbolicNetwork, load
from clinch.runtime.arguments import checked_batch, checked_labels, checked_range, within_range

#: a network, or what :func:`clinch.load` makes one of
Loadable = SymbolicNetwork | nn.Module | str | PathLike[str]
#: in the place of inputs that there are none of
ABSENT = object()


def network_of(network: Loadable, x: Any = ABSENT, name: str = "x") -> SymbolicNetwork:
    """What :func:`clinch.load` makes of a network, with the shape of one of the inputs ``(B, *input_shape)``.

    Raises:
        NetworkError: it cannot be loaded.
        ShapeError: the inputs are no batch.
    """
    if isinstance(network, SymbolicNetwork):
        return network
    if not isinstance(network, nn.Module):
        return load(network)
    if x is ABSENT:
        raise ProblemError("A module does not tell the shape of its inputs. Pass cl.load(module, input_shape=...).")
    return load(network, tuple(checked_batch(x, None, name).shape[1:]))


def inputs_of(network: SymbolicNetwork, x: Any, bounds: Any = None, name: str = "x") -> Tensor:
    """Inputs ``(B, *input_shape)`` within their range, in the network's dtype on the CPU.

    Raises:
        ShapeError, NonFiniteError, ProblemError: no batch of the network's inputs, NaN, outside of the range, or no
            range.
    """
    limits = None if bounds is None else checked_range(bounds)
    batch = checked_batch(x, network.input_shape, name)
    if limits is not None:
        batch = within_range(batch, *limits, network.dtype, name)
    return batch.to("cpu", network.dtype)


def labels_of(network: SymbolicNetwork, y: Any, size: int, name: str = "y") -> Tensor:
    """Labels ``(B,)`` on the CPU, each a class of the network.

    Raises:
        ShapeError, ProblemError: anything else.
    """
    shape = network.graph.nodes[network.graph.output].shape
    if len(shape) != 1:
        raise ShapeError(f"The output has shape {shape}; labels are for a classifier, whose output is (classes,).")
    return checked_labels(name, y, size, shape[0]).cpu()


def norm_among(norm: Any, known: tuple[float, ...]) -> float:
    """The number p of a norm, however it is written.

    Raises:
        ProblemError: none of those that are known here.
    """
    p = norm_of(norm).p
    if p not in known:
        names = [("cl.inf" if q == torch.inf else f"{q:g}") for q in known]
        raise ProblemError(f"norm={norm} has no formula here. Write {', '.join(names[:-1])} or {names[-1]}.")
    return p
