"""The one network that all expressions of a problem are about.

A *joint network* has the variables of a problem as its input, one after the other, and the layers of every network that
was applied to an expression of them: engines read it like any other. It is made anew where expressions over different
ones meet; a network that was applied to the same expression twice is there once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.modeling.expressions import LinearExpression
from clinch.modeling.parts import Application, Piece, Root, ways_of
from clinch.modeling.sparse_maps import Terms
from clinch.modeling.symbols import Shape
from clinch.network.graph import Graph, Input, Node
from clinch.network.network import Network
from clinch.network.ops.add import Add
from clinch.network.ops.select import Slice
from clinch.network.ops.shape import Reshape


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
        kinds = {(n.dtype, n.device) for n in networks if not n.any_dtype} or {(torch.float64, torch.device("cpu"))}
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

    @property
    def variable_names(self) -> list[str]:
        """Of the variables, told apart."""
        return list(_told_apart(root.name for root in self.roots))

    @property
    def application_names(self) -> list[str]:
        """What stands in front of the layers of each application."""
        return list(_told_apart(application.network.name for application in self.applications))

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
        one, names = len(self.roots) == 1, self.variable_names
        shape = self.roots[0].shape if one else (sum(root.size for root in self.roots),)
        yield Node("input", Input(tuple((name, root.shape) for name, root in zip(names, self.roots))), (), shape)
        if not one:
            for name, (root, first) in zip(names, self.columns.items()):
                yield Node(f"{name} flat", Slice(0, first, first + root.size), (0,), (root.size,))
                yield Node(name, Reshape(root.shape), (self.whole[root.key] - 1,), root.shape)
        for application, prefix in zip(self.applications, self.application_names):
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

    def pieces(self, e: LinearExpression) -> list[Piece]:
        """What an expression over this network takes of each part."""
        found = []
        for position, terms in sorted(e.terms.items()):
            if position:
                piece = Piece(*self.owner[position], terms)
                found.append(replace(piece, terms=terms.coalesced(piece.size)))
                continue
            for root, first in self.columns.items():
                own = (terms.col >= first) & (terms.col < first + root.size)
                if bool(own.any()):
                    here = Terms(terms.row[own], terms.col[own] - first, terms.value[:, own])
                    found.append(Piece(root, 0, here.coalesced(root.size)))
        return [piece for piece in found if len(piece.terms.row)]

    # --- unions -------------------------------------------------------------------------------------------------------

    def union(self, other: Network) -> JointNetwork:
        """This network and the parts of another one that it lacks."""
        if other is self:
            return self
        if not isinstance(other, JointNetwork):
            other = joined(own_application(other))
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
            its = joined(own)
            moved = {its.at(own, node) if node else 0: terms for node, terms in e.terms.items()}
            e = LinearExpression(its, e.shape, moved, e.constant, e.batch)
        terms: dict[int, list[Terms]] = {}
        for piece in pieces_of(e):
            moved = piece.terms
            if isinstance(piece.part, Root):
                moved = replace(moved, col=moved.col + self.columns[piece.part])
                terms.setdefault(0, []).append(moved)
            else:
                terms.setdefault(self.at(piece.part, piece.node), []).append(moved)
        merged = {position: Terms.joined(parts) for position, parts in terms.items()}
        return LinearExpression(self, e.shape, merged, e.constant, e.batch)

    # --- the user's own models ----------------------------------------------------------------------------------------

    def _answer(self, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
        """Activations by the user's own models, each given what the expression it is applied to says, in its dtype."""
        graph = self.graph
        wanted = {layer: graph.names[layer] for layer in layers}
        needed = graph.ancestors(wanted.values())
        read = {*wanted.values(), *(j for i in needed if i not in self.owner for j in graph.nodes[i].inputs)}
        read |= {self.argument[self.owner[i][0].key] for i in needed if i in self.owner}
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


# --- single parts, and all together -------------------------------------------------------------------------------


def pieces_of(e: LinearExpression) -> list[Piece]:
    """What an expression over a joint network takes of each part."""
    network = e.network
    assert isinstance(network, JointNetwork)
    return network.pieces(e)


def whole(root: Root, shape: Shape) -> LinearExpression:
    """A variable as an expression by itself."""
    constant = torch.zeros(1, root.size, dtype=torch.float64)
    return LinearExpression(JointNetwork.of((root,)), shape, {0: Terms.identity(root.size)}, constant)


def own_application(network: Network) -> Application:
    """A network applied to a variable of its own: what its input and layers are among expressions of variables."""
    found = vars(network).get("_own_application")
    if found is None:
        root = Root(tuple(network.input_shape), f"input of {network.name}")
        found = vars(network)["_own_application"] = Application(network, whole(root, root.shape))
    return found


def joined(application: Application) -> JointNetwork:
    """The network of an application and what it reads."""
    below = application.argument.network
    assert isinstance(below, JointNetwork)
    return JointNetwork.of(below.roots, (*below.applications, application))


def over_part(piece: Piece, shape: Shape) -> LinearExpression:
    """One piece as an expression by itself, of the given shape."""
    part = piece.part
    network = JointNetwork.of((part,)) if isinstance(part, Root) else joined(part)
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
    for piece, way in zip(found := network.pieces(e), ways_of(e, found)):
        assert isinstance(piece.part, Root)
        first = network.columns[piece.part]
        value = flat[:, first : first + piece.size].reshape(-1, *piece.shape)
        for op, _ in way:
            value = op.to(x.dtype, x.device).forward(value)
        total = value if total is None else total + value
    return x.new_zeros(len(x), *e.shape) + e.constant.to(x).reshape(e.shape) if total is None else total
