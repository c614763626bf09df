"""Specifications of several networks: what is read, what is joined, and what the verdict rests on."""

import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.errors import ProblemError, SpecificationError
from clinch.vnnlib import parse_specification
from clinch.vnnlib.several import INPUTS, join
from clinch.vnnlib.verification import Answer

HEAD = """(vnnlib-version <2.0>)
(declare-network f (declare-input X real [1,2]) (declare-output Y real [1,2]))
(declare-network g {relation}(declare-input U real [1,2]) (declare-output V real [1,2]))
"""
BOX = "".join(f"(assert (and (>= {t}[0,{i}] 0) (<= {t}[0,{i}] 1)))\n" for t in "XU" for i in range(2))
EQUAL = "".join(f"(assert (= X[0,{i}] U[0,{i}]))\n" for i in range(2))
NEAR = "".join(f"(assert (and (<= (- X[0,{i}] U[0,{i}]) 0.1) (<= (- U[0,{i}] X[0,{i}]) 0.1)))\n" for i in range(2))


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2)).double().eval().requires_grad_(False)


def loaded(*seeds):
    return {name: cl.load(model(seed), input_shape=(2,)) for name, seed in zip("fg", seeds)}


def specification(conditions, relation=""):
    return parse_specification(HEAD.format(relation=relation) + conditions, "two.vnnlib")


def largest(first, second, near):
    """The largest ``Y_0 − V_0`` on a grid of inputs, and around it."""
    grid = torch.tensor(list(itertools.product(np.linspace(0, 1, 81), repeat=2)))
    if not near:
        return float((first(grid)[:, 0] - second(grid)[:, 0]).max())
    moves = torch.tensor(list(itertools.product((-0.1, -0.05, 0.0, 0.05, 0.1), repeat=2)))
    return max(float((first(grid)[:, 0] - second((grid + move).clamp(0, 1))[:, 0]).max()) for move in moves)


@pytest.mark.parametrize("tie", [EQUAL, NEAR])
def test_two_networks_are_decided_and_the_counterexample_is_each_ones_own(tie):
    nets, (first, second) = loaded(0, 1), (model(0), model(1))
    most = largest(first, second, tie == NEAR)
    for limit, answer in ((most - 0.01, Answer.SAT), (most + 0.05, Answer.UNSAT)):
        text = BOX + tie + f"(assert (>= (- Y[0,0] V[0,0]) {limit}))"
        verdict = cl.verify(nets, specification(text), timeout=30)
        assert verdict.answer is answer
    text = BOX + tie + f"(assert (>= (- Y[0,0] V[0,0]) {most - 0.01}))"
    found = cl.verify(nets, specification(text), timeout=30).counterexample
    values = {name: torch.as_tensor(t) for name, t in found.values.items()}
    assert set(values) == {"X", "Y", "U", "V"}
    assert torch.allclose(first(values["X"]), values["Y"]) and torch.allclose(second(values["U"]), values["V"])
    assert float(values["Y"][0] - values["V"][0]) >= most - 0.01
    assert float((values["X"] - values["U"]).abs().max()) <= (0.1 if tie == NEAR else 0.0) + 1e-9
    assert [line for line in str(found).splitlines() if line.startswith("U real [1,2]")]


def test_equal_inputs_are_one_part_and_others_are_not():
    for tie, size in ((EQUAL, 2), (NEAR, 4), ("", 4), (EQUAL.splitlines()[0], 4)):
        made, net = join(specification(BOX + tie + "(assert (>= Y[0,0] V[0,0]))"), loaded(0, 1))
        assert made.tensors[INPUTS].size == size == int(np.prod(net.input_shape))


def test_a_network_declared_equal_needs_no_file_of_its_own():
    nets = {"f": loaded(0)["f"]}
    text = BOX + EQUAL + "(assert (>= (- Y[0,0] V[0,0]) 0.001))"
    assert cl.verify(nets, specification(text, "(equal-to f) "), timeout=30).answer is Answer.UNSAT
    with pytest.raises(SpecificationError, match="give g too"):
        cl.verify(nets, specification(text, "(isomorphic-to f) "))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("U real [1,2]", "U real [1,3]").replace("U[0,0]", "U[0,2]"), r"U has \[1, 3\] elements"),
        (lambda t: t.replace("(declare-network g", "(declare-network f"), "'f' is declared twice|f is declared twice"),
        (lambda t: t.replace("(declare-network g", "(declare-network g (equal-to h)"), "declared before"),
        (lambda t: t.replace("(declare-output V real [1,2])", "").replace("V[", "Y["), "no output of the network g"),
        (lambda t: t.replace("(<= U[0,1] 1)", "(<= U[0,1] 2)").replace("(>= U[0,1] 0)", "(>= U[0,0] 0)"),
         re.escape("U[0,1] has no lower limit")),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_as_the_file_names_it(change, message):
    text = HEAD.format(relation="") + BOX + "(assert (>= Y[0,0] V[0,0]))"
    with pytest.raises(SpecificationError, match=message):
        cl.verify(loaded(0, 1), parse_specification(change(text), "two.vnnlib"))


def test_networks_that_were_not_asked_for_are_refused():
    text = BOX + "(assert (>= Y[0,0] V[0,0]))"
    with pytest.raises(SpecificationError, match="declares f, g; networks are given for f, h"):
        cl.verify({"f": loaded(0)["f"], "h": loaded(1)["f"]}, specification(text))
    with pytest.raises(SpecificationError, match="one network is given"):
        cl.verify(loaded(0)["f"], specification(text))
    mixed = {"f": loaded(0)["f"], "g": cl.load(model(1).float(), input_shape=(2,))}
    with pytest.raises(ProblemError, match="one dtype"):
        cl.verify(mixed, specification(text))
