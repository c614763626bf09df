"""Functions of one number, enclosed: Taylor polynomials on small cells, each with what it is off by at most.

A function is known piece by piece. A piece that is a polynomial or has one simple pole is expanded in rational numbers;
the others are expanded by python-flint's balls (Johansson 2017, IEEE Transactions on Computers 66(8), Arb), which
enclose every coefficient and, with the whole cell as their argument, the remainder of Lagrange. What follows needs
float64 alone: on a part of a cell f lies within a cubic term of a parabola, so that the least value of
``f(x) − k·x`` over any ``[l, u]`` is bounded from below for every slope k, and so every slope has its proven lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from clinch.checker.function_kinds import ADMISSIBLE, FUNCTIONS, JUMPS, TERMS, WAVES, Exact, Series

Array = np.ndarray

#: width of a cell, cells for each octave around a pole, and how far cells reach
WIDTH, OCTAVE, FAR = 2.0**-4, 16, 1024.0
#: parts that [l, u] is cut into at least, steps of the search for a slope, and parts that are looked at at once
PARTS, STEPS, SLICE = 8, 13, 2**17
#: relative error of what is computed for one part of a cell: fewer than 60 operations
ERROR = 64 * 2.0**-51
#: how much beyond its own ends a cell's polynomial holds, relatively
BEYOND = 1 + 2.0**-30
#: what covers the rounding of a table's numbers, relatively, and underflows of what is made of them
ROOM, TINY = 1 + 1e-9, 1e-100


class Parts(NamedTuple):
    """E intervals cut into parts, in a row: on each, ``f(m + t)`` lies within ``off`` of ``p + p1·t + p2·t²``.

    Attributes:
        start: ``(E,)`` first part of each; owner: of each part.
        middle, half: the part is ``[m − h, m + h]``; size: of the numbers that m was found from.
    """

    start: Array
    owner: Array
    middle: Array
    half: Array
    size: Array
    p: Array
    p1: Array
    p2: Array
    off: Array

    def least(self, slope: Array) -> tuple[Array, Array]:
        """``(E,)`` lower bounds of ``f(x) − slope·x``, and about where it is least."""
        k, h, c = slope[self.owner], self.half, self.p2
        a, b = self.p - k * self.middle, self.p1 - k
        inside = (c > 0) & (np.abs(b) <= 2 * c * h)
        value = np.where(inside, a - b * b / (4 * c), a - np.abs(b) * h + c * h * h)
        value = value - (self.off + ERROR * np.abs(k) * self.size)
        value = np.where(np.isnan(value), -np.inf, value)
        best = np.minimum.reduceat(value, self.start)
        at = self.middle + np.where(inside, -b / (2 * c), -np.sign(b) * h)
        place = np.minimum.reduceat(np.where(value == best[self.owner], at, np.inf), self.start)
        return np.nextafter(best, -np.inf), place

    def slope(self, middle: Array) -> Array:
        """Slope of a line below f that is about the highest in the middle.

        ``k·middle + least(k)`` is concave in k, and rises where the place of the least value is left of the middle.
        """
        # slopes of the tangents, and across jumps
        across = np.append(np.diff(self.p) / np.diff(self.middle), np.nan)
        across[self.start[1:] - 1] = np.nan
        across = np.where(np.isfinite(across), across, self.p1)
        low = np.minimum.reduceat(np.fmin(self.p1, across), self.start)
        high = np.maximum.reduceat(np.fmax(self.p1, across), self.start)
        last, found, best = np.append(self.start[1:], 0) - 1, np.zeros(len(middle)), np.full(len(middle), -np.inf)
        # the best one of what is bent to the other side
        chord = (self.p[last] - self.p[self.start]) / (self.middle[last] - self.middle[self.start])
        for step in range(STEPS):
            slope = low / 2 + high / 2 if step else np.where(np.isfinite(chord), chord, low)
            offset, at = self.least(slope)
            value = slope * middle + offset
            found, best = np.where(value > best, slope, found), np.fmax(best, value)
            low, high = np.where(at < middle, slope, low), np.where(at < middle, high, slope)
        return found


class Function:
    """A function by name and parameters; its cells are made when they are first looked at."""

    def __init__(self, name: str, parameters: tuple[float, ...]) -> None:
        count, pieces, poles = FUNCTIONS[name]
        finite = count in (None, len(parameters)) and all(map(math.isfinite, parameters))
        if not finite or not ADMISSIBLE.get(name, lambda *given: True)(*parameters):
            raise ValueError(f"a function {name} has other parameters")
        self.name, self.parameters, self.pieces = name, parameters, pieces(*parameters)
        #: whether python-flint is needed
        self.needs_balls = any(piece.analytic for piece in self.pieces)
        # polynomials have none
        self.poles = () if name == "power" and parameters[0] > 0 and parameters[0].is_integer() else poles
        ratios = 2.0 ** (np.arange(-60 * OCTAVE, 60 * OCTAVE + 1) / OCTAVE)
        around = [s + side * ratios for s in self.poles for side in (-1, 1)] or [np.arange(-FAR, FAR + WIDTH, WIDTH)]
        breaks = [piece.start for piece in self.pieces if math.isfinite(piece.start)]
        self.edges = np.unique([*np.concatenate(around), *self.poles, *breaks, -(2.0**20), 2.0**20])
        #: row of each cell in the tables, -1 where it has none yet
        self.row = np.full(len(self.edges) - 1, -1)
        #: middle of the cells, what they are off by, sums of magnitudes of the polynomial and of its derivatives, it
        self.known = np.zeros((0, 6 + TERMS))

    def parts(self, lower: Array, upper: Array) -> Parts:
        """Intervals ``(E,)`` within the outermost edges, cut into parts."""
        # at an end that is a jump both sides count
        jumps, most = self.name in JUMPS, len(self.row) - 1
        first = np.clip(np.searchsorted(self.edges, lower, "left" if jumps else "right") - 1, 0, most)
        cells = np.clip(np.searchsorted(self.edges, upper, "right" if jumps else "left") - 1, first, most) - first + 1
        each = -(-PARTS // cells)
        start = np.cumsum(cells * each) - cells * each
        owner = np.repeat(np.arange(len(lower)), cells * each)
        cell, part = np.divmod(np.arange(len(owner)) - start[owner], each[owner])
        cell = cell + first[owner]
        left, right = np.maximum(self.edges[cell], lower[owner]), np.minimum(self.edges[cell + 1], upper[owner])
        width = (right - left) / each[owner]
        middle, (centre, off, s0, s1, s2, s3, *c) = left + width * (part + 0.5), self._cells(cell).T
        t = middle - centre
        size = np.abs(left) + np.abs(right) + np.abs(t) + width
        half = width / 2 + ERROR * size
        p, p1, p2 = c[-1], np.zeros_like(t), np.zeros_like(t)
        for a in c[-2::-1]:
            p, p1, p2 = a + t * p, p + t * p1, p1 + t * p2
        off = (off + half**3 * s3 + ERROR * (s0 + s1 * half + s2 * half**2)) * (1 + ERROR) + TINY
        return Parts(start, owner, middle, half, size, p, p1, p2, off)

    def _cells(self, cell: Array) -> Array:
        new = np.unique(cell[self.row[cell] < 0])
        if len(new):
            self.row[new] = len(self.known) + np.arange(len(new))
            self.known = np.append(self.known, [self._cell(i) for i in new.tolist()], 0)
        return self.known[self.row[cell]]

    def _cell(self, i: int) -> list[float]:
        """A row of the table: f lies within ``off`` of the polynomial everywhere in the cell."""
        a, b = float(self.edges[i]), float(self.edges[i + 1])
        c, outermost = a / 2 + b / 2, i in (0, len(self.row) - 1)
        reach, terms, off = max(b - c, c - a) * BEYOND, [0.0] * TERMS, math.inf
        piece = next((p for p in reversed(self.pieces) if p.start <= a), None)
        try:
            if piece is None or (outermost and self.name in WAVES):
                off = off if piece is None else 1.0
            elif outermost or a in self.poles or b in self.poles:
                # monotone there: a constant, between the values at the ends
                (low, *_), p, (high, *_), q = *_expanded(piece, a, 0.0), *_expanded(piece, b, 0.0)
                terms, off = [low / 2 + high / 2, *terms[1:]], abs(high - low) * 0.75 + 2 * (p + q)
            else:
                terms, off = _expanded(piece, c, reach)
        except (ArithmeticError, ValueError):
            off = math.inf
        if not all(map(math.isfinite, (*terms, off))):
            terms, off = [0.0] * TERMS, math.inf
        size = np.abs(terms) * reach ** np.arange(TERMS)
        sums = (float(np.sum([math.comb(k, j) * size[k] for k in range(j, TERMS)])) / reach**j for j in range(4))
        return [c, off * ROOM, *(s * ROOM for s in sums), *terms]


def _expanded(piece: Series, c: float, reach: float) -> tuple[list[float], float]:
    """Coefficients about c, and what is between the function and their polynomial up to a distance."""
    if piece.analytic is None:
        return _in_rationals(piece.rational(Fraction(c)), Fraction(c), Fraction(reach))
    from flint import arb, arb_series, ctx  # type: ignore[import-not-found]

    with ctx.workprec(160):
        if not reach:
            value = piece.analytic(arb(c))
            return [float(value.mid()), *[0.0] * (TERMS - 1)], float((value - arb(float(value.mid()))).abs_upper())
        series = piece.analytic(arb_series([arb(c), 1], prec=TERMS))
        whole = piece.analytic(arb_series([arb(c, reach), 1], prec=TERMS + 1))
        if series.prec < TERMS or whole.prec < TERMS + 1:
            raise ArithmeticError("series are cut short by the settings of python-flint")
        terms = [float(series[k].mid()) for k in range(TERMS)]
        off = abs(whole[TERMS]) * arb(reach) ** TERMS
        for k, t in enumerate(terms):
            off += abs(series[k] - arb(t)) * arb(reach) ** k
        return terms, float(off.abs_upper())


def _in_rationals(given: tuple[Sequence[Exact], Exact, Exact], x: Fraction, far: Fraction) -> tuple[list[float], float]:
    """The same of ``Σ_k a_k x^k + r/(x − s)``."""
    (a, r, s), off, exact = given, Fraction(0), []
    for k in range(TERMS):
        exact.append(sum((v * math.comb(j, k) * x ** (j - k) for j, v in enumerate(a) if j >= k), Fraction(0)))
        exact[k] += r * (-1) ** k / (x - s) ** (k + 1) if r else 0
    if r:
        off = abs(r) * far**TERMS / (abs(x - s) - far) ** (TERMS + 1) if far < abs(x - s) else Fraction(10**400)
    terms = [float(e) for e in exact]
    off += sum(abs(e - Fraction(t)) * far**k for k, (e, t) in enumerate(zip(exact, terms)))
    return terms, float(off)


def lines(f: Function, lower: Array, upper: Array, slopes: Sequence[Array] | None = None) -> list[Array]:
    """Slopes of lines below and above f on intervals of any shape, their offsets, and limits of f there.

    The slopes are those given, or such that the lines are about the best in the middle.
    Nothing is known (slope 0, offset and limit infinite) where an interval is not finite or leaves f's cells.
    """
    found = np.zeros((6, lower.size))
    found[[2, 4]], found[[3, 5]] = -np.inf, np.inf
    low, high = lower.ravel(), upper.ravel()
    usable = np.flatnonzero((low >= f.edges[0]) & (high <= f.edges[-1]) & (low <= high))
    cells = np.searchsorted(f.edges, high[usable]) - np.searchsorted(f.edges, low[usable]) + PARTS
    # so many of them that their parts have room
    for chosen in np.split(usable, np.flatnonzero(np.diff(np.cumsum(cells) // SLICE)) + 1):
        if len(chosen):
            parts, middle = f.parts(low[chosen], high[chosen]), low[chosen] / 2 + high[chosen] / 2
            for k, sign in enumerate((1, -1)):
                side = parts._replace(p=sign * parts.p, p1=sign * parts.p1, p2=sign * parts.p2)
                slope = side.slope(middle) if slopes is None else sign * slopes[k].ravel()[chosen]
                found[k::2, chosen] = sign * np.stack([slope, side.least(slope)[0], side.least(0 * slope)[0]])
    return [t.reshape(lower.shape) for t in found]
