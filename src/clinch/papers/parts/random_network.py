"""Networks that publications describe by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


def random_network(seed: int, widths: Sequence[int], dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A ReLU network whose weights and biases are uniform in [0, 1] with random signs.

    Drawn by NumPy's legacy generator, for each matrix of shape (inputs, outputs) the signs first: negative where the
    draw is above one half. Yu and Gao 2024 (arXiv 2406.00494, section 6.4) use the seeds 337550 with widths
    [10, 64, 64, 1], and 499777 with [128, 500, 500, 500, 1].

    Args:
        seed: of the generator.
        widths: inputs, hidden layers, outputs.
        dtype: of the weights.

    Example:
        >>> random_network(337550, [10, 64, 64, 1])(torch.zeros(1, 10)).shape
        torch.Size([1, 1])
    """
    generator = np.random.RandomState(seed)

    def draw(*shape: int) -> Tensor:
        negative = generator.uniform(0, 1, shape) > 0.5
        size = generator.uniform(0, 1, shape)
        return torch.from_numpy(np.where(negative, -size, size)).to(dtype)

    layers: list[nn.Module] = []
    for n, m in pairwise(widths):
        layer = nn.Linear(n, m, dtype=dtype).requires_grad_(False)
        layer.weight.copy_(draw(n, m).T)
        layer.bias.copy_(draw(m))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()
