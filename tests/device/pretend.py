"""A pretend CUDA device: computes on the CPU and refuses what CUDA would refuse.

A tensor on it holds a CPU tensor and says that it is on ``cuda:0``. Inside :class:`PretendCuda` factory calls and moves
to that device make such tensors, and an operator that gets one of them together with an ordinary CPU tensor of one or
more dimensions raises :class:`WrongDevice`. Code that runs here without an error makes every tensor on the device of
its neighbours, whatever hardware the test runs on.
"""

from __future__ import annotations

import functools

import torch
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda:0")
ATEN = torch.ops.aten

#: operators whose indices may be on the CPU while the tensor they index is on the device
INDEXED = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._index_put_impl_.default}
#: operators that refuse even a single number from the CPU; the others take it as a constant
STRICT = {ATEN.cat.default, ATEN.stack.default, ATEN.gather.default, ATEN.scatter_reduce.two}


class WrongDevice(RuntimeError):
    """A tensor of the pretend device met an ordinary CPU tensor."""


class Pretend(torch.Tensor):
    """A CPU tensor that says it is on ``cuda:0``."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        made.inner = inner
        return made

    @property
    def device(self):
        return CUDA

    def __repr__(self, *, tensor_contents=None):
        return f"Pretend({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not ATEN.copy_.default:
            _check(func, args, kwargs)
        out = func(*_inner(args), **_inner(kwargs))
        written = _written(func)
        if written is None:
            return _pretended(out)
        return kwargs["out"] if written == "out" else args[0]

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, *, force=False):
        raise WrongDevice("numpy() of a tensor on the device")

    def __array__(self, dtype=None, copy=None):
        raise WrongDevice("an array of a tensor on the device")


class PretendCuda(TorchFunctionMode):
    """Inside, ``device="cuda"`` means the pretend device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return _moved(func, *args, **kwargs)
        if "device" in kwargs:
            device = kwargs.pop("device")
            if device is not None and torch.device(device).type == "cuda":
                return self._made(func, args, kwargs)
            kwargs["device"] = device
        return func(*args, **kwargs)

    def _made(self, func, args, kwargs):
        """A factory call on the device."""
        if kwargs.get("generator") is not None:
            raise WrongDevice(f"{func.__name__}: a generator of the CPU draws on the device")
        made = func(*args, **kwargs)
        return made if isinstance(made, Pretend) else Pretend(made)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return _other_side(x)

    @staticmethod
    def backward(ctx, gradient):
        return _other_side(gradient)


def _other_side(x):
    return x.inner.clone() if isinstance(x, Pretend) else Pretend(x.detach().clone())


def _moved(func, x, *args, **kwargs):
    """``x.to(...)`` with its many ways to say where and what."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for word in args:
        if isinstance(word, torch.Tensor):
            device, dtype = word.device, word.dtype
        elif isinstance(word, torch.dtype):
            dtype = word
        elif isinstance(word, str | torch.device):
            device = word
    device = {torch.Tensor.cpu: "cpu", torch.Tensor.cuda: "cuda"}.get(func, device)
    x = x if dtype is None else x.to(dtype)
    there = x.device.type if device is None else torch.device(device).type
    return x if there == x.device.type else _Move.apply(x)


@functools.cache
def _written(func):
    """Name of the argument that an operator writes to and returns; None where it returns something new."""
    written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return written[0] if written else None


def _inner(leaf):
    if isinstance(leaf, Pretend):
        return leaf.inner
    if isinstance(leaf, list | tuple):
        return type(leaf)([_inner(part) for part in leaf])
    return {k: _inner(v) for k, v in leaf.items()} if isinstance(leaf, dict) else leaf


def _pretended(leaf):
    if isinstance(leaf, list | tuple):
        return type(leaf)([_pretended(part) for part in leaf])
    return Pretend(leaf) if isinstance(leaf, torch.Tensor) else leaf


def _tensors(leaf):
    """All tensors in nested arguments."""
    if isinstance(leaf, torch.Tensor):
        return [leaf]
    if isinstance(leaf, dict):
        leaf = list(leaf.values())
    return [t for part in leaf for t in _tensors(part)] if isinstance(leaf, list | tuple) else []


def _check(func, args, kwargs):
    """Refuse what CUDA refuses."""
    strangers = [t for t in (*_tensors(args), *_tensors(kwargs)) if not isinstance(t, Pretend)]
    strict = func in STRICT
    if func in INDEXED:
        strict = not isinstance(args[0], Pretend)
        index = {id(t) for t in args[1] if t is not None}
        strangers = [t for t in strangers if strict or id(t) not in index]
    for t in strangers:
        if t.dim() or strict:
            raise WrongDevice(f"{func}: a tensor of shape {tuple(t.shape)} is on the CPU, others are on the device")
