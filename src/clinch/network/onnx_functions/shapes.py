"""Nodes that rearrange, choose, repeat and join."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clinch.network.onnx_functions.table import DTYPES, Settings, node_type, within


@node_type("Reshape")
def _reshape(node: Settings, x: Tensor, shape: Tensor | None = None) -> Tensor:
    target = node.ints("shape", shape) or []
    if not node.get("allowzero", 0):
        target = [x.shape[i] if n == 0 else n for i, n in enumerate(target)]
    return x.reshape(target)


@node_type("Flatten")
def _flatten(node: Settings, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    front = math.prod(x.shape[: axis if axis >= 0 else axis + x.dim()])
    return x.reshape(front, x.numel() // front)


@node_type("Squeeze")
def _squeeze(node: Settings, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = node.ints("axes", axes)
    return x.squeeze() if dims is None else x.squeeze(dims)


@node_type("Unsqueeze")
def _unsqueeze(node: Settings, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = node.ints("axes", axes) or []
    rank = x.dim() + len(dims)
    for dim in sorted(d % rank for d in dims):
        x = x.unsqueeze(dim)
    return x


@node_type("Transpose")
def _transpose(node: Settings, x: Tensor) -> Tensor:
    return x.permute(node.ints("perm") or list(range(x.dim()))[::-1])


@node_type("Expand")
def _expand(node: Settings, x: Tensor, shape: Tensor) -> Tensor:
    extents = torch.broadcast_shapes(x.shape, shape.tolist())
    within(math.prod(extents))
    return x.expand(extents)


@node_type("Tile")
def _tile(node: Settings, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(repeats.tolist())


@node_type("Concat")
def _concat(node: Settings, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, node.get("axis", 1))


@node_type("Split")
def _split(node: Settings, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, given = node.get("axis", 0), node.ints("split", sizes)
    if given is not None:
        return x.split(given, axis)
    return x.split(-(-x.shape[axis] // (node.get("num_outputs") or node.outputs)), axis)


@node_type("Slice")
def _slice(
    node: Settings,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = node.ints("starts", starts) or [], node.ints("ends", ends) or []
    dims = node.ints("axes", axes) or list(range(len(first)))
    for dim, start, end, step in zip(dims, first, last, node.ints("steps", steps) or [1] * len(first)):
        chosen = range(x.shape[dim])[start:end:step]
        x = x.index_select(dim, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))
    return x


def _wrapped(indices: Tensor, size: int) -> Tensor:
    whole = indices.to(torch.int64)
    return torch.where(whole < 0, whole + size, whole)


@node_type("Gather")
def _gather(node: Settings, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.dim()
    chosen = x.index_select(axis, _wrapped(indices, x.shape[axis]).flatten())
    return chosen.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@node_type("GatherElements")
def _gather_elements(node: Settings, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


def _places(indices: Tensor, extents: Sequence[int]) -> Tensor:
    """Rows of indices ``(..., k)`` as one index into the first k extents."""
    flat = torch.zeros_like(indices[..., 0], dtype=torch.int64)
    for i, n in enumerate(extents):
        flat = flat * n + _wrapped(indices[..., i], n)
    return flat


@node_type("GatherND")
def _gather_nd(node: Settings, x: Tensor, indices: Tensor) -> Tensor:
    batch, depth = node.get("batch_dims", 0), indices.shape[-1]
    extents, rest = x.shape[batch : batch + depth], x.shape[batch + depth :]
    lead = math.prod(x.shape[:batch])
    flat = x.reshape(lead, math.prod(extents), math.prod(rest))
    places = _places(indices, extents).reshape(lead, -1)
    found = torch.gather(flat, 1, places.unsqueeze(-1).expand(-1, -1, flat.shape[-1]))
    return found.reshape(*indices.shape[:-1], *rest)


_SCATTER = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@node_type("Scatter", "ScatterElements")
def _scatter_elements(node: Settings, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, how = node.get("axis", 0), node.get("reduction", "none")
    places = _wrapped(indices, x.shape[axis])
    if how == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _SCATTER[how])


@node_type("ScatterND")
def _scatter_nd(node: Settings, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth, how = indices.shape[-1], node.get("reduction", "none")
    rest = math.prod(x.shape[depth:])
    flat = x.reshape(math.prod(x.shape[:depth]), rest)
    places = _places(indices, x.shape[:depth]).reshape(-1, 1).expand(-1, rest)
    values = updates.reshape(-1, rest)
    flat = flat.scatter(0, places, values) if how == "none" else flat.scatter_reduce(0, places, values, _SCATTER[how])
    return flat.reshape(x.shape)


@node_type("TensorScatter")
def _tensor_scatter(node: Settings, past: Tensor, update: Tensor, begin: Tensor | None = None) -> Tensor:
    axis = node.get("axis", -2) % past.dim()
    size, length = past.shape[axis], update.shape[axis]
    start = begin if begin is not None else torch.zeros(past.shape[0], dtype=torch.int64)
    places = start.reshape([-1] + [1] * (past.dim() - 1)) + torch.arange(length).reshape(
        [-1 if d == axis else 1 for d in range(past.dim())]
    )
    places = places % size if node.get("mode", "linear") == "circular" else places
    return past.scatter(axis, places.expand(update.shape), update)


@node_type("Pad")
def _pad(
    node: Settings, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    amounts = node.ints("pads", pads) or []
    fill = float(value) if value is not None and value.numel() else float(node.get("value", 0.0))
    dims = node.ints("axes", axes) or list(range(x.dim()))
    count, mode = len(dims), node.get("mode", "constant")
    for dim, begin, end in zip(dims, amounts[:count], amounts[count:]):
        x = _padded(x, dim, begin, end, mode, fill)
    return x


def _padded(x: Tensor, dim: int, begin: int, end: int, mode: str, fill: float) -> Tensor:
    size = x.shape[dim]
    places = torch.arange(-begin, size + end, device=x.device)
    if mode == "constant":
        inside = (places >= 0) & (places < size)
        shape = [-1 if d == dim % x.dim() else 1 for d in range(x.dim())]
        if not size:
            return torch.full([len(places) if d == dim % x.dim() else n for d, n in enumerate(x.shape)], fill)
        return torch.where(inside.reshape(shape), x.index_select(dim, places.clamp(0, size - 1)), x.new_tensor(fill))
    if mode == "edge":
        places = places.clamp(0, size - 1)
    elif mode == "wrap":
        places = places % size
    else:
        period = max(2 * (size - 1), 1)
        places = (size - 1) - ((places % period) - (size - 1)).abs()
    return x.index_select(dim, places)


@node_type("CenterCropPad")
def _centre(node: Settings, x: Tensor, shape: Tensor) -> Tensor:
    dims = node.ints("axes") or list(range(x.dim()))
    for dim, target in zip(dims, shape.tolist()):
        size = x.shape[dim]
        if target < size:
            x = x.narrow(dim, (size - target) // 2, target)
        else:
            begin = (target - size) // 2
            x = _padded(x, dim, begin, target - size - begin, "constant", 0.0)
    return x


@node_type("DepthToSpace")
def _depth_to_space(node: Settings, x: Tensor) -> Tensor:
    b, (n, c, h, w) = node.get("blocksize"), x.shape
    if node.get("mode", "DCR") == "DCR":
        y = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // (b * b), h * b, w * b)


@node_type("SpaceToDepth")
def _space_to_depth(node: Settings, x: Tensor) -> Tensor:
    b, (n, c, h, w) = node.get("blocksize"), x.shape
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    y = x.reshape(n, c, h // b, b, w // b, b).permute(order)
    return y.reshape(n, c * b * b, h // b, w // b)


@node_type("Trilu")
def _trilu(node: Settings, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


@node_type("EyeLike")
def _eye_like(node: Settings, x: Tensor) -> Tensor:
    dtype = DTYPES[node.get("dtype")] if node.get("dtype") else x.dtype
    rows, columns = (torch.arange(n).reshape(s) for n, s in zip(x.shape, ((-1, 1), (1, -1))))
    return (columns - rows == node.get("k", 0)).to(dtype)


@node_type("Shape")
def _shape(node: Settings, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[node.get("start", 0) : node.get("end")], dtype=torch.int64)


@node_type("Size")
def _size(node: Settings, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@node_type("ConstantOfShape")
def _constant_of_shape(node: Settings, shape: Tensor) -> Tensor:
    value = node.get("value", torch.zeros(1))
    within(math.prod(shape.tolist()))
    value = value.to(node.dtype) if value.is_floating_point() else value
    return value.reshape(()).expand(shape.tolist())


@node_type("Range")
def _range(node: Settings, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    within(int(max(0, (limit.item() - start.item()) / delta.item())))
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@node_type("Compress")
def _compress(node: Settings, x: Tensor, condition: Tensor) -> Tensor:
    axis = node.get("axis")
    chosen = condition.nonzero().flatten()
    return x.flatten().index_select(0, chosen) if axis is None else x.index_select(axis, chosen)


@node_type("NonZero")
def _non_zero(node: Settings, x: Tensor) -> Tensor:
    return x.nonzero().T


@node_type("Unique")
def _unique(node: Settings, x: Tensor) -> tuple[Tensor, ...]:
    axis = node.get("axis")
    values, inverse, counts = torch.unique(x, sorted=True, return_inverse=True, return_counts=True, dim=axis)
    flat = inverse.flatten()
    places = torch.arange(len(flat)).flip(0)
    first = torch.zeros(len(counts), dtype=torch.int64).scatter(0, flat.flip(0), places)
    if not node.get("sorted", 1):
        order = first.argsort()
        values = values.index_select(axis or 0, order)
        rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order)))
        return values, first[order], rank[flat], counts[order]
    return values, first, flat, counts


@node_type("ReverseSequence")
def _reverse_sequence(node: Settings, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    y = x.movedim((batch, time), (0, 1))
    places = torch.arange(y.shape[1]).unsqueeze(0)
    ends = lengths.reshape(-1, 1)
    places = torch.where(places < ends, ends - 1 - places, places)
    places = places.reshape(*places.shape, *[1] * (y.dim() - 2)).expand(y.shape)
    return torch.gather(y, 1, places).movedim((0, 1), (batch, time))


@node_type("Einsum")
def _einsum(node: Settings, *inputs: Tensor) -> Tensor:
    return torch.einsum(node.get("equation"), *inputs)


@node_type("MatMul")
def _matmul(node: Settings, x: Tensor, y: Tensor) -> Tensor:
    return x @ y


@node_type("Gemm")
def _gemm(node: Settings, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    left = a.mT if node.get("transA", 0) else a
    right = b.mT if node.get("transB", 0) else b
    product = left @ right
    product = product if node.get("alpha", 1.0) == 1 else node.get("alpha") * product
    return product if c is None else product + (c if node.get("beta", 1.0) == 1 else node.get("beta") * c)


@node_type("DFT")
def _dft(node: Settings, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    dim = int(axis) if axis is not None else node.get("axis", 1 if node.opset < 20 else -2)
    dim = dim % x.dim()
    size = int(length) if length is not None else None
    inverse, onesided = bool(node.get("inverse", 0)), bool(node.get("onesided", 0))
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else torch.complex(x[..., 0], x[..., 0] * 0)
    if inverse and onesided:
        return torch.fft.irfft(signal, size, dim).unsqueeze(-1)
    found = torch.fft.ifft(signal, size, dim) if inverse else torch.fft.fft(signal, size, dim)
    if onesided:
        found = found.narrow(dim, 0, found.shape[dim] // 2 + 1)
    return torch.stack([found.real, found.imag], -1)


@node_type("STFT")
def _stft(
    node: Settings, signal: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
) -> Tensor:
    size = int(length) if length is not None else len(window) if window is not None else signal.shape[1]
    frames = signal.unfold(1, size, int(step))
    within(frames.numel())
    frames = frames.movedim(-1, 2) if frames.dim() == 4 else frames.unsqueeze(-1)
    if window is not None:
        frames = frames * window.reshape(1, 1, -1, 1)
    found = _dft(Settings({"onesided": 0, "axis": 2}, 17), frames)
    assert isinstance(found, Tensor)
    return found.narrow(2, 0, size // 2 + 1) if node.get("onesided", 1) else found


@node_type("Col2Im")
def _col_to_image(node: Settings, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    size, kernel = image.tolist(), block.tolist()
    count = len(size)
    pads = node.ints("pads") or [0] * 2 * count
    strides, dilations = node.ints("strides") or [1] * count, node.ints("dilations") or [1] * count
    channels = x.shape[1] // math.prod(kernel)
    begin, end = pads[:count], pads[count:]
    padded = [n + b + e for n, b, e in zip(size, begin, end)]
    moves = [(p - d * (k - 1) - 1) // s + 1 for p, d, k, s in zip(padded, dilations, kernel, strides)]
    within(math.prod(kernel) * math.prod(moves) + x.shape[0] * channels * math.prod(padded))
    place = torch.zeros(math.prod(kernel), math.prod(moves), dtype=torch.int64)
    for i in range(count):
        inside = torch.arange(kernel[i]).reshape([-1 if j == i else 1 for j in range(count)]).expand(kernel).flatten()
        at = torch.arange(moves[i]).reshape([-1 if j == i else 1 for j in range(count)]).expand(moves).flatten()
        place = place * padded[i] + inside.unsqueeze(1) * dilations[i] + at.unsqueeze(0) * strides[i]
    values = x.reshape(x.shape[0], channels, -1)
    full = torch.zeros(x.shape[0], channels, math.prod(padded), dtype=x.dtype, device=x.device)
    full = full.index_add(2, place.flatten(), values).reshape(x.shape[0], channels, *padded)
    for i in range(count):
        full = full.narrow(2 + i, begin[i], size[i])
    return full
