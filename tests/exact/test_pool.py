"""The store of open domains, held against a plain list."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinch.bounds.domains import Domains
from clinch.exact.pool import Pool, Waiting, smallest_in_turns

WIDTH, CLAUSES, ATOMS = 3, 2, 4
LAW = settings(max_examples=40, deadline=None)


def waiting(first: int, count: int) -> Waiting:
    """Domains whose every entry says which one they are."""
    number = torch.arange(first, first + count)

    def filled(width: int, dtype: torch.dtype) -> torch.Tensor:
        return number.unsqueeze(1).expand(-1, width).to(dtype).contiguous()

    domains = Domains(
        number % 5, filled(WIDTH, torch.int8) % 2, filled(CLAUSES, torch.int64), filled(WIDTH, torch.float64),
        filled(WIDTH, torch.float64) / 2, filled(ATOMS, torch.float64) / 4, -number.double() % 7 + number / 1000,
        number / 2048,
    )  # fmt: skip
    return Waiting(domains, number, -number)


def numbers(found: Waiting) -> list[int]:
    """Which ones they are, after a look at every entry."""
    d, number = found.domains, found.elements
    assert torch.equal(d.problem, number % 5) and torch.equal(found.clause, -number)
    assert torch.equal(d.bound, -number.double() % 7 + number / 1000)
    assert torch.equal(d.pace, number / 2048)
    for rows, scale in ((d.choice, 1), (d.alpha, 1), (d.beta, 2), (d.mu, 4)):
        assert torch.equal(rows.double() * scale, number.double().unsqueeze(1).expand_as(rows))
    assert d.alpha.dtype == d.beta.dtype == d.mu.dtype == torch.float64 and d.split.dtype == torch.int8
    return number.tolist()


def held(pool: Pool) -> list[int]:
    """What waits, in the order of ``bounds()``, without taking it out."""
    problem, bound = pool.bounds()
    thousandths = ((bound - bound.floor()) * 1000).round().long()
    assert torch.equal(problem, thousandths % 5)
    return thousandths.tolist()


@given(st.lists(st.tuples(st.sampled_from(["push", "pop", "drop"]), st.integers(0, 9), st.integers(0, 2**31))))
@LAW
def test_it_holds_what_a_list_holds(actions):
    pool, expected, pushed = Pool(), set(), 0
    for action, count, seed in actions:
        rng = torch.Generator().manual_seed(seed)
        if action == "push" and pushed + count < 1000:
            pool.push(waiting(pushed, count))
            expected |= set(range(pushed, pushed + count))
            pushed += count
        elif action == "pop" and pushed:
            present = held(pool)
            order = torch.randperm(len(present), generator=rng)[:count]
            taken = numbers(pool.pop(order))
            assert taken == [present[i] for i in order.tolist()]
            expected -= set(taken)
        elif action == "drop":
            present = held(pool)
            finished = torch.rand(len(present), generator=rng) < 0.5
            pool.drop(finished)
            expected -= {number for number, gone in zip(present, finished.tolist()) if gone}
        assert len(pool) == len(expected) and set(held(pool)) == expected


def test_an_empty_store_answers():
    pool = Pool()
    problem, bound = pool.bounds()
    assert len(pool) == len(problem) == len(bound) == 0
    pool.drop(torch.zeros(0, dtype=torch.bool))
    pool.push(waiting(0, 0))
    assert len(pool) == 0


def test_slots_are_used_again():
    pool, size = Pool(), 0
    for round_ in range(50):
        pool.push(waiting(8 * round_, 8))
        size = max(size, len(pool._live))
        pool.pop(torch.arange(8))
    assert size <= 16


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 9)), max_size=40))
@LAW
def test_every_group_takes_turns_with_its_smallest(pairs):
    group = torch.tensor([g for g, _ in pairs], dtype=torch.long)
    bound = torch.tensor([b for _, b in pairs], dtype=torch.float64)
    order = smallest_in_turns(group, bound)
    assert sorted(order.tolist()) == list(range(len(pairs)))
    turn: dict[int, int] = {}
    ranks = []
    for g in group[order].tolist():
        turn[g] = turn.get(g, -1) + 1
        ranks.append(turn[g])
    assert ranks == sorted(ranks)  # nobody's second before somebody's first
    for g in turn:
        mine = bound[order][group[order] == g].tolist()
        assert mine == sorted(mine)
