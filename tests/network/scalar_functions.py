"""Every function of one number, where it is looked at, and the points that matter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from clinch.network.ops.elementwise import ScalarFunction
from clinch.network.ops.erf import Erf
from clinch.network.ops.functions import Exp, Expm1, Log, Log1p, Power, Reciprocal, Sqrt
from clinch.network.ops.piecewise import Hardswish, Line, PiecewiseLinear, Sign
from clinch.network.ops.s_shaped import Sigmoid, Tanh
from clinch.network.ops.smooth_activations import ELU, GELU, LogSigmoid, Mish, SiLU, Softplus, Softsign, Tanhshrink
from clinch.network.ops.special import BesselI0, Digamma, Entropy, Erfcx, LogGamma, LogNdtr
from clinch.network.ops.trigonometric import Acos, Acosh, Asin, Asinh, Atan, Atanh, Cos, Cosh, Sin, Sinc, Sinh, Tan


def _pieces(*parts: tuple[float, tuple[float, float], bool], first: tuple[float, float]) -> PiecewiseLinear:
    """Each break with the line right of it and whether it belongs to the left; before them the first line."""
    lines = (Line(*first), *(Line(*line) for _, line, _ in parts))
    return PiecewiseLinear(tuple(at for at, _, _ in parts), lines, tuple(closed for _, _, closed in parts))


#: name -> the function, and between which numbers its limits are drawn
FUNCTIONS: dict[str, tuple[ScalarFunction, float, float]] = {
    "acos": (Acos(), -0.98, 0.98),
    "acosh": (Acosh(), 1.02, 20),
    "asin": (Asin(), -0.98, 0.98),
    "sinc": (Sinc(), -5.9, 5.9),
    "tan": (Tan(), -1.5, 1.5),
    "atanh": (Atanh(), -0.98, 0.98),
    "asinh": (Asinh(), -20, 20),
    "atan": (Atan(), -20, 20),
    "celu": (ELU(2.0, 1.0, 0.5), -20, 20),
    "cos": (Cos(), -12, 12),
    "cosh": (Cosh(), -6, 6),
    "digamma": (Digamma(), 0.1, 20),
    "elu": (ELU(), -20, 20),
    "entropy": (Entropy(), 1e-3, 5),
    "erf": (Erf(), -6, 6),
    "erfcx": (Erfcx(), -1.5, 20),
    "exp": (Exp(), -20, 6),
    "expm1": (Expm1(), -20, 6),
    "gelu": (GELU(), -12, 12),
    "gelu tanh": (GELU("tanh"), -12, 12),
    "hardshrink": (_pieces((-0.5, (0.0, 0.0), False), (0.5, (1.0, 0.0), True), first=(1.0, 0.0)), -3, 3),
    "hardswish": (Hardswish(), -8, 8),
    "log": (Log(), 1e-3, 20),
    "log1p": (Log1p(), -0.99, 20),
    "i0": (BesselI0(), -6, 6),
    "log gamma": (LogGamma(), 0.05, 20),
    "log ndtr": (LogNdtr(), -20, 8),
    "log sigmoid": (LogSigmoid(), -30, 30),
    "mish": (Mish(), -12, 12),
    "pieces with kinks and jumps": (
        _pieces((-1.0, (2.0, 1.5), True), (0.0, (0.5, 1.5), False), (1.5, (0.0, -1.0), False), first=(-1.0, 0.0)),
        -3,
        3,
    ),
    "power -2": (Power(-2.0), 0.1, 6),
    "power -3": (Power(-3.0), -6, -0.1),
    "power 1.5": (Power(1.5), 0.0, 6),
    "power 2": (Power(2.0), -6, 6),
    "power 3": (Power(3.0), -6, 6),
    "reciprocal": (Reciprocal(), 0.1, 6),
    "rsqrt": (Power(-0.5), 0.1, 6),
    "selu": (ELU(1.6732632423543772, 1.0507009873554805), -12, 12),
    "shrink": (_pieces((-1.0, (0.0, 0.0), False), (1.0, (1.0, -0.25), True), first=(1.0, 0.25)), -3, 3),
    "sigmoid": (Sigmoid(), -30, 30),
    "sign": (Sign(), -2, 2),
    "silu": (SiLU(), -20, 20),
    "sin": (Sin(), -12, 12),
    "sinh": (Sinh(), -6, 6),
    "softplus": (Softplus(), -30, 30),
    "softplus with a threshold": (Softplus(2.0, 3.0), -4, 4),
    "softsign": (Softsign(), -20, 20),
    "sqrt": (Sqrt(), 0.0, 20),
    "tanh": (Tanh(), -12, 12),
    "tanhshrink": (Tanhshrink(), -12, 12),
    "threshold": (_pieces((0.5, (1.0, 0.0), True), first=(0.0, 2.0)), -3, 3),
    "threshold upwards": (_pieces((0.5, (1.0, 0.0), True), first=(0.0, -1.0)), -3, 3),
}


#: the same, written with torch alone
REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "acos": torch.acos,
    "acosh": torch.acosh,
    "asin": torch.asin,
    "sinc": torch.sinc,
    "tan": torch.tan,
    "atanh": torch.atanh,
    "asinh": torch.asinh,
    "atan": torch.atan,
    "celu": nn.CELU(2.0),
    "cos": torch.cos,
    "cosh": torch.cosh,
    "digamma": torch.digamma,
    "elu": nn.ELU(),
    "entropy": torch.special.entr,
    "erf": torch.erf,
    "erfcx": torch.special.erfcx,
    "i0": torch.special.i0,
    "log gamma": torch.lgamma,
    "log ndtr": torch.special.log_ndtr,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU("tanh"),
    "hardshrink": nn.Hardshrink(0.5),
    "hardswish": nn.Hardswish(),
    "log": torch.log,
    "log1p": torch.log1p,
    "log sigmoid": nn.LogSigmoid(),
    "mish": nn.Mish(),
    "pieces with kinks and jumps": lambda x: torch.where(
        x <= -1, -x, torch.where(x < 0, 2 * x + 1.5, torch.where(x < 1.5, x / 2 + 1.5, -1.0))
    ),
    "power -2": lambda x: x.pow(-2),
    "power -3": lambda x: x.pow(-3),
    "power 1.5": lambda x: x.pow(1.5),
    "power 2": torch.square,
    "power 3": lambda x: x * x * x,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": torch.rsqrt,
    "selu": nn.SELU(),
    "shrink": lambda x: (x.abs() > 1) * (x - 0.25 * x.sign()),
    "sigmoid": nn.Sigmoid(),
    "sign": torch.sign,
    "silu": nn.SiLU(),
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": lambda x: x.exp().log1p(),
    "softplus with a threshold": nn.Softplus(2.0, 3.0),
    "softsign": nn.Softsign(),
    "sqrt": torch.sqrt,
    "tanh": nn.Tanh(),
    "tanhshrink": nn.Tanhshrink(),
    "threshold": nn.Threshold(0.5, 2.0),
    "threshold upwards": nn.Threshold(0.5, -1.0),
}


def points_of(op: ScalarFunction, lower: Tensor, upper: Tensor, count: int = 401) -> Tensor:
    """Float64 points of [l, u], ``(count + …, *shape)``: evenly, both ends, turns and their neighbours."""
    lower, upper = lower.double(), upper.double()
    at = torch.linspace(0, 1, count, dtype=torch.float64).reshape(-1, *[1] * lower.dim())
    turns = torch.tensor([*op.turns(), *op._stationary], dtype=torch.float64)
    near = torch.cat([turns + step for step in (-1e-3, -1e-9, 0.0, 1e-9, 1e-3)]).reshape(-1, *[1] * lower.dim())
    return torch.cat([torch.lerp(lower, upper, at).clamp(lower, upper), torch.clamp(near, lower, upper)])
