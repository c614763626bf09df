"""Lanes: many attempts at many problems in one tensor.

A lane works on one problem and wants one atom of that problem's most disjunctive clause ("leave through the top of
neuron 3"), or any of them. ``primary`` is that atom, ``secondary`` the largest of all other clauses; a point is
feasible where no clause is positive. All conditions are tightened by the rounding of the model's dtype, so that a
point found here still counts in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.result import Best
from clinch.network.graph import Graph
from clinch.network.ops.base import Operator
from clinch.query import Forms, Query

#: an atom of ANY stands for the whole clause
ANY = -1
#: slope with which gradients pass a switched-off element, where the true gradient of a lane is zero
LEAK = 0.5


class Reading(NamedTuple):
    """What the network says about the points of L lanes.

    Attributes:
        value: ``(L,)`` objective.
        primary: ``(L,)`` the wanted atom, <= 0 where it holds.
        secondary: ``(L,)`` the largest of the other clauses, −infinity where there is none.
        feasible: ``(L,)`` whether every clause holds, through whatever atom.
        primary_slope: ``(L, n)`` gradient of primary; zero where it is not known.
        secondary_slope: ``(L, n)`` gradient of secondary.
    """

    value: Tensor
    primary: Tensor
    secondary: Tensor
    feasible: Tensor
    primary_slope: Tensor
    secondary_slope: Tensor


@dataclass
class Lanes:
    """L attempts.

    Attributes:
        query: one problem per lane, in the model's dtype, with tightened atoms.
        problem: ``(L,)`` problem of each lane in the original query.
        atom: ``(L,)`` the wanted atom, or ANY.
        best: where points are kept and rows are counted.
    """

    query: Query
    problem: Tensor
    atom: Tensor
    best: Best

    def take(self, lanes: Tensor) -> Lanes:
        """The chosen lanes, in that order."""
        return Lanes(self.query.take(lanes), self.problem[lanes], self.atom[lanes], self.best)

    def with_atoms(self, atom: Tensor) -> Lanes:
        """The same lanes with other wishes."""
        return replace(self, atom=atom)

    @property
    def size(self) -> int:
        """Number of lanes."""
        return len(self.problem)

    def read(self, z: Tensor, gradients: bool = True) -> Reading:
        """Evaluate points ``(L, *input_shape)``, and keep the feasible ones that are better than before."""
        z = z.detach().requires_grad_(gradients)
        with torch.set_grad_enabled(gradients):
            value, atoms = self.query.evaluate(z)
            primary, secondary = self._split(atoms)
        self.best.count(self.problem, forward=1)
        with torch.no_grad():
            feasible = (self.query.violation(atoms) <= 0) & self.query.region.contains(z)
            self.best.update(z, value, feasible, self.problem)
        one = two = z.new_zeros(self.size, z[0].numel()) if self.size else z.flatten(1)
        if gradients:
            one = _slope(primary, z, keep=True)
            two = _slope(secondary, z) if bool(torch.isfinite(secondary).any()) else two
            self.best.count(self.problem, backward=2 if bool(torch.isfinite(secondary).any()) else 1)
            dead = ((one == 0).all(1) & (primary > 0)).nonzero().flatten()
            if len(dead):
                one = one.index_copy(0, dead, self.take(dead)._leaky_slope(z[dead].detach()))
        return Reading(value.detach(), primary.detach(), secondary.detach(), feasible, one, two)

    def _split(self, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Primary and secondary value of each lane."""
        main = disjunctive_clause(self.query)
        if not self.query.clauses:
            nothing = atoms.new_full((len(atoms),), -torch.inf)
            return nothing, nothing
        clauses = self.query.clause_values(atoms)
        if main is None:
            return clauses.amax(1), torch.full_like(clauses[:, 0], -torch.inf)
        wanted = atoms.gather(1, self.atom.clamp(min=0).unsqueeze(1)).squeeze(1)
        primary = torch.where(self.atom == ANY, clauses[:, main], wanted)
        others = torch.cat([clauses[:, :main], clauses[:, main + 1 :]], 1)
        secondary = others.amax(1) if others.shape[1] else torch.full_like(primary, -torch.inf)
        return primary, secondary

    def _leaky_slope(self, z: Tensor) -> Tensor:
        """Gradient of primary where switched-off elements let a part of it through."""
        z = z.requires_grad_()
        with torch.enable_grad():
            activations = leaky_forward(self.query.graph, z, self.query.atoms.nodes)
            primary, _ = self._split(self.query.atoms.values(activations))
        self.best.count(self.problem, forward=1, backward=1)
        return _slope(primary, z)


def disjunctive_clause(query: Query) -> int | None:
    """The clause with the most atoms; None where no clause has a choice."""
    if not query.clauses:
        return None
    count = torch.bincount(query.clause)
    return int(count.argmax()) if int(count.max()) > 1 else None


def lanes_of(best: Best, tight: Query, problem: Tensor, atom: Tensor) -> Lanes:
    """Lanes for the given problems ``(L,)`` and wishes ``(L,)``; ``tight`` comes from :func:`tightened`."""
    return Lanes(tight.take(problem), problem, atom, best)


def tightened(best: Best) -> Query:
    """The query in the model's dtype, every atom and ball tightened by what rounding may cost there.

    The rounding of an atom is measured: the largest difference between the model's dtype and float64 at the anchor and
    at two points around it.
    """
    query = best.model
    generator = torch.Generator().manual_seed(0)
    spread = torch.zeros_like(best.anchor)
    slack = torch.zeros_like(query.atoms.constant)
    with torch.no_grad():
        for _ in range(3):
            point = torch.maximum(torch.minimum(best.anchor + spread, query.region.upper), query.region.lower)
            rough = query.evaluate(point)[1]
            exact = best.query.evaluate(point.to(best.query.device, torch.float64))[1].to(rough)
            slack = torch.maximum(slack, (rough - exact).abs().nan_to_num())
            spread = 0.1 * torch.randn(spread.shape, generator=generator).to(spread)
        best.count(torch.arange(query.size), forward=6)
    eps = torch.finfo(query.dtype).eps
    slack = 2 * slack + 4 * eps * (1 + query.atoms.constant.abs())
    atoms = Forms(query.atoms.coefficients, query.atoms.constant + slack)
    balls = tuple(replace(b, radius=b.radius * (1 - 16 * eps)) if b.p else b for b in query.region.balls)
    return replace(query, atoms=atoms, region=replace(query.region, balls=balls))


def _slope(value: Tensor, z: Tensor, keep: bool = False) -> Tensor:
    """Gradient ``(L, n)`` of per-lane values; zero where there is none or it is not finite."""
    if not value.requires_grad:
        return z.new_zeros(z.shape).flatten(1)
    finite = torch.where(torch.isfinite(value), value, torch.zeros_like(value))
    (gradient,) = torch.autograd.grad(finite.sum(), z, retain_graph=keep, allow_unused=True)
    gradient = torch.zeros_like(z) if gradient is None else gradient
    return gradient.flatten(1).nan_to_num(0.0, 0.0, 0.0)


class _Leaky(torch.autograd.Function):
    """An operator with two pieces: forward as it is, backward with LEAK on the switched-off side.

    Only where a descent asks for more output: a switched-off element has no less to give.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, op: Operator) -> Tensor:
        ctx.save_for_backward(x)
        return op.forward(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.where(x > 0, grads[0], LEAK * grads[0].clamp(max=0)), None


def leaky_forward(graph: Graph, x: Tensor, wanted: list[int]) -> dict[int, Tensor]:
    """:meth:`Graph.forward` whose gradients pass switched-off elements with slope LEAK."""
    values = {0: x}
    for i in graph.ancestors(wanted):
        if i:
            node = graph.nodes[i]
            inputs = [values[j] for j in node.inputs]
            values[i] = _Leaky.apply(inputs[0], node.op) if node.op.splits_at_zero else node.op.forward(*inputs)  # type: ignore[assignment]
    return {i: values[i] for i in wanted}
