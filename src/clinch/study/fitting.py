"""Whether data and a network fit each other, looked at before work is spent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from clinch.errors import NetworkError
from clinch.geometry.norms import norm_of
from clinch.io.data import DataError
from clinch.study.sources import SAMPLES, Source, first_shape

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork
    from clinch.study.template import Template

#: share of the range below which a radius is asked about, where the range is that of bytes or larger
_TINY, _BYTES = 1e-3, 100.0


def classifier(net: nn.Module | SymbolicNetwork, source: Source, name: str | None = None) -> SymbolicNetwork:
    """The network, and whether the first image that can be read fits it.

    Args:
        net: a module, or what ``clinch.load`` returned. A module that takes channels first is loaded for images whose
            channels come last too: :meth:`Source.read` turns them.
        source: the data.
        name: of a module.

    Raises:
        NetworkError: it has no outputs ``(K,)``, or takes inputs of another size.
    """
    from clinch.modeling.model import SymbolicNetwork, load

    shape = first_shape(source)
    if isinstance(net, SymbolicNetwork):
        network = net
    elif (turned := _channels_first(shape)) is None:
        network = load(net, input_shape=shape or (), name=name)
    else:
        try:
            network = load(net, input_shape=turned, name=name)
        except NetworkError:
            network = load(net, input_shape=shape, name=name)
    outputs = network.graph.nodes[-1].shape
    if len(outputs) != 1 or outputs[0] < 2:
        raise NetworkError(f"{network.name} has outputs of shape {outputs}; a study needs one output per class, (K,).")
    if shape is not None and math.prod(shape) != math.prod(network.input_shape):
        raise NetworkError(
            f"{network.name} takes inputs of shape {network.input_shape}, but the images of {source.name} have shape "
            f"{shape}. Name data that fits."
        )
    return network


def _channels_first(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The shape of images whose channels come last, turned; None for others."""
    if shape is None or len(shape) != 3 or shape[2] not in (1, 3, 4) or shape[0] in (1, 3, 4):
        return None
    return shape[2], shape[0], shape[1]


def check_labels(network: SymbolicNetwork, source: Source, images: int) -> None:
    """Refuse labels of the first so many images that are no class of the network, where they are known beforehand.

    Raises:
        DataError: the first such label, with its image and the number of classes.
    """
    if source.labels is None:
        return
    classes = network.graph.nodes[-1].shape[0]
    beyond = torch.nonzero(source.labels[:images] >= classes).flatten()
    if len(beyond):
        image = int(beyond[0])
        raise DataError(
            f"{source.name}: the label {int(source.labels[image])} of image {image} is none of the {classes} classes "
            f"of {network.name}, 0 to {classes - 1} ({len(beyond)} of {images} labels are beyond). "
            "Name data of these classes."
        )


def check_data(template: Template, network: SymbolicNetwork, source: Source, images: int) -> None:
    """:func:`check_labels` and :func:`check_scale`."""
    check_labels(network, source, images)
    check_scale(template, network, source, images)


def check_scale(template: Template, network: SymbolicNetwork, source: Source, images: int) -> None:
    """Refuse data whose first images all lie outside the range of the inputs, or cannot be read.

    Raises:
        DataError: says which range they have, or what is wrong with the first.
    """
    batch = source.read(range(min(SAMPLES, images)), network.input_shape, torch.float64)
    read = [x for x, error in zip(batch.x, batch.errors) if error is None]
    ranges = [(float(x.min()), float(x.max())) for x in read if x.numel()]
    if not ranges and images:
        raise DataError(f"{source.name}: none of its first images can be used; image 0: {batch.errors[0]}")
    if not all(template.outside(low, high) for low, high in ranges):
        return
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    known = (
        "They look like bytes: store them as uint8 or divide them by 255"
        if low >= 0 and 1 < high <= 255 else "They look normalised: give --mean, --std and images as they were before"
        if low < 0 else "Divide them by their largest value"
    )  # fmt: skip
    raise DataError(
        f"{source.name}: the first images have pixels from {low:g} to {high:g}, outside of [{template.lower:g}, "
        f"{template.upper:g}]. {known}; or give their range (--lower, --upper), and eps in its units."
    )


def note_on_radius(template: Template) -> list[str]:
    """A word where the radius looks as if it were one for pixels in [0, 1] while the inputs are bytes."""
    size = template.upper - template.lower
    if template.eps is None or size < _BYTES or not 0 < template.eps < _TINY * size or norm_of(template.norm).counts:
        return []
    return [
        f"eps {template.eps:g} is small against inputs in [{template.lower:g}, {template.upper:g}]: it is in their "
        "units, not in shares of the range."
    ]
