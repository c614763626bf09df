"""The laws of every registered norm, against a grid of points in the plane; and that a norm with a piece forgotten says
which."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinch.errors import ProblemError
from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import linear_minimum
from clinch.geometry.norms import Norm, norm_of
from clinch.geometry.norms.base import FAMILIES, PIECES, register
from clinch.geometry.norms.taxicab import TaxicabNorm
from clinch.geometry.projection import project
from clinch.geometry.region import Ball

#: users' spellings; every registered family must take one of them
EXAMPLES = [0, 1, 1.1, 1.5, 2, 3, 8.0, math.inf]
CONVEX = [p for p in EXAMPLES if p]
GRID = 101
LAW = settings(max_examples=15, deadline=None)


def test_every_registered_norm_is_looked_at():
    assert {type(norm_of(p)) for p in EXAMPLES} == set(FAMILIES)


class Plane:
    """A box, a centre (inside or outside), a ball and a row in the plane, weights or none; in float64."""

    def __init__(self, seed: int, p: float) -> None:
        generator = torch.Generator().manual_seed(seed)

        def uniform(low: float, high: float) -> torch.Tensor:
            return low + (high - low) * torch.rand(1, 2, generator=generator, dtype=torch.float64)

        self.p, self.center = p, uniform(-1, 1)
        away = uniform(-0.5, 0.5) * (seed % 3 == 0)
        self.lower, self.upper = self.center + away - uniform(0, 1), self.center + away + uniform(0, 1)
        self.row = uniform(-2, 2) * (uniform(0, 1) > 0.1)
        self.weights = None if seed % 2 else uniform(0.5, 2)
        if p == 0 and self.weights is not None:
            self.weights = self.weights[:, :1].expand(1, 2).contiguous()
        if seed % 10 == 8:
            self.weights = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
        self.radius = float(uniform(0.1, 1.2)[0, 0]) if p else float(seed % 3) * self.scale.max().item()
        ends = [
            torch.linspace(float(a), float(b), GRID, dtype=torch.float64) for a, b in zip(self.lower[0], self.upper[0])
        ]
        if p == 0:  # a count changes on two lines
            ends = [torch.cat([e, self.clamped[0, i : i + 1]]) for i, e in enumerate(ends)]
        self.grid = torch.cartesian_prod(*ends)

    @property
    def scale(self) -> torch.Tensor:
        return torch.ones(1, 2, dtype=torch.float64) if self.weights is None else self.weights

    @property
    def clamped(self) -> torch.Tensor:
        return torch.maximum(torch.minimum(self.center, self.upper), self.lower)

    @property
    def ball(self) -> Ball:
        return Ball(self.center, torch.tensor([self.radius], dtype=torch.float64), self.p, self.weights)

    def length(self, x: torch.Tensor) -> torch.Tensor:
        """``‖w ⊙ (x − center)‖_p`` in words of its own."""
        moved = ((x - self.center) * self.scale).abs()
        if self.p == 0:
            return ((moved > 0) * self.scale).sum(1)
        if self.p == math.inf:
            return moved.amax(1)
        return (moved**self.p).sum(1) ** (1 / self.p)

    def holds(self, x: torch.Tensor, slack: float = 1e-9) -> bool:
        return bool(((x >= self.lower - slack) & (x <= self.upper + slack)).all())

    @property
    def step(self) -> float:
        """How far a point of the box is from the grid, per element."""
        return float((self.upper - self.lower).amax()) / (GRID - 1)


SEEDS = st.integers(0, 2**31)


@pytest.mark.parametrize("p", EXAMPLES)
@given(seed=SEEDS)
@LAW
def test_the_linear_minimum_is_a_feasible_point_that_no_other_beats(p, seed):
    case = Plane(seed, p)
    values, points = linear_minimum(case.row[None], case.lower, case.upper, case.ball)
    inside = case.grid[case.length(case.grid) <= case.radius]
    if float(values) == math.inf:
        assert not len(inside)
        return
    point = points[0]
    assert case.holds(point) and float(case.length(point)) <= case.radius * (1 + 1e-6) + 1e-9
    assert float(values) == pytest.approx(float((case.row * point).sum()), abs=1e-6)
    assert not len(inside) or float(values) <= float((inside @ case.row[0]).min()) + 1e-9


@pytest.mark.parametrize("p", EXAMPLES)
@given(seed=SEEDS, share=st.floats(0.05, 0.95))
@LAW
def test_the_half_space_step_is_the_shortest(p, seed, share):
    case = Plane(seed, p)
    values = case.grid @ case.row[0]
    constant = -(share * values.min() + (1 - share) * values.max()).reshape(1)
    found = halfspace_distance(case.row, constant, case.lower, case.upper, case.center, p, case.weights)
    assert case.holds(found.point) and float((case.row * found.point).sum() + constant) <= 1e-8
    assert float(found.distance) == pytest.approx(float(case.length(found.point)), abs=1e-7)
    behind = case.grid[values + constant <= 0]
    assert float(found.distance) <= float(case.length(behind).min()) + 1e-9
    corner = torch.where(case.row > 0, case.lower, case.upper)
    far = -(case.row * corner).sum(1) + 1
    out = halfspace_distance(case.row, far, case.lower, case.upper, case.center, p, case.weights)
    assert float(out.distance) == math.inf and torch.allclose(case.row * out.point, case.row * corner)


@pytest.mark.parametrize("p", EXAMPLES)
@given(seed=SEEDS)
@LAW
def test_the_projection_is_the_nearest_point(p, seed):
    case = Plane(seed, p)
    generator = torch.Generator().manual_seed(seed)
    z = case.center + 4 * torch.rand(1, 2, generator=generator, dtype=torch.float64) - 2
    if float(case.length(case.clamped)) > case.radius:
        return
    point = project(z, case.lower, case.upper, case.ball)
    assert case.holds(point, 0) and bool(case.ball.distance(point) <= case.radius)
    inside = case.grid[case.length(case.grid) <= case.radius]
    nearest = float((inside - z).norm(dim=1).min()) if len(inside) else math.inf
    assert float((point - z).norm()) <= nearest + 1e-7
    assert torch.equal(project(point, case.lower, case.upper, case.ball), point)


@pytest.mark.parametrize("p", CONVEX)
@given(seed=SEEDS)
@LAW
def test_the_dual_is_what_the_steepest_direction_gains(p, seed):
    generator = torch.Generator().manual_seed(seed)
    norm, g = norm_of(p), torch.randn(3, 6, generator=generator, dtype=torch.float64)
    direction = norm.steepest(g)
    assert torch.allclose(norm.of(direction), torch.ones(3, dtype=torch.float64))
    assert torch.allclose((g * direction).sum(1), norm.dual.of(g)) and torch.equal(norm.dual_value(g), norm.dual.of(g))
    other = torch.randn(500, 6, generator=generator, dtype=torch.float64)
    other = other / norm.of(other).unsqueeze(1)
    assert bool((other @ g.T <= norm.dual.of(g) + 1e-9).all())
    assert norm.dual.dual.p == pytest.approx(norm.p)


@pytest.mark.parametrize("p", EXAMPLES)
@given(seed=SEEDS, weight=st.floats(0.05, 2))
@LAW
def test_the_proximal_point_is_beaten_by_no_other(p, seed, weight):
    generator = torch.Generator().manual_seed(seed)
    norm, delta = norm_of(p), torch.randn(1, 4, generator=generator, dtype=torch.float64)
    strength = torch.tensor([weight], dtype=torch.float64)
    point = norm.proximal(delta, strength)

    def cost(u):
        return (u - delta).square().sum(1) / 2 + weight * norm.of(u)

    size = torch.logspace(-4, 0, 400, dtype=torch.float64).unsqueeze(1)
    near = point + size * torch.randn(400, 4, generator=generator, dtype=torch.float64)
    others = torch.cat([near, near * (torch.rand(400, 4, generator=generator) > 0.5), delta, 0 * delta])
    assert bool((cost(point) <= cost(others) + 1e-9).all())


@pytest.mark.parametrize("p", EXAMPLES)
@given(seed=SEEDS)
@LAW
def test_reach_cuts_off_no_point_of_the_ball(p, seed):
    case = Plane(seed, p)
    away = torch.maximum(case.lower - case.center, case.center - case.upper).clamp(min=0)
    reach = norm_of(p).reach(away, torch.tensor([[case.radius]], dtype=torch.float64), case.scale)
    inside = case.grid[case.length(case.grid) <= case.radius]
    assert bool(((inside - case.center).abs() <= reach + 1e-12).all())


@pytest.mark.parametrize(
    "written, p",
    [("l2", 2), ("Linf", math.inf), ("inf", math.inf), ("L0", 0), (2.0, 2), ("l1.5", 1.5), (torch.tensor(3.0), 3)],
)
def test_what_users_write(written, p):
    assert norm_of(written) is norm_of(p) is norm_of(norm_of(p))


@pytest.mark.parametrize("written", ["two", "", None, -1, 0.5, math.nan, -math.inf, [2, 3]])
def test_what_is_no_norm_is_one_line(written):
    with pytest.raises(ProblemError, match=r"is not among the norms\. Write 0, any number from 1 on, or cl\.inf\."):
        norm_of(written)


@pytest.mark.parametrize("piece", PIECES)
def test_a_norm_with_a_piece_forgotten_says_which(piece):
    pieces = {name: vars(TaxicabNorm)[name] for name in PIECES if name != piece}
    with pytest.raises(TypeError, match=f"OwnNorm lacks {PIECES[piece]}. Write its '{piece}'"):
        register(type("OwnNorm", (Norm,), pieces))
    assert all(family.__name__ != "OwnNorm" for family in FAMILIES)


@pytest.mark.parametrize("p", CONVEX)
def test_the_euclidean_length_of_a_ball(p):
    norm = norm_of(p)
    corners = torch.cat([torch.eye(5), torch.ones(1, 5)]).double()
    lengths = (corners / norm.of(corners).unsqueeze(1)).norm(dim=1)
    assert float(norm.euclidean(torch.tensor(1.0), 5)) == pytest.approx(float(lengths.max()))
