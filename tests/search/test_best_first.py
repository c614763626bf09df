"""The loop alone, on a search whose answer is known: the smallest value of waves, by Lipschitz bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clinch.search.branch_and_bound import BestFirst, Branched
from clinch.search.node_store import Nodes

LAW = settings(max_examples=25, deadline=None)
#: below this width an interval is a leaf
LEAF = 1e-3


@dataclass(frozen=True)
class Intervals(Nodes):
    low: Tensor
    high: Tensor


class Found(NamedTuple):
    nodes: Intervals

    def take(self, index):
        return Found(self.nodes.take(index))


class Waves:
    """Goal, bounder, brancher and leaf solver: minimise ``sin(a x) + sin(b x)`` over [0, 6], one pair for each problem.

    Attributes:
        luck: what is left of calls that do not fail.
    """

    seconds, remaining = 0.0, math.inf

    def __init__(self, seed: int, problems: int, failures: float = 0.0) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.slopes = 1 + 4 * torch.rand(problems, 2, generator=self.rng, dtype=torch.float64)
        self.value = torch.full((problems,), torch.inf, dtype=torch.float64)
        self.failures, self.reported, self.closed = failures, [], []
        self.exhausted = False

    def at(self, x, problem):
        return torch.sin(x.unsqueeze(1) * self.slopes[problem]).sum(1)

    @property
    def smallest(self):
        grid = torch.linspace(0, 6, 60001, dtype=torch.float64)
        return torch.stack([self.at(grid, torch.full_like(grid, k).long()).min() for k in range(len(self.slopes))])

    def fail(self):
        if float(torch.rand((), generator=self.rng)) < self.failures:
            raise MemoryError

    def targets(self):
        return self.value - 1e-3

    def offer(self, found):
        middle = (found.nodes.low + found.nodes.high) / 2
        self.value.scatter_reduce_(0, found.nodes.problem, self.at(middle, found.nodes.problem), "amin")
        self.fail()

    def finish(self, nodes):
        self.closed.append(nodes.bound)

    def prove(self, bound):
        self.reported.append(bound.clone())

    def bound(self, nodes, fresh):
        self.fail()
        middle, half = (nodes.low + nodes.high) / 2, (nodes.high - nodes.low) / 2
        bound = self.at(middle, nodes.problem) - half * self.slopes[nodes.problem].sum(1)
        return Found(replace(nodes, bound=torch.maximum(nodes.bound, bound)))

    def refine(self, found):
        return found

    def choose(self, found):
        self.fail()
        return found.nodes

    def priority(self, nodes):
        return None

    def split(self, nodes):
        leaf = nodes.high - nodes.low < LEAF
        inner = nodes.take(~leaf)
        middle = (inner.low + inner.high) / 2
        halves = [replace(inner, high=middle), replace(inner, low=middle)]
        return Branched(Intervals.cat(halves), leaves=nodes.take(leaf))

    def solve(self, leaves):
        self.fail()
        return leaves, leaves.take(slice(0))


def search_of(waves, *, batch=4, in_turns=False):
    count = len(waves.slopes)
    search = BestFirst(count, waves, waves, waves, leaf_solver=waves, batch=batch, in_turns=in_turns)
    each = torch.arange(count)
    low = torch.zeros(count, dtype=torch.float64)
    return search, Intervals(each, low - torch.inf, each - 1 - each, low, low + 6)


@pytest.mark.parametrize("in_turns", [False, True])
@given(seed=st.integers(0, 2**31), problems=st.integers(1, 3), batch=st.integers(1, 40))
@LAW
def test_bounds_rise_to_the_smallest_value(in_turns, seed, problems, batch):
    waves = Waves(seed, problems)
    search, roots = search_of(waves, batch=batch, in_turns=in_turns)
    search.plant(roots)
    search.run()
    smallest = waves.smallest
    assert not len(search.store)
    assert bool((search.least <= smallest + 1e-9).all() and (search.least >= smallest - 2e-2).all())
    for earlier, later in zip(waves.reported, waves.reported[1:]):
        assert bool((later >= earlier - 1e-12).all())


@given(seed=st.integers(0, 2**31))
@LAW
def test_whatever_fails_no_node_is_lost(seed):
    waves = Waves(seed, 2, failures=0.1)
    search, roots = search_of(waves)
    planted, failed = False, 0
    while not planted or len(search.store):
        try:
            if not planted:
                search.plant(roots)
                planted = True
            search.run()
        except MemoryError:
            failed += 1
            assert not planted or bool((search.least <= waves.smallest + 1e-9).all())
    assert failed
    assert bool((search.least <= waves.smallest + 1e-9).all() and (search.least >= waves.smallest - 2e-2).all())


def test_a_stop_keeps_what_waits():
    waves = Waves(0, 1)
    search, roots = search_of(waves)
    search.plant(roots)
    for _ in range(3):
        search.round()
    waves.exhausted = True
    waiting = len(search.store)
    search.run()
    assert len(search.store) == waiting > 0
    assert int(search.bounded) > 3


def test_rounds_grow_as_far_as_their_time_allows():
    waves = Waves(0, 1)
    clock = iter(range(10**6))
    type(waves).seconds = property(lambda _: 0.01 * next(clock))
    try:
        search = BestFirst(1, waves, waves, waves, batch=64, first_batch=1, seconds=0.05)
        search.plant(search_of(waves)[1])
        sizes = []
        while len(search.store) and len(sizes) < 20:
            sizes.append(search.size)
            search.round()
    finally:
        type(waves).seconds = 0.0
    assert sizes[0] == 1 and max(sizes) > 8 and max(sizes) <= 64
