"""From what the user wrote to the normal form: constraints become a box, balls and clauses of linear atoms.

1. Balls of ``input − constant``, fixed inputs and the values of discrete ones are taken out of the top-level
   conjunction.
2. The rest is brought to conjunctive normal form; only indices are copied, never coefficients.
   Of a last softmax or another increasing function they are asked about what goes into it.
3. Atoms that are always or never true are decided, also those that no activation of their layer can change.
4. Atoms about one input become limits in the model's own dtype (:mod:`clinch.modeling.limits`), clauses of one of them
   limits of the box.
5. What is left becomes dense: the atoms of the query.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clinch.errors import EmptyRegionError, ProblemError, UnsupportedOperator
from clinch.geometry.region import Ball, Region
from clinch.geometry.rounding import round_down, round_up
from clinch.modeling.clauses import Clauses, all_of
from clinch.modeling.constraints import Constraint, Junction
from clinch.modeling.discrete import Values
from clinch.modeling.expressions import Atoms, LinearExpression, concatenate
from clinch.modeling.limits import InputRows, in_dtype, in_units_of_inputs, single_inputs
from clinch.modeling.monotone import before_monotone
from clinch.modeling.norms import NormBall, NormExpression
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval
from clinch.query import Distance, Forms, FormsNorm, Linear, Objective, Query, inequalities

if TYPE_CHECKING:
    from clinch.network.network import Network


def range_of(graph: Graph, node: int) -> Interval:
    """Limits ``(1, *shape)`` of a node's activations for all inputs in R^n, infinite where there are none.

    They hold for every execution in floating point too: no number is rounded to find them.
    """
    op, shape = graph.nodes[node].op, graph.nodes[node].shape
    nothing = torch.full((1, *shape), torch.inf, dtype=torch.float64)
    inputs = [graph.nodes[i] for i in graph.nodes[node].inputs]
    if op.selects:
        return op.interval(*(range_of(graph, i) for i in graph.nodes[node].inputs)).without_nan()
    if not inputs or op.affine:
        return Interval(-nothing, nothing)
    anything = [torch.full((1, *layer.shape), torch.inf, dtype=torch.float64) for layer in inputs]
    try:
        return op.interval(*(Interval(-one, one) for one in anything)).without_nan()
    except UnsupportedOperator:
        return Interval(-nothing, nothing)


def decided_by_ranges(stack: LinearExpression, batch: int) -> tuple[Tensor, Tensor]:
    """Which atoms ``expression <= 0`` are true and which are false whatever the input is, each ``(B, A)``.

    Only where every term is zero at the end of its range that matters, so that nothing is rounded.
    """
    kept = torch.ones(batch, stack.size, dtype=torch.bool)
    low, high = kept, kept.clone()
    for node, part in stack.terms.items():
        layer = stack.network.graph.nodes[node]
        merged = part.coalesced(layer.size)
        limits = range_of(stack.network.graph, node)
        least, most = (side.flatten()[merged.col] for side in limits)
        value, at = merged.value.expand(batch, -1), merged.row.expand(batch, -1)
        # a term that is never positive, or never negative
        falls = (value == 0) | ((value < 0) & (least >= 0)) | ((value > 0) & (most <= 0))
        rises = (value == 0) | ((value > 0) & (least >= 0)) | ((value < 0) & (most <= 0))
        low = low & ~torch.zeros(batch, stack.size).scatter_add(1, at, (~falls).float()).bool()
        high = high & ~torch.zeros(batch, stack.size).scatter_add(1, at, (~rises).float()).bool()
    d = stack.constant.expand(batch, -1)
    return low & (d <= 0), high & (d > 0)


#: dense coefficients beyond this many (4 GiB) are refused with a sentence instead of running out of memory
COEFFICIENTS = 2**29


def lower(
    network: Network,
    objective: LinearExpression | NormExpression,
    sense: int,
    constraints: list[Constraint],
    batch: int,
) -> Query:
    """The normal form of a problem.

    Args:
        network: the one network of all parts.
        objective: a scalar linear expression or a norm.
        sense: +1 to minimise, −1 to maximise.
        constraints: all must hold.
        batch: number of problems B.

    Raises:
        EmptyRegionError: box constraints contradict each other, or a constraint can hold for no input.
        ProblemError: the disjunctions are too large, or a norm constraint is not a ball of inputs.
    """
    balls: list[Ball] = []
    box = Box.whole(network, batch)
    rest: list[Constraint] = []
    values = Values(network)
    for constraint in Junction.of(True, constraints).parts if constraints else ():
        if values.take(constraint):
            continue
        if isinstance(constraint, NormBall):
            ball = _ball(constraint, network, batch)
            if ball is not None:
                balls.append(ball)
            else:
                rest.append(constraint.as_atoms())
        elif isinstance(constraint, Atoms) and constraint.every and constraint.equality is not None:
            rest.extend(box.fix(constraint))
        else:
            rest.append(constraint)
    atoms, clause = _clauses(rest, network, box, batch)
    graph = network.graph_as(torch.float64, "cpu")
    labels = tuple(inequalities(atoms, graph))
    return Query(
        network, graph, box.region(balls, values), _objective(objective, sense, network, batch), atoms, clause, sense,
        labels,
    )  # fmt: skip


# --- the box ------------------------------------------------------------------------------------------------------


@dataclass
class Box:
    """Limits of the input while they are collected, shape ``(B, n)``, every number one of the model's dtype."""

    network: Network
    lower: Tensor
    upper: Tensor

    @staticmethod
    def whole(network: Network, batch: int) -> Box:
        """No limits."""
        size = network.graph.nodes[0].size
        infinite = torch.full((batch, size), torch.inf, dtype=torch.float64)
        return Box(network, -infinite, infinite)

    def cut(self, rows: InputRows, constant: Tensor) -> None:
        """Impose ``coefficient_i · x[column_i] + constant_i <= 0``, constants of shape ``(B, m)``."""
        limit = in_dtype(-constant / rows.coefficient, self.network)
        column = rows.column.expand(len(self.lower), -1)
        above = (rows.coefficient > 0).expand_as(column)
        upper = torch.where(above, limit, torch.inf)
        lower = torch.where(above, -torch.inf, limit)
        self.upper = self.upper.scatter_reduce(1, column, upper.expand_as(column), "amin")
        self.lower = self.lower.scatter_reduce(1, column, lower.expand_as(column), "amax")

    def fix(self, constraint: Atoms) -> list[Constraint]:
        """Fix the single inputs of an equality exactly; the atoms of what is left."""
        assert constraint.equality is not None
        difference = constraint.equality
        rows = single_inputs(difference)
        if not len(rows.row):
            return [constraint]
        constant = difference.constant[:, rows.row]
        self.cut(rows, constant)
        self.cut(InputRows(rows.row, rows.column, -rows.coefficient), -constant)
        left = torch.ones(difference.size, dtype=torch.bool)
        left[rows.row] = False
        return [difference[left] == 0.0] if bool(left.any()) else []

    def region(self, balls: list[Ball], values: Values) -> Region:
        """Box, balls and discrete elements; corners that a ball moved are rounded inwards, to the model's dtype or to
        the values of discrete elements."""
        shape = self.network.input_shape
        region = Region(self.lower.reshape(-1, *shape), self.upper.reshape(-1, *shape))
        for ball in balls:
            region = region.within(ball)
        lower, upper = round_up(region.lower, self.network.dtype), round_down(region.upper, self.network.dtype)
        self._check(lower, upper)
        discrete = values.within(lower.flatten(1), upper.flatten(1))
        region = Region(lower, upper, region.balls, discrete=discrete).cut_to_values()
        self._check(region.lower, region.upper)
        return region if discrete is not None and discrete.steps else replace(region, discrete=None)

    def _check(self, lower: Tensor, upper: Tensor) -> None:
        """Refuse a box without points."""
        crossed = (lower > upper).flatten(1).nonzero()
        if len(crossed):
            problem, element = crossed[0].tolist()
            low, high = float(lower.flatten(1)[problem, element]), float(upper.flatten(1)[problem, element])
            of = f" of problem {problem}" if len(lower) > 1 else ""
            raise EmptyRegionError(
                f"The constraints leave no value for {self.network.graph.element_name(0, element)}{of}: it would "
                f"have to be >= {low:.9g} and <= {high:.9g}. Loosen one of them."
            )
        if bool((lower == torch.inf).any() | (upper == -torch.inf).any()):
            raise EmptyRegionError(
                "An input is required to be infinite. Write lower limits below inf and upper limits above -inf."
            )


# --- balls and distances ------------------------------------------------------------------------------------------


def _distance(norm: NormExpression, network: Network, batch: int) -> Distance | None:
    """``‖w ⊙ (a ⊙ x − c)‖_p`` with a != 0 as a distance of inputs; None if the norm is of anything else.

    Inputs that do not occur get weight zero; for p = 0 the coefficients a do not count.
    """
    if not of_inputs(norm):
        return None
    e = norm.expression.flatten()
    rows = single_inputs(e)
    size, shape = network.graph.nodes[0].size, network.input_shape
    weights = torch.ones(1, e.size, dtype=torch.float64) if norm.weights is None else norm.weights
    weights = weights[:, rows.row] * (1.0 if norm.kind.counts else rows.coefficient.abs())
    center = in_dtype(-e.constant[:, rows.row] / rows.coefficient, network)
    full = torch.zeros(batch, size, dtype=torch.float64)
    spread_center = full.index_copy(1, rows.column, center.expand(batch, -1))
    spread_weights = full.index_copy(1, rows.column, weights.expand(batch, -1))
    plain = bool((spread_weights == 1).all())
    return Distance(
        spread_center.reshape(batch, *shape), norm.p, None if plain else spread_weights.reshape(batch, *shape)
    )


def of_inputs(norm: NormExpression) -> bool:
    """Whether a norm is a distance of single inputs from constants."""
    e = norm.expression.flatten()
    rows = single_inputs(e)
    return len(rows.row) == e.size == len(rows.column.unique())


def _ball(constraint: NormBall, network: Network, batch: int) -> Ball | None:
    """The ball of inputs, or None where the norm of something else is to be written as linear atoms."""
    distance = _distance(constraint.norm, network, batch)
    return None if distance is None else distance.ball(constraint.radius.expand(batch).clone())


def _objective(objective: LinearExpression | NormExpression, sense: int, network: Network, batch: int) -> Objective:
    if isinstance(objective, LinearExpression):
        return Linear(dense_forms(before_monotone(objective.flatten() * float(sense)), batch))
    distance = _distance(objective, network, batch) if sense == 1 else None
    if distance is not None:
        return distance
    e = objective.expression.flatten()
    rows = single_inputs(e)
    constant = e.constant.clone()
    constant[:, rows.row] = -rows.coefficient * in_dtype(-constant[:, rows.row] / rows.coefficient, network)
    e = LinearExpression(network, e.shape, e.terms, constant, e.batch)
    weights = None if objective.weights is None else objective.weights.expand(batch, -1).clone()
    return FormsNorm(dense_forms(e, batch), objective.p, float(sense), weights)


# --- clauses ------------------------------------------------------------------------------------------------------


def _clauses(rest: list[Constraint], network: Network, box: Box, batch: int) -> tuple[Forms, Tensor]:
    """Steps 2 to 5 of the module's text; single-input limits go into the box."""
    collected = Clauses()
    parts = [collected.of(constraint) for constraint in rest]
    if not parts:
        return Forms({}, torch.zeros(batch, 0, dtype=torch.float64)), torch.zeros(0, dtype=torch.long)
    atom, clause, count = all_of(parts)
    stack = in_units_of_inputs(before_monotone(concatenate(collected.stack), atoms=True))
    always, never = _decided(stack, batch)
    certain, hopeless = decided_by_ranges(stack, batch)
    always = always | certain
    never = never[:, atom] | _spared(never[:, atom], hopeless[:, atom], clause, count)
    atom, clause, never = _simplified(atom, clause, count, always, never)

    literals = torch.bincount(clause, minlength=count)
    rows = single_inputs(stack)
    is_input = torch.full((stack.size,), -1, dtype=torch.long)
    is_input[rows.row] = torch.arange(len(rows.row))
    limits = (literals[clause] == 1) & (is_input[atom] >= 0)
    chosen = is_input[atom[limits]]
    cut = InputRows(rows.row[chosen], rows.column[chosen], rows.coefficient[:, chosen])
    box.cut(cut, stack.constant[:, cut.row].expand(batch, -1))

    atom, clause, never = atom[~limits], clause[~limits], never[:, ~limits]
    order = clause.argsort(stable=True)
    atom, never, clause = atom[order], never[:, order], clause[order].unique_consecutive(return_inverse=True)[1]
    return _settled(stack, atom, always, never, batch), clause


def _decided(stack: LinearExpression, batch: int) -> tuple[Tensor, Tensor]:
    """Which atoms are true for every input and which for none, each of shape ``(B, A)``."""
    moving = torch.zeros(batch, stack.size, dtype=torch.bool)
    for node, part in stack.terms.items():
        merged = part.coalesced(stack.network.graph.nodes[node].size)
        at = merged.row.expand(batch, -1)
        entries = (merged.value != 0).float().expand_as(at)
        moving |= torch.zeros(batch, stack.size).scatter_add(1, at, entries).bool()
    d = stack.constant.expand(batch, -1)
    return (d == -torch.inf) | (~moving & (d <= 0)), (d == torch.inf) | (~moving & (d > 0))


def _spared(never: Tensor, hopeless: Tensor, clause: Tensor, count: int) -> Tensor:
    """The hopeless literals ``(B, L)`` of clauses that have others; a clause without any is for engines to refute."""
    at = clause.expand(len(never), -1)
    hope = torch.zeros(len(never), count).scatter_add(1, at, (~never & ~hopeless).float()).bool()
    return hopeless & hope[:, clause]


def _simplified(
    atom: Tensor, clause: Tensor, count: int, always: Tensor, never: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Drop clauses that hold for every input in all problems, and literals that hold for none in all problems.

    Args:
        atom: ``(L,)`` of each literal; clause: ``(L,)``.
        count: number of clauses.
        always: ``(B, A)`` atoms; never: ``(B, L)`` literals.

    Raises:
        EmptyRegionError: all literals of a clause hold for no input.
    """
    batch = len(always)
    at = clause.expand(batch, -1)
    void = torch.zeros(batch, count).scatter_add(1, at, always[:, atom].float()).bool()
    possible = torch.zeros(batch, count).scatter_add(1, at, (~never).float()).bool()
    if not bool(possible.all()):
        problem = int((~possible).nonzero()[0, 0])
        of = f" in problem {problem}" if batch > 1 else ""
        raise EmptyRegionError(
            f"A constraint can hold for no input{of}: all its alternatives are impossible (limits that are infinite on "
            "every side, or a comparison of two constants). Drop it or give finite limits."
        )
    keep = ~void.all(0)[clause] & ~never.all(0)
    return atom[keep], clause[keep], never[:, keep]


def _settled(stack: LinearExpression, atom: Tensor, always: Tensor, never: Tensor, batch: int) -> Forms:
    """The dense forms of the literals; where one problem's atom is decided it becomes the constant −1 or +1.

    An infinite constant would turn into NaN in penalties and in solvers; a constant form says the same.
    """
    always = always[:, atom]
    decided = always | never
    literals = stack.picked(atom, (len(atom),))
    if not bool(decided.any()):
        return dense_forms(literals, batch)
    free = (~decided).to(torch.float64)
    constant = torch.where(decided, never.to(torch.float64) * 2 - 1, literals.constant.expand(batch, -1))
    terms = {node: part.scaled(free) for node, part in literals.terms.items()}
    return dense_forms(LinearExpression(stack.network, literals.shape, terms, constant, batch), batch)


def dense_forms(e: LinearExpression, batch: int) -> Forms:
    """A one-dimensional expression as forms; layers whose coefficients all vanish are left out.

    Raises:
        ProblemError: the coefficients would take more than 4 GiB.
    """
    coefficients = {}
    for node, part in e.terms.items():
        layer = e.network.graph.nodes[node]
        merged = part.coalesced(layer.size)
        if not len(merged.row):
            continue
        entries = merged.value.shape[0] * e.size * layer.size
        if entries > COEFFICIENTS:
            raise ProblemError(
                f"{e.size:,} conditions on the {layer.size:,} activations of '{layer.name}' would take "
                f"{entries * 8 / 2**30:.0f} GiB. Constrain fewer neurons, as in h[mask], or state fewer problems."
            )
        coefficients[node] = merged.dense(e.size, layer.size).reshape(-1, e.size, *layer.shape)
    return Forms(coefficients, e.constant.expand(batch, -1).clone())
