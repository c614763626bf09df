"""How kinds of modules are listed: a name, what makes a small network of the kind, and the shape of one input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Kind(NamedTuple):
    """A network, the shape of one input, and what :func:`clinch.load` is told beside it."""

    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    options: dict[str, Any]


KINDS: dict[str, Kind] = {}


def kind(name: str, shape: tuple[int, ...], **options: Any) -> Callable[[Callable[[], nn.Module]], Callable]:
    """Register what makes a network."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert name not in KINDS, name
        KINDS[name] = Kind(make, shape, options)
        return make

    return register


class Between(nn.Module):
    """Linear, a function, flatten, linear: the function is what the network is named after."""

    def __init__(self, function: Callable[[Tensor], Tensor], size: int = 4, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(size, width)
        if isinstance(function, nn.Module):
            self.part = function
        self.function = function
        self.last = nn.LazyLinear(3)
        self.eval()
        with torch.no_grad():
            self(torch.rand(2, size))

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers per input."""
        return self.last(self.function(self.first(x)).flatten(1))


class Function(nn.Module):
    """Any function of the module and its input; what it needs is made by ``parts``."""

    def __init__(self, body: Callable[..., Any], shape: tuple[int, ...], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.body = body
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        """What the body says."""
        return self.body(self, x)


class Head(nn.Module):
    """A module, flattened, and a linear layer of three outputs."""

    def __init__(self, inner: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inner = inner
        self.last = nn.LazyLinear(3)
        self.eval()
        with torch.no_grad():
            self(torch.rand(2, *shape))

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers per input."""
        return self.last(self.inner(x).flatten(1))


def between(name: str, function: Callable[[], Callable[[Tensor], Tensor]]) -> None:
    kind(name, (4,))(lambda: Between(function()))


def head(name: str, shape: tuple[int, ...], inner: Callable[[], nn.Module]) -> None:
    kind(name, shape)(lambda: Head(inner(), shape))


def body(name: str, shape: tuple[int, ...], body: Callable[..., Any], **parts: Callable[[], Any]) -> None:
    kind(name, shape)(lambda: Head(Function(body, shape, **{key: make() for key, make in parts.items()}), shape))


def made(name: str) -> nn.Module:
    """The network of that name, in evaluation mode, always with the same weights."""
    torch.manual_seed(sum(map(ord, name)))
    return KINDS[name].make().eval()
