"""Whether a certificate proves the user's own question: what is weaker, narrower or other is said, never passed.

The certificates here are honest about their numbers, and the checker accepts them; what their labels say is whatever
the user wants to hear.
"""

from __future__ import annotations

import json
import math
import unicodedata
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, save

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.certificates.implication import NotProven, Statement, proven
from clinch.certificates.unsat import save_all
from clinch.checker.certificate import CERTIFICATE, read_certificate, write_file
from clinch.checker.layers import entry, relu
from clinch.checker.question import CertifiedQuery
from clinch.checker.rigorous import Ball, Box
from clinch.cli import run

CLASSES = 4
PROBLEM = """
model = "net.onnx"
range = [0, 1]
x0 = [0.2, 0.4, 0.6]
objective = {{ {objective} }}
constraints = [{constraints}]
"""
#: what the tests ask
ASKED = {"objective": 'maximize = "output[0] - output[1]"', "constraints": '{linear = "input[0] <= 0.5"}'}


def onnx_file(path, seed):
    rng = np.random.default_rng(seed)
    weights = {"a": rng.normal(size=(3, 5)), "b": rng.normal(size=(5, CLASSES))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("x", 3), ("y", CLASSES))]
    constants = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    onnx_file(folder / "net.onnx", 0)
    onnx_file(folder / "other.onnx", 1)
    (folder / "other").mkdir()
    (folder / "other" / "net.onnx").write_bytes((folder / "other.onnx").read_bytes())
    return folder


def bounded(problem, bound, onnx):
    """A certificate of a bound that costs no search."""
    (proof,) = certify(problem.query, torch.tensor([bound], dtype=torch.float64), time_limit=20, onnx=onnx)
    assert isinstance(proof, SavedProof), proof
    return proof


@pytest.fixture
def ask(folder, capsys):
    """``ask(statement, question)``: solve a statement, and ask of its certificate whether it proves a question."""
    networks = {}

    def certified(objective, constraints, model="net.onnx", bound=None):
        if model not in networks:
            networks[model] = cl.load(folder / model)
        net = networks[model]
        x = net.input
        made = cl.Problem(objective(net), [x >= 0, x <= 1, *constraints(net)])
        proof = made.solve(20, certificate=True).certificate if bound is None else bounded(made, bound, folder / model)
        assert proof is not None
        proof.save(folder / "c.safetensors")
        return proof

    def call(statement, *options, question=None, model="net.onnx", bound=None, **asked):
        if statement is not None:
            certified(*statement, bound=bound)
        file = question
        if file is None:
            file = folder / "question.toml"
            file.write_text(PROBLEM.format(**{**ASKED, **asked}))
        capsys.readouterr()
        code = run(["check", str(folder / "c.safetensors"), str(folder / model), "--question", str(file),
                    *map(str, options)])  # fmt: skip
        out = capsys.readouterr()
        first = (out.out or out.err).splitlines()[0]
        assert first.startswith({0: "PROVEN", 1: "NOT PROVEN", 2: "clinch:"}[code]), out
        assert code != 1 or not any(line.startswith("PROVEN") for line in out.out.splitlines())
        return code, first

    call.certified = certified
    return call


def largest(net):
    return cl.Maximize(net.output[0] - net.output[1])


def half(net):
    return [net.input[0] <= 0.5]


def nearest(net):
    return cl.Minimize(cl.norm(net.input - torch.tensor([0.2, 0.4, 0.6]), 2))


SAME = (largest, half)


def test_the_question_itself_is_proven(ask, folder):
    code, line = ask(SAME)
    assert code == 0 and "an objective above" in line
    # with the layer list that stands beside it, too
    assert ask(None, model="c.network.safetensors")[0] == 0
    content = folder / "found.json"
    assert ask(None, "--json", content)[0] == 0
    found = json.loads(content.read_text())
    assert found["proven"] and found["question"]["proven"] and found["question"]["file"] == "question.toml"
    assert found["question"]["bounds"] == [-found["bound"]] and found["question"]["reason"] == ""


MISSING = {
    "a smaller region": ((largest, lambda n: [n.input[0] <= 0.4]), {}, "region is smaller: input[0]"),
    "a region that is smaller by one number": (
        (largest, lambda n: [n.input[0] <= float(np.nextafter(np.float32(0.5), np.float32(0)))]), {}, "is smaller"),
    "a ball more": (
        (largest, lambda n: [cl.norm(n.input - torch.full((3,), 0.5), 2) <= 0.8]), {}, "holds only where"),
    "a condition more": ((largest, lambda n: [*half(n), n.output[2] <= 0]), {}, "does not say"),
    "the other sense": ((lambda n: cl.Minimize(n.output[0] - n.output[1]), half), {}, "from the other side"),
    "another form": ((lambda n: cl.Maximize(n.output[0] - n.output[2]), half), {}, "another linear form"),
    "another factor in a form": (
        (lambda n: cl.Maximize(n.output[0] - 0.999 * n.output[1]), half), {}, "another linear form"),
    "a distance": ((nearest, half), {}, "another kind"),
    "another class": (
        (largest, lambda n: [*half(n), n.output.argmax() == 2]),
        {"constraints": '{linear = "input[0] <= 0.5"}, {class = 3}'}, "it assumes"),
    "a stricter margin": (
        (largest, lambda n: [*half(n), n.output.argmax(margin=0.01) == 0]),
        {"constraints": '{linear = "input[0] <= 0.5"}, {class = 0, margin = 0.001}'}, "stricter by 0.009"),
    "one alternative of several is missing": (
        (largest, lambda n: [*half(n), (n.output[1] >= n.output[0]) | (n.output[2] >= n.output[0])]),
        {"constraints": '{linear = "input[0] <= 0.5"}, {not_class = 0, margin = 0}'}, "leaves out 1 other alternative"),
    "another norm": (
        (lambda n: cl.Minimize(cl.norm(n.input - torch.tensor([0.2, 0.4, 0.6]), 1)), half),
        {"objective": 'minimize = "norm", p = 2'}, "p = 1"),
    "another centre": (
        (lambda n: cl.Minimize(cl.norm(n.input - torch.tensor([0.2, 0.4, 0.5]), 2)), half),
        {"objective": 'minimize = "norm", p = 2'}, "it bounds norm"),
}  # fmt: skip


#: a bound that holds everywhere, and what has none below zero
FAR, DISTANCES = -1000.0, ("a distance", "another norm", "another centre")


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_said(ask, folder, name):
    statement, asked, reason = MISSING[name]
    code, line = ask(statement, bound=0.0 if name in DISTANCES else FAR, **asked)
    assert code == 1 and reason in line, line
    # labels that say what the user asks for change nothing
    certificate = read_certificate(folder / "c.safetensors")
    certificate.header["query"]["labels"] = ["PROVEN the question of question.toml", "output[0] - output[1]"]
    write_file(folder / "c.safetensors", CERTIFICATE, *certificate)
    assert ask(None, **asked) == (code, line)


IMPLIED = {
    "a larger region": ((largest, lambda n: [n.input[0] <= 0.7]), {}, ["--bound", 2000]),
    "a condition less": (SAME, {"constraints": '{linear = "input[0] <= 0.5"}, {class = 1}'}, ["--bound", 2000]),
    "a question in a ball": (
        SAME, {"constraints": '{linear = "input[0] <= 0.5"}, {ball = 2, radius = 0.9}'}, ["--bound", 2000]),
    "an alternative more": (
        (largest, lambda n: [*half(n), n.output.argmax(margin=0.0) != 0]),
        {"constraints": '{linear = "input[0] <= 0.5"}, {linear = "output[1] - output[0] >= 0"}'}, ["--bound", 2000]),
    "a looser margin": (
        (largest, lambda n: [*half(n), n.output.argmax(margin=0.0) == 0]),
        {"constraints": '{linear = "input[0] <= 0.5"}, {class = 0, margin = 0.01}'}, ["--bound", 2000]),
    "a multiple and a constant": (SAME, {"objective": 'maximize = "3*output[0] - 3*output[1] + 7"'}, []),
    "a hidden layer": (
        (lambda n: cl.Maximize(n["r"][0] - n["r"][1] + n.output[0]), half),
        {"objective": '''maximize = "r[0] - r[1] + output[0]"'''}, []),
    "a distance": (
        (nearest, lambda n: [n.output[0] <= n.output[1]]),
        {"objective": 'minimize = "norm", p = 2', "constraints": '{linear = "output[0] <= output[1]"}'}, []),
    "a ball within the distance": (
        (nearest, lambda n: [n.output[0] <= n.output[1] - 5]),
        {"objective": 'minimize = "0*output[0]"',
         "constraints": '{linear = "output[0] <= output[1] - 5"}, {ball = 2, radius = 1e-4}'}, []),
    "a condition that the bound refutes": (
        SAME, {"constraints": '{linear = "input[0] <= 0.5"}, {linear = "output[0] - output[1] >= 50"}'}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPLIED)
def test_what_follows_is_proven(ask, name):
    statement, asked, options = IMPLIED[name]
    code, line = ask(statement, *options, bound=FAR if options else None, **asked)
    assert code == 0, line


def test_a_bound_that_is_weaker_than_asked(ask, folder):
    proof = ask.certified(*SAME)
    best = -proof.report.bound
    assert ask(None, "--bound", best)[0] == 0
    code, line = ask(None, "--bound", np.nextafter(best, -math.inf))
    assert code == 1 and "weaker than" in line
    # a true bound that says next to nothing does not answer what the optimum is
    certificate = read_certificate(folder / "c.safetensors")
    certificate.header["claim"]["value"] = -best - 0.5
    write_file(folder / "c.safetensors", CERTIFICATE, *certificate)
    code, line = ask(None)
    assert code == 1 and "a gap of" in line and "--bound" in line
    # nor does it without an input
    certificate.header["point"] = None
    write_file(folder / "c.safetensors", CERTIFICATE, *certificate)
    code, line = ask(None)
    assert code == 1 and "no input that shows" in line
    assert ask(None, "--bound", best + 0.5)[0] == 0


def test_a_point_of_another_region_does_not_close_the_gap(ask):
    """The best input of the larger region is not allowed by the question, whose optimum may be lower."""
    code, line = ask((largest, lambda n: [n.input[0] <= 1, n.input[1] >= 0]))
    assert code == 1 or "PROVEN" in line
    code, line = ask(
        (largest, lambda n: []), constraints='{linear = "input[0] <= 0.001"}, {linear = "input[1] <= 0.001"}'
    )
    assert code == 1 and "no input that shows" in line


def test_another_model(ask, folder):
    code, line = ask((largest, half, "other.onnx"), model="other.onnx")
    assert code == 1 and "about another network" in line
    # the user's file names a model of the same name
    (folder / "other" / "question.toml").write_text(PROBLEM.format(**ASKED))
    ask.certified(*SAME)
    code, line = ask(None, question=folder / "other" / "question.toml")
    assert code == 1 and "about another network" in line
    # one that claims to be about both is still checked with the one that is named
    certificate = read_certificate(folder / "c.safetensors")
    assert run(["check", str(folder / "c.safetensors"), str(folder / "other.onnx")]) == 1
    assert certificate.header["networks"]


def specification(folder, text, name="spec.vnnlib"):
    lines = [f"(declare-const X_{i} Real)" for i in range(3)] + [f"(declare-const Y_{i} Real)" for i in range(CLASSES)]
    lines += [f"(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in range(3)]
    (folder / name).write_text("\n".join([*lines, text]))
    return folder / name


def unsat(folder, file, target):
    proofs = cl.verify(folder / "net.onnx", file, timeout=30, keep_leaves=True).certify()
    assert len(save_all(proofs, target)) == len(proofs) > 0


def test_every_case_of_a_specification_is_needed(ask, folder, capsys):
    file = specification(folder, "(assert (or (and (<= X_0 0.5) (>= Y_0 90)) (and (>= X_0 0.4) (>= Y_1 95))))")
    unsat(folder, file, folder / "v.safetensors")
    cases = [folder / f"v.{k}.safetensors" for k in (0, 1)]
    for k, case in enumerate(cases):
        (folder / "c.safetensors").write_bytes(case.read_bytes())
        code, line = ask(None, question=file)
        assert code == 1 and f"problem {1 - k} of 2" in line
        assert ask(None, "--with", cases[1 - k], question=file)[0] == 0
    # one certificate of a larger region covers both cases of one output
    wide = specification(folder, "(assert (or (and (<= X_0 0.5) (>= Y_0 90)) (and (>= X_0 0.4) (>= Y_0 95))))")
    ask.certified(lambda n: cl.Maximize(n.output[0]), lambda n: [], bound=-80.0)
    assert ask(None, question=wide)[0] == 0


def test_a_strict_condition_is_not_the_other_one(ask, folder):
    strict = specification(folder, "(assert (> Y_0 90))", "strict.vnnlib")
    weak = specification(folder, "(assert (>= Y_0 90))", "weak.vnnlib")
    unsat(folder, strict, folder / "c.safetensors")
    assert ask(None, question=strict)[0] == 0
    code, line = ask(None, question=weak)
    assert code == 1 and "stricter by" in line
    unsat(folder, weak, folder / "c.safetensors")
    assert ask(None, question=strict)[0] == 0 and ask(None, question=weak)[0] == 0


def test_a_batch_needs_a_certificate_for_each_problem(ask, folder, capsys):
    text = PROBLEM.format(objective='minimize = "norm", p = 2', constraints='{linear = "output[0] <= output[1]"}')
    (folder / "batch.toml").write_text(text.replace("[0.2, 0.4, 0.6]", "[[0.2, 0.4, 0.6], [0.9, 0.1, 0.3]]"))
    assert run(["solve", str(folder / "batch.toml"), "--certificate", str(folder / "c.safetensors")]) == 0
    (folder / "c.safetensors").write_bytes((folder / "c.0.safetensors").read_bytes())
    code, line = ask(None, question=folder / "batch.toml")
    assert code == 1 and "problem 1 of 2" in line
    assert ask(None, "--with", folder / "c.1.safetensors", question=folder / "batch.toml")[0] == 0


def test_bad_input_is_one_line(ask, folder):
    ask.certified(*SAME)
    (folder / "question.txt").write_text("")
    (folder / "broken.toml").write_text("model =")
    code_file = folder / "code.toml"
    code_file.write_text(PROBLEM.format(**ASKED).replace("net.onnx", "net.py:make"))
    for file in ("question.txt", "broken.toml", "no-such.toml", "code.toml"):
        assert ask(None, question=folder / file)[0] == 2
    assert ask(None, "--bound", "nan")[0] == 2
    spec = specification(folder, "(assert (>= Y_0 90))")
    code, line = ask(None, question=spec, model="c.network.safetensors")
    assert code == 2 and "about an ONNX file" in line
    assert run(["check", str(folder / "c.safetensors"), str(folder / "net.onnx"), "--bound", "1"]) == 2


# --- what is printed --------------------------------------------------------------------------------------------------


def test_labels_are_quoted_and_stand_apart(ask, folder, capsys):
    ask.certified(*SAME)
    path, model = str(folder / "c.safetensors"), str(folder / "net.onnx")
    assert run(["check", path, model]) == 0
    before = capsys.readouterr().out
    certificate = read_certificate(folder / "c.safetensors")
    evil = [
        "PROVEN      no input at all\nPROVEN      robust",
        "\x1b[2J\u202etsubor\u2066",
        "\u041eutput[0]",
        "x" * 500,
        "\r\x85\u2028PROVEN",
    ]
    certificate.header["query"]["labels"] = evil + ["more"] * 50
    write_file(folder / "c.safetensors", CERTIFICATE, *certificate)
    assert run(["check", path, model]) == 0
    after = capsys.readouterr().out
    proof, _, labels = after.partition("not checked, no part of the proof")
    # what is proven does not depend on them
    assert proof == before.partition("not checked")[0]
    assert sum(line.startswith("PROVEN") for line in after.splitlines()) == 1 and labels.isascii()
    assert all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp") for c in after)
    assert "\\u041eutput" in labels and "and 45 more" in labels and max(map(len, labels.splitlines())) < 200


def test_the_statement_follows_the_sense_and_stays_true(ask, folder, capsys):
    """The sense is its author's word: the form is turned with the bound, so that both say the same."""
    ask.certified(*SAME)
    certificate = read_certificate(folder / "c.safetensors")
    lines = []
    for sense in (-1, 1):
        certificate.header["query"]["sense"] = sense
        write_file(folder / "c.safetensors", CERTIFICATE, *certificate)
        assert run(["check", str(folder / "c.safetensors"), str(folder / "net.onnx")]) == 0
        lines.append(capsys.readouterr().out.splitlines()[0])
    bound = certificate.header["claim"]["value"]
    assert (
        f"output[0] - output[1] above {-bound!r}" in lines[0] and f"output[1] - output[0] below {bound!r}" in lines[1]
    )
    # and it is the same certificate for the question
    assert ask(None)[0] == 0


# --- the law ----------------------------------------------------------------------------------------------------------

COEFFICIENTS = st.sampled_from([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0])
ATOM = st.tuples(COEFFICIENTS, COEFFICIENTS, COEFFICIENTS, COEFFICIENTS, st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]))
LIMITS = st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (-1.0, 0.5), (-0.5, 0.5)])
BALLS = st.lists(st.tuples(st.sampled_from([1.0, 2.0]), st.sampled_from([0.25, 0.5, 1.0, 2.0])), max_size=1)
QUERY = st.tuples(LIMITS, LIMITS, st.lists(st.lists(ATOM, min_size=1, max_size=2), max_size=2), BALLS, ATOM)
#: the network: x, and max(x, 0)
LAYERS = [entry((2,)), relu((0,), (2,), 0.0)]
GRID = np.stack(np.meshgrid(*[np.linspace(-1, 1, 17)] * 2), -1).reshape(-1, 2)


def query_of(drawn):
    first, second, clauses, balls, objective = drawn
    rows = [objective, *(atom for clause in clauses for atom in clause)]
    forms = {0: np.array([row[:2] for row in rows]), 1: np.array([row[2:4] for row in rows])}
    members = np.repeat(np.arange(len(clauses)), [len(c) for c in clauses])
    box = Box(np.array([[first[0], second[0]]]), np.array([[first[1], second[1]]]))
    spheres = [Ball(np.zeros(2), radius, p, np.ones(2)) for p, radius in balls]
    constants = np.array([row[4] for row in rows])
    own = [(members == k).nonzero()[0] for k in range(len(clauses))]
    return CertifiedQuery("linear", forms, constants, own, box, spheres, None)


def values(query, x):
    """Objective, and whether a point is feasible, at every point of the grid."""
    h = {0: x, 1: np.maximum(x, 0)}
    rows = query.constants + sum(h[i] @ forms.T for i, forms in query.forms.items())
    inside = ((x >= query.box.lower) & (x <= query.box.upper)).all(1)
    for ball in query.balls:
        inside &= np.linalg.norm(x, ball.p, axis=1) <= ball.radius
    for members in query.clauses:
        inside &= (rows[:, 1 + members] <= 0).any(1)
    return rows[:, 0], inside


@settings(max_examples=200)
@given(QUERY, QUERY, st.integers(0, 5), st.sampled_from([1.0, 0.5, 2.0]), st.sampled_from([0.0, -0.5, 1.0]))
def test_nothing_is_proven_that_is_false(drawn, other, mutations, factor, shift):
    """A certificate's statement is true on the grid by choice of its bound: so is what it is said to prove."""
    stated = query_of(drawn)
    # the question has parts of the certificate's statement, and parts of its own
    parts = tuple(o if mutations & (1 << k) and k < 3 else d for k, (d, o) in enumerate(zip(drawn, other)))
    objective = (*(factor * c for c in drawn[4][:4]), factor * drawn[4][4] + shift)
    asked = query_of((*parts[:4], objective))
    f, feasible = values(stated, GRID)
    bound = float(f[feasible].min()) if feasible.any() else math.inf
    try:
        found = proven(asked, Statement(LAYERS, stated, bound, {}, None))
    except NotProven as reason:
        assert mutations and "\n" not in str(reason)
        return
    g, allowed = values(asked, GRID)
    assert not allowed.any() or float(g[allowed].min()) >= found
    if math.isfinite(found):
        assert Fraction(found) <= Fraction(factor) * (Fraction(bound) - Fraction(stated.constants[0])) + Fraction(
            asked.constants[0]
        )
