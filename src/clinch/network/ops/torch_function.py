"""Any other function of torch: attacks can follow it, bounds cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from clinch.network.ops.base import Operator, Shape
from clinch.network.ops.lazy import Slot as Slot


@dataclass(frozen=True, eq=False)
class TorchFunction(Operator):
    """A function without an operator of its own here, called as the exported module calls it.

    Attributes:
        name: for tables and messages, such as ``aten.sin``.
        function: what is called.
        arguments: positional ones, with a :class:`Slot` for each activation.
        keywords: the others.
        shapes: of the activations as the model has them, where one of them or the result is one number per input, in
            the graph a row of one; None elsewhere.
    """

    name: str
    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    shapes: tuple[Shape, ...] | None = None

    def forward(self, *inputs: Tensor) -> Tensor:
        """The call."""
        if self.shapes is not None:
            inputs = tuple(x.reshape(len(x), *shape) for x, shape in zip(inputs, self.shapes))
        filled = tree.tree_map_only(Slot, lambda slot: inputs[slot.index], (list(self.arguments), self.keywords))
        found = self.function(*filled[0], **filled[1])
        return found.unsqueeze(1) if self.shapes is not None and found.dim() == 1 else found

    def with_an_axis(self, shapes: Sequence[Shape]) -> TorchFunction:
        """The call itself sees what the model has."""
        return replace(self, shapes=tuple(shapes))

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy whose constants have the given dtype and device."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, dtype) if value.is_floating_point() else value.to(device)

        arguments, keywords = tree.tree_map_only(Tensor, move, (list(self.arguments), self.keywords))
        return replace(self, arguments=tuple(arguments), keywords=keywords)

    @property
    def label(self) -> str:
        """The function's name."""
        return self.name
