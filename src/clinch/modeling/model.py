"""What ``cl.load`` returns: a network whose layers are symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from clinch.modeling.expressions import Activation, LinearExpression
from clinch.modeling.variables import Applied, apply
from clinch.network import load as reader
from clinch.network.network import Network

if TYPE_CHECKING:
    from onnx import ModelProto


class SymbolicNetwork(Network):
    """A network whose layers are symbols for problem statements.

    Made by :func:`clinch.load`. ``net.input`` and ``net.output`` are symbols, ``net["features.3"]`` is the output of
    any layer and ``net.layers`` lists their names.
    """

    @classmethod
    def of(cls, network: Network) -> Self:
        """The same network, with symbols."""
        if isinstance(network, cls):
            return network
        model = cls.__new__(cls)
        vars(model).update(vars(network))
        return model

    def __reduce__(self) -> tuple[Any, ...]:
        """As :meth:`clinch.Network.__reduce__`; what is made again is a model too."""
        made = super().__reduce__()
        return made if self.made_by is None else (_made_again, made)

    def __call__(self, argument: LinearExpression) -> Applied:
        """What the network computes from an expression of variables, or of other networks' layers, as a symbol.

        Raises:
            ProblemError: it is no such expression, or constant. ShapeError: it does not have the input's shape.

        Example:
            >>> d = cl.Variable((8, 8))
            >>> net(x0 + d).shape
            (10,)
        """
        return apply(self, argument)

    @property
    def input(self) -> Activation:
        """The input as a symbol."""
        return Activation(self, 0)

    @property
    def output(self) -> Activation:
        """The output as a symbol."""
        return Activation(self, self._source.output)

    def __getitem__(self, layer: str) -> Activation:
        """The output of a layer as a symbol.

        Raises:
            UnknownLayer: there is no layer of that name.
        """
        return Activation(self, self.position(layer))


def _made_again(make: Callable[..., Network], arguments: tuple[Any, ...]) -> SymbolicNetwork:
    return SymbolicNetwork.of(make(*arguments))


def load(
    model: nn.Module | str | PathLike[str] | ModelProto | Network,
    input_shape: Sequence[int] | None = None,
    *,
    name: str | None = None,
    live: bool = False,
    output: str | int | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> SymbolicNetwork:
    """Load a model and compare the result with it on random inputs.

    Args:
        model: an ``nn.Module`` in evaluation mode, a path to an ``.onnx`` or ``.onnx.gz`` file, an ``onnx.ModelProto``,
            or a network that is loaded already (returned as it is).
        input_shape: shape of one input, without the batch. Needed for a module, and for a file that leaves it open.
        name: for messages and tables; default: the module's class or the file's name.
        live: for a module that is trained on: every use of the network reads the weights the module has then, and
            gradients of :func:`clinch.bounds.interval`, :func:`clinch.bounds.fast_dual` and
            :func:`clinch.bounds.crown` flow to them. State problems anew after a training step.
        output: which output, for a model with several: the name of an ONNX output, the key of a dictionary or the
            place in a tuple. Default: the only one of real numbers; where there are several, the error lists them.
        fixed: values of all inputs but one, by name, for a model with several; constants from here on. The free one
            is the input.

    Returns:
        The network, in the module's dtype on its device. The module is not changed, and without ``live`` must not
        change afterwards.

    Raises:
        NetworkError: training mode, no input shape, no batch dimension, weights that are not finite, several inputs or
            outputs, control flow that depends on values, or a difference from the original.
        UnsupportedOperator: a call or ONNX node that cannot be read; gives layer, source line and operator.

    Example:
        >>> net = cl.load(nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU()).eval(), input_shape=(2, 2))
        >>> net.layers
        ['input', '0', '1', '2']
    """
    return SymbolicNetwork.of(reader.load(model, input_shape, name=name, live=live, output=output, fixed=fixed))
