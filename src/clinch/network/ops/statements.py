"""Affine operators as layers of certificates: the entries of their matrices that are not zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from clinch.network.ops.interval import Shape

#: a layer of a certificate: its kind and settings, and its tensors by the name of the setting
Statement = tuple[dict[str, Any], dict[str, Tensor]]
#: numbers that a matrix may have, zeros included, where its entries are looked for, and that are looked at at once
LARGEST, SLICE = 2**27, 2**22


class AffineMap(Protocol):
    """What is asked of an affine operator, see :class:`clinch.network.ops.base.Affine`."""

    selects: ClassVar[bool]
    linear: ClassVar[bool]

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy with parameters of a dtype."""
        ...

    def forward(self, *inputs: Tensor) -> Tensor:
        """The value."""
        ...

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Rows on the output as rows on each input."""
        ...


def sparse(row: Tensor, column: Tensor, value: Tensor, shape: Shape, bias: Tensor | None = None) -> Statement:
    """A layer by the entries of its matrix; several inputs stand in a row."""
    tensors = {"row": row.to(torch.int32), "column": column.to(torch.int32), "value": value.double()}
    if bias is not None and bool((bias != 0).any()):
        tensors["bias"] = bias.flatten()
    return {"kind": "sparse", "shape": list(shape)}, tensors


def of_affine(op: AffineMap, shapes: Sequence[Shape], shape: Shape) -> Statement | None:
    """Any affine operator: an element of an input each, or what goes back through the transpose; None: too large."""
    op, size, read = op.to(torch.float64, "cpu"), math.prod(shape), sum(map(math.prod, shapes))
    if op.selects:
        # told apart by their numbers, from 1 on: what is added around them is zero
        numbers = torch.arange(1, read + 1, dtype=torch.float64).split([math.prod(s) for s in shapes])
        chosen = op.forward(*(t.reshape(1, *s) for t, s in zip(numbers, shapes))).flatten().long()
        row = chosen.nonzero().flatten()
        return sparse(row, chosen[row] - 1, torch.ones(len(row)), shape)
    if size * read > LARGEST:
        return None
    entries = []
    for some in torch.arange(size).split(max(1, SLICE // max(read, size))):
        rows = torch.zeros(len(some), size, dtype=torch.float64).scatter(1, some.unsqueeze(1), 1.0)
        parts = op.transpose(rows.reshape(-1, *shape), shapes)
        matrix = torch.cat([part.detach().reshape(len(some), -1) for part in parts], 1)
        at = matrix.nonzero()
        entries.append((at[:, 0] + some[0], at[:, 1], matrix[at[:, 0], at[:, 1]]))
    row, column, value = (torch.cat(t) for t in zip(*entries))
    bias = None if op.linear else op.forward(*(torch.zeros(1, *s, dtype=torch.float64) for s in shapes)).flatten()
    return sparse(row, column, value, shape, bias)
