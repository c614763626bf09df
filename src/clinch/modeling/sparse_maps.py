"""Sparse linear maps from one layer's activations to an expression: the arithmetic behind the problem language.

``x >= 0`` on an image of 150,000 pixels is 150,000 forms of one term each; only what is left after lowering becomes
dense. A map is a list of triplets ``(row, column, value)``; rows count the elements of the expression, columns those of
the layer, and the values may differ from problem to problem while the pattern is shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def entries_of_rows(row: Tensor, picked: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Where the entries of the picked rows are.

    Args:
        row: row of each entry, shape ``(nnz,)``.
        picked: rows to collect, shape ``(m,)``; a row may repeat.
        rows: number of rows there are.

    Returns:
        Positions of the entries in ``row``, and for each the position of its row in ``picked``.
    """
    order = row.argsort(stable=True)
    counts = torch.bincount(row, minlength=rows)
    start = counts.cumsum(0) - counts
    lengths = counts[picked]
    new_row = torch.repeat_interleave(torch.arange(len(picked)), lengths)
    within = torch.arange(len(new_row)) - (lengths.cumsum(0) - lengths)[new_row]
    return order[start[picked][new_row] + within], new_row


@dataclass(frozen=True, eq=False)
class Terms:
    """A sparse matrix for each problem of a batch, all of one pattern.

    Attributes:
        row: element of the expression, shape ``(nnz,)``.
        col: element of the layer, shape ``(nnz,)``.
        value: coefficients, shape ``(B, nnz)``, or ``(1, nnz)`` where all problems share them.
    """

    row: Tensor
    col: Tensor
    value: Tensor

    @staticmethod
    def identity(size: int) -> Terms:
        """The map that takes every element as it is."""
        index = torch.arange(size)
        return Terms(index, index, torch.ones(1, size, dtype=torch.float64))

    @staticmethod
    def joined(parts: list[Terms]) -> Terms:
        """All entries of all parts: the sum where they share a row and a column."""
        batch = max(part.value.shape[0] for part in parts)
        value = torch.cat([part.value.expand(batch, -1) for part in parts], 1)
        return Terms(torch.cat([part.row for part in parts]), torch.cat([part.col for part in parts]), value)

    def rows(self, picked: Tensor, rows: int) -> Terms:
        """The picked rows, in that order; ``rows`` is the number there are now."""
        entry, new_row = entries_of_rows(self.row, picked, rows)
        return Terms(new_row, self.col[entry], self.value[:, entry])

    def scaled(self, factor: Tensor) -> Terms:
        """Each row times its factor, shape ``(B, rows)`` or ``(1, rows)``."""
        return Terms(self.row, self.col, self.value * factor[:, self.row])

    def renumbered(self, new_row: Tensor) -> Terms:
        """Row i becomes row ``new_row[i]``; rows that meet are added."""
        return Terms(new_row[self.row], self.col, self.value)

    def multiplied(self, matrix: Tensor) -> Terms:
        """``matrix @ self`` for matrices ``(B, k, rows)`` or ``(1, k, rows)``."""
        count, entries = matrix.shape[1], len(self.row)
        value = (matrix[:, :, self.row] * self.value.unsqueeze(1)).flatten(1)
        row = torch.repeat_interleave(torch.arange(count), entries)
        return Terms(row, self.col.repeat(count), value)

    def coalesced(self, columns: int) -> Terms:
        """One entry per row and column, sorted; entries that are zero in every problem are dropped."""
        key, inverse = torch.unique(self.row * columns + self.col, return_inverse=True)
        value = self.value.new_zeros(self.value.shape[0], len(key)).index_add(1, inverse, self.value)
        keep = (value != 0).any(0)
        key, value = key[keep], value[:, keep]
        return Terms(key // max(columns, 1), key % max(columns, 1), value)

    def dense(self, rows: int, columns: int) -> Tensor:
        """Shape ``(B, rows, columns)``, or ``(1, rows, columns)`` where all problems share the values."""
        out = self.value.new_zeros(self.value.shape[0], rows * columns)
        return out.index_add(1, self.row * columns + self.col, self.value).reshape(-1, rows, columns)
