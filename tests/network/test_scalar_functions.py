"""Laws of functions of one number: each states f, f′ and its turns, and everything that follows must hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinch.network.ops.base import Interval
from clinch.network.ops.elementwise import ScalarFunction, _Gap
from clinch.network.ops.s_shaped import SShaped

from .operator_specimens import leaf_operators
from .scalar_functions import FUNCTIONS, points_of

NAMES = sorted(FUNCTIONS)
seeds, dtypes = st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64])
#: how wide limits are, relative to the range that a function is looked at in
SHARES = torch.tensor([1e-6, 0.03, 0.3, 1.0], dtype=torch.float64)
COUNT = 48


def drawn(name: str, seed: int, dtype: torch.dtype) -> tuple[ScalarFunction, Interval]:
    """The function and limits ``(COUNT, 1)``: pairs of points of its range, some of them close; one at every turn."""
    op, low, high = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(seed)
    first, second = low + (high - low) * torch.rand(2, COUNT, 1, generator=generator, dtype=torch.float64)
    turns = torch.tensor(op.turns(), dtype=torch.float64).clamp(low, high).unsqueeze(1)
    first[: len(turns)] = turns
    second = torch.lerp(first, second, SHARES.repeat(COUNT // 4).unsqueeze(1))
    return op, Interval(torch.minimum(first, second).to(dtype), torch.maximum(first, second).to(dtype))


def slack(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Roundings of a function itself where it is compared in float64, for each pair of limits."""
    return 4 * torch.finfo(dtype).eps * (1 + values.abs().amax(0))


def test_every_function_is_looked_at():
    missing = {kind for kind in leaf_operators() if issubclass(kind, ScalarFunction)}
    missing -= {type(op) for op, _, _ in FUNCTIONS.values()}
    assert not missing, f"give {sorted(kind.__name__ for kind in missing)} a row in scalar_functions.py"


@pytest.mark.parametrize("name", NAMES)
def test_the_derivative_is_that_of_the_function(name: str):
    op, low, high = FUNCTIONS[name]
    x = torch.linspace(low + 1e-4, high - 1e-4, 997, dtype=torch.float64)
    x = x[(x[:, None] - torch.tensor([*op.turns(), 1e9])).abs().amin(1) > 1e-6].requires_grad_()
    (slope,) = torch.autograd.grad(op.forward(x).sum(), x)
    torch.testing.assert_close(op.derivative(x.detach()), slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_derivative_turns_only_where_it_says(name: str):
    """A forgotten turn shows here, with the place where the derivative turns."""
    op, low, high = FUNCTIONS[name]
    high = min(high, low + 9) if name in ("sin", "cos") else high  # as many inflections as are looked at
    pieces = op.pieces(torch.tensor([[float(low)]]).double(), torch.tensor([[float(high)]]).double())
    convex = pieces.convex.expand(pieces.start.shape)
    for start, stop, rising in zip(pieces.start.flatten(), pieces.stop.flatten(), convex.flatten()):
        x = torch.lerp(start, stop, torch.linspace(1e-9, 1 - 1e-9, 2001, dtype=torch.float64))
        steps = op.derivative(x).diff() * (1 if rising else -1)
        wrong = steps < -1e-9 * (1 + op.derivative(x)[1:].abs())
        assert not bool(wrong.any()), f"turns() of {name} lacks one near {float(x[1:][wrong][0]):.4f}"


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=4)
@given(seed=seeds, dtype=dtypes)
def test_lines_enclose_the_function(name: str, seed: int, dtype: torch.dtype):
    op, box = drawn(name, seed, dtype)
    x = points_of(op, *box)
    y = op.forward(x)
    for lines in (op.relax([box], [(1,)]), *op.lines_at(box, (0.0, 0.3, 1.0))):
        low, low_at, high, high_at = (t.double() for t in lines)
        assert bool((low * x + low_at <= y + slack(y, dtype)).all())
        assert bool((high * x + high_at >= y - slack(y, dtype)).all())


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=4)
@given(seed=seeds, dtype=dtypes)
def test_every_slope_gives_a_tight_line(name: str, seed: int, dtype: torch.dtype):
    op, box = drawn(name, seed, dtype)
    slope = torch.linspace(-3, 3, COUNT, dtype=dtype).unsqueeze(1)[torch.randperm(COUNT)]
    pieces = op.pieces(*box)
    least, most = (extreme.value.double() for extreme in _Gap(op, pieces).extremes(slope.expand(2, -1, -1)))
    x = points_of(op, *box)
    rest = op.forward(x) - slope.double() * x
    room = slack(slope.double() * x, dtype) + slack(op.forward(x), dtype)
    known = torch.ones_like(least, dtype=torch.bool) if pieces.complete is None else pieces.complete
    assert bool((least <= rest.amin(0) + room)[known].all())
    assert bool((most >= rest.amax(0) - room)[known].all())
    if not op.jumps():
        span = 20 * room + 1e-2 * (rest.amax(0) - rest.amin(0))
        assert bool((least >= rest.amin(0) - span)[known].all())
        assert bool((most <= rest.amax(0) + span)[known].all())


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=4)
@given(seed=seeds, dtype=dtypes)
def test_intervals_enclose_and_are_tight(name: str, seed: int, dtype: torch.dtype):
    op, box = drawn(name, seed, dtype)
    y = op.forward(points_of(op, *box))
    room = slack(y, dtype)
    low, high = (t.double() for t in op.interval(box))
    assert bool((low <= y.amin(0) + room).all() & (high >= y.amax(0) - room).all())
    tight = 20 * room + 1e-4 * (y.amax(0) - y.amin(0))
    assert bool((low >= y.amin(0) - tight).all() & (high <= y.amax(0) + tight).all())


@pytest.mark.parametrize("name", [n for n in NAMES if not FUNCTIONS[n][0].jumps()])
@settings(deadline=None, max_examples=2)
@given(seed=seeds)
def test_lines_are_the_best_at_the_middle(name: str, seed: int):
    """Nothing sound is nearer: at the middle the upper line meets the concave envelope, the lower one the convex."""
    op, box = drawn(name, seed, torch.float64)
    pieces = op.pieces(*box)
    if pieces.complete is not None:
        box = Interval(*(t[pieces.complete].unsqueeze(1) for t in box))
    low, low_at, high, high_at = op.relax([box], [(1,)])
    middle = (box.lower + box.upper) / 2
    left = torch.lerp(box.lower, middle, torch.linspace(0, 1, 201, dtype=torch.float64).reshape(-1, 1, 1))
    right = torch.lerp(middle, box.upper, torch.linspace(0, 1, 201, dtype=torch.float64).reshape(-1, 1, 1))
    width = (right[None] - left[:, None]).clamp(min=1e-300)
    at = ((middle - left[:, None]) / width).clamp(0, 1)
    chords = torch.lerp(op.forward(left)[:, None], op.forward(right)[None], at).flatten(0, 1)
    y = torch.cat([op.forward(left), op.forward(right)])
    room = 1e-3 * (y.amax(0) - y.amin(0)) + 1e-9 * (1 + y.abs().amax(0))
    assert bool((high * middle + high_at <= chords.amax(0) + room).all())
    assert bool((low * middle + low_at >= chords.amin(0) - room).all())


@pytest.mark.parametrize("name", NAMES)
def test_infinite_limits_give_what_is_known(name: str):
    op, low, high = FUNCTIONS[name]
    some, inf = (low + high) / 2, math.inf
    for lower, upper in ((-inf, inf), (some, inf), (-inf, some)):
        box = Interval(torch.tensor([[float(lower)]]).double(), torch.tensor([[float(upper)]]).double())
        limits, lines = op.interval(box).without_nan(), op.relax([box], [(1,)])
        inside = Interval(*(t.clamp(low, high) for t in box))
        x = points_of(op, *inside)
        y = op.forward(x)
        assert bool((limits.lower <= y + 1e-12).all())
        assert bool((limits.upper >= y - 1e-12).all())
        if not isinstance(op, SShaped):
            assert bool((lines.lower_slope * x + lines.lower_offset <= y + 1e-12).all())
            assert bool((lines.upper_slope * x + lines.upper_offset >= y - 1e-12).all())


def test_limits_beyond_the_domain_say_nothing():
    for name in ("log", "sqrt", "power 1.5", "log1p"):
        op = FUNCTIONS[name][0]
        box = Interval(torch.tensor([[-3.0]]), torch.tensor([[2.0]]))
        limits, lines = op.interval(box), op.relax([box], [(1,)])
        assert [float(t) for t in (*limits, *lines)] == [-math.inf, math.inf, 0.0, -math.inf, 0.0, math.inf]


def test_a_pole_inside_says_nothing():
    for name in ("reciprocal", "power -3"):
        op = FUNCTIONS[name][0]
        box = Interval(torch.tensor([[-3.0]]), torch.tensor([[2.0]]))
        assert [float(t) for t in op.interval(box)] == [-math.inf, math.inf]
