"""What a checked certificate says, in words that are made from its numbers alone.

Nothing here reads what the file's author wrote for people: a stranger's text is quoted by :func:`quoted`, and stands
apart from what is proven.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from clinch.checker.certificate import Certificate
from clinch.checker.check import Report
from clinch.checker.layers import Array, Layer, places
from clinch.checker.lines import Box
from clinch.checker.question import CertifiedQuery
from clinch.checker.rigorous import Ball

#: terms of a form, inputs of a box and conditions that are written out; more are summed up
TERMS, INPUTS, CONDITIONS = 4, 4, 10
#: characters of a stranger's text that are shown
LONGEST = 100


class Checked(NamedTuple):
    """A certificate that the checker has accepted, and the layers that it was checked with.

    Attributes:
        name: of the file; certificate: its content; layers, sha256: of the network; report: what was found.
    """

    name: str
    certificate: Certificate
    layers: list[Layer]
    sha256: str
    report: Report


def quoted(text: object) -> str:
    """A stranger's text as an ASCII literal: no control, no turned text, and letters that only look like ours show.

    Example:
        >>> quoted("output[0] \\u2265 1\\nPROVEN")
        "'output[0] \\\\u2265 1\\\\nPROVEN'"
    """
    whole = str(text)
    return ascii(whole[:LONGEST]) + (" ..." if len(whole) > LONGEST else "")


def place_names(layers: list[Layer]) -> dict[int, str]:
    """How the places of a network that have a name are called, by position."""
    return {position: name for name, position in places(layers).items()}


def element(layers: list[Layer], position: int, index: int) -> str:
    """One activation: ``relu:0[3]``, ``input[0, 14, 14]``."""
    at = ", ".join(str(int(i)) for i in np.unravel_index(index, layers[position].shape or (1,)))
    return f"{place_names(layers)[position]}[{at}]"


def written(form: Mapping[int, Array], layers: list[Layer]) -> str:
    """A linear form without its constant."""
    counts = {i: int(np.count_nonzero(form[i])) for i in sorted(form) if form[i].any()}
    if not counts:
        return "0"
    if sum(counts.values()) > TERMS:
        looked_at = ", ".join(place_names(layers)[i] for i in counts)
        return f"a sum of {sum(counts.values())} terms of {looked_at}"
    terms = [(float(form[i][j]), i, int(j)) for i in counts for j in form[i].nonzero()[0]]
    text = ""
    for value, i, j in sorted(terms, key=lambda term: term[0] < 0):
        sign = ("-" if value < 0 else "") if not text else (" - " if value < 0 else " + ")
        text += f"{sign}{'' if abs(value) == 1 else f'{abs(value)!r}·'}{element(layers, i, j)}"
    return text


def inequality(form: Mapping[int, Array], constant: float, layers: list[Layer]) -> str:
    """``form + constant <= 0`` with the constant on the right, of the sign that reads best."""
    raised, lowered = (any(bool((sign * row > 0).any()) for row in form.values()) for sign in (1, -1))
    if not raised and not lowered:
        return "always" if constant <= 0 else "never"
    if lowered and (not raised or constant > 0):
        return f"{written({i: -row for i, row in form.items()}, layers)} >= {constant + 0.0!r}"
    return f"{written(form, layers)} <= {-constant + 0.0!r}"


def norm_text(ball: Ball) -> str:
    """``‖x − c‖₂``, with what there is to say about centre and weights."""
    name = {1.0: "1", 2.0: "2", math.inf: "inf"}[ball.p]
    weights = ball.weights
    weighted = "" if (weights == 1).all() else f", weights from {float(weights.min())!r} to {float(weights.max())!r}"
    ends = f"with entries from {float(ball.center.min())!r} to {float(ball.center.max())!r}"
    at = f"c = {ball.center.tolist()}" if ball.center.size <= INPUTS else f"c {ends}"
    return f"norm(x - c, p = {name}), {at}{weighted}"


def region_text(box: Box, balls: list[Ball], layers: list[Layer]) -> str:
    """The inputs that a proof is about."""
    lower, upper = box.lower[0], box.upper[0]
    n = len(lower)
    if (lower == lower[0]).all() and (upper == upper[0]).all():
        text = f"all {n} inputs in [{float(lower[0])!r}, {float(upper[0])!r}]"
    elif n <= INPUTS:
        parts = (f"{element(layers, 0, i)} in [{float(lower[i])!r}, {float(upper[i])!r}]" for i in range(n))
        text = ", ".join(parts)
    else:
        widest = float((upper - lower).max())
        text = (
            f"{n} inputs, each in limits of its own, between {float(lower.min())!r} and {float(upper.max())!r}, "
            f"{widest:.6g} wide at most, {int((lower == upper).sum())} of them fixed"
        )
    return "; ".join([text, *(f"{norm_text(ball)}, at most {ball.radius!r}" for ball in balls)])


def condition_texts(query: CertifiedQuery, layers: list[Layer]) -> list[str]:
    """Every condition as an inequality, or as the alternatives of which one must hold; the first ones."""
    found = []
    for members in query.clauses[:CONDITIONS]:
        atoms = [atom_text(query, k, layers) for k in members[:CONDITIONS].tolist()]
        more = f" or one of {len(members) - CONDITIONS} others" if len(members) > CONDITIONS else ""
        found.append(" or ".join(atoms) + more)
    left = len(query.clauses) - CONDITIONS
    return [*found, *([f"and {left} more"] if left > 0 else [])]


def atom_text(query: CertifiedQuery, k: int, layers: list[Layer]) -> str:
    """The k-th atom, from 0."""
    return inequality({i: rows[1 + k] for i, rows in query.forms.items()}, float(query.constants[1 + k]), layers)


def proven_text(query: CertifiedQuery, report: Report, sense: int, layers: list[Layer]) -> str:
    """The statement that is proven; sense: −1 turns the form and the bound around, which says the same."""
    conditions = " that satisfies the conditions" if query.clauses else ""
    if math.isinf(report.bound):
        return f"No input of the region {'satisfies the conditions' if query.clauses else 'exists'}."
    if query.ball is not None:
        return f"No input of the region{conditions} has {norm_text(query.ball)}, below {report.bound!r}."
    constant = sense * float(query.constants[0])
    form = written({i: sense * rows[0] for i, rows in query.forms.items()}, layers)
    form += f" {'+' if constant > 0 else '-'} {abs(constant)!r}" if constant else ""
    word = "below" if sense > 0 else "above"
    return f"No input of the region{conditions} has {form} {word} {sense * report.bound + 0.0!r}."
