"""The two best steps under a linear model, for L offsets of n elements: the shortest to a goal, and the best of a given
length.

Attacks take one of them in every pass. Without weights, and where the start lies in a finite box, a norm has both in a
few passes over the data, not to the last digit; everywhere else they are the exact ones of
:mod:`clinch.geometry.halfspace` and :mod:`clinch.geometry.linear_minimum`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clinch.geometry.halfspace import halfspace_distance
from clinch.geometry.linear_minimum import linear_minimum
from clinch.geometry.norms import Norm, norm_of
from clinch.geometry.region import Ball


def min_norm_step(
    gradient: Tensor,
    need: Tensor,
    lower: Tensor,
    upper: Tensor,
    p: float | Norm,
    weights: Tensor | None = None,
    plain: Tensor | None = None,
) -> Tensor:
    """``argmin ‖w ⊙ δ‖_p  subject to  <g, δ> <= −need,  lower <= δ <= upper``; the best corner where there is none.

    Quick steps are within a per mille for p > 1, a few percent where nearly the whole box is needed.

    Args:
        gradient: ``(L, n)``.
        need: ``(L,)``; where it is not positive nothing moves further than into the box.
        lower: ``(L, n)``.
        upper: ``(L, n)``.
        p: 0, any number from 1 on, or infinity.
        weights: ``(L, n)``, non-negative; None stands for ones.
        plain: ``(L,)`` whether ``lower <= 0 <= upper``, both finite, where that is known already.

    Returns:
        Shape ``(L, n)``.

    Example:
        >>> box = torch.full((1, 2), 10.0)
        >>> min_norm_step(torch.tensor([[3.0, -4.0]]), torch.tensor([5.0]), -box, box, 2)
        tensor([[-0.6000,  0.8000]])
    """
    norm = norm_of(p)

    def exact(g: Tensor, need: Tensor, low: Tensor, high: Tensor, *w: Tensor) -> Tensor:
        return halfspace_distance(g, need, low, high, torch.zeros_like(low), norm, *w).point

    return _each(norm.min_norm_step, exact, (gradient, need, lower, upper), weights, plain)


def max_descent_step(
    gradient: Tensor,
    radius: Tensor,
    lower: Tensor,
    upper: Tensor,
    p: float | Norm,
    weights: Tensor | None = None,
    plain: Tensor | None = None,
) -> Tensor:
    """``argmin <g, δ>  subject to  ‖w ⊙ δ‖_p <= radius,  lower <= δ <= upper``.

    Args and example: as :func:`min_norm_step`, with radii ``(L,)``.
    """
    norm = norm_of(p)

    def exact(g: Tensor, radius: Tensor, low: Tensor, high: Tensor, *w: Tensor) -> Tensor:
        ball = Ball(torch.zeros_like(low), radius, norm.p, *w)
        return linear_minimum(g.unsqueeze(1), low, high, ball)[1].squeeze(1)

    return _each(norm.max_descent_step, exact, (gradient, radius, lower, upper), weights, plain)


def is_plain(lower: Tensor, upper: Tensor) -> Tensor:
    """``(L,)`` whether the quick steps serve: the start lies in its box ``(L, n)``, and that is finite."""
    return ((lower <= 0) & (upper >= 0) & torch.isfinite(upper - lower)).all(1)


def _each(
    quick: Callable[..., Tensor],
    exact: Callable[..., Tensor],
    columns: tuple[Tensor, ...],
    weights: Tensor | None,
    plain: Tensor | None,
) -> Tensor:
    """A rule for plain lanes and one for others, each on its own lanes: the kind of one lane is no other's affair."""
    if weights is not None:
        return exact(*columns, weights)
    plain = is_plain(*columns[2:]) if plain is None else plain
    if bool(plain.all()):
        return quick(*columns)
    if not bool(plain.any()):
        return exact(*columns)
    steps = torch.empty_like(columns[0])
    for rule, which in ((quick, plain), (exact, ~plain)):
        steps[which] = rule(*(column[which] for column in columns))
    return steps
