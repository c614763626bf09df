"""Verdicts on tiny networks: what is true, what is checked, what is refused."""

import gzip
import math
import re
import time
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from vnnlib_cases import INPUTS, OUTPUTS, box, declared, formulas, network, random_layers

import clinch as cl
from clinch.errors import NetworkError, ProblemError, SpecificationError, UnsoundResult
from clinch.query import Forms
from clinch.search.engines import ENGINES
from clinch.solver.ledger import Ledger
from clinch.solver.solution import Proof, Status
from clinch.testing.brute_force import brute_force
from clinch.vnnlib import Junction, Specification, parse_specification, verification
from clinch.vnnlib.problems import state
from clinch.vnnlib.verification import Answer

#: Y_0 = relu(X_0) + relu(-X_0) = |X_0|, Y_1 = X_1
ABSOLUTE = [
    (np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]), np.zeros(4)),
    (np.array([[1, 1, 0, 0], [0, 0, 1, -1]]), np.zeros(2)),
]

#: conditions of which each can be met alone, so that one relaxation of the box refutes neither
CONTRARY = "(assert (>= Y_0 0.5)) (assert (<= Y_0 0.4))"


@pytest.fixture
def absolute(tmp_path):
    return network(tmp_path / "absolute.onnx", ABSOLUTE)


def verdict(net, conditions, *, limits=None, **options):
    text = declared((box(inputs=2) if limits is None else limits) + conditions, inputs=2, outputs=2)
    return cl.verify(net, parse_specification(text, "test.vnnlib"), **options)


@pytest.mark.parametrize(
    ("conditions", "answer"),
    [
        ("(assert (<= Y_0 -0.001))", Answer.UNSAT),
        ("(assert (<= Y_0 0.0))", Answer.SAT),
        ("(assert (>= Y_0 0.99))", Answer.SAT),
        ("(assert (>= Y_0 1.001))", Answer.UNSAT),
        ("(assert (< Y_0 0))", Answer.UNSAT),
        ("(assert (> Y_0 1))", Answer.UNSAT),
        ("(assert (or (and (>= Y_0 2)) (and (<= Y_1 -2))))", Answer.UNSAT),
        ("(assert (or (and (>= Y_0 2)) (and (<= Y_1 -0.5))))", Answer.SAT),
        ("(assert (or (and (>= Y_0 0.5) (<= Y_0 0.4)) (and (>= Y_1 0.5) (<= Y_1 0.4))))", Answer.UNSAT),
        ("(assert (>= (+ X_0 X_1) 1.5)) (assert (<= (- Y_0 Y_1) -0.3))", Answer.SAT),
        ("(assert (>= (- X_0 Y_0) 0.1))", Answer.UNSAT),
        ("(assert (or (<= X_0 -0.5) (>= X_0 0.5))) (assert (<= Y_0 0.4))", Answer.UNSAT),
        ("(assert (or (<= X_0 -0.5) (>= X_0 0.5))) (assert (<= Y_0 0.6))", Answer.SAT),
        ("(assert (or (<= Y_0 -1) (<= X_1 0.2)))", Answer.SAT),
    ],
)
def test_the_truth_about_an_absolute_value(absolute, conditions, answer):
    found = verdict(absolute, conditions, timeout=60)
    assert found.answer is answer, found.reason
    assert (found.counterexample is not None) == (answer is Answer.SAT)
    if found.counterexample is not None:
        assert found.counterexample.exact
        np.testing.assert_allclose(found.counterexample.y[0], abs(found.counterexample.x[0]), atol=1e-6)


def test_random_networks_against_a_grid(tmp_path):
    """Two inputs: a fine grid finds what there is, and bounds its distance to what is not."""
    axis = np.linspace(-1, 1, 81, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    answers = set()
    for seed in range(4):
        layers = random_layers([2, 5, 4, 2], seed)
        path = network(tmp_path / f"{seed}.onnx", layers)
        session = onnxruntime.InferenceSession(path)
        (y,) = session.run(None, {"x": grid})
        lipschitz = math.prod(np.linalg.norm(weight, 2) for weight, _ in layers)
        reach = lipschitz * math.sqrt(2) * (axis[1] - axis[0]) / 2
        for limit in (float(y[:, 0].max()) - 1e-3, float(y[:, 0].max()) + 0.2 * reach, float(y[:, 0].max() + reach)):
            found = verdict(path, f"(assert (>= Y_0 {limit}))", timeout=60)
            if limit <= y[:, 0].max():
                assert found.answer is Answer.SAT
            elif limit >= y[:, 0].max() + reach:
                assert found.answer is Answer.UNSAT
            assert found.decided, found.reason
            answers.add(found.answer)
    assert answers == {Answer.SAT, Answer.UNSAT}


@settings(max_examples=40)
@given(formula=formulas, seed=st.integers(0, 50))
def test_verdicts_agree_with_enumeration(tmp_path_factory, formula, seed):
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    network(path, random_layers([INPUTS, 5, OUTPUTS], seed))
    declarations = parse_specification(declared("(assert true)")).tensors
    limits = parse_specification(declared(box())).formula.parts
    specification = Specification("random", "1.0", declarations, Junction(True, (*limits, formula)))
    net = cl.load(path)
    queries = state(specification, net).queries
    # conditions that just touch are left to the verdict: enumeration has a tolerance
    clearly, barely = (
        any(math.isfinite(brute_force(shifted(query, by), b)) for query in queries for b in range(query.size))
        for by in (1e-5, -1e-5)
    )
    found = cl.verify(net, specification, timeout=30)
    if clearly or not barely:
        assert found.answer is (Answer.SAT if clearly else Answer.UNSAT), found.reason


def shifted(query, by):
    """The query with all atoms harder to meet by so much."""
    return replace(query, atoms=Forms(query.atoms.coefficients, query.atoms.constant + by))


def test_contradicting_limits_are_unsat_with_their_reason(absolute):
    found = verdict(absolute, "(assert (>= X_1 2))")
    assert found.answer is Answer.UNSAT and "X_1 would have to be >= 2 and <= 1" in found.reason
    assert found.problems == 0


def test_a_box_alone_is_met_by_its_middle(absolute):
    found = verdict(absolute, "(assert (<= X_0 0))")
    assert found.answer is Answer.SAT and found.counterexample.x.tolist() == [-0.5, 0]


def test_strict_conditions_are_not_met_by_equality(tmp_path):
    """A network that ends in a ReLU gives exactly 0 on half of its inputs."""
    path = network(tmp_path / "net.onnx", [(np.array([[1, 0], [0, 1]]), np.zeros(2))], relu_at_end=True)
    limits = "(assert (<= -1 X_0 0)) (assert (<= -1 X_1 0))"
    assert verdict(path, "(assert (<= Y_0 0))", limits=limits).answer is Answer.SAT
    assert verdict(path, "(assert (> Y_0 0))", limits=limits).answer is Answer.UNSAT
    assert verdict(path, "(assert (< Y_0 0))", limits=limits).answer is Answer.UNSAT


def test_inputs_stay_inside_limits_that_float32_does_not_have(absolute):
    limits = "(assert (<= 0.1 X_0 0.3)) (assert (<= -0.7 X_1 -0.6))"
    for conditions in ("(assert (>= Y_0 0.2999))", "(assert (<= Y_0 0.1001))", "(assert (<= Y_1 -0.6999))"):
        found = verdict(absolute, conditions, limits=limits)
        x0, x1 = found.counterexample.x
        assert found.answer is Answer.SAT and found.counterexample.exact
        assert 0.1 <= x0 <= 0.3 and -0.7 <= x1 <= -0.6 and np.float32(x0) == x0 and np.float32(x1) == x1


def test_an_input_fixed_between_two_float32_numbers_takes_the_nearest_and_says_so(absolute):
    limits = "(assert (= X_0 0.1)) (assert (<= -1 X_1 1))"
    found = verdict(absolute, "(assert (<= Y_1 -0.5))", limits=limits)
    assert found.answer is Answer.SAT and not found.counterexample.exact
    assert found.counterexample.x[0] == np.float32(0.1)
    assert 0 < found.counterexample.violation < 1e-8 and "rounding" in found.reason
    # a proof covers the number itself
    assert verdict(absolute, "(assert (<= Y_0 0.0999))", limits=limits).answer is Answer.UNSAT


def test_a_hidden_layer_and_version_two(absolute):
    head = (
        "(vnnlib-version <2.0>) (declare-network f (declare-input A float32 [1,2])"
        '(declare-hidden H float32 [1,4] "h0") (declare-output B float32 [1,2]))'
        "(assert (and (<= -1.0 A[0,0] 1.0) (<= -1.0 A[0,1] 1.0)))"
    )
    found = cl.verify(absolute, parse_specification(head + "(assert (>= H[0,1] 0.5)) (assert (<= B[0,0] 0.75))"))
    assert found.answer is Answer.SAT and -0.75 <= found.counterexample.x[0] <= -0.5
    lines = str(found.counterexample).splitlines()
    assert lines[0] == "A float32 [1,2]" and lines[3] == "H float32 [1,4]" and lines[8] == "B float32 [1,2]"
    assert float(lines[5]) == -float(lines[1])
    found = cl.verify(absolute, parse_specification(head + "(assert (>= (* H[0,0] 2) 1)) (assert (>= H[0,1] 0.1))"))
    assert found.answer is Answer.UNSAT
    with pytest.raises(SpecificationError, match="there is no layer 'h7'"):
        cl.verify(absolute, parse_specification(head.replace("h0", "h7") + "(assert (<= H[0,0] 0))"))


def test_a_counterexample_is_written_so_that_the_same_numbers_are_read(absolute):
    found = verdict(absolute, "(assert (>= Y_0 0.6)) (assert (<= Y_0 0.7))")
    text = str(found.counterexample)
    assert re.fullmatch(r"\(\(X_0 \S+\)\n\(X_1 \S+\)\n\(Y_0 \S+\)\n\(Y_1 \S+\)\)", text)
    numbers = [float(number) for number in re.findall(r"_\d+ ([^)]+)\)", text)]
    x = np.array([numbers[:2]], dtype=np.float32)
    assert x[0].tolist() == numbers[:2]
    assert onnxruntime.InferenceSession(absolute).run(None, {"x": x})[0][0].tolist() == numbers[2:]
    assert found.to_dict()["counterexample"]["values"] == {"X": numbers[:2], "Y": numbers[2:]}


def test_time_that_is_over_is_a_timeout(absolute):
    for timeout in (0, 1e-9):
        found = verdict(absolute, "(assert (>= Y_0 1.001))", timeout=timeout)
        assert found.answer is Answer.TIMEOUT and not found.decided and found.counterexample is None
    with pytest.raises(ProblemError, match="timeout is -1"):
        verdict(absolute, "(assert (>= Y_0 1))", timeout=-1)
    with pytest.raises(ProblemError, match="timeout is nan"):
        verdict(absolute, "(assert (>= Y_0 1))", timeout=math.nan)


def test_a_decided_answer_that_comes_too_late_is_a_timeout(absolute, monkeypatch):
    def slow(stated, deadline, *rest):
        ledgers = searched(stated, deadline, *rest)
        time.sleep(max(0.0, deadline + verification.RESERVE - time.monotonic()))
        return ledgers

    searched = verification._search
    monkeypatch.setattr(verification, "_search", slow)
    for conditions in ("(assert (>= X_0 2))", "(assert (<= X_0 0))"):
        found = verdict(absolute, conditions, timeout=0.5)
        assert found.answer is Answer.TIMEOUT and "after the timeout" in found.reason
        assert found.counterexample is None


def test_layers_without_a_relaxation_leave_attacks(tmp_path):
    """A remainder has none: sat is still found, unsat is not claimed, and the notes say why."""
    nodes = [helper.make_node("Mod", ["x", "by"], ["y"], fmod=1)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 2]) for name in "xy"]
    by = [helper.make_tensor("by", TensorProto.FLOAT, [2], [0.7, 0.7])]
    graph = helper.make_graph(nodes, "remainder", values[:1], values[1:], by)
    path = tmp_path / "remainder.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
    assert verdict(path, "(assert (>= Y_0 0.3))").answer is Answer.SAT
    found = verdict(path, "(assert (>= Y_0 2))", timeout=20)
    assert found.answer is Answer.UNKNOWN and any("Mod has no" in note for note in found.notes)


def test_engines_that_give_up_leave_it_unknown(absolute, monkeypatch):
    monkeypatch.setattr(verification, "search", lambda query, ledger, seed: None)
    found = verdict(absolute, CONTRARY, timeout=60)
    assert found.answer is Answer.UNKNOWN and found.counterexample is None


def test_liars_are_not_believed(absolute, monkeypatch):
    def lies(query, ledger, seed):
        inside = (query.region.lower + query.region.upper) / 2
        ledger.offer(inside + torch.full_like(inside, torch.nan), "liar")
        ledger.offer(inside, "liar")
        ledger.prove(torch.full((query.size,), torch.nan, dtype=torch.float64), Proof.TREE, "liar")

    monkeypatch.setattr(verification, "search", lies)
    assert verdict(absolute, CONTRARY).answer is Answer.UNKNOWN


def test_a_normal_form_that_differs_from_the_formula_is_noticed(absolute, monkeypatch):
    """Points are judged by the formula as it was read, not only by the problems it became."""
    other = parse_specification(declared(box(inputs=2) + "(assert (<= Y_0 5))", 2, 2))
    monkeypatch.setattr(verification, "state", lambda specification, net: state(other, net))
    with pytest.raises(UnsoundResult, match="fails the formula"):
        verdict(absolute, "(assert (>= Y_0 1.001))")


def test_batches_of_boxes_share_their_clauses(absolute):
    text = declared(box(inputs=2) + "(assert (or (<= X_0 -0.5) (>= X_0 0.5))) (assert (<= Y_0 0.4))", 2, 2)
    stated = state(parse_specification(text), cl.load(absolute))
    (query,) = stated.queries
    assert query.size == 2 and query.feasibility
    assert [c.shape[0] for c in query.atoms.coefficients.values()] == [1]


def test_several_structures_are_searched_until_one_gives_a_point(absolute):
    hard = "(and (<= Y_0 0.1) (>= Y_0 0.3))"
    found = verdict(absolute, f"(assert (or {hard} (and (>= Y_0 0.9) (<= Y_1 -0.9) (>= Y_1 -0.95))))", timeout=60)
    assert found.answer is Answer.SAT and found.problems == 2
    found = verdict(absolute, f"(assert (or {hard} (and (>= Y_0 0.9) (<= Y_1 -0.9) (>= Y_1 -0.8))))", timeout=60)
    assert found.answer is Answer.UNSAT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (declared(box() + "(assert (<= Y_0 0))", 3, 2), r"line 1: the input X has 3 elements.*shape \[2\]"),
        (declared(box(inputs=2) + "(assert (<= Y_0 0))", 2, 3), r"line 3: the output Y has 3 elements.*shape \[2\]"),
        ("(declare-network f (declare-input X float32 [2,2])\n(declare-output Y float32 [2])) (assert (<= Y[0] 0))",
         r"the input X has \[2, 2\] elements"),
        ("(declare-network f (declare-input X float32 [2])\n(declare-output Y float64 [2])) (assert (<= Y[0] 0))",
         "line 2: Y is declared float64; absolute is float32"),
    ],
)  # fmt: skip
def test_a_specification_of_another_network_is_refused(absolute, text, message):
    with pytest.raises(SpecificationError, match=message):
        cl.verify(absolute, parse_specification(text))


def test_networks_with_nan_weights_are_refused(tmp_path):
    layers = [(np.array([[1.0, math.nan]]), np.zeros(1))]
    with pytest.raises(NetworkError, match="holds NaN"):
        verdict(network(tmp_path / "net.onnx", layers), "(assert (<= Y_0 0))")


# --- the language --------------------------------------------------------------------------------------------------


def test_minimize_zero_asks_for_any_input(absolute):
    net = cl.load(absolute)
    x, z = net.input, net.output
    limits = [x >= -1, x <= 1]
    problem = cl.Problem(cl.Minimize(0), [*limits, z[0] >= 0.9])
    assert problem.query.feasibility and problem.query.objective.form.coefficients == {}
    assert "any input that satisfies the constraints" in problem.explain()
    solution = problem.solve()
    assert solution.status is Status.OPTIMAL and solution.value == solution.bound == 0
    assert abs(float(solution.x.flatten()[0])) >= 0.9
    assert cl.Problem(cl.Maximize(3), [*limits, z[0] >= 0.9]).solve().value == 3
    assert cl.Problem(cl.Minimize(0), [*limits, z[0] >= 1.01]).solve().status is Status.INFEASIBLE
    assert not cl.Problem(cl.Minimize(z[0]), limits).query.feasibility
    assert cl.Problem(cl.Minimize(0 * z[0]), limits).query.feasibility


def test_a_bound_above_a_constant_objective_proves_infeasibility(absolute):
    net = cl.load(absolute)
    query = cl.Problem(cl.Minimize(3), [net.input >= -1, net.input <= 1, net.output[0] >= 0.5]).query
    ledger = Ledger(query)
    ledger.prove(torch.tensor([3 + 1e-8], dtype=torch.float64), Proof.TREE, "test")
    assert float(ledger.bound) <= 3 + 1e-8 and float(ledger.target) == pytest.approx(3 + 1e-6, abs=1e-12)
    ledger.prove(torch.tensor([torch.nan], dtype=torch.float64), Proof.TREE, "test")
    assert not bool(ledger.closed)
    ledger.prove(ledger.target, Proof.TREE, "test")
    assert float(ledger.bound) == math.inf and bool(ledger.closed)
    # and a point against such a proof is a contradiction
    with pytest.raises(UnsoundResult, match="Problem 0"):
        ledger.offer(torch.ones(1, 2), "test")


def test_minimize_zero_of_a_batch(absolute):
    net = cl.load(absolute)
    problem = cl.Problem(cl.Minimize(0), [net.input >= -1, net.input <= 1, net.output[0] >= torch.tensor([0.5, 1.5])])
    assert problem.solve().status == [Status.OPTIMAL, Status.INFEASIBLE]
    with pytest.raises(ProblemError, match="name a network"):
        cl.Problem(cl.Minimize(0))


def test_compressed_networks_and_engines_by_name(tmp_path):
    path = network(tmp_path / "net.onnx.gz", ABSOLUTE)
    (tmp_path / "test.vnnlib.gz").write_bytes(
        gzip.compress(declared(box(inputs=2) + "(assert (<= Y_0 -0.5))", 2, 2).encode())
    )
    assert cl.verify(path, tmp_path / "test.vnnlib.gz").answer is Answer.UNSAT
    assert set(ENGINES) >= {"attack", "bounds"}
