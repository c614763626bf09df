"""Two pieces of any slopes, absolute values among them, are solved exactly by every engine."""

from __future__ import annotations

import pytest
import torch

import clinch as cl
from clinch.network.ops.relu import LeakyReLU
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import dense, network_of


@pytest.mark.parametrize("slope", [-1.0, -0.5, 0.3])
@pytest.mark.parametrize("solver", ["branch_and_bound", "milp", "input_split", "general_split"])
def test_the_optimum_is_that_of_brute_force(slope: float, solver: str):
    rng = torch.Generator().manual_seed(3)
    net = network_of(
        [("fc1", dense(rng, 3, 4), (0,)), ("bent1", LeakyReLU(slope), (1,)), ("fc2", dense(rng, 4, 4), (2,)),
         ("bent2", LeakyReLU(slope), (3,)), ("fc3", dense(rng, 4, 1), (4,))], (3,),
    )  # fmt: skip
    problem = cl.Problem(cl.Minimize(net.output[0]), [net.input >= -1, net.input <= 1])
    exact = brute_force(problem.query)
    solution = problem.solve(solver=solver, time_limit=60)
    assert solution.status is cl.Status.OPTIMAL
    assert float(solution.bound) - 1e-6 <= exact <= float(solution.value) + 1e-6
    assert float(solution.value) <= exact + 2e-3 * (1 + abs(exact))
