"""A problem as attacks see it: in the model's dtype, with a margin for what rounding may cost there, about what goes
into ReLUs rather than what comes out, and with gradients that pass inactive neurons."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from clinch.attacks.core.attack_query import Answer, AttackQuery
from clinch.attacks.core.batches import along, filled
from clinch.attacks.core.draws import Draws, fingerprint
from clinch.attacks.core.step_functions import StepFunctions
from clinch.attacks.core.units import FARTHEST, Units, working_dtype
from clinch.errors import UnsupportedByEngine
from clinch.geometry.planes import Planes
from clinch.geometry.projection import project_into
from clinch.network.graph import Graph
from clinch.network.ops.base import Operator
from clinch.query import Activations, Distance, Forms, Query
from clinch.solver.check_points import check_points

#: slope with which surrogate gradients pass an inactive neuron
LEAK = 0.5


class ProblemQuery(AttackQuery):
    """The clauses of a problem, with rounding margins.

    Candidate k is the larger of the k-th atom of the largest clause and of all other clauses. Distances are the
    objective's; where the objective is none, those from the centre of the problem's ball in the ball's own norm.

    Args:
        query: the float64 normal form.
        p: the norm of distances where the objective is no distance.
        needed: False takes a problem without clauses too: its points reach the objective everywhere.
        lowers: whether the problem's own objective is lowered, instead of the distance; answers carry its value.

    Attributes:
        stated: the float64 normal form on the CPU.
        tight: what attacks see of it, see :func:`with_rounding_margins`.

    Raises:
        UnsupportedByEngine: the problem has no clauses, so that there is nothing to reach but its objective.
    """

    surrogates = True
    spent = 6

    def __init__(self, query: Query, p: float = torch.inf, *, needed: bool = True, lowers: bool = False) -> None:
        if needed and not query.clauses:
            raise UnsupportedByEngine(
                "This attack drives an input to where constraints on the network hold, and the problem has none. Use "
                "clinch.attacks.minimise for an objective alone."
            )
        self.dtype, self.lowers = query.network.dtype, lowers
        self.stated = query.moved("cpu")
        query, planes = planes_of(query)
        model = query.to(working_dtype(self.dtype), query.device)
        anchor = project_into(model.region, reference_point(model))
        self.tight = with_rounding_margins(query, anchor)
        tight = self.tight.objective
        self.objective = tight if isinstance(tight, Distance) else Distance(anchor, p)
        self.region = self.limits = replace(self.tight.region, planes=planes)
        self.clauses = self.tight.clauses
        self._main = disjunctive_clause(self.tight) or 0
        self._atoms = (self.tight.clause == self._main).nonzero().flatten()
        self.width = max(1, len(self._atoms))

    @property
    def nodes(self) -> list[int]:
        """Positions of the nodes that answers look at."""
        return sorted({0, *self.tight.nodes}) if self.lowers else self.tight.atoms.nodes

    def within_reach(self, units: Units) -> None:
        """See :meth:`AttackQuery.within_reach`."""
        self.tight = within_reach(self.tight, units)
        self.region = replace(self.tight.region, planes=self.region.planes)

    def answer(self, x: Tensor, indices: Tensor) -> Answer:
        """See :meth:`AttackQuery.answer`."""
        x = x.to(self.tight.dtype)
        return self.answer_from(filled(lambda z: self.tight.graph.forward(z, self.nodes), x), indices)

    def surrogate_answer(self, x: Tensor, indices: Tensor) -> Answer:
        """See :meth:`AttackQuery.surrogate_answer`."""
        x = x.to(self.tight.dtype)
        with StepFunctions():
            return self.answer_from(filled(lambda z: surrogate_forward(self.tight.graph, z, self.nodes), x), indices)

    def answer_from(self, activations: Activations, indices: Tensor) -> Answer:
        """The answer of a network with these activations of the watched nodes."""
        value = None
        if self.lowers:
            value = self.tight.objective.take(indices).value(activations[0], activations)
        if not self.clauses:
            return Answer(self.tight.region.lower.new_full((len(indices), 1), -torch.inf), None, value=value)
        values = self.tight.atoms.take(indices).values(activations)
        own = values[:, self._atoms]
        if self.clauses == 1:
            return Answer(own, None, value=value)
        clauses = self.tight.clause_values(values)
        others = torch.cat([clauses[:, : self._main], clauses[:, self._main + 1 :]], 1)
        return Answer(torch.maximum(own, others.amax(1, keepdim=True)), None, own, others, value)

    def check(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`AttackQuery.check`."""
        check = check_points(self.stated, x, indices)
        return check.feasible.to(x.device), check.violation.to(x.device)

    def value(self, x: Tensor, indices: Tensor) -> Tensor | None:
        """See :meth:`AttackQuery.value`."""
        return check_points(self.stated, x, indices).value.to(x.device) if self.lowers else None


def planes_of(query: Query) -> tuple[Query, Planes | None]:
    """The query without its linear conditions of inputs alone, and those: attacks stay on them instead of being led
    there, which for equalities, no wider than a tolerance, no gradient step could.

    A condition and its opposite become one row with two limits. Limits are moved inwards by what rounding may cost,
    those of equalities to their middle.

    Args:
        query: the float64 normal form.
    """
    if 0 not in query.atoms.coefficients:
        return query, None
    single = query.clause_sizes[query.clause] == 1
    for node, c in query.atoms.coefficients.items():
        touched = (c != 0).flatten(2).any(2).any(0)
        single = single & (touched if node == 0 else ~touched)
    own = single.nonzero().flatten()
    if not len(own):
        return query, None
    rows, limit = query.atoms.coefficients[0][:, own].flatten(2), -query.atoms.constant[:, own]
    length = torch.linalg.vector_norm(rows, dim=2)
    unit = rows / length.clamp(min=torch.finfo(rows.dtype).tiny).unsqueeze(2)
    opposite = (torch.einsum("bin,bjn->ij", unit, unit) / len(rows) < -1 + 1e-12).triu(1)
    first, second = opposite.nonzero().unbind(1)
    upper, lower = limit, torch.full_like(limit, -torch.inf)
    lower[:, first] = -limit[:, second] * (length[:, first] / length[:, second])
    kept = torch.ones(len(own), dtype=torch.bool, device=rows.device)
    kept[second] = False
    planes = Planes(rows[:, kept], lower[:, kept], upper[:, kept]).tightened(4 * torch.finfo(query.network.dtype).eps)
    rest = (~single).nonzero().flatten()
    clause = query.clause[rest].unique(return_inverse=True)[1]
    labels = tuple(query.labels[k] for k in rest.tolist()) if query.labels else ()
    atoms = query.atoms.select(rest)
    used = {node: c for node, c in atoms.coefficients.items() if bool((c != 0).any())}
    return replace(query, atoms=Forms(used, atoms.constant), clause=clause, labels=labels), planes


def with_rounding_margins(query: Query, anchor: Tensor) -> Query:
    """The query in the dtype that attacks work in, every atom and ball moved inwards by what rounding may cost there.

    The rounding of an atom is measured: the largest difference between the model's dtype and float64 at the anchor and
    at two points around it. Six rows forward for each problem.

    Args:
        query: the float64 normal form.
        anchor: ``(B, *input_shape)`` points of the region, in the model's dtype.
    """
    query = replace(query, atoms=before_relus(query))
    dtype = query.network.dtype
    model, narrow = (query.to(d, query.device) for d in (working_dtype(dtype), dtype))
    draws = Draws.of(fingerprint(anchor), 0)
    spread, slack = torch.zeros_like(anchor), torch.zeros_like(model.atoms.constant)
    with torch.no_grad():
        for step in range(3):
            point = torch.maximum(torch.minimum(anchor + spread, model.region.upper), model.region.lower)
            point = point.to(dtype)
            rough, exact = narrow.evaluate(point)[1].to(slack), query.evaluate(point.to(query.dtype))[1]
            slack = torch.maximum(slack, (rough - exact.to(rough)).abs().nan_to_num())
            spread = 0.1 * draws.at(step).normal(spread)
    eps = torch.finfo(dtype).eps
    slack = 2 * slack + 4 * eps * (1 + model.atoms.constant.abs())
    atoms = Forms(model.atoms.coefficients, model.atoms.constant + slack)
    balls = tuple(b if b.norm.counts else replace(b, radius=b.radius * (1 - 16 * eps)) for b in model.region.balls)
    return replace(model, atoms=atoms, region=replace(model.region, balls=balls))


def before_relus(query: Query) -> Forms:
    """The atoms, those about a single ReLU as the same condition on what goes into it.

    ``max(z, 0) <= l`` with ``l >= 0`` is ``z <= l``, ``max(z, 0) >= l`` with ``l > 0`` is ``z >= l``, to the last bit.
    There is a gradient where the ReLU is off; and "off", ``z <= 0``, can be tightened, while no ReLU is below zero.
    """
    coefficients, constant = dict(query.atoms.coefficients), query.atoms.constant
    size = {node: (rows != 0).flatten(2).sum(2) for node, rows in coefficients.items()}
    single = (sum(size.values(), torch.zeros_like(constant, dtype=torch.long)) <= 1).all(0)
    for node in list(coefficients):
        layer, rows = query.graph.nodes[node], coefficients[node]
        pieces = layer.op.two_pieces()
        if pieces is None or pieces.negative_slope != 0:
            continue
        c = rows.flatten(2).sum(2)
        same = (c == 0) | ((c > 0) & (constant <= 0)) | ((c < 0) & (constant > 0))
        moved = (single & same.all(0) & (size[node] > 0).any(0)).reshape(1, -1, *[1] * len(layer.shape))
        before = coefficients.get(layer.inputs[0], torch.zeros_like(rows))
        coefficients[layer.inputs[0]] = before + torch.where(moved, rows, 0)
        coefficients[node] = torch.where(moved, 0, rows)
    return Forms({node: rows for node, rows in coefficients.items() if bool((rows != 0).any())}, constant)


def within_reach(query: Query, units: Units) -> Query:
    """For p = 0 an element may move as far as it likes: without limits of its own it gets some, to move to."""
    objective, region = query.objective, query.region
    if not isinstance(objective, Distance) or not objective.norm.counts:
        return query
    reach = FARTHEST * along(units.unit, objective.center)
    lower = torch.maximum(region.lower, objective.center - reach)
    upper = torch.minimum(region.upper, objective.center + reach)
    return replace(query, region=replace(region, lower=lower, upper=upper))


def disjunctive_clause(query: Query) -> int | None:
    """The clause with the most atoms; None where no clause has a choice."""
    if not query.clauses:
        return None
    count = torch.bincount(query.clause)
    return int(count.argmax()) if int(count.max()) > 1 else None


def reference_point(query: Query) -> Tensor:
    """The centre of a distance, else that of the first ball, else the middle of the box: ``(B, *input_shape)``."""
    if isinstance(query.objective, Distance):
        return query.objective.center
    if query.region.balls:
        return query.region.balls[0].center
    middle = (query.region.lower + query.region.upper) / 2
    zero = torch.zeros_like(middle).clamp(query.region.lower, query.region.upper)
    return torch.where(torch.isfinite(middle), middle, zero)


class _Surrogate(torch.autograd.Function):
    """An operator with two pieces: forward as it is, backward with LEAK on the inactive side.

    Only where a descent asks for more output: a inactive neuron has no less to give.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, op: Operator) -> Tensor:
        ctx.save_for_backward(x)
        return op.forward(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.where(x > 0, grads[0], LEAK * grads[0].clamp(max=0)), None


def surrogate_forward(graph: Graph, x: Tensor, wanted: list[int]) -> dict[int, Tensor]:
    """:meth:`Graph.forward` whose gradients pass inactive neurons with slope LEAK."""

    def surrogate(op: Operator, h: Tensor) -> Tensor:
        return _Surrogate.apply(h, op)  # type: ignore[return-value]

    pieces = [(i, node.op, node.op.two_pieces()) for i, node in enumerate(graph.nodes)]
    # what falls left of zero is not switched off there
    rising = {i: partial(surrogate, op) for i, op, two in pieces if two is not None and two.negative_slope >= 0}
    return graph.forward(x, wanted, rising)
