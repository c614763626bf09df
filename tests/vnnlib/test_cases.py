"""The normal form: the same meaning as the formula, in few problems."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vnnlib_cases import INPUTS, OUTPUTS, box, declared, formulas

from clinch.errors import SpecificationError
from clinch.io.data import data_folder
from clinch.vnnlib import Junction, Specification, parse_specification, read_specification
from clinch.vnnlib.cases import cases_of

DATA = data_folder() / "vnncomp"
_NAMES = parse_specification(declared("(assert true)")).tensors


def cases(text, reason=""):
    found, why = cases_of(parse_specification(declared(box() + text)))
    assert why == reason
    return found


def meets(case, values):
    """Whether a point meets a case, by its definition."""

    def holds(atom):
        total = atom.constant + sum(c * values[name][i] for (name, i), c in atom.terms.items())
        return total < 0 or (total == 0 and not atom.strict)

    inside = bool(((case.lower <= values["X"]) & (values["X"] <= case.upper)).all())
    return inside and all(any(holds(atom) for atom in clause) for clause in case.clauses)


@settings(max_examples=100)
@given(formula=formulas, seed=st.integers(0, 1000))
def test_a_point_meets_the_formula_where_it_meets_a_case(formula, seed):
    limits = parse_specification(declared(box())).formula.parts
    specification = Specification("test", "1.0", _NAMES, Junction(True, (*limits, formula)))
    found, _ = cases_of(specification)
    for case in found:
        assert (case.lower <= case.upper).all() and (case.lower >= -1).all() and (case.upper <= 1).all()
    points = np.random.default_rng(seed).integers(-5, 6, (20, INPUTS + OUTPUTS)) / 4
    for point in points:
        values = {"X": point[:INPUTS], "Y": point[INPUTS:]}
        assert (specification.violation(values) <= 0) == any(meets(case, values) for case in found)


def sizes(found):
    return [[len(clause) for clause in case.clauses] for case in found]


def test_single_atoms_over_one_box_are_one_clause():
    assert sizes(cases("(assert (or (and (>= Y_0 Y_1)) (>= Y_1 2) (<= Y_0 -1)))")) == [[3]]


def test_conjunctions_are_clauses_of_one_atom():
    assert sizes(cases("(assert (or (and (<= Y_0 Y_1) (<= Y_0 1)) (and (>= Y_0 2) (>= Y_1 1))))")) == [[1, 1], [1, 1]]
    assert sizes(cases("(assert (<= Y_0 Y_1)) (assert (<= Y_0 0))")) == [[1, 1]]


def test_boxes_are_cases():
    found = cases("(assert (or (<= X_0 -0.5) (and (>= X_0 0.5) (<= X_1 0)))) (assert (or (<= Y_0 0) (<= Y_1 0)))")
    assert sizes(found) == [[2], [2]]
    assert [(c.lower[0], c.upper[0], c.upper[1]) for c in found] == [(-1, -0.5, 1), (0.5, 1, 0)]


def test_a_box_that_needs_nothing_else_makes_others_over_it_superfluous():
    assert sizes(cases("(assert (or (<= Y_0 0) (and (<= Y_1 0) (>= Y_1 -1)) true))")) == [[]]


def test_strict_limits_end_before_the_number():
    (case,) = cases("(assert (< X_0 0.5)) (assert (> X_0 0))")
    assert 0 < case.lower[0] < 1e-300 and 0.5 - 1e-15 < case.upper[0] < 0.5


def test_contradictions_are_named():
    assert cases("(assert (>= X_1 2))", "X_1 would have to be >= 2 and <= 1") == []
    assert cases("(assert (<= 1 0))", "its conditions contradict each other") == []
    some = "(assert (or (and (>= X_1 0.5) (<= X_1 0.2)) (<= X_1 0)))"
    assert sizes(cases(some, "X_1 would have to be >= 0.5 and <= 0.2")) == [[]]
    assert cases("(assert (or (>= X_1 2) (>= X_2 3)))", "X_1 would have to be >= 2 and <= 1") == []


def test_an_input_without_limits_is_refused():
    with pytest.raises(SpecificationError, match="X_1 has no lower limit, nor have 1 other inputs"):
        cases_of(parse_specification(declared("(assert (and (<= -1 X_0 1) (<= X_1 1) (<= X_2 1)))")))


def test_too_many_alternatives_are_refused():
    part = "".join(f"(and (<= Y_0 {i}) (<= Y_1 {i}))" for i in range(100))
    with pytest.raises(SpecificationError, match="more than 100,000 alternatives"):
        cases(f"(assert (or {part}))" * 3)


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("acasxu/vnnlib/prop_1.vnnlib.gz", [[1]]),
        ("acasxu/vnnlib/prop_2.vnnlib.gz", [[1, 1, 1, 1]]),
        ("acasxu/vnnlib/prop_5.vnnlib.gz", [[4]]),
        ("acasxu/vnnlib/prop_6.vnnlib.gz", [[4], [4]]),
        ("acasxu/vnnlib/prop_7.vnnlib.gz", [[1, 1, 1], [1, 1, 1]]),
        ("acasxu/vnnlib/prop_8.vnnlib.gz", [[1, 1], [1, 1], [1, 1]]),
        ("mnist_fc/vnnlib/prop_3_0.05.vnnlib.gz", [[9]]),
    ],
)
def test_the_competitions_own_files(file, expected):
    if not (DATA / file).is_file():
        pytest.skip(f"{DATA / file} is not there")
    found, reason = cases_of(read_specification(DATA / file))
    assert sizes(found) == expected and reason == ""
