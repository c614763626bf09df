"""Discrete elements: nearest values, boxes cut down to values, groups."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from clinch.geometry.discrete import DiscreteSet
from clinch.geometry.region import Region

INF = torch.inf


def example():
    """Three elements of a group, one of −1, 0.5 or [2, 3], one that is not discrete."""
    lower = torch.tensor([[0.0, 1.0, INF], [-1.0, 0.5, 2.0]], dtype=torch.float64)
    upper = torch.tensor([[0.0, 1.0, INF], [-1.0, 0.5, 3.0]], dtype=torch.float64)
    return DiscreteSet(lower, upper, torch.tensor([0, 0, 0, 1, -1]), torch.tensor([0, 0, 0, -1, -1]))


def box(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_the_nearest_values_and_the_largest_of_a_group():
    low, high = box([0, 0, 0, -1, -5]), box([1, 1, 1, 3, 5])
    found = example().nearest(box([0.2, 0.3, 0.1, 1.4, 0.7]), low, high)
    assert found.tolist() == [[0, 1, 0, 2, 0.7]]
    found = example().nearest(box([0.2, 0.3, 0.1, 2.4, 9.0]), low, high)
    assert found.tolist() == [[0, 1, 0, 2.4, 9.0]]


def test_a_group_stays_in_its_box():
    low, high = box([0, 0, 0, -1, -5]), box([1, 0, 1, 3, 5])
    assert example().nearest(box([0.2, 0.9, 0.1, 0, 0]), low, high)[0, :3].tolist() == [1, 0, 0]
    low[0, 2] = 1
    assert example().nearest(box([0.2, 0.9, 0.1, 0, 0]), low, high)[0, :3].tolist() == [0, 0, 1]


def test_boxes_are_cut_down_to_values():
    low, high = example().inwards(box([0, 0.5, 0, 0, -5]), box([1, 1, 1, 1.9, 5]))
    assert low.tolist() == [[0, 1, 0, 0.5, -5]]  # what must be 1 leaves 0 to the others
    assert high.tolist() == [[0, 1, 0, 0.5, 5]]
    low, high = example().inwards(box([0, 0, 0, 2.2, 0]), box([0.5, 0.9, 1, 2.7, 0]))
    assert low[0].tolist() == [0, 0, 1, 2.2, 0]  # the last one that can be 1 is
    assert high[0].tolist() == [0, 0, 1, 2.7, 0]


def test_a_box_without_values_is_crossed():
    for low, high in (
        (box([0, 0, 0, 0.6, 0]), box([1, 1, 1, 1.9, 0])),
        (box([0, 0, 0, 3.5, 0]), box([1, 1, 1, 4, 0])),
        (box([0, 0, 0, -4, 0]), box([1, 1, 1, -2, 0])),
        (box([0, 0, 0, 2, 0]), box([0.5, 0.5, 0.5, 3, 0])),
        (box([1, 0, 1, 2, 0]), box([1, 1, 1, 3, 0])),
    ):
        low, high = example().inwards(low, high)
        assert bool((low > high).any())
        assert bool(low.isfinite().all() & high.isfinite().all())


def test_gaps_are_counted_and_cut():
    assert example().gaps == 3 + 2
    assert example().steps
    low, high = example().pieces(3, 0.0, 2.5)
    assert (low.tolist(), high.tolist()) == ([0.5, 2.0], [0.5, 2.5])


@given(st.lists(st.floats(-6, 6), min_size=5, max_size=5), st.integers(0, 100))
def test_what_is_nearest_is_contained_and_no_value_is_nearer(numbers, seed):
    draws = torch.Generator().manual_seed(seed)
    centre, reach = torch.randn(1, 5, generator=draws).double(), 3 * torch.rand(1, 5, generator=draws).double()
    region = Region(centre - reach, centre + reach, discrete=example()).cut_to_values()
    if bool((region.lower > region.upper).any()):
        return
    x = torch.tensor([numbers], dtype=torch.float64).clamp(region.lower, region.upper)
    found = region.on_values(x)
    assert bool(region.contains(found).all())
    assert torch.equal(region.on_values(found), found)
    own = example()
    for value in (*own.lower[1].tolist(), *own.upper[1].tolist()):
        if region.lower[0, 3] <= value <= region.upper[0, 3]:
            assert abs(float(found[0, 3] - x[0, 3])) <= abs(value - float(x[0, 3]))


def test_other_dtypes_and_shapes():
    own = DiscreteSet(
        torch.tensor([[0.0, 0.5, 1.0]]).double(), torch.tensor([[0.0, 0.5, 1.0]]).double(), torch.zeros(4).long(),
        torch.full((4,), -1),
    )  # fmt: skip
    x = torch.tensor([[[0.2, 0.3], [0.8, 0.7]]])
    found = own.nearest(x, torch.zeros(1, 2, 2), torch.ones(1, 2, 2))
    assert found.dtype == torch.float32
    assert found.tolist() == [[[0.0, 0.5], [1.0, 0.5]]]
