"""Big-M for other optimisers: the matrices are the network, the limits hold, HiGHS finds Clinch's optimum with them."""

from types import SimpleNamespace

import highspy
import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.errors import ShapeError, UnsupportedOperator


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)]
    return cl.load(nn.Sequential(*layers).double().eval(), input_shape=(2, 2))


@pytest.fixture(scope="module")
def region():
    zero = torch.zeros(1, 2, 2, dtype=torch.float64)
    return cl.bounds.box(zero - 1, zero + 1)


def test_the_matrices_are_the_network_and_the_limits_hold(net, region, tmp_path):
    layers = cl.bounds.export(net, region, tmp_path / "net.npz")
    assert [layer.relu for layer in layers] == [True, True, False]
    h = 2 * np.random.default_rng(0).random((500, 4)) - 1
    x = torch.as_tensor(h).reshape(-1, 2, 2)
    for layer in layers:
        z = h @ layer.weight.T + layer.bias
        assert (z >= layer.lower - 1e-12).all() and (z <= layer.upper + 1e-12).all()
        h = np.maximum(z, 0) if layer.relu else z
    np.testing.assert_allclose(h, net.graph.forward(x)[net.graph.output], atol=1e-12)
    saved = np.load(tmp_path / "net.npz")
    np.testing.assert_array_equal(saved["upper1"], layers[1].upper)
    wide = cl.bounds.export(net, region, method="interval")
    assert (layers[1].upper <= wide[1].upper).all() and (layers[1].upper < wide[1].upper).any()


def by_highs(layers):
    """The largest first output over [−1, 1]⁴ in HiGHS, and the input."""
    h = highspy.Highs()
    h.silent()
    x = [h.addVariable(lb=-1, ub=1) for _ in range(4)]
    values = x
    for layer in layers:
        rows = zip(layer.weight, layer.bias, layer.lower, layer.upper)
        values, below = [], values
        for weight, bias, low, high in rows:
            z = h.qsum(float(w) * v for w, v in zip(weight, below)) + float(bias)
            if not layer.relu:
                values.append(z)
                continue
            out, a = (
                h.addVariable(lb=0, ub=max(high, 0.0)),
                h.addVariable(lb=0, ub=1, type=highspy.HighsVarType.kInteger),
            )
            h.addConstr(out - z >= 0)
            h.addConstr(out - max(high, 0.0) * a <= 0)
            h.addConstr(out - z - min(low, 0.0) * a <= -min(low, 0.0))
            values.append(out)
    h.maximize(values[0])
    return h.getInfo().objective_function_value, np.array([h.val(v) for v in x]).reshape(2, 2)


def test_highs_finds_the_optimum_and_its_input_is_checked(net, region):
    value, x = by_highs(cl.bounds.export(net, region))
    problem = cl.Problem(cl.Maximize(net.output[0]), [net.input >= -1, net.input <= 1])
    assert value == pytest.approx(problem.solve(time_limit=20, gap=1e-6).value, abs=1e-5)
    found = problem.check(x.clip(-1, 1))
    assert found.feasible and found.value == pytest.approx(value, abs=1e-5) and found.violation <= 0
    outside = problem.check(np.full((2, 2), 1.5))
    assert not outside.feasible and outside.violation == 0.5
    strict = cl.Problem(cl.Maximize(net.output[0]), [net.input >= -1, net.input <= 1, net.output[0] <= value - 0.25])
    assert strict.check(x.clip(-1, 1)).violation == pytest.approx(0.25, abs=1e-5)


def test_variables_of_other_optimisers_take_the_limits(net, region):
    layer = cl.bounds.export(net, region)[0]
    gurobi = [SimpleNamespace(LB=-1e20, UB=1e20) for _ in range(8)]
    layer.tighten(gurobi)
    assert [v.LB for v in gurobi] == layer.lower.tolist()
    seen = {}

    class Pyomo:
        def __init__(self, k):
            self.setlb = lambda low: seen.__setitem__((k, "low"), low)
            self.setub = lambda high: seen.__setitem__((k, "high"), high)

    layer.tighten({k: Pyomo(k) for k in range(8)})
    assert seen[7, "high"] == layer.upper[7] and len(seen) == 16
    with pytest.raises(ShapeError, match="has 8 neurons; these are 2 variables"):
        layer.tighten(gurobi[:2])


def test_what_is_no_chain_of_affine_layers_and_relus_is_named(region):
    smooth = cl.load(nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Tanh()).double().eval(), input_shape=(2, 2))
    with pytest.raises(UnsupportedOperator, match="not part of a chain of affine layers and ReLUs"):
        cl.bounds.export(smooth, region)
    with pytest.raises(ShapeError, match="one region; these are 2"):
        cl.bounds.export(smooth, region.take(torch.tensor([0, 0])))
