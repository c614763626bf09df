"""The norms: what a user writes as p, as an object that answers every question about it.

A new norm is one file of this folder with one class (see :class:`~clinch.geometry.norms.base.Norm`) that is registered,
and imported here.
"""

from __future__ import annotations

from torch import Tensor

from clinch.geometry.norms.base import Encoded as Encoded
from clinch.geometry.norms.base import Norm as Norm
from clinch.geometry.norms.base import norm_of as norm_of
from clinch.geometry.norms.counting import CountingNorm as CountingNorm
from clinch.geometry.norms.euclidean import EuclideanNorm as EuclideanNorm
from clinch.geometry.norms.maximum import MaximumNorm as MaximumNorm
from clinch.geometry.norms.pixels import PixelCountingNorm as PixelCountingNorm
from clinch.geometry.norms.pixels import pixel_count as pixel_count
from clinch.geometry.norms.power import PowerNorm as PowerNorm
from clinch.geometry.norms.taxicab import TaxicabNorm as TaxicabNorm

#: the norms with numbers of their own; any other p from 1 on is a :class:`PowerNorm`
NORMS = (0.0, 1.0, 2.0, float("inf"))


def norm(delta: Tensor, p: float | str | Norm, weights: Tensor | None = None) -> Tensor:
    """``‖w ⊙ δ‖_p`` over all but the first axis; for p = 0 ``Σ_i w_i [δ_i ≠ 0]``.

    Args:
        delta: ``(B, *shape)``.
        p: 0, any number from 1 on, or infinity.
        weights: broadcastable to delta, non-negative; None stands for ones.

    Returns:
        Shape ``(B,)``.

    Example:
        >>> norm(torch.tensor([[3.0, -4.0]]), 2)
        tensor([5.])
    """
    return norm_of(p).value(delta, weights)
