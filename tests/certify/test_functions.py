"""Lines and limits of functions of one number, as the checker finds them, beside the functions themselves."""

import math

import numpy as np
import pytest
import torch
from tests.network.scalar_functions import FUNCTIONS

from clinch.checker import functions
from clinch.checker.function_kinds import FUNCTIONS as KINDS
from clinch.checker.functions import Function, lines
from clinch.network.ops.base import Interval
from clinch.network.ops.piecewise import Ceil, Floor, Round

#: certificates cannot name them yet
UNNAMED = ("digamma", "erfcx", "i0", "log gamma", "log ndtr", "sinc")
STEPS = {"floor": (Floor(), -4, 4), "ceil": (Ceil(), -4, 4), "round": (Round(), -4, 4)}
NUMBER = 40


def test_what_has_no_name_in_certificates_is_listed():
    unnamed = {name for name, (op, *_) in FUNCTIONS.items() if op.statement([(1,)], (1,)) is None}
    assert unnamed == set(UNNAMED)


def function_of(op):
    stated = op.statement([(1,)], (1,))[0]
    found = Function(stated["name"], tuple(map(float, stated["parameters"])))
    if found.needs_balls:
        pytest.importorskip("flint")
    return found


def op_jumps(op):
    """Where the checker, unlike the operator, counts both sides."""
    return [jump.at for jump in op.jumps()] if hasattr(op, "jumps") else np.arange(-10, 10.5, 0.5)


def intervals(low, high, seed):
    """Wide ones, narrow ones, and some that end where functions bend or jump."""
    rng = np.random.default_rng(seed)
    a, b = np.sort(rng.uniform(low, high, (2, NUMBER)), 0)
    b = np.where(np.arange(NUMBER) % 3 == 0, np.minimum(a + 10.0 ** rng.uniform(-9, -1, NUMBER), high), b)
    whole = np.sort(rng.integers(math.ceil(low), math.floor(high) + 1, (2, 6)), 0).astype(float)
    return np.append(a, whole[0]), np.append(b, whole[1])


def passed(op, found, lower, upper):
    """By how much values pass the lines and limits, beyond rounding of the values."""
    low, high, low_offset, high_offset, least, most = found
    x = np.clip(lower + (upper - lower) * np.linspace(0, 1, 201)[:, None], lower, upper)
    y = op.forward(torch.from_numpy(x)).numpy()
    near = 8e-15 * (1 + np.abs(y) + np.abs(low * x) + np.abs(high * x))
    off = np.stack([low * x + low_offset - y, y - high * x - high_offset, least - y, y - most]) - near
    return float(np.max(np.where(np.isnan(off), -np.inf, off)))


@pytest.mark.parametrize("name", [name for name in (*FUNCTIONS, *STEPS) if name not in UNNAMED])
def test_no_value_passes_a_line_or_a_limit_and_lines_are_tight(name):
    op, low, high = {**FUNCTIONS, **STEPS}[name]
    function = function_of(op)
    lower, upper = intervals(low, high, 1)
    with np.errstate(all="ignore"):
        found = lines(function, lower, upper)
    assert passed(op, found, lower, upper) <= 0
    known = np.isfinite(found[2]) & np.isfinite(found[3])
    assert known.mean() > 0.85
    middle, limits = (lower + upper) / 2, Interval(*(torch.from_numpy(t)[None] for t in (lower, upper)))
    own = op.relax([limits], [(len(lower),)])
    low, low_offset, high, high_offset = (t[0].numpy() for t in own)
    theirs = (high - low) * middle + high_offset - low_offset
    gap = (found[1] - found[0]) * middle + found[3] - found[2]
    compared = known & np.isfinite(theirs) & ~(np.isin(lower, op_jumps(op)) | np.isin(upper, op_jumps(op)))
    assert (gap <= 1.05 * theirs + 1e-9 * (1 + np.abs(found[2]) + np.abs(found[3])))[compared].all()


def test_lines_that_err_are_found(monkeypatch):
    """The same comparison sees a table whose remainders were left out."""
    honest = functions._in_rationals
    monkeypatch.setattr(functions, "_in_rationals", lambda *given: ([t * 0.999 for t in honest(*given)[0]], 0.0))
    op, low, high = FUNCTIONS["reciprocal"]
    lower, upper = intervals(low, high, 1)
    with np.errstate(all="ignore"):
        assert passed(op, lines(function_of(op), lower, upper), lower, upper) > 0


def test_at_a_jump_both_sides_count():
    floor, sign = Function("floor", ()), Function("sign", ())
    with np.errstate(all="ignore"):
        *_, least, most = lines(floor, np.array([0.5, 1.0]), np.array([1.0, 1.0]))
        assert most.tolist() == pytest.approx([1, 1]) and least.tolist() == pytest.approx([0, 0], abs=1e-12)
        *_, least, most = lines(sign, np.array([-1.0, 0.0]), np.array([0.0, 1.0]))
    assert (least <= -1 + 1e-9).all() and (most >= 1 - 1e-9).all()


def test_nothing_is_known_beyond_the_cells():
    function = Function("hardswish", ())
    with np.errstate(all="ignore"):
        found = lines(function, np.array([-np.inf, -1e9, 0.0, np.nan]), np.array([0.0, 1.0, np.inf, 0.0]))
    assert np.isinf(found[2]).all() and np.isinf(found[5]).all()


@pytest.mark.parametrize("name", KINDS)
def test_other_parameters_are_refused(name):
    count = 2 if KINDS[name][0] is None else KINDS[name][0]
    for parameters in ((1.0,) * (count + 1), *([(np.nan,) * count, (np.inf,) * count] if count else [])):
        with pytest.raises(ValueError, match="parameters"):
            Function(name, parameters)


def test_series_cut_short_by_a_setting_are_not_believed():
    flint = pytest.importorskip("flint")
    before, flint.ctx.cap = flint.ctx.cap, 4
    try:
        with np.errstate(all="ignore"):
            found = lines(Function("sigmoid", ()), np.array([0.0]), np.array([1.0]))
    finally:
        flint.ctx.cap = before
    assert np.isinf(found[2]).all() and np.isinf(found[3]).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_far_from_a_pole_lines_are_tight_too(sign):
    """As where squares of activations are summed up before they are divided by."""
    f = Function("reciprocal", ())
    lower, upper = np.sort(sign * np.array([[1.18e8], [1.2e8]]), 0)
    low, high, low_offset, high_offset, least, most = lines(f, lower, upper)
    x = np.linspace(lower, upper, 101)
    assert (low * x + low_offset <= 1 / x).all() and (1 / x <= high * x + high_offset).all()
    assert (least <= 1 / x).all() and (1 / x <= most).all() and (most - least < 2e-10).all()
