"""Gradients through functions that step: rounding, signs, comparisons and the index of the largest have none.

In the backward pass they count as the identity (the straight-through estimator, Bengio et al. 2013, arXiv 1308.3432):
what Athalye et al. 2018 (arXiv 1802.00420) call BPDA where a whole part of a model is passed so. In the forward pass
nothing changes. Models are watched while they run, so that neither their code nor how they were made matters; compiled
ones run as they were written meanwhile, for nothing is seen inside of compiled code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clinch.errors import NetworkError


def _named(*names: str) -> set[Any]:
    """These functions, of torch and of tensors."""
    return {getattr(place, name) for name in names for place in (torch, Tensor) if hasattr(place, name)}


#: whose gradient is zero wherever it exists
FLOOR_DIVISION = _named("floor_divide") | {Tensor.__floordiv__}
ROUNDING = _named("round", "floor", "ceil", "trunc", "fix", "sign", "sgn") | FLOOR_DIVISION
#: comparisons, with the sign of the difference that they ask for
RISING = dict.fromkeys(_named("gt", "ge", "greater", "greater_equal") | {Tensor.__gt__, Tensor.__ge__}, 1.0)
COMPARISONS = RISING | dict.fromkeys(_named("lt", "le", "less", "less_equal") | {Tensor.__lt__, Tensor.__le__}, -1.0)
#: what makes numbers of truth values
NUMBERS = _named("float", "double", "half", "bfloat16", "to", "type", "type_as")
LARGEST, WHERE = _named("argmax"), _named("where")
#: under this name a truth value or index remembers what it was decided by
BEHIND = "_clinch_behind"


class Through(torch.autograd.Function):
    """The first argument's values, with the gradient of the second."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, behind: Tensor) -> Tensor:  # type: ignore[override]
        """The first."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        """To the second."""
        return None, gradients[0]


def through(value: Tensor, behind: Tensor) -> Tensor:
    """Values whose gradient is that of something else of the same shape."""
    return Through.apply(value.detach(), behind)  # type: ignore[return-value]


class StepFunctions(TorchFunctionMode):
    """While it is entered gradients pass step functions.

    Attributes:
        seen: whether there was one.

    Example:
        >>> z = torch.tensor([0.4, 1.6], requires_grad=True)
        >>> with StepFunctions():
        ...     torch.round(z).sum().backward()
        >>> z.grad
        tensor([1., 1.])
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = False
        self._eager: AbstractContextManager[Any] = nullcontext()

    def __enter__(self) -> StepFunctions:
        if "torch._dynamo" in sys.modules:  # no model is compiled before
            self._eager = torch.compiler.set_stance("force_eager")
        self._eager.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._eager.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        first = args[0] if args else None
        if not isinstance(first, Tensor) or not isinstance(found, Tensor):
            return found
        if func in ROUNDING and first.is_floating_point() and found.shape == first.shape:
            self.seen = True
            divisor = args[1] if func in FLOOR_DIVISION and len(args) > 1 else 1.0
            return through(found, first / divisor) if first.requires_grad else found
        if func in COMPARISONS and first.is_floating_point():
            self.seen = True
            if first.requires_grad:
                setattr(found, BEHIND, COMPARISONS[func] * (first - args[1]))
            return found
        if func in LARGEST and first.is_floating_point():
            self.seen = True
            if first.requires_grad:
                setattr(found, BEHIND, first)
            return found
        return self._numbers(func, found, args)

    @staticmethod
    def _numbers(func: Any, found: Tensor, args: Any) -> Tensor:
        """Numbers that were made of a truth value or an index which remembers."""
        behind = getattr(args[0], BEHIND, None)
        if behind is None:
            return found
        if func is F.one_hot and behind.shape == found.shape:
            setattr(found, BEHIND, behind.softmax(-1))
        elif func in NUMBERS and found.is_floating_point() and behind.shape == found.shape:
            return through(found, behind)
        elif func in WHERE and len(args) == 3 and behind.shape == found.shape and not found.requires_grad:
            yes, no = (torch.as_tensor(side).to(found) for side in args[1:])
            return through(found, (yes - no) * behind) if found.is_floating_point() else found
        return found


class Replaced(nn.Module):
    """A model with the gradient of another: what ``backward=`` of attacks makes.

    Args:
        net: what is attacked.
        backward: takes the same inputs, returns outputs of the same shape; gradients are its.
    """

    def __init__(self, net: nn.Module, backward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = net
        # in a tuple, so that a module is neither copied nor cast with this one
        self._backward = (backward,)

    def forward(self, x: Tensor) -> Tensor:
        """The model's outputs; their gradient is the replacement's."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.net(x)
        with torch.no_grad():
            found = self.net(x)
        behind = self._backward[0](x)
        if not isinstance(behind, Tensor) or behind.shape != found.shape:
            shape = tuple(behind.shape) if isinstance(behind, Tensor) else type(behind).__name__
            raise NetworkError(
                f"backward= returns {shape} where the model returns {tuple(found.shape)}. Return its shape."
            )
        return through(found, behind)
