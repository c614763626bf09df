"""The strongest attack inside a ball: a portfolio, chosen by measurement."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinch.attacks.apgd import adaptive_steps
from clinch.attacks.frank_wolfe import extreme_steps
from clinch.attacks.goal import Goal
from clinch.attacks.labels import Labels
from clinch.attacks.result import AttackResult, HasQuery
from clinch.attacks.starts import End, restarted, starts
from clinch.attacks.state import goal_of, radius_of
from clinch.attacks.track import Progress, Track
from clinch.errors import ProblemError
from clinch.gradients import with_gradients
from clinch.network.network import Network
from clinch.query import Query


class Stage(NamedTuple):
    """Frank-Wolfe steps from where the lanes began, each aimed at a single class.

    Attributes:
        lanes: how many for each input: those that came closest in the stage before.
        share: of the passes.
        average: weight of past gradients in the last step.
        last: length of the last step.
        hope: how much of its margin an input may have kept so far to be worth this stage.
    """

    lanes: int
    share: float
    average: float
    last: float
    hope: float


#: gradient steps of the first stage, that most inputs of plain networks fall to
QUICK = 20
#: chosen on other images than the benchmark's; there no input fell later that had kept more than .27, .09 and .06
STAGES = (
    Stage(9, 0.07, average=0.8, last=0.2, hope=0.4),
    Stage(3, 0.13, average=0.8, last=0.05, hope=0.15),
    Stage(2, 0.25, average=0.9, last=0.02, hope=0.1),
)
#: random starts of each lane of the last stage, their share of the passes, and hope as above
RESTARTS, RESTARTS_SHARE, RESTARTS_HOPE = 5, 0.54, 0.02
#: fewest passes that leave each stage a few steps
FEWEST = 500


@with_gradients
def worst(
    net: nn.Module | Network | HasQuery | Query | Goal,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    passes: int = 4000,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Find what is left to find inside a ball: cheap attacks first, and an input leaves as soon as its goal is reached.

    1. 20 steps of APGD on the cross-entropy (Croce and Hein 2020, arXiv 2003.01690); for p = 0 of Frank-Wolfe.
    2. Frank-Wolfe with averaged gradients (:func:`frank_wolfe`) on the margins to the nine nearest classes at once;
       where there are fewer, from random starts too.
    3. The same with more steps on the three lanes that came closest, 4. and then on two of them, more slowly. Inputs
       that have kept much of their margin by then are left alone.
    5. Where next to nothing is missing, APGD on those two from random starts, on the difference-of-logits ratio.

    A portfolio as AutoAttack is (same source), but every part is there because it finds more for its passes on images
    other than those of the benchmark (``benchmarks/fixed_budget.py``).

    Args:
        net: a classifier; or a problem with constraints on the network, or a :class:`Goal`, then without x and y.
        x: ``(B, *input_shape)``.
        y: ``(B,)`` labels.
        eps: radius, one or ``(B,)``; None: that of the problem's own ball.
        norm: 0, 1, 2 or ``cl.inf``.
        passes: at most so many rows forward and backward for each input, 500 or more.
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
        >>> worst(net, x, y, eps=0.1).success.double().mean()
    """
    if passes < FEWEST:
        raise ProblemError(f"passes={passes} are too few for every stage. Write {FEWEST} or more, or take pgd or apgd.")
    goal = goal_of(net, x, y, target=target, bounds=bounds, norm=norm)
    radius = radius_of(goal, eps)
    quick, aimed, slow = ("cross-entropy", "margin", "dlr") if isinstance(goal, Labels) else 3 * (goal.default_loss,)
    width = min(STAGES[0].lanes, goal.width)
    steps = [int((stage.share * (passes - 2 * QUICK - 4) / stage.lanes - 1) / 2) for stage in STAGES]
    left = int((RESTARTS_SHARE * (passes - 2 * QUICK - 4) / (RESTARTS * STAGES[-1].lanes) - 1) / 2)
    track = Track(goal, record=history, progress=progress, steps=QUICK + sum(steps) + left)
    clean = goal.x.new_full((goal.size,), torch.inf)
    clean[goal.todo] = goal.look(goal.x[goal.todo], goal.todo)
    gradient_steps = extreme_steps if goal.p == 0 else adaptive_steps
    gradient_steps(track, starts(track, radius), radius, QUICK, quick)
    generator = torch.Generator().manual_seed(seed)
    lanes = starts(track, radius, targets=width, restarts=STAGES[0].lanes // width, generator=generator)
    end: End | None = None
    for stage, count in zip(STAGES, steps):
        lanes = lanes if end is None else end.closest(stage.lanes)
        lanes = lanes.take(goal.partial | (track.margin[lanes.rows] <= stage.hope * clean[lanes.rows]))
        end = extreme_steps(track, lanes, radius, count, aimed, average=stage.average, last=stage.last)
    assert end is not None
    lanes = end.closest(STAGES[-1].lanes)
    lanes = lanes.take(goal.partial | (track.margin[lanes.rows] <= RESTARTS_HOPE * clean[lanes.rows]))
    gradient_steps(track, restarted(goal, lanes, radius, RESTARTS, generator), radius, left, slow)
    return track.result(radius)
