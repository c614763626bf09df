"""Engines that lie: whatever they report, the ledger and the status stay true."""

from __future__ import annotations

import math

import pytest
import torch
from problems import other_class

import clinch as cl
from clinch.errors import UnsoundResult
from clinch.search.engines import ENGINES
from clinch.search.part_bounding import PartBounder
from clinch.solver.ledger import Ledger
from clinch.solver.solution import Proof, Status
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import multilayer


@pytest.fixture
def problem():
    rng = torch.Generator().manual_seed(3)
    return other_class(multilayer(rng), rng, 2.0)


def solve_with(problem, monkeypatch, *engines):
    """Run fake engines one after the other in place of Clinch's own."""

    def all_of_them(query, ledger, seed, settings):
        for engine in engines:
            engine(query, ledger)

    monkeypatch.setattr(ENGINES["attack"], "run", all_of_them)
    return problem.solve(time_limit=5, solver="attack")


def honest_point(problem) -> torch.Tensor:
    return problem.solve(time_limit=10).x.unsqueeze(0)


def test_an_infeasible_point_is_rejected(problem, monkeypatch):
    def liar(query, ledger):
        accepted = ledger.offer(query.objective.center, "liar")
        assert not accepted.any()

    assert solve_with(problem, monkeypatch, liar).status is Status.UNKNOWN


def test_a_point_outside_the_box_counts_only_where_it_is_clipped_to(problem, monkeypatch):
    solution = solve_with(problem, monkeypatch, lambda q, ledger: ledger.offer(q.objective.center + 50.0, "liar"))
    if solution.x is not None and math.isfinite(solution.value):
        assert float(solution.x.abs().max()) <= 1.0


def test_a_point_of_nan_is_rejected(problem, monkeypatch):
    solution = solve_with(problem, monkeypatch, lambda q, ledger: ledger.offer(q.objective.center * math.nan, "liar"))
    assert solution.status is Status.UNKNOWN


def test_a_bound_above_a_known_value_raises_and_names_both(problem, monkeypatch):
    point = honest_point(problem)

    def liar(query, ledger):
        ledger.offer(point, "honest attack")
        ledger.prove(torch.tensor([10.0], dtype=torch.float64), Proof.TREE, "lying bound")

    with pytest.raises(UnsoundResult, match=r"lying bound.*honest attack"):
        solve_with(problem, monkeypatch, liar)


def test_a_value_below_a_claimed_bound_raises(problem, monkeypatch):
    point = honest_point(problem)

    def liar(query, ledger):
        ledger.prove(torch.tensor([10.0], dtype=torch.float64), Proof.INTERVAL, "lying bound")
        ledger.offer(point, "honest attack")

    with pytest.raises(UnsoundResult, match="honest attack"):
        solve_with(problem, monkeypatch, liar)


def test_a_false_claim_of_infeasibility_raises(problem, monkeypatch):
    point = honest_point(problem)

    def liar(query, ledger):
        ledger.prove(torch.tensor([math.inf], dtype=torch.float64), Proof.TREE, "lying bound")
        ledger.offer(point, "honest attack")

    with pytest.raises(UnsoundResult):
        solve_with(problem, monkeypatch, liar)


def test_nan_proves_nothing(problem, monkeypatch):
    solution = solve_with(
        problem,
        monkeypatch,
        lambda q, ledger: ledger.prove(torch.tensor([math.nan], dtype=torch.float64), Proof.TREE, "liar"),
    )
    assert solution.status is Status.UNKNOWN


def test_a_bound_that_was_rounded_to_a_narrower_type_is_refused(problem):
    ledger = Ledger(problem.query)
    with pytest.raises(UnsoundResult, match=r"bounds as torch\.float32"):
        ledger.prove(torch.tensor([0.1]), Proof.TREE, "liar")
    assert float(ledger.bound) == -math.inf


def test_a_bound_without_a_proof_is_refused(problem):
    ledger = Ledger(problem.query)
    with pytest.raises(UnsoundResult, match="without a proof"):
        ledger.prove(torch.tensor([0.1], dtype=torch.float64), "trust me", "liar")  # type: ignore[arg-type]
    assert float(ledger.bound) == -math.inf


def test_stopping_early_is_not_optimal(problem, monkeypatch):
    point = honest_point(problem)
    exact = float(brute_force(problem.query))

    def lazy(query, ledger):
        ledger.offer(point, "attack")
        ledger.prove(torch.tensor([0.5 * exact], dtype=torch.float64), Proof.LINEAR_RELAXATION, "bound")

    solution = solve_with(problem, monkeypatch, lazy)
    assert solution.status is Status.FEASIBLE
    assert solution.gap > 0.4


def test_a_weaker_report_changes_nothing(problem):
    point = honest_point(problem)
    ledger = Ledger(problem.query)
    ledger.offer(point, "attack")
    value = ledger.value.clone()
    ledger.prove(0.2 * value, Proof.TREE, "first")
    ledger.prove(0.1 * value, Proof.TREE, "second")
    assert float(ledger.bound) == float(0.2 * value)
    corner = torch.ones_like(point)
    ledger.offer(corner, "attack")
    assert bool((ledger.value <= value).all())


@pytest.mark.parametrize("p", [None, 2])
def test_a_general_split_that_lies_about_its_parts_is_found_out_or_has_no_certificate(monkeypatch, p):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Hardswish(), torch.nn.Linear(4, 1)).eval()
    net = cl.load(model, input_shape=(2,))
    conditions = [net.input.between(-1, 1)]
    if p is None:
        asked = cl.Problem(cl.Minimize(net.output[0]), conditions)
    else:
        least = net.output[0] >= float(model(torch.zeros(1, 2)).detach()) + 0.1
        asked = cl.Problem(cl.Minimize(cl.norm(net.input, p=p)), [*conditions, least])
    honest, bound = asked.solve(time_limit=20, solver="general_split"), PartBounder.bound

    def lying(self, nodes, fresh):
        found = bound(self, nodes, fresh)
        found.nodes.bound.add_(0.05)
        return found

    monkeypatch.setattr(PartBounder, "bound", lying)
    try:
        proof = asked.solve(time_limit=3, solver="general_split", certificate=True).certificate
    except UnsoundResult:
        return
    assert proof is None or proof.report.bound <= float(honest.value)
