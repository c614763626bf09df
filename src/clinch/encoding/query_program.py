"""A whole problem as a mixed-integer linear program: network, region, clauses and objective."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinch.backends.program import Program, Vector, sparse
from clinch.encoding.mixed_integer import Encoder, Kink
from clinch.errors import UnsupportedByEngine
from clinch.geometry.norms import Encoded, Norm
from clinch.geometry.region import Ball, unbounded
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Shape
from clinch.network.ops.encoder import Expression
from clinch.query import Distance, Forms, FormsNorm, Linear, Objective, Query

if TYPE_CHECKING:
    from scipy.sparse import csr_array


#: values of a regular list up to which each gap has a binary of its own; longer ones are counted in binary digits
FEW = 16


@dataclass(frozen=True)
class Encoding:
    """One problem as a program, and the way between the two.

    Attributes:
        program: what a solver gets.
        inputs: number of input elements; they are the program's first variables.
        input_shape: of the network.
        kinks: which binaries decide which elements of which nodes.
        strict: ``(k,)`` rows of atoms and balls: those that a point must still meet after rounding.
        step: objective values are whole multiples of it (a count of changed elements); 0 where nothing is known.
        power: the program's objective is the query's to this power: 2 for ℓ2 distances, otherwise 1.
        anchors: see :attr:`Encoder.anchors`.
        complete: from an input ``(n,)`` to the values of all variables, as the network computes them.
    """

    program: Program
    inputs: int
    input_shape: Shape
    kinks: tuple[Kink, ...]
    strict: NDArray[np.int64]
    complete: Callable[[Vector], Vector]
    step: float = 0.0
    power: int = 1
    anchors: tuple[tuple[NDArray[np.int64], slice, Vector], ...] = ()

    def value(self, program_value: float) -> float:
        """The query's objective where the program's has this value; a lower bound gives a lower bound."""
        return program_value if self.power == 1 else math.sqrt(max(program_value, 0.0))

    def program_value(self, value: float) -> float:
        """The program's objective where the query's has this value."""
        return value if self.power == 1 else math.copysign(value * value, value)

    def point(self, vector: Vector) -> Tensor:
        """The input of a solver's point, ``(1, *input_shape)``; elements that count as unchanged are so exactly."""
        x = vector[: self.inputs].copy()
        for which, columns, at in self.anchors:
            x[which] = np.where(vector[columns] < 0.5, at, x[which])
        return torch.from_numpy(x).reshape(1, *self.input_shape)


#: limits ``(1, K)`` of linear forms over a problem's region, from limits of the nodes that non-affine nodes read
FormLimits = Callable[[Query, Forms, Mapping[int, Interval]], Interval]


def encode(
    query: Query,
    problem: int,
    bounds: Mapping[int, Interval],
    sharper: Mapping[int, Interval] | None = None,
    *,
    form_limits: FormLimits | None = None,
) -> Encoding:
    """The exact encoding of one problem of a query; every big-M is a proven bound.

    Args:
        query: the float64 normal form.
        problem: which of its B problems.
        bounds: limits of every node that a non-affine node reads, valid over the problem's region, with a batch of one.
        sharper: limits of the same nodes that only points of the region which satisfy the clauses need to meet. A sign
            that follows from these alone becomes a row: nothing else in the program would enforce it.
        form_limits: proves limits of conditions and of norms' elements, such as
            :func:`clinch.bounds.crown.limits_of_forms`; None: what the variables' own limits say.

    Raises:
        UnboundedInputError: an input element has no finite limits.
        UnsupportedByEngine: an ℓ2 ball other than one around an ℓ2 objective's own centre, which needs a quadratic
            constraint; a norm of activations with p = 0 or 2.
        UnsupportedOperator: a layer has no exact encoding; names it.
    """
    query = query.take(torch.tensor([problem]))
    if (error := unencodable(query)) is not None:
        raise error
    encoder = Encoder(query.region.lower[0], query.region.upper[0])
    sharper = bounds if sharper is None else sharper
    expressions = encode_network(query.graph, query.nodes, encoder, sharper, bounds)
    builder = _Builder(query, encoder, expressions, sharper, bounds, form_limits)
    objective = builder.objective()
    builder.discrete()
    strict = [builder.ball(ball) for ball in query.region.balls if ball.norm.in_rows] + builder.clauses()
    rows = [np.arange(row.start, row.stop) for row in strict]
    return Encoding(
        program=encoder.program(objective, builder.quadratic),
        inputs=query.graph.nodes[0].size,
        input_shape=query.graph.input_shape,
        kinks=tuple(encoder.kinks),
        strict=np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64),
        complete=encoder.completion(),
        step=_step(query),
        power=1 if builder.quadratic is None else 2,
        anchors=tuple(encoder.anchors),
    )


def encode_network(
    graph: Graph,
    wanted: Collection[int],
    encoder: Encoder,
    bounds: Mapping[int, Interval],
    unconditional: Mapping[int, Interval] | None = None,
) -> dict[int, Expression]:
    """Activations of the wanted nodes (among others) as expressions of an encoder's variables.

    Args:
        graph: the network in float64.
        wanted: positions of nodes.
        encoder: made for the input's limits; gets the variables and rows.
        bounds: limits of every node that a non-affine node reads, with a batch of one.
        unconditional: those that hold whatever the clauses say, see :func:`encode`; None: all of them.

    Raises:
        UnsupportedOperator: a layer has no exact encoding; names it.
    """
    expressions = {0: encoder.input}
    needed = graph.ancestors(wanted)
    behind = _largest_first(graph, needed, wanted)
    reads = {i: graph.nodes[behind[i]].inputs if i in behind else graph.nodes[i].inputs for i in needed}
    last = {j: i for i in needed if i not in behind.values() for j in reads[i]}
    for i in needed:
        if i in behind.values():
            continue
        if i in behind:
            (j,), encoder.node = reads[i], i
            if unconditional is not None:
                _enforce_signs(encoder, expressions[j], bounds[j], unconditional[j])
            expressions[i] = _function_of_largest(graph, i, behind[i], encoder, expressions[j], bounds[j])
            if last[j] == i and j not in {0, *wanted}:
                del expressions[j]
        elif i:
            encoder.node, inputs = i, graph.nodes[i].inputs
            known = [bounds[j] for j in inputs if j in bounds]
            for j in inputs:
                if unconditional is not None and j in bounds:
                    _enforce_signs(encoder, expressions[j], bounds[j], unconditional[j])
            expressions[i] = graph.encode(i, encoder, [expressions[j] for j in inputs], known)
            for j in {*inputs} - {0, *wanted}:
                if last[j] == i:
                    del expressions[j]
    return expressions


def _largest_first(graph: Graph, needed: Collection[int], wanted: Collection[int]) -> dict[int, int]:
    """Nodes that choose the largest of what a nowhere falling function gives to them alone -> that function's: the
    function of the largest is the same, and is one where there were many."""
    readers = Counter(j for i in needed for j in graph.nodes[i].inputs)
    found = {}
    for i in needed:
        op, inputs = graph.nodes[i].op, graph.nodes[i].inputs
        if i and op.selects and not op.affine and len(inputs) == 1:
            pieces = graph.nodes[inputs[0]].op.two_pieces()
            rises = pieces is not None and pieces.negative_slope >= 0
            if rises and readers[inputs[0]] == 1 and inputs[0] not in wanted:
                found[i] = inputs[0]
    return found


def _function_of_largest(
    graph: Graph, i: int, function: int, encoder: Encoder, expression: Expression, limits: Interval
) -> Expression:
    """Node i, which chooses the largest, and then the function that comes before it."""
    largest = graph.encode(i, encoder, [expression], [limits])
    count = len(encoder.kinks)
    found = graph.encode(function, encoder, [largest], [graph.interval(i, [limits])])
    # its binaries are of no element of that function's own input
    encoder.kinks[count:] = [replace(kink, parts=None) for kink in encoder.kinks[count:]]
    return found


def _enforce_signs(encoder: Encoder, expression: Expression, limits: Interval, unconditional: Interval) -> None:
    """Rows for the signs of elements that only the sharper limits decide: their kinks get no variables."""
    low, high = limits.lower.flatten(), limits.upper.flatten()
    open_ = ((unconditional.lower < 0) & (unconditional.upper > 0)).flatten()
    for decided, least, most in ((low >= 0, 0.0, np.inf), (high <= 0, -np.inf, 0.0)):
        which = (open_ & decided).nonzero().flatten()
        if len(which):
            encoder.constrain(expression.take(which), least, most)


def encode_balls(query: Query, encoder: Encoder) -> None:
    """The rows of a problem's balls, p = 0 or 1, in an encoder made for its box.

    Args:
        query: one problem; its region's balls have no p = 2.
        encoder: gets the variables and rows.
    """
    builder = _Builder(query, encoder, {}, {}, {})
    for ball in query.region.balls:
        builder.ball(ball)


def _step(query: Query) -> float:
    objective = query.objective
    if not isinstance(objective, Distance) or not objective.norm.counts:
        return 0.0
    whole = objective.weights is None or bool((objective.weights == objective.weights.round()).all())
    return 1.0 if whole else 0.0


def unencodable(query: Query) -> UnsupportedByEngine | None:
    """Why a query has no encoding, apart from what its operators state; None: it has one."""
    region, objective = query.region, query.objective
    if (error := unbounded(region, "The exact encoding")) is not None:
        return error
    # the incumbent's own ball may be left out: what lies outside of it is worse, and the objective says so
    others = [ball for ball in region.balls if not _is_sublevel_set(objective, ball)]
    for ball in others:
        if not ball.norm.in_rows and bool(torch.isfinite(ball.radius).any()):
            return UnsupportedByEngine(
                f"An {ball.norm.text} ball is not linear, so MILP cannot take it. Use solver='branch_and_bound'."
            )
    if isinstance(objective, FormsNorm) and objective.norm.encoded is not Encoded.LINEAR:
        instead = "solver='attack'" if objective.norm.counts else "solver='bounds' or p = 1 or inf"
        return UnsupportedByEngine(
            f"MILP takes a norm of activations with p = 1 or inf, not p = {objective.norm.written}. Use {instead}."
        )
    if isinstance(objective, Distance) and objective.norm.encoded is Encoded.CONIC:
        return UnsupportedByEngine(
            f"MILP takes distances with p = 0, 1, 2 or inf, not p = {objective.norm.written}. Use "
            "solver='branch_and_bound'."
        )
    return None


def _is_sublevel_set(objective: Objective, ball: Ball) -> bool:
    """Whether a ball holds the inputs at most so far away in the objective's own distance."""
    if not isinstance(objective, Distance) or objective.p != ball.p or not torch.equal(objective.center, ball.center):
        return False
    return _same(objective.weights, ball.weights)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


class _Builder:
    """Objective, balls and clauses of one problem on top of the encoded network."""

    def __init__(
        self,
        query: Query,
        encoder: Encoder,
        expressions: dict[int, Expression],
        bounds: Mapping[int, Interval],
        unconditional: Mapping[int, Interval],
        form_limits: FormLimits | None = None,
    ) -> None:
        self.query, self.encoder, self.expressions = query, encoder, expressions
        self.bounds, self.unconditional, self._form_limits = bounds, unconditional, form_limits
        #: coefficients of the squared inputs in an ℓ2 objective, ``(n,)``
        self.quadratic: Vector | None = None
        self._distances: list[tuple[Tensor, Norm, Tensor | None, Expression]] = []

    def form(self, forms: Forms) -> Expression:
        """Linear forms of activations as an expression ``(K,)``."""
        total = Expression({}, forms.constant[0])
        for node, rows in forms.coefficients.items():
            matrix = rows[0].flatten(1).T
            total = total + self.expressions[node].flat().map(lambda t, matrix=matrix: t @ matrix)
        return total

    def limits(self, forms: Forms, values: Expression, bounds: Mapping[int, Interval]) -> Interval:
        """Limits of forms: what their variables' limits say, and what is proven of them."""
        own = self.encoder.limits(values)
        return own if self._form_limits is None else own.intersect(self._form_limits(self.query, forms, bounds))

    def _always(self, atoms: Forms) -> Tensor:
        """Which atoms hold whatever the clauses say; limits that follow from a clause must not make it redundant."""
        if self._form_limits is None:
            return torch.zeros(atoms.count, dtype=torch.bool)
        return self._form_limits(self.query, atoms, self.unconditional).upper[0] <= 0

    # --- objective and balls ------------------------------------------------------------------------------------------

    def objective(self) -> Expression:
        """The objective as an expression ``(1,)``."""
        match self.query.objective:
            case Linear(form=form):
                return self.form(form)
            case FormsNorm() as norm:
                return self._forms_norm(norm)
            case Distance(norm=norm, center=center, weights=weights):
                squared = norm.encoded is Encoded.QUADRATIC
                return self._squared(center, weights) if squared else self._distance(center, norm, weights)

    def ball(self, ball: Ball) -> slice:
        """The row ``‖w ⊙ (x − c)‖_p <= radius`` for p = 0 or 1."""
        radius = float(ball.radius[0])
        if not np.isfinite(radius):
            return slice(0, 0)
        return self.encoder.constrain(self._distance(ball.center, ball.norm, ball.weights), -np.inf, radius)

    def discrete(self) -> None:
        """Rows that tie discrete elements to binaries, one for each gap between the intervals ``[l_j, u_j]`` of a list:

            l_1 + Σ_j (l_{j+1} − l_j)·b_j <= x <= u_1 + Σ_j (u_{j+1} − u_j)·b_j    with b_j >= b_{j+1}

        so that fixing b_j says on which side of its gap x lies; and ``Σ x = 1`` in groups.
        """
        discrete = self.query.region.discrete
        if discrete is None:
            return
        lower, upper = self._box
        for element in (discrete.elements & (lower < upper)).nonzero().flatten().tolist():
            least, most = discrete.pieces(element, float(lower[element]), float(upper[element]))
            regular = len(least) > FEW and bool((least == most).all()) and _is_regular(least)
            (self._bits if regular else self._gaps)(element, least, most, len(lower))
        for columns in discrete.groups:
            one = np.ones((1, len(columns)))
            self.encoder.rows({0: one @ _select(columns, len(lower), one[0])}, one[:, 0], one[:, 0])

    def _bits(self, element: int, least: Tensor, most: Tensor, size: int) -> None:
        """One element's value ``l_1 + step·k`` with k in binary digits, the largest of which halves the list."""
        values = least.numpy()
        step = (values[-1] - values[0]) / (len(values) - 1)
        count = (len(values) - 1).bit_length()
        b = self.encoder.variables(torch.zeros(count), torch.ones(count), integer=True)
        places = 2.0 ** np.arange(count)[::-1]
        off = np.array([np.abs(values[0] + step * np.arange(len(values)) - values).max()])
        x = _select(torch.tensor([element]), size, np.ones(1))
        self.encoder.rows({0: x, b: sparse(-step * places[None])}, values[:1] - off, values[:1] + off)
        columns = self.encoder.columns(b)

        def fill(vector: Vector) -> None:
            k = int(np.clip(np.rint((vector[element] - values[0]) / step), 0, len(values) - 1))
            vector[columns] = np.array([k >> place & 1 for place in range(count)][::-1], dtype=float)

        self.encoder.on_completion(fill)

    def _gaps(self, element: int, least: Tensor, most: Tensor, size: int) -> None:
        """One element's binaries."""
        count = len(least) - 1
        b = self.encoder.variables(torch.zeros(count), torch.ones(count), integer=True)
        x = _select(torch.tensor([element]), size, np.ones(1))
        for limit, low, high in ((least, float(least[0]), np.inf), (most, -np.inf, float(most[0]))):
            self.encoder.rows({0: x, b: sparse(-limit.diff().numpy()[None])}, np.array([low]), np.array([high]))
        if count > 1:
            order = sparse(np.eye(count)[:-1] - np.eye(count)[1:])
            self.encoder.rows({b: order}, np.zeros(count - 1), np.full(count - 1, np.inf))
        middle, columns = ((least[1:] + most[:-1]) / 2).numpy(), self.encoder.columns(b)

        def fill(vector: Vector) -> None:
            vector[columns] = vector[element] > middle

        self.encoder.on_completion(fill)

    def _distance(self, center: Tensor, norm: Norm, weights: Tensor | None) -> Expression:
        """A distance as an expression ``(1,)``; the incumbent's ball shares the objective's variables."""
        for known_center, known, known_weights, expression in self._distances:
            if known is norm and torch.equal(known_center, center) and _same(known_weights, weights):
                return expression
        c, w = self._flat(center, weights)
        build = self._count if norm.counts else self._largest if norm.is_box else self._sum
        self._distances.append((center, norm, weights, build(c, w)))
        return self._distances[-1][3]

    @staticmethod
    def _flat(center: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        c = center[0].flatten().to(torch.float64)
        return c, torch.ones_like(c) if weights is None else weights[0].flatten().to(torch.float64)

    def _squared(self, center: Tensor, weights: Tensor | None) -> Expression:
        """``Σ w_i² (x_i − c_i)²`` as ``½ Σ q_i x_i²`` with ``q = 2w²``, and the affine rest, ``(1,)``."""
        c, w = self._flat(center, weights)
        self.quadratic = (2 * w * w).numpy()
        return Expression({0: (-2 * w * w * c).unsqueeze(1)}, (w * w * c * c).sum().reshape(1))

    def _sum(self, c: Tensor, w: Tensor) -> Expression:
        """``Σ w_i |x_i − c_i|``. Where c_i lies inside the limits, ``|d| = d + 2m`` with ``m >= 0, m >= −d``."""
        lower, upper = self._box
        inside = ((c > lower) & (c < upper)).nonzero().flatten()
        sign = torch.where(c >= upper, -1.0, 1.0).to(torch.float64)
        direct = Expression({0: (w * sign).unsqueeze(1)}, -(w * sign * c).sum().reshape(1))
        if not len(inside):
            return direct
        m = self.encoder.variables(torch.zeros(len(inside), dtype=torch.float64), (c - lower)[inside])
        one = np.ones(len(inside))
        self.encoder.rows({0: _select(inside, len(c), one), m: _eye(one)}, c[inside].numpy(), np.inf * one)
        at_inside, below = c[inside].numpy(), self.encoder.columns(m)

        def fill(vector: Vector) -> None:
            vector[below] = np.maximum(at_inside - vector[: len(c)][inside.numpy()], 0)

        self.encoder.on_completion(fill)
        return direct + Expression({m: 2 * w[inside].unsqueeze(1)}, torch.zeros(1, dtype=torch.float64))

    def _largest(self, c: Tensor, w: Tensor) -> Expression:
        """``t >= w_i |x_i − c_i|``, with one row for each side of the centre that the box reaches."""
        lower, upper = self._box
        farthest = (w * torch.maximum((lower - c).abs(), (upper - c).abs())).max()
        t = self.encoder.variables(torch.zeros(1, dtype=torch.float64), farthest.reshape(1))
        for sign, reached in ((1.0, upper > c), (-1.0, lower < c)):
            which = (reached & (w > 0)).nonzero().flatten()
            k = len(which)
            parts = {0: _select(which, len(c), sign * w[which].numpy()), t: sparse(-np.ones((k, 1)))}
            self.encoder.rows(parts, np.full(k, -np.inf), sign * (w * c)[which].numpy())
        at = self.encoder.columns(t)

        def fill(vector: Vector) -> None:
            vector[at] = np.max(w.numpy() * np.abs(vector[: len(c)] - c.numpy()))

        self.encoder.on_completion(fill)
        return self.encoder.block(t)

    def _count(self, c: Tensor, w: Tensor) -> Expression:
        """``Σ w_i [x_i ≠ c_i]`` with binaries: ``(l_i − c_i)·b_i <= x_i − c_i <= (u_i − c_i)·b_i``."""
        lower, upper = self._box
        outside = (c < lower) | (c > upper)
        which = ((w > 0) & ~outside).nonzero().flatten()
        zero = torch.zeros(len(which), dtype=torch.float64)
        b = self.encoder.variables(zero, zero + 1, integer=True)
        at = c[which].numpy()
        for side, above in ((upper - c, True), (lower - c, False)):
            reached = (
                (side[which] != 0).nonzero().flatten()
            )  # most pixels of an image stand at a limit: one row, not two
            k, ends, none = len(reached), at[reached.numpy()], np.full(len(reached), np.inf)
            room = sparse((-side[which][reached].numpy(), (np.arange(k), reached.numpy())), (k, len(which)))
            parts = {0: _select(which[reached], len(c), np.ones(k)), b: room}
            self.encoder.rows(parts, -none if above else ends, ends if above else none)
        columns = self.encoder.columns(b)
        self.encoder.anchors.append((which.numpy(), columns, at))

        def fill(vector: Vector) -> None:
            vector[columns] = vector[: len(c)][which.numpy()] != at

        self.encoder.on_completion(fill)
        return Expression({b: w[which].unsqueeze(1)}, w[outside].sum().reshape(1))

    @property
    def _box(self) -> tuple[Tensor, Tensor]:
        return self.query.region.lower[0].flatten(), self.query.region.upper[0].flatten()

    def _forms_norm(self, norm: FormsNorm) -> Expression:
        """``scale · ‖w ⊙ forms‖_p`` for p = 1 or infinity: an absolute value has two pieces, of slopes −1 and 1."""
        values = self.form(norm.forms)
        weights = torch.ones_like(values.constant) if norm.weights is None else norm.weights[0].flatten()
        limits = self.limits(norm.forms, values, self.bounds)
        absolute = self.encoder.two_pieces(values, limits, -1.0).scaled(weights)
        if not norm.norm.is_box:
            return absolute.map(lambda t: norm.scale * t.sum(1, keepdim=True))
        each = [absolute.take(torch.tensor([k])) for k in range(norm.forms.count)]
        return self.encoder.maximum(each, [self.encoder.limits(e) for e in each]).map(lambda t: norm.scale * t)

    # --- clauses ------------------------------------------------------------------------------------------------------

    def clauses(self) -> list[slice]:
        """One row per atom; a clause of several possible atoms chooses one of them with binaries."""
        query = self.query
        if not query.clauses:
            return []
        values = self.form(query.atoms)
        limits = self.limits(query.atoms, values, self.bounds)
        lower, upper = (t[0] for t in limits)
        always = self._always(query.atoms)
        rows = []
        for clause in range(query.clauses):
            which = (query.clause == clause).nonzero().flatten()
            if bool(always[which].any()):
                continue
            possible = which[~(lower[which] > 0)]
            if len(possible) == 1:
                rows.append(self.encoder.constrain(values.take(possible), -np.inf, 0.0))
            else:
                rows.append(self._choice(values.take(possible), upper[possible]))
        return rows

    def _choice(self, values: Expression, upper: Tensor) -> slice:
        """``value_k <= upper_k·(1 − b_k)`` and ``Σ b_k >= 1``; without any atom the last row reads ``0 >= 1``."""
        zero = torch.zeros_like(upper)
        b = self.encoder.variables(zero, zero + 1, integer=True)
        count = len(upper)
        row = self.encoder.constrain(values + self.encoder.block(b).scaled(upper), -np.inf, upper.numpy())
        self.encoder.rows({b: sparse(np.ones((1, count)))}, np.ones(1), np.array([np.inf]))
        residual, columns = self.encoder.residual(row, upper=True), self.encoder.columns(b)

        def fill(vector: Vector) -> None:
            # with b = 0 the right-hand side exceeds the left by upper − value; the smallest value is the one chosen
            vector[columns] = np.arange(count) == (upper.numpy() - residual(vector)).argmin() if count else 0.0

        self.encoder.on_completion(fill)
        return row


def _is_regular(values: Tensor) -> bool:
    """Whether all steps between increasing numbers are the same, up to rounding."""
    steps = values.diff()
    return bool((steps - steps.mean()).abs().max() <= 1e-9 * float(steps.mean()))


def _select(which: Tensor, size: int, values: Vector) -> csr_array:
    """The matrix ``(k, size)`` that takes the given elements, each times its value."""
    at = which.numpy()
    return sparse((values, (np.arange(len(at)), at)), (len(at), size))


def _eye(diagonal: Vector) -> csr_array:
    index = np.arange(len(diagonal))
    return sparse((diagonal, (index, index)), (len(index), len(index)))
