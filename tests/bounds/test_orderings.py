"""What holds between bounds, always: each <= exact <= any point; with shared limits, each <= LP."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from bound_cases import BOUNDS, DIFFERENTIABLE, NETWORKS, NORMS, WITH_LIMITS, around, inside, squashed, values

import clinch as cl
from clinch.bounds.crown import form_bounds, given_limits, relaxations_from
from clinch.bounds.fast_dual import dual_relaxations
from clinch.errors import (
    ClinchError,
    NonFiniteError,
    ProblemError,
    ShapeError,
    UnboundedInputError,
    UnknownLayer,
    UnsupportedByEngine,
)
from clinch.network.ops.dense import Dense
from clinch.network.ops.relu import LeakyReLU
from clinch.query import Forms
from clinch.testing.networks import ENCODABLE, multilayer, network_of

pytestmark = pytest.mark.table

#: what a proven bound may pass a value of float64 by
ROUNDING = 1e-9


def applicable(name: str, make, p: float) -> bool:
    """The LP takes no ℓ2 ball and no sigmoid."""
    return name != "lp" or (p != 2 and make is not squashed)


def test_every_public_bound_is_in_the_table() -> None:
    """A bound is a public function of (network, region, c): a new one belongs into ``bound_cases.BOUNDS``."""
    public = {
        name
        for name, f in vars(cl.bounds).items()
        if inspect.isfunction(f) and list(inspect.signature(f).parameters)[:3] == ["network", "region", "c"]
    }
    assert public == set(BOUNDS)
    for name, f in BOUNDS.items():
        assert "layer" in inspect.signature(f).parameters, f"{name} bounds the output only"
        limited = "limits" in inspect.signature(f).parameters
        assert limited == (name in (*WITH_LIMITS, "lp"))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("name", BOUNDS)
def test_no_point_lies_below_a_bound(name: str, make, p: float) -> None:
    if not applicable(name, make, p):
        return
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        net = make(rng)
        region = around(rng, net, p)
        points = inside(rng, region, 300)
        for layer in (None, net.layers[2]):
            size = net.graph.nodes[net.graph.output if layer is None else net.position(layer)].size
            c = torch.randn(4, 5, size, generator=rng, dtype=torch.float64)
            bound = BOUNDS[name](net, region, c, layer=layer)
            assert bound.shape == (4, 5) and bound.dtype == torch.float64
            least = values(net, points, c, layer).amin(0)
            assert bool((bound <= least + ROUNDING).all())


@pytest.mark.parametrize("p", [1.0, math.inf])
@pytest.mark.parametrize("make", ENCODABLE)
def test_with_shared_limits_each_is_at_most_lp_and_lp_at_most_exact(make, p: float) -> None:
    rng = torch.Generator().manual_seed(1)
    for _ in range(2):
        net = make(rng)
        region = around(rng, net, p, size=2)
        c = torch.randn(2, 3, 3, generator=rng, dtype=torch.float64)
        limits = cl.bounds.layer_limits(net, region)
        lp = cl.bounds.lp(net, region, c, limits=limits)
        below = {name: BOUNDS[name](net, region, c, limits=limits) for name in WITH_LIMITS}
        below |= {name: BOUNDS[name](net, region, c) for name in ("interval", "crown")}
        for name, bound in below.items():
            assert bool((bound <= lp + 1e-7).all()), name
        assert bool((below["alpha_crown"] >= below["crown"] - ROUNDING).all())
        tight = cl.bounds.alpha_crown(net, region, c)
        for b, r in ((0, 0), (1, 1)):
            exact = exact_minimum(net, region, c, b, r, p)
            assert float(lp[b, r]) <= exact + 1e-6 and float(tight[b, r]) <= exact + 1e-6


def exact_minimum(net: cl.Network, region: cl.bounds.Region, c: torch.Tensor, b: int, r: int, p: float) -> float:
    """By Clinch's exact search, from the same region."""
    x, z = net.input, net.output
    conditions = [x >= region.lower[b], x <= region.upper[b]]
    if region.balls:
        ball = region.balls[0]
        conditions.append(cl.norm(x - ball.center[b], p) <= float(ball.radius[b]))
    problem = cl.Problem(cl.Minimize((z.flatten() * c[b, r]).sum()), conditions)
    s = problem.solve(time_limit=20, gap=1e-7)
    assert s.status is cl.Status.OPTIMAL
    return float(s.value)


def test_alpha_crown_reaches_the_lp_where_the_dual_is_concave() -> None:
    """With one hidden layer the slopes are all there is to choose: the optimum is the LP's."""
    rng = torch.Generator().manual_seed(2)
    shortfall, gain = 0.0, 0.0
    for _ in range(5):
        weights = [torch.randn(a, b, generator=rng, dtype=torch.float64) for a, b in ((12, 5), (3, 12))]
        layers = [("fc1", Dense(weights[0]), (0,)), ("relu", LeakyReLU(), (1,)), ("fc2", Dense(weights[1]), (2,))]
        net = network_of(layers, (5,))
        region = around(rng, net, math.inf)
        lp = cl.bounds.lp(net, region)
        shortfall += float((lp - cl.bounds.alpha_crown(net, region, steps=100)).sum())
        gain += float((lp - cl.bounds.crown(net, region)).sum())
    assert 0 <= shortfall < 0.01 * gain


def test_the_fast_dual_is_that_of_the_paper() -> None:
    """Wong & Kolter's formula written out for a dense network and an unclipped ℓ∞ ball, with the same limits."""
    rng = torch.Generator().manual_seed(3)
    net = multilayer(rng)
    center = torch.randn(1, 3, generator=rng, dtype=torch.float64)
    eps = 0.4
    region = cl.bounds.ball(center, eps, math.inf)
    limits = cl.bounds.layer_limits(net, region, method="fast_dual")
    ops = [net.graph.nodes[net.position(f"fc{k}")].op for k in (1, 2, 3)]
    c = torch.randn(1, 3, generator=rng, dtype=torch.float64)
    nu = -c[0]
    total = -torch.dot(nu, ops[2].bias)
    for k in (1, 0):
        lower, upper = limits[f"fc{k + 1}"].lower[0], limits[f"fc{k + 1}"].upper[0]
        hat = ops[k + 1].weight.T @ nu
        is_open = (lower < 0) & (upper > 0)
        d = torch.where(is_open, upper / (upper - lower), (lower >= 0).double())
        nu = d * hat
        total = total + (lower * nu.clamp(min=0))[is_open].sum() - torch.dot(nu, ops[k].bias)
    hat = ops[0].weight.T @ nu
    total = total - torch.dot(center[0], hat) - eps * hat.abs().sum()
    found = cl.bounds.fast_dual(net, region, c)
    torch.testing.assert_close(found[0, 0], total)


@pytest.mark.parametrize("method", ["interval", "fast_dual", "crown", "alpha_crown"])
@pytest.mark.parametrize("make", NETWORKS)
def test_limits_of_layers_hold(method: str, make) -> None:
    rng = torch.Generator().manual_seed(4)
    net = make(rng)
    region = around(rng, net, 2.0)
    points = inside(rng, region, 200)
    for limits in (
        cl.bounds.layer_limits(net, region, method=method),
        cl.bounds.layer_limits(net, region, [net.layers[2], net.layers[-1], "input"], method=method),
    ):
        for name, (lower, upper) in limits.items():
            node = net.position(name)
            at = torch.stack([net.graph.forward(x, [node])[node] for x in points])
            assert bool((at >= lower - ROUNDING).all() and (at <= upper + ROUNDING).all()), name


def test_given_limits_are_those_that_are_used() -> None:
    rng = torch.Generator().manual_seed(5)
    net = multilayer(rng)
    region = around(rng, net, math.inf)
    limits = cl.bounds.layer_limits(net, region, method="interval")
    forms = Forms({net.graph.output: torch.eye(3, dtype=torch.float64)[None]}, torch.zeros(4, 3, dtype=torch.float64))
    held = given_limits(net.graph, region, forms.nodes, limits)
    crown = form_bounds(net.graph, forms, region, relaxations_from(net.graph, held, forms.nodes))
    torch.testing.assert_close(cl.bounds.alpha_crown(net, region, limits=limits, steps=1), crown)
    dual = form_bounds(net.graph, forms, region, dual_relaxations(net.graph, held, forms.nodes))
    torch.testing.assert_close(cl.bounds.fast_dual(net, region, limits=limits), dual)
    assert bool((cl.bounds.lp(net, region, limits=limits) <= cl.bounds.lp(net, region) + 1e-7).all())


def test_a_solver_that_lies_makes_no_false_lp_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from clinch.backends import highs

    rng = torch.Generator().manual_seed(6)
    net = multilayer(rng)
    region = around(rng, net, math.inf)
    crown, honest = cl.bounds.crown(net, region), cl.bounds.lp(net, region)
    solve = highs.HighsModel.solve

    def lying(self, **options):
        found = solve(self, **options)
        duals = None if found.duals is None else -3 * found.duals
        return highs.Outcome("optimal", found.point, duals, None, 1e9, 1e9)

    monkeypatch.setattr(highs.HighsModel, "solve", lying)
    told = cl.bounds.lp(net, region)
    assert bool((told >= crown - ROUNDING).all() and (told <= honest + ROUNDING).all())


@pytest.mark.parametrize("name", BOUNDS)
def test_bad_input_is_one_clear_line(name: str) -> None:
    net = multilayer(torch.Generator().manual_seed(0))
    region = cl.bounds.box(torch.zeros(2, 3), torch.ones(2, 3))
    bound = BOUNDS[name]
    cases: list[tuple[type[ClinchError], str, tuple, dict]] = [
        (ShapeError, "c has shape", (net, region, torch.ones(2, 5)), {}),
        (ShapeError, "The region has inputs", (net, cl.bounds.box(torch.zeros(2, 4), torch.ones(2, 4))), {}),
        (NonFiniteError, "c contains NaN", (net, region, torch.full((1, 3), math.nan)), {}),
        (UnknownLayer, "There is no layer 'nowhere'", (net, region), {"layer": "nowhere"}),
    ]
    if name in (*WITH_LIMITS, "lp"):
        good = cl.bounds.layer_limits(net, region)
        short = {"fc1": good["fc1"]}
        wrong = good | {"fc2": cl.bounds.Interval(torch.zeros(2, 3), torch.zeros(2, 3))}
        unknown = good | {"fc2": cl.bounds.Interval(torch.full((2, 4), math.nan), torch.zeros(2, 4))}
        cases += [
            (ProblemError, "limits has none for layer 'fc2'", (net, region), {"limits": short}),
            (ShapeError, "The limits of layer 'fc2' have shapes", (net, region), {"limits": wrong}),
            (NonFiniteError, "The limits of layer 'fc2' contain NaN", (net, region), {"limits": unknown}),
        ]
    if name == "lp":
        open_ = cl.bounds.box(torch.full((1, 3), -math.inf), torch.ones(1, 3))
        round_ = cl.bounds.ball(torch.zeros(1, 3), 1.0, 2)
        cases += [
            (UnsupportedByEngine, "An ℓ2 ball is not linear", (net, round_), {}),
            (UnboundedInputError, "finite limits of every input", (net, open_), {}),
            (ProblemError, "limits is 'best'", (net, region), {"limits": "best"}),
        ]
    for error, text, arguments, options in cases:
        with pytest.raises(error) as caught:
            bound(*arguments, **options)
        assert str(caught.value).startswith(text) or text in str(caught.value)
        assert "\n" not in str(caught.value)


def test_bad_limit_requests() -> None:
    net = multilayer(torch.Generator().manual_seed(0))
    region = cl.bounds.box(torch.zeros(1, 3), torch.ones(1, 3))
    with pytest.raises(ProblemError, match="choose one of interval, fast_dual"):
        cl.bounds.layer_limits(net, region, method="exact")
    with pytest.raises(ProblemError, match="layers is the text 'fc1'"):
        cl.bounds.layer_limits(net, region, "fc1")
    with pytest.raises(UnknownLayer, match="no layer 'fc9'"):
        cl.bounds.layer_limits(net, region, ["fc9"])
    with pytest.raises(ShapeError, match="The region has inputs"):
        cl.bounds.layer_limits(net, cl.bounds.box(torch.zeros(1, 2), torch.ones(1, 2)))


def test_the_table_says_which_bounds_are_differentiable() -> None:
    net = cl.load(
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)).eval(), (3,), live=True
    )
    region = cl.bounds.box(torch.zeros(1, 3), torch.ones(1, 3))
    for name, bound in BOUNDS.items():
        assert bound(net, region).requires_grad == (name in DIFFERENTIABLE)
