"""What a solution says: the user's sense, one definition of the gap, texts and JSON."""

import json
import math

import numpy as np
import pytest
import torch
from small_networks import small_network, symbols

import clinch as cl
from clinch.solver.conclusion import conclude
from clinch.solver.ledger import Ledger
from clinch.solver.solution import ABSOLUTE_GAP, Proof, Solution, Status, relative_gap, status_of

NET = small_network(torch.float32)
x, h, z = symbols(NET)
INF = math.inf


def feasible_point():
    return torch.zeros(1, 2, 3)


def outside_problem():
    """Same class as at zero, while the largest hidden neuron leaves its box through the top."""
    found = NET.graph.forward(feasible_point(), [3, 4])
    top, label = int(found[3].argmax()), int(found[4].argmax())
    hi = found[3][0].double() + 1
    hi[top] -= 2
    problem = cl.Problem(
        cl.Minimize(cl.norm(x - 0.25, 2)), [x >= -1, x <= 1, z.argmax() == label, ~h.between(-INF, hi.numpy())]
    )
    return problem, top


def solved(problem, point, bound):
    ledger = Ledger(problem.query)
    assert bool(ledger.offer(point, "a test").all())
    ledger.prove(torch.tensor(bound, dtype=torch.float64), Proof.TREE, "a test")
    return conclude(problem, ledger)


def test_relative_gap():
    value = torch.tensor([2.0, -2.0, 0.0, 1e-9, INF, INF, 1.0], dtype=torch.float64)
    bound = torch.tensor([1.0, -3.0, 0.0, 0.0, 0.0, INF, -INF], dtype=torch.float64)
    assert relative_gap(value, bound).tolist() == [0.5, 0.5, 0.0, 0.0, INF, INF, INF]
    nearly = torch.tensor([0.0, 2 * ABSOLUTE_GAP], dtype=torch.float64)
    assert relative_gap(nearly[:1], nearly[1:]).item() > 1


@pytest.mark.parametrize(
    ("value", "bound", "status"),
    [
        (1.0, 0.9995, Status.OPTIMAL),
        (1.0, 0.9, Status.FEASIBLE),
        (1.0, -INF, Status.FEASIBLE),
        (INF, INF, Status.INFEASIBLE),
        (INF, 0.5, Status.BOUND_ONLY),
        (INF, -INF, Status.UNKNOWN),
        (math.nan, 0.5, Status.BOUND_ONLY),
        (1.0, math.nan, Status.FEASIBLE),
    ],
)
def test_status(value, bound, status):
    assert status_of(value, bound, 1e-3) is status


def test_a_single_problem_has_no_leading_axis():
    problem, top = outside_problem()
    value = 0.25 * math.sqrt(6)
    s = solved(problem, feasible_point(), [value / 2])
    assert s.x.shape == (2, 3) and s.x.dtype == torch.float32
    assert isinstance(s.value, float) and s.value == pytest.approx(value)
    assert s.bound == pytest.approx(value / 2) and s.gap == pytest.approx(0.5)
    assert s.status is Status.FEASIBLE and s.proof is Proof.TREE and not s.batched
    assert [type(event.value) for event in s.history] == [float, float]
    assert s.tight[0].startswith(f"through relu1[{top}] >= ")
    text = str(s)
    assert len(text.splitlines()) == 6
    for part in ("FEASIBLE", f"{value:.8g}", "50 %", "1 points checked", s.tight[0], Proof.TREE.value):
        assert part in text
    assert s.versions["torch"] == torch.__version__


def test_a_batch_has_a_leading_axis_everywhere():
    x0 = np.stack([np.full((2, 3), c) for c in (0.25, 0.5, 2.0)])
    problem = cl.Problem(cl.Minimize(cl.norm(x - x0, cl.inf)), [x >= -1, x <= 1])
    ledger = Ledger(problem.query)
    ledger.offer(torch.zeros(1, 2, 3), "a test", torch.tensor([0]))
    ledger.prove(torch.tensor([0.25, 0.1, INF], dtype=torch.float64), Proof.GEOMETRY, "a test")
    s = conclude(problem, ledger)
    assert s.status == [Status.OPTIMAL, Status.BOUND_ONLY, Status.INFEASIBLE]
    assert s.x.shape == (3, 2, 3) and bool(s.x[1:].isnan().all())
    assert s.value.tolist() == [0.25, INF, INF] and s.bound.tolist() == [0.25, 0.1, INF]
    assert s.gap.tolist() == [0.0, INF, INF]
    assert s.history[-1].bound.shape == (3,)
    assert "3 problems: 1 OPTIMAL, 1 INFEASIBLE, 1 BOUND_ONLY" in str(s)
    assert len(str(s).splitlines()) == 5


def test_maximisation_is_in_the_users_sense():
    problem = cl.Problem(cl.Maximize(z[0]), [x >= -1, x <= 1])
    value = float(NET.graph.forward(feasible_point())[4][0, 0])
    s = solved(problem, feasible_point(), [-(abs(value) + 3)])
    assert s.value == pytest.approx(value, abs=1e-5)
    assert s.bound == pytest.approx(abs(value) + 3)
    assert s.history[-1].bound == pytest.approx(abs(value) + 3)
    empty = conclude(problem, Ledger(problem.query))
    assert (empty.value, empty.bound, empty.gap) == (-INF, INF, INF)
    assert empty.status is Status.UNKNOWN and bool(empty.x.isnan().all())
    assert "none" in str(empty) and "open" in str(empty)


@pytest.mark.parametrize("batched", [False, True])
def test_json_has_the_fields_of_the_solution(batched):
    x0 = np.zeros((2, 2, 3)) if batched else np.zeros((2, 3))
    problem = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [x >= -1, x <= 1])
    for ledger in (Ledger(problem.query), Ledger(problem.query)):
        ledger.note("A sentence.")
        found = conclude(problem, ledger).to_dict()
        back = json.loads(json.dumps(found, allow_nan=False))
        assert set(back) == set(Solution.__dataclass_fields__)
        assert back["notes"] == ["A sentence."]
        assert back["value"] == ([None, None] if batched else None)
        assert back["status"] == (["UNKNOWN"] * 2 if batched else "UNKNOWN")
        ledger.offer(torch.full((problem.size, 2, 3), 0.5), "a test")
    assert np.array(conclude(problem, ledger).to_dict()["x"]).shape == ((2, 2, 3) if batched else (2, 3))
    assert "A sentence." in str(conclude(problem, ledger))


def test_a_long_batch_is_cut():
    problem = cl.Problem(cl.Minimize(cl.norm(x - np.zeros((30, 2, 3)), 2)))
    text = str(conclude(problem, Ledger(problem.query)))
    assert "and 10 more" in text and len(text.splitlines()) == 23
