"""``&``, ``|`` and ``~`` against the whole truth table: six yes-or-no inputs, all 64 of their combinations."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import small_network, symbols

import clinch as cl
from clinch.errors import EmptyRegionError

NET = small_network()
x, h, z = symbols(NET)
TABLE = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)), dtype=torch.float64)

#: a formula is an index of an input ("it is positive"), or an operator and formulas
formulas = st.recursive(
    st.integers(0, 5),
    lambda inner: st.tuples(st.just("~"), inner) | st.tuples(st.sampled_from("&|"), inner, inner),
    max_leaves=9,
)


def written(formula):
    if isinstance(formula, int):
        return x.flatten()[formula] >= 0.5
    if formula[0] == "~":
        return ~written(formula[1])
    left, right = written(formula[1]), written(formula[2])
    return left & right if formula[0] == "&" else left | right


def holds(formula, row):
    if isinstance(formula, int):
        return bool(row[formula] > 0)
    if formula[0] == "~":
        return not holds(formula[1], row)
    left, right = holds(formula[1], row), holds(formula[2], row)
    return left and right if formula[0] == "&" else left or right


@given(formulas)
@settings(deadline=None, max_examples=60)
def test_truth_table(formula):
    expected = [holds(formula, row) for row in TABLE]
    try:
        query = cl.Problem(cl.Minimize(0 * z[0]), written(formula)).query
    except EmptyRegionError:
        assert not any(expected)
        return
    query = query.take(torch.zeros(64, dtype=torch.long))
    points = TABLE.reshape(64, 2, 3)
    found = (query.violation(query.evaluate(points)[1]) <= 0) & query.region.contains(points)
    assert found.tolist() == expected


def test_either_of_two_boxes_distributes():
    a, b = x.flatten()[:3] >= 0.5, x.flatten()[3:] >= 0.5
    query = cl.Problem(cl.Minimize(0 * z[0]), a | b).query
    assert query.clauses == 9
    assert query.atoms.count == 18
    assert torch.equal(query.clause, torch.arange(9).repeat_interleave(2))


def test_alternatives_whose_distribution_would_explode_are_functions():
    wide = small_network(hidden=120)
    _, h, z = symbols(wide)
    query = cl.Problem(cl.Minimize(z[0]), (h <= 1) | (h >= 2)).query
    assert (query.clauses, query.atoms.count) == (1, 2)


def test_a_long_disjunction_is_one_clause():
    many = torch.arange(30_000.0).reshape(6000, 5) @ h
    query = cl.Problem(cl.Minimize(z[0]), ~many.between(1, 2) | (z[0] >= 1)).query
    assert (query.clauses, query.atoms.count) == (1, 12001)
