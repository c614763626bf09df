"""Random numbers that belong to an input: what is drawn for it depends on the seed, its own content and the step alone.

A counter-based generator in int64 tensor arithmetic: the i-th word of a stream with key k is ``mix(k + (i+1)·γ)``, with
the finaliser and the γ of SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195). There is no state, so
that neither the other inputs of a batch nor their number, their order or when they leave changes a draw; the same
numbers come out on every device.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """64 bits as int64 has them."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


#: γ and the two factors of SplitMix64
GAMMA, FIRST, SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
#: bits of a uniform number: as many as its dtype holds
SINGLE, DOUBLE, OPEN = 24, 53, 52


@dataclass(frozen=True)
class Draws:
    """One stream for each of L rows.

    Attributes:
        key: ``(L,)`` int64.

    Example:
        >>> draws = Draws(torch.tensor([3, 5, 3])).at(0)
        >>> noise = draws.uniform(torch.empty(3, 2))
        >>> bool((noise[0] == noise[2]).all()), bool((noise[0] == noise[1]).any())
        (True, False)
    """

    key: Tensor

    @staticmethod
    def of(fingerprint: Tensor, seed: int) -> Draws:
        """The streams ``(B,)`` of inputs with the given hashes: equal inputs have equal ones."""
        return Draws(mix(fingerprint ^ _mixed(operator.index(seed))))

    def runs(self, indices: Tensor) -> Draws:
        """Streams of runs ``(L,)`` whose inputs may repeat: those of one differ by their place among each other."""
        return Draws(mix(self.key[indices] + GAMMA * (1 + place_of(indices))))

    def take(self, which: Tensor) -> Draws:
        """The chosen rows, in that order."""
        return Draws(self.key[which])

    def at(self, step: int) -> Draws:
        """The streams of one step; each is to be drawn from once."""
        return Draws(mix(self.key ^ _mixed(step)))

    def words(self, count: int) -> Tensor:
        """``(L, count)`` words of 64 random bits."""
        index = torch.arange(1, count + 1, dtype=torch.int64, device=self.key.device)
        return mix(self.key.unsqueeze(1) + GAMMA * index)

    def uniform(self, like: Tensor) -> Tensor:
        """In [0, 1), of the shape ``(L, *shape)``, dtype and device of a tensor."""
        bits, wide = (DOUBLE, torch.float64) if like.dtype == torch.float64 else (SINGLE, torch.float32)
        word = _shifted(self.words(like.shape[1:].numel()), 64 - bits)
        return (word.to(wide) * 2.0**-bits).to(like).reshape(like.shape)

    def symmetric(self, like: Tensor) -> Tensor:
        """Uniform in [−1, 1)."""
        return 2 * self.uniform(like) - 1

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, by the inverse of its distribution function."""
        word = _shifted(self.words(like.shape[1:].numel()), 64 - OPEN)
        return torch.special.ndtri((word.double() + 0.5) * 2.0**-OPEN).to(like).reshape(like.shape)

    def signs(self, like: Tensor) -> Tensor:
        """−1 or 1, each with probability 1/2."""
        count = like.shape[1:].numel()
        bit = torch.arange(64, dtype=torch.int64, device=self.key.device)
        bits = (self.words(math.ceil(count / 64)).unsqueeze(2) >> bit) & 1
        return bits.flatten(1)[:, :count].to(like).mul_(2).sub_(1).reshape(like.shape)


def fingerprint(x: Tensor) -> Tensor:
    """A hash ``(B,)`` of the content of inputs ``(B, *shape)``, int64."""
    bits = (x.detach().flatten(1).double() + 0.0).view(torch.int64)  # −0 is 0
    index = torch.arange(1, bits.shape[1] + 1, dtype=torch.int64, device=x.device)
    return mix(mix(bits + GAMMA * index).sum(1))


def mix(word: Tensor) -> Tensor:
    """SplitMix64's finaliser: every bit of the result depends on every bit of the word."""
    word = (word ^ _shifted(word, 30)) * FIRST
    word = (word ^ _shifted(word, 27)) * SECOND
    return word ^ _shifted(word, 31)


def place_of(indices: Tensor) -> Tensor:
    """The place ``(L,)`` of each run among those of its input, 0 for the first."""
    order = indices.argsort(stable=True)
    ordered = indices[order]
    place = torch.arange(len(indices), device=indices.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(place).index_copy_(0, order, place)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(number: int) -> int:
    """:func:`mix` of a Python number."""
    mask = (1 << 64) - 1
    word = (number * GAMMA + 1) & mask
    word = ((word ^ (word >> 30)) * FIRST) & mask
    word = ((word ^ (word >> 27)) * SECOND) & mask
    return _signed(word ^ (word >> 31))
