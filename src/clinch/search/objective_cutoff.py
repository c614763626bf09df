"""The cutoff inside boxes: only inputs better than the incumbent matter, and often a box has none long before its bound
says so.

A box's linear lower limit of the objective, ``<λ, x> + κ``, must be at most the cutoff t where something better is to
be found. That half-space is known while the limits of the activations are computed, so that they need to hold in box ∩
half-space only: for every row r and any multiplier ``γ >= 0``

    min { <r, x> : x in the box, <λ, x> + κ <= t } >= <r, m> + γ(<λ, m> + κ − t) − <|r + γλ|, h>,

m the box's centre, h its half widths. Narrower limits give a higher plane, which gives a smaller part: round after
round, until limits cross (nothing better is in the box) or nothing moves. Where the plane is above the cutoff in the
centre already this nearly always ends in nothing, although the bound, the plane's minimum, may be far below.

Limits under output constraints are those of INVPROP (Kotha et al. 2023, arXiv 2302.01404) with one multiplier per row,
which is set by a rule instead of by ascent: any is valid. For dense networks of two layers of kinks; boxes are the last
dimension, as in :mod:`clinch.bounds.narrow`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.narrow import PIECE, second_layer, signed
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Lines
from clinch.network.ops.views import Matrix, TwoPieces
from clinch.query import Forms, Linear, Query
from clinch.search.input_bounding import BoxBounds

#: rounds at most, and the multipliers, relative to ``<|r|, h> / <|λ|, h>``
ROUNDS, PACE = 6, 0.6
#: height of the plane over the cutoff in the centre, relative to ``<|λ|, h>``, from which on a box is worth rounds, and
#: by how much one must rise in a round to go on
WORTH, RISE = 0.0, 0.01
#: by how much, relatively, limits must cross to prove that there is nothing: far beyond what rounding can do
CROSSED = 1e-9


class Layers(NamedTuple):
    """A dense network of two layers of kinks with one output form: positions of its kinks, and its layers."""

    bends: tuple[int, int]
    first: Matrix
    kinks: tuple[TwoPieces, TwoPieces]
    second: Matrix
    last: Matrix


class Plane(NamedTuple):
    """``<rows, x − m> + height <= 0`` must hold, on D boxes of centre m: ``(n, D)``, ``(D,)``; ``reach`` is how much
    the box can lower it, ``<|rows|, h>``.
    """

    rows: Tensor
    height: Tensor
    reach: Tensor


def layers_of(query: Query) -> Layers | None:
    """The layers of a folded query that :class:`Cutoff` takes, None for any other.

    It takes ``Dense -> kink -> Dense -> kink -> Dense``, reshaped at most before that, and a linear objective of the
    last layer alone, the same for all problems, with a coefficient.
    """
    if not isinstance(query.objective, Linear) or query.region.balls:
        return None
    graph, nodes = query.graph, query.objective.nodes
    if len(nodes) != 1 or query.objective.form.coefficients[nodes[0]].shape[0] != 1:
        return None
    chain: list[int] = []
    i = nodes[0]
    while i:
        if len(graph.nodes[i].inputs) != 1:
            return None
        if not (graph.nodes[i].op.keeps_order and len(chain) == 5):
            chain.append(i)
        i = graph.nodes[i].inputs[0]
    if len(chain) != 5:
        return None
    last, second, first = (graph.matrix(i) for i in chain[::2])
    second_kink, first_kink = (graph.nodes[i].op.two_pieces() for i in chain[1::2])
    if first is None or second is None or last is None or first_kink is None or second_kink is None:
        return None
    return Layers((chain[3], chain[1]), first, (first_kink, second_kink), second, last)


class Cutoff:
    """Rounds of limits under the cutoff, for boxes of one folded query.

    Args:
        query: the folded query.
        layers: of :func:`layers_of`.
    """

    def __init__(self, query: Query, layers: Layers) -> None:
        assert isinstance(query.objective, Linear)
        self.graph: Graph = query.graph
        self.layers = layers
        form: Forms = query.objective.form
        (coefficients,) = form.coefficients.values()
        #: the objective as a row on the second layer of kinks, and its constant for each problem
        self.row = coefficients[0, 0] @ layers.last.weight
        #: elements of the second layer of negative coefficient, and their rows: the others' relaxations are convex, so
        #: that narrower limits of theirs hardly raise the plane
        self.felt = (self.row < 0).nonzero().flatten()
        self.signs = signed(layers.second.weight[self.felt])
        shift = 0.0 if layers.last.bias is None else coefficients[0, 0] @ layers.last.bias
        self.constant = form.constant[:, 0] + shift

    def __call__(self, found: BoxBounds, target: Tensor, form: int) -> tuple[Tensor, Tensor, Tensor]:
        """Look for boxes without anything better than the target, and raise the others' planes.

        Args:
            found: D boxes with CROWN's limits.
            target: ``(D,)`` finite.
            form: position of the objective among the rows found.

        Returns:
            ``(D,)`` whether nothing better is in a box; rows ``(D, n)`` and offset ``(D,)`` of linear lower limits of
            the objective that hold wherever it is below the target.
        """
        rows, offset = found.rows[:, form].clone(), found.offset[:, form].clone()
        nothing = torch.zeros_like(offset, dtype=torch.bool)
        low, high = found.boxes.lower.flatten(1), found.boxes.upper.flatten(1)
        height = torch.linalg.vecdot(rows, (low + high) / 2) + offset - target
        reach = torch.linalg.vecdot(rows.abs(), (high - low) / 2)
        worth = (height > WORTH * reach).nonzero().flatten()
        size = max(1, PIECE // (self.layers.second.weight.shape[0] * self.layers.first.weight.shape[1]))
        for at in worth.split(size):
            part = _Rounds(self, found.take(at), target[at], rows[at], offset[at])
            nothing[at], rows[at], offset[at] = part.run()
        return nothing, rows, offset


class _Rounds:
    """Rounds for some boxes, which lie along the last dimension."""

    def __init__(self, cutoff: Cutoff, found: BoxBounds, target: Tensor, rows: Tensor, offset: Tensor) -> None:
        self.layers, self.row = cutoff.layers, cutoff.row.unsqueeze(1)
        self.felt, self.signs = cutoff.felt, cutoff.signs
        low, high = found.boxes.lower.flatten(1).T.contiguous(), found.boxes.upper.flatten(1).T.contiguous()
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        first, second = (found.inputs[i] for i in self.layers.bends)
        self.first, self.second = (Interval(*(t.T.contiguous() for t in limits)) for limits in (first, second))
        self.target, self.constant = target, cutoff.constant[found.boxes.problem]
        self.nothing = torch.zeros_like(target, dtype=torch.bool)
        self.rows, self.offset = rows.T.contiguous(), offset
        self.active = torch.arange(len(target), device=target.device)

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """Which boxes hold nothing ``(D,)``, and the others' planes ``(D, n)``, ``(D,)``."""
        plane = self._plane(self.rows, self.offset)
        for _ in range(ROUNDS):
            empty = self._narrow(plane)
            rows, offset = self._backward()
            raised = self._plane(rows, offset)
            empty |= raised.height - raised.reach > CROSSED * (1 + offset.abs() + raised.reach)
            self.nothing[self.active] = empty
            self.rows[:, self.active], self.offset[self.active] = rows, offset
            rising = raised.height > plane.height + RISE * raised.reach
            going = (~empty & rising & (raised.height > WORTH * raised.reach)).nonzero().flatten()
            if not len(going):
                break
            self._keep(going)
            plane = Plane(*(t[..., going] for t in raised))
        return self.nothing, self.rows.T, self.offset

    def _keep(self, index: Tensor) -> None:
        self.active = self.active[index]
        self.middle, self.half = self.middle[:, index], self.half[:, index]
        self.first, self.second = (
            Interval(*(t[:, index] for t in limits)) for limits in (self.first, self.second)
        )  # fmt: skip
        self.target, self.constant = self.target[index], self.constant[index]

    def _plane(self, rows: Tensor, offset: Tensor) -> Plane:
        height = (rows * self.middle).sum(0) + offset - self.target
        return Plane(rows, height, (rows.abs() * self.half).sum(0))

    def _narrow(self, plane: Plane) -> Tensor:
        """Limits of both layers under the plane; returns ``(D,)`` where they cross."""
        first = self.layers.first
        rows = first.weight.unsqueeze(2)
        at = first.weight @ self.middle
        at = at if first.bias is None else at + first.bias.unsqueeze(1)
        found = Interval(self._least(rows, at, plane), -self._least(-rows, -at, plane))
        self.first, crossed = _intersection(self.first, found)
        lines = _lines(self.layers.kinks[0], self.first)
        sided = second_layer(first, lines, self.signs, self.middle)
        bias = 0.0 if self.layers.second.bias is None else self.layers.second.bias[self.felt].unsqueeze(1)
        lower = self._least(sided.lower, sided.lower_at, plane) + bias
        upper = bias - self._least(sided.upper.neg_(), -sided.upper_at, plane)
        held = Interval(*(t[self.felt] for t in self.second))
        narrower, also = _intersection(held, Interval(lower, upper))
        self.second = Interval(*(t.index_copy(0, self.felt, new) for t, new in zip(self.second, narrower)))
        return crossed | also

    def _least(self, rows: Tensor, at: Tensor, plane: Plane) -> Tensor:
        """Lower limits ``(size, D)`` of ``<rows, x − m> + at`` in box ∩ half-space; rows ``(size, n, D)``."""
        spread = (rows.abs() * self.half).sum(1)
        gamma = PACE * spread / torch.where(plane.reach > 0, plane.reach, torch.inf)
        moved = torch.addcmul(rows, gamma.unsqueeze(1), plane.rows)
        under = torch.addcmul(at, gamma, plane.height) - moved.abs_().mul_(self.half).sum(1)
        return torch.fmax(at - spread, under)

    def _backward(self) -> tuple[Tensor, Tensor]:
        """The plane ``(n, D)``, ``(D,)`` by CROWN from the present limits."""
        layers, rows, offset = self.layers, self.row, self.constant
        bends = ((layers.kinks[1], self.second, layers.second), (layers.kinks[0], self.first, layers.first))
        for kink, limits, dense in bends:
            below, below_at, above, above_at = _lines(kink, limits)
            positive, negative = rows.clamp(min=0), rows.clamp(max=0)
            offset = offset + (positive * below_at + negative * above_at).sum(0)
            rows = positive * below + negative * above
            offset = offset if dense.bias is None else offset + dense.bias @ rows
            rows = dense.weight.T @ rows
        return rows, offset


def _lines(kink: TwoPieces, limits: Interval) -> Lines:
    return kink.relax([limits], ())


def _intersection(held: Interval, found: Interval) -> tuple[Interval, Tensor]:
    """Limits that hold when both do, and ``(D,)`` where they cross by more than rounding explains."""
    lower, upper = torch.fmax(held.lower, found.lower), torch.fmin(held.upper, found.upper)
    crossed = (lower - upper > CROSSED * (1 + lower.abs() + upper.abs())).any(0)
    return held.intersect(found), crossed
