"""One problem for each way out: any attack on each candidate alone, and the nearest of what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of
from clinch.attacks.core.attack_query import Answer, AttackQuery
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.draws import mix
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import NO_GRADIENT, AttackResult, History
from clinch.attacks.minimum_norm.candidates import nearest_candidates
from clinch.errors import ProblemError


@attack_method
def decomposition(
    method: Callable[[AttackObjective], AttackResult],
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    branches: int = 32,
    norm: float = torch.inf,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> AttackResult:
    """Attack each candidate of each input by itself, all in one batch, and keep the nearest point.

    ``min_k min {‖z − x‖ : candidate k holds at z}``: a monitor is left through the top or the bottom of one of its
    neurons, a class through one other class. Each of these problems lacks the choice that makes the whole one hard;
    the answer that the monitor problem got where it was asked.

    Args:
        method: an attack that takes a goal, with settings of its own: ``cl.attacks.penalty``, or
            ``lambda goal: cl.attacks.pgd(goal, eps=0.3)``; settings are one number for all candidates.
        candidates: of each input, at most, those that linearisation says to be the nearest.
        target: one class or ``(B,)``, which leaves one candidate; None: any class but the label.

    Returns:
        The nearest points over all candidates, passes of all candidates together; see :class:`AttackResult`.

    Example:
        >>> decomposition(lambda goal: cl.attacks.penalty(goal, steps=50, rounds=2), problem).distance
        tensor([0.4872], dtype=torch.float64)
        >>> decomposition(lambda goal: cl.attacks.pgd(goal, eps=0.1), net, x, y).success
        tensor([ True,  True, False,  True, False,  True, False,  True])
    """
    if branches < 1:
        raise ProblemError(f"branches={branches} must be at least 1.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    best_points = BestPoints(objective)
    near = nearest_candidates(objective, objective.todo, branches)
    if not len(near.indices):
        return best_points.result()
    origin, runs = near.indices, objective.view(near.indices, CandidateQuery(objective, near.indices, near.candidate))
    found = method(runs)
    objective.count(origin, forward=1, backward=1)  # the linearisation of those that are kept
    objective.forward.scatter_add_(0, origin, found.forward.to(objective.forward))
    objective.backward.scatter_add_(0, origin, found.backward.to(objective.backward))
    # a problem's violation may be 0 where everything holds: here less than 0 means that it does
    margin = torch.where(found.success, found.loss.clamp(max=-1e-30), found.loss.clamp(min=0))
    points = runs.working(found.x, torch.arange(runs.size, device=found.x.device))
    best_points.update(points, origin, margin, runs.shortened(found.distance))
    moved = torch.tensor([reason != NO_GRADIENT for reason in found.reason], device=objective.x.device)
    best_points.note_gradient(moved.unsqueeze(1), origin)
    return replace(best_points.result(), history=_merged(found.history, origin, objective))


class CandidateQuery(AttackQuery):
    """Another objective's candidates as N inputs of their own, each with one candidate.

    An input counts as reached when the other objective is, through whatever candidate.

    Args:
        objective: the other one.
        origin: ``(N,)`` its input.
        candidate: ``(N,)`` its candidate.
    """

    def __init__(self, objective: AttackObjective, origin: Tensor, candidate: Tensor) -> None:
        self._query, self._origin, self._candidate = objective.query, origin, candidate
        self._hash = mix(objective.fingerprint[origin] + candidate)
        query = objective.query
        self.exact, self.steps, self.revives, self.cost = query.exact, query.steps, query.revives, query.cost

    def fingerprint(self, inputs: Tensor) -> Tensor:
        """See :meth:`AttackQuery.fingerprint`."""
        return self._hash

    def answer(self, x: Tensor, indices: Tensor) -> Answer:
        """See :meth:`AttackQuery.answer`."""
        return self._chosen(self._query.answer(x, self._origin[indices]), indices)

    def surrogate_answer(self, x: Tensor, indices: Tensor) -> Answer | None:
        """See :meth:`AttackQuery.surrogate_answer`."""
        answer = self._query.surrogate_answer(x, self._origin[indices])
        return None if answer is None else self._chosen(answer, indices)

    def _chosen(self, answer: Answer, indices: Tensor) -> Answer:
        candidate = self._candidate[indices].unsqueeze(1)
        atoms = None if answer.atoms is None else answer.atoms.gather(1, candidate)
        return Answer(answer.candidates.gather(1, candidate), answer.logits, atoms, answer.others)

    def check(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`AttackQuery.check`."""
        return self._query.check(x, self._origin[indices])


def _merged(history: History | None, origin: Tensor, objective: AttackObjective) -> History | None:
    """A history of candidates as one of the inputs they belong to."""
    if history is None:
        return None
    steps, index = len(history.passes), origin.expand(len(history.passes), -1)
    passes = history.passes.new_zeros(steps, objective.size).scatter_add(1, index, history.passes)
    worst = history.distance.new_full((steps, objective.size), torch.inf)
    worst[:, ~torch.isin(torch.arange(objective.size, device=origin.device), origin)] = 0.0
    nearest = worst.scatter_reduce(1, index, history.distance, "amin")
    return History(passes, nearest, worst.scatter_reduce(1, index, history.margin, "amin"))
