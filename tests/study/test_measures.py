"""Balda et al.'s measures on results whose numbers are known."""

import math

import pytest
import torch

import clinch as cl
from clinch.attacks.core.result import ALREADY, NOT_FOUND, AttackResult
from clinch.study import eps_99, fooling_ratio, rho1, rho2


def found(distances):
    """A result with these distances: 0 where the input was misclassified as it is, infinity without success."""
    distance = torch.tensor(distances, dtype=torch.float64)
    passes = torch.zeros(len(distances), dtype=torch.int64)
    reason = tuple(ALREADY if d == 0 else NOT_FOUND if d == math.inf else "" for d in distances)
    return AttackResult(
        torch.zeros(len(distances), 1), distance.isfinite(), distance, distance, distance, passes, passes, reason
    )


def test_fooling_ratio_counts_correct_inputs_only():
    result = found([0.0, 0.1, 0.2, 0.4, math.inf])
    assert float(fooling_ratio(result)) == 0.75
    assert fooling_ratio(result, torch.tensor([0.05, 0.1, 0.3, 1.0])).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert float(fooling_ratio(result, 0.2)) == 0.5


def test_rho1_is_relative_to_the_input_and_over_the_fooled():
    x = torch.tensor([[9.0, 9.0], [0.5, 1.0], [4.0, 0.0], [1.0, 1.0]])
    assert rho1(found([0.0, 0.1, 0.2, math.inf]), x) == pytest.approx((0.1 / 1 + 0.2 / 4) / 2)
    assert rho1(found([0.0, 0.1, 0.2, math.inf]), x, 1.0) == pytest.approx((0.1 / 1.5 + 0.2 / 4) / 2)
    assert rho1(found([0.0, math.inf]), x[:2]) == math.inf
    with pytest.raises(cl.ClinchError, match="4 inputs; the attack had 2"):
        rho1(found([0.1, 0.2]), x)


def test_rho2_leaves_out_what_is_misclassified():
    assert rho2(torch.tensor([0.0, 1.0, 3.0])) == 2.0
    with pytest.raises(cl.ClinchError, match="nothing to measure"):
        rho2(torch.zeros(2))


@pytest.mark.parametrize(("count", "share"), [(100, 0.99), (200, 0.99), (1000, 0.99), (100, 0.29), (7, 0.0), (30, 0.5)])
def test_eps_is_the_smallest_that_fools_more_than_the_share(count, share):
    distances = [(i + 1) / count for i in range(count)]
    eps = eps_99(found(distances[::-1]), share)
    fooled = [sum(d <= e for d in distances) for e in distances]
    # whole numbers, so that no rounding decides
    enough = [d for d, n in zip(distances, fooled) if 100 * n > round(100 * share) * count]
    assert eps == pytest.approx(min(enough))


def test_eps_where_too_few_are_fooled_and_bad_arguments():
    assert eps_99(found([0.1, 0.2, math.inf])) == math.inf
    with pytest.raises(cl.ClinchError, match="below 1"):
        eps_99(found([0.1]), 1.0)
    with pytest.raises(cl.ClinchError, match="nothing to measure"):
        fooling_ratio(found([0.0]))
