"""Clusters of activations: k-means by Lloyd's iteration from spread starts."""

from __future__ import annotations

import torch
from torch import Tensor

#: iterations at most, and distances that are held at once
ROUNDS, BLOCK = 300, 2**24


def k_means(points: Tensor, k: int, seed: int) -> Tensor:
    """The cluster ``(N,)`` of each point, numbered from 0 without gaps, at most k and none empty.

    Starts are drawn by the squared distance to those before (k-means++, Arthur and Vassilvitskii 2007); Lloyd's
    iteration follows until no point changes its cluster. Points that are equal share a cluster, so that fewer different
    points than k make fewer clusters.

    Args:
        points: ``(N, n)``.
        k: number of clusters, 1 or more.
        seed: of the starts.

    Example:
        >>> k_means(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2, seed=0).unique().tolist()
        [0, 1]
    """
    if not len(points):
        return torch.zeros(0, dtype=torch.long)
    points = points.double()
    centres = _starts(points, k, torch.Generator().manual_seed(seed))
    cluster = _nearest(points, centres)
    for _ in range(ROUNDS):
        count = torch.bincount(cluster, minlength=len(centres)).clamp(min=1).unsqueeze(1)
        means = torch.zeros_like(centres).index_add_(0, cluster, points) / count
        # a centre that lost all its points stays where it is
        empty = torch.bincount(cluster, minlength=len(centres)) == 0
        centres = torch.where(empty.unsqueeze(1), centres, means)
        before, cluster = cluster, _nearest(points, centres)
        if torch.equal(before, cluster):
            break
    return cluster.unique(return_inverse=True)[1]


def _starts(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Up to k different points."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < k and bool((distance > 0).any()):
        chosen.append(int(torch.multinomial(distance, 1, generator=generator)))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    rows = max(1, BLOCK // len(centres))
    return torch.cat([torch.cdist(part, centres).argmin(1) for part in points.split(rows)])
