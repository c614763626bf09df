"""Networks as functions of expressions: variables, and the one network that all that is said about them makes.

``net(x1 + d)`` is what a network computes from an affine expression of variables and of other networks' layers. A
*joint network* has the variables as its input, one after the other, and the layers of every network that was applied:
engines read it like any other. It is made anew where expressions over different ones meet; a network that was applied
to the same expression twice is there once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from clinch.errors import ProblemError, ShapeError
from clinch.modeling.expressions import Activation, LinearExpression
from clinch.modeling.sparse_maps import Terms
from clinch.modeling.symbols import Shape
from clinch.network.graph import Graph, Input, Node
from clinch.network.network import Network
from clinch.network.ops.add import Add
from clinch.network.ops.base import Operator
from clinch.network.ops.dense import Dense
from clinch.network.ops.scale import Scale
from clinch.network.ops.select import Slice, Take
from clinch.network.ops.shape import Reshape

#: numbers of a matrix through which an expression goes into a network, at most (1 GiB)
COEFFICIENTS = 2**27


# --- parts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Root:
    """What a variable stands for: part of the input of every joint network in which it occurs."""

    shape: Shape
    name: str

    @property
    def key(self) -> Any:
        """By which it is told from others."""
        return id(self)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Application:
    """A network applied to an expression over a joint network, of the shape of its input."""

    network: Network
    argument: LinearExpression

    @cached_property
    def key(self) -> Any:
        """The same for the same network applied to the same expression."""
        read = frozenset((p.part.key, p.node, *map(_bytes, vars(p.terms).values())) for p in self.pieces)
        return id(self.network), read, _bytes(self.argument.constant)

    @cached_property
    def pieces(self) -> list[Piece]:
        """What the argument takes of each part."""
        return pieces(self.argument)

    @property
    def steps(self) -> int:
        """Operators between what the argument reads and the input, the sums of pieces among them."""
        return sum(map(len, self.ways)) + len(self.ways) - 1

    @cached_property
    def ways(self) -> list[list[tuple[Operator, Shape]]]:
        """See :func:`ways_of`."""
        return ways_of(self.argument)


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().numpy().tobytes()


@dataclass(frozen=True, eq=False)
class Piece:
    """What an expression takes of one part: terms over the elements of one of its nodes, of a variable's (node 0)."""

    part: Root | Application
    node: int
    terms: Terms

    @property
    def shape(self) -> Shape:
        """Of a sample of the node."""
        return self.part.shape if isinstance(self.part, Root) else self.part.network.graph.nodes[self.node].shape

    @property
    def size(self) -> int:
        """Elements of the node."""
        return math.prod(self.shape)

    def way(self, shape: Shape) -> list[tuple[Operator, Shape]]:
        """Operators that take a sample of the node to these terms of it, in the given shape, and shapes on the way."""
        steps: list[tuple[Operator, Shape]] = []
        rows, size, terms = math.prod(shape), self.size, self.terms
        single = len(terms.row) == len(terms.row.unique())
        as_they_stand = single and size == rows and bool((terms.row == terms.col).all())
        if not as_they_stand:
            steps.append((Reshape((size,)), (size,)))
        if single and not as_they_stand and len(terms.row) == rows:
            steps.append((Take(0, torch.empty_like(terms.row).index_copy(0, terms.row, terms.col)), (rows,)))
        elif not as_they_stand:
            if rows * size > COEFFICIENTS:
                raise ProblemError(
                    f"An expression of {rows:,} elements over {size:,} others would go into a network through a "
                    f"matrix of {rows * size * 8 / 2**30:.0f} GiB. Put that map into the model, as a layer."
                )
            return _changing(
                [*steps, (Dense(terms.dense(rows, size)[0]), (rows,)), (Reshape(shape), shape)], self.shape
            )
        factors = [(scale, shape) for scale in _factors(terms, shape)]
        return _changing([*steps, (Reshape(shape), shape), *factors], self.shape)


def _changing(steps: list[tuple[Operator, Shape]], shape: Shape) -> list[tuple[Operator, Shape]]:
    """Without what gives its input back."""
    befores = [shape, *(after for _, after in steps)]
    return [step for step, before in zip(steps, befores) if not step[0].is_identity((before,))]


def _factors(terms: Terms, shape: Shape) -> list[Operator]:
    """The factors of single elements, where they are not all one."""
    zero = torch.zeros(math.prod(shape), dtype=torch.float64)
    factor = zero.index_copy(0, terms.row, terms.value[0]).reshape(shape)
    return [] if bool((factor == 1).all()) else [Scale(factor)]


def pieces(e: LinearExpression) -> list[Piece]:
    """An expression over a joint network by the parts of that."""
    network, found = e.network, []
    assert isinstance(network, JointNetwork)
    for position, terms in sorted(e.terms.items()):
        if position:
            part, node = network.owner[position]
            piece = Piece(part, node, terms)
            found.append(replace(piece, terms=terms.coalesced(piece.size)))
            continue
        for root, first in network.columns.items():
            own = (terms.col >= first) & (terms.col < first + root.size)
            if bool(own.any()):
                here = Terms(terms.row[own], terms.col[own] - first, terms.value[:, own])
                found.append(Piece(root, 0, here.coalesced(root.size)))
    return [piece for piece in found if len(piece.terms.row)]


def ways_of(e: LinearExpression) -> list[list[tuple[Operator, Shape]]]:
    """For each piece of an expression the operators that lead to its share of it; the constant goes with the first."""
    found = [piece.way(e.shape) for piece in pieces(e)]
    shift = e.constant.reshape(e.shape)
    if found and bool((shift != 0).any()):
        last = found[0][-1][0] if found[0] else None
        scale = last.scale if isinstance(last, Scale) else None
        found[0] = [*(found[0] if scale is None else found[0][:-1]), (Scale(scale, shift), e.shape)]
    return found


# --- the network --------------------------------------------------------------------------------------------------


class JointNetwork(Network):
    """The network of several variables and of everything that was applied to them.

    Its input has the shape of the one variable, or is all of them one after the other, flat. Layers are called as in
    their network, with that network's name in front: ``"mlp.relu2"``, of its second application ``"mlp#2.relu2"``.

    Attributes:
        roots: of the variables, in the order of the input.
        applications: each after those that its argument reads.
        columns: where each variable begins in the flat input.
        owner: position of a node in the graph -> whose it is, and its position in that network's graph.
    """

    roots: tuple[Root, ...]
    applications: tuple[Application, ...]
    columns: dict[Root, int]

    @classmethod
    def of(cls, roots: Sequence[Root], applications: Sequence[Application] = ()) -> JointNetwork:
        """The network of these parts.

        Raises:
            ProblemError: the networks differ in dtype or device, or one of them is loaded with ``live=True``.
        """
        networks = [application.network for application in applications]
        kinds = {(n.dtype, n.device) for n in networks} or {(torch.float64, torch.device("cpu"))}
        if len(kinds) > 1:
            said = ", ".join(sorted({f"{n.name} {n.dtype} on {n.device}".replace("torch.", "") for n in networks}))
            raise ProblemError(f"The networks of one problem must have one dtype and device; these have: {said}.")
        live = next((n.name for n in networks if n.is_live), None)
        if live is not None:
            raise ProblemError(f"{live} was loaded with live=True. Load it without to apply it to an expression.")
        joint = cls.__new__(cls)
        joint.roots, joint.applications = tuple(roots), tuple(applications)
        firsts = torch.tensor([0, *(root.size for root in roots)]).cumsum(0).tolist()
        joint.columns = dict(zip(roots, firsts))
        joint._place()
        ((dtype, device),) = kinds
        names = dict.fromkeys(n.name for n in networks)
        Network.__init__(
            joint, Graph(()), joint._answer, dtype=dtype, device=device, name=" and ".join(names) or "variables"
        )
        joint._source = joint.graph_as(torch.float64, "cpu")
        return joint

    # --- where things are ---------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Which node stands where: the input, the variables cut out of it, for each application its argument and it."""
        self.whole: dict[Any, int] = {}
        self.start: dict[Any, int] = {}
        self.argument: dict[Any, int] = {}
        self.owner: dict[int, tuple[Application, int]] = {}
        position = 1
        for root in self.roots:
            self.whole[root.key] = 0
            if len(self.roots) > 1:
                self.whole[root.key] = position + 1
                position += 2
        for application in self.applications:
            position += application.steps
            self.start[application.key] = position - 1
            first = application.pieces[0]
            self.argument[application.key] = position - 1 if application.steps else self.at(first.part, first.node)
            count = len(application.network.graph.nodes)
            self.owner |= {position - 1 + node: (application, node) for node in range(1, count)}
            position += count - 1

    def at(self, part: Root | Application, node: int) -> int:
        """Position of a part's node; node 0 of an application is its argument."""
        if isinstance(part, Root):
            return self.whole[part.key]
        return self.start[part.key] + node if node else self.argument[part.key]

    def graph_as(self, dtype: torch.dtype, device: torch.device | str) -> Graph:
        """As :meth:`Network.graph_as`; the networks' own nodes are shared with them."""
        key = (dtype, torch.device(device))
        if key not in self._graphs:
            with torch.inference_mode(False):
                self._graphs[key] = Graph(tuple(self._nodes(dtype, device)))
        return self._graphs[key]

    def _nodes(self, dtype: torch.dtype, device: torch.device | str) -> Iterator[Node]:
        one, names = len(self.roots) == 1, list(_told_apart(root.name for root in self.roots))
        shape = self.roots[0].shape if one else (sum(root.size for root in self.roots),)
        yield Node("input", Input(tuple((name, root.shape) for name, root in zip(names, self.roots))), (), shape)
        if not one:
            for name, (root, first) in zip(names, self.columns.items()):
                yield Node(f"{name} flat", Slice(0, first, first + root.size), (0,), (root.size,))
                yield Node(name, Reshape(root.shape), (self.whole[root.key] - 1,), root.shape)
        prefixes = _told_apart(application.network.name for application in self.applications)
        for application, prefix in zip(self.applications, prefixes):
            yield from self._argument_nodes(application, prefix, dtype, device)
            for node in application.network.graph_as(dtype, device).nodes[1:]:
                yield replace(
                    node,
                    name=f"{prefix}.{node.name}",
                    inputs=tuple(self.at(application, j) for j in node.inputs),
                    aliases=tuple(f"{prefix}.{alias}" for alias in node.aliases),
                )

    def _argument_nodes(
        self, application: Application, prefix: str, dtype: torch.dtype, device: torch.device | str
    ) -> Iterator[Node]:
        """The argument: each piece on its way, then their sum."""
        ends: list[int] = []
        position = self.start[application.key] - application.steps + 1
        for k, (piece, way) in enumerate(zip(application.pieces, application.ways), 1):
            source = self.at(piece.part, piece.node)
            for step, (op, shape) in enumerate(way, 1):
                yield Node(f"{prefix}.argument {k}.{step}", op.to(dtype, device), (source,), shape)
                source, position = position, position + 1
            ends.append(source)
        for k, other in enumerate(ends[1:], 1):
            yield Node(f"{prefix}.argument sum {k}", Add(), (ends[0], other), application.network.input_shape)
            ends[0], position = position, position + 1

    # --- unions -------------------------------------------------------------------------------------------------------

    def union(self, other: Network) -> JointNetwork:
        """This network and the parts of another one that it lacks."""
        if other is self:
            return self
        if not isinstance(other, JointNetwork):
            other = _joined(own_application(other))
        known = {part.key for part in (*self.roots, *self.applications)}
        roots = [root for root in other.roots if root.key not in known]
        applications = [one for one in other.applications if one.key not in known]
        if not roots and not applications:
            return self
        return JointNetwork.of((*self.roots, *roots), (*self.applications, *applications))

    def taken_in(self, e: LinearExpression) -> LinearExpression:
        """An expression over parts of this network, or over a network with an input of its own, as one over it."""
        if e.network is self:
            return e
        if not isinstance(e.network, JointNetwork):
            own = own_application(e.network)
            joint = _joined(own)
            moved = {joint.at(own, node) if node else 0: terms for node, terms in e.terms.items()}
            e = LinearExpression(joint, e.shape, moved, e.constant, e.batch)
        terms: dict[int, list[Terms]] = {}
        for piece in pieces(e):
            moved = piece.terms
            if isinstance(piece.part, Root):
                moved = replace(moved, col=moved.col + self.columns[piece.part])
                terms.setdefault(0, []).append(moved)
            else:
                terms.setdefault(self.at(piece.part, piece.node), []).append(moved)
        joined = {position: Terms.joined(parts) for position, parts in terms.items()}
        return LinearExpression(self, e.shape, joined, e.constant, e.batch)

    # --- the user's own models ----------------------------------------------------------------------------------------

    def _answer(self, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
        """Activations by the user's own models, each given what the expression it is applied to says, in its dtype."""
        graph = self.graph
        wanted = {layer: graph.names[layer] for layer in layers}
        needed = graph.ancestors(wanted.values())
        read = {*wanted.values(), *(j for i in needed if i not in self.owner for j in graph.nodes[i].inputs)}
        values: dict[int, Tensor] = {0: x}
        with torch.no_grad():
            for i in needed:
                part, _ = self.owner.get(i, (None, 0))
                if i and part is None:
                    values[i] = graph.nodes[i].op.forward(*(values[j] for j in graph.nodes[i].inputs))
                elif isinstance(part, Application) and i not in values:
                    values |= self._of_one(part, values, read)
        return {layer: values[i] for layer, i in wanted.items()}

    def _of_one(self, application: Application, values: dict[int, Tensor], read: set[int]) -> dict[int, Tensor]:
        """All layers of one application that are read, by its own model."""
        network, start = application.network, self.start[application.key]
        names = {
            start + node: network.graph.nodes[node].name
            for node in range(1, len(network.graph.nodes))
            if start + node in read
        }
        found = network.original(values[self.argument[application.key]], list(names.values()))
        return {position: found[name] for position, name in names.items()}


def _told_apart(names: Iterable[str]) -> Iterator[str]:
    """Names, the second of its kind as ``"name#2"``."""
    used: dict[str, int] = {}
    for name in names:
        used[name] = used.get(name, 0) + 1
        yield name if used[name] == 1 else f"{name}#{used[name]}"


# --- what users write ---------------------------------------------------------------------------------------------


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
        network = JointNetwork.of((self.root,))
        terms = {0: Terms.identity(self.root.size)}
        super().__init__(network, extents, terms, torch.zeros(1, self.root.size, dtype=torch.float64))


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
        argument = _joined(own_application(argument.network)).taken_in(argument)
    application = Application(network, argument)
    if not application.pieces:
        raise ProblemError(f"{network.name} is applied to a constant. Let it depend on a variable.")
    joint = argument.network
    assert isinstance(joint, JointNetwork)
    known = next((one for one in joint.applications if one.key == application.key), None)
    return Applied(joint, known) if known else Applied(_joined(application), application)


def own_application(network: Network) -> Application:
    """A network applied to a variable of its own: what its input and layers are among expressions of variables."""
    found = vars(network).get("_own_application")
    if found is None:
        variable = Variable(network.input_shape, f"input of {network.name}")
        found = vars(network)["_own_application"] = Application(network, variable)
    return found


def _joined(application: Application) -> JointNetwork:
    """The network of an application and what it reads."""
    below = application.argument.network
    assert isinstance(below, JointNetwork)
    return JointNetwork.of(below.roots, (*below.applications, application))


def over_part(piece: Piece, shape: Shape) -> LinearExpression:
    """One piece as an expression by itself, of the given shape."""
    part = piece.part
    network = JointNetwork.of((part,)) if isinstance(part, Root) else _joined(part)
    position = 0 if isinstance(part, Root) else network.at(part, piece.node)
    return LinearExpression(
        network, shape, {position: piece.terms}, torch.zeros(1, math.prod(shape), dtype=torch.float64)
    )


def values_of(e: LinearExpression, network: Network, x: Tensor) -> Tensor:
    """An expression of variables at inputs ``(B, *input_shape)`` of a joint network, ``(B, *shape)``: the very numbers
    that a network applied to it is given.
    """
    assert isinstance(network, JointNetwork)
    total: Tensor | None = None
    flat = x.flatten(1)
    for piece, way in zip(pieces(e), ways_of(e)):
        assert isinstance(piece.part, Root)
        first = network.columns[piece.part]
        value = flat[:, first : first + piece.size].reshape(-1, *piece.shape)
        for op, _ in way:
            value = op.to(x.dtype, x.device).forward(value)
        total = value if total is None else total + value
    return x.new_zeros(len(x), *e.shape) + e.constant.to(x).reshape(e.shape) if total is None else total


def union_of(networks: Iterable[Network]) -> Network:
    """The one network of all; of several that were not applied to variables there is none.

    Raises:
        ProblemError: says how to state such a problem.
    """
    several = list({id(network): network for network in networks}.values())
    joint = next((network for network in several if isinstance(network, JointNetwork)), None)
    if len(several) == 1:
        return several[0]
    if joint is None:
        raise ProblemError(
            f"{several[0].name} and {several[1].name} are two networks, each with an input of its own. Apply both to "
            "one variable: x = cl.Variable(shape), then net(x) and other(x)."
        )
    for network in several:
        joint = joint.union(network)
    return joint
