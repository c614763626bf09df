"""Time limits, by a clock that counts work: however long a layer takes, a call ends within 3 % of its limit.

Seconds are numbers moved and multiplied by torch, so that the same call takes the same time on every machine. The
network is made so large, and the limits so short, that the time ends in the middle of what each engine does.
"""

from __future__ import annotations

import pytest
import torch
from work_clock import counted

import clinch as cl
from clinch.network.ops.relu import LeakyReLU
from clinch.search.engines import ENGINES
from clinch.testing.networks import dense, network_of

#: how much later than asked a call may end
LATE = 0.03


@pytest.fixture(scope="module")
def net():
    rng = torch.Generator().manual_seed(0)
    width, layers = 64, [("fc0", dense(rng, 64, 64), (0,))]
    for k in range(1, 4):
        layers += [
            (f"relu{k}", LeakyReLU(), (2 * k - 1,)),
            (f"fc{k}", dense(rng, width, width if k < 3 else 10), (2 * k,)),
        ]
    return network_of(layers, (64,))


def problem_of(net, kind: str) -> cl.Problem:
    x0 = torch.linspace(0, 1, 64, dtype=torch.float64)
    box = [net.input >= 0, net.input <= 1, cl.norm(net.input - x0, cl.inf) <= 0.4]
    if kind == "linear":
        return cl.Problem(cl.Minimize(net.output[0] - net.output[1]), box)
    if kind == "batch":
        many = x0 + torch.linspace(0, 0.1, 40, dtype=torch.float64)[:, None]
        return cl.Problem(
            cl.Minimize(net.output[0]), [net.input >= 0, net.input <= 1, cl.norm(net.input - many, cl.inf) <= 0.2]
        )
    out = net.graph.forward(x0.unsqueeze(0))[net.graph.output][0]
    p = {"distance": cl.inf, "euclidean": 2, "count": 0}[kind]
    return cl.Problem(cl.Minimize(cl.norm(net.input - x0, p)), [*box, net.output.argmax() != int(out.argmax())])


CASES = [
    (None, "linear"), (None, "batch"), ("attack", "distance"), ("bounds", "batch"), ("milp", "linear"),
    ("branch_and_bound", "linear"), ("branch_and_bound", "batch"), ("input_split", "linear"),
    ("general_split", "linear"), ("count", "count"),
]  # fmt: skip


@pytest.mark.parametrize("seconds", [1.0])
@pytest.mark.parametrize(("solver", "kind"), CASES)
def test_of_every_engine(solver, kind, seconds, net, monkeypatch):
    problem = problem_of(net, kind)
    with counted(monkeypatch) as clock:
        solution = problem.solve(time_limit=seconds, solver=solver)
        print(clock.now, clock.longest, len(solution.history))
        assert clock.now <= (1 + LATE) * seconds
    if kind == "linear" and (solver is None or ENGINES[solver].proves):
        assert bool(torch.isfinite(torch.as_tensor(solution.bound)).all()), "a bound that needs little is there"
