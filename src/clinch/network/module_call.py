"""One call of an exported module: its name, its arguments by name, and as an operator's reader sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node as Exported

from clinch.network.ops.base import Shape
from clinch.network.ops.layout import FRONT, Layout, batch_axis
from clinch.network.ops.reading import Call, Emitter


class AtenCall(Call):
    """One call in the exported module, its activations with the batch in front.

    Args:
        builder: takes the nodes.
        node: the call.
        arguments: by name.
        name: of the layer.
        source: file and line.
        dtype: the model's.
        layout: of the result in the module.
    """

    def __init__(
        self,
        builder: Emitter,
        node: Exported,
        arguments: dict[str, Any],
        name: str,
        source: str,
        dtype: torch.dtype,
        layout: Layout = FRONT,
    ) -> None:
        super().__init__(builder, base_name(node), arguments, name, source)
        self.dtype = dtype
        self.node = node
        self.layout = layout

    @property
    def advice(self) -> str:
        """What would work instead."""
        return "Rewrite that line with functions that treat each input alone and that `clinch supports` lists."

    @property
    def output_shape(self) -> Shape:
        """From the export itself."""
        value = self.node.meta["val"]
        found = batch_axis(value.shape) if isinstance(value, Tensor) else None
        if found != (self.layout.axis, self.layout.outer * self.layout.inner):
            raise self.refuse("its result does not have the batch as first dimension")
        return tuple(int(n) for n in self.layout.sample(value.shape))


def base_name(node: Exported) -> str:
    """``aten.add`` of ``aten.add_.Tensor``: without the overload and the mark of working in place."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return str(getattr(target, "__name__", target))
    name = str(target.overloadpacket)
    return name[:-1] if in_place(target) else name


def in_place(target: Any) -> bool:
    """Whether the call changes its first argument."""
    return (
        isinstance(target, torch._ops.OpOverload)
        and target._schema.is_mutable
        and str(target.overloadpacket).endswith("_")
    )


def bind(target: Any, arguments: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, with its defaults."""
    bound = {}
    for i, argument in enumerate(target._schema.arguments):
        if i < len(arguments):
            bound[argument.name] = arguments[i]
        elif argument.name in keywords:
            bound[argument.name] = keywords[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def out_of_place(target: Any) -> Callable[..., Any]:
    """The overload that returns a new tensor, for one that works in place; a reshape for a view, which asks more of how
    its input lies in memory.
    """
    if target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
        return torch.ops.aten.reshape.default
    if target in (torch.ops.aten.copy.default, torch.ops.aten.copy_.default):
        return copied
    if not in_place(target):
        return target
    namespace, name = str(target.overloadpacket).split(".")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"))
    return getattr(packet, target._overloadname)


def copied(onto: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """A tensor with another one's elements, which ``aten.copy`` has no derivative for."""
    return source.to(onto.dtype).expand(onto.shape).clone()


def draws(target: Any, bound: dict[str, Any]) -> bool:
    """Whether a call draws random numbers: dropout that is switched off does not."""
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    off = (("train", False), ("training", False), ("dropout_p", 0.0), ("dropout", 0.0), ("p", 0.0))
    return not any(name in bound and bound[name] == value for name, value in off)
