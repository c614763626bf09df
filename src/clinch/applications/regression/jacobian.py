"""Products with the Jacobian of a network's output at many inputs, without forming it.

``J = ∂f/∂x`` at each of B inputs, ``(m, n)`` with m outputs and n input elements, both flat in row-major order. A
product ``Jᵀ u`` is one reverse-mode derivative, and ``J v = ∂/∂u <Jᵀ u, v>`` one more: each costs a few evaluations of
the network, whatever m and n are. (PyTorch's forward mode would do with less, after two seconds of loading rules that
it compiles with deprecated means.) Everything is float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clinch.attacks.core.draws import Draws, fingerprint
from clinch.modeling.model import SymbolicNetwork

#: elements of one block of derivatives: inputs times vectors times the larger side of J
BLOCK = 1 << 23


class Jacobian:
    """The Jacobians at B inputs.

    Args:
        network: what ``clinch.load`` returned.
        x: ``(B, *input_shape)``.

    Attributes:
        size: B; ``outputs`` m; ``inputs`` n.
        value: ``(B, m)`` the outputs at x.
    """

    def __init__(self, network: SymbolicNetwork, x: Tensor) -> None:
        self._graph = network.graph_as(torch.float64, network.device)
        self.x = x.to(network.device, torch.float64)
        self.size, self.inputs = len(x), self.x[0].numel()
        self.outputs = self._graph.nodes[self._graph.output].size
        with torch.no_grad():
            self.value = self._evaluate(self.x)

    @property
    def shorter(self) -> int:
        """The smaller of m and n."""
        return min(self.outputs, self.inputs)

    def times(self, v: Tensor) -> Tensor:
        """``J v``: ``(B, V, n)`` to ``(B, V, m)``."""
        with torch.enable_grad():
            at = self._repeated(v.shape[1]).requires_grad_()
            value = self._evaluate(at)
            u = torch.zeros_like(value, requires_grad=True)
            (pulled,) = torch.autograd.grad(value, at, u, create_graph=True)
            (found,) = torch.autograd.grad(pulled, u, v.reshape(at.shape))
        return found.detach().reshape(self.size, v.shape[1], self.outputs)

    def transposed(self, u: Tensor) -> Tensor:
        """``Jᵀ u``: ``(B, V, m)`` to ``(B, V, n)``."""
        with torch.enable_grad():
            at = self._repeated(u.shape[1]).requires_grad_()
            (found,) = torch.autograd.grad(self._evaluate(at), at, u.reshape(-1, self.outputs))
        return found.reshape(self.size, u.shape[1], self.inputs)

    def blocks(self, count: int) -> Iterator[Tensor]:
        """Unit vectors of length ``count``, as ``(B, V, count)`` with V small enough for memory."""
        height = max(1, BLOCK // (self.size * max(self.inputs, self.outputs)))
        for rows in torch.arange(count, device=self.x.device).split(height):
            unit = torch.zeros(len(rows), count, dtype=torch.float64, device=self.x.device)
            unit[torch.arange(len(rows)), rows] = 1.0
            yield unit.expand(self.size, -1, -1)

    def gram(self) -> Tensor:
        """``J Jᵀ`` or ``Jᵀ J``, whichever is smaller, ``(B, k, k)``: column by column, J is never held."""
        if self.outputs <= self.inputs:
            columns = [self.times(self.transposed(unit)) for unit in self.blocks(self.outputs)]
        else:
            columns = [self.transposed(self.times(unit)) for unit in self.blocks(self.inputs)]
        both = torch.cat(columns, 1)
        return (both + both.mT) / 2

    def column_norms(self) -> Tensor:
        """``(B, n)`` lengths of the columns, from blocks of rows or columns, whichever are fewer; J is never held."""
        if self.outputs <= self.inputs:
            blocks = (self.transposed(unit).square().sum(1) for unit in self.blocks(self.outputs))
            return torch.stack([*blocks]).sum(0).sqrt()
        return torch.cat([torch.linalg.vector_norm(self.times(unit), dim=2) for unit in self.blocks(self.inputs)], 1)

    def matrix(self) -> Tensor:
        """J itself, ``(B, m, n)``, by as many products as its smaller side has."""
        if self.outputs <= self.inputs:
            return torch.cat([self.transposed(unit) for unit in self.blocks(self.outputs)], 1)
        return torch.cat([self.times(unit) for unit in self.blocks(self.inputs)], 1).mT

    def _repeated(self, count: int) -> Tensor:
        return self.x.repeat_interleave(count, 0).detach()

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._graph.forward(x)[self._graph.output].flatten(1)


def top_singular_vector(jacobian: Jacobian, *, steps: int = 100, tolerance: float = 1e-10, seed: int = 0) -> Tensor:
    """``(B, n)`` unit vectors v that make ``‖J v‖₂`` largest, by Lanczos' bidiagonalisation of J with J never formed.

    Golub and Kahan 1965 (SIAM J. Numer. Anal. 2, 205), each new vector orthogonalised twice against all before. After
    min(m, n) steps it is exact; it stops earlier where the residual ``‖Jᵀu − σv‖ <= tolerance·σ`` on every input.

    Args:
        jacobian: of B inputs.
        steps: at most so many products with J, and as many with its transpose.
        tolerance: of the residual, relative.
        seed: of the first vector.
    """
    v = Draws.of(fingerprint(jacobian.x), seed).normal(jacobian.x.flatten(1).double())
    # the row space of J holds the answer, so that few outputs need as few steps
    v = _unit(jacobian.transposed(jacobian.times(v.unsqueeze(1)))[:, 0])[0]
    right, left = v.unsqueeze(1), v.new_zeros(jacobian.size, 0, jacobian.outputs)
    matrix = v.new_zeros(jacobian.size, 0, 0)
    best, going = v, torch.ones(jacobian.size, dtype=torch.bool, device=v.device)
    for _ in range(max(1, min(steps, jacobian.shorter))):
        u, alpha = _added(jacobian.times(right[:, -1:])[:, 0], left)
        left = torch.cat([left, u.unsqueeze(1)], 1)
        w, beta = _added(jacobian.transposed(left[:, -1:])[:, 0], right)
        matrix = _grown(matrix, alpha, right.shape[1])
        left_vectors, sigma, right_vectors = torch.linalg.svd(matrix)
        found = torch.einsum("bk,bkn->bn", right_vectors[:, 0], right)
        best = torch.where(going.unsqueeze(1), found, best)  # an input that is done waits for the others
        going = going & (beta * left_vectors[:, -1, 0].abs() > tolerance * sigma[:, 0])
        if not bool(going.any()):
            break
        matrix = torch.cat([matrix, v.new_zeros(jacobian.size, matrix.shape[1], 1)], 2)
        matrix[:, -1, -1] = beta
        right = torch.cat([right, w.unsqueeze(1)], 1)
    return _unit(best)[0]


def _grown(matrix: Tensor, alpha: Tensor, width: int) -> Tensor:
    """The upper bidiagonal matrix with one more row, whose entry on the diagonal is alpha."""
    row = alpha.new_zeros(len(alpha), 1, width)
    row[:, 0, -1] = alpha
    return torch.cat([matrix.reshape(len(alpha), -1, width), row], 1)


def _added(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a vector outside the span of a basis, a unit vector, and its length; zeros where it is rounding."""
    rest = vector
    for _ in range(2):
        rest = rest - torch.einsum("bk,bkn->bn", torch.einsum("bkn,bn->bk", basis, rest), basis)
    rest = torch.where((_length(rest) > 1e-12 * _length(vector)).unsqueeze(1), rest, 0.0)
    return _unit(rest)


def _unit(vector: Tensor) -> tuple[Tensor, Tensor]:
    length = _length(vector)
    return vector / torch.where(length > 0, length, 1.0).unsqueeze(1), length


def _length(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector, dim=1)
