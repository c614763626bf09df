"""Batches of full height, so that what a network says about a point does not depend on how many others are asked about.

Matrix products on a CPU take rows four at a time, and those that are left over by another sum order. Rows that lie
alike in memory are rounded alike once there are as many as a multiple of four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

#: rows of one block of a matrix product
BLOCK = 4

Values = TypeVar("Values", Tensor, dict[int, Tensor])


def filled(network: Callable[[Tensor], Values], z: Tensor) -> Values:
    """What a network says about points ``(L, *input_shape)``, in a batch of full height on a CPU.

    Args:
        network: gives a tensor ``(N, …)`` or several by their names, row by row.
        z: the points; gradients flow. Rows that fill the batch repeat the last one and have no part in the result.
    """
    missing = -len(z) % BLOCK
    if not missing or not len(z) or z.device.type != "cpu":
        return network(z)
    found = network(torch.cat([z, z[-1:].detach().expand(missing, *z.shape[1:])]))
    if isinstance(found, dict):
        return {name: value[: len(z)] for name, value in found.items()}
    if isinstance(found, Tensor) and found.dim() and len(found) == len(z) + missing:
        return found[: len(z)]
    return network(z)  # no row for each point: whoever asks finds fault with it
