"""The linear part of a layer: a dense matrix, or a convolution that is never unrolled.

A convolution is kept as one small matrix per offset of its kernel and a table of the pixels that each place reads, so
that a product with a batch is one matrix product per offset. An output reads every input at most once: the inner
products have no more terms than those of the unrolled matrix, and the same bound of their rounding holds. Everything
else that is affine is sparse: the entries that are not zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Convolution(NamedTuple):
    """Inputs are ``(channels, pixels)``, outputs ``(outs, places)``, both flat.

    Attributes:
        kernel: ``(window, outs, channels)``, a matrix for each offset.
        source: ``(window, places)`` the pixel that a place reads at an offset; ``pixels``, one too many, for padding.
        pixels: number of them.
    """

    kernel: Array
    source: Array
    pixels: int

    @property
    def shape(self) -> tuple[int, int]:
        """Of the unrolled matrix."""
        _, outs, channels = self.kernel.shape
        return outs * self.source.shape[1], channels * self.pixels

    def forward(self, h: Array) -> Array:
        """``(D, inputs)`` to ``(D, outputs)``."""
        padded = np.pad(h.reshape(len(h), -1, self.pixels), ((0, 0), (0, 0), (0, 1)))
        found = np.zeros((len(h), self.kernel.shape[1], self.source.shape[1]))
        for kernel, at in zip(self.kernel, self.source):
            found += kernel @ padded[:, :, at]
        return found.reshape(len(h), -1)

    def backward(self, rows: Array) -> Array:
        """``(R, outputs)`` to ``(R, inputs)``: the transposed convolution. Of one offset, places read other pixels."""
        # places first, so that what is added to a pixel stands in one piece
        flat = np.ascontiguousarray(rows.reshape(len(rows), self.kernel.shape[1], -1).transpose(2, 0, 1))
        found = np.zeros((self.pixels + 1, len(rows), self.kernel.shape[2]))
        for kernel, at in zip(self.kernel, self.source):
            # the sums that land in the padding are dropped
            found[at] += (flat.reshape(-1, len(kernel)) @ kernel).reshape(len(at), len(rows), -1)
        return found[:-1].transpose(1, 2, 0).reshape(len(rows), -1)

    def reads(self, outputs: Array) -> Array:
        """The inputs that some of these outputs depend on, in order."""
        pixels = np.unique(self.source[:, np.unique(outputs % self.source.shape[1])])
        pixels = pixels[pixels < self.pixels]
        return (np.arange(self.kernel.shape[2])[:, None] * self.pixels + pixels).ravel()

    def block(self, outputs: Array, inputs: Array) -> Array:
        """Dense ``(len(outputs), len(inputs))`` part; ``inputs`` holds all that the outputs read."""
        out, at = np.divmod(outputs, self.source.shape[1])
        column = np.full((self.kernel.shape[2], self.pixels + 1), len(inputs))
        column[np.divmod(inputs, self.pixels)] = np.arange(len(inputs))
        found = np.zeros((len(outputs), len(inputs) + 1))
        # (outputs, window, channels)
        columns = column.T[self.source[:, at].T]
        found[np.arange(len(outputs))[:, None, None], columns] = self.kernel[:, out].transpose(1, 0, 2)
        return found[:, :-1]


class Sparse(NamedTuple):
    """A matrix by its entries, in the order of its rows and, for products from the left, of its columns.

    Attributes:
        row, column, value: ``(k,)`` of the entries; shape: ``(outputs, inputs)``; by_column: ``(k,)`` their order.
    """

    row: Array
    column: Array
    value: Array
    shape: tuple[int, int]
    by_column: Array

    @staticmethod
    def of(row: Array, column: Array, value: Array, shape: tuple[int, int]) -> Sparse:
        """Entries in any order; none may stand twice."""
        order = np.lexsort((column, row))
        row, column = row[order], column[order]
        return Sparse(row, column, value[order], shape, np.argsort(column, kind="stable"))

    @property
    def selects(self) -> bool:
        """Whether every output is one of the inputs."""
        return len(self.row) == self.shape[0] and bool((self.value == 1).all() and (np.diff(self.row) > 0).all())

    @property
    def terms(self) -> int:
        """Entries of the fullest row and of the fullest column, together."""
        return sum(int(np.bincount(t).max(initial=0)) for t in (self.row, self.column))

    def forward(self, h: Array) -> Array:
        """``(D, inputs)`` to ``(D, outputs)``."""
        return _summed(h[:, self.column] * self.value, self.row, self.shape[0])

    def backward(self, rows: Array) -> Array:
        """``(R, outputs)`` to ``(R, inputs)``."""
        row, column, value = (t[self.by_column] for t in self[:3])
        return _summed(rows[:, row] * value, column, self.shape[1])

    def reads(self, outputs: Array) -> Array:
        """The inputs that some of these outputs depend on, in order."""
        return np.unique(self.column[np.isin(self.row, outputs)])

    def block(self, outputs: Array, inputs: Array) -> Sparse:
        """Part between some outputs and some inputs."""
        row, column = np.full(self.shape[0], -1), np.full(self.shape[1], -1)
        row[outputs], column[inputs] = np.arange(len(outputs)), np.arange(len(inputs))
        r, c = row[self.row], column[self.column]
        kept = (r >= 0) & (c >= 0)
        return Sparse.of(r[kept], c[kept], self.value[kept], (len(outputs), len(inputs)))


def _summed(terms: Array, at: Array, size: int) -> Array:
    """``(D, size)`` sums of terms ``(D, k)`` with the same place, which ascends."""
    found = np.zeros((len(terms), size))
    if len(at):
        starts = np.append(0, np.flatnonzero(np.diff(at)) + 1)
        found[:, at[starts]] = np.add.reduceat(terms, starts, 1)
    return found


#: what a layer is multiplied by
Matrix = Array | Convolution | Sparse


def forward(matrix: Matrix, h: Array) -> Array:
    """``(D, inputs)`` to ``(D, outputs)``."""
    return h @ matrix.T if isinstance(matrix, Array) else matrix.forward(h)


def backward(matrix: Matrix, rows: Array) -> Array:
    """``(D, R, outputs)`` to ``(D, R, inputs)``, one product for all domains."""
    flat = rows.reshape(-1, rows.shape[2])
    found = flat @ matrix if isinstance(matrix, Array) else matrix.backward(flat)
    return found.reshape(*rows.shape[:2], -1)


def magnitude(matrix: Matrix) -> Matrix:
    """The matrix of the magnitudes."""
    if isinstance(matrix, Convolution):
        return matrix._replace(kernel=np.abs(matrix.kernel))
    return matrix._replace(value=np.abs(matrix.value)) if isinstance(matrix, Sparse) else np.abs(matrix)


def block(matrix: Matrix, outputs: Array, inputs: Array) -> Matrix:
    """The part between some outputs and some inputs; the matrix itself where these are all."""
    if (len(outputs), len(inputs)) == matrix.shape:
        return matrix
    return matrix[np.ix_(outputs, inputs)] if isinstance(matrix, Array) else matrix.block(outputs, inputs)


def reads(matrix: Matrix, outputs: Array) -> Array:
    """The inputs that some of these outputs depend on, in order."""
    return np.arange(matrix.shape[1]) if isinstance(matrix, Array) else matrix.reads(outputs)
