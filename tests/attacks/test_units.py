"""Attacks do not depend on the units of the data, nor fail in any dtype."""

from __future__ import annotations

import math

import pytest
import torch
from test_conformance import EACH, doubled, images, mlp, run
from torch import Tensor, nn

import clinch as cl
from clinch.geometry.norms import norm

pytestmark = pytest.mark.table

EPS = {0.0: 4.0, 1.0: 1.0, 2.0: 0.5}


class Affine(nn.Module):
    """The same network for data in other units: it takes ``factor·x + shift``."""

    def __init__(self, inner: nn.Module, factor: float, shift: float) -> None:
        super().__init__()
        self.inner, self.factor, self.shift = inner, factor, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x - self.shift) / self.factor)


def in_units(method, p, factor: float, shift: float, bounds, x, y):
    low, high = (factor * b + shift for b in bounds)
    eps = EPS.get(p, 0.2) * (factor if p else 1.0)
    more = {"eps": eps} if method.kind == "budget" else {}
    limits = None if low == -math.inf and high == math.inf else (low, high)
    return run(method, Affine(mlp(), factor, shift).eval(), factor * x + shift, y, p, bounds=limits, **more)


def assert_same(one, other, factor: float, p: float, rtol: float) -> None:
    assert one.success.tolist() == other.success.tolist()
    scale = factor if p else 1.0
    found = one.success
    assert torch.allclose(other.distance[found] / scale, one.distance[found], rtol=rtol, atol=0)


RANGES = {"a range": (0.0, 1.0), "half": (0.0, math.inf), "none": (-math.inf, math.inf)}


#: it steps along surrogates whose noise is measured in the user's units
OWN_UNITS = {"activation_descent"}


#: what they change is measured in the range
NEED_RANGE = {"colour", "patch"}


@pytest.mark.parametrize(("method", "p"), [e for e in EACH if e.values[0].name not in OWN_UNITS])
@pytest.mark.parametrize(
    "bounds", [pytest.param(b, id=n, marks=[pytest.mark.slow] * (n == "half")) for n, b in RANGES.items()]
)
def test_other_units_change_nothing(method, p, bounds):
    if method.name in NEED_RANGE and not math.isfinite(bounds[1]):
        pytest.skip("needs a range")
    x, y = images(mlp(), (3, 4))
    one = in_units(method, p, 1.0, 0.0, bounds, x, y)
    for factor in (2.0**-20, 2.0**18) if bounds[0] == 0 else (2.0**-20,):
        assert_same(one, in_units(method, p, factor, 0.0, bounds, x, y), factor, p, rtol=1e-6)


DTYPES = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize(("method", "p"), EACH)
@pytest.mark.parametrize(
    "dtype", [pytest.param(d, id=str(d), marks=[pytest.mark.slow] * (d == torch.float16)) for d in DTYPES]
)
def test_models_of_any_dtype(method, p, dtype):
    """No crash, points of the model's dtype inside range and ball, success by its own word and float64's."""
    model = mlp().to(dtype)
    x, _ = images(mlp(), (3, 4))
    x = x.to(dtype)
    y = model(x).argmax(1)
    eps = EPS.get(p, 0.2)
    found = run(method, model, x, y, p, eps=eps)
    assert found.x.dtype == dtype and found.x.shape == x.shape and bool(found.x.isfinite().all())
    assert bool(((found.x >= 0) & (found.x <= 1)).all())
    for f in (model, doubled(model)):
        z = f(found.x.to(next(f.parameters()).dtype))
        own = z.gather(1, y[:, None])
        others = z.scatter(1, y[:, None], -math.inf).amax(1, keepdim=True)
        assert bool((others >= own)[found.success].all())
    d = norm(found.x.double() - x.double(), p)
    assert torch.allclose(found.distance[found.success], d[found.success])
    if method.kind == "budget":
        assert bool((d <= eps * (1 + 1e-6)).all())
    elif method.name in ("nearest", "fmn", "vfga", "sigma_zero"):
        assert bool(found.success.all())


class Casting(nn.Module):
    """A module that fixes a dtype inside."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.to(self.dtype)).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("method", "p"), [e for e in EACH if e.values[0].name in ("nearest", "pgd", "worst")])
def test_a_module_that_casts_inside_is_checked_in_float64_without_its_casts(method, p, dtype):
    model = Casting(mlp(), dtype).eval()
    x, _ = images(mlp(), (3, 4))
    x = x.to(dtype)
    y = model(x).argmax(1)
    found = run(method, model, x, y, p, eps=2 * EPS.get(p, 0.2))
    assert found.exact and bool(found.success.any())
    exact = doubled(model.inner)(found.x.double()).argmax(1)
    for classes in (model(found.x).argmax(1), exact):
        assert bool((classes != y)[found.success].all())


def test_a_module_that_cannot_run_in_float64_is_judged_in_its_own_dtype_and_says_so():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return self.inner(x)

    x, y = images(mlp(), (3, 4))
    found = cl.attacks.nearest(Fixed().eval(), x, y, norm=2)
    assert not found.exact and bool(found.success.all())
    assert cl.attacks.nearest(mlp(), x, y, norm=2).exact
