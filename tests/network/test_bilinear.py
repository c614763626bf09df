"""Products of activations: planes that are as tight as planes can be, and limits without end."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import clinch as cl
from clinch.network.ops.base import Interval
from clinch.network.ops.bilinear import MatrixProduct, Multiply

ENDS = [-torch.inf, -1e300, -2.0, -0.0, 0.5, 3.0, 1e300, torch.inf]


def one(lower: float, upper: float) -> Interval:
    return Interval(torch.tensor([[lower]], dtype=torch.float64), torch.tensor([[upper]], dtype=torch.float64))


@given(
    ends=st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4),
    place=st.sampled_from([None, -1.0, -0.3, 0.0, 1.0]),
)
@settings(deadline=None, max_examples=60)
def test_planes_hold_and_touch(ends: list[float], place: float | None):
    a, b, c, d = ends
    box = [one(min(a, b), max(a, b)), one(min(c, d), max(c, d))]
    shapes = [(1,), (1,)]
    planes = Multiply().relax(box, shapes) if place is None else Multiply().planes_at(box, shapes, [place])[0]
    x, y = (torch.lerp(i.lower[0], i.upper[0], torch.linspace(0, 1, 9, dtype=torch.float64)) for i in box)
    x, y = torch.meshgrid(x, y, indexing="ij")
    below = planes.lower_x * x + planes.lower_y * y + planes.lower
    above = planes.upper_x * x + planes.upper_y * y + planes.upper
    slack = 1e-13
    assert bool((below <= x * y + slack).all()) and bool((x * y <= above + slack).all())
    if place is None:
        limits = Multiply().interval(*box)
        assert float(below.min()) == pytest.approx(float(limits.lower), abs=1e-12)
        assert float(above.max()) == pytest.approx(float(limits.upper), abs=1e-12)


@pytest.mark.parametrize("op", [Multiply(), MatrixProduct()], ids=["Multiply", "MatrixProduct"])
def test_limits_without_end_give_no_nan(op: Multiply | MatrixProduct):
    pairs = [(a, b) for a in ENDS for b in ENDS if a <= b and not (a == b and abs(a) == torch.inf)]
    low, high = (torch.tensor([p[k] for p in pairs], dtype=torch.float64) for k in (0, 1))
    first, second = (t.flatten() for t in torch.meshgrid(*[torch.arange(len(pairs))] * 2, indexing="ij"))
    box = [Interval(low[k].reshape(-1, 1, 1), high[k].reshape(-1, 1, 1)) for k in (first, second)]
    limits = op.interval(*box)
    assert not bool(limits.lower.isnan().any() | limits.upper.isnan().any())
    assert bool((limits.lower <= limits.upper).all())
    for planes in (op.relax(box, [(1, 1)] * 2), *op.planes_at(box, [(1, 1)] * 2, (-1.0, 1.0))):
        for sign, name in ((1.0, "lower"), (-1.0, "upper")):
            carried, offset = planes.backward(torch.full((len(first), 1, 1, 1), sign, dtype=torch.float64))
            assert all(bool(c.isfinite().all()) for c in carried)
            assert not bool(offset.isnan().any()), name
            for x, y in ((box[0].lower, box[1].upper), (box[0].upper, box[1].lower), (box[0].lower, box[1].lower)):
                at = x.isfinite() & y.isfinite() & (x.abs() + y.abs() < 1e6)
                line = (carried[0][:, 0] * x + carried[1][:, 0] * y).flatten() + offset[:, 0]
                value = (sign * x * y).flatten()
                assert bool((line <= value + 1e-9 * (1 + value.abs()))[at.flatten()].all())


def test_a_half_line_keeps_the_plane_that_exists():
    planes = Multiply().relax([one(0.0, torch.inf), one(1.0, 2.0)], [(1,), (1,)])
    assert (float(planes.lower_x), float(planes.upper_x)) == (1.0, 2.0)
    assert (float(planes.lower), float(planes.upper)) == (0.0, 0.0)


class Gate(nn.Module):
    """Two dense layers of one input, multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        p = self.a(x).view(-1, 2, 3) @ self.b(x).view(-1, 3, 2)
        return self.last((p * torch.sigmoid(p)).flatten(1))


@pytest.fixture(scope="module")
def gate() -> cl.Network:
    torch.manual_seed(3)
    return cl.load(Gate().double().eval(), (3,))


CENTRE = torch.tensor([[0.2, 0.7, 0.4], [0.9, 0.1, 0.6]], dtype=torch.float64)


@pytest.mark.parametrize("radius", [0.01, 0.3, 3.0])
def test_bounds_of_products_are_ordered(gate: cl.Network, radius: float):
    region = cl.bounds.box(CENTRE - radius, CENTRE + radius)
    noise = torch.rand(400, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    points = (CENTRE + radius * torch.cat([noise, noise.sign()])).flatten(0, 1)
    least = gate.graph.forward(points)[gate.graph.output].reshape(-1, 2, 2).amin(0)
    crown, alpha = cl.bounds.crown(gate, region), cl.bounds.alpha_crown(gate, region)
    assert bool((crown <= alpha + 1e-12).all())
    assert bool((alpha <= least + 1e-9).all())
    assert bool((alpha > crown + 1e-9).any())


def test_the_error_goes_with_the_square_of_the_radius(gate: cl.Network):
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    errors = []
    for radius in (0.02, 0.01):
        region = cl.bounds.box(CENTRE - radius, CENTRE + radius)
        points = (CENTRE + radius * corners[:, None]).flatten(0, 1)
        least = gate.graph.forward(points)[gate.graph.output].reshape(-1, 2, 2).amin(0)
        errors.append(float((least - cl.bounds.crown(gate, region)).max()))
    assert errors[0] > 3 * errors[1]
