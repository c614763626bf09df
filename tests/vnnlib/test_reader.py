"""The reader: both versions, round trips, and the line of every mistake."""

import gzip
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vnnlib_cases import INPUTS, OUTPUTS, box, declared, file_of, formulas

from clinch.errors import SpecificationError
from clinch.vnnlib import Atom, parse_specification, read_specification

TENSORS = (
    "(vnnlib-version <2.0>)\n(declare-network f\n(declare-input X float32 [1,2])\n(declare-output Y float32 [1,2])"
)


@given(formula=formulas, seed=st.integers(0, 100))
def test_what_is_written_is_what_is_read_in_both_versions(formula, seed):
    def holds(part, values):
        if isinstance(part, Atom):
            total = part.constant + sum(c * values[name][i] for (name, i), c in part.terms.items())
            return total < 0 or (total == 0 and not part.strict)
        return (all if part.every else any)(holds(p, values) for p in part.parts)

    # quarters, so that sums are exact and equality happens
    draw = np.random.default_rng(seed).integers(-4, 5, INPUTS + OUTPUTS) / 4
    values = {"X": draw[:INPUTS], "Y": draw[INPUTS:]}
    for version in ("1.0", "2.0"):
        specification = parse_specification(file_of(formula, version))
        assert specification.version == version
        assert (specification.violation(values) <= 0) == holds(formula, values)


def test_nan_meets_nothing():
    specification = parse_specification(declared("(assert (<= Y_0 1)) (assert (or (<= Y_1 1) (>= Y_1 0)))"))
    assert specification.violation({"X": np.zeros(3), "Y": np.array([0.0, np.nan])}) == np.inf


@pytest.mark.parametrize(
    ("condition", "terms", "constant", "strict"),
    [
        ("(<= Y_0 Y_1)", {("Y", 0): 1, ("Y", 1): -1}, 0, False),
        ("(> Y_0 1.5e1)", {("Y", 0): -1}, 15, True),
        ("(<= (+ X_0 (* 2 X_1 0.5) (- Y_0)) (- 3 1 .5))", {("X", 0): 1, ("X", 1): 1, ("Y", 0): -1}, -1.5, False),
        ("(>= (/ (- Y_0 X_0) 4) -1)", {("X", 0): 0.25, ("Y", 0): -0.25}, -1, False),
        ("(not (>= Y_0 2))", {("Y", 0): 1}, -2, True),
        ("(<= (- Y_0 Y_0) (* X_0 0))", {}, 0, False),
    ],
)
def test_linear_arithmetic(condition, terms, constant, strict):
    (atom,) = parse_specification(declared(f"(assert {condition})")).formula.parts
    assert dict(atom.terms) == terms and atom.constant == constant and atom.strict == strict


@pytest.mark.parametrize(
    ("condition", "inside", "outside"),
    [
        ("(<= -1 Y_0 1)", [0, 1, -1], [1.5, -2]),
        ("(= Y_0 1)", [1], [0.5, 2]),
        ("(== Y_0 1)", [1], [0.5, 2]),
        ("(!= Y_0 1)", [0.5, 2], [1]),
        ("(not (= Y_0 1))", [0.5, 2], [1]),
        ("(=> (>= Y_0 0) (>= Y_0 1))", [-1, 1, 2], [0, 0.5]),
        ("(and true (or false (< Y_0 1)))", [0], [1, 2]),
    ],
)
def test_conditions_of_several_parts(condition, inside, outside):
    specification = parse_specification(declared(f"(assert {condition})"))
    for value in [*inside, *outside]:
        fails = specification.violation({"X": np.zeros(3), "Y": np.array([value, 0.0])})
        assert (fails <= 0) == (value in inside)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(declare-const X_0 Real)\n(assert (<= X_0 1)", r"line 2: this '\('.*not closed"),
        ("(declare-const X_0 Real))", r"line 1: this '\)' closes nothing"),
        ("; a comment\nnonsense", "line 2: 'nonsense' stands outside"),
        ("(declare-const X_0 Real)\n(assert\n (<= X_1 2))", "line 3: 'X_1' is not declared"),
        ("(declare-const X_0 Real)\n(assert (<= Z 2))", "line 2: 'Z' is not declared"),
        ("(declare-const X_0 Real)\n(assert (<= (* X_0\n X_0) 2))", "line 2: a product of variables is not linear"),
        ("(declare-const X_0 Real)\n(assert (<= (/ 1 X_0) 2))", "line 2: only division by a number"),
        ("(declare-const X_0 Real)\n(assert (<= (/ X_0 0) 2))", "line 2: only division by a number"),
        ("(declare-const X_0 Real)\n(assert (<= X_0))", "line 2: '<=' compares two numbers"),
        ("(declare-const X_0 Real)\n(assert (xor (<= X_0 1) (<= X_0 2)))", "line 2: 'xor' is not known"),
        ("(declare-const X_0 Real)\n(assert (<= (sin X_0) 1))", "line 2: 'sin' with 1 operands is not arithmetic"),
        ("(declare-const X_0 Real)\n(assert (and))", "line 2: 'and' with 0 conditions"),
        ("(declare-const X_0 Real)\n(assert X_0)", "line 2: 'X_0' is not a condition"),
        ("(declare-const X_0 Real)\n(assert ((<= X_0 1)))", "line 2: a pair of parentheses without an operator"),
        ("(declare-const X_0 Real)\n(assert (<= X_0 1) (<= X_0 1))", "line 2: assert takes one formula, not 2"),
        ("(declare-const X_0 Real)\n(assert (<= X_0 1e999))", "line 2: a number is too large"),
        ("(declare-const X_0 Real)\n(assert (<= (* 1e200 (* 1e200 X_0)) 1))", "line 2: a number is too large"),
        ("(declare-const X_0 Real)\n(maximize X_0)", "line 2: 'maximize' is not a command"),
        ("(declare-const X_0 Int)", "line 1: the type of X_0 is 'Int'"),
        ("(declare-const foo Real)", "line 1: 'foo' is no name for a variable"),
        ("(declare-const X_0 Real)\n(declare-const X_0 Real)", "line 2: X_0 is declared twice"),
        ("(declare-const X_0 Real)\n(declare-const X_2 Real)", "line 2: X_2 is declared, but X_1 is not"),
        ("(declare-const X_0 Real)\n(assert (<= X_0 1))", "line 1: the file declares no output"),
        ("(declare-const X_0 Real)\n(declare-const Y_0 Real)", "line 1: the file asserts nothing"),
        ("", "line 1: the file declares no input"),
        ("(vnnlib-version <3.0>)", "line 1: .*versions 1 and 2"),
        (TENSORS + ")\n(assert (<= X[0,2] 1))", r"line 5: X\[0,2\] does not fit the shape \[1, 2\]"),
        (TENSORS + ")\n(assert (<= X[1] 1))", r"line 5: X\[1\] does not fit the shape \[1, 2\]"),
        (TENSORS + ")\n(assert (<= X 1))", r"line 5: X does not fit the shape \[1, 2\]"),
        (TENSORS + "\n(declare-input Z float32 [1]))", "line 5: a second input"),
        (TENSORS + '\n(declare-hidden H float32 [1]))', 'line 5: H is hidden: add its "name"'),
        (TENSORS + "\n(declare-input X float32 [1]))", "line 5: X is declared twice"),
        (TENSORS + ")\n(declare-network f\n(declare-input Z real [1]))", "the network f is declared twice"),
        ("(declare-network g\n(equal-to f))", r"line 2: write \(equal-to f\) with the name of a net"),
        ("(declare-network g\n(declare-input Z int8 [1]))", "line 2: the type of Z is int8"),
        ("(declare-network g\n(declare-input Z [1]))", "line 2: write"),
        ("(declare-network g\n(declare-input Z float32 [0]))", "line 2: Z has no elements"),
        ("(" * 5000, "nested too deeply"),
        (declared("(assert " + "(and " * 5000 + "true" + ")" * 5001), "nested too deeply"),
    ],
    ids=range(39),
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(text, message):
    with pytest.raises(SpecificationError) as caught:
        parse_specification(text, "property.vnnlib")
    assert re.search(message, re.sub(r", column \d+", "", str(caught.value))), str(caught.value)
    assert str(caught.value).startswith("property.vnnlib") and "\n" not in str(caught.value)


def test_a_mistake_is_named_with_its_column():
    for text, place in (
        ("(declare-const X_0 Real)\n(assert (<= X_0 X_7))", "line 2, column 17: 'X_7' is not declared"),
        ("; note\n  (assert (<= 1 2)) nonsense", "line 2, column 21: 'nonsense' stands outside"),
        ("(declare-const X_0 Real)\n (assert (<= X_0 1)", r"line 2, column 2: this '\(' is not closed"),
        ("(declare-const X_0 Real) )", r"line 1, column 26: this '\)' closes nothing"),
    ):
        with pytest.raises(SpecificationError, match=place):
            parse_specification(text, "property.vnnlib")


def test_tensors_of_version_two_with_scalars_and_hidden_layers():
    specification = parse_specification(
        '(vnnlib-version <2.0>) (declare-network f (declare-input X real [2,1,2]) (declare-hidden H float32 [4] "relu")'
        "(declare-output Y float64 [])) (assert (and (<= X [1, 0,1] H[3]) (>= Y 0)))"
    )
    assert [t.kind for t in specification.tensors.values()] == ["input", "hidden", "output"]
    below, _ = specification.formula.parts[0].parts
    assert dict(below.terms) == {("X", 3): 1, ("H", 3): -1}
    assert specification.element(("X", 3)) == "X[1,0,1]" and specification.element(("Y", 0)) == "Y"
    assert specification.tensors["H"].layer == "relu"


def test_compressed_and_plain_files_say_the_same(tmp_path):
    text = declared(box() + "(assert (<= Y_0 Y_1)) (check-sat)")
    (tmp_path / "a.vnnlib").write_text(text)
    (tmp_path / "a.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    plain, packed = (read_specification(tmp_path / name) for name in ("a.vnnlib", "a.vnnlib.gz"))
    assert plain.formula == packed.formula and plain.name == "a.vnnlib"


# without the time of day, which would be part of the name
@pytest.mark.parametrize("content", [b"\x1f\x8bbroken", gzip.compress(b"(assert", mtime=0)[:-9], b"\xff\xfe\xfa"])
def test_files_that_are_no_text_are_refused(tmp_path, content):
    (tmp_path / "a.vnnlib").write_bytes(content)
    with pytest.raises(SpecificationError, match=r"Cannot read .*a\.vnnlib"):
        read_specification(tmp_path / "a.vnnlib")
    with pytest.raises(SpecificationError, match="No such file"):
        read_specification(tmp_path / "b.vnnlib")
