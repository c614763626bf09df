"""Convolutions whose kernels depend on the input, as generated, mixed and modulated ones do.

A batch is one picture of all channels in as many groups as there are inputs. Of one input it is a product: patches, cut
out by a convolution of zeros and ones, times the kernels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clinch.network.ops.composites import Parts
from clinch.network.ops.reading import Call, Value, from_aten
from clinch.network.ops.shape import Reshape

#: call of a batch -> name under which the same of one input is read
KERNELS = {f"aten.conv{d}d": f"conv{d}d with kernels of its own" for d in (1, 2)}
_FUNCTIONS = {"aten.conv1d": torch.conv1d, "aten.conv2d": torch.conv2d}


def _read(call: Call) -> Value | None:
    """From a picture ``(1, C, *extents)`` and kernels ``(O, C/groups, *sizes)``."""
    parts, x, kernels, groups = Parts(call), call.operand("input"), call.activation("weight"), call["groups"]
    sizes, extents = call["sizes"], call["extents"]
    taps, pixels = math.prod(sizes), math.prod(extents)
    channels, outputs = math.prod(x.shape) // pixels, math.prod(kernels.shape) // (taps * call["fan_in"])
    if call.get("bias") is not None or channels != groups * call["fan_in"]:
        return None
    chosen = torch.eye(channels * taps, dtype=torch.float64, device=call.builder.device)
    chosen, steps = (
        chosen.reshape(channels * taps, channels, *sizes),
        [call[n] for n in ("stride", "padding", "dilation")],
    )
    fan = call["fan_in"] * taps
    if isinstance(x, Tensor):
        patches = _FUNCTIONS[call["call"]](x.reshape(1, channels, *extents).to(chosen), chosen, None, *steps)
        right = patches.reshape(groups, fan, -1)
    else:
        picture = call.emit(Reshape((channels, *extents)), x)
        given = dict(zip(("stride", "padding", "dilation"), steps))
        patches = parts.apply(call["call"], input=picture, weight=chosen, bias=None, groups=1, **given)
        right = call.emit(Reshape((groups, fan, math.prod(patches.shape) // (groups * fan))), patches)
    left = call.emit(Reshape((groups, outputs // groups, fan)), kernels)
    return call.emit(Reshape(call.output_shape), parts.product(left, right))


for _name in KERNELS.values():
    from_aten(_name)(_read)
