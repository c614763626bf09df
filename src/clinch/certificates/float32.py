"""Networks as they run in float32, and what may not happen there."""

from __future__ import annotations

import numpy as np

from clinch.checker.layers import Layer, Refused, as_float32
from clinch.checker.lines import Box
from clinch.checker.matrices import forward, magnitude
from clinch.checker.rigorous import interval

#: magnitude below which nothing overflows in float32, sums in any order included
LARGEST = 2.0**126


def running_in_float32(layers: list[Layer], box: Box) -> list[Layer]:
    """The layers with what float32 may round, see :func:`clinch.checker.layers.as_float32`.

    Args:
        layers: as they are stored.
        box: limits ``(1, n)`` of the input.

    Raises:
        Refused: how a layer rounds is not known, or it may overflow.
    """
    layers, limits = as_float32(layers), [box]
    with np.errstate(all="ignore"):
        for i, layer in enumerate(layers[1:], 1):
            inputs = [limits[j] for j in layer.inputs]
            limits.append(interval(layer, inputs))
            most = limits[i].size
            if layer.kind == "affine" and layer.weight is not None:
                most = most + forward(magnitude(layer.weight), np.concatenate([b.size for b in inputs], 1))
            if not (most < LARGEST).all():
                raise Refused(f"Layer {i} may overflow in float32: its sums reach {float(most.max()):.3g}.")
    return layers
