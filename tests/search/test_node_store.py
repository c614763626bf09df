"""The store of open nodes, held against a plain list."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clinch.search import node_store
from clinch.search.node_store import Nodes, NodeStore, smallest_in_turns

LAW = settings(max_examples=40, deadline=None)
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["push", "pop", "drop", "take_out"]), st.integers(0, 9), st.integers(0, 2**31))
)


@dataclass(frozen=True)
class Some(Nodes):
    number: Tensor
    light: Tensor
    spare: Tensor

    LIGHT: ClassVar[frozenset[str]] = frozenset({"light"})
    SPARE: ClassVar[frozenset[str]] = frozenset({"spare"})


def some(first: int, count: int) -> Some:
    """Nodes whose every entry says which one they are; many bounds are equal."""
    number = torch.arange(first, first + count)
    third = number.double().unsqueeze(1).expand(-1, 3) / 4
    return Some(number % 5, -number.double() % 7, -number, number, third, third)


def numbers(found: Some) -> list[int]:
    """Which ones they are, after a look at every entry."""
    again = some(0, 2000).take(found.number)
    for name, column in found.columns():
        expected = getattr(again, name)
        assert column.dtype == expected.dtype
        assert torch.equal(column, expected) or (
            name == "spare" and bool((column.isnan() | (column == expected)).all())
        )
    return found.number.tolist()


def order(expected: dict[int, int]) -> list[int]:
    """Smallest bound first, of equal ones the newest push, of one push the first."""
    return sorted(expected, key=lambda number: (-number % 7, -expected[number], number))


@given(ACTIONS)
@LAW
def test_it_holds_what_a_list_holds_and_pops_the_first(actions):
    store, expected, pushed = NodeStore(), {}, 0
    for step, (action, count, seed) in enumerate(actions):
        rng = torch.Generator().manual_seed(seed)
        if action == "push":
            store.push(some(pushed, count))
            expected |= dict.fromkeys(range(pushed, pushed + count), step)
            pushed += count
        elif pushed and action == "pop":
            taken = numbers(store.pop(count))
            assert taken == order(expected)[:count]
            expected = {number: at for number, at in expected.items() if number not in taken}
        elif pushed:
            present = store.column("number")
            chosen = torch.rand(len(present), generator=rng) < 0.5
            if action == "drop":
                store.drop(chosen)
            else:
                assert numbers(store.take_out(chosen)) == present[chosen].tolist()
            for number in present[chosen].tolist():
                del expected[number]
        assert len(store) == len(expected)
        if pushed:
            assert set(store.column("number").tolist()) == set(expected)
            least = torch.full((5,), torch.inf, dtype=torch.float64)
            for number in expected:
                least[number % 5] = min(least[number % 5], -number % 7)
            assert torch.equal(store.least(5), least)


def test_many_are_popped_in_order_though_few_are_looked_at(monkeypatch):
    monkeypatch.setattr(node_store, "AHEAD", 2)
    monkeypatch.setattr(node_store, "LEAST_AHEAD", 4)
    store, rng, reference, number = NodeStore(), torch.Generator().manual_seed(0), [], 0
    for round_ in range(300):
        count = int(torch.randint(0, 12, (), generator=rng)) if round_ < 200 else 0
        nodes = some(number, count)
        priority = torch.randint(0, 20, (count,), generator=rng).double()
        store.push(nodes, priority)
        reference += [(p, -round_, i) for p, i in zip(priority.tolist(), nodes.number.tolist())]
        number += count
        reference.sort()
        wanted = int(torch.randint(0, 6, (), generator=rng))
        assert store.pop(wanted).number.tolist() == [i for _, _, i in reference[:wanted]]
        del reference[:wanted]
    assert len(store) == len(reference)


def test_priorities_come_before_bounds():
    store = NodeStore()
    store.push(some(0, 3), torch.tensor([2.0, -torch.inf, 1.0], dtype=torch.float64))
    assert store.pop(3).number.tolist() == [1, 2, 0]


def test_an_empty_store_answers():
    store = NodeStore()
    store.push(some(0, 0))
    assert len(store) == 0 and store.nodes() is None and store.least(2).tolist() == [torch.inf] * 2
    assert store.state() == {}


def test_slots_are_used_again():
    store, size = NodeStore(), 0
    for round_ in range(50):
        store.push(some(8 * round_, 8))
        size = max(size, len(store._live))
        store.pop(8)
    assert size <= 16


def test_where_memory_is_short_spare_columns_go_and_the_largest_come_first(monkeypatch):
    monkeypatch.setattr(node_store, "SPARE_MEMORY", 20 * 3 * 8)
    store = NodeStore(memory=30 * 44)
    store.push(some(0, 64))
    assert store.crowded and store.bytes > store.memory
    spare = store.nodes().spare
    assert 0 < int(spare.isnan().any(1).sum()) == 64 - 20
    bounds = store.pop(10).bound
    assert bounds.min() >= store.column("bound").max()
    store.pop(40)
    assert not store.crowded
    assert store.pop(5).bound.max() <= store.column("bound").min()


def test_a_store_is_written_to_a_file_and_read_again():
    store = NodeStore()
    store.push(some(0, 30))
    store.pop(7)
    store.push(some(30, 9), torch.arange(9, dtype=torch.float64))
    file = io.BytesIO()
    torch.save(store.state(), file)
    file.seek(0)
    again = NodeStore()
    again.restore(Some, torch.load(file, weights_only=True))
    assert len(again) == len(store)
    while len(store):
        assert again.pop(4).number.tolist() == store.pop(4).number.tolist()
    again.restore(Some, {})
    assert len(again) == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 9)), max_size=40))
@LAW
def test_every_group_takes_turns_with_its_smallest(pairs):
    group = torch.tensor([g for g, _ in pairs], dtype=torch.long)
    bound = torch.tensor([b for _, b in pairs], dtype=torch.float64)
    turns = smallest_in_turns(group, bound)
    assert sorted(turns.tolist()) == list(range(len(pairs)))
    turn: dict[int, int] = {}
    ranks = []
    for g in group[turns].tolist():
        turn[g] = turn.get(g, -1) + 1
        ranks.append(turn[g])
    assert ranks == sorted(ranks)  # nobody's second before somebody's first
    for g in turn:
        mine = bound[turns][group[turns] == g].tolist()
        assert mine == sorted(mine)


def test_a_store_in_turns_pops_every_problems_first():
    store = NodeStore(in_turns=True)
    store.push(some(0, 35))
    assert sorted(store.pop(5).problem.tolist()) == [0, 1, 2, 3, 4]
