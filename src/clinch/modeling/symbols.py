"""What symbols have in common: operators with arrays and tensors on either side, and how constants are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from clinch.errors import NonFiniteError, ProblemError, ShapeError

if TYPE_CHECKING:
    from clinch.network.network import Network

Shape = tuple[int, ...]

#: what a constant may be written as: a number, a (nested) list, a NumPy array, a tensor
Constant = Any

#: what operators of symbols beyond linear ones do, by name: filled by :mod:`clinch.modeling.functions`
FUNCTIONS: dict[str, Callable[..., Any]] = {}

#: calls of torch with a symbol on the right -> the operator that Python would have tried on the symbol
_REFLECTED = {
    "add": "__radd__", "sub": "__rsub__", "mul": "__rmul__", "div": "__rtruediv__", "true_divide": "__rtruediv__",
    "matmul": "__rmatmul__", "pow": "__rpow__", "le": "__ge__", "ge": "__le__", "lt": "__gt__", "gt": "__lt__",
    "eq": "__eq__", "ne": "__ne__",
}  # fmt: skip


class Symbolic:
    """Base of everything that stands for a value the network computes.

    Operators that a kind of symbol does not define are refused with a sentence that says what to write instead.
    """

    #: NumPy then leaves ``array <= symbol`` to the symbol
    __array_ufunc__: ClassVar[None] = None
    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Torch calls this for ``tensor <= symbol`` and the like; the symbol's own operator answers."""
        name = getattr(func, "__name__", str(func)).strip("_")
        if name in _REFLECTED and len(args) == 2 and isinstance(args[1], Symbolic):
            return getattr(args[1], _REFLECTED[name])(args[0])
        raise ProblemError(f"torch.{name} of a symbol is not defined. {_LINEAR_ONLY}")

    def __bool__(self) -> bool:
        raise ProblemError(
            "A symbol has no truth value, so that chained comparisons such as 0 <= x <= 1, min, max and `in` cannot "
            "work. Write x >= 0, x <= 1."
        )

    def _refuse(self, other: object = None) -> NoReturn:
        raise ProblemError(f"This operation is not defined for {self._kind}. {_LINEAR_ONLY}")

    #: how messages call this kind of symbol
    _kind: ClassVar[str] = "a symbol"

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __matmul__ = __rmatmul__ = _refuse
    __pow__ = __rpow__ = __rtruediv__ = __mod__ = __floordiv__ = __le__ = __ge__ = _refuse

    def __neg__(self) -> Any:
        self._refuse()

    def __abs__(self) -> Any:
        raise ProblemError("abs() of a symbol is not linear. Write cl.norm(e, cl.inf) <= r, or e <= r and e >= -r.")

    def __eq__(self, other: object) -> Any:
        self._refuse()

    def __ne__(self, other: object) -> Any:
        raise ProblemError("!= is only defined for argmax: z.argmax() != 7. Write e >= c + margin or e <= c - margin.")

    def __lt__(self, other: object) -> Any:
        raise ProblemError("Strict comparisons need an explicit margin: instead of a < b write a <= b - margin.")

    def __gt__(self, other: object) -> Any:
        raise ProblemError("Strict comparisons need an explicit margin: instead of a > b write a >= b + margin.")


_LINEAR_ONLY = (
    "Symbols can be added, subtracted, indexed, summed and multiplied with constants; beyond that there are cl.norm, "
    "argmax and between."
)


@runtime_checkable
class Joinable(Protocol):
    """A network that can be joined with others: :class:`clinch.modeling.joint.JointNetwork`."""

    def union(self, other: Any) -> Any:
        """The network with the parts of both."""
        ...


def common_network(networks: Iterable[Network]) -> Network:
    """The one network that all parts of a statement are about.

    Raises:
        ProblemError: they are several, and none of them is one of variables.
    """
    several = list({id(network): network for network in networks}.values())
    if len(several) == 1:
        return several[0]
    joint = next((network for network in several if isinstance(network, Joinable)), None)
    if joint is None:
        raise ProblemError(
            f"{several[0].name} and {several[1].name} are two networks, each with an input of its own. Apply both to "
            "one variable: x = cl.Variable(shape), then net(x) and other(x)."
        )
    for network in several:
        joint = joint.union(network)
    return joint


def as_tensor(value: Constant, what: str) -> Tensor:
    """A constant as a float64 tensor on the CPU; NaN is refused.

    Raises:
        ProblemError: it is not a number, list, array or tensor of real numbers.
        NonFiniteError: it contains NaN.
    """
    if isinstance(value, Symbolic):
        raise ProblemError(f"The {what} must be a constant, not a symbol. {_LINEAR_ONLY}")
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        raise ProblemError(f"The {what} is not a number, array or tensor: {value!r:.80}.") from None
    if tensor.is_complex():
        raise ProblemError(f"The {what} is complex. Write its real part.")
    tensor = tensor.to("cpu", torch.float64)
    if bool(tensor.isnan().any()):
        raise NonFiniteError(f"The {what} contains NaN. Replace it by a number.")
    return tensor


def constant(value: Constant, shape: Shape, what: str, *, infinite: bool = False) -> tuple[Tensor, int | None]:
    """A constant that meets an expression of the given shape: one for all problems, or one per problem.

    A scalar, or an array of the expression's shape, is shared by all problems; an array with one more axis in front
    states one problem per entry of that axis. An axis of length one is stretched.

    Args:
        value: number, list, array or tensor.
        shape: of the expression.
        what: name of the constant for messages.
        infinite: whether infinities are allowed.

    Returns:
        The constant, shape ``(B, n)`` or ``(1, n)`` with n elements of the expression, and the number of problems
        (None where no batch was stated).

    Raises:
        ShapeError: the shape does not fit; gives the expected and the received one.
        NonFiniteError: NaN, or an infinity where none is allowed.
    """
    tensor = as_tensor(value, what)
    if not infinite and bool(tensor.isinf().any()):
        raise NonFiniteError(f"The {what} contains an infinity. Write a finite number.")
    received = tuple(tensor.shape)
    if not received or _fits(received, shape):
        return tensor.expand(shape).reshape(1, -1), None
    if _fits(received[1:], shape) and len(received) == len(shape) + 1 and received[0]:
        return tensor.expand(-1, *shape).reshape(received[0], -1), received[0]
    batched = ", ".join(["B", *map(str, shape)]) + ("," if not shape else "")
    raise ShapeError(f"The {what} has shape {received}; expected {shape}, or ({batched}) for B problems at once.")


def _fits(received: Shape, shape: Shape) -> bool:
    return len(received) == len(shape) and all(r in (1, s) for r, s in zip(received, shape))


def merge_batches(batches: Iterable[int | None]) -> int | None:
    """The number of problems that all of them state together; None where none states a batch.

    Raises:
        ShapeError: two of them state different numbers.
    """
    stated = {batch for batch in batches if batch is not None}
    several = sorted(stated - {1})
    if len(several) > 1:
        raise ShapeError(
            f"Constants for {several[0]} problems meet constants for {several[1]} problems. "
            "Give all of them the same number of rows, or leave the batch axis out where a constant is shared."
        )
    return several[0] if several else (1 if stated else None)
