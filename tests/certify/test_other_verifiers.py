"""Proofs by activation patterns and counterexamples of other tools: whatever is changed, nothing false passes."""

import random
from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.certificates.layer_list import layer_list
from clinch.certificates.pattern_tree import certify_patterns, recorded, tree_of
from clinch.checker.check import check
from clinch.checker.layers import read_layers
from clinch.errors import CertificateError, SpecificationError
from clinch.search.tree import AT_RELU
from clinch.vnnlib.aptp import parse_aptp
from clinch.vnnlib.point_check import check_point, exact_output, read_point
from clinch.vnnlib.problems import state
from clinch.vnnlib.reader import parse_specification

NEURONS = (1, 3, 5, 9)
BOX = "".join(f"(declare-const X_{i} Real)(assert (<= X_{i} 1))(assert (>= X_{i} -1))" for i in range(3))


@cache
def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    return cl.load(model, input_shape=(3,))


@cache
def least():
    net = network()
    return cl.Problem(cl.Minimize(net.output[0] - net.output[1]), [net.input.between(-1, 1)]).solve(20, gap=1e-6)


def property_text(threshold):
    return f"{BOX}(declare-const Y_0 Real)(declare-const Y_1 Real)(assert (<= (- Y_0 Y_1) {threshold}))"


def proof_text(patterns, threshold):
    cubes = " ".join("(and " + " ".join(f"({'>=' if s > 0 else '<'} N_{n} 0)" for n, s in p) + ")" for p in patterns)
    neurons = "".join(f"(declare-pwl N_{n} ReLU)" for n in range(1, 13))
    return f"{property_text(threshold)}{neurons}(assert (or {cubes}))"


def random_patterns(rng, depth=4):
    """The leaves of a random tree, in any order."""
    leaves, going = [], [()]
    while going:
        path = going.pop()
        free = [n for n in range(1, 13) if n not in {m for m, _ in path}]
        if len(path) >= depth or (path and rng.random() < 0.3):
            leaves.append(path)
            continue
        n = rng.choice(free)
        going += [(*path, (n, 1)), (*path, (n, -1))]
    rng.shuffle(leaves)
    return leaves


def proven(text):
    read = parse_aptp(text)
    net = network()
    return certify_patterns(state(read.specification, net).queries, read.patterns, 20.0)


def test_a_proof_is_read_and_closed_by_multipliers_that_the_checker_accepts():
    patterns = [tuple(zip(NEURONS, signs)) for signs in product((1, -1), repeat=4)]
    (proof,) = proven(proof_text(patterns, float(least().bound) - 0.01))
    layers = read_layers(*proof.network)
    report = check(proof.certificate, layers, proof.network[0]["sha256"])
    assert report.bound == np.inf and report.leaves >= 1
    assert set(proof.certificate.tensors["tree.kind"]) <= {0, AT_RELU}


@pytest.mark.parametrize("seed", range(6))
def test_leaves_of_any_tree_cover_and_a_missing_or_longer_one_does_not(seed):
    rng = random.Random(seed)
    leaves = random_patterns(rng)
    patterns = [{n - 1: s for n, s in path} for path in leaves]
    # the tree that comes out has no more leaves than a full one over these neurons
    assert len(tree_of(patterns)) <= 2 ** (len({n for p in patterns for n in p}) + 1)
    for at in range(len(patterns)):
        with pytest.raises(CertificateError, match="leave something out"):
            tree_of(patterns[:at] + patterns[at + 1 :])
        free = next(n for n in range(12) if n not in patterns[at])
        with pytest.raises(CertificateError, match="leave something out"):
            tree_of([*patterns[:at], {**patterns[at], free: 1}, *patterns[at + 1 :]])


@pytest.mark.parametrize("seed", range(3))
def test_what_is_false_is_not_proven_by_any_patterns(seed):
    rng = random.Random(seed)
    threshold = float(least().value) + 0.02
    with pytest.raises(CertificateError):
        proven(proof_text(random_patterns(rng, 3), threshold))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("(assert (or (and (< N_1 0.5)) (and (>= N_1 0))))", "a pattern consists of"),
        ("(assert (or (and (< N_40 0)) (and (>= N_1 0))))", "not declared"),
        ("(assert (or (and (< N_1 0) (>= N_1 0))))", "both sides"),
        ("(assert (or (and (< N_1 0))))(assert (or (and (>= N_1 0))))", "two assertions"),
        ("(assert (not (and (< N_1 0))))", "a pattern consists of"),
        ("(declare-pwl N_2 Sigmoid)(assert (or (and (< N_1 0))))", "only ReLU"),
        ("", "no pattern is stated"),
    ],
)
def test_what_is_no_proof_is_said_in_a_line(changed, said):
    with pytest.raises(SpecificationError, match=said):
        parse_aptp(f"{property_text(0)}(declare-pwl N_1 ReLU){changed}")


def test_neurons_that_are_not_there_and_other_layers_are_refused():
    with pytest.raises(CertificateError, match="N_13"):
        recorded([{12: 1}, {12: -1}], network().graph)
    smooth = cl.load(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).eval(), input_shape=(3,))
    with pytest.raises(CertificateError, match="networks of ReLUs"):
        recorded([{0: 1}, {0: -1}], smooth.graph)


# --- counterexamples -----------------------------------------------------------------------------------------------


def layers_of(net):
    return read_layers(*layer_list(net.graph))


def written(tmp_path, x, version=1):
    y = network().graph.forward(torch.tensor([x]), [network().graph.output])[network().graph.output][0].tolist()
    path = tmp_path / "point.txt"
    pairs = [f"(X_{i} {v!r})" for i, v in enumerate(x)] + [f"(Y_{i} {v!r})" for i, v in enumerate(y)]
    path.write_text("sat\n(" + "\n".join(pairs) + ")")
    return path


def test_a_counterexample_is_confirmed_in_rational_numbers_and_in_float32(tmp_path):
    x = least().x.double().tolist()
    for threshold, good in ((float(least().value) + 1e-3, True), (float(least().value) - 1e-3, False)):
        spec = parse_specification(property_text(threshold))
        found = check_point(spec, network(), layers_of(network()), read_point(written(tmp_path, x), spec))
        assert found.exact is good and (found.violation <= 0) is good
        assert found.difference is not None and found.difference < 1e-5


def test_exact_arithmetic_sees_what_rounding_hides():
    # 0.1 + 0.2 is 0.3 in rational numbers, more in float64
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    layers = layers_of(cl.load(model, input_shape=(2,)))
    assert exact_output(layers, [Fraction("0.1"), Fraction("0.2")]) == [Fraction("0.3")]


def test_points_that_are_none_are_refused(tmp_path):
    spec = parse_specification(property_text(0))
    for text, said in (("((X_0 1) (X_1 1))", "2 values"), ("((X_0 nan) (X_1 1) (X_2 1))", "no finite number"),
                       ("((X_0 1) (X_0 1) (X_1 1) (X_2 1))", "twice"), ("((Z_0 1))", "no variable")):  # fmt: skip
        path = tmp_path / "p.txt"
        path.write_text(text)
        with pytest.raises(SpecificationError, match=said):
            read_point(path, spec)


def test_points_as_version_two_lists_them(tmp_path):
    spec = parse_specification(
        "(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [1,3]) (declare-output Y float32 [1,2]))"
        "(assert (<= X[0,0] 1.0))"
    )
    path = tmp_path / "p.txt"
    path.write_text("X float32 [1,3]\n0.5\n-0.25\n1e-3\nY float32 [1,2]\n1.0\n2.0\n")
    found = read_point(path, spec)
    assert found["X"] == [Fraction(1, 2), Fraction(-1, 4), Fraction(1, 1000)] and len(found["Y"]) == 2
