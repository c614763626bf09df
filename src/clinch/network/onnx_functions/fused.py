"""Nodes of ``com.microsoft`` that onnxruntime's optimiser writes: several standard nodes in one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.onnx_functions.table import FUNCTIONS, Settings, node_type
from clinch.network.onnx_functions.windows import convolution

_DOMAIN = "com.microsoft."


def _word(node: Settings, name: str) -> str:
    value = node.get(name, "")
    return value.decode() if isinstance(value, bytes) else value


def _activated(node: Settings, x: Tensor, name: str, values: list[float]) -> Tensor:
    """Behind the standard's node of that type, its numbers in the standard's order."""
    if not name:
        return x
    if name == "Clip":
        return x.clamp(*values[:2])
    given = dict(zip(("alpha", "beta"), values))
    return FUNCTIONS[name](Settings(given, node.opset, 1, node.dtype), x)  # type: ignore[return-value]


def _turned(x: Tensor, node: Settings, which: str) -> Tensor:
    """A matrix as the node takes it: its first dimension moved behind the others, its last two changed over."""
    if node.get(f"transBatch{which}", 0):
        x = x.movedim(0, -2)
    return x.mT if node.get(f"trans{which}", 0) and x.dim() > 1 else x


@node_type(f"{_DOMAIN}FusedMatMul", f"{_DOMAIN}TransposeMatMul")
def _fused_matmul(node: Settings, a: Tensor, b: Tensor) -> Tensor:
    return node.get("alpha", 1.0) * (_turned(a, node, "A") @ _turned(b, node, "B"))


@node_type(f"{_DOMAIN}FusedGemm")
def _fused_gemm(node: Settings, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    y = _fused_matmul(node, a, b)
    y = y if c is None else y + node.get("beta", 1.0) * c
    values = [node.get(f"activation_{n}") for n in ("alpha", "beta")]
    return _activated(node, y, _word(node, "activation"), [v for v in values if v is not None])


@node_type(f"{_DOMAIN}FusedConv")
def _fused_conv(node: Settings, x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
    y = convolution(node, x, w, b)
    y = y if z is None else y + z
    return _activated(node, y, _word(node, "activation"), list(node.get("activation_params") or []))


@node_type(f"{_DOMAIN}Gelu", f"{_DOMAIN}BiasGelu")
def _gelu(node: Settings, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias)


@node_type(f"{_DOMAIN}FastGelu")
def _fast_gelu(node: Settings, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


@node_type(f"{_DOMAIN}QuickGelu")
def _quick_gelu(node: Settings, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.702) * x)


@node_type(f"{_DOMAIN}SkipLayerNormalization")
def _skip_layer_norm(
    node: Settings, x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    total = x + skip if bias is None else x + skip + bias
    y = functional.layer_norm(total, gamma.shape, gamma, beta, node.get("epsilon", 1e-12))
    return y if node.outputs == 1 else _with_sum(y, total, node)


@node_type(f"{_DOMAIN}SkipSimplifiedLayerNormalization")
def _skip_rms_norm(
    node: Settings, x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    total = x + skip if bias is None else x + skip + bias
    y = total * torch.rsqrt((total * total).mean(-1, keepdim=True) + node.get("epsilon", 1e-12)) * gamma
    return y if node.outputs == 1 else _with_sum(y, total, node)


def _with_sum(y: Tensor, total: Tensor, node: Settings) -> tuple[Tensor, ...]:
    """The results that are asked for: the second and third, of mean and deviation, are empty at inference."""
    empty = total.new_zeros(0)
    return (y, empty, empty, total)[: node.outputs]


@node_type(f"{_DOMAIN}Attention")
def _attention(node: Settings, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Queries, keys and values by one matrix, attention of several heads; without a past and a mask of its own."""
    total = functional.linear(x, w.mT, b)
    sizes = node.get("qkv_hidden_sizes") or [total.shape[-1] // 3] * 3
    q, k, v = (part.unflatten(-1, (node.get("num_heads"), -1)).transpose(-2, -3) for part in total.split(sizes, -1))
    scores = q @ k.mT * (node.get("scale", 0.0) or q.shape[-1] ** -0.5)
    if node.get("unidirectional", 0):
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2)


@node_type(f"{_DOMAIN}MatMulNBits")
def _matmul_bits(
    node: Settings, x: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor | None = None, *rest: Tensor | None
) -> Tensor:
    """``x Wᵀ``; W rounded in blocks, several entries a byte, the lowest bits first."""
    groups, bias = (*rest, None, None)[:2]
    bits, rows, columns = node.get("bits", 4), node.get("N"), node.get("K")
    if groups is not None:
        raise NotImplementedError("entries in another order")

    def unpacked(data: Tensor) -> Tensor:
        parts = [data.to(torch.int64) >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
        return torch.stack(parts, -1).flatten(-2)

    scale = scales.to(node.dtype).reshape(rows, -1, 1)
    entries = unpacked(packed.reshape(rows, scale.shape[1], -1)).to(node.dtype)
    zero: Tensor | float = 2.0 ** (bits - 1)
    if zeros is not None:
        whole = zeros if zeros.is_floating_point() else unpacked(zeros.reshape(rows, -1))
        zero = whole.to(node.dtype).reshape(rows, -1)[:, : scale.shape[1], None]
    weight = ((entries - zero) * scale).flatten(1)[:, :columns]
    return functional.linear(x.to(node.dtype), weight, None if bias is None else bias.to(node.dtype))
