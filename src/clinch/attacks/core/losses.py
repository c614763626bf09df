"""What gradient steps lower. Every loss is small where the goal is near; all but the margin need class scores.

Each entry of :data:`LOSSES` takes the network's answer at L points, and the goal's own class and target of each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clinch.attacks.core.attack_query import ANY, Answer, AttackQuery, Loss, Losses, LossOfScores
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.objective import AttackObjective
from clinch.errors import ProblemError
from clinch.geometry.elementwise import softplus


def cross_entropy(z: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """``−CE = z_y − logsumexp(z)``; with a target ``CE = logsumexp(z) − z_t``.

    As ``CE = log(1 + exp(v))`` with ``v = logsumexp_{c≠y} z_c − z_y``: where the network is certain, ``1 − softmax_y``
    is lost to rounding, and half of the gradient with it.
    """
    own, sign = (y, -1.0) if target is None else (target, 1.0)
    others = torch.scatter(z, 1, own.unsqueeze(1), -torch.inf).logsumexp(1)
    return sign * softplus(others - _at(z, own))


def log_odds(z: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """``z_y − logsumexp_{c≠y} z_c``, with a target ``logsumexp_{c≠t} z_c − z_t``: what :func:`cross_entropy` increases
    with, and so the same order of points and the same direction of gradients, without their length.

    Where a network is certain, the gradient of cross-entropy is ``exp(−odds)`` of this one: zero in float32 from odds
    of 104 on, in float64 from 745 on, which some networks have on every image. This one is never lost.
    """
    own, sign = (y, 1.0) if target is None else (target, -1.0)
    return sign * (_at(z, own) - torch.scatter(z, 1, own.unsqueeze(1), -torch.inf).logsumexp(1))


def log_odds_slope(z: Tensor, y: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """:func:`log_odds` and its gradient: one at the class itself, minus the probabilities among the others."""
    own, sign = (y, 1.0) if target is None else (target, -1.0)
    wanted = own.unsqueeze(1)
    others = torch.scatter(z, 1, wanted, -torch.inf)
    value = sign * (z.gather(1, wanted) - others.logsumexp(1, keepdim=True)).squeeze(1)
    return value, others.softmax(1).mul_(-sign).scatter_(1, wanted, sign)


def score(z: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """``f_y``; with a target ``−f_t`` (Balda et al. 2018, arXiv 1803.03607, algorithm 2)."""
    return _at(z, y) if target is None else -_at(z, target)


def difference_of_logits_ratio(z: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """``(z_y − max_{c≠y} z_c)/(z_π1 − z_π3)``, with a target ``(z_y − z_t)/(z_π1 − (z_π3 + z_π4)/2)`` with the logits
    in decreasing order π (Croce and Hein 2020, arXiv 2003.01690, equations 6 and 7).

    With fewer than three classes, with a target fewer than four, the ratio is constant wherever the two logits above
    are the largest and the smallest: the difference alone is taken then, whose gradient has the same scale-free
    direction. Also ours: it is taken where the denominator is zero, since that many logits tie.
    """
    above = _at(z, y) - (_largest_other(z, y) if target is None else _at(z, target))
    below = spread(z, targeted=target is not None)
    return above if below is None else above / below


def spread(z: Tensor, targeted: bool) -> Tensor | None:
    """``z_π1 − z_π3``, targeted ``z_π1 − (z_π3 + z_π4)/2``: what a difference of logits ``(L, C)`` is divided by so
    that neither scale nor shift of the logits matters. One where that many tie; None for fewer classes."""
    needed = 4 if targeted else 3
    if z.shape[1] < needed:
        return None
    order = z.topk(needed, dim=1).values
    below = order[:, 0] - ((order[:, 2] + order[:, 3]) / 2 if targeted else order[:, 2])
    return torch.where(below > 0, below, 1.0)


def difference(z: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """Kolter and Madry's first targeted loss, negated: ``z_y − z_t``; without a target the margin of the logits."""
    return _at(z, y) - (_largest_other(z, y) if target is None else _at(z, target))


def against_all(z: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """Kolter and Madry's stricter loss, negated: ``Σ_{c≠t} z_c − z_t``; without a target ``z_y − Σ_{c≠y} z_c``."""
    wanted, sign = (y, -1.0) if target is None else (target, 1.0)
    return sign * (z.sum(1) - 2 * _at(z, wanted))


def probability_margin(z: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """``p_y − max_{c≠y} p_c`` of the probabilities ``p = softmax(z)``, with a target ``max_{c≠t} p_c − p_t``: the
    probability margin attack of Xie et al. 2024 (arXiv 2411.15210)."""
    p = z.softmax(1)
    return _at(p, y) - _largest_other(p, y) if target is None else _largest_other(p, target) - _at(p, target)


def log_probability_margin(z: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """``−log(1 − m)`` with m of :func:`probability_margin`: the same order of points and direction of gradients, which
    no certainty of the network rounds to zero.

    ``1 − m = Σ_{c≠k} p_c + p_l``, for k the class that is to fall and l the one that is to rise.
    """
    own = y if target is None else target
    other = torch.scatter(z, 1, own.unsqueeze(1), -torch.inf).argmax(1)
    falls, rises = (own, other) if target is None else (other, own)
    rest = torch.scatter(z, 1, falls.unsqueeze(1), -torch.inf)
    return z.logsumexp(1) - torch.cat([rest, _at(z, rises).unsqueeze(1)], 1).logsumexp(1)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "cross-entropy": cross_entropy,
    "score": score,
    "dlr": difference_of_logits_ratio,
    "difference": difference,
    "against all": against_all,
    "probability margin": probability_margin,
}


#: what stands for a loss where the direction of its gradient and the order of its values are all that is used
DIRECTIONS = {"cross-entropy": log_odds, "probability margin": log_probability_margin}
#: losses whose gradients are written out
SLOPES: dict[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]] = {log_odds: log_odds_slope}


def loss_of(
    query: AttackQuery, name: str | None, targets: Tensor | None = None, *, published: bool = False
) -> Loss | None:
    """The named loss for a goal, as :meth:`AttackObjective.slope` takes it.

    Cross-entropy is followed through :func:`log_odds`: attacks normalise gradients and compare values of one input,
    and neither may end where a network is certain of its class.

    Args:
        query: what is asked; all losses but ``"margin"`` need labels, or are the goal's own.
        name: ``"margin"``, one of the goal's own or a key of :data:`LOSSES`; None: for labels cross-entropy, for a
            problem the margin, for any other goal what it says.
        targets: ``(B,)`` classes to aim at instead of the goal's own target: other misclassifications count as well.
        published: whether the length of gradients and the size of values matter, so that the loss is taken literally.

    Raises:
        ProblemError: an unknown name, or a loss of class scores for a problem.
    """
    name = query.default_loss if name is None else name
    if name == "margin":
        return None
    if name in query.losses:
        return query.losses[name]
    known = query.losses or LOSSES
    if name not in known:
        raise ProblemError(f"loss={name!r} is not known. Write one of: margin, {', '.join(known)}.")
    if not isinstance(query, ClassQuery):
        raise ProblemError(f"loss={name!r} compares class scores, and a problem has none. Write loss='margin'.")
    wanted = query.target if targets is None else targets
    return _of_scores(query, name, published, lambda indices, which: None if wanted is None else wanted[indices])


def _of_scores(query: ClassQuery, name: str, published: bool, aim: Callable[[Tensor, Tensor], Tensor | None]) -> Loss:
    """A loss of class scores, aimed at a class for each point or at none."""
    function = LOSSES[name] if published else DIRECTIONS.get(name, LOSSES[name])
    probabilities = query.outputs == "probabilities" and name != "cross-entropy"

    def loss(answer: Answer, indices: Tensor, which: Tensor) -> Tensor:
        assert answer.logits is not None
        scores = answer.logits.softmax(1) if probabilities else answer.logits
        return function(scores, query.y[indices], aim(indices, which))

    closed = SLOPES.get(function)
    if probabilities or closed is None:
        return loss

    def slope(answer: Answer, indices: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        assert answer.logits is not None
        return closed(answer.logits, query.y[indices], aim(indices, which))

    return LossOfScores(loss, slope)


def candidate_loss(candidates: Tensor) -> Loss | None:
    """The value of a candidate of its own for each of L runs ``(L,)``, or of the smallest where it is ANY."""
    if bool((candidates == ANY).all()):
        return None

    def loss(answer: Answer, indices: Tensor, which: Tensor) -> Tensor:
        mine = candidates[which]
        return torch.where(mine == ANY, answer.margin, _at(answer.candidates, mine.clamp(min=0)))

    if bool((candidates == ANY).any()):
        return loss
    wanted = candidates.unsqueeze(1)

    def slope(answer: Answer, indices: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        mine, of = wanted[which], answer.candidates
        return of.gather(1, mine).squeeze(1), torch.zeros_like(of).scatter_(1, mine, 1.0)

    return LossOfScores(loss, slope, of_candidates=True)


def candidate_conditions(candidates: Tensor) -> Losses:
    """What must become negative for each of L runs ``(L,)``: its candidate, the smallest where it is ANY, and where
    candidates share conditions the largest of those."""

    def losses(answer: Answer, which: Tensor) -> Tensor:
        return answer.conditions(candidates[which])

    return losses


def run_loss(query: AttackQuery, name: str | None, candidates: Tensor | None) -> Loss | None:
    """The named loss aimed at a candidate of its own for each of L runs; None: as :func:`loss_of` has it.

    Args:
        query: what is asked; all losses but ``"margin"`` need labels without a target, whose candidates are
            classes; a goal's own losses are followed as they are.
        name: as for :func:`loss_of`.
        candidates: ``(L,)``.
    """
    named = loss_of(query, name)
    if candidates is None or (named is not None and query.losses):
        return named
    if named is None or not isinstance(query, ClassQuery) or query.target is not None:
        return candidate_loss(candidates)
    name = query.default_loss if name is None else name
    return _of_scores(query, name, False, lambda indices, which: candidates[which])


def least_candidates(objective: AttackObjective, indices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The candidates of least value at the inputs themselves: one pass forward.

    Args:
        objective: what is attacked.
        indices: ``(A,)``.
        count: at most so many for each row.

    Returns:
        Rows ``(L,)`` and candidates ``(L,)`` of the runs to come, nearest first; candidates that a row does not have
        are left out.
    """
    with torch.no_grad():
        candidates = objective.answer(objective.x[indices], indices).candidates
    objective.count(indices, forward=1)
    value, which = candidates.topk(min(count, objective.width), dim=1, largest=False)
    known = value.isfinite().t().flatten()
    return indices.repeat(value.shape[1])[known], which.t().flatten()[known]


def _at(z: Tensor, classes: Tensor) -> Tensor:
    return z.gather(1, classes.unsqueeze(1)).squeeze(1)


def _largest_other(z: Tensor, y: Tensor) -> Tensor:
    return torch.scatter(z, 1, y.unsqueeze(1), -torch.inf).amax(1)
