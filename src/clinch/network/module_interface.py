"""Modules of several inputs or outputs, or behind a wrapper, as modules of one tensor in and one out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clinch.errors import NetworkError

#: name of the part of :class:`OneInOneOut` that is the user's module; layers are named without it
WHOLE = "_whole"


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and ``DataParallel``, which compute what it does.

    Raises:
        NetworkError: it was compiled by ``torch.jit.script``, so that nothing can be read of it.
    """
    while True:
        if type(model).__name__ == "RecursiveScriptModule":
            raise NetworkError(
                "A module of torch.jit.script cannot be read. Load the module that it was made from, or the file of "
                'torch.onnx.export(model, (x,), "net.onnx", dynamo=False).'
            )
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class OneInOneOut(nn.Module):
    """A module with all inputs but one fixed, and one of its outputs.

    Args:
        model: in evaluation mode.
        free: name of the free input; None: it is the first.
        fixed: values of the others by name.
        output: where the output is in what the module returns; None: it returns a tensor.
    """

    def __init__(self, model: nn.Module, free: str | None, fixed: Mapping[str, Any], output: str | None) -> None:
        super().__init__()
        self.add_module(WHOLE, model)
        self.free, self.output = free, output
        self.names = list(fixed)
        for i, value in enumerate(fixed.values()):
            if isinstance(value, Tensor):
                self.register_buffer(f"_fixed{i}", value, persistent=False)
            else:
                setattr(self, f"_fixed{i}", value)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """The chosen output at x."""
        given = {name: _for(getattr(self, f"_fixed{i}"), x) for i, name in enumerate(self.names)}
        model = self.get_submodule(WHOLE)
        result = model(x, **given) if self.free is None else model(**{self.free: x}, **given)
        return result if self.output is None else dict(parts(result))[self.output]


def _for(value: Any, x: Tensor) -> Any:
    """A fixed tensor for each input of a batch: one with a first dimension of 1 is repeated."""
    if isinstance(value, Tensor) and value.dim() and value.shape[0] == 1:
        return value.expand(x.shape[0], *value.shape[1:])
    return value


def parts(result: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors in what a module returns, by their places: ``logits``, ``1``, ``aux.0``."""
    if isinstance(result, Tensor):
        yield path, result
        return
    items: Any = ()
    if isinstance(result, Mapping):
        items = result.items()
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        items = zip(result._fields, result)  # type: ignore[attr-defined]
    elif isinstance(result, (list, tuple)):
        items = enumerate(result)
    elif is_dataclass(result):
        items = ((f.name, getattr(result, f.name)) for f in fields(result))
    for key, value in items:
        yield from parts(value, f"{path}.{key}" if path else str(key))


def parameters_of(model: nn.Module) -> tuple[list[inspect.Parameter], bool]:
    """Arguments of ``forward``, and whether it takes any number of them only."""
    try:
        found = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return [], True
    named = [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return named, not named


def one_input(model: nn.Module, fixed: Mapping[str, Any], name: str) -> tuple[str | None, bool]:
    """Name of the free input, None for the first, and whether the module has to be wrapped for it.

    Raises:
        NetworkError: more than one is free, or a fixed one does not exist.
    """
    named, any_number = parameters_of(model)
    if any_number:
        return None, True
    unknown = [key for key in fixed if key not in {p.name for p in named}]
    if unknown:
        listed = ", ".join(p.name for p in named)
        raise NetworkError(f"{name}.forward has no input '{unknown[0]}'. Its inputs are {listed}.")
    needed = [p.name for p in named if p.default is p.empty and p.name not in fixed]
    if len(needed) > 1:
        raise NetworkError(
            f"{name}.forward takes {len(needed)} inputs ({', '.join(needed)}). Fix all but one of them: "
            "cl.load(..., fixed={'name': value})."
        )
    left = [p for p in named if p.name not in fixed]
    if not left:
        raise NetworkError(f"All inputs of {name} are fixed. Leave one free.")
    free = needed[0] if needed else left[0].name
    positional = left[0].name == free and left[0].kind != left[0].KEYWORD_ONLY and named[0].name == free
    return (None if positional else free), bool(fixed) or not positional


def chosen_output(result: Any, output: str | int | None, count: int, name: str) -> str | None:
    """Where the output is in what the module returns for ``count`` inputs; None: it is that itself.

    Raises:
        NetworkError: none or several would do and none was asked for, or there is none of that name.
    """
    if isinstance(result, Tensor):
        if output not in (None, 0, "0"):
            raise NetworkError(f"{name} returns one tensor, which has no part '{output}'. Leave output= out.")
        return None
    found = dict(parts(result))
    listed = ", ".join(f"'{key}' {tuple(value.shape)}" for key, value in found.items())
    if output is not None:
        if str(output) not in found:
            raise NetworkError(f"{name} has no output '{output}'. It returns {listed or type(result).__name__}.")
        return str(output)
    if not found:
        raise NetworkError(f"{name} returns a {type(result).__name__}. Return a tensor of torch, one row per input.")
    real = [key for key, v in found.items() if v.is_floating_point() and v.dim() and v.shape[0] == count]
    if len(real) != 1:
        example = f"'{real[0]}'" if real and not real[0].isdigit() else real[0] if real else "'its name'"
        raise NetworkError(
            f"{name} returns a {type(result).__name__} with the tensors {listed or 'none'}. Choose one: "
            f"cl.load(..., output={example})."
        )
    return real[0]


def fixed_values(fixed: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Values of the other inputs: arrays become tensors, real ones in the model's dtype."""

    def one(value: Any) -> Any:
        if type(value).__module__ == "numpy" and hasattr(value, "shape"):
            value = torch.as_tensor(value)
        if isinstance(value, Tensor):
            value = value.detach()
            return value.to(device, dtype) if value.is_floating_point() else value.to(device)
        return value

    return {key: one(value) for key, value in fixed.items()}
