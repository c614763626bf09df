"""Affine functions whose coefficients are not negative, applied as torch does: resampling, repeating, unfolding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from clinch.network.ops.base import Affine, Shape
from clinch.network.ops.lazy import moved
from clinch.network.ops.reading import Call, Value, from_aten


@dataclass(frozen=True, eq=False)
class Rearrange(Affine):
    """A linear function of torch without negative coefficients; its transpose is found by differentiating it.

    Attributes:
        name: for tables and messages.
        function: what is called, on ``(B, *sample)``.
        arguments: behind the activation.
        keywords: the others.
    """

    name: str
    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    nonnegative: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The call."""
        return self.function(inputs[0], *self.arguments, **self.keywords)

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy whose constants have the given dtype and device."""
        return replace(
            self, arguments=moved(self.arguments, dtype, device), keywords=moved(self.keywords, dtype, device)
        )

    @property
    def label(self) -> str:
        """The function's name."""
        return self.name

    def is_identity(self, shapes: Sequence[Shape]) -> bool:
        """Not known."""
        return False


_LINEAR = (
    "roll", "repeat", "repeat_interleave", "tile", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col",
    "col2im", "unfold", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "cumsum", "triu", "tril", "diagonal",
    "rot90", "fliplr", "flipud", "_upsample_nearest_exact2d",
)  # fmt: skip


def _rearranged(call: Call) -> Value | None:
    """The call with the batch in front: it must leave that dimension alone, which the comparison on load checks."""
    node = getattr(call, "node", None)
    names = [a.name for a in node.target._schema.arguments] if node is not None else []
    if (
        node is None
        or not names
        or len(call.activations) != 1
        or call.arguments.get(names[0]) is not call.activations[0]
    ):
        return None
    x, rank = call.activations[0], len(call.activations[0].shape)
    for name in ("dim", "dims", "dim1", "dim2", "dimension", "axis"):
        if call.arguments.get(name) is not None:
            for d in call.ints(name):
                call.axis(d, rank)
    if call.operator in ("aten.roll", "aten.repeat_interleave") and not call.get("dims", call.get("dim")):
        raise call.refuse("without dimensions it works along the batch")
    if call.operator in ("aten.repeat", "aten.tile"):
        repeats = call.ints("repeats" if "repeats" in call.arguments else "dims")
        if len(repeats) != rank + 1 or repeats[0] != 1:
            return None
    if rank < 2 and call.operator in ("aten.triu", "aten.tril"):
        return None
    arguments = {name: call[name] for name in names[1:] if name in call.arguments}
    if any(isinstance(v, list) and not all(isinstance(n, (int, float)) for n in v) for v in arguments.values()):
        return None
    positional = {a.name for a in node.target._schema.arguments if not a.kwarg_only}
    given = tuple(value for name, value in arguments.items() if name in positional)
    keywords = {name: value for name, value in arguments.items() if name not in positional}
    from clinch.network.module_call import out_of_place  # above this room's floor of operators

    return call.emit(Rearrange(call.operator, out_of_place(node.target), given, keywords), x)


for _name in _LINEAR:
    from_aten(f"aten.{_name}")(_rearranged)


@from_aten("aten.index")
def _index(call: Call) -> Value | None:
    """Constant indices behind the batch."""
    x, indices = call.activation("self"), call.get("indices")
    if not isinstance(indices, list) or indices[0] is not None or any(isinstance(i, Value) for i in indices):
        return None
    given = [i for i in indices if i is not None]
    if not given or indices.index(given[0]) + len(given) < len(indices):
        return None
    return call.emit(Rearrange("aten.index", _indexed, (tuple(indices),), {}), x)


def _indexed(x: Tensor, indices: tuple[Tensor | None, ...]) -> Tensor:
    return x[tuple(slice(None) if i is None else i for i in indices)]
