"""The demo's data and network: what is shipped is what the script trains, and good enough to be shown."""

import pytest
import torch

from clinch.demo import WEIGHTS, digits, network
from clinch.demo.problem import build
from clinch.demo.train import accuracy, train


def test_the_splits_are_disjoint_and_in_range():
    train_set, test_set = digits("train"), digits("test")
    assert len(train_set.x) == 1438 and len(test_set.x) == 359
    both = torch.cat([train_set.x, test_set.x])
    assert float(both.min()) == 0 and float(both.max()) == 1
    with pytest.raises(ValueError, match="'train' or 'test'"):
        digits("all")


def test_the_shipped_network_is_small_and_accurate():
    assert WEIGHTS.stat().st_size < 50_000
    assert accuracy(network(), "test") > 0.97


def test_training_starts_from_its_seed_alone():
    first, second = train(epochs=1), train(epochs=1)
    other = train(epochs=1, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert not torch.equal(first[1].weight, other[1].weight)


def test_the_demo_starts_from_an_image_that_the_monitor_accepts():
    stated = build()
    violation = stated.problem.query.violation(stated.problem.query.evaluate(stated.x0[None].double())[1])
    assert float(violation) > 0
