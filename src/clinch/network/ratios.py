"""Ratios whose numerator cannot be larger than the denominator: shares of sums, vectors by their length, overlaps.

As a product with a reciprocal such a ratio has limits as far as the denominator may be near zero. What is known of it
follows from how both are written:

- ``|x_i| <= (Σ_j |x_j|^p)^(1/p)`` for p of 1 and 2, and ``0 <= x_i <= Σ_j x_j`` where no x is negative;
- the overlap I of two boxes with areas A and B is positive only where no side is negative, and then no larger than
  either area, so that ``0 <= I/(A + B − I) <= 1``;
- a denominator that was enlarged by a constant, or kept above one, is no smaller for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations

import torch

from clinch.network.graph import Node
from clinch.network.ops.add import Add, Subtract
from clinch.network.ops.average_pool import Reduce
from clinch.network.ops.base import Elementwise, Interval, Operator
from clinch.network.ops.bilinear import Multiply
from clinch.network.ops.functions import Power, Reciprocal, Sqrt
from clinch.network.ops.reading import Value
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.scale import Scale
from clinch.network.ops.shape import Expand
from clinch.network.ops.softmax import Shares

#: layers that are looked at behind a sum
DEPTH = 16
#: boxes whose overlaps are looked at, and elements among which places are looked for
MOST, MOST_NUMBERED = 1024, 2**16
#: a node and places in it, one for each box
Elements = tuple[int, tuple[int, ...]]


def ratio_ends(nodes: Sequence[Node], op: Operator, inputs: Sequence[Value]) -> tuple[float, float] | None:
    """What a product is known to lie between because it is a ratio; None: it is none, or nothing is known.

    Args:
        nodes: of the graph in the making.
        op: applied to the inputs.
        inputs: activations.
    """
    if not isinstance(op, Multiply):
        return None
    ratios = _Ratios(nodes)
    for x, y in (inputs, inputs[::-1]):
        below = ratios.skip(y.position, Expand)
        if isinstance(nodes[below].op, Reciprocal):
            return ratios.ends(x.position, nodes[below].inputs[0])
    return None


class _Ratios:
    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    def skip(self, i: int, kind: type[Operator]) -> int:
        """The node behind those of a kind."""
        while isinstance(self.nodes[i].op, kind):
            i = self.nodes[i].inputs[0]
        return i

    def ends(self, x: int, d: int) -> tuple[float, float] | None:
        """What ``x/d`` lies between."""
        d = self._smaller(self.skip(d, Expand))
        node, shape = self.nodes[d], self.nodes[x].shape
        if isinstance(node.op, Subtract) and node.inputs[1] == x:
            return (0.0, 1.0) if node.shape == shape and self._overlap(x, node.inputs[0]) else None
        euclidean = isinstance(node.op, Sqrt)
        total = self.nodes[node.inputs[0]] if euclidean else node
        if not isinstance(total.op, Reduce) or total.op.factor != 1:
            return None
        if total.shape != tuple(1 if i in total.op.dims else n for i, n in enumerate(shape)):
            return None
        term = self.nodes[total.inputs[0]]
        if euclidean:
            return (-1.0, 1.0) if isinstance(term.op, Power) and term.op.exponent == 2 and term.inputs == (x,) else None
        if total.inputs == (x,) and self.nonnegative(x):
            return 0.0, 1.0
        absolute = isinstance(term.op, LeakyReLU) and term.op.negative_slope == -1
        return (-1.0, 1.0) if absolute and term.inputs == (x,) else None

    def _smaller(self, d: int) -> int:
        """What a positive constant was added to, or was kept above one: no larger than the node."""
        while True:
            node, shift = self.nodes[d], self._shift(d)
            if shift is None:
                return d
            (before,) = node.inputs
            if self._is_relu(before):
                (under,) = self.nodes[before].inputs
                if (self._shift(under) or 0.0) < -shift:
                    return d
                (before,) = self.nodes[under].inputs if self._shift(under) is not None else (under,)
            elif shift < 0:
                return d
            d = self.skip(before, Expand)

    def _shift(self, i: int) -> float | None:
        """The one constant that a node adds; None: it does something else."""
        op = self.nodes[i].op
        if not isinstance(op, Scale) or op.shift is None or (op.scale is not None and bool((op.scale != 1).any())):
            return None
        return float(op.shift.min()) if bool((op.shift == op.shift.min()).all()) else None

    def _is_relu(self, i: int) -> bool:
        op = self.nodes[i].op
        return isinstance(op, LeakyReLU) and op.negative_slope == 0

    def nonnegative(self, i: int, depth: int = DEPTH) -> bool:
        """Whether no element is negative, whatever the network's input is."""
        node = self.nodes[i]
        if not i or not depth:
            return False
        if (isinstance(node.op, Multiply) and node.inputs[0] == node.inputs[1]) or isinstance(node.op, Shares):
            return True
        own = [self.nonnegative(j, depth - 1) for j in node.inputs]
        if isinstance(node.op, Elementwise):
            ends = [torch.full((1, *self.nodes[j].shape), torch.inf, dtype=torch.float64) for j in node.inputs]
            given = (Interval(torch.zeros_like(end) if low else -end, end) for low, end in zip(own, ends))
            return bool((node.op.interval(*given).lower >= 0).all())
        sums = node.op.affine and getattr(node.op, "nonnegative", False) and getattr(node.op, "linear", False)
        return (sums or isinstance(node.op, Multiply)) and all(own)

    # --- overlaps of boxes: elements are told apart by the node and the places that they are read from ---------------

    def _overlap(self, x: int, d: int) -> bool:
        """Whether x is the overlap of two boxes, and d the sum of both areas."""
        all_ = tuple(range(math.prod(self.nodes[x].shape)))
        product = self._of((x, all_), Multiply) if len(all_) <= MOST else None
        sides = [self._common(i) for i in product or ()]
        terms = list(self._terms(d))
        # any other term, of whatever shape, may make the sum smaller than the areas
        if len(terms) != 2 or len(sides) != 2 or any(self.nodes[i].shape != self.nodes[x].shape for i in terms):
            return False
        areas = [self._sides((i, all_)) for i in terms]
        return any(
            all({a[0], b[0]} == side[0] and {a[1], b[1]} == side[1] for side, a, b in zip(sides, first, second))
            for first in permutations(areas[0])
            for second in permutations(areas[1])
        )

    def _terms(self, i: int) -> Iterator[int]:
        i = self._smaller(i)
        if isinstance(self.nodes[i].op, Add):
            for j in self.nodes[i].inputs:
                yield from self._terms(j)
        else:
            yield i

    def _of(self, elements: Elements, kind: type[Operator]) -> list[Elements] | None:
        """What elements are made of by an operator of that kind, place by place; None: by another one."""
        i, places = elements
        node = self.nodes[i]
        while node.op.selects and node.op.affine and len(node.inputs) == 1 and self._numbered(i):
            shape = self.nodes[node.inputs[0]].shape
            numbers = torch.arange(1, 1 + math.prod(shape), dtype=torch.float64).reshape(1, *shape)
            found = node.op.forward(numbers).flatten()[list(places)].long() - 1
            i, places = node.inputs[0], tuple(found.tolist())
            node = self.nodes[i]
        if kind is not Operator:
            alike = isinstance(node.op, kind) and all(self.nodes[j].shape == node.shape for j in node.inputs)
            return [(j, places) for j in node.inputs] if alike and (kind is not LeakyReLU or self._is_relu(i)) else None
        return [(i, places)]

    def _numbered(self, i: int) -> bool:
        """Whether what an element selects can be found by numbers."""
        return math.prod(self.nodes[self.nodes[i].inputs[0]].shape) <= MOST_NUMBERED

    def _root(self, elements: Elements) -> Elements:
        (found,) = self._of(elements, Operator) or (elements,)
        return found

    def _sides(self, elements: Elements) -> list[tuple[Elements, Elements]]:
        """Both sides of an area, each the difference of its ends."""
        found = [self._of(side, Subtract) for side in self._of(elements, Multiply) or ()]
        return [(self._root(ends[0]), self._root(ends[1])) for ends in found if ends is not None]

    def _common(self, elements: Elements) -> tuple[set[Elements], set[Elements]]:
        """The upper and the lower ends of two sides whose common part is ``max(0, min(upper) − max(lower))``."""
        part = self._of(elements, LeakyReLU)
        ends = self._of(part[0], Subtract) if part else None
        if ends is None:
            return set(), set()
        least, most = self._of(ends[0], Subtract) or (), self._of(ends[1], Add) or ()
        found = [self._either(beside, bent, 1) for beside, bent in permutations(most, 2)]
        upper = self._either(least[0], least[1], 0) if least else set[Elements]()
        return upper, next(filter(None, found), set[Elements]())

    def _either(self, beside: Elements, bent: Elements, place: int) -> set[Elements]:
        """``{a, b}`` of ``a − max(0, a − b)``, the smaller, and of ``b + max(0, a − b)``, the larger."""
        inner = self._of(bent, LeakyReLU)
        gap = self._of(inner[0], Subtract) if inner else None
        ends = [self._root(end) for end in gap or ()]
        return set(ends) if ends and ends[place] == self._root(beside) else set()
