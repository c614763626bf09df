"""What a tensor of an ONNX file is while the file is read: a constant, an activation, or something that waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor

from clinch.network.onnx_constants import array_of
from clinch.network.ops.base import Shape
from clinch.network.ops.lazy import Lazy
from clinch.network.ops.reading import Value

#: elements from which on a matrix may be sparse, and how many times more of them it must have than are not zero
LARGE_MATRIX, FILLED = 2**16, 16


class Held(NamedTuple):
    """An activation, and whether the file's tensor has a dimension of size 1, the batch, in front of it.

    The type of its elements is None for the file's real numbers; whole numbers and truth values are real ones here.
    """

    value: Value
    batched: bool
    kind: torch.dtype | None = None

    @property
    def shape(self) -> Shape:
        """Of the file's tensor, for a batch of one."""
        return (1, *self.value.shape) if self.batched else self.value.shape


class Pending(NamedTuple):
    """A tensor that is not real, or whose shape varies with values: computed by the node that uses it.

    Beside it may stand a layer of the same whole numbers.
    """

    value: Lazy
    example: Tensor
    varies: bool = False
    whole: Held | None = None


class Unread(NamedTuple):
    """What a node would have given that cannot be read."""


def operator_of(node: NodeProto) -> str:
    """The node's type, with its domain where that is not the default one."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def plain_value(value: Any) -> Any:
    """An input as readers take it: an activation, a tensor, or None."""
    return value.value if isinstance(value, Held) else tensor_of(value)


def matrix_value(value: Any) -> Any:
    """As :func:`plain_value`, a large matrix that is nearly all zeros in torch's sparse layout."""
    large = isinstance(value, np.ndarray) and value.ndim == 2 and value.size >= LARGE_MATRIX
    if not large or value.dtype not in (np.float32, np.float64) or FILLED * np.count_nonzero(value) > value.size:
        return plain_value(value)
    places = np.nonzero(value)
    values = torch.from_numpy(value[places].astype(np.float64))
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack(places)), values, value.shape, is_coalesced=True, check_invariants=False
    )


def tree_of(value: Any) -> Any:
    """An input as an argument of a call that waits."""
    if isinstance(value, Held):
        return value if value.kind is None else Lazy(converted, (value._replace(kind=None), value.kind), {})
    return value.value if isinstance(value, Pending) else tensor_of(value)


def has_one_shape(value: Any = None) -> bool:
    """Whether an input is given and has one shape whatever the network's input."""
    return value is not None and not (isinstance(value, Pending) and value.varies)


def whole_of(value: Any) -> Any:
    """The layer of whole numbers beside something that waits, where there is one; anything else as it is."""
    return value.whole if isinstance(value, Pending) and value.whole is not None else value


def converted(x: Tensor, kind: torch.dtype) -> Tensor:
    """Another type; of a function, so that a moved graph can replace a real one."""
    return x.to(kind)


def example_of(value: Any, dtype: torch.dtype, at_zero: Callable[[Value], Tensor]) -> Tensor | None:
    """A value of an input for one row: shapes and types come from a run on zeros."""
    if isinstance(value, Pending):
        return value.example
    if isinstance(value, Held) and value.kind is not None:
        return at_zero(value.value).reshape(value.shape).to(value.kind)
    return torch.zeros(value.shape, dtype=dtype) if isinstance(value, Held) else tensor_of(value)


def outline(value: Any, dtype: torch.dtype) -> np.ndarray:
    """A constant as it is; of anything else an array of the same shape and type, which takes no memory."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Pending):
        shape, kind = value.example.shape, value.example.dtype
    else:
        shape, kind = value.shape, value.kind or dtype
    # numpy has no bfloat16: any real type has the same shapes
    kind = torch.float32 if kind == torch.bfloat16 else kind
    return np.broadcast_to(torch.zeros((), dtype=kind).numpy(), tuple(shape))


def plain(attribute: Any) -> Any:
    """The value of an attribute: a number, a word, a tensor or a list."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return tensor_of(array_of(value, "an attribute"))
    return value.decode() if isinstance(value, bytes) else value


def tensor_of(value: Any) -> Any:
    """A constant as a tensor; anything else as it is."""
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
