"""When a certificate says something about another query: exact comparison of two statements in numbers.

Float64 numbers are compared as they are, and their quotients as rational numbers. With R the region, C_k the clauses
and f the objective, a proof of ``f >= L`` on ``{x in R, all C_k}`` proves the same on every ``{x in R', all C'_j}``
with ``R' ⊆ R`` and, for each C_k, a C'_j that implies it; of a positive multiple of f plus a constant it proves the
bound that belongs to it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from clinch.checker.check import values_at
from clinch.checker.layers import Array, Layer
from clinch.checker.question import CertifiedQuery
from clinch.checker.rigorous import Ball, Box
from clinch.checker.words import atom_text, element, norm_text
from clinch.geometry.norms import Encoded, norm_of

#: places of the terms of a form and its coefficients, scaled so that the first one is 1 or −1
Direction = tuple[tuple[int, int, Fraction], ...]
#: what a condition may fail by at a point, relative to the largest constant: rounding
FAILS = 1e-9


class NotProven(Exception):
    """What a certificate lacks, in one line; ``stage`` says how far the comparison went."""

    def __init__(self, stage: int, text: str) -> None:
        super().__init__(text)
        self.stage = stage


class Statement(NamedTuple):
    """What a certificate states about the network of a question.

    Attributes:
        layers: that it was checked with.
        query: in numbers.
        bound: in the minimising sense; infinity: nothing is feasible.
        positions: of the nodes of the question's graph, in ``layers``.
        point: ``(1, n)``, None where it has none.
    """

    layers: list[Layer]
    query: CertifiedQuery
    bound: float
    positions: dict[int, int]
    point: Array | None


def proven(asked: CertifiedQuery, one: Statement) -> float:
    """A bound of the question's objective in the minimising sense, rounded downwards; infinity: nothing is feasible.

    Raises:
        NotProven: what the certificate says does not bear on the question; says why.
    """
    _inside(asked, one)
    _implied(asked, one)
    if math.isinf(one.bound) or _refuted(asked, one):
        return math.inf
    if asked.objective == "none":
        raise NotProven(3, "it bounds an objective; the question is whether any input satisfies the conditions")
    return _bound(asked, one)


def value_of(asked: CertifiedQuery, one: Statement) -> float:
    """The objective at the certificate's point, rounded upwards; infinity without one that is feasible here."""
    if one.point is None:
        return math.inf
    with np.errstate(all="ignore"):
        value, violation = values_at(asked, one.point, one.layers)
    most = FAILS * float(np.abs(asked.constants).max(initial=1.0))
    return value if violation <= most else math.inf


class _Atom(NamedTuple):
    """``direction + constant <= 0``, and the positive factor by which it was divided."""

    direction: Direction
    constant: Fraction
    scale: Fraction


def _row(query: CertifiedQuery, k: int) -> _Atom:
    """The objective, k = 0, or the atom k − 1."""
    entries = [
        (i, int(j), Fraction(float(query.forms[i][k, j])))
        for i in sorted(query.forms) for j in query.forms[i][k].nonzero()[0]
    ]  # fmt: skip
    scale = abs(entries[0][2]) if entries else Fraction(1)
    direction = tuple((i, j, v / scale) for i, j, v in entries)
    return _Atom(direction, Fraction(float(query.constants[k])) / scale, scale)


def _clauses(query: CertifiedQuery) -> list[list[_Atom]]:
    return [[_row(query, 1 + k) for k in members.tolist()] for members in query.clauses]


def _inside(asked: CertifiedQuery, one: Statement) -> None:
    """The question's region is part of the certificate's."""
    stated = one.query
    outside = (asked.box.lower[0] < stated.box.lower[0]) | (asked.box.upper[0] > stated.box.upper[0])
    if outside.any():
        i = int(outside.nonzero()[0][0])
        own, other = ([float(side[0, i]) for side in (box.lower, box.upper)] for box in (stated.box, asked.box))
        more = f", and so {int(outside.sum()) - 1} others" if outside.sum() > 1 else ""
        name = element(one.layers, 0, i)
        raise NotProven(1, f"its region is smaller: {name} is in {own}, in the question in {other}{more}")
    for ball in stated.balls:
        narrower = any(_same_norm(ball, mine) and mine.radius <= ball.radius for mine in asked.balls)
        if not narrower and not _box_within(asked.box, ball, strictly=False):
            limit = f"{norm_text(ball)}, is at most {ball.radius!r}"
            raise NotProven(1, f"its region is smaller: it holds only where {limit}, which the question does not say")


def _same_norm(a: Ball, b: Ball) -> bool:
    return a.p == b.p and np.array_equal(a.center, b.center) and np.array_equal(a.weights, b.weights)


def _box_within(box: Box, ball: Ball, *, strictly: bool) -> bool:
    """Whether every point of a box lies in a ball, or inside of it."""
    counts = ball.weights > 0
    low, high = box.lower[0, counts], box.upper[0, counts]
    if ball.radius < 0 or not (np.isfinite(low) & np.isfinite(high)).all():
        return False
    terms = [
        Fraction(w) * max(abs(Fraction(a) - Fraction(c)), abs(Fraction(b) - Fraction(c)))
        for w, a, b, c in zip(*(t.tolist() for t in (ball.weights[counts], low, high, ball.center[counts])))
    ]
    radius = Fraction(ball.radius)
    norm = norm_of(ball.p)
    if norm.encoded is Encoded.QUADRATIC:
        far, radius = sum((t * t for t in terms), Fraction(0)), radius * radius
    else:
        far = max(terms, default=Fraction(0)) if norm.is_box else sum(terms, Fraction(0))
    return far < radius or (far == radius and not strictly)


def _implied(asked: CertifiedQuery, one: Statement) -> None:
    """Every clause that the certificate assumes follows from the question's region or from one of its clauses.

    A clause follows from another one if every atom of that follows an atom of this: ``s·(d + c) <= 0`` from
    ``t·(d + e) <= 0`` with one direction d, positive s and t, and ``c <= e``.
    """
    own = _clauses(asked)
    by_first: dict[Direction, list[list[_Atom]]] = {}
    for clause in own:
        possible = [atom for atom in clause if not _never(atom, asked.box)]
        # what no input of the region meets implies everything
        by_first.setdefault(possible[0].direction if possible else (), []).append(possible)
    for members, clause in zip(one.query.clauses, _clauses(one.query)):
        if any(_always(atom, asked.box) for atom in clause):
            continue
        weakest: dict[Direction, Fraction] = {}
        for atom in clause:
            weakest[atom.direction] = min(weakest.get(atom.direction, atom.constant), atom.constant)
        candidates = [c for d in {*weakest, ()} for c in by_first.get(d, [])]
        if not any(all(a.constant >= weakest.get(a.direction, math.inf) for a in c) for c in candidates):
            texts = [atom_text(one.query, k, one.layers) for k in members[:4].tolist()]
            more = f" or {len(members) - 4} others" if len(members) > 4 else ""
            raise NotProven(2, f"it assumes {' or '.join(texts)}{more}, {_lacking(clause, own)}")


def _lacking(clause: list[_Atom], own: list[list[_Atom]]) -> str:
    """Why no clause of the question implies one of the certificate's."""
    directions = {atom.direction: atom for atom in clause}
    near = [c for c in own if any(atom.direction in directions for atom in c)]
    if not near:
        return "which the question does not say"
    closest = min(near, key=lambda c: sum(atom.direction not in directions for atom in c))
    others = sum(atom.direction not in directions for atom in closest)
    if others:
        return f"and leaves out {others} other alternatives that the question allows"
    by = max(float((directions[a.direction].constant - a.constant) * directions[a.direction].scale) for a in closest)
    return f"which is stricter by {by:.6g} than what the question says"


def _extreme(atom: _Atom, box: Box, largest: bool) -> Fraction | None:
    """The largest or smallest value of an atom over a box; None where it looks at more than inputs, or has none."""
    total = atom.constant
    for i, j, value in atom.direction:
        side = float((box.upper if (value > 0) == largest else box.lower)[0, j]) if i == 0 else math.inf
        if not math.isfinite(side):
            return None
        total += value * Fraction(side)
    return total


def _always(atom: _Atom, box: Box) -> bool:
    most = _extreme(atom, box, largest=True)
    return most is not None and most <= 0


def _never(atom: _Atom, box: Box) -> bool:
    least = _extreme(atom, box, largest=False)
    return least is not None and least > 0


def _refuted(asked: CertifiedQuery, one: Statement) -> bool:
    """Whether ``objective >= bound`` contradicts one of the question's clauses, its balls or its box."""
    stated = one.query
    if stated.ball is not None:
        near = any(_same_norm(ball, stated.ball) and ball.radius < one.bound for ball in asked.balls)
        return near or _box_within(asked.box, stated.ball._replace(radius=one.bound), strictly=True)
    if stated.objective != "linear":
        return False
    own = _row(stated, 0)
    least = Fraction(one.bound) / own.scale - own.constant
    return any(c and all(a.direction == own.direction and -a.constant < least for a in c) for c in _clauses(asked))


def _bound(asked: CertifiedQuery, one: Statement) -> float:
    """The bound of the question's own objective."""
    stated = one.query
    if asked.ball is not None and stated.ball is not None:
        if not _same_norm(asked.ball, stated.ball):
            raise NotProven(3, f"it bounds {norm_text(stated.ball)}; the question asks for {norm_text(asked.ball)}")
        return one.bound
    if not asked.objective == stated.objective == "linear":
        raise NotProven(3, "it bounds another kind of objective than the question's")
    own, other = _row(asked, 0), _row(stated, 0)
    if own.direction != other.direction:
        turned = own.direction == tuple((i, j, -v) for i, j, v in other.direction)
        raise NotProven(3, "it bounds the objective from the other side" if turned else "it bounds another linear form")
    # f = scale·(direction + constant)
    exact = ((Fraction(one.bound) / other.scale - other.constant) + own.constant) * own.scale
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else float(np.nextafter(nearest, -np.inf))
