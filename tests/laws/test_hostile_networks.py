"""Networks made to mislead a verifier: large weights, cancelling terms, overflow, -0.0, denormals, twins, dead layers.

Verifiers have called such networks robust that are not (Zombori et al. 2021, "Fooling a complete neural network
verifier"; Jia & Rinard 2021, arXiv 2003.03021). Here an answer must be right or an honest "unknown": the bound lies
below every value of the network at sampled inputs, the value is reached by the user's own model, and where the
enumeration of linear pieces is exact enough both agree with it.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import clinch as cl
from clinch.errors import BackendError, ClinchError, NetworkError
from clinch.solver.solution import Status
from clinch.testing.brute_force import brute_force


def network(*layers: tuple[list, list], last_relu: bool = False, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Dense layers with ReLUs between them from weights and biases."""
    parts: list[nn.Module] = []
    for weight, bias in layers:
        w, b = torch.tensor(weight, dtype=torch.float64).to(dtype), torch.tensor(bias, dtype=torch.float64).to(dtype)
        layer = nn.Linear(w.shape[1], w.shape[0], dtype=dtype)
        layer.weight.data, layer.bias.data = w, b
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*(parts if last_relu else parts[:-1])).eval()


def cancelling(large: float) -> nn.Sequential:
    """Two hidden neurons of size ``large`` whose difference is the first input, which float32 loses."""
    return network(([[1.0, 0.0], [0.0, 0.0]], [large, large]), ([[1.0, -1.0], [-1.0, 1.0]], [0.0, 0.5]))


def switch(large: float) -> nn.Sequential:
    """A hidden path that only an absorbed term switches on: x0 + large - large is 0 or x0, by the order of the sum."""
    hidden = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [0.0, 0.0, large]
    mixed = [[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]], [-large, -large]
    return network(hidden, mixed, ([[1.0, 1.0], [-1.0, 0.5]], [0.0, 0.1]))


#: weights and biases of the layers; a single pair of layers where the third is missing
LAYERS: dict[str, list] = {
    "large weights": [([[1e8, -1e8], [1e8, 1e8]], [1, -1]), ([[1e-8, 1e-8], [-1e-8, 1e-8]], [0, 0.5])],
    "weights of very different size": [
        ([[1e15, 1e-15], [1e-15, 1e15]], [0, 1e-20]),
        ([[1e-15, -1e15], [1e15, 1e-15]], [0, 0]),
    ],
    "weights beyond what a solver takes": [
        ([[1e15, 1e15], [-1e15, 1e15]], [0, 0]),
        ([[1e15, -1e15], [1e15, 1]], [0, 0]),
    ],
    "overflow of float32": [([[1e20, 1e20], [-1e20, 1e20]], [0, 0]), ([[1e20, -1e20], [1e20, 1]], [0, 0])],
    "negative zeros": [([[-0.0, 1], [-0.0, -0.0]], [-0.0, -0.0]), ([[1, -0.0], [-1, -0.0]], [-0.0, -0.0])],
    "denormals": [([[1e-40, -1e-42], [1e-39, 1e-45]], [1e-41, 0]), ([[1e20, -1e20], [1e19, 1e19]], [0, 1e-21])],
    "denormals throughout": [([[1e-30, 0], [0, 1e-30]], [0, 0]), ([[1e-12, -1e-12], [-1e-12, 1e-12]], [0, 0])],
    "duplicate neurons": [([[1, -2], [1, -2], [1, -2]], [0.1, 0.1, 0.1]), ([[1, 1, -2], [2, -1, -1]], [0, 0.2])],
    "twins of opposite sign": [([[1, 1], [-1, -1]], [0, 0]), ([[1, -1], [1, 1]], [0, 0])],
    "a dead layer": [
        ([[1, 1], [1, -1]], [-5, -5]),
        ([[1, 1], [1, 1]], [0, 0]),
        ([[1, 2], [3, 4]], [0.5, 0.25]),
    ],
    "all weights zero": [([[0, 0], [0, 0]], [0, 0]), ([[0, 0], [0, 0]], [0, 0])],
    "a kink at the corner": [([[1, 1], [1, 1]], [-2, 0]), ([[1, -1], [-1, 1]], [0, 0])],
}
MODELS = {name: lambda layers=layers: network(*layers) for name, layers in LAYERS.items()} | {
    "cancelling terms": lambda: cancelling(2.0**30),
    "cancelling in float64 too": lambda: cancelling(2.0**70),
    "a hidden switch": lambda: switch(2.0**26),
    "a hidden switch beyond float64": lambda: switch(2.0**60),
    "relu at the end": lambda: network(([[1, -1], [0.5, 1]], [-3, 0]), last_relu=True),
}


def grid(points: int = 41) -> Tensor:
    """The box [-1, 1]² densely, its corners and axes among the points, with both zeros."""
    line = torch.linspace(-1, 1, points)
    inputs = torch.cartesian_prod(line, line)
    return torch.cat([inputs, torch.tensor([[0.0, -0.0], [-0.0, 0.0], [1e-45, -1e-45]])])


def margin(net, x: Tensor) -> Tensor:
    """``z_0 - z_1`` as the user's own model computes it, in float64 after that."""
    out = net.original(x, [net.layers[-1]])[net.layers[-1]].double()
    return out[:, 0] - out[:, 1]


def loaded(name):
    """The network; None where its own arithmetic overflows, which is told when it is loaded."""
    try:
        return cl.load(MODELS[name](), input_shape=(2,))
    except NetworkError as error:
        assert name == "overflow of float32" and "overflows" in str(error)
        return None


def solved(problem, engine):
    """A solution, or None where the engine refuses the problem with a typed error."""
    try:
        return problem.solve(solver=engine, time_limit=0.5, gap=1e-4)
    except ClinchError as error:
        # a contradiction between point and bound is a defect here, never an answer
        assert "claims that no input is better" not in str(error), error
        return None


def scale(problem, x: Tensor) -> float:
    """Size of what is added up, in whose rounding the model's own arithmetic and real numbers differ."""
    graph = problem.query.graph
    largest, size = x.double(), 1.0
    for node in graph.nodes[1:]:
        largest = node.op.forward(largest)
        size = max(size, float(largest.abs().max()))
        weight = getattr(node.op, "weight", None)
        if weight is not None:
            size = max(size, float(weight.abs().max()))
    return size


@pytest.mark.parametrize("engine", [None, "bounds", "branch_and_bound", "milp", "input_split", "general_split"])
@pytest.mark.parametrize("name", MODELS)
def test_the_smallest_margin_is_right_or_unknown(name, engine):
    net = loaded(name)
    if net is None:
        return
    problem = cl.Problem(cl.Minimize(net.output[0] - net.output[1]), [net.input >= -1, net.input <= 1])
    solution = solved(problem, engine)
    if solution is None:
        return
    assert not math.isnan(solution.value) and not math.isnan(solution.bound)
    assert solution.status is not Status.INFEASIBLE
    graph = problem.query.graph
    exact_values = graph.forward(grid().double())[graph.output]
    real = exact_values[:, 0] - exact_values[:, 1]
    # bounds are statements about the graph in float64: no sampled input lies below, but for float64's own rounding
    finite = real[real.isfinite()]
    rounding = 1e-13 * scale(problem, grid())
    assert solution.bound <= float(finite.min()) + rounding
    if math.isfinite(solution.value):
        theirs = float(margin(net, solution.x.unsqueeze(0)))
        assert solution.value >= theirs or solution.value == pytest.approx(theirs, rel=1e-12)
        assert solution.bound <= solution.value
    if solution.status is Status.OPTIMAL:
        try:
            exact = brute_force(problem.query)
        except BackendError:
            return  # coefficients that the reference's linear programs do not take
        size = max(1.0, abs(exact))
        assert solution.bound <= exact + 1e-6 * size + rounding
        assert solution.value >= exact - 1e-6 * size - rounding


@pytest.mark.parametrize("name", MODELS)
def test_a_class_is_never_proven_where_the_model_says_otherwise(name):
    """Which sampled inputs the model itself, in float32, gives the other class: that must not be called impossible
    unless real numbers disagree with float32 there, in which case the point is not counted either."""
    net = loaded(name)
    if net is None:
        return
    problem = cl.Problem(cl.Minimize(0), [net.input >= -1, net.input <= 1, net.output[0] <= net.output[1] - 1e-3])
    solution = solved(problem, None)
    if solution is None:
        return
    inputs = grid()
    graph = problem.query.graph
    out = graph.forward(inputs.double())[graph.output]
    both = (margin(net, inputs) <= -1e-3) & (out[:, 0] - out[:, 1] <= -1e-3)
    if bool(both.any()):
        assert solution.status is not Status.INFEASIBLE, inputs[both][0]
    if solution.status in (Status.OPTIMAL, Status.FEASIBLE):
        # value is the constant; the point meets the condition in the user's own arithmetic
        assert float(margin(net, solution.x.unsqueeze(0))) <= -1e-3


def test_weights_beyond_what_a_solver_takes_are_told_with_what_takes_them():
    net = loaded("weights beyond what a solver takes")
    problem = cl.Problem(cl.Minimize(net.output[0] - net.output[1]), [net.input >= -1, net.input <= 1])
    with pytest.raises(BackendError, match=r"2e\+15 is beyond what HiGHS takes.*branch_and_bound") as caught:
        problem.solve(solver="milp")
    assert "\n" not in str(caught.value)
    assert problem.solve(time_limit=5).status is Status.OPTIMAL
