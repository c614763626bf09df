"""The table from node type to function, and what a function sees of its node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """A node without its inputs.

    Attributes:
        attributes: by name, with the standard's defaults.
        opset: version of the operators.
        outputs: how many results are asked for.
        dtype: of all real numbers.
    """

    attributes: dict[str, Any]
    opset: int
    outputs: int = 1
    dtype: torch.dtype = torch.float32

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute; the default where the node has none."""
        value = self.attributes.get(name)
        return default if value is None else value

    def ints(self, name: str, given: Tensor | None = None) -> list[int] | None:
        """Whole numbers from an input, or else from the attribute of that name; None where there are neither."""
        if given is not None:
            return [int(n) for n in given.flatten().tolist()]
        value = self.attributes.get(name)
        if value is None:
            return None
        return [int(n) for n in (value.flatten().tolist() if isinstance(value, Tensor) else value)]


#: elements at most of what a function makes on its way to a result of a size that was checked
MOST_BETWEEN = 2**26


class Excessive(Exception):
    """What a function would have to make on its way is too large; says so in a phrase."""


def within(count: int) -> None:
    """Refuse to make more than :data:`MOST_BETWEEN` elements.

    Raises:
        Excessive: the count is larger.
    """
    if count > MOST_BETWEEN:
        raise Excessive(f"it needs {count:,} elements on its way, more than {MOST_BETWEEN:,}")


#: a node's results from its inputs; an input that is left out is None
Function = Callable[..., "Tensor | tuple[Tensor, ...]"]
FUNCTIONS: dict[str, Function] = {}


Registered = TypeVar("Registered", bound=Callable[..., Any])


def node_type(*types: str) -> Callable[[Registered], Registered]:
    """Register the function of node types: ``@node_type("Gemm")``."""

    def register(function: Registered) -> Registered:
        for name in types:
            assert name not in FUNCTIONS, f"{name} is computed twice"
            FUNCTIONS[name] = function
        return function

    return register


#: types of elements by their number in the standard; those without a type in torch are left out
DTYPES: dict[int, torch.dtype] = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 12: torch.uint32, 13: torch.uint64, 16: torch.bfloat16,
}  # fmt: skip
