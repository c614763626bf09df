"""A problem as it would be written on paper: objective, conditions, and what each network is applied to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clinch.geometry.discrete import DiscreteSet
from clinch.geometry.region import Ball
from clinch.modeling.joint import JointNetwork
from clinch.modeling.parts import Application, Piece, Root
from clinch.query import Distance, Linear, Query, inequalities, linear_form

if TYPE_CHECKING:
    from clinch.modeling.expressions import LinearExpression

#: conditions, discrete inputs and values that are written out; the others are counted
MOST = 8


def mathematics(query: Query) -> list[str]:
    """The first problem of a query, line by line.

    Example:
        >>> print("\\n".join(mathematics(few.query)))
        maximise    output[0]
        subject to  -1 <= x <= 1
    """
    rows = [("minimise" if query.sense == 1 else "maximise", _objective(query)), *_conditions(query), *_where(query)]
    shown = ""
    lines = []
    for title, text in rows:
        lines.append(f"{'' if title == shown else title:<12}{text}")
        shown = title
    return lines


def _objective(query: Query) -> str:
    objective, graph = query.objective, query.graph
    if query.feasibility:
        return "nothing: any input that satisfies the conditions"
    if isinstance(objective, Distance):
        return f"‖{'' if objective.weights is None else 'w ⊙ '}(x - c)‖_{objective.p:g}"
    forms = objective.form if isinstance(objective, Linear) else objective.forms
    sign = float(query.sense) if isinstance(objective, Linear) else 1.0
    texts = [linear_form(forms, graph, k, sign=sign) for k in range(min(forms.count, MOST))]
    if isinstance(objective, Linear):
        return texts[0]
    more = f", … ({forms.count} elements)" if forms.count > MOST else ""
    return f"‖{'' if objective.weights is None else 'w ⊙ '}({', '.join(texts)}{more})‖_{objective.p:g}"


def _conditions(query: Query) -> list[tuple[str, str]]:
    region = query.region
    texts = [
        *_box(region.lower[0], region.upper[0]),
        *map(_ball, region.balls),
        *(_discrete(query, region.discrete) if region.discrete is not None else ()),
    ]
    for number in range(min(query.clauses, MOST)):
        which = (query.clause == number).nonzero().flatten().tolist()
        atoms = inequalities(query.atoms, query.graph, which=which[:MOST])
        texts.append("  or  ".join(atoms) + (f"  or one of {len(which) - MOST} more" if len(which) > MOST else ""))
    if query.clauses > MOST:
        texts.append(f"and {query.clauses - MOST} more conditions")
    return [("subject to", text) for text in texts]


def _box(lower: Tensor, upper: Tensor) -> list[str]:
    """One line where all elements have the same limits."""
    sides = ["" if not bool(side.isfinite().any()) else _side(side, name) for side, name in
             ((lower, "lower"), (upper, "upper"))]  # fmt: skip
    text = (f"{sides[0]} <= " if sides[0] else "") + "x" + (f" <= {sides[1]}" if sides[1] else "")
    return [f"{text}, element by element" if "lower" in sides or "upper" in sides else text] if text != "x" else []


def _side(limits: Tensor, name: str) -> str:
    """The one limit of all elements, or the name of the array of limits."""
    return f"{float(limits.min()):.6g}" if bool((limits == limits.min()).all()) else name


def _ball(ball: Ball) -> str:
    return f"‖{'' if ball.weights is None else 'w ⊙ '}(x - c)‖_{ball.p:g} <= {float(ball.radius[0]):.6g}"


def _discrete(query: Query, discrete: DiscreteSet) -> list[str]:
    texts = []
    elements = discrete.elements.nonzero().flatten().tolist()
    for element in elements[:MOST]:
        low, high = discrete.pieces(element, -math.inf, math.inf)
        pieces = [f"{a:.6g}" if a == b else f"[{a:.6g}, {b:.6g}]" for a, b in zip(low.tolist(), high.tolist())]
        said = ", ".join(pieces if len(pieces) <= MOST else [*pieces[:3], "…", pieces[-1]])
        texts.append(f"{query.graph.element_name(0, element)} in {{{said}}}")
    if len(elements) > MOST:
        texts.append(f"and {len(elements) - MOST} more discrete elements")
    return [*texts, *(f"{len(group)} elements of which one is 1" for group in discrete.groups)]


# --- networks and what they are applied to --------------------------------------------------------------------------


def _where(query: Query) -> list[tuple[str, str]]:
    network = query.network
    if not isinstance(network, JointNetwork):
        return []
    names = {root.key: name for root, name in zip(network.roots, network.variable_names)}
    rows = [("where", f"{names[root.key]} is a variable of shape {root.shape}") for root in network.roots]
    prefixes = network.application_names
    names |= {application.key: prefix for application, prefix in zip(network.applications, prefixes)}
    for application, prefix in zip(network.applications, prefixes):
        rows.append(("where", f"{prefix} = {application.network.name}({_argument(application, names)})"))
    return rows


def _argument(application: Application, names: dict[object, str]) -> str:
    texts = [_piece(piece, application.argument, names) for piece in application.pieces]
    text = " + ".join(texts).replace("+ -", "- ")
    return f"{text} + c" if bool((application.argument.constant != 0).any()) else text


def _piece(piece: Piece, e: LinearExpression, names: dict[object, str]) -> str:
    """A part of an argument: itself, its negative, some of its elements, or a matrix times it."""
    part = piece.part
    name = names[part.key]
    if isinstance(part, Application) and piece.node != part.network.graph.output:
        name = f"{name}.{part.network.graph.layer_name(piece.node)}"
    if isinstance(part, Root) and piece.node:
        raise AssertionError("a variable has one node")
    terms, value = piece.terms, piece.terms.value[0]
    in_place = piece.size == e.size == len(terms.row) and bool((terms.row == terms.col).all())
    if in_place and bool((value == value[0]).all()):
        return {1.0: name, -1.0: f"-{name}"}.get(float(value[0]), f"{float(value[0]):.6g}·{name}")
    if len(terms.row) == len(terms.row.unique()) == e.size and bool((value == 1).all()):
        index = torch.unique(terms.col)
        return f"{name}[{', '.join(map(str, index.tolist()))}]" if len(index) <= MOST else f"some of {name}"
    return f"A·{name}"
