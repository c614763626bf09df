"""Nodes that reduce, accumulate, sort or normalise along axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.onnx_functions.table import Settings, node_type, within


def _log_of_sum(x: Tensor, dims: list[int]) -> Tensor:
    return x.sum(dims, keepdim=True).log()


def _product(x: Tensor, dims: list[int]) -> Tensor:
    for dim in dims:
        x = x.prod(dim, keepdim=True)
    return x


def _largest(x: Tensor, dims: list[int]) -> Tensor:
    return x.to(torch.uint8).amax(dims, keepdim=True).bool() if x.dtype == torch.bool else x.amax(dims, keepdim=True)


def _smallest(x: Tensor, dims: list[int]) -> Tensor:
    return x.to(torch.uint8).amin(dims, keepdim=True).bool() if x.dtype == torch.bool else x.amin(dims, keepdim=True)


_REDUCTIONS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "ReduceSum": lambda x, dims: x.sum(dims, keepdim=True, dtype=x.dtype),
    "ReduceMean": lambda x, dims: x.mean(dims, keepdim=True),
    "ReduceMax": _largest,
    "ReduceMin": _smallest,
    "ReduceProd": _product,
    "ReduceL1": lambda x, dims: x.abs().sum(dims, keepdim=True),
    "ReduceL2": lambda x, dims: x.square().sum(dims, keepdim=True).sqrt(),
    "ReduceSumSquare": lambda x, dims: x.square().sum(dims, keepdim=True),
    "ReduceLogSum": _log_of_sum,
    "ReduceLogSumExp": lambda x, dims: x.logsumexp(dims, keepdim=True),
}


def _reduce(node: Settings, x: Tensor, axes: Tensor | None = None, *, name: str) -> Tensor:
    dims = node.ints("axes", axes) or []
    if not dims:
        dims = [] if node.get("noop_with_empty_axes", 0) else list(range(x.dim()))
    # without an axis each element is reduced by itself
    result = _REDUCTIONS[name](x.unsqueeze(-1), [-1]).squeeze(-1) if not dims else _REDUCTIONS[name](x, dims)
    if node.get("keepdims", 1):
        return result
    gone = {d % x.dim() for d in dims}
    return result.reshape([n for d, n in enumerate(result.shape) if d not in gone])


for _name in _REDUCTIONS:
    node_type(_name)(partial(_reduce, name=_name))


def _extreme(node: Settings, x: Tensor, *, largest: bool) -> Tensor:
    axis = node.get("axis", 0)
    keep = bool(node.get("keepdims", 1))
    last = bool(node.get("select_last_index", 0))
    y = x.flip(axis) if last else x
    found = y.argmax(axis, keepdim=keep) if largest else y.argmin(axis, keepdim=keep)
    return x.shape[axis] - 1 - found if last else found


node_type("ArgMax")(partial(_extreme, largest=True))
node_type("ArgMin")(partial(_extreme, largest=False))


def _coerced(node: Settings, x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Before opset 13 these run over all dimensions from ``axis`` on."""
    if node.opset >= 13:
        return function(x, node.get("axis", -1))
    axis = node.get("axis", 1) % x.dim()
    flat = x.flatten(axis) if axis < x.dim() else x.unsqueeze(-1)
    return function(flat, -1).reshape(x.shape)


@node_type("Softmax")
def _softmax(node: Settings, x: Tensor) -> Tensor:
    return _coerced(node, x, torch.softmax)


@node_type("LogSoftmax")
def _log_softmax(node: Settings, x: Tensor) -> Tensor:
    return _coerced(node, x, torch.log_softmax)


@node_type("Hardmax")
def _hardmax(node: Settings, x: Tensor) -> Tensor:
    def first_largest(y: Tensor, dim: int) -> Tensor:
        places = torch.arange(y.shape[dim], device=y.device).reshape([-1] + [1] * ((y.dim() - 1 - dim) % y.dim()))
        return (places == y.argmax(dim, keepdim=True)).to(y.dtype)

    return _coerced(node, x, first_largest)


def _accumulate(node: Settings, x: Tensor, axis: Tensor, *, function: Callable[..., Tensor]) -> Tensor:
    dim = int(axis)
    backwards, exclusive = bool(node.get("reverse", 0)), bool(node.get("exclusive", 0))
    y = x.flip(dim) if backwards else x
    if exclusive:
        first = torch.full_like(y.narrow(dim, 0, 1), 0 if function is torch.cumsum else 1)
        y = torch.cat([first, y.narrow(dim, 0, y.shape[dim] - 1)], dim)
    y = function(y, dim, dtype=x.dtype)
    return y.flip(dim) if backwards else y


node_type("CumSum")(partial(_accumulate, function=torch.cumsum))
node_type("CumProd")(partial(_accumulate, function=torch.cumprod))


@node_type("TopK")
def _top_k(node: Settings, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    count = int(k if k is not None else node.get("k"))
    axis, descending = node.get("axis", -1), bool(node.get("largest", 1))
    # stable: of equal elements the first one goes first
    values, places = x.sort(dim=axis, descending=descending, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


@node_type("LpNormalization")
def _lp_normalization(node: Settings, x: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(x, node.get("p", 2), node.get("axis", -1), keepdim=True)
    return torch.where(size == 0, torch.zeros_like(x), x / torch.where(size == 0, torch.ones_like(size), size))


@node_type("MeanVarianceNormalization")
def _mean_variance(node: Settings, x: Tensor) -> Tensor:
    axes = node.ints("axes") or [0, 2, 3]
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


@node_type("BatchNormalization")
def _batch_norm(node: Settings, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if node.get("training_mode", 0):
        raise ValueError("it is in training mode")
    channel = [1, -1] + [1] * (x.dim() - 2)
    factor = scale / (variance + node.get("epsilon", 1e-5)).sqrt()
    return (x - mean.reshape(channel)) * factor.reshape(channel) + bias.reshape(channel)


@node_type("InstanceNormalization")
def _instance_norm(node: Settings, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return _by_groups(x, x.shape[1], scale, bias, node.get("epsilon", 1e-5))


@node_type("GroupNormalization")
def _group_norm(node: Settings, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node.get("num_groups")
    if scale.shape[0] != x.shape[1]:
        # before opset 21 there is one scale for each group
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return _by_groups(x, groups, scale, bias, node.get("epsilon", 1e-5))


def _by_groups(x: Tensor, groups: int, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    flat = x.reshape(x.shape[0], groups, -1)
    centred = flat - flat.mean(-1, keepdim=True)
    normal = (centred / (centred.square().mean(-1, keepdim=True) + epsilon).sqrt()).reshape(x.shape)
    channel = [1, -1] + [1] * (x.dim() - 2)
    return normal * scale.reshape(channel) + bias.reshape(channel)


@node_type("LayerNormalization")
def _layer_norm(node: Settings, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
    dims = list(range(node.get("axis", -1) % x.dim(), x.dim()))
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    inverse = (centred.square().mean(dims, keepdim=True) + node.get("epsilon", 1e-5)).rsqrt()
    y = centred * inverse * scale
    y = y if bias is None else y + bias
    return y if node.outputs == 1 else (y, mean, inverse)


@node_type("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(node: Settings, x: Tensor, scale: Tensor) -> Tensor:
    dims = list(range(node.get("axis", -1) % x.dim(), x.dim()))
    return x * (x.square().mean(dims, keepdim=True) + node.get("epsilon", 1e-5)).rsqrt() * scale


@node_type("LRN")
def _lrn(node: Settings, x: Tensor) -> Tensor:
    size, alpha = node.get("size"), node.get("alpha", 1e-4)
    within(math.prod(x.shape[:1]) * (x.shape[1] + size) * math.prod(x.shape[2:]))
    squares = functional.pad(x.square(), [0, 0] * (x.dim() - 2) + [(size - 1) // 2, size // 2])
    total = squares.unfold(1, size, 1).sum(-1)
    return x / (node.get("bias", 1.0) + alpha / size * total) ** node.get("beta", 0.75)


@node_type("NegativeLogLikelihoodLoss")
def _nll(node: Settings, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    ignored = node.get("ignore_index", -100)
    return functional.nll_loss(x, target.to(torch.int64), weight, ignore_index=ignored, reduction=_reduction(node))


@node_type("SoftmaxCrossEntropyLoss")
def _cross_entropy(
    node: Settings, x: Tensor, target: Tensor, weight: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    logs = x.log_softmax(1)
    loss = _nll(node, logs, target, weight)
    assert isinstance(loss, Tensor)
    return loss if node.outputs == 1 else (loss, logs)


def _reduction(node: Settings) -> str:
    return node.get("reduction", "mean")


@node_type("Det")
def _det(node: Settings, x: Tensor) -> Tensor:
    return torch.linalg.det(x)
