"""A limit on one input means the same number, however it is written: for the check of points and for every engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import clinch as cl
from clinch.solver.check_points import check_points


def network(dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).eval().requires_grad_(False).to(dtype)
    return cl.load(model, (2,))


NETS = {dtype: network(dtype) for dtype in (torch.float32, torch.float64)}

#: ways to say x[0] >= t, with something else that never holds where a clause needs company
AT_LEAST = {
    "box": lambda x, t: x[0] >= t,
    "scaled": lambda x, t: 4 * x[0] >= 4 * t,
    "clause": lambda x, t: (x[0] >= t) | (x[0] <= -50),
    "twice": lambda x, t: (x[0] >= t) | (x[0] >= t),
    "scaled clause": lambda x, t: (64 * x[0] >= 64 * t) | (x[0] <= -50),
    "not between": lambda x, t: ~x[:1].between(-50, t, margin=0),
    "not not": lambda x, t: ~~(x[0] >= t),
    "and inside or": lambda x, t: ((x[0] >= t) & (x[1] >= -50)) | (x[0] <= -50),
}
#: here the user's own product is rounded, which a float64 network would see
MULTIPLIED = {
    "by three": lambda x, t: 3 * x[0] >= 3 * t,
    "by 49 in a clause": lambda x, t: (49 * x[0] >= 49 * t) | (x[0] <= -50),
}
EXACTLY = {
    "equal": lambda x, t: x[0] == t,
    "equal in a clause": lambda x, t: (x[0] == t) | (x[0] <= -50),
    "two limits": lambda x, t: (x[0] <= t) & (x[0] >= t),
    "two clauses": lambda x, t: ((x[0] <= t) | (x[0] <= -50)) & ((x[0] >= t) | (x[0] <= -50)),
}
BALL = {
    "ball": lambda e, r: cl.norm(e, cl.inf) <= r,
    "weighted": lambda e, r: cl.norm(2 * e, cl.inf) <= 2 * r,
    "ball in a clause": lambda e, r: (cl.norm(e, cl.inf) <= r) | (e.sum() <= -500),
    "ball twice": lambda e, r: (cl.norm(e, cl.inf) <= r) | (cl.norm(e, cl.inf) <= r),
}
THRESHOLDS = st.one_of(
    st.floats(-2, 2, allow_nan=False),
    st.fractions(-2, 2, max_denominator=60).map(float),
)


def truth(constraint, net, points: torch.Tensor) -> list[bool]:
    x = net.input
    query = cl.Problem(cl.Minimize(net.output[0]), [x >= -4, x <= 4, constraint]).query
    given_ = check_points(query, points, torch.zeros(len(points), dtype=torch.long))
    same = (given_.x == points).flatten(1).all(1)
    return (given_.feasible & same).tolist()


def around(t: float, dtype: torch.dtype) -> torch.Tensor:
    """Inputs whose first element is the number next to t and its four neighbours."""
    values = [torch.tensor(t, dtype=dtype)]
    for way in (torch.inf, -torch.inf):
        for _ in range(2):
            values.append(torch.nextafter(values[-1] if _ else values[0], torch.tensor(way, dtype=dtype)))
    first = torch.stack(values)
    return torch.stack([first, torch.full_like(first, 0.25)], 1)


@pytest.mark.parametrize("dtype", NETS, ids=str)
@given(t=THRESHOLDS)
@settings(max_examples=40)
def test_the_same_points_meet_it(dtype, t):
    net, points = NETS[dtype], around(t, dtype)
    for ways in (AT_LEAST | (MULTIPLIED if dtype == torch.float32 else {}), EXACTLY):
        said = {name: truth(write(net.input, t), net, points) for name, write in ways.items()}
        assert said[next(iter(ways))][0], "the number itself is on its limit"
        assert len({tuple(answer) for answer in said.values()}) == 1, said


@pytest.mark.parametrize("dtype", NETS, ids=str)
@given(center=THRESHOLDS, radius=st.floats(0, 1))
@settings(max_examples=40)
def test_the_same_points_lie_in_a_ball(dtype, center, radius):
    net = NETS[dtype]
    points = torch.cat([around(center + side * radius, dtype) for side in (-1, 1)])
    e = net.input[:1] - np.array([center])
    said = {}
    for name, write in BALL.items():
        try:
            said[name] = truth(write(e, radius), net, points)
        except cl.EmptyRegionError:
            said[name] = [False] * len(points)
    assert len({tuple(answer) for answer in said.values()}) == 1, said


@pytest.mark.parametrize("solver", [None, "branch_and_bound", "input_split", "general_split", "milp"])
@pytest.mark.parametrize("t", [46 / 60, 0.1, -1 / 3])
def test_engines_agree(solver, t):
    net = NETS[torch.float32]
    x, z = net.input, net.output
    box = [x[1] >= 0, x[1] <= 1, x[0] >= -1, x[0] <= 1, x[0] <= t]
    for ways in (AT_LEAST, EXACTLY):
        found = [
            cl.Problem(cl.Minimize(z[0]), [*box, write(x, t)]).solve(time_limit=10, solver=solver)
            for write in ways.values()
        ]
        assert {s.status for s in found} == {cl.Status.OPTIMAL}
        assert max(s.value for s in found) - min(s.value for s in found) <= 1e-5
