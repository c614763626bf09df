"""Models that answer differently each time: their outputs averaged, and success as a rate."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinch.errors import ProblemError

#: runs of a point's verdict, and the quantile of the normal distribution of its interval: 95 %
VERDICTS, QUANTILE = 100, 1.96
#: how much two answers to one input may differ by rounding alone, relative to their size
REPEATED = 1e-3


class SuccessRate(NamedTuple):
    """How often points reach their goal, over :data:`VERDICTS` fresh runs of the model.

    Attributes:
        share: ``(B,)``.
        lower: ``(B,)`` end of the 95 % interval of Wilson 1927 (doi 10.1080/01621459.1927.10502953).
        upper: ``(B,)``.
    """

    share: Tensor
    lower: Tensor
    upper: Tensor

    @staticmethod
    def of(hits: Tensor, runs: int) -> SuccessRate:
        """From how many of so many runs reached the goal, ``(B,)``.

        Example:
            >>> SuccessRate.of(torch.tensor([90]), 100).lower
            tensor([0.8256], dtype=torch.float64)
        """
        share, z = hits.double() / runs, QUANTILE**2 / runs
        middle, half = share + z / 2, QUANTILE * ((share * (1 - share) + z / 4) / runs).sqrt()
        return SuccessRate(share, (middle - half) / (1 + z), (middle + half) / (1 + z))


class Averaged(nn.Module):
    """A stochastic model's mean outputs over so many runs (expectation over transformation, Athalye et al. 2018, arXiv
    1707.07397): what ``eot=`` of attacks makes. Runs are numbered and seeded by their number, so that an attack can be
    repeated.

    Args:
        net: what is attacked.
        runs: of each forward pass.

    Raises:
        ProblemError: runs is no whole number from 1 on.
    """

    def __init__(self, net: nn.Module, runs: int) -> None:
        super().__init__()
        if not isinstance(runs, int) or isinstance(runs, bool) or runs < 1:
            raise ProblemError(f"eot={runs!r} is no number of runs. Write a whole number from 1 on, such as 20.")
        self.net, self.runs, self._asked = net, runs, 0

    def forward(self, x: Tensor) -> Tensor:
        """The mean."""
        return torch.stack([self.once(x) for _ in range(self.runs)]).mean(0)

    def once(self, x: Tensor) -> Tensor:
        """One run, the next in number."""
        self._asked += 1
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(self._asked)
            return self.net(x)


def differs(one: Tensor, two: Tensor) -> bool:
    """Whether two answers to the same inputs differ by more than rounding."""
    size = max(float(one.abs().amax()), torch.finfo(one.dtype).tiny) if one.numel() else 1.0
    return not math.isfinite(size) or bool(((one - two).abs() > REPEATED * size).any())
