"""Functions of one number that models write out: ``x·σ(x)``, ``x − tanh x``, ``x/(1 + |x|)``, GELU by ``erf``.

As products and sums of several layers they would have loose bounds or none. Where all that an operator combines is made
of one activation, element by element, the combination is compared with the functions that have an operator of their
own, on numbers of all sizes; where it is a multiple of one, that operator stands for it. Only analytic functions are
looked at, which are the same everywhere where they are so on an interval, and absolute values of the activation itself:
a clamp could begin anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clinch.network.graph import Graph, Input, Node
from clinch.network.ops.add import Add, Subtract
from clinch.network.ops.base import Operator
from clinch.network.ops.bilinear import Multiply
from clinch.network.ops.elementwise import ScalarFunction
from clinch.network.ops.erf import Erf
from clinch.network.ops.functions import Exp, Expm1, Log, Log1p, Power, Reciprocal
from clinch.network.ops.reading import Value
from clinch.network.ops.s_shaped import Sigmoid, Tanh
from clinch.network.ops.scale import Scale
from clinch.network.ops.smooth_activations import GELU, LogSigmoid, Mish, SiLU, Softplus, Softsign, Tanhshrink
from clinch.network.ops.trigonometric import Cos, Sin

KNOWN: tuple[ScalarFunction, ...] = (
    SiLU(), GELU(), GELU("tanh"), Mish(), Softsign(), Tanhshrink(), Power(2.0), Power(3.0), Power(4.0),
)  # fmt: skip
ANALYTIC = (Sigmoid, Tanh, Erf, Exp, Expm1, LogSigmoid, Log, Log1p, Power, Reciprocal, Sin, Cos)
#: beyond this a softplus is x, up to a jump that is less than what constants are rounded by
LATE = 20.0
#: layers that one function may be written in
MOST = 12
#: constants of a file may be rounded to float32
AGREES = 1e-7


def _combines(op: Operator) -> bool:
    return isinstance(op, Add | Subtract | Multiply)


def _pointwise(op: Operator) -> bool:
    """Whether each output element is an analytic function of the elements at its place, the same one everywhere."""
    if isinstance(op, Scale):
        return all(t is None or t.numel() == 1 for t in (op.scale, op.shift))
    if isinstance(op, Softplus):
        return op.threshold >= LATE
    return isinstance(op, ANALYTIC) or _combines(op)


def _is_absolute_value(op: Operator) -> bool:
    pieces = op.two_pieces()
    return pieces is not None and pieces.negative_slope == -1


def recognised(nodes: Sequence[Node], op: Operator, inputs: Sequence[Value]) -> tuple[Operator, float, Value] | None:
    """The function that an operator computes of one activation, its factor, and the activation; None where it is none.

    Args:
        nodes: of the graph in the making.
        op: to be applied to the inputs.
        inputs: activations.
    """
    if not _combines(op) or len({value.shape for value in inputs}) != 1:
        return None
    # the last node that every way back leads through
    open_, cone = {value.position for value in inputs}, []
    while len(open_) > 1 or not cone:
        i = max(open_)
        if len(open_) == 1 and not cone:
            break
        node = nodes[i]
        allowed = _pointwise(node.op) or _is_absolute_value(node.op)
        if not i or not allowed or node.shape != nodes[inputs[0].position].shape or len(cone) == MOST:
            return None
        open_ = (open_ - {i}) | set(node.inputs)
        cone.append(i)
    (root,) = open_
    bent = [i for i in cone if not _pointwise(nodes[i].op) and nodes[i].inputs != (root,)]
    if bent or nodes[root].shape != nodes[inputs[0].position].shape:
        return None
    place = {root: 0, **{i: 1 + k for k, i in enumerate(sorted(cone))}}
    near, far = torch.linspace(-8, 8, 97, dtype=torch.float64), torch.logspace(1, 5, 17, dtype=torch.float64)
    x = torch.cat([near, far, -far]).unsqueeze(1).to(_device(nodes))
    small = [Node("x", Input(), (), (1,))]
    small += [Node(str(i), nodes[i].op, tuple(place[j] for j in nodes[i].inputs), (1,)) for i in sorted(cone)]
    small.append(Node("whole", op, tuple(place[value.position] for value in inputs), (1,)))
    y = Graph(tuple(small)).forward(x)[len(small) - 1]
    for known in KNOWN:
        value = known.forward(x)
        factor = float((value * y)[: len(near)].sum() / value[: len(near)].square().sum())
        if bool(((factor * value - y).abs() <= AGREES * (abs(factor) + y.abs())).all()):
            return known, 1.0 if abs(factor - 1) < AGREES else factor, Value(root, inputs[0].shape)
    return None


def _device(nodes: Sequence[Node]) -> torch.device:
    """That of the parameters, where there are any."""
    found = (value for node in nodes for value in vars(node.op).values() if isinstance(value, torch.Tensor))
    return next(found, torch.zeros(())).device
