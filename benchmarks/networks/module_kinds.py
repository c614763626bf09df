"""Kinds of modules that people write, each a small network with random weights: what coverage is counted on."""

from benchmarks.networks import (
    basic_kinds,
    people_kinds,
    sequence_kinds,
    stranger_functions,
    stranger_kinds,
    unseen_kinds,
)
from benchmarks.networks.kinds import KINDS, made

__all__ = [
    "KINDS", "basic_kinds", "made", "people_kinds", "sequence_kinds", "stranger_functions", "stranger_kinds",
    "unseen_kinds",
]  # fmt: skip
