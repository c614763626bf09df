"""What the names of functions mean: pieces of each, as operations on power series or in rational numbers.

A new function is a row here; what it needs to be enclosed is :mod:`clinch.checker.functions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from operator import methodcaller
from typing import Any, NamedTuple

#: a polynomial of so many coefficients is taken as it is
TERMS = 9
#: poles of the tangent, from inside: nothing is known beyond them
_POLE = math.pi / 2
Exact = Fraction | int


class Series(NamedTuple):
    """A piece of a function from ``start`` on: ``analytic`` of a power series, or ``Σ_k a_k x^k + r/(x − s)``.

    ``rational`` gives a, r and s for a cell by its middle, so that steps are constants.
    """

    start: float
    analytic: Callable[[Any], Any] | None = None
    rational: Callable[[Fraction], tuple[Sequence[Exact], Exact, Exact]] = lambda middle: ((), 0, 0)


def _polynomial(*coefficients: Exact) -> Callable[[Fraction], Any]:
    return lambda middle: (coefficients, 0, 0)


def _constant(value: Callable[[Fraction], Any]) -> Callable[[Fraction], Any]:
    return lambda middle: ((Fraction(value(middle)),), 0, 0)


def _squash(y: Any) -> Any:
    """``tanh (ln (1 + y)) = (y² + 2y)/(y² + 2y + 2)``."""
    return 1 - 2 / (y * y + 2 * y + 2)


def _arb(number: float) -> Any:
    from flint import arb  # type: ignore[import-not-found]

    return arb(number)


def _pi() -> Any:
    from flint import arb  # type: ignore[import-not-found]

    return arb.pi()


def _arsinh(x: Any) -> Any:
    return (x + (x * x + 1).sqrt()).log()


def _power(p: float) -> list[Series]:
    if not p.is_integer():
        return [Series(0.0, lambda x: x ** _arb(p))]
    if 0 <= p < TERMS:
        return [Series(-math.inf, rational=_polynomial(*[0] * int(p), 1))]

    def raised(x: Any) -> Any:
        found = x
        for _ in range(int(abs(p)) - 1):
            found = found * x
        return found if p > 0 else 1 / found

    return [Series(-math.inf, raised), Series(0.0, raised)]


def _elu(a: float, s: float, c: float) -> list[Series]:
    below = Series(-math.inf, lambda x: ((x * _arb(c)).exp() - 1) * (_arb(a) * _arb(s)))
    return [below, Series(0.0, rational=_polynomial(0, Fraction(s)))]


def _softplus(b: float, *at: float) -> list[Series]:
    below = Series(-math.inf, lambda x: (1 + (x * _arb(b)).exp()).log() / _arb(b))
    return [below, *(Series(start, rational=_polynomial(0, 1)) for start in at)]


def _piecewise_linear(*numbers: float) -> list[Series]:
    """Breaks in ascending order, then slope and shift of each piece."""
    count = (len(numbers) - 2) // 3
    starts, lines = (-math.inf, *numbers[:count]), numbers[count:]
    if len(numbers) != 3 * count + 2 or any(a >= b for a, b in pairwise(starts)):
        raise ValueError("pieces of lines have other parameters")
    shifts = zip(starts, lines[::2], lines[1::2])
    return [Series(start, rational=_polynomial(Fraction(b), Fraction(a))) for start, a, b in shifts]


def _everywhere(analytic: Callable[[Any], Any], start: float = -math.inf) -> Callable[[], list[Series]]:
    return lambda: [Series(start, analytic)]


def _everywhere_rational(*pieces: tuple[float, Callable[[Fraction], Any]]) -> Callable[[], list[Series]]:
    return lambda: [Series(start, rational=rational) for start, rational in pieces]


#: name -> number of parameters (None: any), its pieces, and points around which cells shrink
FUNCTIONS: dict[str, tuple[int | None, Callable[..., list[Series]], tuple[float, ...]]] = {
    **{name: (0, _everywhere(methodcaller(name)), ()) for name in ("exp", "sin", "cos", "atan", "erf")},
    **{name: (0, _everywhere(methodcaller(name), 0.0), (0.0,)) for name in ("log", "sqrt")},
    **{name: (0, _everywhere(methodcaller(name)), (-1.0, 1.0)) for name in ("asin", "acos")},
    **{f.__name__: (0, _everywhere_rational((-math.inf, _constant(f))), ()) for f in (math.floor, math.ceil, round)},
    "expm1": (0, _everywhere(lambda x: x.exp() - 1), ()),
    "log1p": (0, _everywhere(lambda x: (1 + x).log(), -1.0), (-1.0,)),
    "power": (1, _power, (0.0,)),
    "reciprocal": (0, _everywhere_rational(*((start, lambda middle: ((0,), 1, 0)) for start in (-math.inf, 0.0))),
                   (0.0,)),
    "sinh": (0, _everywhere(lambda x: (x.exp() - (-x).exp()) / 2), ()),
    "cosh": (0, _everywhere(lambda x: (x.exp() + (-x).exp()) / 2), ()),
    "tanh": (0, _everywhere(lambda x: 1 - 2 / ((2 * x).exp() + 1)), ()),
    "tanhshrink": (0, _everywhere(lambda x: x - 1 + 2 / ((2 * x).exp() + 1)), ()),
    "atanh": (0, _everywhere(lambda x: ((1 + x) / (1 - x)).log() / 2), (-1.0, 1.0)),
    "acosh": (0, _everywhere(lambda x: (x + (x * x - 1).sqrt()).log(), 1.0), (1.0,)),
    "tan": (0, lambda: [Series(-_POLE, methodcaller("tan")), Series(_POLE, lambda x: x / 0)], (-_POLE, _POLE)),
    "entropy": (0, _everywhere(lambda x: -x * x.log(), 0.0), (0.0,)),
    "asinh": (0, lambda: [Series(-math.inf, lambda x: -_arsinh(-x)), Series(0.0, _arsinh)], ()),
    "sigmoid": (0, _everywhere(lambda x: 1 / (1 + (-x).exp())), ()),
    "log sigmoid": (0, _everywhere(lambda x: -(1 + (-x).exp()).log()), ()),
    "softplus": (1, _softplus, ()),
    "softplus until": (2, _softplus, ()),
    "gelu": (0, _everywhere(lambda x: x * (-x / _arb(2).sqrt()).erfc() / 2), ()),
    "gelu tanh": (0, _everywhere(
        lambda x: x / (1 + (-2 * (2 / _pi()).sqrt() * (x + x * x * x * 44715 / 10**6)).exp())), ()),
    "silu": (0, _everywhere(lambda x: x / (1 + (-x).exp())), ()),
    "mish": (0, _everywhere(lambda x: x * _squash(x.exp())), ()),
    "elu": (3, _elu, ()),
    "softsign": (0, _everywhere_rational((-math.inf, lambda middle: ((-1,), -1, 1)),
                                         (0.0, lambda middle: ((1,), -1, -1))), ()),
    "hardswish": (0, _everywhere_rational((-math.inf, _polynomial(0)),
                                          (-3.0, _polynomial(0, Fraction(1, 2), Fraction(1, 6))),
                                          (3.0, _polynomial(0, 1))), ()),
    "piecewise linear": (None, _piecewise_linear, ()),
    "sign": (0, _everywhere_rational((-math.inf, _polynomial(-1)), (0.0, _polynomial(1))), ()),
}  # fmt: skip

#: functions that do not become monotone far out: they lie in [-1, 1]
WAVES = ("sin", "cos")
#: functions that jump; at a jump they lie between the limits from both sides
JUMPS = ("softplus until", "piecewise linear", "sign", "floor", "ceil", "round")
#: with these parameters a function is one
ADMISSIBLE: dict[str, Callable[..., bool]] = {
    "power": lambda p: p != 0 and abs(p) <= 64,
    "elu": lambda a, s, c: a >= 0 and s > 0 and c > 0,
    "softplus": lambda b: b > 0,
    "softplus until": lambda b, at: b > 0,
}
