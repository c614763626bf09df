"""Every way to write something that has no meaning: a typed error that says what to write instead."""

import numpy as np
import pytest
import torch
from small_networks import small_network, symbols

import clinch as cl
from clinch.errors import EmptyRegionError, NonFiniteError, ProblemError, ShapeError, UnknownLayer

NET = small_network()
x, h, z = symbols(NET)
NAN, INF = float("nan"), float("inf")


def problem(*constraints, objective=None):
    return cl.Problem(objective or cl.Minimize(cl.norm(x, 2)), list(constraints))


CASES = [
    # shapes
    (lambda: x - np.zeros((3, 2)), ShapeError, r"shape \(3, 2\); expected \(2, 3\), or \(B, 2, 3\) for B problems"),
    (lambda: x - np.zeros(3), ShapeError, r"shape \(3,\); expected \(2, 3\)"),
    (lambda: z[0] - np.zeros((2, 2)), ShapeError, r"expected \(\), or \(B,\)"),
    (lambda: z - np.zeros((0, 4)), ShapeError, r"shape \(0, 4\)"),
    (lambda: x + h, ShapeError, r"shapes \(2, 3\) and \(5,\) do not fit"),
    (lambda: h[7], ShapeError, r"Index 7 does not fit an expression of shape \(5,\)"),
    (lambda: h[np.zeros(4, dtype=bool)], ShapeError, "does not fit"),
    (lambda: np.zeros((2, 4)) @ h, ShapeError, r"shape \(2, 4\).*expected \(5,\), \(k, 5\)"),
    (lambda: np.zeros(3) @ x, ShapeError, r"write e.flatten\(\) first"),
    (lambda: len(z[0]), ShapeError, "no length"),
    (lambda: x.argmax() == 1, ShapeError, r"one axis.*shape \(2, 3\)"),
    (lambda: problem(objective=cl.Minimize(z)), ShapeError, r"must be a scalar.*shape \(4,\)"),
    (lambda: (x - np.zeros((3, 2, 3))) + np.zeros((4, 2, 3)), ShapeError, "3 problems meet constants for 4 problems"),
    (lambda: (x - np.zeros((3, 2, 3))) * np.ones((4, 2, 3)), ShapeError, "3 problems meet constants for 4 problems"),
    (lambda: np.ones((2, 1, 5)) @ (h - np.ones((3, 5))), ShapeError, "2 problems meet constants for 3 problems"),
    (lambda: (x - np.zeros((3, 2, 3))) + (x - np.zeros((4, 2, 3))), ShapeError, "3 problems meet constants for 4"),
    (lambda: h.between(np.zeros((3, 5)), np.zeros((4, 5))), ShapeError, "3 problems meet constants for 4"),
    (lambda: cl.norm(h, 2, np.ones((3, 5)), np.ones((4, 5)) > 0), ShapeError, "3 problems meet constants for 4"),
    (lambda: cl.norm(h - np.ones((3, 5)), 2) <= [1, 2], ShapeError, "2 problems meet constants for 3"),
    (lambda: (z.argmax() == [0, 1]) & (x <= np.zeros((3, 2, 3))), ShapeError, "2 problems meet constants for 3"),
    (lambda: problem(x <= np.zeros((3, 2, 3)), z.argmax() == [0, 1]), ShapeError, "2 problems meet constants for 3"),
    (lambda: cl.norm(x, 2, weights=np.ones(2)), ShapeError, "weights has shape"),
    # numbers
    (lambda: x - np.full((2, 3), NAN), NonFiniteError, "constant subtracted .* contains NaN"),
    (lambda: x <= NAN, NonFiniteError, "upper limit contains NaN"),
    (lambda: x - INF, NonFiniteError, "infinity"),
    (lambda: INF * x, NonFiniteError, "factor contains an infinity"),
    (lambda: np.full(5, INF) @ h, NonFiniteError, "matrix contains an infinity"),
    (lambda: x == INF, NonFiniteError, "right side of == contains an infinity"),
    (lambda: cl.norm(x - 1, 2) <= NAN, NonFiniteError, "radius of the ball contains NaN"),
    (lambda: h.between(0, 1, margin=INF), NonFiniteError, "margin contains an infinity"),
    (lambda: x / 0, ProblemError, "divisor contains a zero"),
    (lambda: x - "one", ProblemError, "not a number, array or tensor: 'one'"),
    (lambda: x - [[1, 2], [3]], ProblemError, "not a number, array or tensor"),
    (lambda: x - 1j, ProblemError, "complex"),
    (lambda: x - None, ProblemError, "not a number, array or tensor: None"),
    # what is not linear
    (lambda: z / z, ProblemError, "quotient of two symbols"),
    (lambda: 1 / z, ProblemError, "not defined for linear expressions"),
    (lambda: z**0.5, ProblemError, "whole powers from 1 on; 0.5 is none"),
    (lambda: x @ z, ProblemError, "matrix product of two symbols"),
    (lambda: x * z, ShapeError, "do not fit together"),
    (lambda: cl.max(1, 2), ProblemError, "cl.max takes expressions, and numbers beside them; it was given int, int"),
    (lambda: cl.min(z, z.argmax()), ProblemError, "it was given Activation, Argmax"),
    (lambda: cl.max(x, z), ShapeError, "do not fit together"),
    (lambda: cl.max(z - np.zeros((2, 4))), ProblemError, "for 2 problems at once"),
    (lambda: cl.quad_form(z, np.eye(3)), ShapeError, r"a matrix \(n, n\)"),
    (lambda: cl.stack([x, z]), ShapeError, "expressions of one shape"),
    (lambda: cl.concatenate([x, z]), ShapeError, "differ in their first axis alone"),
    (lambda: x.reshape(5), ShapeError, r"shape \(2, 3\) cannot be reshaped to"),
    (lambda: z.sum() + cl.norm(z, 3), ProblemError, "norm of p = 3 can stand alone as the objective"),
    (lambda: problem(cl.norm(h, 3) <= 1), ProblemError, "use p = 1, 2 or inf"),
    (lambda: cl.norm(x, 2) + z.argmax(), ProblemError, "compare it with a class"),
    (lambda: torch.relu(z), ProblemError, "torch.relu of a symbol is not defined"),
    (lambda: torch.ones(4) ** z, ProblemError, "not defined"),
    (lambda: z[z[0]], ProblemError, "index must be a constant"),
    # comparisons
    (lambda: z[0] < 1, ProblemError, "instead of a < b write a <= b - margin"),
    (lambda: z[0] > 1, ProblemError, "instead of a > b write a >= b"),
    (lambda: z[0] != 1, ProblemError, "!= is only defined for argmax"),
    (lambda: torch.ones(4) < z, ProblemError, "explicit margin"),
    (lambda: 0 <= x <= 1, ProblemError, "write a chained comparison such as 0 <= x <= 1 as two: x >= 0, x <= 1"),
    (lambda: x >= 0 and x <= 1, ProblemError, "join constraints with &, | and ~"),
    (lambda: not (x >= 0), ProblemError, "instead of and, or, not"),
    (lambda: all([x >= 0, x <= 1]), ProblemError, r"all\(\)"),
    (lambda: max(z), ProblemError, "explicit margin"),
    (lambda: bool(z[0]), ProblemError, "no truth value"),
    (lambda: (x >= 0) & True, ProblemError, "one side is a bool"),
    (lambda: 1 | (x >= 0), ProblemError, "one side is a int"),
    (lambda: np.ones(2) & (x >= 0), ProblemError, "one side is a ndarray"),
    # argmax
    (lambda: z.argmax() == 4, ProblemError, r"Label 4 is out of range: there are 4 classes, from 0 to 3"),
    (lambda: z.argmax() != [0, -1], ProblemError, "Label -1 is out of range"),
    (lambda: z.argmax() == 1.5, ProblemError, "whole numbers"),
    (lambda: z.argmax() == True, ProblemError, "class index"),  # noqa: E712
    (lambda: z.argmax() == z, ProblemError, "class index"),
    (lambda: z.argmax() <= 2, ProblemError, r"compare it with a class: z.argmax\(\) == 7"),
    (lambda: z.argmax() + 1, ProblemError, "compare it with a class"),
    (lambda: z.argmax(margin=-1) == 2, ProblemError, "margin is negative"),
    (lambda: z[:1].argmax() == 0, ShapeError, "at least two elements"),
    (lambda: z.argmax != 7, ProblemError, "Constraint 0 is a bool"),
    # between
    (lambda: h.between(1, 0), EmptyRegionError, r"above the upper limit at index \(0,\)"),
    (lambda: ~h.between([0, 0, 2, 0, 0], 1), EmptyRegionError, r"at index \(2,\)"),
    (lambda: h.between(NAN, 1), NonFiniteError, "lower limit contains NaN"),
    (lambda: h.between(0, 1, margin=[-1, 0, 0, 0, 0]), ProblemError, "margin is negative"),
    (lambda: h.between(0, 1, margin=[1, 2]), ShapeError, "margin has shape"),
    # norms
    (lambda: cl.norm(x, 0.5), ProblemError, "norm=0.5 is not among the norms. Write 0, any number from 1 on"),
    (lambda: cl.norm(x, "two"), ProblemError, "norm=two is not among the norms"),
    (lambda: cl.norm(np.zeros(3), 2), ProblemError, "norm takes an expression"),
    (lambda: cl.norm(cl.norm(x, 2), 2), ProblemError, "norm takes an expression"),
    (lambda: cl.norm(x, 2, weights=-1), ProblemError, "negative"),
    (lambda: cl.norm(x, 2, mask=np.ones((2, 3))), ProblemError, "mask is not boolean"),
    (lambda: cl.norm(x, 2) <= -1, EmptyRegionError, "radius -1 is empty"),
    (lambda: cl.norm(x, 0) <= 1.5, ProblemError, "whole number"),
    (lambda: cl.norm(x, 2) <= [[1, 2]], ShapeError, "radius of the ball has shape"),
    # problems
    (lambda: cl.Problem(z[0]), ProblemError, r"cl.Minimize\(...\) or cl.Maximize"),
    (lambda: cl.Problem(cl.Minimize(3)), ProblemError, "Neither objective nor constraints name a network"),
    (lambda: cl.Minimize(float("inf")), ProblemError, "objective is a float.*for no objective 0"),
    (lambda: cl.Minimize(True), ProblemError, "objective is a bool"),
    (lambda: cl.Minimize(z.argmax()), ProblemError, "objective is a Argmax"),
    (lambda: problem(True), ProblemError, "Constraint 0 is a bool"),
    (lambda: problem(x >= 0, [x <= 1]), ProblemError, "Constraint 1 is a list"),
    (lambda: problem(x >= 1, x <= 0), EmptyRegionError, r"no value for input\[0, 0\].*>= 1 and <= 0"),
    (lambda: problem(x >= 0, x[1, 2] <= -0.5), EmptyRegionError, r"input\[1, 2\]"),
    (lambda: problem(x >= 0, x <= np.array([1, -1.0]).reshape(2, 1, 1)), EmptyRegionError, "of problem 1"),
    (lambda: problem(x >= 0, cl.norm(x + 3, 2) <= 1), EmptyRegionError, "no value for input"),
    (lambda: problem(x >= 0, cl.norm(x + 3, cl.inf) <= 1), EmptyRegionError, "no value for input"),
    (lambda: problem(~h.between(-INF, INF)), EmptyRegionError, "hold for no input.*infinite"),
    (lambda: problem(~h.between(-INF, np.array([1, INF]).reshape(2, 1))), EmptyRegionError, "in problem 1"),
    (lambda: problem(h >= INF), EmptyRegionError, "hold for no input"),
    (lambda: problem(x >= INF), EmptyRegionError, "hold for no input"),
    (lambda: NET.position("relu7"), UnknownLayer, "no layer 'relu7'. This network has: image, flat, fc1, relu1, fc2"),
]


@pytest.mark.parametrize(("write", "error", "message"), CASES, ids=range(len(CASES)))
def test_error(write, error, message):
    with pytest.raises(error, match=message) as caught:
        found = write()
        problem(found)  # for statements that only become wrong as a constraint
    assert "\n" not in str(caught.value)


def test_two_networks():
    other = symbols(small_network(seed=1))
    with pytest.raises(ProblemError, match="two networks"):
        z[0] + other[2][0]
    with pytest.raises(ProblemError, match="two networks"):
        (z[0] >= 0) & (other[2][0] >= 0)
    with pytest.raises(ProblemError, match="two networks, each with an input of its own"):
        cl.Problem(cl.Minimize(z[0]), [other[2] >= 0])


def test_too_many_coefficients_are_refused_before_they_are_made():
    wide = small_network(hidden=40_000)
    _, h, z = symbols(wide)
    with pytest.raises(ProblemError, match=r"40,000 conditions on the 40,000 activations of 'relu1' would take 12 GiB"):
        cl.Problem(cl.Minimize(z[0]), h <= 1)
    assert cl.Problem(cl.Minimize(z[0]), h[:100] <= 1).query.clauses == 100


def test_errors_are_of_one_family():
    for kind in (ShapeError, NonFiniteError, EmptyRegionError, UnknownLayer):
        assert issubclass(kind, cl.ClinchError)
    assert issubclass(ProblemError, ValueError)
