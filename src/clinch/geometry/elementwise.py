"""Functions of single numbers whose last bit does not depend on where in a tensor a number lies.

On a CPU torch computes sigmoid, softplus, atanh, cosh and powers by vector instructions, and the last few elements of a
tensor one by one, by another formula. Which elements these are changes with the number of rows. Exponential, logarithm,
root and the four operations have one result everywhere, so that the formulas here are made of those.
"""

from __future__ import annotations

import torch
from torch import Tensor


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, exact to rounding at both ends; gradients flow.

    Example:
        >>> softplus(torch.tensor([-20.0, 0.0, 20.0]))
        tensor([2.0612e-09, 6.9315e-01, 2.0000e+01])
    """
    return torch.maximum(x, torch.zeros_like(x)) + (-x.abs()).exp().log1p()


def sigmoid(x: Tensor) -> Tensor:
    """``1/(1 + exp(−x))``; gradients flow.

    Example:
        >>> sigmoid(torch.tensor([-100.0, 0.0, 100.0]))
        tensor([3.7835e-44, 5.0000e-01, 1.0000e+00])
    """
    return torch.stack([x, torch.zeros_like(x)], -1).softmax(-1)[..., 0]


def atanh(x: Tensor) -> Tensor:
    """The inverse of tanh."""
    return 0.5 * (x.log1p() - (-x).log1p())


def power(x: Tensor, exponent: float | Tensor) -> Tensor:
    """``x**exponent``, one number or one for each element: in a layout that torch goes through element by element.

    Example:
        >>> power(torch.tensor([4.0, 9.0]), 1.5)
        tensor([ 8., 27.])
    """
    if isinstance(exponent, Tensor):
        x, exponent = torch.broadcast_tensors(x, exponent)
    return torch.stack([x, x], -1)[..., 0].pow(exponent)
