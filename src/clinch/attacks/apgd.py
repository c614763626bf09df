"""APGD: gradient steps whose size halves where progress stalls, so that there is no step size to choose."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from clinch.attacks.core.arguments import goal_of, radius_of
from clinch.attacks.core.best_points import Progress, Track
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import Goal, along
from clinch.attacks.core.restarts import End, Lanes, Start, ask, starts
from clinch.attacks.core.result import AttackResult, HasQuery
from clinch.errors import ProblemError
from clinch.geometry.directions import sparse_direction, steepest_direction, with_room
from clinch.geometry.projection import project_into
from clinch.network.network import Network
from clinch.query import Query
from clinch.runtime.gradients import with_gradients

#: share of a step that is its own, the rest is momentum; share of steps that have to gain between checkpoints
OWN, GAINING = 0.75, 0.75
#: for p = 1: share of the steps in a ball of so many radii
STAGES = ((0.3, 3.0), (0.3, 2.0), (0.4, 1.0))
#: for p = 1: first share of elements that move; factor by which their number and the step shrink; smallest step
SHARE, SHRINK, SMALLEST = 0.2, 1.5, 0.1


@with_gradients
def apgd(
    net: nn.Module | Network | HasQuery | Query | Goal,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    steps: int = 100,
    loss: str | None = None,
    targets: int = 0,
    restarts: int = 1,
    random_start: bool | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Follow the gradient with momentum, and where it stalls go back to the best point with half the step.

    ``u = P(z_k − η·v(∇L)),   z_{k+1} = P(z_k + .75·(u − z_k) + .25·(z_k − z_{k−1}))`` from ``η = 2·eps``, with
    checkpoints that come closer together: Croce and Hein 2020 (arXiv 2003.01690, algorithm 1). For p = 1 Croce and Hein
    2021 (arXiv 2103.01208, algorithm 1): equal changes of the best elements, whose number follows that of the best
    point, in balls of 3, 2 and 1 eps. We differ in that the momentum starts anew after a return to the best point, and
    in that elements which the range does not let move are not chosen. With ``loss="dlr"`` and ``targets=9`` it is
    APGD-T; targets, restarts and inputs run at the same time, and an input leaves as soon as its goal is reached.

    Args:
        net: a classifier; or a problem with constraints on the network, or a :class:`Goal`, then without x and y.
        x: ``(B, *input_shape)``.
        y: ``(B,)`` labels.
        eps: radius, one or ``(B,)``; None: that of the problem's own ball.
        norm: 1, 2 or ``cl.inf``.
        steps: gradient steps of each lane.
        loss: ``"margin"`` or a key of :data:`clinch.attacks.LOSSES`; None: cross-entropy, for a problem the margin.
        targets: aim at so many of the nearest classes, one lane each; 0: at none alone.
        restarts: lanes for each of those; all but the first start at random points of the ball.
        random_start: whether the first does so too; None: only where there are several.
        target: one class or ``(B,)``; None: any class but the label.
        bounds: the range of inputs; None: no limits.
        seed: of the random starts.
        history: whether to keep the course of the attack.
        progress: called after each step with the numbers of steps done and planned.

    Returns:
        Points inside the ball; see :class:`AttackResult`.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any gradient is spent.

    Example:
        >>> apgd(net, x, y, eps=0.1, loss="dlr", targets=9).success.double().mean()
        tensor(0.6250, dtype=torch.float64)
    """
    if steps < 1 or restarts < 1 or targets < 0:
        raise ProblemError(f"steps={steps} and restarts={restarts} must be at least 1, targets={targets} at least 0.")
    goal = goal_of(net, x, y, target=target, bounds=bounds, norm=norm)
    radius, _ = radius_of(goal, eps), loss_of(goal, loss)
    if goal.p == 0:
        raise ProblemError(
            "APGD has no step for norm=0. Take clinch.attacks.frank_wolfe or pgd, or norm 1, 2 or cl.inf."
        )
    track = Track(goal, record=history, progress=progress, steps=steps)
    start = starts(
        track, radius, targets=targets, restarts=restarts, draws=goal.draws(seed),
        noisy=restarts > 1 if random_start is None else random_start,
    )  # fmt: skip
    adaptive_steps(track, start, radius, steps, loss)
    return track.result(radius)


def adaptive_steps(track: Track, start: Start, radius: Tensor, steps: int, loss: str | None) -> End:
    """The iteration on L lanes; those whose input reaches its goal leave.

    Args:
        track: the attack.
        start: where lanes begin.
        radius: ``(B,)``.
        steps: number of steps.
        loss: its name.
    """
    if track.goal.p != 1:
        lanes = Lanes(track.goal, start, radius, 2 * radius)
        return _dense_steps(track, lanes, steps, loss)
    end, left = End(start, start.z, start.z.new_empty(0)), steps
    for stage, (share, factor) in enumerate(STAGES):
        count = left if factor == 1 else round(share * steps)
        left -= count
        reach = factor * radius
        ball = track.goal.within(reach[start.rows], start.rows)
        lanes = Lanes(track.goal, start._replace(z=project_into(ball, start.z)), reach, reach)
        end = _sparse_steps(track, lanes, count, loss, radius, reach, fresh=stage == 0)
        start = end.start._replace(z=end.z)
    return end


def _dense_steps(track: Track, lanes: Lanes, steps: int, loss: str | None) -> End:
    """p = 2 and infinity."""
    marks, last, checked, free = _checkpoints(steps), 0, lanes.least, torch.zeros_like(lanes.rows, dtype=torch.bool)
    gains = torch.zeros_like(lanes.rows)
    for k in range(steps):
        before = lanes.loss
        going = ask(track, lanes, loss)
        gains, checked, free, before = gains[going], checked[going], free[going], before[going]
        if not len(lanes.rows):
            break
        gains = gains + (lanes.loss < before)
        if k in marks:
            stalled = (gains < GAINING * (k - last)) | (free & (lanes.least >= checked))
            lanes.go_back(stalled)
            lanes.size = torch.where(stalled, lanes.size / 2, lanes.size)
            last, checked, free, gains = k, lanes.least, ~stalled, torch.zeros_like(gains)
        z, direction = lanes.z, steepest_direction(lanes.gradient, track.goal.p)
        new = project_into(lanes.ball, z - along(lanes.size, z) * direction)
        own = OWN if k else 1.0
        new = project_into(lanes.ball, z + own * (new - z) + (1 - own) * (z - lanes.previous))
        lanes.z, lanes.previous = new, z
        track.step()
    return lanes.finish(track)


def _sparse_steps(
    track: Track, lanes: Lanes, steps: int, loss: str | None, radius: Tensor, reach: Tensor, fresh: bool
) -> End:
    """p = 1, in a ball that may be larger than the attack's."""
    goal = track.goal
    size, changed = lanes.z.shape[1:].numel(), lanes.changed()
    count = torch.full_like(changed, SHARE * size) if fresh else (changed / SHRINK).clamp(min=1)
    every = max(round(0.04 * steps), 1)
    for k in range(steps):
        going = ask(track, lanes, loss, radius)
        count, changed = count[going], changed[going]
        if not len(lanes.rows):
            break
        if k and k % every == 0:
            now, full = lanes.changed(), reach[lanes.rows].to(lanes.z)
            shrunk = now < 0.95 * changed
            count, changed = (now / SHRINK).clamp(min=1), now
            lanes.size = torch.where(shrunk, full, torch.maximum(lanes.size / SHRINK, SMALLEST * full))
            lanes.go_back(shrunk)
        z = lanes.z
        open_ = with_room(lanes.gradient, z, goal.region.take(lanes.rows))
        lanes.z = project_into(lanes.ball, z - along(lanes.size, z) * sparse_direction(open_, count))
        track.step()
    return lanes.finish(track, radius)


def _checkpoints(steps: int) -> set[int]:
    """``p_{j+1} = p_j + max(p_j − p_{j−1} − .03, .06)`` of the steps, from .22."""
    marks, share, gap = set(), 0.0, 0.22
    while share < 1:
        share += gap
        marks.add(math.ceil(round(share * steps, 6)))
        gap = max(gap - 0.03, 0.06)
    return marks
