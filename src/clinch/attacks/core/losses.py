"""What gradient steps lower. Every loss is small where the goal is near; all but the margin need class scores.

Each entry of :data:`LOSSES` takes the network's answer at L points, and the goal's own class and target of each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clinch.attacks.core.classification import Labels
from clinch.attacks.core.objective import ANY, Answer, Goal, Loss, Losses
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


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "cross-entropy": cross_entropy,
    "score": score,
    "dlr": difference_of_logits_ratio,
    "difference": difference,
    "against all": against_all,
}


#: what stands for a loss where the direction of its gradient and the order of its values are all that is used
DIRECTIONS = {"cross-entropy": log_odds}


def loss_of(goal: Goal, name: str | None, targets: Tensor | None = None, *, published: bool = False) -> Loss | None:
    """The named loss for a goal, as :meth:`Goal.slope` takes it.

    Cross-entropy is followed through :func:`log_odds`: attacks normalise gradients and compare values of one input,
    and neither may end where a network is certain of its class.

    Args:
        goal: what is attacked; all losses but ``"margin"`` need labels, or are the goal's own.
        name: ``"margin"``, one of the goal's own or a key of :data:`LOSSES`; None: for labels cross-entropy, for a
            problem the margin, for any other goal what it says.
        targets: ``(B,)`` classes to aim at instead of the goal's own target: other misclassifications count as well.
        published: whether the length of gradients and the size of values matter, so that the loss is taken literally.

    Raises:
        ProblemError: an unknown name, or a loss of class scores for a problem.
    """
    name = goal.default_loss if name is None else name
    if name == "margin":
        return None
    if name in goal.losses:
        return goal.losses[name]
    if goal.losses:
        raise ProblemError(f"loss={name!r} is not known. Write one of: margin, {', '.join(goal.losses)}.")
    if name not in LOSSES:
        raise ProblemError(f"loss={name!r} is not known. Write one of: margin, {', '.join(LOSSES)}.")
    if not isinstance(goal, Labels):
        raise ProblemError(f"loss={name!r} compares class scores, and a problem has none. Write loss='margin'.")
    function, y = _function(name, published), goal.y
    wanted = goal.target if targets is None else targets
    probabilities = goal.outputs == "probabilities" and name != "cross-entropy"

    def loss(answer: Answer, rows: Tensor, which: Tensor) -> Tensor:
        assert answer.logits is not None
        scores = answer.logits.softmax(1) if probabilities else answer.logits
        return function(scores, y[rows], None if wanted is None else wanted[rows])

    return loss


def _function(name: str, published: bool = False) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    return LOSSES[name] if published else DIRECTIONS.get(name, LOSSES[name])


def branch_loss(branches: Tensor) -> Loss | None:
    """The value of a branch of its own for each of L lanes ``(L,)``, or of the smallest where it is ANY."""
    if bool((branches == ANY).all()):
        return None

    def loss(answer: Answer, rows: Tensor, which: Tensor) -> Tensor:
        mine = branches[which]
        return torch.where(mine == ANY, answer.margin, _at(answer.branches, mine.clamp(min=0)))

    return loss


def branch_conditions(branches: Tensor) -> Losses:
    """What must become negative for each of L lanes ``(L,)``: its branch, the smallest where it is ANY, and where
    branches share conditions the largest of those."""

    def losses(answer: Answer, which: Tensor) -> Tensor:
        return answer.conditions(branches[which])

    return losses


def lane_loss(goal: Goal, name: str | None, branches: Tensor | None) -> Loss | None:
    """The named loss aimed at a branch of its own for each of L lanes; None: as :func:`loss_of` has it.

    Args:
        goal: what is attacked; all losses but ``"margin"`` need labels without a target, whose branches are classes;
            a goal's own losses are followed as they are.
        name: as for :func:`loss_of`.
        branches: ``(L,)``.
    """
    named = loss_of(goal, name)
    if branches is None or (named is not None and goal.losses):
        return named
    if named is None or not isinstance(goal, Labels) or goal.target is not None:
        return branch_loss(branches)
    name = goal.default_loss if name is None else name
    function, y = _function(name), goal.y
    probabilities = goal.outputs == "probabilities" and name != "cross-entropy"

    def loss(answer: Answer, rows: Tensor, which: Tensor) -> Tensor:
        assert answer.logits is not None
        return function(answer.logits.softmax(1) if probabilities else answer.logits, y[rows], branches[which])

    return loss


def least_branches(goal: Goal, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The branches of least value at the inputs themselves: one pass forward.

    Args:
        goal: what is attacked.
        rows: ``(A,)``.
        count: at most so many for each row.

    Returns:
        Rows ``(L,)`` and branches ``(L,)`` of the lanes to come, nearest first; branches that a row does not have are
        left out.
    """
    with torch.no_grad():
        branches = goal.answer(goal.x[rows], rows).branches
    goal.count(rows, forward=1)
    value, which = branches.topk(min(count, goal.width), dim=1, largest=False)
    known = value.isfinite().t().flatten()
    return rows.repeat(value.shape[1])[known], which.t().flatten()[known]


def _at(z: Tensor, classes: Tensor) -> Tensor:
    return z.gather(1, classes.unsqueeze(1)).squeeze(1)


def _largest_other(z: Tensor, y: Tensor) -> Tensor:
    return torch.scatter(z, 1, y.unsqueeze(1), -torch.inf).amax(1)
