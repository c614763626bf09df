"""What a certificate asks and claims to know, read from its header and tensors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clinch.checker.certificate import Certificate
from clinch.checker.layers import Array, Layer, Refused
from clinch.checker.lines import Box, down, up
from clinch.checker.rigorous import Ball


class CertifiedQuery(NamedTuple):
    """``forms`` by layer and ``constants`` have the objective in their first row, zero where it is not linear, and an
    atom in each of the others; ``clauses`` number the atoms from 0."""

    objective: str
    forms: dict[int, Array]
    constants: Array
    clauses: list[Array]
    box: Box
    balls: list[Ball]
    ball: Ball | None

    def better_than(self, bound: float | None) -> CertifiedQuery:
        """With the linear objective less a bound, rounded downwards; without one there is no objective."""
        rows = {i: np.concatenate([form[:1] * (bound is not None), form[1:]]) for i, form in self.forms.items()}
        first = 0.0 if bound is None else down(self.constants[0] - bound)
        return self._replace(forms=rows, constants=np.append(first, self.constants[1:]))


def certified_query(c: Certificate, layers: list[Layer]) -> CertifiedQuery:
    """What a certificate's numbers state over a network's layers, its labels left aside.

    Raises:
        Refused: a tensor is missing or does not fit, or a number has no meaning.
    """
    stated, n = c.header["query"], layers[0].size
    atoms = len(c.tensors["atoms.constant"])
    clause = c.whole("atoms.clause", (atoms,), 0, max(atoms - 1, 0))
    clauses = np.split(np.argsort(clause, kind="stable"), np.cumsum(np.bincount(clause)))[:-1]
    lower, upper = (c.tensors[f"region.{side}"].astype(np.float64).reshape(n) for side in ("lower", "upper"))
    if any(len(members) == 0 for members in clauses) or not (lower <= upper).all():
        raise Refused("A clause has no atoms, or the region has NaN or lower limits above its upper ones.")
    balls = [_ball(c, f"ball.{i}.", float(p), n) for i, p in enumerate(stated["balls"])]
    objective = stated["objective"]
    if objective not in ("linear", "distance", "none"):
        raise Refused(f"The objective {objective!r} is unknown.")
    if stated["sense"] not in ((1, -1) if objective == "linear" else (1,)) or not isinstance(stated["labels"], list):
        raise Refused("What the query says to people has another sense than its objective, or no list of labels.")
    linear = objective == "linear"
    own, rows = c.rows("objective.rows.", layers, 1) if linear else {}, c.rows("atoms.rows.", layers, atoms)
    c.room((1 + atoms) * sum(layers[i].size for i in {*own, *rows}))
    empty = {i: np.zeros((1 + atoms, layers[i].size)) for i in {*own, *rows}}
    forms = {i: np.concatenate([own.get(i, zero[:1]), rows.get(i, zero[1:])]) for i, zero in empty.items()}
    first = c.numbers("objective.constant", (1,)) if linear else 0.0
    constants = np.append(first, c.numbers("atoms.constant", (atoms,)))
    ball = _ball(c, "objective.", float(stated["p"]), n) if objective == "distance" else None
    return CertifiedQuery(objective, forms, constants, clauses, Box(lower[None], upper[None]), balls, ball)


def input_ends(query: CertifiedQuery) -> tuple[Array, Array, Array]:
    """``(K,)`` of each atom that is about one input element alone: which, its least and its largest value where the
    atom holds; infinite where it says nothing of that."""
    forms, constants = {0: np.zeros((len(query.constants), 1))} | query.forms, query.constants[1:]
    row, others = forms.pop(0)[1:], sum(form[1:].any(1) for form in forms.values())
    element, alone = np.abs(row).argmax(1), ((row != 0).sum(1) == 1) & ~np.asarray(others, bool)
    factor = np.where(alone, row[np.arange(len(row)), element], 1.0)
    least, most = (np.where(np.abs(factor) == 1, t, step(t)) for t in [-constants / factor] for step in (down, up))
    return element, np.where(alone & (factor < 0), least, -np.inf), np.where(alone & (factor > 0), most, np.inf)


def _ball(c: Certificate, prefix: str, p: float, n: int) -> Ball:
    given = prefix.startswith("ball")
    radius = float(c.numbers(prefix + "radius", (1,))[0]) if given else 0.0
    weights = c.numbers(prefix + "weights", (n,))
    if p not in (1, 2, *([] if given else [np.inf])) or radius < 0 or (weights < 0).any():
        raise Refused("A ball has p = 1 or 2, a distance infinity too, a radius of at least 0, no negative weights.")
    return Ball(c.numbers(prefix + "center", (n,)), radius, p, weights)
