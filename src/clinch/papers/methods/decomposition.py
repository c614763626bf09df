"""One problem for each way out: any attack on each branch alone, and the nearest of what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from clinch.attacks.core.arguments import goal_of
from clinch.attacks.core.best_points import Track
from clinch.attacks.core.draws import mix
from clinch.attacks.core.objective import Answer, Goal
from clinch.attacks.core.result import NO_GRADIENT, AttackResult, HasQuery, History
from clinch.attacks.minimum_norm.candidates import nearest_branches
from clinch.errors import ProblemError
from clinch.network.network import Network
from clinch.query import Query
from clinch.runtime.gradients import with_gradients


@with_gradients
def decomposition(
    method: Callable[[Goal], AttackResult],
    net: nn.Module | Network | HasQuery | Query | Goal,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    branches: int = 32,
    norm: float = torch.inf,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> AttackResult:
    """Attack each branch of each input by itself, all in one batch, and keep the nearest point.

    ``min_k min {‖z − x‖ : branch k holds at z}``: a monitor is left through the top or the bottom of one of its
    neurons, a class through one other class. Each of these problems lacks the choice that makes the whole one hard;
    the answer that the monitor problem got where it was asked.

    Args:
        method: an attack that takes a goal, with settings of its own: ``cl.attacks.penalty``, or
            ``lambda goal: cl.attacks.pgd(goal, eps=0.3)``; settings are one number for all branches.
        net: a classifier; or a problem with constraints on the network, then without x and y.
        x: ``(B, *input_shape)``.
        y: ``(B,)`` labels.
        branches: of each input, at most, those that linearisation says to be the nearest.
        norm: 0, 1, 2 or ``cl.inf``; a problem whose objective is a distance has its own.
        target: one class or ``(B,)``, which leaves one branch; None: any class but the label.
        bounds: the range of inputs; None: no limits.

    Returns:
        The nearest points over all branches, passes of all branches together; see :class:`AttackResult`.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any gradient is spent.

    Example:
        >>> decomposition(lambda goal: cl.attacks.penalty(goal, steps=50, rounds=2), problem).distance
        tensor([0.4872], dtype=torch.float64)
        >>> decomposition(lambda goal: cl.attacks.pgd(goal, eps=0.1), net, x, y).success
        tensor([ True,  True, False,  True, False,  True, False,  True])
    """
    if branches < 1:
        raise ProblemError(f"branches={branches} must be at least 1.")
    goal = goal_of(net, x, y, target=target, bounds=bounds, norm=norm)
    track = Track(goal)
    lanes = Branches(goal, branches)
    if not lanes.size:
        return track.result()
    found = method(lanes)
    goal.count(lanes.origin, forward=1, backward=1)  # the linearisation of those that are kept
    goal.forward.scatter_add_(0, lanes.origin, found.forward.to(goal.forward))
    goal.backward.scatter_add_(0, lanes.origin, found.backward.to(goal.backward))
    # a problem's violation may be 0 where everything holds: here less than 0 means that it does
    margin = torch.where(found.success, found.loss.clamp(max=-1e-30), found.loss.clamp(min=0))
    points = lanes.working(found.x, torch.arange(lanes.size, device=found.x.device))
    track.update(points, lanes.origin, margin, lanes.shortened(found.distance))
    moved = torch.tensor([reason != NO_GRADIENT for reason in found.reason], device=goal.x.device)
    track.note_gradient(moved.unsqueeze(1), lanes.origin)
    return replace(track.result(), history=_merged(found.history, lanes.origin, goal))


class Branches(Goal):
    """Another goal's branches as N inputs of their own, each with one branch.

    An input counts as reached when the other goal is, through whatever branch.

    Args:
        goal: the other goal.
        count: branches of each of its inputs, at most.

    Attributes:
        origin: ``(N,)`` the other goal's input.
        branch: ``(N,)`` its branch.
    """

    def __init__(self, goal: Goal, count: int) -> None:
        near = nearest_branches(goal, goal.todo, count)
        self._goal, self.origin, self.branch = goal, near.rows, near.branch
        self.x, self.region, self.p = goal.x[near.rows], goal.region.take(near.rows), goal.p
        self.units = None if goal.units is None else goal.units.take(near.rows)
        self.weights = None if goal.weights is None else goal.weights[near.rows]
        self.todo = torch.arange(len(near.rows), device=goal.x.device)
        self.forward, self.backward = torch.zeros_like(self.todo), torch.zeros_like(self.todo)

    @property
    def fingerprint(self) -> Tensor:
        """See :meth:`Goal.fingerprint`."""
        return mix(self._goal.fingerprint[self.origin] + self.branch)

    @property
    def exact(self) -> bool:
        """See :meth:`Goal.exact`."""
        return self._goal.exact

    @property
    def width(self) -> int:
        """One branch."""
        return 1

    def answer(self, z: Tensor, rows: Tensor) -> Answer:
        """See :meth:`Goal.answer`."""
        return self._chosen(self._goal.answer(z, self.origin[rows]), rows)

    def leaky_answer(self, z: Tensor, rows: Tensor) -> Answer | None:
        """See :meth:`Goal.leaky_answer`."""
        answer = self._goal.leaky_answer(z, self.origin[rows])
        return None if answer is None else self._chosen(answer, rows)

    def _chosen(self, answer: Answer, rows: Tensor) -> Answer:
        branch = self.branch[rows].unsqueeze(1)
        atoms = None if answer.atoms is None else answer.atoms.gather(1, branch)
        return Answer(answer.branches.gather(1, branch), answer.logits, atoms, answer.others)

    def verdict(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Goal.verdict`."""
        return self._goal.verdict(z, self.origin[rows])


def _merged(history: History | None, origin: Tensor, goal: Goal) -> History | None:
    """A history of branches as one of the inputs they belong to."""
    if history is None:
        return None
    steps, index = len(history.passes), origin.expand(len(history.passes), -1)
    passes = history.passes.new_zeros(steps, goal.size).scatter_add(1, index, history.passes)
    worst = history.distance.new_full((steps, goal.size), torch.inf)
    worst[:, ~torch.isin(torch.arange(goal.size, device=origin.device), origin)] = 0.0
    nearest = worst.scatter_reduce(1, index, history.distance, "amin")
    return History(passes, nearest, worst.scatter_reduce(1, index, history.margin, "amin"))
