"""Any other function of torch: attacks can follow it, bounds cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from clinch.network.ops.base import Operator, Shape
from clinch.network.ops.layout import FRONT, Layout
from clinch.network.ops.lazy import evaluate, moved


@dataclass(frozen=True, eq=False)
class TorchFunction(Operator):
    """A function without an operator of its own here, called as the exported module calls it.

    Attributes:
        name: for tables and messages, such as ``aten.sin``.
        value: the call and those whose results it needs, with a :class:`clinch.network.ops.lazy.Slot` for each
            activation.
        shapes: of the activations in the model, without the batch; ``()`` is one number, in the graph a row of one.
        layouts: where their batch is in the model.
        layout: where the result's is.
        one: whether one number as a result is a row of one.
        differentiable: whether torch has its derivative; else it counts as zero.
    """

    name: str
    value: Any
    shapes: tuple[Shape, ...]
    layouts: tuple[Layout, ...]
    layout: Layout = FRONT
    one: bool = False
    differentiable: bool = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """The call."""
        if not self.differentiable:
            inputs = tuple(x.detach() for x in inputs)
        rows = [x.reshape(len(x), *shape) for x, shape in zip(inputs, self.shapes)]
        given = [x if layout.plain else layout.spread(x) for x, layout in zip(rows, self.layouts)]
        found = evaluate(self.value, given, size=len(inputs[0]))
        found = (found if self.layout.plain else self.layout.rows(found)).to(inputs[0].dtype)
        return found.unsqueeze(1) if self.one and found.dim() == 1 else found

    def checked(self) -> TorchFunction:
        """The same, marked where torch has no derivative of it."""
        rows = [torch.zeros(2, *shape, dtype=torch.float64, requires_grad=True) for shape in self.shapes]
        try:
            with torch.enable_grad():
                torch.autograd.grad(self.to(torch.float64, "cpu").forward(*rows).sum(), rows, allow_unused=True)
        except RuntimeError as error:
            if "derivative" in str(error):
                return replace(self, differentiable=False)
        return self

    def with_an_axis(self, shapes: Sequence[Shape]) -> TorchFunction:
        """The call itself sees what the model has."""
        return replace(self, one=True)

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """A copy whose constants have the given dtype and device."""
        return replace(self, value=moved(self.value, dtype, device))

    @property
    def label(self) -> str:
        """The function's name."""
        return self.name
