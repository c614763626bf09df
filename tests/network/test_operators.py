"""Every operator against every fact it states; an operator without a specimen fails."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clinch.encoding.mixed_integer import Encoder
from clinch.errors import UnsupportedOperator
from clinch.network.graph import Input
from clinch.network.ops.base import Affine, Interval, Operator, Relaxation
from clinch.network.ops.bilinear import Bilinear
from clinch.network.ops.elementwise import ScalarFunction
from clinch.network.ops.forest import Forest
from clinch.network.ops.hull import Hull
from clinch.network.ops.masks import Inside
from clinch.network.ops.max_pool import MaxPool
from clinch.network.ops.piecewise import Staircase
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.s_shaped import Sigmoid, SShaped, Tanh
from clinch.network.ops.softmax import Shares
from clinch.network.ops.whole import ArgMax, WholeFunction
from clinch.network.ops.within import Within

from .operator_specimens import Specimen, leaf_operators, specimens

SPECIMENS = specimens()
EXACT = 1e-11


def stating(fact: str) -> list[Specimen]:
    return [s for s in SPECIMENS if s.op.supports(fact) and not isinstance(s.op, Hull)]


def of_several_numbers(fact: str) -> list[Specimen]:
    """Functions of one number have laws of their own: test_scalar_functions.py."""
    return [s for s in stating(fact) if not isinstance(s.op, ScalarFunction)]


def boxes(specimen: Specimen, seed: int, batch: int = 4) -> list[Interval]:
    """Random boxes; elements of the first problem are single points, of the second wide."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for shape in specimen.shapes:
        a, b = (torch.randn(batch, *shape, generator=generator, dtype=torch.float64) * 2 for _ in range(2))
        b[0] = a[0]
        b[1] = b[1] * 20
        a, b = a.clamp(*specimen.within), b.clamp(*specimen.within)
        made.append(Interval(torch.minimum(a, b), torch.maximum(a, b)))
    return made


def inside(boxes: list[Interval], generator: torch.Generator) -> list[Tensor]:
    """A random point of each box; a third of its elements at either end."""
    points = []
    for lower, upper in boxes:
        at = torch.rand(lower.shape, generator=generator, dtype=torch.float64) * 3 - 1
        points.append(torch.lerp(lower, upper, at.clamp(0, 1)).clamp(lower, upper))
    return points


def outputs(specimen: Specimen) -> tuple[int, ...]:
    return tuple(specimen.op.forward(*(torch.zeros(1, *s, dtype=torch.float64) for s in specimen.shapes)).shape[1:])


def test_every_operator_has_a_specimen():
    missing = leaf_operators() - {type(s.op) for s in SPECIMENS}
    assert not missing, f"add a specimen in operator_specimens.py for {sorted(kind.__name__ for kind in missing)}"


def test_facts_are_as_the_project_promises():
    """The table that `clinch supports` prints; forward-only operators are listed here by name."""
    written_out = {
        "Softmax",
        "MaskedSoftmax",
        "LogSoftmax",
        "LogSumExp",
        "LayerNorm",
        "RMSNorm",
        "GroupNorm",
        "Variance",
    }
    forward_only = {"Input", "TorchFunction", "RowFunction", "Masked", *written_out}
    smooth = ScalarFunction | Staircase | Bilinear | Within | Inside | Shares | Hull | ArgMax | WholeFunction | Forest
    for kind in leaf_operators():
        facts = [kind.supports(fact) for fact in ("interval", "relax", "encode")]
        expected = [False] * 3 if kind.__name__ in forward_only else [True, True, not issubclass(kind, smooth)]
        assert facts == expected, kind.__name__


@pytest.mark.parametrize("specimen", SPECIMENS, ids=str)
def test_forward_is_the_function_of_torch(specimen: Specimen):
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in specimen.shapes]
    x = [t.clamp(*specimen.within) for t in x]
    torch.testing.assert_close(specimen.op.forward(*x), specimen.reference(*x).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("specimen", SPECIMENS, ids=str)
def test_moves_to_another_dtype_and_device(specimen: Specimen):
    x = [torch.ones(2, *shape) for shape in specimen.shapes]
    moved = specimen.op.to(torch.float32, "cpu").forward(*x)
    assert moved.dtype == torch.float32
    reference = specimen.op.forward(*(t.double() for t in x))
    torch.testing.assert_close(moved.double(), reference, rtol=1e-4, atol=1e-4)
    there = specimen.op.to(torch.float32, "meta").forward(*(t.to("meta") for t in x))
    assert there.shape == moved.shape
    assert there.device.type == "meta"


@pytest.mark.parametrize("fact", ["interval", "relax", "encode"])
@pytest.mark.parametrize("specimen", [s for s in SPECIMENS if not isinstance(s.op, Input)], ids=str)
def test_missing_facts_are_typed_errors(specimen: Specimen, fact: str):
    if specimen.op.supports(fact):
        return
    box = boxes(specimen, 0)
    with pytest.raises(UnsupportedOperator, match="attacks still run"):
        if fact == "interval":
            specimen.op.interval(*box)
        elif fact == "relax":
            specimen.op.relax(box, specimen.shapes)
        else:
            specimen.op.encode(None, [], box, specimen.shapes)  # type: ignore[arg-type]


@pytest.mark.parametrize("specimen", of_several_numbers("interval"), ids=str)
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**31))
def test_sampled_values_lie_inside_the_interval(specimen: Specimen, seed: int):
    box, generator = boxes(specimen, seed), torch.Generator().manual_seed(seed)
    limits = specimen.op.interval(*box)
    assert bool((limits.lower <= limits.upper).all())
    for _ in range(10):
        y = specimen.op.forward(*inside(box, generator))
        slack = EXACT * (1 + y.abs())
        assert bool((y >= limits.lower - slack).all())
        assert bool((y <= limits.upper + slack).all())


@pytest.mark.parametrize("specimen", stating("interval"), ids=str)
def test_degenerate_boxes_give_the_forward_value(specimen: Specimen):
    box = boxes(specimen, 1)
    points = [i.lower for i in box]
    limits = specimen.op.interval(*(Interval(p, p) for p in points))
    value = specimen.op.forward(*points)
    torch.testing.assert_close(limits.lower, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(limits.upper, value, rtol=1e-12, atol=1e-12)


def gap(specimen: Specimen, relaxation: Relaxation, rows: Tensor, points: list[Tensor]) -> Tensor:
    """``<rows, op(x)> − (<carried, x> + offset)``: what a relaxation must keep non-negative; ``(B, R)``."""
    carried, offset = relaxation.backward(rows)
    assert [tuple(c.shape) for c in carried] == [(*rows.shape[:2], *shape) for shape in specimen.shapes]
    assert offset.shape == rows.shape[:2]
    value = torch.einsum("brn,bn->br", rows.flatten(2), specimen.op.forward(*points).flatten(1))
    line = offset.clone()
    for c, x in zip(carried, points):
        line = line + torch.einsum("brn,bn->br", c.flatten(2), x.flatten(1))
    return value - line


@pytest.mark.parametrize("specimen", of_several_numbers("relax"), ids=str)
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**31))
def test_relaxations_hold(specimen: Specimen, seed: int):
    box, generator = boxes(specimen, seed), torch.Generator().manual_seed(seed)
    rows = torch.randn(4, 3, *outputs(specimen), generator=generator, dtype=torch.float64)
    relaxation = specimen.op.relax(box, specimen.shapes)
    for _ in range(10):
        points = inside(box, generator)
        found = gap(specimen, relaxation, rows, points)
        assert bool((found >= -1e-10 * (1 + max(float(p.abs().max()) for p in points))).all())
        if isinstance(specimen.op, Affine):
            torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-10)


def test_a_hull_holds_every_number_between_its_inputs():
    generator = torch.Generator().manual_seed(0)
    low, room = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    high, rows = low + room.abs(), torch.randn(6, 3, 5, generator=generator, dtype=torch.float64)
    (below, above), offset = Hull().relax([], [(5,), (5,)]).backward(rows)
    limits = Hull().interval(Interval(low - 1, low), Interval(high, high + 1))
    line = (below * low.unsqueeze(1) + above * high.unsqueeze(1)).sum(2) + offset
    for share in (0.0, 0.3, 1.0):
        y = torch.lerp(low, high, share)
        assert bool(((rows * y.unsqueeze(1)).sum(2) >= line - 1e-12).all())
        assert bool(((limits.lower <= y) & (y <= limits.upper)).all())


@pytest.mark.parametrize("specimen", stating("relax"), ids=str)
def test_relaxations_of_single_points_are_exact(specimen: Specimen):
    points = [i.lower for i in boxes(specimen, 2)]
    rows = torch.randn(4, 3, *outputs(specimen), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    relaxation = specimen.op.relax([Interval(p, p) for p in points], specimen.shapes)
    found = gap(specimen, relaxation, rows, points)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-10)


@pytest.mark.parametrize("specimen", [s for s in SPECIMENS if isinstance(s.op, Affine)], ids=str)
def test_transpose_is_that_of_autograd(specimen: Specimen):
    rows = torch.randn(5, *outputs(specimen), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    zeros = [torch.zeros(5, *shape, dtype=torch.float64, requires_grad=True) for shape in specimen.shapes]
    expected = torch.autograd.grad(specimen.reference(*zeros), zeros, rows)
    for ours, theirs in zip(specimen.op.transpose(rows, specimen.shapes), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("specimen", [s for s in SPECIMENS if isinstance(s.op, Affine)], ids=str)
def test_gradients_flow_through_relaxations_to_the_rows(specimen: Specimen):
    rows = torch.ones(1, 2, *outputs(specimen), dtype=torch.float64, requires_grad=True)
    carried, offset = specimen.op.relax([], specimen.shapes).backward(rows)
    (sum(c.sum() for c in carried) + offset.sum()).backward()
    assert rows.grad is not None


@pytest.mark.parametrize("specimen", stating("encode"), ids=str)
def test_encodings_give_the_forward_value(specimen: Specimen):
    """The network's own values of all variables satisfy every row and bound, and the expression is the output."""
    box, generator = [i.take(torch.tensor([2])) for i in boxes(specimen, 5)], torch.Generator().manual_seed(6)
    sizes = [math.prod(shape) for shape in specimen.shapes]
    encoder = Encoder(*(torch.cat([t.flatten() for t in limits]) for limits in zip(*box)))
    inputs, start = [], 0
    for size, shape in zip(sizes, specimen.shapes):
        part = encoder.input.take(torch.arange(start, start + size))
        inputs.append(part.map(lambda t, shape=shape: t.reshape(-1, *shape)))
        start += size
    expression = specimen.op.encode(encoder, inputs, box, specimen.shapes)
    complete = encoder.completion()
    flat = expression.flat()
    program = encoder.program(flat.take(torch.tensor([0])))
    for _ in range(10):
        points = inside(box, generator)
        vector = complete(torch.cat([p.flatten() for p in points]).numpy())
        value = flat.constant.clone()
        for block, c in flat.coefficients.items():
            value = value + torch.from_numpy(vector[encoder.columns(block)]) @ c
        torch.testing.assert_close(value, specimen.op.forward(*points).flatten(), rtol=1e-9, atol=1e-9)
        made = program.rows @ vector
        assert (made >= program.row_lower - 1e-9).all()
        assert (made <= program.row_upper + 1e-9).all()
        assert (vector >= program.lower - 1e-9).all()
        assert (vector <= program.upper + 1e-9).all()


# --- particular operators --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [Sigmoid(), Tanh()], ids=["sigmoid", "tanh"])
@settings(deadline=None, max_examples=60)
@given(
    ends=st.tuples(*[st.floats(-60, 60, allow_subnormal=False)] * 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_s_shaped_lines_enclose_the_function(op: SShaped, ends: tuple[float, float], dtype: torch.dtype):
    lower, upper = (torch.tensor([[end]], dtype=dtype) for end in sorted(ends))
    lines = op.relax([Interval(lower, upper)], [(1,)])
    x = torch.lerp(lower.double(), upper.double(), torch.linspace(0, 1, 501, dtype=torch.float64)[None])
    y = op.forward(x)
    below = lines.lower_slope.double() * x + lines.lower_offset.double()
    above = lines.upper_slope.double() * x + lines.upper_offset.double()
    rounding = 1e-15 if dtype == torch.float64 else 1e-7
    assert bool((below <= y + rounding).all())
    assert bool((above >= y - rounding).all())


@pytest.mark.parametrize("op", [Sigmoid(), Tanh()], ids=["sigmoid", "tanh"])
@pytest.mark.parametrize("ends", [(-1.0, 2.0), (-3.0, 0.5), (-0.2, 4.0), (0.3, 2.0), (-2.0, -0.5), (-2.0, 2.0)])
def test_s_shaped_upper_line_is_the_best_of_all_sound_ones(op: SShaped, ends: tuple[float, float]):
    """No sound line is lower at the middle: the best one is the concave envelope's value there."""
    lower, upper = (torch.tensor([[end]], dtype=torch.float64) for end in ends)
    lines = op.relax([Interval(lower, upper)], [(1,)])
    middle = sum(ends) / 2
    x = torch.linspace(*ends, 2001, dtype=torch.float64)
    y = op.forward(x)
    # the envelope at the middle: the highest chord over it
    left, right = x[x <= middle], x[x >= middle]
    weight = (middle - left[:, None]) / (right[None] - left[:, None]).clamp(min=1e-300)
    chords = torch.lerp(y[x <= middle][:, None], y[x >= middle][None], weight.clamp(0, 1))
    envelope = float(chords.max())
    assert float(lines.upper_slope * middle + lines.upper_offset) == pytest.approx(envelope, abs=1e-5)


def test_relu_slopes_receive_gradients():
    box = Interval(torch.tensor([[-1.0, -2.0, 1.0]]), torch.tensor([[2.0, 1.0, 3.0]]))
    slope = torch.full((1, 3), 0.5, requires_grad=True)
    carried, _ = LeakyReLU().relax_with(box, slope).backward(torch.ones(1, 1, 3))
    carried[0].sum().backward()
    assert slope.grad is not None
    assert slope.grad.tolist() == [[1.0, 1.0, 0.0]]


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_relu_chord_is_the_tightest_upper_line(slope: float):
    box = Interval(torch.tensor([[-1.0, -3.0]], dtype=torch.float64), torch.tensor([[2.0, 1.0]], dtype=torch.float64))
    op = LeakyReLU(slope)
    lines = op.relax([box], [(2,)])
    for end in box:
        torch.testing.assert_close(lines.upper_slope * end + lines.upper_offset, op.forward(end))


def test_max_pool_lines_are_exact_where_one_element_dominates():
    op = MaxPool((2,), (2,), ((0, 0),), (1,))
    box = Interval(torch.tensor([[[0.0, 3.0]]]), torch.tensor([[[2.0, 5.0]]]))
    (carried,), offset = op.relax([box], [(1, 2)]).backward(torch.tensor([[[[1.0]], [[-1.0]]]]))
    assert carried.flatten().tolist() == [0.0, 1.0, 0.0, -1.0]
    assert offset.flatten().tolist() == [0.0, 0.0]


def test_max_pool_upper_line_is_never_above_the_constant():
    op = MaxPool((2,), (2,), ((0, 0),), (1,))
    box = Interval(torch.tensor([[[0.0, -1.0]]]), torch.tensor([[[2.0, 5.0]]]))
    (carried,), offset = op.relax([box], [(1, 2)]).backward(torch.tensor([[[[-1.0]]]]))
    for end in box:
        assert float(-(carried * end[:, None]).sum() - offset.sum()) <= 5.0
    # at the lower end of the leading element the other one's upper limit is what remains
    assert float(-(carried[0, 0, 0, 1] * -1.0) - offset) == pytest.approx(2.0)


def test_max_pool_negative_infinite_padding_never_wins():
    op = MaxPool((3,), (1,), ((1, 1),), (1,))
    low = torch.tensor([[[-5.0, -7.0]]], dtype=torch.float64)
    limits = op.interval(Interval(low, low + 1))
    assert limits.lower.tolist() == [[[-5.0, -5.0]]]
    (carried,), offset = op.relax([Interval(low, low + 1)], [(1, 2)]).backward(
        torch.ones(1, 1, 1, 2, dtype=torch.float64)
    )
    assert bool(torch.isfinite(carried).all() & torch.isfinite(offset).all())


def test_operators_of_one_class_are_not_compared_by_value():
    """Tensors among the fields would make equality and hashing meaningless."""
    a, b = LeakyReLU(), LeakyReLU()
    assert a != b
    assert len({a, b}) == 2
    assert issubclass(type(a), Operator)
