"""What users write to state problems of several inputs, copies and networks: variables, and networks of expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clinch.errors import ProblemError, ShapeError
from clinch.modeling.expressions import Activation, LinearExpression
from clinch.modeling.joint import JointNetwork, joined, own_application, whole
from clinch.modeling.parts import Application, Root
from clinch.network.network import Network


class Variable(LinearExpression):
    """An unknown array: part of the input of a problem. Networks are functions of expressions of variables.

    ``net(x1 + d)`` is what a network computes from such an expression, ``net(x1 + d)["relu2"]`` one of its layers;
    ``other(net(x))``, several networks and copies of one are stated likewise. The numbers are those of the networks'
    dtype. After a solve ``solution[d]`` is the variable's best value.

    Args:
        shape: of the array, without a batch; a number n stands for ``(n,)``.
        name: for messages and tables.

    Raises:
        ShapeError: the shape is not one.

    Example:
        >>> d = cl.Variable((8, 8), name="d")
        >>> same_for_both = [net(x0 + d).argmax() != 4, net(x0 - d).argmax() != 4, d >= -0.5, d <= 0.5]
        >>> cl.Problem(cl.Minimize(cl.norm(d, cl.inf)), same_for_both)
        <Problem over Sequential: one problem, 4 constraints>
    """

    def __init__(self, shape: Sequence[int] | int = (), name: str = "variable") -> None:
        extents = (shape,) if isinstance(shape, int) else tuple(shape)
        if not all(isinstance(n, int) and n > 0 for n in extents):
            raise ShapeError(f"A variable has no shape {shape!r:.80}. Write positive whole numbers, as in (1, 28, 28).")
        self.root = Root(extents or (1,), name)
        e = whole(self.root, extents)
        super().__init__(e.network, e.shape, e.terms, e.constant)


class Applied(Activation):
    """What a network computes from an expression, its output; ``z["relu2"]`` is one of the layers on the way."""

    def __init__(self, network: JointNetwork, application: Application) -> None:
        super().__init__(network, network.at(application, len(application.network.graph.nodes) - 1))
        self.application = application

    def __getitem__(self, key: Any) -> LinearExpression:
        """Elements of the output as in NumPy, or a layer by its name."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        joint = self.network
        assert isinstance(joint, JointNetwork)
        node = self.application.network.position(key)
        return Activation(joint, joint.at(self.application, node)) if node else self.application.argument


def apply(network: Network, argument: LinearExpression) -> Applied:
    """What a network computes from an expression of variables, or of layers of others.

    Raises:
        ProblemError: it is no expression, a constant one, or one for several problems.
        ShapeError: it does not have the input's shape.
    """
    if not isinstance(argument, LinearExpression):
        raise ProblemError(
            f"{network.name} is applied to a {type(argument).__name__}. Give an expression of variables, such as "
            "net(x0 + d) with d = cl.Variable(shape); for numbers call your own model."
        )
    if tuple(argument.shape) != tuple(network.input_shape):
        raise ShapeError(
            f"{network.name} takes inputs of shape {tuple(network.input_shape)}; this expression has shape "
            f"{argument.shape}."
        )
    if argument.batch is not None:
        raise ProblemError(
            f"{network.name} is applied to an expression for {argument.batch} problems at once. Make what differs a "
            "variable: x = cl.Variable(shape), with x == x0 among the constraints."
        )
    if not isinstance(argument.network, JointNetwork):
        argument = joined(own_application(argument.network)).taken_in(argument)
    application = Application(network, argument)
    if not application.pieces:
        raise ProblemError(f"{network.name} is applied to a constant. Let it depend on a variable.")
    joint = argument.network
    assert isinstance(joint, JointNetwork)
    known = next((one for one in joint.applications if one.key == application.key), None)
    return Applied(joint, known) if known else Applied(joined(application), application)
