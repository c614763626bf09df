"""Convolutions, pools, resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from clinch.network.onnx_functions.table import Settings, node_type, within

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


Windows = tuple[list[int], list[int], list[int], list[int]]


def _around(node: Settings, extents: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Strides, dilations, and what is added in front of and behind each spatial dimension."""
    count = len(extents)
    strides, dilations = node.ints("strides") or [1] * count, node.ints("dilations") or [1] * count
    how, pads = node.get("auto_pad", "NOTSET"), node.ints("pads") or [0] * (2 * count)
    if how in ("NOTSET", ""):
        return strides, dilations, pads[:count], pads[count:]
    if how == "VALID":
        return strides, dilations, [0] * count, [0] * count
    total = [
        max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0) for n, s, d, k in zip(extents, strides, dilations, kernel)
    ]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (strides, dilations, less, more) if how == "SAME_UPPER" else (strides, dilations, more, less)


def _checked_kernel(node: Settings, w: Tensor) -> None:
    stated = node.ints("kernel_shape")
    if stated is not None and stated != list(w.shape[2:]):
        raise ValueError(f"its kernel_shape {stated} is not that of its kernel, {list(w.shape[2:])}")


def _pad(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    grown = zip(x.shape[2:], begin, end)
    within(math.prod(x.shape[:2]) * math.prod(max(n + b + e, 0) for n, b, e in grown))
    pairs = [n for b, e in zip(reversed(begin), reversed(end)) for n in (b, e)]
    return functional.pad(x, pairs, value=value) if any(pairs) else x


@node_type("Conv")
def convolution(node: Settings, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """``w * x + b``."""
    _checked_kernel(node, w)
    strides, dilations, begin, end = _around(node, x.shape[2:], w.shape[2:])
    conv = _CONVOLUTIONS[x.dim() - 2]
    return conv(_pad(x, begin, end), w, b, strides, 0, dilations, node.get("group", 1))


@node_type("ConvTranspose")
def _transposed(node: Settings, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    _checked_kernel(node, w)
    count = x.dim() - 2
    strides, dilations = node.ints("strides") or [1] * count, node.ints("dilations") or [1] * count
    extra, kernel = node.ints("output_padding") or [0] * count, w.shape[2:]
    shape, pads = node.ints("output_shape"), node.ints("pads") or [0] * (2 * count)
    how = node.get("auto_pad", "NOTSET")
    if shape is None and how.startswith("SAME"):
        shape = [n * s for n, s in zip(x.shape[2:], strides)]
    full = _TRANSPOSED[count](x, w, None, strides, 0, 0, node.get("group", 1), dilations)
    full = functional.pad(full, [n for e in reversed(extra) for n in (0, e)]) if any(extra) else full
    if shape is not None:
        total = [
            s * (n - 1) + e + d * (k - 1) + 1 - o
            for s, n, e, d, k, o in zip(strides, x.shape[2:], extra, dilations, kernel, shape)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = [*less, *more] if how == "SAME_UPPER" else [*more, *less]
    # a negative amount is cut off
    full = _pad(full, [-n for n in pads[:count]], [-n for n in pads[count:]])
    return full if b is None else full + b.reshape([1, -1] + [1] * count)


def _windows(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """``(N, C, *moves, prod(kernel))``."""
    count = len(kernel)
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations)):
        x = x.unfold(2 + i, d * (k - 1) + 1, s)[..., ::d]
    within(x.numel())
    return x.flatten(2 + count)


def _pooling(node: Settings, x: Tensor, fill: float) -> tuple[Tensor, list[int], list[int], list[int], list[int]]:
    """What the windows are taken from, kernel, strides, dilations, and how much is in front of each dimension."""
    kernel = node.ints("kernel_shape") or []
    strides, dilations, begin, end = _around(node, x.shape[2:], kernel)
    if node.get("ceil_mode", 0):
        grown = []
        for n, k, s, d, b, e in zip(x.shape[2:], kernel, strides, dilations, begin, end):
            moves = -(-(n + b + e - d * (k - 1) - 1) // s) + 1
            # a window that would begin behind the input is left out
            moves -= (moves - 1) * s >= n + b
            grown.append(max((moves - 1) * s + d * (k - 1) + 1 - n - b, 0))
        end = grown
    return _pad(x, begin, end, fill), kernel, strides, dilations, begin


@node_type("MaxPool")
def _max_pool(node: Settings, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    low = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded, kernel, strides, dilations, begin = _pooling(node, x, low)
    found, tap = _windows(padded, kernel, strides, dilations).max(-1)
    if node.outputs == 1:
        return found
    return found, _flat_places(node, x, tap, (kernel, strides, dilations, begin))


def _flat_places(node: Settings, x: Tensor, tap: Tensor, windows: Windows) -> Tensor:
    """Positions of the largest elements in the flat input."""
    kernel, strides, dilations, begin = windows
    count, places, taps = len(kernel), [], tap
    for i in reversed(range(count)):
        inside, taps = taps % kernel[i], taps // kernel[i]
        moves = torch.arange(tap.shape[2 + i]).reshape([-1 if d == 2 + i else 1 for d in range(tap.dim())])
        places.insert(0, moves * strides[i] - begin[i] + inside * dilations[i])
    order = range(count) if not node.get("storage_order", 0) else reversed(range(count))
    flat = torch.zeros_like(tap)
    for i in order:
        flat = flat * x.shape[2 + i] + places[i]
    lead = torch.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * count)
    return flat + lead * math.prod(x.shape[2:])


@node_type("MaxUnpool")
def _max_unpool(node: Settings, x: Tensor, places: Tensor, shape: Tensor | None = None) -> Tensor:
    kernel = node.ints("kernel_shape") or []
    count = len(kernel)
    strides, pads = node.ints("strides") or [1] * count, node.ints("pads") or [0] * (2 * count)
    size = [
        (n - 1) * s + k - pads[i] - pads[count + i] for i, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel))
    ]
    whole = [*x.shape[:2], *size]
    within(math.prod(whole))
    flat = torch.zeros(math.prod(whole), dtype=x.dtype).scatter(0, places.flatten(), x.flatten()).reshape(whole)
    if shape is None:
        return flat
    return _pad(flat, [0] * count, [target - n for target, n in zip(shape.tolist()[2:], size)])


@node_type("AveragePool")
def _average_pool(node: Settings, x: Tensor) -> Tensor:
    padded, kernel, strides, dilations, begin = _pooling(node, x, 0.0)
    counted = torch.ones_like(x[:1, :1])
    if node.get("count_include_pad", 0):
        _, _, _, end = _around(node, x.shape[2:], kernel)
        counted = _pad(counted, begin, end, 1.0)
        begin = [0] * len(kernel)
    after = [p - n - b for p, n, b in zip(padded.shape[2:], counted.shape[2:], begin)]
    counted = _pad(counted, begin, after)
    total = _windows(padded, kernel, strides, dilations).sum(-1)
    return total / _windows(counted, kernel, strides, dilations).sum(-1)


@node_type("LpPool")
def _lp_pool(node: Settings, x: Tensor) -> Tensor:
    p = node.get("p", 2)
    padded, kernel, strides, dilations, _ = _pooling(node, x.abs() ** p, 0.0)
    return _windows(padded, kernel, strides, dilations).sum(-1) ** (1 / p)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


@node_type("GlobalAveragePool")
def _global_average(node: Settings, x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


@node_type("GlobalMaxPool")
def _global_max(node: Settings, x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


@node_type("GlobalLpPool")
def _global_lp(node: Settings, x: Tensor) -> Tensor:
    p = node.get("p", 2)
    return (x.abs() ** p).sum(_spatial(x), keepdim=True) ** (1 / p)


@node_type("GridSample")
def _grid_sample(node: Settings, x: Tensor, grid: Tensor) -> Tensor:
    asked: str = node.get("mode", "linear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(asked, asked)
    return functional.grid_sample(x, grid, mode, node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0)))


@node_type("AffineGrid")
def _affine_grid(node: Settings, theta: Tensor, size: Tensor) -> Tensor:
    return functional.affine_grid(theta, size.tolist(), align_corners=bool(node.get("align_corners", 0)))


# --- resampling: along each dimension a matrix of weights ------------------------------------------------------------


@node_type("Upsample")
def _upsample(node: Settings, x: Tensor, scales: Tensor | None = None) -> Tensor:
    factors = (scales if scales is not None else torch.tensor(node.get("scales"))).tolist()
    mode = node.get("mode", "nearest")
    inner = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for dim, factor in enumerate(factors):
        if factor != 1:
            x = _resampled(Settings(inner, node.opset), x, dim, factor, math.floor(x.shape[dim] * factor), (0.0, 1.0))
    return x


@node_type("Resize")
def _resize(
    node: Settings, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    if node.opset < 11:
        return _upsample(node, x, roi)
    dims = node.ints("axes") or list(range(x.dim()))
    if sizes is not None and sizes.numel():
        target = [int(n) for n in sizes.tolist()]
        factors = [n / x.shape[d] for n, d in zip(target, dims)]
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factor = min(factors) if policy == "not_larger" else max(factors)
            factors = [factor] * len(dims)
            target = [math.floor(factor * x.shape[d] + 0.5) for d in dims]
    else:
        assert scales is not None
        factors = scales.tolist()
        target = [math.floor(x.shape[d] * f) for d, f in zip(dims, factors)]
    regions = [0.0] * len(dims) + [1.0] * len(dims) if roi is None or not roi.numel() else roi.tolist()
    for i, (dim, factor, size) in enumerate(zip(dims, factors, target)):
        region = (regions[i], regions[len(dims) + i])
        if factor != 1 or size != x.shape[dim] or region != (0.0, 1.0):
            x = _resampled(node, x, dim, factor, size, region)
    return x


def _coordinates(node: Settings, length: int, factor: float, size: int, region: tuple[float, float]) -> Tensor:
    """Where each output element lies in the input."""
    at = torch.arange(size, dtype=torch.float64)
    mode = node.get("coordinate_transformation_mode", "half_pixel")
    resized = factor * length
    if mode == "align_corners":
        return at * 0 if resized == 1 else at * (length - 1) / (resized - 1)
    if mode == "asymmetric":
        return at / factor
    if mode == "tf_crop_and_resize":
        start, end = region
        if size == 1:
            return at * 0 + 0.5 * (start + end) * (length - 1)
        return start * (length - 1) + at * (end - start) * (length - 1) / (size - 1)
    if mode == "half_pixel_symmetric":
        return length / 2 * (1 - size / resized) + (at + 0.5) / factor - 0.5
    if mode == "pytorch_half_pixel" and size == 1:
        return at * 0 - 0.5
    if mode == "tf_half_pixel_for_nn":
        return (at + 0.5) / factor
    return (at + 0.5) / factor - 0.5


def _kernel(node: Settings, distance: Tensor) -> Tensor:
    """The weight of an input element at a distance."""
    d = distance.abs()
    if node.get("mode", "nearest") == "linear":
        return (1 - d).clamp(min=0)
    a = node.get("cubic_coeff_a", -0.75)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def _nearest(node: Settings, at: Tensor, length: int) -> Tensor:
    how = node.get("nearest_mode", "round_prefer_floor")
    rounded = {
        "round_prefer_floor": lambda t: torch.ceil(t - 0.5), "round_prefer_ceil": lambda t: torch.floor(t + 0.5),
        "floor": torch.floor, "ceil": torch.ceil,
    }[how](at)  # fmt: skip
    return rounded.clamp(0, length - 1).to(torch.int64)


def _resampled(node: Settings, x: Tensor, dim: int, factor: float, size: int, region: tuple[float, float]) -> Tensor:
    length = x.shape[dim]
    at = _coordinates(node, length, factor, size, region)
    if node.get("mode", "nearest") == "nearest":
        y = x.index_select(dim, _nearest(node, at, length))
    else:
        y = (x.movedim(dim, -1) @ _weights(node, at, length, factor).to(x).T).movedim(-1, dim)
    if node.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        outside = (at < 0) | (at > length - 1)
        shape = [-1 if d == dim % x.dim() else 1 for d in range(x.dim())]
        y = torch.where(outside.reshape(shape), y.new_tensor(node.get("extrapolation_value", 0.0)), y)
    return y


def _weights(node: Settings, at: Tensor, length: int, factor: float) -> Tensor:
    """``(size, length)``; places outside of the input count for its ends."""
    reach = 1.0 if node.get("mode") == "linear" else 2.0
    shrink = min(factor, 1.0) if node.get("antialias", 0) else 1.0
    margin = math.ceil(reach / shrink) + 1
    within(len(at) * (length + 2 * margin))
    places = torch.arange(-margin, length + margin, dtype=torch.float64)
    weights = _kernel(node, (at.unsqueeze(1) - places) * shrink)
    inside = (places >= 0) & (places < length)
    if node.get("exclude_outside", 0):
        weights = weights * inside
    weights = weights / weights.sum(1, keepdim=True) if shrink < 1 or node.get("exclude_outside", 0) else weights
    target = places.clamp(0, length - 1).to(torch.int64)
    # a place far outside of the input has no neighbour among these
    far = (at < -margin + reach) | (at > length - 1 + margin - reach)
    folded = torch.zeros(len(at), length, dtype=torch.float64).index_add(1, target, weights)
    ends = torch.zeros_like(folded)
    ends[at < 0, 0], ends[at >= 0, -1] = 1.0, 1.0
    return torch.where(far.unsqueeze(1), ends, folded)
