"""Gradients, whatever mode the caller's code is in.

Evaluation code runs within ``torch.no_grad()`` or ``torch.inference_mode()``, which gradients need to be switched back
on in, and hands over tensors and modules that were made there, which no gradient may pass. Functions that need
gradients are marked once, where users call them.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """The function outside of every such mode; arguments made in inference mode are copied, see :func:`usable`."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*(usable(a) for a in args), **{k: usable(a) for k, a in kwargs.items()})  # type: ignore[arg-type]

    return run


def usable(value: T) -> T:
    """The same where gradients may pass it already, otherwise a copy with tensors of its own.

    Args:
        value: a tensor, a module, or a frozen dataclass, dictionary, list or tuple of such; anything else is returned
            as it is.
    """
    lazy = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)
    return _copied(value) if any(not isinstance(t, lazy) and t.is_inference() for t in _tensors(value)) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors that :func:`_copied` would copy."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        for module in value.modules():
            yield from (t for t in (*module.parameters(False), *module.buffers(False)))
            yield from (t for t in vars(module).values() if isinstance(t, Tensor))
    else:
        for part in _parts(value).values():
            yield from _tensors(part)


def _parts(value: Any) -> dict[Any, Any]:
    """What a container holds, by name or place."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and value.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    return {}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, nn.Module):
        return copy.deepcopy(value)
    parts = {name: usable(part) for name, part in _parts(value).items()}
    if isinstance(value, dict):
        return parts
    if isinstance(value, list):
        return list(parts.values())
    if isinstance(value, tuple):
        return type(value)(*parts.values()) if hasattr(value, "_fields") else tuple(parts.values())
    return dataclasses.replace(value, **parts)
