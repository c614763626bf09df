"""Limits of single inputs: one meaning, wherever they are written.

An input is a number of the model's dtype, and so is what it is compared with: ``x[0] <= 0.1`` means the model's own
0.1, the nearest number of its dtype, at the top level, inside ``|``, under ``~`` and in ``==``. A ball ``‖x − c‖ <= r``
is measured from the model's own c; its radius is taken as it stands, so that of each side the numbers inside count. A
form of several inputs is compared in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clinch.geometry.rounding import round_down, round_up
from clinch.modeling.sparse_maps import Terms

if TYPE_CHECKING:
    from clinch.modeling.expressions import LinearExpression
    from clinch.network.network import Network


@dataclass(frozen=True, eq=False)
class InputRows:
    """Elements of an expression that are one input each: ``coefficient · x[column] + constant``.

    Attributes:
        row: which elements, shape ``(m,)``.
        column: of which inputs, shape ``(m,)``.
        coefficient: non-zero in every problem, shape ``(B, m)`` or ``(1, m)``.
    """

    row: Tensor
    column: Tensor
    coefficient: Tensor


def single_inputs(e: LinearExpression) -> InputRows:
    """Which elements of a one-dimensional expression look at exactly one input and at nothing else."""
    entries = torch.zeros(e.size, dtype=torch.long)
    for node, part in e.terms.items():
        merged = part.coalesced(e.network.graph.nodes[node].size)
        entries = entries + torch.bincount(merged.row, minlength=e.size) * (1 if node == 0 else 2)
    if 0 not in e.terms:
        none = torch.zeros(0, dtype=torch.long)
        return InputRows(none, none, torch.zeros(1, 0, dtype=torch.float64))
    inputs = e.terms[0].coalesced(e.network.graph.nodes[0].size)
    chosen = (entries[inputs.row] == 1) & (inputs.value != 0).all(0)
    return InputRows(inputs.row[chosen], inputs.col[chosen], inputs.value[:, chosen])


def in_dtype(values: Tensor, network: Network) -> Tensor:
    """Rounded to the model's dtype, as float64: inputs and what they are compared with live there."""
    return values.to(network.dtype).to(torch.float64) + 0.0


def in_units_of_inputs(e: LinearExpression) -> LinearExpression:
    """The same atoms ``e <= 0``, where those of one input are ``±(x_i − limit)``, the limit a number of the model's
    dtype: exactly 0 where the input is the limit."""
    rows = single_inputs(e)
    limit = in_dtype(-e.constant[:, rows.row] / rows.coefficient, e.network)
    return _replaced(e, rows, limit)


def within_ball(e: LinearExpression, weights: Tensor | None, radius: Tensor, batch: int | None) -> LinearExpression:
    """The atoms of ``|w_k·e_k| <= radius``; those of one input have the limits that the region of the ball has.

    Args:
        e: one-dimensional, ``(n,)``.
        weights: ``(B, n)`` or ``(1, n)``; None stands for ones.
        radius: ``(B, 1)`` or ``(1, 1)``; infinity where there is no limit.
        batch: number of problems that all of them state.

    Returns:
        ``2n`` atoms: ``w·e <= radius``, then ``−w·e <= radius``.
    """
    weights = torch.ones(1, 1, dtype=torch.float64) if weights is None else weights
    weights = weights.expand(-1, e.size)
    scaled = e.scaled(weights, batch)
    rows = single_inputs(scaled)
    own = weights[:, rows.row]
    center = in_dtype(-e.constant[:, rows.row] * own / rows.coefficient, e.network)
    reach = radius / rows.coefficient.abs()
    upper = round_down(center + reach, e.network.dtype)
    lower = round_up(center - reach, e.network.dtype)
    one = torch.ones_like(rows.coefficient)
    above, below = scaled.shifted(-radius, batch), (-scaled).shifted(-radius, batch)
    return _replaced(above, rows, upper, one).stacked(_replaced(below, rows, lower, -one))


def equal(difference: LinearExpression, both: LinearExpression) -> LinearExpression:
    """The atoms ``both``, the tolerant ones of ``difference == 0``, without tolerance where that is of one input."""
    rows = single_inputs(difference)
    limit = in_dtype(-difference.constant[:, rows.row] / rows.coefficient, difference.network)
    opposite = InputRows(rows.row + difference.size, rows.column, -rows.coefficient)
    return _replaced(_replaced(both, rows, limit), opposite, limit)


def _replaced(e: LinearExpression, rows: InputRows, limit: Tensor, sign: Tensor | None = None) -> LinearExpression:
    """The chosen elements become ``sign·(x_i − limit)``; None: the sign of their coefficient."""
    if not len(rows.row):
        return e
    sign = rows.coefficient.sign() if sign is None else sign
    others = {node: part for node, part in e.terms.items() if node != 0}
    left = e.terms[0].coalesced(e.network.graph.nodes[0].size)
    chosen = torch.zeros(e.size, dtype=torch.bool)
    chosen[rows.row] = True
    rest = ~chosen[left.row]
    kept = Terms(left.row[rest], left.col[rest], left.value[:, rest])
    terms = {0: Terms.joined([kept, Terms(rows.row, rows.column, sign)]), **others}
    constant = e.constant.expand(max(len(e.constant), len(limit), len(sign)), -1).clone()
    constant[:, rows.row] = -sign * limit
    return replace(e, terms=terms, constant=constant)
