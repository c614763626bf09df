"""``torch.export`` without its noise, and with its errors in plain words."""

from __future__ import annotations

import io
import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.fx import Node as Exported
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as tree

from clinch.errors import NetworkError


def export(model: nn.Module, x: Tensor) -> Any:
    """The exported program of a module, with the number of inputs left free and nothing decomposed.

    Args:
        model: in evaluation mode.
        x: two inputs, ``(2, *input_shape)``.

    Raises:
        NetworkError: the module branches on values or on the number of inputs, or fails; gives the user's line.
    """
    try:
        program = _exported(model, x)
        if _counts(program):
            with suppress(Exception):
                again = _exported(model, x, constants=True)
                program = program if _counts(again) else again
        return program
    except Exception as error:
        line = user_line(error)
        text = str(error)
        if "specialized" in text or "Constraints violated" in text:
            # len(x) is a number of Python's unless its code is read too
            with suppress(Exception):
                return _exported(model, x, strict=True)
            raise NetworkError(
                f"{type(model).__name__} fixes the number of inputs{line}: its code depends on the size of the batch. "
                "Write it for a batch of any size, for instance x.flatten(1) or x.view(x.shape[0], -1)."
            ) from error
        if type(error).__name__.startswith("GuardOnDataDependent"):
            with suppress(Exception):
                return _exported(model, x, constants=True)
            raise NetworkError(
                f"{type(model).__name__} branches on the values of its input{line}, so that it is no single graph. "
                "Use functions of tensors in place of the branch (torch.relu, torch.clamp, torch.maximum)."
            ) from error
        reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise NetworkError(
            f"{type(model).__name__} cannot be exported{line}: {reason}. "
            "Export it to ONNX, or rewrite that line with functions of torch only."
        ) from error


def _exported(model: nn.Module, x: Tensor, *, strict: bool = False, constants: bool = False) -> Any:
    known = _whole_buffers_known(model) if constants else nullcontext()
    with _quiet(), _written_out(), _Respelled(constants), torch.no_grad(), known:
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        program = torch.export.export(model, (x,), dynamic_shapes=dynamic, strict=strict)
        again = _writes_into_a_part(program) or _waits(program)
        return program.run_decompositions({}) if again else program


def exported_in_parts(model: nn.Module, x: Tensor, table: dict[Any, Any]) -> Any:
    """The exported program of a module in the calls that a table of decompositions leaves.

    Args:
        model: in evaluation mode.
        x: two inputs, ``(2, *input_shape)``.
        table: call -> the function that writes it out.
    """
    with _quiet(), _written_out(), _Respelled(), torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
        return program.run_decompositions(table)


def _counts(program: Any) -> bool:
    """Whether sizes depend on values, such as on how many elements a mask keeps."""
    shapes = (getattr(node.meta.get("val"), "shape", ()) for node in program.graph.nodes)
    return any(str(extent).startswith("u") for shape in shapes for extent in shape)


def _waits(program: Any) -> bool:
    """Whether calls of ``torch.func`` such as ``vmap``, or a part under another mode, still wait to be carried out."""
    targets = (getattr(node.target, "__module__", None) or "" for node in program.graph.nodes)
    return any(module.startswith(("torch._functorch", "torch.ops.higher_order")) for module in targets)


def _rounded_to_steps(
    x: Tensor, scale: float | Tensor, zero_point: int | Tensor, quant_min: int, quant_max: int
) -> Tensor:
    """``s·(min(max(⌊x/s⌉ + z, least), most) − z)``."""
    steps = torch.clamp(torch.round(x / scale) + zero_point, quant_min, quant_max)
    return (steps - zero_point) * scale


def _rounded_by_channel(
    x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, quant_min: int, quant_max: int
) -> Tensor:
    """The same with a scale for each place along an axis."""
    shape = [-1 if d == axis else 1 for d in range(x.dim())]
    return _rounded_to_steps(x, scale.reshape(shape), zero_point.reshape(shape), quant_min, quant_max)


def _taken(x: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """``take_along_dim`` of an index that is the same for each input."""
    if dim is None or indices.dim() != x.dim() or dim % x.dim() == 0:
        return torch.ops.aten.take_along_dim(x, indices, dim)
    shape = [n if d == dim % x.dim() else m for d, (n, m) in enumerate(zip(indices.shape, x.shape))]
    return torch.gather(x, dim, indices.expand(shape))


#: what depends on the input or the weights while a module is exported
_TRACED = (FakeTensor, nn.Parameter, torch.SymInt, torch.SymFloat, torch.SymBool)
_SPELLINGS = {
    torch.fake_quantize_per_tensor_affine: _rounded_to_steps,
    torch.fake_quantize_per_channel_affine: _rounded_by_channel,
    torch.take_along_dim: _taken, Tensor.take_along_dim: _taken,
}  # fmt: skip


class _Respelled(TorchFunctionMode):
    """Calls that cannot be exported, as others that give the same.

    Args:
        constants: calls of constants alone, such as masks, are carried out, so that code may branch on their values.
    """

    def __init__(self, constants: bool = False) -> None:
        super().__init__()
        self.constants = constants

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The other call, where there is one."""
        if self.constants and not any(isinstance(v, _TRACED) for v in tree.tree_leaves((args, kwargs))):
            with unset_fake_temporarily(), disable_proxy_modes_tracing():
                return func(*args, **(kwargs or {}))
        return _SPELLINGS.get(func, func)(*args, **(kwargs or {}))


#: calls that give a part of their input, or its elements in another order, as the same memory
_VIEWS = frozenset(
    f"aten.{name}" for name in ("select", "slice", "narrow", "transpose", "permute", "t", "diagonal", "split", "chunk",
                                "unbind", "squeeze", "unsqueeze", "unflatten", "index", "as_strided", "view", "reshape")
)  # fmt: skip


def _writes_into_a_part(program: Any) -> bool:
    """Whether a call works in place on a part of another tensor, which changes with it."""
    for node in program.graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable and node.args:
            changed = node.args[0]
            if not isinstance(changed, Exported) or changed.op != "call_function":
                continue
            packet = getattr(changed.target, "overloadpacket", "aten.select")
            if str(packet) in _VIEWS:
                return True
    return False


@contextmanager
def _whole_buffers_known(model: nn.Module) -> Iterator[None]:
    """Buffers of whole numbers and truth values as attributes of their parts, whose values torch knows."""
    before = [(part, dict(part._buffers)) for part in model.modules()]
    known = [
        (part, name, value)
        for part, buffers in before
        for name, value in buffers.items()
        if value is not None and not value.is_floating_point() and not value.is_complex()
    ]
    for part, name, value in known:
        del part._buffers[name]
        part.__dict__[name] = value
    try:
        yield
    finally:
        for part, name, _ in known:
            del part.__dict__[name]
        for part, buffers in before:
            part._buffers.clear()
            part._buffers.update(buffers)


@contextmanager
def _written_out() -> Iterator[None]:
    """Attention and transformer layers as their parts: torch's fused kernels for inference have no gradient.
    Distributions without a look at the values of their parameters.
    """
    distribution = torch.distributions.Distribution
    before = torch.backends.mha.get_fastpath_enabled(), distribution._validate_args
    torch.backends.mha.set_fastpath_enabled(False)
    distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before[0])
        distribution.set_default_validate_args(before[1])


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export logs and prints what it then raises; the error says it better. What it writes into the process's
    environment, such as a folder for compiled code, is taken out again.
    """
    names = [name for name in logging.root.manager.loggerDict if name == "torch" or name.startswith("torch.")]
    loggers = [logging.getLogger(name) for name in names]
    before, environment = [logger.disabled for logger in loggers], set(os.environ)
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before):
            logger.disabled = disabled
        for name in set(os.environ) - environment:
            del os.environ[name]


def user_line(error: BaseException) -> str:
    """``" (model.py:12)"``: the last line of the user's own code in a traceback, or nothing."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""


def _is_users(filename: str) -> bool:
    inside = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(__file__)))
    return not filename.startswith("<") and not filename.startswith(inside)


def source_line(node: Exported, module: str) -> str:
    """File and line of the user's code, or the kind of module where there is none."""
    for line in reversed((node.meta.get("stack_trace") or "").splitlines()):
        text = line.strip()
        if text.startswith('File "'):
            filename, _, rest = text[len('File "') :].partition('", line ')
            if _is_users(filename) and os.path.isabs(filename):
                return f"{os.path.basename(filename)}:{rest.split(',')[0]}"
    return module
