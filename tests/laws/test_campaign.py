"""Never a wrong answer: exact engines, all engines together and enumeration agree on random problems of every shape.

Each problem is made again by its seed alone: ``complaints(case(seed))``.
"""

from __future__ import annotations

import collections

import pytest
from campaign import CLAUSES, ENCODABLE, OBJECTIVES, case, complaints

from clinch.solver.settings import BranchAndBound

#: seeds of the quick version, and of the whole campaign in parts
QUICK, WHOLE, PART = range(8), 2000, 100


def check(seeds, search=None) -> None:
    found = [f"seed {seed}: {text}" for seed in seeds for text in complaints(case(seed), search=search)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("first", QUICK[::4])
def test_engines_agree_on_a_few_problems(first):
    check(range(first, first + 4))


def test_engines_agree_where_limits_are_searched_for_at_once():
    check(range(30, 38), BranchAndBound(by_search_at=0, by_search_late=0, pause=1e-9, by_dual_at=1))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, WHOLE, PART))
def test_engines_agree_on_thousands_of_problems(first):
    check(range(first, first + PART))


def test_the_campaign_holds_every_shape():
    cases = [case(seed) for seed in range(400)]
    for attribute, names in (("kind", OBJECTIVES), ("clauses", CLAUSES), ("network", [f.__name__ for f in ENCODABLE])):
        seen = collections.Counter(getattr(c, attribute) for c in cases)
        assert min(seen[name] for name in names) >= 10, seen
    assert {c.ball for c in cases} == {None, 1.0, 2.0, float("inf")}
