"""Regions state exactly what was asked for."""

import pytest
import torch

import clinch as cl


@pytest.mark.parametrize("norm", [1, 2, cl.inf])
def test_numbers_keep_all_their_digits(norm):
    """A radius that went through float32 would state a smaller ball than was asked for."""
    region = cl.bounds.ball(torch.zeros(1, 2), 0.7, norm, lower=-0.7, upper=[[0.1, 0.7]])
    assert region.lower.tolist() == [[-0.7, -0.7]] and region.upper.tolist() == [[0.1, 0.7]]
    assert all(ball.radius.tolist() == [0.7] for ball in region.balls)
