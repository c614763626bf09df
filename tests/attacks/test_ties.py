"""What a tie of class scores means: one definition for attacks, problems, the check of points, and studies."""

from __future__ import annotations

import math

import pytest
import torch
from test_conformance import ONE, run
from torch import nn

import clinch as cl
from clinch.query import met
from clinch.solver.check_points import check_points


def tied(scores: list[float]) -> nn.Module:
    """The same scores for every input."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, len(scores))).eval().requires_grad_(False)
    model[1].weight.zero_()
    model[1].bias.copy_(torch.tensor(scores))
    return model


X = torch.full((3, 3, 4), 0.5)


@pytest.mark.parametrize("method", ONE)
def test_attacks_leave_a_tie_alone_as_misclassified(method):
    """Labels 0 and 1 share the largest score, label 2 is behind."""
    found = run(method, tied([1.0, 1.0, 0.0]), X, torch.tensor([0, 1, 2]), method.norms[-1])
    assert bool(found.success.all()) and not found.distance.any() and not found.passes.any()
    assert all("already" in reason for reason in found.reason) and bool((found.loss <= 0).all())


@pytest.mark.parametrize("scores", [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 1.0, 1.0]])
def test_attacks_problems_points_and_studies_agree(scores):
    model, y = tied(scores), torch.tensor([0, 1, 2])
    wrong = torch.tensor([any(scores[k] >= scores[c] for k in range(3) if k != c) for c in range(3)])
    net = cl.load(model, input_shape=(3, 4))
    problem = cl.Problem(
        cl.Minimize(cl.norm(net.input - X, math.inf)),
        [net.input >= 0, net.input <= 1, net.output.argmax(margin=0.0) != y],
    )
    assert torch.equal(check_points(problem.query, X, torch.arange(3)).feasible, wrong)
    assert torch.equal(cl.attacks.pgd(net, X, y, eps=0.1).success, wrong)
    study = cl.study.evaluate(net, (X, y), eps=0.1, time_limit=20)
    assert [row.status == "misclassified" for row in study.rows] == wrong.tolist()
    assert all(row.status == "robust" for row, lost in zip(study.rows, wrong.tolist()) if not lost)


def test_a_target_that_ties_is_reached():
    y, target = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    assert bool(cl.attacks.pgd(tied([1.0, 1.0, 0.0]), X, y, eps=0.1, target=target).success.all())
    assert not bool(cl.attacks.pgd(tied([1.0, 0.5, 0.0]), X, y, eps=0.1, target=target).success.any())


def test_what_is_no_number_holds_never():
    assert met(torch.tensor([-1.0, 0.0, 1.0, math.nan, math.inf])).tolist() == [True, True, False, False, False]
