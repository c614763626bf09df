"""The one normal form that every engine reads.

A query is a batch of B problems of one shape over one network::

    minimise   objective(x)
    subject to x in region                                   a box, cut by norm balls
               for every clause, at least one of its atoms   atom_k(x) = Σ_node <C_node,k, h_node(x)> + d_k <= 0

``z.argmax() == 7`` is nine clauses of one atom, ``z.argmax() != 7`` is one clause of nine, "outside a monitor box" is
one clause of two atoms per neuron. All atoms stand in one stack (:class:`Forms`) and ``clause`` says whose each is.
Maximisation is turned into minimisation of the negated objective; ``sense`` remembers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from clinch.geometry.norms import Norm, norm_of
from clinch.geometry.region import Ball, Region

if TYPE_CHECKING:
    from clinch.network.graph import Graph
    from clinch.network.network import Network

Activations = dict[int, Tensor]


def met(value: Tensor) -> Tensor:
    """Whether conditions ``value <= 0`` hold: with equality too, NaN never.

    So a tie of class scores counts against a label: with ``z_k = z_y`` the label y is not the single largest one. This
    is what attacks, the check of points and studies mean by another class; a proof shows ``z_y > z_k`` for all k.
    """
    return value <= 0


@dataclass(frozen=True)
class Forms:
    """K linear forms of activations for each of B problems.

    ``value_k(x) = Σ_node <coefficients[node][:, k], h_node(x)> + constant[:, k]``

    Attributes:
        coefficients: node position -> ``(B, K, *node_shape)``; ``(1, K, *node_shape)`` where all problems share them.
        constant: ``(B, K)``.
    """

    coefficients: dict[int, Tensor]
    constant: Tensor

    @property
    def count(self) -> int:
        """Number of forms K."""
        return self.constant.shape[1]

    @property
    def nodes(self) -> list[int]:
        """Positions of the nodes that the forms look at."""
        return sorted(self.coefficients)

    def values(self, activations: Activations) -> Tensor:
        """Values ``(B, K)`` for activations ``(B, *node_shape)``; gradients flow."""
        total = self.constant
        for node, rows in self.coefficients.items():
            h = activations[node]
            if rows.shape[0] == 1:
                total = total + h.flatten(1) @ rows[0].flatten(1).T
            else:
                total = total + torch.einsum("bkn,bn->bk", rows.flatten(2), h.flatten(1))
        return total

    def take(self, problems: Tensor | slice) -> Forms:
        """The forms of the chosen problems, in that order; shared coefficients stay shared."""
        rows = {node: c if c.shape[0] == 1 else c[problems] for node, c in self.coefficients.items()}
        return Forms(rows, self.constant[problems])

    def select(self, which: Tensor | slice) -> Forms:
        """The chosen forms, in that order: the same for all problems, indices ``(k,)`` or a slice."""
        rows = {node: c[:, which] for node, c in self.coefficients.items()}
        return Forms(rows, self.constant[:, which])

    def joined(self, other: Forms) -> Forms:
        """These forms of B problems and then the other ones."""
        rows = {}
        for node in {*self.coefficients, *other.coefficients}:
            both = [one.coefficients.get(node) for one in (self, other)]
            known = next(one for one in both if one is not None)
            batch = max(len(one) for one in both if one is not None)
            parts = [
                known.new_zeros(1, forms.count, *known.shape[2:]) if one is None else one
                for forms, one in zip((self, other), both)
            ]
            rows[node] = torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], 1)
        return Forms(rows, torch.cat([self.constant, other.constant], 1))

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Forms:
        """A copy with the given dtype and device."""
        rows = {node: c.to(device, dtype) for node, c in self.coefficients.items()}
        return Forms(rows, self.constant.to(device, dtype))


@dataclass(frozen=True)
class Distance:
    """The objective ``‖w ⊙ (x − center)‖_p`` on the network's input. Fields as in :class:`Ball`."""

    center: Tensor
    p: float
    weights: Tensor | None = None

    @cached_property
    def norm(self) -> Norm:
        """What p stands for."""
        return norm_of(self.p)

    def value(self, x: Tensor, activations: Activations) -> Tensor:
        """Shape ``(B,)``."""
        return self.norm.value(x - self.center, self.weights)

    def ball(self, radius: Tensor) -> Ball:
        """The inputs at most this far away."""
        return Ball(self.center, radius, self.p, self.weights)

    @property
    def nodes(self) -> list[int]:
        """No activation is looked at."""
        return []

    def take(self, problems: Tensor) -> Distance:
        """The objectives of the chosen problems, in that order."""
        return Distance(self.center[problems], self.p, None if self.weights is None else self.weights[problems])

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Distance:
        """A copy with the given dtype and device."""
        return Distance(
            self.center.to(device, dtype), self.p, None if self.weights is None else self.weights.to(device, dtype)
        )


@dataclass(frozen=True)
class Linear:
    """The objective ``<C, activations> + d``: one form per problem."""

    form: Forms

    def value(self, x: Tensor, activations: Activations) -> Tensor:
        """Shape ``(B,)``."""
        return self.form.values(activations)[:, 0]

    @property
    def nodes(self) -> list[int]:
        """Positions of the nodes that the objective looks at."""
        return self.form.nodes

    def take(self, problems: Tensor) -> Linear:
        """The objectives of the chosen problems, in that order."""
        return Linear(self.form.take(problems))

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Linear:
        """A copy with the given dtype and device."""
        return Linear(self.form.to(dtype, device))


@dataclass(frozen=True)
class FormsNorm:
    """The objective ``scale · ‖(w_k·form_k(x))_k‖_p``: a norm of an output difference, small (+1) or large (−1)."""

    forms: Forms
    p: float
    scale: float = 1.0
    weights: Tensor | None = None

    @cached_property
    def norm(self) -> Norm:
        """What p stands for."""
        return norm_of(self.p)

    def value(self, x: Tensor, activations: Activations) -> Tensor:
        """Shape ``(B,)``."""
        return self.scale * self.norm.value(self.forms.values(activations), self.weights)

    @property
    def nodes(self) -> list[int]:
        """Positions of the nodes that the objective looks at."""
        return self.forms.nodes

    def take(self, problems: Tensor) -> FormsNorm:
        """The objectives of the chosen problems, in that order."""
        weights = None if self.weights is None else self.weights[problems]
        return FormsNorm(self.forms.take(problems), self.p, self.scale, weights)

    def to(self, dtype: torch.dtype, device: torch.device | str) -> FormsNorm:
        """A copy with the given dtype and device."""
        weights = None if self.weights is None else self.weights.to(device, dtype)
        return FormsNorm(self.forms.to(dtype, device), self.p, self.scale, weights)


Objective = Distance | Linear | FormsNorm


@dataclass(frozen=True)
class Query:
    """B problems in normal form (see the module's text). All tensors are float64; a copy is made with :meth:`to`.

    Attributes:
        network: what ``cl.load`` returned: holds the user's own model for the re-check.
        graph: the network in the dtype and on the device of this copy.
        region: box and balls, B problems.
        objective: what is minimised.
        atoms: all atoms of all clauses.
        clause: ``(K,)`` clause of each atom, ``0 … C−1``.
        sense: +1 where the user minimises, −1 where the user maximises (objective values are negated).
        labels: a short text for each atom, for people: ``"relu2[3] >= 4.1"``.
    """

    network: Network
    graph: Graph
    region: Region
    objective: Objective
    atoms: Forms
    clause: Tensor
    sense: int = 1
    labels: tuple[str, ...] = field(default=(), compare=False)

    @property
    def size(self) -> int:
        """Number of problems B."""
        return self.region.size

    @property
    def clauses(self) -> int:
        """Number of clauses C."""
        return int(self.clause.max()) + 1 if len(self.clause) else 0

    @property
    def clause_sizes(self) -> Tensor:
        """Number of atoms of each clause, ``(C,)``."""
        return torch.bincount(self.clause, minlength=self.clauses)

    @property
    def nodes(self) -> list[int]:
        """Positions of all nodes that objective and atoms look at."""
        return sorted({*self.objective.nodes, *self.atoms.nodes})

    @property
    def feasibility(self) -> bool:
        """Whether the objective is a constant: any input that satisfies everything is as good as any other."""
        return isinstance(self.objective, Linear) and not self.objective.form.coefficients

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of this copy."""
        return self.region.lower.dtype

    @property
    def device(self) -> torch.device:
        """Device of this copy."""
        return self.region.lower.device

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Objective ``(B,)`` and atom values ``(B, K)`` at points ``(B, *input_shape)``; gradients flow."""
        activations = self.graph.forward(x, self.nodes)
        return self.objective.value(x, activations), self.atoms.values(activations)

    def violation(self, atoms: Tensor) -> Tensor:
        """``max over clauses of min over its atoms``, shape ``(B,)``: feasible where <= 0; −inf without clauses."""
        if not self.clauses:
            return atoms.new_full((atoms.shape[0],), -torch.inf)
        return self.clause_values(atoms).amax(1)

    def clause_values(self, atoms: Tensor) -> Tensor:
        """Smallest atom of each clause, shape ``(B, C)``: the clause holds where it is <= 0."""
        index = self.clause.expand(atoms.shape[0], -1)
        empty = atoms.new_full((atoms.shape[0], self.clauses), torch.inf)
        return empty.scatter_reduce(1, index, atoms, "amin")

    def take(self, problems: Tensor) -> Query:
        """The chosen problems, in that order; an index may repeat, so that lanes and domains are problems too."""
        return Query(
            self.network, self.graph, self.region.take(problems), self.objective.take(problems),
            self.atoms.take(problems), self.clause, self.sense, self.labels,
        )  # fmt: skip

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Query:
        """A copy with the given dtype and device."""
        return Query(
            self.network, self.network.graph_as(dtype, device), self.region.to(dtype, device),
            self.objective.to(dtype, device),
            self.atoms.to(dtype, device), self.clause.to(device), self.sense, self.labels,
        )  # fmt: skip

    def moved(self, device: torch.device | str) -> Query:
        """The same problems on a device; as they are where they live there already."""
        wanted = torch.device(device)
        here = self.device.type == wanted.type and wanted.index in (None, self.device.index)
        return self if here else self.to(self.dtype, wanted)

    def without_objective(self) -> Query:
        """The question for any feasible input: the same problems with a constant in place of the objective."""
        zero = torch.zeros(self.size, 1, dtype=self.dtype, device=self.device)
        return replace(self, objective=Linear(Forms({}, zero)))

    def with_gaps_as_clauses(self) -> Query:
        """The same problems without discrete elements: each gap is a clause of two atoms, below it or above it, and the
        elements of each group add up to 1."""
        discrete = self.region.discrete
        if discrete is None:
            return self
        rows, limits, size = [], [], len(discrete.which)
        for element in discrete.elements.nonzero().flatten().tolist():
            least, most = discrete.pieces(element, -torch.inf, torch.inf)
            one = torch.zeros(len(least) - 1, 2, size, dtype=self.dtype, device=self.device)
            one[:, 0, element], one[:, 1, element] = 1.0, -1.0
            rows.append(one.flatten(0, 1))
            limits.append(torch.stack([-most[:-1], least[1:]], 1).flatten())
        clause = torch.arange(sum(map(len, limits)), device=self.device) // 2
        for columns in discrete.groups:
            one = torch.zeros(2, size, dtype=self.dtype, device=self.device)
            one[0, columns], one[1, columns] = 1.0, -1.0
            rows.append(one)
            limits.append(one.new_tensor([-1.0, 1.0]))
            clause = torch.cat([clause, clause.new_tensor([0, 1]) + (int(clause[-1]) + 1 if len(clause) else 0)])
        constant = torch.cat(limits).to(self.dtype).expand(self.size, -1)
        own = Forms({0: torch.cat(rows).reshape(1, -1, *self.graph.input_shape)}, constant)
        atoms = self.atoms.joined(own)
        labels = (*self.labels, *inequalities(own, self.graph)) if self.labels else ()
        region = replace(self.region, discrete=None)
        return replace(
            self, region=region, atoms=atoms, clause=torch.cat([self.clause, self.clauses + clause]), labels=labels
        )

    def narrowed(self, value: Tensor) -> Query:
        """The same problems, restricted to inputs no worse than objective values ``(B,)``; infinity: no restriction."""
        if not isinstance(self.objective, Distance) or not torch.isfinite(value).any():
            return self
        region = self.region.within(self.objective.ball(value)).cut_to_values()
        return Query(
            self.network, self.graph, region, self.objective, self.atoms, self.clause, self.sense, self.labels
        )  # fmt: skip


class Statement(Protocol):
    """A question with its normal form: what :class:`clinch.Problem` is to everything below the problem language."""

    query: Query
    batched: bool

    @property
    def network(self) -> Network:
        """The network whose input is searched."""
        ...


# --- conditions in words ------------------------------------------------------------------------------------------

#: forms of more terms than this are summed up instead of written out
WRITTEN_OUT = 4


def inequalities(forms: Forms, graph: Graph, problem: int = 0, which: Sequence[int] | None = None) -> list[str]:
    """Atoms ``form <= 0`` of one problem, for people.

    Args:
        forms: of the atoms.
        graph: the network they look at.
        problem: which of the batch.
        which: positions of the atoms wanted; None for all.

    Example:
        >>> inequalities(query.atoms, query.graph, which=[0])
        ['output[0] - output[4] >= 1e-05']
    """
    wanted = list(range(forms.count)) if which is None else list(which)
    terms, constants = _terms(forms, problem, wanted), forms.constant[problem].tolist()
    return [_inequality(terms[i], constants[k], graph) for i, k in enumerate(wanted)]


def linear_form(forms: Forms, graph: Graph, which: int, problem: int = 0, sign: float = 1.0) -> str:
    """One form of one problem, times a sign, for people: ``"output[0] - 3·output[1] + 2"``."""
    (terms,) = _terms(forms, problem, [which])
    constant = sign * float(forms.constant[problem, which])
    text = _sum([(sign * value, node, element) for value, node, element in terms], graph)
    if not terms or constant == 0:
        return text or f"{constant:.6g}"
    return f"{text} {'-' if constant < 0 else '+'} {abs(constant):.6g}"


def _terms(forms: Forms, problem: int, wanted: list[int]) -> list[list[tuple[float, int, int]]]:
    """Of each wanted form its coefficients, each with its node and element."""
    terms: list[list[tuple[float, int, int]]] = [[] for _ in wanted]
    for node in forms.nodes:
        rows = forms.coefficients[node]
        rows = rows[problem if rows.shape[0] > 1 else 0][wanted].flatten(1)
        at = rows.nonzero()
        for (k, element), value in zip(at.tolist(), rows[at[:, 0], at[:, 1]].tolist()):
            terms[k].append((value, node, element))
    return terms


def _inequality(terms: list[tuple[float, int, int]], constant: float, graph: Graph) -> str:
    """``Σ terms + constant <= 0``, with the constant moved to the right and the sign that reads best."""
    if not terms:
        return "always" if constant <= 0 else "never"
    flipped = terms[0][0] < 0 if len(terms) == 1 else constant > 0
    scale = abs(terms[0][0]) if len(terms) == 1 else 1.0
    sign = -1.0 if flipped else 1.0
    right = -sign * constant / scale + 0.0
    signed = [(sign * value / scale, node, element) for value, node, element in terms]
    return f"{_sum(signed, graph)} {'>=' if flipped else '<='} {right:.6g}"


def _sum(terms: list[tuple[float, int, int]], graph: Graph) -> str:
    if len(terms) > WRITTEN_OUT:
        layers = ", ".join(graph.layer_name(node) for node in sorted({node for _, node, _ in terms}))
        return f"a sum of {len(terms)} terms of {layers}"
    text = ""
    for value, node, element in sorted(terms, key=lambda term: term[0] < 0):
        sign = ("-" if value < 0 else "") if not text else (" - " if value < 0 else " + ")
        factor = "" if abs(value) == 1 else f"{abs(value):.6g}·"
        text += f"{sign}{factor}{graph.element_name(node, element)}"
    return text
