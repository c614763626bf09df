"""How far a decoder's output is from a target: what descents over latent inputs lower."""

from __future__ import annotations

import warnings
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from clinch.attacks.core.batches import AT_ONCE, parts_of
from clinch.attacks.core.classification import Model


class Residuals(NamedTuple):
    """The misfit of L lanes as a sum of squares, with its first-order model.

    Attributes:
        value: ``(L,)`` the misfit, ``Σ_r residual_r²``.
        gradient: ``(L, n)`` half of the misfit's gradient, ``J^T r``.
        normal: ``(L, n, n)`` the matrix of the normal equations, ``J^T J``.
    """

    value: Tensor
    gradient: Tensor
    normal: Tensor


class Misfit:
    """``E(z) = (Σ_i w_i (G_i(z) − y_i)² + λ ‖z‖²) / Σ_i w_i`` for decoder G and targets y, one number for each lane.

    A lane is one attempt for one of B targets; lanes are flat, ``(L, n)``, and ``rows (L,)`` says whose each is.

    Args:
        model: the decoder.
        target: ``(B, *output_shape)``.
        weights: ``(B, *output_shape)``, 1 where a pixel counts and 0 where it does not.
        latent_shape: shape of one latent input, n elements.
        prior: λ, one number.
        lower, upper: limits of every latent element; infinite where there are none.

    Attributes:
        forward: ``(B,)`` rows sent forward so far, a tangent counting as one and a row that serves all targets counting
            for each; ``backward`` the same for gradients.
    """

    def __init__(
        self, model: Model, target: Tensor, weights: Tensor, latent_shape: tuple[int, ...], prior: float,
        lower: float, upper: float,
    ) -> None:  # fmt: skip
        self.model, self.latent_shape = model, latent_shape
        self.target, self.weights = target.flatten(1), weights.flatten(1)
        self.count = self.weights.sum(1)
        self.prior, self.lower, self.upper = prior, lower, upper
        self.forward = torch.zeros(len(target), dtype=torch.int64, device=target.device)
        self.backward = self.forward.clone()

    @property
    def size(self) -> int:
        """Number of latent elements n."""
        return torch.Size(self.latent_shape).numel()

    def clip(self, z: Tensor) -> Tensor:
        """Latents ``(L, n)`` inside their limits."""
        return z.clamp(self.lower, self.upper)

    def free(self, z: Tensor, gradient: Tensor) -> Tensor:
        """``(L, n)`` which elements a step against the gradient may move: not those that stand at a limit and press
        against it."""
        return ~(((z <= self.lower) & (gradient > 0)) | ((z >= self.upper) & (gradient < 0)))

    def decode(self, z: Tensor) -> Tensor:
        """Outputs ``(L, outputs)`` for latents ``(L, n)``; gradients flow."""
        return self.model(z.reshape(-1, *self.latent_shape)).flatten(1)

    def value(self, z: Tensor, rows: Tensor) -> Tensor:
        """E, ``(L,)``; gradients flow, and nothing is counted."""
        return self.of_output(self.decode(z), z, rows)

    def of_output(self, output: Tensor, z: Tensor, rows: Tensor) -> Tensor:
        """E, ``(L,)``, for latents ``(L, n)`` whose outputs ``(L, outputs)`` are known; gradients flow."""
        off = output - self.target[rows]
        return ((self.weights[rows] * off * off).sum(1) + self.prior * (z * z).sum(1)) / self.count[rows]

    def nearest(self, crowd: Tensor, count: int) -> Tensor:
        """Which ``(B, count)`` of the latents ``(M, n)`` have the smallest E for each target: each is decoded once."""
        part = max(1, AT_ONCE // max(1, self.target.shape[1]))
        weighted = self.weights * self.target
        values = []
        with torch.no_grad():
            for z in crowd.split(part):
                output = self.decode(z)
                # Σ w (G − y)² without the part that all latents share
                off = self.weights @ output.square().T - 2 * weighted @ output.T
                values.append(off + self.prior * z.square().sum(1))
        # a row that serves every target is every target's
        self.forward += len(crowd)
        return torch.cat(values, 1).nan_to_num(nan=torch.inf).topk(count, dim=1, largest=False).indices

    def slope(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """E ``(L,)`` and its gradient ``(L, n)``: one pass each way."""
        self.note(rows, 1, 1)
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            value = self.value(z, rows)
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), gradient

    def residuals(self, z: Tensor, rows: Tensor) -> Residuals:
        """E as a sum of squares with Jᵀr and JᵀJ, by one tangent for each latent element (forward mode: no graph is
        kept, and a decoder has far fewer inputs than outputs)."""
        self.note(rows, 1 + self.size, 0)
        outputs = self.target[:1].expand(len(z), -1)  # larger than the latents: these decide how many go at once
        parts = [self._residuals(z[part], rows[part]) for part in parts_of(outputs, self.size)]
        return parts[0] if len(parts) == 1 else Residuals(*(torch.cat(column) for column in zip(*parts)))

    def _residuals(self, z: Tensor, rows: Tensor) -> Residuals:
        _load_forward_mode()
        unit = torch.eye(self.size, dtype=z.dtype, device=z.device)
        with torch.no_grad():
            tangents = torch.func.vmap(lambda e: torch.func.jvp(self.decode, (z,), (e.expand_as(z),))[1])(unit)
            off = self.decode(z) - self.target[rows]
            weights, count = self.weights[rows], self.count[rows]
            jacobian = tangents.transpose(0, 1)
            weighted = jacobian * weights.unsqueeze(1)
            normal = weighted @ jacobian.mT + self.prior * unit
            gradient = (weighted @ off.unsqueeze(2)).squeeze(2) + self.prior * z
            value = (weights * off * off).sum(1) + self.prior * (z * z).sum(1)
        return Residuals(value / count, gradient / count.unsqueeze(1), normal / count.view(-1, 1, 1))

    def note(self, rows: Tensor, forward: int, backward: int) -> None:
        """Count passes of lanes."""
        passes = torch.bincount(rows, minlength=len(self.target))
        self.forward += forward * passes
        self.backward += backward * passes


@cache
def _load_forward_mode() -> None:
    """Let torch read its rules of forward mode, which warns of torch's own use of something deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(()), torch.zeros(()))
