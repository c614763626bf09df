"""How points are sent through a network: not too many at once, and in batches of full height.

Matrix products on a CPU take rows four at a time, and those that are left over by another sum order. Rows that lie
alike in memory are rounded alike once there are as many as a multiple of four: so what a network says about a point
does not depend on how many others are asked about. Rows of large inputs are left as many as they are: three more of
them would take as long as three more attacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

#: rows of one block of a matrix product, and elements of inputs from which on blocks are not filled
BLOCK, LARGE = 4, 2**15
#: input elements sent through the network at once
AT_ONCE = 2**21

Values = TypeVar("Values", Tensor, dict[int, Tensor])


def filled(network: Callable[[Tensor], Values], z: Tensor) -> Values:
    """What a network says about points ``(L, *input_shape)``, in a batch of full height on a CPU.

    Args:
        network: gives a tensor ``(N, …)`` or several by their names, row by row.
        z: the points; gradients flow. Rows that fill the batch repeat the last one and have no part in the result.
    """
    missing = missing_rows(z)
    if not missing:
        return network(z)
    found = network(heightened(z, missing))
    if isinstance(found, dict):
        return {name: value[: len(z)] for name, value in found.items()}
    if isinstance(found, Tensor) and found.dim() and len(found) == len(z) + missing:
        return found[: len(z)]
    return network(z)  # no row for each point: whoever asks finds fault with it


def heightened(z: Tensor, missing: int) -> Tensor:
    """Points with so many more rows, which repeat the last one."""
    return torch.cat([z, z[-1:].detach().expand(missing, *z.shape[1:])]) if missing else z


def missing_rows(z: Tensor) -> int:
    """How many rows points ``(L, *input_shape)`` lack of a batch of full height."""
    missing = -z.shape[0] % BLOCK
    return missing if missing and z.shape[0] and z.device.type == "cpu" and z.shape[1:].numel() < LARGE else 0


def parts_of(z: Tensor, times: int = 1) -> list[slice]:
    """Points ``(L, *input_shape)`` in parts that the network takes at once: what it keeps for gradients is many times
    its input. ``times``: rows that each point stands for."""
    size = max(1, AT_ONCE // (times * max(1, z.shape[1:].numel())))
    size -= size % BLOCK if size > BLOCK else 0
    return [slice(begin, begin + size) for begin in range(0, max(1, len(z)), size)]


def along(values: Tensor, like: Tensor) -> Tensor:
    """Numbers ``(L,)`` shaped so that they multiply the rows of ``(L, *input_shape)``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
